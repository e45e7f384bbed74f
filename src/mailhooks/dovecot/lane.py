"""A thread that answers the calls that come whole and at once, one after another.

Two thirds of what a short call costs in an event loop are the loop's own turns,
and the way to a thread and back for whoever has to wait for the disk. Here a
call is read, handled and answered in a row, by a handler that may block. What
is slow, large or wrong goes to the event loop, with what has been read of it;
there it keeps nobody waiting, and all limits hold.
"""

from __future__ import annotations

import logging
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mailhooks.dovecot.script_call import Peer, ScriptCall, ServerLimits, hung_up
from mailhooks.dovecot.script_protocol import ScriptParser
from mailhooks.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("mailhooks.dovecot")

Answer = tuple[bytes, "Callable[[], None] | None"]
"""What is sent, and what is done once it is sent."""

SHARE_BYTES: Final = 1024 * 1024
SILENT_S: Final = 0.02
"""How long nothing may come, and after a call that was silent for that long:"""
IMPATIENT_S: Final = 0.001
READ_S: Final = 0.1
"""A call that takes longer to come goes to the event loop."""
_PAUSE_S: Final = 0.2
_PIECE_BYTES: Final = 64 * 1024
_TIMEVALS: Final = tuple(struct.pack("ll", 0, int(it * 1e6)) for it in (SILENT_S, IMPATIENT_S))


class Lane:
    """Accepts and answers in a thread of its own.

    Args:
        sock: listening, non-blocking.
        answer: handles a call; may block, and must not raise.
        hand_over: takes a connection and what was read of it; called in the lane's thread.
        is_full: whether it can take no more just now.
        limits: of a call's header and message.
    """

    def __init__(
        self,
        sock: socket.socket,
        answer: Callable[[ScriptCall], Answer],
        hand_over: Callable[[socket.socket, bytes], None],
        is_full: Callable[[], bool],
        limits: ServerLimits,
    ) -> None:
        self._sock = sock
        self._answer = answer
        self._give_away = hand_over
        self._is_full = is_full
        self._header = limits.header
        self._share_bytes = min(SHARE_BYTES, limits.message_bytes)
        self._woken, self._wake = socket.socketpair()
        self._stopping = False
        self._began_s = 0.0
        self._was_silent = False
        self._thread = threading.Thread(target=self._run, name="lane", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Accept no more, and wait for the call under way; blocks."""
        self._stopping = True
        self._wake.send(b".")
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._woken.close()
            self._wake.close()

    def busy_s(self) -> float:
        """How long the call under way has taken so far; 0 without one."""
        began_s = self._began_s
        return time.monotonic() - began_s if began_s else 0.0

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.register(self._woken, select.POLLIN)
        while True:
            poller.poll()
            if self._stopping:
                return
            if self._is_full():
                time.sleep(_PAUSE_S)
                continue
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                continue
            except OSError as error:  # no descriptors or memory just now
                log.error("cannot accept: %s", error)
                time.sleep(_PAUSE_S)
                continue
            self._began_s = time.monotonic()
            try:
                self._serve(connection, self._began_s)
            except Exception:
                log.exception("a call failed: a bug")
                connection.close()
            self._began_s = 0.0

    def _serve(self, sock: socket.socket, accepted_at_s: float) -> None:
        received = bytearray()  # all of it, should somebody else have to go on
        parser = ScriptParser(self._header)
        message: list[bytes] = []
        try:
            # The kernel's own timeout: Python's would ask before every read.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVALS[self._was_silent])
            while piece := sock.recv(_PIECE_BYTES):
                received += piece
                if len(received) > self._share_bytes or time.monotonic() > accepted_at_s + READ_S:
                    self._hand_over(sock, received)
                    return
                # At once, while the next piece is on its way.
                message.append(parser.feed(piece))
            request = parser.close()
        except (OSError, ProtocolError):  # silent for a while, gone, or wrong: not ours to judge
            self._hand_over(sock, received)
            return
        if not request.wants_reply or hung_up(sock):
            self._hand_over(sock, received)
            return
        self._was_silent = False
        call = ScriptCall(
            request.args, request.env, Peer.of(sock), b"".join(message), accepted_at_s
        )
        reply, afterwards = self._answer(call)
        with suppress(OSError):  # Dovecot gave up
            sock.send(reply)
        sock.close()
        if afterwards is not None:
            afterwards()

    def _hand_over(self, sock: socket.socket, received: bytearray) -> None:
        # Many who say nothing would keep others waiting: the next one gets less patience.
        self._was_silent = True
        self._give_away(sock, bytes(received))
