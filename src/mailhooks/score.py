"""The milter score: read from Rspamd's report, signed, carried, verified. Pure.

Two header fields, never seen together outside Postfix's milter chain:

``X-Mailhooks-Rspamd``
    written by Rspamd's milter (``local.d/milter_headers.conf``), read and
    removed by ours; signed with a secret derived from the key and bound to the
    queue id, so that a stranger cannot bring one along.
``X-Mailhooks-Score``
    written by our milter above everything else, read once for each recipient at
    delivery; bound to queue id, envelope sender, Message-ID, Date, From and time.

Both are ``name=value`` pairs joined by ``; `` with the signature last. Nothing
here raises on what a stranger may have written: what cannot be believed
becomes :class:`NoScore` with its reason.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailhooks.message import IDENTITY_FIELDS, Header, Identity, identity, unfold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailhooks.keys import KeyRing

REPORT_HEADER = "X-Mailhooks-Rspamd"
SCORE_HEADER = "X-Mailhooks-Score"

VERIFIED_FIELDS = (SCORE_HEADER.lower(), "received", *IDENTITY_FIELDS)
"""Header fields that :func:`verify` looks at."""

REPORT_MAX_AGE_S = 3600
"""Clocks of an Rspamd on another host may be off by this, seconds either way."""

CLOCK_SKEW_S = 300
"""A carried score may seem to come from this far in the future, seconds."""

MAX_FIELD_BYTES = 8192
MAX_POINTS = 1e6
MAX_SYMBOLS = 40

_QUEUE_ID = re.compile(r"[A-Za-z0-9]{1,64}\Z")
_SYMBOL = re.compile(
    r"(?:\A|,)\s*([A-Za-z0-9_.\-]{1,128}):(-?[0-9]{1,7}(?:\.[0-9]{1,4})?)\s*(?=,|\Z)"
)
# Only the first "id" of a Received line is the server's: what follows, such as
# the recipient in "for <...>", may hold text that strangers chose.
_RECEIVED_ID = re.compile(rb"\sid ([^\s;]+)")


class Why(enum.Enum):
    """Why there is no milter score to count."""

    ABSENT = "absent"
    DUPLICATE = "duplicate"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown key"
    BAD_SIGNATURE = "bad signature"
    WRONG_QUEUE_ID = "wrong queue id"
    WRONG_SENDER = "wrong sender"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class NoScore:
    """There is no milter score to count, and why."""

    why: Why


class Course(enum.Enum):
    """How Rspamd came to its result."""

    SCORED = "scored"
    PASSTHROUGH = "passthrough"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class RspamdScore:
    """What Rspamd says of a message on objective grounds, Bayes switched off.

    Attributes:
        score: points; finite.
        required: points from which Rspamd rejects, None if it gave no usable number.
        action: Rspamd's action, such as ``no action`` or ``add header``.
        course: whether rules made the score, a module decided without it
            ("pre-result"), or Rspamd was told not to scan.
        symbols: (name, points), the weightiest first, those of 0 points left out.
    """

    score: float
    required: float | None
    action: str
    course: Course
    symbols: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MilterScore(RspamdScore):
    """Rspamd's result in the milter pass.

    Attributes:
        queue_id: Postfix's queue id on the host of the milter.
        time: when the scan was made, seconds since the epoch.
    """

    queue_id: str
    time: int


# Rspamd's milter says nothing of a message it was told not to scan.
_COURSES = {"0": Course.SCORED, "1": Course.PASSTHROUGH}
_COURSE_CODES = {course: code for code, course in _COURSES.items()}


def read_report(
    values: Sequence[bytes], queue_id: str, keys: KeyRing, now: float
) -> MilterScore | NoScore:
    """Believe Rspamd's report, or say why not.

    Args:
        values: the message's ``X-Mailhooks-Rspamd`` fields; a stranger's may be
            among them, so the one that is signed for this queue id counts.
        queue_id: this message's, from the milter macro ``i``.
        keys: any of them may have made the secret Rspamd was configured with.
        now: seconds since the epoch.
    """
    reason = Why.ABSENT
    for value in values:
        text, signature = _split(unfold(value))
        if text is None or signature is None:
            reason = Why.MALFORMED
            continue
        if not any(
            hmac.compare_digest(
                hmac.digest(key.report_secret().encode("ascii"), text.encode(), "sha256").hex(),
                signature,
            )
            for key in keys.keys
        ):
            reason = Why.UNKNOWN_KEY
            continue
        score = _parse(_pairs(text))
        if score is None:
            reason = Why.MALFORMED
        elif score.queue_id != queue_id:
            reason = Why.WRONG_QUEUE_ID
        elif abs(now - score.time) > REPORT_MAX_AGE_S:
            reason = Why.EXPIRED
        else:
            return score
    return NoScore(reason)


def sign(score: MilterScore, bound_to: Identity, sender: bytes, keys: KeyRing) -> str:
    """The value of ``X-Mailhooks-Score`` for this score and this message, on one line.

    Folding it at white space (RFC 5322, 2.2.3) does not harm it. The sender is
    in it as a digest, so that a delivery can tell "another sender" from
    "another message".

    Args:
        score: what Rspamd reported.
        bound_to: the message's identity.
        sender: MAIL FROM, see :func:`mailhooks.message.normal_address`.
        keys: the first one signs.
    """
    key = keys.signing
    text = "; ".join(
        (
            "v=1",
            f"k={key.key_id}",
            f"t={score.time}",
            f"q={score.queue_id}",
            f"s={score.score:.3f}",
            f"r={'nan' if score.required is None else format(score.required, '.3f')}",
            f"a={score.action}",
            f"p={_COURSE_CODES[score.course]}",
            f"f={_sender_digest(sender)}",
            "y=" + ", ".join(f"{name}:{points:.2f}" for name, points in score.symbols),
        )
    )
    mac = base64.urlsafe_b64encode(key.sign(_bound(text, bound_to))).rstrip(b"=")
    return f"{text}; b={mac.decode('ascii')}"


def verify(
    header: Header,
    sender: bytes | None,
    keys: KeyRing,
    *,
    now: float,
    max_age_s: float,
    received_depth: int,
) -> MilterScore | NoScore:
    """Believe a message's carried score, or say why not.

    Args:
        header: of the message at delivery.
        sender: MAIL FROM at delivery; None where the host itself rewrites
            senders (SRS, canonical maps), so that it proves nothing.
        keys: all that may have signed.
        now: seconds since the epoch.
        max_age_s: seconds after which a score is no longer believed.
        received_depth: how many of the topmost Received lines may hold the
            queue id; lines below were written by strangers.
    """
    values = header.values(SCORE_HEADER)
    if not values:
        return NoScore(Why.ABSENT)
    if len(values) > 1:
        return NoScore(Why.DUPLICATE)
    text, signature = _split(values[0])
    if text is None or signature is None:
        return NoScore(Why.MALFORMED)
    pairs = _pairs(text)
    score = _parse(pairs)
    if score is None:
        return NoScore(Why.MALFORMED)
    key = keys.find(pairs.get("k", ""))
    if key is None:
        return NoScore(Why.UNKNOWN_KEY)
    try:
        mac = base64.b64decode(signature + "=" * (-len(signature) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return NoScore(Why.MALFORMED)
    if not hmac.compare_digest(mac, key.sign(_bound(text, identity(header)))):
        return NoScore(Why.BAD_SIGNATURE)
    if score.queue_id not in received_ids(header, received_depth):
        return NoScore(Why.WRONG_QUEUE_ID)
    if sender is not None and pairs.get("f") != _sender_digest(sender):
        return NoScore(Why.WRONG_SENDER)
    if not -CLOCK_SKEW_S <= now - score.time <= max_age_s:
        return NoScore(Why.EXPIRED)
    return score


def received_ids(header: Header, depth: int) -> list[str]:
    """The ids in the topmost ``depth`` Received lines (RFC 5321, 4.4, clause ID), topmost first."""
    matches = (_RECEIVED_ID.search(value) for value in header.values("received", depth))
    return [match[1].decode("ascii", "replace") for match in matches if match]


def _sender_digest(sender: bytes) -> str:
    return hashlib.sha256(sender).hexdigest()[:16]


def _split(value: bytes) -> tuple[str | None, str | None]:
    """Everything before the signature, and the signature; of a value on one line."""
    if len(value) > MAX_FIELD_BYTES:
        return None, None
    try:
        line = value.decode("ascii")
    except UnicodeDecodeError:
        return None, None
    text, mark, signature = line.rpartition("; b=")
    return (text, signature) if mark else (None, None)


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in text.split(";"):
        name, _, value = part.strip().partition("=")
        # The first wins, and a signed text of ours holds none twice.
        pairs.setdefault(name, value.strip())
    return pairs


def _parse(pairs: dict[str, str]) -> MilterScore | None:
    if pairs.get("v") != "1":
        return None
    score = _points(pairs.get("s", ""))
    time = pairs.get("t", "")
    queue_id = pairs.get("q", "")
    course = _COURSES.get(pairs.get("p", ""))
    if course is None or score is None or not time.isdecimal() or len(time) > 12:  # noqa: PLR2004
        return None
    if not _QUEUE_ID.match(queue_id):
        return None
    symbols = _SYMBOL.findall(pairs.get("y", ""))[:MAX_SYMBOLS]
    return MilterScore(
        score=score,
        required=_points(pairs.get("r", "")),
        action=pairs.get("a", "")[:32],
        course=course,
        symbols=tuple([(name, float(points)) for name, points in symbols]),
        queue_id=queue_id,
        time=int(time),
    )


def _points(text: str) -> float | None:
    """A score Rspamd printed; it may print nan, inf or an absurd number."""
    try:
        points = float(text)
    except ValueError:
        return None
    return points if math.isfinite(points) and abs(points) <= MAX_POINTS else None


def _bound(text: str, bound_to: Identity) -> bytes:
    """The bytes that are signed: every part with its length, so none can run into the next."""
    parts = (
        b"mailhooks score",
        text.encode("ascii"),
        bound_to.message_id,
        bound_to.date,
        bound_to.from_,
    )
    return b"".join(b"%d:%s" % (len(part), part) for part in parts)
