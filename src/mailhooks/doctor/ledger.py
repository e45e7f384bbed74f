"""The ledger's file, looked at without changing it."""

from __future__ import annotations

import sqlite3
import time
import urllib.parse
from contextlib import closing
from typing import TYPE_CHECKING

from mailhooks.doctor import access
from mailhooks.doctor.check import Finding, failed, ok, warning
from mailhooks.doctor.folders import file_system, space
from mailhooks.ledger.schema import APPLICATION_ID, MIGRATIONS

if TYPE_CHECKING:
    from pathlib import Path

NAME = "ledger"
_BUSY_S = 5.0
_LOOK_S = 5.0


def ledger(path: Path, daemon_uid: int | None) -> list[Finding]:
    """Whether the file is a ledger that the daemon can open.

    Args:
        path: where it is, or will be.
        daemon_uid: the user who writes it; None if not known.
    """
    if not path.parent.is_dir():
        return [
            failed(
                NAME,
                f"{path.parent}: is no folder",
                "Samples wait until it is there ([learning] ledger_file): install -d -m 700 "
                f"-o USER {path.parent}, USER being the one `mailhooks serve` runs as.",
            )
        ]
    # SqliteLedger would make a file that is missing, and bring an old one up to date.
    found = _opened(path) if path.exists() else _not_yet(path)
    return [
        _owner(path, daemon_uid) or found,
        space("ledger space", path.parent),
        file_system("ledger file system", path.parent),
    ]


def _not_yet(path: Path) -> Finding:
    return ok(NAME, f"{path}: not there yet, `mailhooks serve` makes it")


def _owner(path: Path, daemon_uid: int | None) -> Finding | None:
    """Whose file, or whose folder, would turn the daemon away."""
    wanted = access.READ | access.WRITE
    for each, rights in ((path.parent, wanted | access.ENTER), (path, wanted)):
        if daemon_uid is None or not each.exists():
            continue
        status = each.stat()
        if not access.may(daemon_uid, status, rights):
            user = access.named(daemon_uid)
            return failed(
                NAME,
                f"{each}: of {access.named(status.st_uid)}, mode {access.mode_of(status)}: "
                f"`mailhooks serve`, which runs as {user}, may not write it",
                f"chown {user} {each}",
            )
    return None


def _opened(path: Path) -> Finding:
    uri = f"file:{urllib.parse.quote(str(path))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as file:
            application, version, tables = (
                int(file.execute(question).fetchone()[0])
                for question in (
                    "PRAGMA application_id",
                    "PRAGMA user_version",
                    "SELECT count(*) FROM sqlite_master",
                )
            )
            damage = _damage(file) if application == APPLICATION_ID else ""
    except sqlite3.Error as problem:
        return failed(
            NAME,
            f"{path}: cannot be opened: {problem}",
            "Samples wait until it can. Restore the file from a backup, or move it away: a new one "
            "is made, which knows nothing of what was taught before.",
        )
    if application != APPLICATION_ID and (application or version or tables):
        return failed(
            NAME,
            f"{path}: is the database of another program",
            "Name another file in [learning] ledger_file.",
        )
    if version > len(MIGRATIONS):
        return failed(
            NAME,
            f"{path}: was written by a newer mailhooks (version {version}, this one knows "
            f"{len(MIGRATIONS)})",
            "Install the newer mailhooks again.",
        )
    if version < len(MIGRATIONS):
        return warning(
            NAME,
            f"{path}: has version {version}, this mailhooks writes {len(MIGRATIONS)}",
            "Restart `mailhooks serve`, which brings it up to date.",
        )
    if damage:
        return failed(
            NAME,
            f"{path}: is damaged: {damage}",
            "Stop `mailhooks serve`, restore the file from a backup, or move it away: a new one is "
            "made, which knows nothing of what was taught before.",
        )
    return ok(NAME, f"{path}: sound, version {version}")


def _damage(file: sqlite3.Connection) -> str:
    """What SQLite finds wrong within a while; empty if that is nothing."""
    deadline = time.monotonic() + _LOOK_S
    file.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        found = str(file.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError:  # interrupted: a large file, sound as far as it was read
        return ""
    return "" if found == "ok" else " ".join(found.split())
