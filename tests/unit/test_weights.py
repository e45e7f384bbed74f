"""How much each set of statistics has learned."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from mailhooks.daemon.weights import REMEMBERED_S, YOUNG_REMEMBERED_S, Weights
from mailhooks.errors import StatisticsError
from mailhooks.lesson import Lesson

if TYPE_CHECKING:
    from collections.abc import Iterator


def counts(spam: int, ham: int) -> dict[Lesson, int]:
    return {Lesson.SPAM: spam, Lesson.HAM: ham}


LEAST = counts(7, 7)


class FakeRedis:
    """Counts that grow by one whenever somebody asks; ``hang`` holds answers back."""

    def __init__(self) -> None:
        self.asked = 0
        self.ham = 1000
        self.away = False
        self.free = threading.Event()
        self.free.set()

    def learned(self, _user: str) -> dict[Lesson, int]:
        self.free.wait(30)
        if self.away:
            raise StatisticsError("Redis is away")
        self.asked += 1
        return counts(1000 + self.asked, self.ham)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def redis() -> FakeRedis:
    return FakeRedis()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def weights(redis: FakeRedis, clock: Clock) -> Iterator[Weights]:
    found = Weights(redis.learned, 7, clock=clock)
    yield found
    redis.free.set()
    found.close()


async def test_a_count_is_remembered_for_a_while(weights: Weights, clock: Clock) -> None:
    """Redis is not asked for every message, and a later count is seen in the end."""
    assert await weights.of("ann", 30) == counts(1001, 1000)
    assert await weights.of("ann", 30) == counts(1001, 1000)
    assert await weights.of("bob", 30) == counts(1002, 1000)
    clock.now += REMEMBERED_S
    assert await weights.of("ann", 30) == counts(1003, 1000)


async def test_without_redis_the_least_is_assumed(
    weights: Weights, redis: FakeRedis, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A verdict is given all the same; the log says it once, until Redis is back."""
    redis.away = True
    assert await weights.of("ann", 30) == LEAST
    assert await weights.of("bob", 30) == LEAST
    assert [record.getMessage() for record in caplog.records] == [
        "blending without counts of learned messages: Redis is away"
    ]
    redis.away = False
    clock.now += REMEMBERED_S
    assert await weights.of("ann", 30) == counts(1001, 1000)
    redis.away = True
    clock.now += REMEMBERED_S
    assert await weights.of("ann", 30) == counts(1001, 1000), "an old count is better than none"
    assert len(caplog.records) == 2


async def test_a_redis_that_hangs_is_not_waited_for(weights: Weights, redis: FakeRedis) -> None:
    """Its answer is given up, and other threads are not used up by it."""
    redis.free.clear()
    users = [f"user{number}" for number in range(50)]
    found = await asyncio.gather(*(weights.of(user, 0.01) for user in users))
    assert found == [LEAST] * 50
    assert await asyncio.to_thread(lambda: "free") == "free"


async def test_without_a_redis_configured_the_least_is_assumed() -> None:
    """``redis.url`` may be empty."""
    weights = Weights(None, 7)
    assert await weights.of("ann", 30) == LEAST
    weights.close()


async def test_young_statistics_are_asked_for_again_soon(
    weights: Weights, redis: FakeRedis, clock: Clock
) -> None:
    """Every message counts there; and at once, if it was learned here."""
    redis.ham = 3
    assert await weights.of("ann", 30) == counts(1001, 3)
    assert await weights.of("ann", 30) == counts(1001, 3)
    clock.now += YOUNG_REMEMBERED_S
    assert await weights.of("ann", 30) == counts(1002, 3)
    weights.forget("ann")
    weights.forget("nobody")
    assert await weights.of("ann", 30) == counts(1003, 3)
