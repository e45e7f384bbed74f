r"""Dovecot's script protocol, version 4, as bytes in and values out.

One connection carries one call. Dovecot sends::

    VERSION\tscript\t4\t0\n
    env_NAME=value\n            any number, tab-escaped
    -\n                         or noreply\n
    argument\n                  any number, tab-escaped
    \n
    the message, then it shuts down its writing side

and reads the program's output followed by ``+\n`` (success) or ``-\n``
(failure) until end of file. Tab-escaping writes NUL, 0x01, TAB, CR and LF as
0x01 followed by ``0``, ``1``, ``t``, ``r`` and ``n``.

An empty argument cannot be told from the end of the header, neither here nor
in Dovecot's own reader: what follows it would become part of the message.
``encode_request`` refuses it; a Sieve script must never pass one.

See ``src/lib-program-client/program-client-remote.c`` and ``src/util/script.c``
in Dovecot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mailhooks.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_MAJOR: Final = 4
_MINOR: Final = 0
_VERSION: Final = re.compile(rb"VERSION\tscript\t([0-9]{1,9})\t[0-9]{1,9}")
_QUOTED_BYTES: Final = 40

# What Dovecot writes: no raw control byte that it escapes, no other escape.
_ESCAPED_LINE: Final = re.compile(rb"(?:[^\x00\x01\t\r\n]|\x01[01trn])*")
# A whole header of such lines, with nothing escaped in it.
_PLAIN_HEADER: Final = re.compile(
    rb"VERSION\tscript\t%d\t[0-9]{1,9}\n"
    % _MAJOR
    + rb"((?:env_[^=\x00\x01\t\r\n]+=[^\x00\x01\t\r\n]*\n)*)"
    rb"(-|noreply)\n((?:[^\x00\x01\t\r\n]+\n)*)\n"
)
_ESCAPED: Final = re.compile(rb"\x01.")
_ESCAPE: Final = {
    b"\x00": b"\x010",
    b"\x01": b"\x011",
    b"\t": b"\x01t",
    b"\r": b"\x01r",
    b"\n": b"\x01n",
}
_UNESCAPE: Final = {escaped: raw for raw, escaped in _ESCAPE.items()}


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """How much header a peer may send.

    Attributes:
        header_bytes: the whole header with its line ends.
        line_bytes: one line without its line end, still escaped.
        env_count: number of ``env_`` lines.
        arg_count: number of arguments.
    """

    header_bytes: int = 64 * 1024
    line_bytes: int = 16 * 1024
    env_count: int = 64
    arg_count: int = 64


@dataclass(frozen=True, slots=True)
class ScriptRequest:
    """What the header of a call says.

    Bytes that are not UTF-8 arrive as surrogates (PEP 383), so that
    ``os.fsencode`` gives the same bytes back.

    Attributes:
        args: the program's arguments, without the program's own name, which
            is the name of the socket and not part of the protocol.
        env: environment variables by name.
        wants_reply: False after ``noreply``: nobody reads an answer.
    """

    args: tuple[str, ...]
    env: Mapping[str, str]
    wants_reply: bool


class ScriptParser:
    """Reads a header piece by piece; does no I/O and keeps no message bytes.

    It never holds more than ``limits.header_bytes`` and the piece just fed.

    Attributes:
        request: None until the header is complete.
    """

    def __init__(self, limits: HeaderLimits | None = None) -> None:
        self.request: ScriptRequest | None = None
        self._limits = limits or HeaderLimits()
        self._pending = bytearray()  # of the line that is not complete yet
        self._searched = 0  # leading bytes of _pending known to hold no line end
        self._header_bytes = 0
        self._line_number = 1
        # No bound method, which would hold the parser and be held by it.
        self._next: Callable[[ScriptParser, bytes], None] = ScriptParser._version_line
        self._env: dict[str, str] = {}
        self._args: list[str] = []
        self._wants_reply = True
        self._error: ProtocolError | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes from the peer.

        Args:
            data: any number of bytes, cut anywhere.

        Returns:
            The message bytes in ``data``: empty until the header is complete,
            all of ``data`` afterwards.

        Raises:
            ProtocolError: the header is wrong or too large. The parser stays
                broken: every later call raises the same error.
        """
        if self._error is not None:
            raise self._error
        if self.request is not None:
            return data
        try:
            return self._header(data)
        except ProtocolError as error:
            self._error = error
            self._pending.clear()
            raise

    def close(self) -> ScriptRequest:
        """Tell the parser that the peer has sent everything.

        Returns:
            The request.

        Raises:
            ProtocolError: the header was wrong or is not complete.
        """
        if self._error is not None:
            raise self._error
        if self.request is None:
            self._error = self._wrong("the rest of the header, got end of input")
            raise self._error
        return self.request

    def _header(self, data: bytes) -> bytes:
        if self._line_number == 1 and not self._pending and (end := self._whole(data)):
            return data[end:]
        self._pending += data
        start = 0
        while (end := self._pending.find(b"\n", max(start, self._searched))) >= 0:
            self._check_size(end - start, self._header_bytes + end - start + 1)
            self._next(self, bytes(self._pending[start:end]))
            self._header_bytes += end - start + 1
            self._line_number += 1
            start = end + 1
            if self.request is not None:
                message = bytes(self._pending[start:])
                self._pending.clear()
                return message
        del self._pending[:start]
        self._searched = len(self._pending)
        self._check_size(self._searched, self._header_bytes + self._searched)
        return b""

    def _whole(self, data: bytes) -> int:
        """Read a header that came in one piece, plain and sound; how long it is, or 0."""
        found = _PLAIN_HEADER.match(data, 0, self._limits.header_bytes)
        if found is None:
            return 0
        env, args = (
            found[part].decode("utf-8", "surrogateescape").split("\n")[:-1] for part in (1, 3)
        )
        # A character has four bytes at most.
        longest = max(map(len, (*env, *args)), default=0)
        pairs = dict([line[len("env_") :].split("=", 1) for line in env])
        is_sound = (
            longest * 4 <= self._limits.line_bytes
            and len(env) == len(pairs) <= self._limits.env_count
            and len(args) <= self._limits.arg_count
        )
        if not is_sound:
            return 0
        self.request = ScriptRequest(tuple(args), MappingProxyType(pairs), found[2] == b"-")
        return found.end()

    def _check_size(self, line_bytes: int, header_bytes: int) -> None:
        if line_bytes > self._limits.line_bytes:
            raise self._wrong(f"a line of at most {self._limits.line_bytes} bytes")
        if header_bytes > self._limits.header_bytes:
            raise self._wrong(f"the header to end within {self._limits.header_bytes} bytes")

    def _version_line(self, line: bytes) -> None:
        match = _VERSION.fullmatch(line)
        if match is None or int(match[1]) != _MAJOR:
            # The only line that is quoted: all others may name a user.
            quoted = line[:_QUOTED_BYTES]
            raise self._wrong(f"VERSION<TAB>script<TAB>{_MAJOR}<TAB>minor, got {quoted!r}")
        self._next = ScriptParser._env_or_options_line

    def _env_or_options_line(self, line: bytes) -> None:
        if line in {b"-", b"noreply"}:
            self._wants_reply = line == b"-"
            self._next = ScriptParser._argument_line
            return
        if not line.startswith(b"env_"):
            raise self._wrong("env_NAME=value, '-' or 'noreply'")
        name, equals, value = self._text(line[len(b"env_") :]).partition("=")
        if not name or not equals:
            raise self._wrong("env_NAME=value with a name and '='")
        if name in self._env:
            # Dovecot sets each once. Two USERs would be two identities.
            raise self._wrong("each environment variable once")
        if len(self._env) == self._limits.env_count:
            raise self._wrong(f"at most {self._limits.env_count} environment variables")
        self._env[name] = value

    def _argument_line(self, line: bytes) -> None:
        if not line:
            self.request = ScriptRequest(
                tuple(self._args), MappingProxyType(self._env), self._wants_reply
            )
            return
        if len(self._args) == self._limits.arg_count:
            raise self._wrong(f"at most {self._limits.arg_count} arguments")
        self._args.append(self._text(line))

    def _text(self, line: bytes) -> str:
        if _ESCAPED_LINE.fullmatch(line) is None:
            raise self._wrong("a tab-escaped line (0x01 followed by one of 0 1 t r n)")
        if b"\x01" in line:
            line = _ESCAPED.sub(lambda escaped: _UNESCAPE[escaped[0]], line)
        return line.decode("utf-8", "surrogateescape")

    def _wrong(self, expected: str) -> ProtocolError:
        return ProtocolError(f"script header line {self._line_number}: expected {expected}")


