"""Strands: coroutines that run in an event loop, or in a thread of their own with less around them.

What asyncio puts around a coroutine (tasks, handles, timers, ways between threads) costs a
verdict as much processor time as all that the verdict is made of. A strand is a coroutine that
waits for nothing but what is offered here. In an event loop it is like any other; in the thread
of :class:`Strands` a wait is one call of epoll(7), and a deadline costs nothing until it passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import select
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    Strand = Coroutine["_Wait", None, Any]

log = logging.getLogger("mailhooks.strand")

T = TypeVar("T")

GRAIN_S: Final = 0.05
"""How much later than its deadline a wait may end."""

MOST_LATER: Final = 32
"""What is left for later is done at the latest when there is so much of it, or after a grain."""

_ENDED_S: Final = 1.0
_here = threading.local()


class _Wait:
    """What a strand waits for: a file descriptor, or else a future, until a deadline."""

    __slots__ = ("deadline_s", "events", "future", "number")

    def __init__(
        self, number: int, events: int, future: Future[Any] | None, deadline_s: float
    ) -> None:
        self.number = number
        self.events = events
        self.future = future
        self.deadline_s = deadline_s

    def __await__(self) -> Generator[_Wait, None, None]:
        yield self


async def readable(sock: socket.socket, deadline_s: float = math.inf) -> None:
    """Return when a read would not block: there is input, its end or an error.

    Args:
        sock: connected, non-blocking; nobody else waits for it.
        deadline_s: by ``time.monotonic``.

    Raises:
        TimeoutError: the deadline passed, and a read would block.
    """
    if hasattr(_here, "strands"):
        await _Wait(sock.fileno(), select.EPOLLIN, None, deadline_s)
    else:
        await _in_loop(sock.fileno(), select.EPOLLIN, deadline_s)


async def writable(sock: socket.socket, deadline_s: float = math.inf) -> None:
    """Return when a write would not block; for the rest see :func:`readable`."""
    if hasattr(_here, "strands"):
        await _Wait(sock.fileno(), select.EPOLLOUT, None, deadline_s)
    else:
        await _in_loop(sock.fileno(), select.EPOLLOUT, deadline_s)


async def pause(seconds: float) -> None:
    """Return after a while."""
    if hasattr(_here, "strands"):
        with contextlib.suppress(TimeoutError):
            await _Wait(-1, 0, None, time.monotonic() + seconds)
    else:
        await asyncio.sleep(seconds)


def afterwards(work: Callable[[], None]) -> None:
    """Have a function called soon, when others have gone on; it must not wait."""
    if hasattr(_here, "strands"):
        _here.strands.later(work)
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # it has ended, and what it left behind is closed
        work()
    else:
        loop.call_soon(work)


async def _in_loop(number: int, events: int, deadline_s: float) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add, remove = loop.add_reader, loop.remove_reader
    if events == select.EPOLLOUT:
        add, remove = loop.add_writer, loop.remove_writer
    add(number, _resolve, ready)
    try:
        async with asyncio.timeout_at(None if deadline_s == math.inf else deadline_s):
            await ready
    except TimeoutError:
        if not _is_ready(number, events):
            raise
    finally:
        remove(number)


def _is_ready(number: int, events: int) -> bool:
    """Whether a wait would end at once: a thread that was held up learns late what came in time."""
    poller = select.poll()
    poller.register(number, events)  # poll(2) and epoll(7) have these events in common
    return bool(poller.poll(0))


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def result(future: Future[T], deadline_s: float = math.inf) -> T:
    """What another thread comes to.

    Args:
        future: as an executor gives it; cancelled if nobody waits for it any more.
        deadline_s: by ``time.monotonic``.

    Raises:
        TimeoutError: the deadline passed.
        CancelledError: of ``concurrent.futures``: it never began.
        BaseException: whatever that thread raised.
    """
    if not future.done():
        try:
            if hasattr(_here, "strands"):
                await _Wait(-1, 0, future, deadline_s)
            else:
                async with asyncio.timeout_at(None if deadline_s == math.inf else deadline_s):
                    await asyncio.wrap_future(future)
        except TimeoutError:
            if future.cancel() or not future.done():
                raise
        except BaseException:
            future.cancel()
            raise
    return future.result()


class Begun(Generic[T]):
    """A strand that runs at once, up to its first wait; awaiting it goes on from there.

    In an event loop it is a task. :meth:`close` what is not awaited to the end.
    """

    def __init__(self, strand: Coroutine[Any, None, T]) -> None:
        """Begin; whatever the strand raises comes when it is awaited."""
        self._task: asyncio.Task[T] | None = None
        self._strand = strand
        self._wait: _Wait | None = None
        self._error: BaseException | None = None
        if not hasattr(_here, "strands"):
            self._task = asyncio.get_running_loop().create_task(strand)
            return
        try:
            self._wait = strand.send(None)
        except StopIteration as end:
            self._value: T = end.value
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            self._error = error

    def __await__(self) -> Generator[Any, None, T]:
        """Go on, once."""
        if self._task is not None:
            return (yield from self._task.__await__())
        if self._error is not None:
            raise self._error
        wait = self._wait
        if wait is None:
            return self._value
        while True:
            try:
                yield wait
            except GeneratorExit:
                self._strand.close()
                raise
            except BaseException as error:  # noqa: BLE001 - the strand's to handle
                go_on = partial(self._strand.throw, error)
            else:
                go_on = partial(self._strand.send, None)
            try:
                wait = go_on()
            except StopIteration as end:
                self._value = end.value
                return self._value

    def close(self) -> None:
        """End it wherever it is; harmless if it has ended."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._strand.close()


