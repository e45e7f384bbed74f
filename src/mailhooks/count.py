"""How many messages of each class Redis counts for a user: the proof of every lesson.

This one question is asked so often, and at the start of every command that
teaches, that it goes over a plain socket: importing a Redis library takes as
long as teaching fifty messages. All else is asked in `mailhooks.statistics`.

Redis' protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/ (RESP2).
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import parse_qs, unquote, urlsplit

from mailhooks.errors import StatisticsError
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.strand import readable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    _Wait = Callable[[socket.socket, float], Awaitable[None]]

TIMEOUT_S = 5.0
_FIELDS = {Lesson.SPAM: b"learns_spam", Lesson.HAM: b"learns_ham"}
_DEFAULT_PORT = 6379
_ANSWER_BYTES = 512  # and not 8 KB for each connection, of which there may be a dozen


class LearnCount:
    """Any thread may ask: each takes a connection that is idle, or opens one.

    Args:
        url: as in the settings.
        prefix: what every user's key begins with.
        shared_key: the key of the statistics that all users share.
        timeout_s: seconds one answer may take.
    """

    def __init__(
        self, url: str, prefix: str, shared_key: str = "", *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._url = url
        self._prefix = prefix
        self._shared_key = shared_key
        self._timeout_s = timeout_s
        self._idle: list[tuple[socket.socket, BinaryIO]] = []

    def __call__(self, user: str) -> Mapping[Lesson, int]:
        """Both classes; zeros for a user who is not known. Blocks.

        Raises:
            StatisticsError: Redis cannot be asked.
        """
        try:
            self._told(user, _block).send(None)
        except StopIteration as end:
            counts: Mapping[Lesson, int] = end.value
            return counts
        raise AssertionError("what blocks does not wait")

    async def told(self, user: str) -> Mapping[Lesson, int]:
        """The same as a strand (:mod:`mailhooks.strand`): others go on until Redis answers."""
        return await self._told(user, readable)

    async def _told(self, user: str, wait: _Wait) -> Mapping[Lesson, int]:
        key = (self._shared_key if user == SHARED_USER else self._prefix + user).encode()
        try:
            return _counts(await self._asked((b"HMGET", key, *_FIELDS.values()), wait))
        except (OSError, ValueError) as error:
            # A URL may hold a password.
            shown = re.sub(r"//[^/@]*@", "//", self._url)
            text = "timed out" if isinstance(error, TimeoutError) else str(error)
            reason = " ".join(text.split()) or type(error).__name__
            raise StatisticsError(f"Redis at {shown}: {reason}") from error

    def __del__(self) -> None:
        """Let go of idle connections."""
        while self._idle:
            _close(*self._idle.pop())

    async def _asked(
        self, command: tuple[bytes, ...], wait: _Wait
    ) -> bytes | list[bytes | None] | None:
        with suppress(IndexError):
            connection, answers = self._idle.pop()
            with suppress(ConnectionError):  # Redis was started anew, or closes what is idle
                return await self._answer(connection, answers, [command], wait)
        connection = _connected(self._url, self._timeout_s)
        commands = [*_greeting(self._url), command]
        answers = cast("BinaryIO", connection.makefile("rb", _ANSWER_BYTES))
        return await self._answer(connection, answers, commands, wait)

    async def _answer(
        self,
        connection: socket.socket,
        answers: BinaryIO,
        commands: list[tuple[bytes, ...]],
        wait: _Wait,
    ) -> bytes | list[bytes | None] | None:
        """What is answered to the last command; the connection is idle then, or closed."""
        try:
            connection.sendall(b"".join(_encoded(*command) for command in commands))
            # What is this short comes whole.
            await wait(connection, time.monotonic() + self._timeout_s)
            for _ in commands[:-1]:
                _read(answers)
            found = _read(answers)
        except BaseException:
            _close(connection, answers)
            raise
        self._idle.append((connection, answers))
        return found


async def _block(_connection: socket.socket, _deadline_s: float) -> None:
    """Leave the waiting to the read that follows."""


def _close(connection: socket.socket, answers: BinaryIO) -> None:
    answers.close()
    connection.close()


def _counts(answer: bytes | list[bytes | None] | None) -> dict[Lesson, int]:
    """Raises ValueError if the answer is none to the question."""
    if not isinstance(answer, list):
        raise ValueError(f"answered {answer!r}")  # noqa: TRY004 - what Redis sent, not our type
    return dict(zip(_FIELDS, (int(count or 0) for count in answer), strict=True))


def _connected(url: str, timeout_s: float) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout_s)
            connection.connect(unquote(parts.path))
        except BaseException:
            connection.close()
            raise
        return connection
    host = parts.hostname or "localhost"
    connection = socket.create_connection((host, parts.port or _DEFAULT_PORT), timeout_s)
    if parts.scheme == "rediss":
        try:
            return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
        except BaseException:
            connection.close()
            raise
    return connection


def _greeting(url: str) -> list[tuple[bytes, ...]]:
    """Log in and choose the database, as far as the URL asks for it."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    password = unquote(parts.password or "") or query.get("password", [""])[0]
    user = unquote(parts.username or "") or query.get("username", [""])[0]
    commands: list[tuple[bytes, ...]] = []
    if password:
        commands.append((b"AUTH", *(part.encode() for part in (user, password) if part)))
    database = query.get("db", [parts.path.strip("/") if parts.scheme != "unix" else ""])[0]
    if database.isdecimal() and int(database):
        commands.append((b"SELECT", database.encode()))
    return commands


def _encoded(*words: bytes) -> bytes:
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n%s" % (len(words), b"".join(parts))


def _read(answers: BinaryIO) -> bytes | list[bytes | None] | None:
    """One answer: a line, a string or a list of strings.

    Raises:
        ValueError: Redis reports an error, or this is not Redis.
        OSError: the connection broke.
    """
    line = answers.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("closed the connection")
    kind, text = line[:1], line[1:-2]
    if kind == b"$":
        size = int(text)
        if size < 0:
            return None
        if len(content := answers.read(size + 2)) < size + 2:
            raise ConnectionError("closed the connection")
        return content[:size]
    if kind == b"*":
        found: list[bytes | None] = []
        for _ in range(int(text)):
            item = _read(answers)
            found.append(item if isinstance(item, bytes) else None)
        return found
    if kind not in {b"+", b":"}:
        with suppress(UnicodeDecodeError):
            raise ValueError(text.decode())
        raise ValueError("answered no Redis protocol")
    return text
