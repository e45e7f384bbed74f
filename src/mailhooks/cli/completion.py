"""``mailhooks completion``: the script that lets a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(epilog='Example: eval "$(mailhooks completion bash)"')
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes mailhooks' commands and options in a shell.

    bash: put `eval "$(mailhooks completion bash)"` into ~/.bashrc, zsh likewise into ~/.zshrc;
    fish: mailhooks completion fish > ~/.config/fish/completions/mailhooks.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    root = ctx.find_root().command
    click.echo(kind(root, {}, "mailhooks", "_MAILHOOKS_COMPLETE").source())
