"""Strands: the same coroutine in an event loop and in a thread of its own."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from mailhooks.strand import (
    MOST_LATER,
    Begun,
    Strands,
    Turns,
    pause,
    readable,
    result,
    writable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")
PATIENCE_S = 60.0


def in_loop(strand: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What it comes to in an event loop."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await strand()

    return asyncio.run(bounded())


def in_thread(strand: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What it comes to in a thread of strands."""
    return among(lambda _: strand())


def among(strand: Callable[[Strands], Coroutine[Any, Any, T]]) -> T:
    """The same for a strand that knows the others; what is left for later is done as well."""
    told: Future[T] = Future()
    strands = Strands("test")

    async def run() -> None:
        try:
            told.set_result(await strand(strands))
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            told.set_exception(error)

    with running(strands, run):
        return told.result(PATIENCE_S)


@contextmanager
def running(strands: Strands, strand: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """The thread runs, and has begun with a strand."""
    begin, wake = socket.socketpair()

    def heard() -> None:
        strands.ignore(begin)
        strands.spawn(strand())

    with begin, wake:
        strands.listen(begin, heard)
        strands.start()
        wake.send(b".")
        try:
            yield
        finally:
            strands.stop(PATIENCE_S)


@pytest.fixture(params=[in_loop, in_thread])
def run(request: pytest.FixtureRequest) -> Any:
    """Both ways to run a strand."""
    return request.param


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends that do not block."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def test_a_socket_is_waited_for_again_and_again(
    run: Any, pair: tuple[socket.socket, socket.socket]
) -> None:
    """It is the same file every time."""
    ours, theirs = pair

    async def strand() -> list[bytes]:
        found = []
        for number in range(3):
            theirs.send(b"%d" % number)
            await readable(ours, time.monotonic() + PATIENCE_S)
            found.append(ours.recv(10))
        await writable(ours)
        return found

    assert run(strand) == [b"0", b"1", b"2"]


