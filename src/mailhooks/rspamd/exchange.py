"""One request to Rspamd on a connection of its own, and the answer as it stands.

Rspamd closes the connection after every answer, whatever a client asks for: a
library's pool of connections would have nothing to keep, and costs a delivery
more than all the rest of it.

A learn is answered in two ways that break HTTP, so that HTTP libraries drop or
refuse the answer: a refusal is a 204 with a body (against RFC 9110, 15.3.5),
and a learn that failed at Redis has hiredis' error number for a code:
``HTTP/1.1 1 cannot get ...``.
"""

from __future__ import annotations

import errno
import math
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from mailhooks.errors import RspamdUnavailable
from mailhooks.strand import afterwards, readable, result, writable

if TYPE_CHECKING:
    from collections.abc import Iterable

# The reason phrase of a refused learn repeats the Message-ID, however long, and
# the answer to a scan every address and URL in the message.
_MOST_ANSWER_BYTES = 64 << 20
_AT_ONCE_BYTES = 1 << 13
_DEFAULT_PORT = 80
_TCP = socket.SOCK_STREAM
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{1,3})(?: ([^\r\n]*))?\r\n")
# Of a head in lower case.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n")
_CODED = (b"\r\ntransfer-encoding:", b"\r\ncontent-encoding:")


class Answer(NamedTuple):
    """Status code, reason phrase and body."""

    status: int
    reason: str
    body: bytes


async def ask(
    url: str,
    path: str,
    headers: Iterable[tuple[str, str]],
    body: bytes | None = None,
    deadline_s: float = math.inf,
) -> Answer:
    """Post a message to a path, or get what is there, and read the answer. A strand.

    Args:
        url: ``http://host:port``, perhaps with a path before ``path``, or ``unix:/path``.
        path: what is asked for.
        headers: sent as they are, so they must hold no line ends.
        body: the message; None for a GET.
        deadline_s: by ``time.monotonic``.

    Raises:
        TimeoutError: the deadline passed.
        OSError: there is no connection, or it broke.
        RspamdUnavailable: what came is no answer.
    """
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if body is not None:
        fields += f"Content-Length: {len(body)}\r\n"
    method = "GET" if body is None else "POST"
    head = f"{method} {_target(url, path)}{fields}\r\n".encode()
    connection = await _sent(url, (head, body or b""), deadline_s)
    try:
        return await _answer(connection, deadline_s)
    finally:
        afterwards(connection.close)


@lru_cache(maxsize=32)
def _target(url: str, path: str) -> str:
    """What follows the method in every request there."""
    parts = urlsplit("http://localhost" if url.startswith("unix:") else url)
    fields = ("Host: " + parts.netloc, "Connection: close", "Accept-Encoding: identity", "")
    return f"{parts.path}{path} HTTP/1.1\r\n" + "\r\n".join(fields)


def parse_answer(received: bytes | bytearray, *, ended: bool) -> Answer | None:
    """The answer, or None as long as it is not whole. Pure.

    Args:
        received: what has come so far.
        ended: nothing more will come.

    Raises:
        RspamdUnavailable: it is none that Rspamd would give.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, body = bytes(received[: end + 2]), bytes(received[end + 4 :])
    status = _STATUS_LINE.match(head)
    lower = head.lower()
    if status is None or any(name in lower for name in _CODED):
        raise RspamdUnavailable("did not answer like Rspamd")
    answer = Answer(int(status[1]), (status[2] or b"").decode(errors="replace"), body)
    length = _LENGTH.search(lower)
    if length is None:
        return answer if ended else None
    if len(body) < int(length[1]):
        return None
    return answer._replace(body=body[: int(length[1])])


async def _answer(connection: socket.socket, deadline_s: float) -> Answer:
    received = bytearray()
    await readable(connection, deadline_s)
    while True:
        try:
            chunk = connection.recv(_AT_ONCE_BYTES)
        except (BlockingIOError, InterruptedError):
            # What has come in time counts, and nothing is waited for behind the deadline.
            if time.monotonic() >= deadline_s:
                raise TimeoutError from None
            await readable(connection, deadline_s)
            continue
        received += chunk
        if (answer := parse_answer(received, ended=not chunk)) is not None:
            return answer
        if not chunk:
            raise RspamdUnavailable("closed the connection before the end of its answer")
        if len(received) > _MOST_ANSWER_BYTES:
            raise RspamdUnavailable("answered without end")


Address = tuple[int, object]
"""Family and address, as sockets take them."""


@lru_cache(maxsize=16)
def _known_address(url: str) -> Address | None:
    """Where a URL leads, if that needs no lookup."""
    if url.startswith("unix:"):
        return socket.AF_UNIX, url.removeprefix("unix:")
    try:
        found = socket.getaddrinfo(*_name(url), type=_TCP, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return None
    family, _, _, _, address = found[0]
    return family, address


def _name(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or _DEFAULT_PORT


@lru_cache(maxsize=1)
def _resolver() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "resolver")


Request = tuple[bytes, bytes]
"""Head and body."""


async def _sent(url: str, request: Request, deadline_s: float) -> socket.socket:
    """A connection over which the request has gone, to the first address that takes it."""
    known = _known_address(url)
    if known is not None:
        return await _sent_to(*known, request, deadline_s)
    asked = _resolver().submit(partial(socket.getaddrinfo, *_name(url), type=_TCP))
    *others, last = await result(asked, deadline_s)
    for family, _, _, _, address in others:
        with suppress(OSError):
            return await _sent_to(family, address, request, deadline_s)
    return await _sent_to(last[0], last[4], request, deadline_s)


async def _sent_to(
    family: int, address: object, request: Request, deadline_s: float
) -> socket.socket:
    connection = socket.socket(family, _TCP | socket.SOCK_NONBLOCK)
    try:
        # On this host a connection is there at once, and else the first write waits for it,
        # or fails for the same reason.
        error = connection.connect_ex(address)  # type: ignore[arg-type]
        if error not in {0, errno.EINPROGRESS}:
            raise OSError(error, os.strerror(error))  # noqa: TRY301 - close() is for this as well
        # Rspamd may refuse us before it has read everything: the answer counts.
        with suppress(BrokenPipeError, ConnectionResetError):
            await _send(connection, request, deadline_s)
    except BaseException:
        connection.close()
        raise
    return connection


async def _send(connection: socket.socket, request: Request, deadline_s: float) -> None:
    sent_bytes = 0
    with suppress(BlockingIOError, InterruptedError):
        sent_bytes = connection.sendmsg(request)
    if sent_bytes == sum(map(len, request)):  # nearly always
        return
    rest = memoryview(b"".join(request))[sent_bytes:]
    while rest:
        await writable(connection, deadline_s)
        with suppress(BlockingIOError, InterruptedError):
            rest = rest[connection.send(rest) :]
