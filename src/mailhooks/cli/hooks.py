"""``mailhooks install-hooks``: the programs for a Dovecot that forks them."""

from __future__ import annotations

from pathlib import Path

import click

from mailhooks import setup
from mailhooks.cli import common
from mailhooks.setup.hooks import DEFAULT_PYTHON


@click.command("install-hooks", epilog="Example: mailhooks install-hooks /usr/lib/dovecot/sieve")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--python",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_PYTHON,
    show_default=True,
    help="Interpreter that runs the programs, Python 3.11 or later; needs no packages.",
)
@click.pass_context
def install_hooks(ctx: click.Context, folder: Path, python: Path) -> None:
    """Put mailhooks-learn and mailhooks-classify where Dovecot looks for programs to fork.

    FOLDER is Dovecot's sieve_execute_bin_dir. Needed only where sieve_execute_socket_dir is not
    used; see docs/hooks.md. Run it again after an upgrade, and after a change of [daemon].
    """
    for path in setup.install_hooks(folder, common.loaded(ctx).daemon, python.absolute()):
        click.echo(path)
