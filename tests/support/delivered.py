"""Reading delivered messages in tests."""

from __future__ import annotations

import re

from mailhooks.message import content_digest, read_header


def message_id(raw: bytes) -> str:
    """The Message-ID of a message."""
    return read_header(raw).values("message-id")[0].decode("ascii")


def status(raw: bytes) -> str:
    """The one X-Spam-Status of a delivered message."""
    values = read_header(raw).values("x-spam-status")
    assert len(values) == 1, values
    return values[0].decode("ascii")


def judged(line: str) -> str:
    """A status without what an earlier message of the same sender changes in it."""
    return re.sub(r" (score|acquaintance)=\S+", "", line)


def identified(raw: bytes) -> bytes:
    """The message with a Message-ID, which spammers may leave out."""
    if read_header(raw).values("message-id"):
        return raw
    return b"Message-ID: <%s@example.org>\r\n" % content_digest(raw)[:20].encode() + raw
