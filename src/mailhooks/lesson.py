"""What a user's action in IMAP teaches. Pure.

A move into Junk says spam; a move out of Junk says ham, unless it goes to
Trash, which says only that the message is not wanted any more. What lies
below Junk or Trash counts as Junk or Trash.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Lesson(enum.Enum):
    """What Rspamd is to learn a message as."""

    SPAM = "spam"
    HAM = "ham"

    @property
    def opposite(self) -> Lesson:
        """The other one."""
        return Lesson.HAM if self is Lesson.SPAM else Lesson.SPAM


@dataclass(frozen=True, slots=True)
class Moved:
    """A message arrived in a mailbox by IMAP COPY or MOVE.

    Attributes:
        source: the mailbox it came from, as Dovecot names it.
        destination: the mailbox it is in now.
    """

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class MailboxRoles:
    """Which mailboxes play which part, by name; sub-folders included.

    Attributes:
        junk: names of Junk mailboxes.
        trash: names of Trash mailboxes.
        separators: characters that may part a mailbox from its sub-folder.
    """

    junk: frozenset[str] = frozenset({"junk"})
    trash: frozenset[str] = frozenset({"trash"})
    separators: str = "/."

    def is_junk(self, mailbox: str) -> bool:
        """Whether the mailbox is a Junk mailbox or below one."""
        return self._among(mailbox, self.junk)

    def is_trash(self, mailbox: str) -> bool:
        """Whether the mailbox is a Trash mailbox or below one."""
        return self._among(mailbox, self.trash)

    def _among(self, mailbox: str, names: frozenset[str]) -> bool:
        lowered = mailbox.lower()
        return any(
            lowered == name or (lowered.startswith(name) and lowered[len(name)] in self.separators)
            for name in names
        )


def lesson_of(event: Moved, roles: MailboxRoles) -> Lesson | None:
    """What a move teaches, or None if it teaches nothing."""
    was_junk = roles.is_junk(event.source)
    if roles.is_junk(event.destination):
        return None if was_junk else Lesson.SPAM
    if was_junk and not roles.is_trash(event.destination):
        return Lesson.HAM
    return None