def encode_request(
    args: Sequence[str] = (), env: Mapping[str, str] | None = None, *, wants_reply: bool = True
) -> bytes:
    """Write the header that Dovecot would send; the message follows it.

    Args:
        args: arguments, none of them empty.
        env: environment variables; a name is not empty and holds no ``=``.
        wants_reply: False writes ``noreply``.

    Returns:
        The header with its closing empty line.

    Raises:
        ValueError: the protocol cannot carry an argument or a name.
    """
    lines = [b"VERSION\tscript\t%d\t%d" % (_MAJOR, _MINOR)]
    for name, value in (env or {}).items():
        if not name or "=" in name:
            raise ValueError(f"not a name of an environment variable: {name!r}")
        lines.append(b"env_" + _escape(f"{name}={value}"))
    lines.append(b"-" if wants_reply else b"noreply")
    if not all(args):
        raise ValueError("an empty argument would end the header")
    lines += map(_escape, args)
    return b"\n".join([*lines, b"", b""])


def _escape(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return re.sub(rb"[\x00\x01\t\r\n]", lambda byte: _ESCAPE[byte[0]], raw)


def encode_reply(output: bytes, *, ok: bool) -> bytes:
    """Write the answer Dovecot reads until end of file.

    Args:
        output: what the program would have printed; may be empty and need not
            end in a line end.
        ok: the verdict.

    Returns:
        The output and the verdict.
    """
    return output + (b"+\n" if ok else b"-\n")


def decode_reply(data: bytes) -> tuple[bytes, bool]:
    """Read a whole answer.

    Args:
        data: all bytes up to end of file.

    Returns:
        The output and whether the program succeeded.

    Raises:
        ProtocolError: the answer does not end in a verdict.
    """
    output, verdict = data[:-2], data[-2:]
    if verdict not in {b"+\n", b"-\n"}:
        raise ProtocolError(
            f"reply of {len(data)} bytes: expected it to end in '+' or '-' and a line end"
        )
    return output, verdict == b"+\n"
