"""Learning: what a user did with a message comes in, is put on disk, and is answered for at once.

The arguments, all ``name=value`` with a value, are what ``sieve/learn.sieve`` sends:

- ``cause=COPY from=MAILBOX to=MAILBOX``: copied or moved.
- ``cause=APPEND to=MAILBOX``: stored there by a client.
- ``cause=FLAG to=MAILBOX junk=CHANGE notjunk=CHANGE``: keywords changed, each
  ``set``, ``cleared`` or the ``same``.

A message that teaches nothing is answered like any other, and nothing of it is kept.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mailhooks.daemon.peer import user_of
from mailhooks.errors import ProtocolError
from mailhooks.lesson import Appended, Change, Event, Flagged, Moved, lesson_of
from mailhooks.message import content_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.config import MailboxSettings
    from mailhooks.daemon.samples import Samples
    from mailhooks.dovecot import ScriptCall
    from mailhooks.lesson import Lesson, MailboxRoles

log = logging.getLogger("mailhooks.learn")

ARGUMENTS: Final = {
    "COPY": ("cause", "from", "to"),
    "APPEND": ("cause", "to"),
    "FLAG": ("cause", "to", "junk", "notjunk"),
}
"""The arguments of each cause."""
ORIGINS: Final[dict[type[Event], str]] = {Moved: "move", Appended: "append", Flagged: "keyword"}
CHANGES: Final = {change.value: change for change in Change}


def event_of(args: tuple[str, ...]) -> Event:
    """What the arguments of a call say has happened.

    Raises:
        ProtocolError: one is missing, empty, unknown, given twice or wrong.
    """
    named = _named(args)
    if "cause" not in named:
        raise ProtocolError("argument cause is missing")
    cause = named["cause"].upper()
    if cause not in ARGUMENTS:
        raise ProtocolError(f"argument cause: {named['cause']!r} is not {_one_of(ARGUMENTS)}")
    for name in ARGUMENTS[cause]:
        if name not in named:
            raise ProtocolError(f"argument {name} is missing, cause={cause} needs it")
    for name in named:
        if name not in ARGUMENTS[cause]:
            raise ProtocolError(f"argument {name} is unknown with cause={cause}")
    if cause == "COPY":
        return Moved(named["from"], named["to"])
    if cause == "APPEND":
        return Appended(named["to"])
    return Flagged(named["to"], _change("junk", named), _change("notjunk", named))


def _named(args: tuple[str, ...]) -> dict[str, str]:
    named: dict[str, str] = {}
    for arg in args:
        name, equals, value = arg.partition("=")
        if not equals:
            raise ProtocolError(f"argument {arg!r}: expected name=value")
        if name in named:
            raise ProtocolError(f"argument {name} is given twice")
        if not value:
            raise ProtocolError(f"argument {name} is empty")
        named[name] = value
    return named


def _change(name: str, named: dict[str, str]) -> Change:
    if named[name] not in CHANGES:
        raise ProtocolError(f"argument {name}: {named[name]!r} is not {_one_of(CHANGES)}")
    return CHANGES[named[name]]


def _one_of(known: dict[str, tuple[str, ...]] | dict[str, Change]) -> str:
    return " or ".join(known)


def learning_user(
    event: Event,
    actor: str,
    uid: int,
    *,
    roles: MailboxRoles | None,
    mail_uids: frozenset[int],
) -> str:
    """Whose statistics learn from an event.

    The owner is that of the mailbox in which the message now lies: Dovecot
    let the acting user write there, so the owner has given them that right
    (ACL ``i``, ``p`` or ``w``). Reading somebody's Junk gives no such right,
    and a message taken out of it to another user's mailbox is a lesson for
    that one. Only a process that may name any user is believed at all: any
    other could name a mailbox without asking Dovecot.

    Args:
        event: what was done.
        actor: by whom.
        uid: of the process that says so.
        roles: tells owners of mailboxes; None if only who acts ever learns.
        mail_uids: uids that may speak for any user.

    Raises:
        ProtocolError: the owner's name is none.
    """
    if roles is None or (uid != 0 and uid not in mail_uids):
        return actor
    owner = roles.owner(event.mailbox, actor)
    return actor if owner is None else user_of({"USER": owner}, uid, mail_uids)


class Learner:
    """Answers ``mailhooks-learn``.

    Args:
        samples: where samples go.
        mailboxes: which mailboxes are Junk and so on, and whose statistics
            learn from a shared one.
        mail_uids: uids that may speak for any user.
    """

    def __init__(
        self, samples: Samples, mailboxes: MailboxSettings, mail_uids: frozenset[int]
    ) -> None:
        self._samples = samples
        self._roles = mailboxes.roles()
        self._owners_learn = mailboxes.shared == "owner"
        self._mail_uids = mail_uids

    async def answer(self, call: ScriptCall, made: float | None = None) -> bytes:
        """Nothing; once it returns, the sample survives a power cut.

        Args:
            call: what the user did, and the message.
            made: when, in seconds since the epoch; None for now.

        Raises:
            ProtocolError: wrong arguments, or the caller may not speak for the user it names.
            SpoolError: the sample is not on disk.
        """
        if (sample := self._sample(call)) is not None:
            await self._samples.take(*sample.what, received=made)
            sample.log()
        return b""

    async def answer_directly(self, call: ScriptCall) -> tuple[bytes, Callable[[], None] | None]:
        """The same as a strand; blocks. The second value is to be called afterwards."""
        if (sample := self._sample(call)) is None:
            return b"", None
        entry = self._samples.keep(*sample.what)

        def afterwards() -> None:
            self._samples.notice(entry)
            sample.log()

        return b"", afterwards

    def _sample(self, call: ScriptCall) -> _Sample | None:
        actor = user_of(call.env, call.peer.uid, self._mail_uids)
        event = event_of(call.args)
        lesson, origin = lesson_of(event, self._roles), ORIGINS[type(event)]
        if lesson is None:
            log.debug("user=%s: this %s teaches nothing", actor, origin)
            return None
        user = learning_user(
            event,
            actor,
            call.peer.uid,
            roles=self._roles if self._owners_learn else None,
            mail_uids=self._mail_uids,
        )
        what = user, lesson, content_digest(call.message), origin, call.message
        return _Sample(actor, what)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Who acted, and what :meth:`Samples.take` wants to know."""

    actor: str
    what: tuple[str, Lesson, str, str, bytes]

    def log(self) -> None:
        user, lesson, digest, origin, _ = self.what
        by = "" if user == self.actor else f" by {self.actor}"
        log.info("user=%s: sample %.12s taken: %s, %s%s", user, digest, lesson.value, origin, by)
