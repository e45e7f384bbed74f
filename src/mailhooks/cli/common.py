"""What commands share: options, the parts they open, and how results are shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mailhooks import config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailhooks.config import LearningSettings
    from mailhooks.ledger import SqliteLedger

EXIT_INCOMPLETE = 1
EXIT_INTERRUPTED = 130

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SENTENCE_CHARS = 300
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


class Group(click.Group):
    """A group whose help says of each command all of its first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None:
                rows.append((name, command.get_short_help_str(limit=_SENTENCE_CHARS)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def user_name(value: str) -> str:
    """A Dovecot user as given, if Rspamd could tell it from others.

    Raises:
        click.BadParameter: it could not.
    """
    user = value.strip()
    if not user or not user.isprintable() or user.startswith("<"):
        raise click.BadParameter(f"{value!r} is no user name")
    return user


def moment(value: str) -> float:
    """An age such as ``7d``, or a date; as seconds since the epoch.

    Raises:
        click.BadParameter: it is neither.
    """
    age = _AGE.fullmatch(value.strip())
    if age:
        return time.time() - float(age[1]) * _UNITS_S[age[2]]
    try:
        return datetime.fromisoformat(value.strip()).astimezone().timestamp()
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{value!r} is neither an age (30m, 12h, 7d, 4w) nor a date (2025-12-31)"
        ) from error


def one_user_or_all(user: str | None, everybody: bool) -> None:
    """See that exactly one of ``--user`` and ``--all`` is given.

    Raises:
        click.UsageError: none or both are.
    """
    if bool(user) == everybody:
        raise click.UsageError("give either --user or --all")


@contextmanager
def opened_ledger(settings: LearningSettings) -> Iterator[SqliteLedger]:
    """The ledger, closed at the end.

    Raises:
        LedgerError: it cannot be opened.
    """
    from mailhooks.ledger import SqliteLedger

    path = settings.ledger_file
    is_new = not path.exists()
    ledger = SqliteLedger(path)
    try:
        if is_new and os.geteuid() == 0:
            # Else the daemon, which is not root, could not open what root made.
            owner = path.parent.stat()
            for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                if each.exists():
                    shutil.chown(each, owner.st_uid, owner.st_gid)
        yield ledger
    finally:
        ledger.close()


def loaded(ctx: click.Context) -> config.Settings:
    """The settings that ``--config`` names.

    Raises:
        ConfigError: they cannot be read or are wrong.
    """
    return config.load(ctx.find_root().obj)


def print_json(value: Any) -> None:
    """One JSON document to standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def span(seconds: float) -> str:
    """A time span as people say it, such as ``3 h``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def plural(count: int, noun: str) -> str:
    """A count with its noun, such as ``1 message`` or ``2 messages``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def confirmed(question: str, *, yes: bool) -> None:
    """Go on only if somebody says so.

    Raises:
        click.Abort: they do not.
    """
    if not yes:
        click.confirm(question, abort=True, err=True)


def table(headings: list[str], rows: list[list[str]], right: set[int] | None = None) -> None:
    """Print rows in columns; the columns in ``right`` are figures."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells: list[str] = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            pad: Callable[[int], str] = cell.rjust if number in (right or set()) else cell.ljust
            cells.append(pad(width))
        click.echo("  ".join(cells).rstrip())
