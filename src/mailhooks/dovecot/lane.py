"""A thread that answers the calls that come whole and soon, and waits for none of them.

Two thirds of what a short call costs in an event loop are the loop's own turns,
and the way to a thread and back for whoever has to wait for the disk. Here a
call is a strand (:mod:`mailhooks.strand`): read, handled and answered in a row, by
a handler that may block for a short time. What is slow, large or wrong goes to the event
loop, with what has been read of it; there all limits hold.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mailhooks.dovecot.script_call import Peer, ScriptCall, ServerLimits, hung_up
from mailhooks.dovecot.script_protocol import ScriptParser, encode_reply
from mailhooks.errors import ProtocolError
from mailhooks.strand import Strands, pause, readable

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

log = logging.getLogger("mailhooks.dovecot")

Answer = tuple[bytes, "Callable[[], None] | None"]
"""What is sent, and what is done once it is sent and nobody waits for an answer just now."""

SHARE_BYTES: Final = 1024 * 1024
"""A larger call goes to the event loop, and so do"""
HELD_BYTES: Final = 16 * 1024 * 1024
"""those that come while calls hold so much together."""
READ_S: Final = 0.1
"""A call that takes longer to come goes to the event loop."""
_PAUSE_S: Final = 0.2
_PIECE_BYTES: Final = 64 * 1024


class Lane:
    """Accepts and answers in a thread of its own.

    Args:
        sock: listening, non-blocking.
        answer: handles a call; a strand, and must not raise.
        hand_over: takes a connection and what was read of it; called in the lane's thread.
        is_full: whether there can be no more connections just now.
        limits: of a call's header and message.

    Attributes:
        connections: open now.
    """

    def __init__(
        self,
        sock: socket.socket,
        answer: Callable[[ScriptCall], Awaitable[Answer]],
        hand_over: Callable[[socket.socket, bytes], None],
        is_full: Callable[[], bool],
        limits: ServerLimits,
    ) -> None:
        self.connections = 0
        self._sock = sock
        self._answer = answer
        self._give_away = hand_over
        self._is_full = is_full
        self._header = limits.header
        self._share_bytes = min(SHARE_BYTES, limits.message_bytes)
        self._held_bytes = 0
        self._piece = memoryview(bytearray(_PIECE_BYTES))  # one for all: each read is one step
        self._strands = Strands("lane")

    def start(self) -> None:
        """Begin to accept."""
        self._strands.listen(self._sock, self._accept)
        self._strands.start()

    def stop(self, timeout_s: float) -> None:
        """Accept no more, and wait for the calls under way; blocks."""
        self._strands.stop(timeout_s)

    def busy_s(self) -> float:
        """How long it has been held up by a call that blocks; 0 if it is not."""
        return self._strands.busy_s()

    def _accept(self) -> None:
        """Accept all who wait."""
        while not self._is_full():
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors or memory just now
                log.error("cannot accept: %s", error)
                break
            connection.setblocking(False)
            self._strands.spawn(self._serve(connection, time.monotonic()))
        self._strands.ignore(self._sock)
        self._strands.spawn(self._accept_later())

    async def _accept_later(self) -> None:
        await pause(_PAUSE_S)
        self._strands.listen(self._sock, self._accept)

    async def _serve(self, sock: socket.socket, accepted_at_s: float) -> None:
        received: list[bytes] = []  # all of it, should somebody else have to go on
        self.connections += 1
        try:
            call = await self._read(sock, received, accepted_at_s)
            if call is None:
                self._give_away(sock, b"".join(received))
                return
            reply, afterwards = await self._answer(call)
        except BaseException:  # the server stops, for instance
            with suppress(OSError):
                sock.send(encode_reply(b"", ok=False))
            sock.close()
            raise
        finally:
            self.connections -= 1
            self._held_bytes -= sum(map(len, received))
        with suppress(OSError):  # Dovecot gave up
            sock.send(reply)
        sock.close()
        if afterwards is not None:
            self._strands.later(afterwards)

    async def _read(
        self, sock: socket.socket, received: list[bytes], accepted_at_s: float
    ) -> ScriptCall | None:
        """A whole call; None if it is for the event loop to judge."""
        parser = ScriptParser(self._header)
        message: list[bytes] = []
        whole_bytes = 0
        try:
            while True:
                try:
                    size_bytes = sock.recv_into(self._piece)
                except BlockingIOError:
                    await readable(sock, accepted_at_s + READ_S)
                    continue
                if not size_bytes:
                    break
                piece = bytes(self._piece[:size_bytes])
                received.append(piece)
                whole_bytes += size_bytes
                self._held_bytes += size_bytes
                is_large = whole_bytes > self._share_bytes or self._held_bytes > HELD_BYTES
                if is_large or time.monotonic() > accepted_at_s + READ_S:
                    return None
                # At once, while the next piece is on its way.
                message.append(parser.feed(piece))
            request = parser.close()
            if not request.wants_reply or hung_up(sock):
                return None
        except (OSError, ProtocolError):  # too slow, gone, or wrong
            return None
        return ScriptCall(
            request.args, request.env, Peer.of(sock), b"".join(message), accepted_at_s
        )
