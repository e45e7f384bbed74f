"""The root of the command line: options that every command shares, and errors."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from mailhooks import __version__
from mailhooks.cli import account, completion, doctor, lab, queue, services, setup, teach, users
from mailhooks.config import DEFAULT_PATH
from mailhooks.errors import MailhooksError

LEVELS = ("debug", "info", "warning", "error")


class Commands(click.Group):
    """Shows what went wrong in one line, without a traceback, and exits with 1."""

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


main.add_command(services.serve)
main.add_command(services.milter)
main.add_command(services.check_config)
main.add_command(setup.setup)
main.add_command(lab.lab)
main.add_command(teach.learn)
main.add_command(account.retrain)
main.add_command(account.reconcile)
main.add_command(queue.queue)
main.add_command(users.stats)
main.add_command(users.forget)
main.add_command(doctor.doctor)
main.add_command(completion.completion)
