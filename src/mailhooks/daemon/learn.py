"""Learning: a message a user moved comes in, is put on disk, and is answered for at once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mailhooks.daemon.peer import user_of
from mailhooks.errors import ProtocolError
from mailhooks.lesson import MailboxRoles, Moved, lesson_of
from mailhooks.message import content_digest

if TYPE_CHECKING:
    from mailhooks.daemon.samples import Samples
    from mailhooks.dovecot import ScriptCall

log = logging.getLogger("mailhooks.learn")


ARGUMENTS = ("cause", "from", "to")


def arguments(args: tuple[str, ...]) -> dict[str, str]:
    """The call's arguments ``name=value`` by name.

    Raises:
        ProtocolError: one is missing, unknown or has no name.
    """
    named: dict[str, str] = {}
    for arg in args:
        name, equals, value = arg.partition("=")
        if not equals or name not in ARGUMENTS:
            raise ProtocolError(f"argument {arg!r}: expected {'=, '.join(ARGUMENTS)}=")
        named[name] = value
    for name in ARGUMENTS:
        if not named.get(name):
            raise ProtocolError(f"argument {name} is missing or empty")
    return named


class Learner:
    """Answers ``mailhooks-learn``; the arguments are ``cause=``, ``from=`` and ``to=``.

    Args:
        samples: where samples go.
        roles: which mailboxes are Junk and Trash.
        mail_uids: uids that may speak for any user.
    """

    def __init__(self, samples: Samples, roles: MailboxRoles, mail_uids: frozenset[int]) -> None:
        self._samples = samples
        self._roles = roles
        self._mail_uids = mail_uids

    async def answer(self, call: ScriptCall) -> bytes:
        """Nothing; once it returns, the sample survives a power cut.

        Raises:
            ProtocolError: wrong arguments, or the caller may not speak for the user it names.
            SpoolError: the sample is not on disk.
        """
        user = user_of(call.env, call.peer.uid, self._mail_uids)
        event = arguments(call.args)
        if event["cause"].upper() != "COPY":
            raise ProtocolError(f"argument cause: unknown cause {event['cause']!r}")
        source, destination = event["from"], event["to"]
        lesson = lesson_of(Moved(source, destination), self._roles)
        if lesson is None:
            log.debug("user=%s: %s -> %s teaches nothing", user, source, destination)
            return b""
        digest = content_digest(call.message)
        await self._samples.take(user, lesson, digest, "move", call.message)
        log.info("user=%s: %s sample %.12s taken", user, lesson.value, digest)
        return b""
