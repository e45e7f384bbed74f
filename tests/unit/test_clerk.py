"""One thread does what blocks."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mailhooks.daemon.clerk import Clerk


async def test_what_is_asked_for_is_done_in_order_in_one_thread() -> None:
    """Whoever asked gets what came of it, be it an error."""
    clerk = Clerk()
    done: list[tuple[int, str]] = []

    def work(number: int) -> int:
        done.append((number, threading.current_thread().name))
        if number == 3:
            raise ValueError(number)
        return number * 2

    found = await asyncio.gather(*(clerk.do(work, it) for it in range(6)), return_exceptions=True)
    assert [it for it in found if isinstance(it, int)] == [0, 2, 4, 8, 10]
    assert isinstance(found[3], ValueError)
    assert done == [(number, "clerk") for number in range(6)]
    await clerk.stop()


async def test_the_loop_goes_round_while_something_blocks() -> None:
    """Deliveries are not kept waiting by a slow disk."""
    clerk, go_on = Clerk(), threading.Event()
    blocked = asyncio.create_task(clerk.do(go_on.wait, 60))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not blocked.done()
    go_on.set()
    assert await blocked
    await clerk.stop()


async def test_what_was_asked_for_is_done_though_nobody_waits_for_it_any_more() -> None:
    """Half of a sample's end would be worse than all of it."""
    clerk, go_on = Clerk(), threading.Event()
    done: list[str] = []
    first = asyncio.create_task(clerk.do(go_on.wait, 60))
    second = asyncio.create_task(clerk.do(done.append, "second"))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await clerk.do(done.append, "third")
    assert done == ["second", "third"]
    await clerk.stop()


async def test_stopping_waits_for_what_is_under_way_and_is_no_end() -> None:
    """The ledger is closed afterwards, and not before."""
    clerk = Clerk()
    done: list[int] = []
    await clerk.stop()  # it never began
    tasks = [asyncio.create_task(clerk.do(done.append, number)) for number in range(100)]
    await asyncio.sleep(0)
    await clerk.stop()
    assert done == list(range(100))
    await asyncio.gather(*tasks)
    assert await clerk.do(len, done) == 100
    await clerk.stop()


def test_a_loop_that_has_ended_is_told_nothing() -> None:
    """The thread of a service that was torn down ends quietly."""
    clerk, go_on = Clerk(), threading.Event()
    done: list[bool] = []

    def work() -> None:
        done.append(go_on.wait(60))

    async def ask() -> None:
        task = asyncio.create_task(clerk.do(work))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(ask())
    go_on.set()
    asyncio.run(clerk.stop())
    assert done == [True]
