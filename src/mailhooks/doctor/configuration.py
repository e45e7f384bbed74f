"""The settings file and the key file."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mailhooks import config
from mailhooks.doctor import access
from mailhooks.doctor.access import mode_of, named
from mailhooks.doctor.check import Finding, failed, ok, warning
from mailhooks.errors import ConfigError
from mailhooks.keys import KeyRing, load_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.config import Settings

OTHERS, GROUP_WRITES = 0o007, 0o020


def settings_file(path: Path) -> tuple[Settings | None, list[Finding]]:
    """Whether the settings can be read and are right; every problem is a finding."""
    name = "settings"
    try:
        settings = config.load(path)
    except ConfigError as problem:
        advice = "Correct it; docs/settings.md explains every setting. Nothing else was checked."
        return None, [failed(name, f"{path}: {each}", advice) for each in problem.problems]
    return settings, [ok(name, f"{path}: no problems")]


def settings_private(path: Path, settings: Settings) -> list[Finding]:
    """Whether strangers can read passwords in the settings."""
    name, status = "settings private", path.stat()
    urls = settings.redis.url + settings.accounts.database
    if not settings.rspamd.password and "@" not in urls:
        return [ok(name, f"{path}: holds no password")]
    if status.st_mode & OTHERS:
        return [
            warning(
                name,
                f"{path}: holds a password and every user of this host may open it "
                f"(mode {mode_of(status)})",
                f"chmod o= {path}, and see that the user of `mailhooks serve` is its owner or in "
                "its group.",
            )
        ]
    return [ok(name, f"{path}: mode {mode_of(status)}")]


UNITS: Final = (
    Path("/etc/systemd/system/mailhooks.service"),
    Path("/lib/systemd/system/mailhooks.service"),
)


def key_file(
    path: Path,
    daemon_uid: int | None = None,
    max_age_s: float = math.inf,
    units: tuple[Path, ...] = UNITS,
) -> tuple[KeyRing | None, list[Finding]]:
    """Whether the keys can be read, are right, are secret, and none is needed no more.

    Args:
        path: the file.
        daemon_uid: the user who has to read it; None if not known.
        max_age_s: for how long a score that was signed by an old key counts.
        units: where the daemon's unit may be, by which systemd hands the file over.
    """
    name = "key file"
    try:
        ring = load_keys(path)
    except ConfigError as problem:
        advice = (
            "`mailhooks key add --new` makes it ([score] key_file); then see that the user of "
            "`mailhooks serve` and `mailhooks milter` may read it."
            if not path.exists()
            else "Correct it, and see that this user may read it; each line is `key-id secret`."
        )
        return None, [failed(name, f"{path}: {each}", advice) for each in problem.problems]
    status = path.stat()
    if status.st_mode & OTHERS or status.st_mode & GROUP_WRITES:
        return ring, [
            failed(
                name,
                f"{path}: is not secret, others than {named(status.st_uid)} may open or change it "
                f"(mode {mode_of(status)})",
                "chmod 600 it. Who has read it can forge scores: rotate it (docs/split.md), "
                "let Rspamd have the report secret made of the new key, and remove the old one.",
            )
        ]
    shut_out = daemon_uid is not None and not access.may(daemon_uid, status, access.READ)
    if shut_out and not any(map(_hands_over(path), units)):
        user = named(daemon_uid or 0)
        return ring, [
            failed(
                name,
                f"{path}: of {named(status.st_uid)}, mode {mode_of(status)}: `mailhooks serve`, "
                f"which runs as {user}, may not read it",
                f"chown {user} {path}",
            )
        ]
    count = len(ring.keys)
    keys = "1 key" if count == 1 else f"{count} keys"
    text = f"{path}: {keys}, {ring.signing.key_id} signs"
    if count > 1 and time.time() - status.st_mtime > max_age_s:
        old = ", ".join(key.key_id for key in ring.keys[1:])
        return ring, [
            warning(
                name,
                f"{text}; {old} did not sign any score that still counts",
                "Remove the line of the old key, and restart `mailhooks serve` and "
                "`mailhooks milter`.",
            )
        ]
    return ring, [ok(name, text)]


def _hands_over(path: Path) -> Callable[[Path], bool]:
    """Whether a unit has systemd read a file and give it to the service (LoadCredential)."""
    wanted = re.compile(rf"^LoadCredential=[^:\n]+:{re.escape(str(path))}$", re.MULTILINE)

    def hands_over(unit: Path) -> bool:
        try:
            return bool(wanted.search(unit.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError):
            return False

    return hands_over
