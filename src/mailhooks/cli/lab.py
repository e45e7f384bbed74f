"""Commands around the private mail host: ``lab up``."""

from __future__ import annotations

import signal
import time
from types import FrameType

import click

from mailhooks.lab import Lab
from mailhooks.lab.host import ADDRESS


@click.group()
def lab() -> None:
    """A private mail host on loopback, to try mailhooks without touching yours."""


@lab.command()
def up() -> None:
    """Start the lab and keep it until Ctrl-C, which removes all of it."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    started = time.monotonic()
    host = Lab(aliases={"postmaster": "alice"}, learn_on_delivery="all", settle_s=1.0)
    try:
        with host:
            click.echo(f"The lab is up after {time.monotonic() - started:.1f} s in {host.root}\n")
            click.echo(f"IMAP  {ADDRESS}:{host.imap_port}  (no TLS, plain login)")
            click.echo(f"SMTP  {ADDRESS}:{host.smtp_port}  (no TLS, no login)\n")
            for user in host.users.values():
                click.echo(f"user {user.address}   password {user.password}")
            for alias, address in host.aliases.items():
                click.echo(f"{alias} is an alias of {address}")
            click.echo(f"\nLogs are in {host.root}/log. Ctrl-C stops and removes everything.")
            while True:
                signal.pause()
    except KeyboardInterrupt:
        click.echo("\nThe lab is stopped and removed.")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
