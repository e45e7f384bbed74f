"""Commands around the private mail host: ``lab up``."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mailhooks.cli import common
from mailhooks.errors import LabError
from mailhooks.lab import Lab
from mailhooks.lab import demo as story
from mailhooks.lab.host import ADDRESS

if TYPE_CHECKING:
    from types import FrameType


@click.group(cls=common.Group)
def lab() -> None:
    """A private mail host on loopback, to try mailhooks without touching yours.

    Needs root, and the programs of Postfix, Dovecot, Rspamd and Redis on this machine.
    """


@lab.command()
def up() -> None:
    """Start the lab and keep it until Ctrl-C, which removes all of it."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    started = time.monotonic()
    host = Lab(
        aliases={"postmaster": "alice", "team": ["alice", "bob", "carol"]},
        learn_on_delivery="all",
        settle_s=1.0,
    )
    try:
        with host:
            click.echo(f"The lab is up after {time.monotonic() - started:.1f} s in {host.root}\n")
            click.echo(f"IMAPS       {ADDRESS}:{host.imaps_port}  (TLS, login)")
            click.echo(f"IMAP        {ADDRESS}:{host.imap_port}  (STARTTLS, login)")
            click.echo(f"submission  {ADDRESS}:{host.submission_port}  (STARTTLS, login)")
            click.echo(f"SMTP        {ADDRESS}:{host.smtp_port}  (from other hosts)\n")
            for user in host.users.values():
                click.echo(f"user {user.address}   password {user.password}")
            for alias, addresses in host.aliases.items():
                click.echo(f"{alias} leads to {', '.join(addresses)}")
            click.echo(f"\nClients must trust {host.ca_file}.")
            click.echo(f"Accounts: mailcfg --db {host.database_url} lsuser")
            click.echo(f"What leaves the host goes to {host.departed_dir}, signed by the key of\n")
            click.echo(f"{host.dkim_record}\n")
            click.echo(f"Logs are in {host.root}/log. Ctrl-C stops and removes everything.")
            while True:
                signal.pause()
    except KeyboardInterrupt:
        click.echo("\nThe lab is stopped and removed.")


@lab.command()
@click.option(
    "--mail",
    type=click.Path(exists=True, path_type=Path),
    help="Use the mail of this Maildir, mbox, folder or archive instead of generated mail.",
)
@click.option("--seed", default=1, show_default=True, help="Of the generated mail.")
def demo(mail: Path | None, seed: int) -> None:
    """Show the main job on real servers: one newsletter, two recipients, two verdicts.

    Exits with 1 if any of it does not come true.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    console = Console(highlight=False)
    material = story.own(mail, seed) if mail else story.generated(seed)

    def say(paragraph: str) -> None:
        console.print(f"{escape(paragraph)}\n")

    outcome = story.play(material, say)
    console.print(_verdicts(outcome))
    say(
        "Without mailhooks Rspamd judges once for all recipients, with the statistics of the "
        "first, and an alias has none. The same newsletter, asked of the same Rspamd the way its "
        "own milter asks:"
    )
    console.print(_stock_verdicts(outcome))
    wrong = story.failures(outcome)
    for line in wrong:
        console.print(f"[bold red]{escape(line)}")
    if wrong:
        raise LabError(f"{len(wrong)} of the demo's claims did not come true")
    say(f"All of it came true, in {outcome.elapsed_s:.0f} s. The host is stopped and removed.")


def _verdicts(outcome: story.Outcome) -> Table:
    table = Table(title="With mailhooks: one verdict for each recipient", box=box.SIMPLE_HEAD)
    table.add_column("new\nmessage", no_wrap=True)
    table.add_column("recipient\n")
    table.add_column("milter\nscore", justify="right")
    table.add_column("Bayes score\n(P of spam)", justify="right", no_wrap=True)
    table.add_column("\nsum", justify="right")
    table.add_column("\nneeded", justify="right")
    table.add_column("\nfolder")
    for row in outcome.rows:
        table.add_row(
            row.message, row.recipient, row.milter, row.bayes, row.total, row.threshold, row.folder
        )
    return table


def _stock_verdicts(outcome: story.Outcome) -> Table:
    table = Table(title="Without mailhooks: one verdict for all", box=box.SIMPLE_HEAD)
    table.add_column("recipients")
    table.add_column("score", justify="right")
    table.add_column("of which Bayes")
    table.add_column("Rspamd's action for everybody")
    for stock in outcome.stock:
        table.add_row(", ".join(stock.recipients), f"{stock.score:.2f}", stock.bayes, stock.action)
    return table


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
