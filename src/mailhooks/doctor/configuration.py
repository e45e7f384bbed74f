"""The settings file and the key file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailhooks import config
from mailhooks.doctor.access import mode_of, named
from mailhooks.doctor.check import Finding, error, ok, warning
from mailhooks.errors import ConfigError
from mailhooks.keys import KeyRing, load_keys

if TYPE_CHECKING:
    from pathlib import Path

    from mailhooks.config import Settings

OTHERS, GROUP_WRITES = 0o007, 0o020


def settings_file(path: Path) -> tuple[Settings | None, list[Finding]]:
    """Whether the settings can be read and are right; every problem is a finding."""
    name = "settings"
    try:
        settings = config.load(path)
    except ConfigError as problem:
        advice = "Correct it; docs/settings.md explains every setting. Nothing else was checked."
        return None, [error(name, f"{path}: {each}", advice) for each in problem.problems]
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


def key_file(path: Path) -> tuple[KeyRing | None, list[Finding]]:
    """Whether the keys can be read, are right, and are secret."""
    name = "key file"
    try:
        ring = load_keys(path)
    except ConfigError as problem:
        advice = (
            f"Write lines `key-id secret` into it ([score] key_file), readable by the user of "
            f"`mailhooks serve` and `mailhooks milter`: "
            f'(umask 077; echo "1 $(openssl rand -hex 32)" > {path}) makes a new one.'
            if not path.exists()
            else "Correct it, and see that this user may read it; each line is `key-id secret`."
        )
        return None, [error(name, f"{path}: {each}", advice) for each in problem.problems]
    status = path.stat()
    if status.st_mode & OTHERS or status.st_mode & GROUP_WRITES:
        return ring, [
            error(
                name,
                f"{path}: is not secret, others than {named(status.st_uid)} may open or change it "
                f"(mode {mode_of(status)})",
                "chmod 600 it. Who has read it can forge scores: put a new key on top, let Rspamd "
                "have the report secret made of it, and restart all three.",
            )
        ]
    count = len(ring.keys)
    keys = "1 key" if count == 1 else f"{count} keys"
    return ring, [ok(name, f"{path}: {keys}, {ring.signing.key_id} signs")]
