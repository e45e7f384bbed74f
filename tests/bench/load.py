"""Many requests in flight from one lean client: for UNIX and TCP, the same for all contenders."""

from __future__ import annotations

import re
import select
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Caller:
    """How to make one request.

    Attributes:
        address: a path, or host and port.
        request: its bytes, by number.
        half_close: whether the end of input is told by shutting down (Dovecot), not by a length.
        whole: whether an answer is complete although the connection is still open.
    """

    address: str | tuple[str, int]
    request: Callable[[int], bytes]
    half_close: bool = False
    whole: Callable[[bytearray], bool] = lambda _: False

    def begin(self, number: int) -> socket.socket:
        """Connect and send."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.connect(self.address)
            sock.sendall(self.request(number))
            if self.half_close:
                sock.shutdown(socket.SHUT_WR)
        except BaseException:
            sock.close()
            raise
        return sock


def script(path: Path, requests: Sequence[bytes]) -> Caller:
    """Calls on a script socket, as Dovecot makes them."""
    return Caller(str(path), lambda number: requests[number % len(requests)], half_close=True)


def http(url: str, requests: Sequence[bytes]) -> Caller:
    """Requests to Rspamd; it closes every connection, whatever it is asked."""
    parts = urlsplit(url)
    address = parts.hostname or "", parts.port or 80
    return Caller(address, lambda number: requests[number % len(requests)], whole=_is_whole)


def _is_whole(received: bytearray) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end) and length is not None and len(body) >= int(length[1])


def post(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """An HTTP request that asks to keep the connection."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: keep-alive"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run.

    Attributes:
        elapsed_s: from the first request to the last answer.
        latencies_s: of each request, from connect() to the end of its answer.
        answers: by number.
    """

    elapsed_s: float
    latencies_s: list[float]
    answers: list[bytes]

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.answers) / self.elapsed_s


def run(caller: Caller, count: int, in_flight: int, first: int = 0) -> Run:
    """Make requests, always ``in_flight`` of them at once.

    Args:
        caller: makes one.
        count: how many.
        in_flight: at once.
        first: number of the first.
    """
    answers: list[bytes] = [b""] * count
    latencies_s = [0.0] * count
    open_: dict[int, tuple[socket.socket, int, float, bytearray]] = {}
    clock = time.perf_counter
    with select.epoll() as poller:
        begun, started = 0, clock()
        while begun < count or open_:
            while begun < count and len(open_) < in_flight:
                at = clock()
                sock = caller.begin(first + begun)
                open_[sock.fileno()] = sock, begun, at, bytearray()
                poller.register(sock.fileno(), select.EPOLLIN)
                begun += 1
            for number, _ in poller.poll(30):
                sock, index, at, received = open_[number]
                piece = sock.recv(65536)
                received += piece
                if piece and not caller.whole(received):
                    continue
                poller.unregister(number)
                sock.close()
                del open_[number]
                latencies_s[index], answers[index] = clock() - at, bytes(received)
        elapsed_s = clock() - started
    return Run(elapsed_s, latencies_s, answers)
