"""A thread runs strands for an event loop."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from mailhooks.daemon.clerk import Clerk
from mailhooks.strand import pause

GRACE_S = 60.0


async def test_who_asked_gets_what_came_of_it_be_it_an_error() -> None:
    """All of it happens in one thread, in the order it was asked for."""
    clerk = Clerk()
    done: list[tuple[int, str]] = []

    async def work(number: int) -> int:
        done.append((number, threading.current_thread().name))
        if number == 3:
            raise ValueError(number)
        return number * 2

    found = await asyncio.gather(*(clerk.do(work(it)) for it in range(6)), return_exceptions=True)
    assert [it for it in found if isinstance(it, int)] == [0, 2, 4, 8, 10]
    assert isinstance(found[3], ValueError)
    assert done == [(number, "clerk") for number in range(6)]
    await clerk.stop(GRACE_S)


async def test_the_loop_goes_round_while_a_strand_blocks() -> None:
    """Deliveries are not kept waiting by a slow disk."""
    clerk, go_on = Clerk(), threading.Event()

    async def block() -> bool:
        return go_on.wait(60)

    blocked = asyncio.create_task(clerk.do(block()))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not blocked.done()
    go_on.set()
    assert await blocked
    await clerk.stop(GRACE_S)


async def test_strands_that_wait_let_others_go_on() -> None:
    """While Rspamd learns of one user, another one's sample is sent."""
    clerk, go_on = Clerk(), threading.Event()

    async def wait() -> str:
        while not go_on.is_set():
            await pause(0.001)
        return "first"

    async def tell() -> str:
        go_on.set()
        return "second"

    both = asyncio.gather(clerk.do(wait()), clerk.do(tell()))
    assert list(await both) == ["first", "second"]
    await clerk.stop(GRACE_S)


async def test_what_was_asked_for_is_done_though_nobody_waits_for_it_any_more() -> None:
    """Half of a sample's end would be worse than all of it."""
    clerk, go_on = Clerk(), threading.Event()
    done: list[str] = []

    async def work(name: str) -> None:
        if name == "first":
            go_on.wait(60)
        done.append(name)

    first, second = (asyncio.create_task(clerk.do(work(name))) for name in ("first", "second"))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await clerk.do(work("third"))
    assert done == ["first", "second", "third"]
    await clerk.stop(GRACE_S)


async def test_stopping_waits_for_what_is_under_way_and_is_no_end() -> None:
    """The ledger is closed afterwards, and not before."""
    clerk = Clerk()
    done: list[int] = []

    async def work(number: int) -> int:
        await pause(0.01)
        done.append(number)
        return number

    await clerk.stop(GRACE_S)  # it never began
    tasks = [asyncio.create_task(clerk.do(work(number))) for number in range(10)]
    while not done:
        await asyncio.sleep(0.001)
    await clerk.stop(GRACE_S)
    assert sorted(done) == list(range(10))
    assert await asyncio.gather(*tasks) == list(range(10))
    assert await clerk.do(work(10)) == 10
    await clerk.stop(GRACE_S)


async def test_a_strand_that_does_not_end_is_closed() -> None:
    """A Rspamd that does not answer does not keep the service from stopping."""
    clerk = Clerk()
    ends: list[str] = []

    async def work() -> None:
        try:
            ends.append("begun")
            await pause(3600)
        finally:
            ends.append("closed")

    task = asyncio.create_task(clerk.do(work()))
    while not ends:
        await asyncio.sleep(0.001)
    began_s = time.monotonic()
    await clerk.stop(0.01)
    assert time.monotonic() - began_s < 60
    assert ends == ["begun", "closed"]
    task.cancel()