class Turns:
    """Lets so many strands go on at once, in whatever threads they run; the rest queue.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._queue: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    async def take(self, deadline_s: float = math.inf) -> None:
        """Return when it is our turn; :meth:`give` it back.

        Args:
            deadline_s: by ``time.monotonic``.

        Raises:
            TimeoutError: the deadline passed.
        """
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn: Future[None] = Future()
            self._queue.append(turn)
        try:
            await result(turn, deadline_s)
        except BaseException:
            if not turn.cancelled():
                self.give()  # it came at the last moment
            raise

    def give(self) -> None:
        """Let the next one go on."""
        while True:
            with self._lock:
                if not self._queue:
                    self._free += 1
                    return
                turn = self._queue.popleft()
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)
                return


class Strands:
    """A thread that runs strands; each goes on as soon as what it waits for is there.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._poller = select.epoll()
        self._woken, self._wake = socket.socketpair()
        self._listeners: dict[int, Callable[[], None]] = {}
        self._by_number: dict[int, tuple[_Wait, Strand]] = {}
        self._others: dict[_Wait, Strand] = {}
        self._done: deque[_Wait] = deque()
        self._later: deque[Callable[[], None]] = deque()
        self._is_stopping = False
        self._grace_s = 0.0
        self._began_s = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        for sock in (self._woken, self._wake):
            sock.setblocking(False)
        self.listen(self._woken, self._empty_wakes)

    def start(self) -> None:
        """Begin to run."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Listen no more, let strands end, then close those that do not; blocks.

        Args:
            grace_s: how long they may take. A thread that is held up meanwhile is left alone.
        """
        self._grace_s, self._is_stopping = grace_s, True
        self._wake_up()
        self._thread.join(grace_s + _ENDED_S)
        if not self._thread.is_alive():
            for each in (self._poller, self._woken, self._wake):
                each.close()

    def listen(self, sock: socket.socket, heard: Callable[[], None]) -> None:
        """Have a function called whenever a socket is readable; it must neither wait nor raise."""
        self._listeners[sock.fileno()] = heard
        self._poller.register(sock.fileno(), select.EPOLLIN)

    def ignore(self, sock: socket.socket) -> None:
        """Listen to a socket no more."""
        if self._listeners.pop(sock.fileno(), None) is not None:
            self._poller.unregister(sock.fileno())

    def spawn(self, strand: Strand) -> None:
        """Run a strand up to its first wait, and on from there; in this thread only."""
        self._go_on(strand)

    def later(self, work: Callable[[], None]) -> None:
        """Have a function called once no strand is under way, and soon anyway; in this thread only.

        What is done in a row costs half of what it does between other things: processors
        know it by then. A call that fails is logged.
        """
        self._later.append(work)

    def busy_s(self) -> float:
        """How long a strand has gone on by now without waiting; 0 while all of them wait.

        Endless if the thread has ended.
        """
        if not self._thread.is_alive():
            return math.inf
        began_s = self._began_s
        return time.monotonic() - began_s if began_s else 0.0

    def _run(self) -> None:
        _here.strands = self
        looked_s, end_s = time.monotonic(), 0.0
        while True:
            if self._is_stopping:
                for number in self._listeners.keys() - {self._woken.fileno()}:
                    self._poller.unregister(number)
                    del self._listeners[number]
                end_s = end_s or time.monotonic() + self._grace_s
                if not (self._by_number or self._others) or time.monotonic() >= end_s:
                    break
            is_waiting = self._by_number or self._others
            pause_s = GRAIN_S if is_waiting else 0 if self._later else -1
            ready = self._poller.poll(0 if self._done else pause_s)
            if len(self._later) >= MOST_LATER or not (ready or is_waiting):
                self._do_later()
            for number, _ in ready:
                if (found := self._by_number.pop(number, None)) is not None:
                    self._go_on(found[1])
                elif (heard := self._listeners.get(number)) is not None:
                    self._began_s = time.monotonic()
                    heard()
            while self._done:
                strand = self._others.pop(self._done.popleft(), None)
                if strand is not None:
                    self._go_on(strand)
            if (now_s := time.monotonic()) - looked_s >= GRAIN_S:
                looked_s = now_s
                self._end_late(now_s)
                self._do_later()
            self._began_s = 0.0
        for strand in [*(strand for _, strand in self._by_number.values()), *self._others.values()]:
            strand.close()
        self._do_later()

    def _do_later(self) -> None:
        while self._later:
            self._began_s = time.monotonic()
            try:
                self._later.popleft()()
            except Exception:
                log.exception("what was left for later failed: a bug")

    def _end_late(self, now_s: float) -> None:
        late = [found for found in self._by_number.values() if found[0].deadline_s <= now_s]
        for wait, strand in late:
            del self._by_number[wait.number]
            self._poller.unregister(wait.number)
            is_ready = _is_ready(wait.number, wait.events)
            self._go_on(strand, None if is_ready else TimeoutError())
        for wait in [wait for wait in self._others if wait.deadline_s <= now_s]:
            self._go_on(self._others.pop(wait), TimeoutError())

    def _go_on(self, strand: Strand, error: Exception | None = None) -> None:
        self._began_s = time.monotonic()
        try:
            wait = strand.send(None) if error is None else strand.throw(error)
        except StopIteration:
            return
        except Exception:
            log.exception("a strand failed: a bug")
            return
        if not wait.events:
            self._others[wait] = strand
            # It keeps what it calls, and would keep itself by way of the wait.
            future, wait.future = wait.future, None
            if future is not None:
                future.add_done_callback(partial(self._tell, wait))
            return
        try:
            self._watch(wait)
        except (OSError, ValueError) as reason:  # no memory, or no file any more
            self._go_on(strand, reason)
        else:
            self._by_number[wait.number] = wait, strand

    def _watch(self, wait: _Wait) -> None:
        # Once it has fired it is silent, and whoever closes the file ends it.
        events = wait.events | select.EPOLLONESHOT
        try:
            self._poller.register(wait.number, events)
        except FileExistsError:  # not the first wait for it
            self._poller.modify(wait.number, events)

    def _tell(self, wait: _Wait, _: Future[Any]) -> None:
        """Have a strand go on; called in any thread."""
        self._done.append(wait)
        if threading.current_thread() is not self._thread:
            self._wake_up()

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):  # full of wakes already, or closed
            self._wake.send(b".")

    def _empty_wakes(self) -> None:
        with contextlib.suppress(OSError):
            self._woken.recv(4096)
