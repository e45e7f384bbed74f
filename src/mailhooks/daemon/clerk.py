"""A thread in which an event loop has strands run that may block, with little around them.

The way to a thread of an executor's and back takes more processor time than
most of what is done there, and several such threads get in each other's and
the loop's way. Here strands that wait for a socket let others go on, whatever
blocks for a moment is simply called, and what ends while the loop is busy
comes back together.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from mailhooks.strand import Strands

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")

_Job = tuple["asyncio.Future[Any]", "Coroutine[Any, Any, Any]"]
_Done = tuple["asyncio.Future[Any]", Any, "BaseException | None"]


class Clerk:
    """Works for one event loop, from the first :meth:`do` to :meth:`stop`."""

    def __init__(self) -> None:
        self._asked: deque[_Job] = deque()
        self._done: deque[_Done] = deque()
        self._is_told = self._loop_is_told = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._strands: Strands | None = None
        self._ear: socket.socket
        self._bell: socket.socket

    async def do(self, strand: Coroutine[Any, Any, _T]) -> _T:
        """What a strand returns or raises that runs in the thread.

        Who is cancelled meanwhile does not end it.
        """
        loop = asyncio.get_running_loop()
        if self._strands is None:
            self._loop = loop
            self._ear, self._bell = socket.socketpair()
            for each in (self._ear, self._bell):
                each.setblocking(False)
            self._strands = Strands("clerk")
            self._strands.listen(self._ear, self._hear)
            self._strands.start()
        future: asyncio.Future[_T] = loop.create_future()
        self._asked.append((future, strand))
        if not self._is_told:
            self._is_told = True
            with suppress(BlockingIOError):  # full of calls already
                self._bell.send(b".")
        return await future

    async def stop(self, grace_s: float) -> None:
        """Let strands end for a while, then close the others; may begin anew afterwards."""
        strands, self._strands = self._strands, None
        if strands is not None:
            await asyncio.to_thread(strands.stop, grace_s)
            self._ear.close()
            self._bell.close()
            while self._asked:
                self._asked.popleft()[1].close()
            self._is_told = False

    def _hear(self) -> None:
        with suppress(BlockingIOError):
            self._ear.recv(4096)
        self._is_told = False
        while self._asked:
            if self._strands is None:
                return
            self._strands.spawn(self._run(*self._asked.popleft()))

    async def _run(self, future: asyncio.Future[Any], strand: Coroutine[Any, Any, Any]) -> None:
        try:
            self._done.append((future, await strand, None))
        except GeneratorExit:  # closed
            raise
        except BaseException as error:  # noqa: BLE001 - it is the asker's
            self._done.append((future, None, error))
        # Told once, the loop takes all that is there by then.
        if not self._loop_is_told and self._loop is not None:
            self._loop_is_told = True
            with suppress(RuntimeError):  # it has ended, and with it who asked
                self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        self._loop_is_told = False
        while self._done:
            future, result, error = self._done.popleft()
            if future.done():  # cancelled
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
