"""One call on a script socket: what it is, and how it is read within limits."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from select import POLLHUP, poll
from typing import TYPE_CHECKING, Final

from mailhooks.dovecot.script_protocol import HeaderLimits, ScriptParser
from mailhooks.errors import ProtocolError
from mailhooks.strand import readable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailhooks.dovecot.memory import MessageMemory, Share

PIECE_BYTES: Final = 64 * 1024
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred, unix(7)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, by the kernel's word (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        """Ask the kernel about the other end of a connected UNIX socket."""
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return cls(*_CREDENTIALS.unpack(raw))


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One complete call.

    Attributes:
        args: the program's arguments.
        env: environment variables; the peer chose them, only ``peer`` is proof.
        peer: who connected.
        message: the whole message as sent, with CRLF line ends.
        accepted_at_s: when the connection was accepted, by the event loop's
            clock (``time.monotonic``).
        wants_reply: False if nobody reads the handler's output.
    """

    args: tuple[str, ...]
    env: Mapping[str, str]
    peer: Peer
    message: bytes = field(repr=False)
    accepted_at_s: float
    wants_reply: bool = True


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one server may use. The times add up to less than Dovecot's exec_timeout (10 s).

    Attributes:
        backlog: connections queued by the kernel, cut to net.core.somaxconn.
        connections: connections open at once, and at most a quarter of the
            process's open files (RLIMIT_NOFILE); more wait in the backlog.
        handlers: handlers running at once; complete calls wait in memory.
        message_bytes: largest message; a larger one is refused.
        memory_bytes: the input of all calls together; see ``MessageMemory``.
        discard_bytes: how much of a refused call is read and thrown away.
        read_timeout_s: from accepting to the end of input, in total.
        handler_timeout_s: from the end of input to the handler's answer,
            waiting for its turn included.
        reply_timeout_s: until the peer has taken the answer.
        header: limits of the call's header.
    """

    backlog: int = 4096
    connections: int = 4096
    handlers: int = 64
    message_bytes: int = 50 * 1024 * 1024
    memory_bytes: int = 256 * 1024 * 1024
    discard_bytes: int = 256 * 1024 * 1024
    read_timeout_s: float = 3.0
    handler_timeout_s: float = 5.0
    reply_timeout_s: float = 1.0
    header: HeaderLimits = field(default_factory=HeaderLimits)


async def read_call(
    sock: socket.socket,
    peer: Peer,
    limits: ServerLimits,
    memory: MessageMemory,
    share: Share,
    begun: bytes = b"",
) -> ScriptCall:
    """Read a call to the end of its input; the caller sets the deadline.

    Args:
        sock: a connected, non-blocking socket, accepted just now.
        peer: who is at the other end.
        limits: largest header and message.
        memory: where the bytes read are counted.
        share: this call's part of it; the caller releases it.
        begun: what was read of it before.

    Returns:
        The call.

    Raises:
        ProtocolError: the header is wrong or the message too large; there may
            be input left to ``discard``.
        OSError: the peer has gone, perhaps in the middle of the message.
    """
    accepted_at_s = asyncio.get_running_loop().time()
    parser = ScriptParser(limits.header)
    message = bytearray()
    is_first = True
    while data := begun or await _received(sock):
        begun = b""
        message += parser.feed(data)
        if len(message) > limits.message_bytes:
            raise ProtocolError(f"message is larger than {limits.message_bytes} bytes")
        size_bytes = len(data)
        del data  # or each waiting call holds its last piece twice
        await memory.grow(share, size_bytes)
        # A fast peer could keep everybody else, and its own deadline, from running.
        if not is_first:
            await asyncio.sleep(0)
        is_first = False
    request = parser.close()
    if request.wants_reply and hung_up(sock):
        # Dovecot stays for the answer. A peer that dies also ends its input,
        # and half a message must not pass for a whole one.
        raise ConnectionResetError("hung up; the message may be cut short")
    return ScriptCall(
        request.args, request.env, peer, bytes(message), accepted_at_s, request.wants_reply
    )


async def _received(sock: socket.socket) -> bytes:
    """The next piece; mostly it is there already."""
    while True:
        try:
            return sock.recv(PIECE_BYTES)
        except (BlockingIOError, InterruptedError):
            await readable(sock)


async def discard(sock: socket.socket, limit_bytes: int) -> None:
    """Throw input away until it ends; the caller sets the deadline.

    Args:
        sock: a connected, non-blocking socket.
        limit_bytes: where to give up.

    Raises:
        OSError: the peer has gone.
    """
    while limit_bytes > 0 and (data := await _received(sock)):
        limit_bytes -= len(data)
        await asyncio.sleep(0)


def hung_up(sock: socket.socket) -> bool:
    """Tell a peer that closed from one that only ended its input (poll(2))."""
    poller = poll()
    poller.register(sock, 0)
    return any(events & POLLHUP for _, events in poller.poll(0))
