"""A message's header read without touching a byte of the message.

mailhooks never parses and writes mail again: it reads header fields of the
raw message, and everything after the first empty line is opaque.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import lru_cache

MAX_HEADER_BYTES = 64 * 1024 * 1024
"""Header bytes looked at: more than any mail server takes, so that nothing hides behind them."""

IDENTITY_FIELDS = ("message-id", "date", "from")
"""What a carried score is bound to."""

_WHITESPACE = b" \t\r\n"
_TO_SPACES = bytes.maketrans(b"\t\r\n", b"   ")
# Neither a fold nor a field: a line whose colon is missing or far away.
_NO_FIELD = re.compile(rb"\n(?![ \t])(?:[^:\r\n]+\r?(?=\n|\Z)|[^:\n]{990})")
# After line ends are made equal; each with its folds.
_FIELD = re.compile(rb"\n([^: \t\n][^:\n]*):([^\n]*(?:\n[ \t][^\n]*)*)")
DIGESTED_FIELDS = (*IDENTITY_FIELDS, "subject")
"""Header fields that :func:`content_digest` covers."""


@lru_cache(maxsize=8)
def _only(names: tuple[str, ...]) -> re.Pattern[bytes]:
    """Some fields, each with its folds; where a line ends in CRLF, unfold() takes the CR away."""
    words = "|".join(map(re.escape, names)).encode("ascii")
    return re.compile(rb"\n(" + words + rb")[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Header:
    """The header block of a message.

    Attributes:
        fields: (name in lower case, value as it stands, folds included), in order.
        size_bytes: length of the block, the empty line not included.
        names: of the fields that were read, in lower case; empty if all were.
    """

    fields: tuple[tuple[bytes, bytes], ...]
    size_bytes: int
    names: tuple[str, ...] = ()
    # A delivery asks for a dozen names, for some of them three times.
    _raw: dict[bytes, list[bytes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _asked: dict[tuple[str, int | None], list[bytes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def values(self, name: str, most: int | None = None) -> list[bytes]:
        """All values of a field, or the ``most`` topmost, topmost first, :func:`unfold`-ed.

        Args:
            name: of the field.
            most: how many.

        Raises:
            ValueError: the field was not read.
        """
        if (values := self._asked.get((name, most))) is None:
            if self.names and name.lower() not in self.names:
                raise ValueError(f"not read: {name}")
            if not self._raw:
                for each, value in self.fields:
                    self._raw.setdefault(each, []).append(value)
            found = self._raw.get(name.lower().encode("ascii"), ())
            values = self._asked[name, most] = [unfold(value) for value in found[:most]]
        return values


def read_header(message: bytes, *names: str) -> Header:
    """Read the header block of a raw message with CRLF or LF line ends.

    Never fails: a line that is no header field is skipped, as mail servers do
    with a leading mbox ``From `` line.

    Args:
        message: the header block, and whatever follows it.
        names: of the fields to read, in lower case, at half the price; without any, all are read.
    """
    block = message[: _header_bytes(message)]
    if names:
        some = _only(names).findall(b"\n" + block)
        return Header(tuple([(name.lower(), value) for name, value in some]), len(block), names)
    found = _FIELD.findall(b"\n" + block.replace(b"\r\n", b"\n"))
    fields = tuple([(name.rstrip(b" \t").lower(), value) for name, value in found])
    return Header(fields, len(block))


def _header_bytes(message: bytes) -> int:
    """Where the empty line begins, after either kind of line end; by find(), not a pattern."""
    if message.startswith((b"\n", b"\r\n")):
        return 0
    crlf = message.find(b"\n\r\n", 0, MAX_HEADER_BYTES)
    lf = message.find(b"\n\n", 0, MAX_HEADER_BYTES if crlf < 0 else crlf)
    if lf >= 0:
        return lf
    return crlf if crlf >= 0 else min(len(message), MAX_HEADER_BYTES)


def unfold(value: bytes) -> bytes:
    """A field's value on one line, runs of white space as one space (RFC 6376, 3.4.2).

    Two programs that fold or pad a value differently still agree on the result.
    """
    # Half of what a pattern takes; a delivery unfolds a dozen values.
    return b" ".join([part for part in value.translate(_TO_SPACES).split(b" ") if part]).strip()


@dataclass(frozen=True, slots=True)
class Identity:
    """What a carried score is bound to, as bytes without any white space.

    Without, since Postfix breaks lines of more than 998 bytes on their way to
    LMTP (lmtp_line_length_limit), and puts a space where there was none.

    Attributes:
        message_id: every Message-ID value, joined by newlines.
        date: likewise Date.
        from_: likewise From.
    """

    message_id: bytes
    date: bytes
    from_: bytes


def identity(header: Header) -> Identity:
    """The identity of a message with this header."""

    def bound(name: str) -> bytes:
        return b"\n".join([value.translate(None, _WHITESPACE) for value in header.values(name)])

    return Identity(*map(bound, IDENTITY_FIELDS))


def normal_address(address: str) -> bytes:
    """An envelope address as servers on its way agree on it.

    Without angle brackets, in lower case altogether: Postfix's macro
    ``{mail_addr}`` comes so, with quoting and source route resolved.
    """
    bare = address.strip()
    if bare.startswith("<") and bare.endswith(">"):
        bare = bare[1:-1]
    return bare.lower().encode("utf-8", "surrogateescape")


def without_fields(message: bytes, prefixes: tuple[bytes, ...]) -> bytes:
    """The message without header fields of certain names; every other byte stays.

    Args:
        message: with CRLF or LF line ends.
        prefixes: how such names begin, in lower case.
    """
    end = read_header(message).size_bytes
    kept: list[bytes] = []
    dropping = False
    for line in message[:end].splitlines(keepends=True):
        if line[:1] not in (b" ", b"\t"):
            dropping = line.lower().startswith(prefixes)
        if not dropping:
            kept.append(line)
    return b"".join(kept) + message[end:]


def is_editable(message: bytes) -> bool:
    """Whether Sieve may add and remove header fields of this message.

    Pigeonhole before 0.5.21 aborts the delivery (``i_assert`` in
    ``edit_mail_headers_parse``, ``src/lib-sieve/util/edit-mail.c``) over a line
    that Dovecot takes for no field: one without a colon, or with none in its
    first thousand bytes. Postfix makes such a line out of a field whose name is
    longer than ``lmtp_line_length_limit``.

    Args:
        message: with CRLF or LF line ends.
    """
    return _NO_FIELD.search(b"\n" + message[: _header_bytes(message)]) is None


def content_digest(message: bytes, header: Header | None = None) -> str:
    """A digest that stays the same while servers add header fields around a message.

    Covers Message-ID, Date, From, Subject and the body with its line ends made
    equal; nothing that a delivery adds or removes.

    Args:
        message: with CRLF or LF line ends.
        header: the message's, if it has been read already.

    Returns:
        64 hexadecimal digits.
    """
    if header is None:
        header = read_header(message, *DIGESTED_FIELDS)
    parts = [
        b"%s:%s\n" % (name.encode("ascii"), value)
        for name in DIGESTED_FIELDS
        for value in header.values(name)
    ]
    body = message[header.size_bytes :].replace(b"\r\n", b"\n").strip(b"\n")
    return hashlib.sha256(b"".join((*parts, b"\n", body))).hexdigest()
