"""What a running daemon takes over from settings read again, and what waits for a restart.

What decides about one call can change between two calls. What is open (sockets,
connections, spool, ledger) cannot; a restart opens it anew and loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from mailhooks.config import Settings

AT_ONCE: Final = frozenset(
    {
        "score",
        "policy",
        "mailboxes",
        "daemon.mail_users",
        "learning.learn_on_delivery",
        "learning.spam_on_delivery",
    }
)
"""Sections and settings that a reload puts into force; docs/settings.md names them too."""
NOT_OURS: Final = frozenset({"doveadm", "accounts", "doctor", "lmtp"})
"""Sections that only commands use, which read them each time, or another service."""


@dataclass(frozen=True, slots=True)
class Reload:
    """The outcome of reading the settings again.

    Attributes:
        settings: what is in force from now on.
        changed: settings that are in force from now on, as ``section.key``.
        waiting: settings that differ and need a restart.
    """

    settings: Settings
    changed: tuple[str, ...]
    waiting: tuple[str, ...]


def compare(running: Settings, read: Settings) -> Reload:
    """Put into force what can be.

    Args:
        running: what is in force now.
        read: what the file says now.
    """
    changed: list[str] = []
    waiting: list[str] = []
    sections = {}
    for section in msgspec.structs.fields(Settings):
        old, new = getattr(running, section.name), getattr(read, section.name)
        taken = {}
        for field in msgspec.structs.fields(type(old)):
            value = getattr(new, field.name)
            if value == getattr(old, field.name) or section.name in NOT_OURS:
                continue
            name = f"{section.name}.{field.name}"
            if section.name in AT_ONCE or name in AT_ONCE:
                taken[field.name] = value
                changed.append(name)
            else:
                waiting.append(name)
        sections[section.name] = msgspec.structs.replace(old, **taken)
    return Reload(Settings(**sections), tuple(changed), tuple(waiting))
