"""The connection to the LMTP server that stores mail: one transaction a recipient (RFC 2033)."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from mailhooks.errors import NextHopError
from mailhooks.lmtp import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

_LINE_BYTES: Final = 8192
_MAX_LINES: Final = 100
_PIECE_BYTES: Final = 256 * 1024
_REPLY: Final = re.compile(rb"([2345]\d\d)(?:([ -])(.*))?\r?\n\Z", re.DOTALL)
_ENHANCED: Final = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |\Z)")
_SERVICE_CLOSES: Final = 421
_SEND_CONTENT: Final = 354


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server says to one command.

    Attributes:
        code: its three digits.
        enhanced: the enhanced status code (RFC 3463), class 0 of its kind if it gave none.
        text: the rest of its last line, for a log.
    """

    code: int
    enhanced: str
    text: str

    @property
    def is_ok(self) -> bool:
        """Whether the server did it."""
        return self.code // 100 == 2  # noqa: PLR2004 - RFC 5321, 4.2.1


@dataclass(frozen=True, slots=True)
class Mail:
    """A sender, as MAIL gives it.

    Attributes:
        path: in angle brackets.
        body: ``7BIT``, ``8BITMIME``, or None if the client did not say.
        utf8: whether the message needs SMTPUTF8.
        size_bytes: as announced, None if it was not.
    """

    path: str
    body: str | None = None
    utf8: bool = False
    size_bytes: int | None = None


class NextHop:
    """An open connection, greeted; made by :meth:`connect`.

    Every method that speaks raises :class:`~mailhooks.errors.NextHopError` when
    the server is silent, goes away or speaks something else, and the connection
    is of no use any more.

    Attributes:
        offers: LHLO keywords in upper case, and their arguments.
        is_open: False once the server has gone or is of no use.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_s = timeout_s
        self._in_transaction = False
        self.is_open = True
        self.offers: Mapping[str, str] = {}

    @classmethod
    async def connect(cls, where: Path | tuple[str, int], name: str, timeout_s: float) -> Self:
        """Connect and greet.

        Args:
            where: a socket's path, or host and port.
            name: this host's, for LHLO.
            timeout_s: for each answer, in seconds.

        Raises:
            NextHopError: nobody listens, or it is no LMTP server, or it does not want us.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if isinstance(where, Path):
                    streams = await asyncio.open_unix_connection(where, limit=_LINE_BYTES)
                else:
                    streams = await asyncio.open_connection(*where, limit=_LINE_BYTES)
        except TimeoutError as error:
            raise NextHopError("no connection in time", "4.4.1", is_silent=True) from error
        except OSError as error:
            raise NextHopError(f"no connection: {error.strerror or error}", "4.4.1") from error
        hop = cls(*streams, timeout_s)
        try:
            await hop._greet(name)
        except BaseException:
            hop.close()
            raise
        return hop

    def close(self) -> None:
        """Drop the connection at once; a transaction that was open is void."""
        self.is_open = False
        self._writer.transport.abort()

    async def mail(self, mail: Mail) -> Reply:
        """Begin a transaction; one that was open is given up."""
        await self.reset()
        line = f"MAIL FROM:{mail.path}"
        if mail.body and "8BITMIME" in self.offers:
            line += f" BODY={mail.body}"
        if mail.utf8:
            line += " SMTPUTF8"
        if mail.size_bytes is not None and "SIZE" in self.offers:
            line += f" SIZE={mail.size_bytes}"
        reply = await self._command(line)
        self._in_transaction = reply.is_ok
        return reply

    async def rcpt(self, path: str) -> Reply:
        """Name a recipient."""
        return await self._command(f"RCPT TO:{path}")

    async def reset(self) -> None:
        """Give up the transaction, if there is one."""
        if self._in_transaction:
            reply = await self._command("RSET")
            if not reply.is_ok:
                raise self._lost(f"RSET was answered {reply.code}")
            self._in_transaction = False

    async def deliver(self, mail: Mail, path: str, message: bytes) -> Reply:
        """One whole transaction with one recipient.

        Args:
            mail: the sender; the size is the message's own.
            path: the recipient.
            message: with CRLF line ends.

        Returns:
            The server's word on this copy: the first refusal, or its reply to the content.
        """
        content = wire.encode(message)
        size_bytes = len(content) - len(wire.END)
        reply = await self.mail(Mail(mail.path, mail.body, mail.utf8, size_bytes))
        if reply.is_ok:
            reply = await self.rcpt(path)
        if not reply.is_ok:
            return reply
        reply = await self._command("DATA")
        if reply.code != _SEND_CONTENT:
            if reply.is_ok:
                raise self._lost(f"DATA was answered {reply.code}")
            return reply
        view = memoryview(content)
        for start in range(0, len(content), _PIECE_BYTES):
            await self._send(view[start : start + _PIECE_BYTES])
        reply = await self._reply()
        self._in_transaction = False
        return reply

    async def _greet(self, name: str) -> None:
        greeting = await self._reply()
        if not greeting.is_ok:
            raise self._lost(f"greeted with {greeting.code} {greeting.text}", "4.3.2")
        await self._send(f"LHLO {name}\r\n".encode())
        lines = await self._lines()
        if lines[0][0] // 100 != 2:  # noqa: PLR2004
            raise self._lost(f"LHLO was answered {lines[-1][0]} {lines[-1][1]}", "4.3.2")
        words = [text.partition(" ") for _, text in lines[1:]]
        self.offers = {keyword.upper(): value for keyword, _, value in words}

    async def _command(self, line: str) -> Reply:
        await self._send(f"{line}\r\n".encode("utf-8", "surrogateescape"))
        return await self._reply()

    async def _send(self, data: bytes | memoryview) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError as error:
            raise self._lost("takes nothing any more", is_silent=True) from error
        except OSError as error:
            raise self._lost(f"went away: {error.strerror or error}") from error

    async def _reply(self) -> Reply:
        code, text = (await self._lines())[-1]
        if code == _SERVICE_CLOSES:
            raise self._lost(f"closes: {text}", "4.3.2")
        match = _ENHANCED.match(text)
        if match and match[1][0] == str(code)[0]:
            return Reply(code, match[1], text[match.end() :])
        return Reply(code, f"{code // 100}.0.0", text)

    async def _lines(self) -> list[tuple[int, str]]:
        """The lines of one reply: code and text."""
        lines: list[tuple[int, str]] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                while len(lines) < _MAX_LINES:
                    line = await self._reader.readline()
                    match = _REPLY.match(line)
                    if not match:
                        what = "went away" if not line.endswith(b"\n") else "speaks no LMTP"
                        raise self._lost(what)
                    text = (match[3] or b"").decode("utf-8", "replace")
                    lines.append((int(match[1]), "".join(c for c in text if c.isprintable())))
                    if match[2] != b"-":
                        return lines
        except TimeoutError as error:
            raise self._lost("is silent", is_silent=True) from error
        except ValueError as error:  # readline's word for a line beyond the limit
            raise self._lost("speaks no LMTP") from error
        except OSError as error:
            raise self._lost(f"went away: {error.strerror or error}") from error
        raise self._lost("speaks no LMTP")

    def _lost(self, why: str, enhanced: str = "4.4.2", *, is_silent: bool = False) -> NextHopError:
        self.close()
        return NextHopError(why, enhanced, is_silent=is_silent)
