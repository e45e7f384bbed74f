"""A server for Dovecot's script sockets that outlives whatever connects to it.

Dovecot allows 5 ms for the connection. The kernel completes it as long as the
backlog has room, whatever the event loop is doing, so the backlog is large and
everything in it is accepted whenever the loop comes round. A connection costs
one task. Its input is read to the end before anything is answered, refused
calls included, because Dovecot takes an early answer for a broken pipe.

A handler may answer in a thread of its own, without the event loop
(:mod:`mailhooks.dovecot.lane`); the loop then takes what is slow, large or wrong, and all of it
while that thread is held up.

Every step has a hard deadline. A handler that wants to say something better
than ``-`` keeps its own, counted from ``ScriptCall.accepted_at_s``.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import Counter, Gauge

from mailhooks.dovecot import lane, listener
from mailhooks.dovecot.memory import MessageMemory, Share
from mailhooks.dovecot.script_call import (
    PIECE_BYTES,
    Peer,
    ScriptCall,
    ServerLimits,
    discard,
    read_call,
)
from mailhooks.dovecot.script_protocol import encode_reply
from mailhooks.errors import MailhooksError, ProtocolError

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Awaitable, Callable

log = logging.getLogger("mailhooks.dovecot")

_FAILURE: Final = encode_reply(b"", ok=False)
_ACCEPT_PAUSE_S: Final = 0.2
_CANCEL_WAIT_S: Final = 1.0
_LANE_HELD_UP_S: Final = 0.5

CALLS = Counter(
    "mailhooks_script_calls_total",
    "Calls on a script socket; each connection that was accepted is one.",
    ["program", "result"],
)
RESULTS: Final = ("done", "refused", "failed")
CONNECTIONS = Gauge(
    "mailhooks_script_connections", "Connections open on a script socket.", ["program"]
)


class ScriptServer:
    """Serves one script socket: one program, one handler.

    The handler's bytes become the program's output and success. Whatever it
    raises becomes a failure and a line in the log; nothing ends the server.

    Attributes:
        memory: counts the input held now.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        handler: Callable[[ScriptCall], Awaitable[bytes]],
        *,
        limits: ServerLimits | None = None,
        mode: int = 0o666,
        gid: int | None = None,
        dir_mode: int = 0o755,
        sock: socket.socket | None = None,
        direct: Callable[[ScriptCall], Awaitable[lane.Answer]] | None = None,
    ) -> None:
        """Prepare; nothing is opened before ``start``.

        Args:
            path: the socket; its name is the program's name.
            handler: answers one call; must not block the event loop.
            limits: what the server may use.
            mode: permissions of the socket file. Everybody by default, since
                Dovecot connects as the mail user and ``ScriptCall.peer``
                proves who that is.
            gid: group of the socket file; None keeps the process's.
            dir_mode: permissions of the directory if it has to be created.
            sock: a socket opened by somebody else, such as systemd; ``path``
                then only names the program and no file is touched. The server
                closes it.
            direct: answers one call in a thread, a strand that may block for as long as
                the disk takes; its output is sent like the handler's.
        """
        self.memory = MessageMemory((limits or ServerLimits()).memory_bytes, PIECE_BYTES)
        self._path = Path(path)
        self._handler = handler
        self._limits = limits or ServerLimits()
        self._mode, self._gid, self._dir_mode = mode, gid, dir_mode
        self._sock = sock
        self._direct = direct
        self._lane: lane.Lane | None = None
        self._file: tuple[int, int] | None = None  # identity of the file we made
        self._accepting = self._full = False
        self._max_connections = self._limits.connections
        self._connections: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()  # answered already, by a failure
        self._turns = asyncio.Semaphore(self._limits.handlers)
        self._results = {name: CALLS.labels(self._path.name, name) for name in RESULTS}
        CONNECTIONS.labels(self._path.name).set_function(self._count)

    async def start(self) -> None:
        """Listen and serve until ``stop``.

        Raises:
            MailhooksError: the socket cannot be opened, or another server
                answers at the path.
        """
        if self._sock is None:
            self._sock = listener.listen(
                self._path,
                backlog=self._limits.backlog,
                mode=self._mode,
                gid=self._gid,
                dir_mode=self._dir_mode,
            )
            self._file = listener.identity(self._path)
        else:
            listener.adopt(self._sock, self._limits.backlog)
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if open_files != resource.RLIM_INFINITY:
            self._max_connections = max(1, min(self._limits.connections, open_files // 4))
        if self._direct is None:
            self._resume()
            return
        loop = asyncio.get_running_loop()

        def hand_over(connection: socket.socket, begun: bytes) -> None:
            connection.setblocking(False)
            loop.call_soon_threadsafe(self._begin, connection, begun)

        answer = partial(self._answer_directly, self._direct)
        self._lane = lane.Lane(self._sock, answer, hand_over, self._is_at_limit, self._limits)
        self._lane.start()
        self._watch_lane()

    async def stop(self, *, grace_s: float = 5.0) -> None:
        """Stop accepting, let calls finish, then answer the rest with a failure.

        Whoever connected before the socket file vanished is still served; a
        socket from systemd keeps them for the next start. A second call does
        nothing.

        Args:
            grace_s: how long open calls may go on.
        """
        sock = self._sock
        if sock is None:
            return
        self._sock = None
        if self._lane is not None:
            await asyncio.to_thread(self._lane.stop, grace_s)
        if self._file is not None:
            listener.remove(self._path, self._file)
            self._accept(sock)
        self._pause(sock)
        self._file = None
        sock.close()
        await _finish(self._connections, grace_s)
        await _finish(self._late, 0)

    def _watch_lane(self) -> None:
        """Accept here, too, while the lane is held up by a disk that does not answer."""
        if self._sock is None or self._lane is None:
            return
        if self._lane.busy_s() > _LANE_HELD_UP_S:
            self._resume()
        elif self._accepting:
            self._pause(self._sock)
        asyncio.get_running_loop().call_later(_LANE_HELD_UP_S, self._watch_lane)

    def _resume(self) -> None:
        if self._sock is not None and not self._accepting:
            self._accepting = True
            asyncio.get_running_loop().add_reader(self._sock, self._accept, self._sock)

    def _pause(self, sock: socket.socket) -> None:
        self._accepting = False
        asyncio.get_running_loop().remove_reader(sock)

    def _accept(self, sock: socket.socket) -> None:
        """Accept all who wait; those beyond the limit go on waiting in the backlog."""
        loop = asyncio.get_running_loop()
        while not self._is_at_limit():
            try:
                connection, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors or memory just now
                log.error("%s: cannot accept: %s", self._path.name, error)
                self._pause(sock)
                loop.call_later(_ACCEPT_PAUSE_S, self._resume)
                return
            connection.setblocking(False)
            self._begin(connection)
        self._pause(sock)

    def _is_at_limit(self) -> bool:
        if self._count() < self._max_connections:
            return False
        if not self._full:
            self._full = True
            log.warning("%s: %d connections, more wait", self._path.name, self._max_connections)
        return True

    def _count(self) -> int:
        return len(self._connections) + (self._lane.connections if self._lane is not None else 0)

    def _begin(self, connection: socket.socket, begun: bytes = b"") -> None:
        task = asyncio.get_running_loop().create_task(self._serve(connection, begun))
        self._connections.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._late.discard(task)
        if len(self._connections) <= self._max_connections // 2:
            self._full = False
        if self._lane is None:
            self._resume()

    async def _serve(self, sock: socket.socket, begun: bytes) -> None:
        who = self._path.name
        with sock:
            try:
                peer = Peer.of(sock)
                who = f"{who}: uid {peer.uid} pid {peer.pid}"
                reply = await self._converse(sock, peer, who, begun)
                if self._is_late():
                    return
                if reply == _FAILURE:
                    _say_failure(sock)  # the reason is in the log, whoever reads this
                elif reply:
                    await self._send(sock, reply)
            except TimeoutError:
                log.warning("%s: did not take the answer in time", who)
            except OSError as error:
                log.warning("%s: went away: %s", who, error)
            except asyncio.CancelledError:
                if not self._is_late():
                    log.warning("%s: failed: the server stops", who)
                    _say_failure(sock)
                raise
            except Exception:
                log.exception("%s: failed: a bug", who)
                _say_failure(sock)

    async def _send(self, sock: socket.socket, reply: bytes) -> None:
        try:
            sent = sock.send(reply)  # which is all of it, unless it is long
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(reply):
            async with asyncio.timeout(self._limits.reply_timeout_s):
                await asyncio.get_running_loop().sock_sendall(sock, reply[sent:])

    async def _converse(self, sock: socket.socket, peer: Peer, who: str, begun: bytes) -> bytes:
        """Read one call and return the bytes of its answer."""
        deadline = asyncio.get_running_loop().time() + self._limits.read_timeout_s
        share = Share()
        result = "refused"
        try:
            async with asyncio.timeout_at(deadline):
                call = await read_call(sock, peer, self._limits, self.memory, share, begun)
            result = "failed"
            reply = await self._answer(call, sock, share, who)
            if reply != _FAILURE:
                result = "done"
            return reply if call.wants_reply else b""
        except TimeoutError:
            log.warning("%s: refused: input did not end in time", who)
            return _FAILURE
        except ProtocolError as error:
            log.warning("%s: refused: %s", who, error)
        finally:
            # Before the answer is sent: whoever has it finds it counted.
            if not self._is_late():
                self._results[result].inc()
            self.memory.release(share)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await discard(sock, self._limits.discard_bytes)
        return _FAILURE

    async def _answer_directly(
        self, direct: Callable[[ScriptCall], Awaitable[lane.Answer]], call: ScriptCall
    ) -> lane.Answer:
        """In the lane's thread; never raises."""
        afterwards = None
        try:
            output, afterwards = await direct(call)
            reply, result = encode_reply(output, ok=True), "done"
        except (Exception, SystemExit) as error:
            who = f"{self._path.name}: uid {call.peer.uid} pid {call.peer.pid}"
            if isinstance(error, MailhooksError):
                log.warning("%s: failed: %s", who, error)
            else:
                log.exception("%s: failed: a bug", who)
            reply, result = _FAILURE, "failed"
        self._results[result].inc()
        return reply, afterwards

    async def _answer(self, call: ScriptCall, sock: socket.socket, share: Share, who: str) -> bytes:
        """Run the handler; :meth:`_give_up` answers for one that takes too long."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - for mypy: a server's connection is a task
        overdue = loop.call_later(
            self._limits.handler_timeout_s, self._give_up, task, call, sock, share, who
        )
        try:
            async with self._turns:
                reply = encode_reply(await self._handler(call), ok=True)
        except MailhooksError as error:
            log.warning("%s: failed: %s", who, error)
            return _FAILURE
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            log.error("%s: failed: no answer, the handler cancelled itself", who)
            return _FAILURE
        except (Exception, SystemExit):  # asyncio lets SystemExit end the loop
            log.exception("%s: failed: a bug", who)
            return _FAILURE
        finally:
            overdue.cancel()
        if self._is_late():
            return b""
        log.debug("%s: done in %.1f ms", who, (loop.time() - call.accepted_at_s) * 1000)
        return reply

    def _give_up(
        self,
        task: asyncio.Task[None],
        call: ScriptCall,
        sock: socket.socket,
        share: Share,
        who: str,
    ) -> None:
        """Answer for a handler that has had its time, also for one that ignores cancellation."""
        log.error("%s: failed: no answer within %g s", who, self._limits.handler_timeout_s)
        self._results["failed"].inc()
        self.memory.release(share)
        if call.wants_reply:
            _say_failure(sock)
        sock.close()
        self._closed(task)
        self._late.add(task)
        task.cancel()

    def _is_late(self) -> bool:
        return bool(self._late) and asyncio.current_task() in self._late


def _say_failure(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.send(_FAILURE)


async def _finish(tasks: set[asyncio.Task[Any]], grace_s: float) -> None:
    """Let tasks end by themselves, then by force, then go on without them."""
    if tasks:
        await asyncio.wait(tasks, timeout=grace_s)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CANCEL_WAIT_S)
