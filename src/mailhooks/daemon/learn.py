"""Learning: a message a user moved comes in, is put on disk, and is answered for at once."""

from __future__ import annotations

import logging

from mailhooks.daemon.peer import user_of
from mailhooks.daemon.samples import Samples
from mailhooks.dovecot import ScriptCall
from mailhooks.errors import ProtocolError
from mailhooks.lesson import MailboxRoles, Moved, lesson_of
from mailhooks.message import content_digest

log = logging.getLogger("mailhooks.learn")


class Learner:
    """Answers ``mailhooks-learn``; its arguments are cause, source and destination mailbox.

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
        if len(call.args) != 3:  # noqa: PLR2004
            raise ProtocolError(
                f"expected the arguments cause, source, destination; got {len(call.args)}"
            )
        cause, source, destination = call.args
        if cause.upper() != "COPY":
            raise ProtocolError(f"unknown cause {cause!r}")
        lesson = lesson_of(Moved(source, destination), self._roles)
        if lesson is None:
            log.debug("user=%s: %s -> %s teaches nothing", user, source, destination)
            return b""
        digest = content_digest(call.message)
        await self._samples.take(user, lesson, digest, "move", call.message)
        log.info("user=%s: %s sample %.12s taken", user, lesson.value, digest)
        return b""
