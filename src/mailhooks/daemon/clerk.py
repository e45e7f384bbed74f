"""A thread that does what blocks for the event loop, one thing after another.

The way to a thread of an executor's and back takes more processor time than
most of what is done there, and several such threads get in each other's and
the loop's way. Here what is done while the loop is busy comes back together.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")

_Job = tuple["asyncio.Future[Any]", "Callable[[], Any]"]
_Done = tuple["asyncio.Future[Any]", Any, "BaseException | None"]


class Clerk:
    """Works for one event loop, from the first :meth:`do` to :meth:`stop`."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[_Done] = deque()
        self._is_told = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def do(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What a function returns or raises that is called in the thread.

        Who is cancelled meanwhile does not keep the function from being called.
        """
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._loop = loop
            self._thread = threading.Thread(target=self._run, name="clerk", daemon=True)
            self._thread.start()
        future: asyncio.Future[_T] = loop.create_future()
        self._jobs.put((future, lambda: work(*args, **kwargs)))
        return await future

    async def stop(self) -> None:
        """Return when all that was asked for is done; afterwards it may begin anew."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    def _run(self) -> None:
        assert self._loop is not None  # noqa: S101 - set before the thread starts
        while (job := self._jobs.get()) is not None:
            future, work = job
            try:
                self._done.append((future, work(), None))
            except BaseException as error:  # noqa: BLE001 - it is the asker's
                self._done.append((future, None, error))
            # Told once, it takes all that is there by then.
            if not self._is_told:
                self._is_told = True
                with suppress(RuntimeError):  # the loop has ended, and with it who asked
                    self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        self._is_told = False
        while self._done:
            future, result, error = self._done.popleft()
            if future.done():  # cancelled
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