def test_a_wait_ends_at_its_deadline_and_the_next_one_begins_anew(
    run: Any, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Nothing of the first is left behind."""
    ours, theirs = pair
    never: Future[None] = Future()

    async def strand() -> bytes:
        with pytest.raises(TimeoutError):
            await readable(ours, time.monotonic() + 0.01)
        with pytest.raises(TimeoutError):
            await result(never, time.monotonic() + 0.01)
        await pause(0.01)
        theirs.send(b"later")
        await readable(ours)
        return ours.recv(10)

    assert run(strand) == b"later"
    assert never.cancelled()


def test_what_has_come_counts_although_the_deadline_has_passed(run: Any) -> None:
    """A thread that was held up for longer than a deadline does not lose what came in time."""

    async def wait(sock: socket.socket, other: socket.socket) -> str:
        passed_s = time.monotonic() - 1
        other.send(b"in time")
        await readable(sock, passed_s)
        await writable(sock, passed_s)
        sock.recv(64)
        try:
            await readable(sock, passed_s)
        except TimeoutError:
            return "late"
        return "early"

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert run(lambda: wait(ours, theirs)) == "late"


def test_what_another_thread_came_to_counts_although_the_deadline_has_passed(run: Any) -> None:
    """A thread that hears of the end and of the deadline at once takes the end."""
    future: Future[str] = Future()

    async def wait() -> str:
        future.set_running_or_notify_cancel()
        begun = Begun(result(future, time.monotonic()))
        await pause(0)  # in an event loop it begins only now
        future.set_result("in time")
        return await begun

    assert run(wait) == "in time"


def test_what_another_thread_comes_to_is_waited_for(run: Any) -> None:
    """Also what it raises, and what it came to before."""
    there: Future[str] = Future()
    there.set_result("there")

    async def strand() -> list[str]:
        later: Future[str] = Future()
        threading.Timer(0.01, later.set_result, ["later"]).start()
        found = [await result(there), await result(later)]
        wrong: Future[str] = Future()
        threading.Timer(0.01, wrong.set_exception, [ValueError("wrong")]).start()
        with pytest.raises(ValueError, match="wrong"):
            await result(wrong, math.inf)
        return found

    assert run(strand) == ["there", "later"]


def test_a_begun_strand_goes_on_while_others_do(
    run: Any, pair: tuple[socket.socket, socket.socket]
) -> None:
    """It has its value, its error or its end."""
    ours, theirs = pair
    ended = threading.Event()

    async def asked() -> bytes:
        await readable(ours)
        return ours.recv(10)

    async def wrong() -> None:
        raise ValueError("wrong")

    async def endless() -> None:
        try:
            await pause(PATIENCE_S)
        finally:
            ended.set()

    async def strand() -> bytes:
        begun, failed, third = Begun(asked()), Begun(wrong()), Begun(endless())
        await pause(0)
        third.close()
        theirs.send(b"answer")
        with pytest.raises(ValueError, match="wrong"):
            await failed
        return await begun

    assert run(strand) == b"answer"
    assert ended.is_set()


def test_no_more_strands_have_a_turn_than_there_are(run: Any) -> None:
    """Who gave up waiting is passed over, and a turn given back is the next one's."""

    async def strand() -> list[str]:
        turns, order = Turns(1), []

        async def next_one() -> None:
            await turns.take(time.monotonic() + PATIENCE_S)
            order.append("next")
            turns.give()

        await turns.take()
        with pytest.raises(TimeoutError):
            await turns.take(time.monotonic() + 0.01)
        waiting = Begun(next_one())
        await pause(0)
        order.append("first")
        turns.give()
        await waiting
        await turns.take(time.monotonic())
        return order

    assert run(strand) == ["first", "next"]


def test_a_strand_that_fails_ends_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The thread goes on, and the log says what happened."""
    strands = Strands("test")
    begin, wake = socket.socketpair()
    begin.setblocking(False)
    heard: list[bytes] = []
    twice = threading.Event()

    async def fail() -> None:
        raise RuntimeError("oops")

    def hear() -> None:
        heard.append(begin.recv(1))
        strands.spawn(fail())
        if len(heard) == 2:
            twice.set()

    with begin, wake:
        strands.listen(begin, hear)
        strands.start()
        wake.send(b"..")
        assert twice.wait(PATIENCE_S)
        strands.stop(PATIENCE_S)
    assert caplog.text.count("oops") >= 2


def test_what_is_left_for_later_is_done_when_no_strand_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once then: the thread waits for nothing else."""
    monkeypatch.setattr("mailhooks.strand.GRAIN_S", PATIENCE_S)  # whatever holds the machine up
    done: list[str] = []
    strands = Strands("test")
    ours, theirs = socket.socketpair()
    ended = threading.Event()

    async def strand() -> None:
        strands.later(partial(done.append, "later"))
        strands.later(ended.set)
        for _ in range(3):
            await readable(ours)  # at once, again and again
            done.append("went on")

    with ours, theirs:
        theirs.send(b".")
        with running(strands, strand):
            assert ended.wait(PATIENCE_S)
            assert done == ["went on"] * 3 + ["later"]


def test_what_is_left_for_later_does_not_wait_for_a_strand_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not for longer than a grain."""
    monkeypatch.setattr("mailhooks.strand.GRAIN_S", 0.001)

    async def strand(strands: Strands) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            strands.later(partial(theirs.sendall, b"."))
            await readable(ours, time.monotonic() + PATIENCE_S)
            assert ours.recv(1) == b"."

    among(strand)


def test_what_is_left_for_later_is_done_soon_even_if_strands_never_rest() -> None:
    """It neither gathers for ever nor waits for ever."""
    done: list[int] = []

    async def strand(strands: Strands) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b".")
            until_s = time.monotonic() + PATIENCE_S
            for number in range(MOST_LATER):
                strands.later(partial(done.append, number))
            await readable(ours)
            await readable(ours)
            assert len(done) == MOST_LATER
            strands.later(partial(done.append, -1))
            while -1 not in done and time.monotonic() < until_s:
                await readable(ours)
            done.append(-2)

    among(strand)
    assert done == [*range(MOST_LATER), -1, -2]


def test_what_fails_later_is_logged_and_the_rest_is_done(caplog: pytest.LogCaptureFixture) -> None:
    """Also what waits while the thread is told to stop."""
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError("oops")

    async def strand(strands: Strands) -> None:
        strands.later(fail)
        strands.later(lambda: done.append("later"))

    among(strand)
    assert done == ["later"]
    assert "oops" in caplog.text


def test_a_wait_that_cannot_be_watched_fails_and_the_thread_goes_on() -> None:
    """For a file that is closed already, for instance."""

    async def strand() -> str:
        closed = socket.socket()
        closed.close()
        with pytest.raises((OSError, ValueError)):
            await readable(closed)
        await pause(0)
        return "went on"

    assert in_thread(strand) == "went on"


def test_a_thread_knows_for_how_long_it_is_held_up() -> None:
    """Not while it waits, even for what comes too late."""
    strands = Strands("test")
    assert strands.busy_s() == math.inf
    begin, wake = socket.socketpair()
    entered, release = threading.Event(), threading.Event()

    async def strand() -> None:
        await pause(0.01)
        entered.set()
        release.wait(PATIENCE_S)

    def hear() -> None:
        begin.recv(1)
        strands.spawn(strand())

    with begin, wake:
        strands.listen(begin, hear)
        strands.start()
        wake.send(b".")
        assert entered.wait(PATIENCE_S)
        while not strands.busy_s():
            pass
        release.set()
        until_s = time.monotonic() + PATIENCE_S
        while strands.busy_s() and time.monotonic() < until_s:
            pass
        assert strands.busy_s() == 0
        strands.stop(PATIENCE_S)
    assert strands.busy_s() == math.inf
