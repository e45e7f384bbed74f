"""What the doctor asks with, made so that nobody learns anything from it.

One message is used everywhere. It has no text, so it has fewer tokens than a
classifier learns from; it names a user under a domain that cannot exist
(RFC 2606); and at delivery it carries a score, signed with the host's own key,
by which a module of Rspamd made it Junk: a delivery learns from neither.
"""

from __future__ import annotations

import os
import pwd
import time
from typing import TYPE_CHECKING, Final

from mailhooks.lesson import PROBE_USER
from mailhooks.message import identity, read_header
from mailhooks.score import SCORE_HEADER, Course, MilterScore, sign

if TYPE_CHECKING:
    from collections.abc import Collection

    from mailhooks.keys import KeyRing

USER: Final = PROBE_USER
QUEUE_ID: Final = "DOCTOR"
MESSAGE: Final = (
    b"Received: from doctor by localhost with LMTP id DOCTOR\r\n"
    b"Message-ID: <doctor@mailhooks.invalid>\r\n"
    b"From: <doctor@mailhooks.invalid>\r\n"
    b"\r\n"
)
_BEYOND_ANY_BAYES = 1000.0


def user(mail_uids: Collection[int]) -> str:
    """For whom this process may speak: anybody, or only the system user it runs as."""
    uid = os.geteuid()
    if uid == 0 or uid in mail_uids:
        return USER
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return USER


def junk(keys: KeyRing, threshold: float) -> bytes:
    """The message as it would come from a milter pass in which Rspamd was sure."""
    score = MilterScore(
        score=threshold + _BEYOND_ANY_BAYES,
        required=None,
        action="add header",
        course=Course.PASSTHROUGH,
        symbols=(),
        queue_id=QUEUE_ID,
        time=int(time.time()),
    )
    value = sign(score, identity(read_header(MESSAGE)), b"", keys)
    return f"{SCORE_HEADER}: {value}\r\n".encode("ascii") + MESSAGE
