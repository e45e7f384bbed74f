"""A next hop for tests: an LMTP server that keeps every byte, and says what it is told."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Stored:
    """One transaction that reached its final dot."""

    mail: str
    rcpt: str
    content: bytes  # as on the wire, dots doubled, without the lone dot


@dataclass
class Store:
    """Strict: only CRLF ends a line, and one recipient is all a transaction may have.

    Attributes:
        offers: LHLO keywords.
        answers: by command line, or ``. <path>`` for the content, or ``connect``; upper
            and lower case are the same. An empty answer closes the connection, None says
            nothing any more.
    """

    path: Path
    offers: tuple[str, ...] = ("PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "SIZE 0")
    answers: dict[str, str | None] = field(default_factory=dict)
    stored: list[Stored] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=1 << 27)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def disconnect(self) -> None:
        """Close every connection, as a restart does; the next one is served."""
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._converse(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str, default: str) -> bool:
            self.commands.append(line)
            answers = {key.upper(): answer for key, answer in self.answers.items()}
            text = answers.get(line.upper(), default)
            if text is None:
                await asyncio.sleep(3600)
            writer.write(f"{text}\r\n".encode() if text else b"")
            await writer.drain()
            if not text:
                raise ConnectionError
            return text[0] in "23"

        await say("connect", "220 store LMTP")
        mail = rcpt = ""
        while True:
            line = (await reader.readuntil(b"\r\n"))[:-2].decode("utf-8", "surrogateescape")
            verb = line.split(" ")[0].upper()
            if verb == "LHLO":
                await say(
                    line, "\r\n".join(["250-store", *(f"250-{o}" for o in self.offers), "250 X"])
                )
            elif verb == "MAIL":
                assert not mail, "nested MAIL"
                mail = line if await say(line, "250 2.1.0 OK") else ""
            elif verb == "RCPT":
                assert mail, "RCPT before MAIL"
                if await say(line, "250 2.1.5 OK"):
                    rcpt = line
            elif verb == "DATA":
                assert rcpt, "DATA before RCPT"
                if await say(line, "354 go on"):
                    content = await self._content(reader)
                    self.stored.append(Stored(mail, rcpt, content))
                    path = re.findall("<.*>", rcpt)[0]
                    if not await say(f". {path}", f"250 2.0.0 {path} Saved"):
                        self.stored.pop()
                mail = rcpt = ""
            elif verb == "RSET":
                mail = rcpt = ""
                await say(line, "250 2.0.0 OK")
            else:
                await say(line, "500 5.5.2 what?")

    async def _content(self, reader: asyncio.StreamReader) -> bytes:
        content = b""
        while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
            content += line
        return content
