"""Commands that run the services: ``serve``, ``milter``, ``lmtp``, ``check-config``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from mailhooks import config, systemd

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.pass_obj
def serve(config_path: Path) -> None:
    """Answer Dovecot's Sieve at delivery, and learn what users move.

    Runs in the foreground until SIGTERM; samples that are not learned yet stay
    in the spool and are learned by the next run. SIGHUP reads the settings and
    keys again. Takes its sockets from systemd, if it is handed any.
    """
    from mailhooks.daemon import serve as run
    from mailhooks.daemon.memory import keep_small

    keep_small()
    sockets = systemd.take_sockets()
    try:
        asyncio.run(
            run(
                config.load(config_path),
                reread=lambda: config.load(config_path),
                sockets=sockets,
                supervisor=systemd.Supervisor.of(),
            )
        )
    except BaseException:
        # systemd keeps the sockets open: whoever waits there must not wait for nothing.
        systemd.turn_away(sockets.values())
        raise


@click.command()
@click.pass_obj
def milter(config_path: Path) -> None:
    """Carry Rspamd's milter score with each message; stands behind Rspamd in Postfix's chain."""
    from mailhooks.keys import load_keys
    from mailhooks.milter import run

    settings = config.load(config_path)
    run(
        settings.milter.socket,
        load_keys(settings.score.key_file),
        settings.milter.timeout_s,
        systemd.Supervisor.of(),
    )


@click.command()
@click.pass_obj
def lmtp(config_path: Path) -> None:
    """Give verdicts between Postfix and any LMTP server, where Dovecot's Sieve cannot ask.

    Takes mail by LMTP, asks `mailhooks serve` for each recipient's verdict, and hands each copy
    with its headers to the LMTP server that stores mail ([lmtp] next_hop).
    """
    from mailhooks.lmtp import serve as run

    settings = config.load(config_path)
    asyncio.run(run(settings.lmtp, settings.daemon, systemd.Supervisor.of()))


@click.command("check-config")
@click.pass_obj
def check_config(config_path: Path) -> None:
    """Read the settings and the key file, and list everything that is wrong in them."""
    from mailhooks.keys import load_keys

    settings = config.load(config_path)
    load_keys(settings.score.key_file)
    click.echo(f"{config_path}: no problems")
