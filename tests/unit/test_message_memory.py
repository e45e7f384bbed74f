from __future__ import annotations

import asyncio

from mailhooks.dovecot.memory import MessageMemory, Share


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(3):
        await asyncio.sleep(0)


def grow(memory: MessageMemory, share: Share, size_bytes: int) -> asyncio.Task[None]:
    return asyncio.create_task(memory.grow(share, size_bytes))


async def test_within_the_limit() -> None:
    """Calls that fit together do not wait, and give back what they took."""
    memory = MessageMemory(limit_bytes=10, piece_bytes=5)
    first, second = Share(), Share()
    await memory.grow(first, 4)
    await memory.grow(second, 6)
    assert memory.held_bytes == 10
    memory.release(first)
    memory.release(second)
    memory.release(second)
    assert (memory.held_bytes, memory.peak_bytes) == (0, 10)


async def test_younger_calls_wait_for_room() -> None:
    """Over the limit only the oldest call goes on; the rest follow when it has ended."""
    memory = MessageMemory(limit_bytes=10, piece_bytes=5)
    first, second = Share(), Share()
    await memory.grow(first, 4)
    waiting = grow(memory, second, 8)
    await settle()
    assert not waiting.done()
    await memory.grow(first, 4)
    memory.release(first)
    await settle()
    assert waiting.done()


async def test_privilege_passes_to_the_next_oldest() -> None:
    """When all that is held belongs to waiting calls, they end one after another."""
    memory = MessageMemory(limit_bytes=10, piece_bytes=5)
    shares = [Share() for _ in range(4)]
    tasks = [grow(memory, share, 20) for share in shares]
    for position, share in enumerate(shares):
        await settle()
        assert [task.done() for task in tasks] == [index <= position for index in range(4)]
        memory.release(share)
    assert memory.held_bytes == 0


async def test_only_as_many_as_fit_are_woken() -> None:
    """Room for one more piece lets one call go on besides the oldest, not the whole crowd."""
    memory = MessageMemory(limit_bytes=40, piece_bytes=10)
    first, *others = [Share() for _ in range(8)]
    await memory.grow(first, 41)
    tasks = [grow(memory, share, 5) for share in others]
    await settle()
    assert not any(task.done() for task in tasks)
    memory.release(first)  # leaves 35 held and room for less than one piece
    await settle()
    assert [task.done() for task in tasks] == [True] + [False] * 6


async def test_cancelled_while_waiting() -> None:
    """A call that runs out of time while it waits gives its bytes back."""
    memory = MessageMemory(limit_bytes=10, piece_bytes=5)
    first, second, third = Share(), Share(), Share()
    await memory.grow(first, 8)
    doomed, patient = grow(memory, second, 8), grow(memory, third, 1)
    await settle()
    doomed.cancel()
    await settle()
    memory.release(second)
    await settle()
    assert doomed.cancelled()
    assert patient.done()
    assert memory.held_bytes == 9
