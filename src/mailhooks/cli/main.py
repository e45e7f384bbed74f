"""The root of the command line: options that every command shares, and errors."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import click

from mailhooks import __version__
from mailhooks.cli import common
from mailhooks.config import DEFAULT_PATH
from mailhooks.errors import MailhooksError

LEVELS = ("debug", "info", "warning", "error")
MODULE_OF = {
    "serve": "services",
    "milter": "services",
    "lmtp": "services",
    "check-config": "services",
    "install-hooks": "hooks",
    "setup": "setup",
    "lab": "lab",
    "learn": "teach",
    "retrain": "account",
    "reconcile": "account",
    "queue": "queue",
    "stats": "users",
    "forget": "users",
    "tune": "verdicts",
    "explain": "explain",
    "key": "key",
    "doctor": "doctor",
    "completion": "completion",
}
"""Where each command is; only the one that runs is imported, since some need much."""


class Commands(common.Group):
    """Shows what went wrong in one line, without a traceback, and exits with 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order in which help shows them."""
        return sorted(MODULE_OF)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """A command, imported now; None if there is none of that name."""
        if cmd_name not in MODULE_OF:
            return None
        module = importlib.import_module(f"mailhooks.cli.{MODULE_OF[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except MailhooksError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mailhooks")
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_PATH,
    show_default=True,
    help="Settings of the services.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="How much the services log, to standard error.",
)
@click.pass_context
def main(ctx: click.Context, config_path: Path, log_level: str) -> None:
    """Per-recipient spam verdicts between Postfix, Dovecot and Rspamd."""
    logging.basicConfig(
        level=log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    ctx.obj = config_path
