"""A verdict in a copy's header: what a stranger wrote there is out, ours is in. Pure.

The same as ``classify.sieve`` does where Dovecot runs it; a test holds both together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

STRANGERS: Final = frozenset(
    {
        b"x-mailhooks-rspamd",
        b"x-spam",
        b"x-spam-action",
        b"x-spam-bar",
        b"x-spam-bayes",
        b"x-spam-checker-version",
        b"x-spam-details",
        b"x-spam-flag",
        b"x-spam-level",
        b"x-spam-prev-subject",
        b"x-spam-report",
        b"x-spam-result",
        b"x-spam-score",
        b"x-spam-status",
        b"x-spam-symbols",
        b"x-spamd-bar",
        b"x-spamd-result",
        b"x-rspamd-action",
        b"x-rspamd-queue-id",
        b"x-rspamd-score",
        b"x-rspamd-server",
    }
)
"""Fields that are removed whatever the verdict, in lower case."""
SCORE: Final = b"x-mailhooks-score"
"""Removed only if the score it carries is none."""

# "broken-" concerns Sieve alone: what edits bytes is not stopped by a line that is no field.
_ANSWER: Final = re.compile(r"(inbox|junk) (?:broken-)?(verified|none) ([ -~]{1,900})\Z")
_LINE: Final = re.compile(rb"[^\n]*\n|[^\n]+\Z")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon says of one recipient's copy.

    Attributes:
        is_junk: whether the copy belongs into Junk.
        has_score: whether its milter score is verified; None if nobody said.
        status: the value of X-Spam-Status.
    """

    is_junk: bool
    has_score: bool | None
    status: str


UNANSWERED: Final = Answer(is_junk=False, has_score=None, status="No, mailhooks did not answer")


def parse_answer(output: bytes) -> Answer:
    """Read the output of ``mailhooks-classify`` (docs/hooks.md).

    Raises:
        ValueError: it is none, such as that of a call that failed.
    """
    match = _ANSWER.match(output.decode("ascii", "replace"))
    if not match:
        raise ValueError("no answer of mailhooks-classify")
    return Answer(match[1] == "junk", match[2] == "verified", match[3])


def stamped(message: bytes, answer: Answer) -> bytes:
    """One recipient's copy with its verdict; not a byte of anything else is touched.

    Args:
        message: with CRLF line ends.
        answer: on this recipient's copy.
    """
    size_bytes = _header_bytes(message)
    removed = STRANGERS | {SCORE} if answer.has_score is False else STRANGERS
    kept = [b"X-Spam-Flag: YES\r\n"] if answer.is_junk else []
    kept.append(f"X-Spam-Status: {answer.status}\r\n".encode("ascii"))
    dropping = False
    for line in _LINE.findall(message, 0, size_bytes):
        if line[:1] not in (b" ", b"\t"):
            dropping = line.partition(b":")[0].rstrip(b" \t").lower() in removed
        if not dropping:
            kept.append(line)
    kept.append(message[size_bytes:])
    return b"".join(kept)


def _header_bytes(message: bytes) -> int:
    """Length of the header, its last line end included; an empty line may follow."""
    if message.startswith(b"\r\n"):
        return 0
    end = message.find(b"\r\n\r\n")
    return len(message) if end < 0 else end + len(b"\r\n")
