from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, cast

from prometheus_client import REGISTRY

from mailhooks.daemon.decisions import AT_ONCE, Decisions
from mailhooks.errors import LedgerError
from mailhooks.ledger import Decision, Ledger, Source, SqliteLedger
from mailhooks.policy import Folder, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    import pytest

FOR_EVER_S = 3600.0


def decision(number: int = 0, user: str = "ann") -> Decision:
    return Decision(
        user=user,
        digest=f"d{number}",
        time=float(number),
        folder=Folder.INBOX,
        reason=Reason.SCORE_ALONE,
        source=Source.CARRIED,
        objective=1.0,
        threshold=6.0,
    )


class FakeLedger:
    """Holds what was written; fails or hangs if it is told to."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Decision]] = []
        self.failing: Exception | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.changed = asyncio.Event()
        self.tries = 0
        self.closed = False
        self._loop = asyncio.get_running_loop()

    def decide(self, *decisions: Decision) -> None:
        self.tries += 1
        self._loop.call_soon_threadsafe(self.changed.set)
        self.may_go_on.wait(60)
        if self.failing is not None:
            raise self.failing
        self.batches.append(decisions)
        self._loop.call_soon_threadsafe(self.changed.set)

    def close(self) -> None:
        self.closed = True

    @property
    def written(self) -> list[Decision]:
        return [each for batch in self.batches for each in batch]

    async def tried(self, times: int) -> None:
        await self._until(lambda: self.tries >= times)

    async def wrote(self, number: int) -> None:
        await self._until(lambda: len(self.written) >= number)

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                self.changed.clear()
                await self.changed.wait()


@contextlib.asynccontextmanager
async def running(decisions: Decisions) -> AsyncIterator[None]:
    task = asyncio.create_task(decisions.run())
    await asyncio.sleep(0)  # it begins
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def total(result: str) -> float:
    return REGISTRY.get_sample_value("mailhooks_decisions_total", {"result": result}) or 0.0


async def opened(
    *, every_s: float = 0.0, retry_s: float = 0.0, most: int = 1000
) -> tuple[FakeLedger, Decisions]:
    ledger = FakeLedger()
    decisions = Decisions(
        lambda: cast("Ledger", ledger), every_s=every_s, retry_s=retry_s, most_waiting=most
    )
    return ledger, decisions


async def test_decisions_are_written_soon_and_in_their_order() -> None:
    """Nobody has to ask for it."""
    ledger, decisions = await opened()
    before = total("written")
    async with running(decisions):
        for number in range(3):
            decisions.note(decision(number))
        await ledger.tried(1)
    assert ledger.written == [decision(number) for number in range(3)]
    assert total("written") == before + 3


async def test_many_decisions_do_not_wait_and_go_in_batches() -> None:
    """A busy host writes them by the hundred, however long it might have waited."""
    ledger, decisions = await opened(every_s=FOR_EVER_S)
    async with running(decisions):
        for number in range(AT_ONCE + 1):
            decisions.note(decision(number))
        await ledger.tried(2)
    assert [len(batch) for batch in ledger.batches] == [AT_ONCE, 1]


async def test_what_waits_at_the_end_is_written_once() -> None:
    """A stop loses nothing, not even if it comes while a thread writes."""
    ledger, decisions = await opened(every_s=FOR_EVER_S)
    async with running(decisions):
        decisions.note(decision(1))
    assert ledger.written == [decision(1)]
    assert ledger.closed

    ledger, decisions = await opened()
    async with running(decisions):
        ledger.may_go_on.clear()
        decisions.note(decision(1))
        await ledger.tried(1)
        decisions.note(decision(2))
        asyncio.get_running_loop().call_later(0.05, ledger.may_go_on.set)
    assert ledger.written == [decision(1), decision(2)]


async def test_trouble_is_said_once_and_counted_and_nothing_is_lost_by_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A ledger that cannot be written is tried again until it can."""
    caplog.set_level(logging.INFO)
    ledger, decisions = await opened()
    failures = REGISTRY.get_sample_value("mailhooks_decision_failures_total") or 0.0
    ledger.failing = LedgerError("ledger /l: database is locked")
    async with running(decisions):
        decisions.note(decision(1))
        await ledger.tried(3)
        decisions.note(decision(2))
        ledger.failing = None
        await ledger.wrote(2)
    assert ledger.written == [decision(1), decision(2)]
    assert (REGISTRY.get_sample_value("mailhooks_decision_failures_total") or 0.0) >= failures + 3
    # A thread of an earlier test may still have something to say.
    ours = [each.getMessage() for each in caplog.records if each.name == "mailhooks.classify"]
    assert ours == [
        "decisions cannot be written to the ledger: ledger /l: database is locked",
        "decisions are written to the ledger again",
    ]


async def test_a_ledger_that_cannot_be_opened_is_opened_later(tmp_path: Path) -> None:
    """Where an encrypted volume is mounted late, the first decisions are there all the same."""
    path = tmp_path / "volume" / "ledger.sqlite"
    refused = asyncio.Event()
    loop = asyncio.get_running_loop()

    def open_ledger() -> Ledger:
        try:
            return SqliteLedger(path)
        except LedgerError:
            loop.call_soon_threadsafe(refused.set)
            raise

    decisions = Decisions(open_ledger, every_s=0, retry_s=0)
    async with running(decisions):
        decisions.note(decision(1))
        async with asyncio.timeout(60):
            await refused.wait()
        path.parent.mkdir()
    ledger = SqliteLedger(path)
    try:
        assert [each.decision for each in ledger.decisions("ann")] == [decision(1)]
    finally:
        ledger.close()


async def test_memory_is_bounded_and_a_delivery_never_waits() -> None:
    """With a ledger that hangs, noting goes on at once, and what is too much is counted as lost."""
    ledger, decisions = await opened(most=5)
    lost = total("lost")
    async with running(decisions):
        ledger.may_go_on.clear()
        for number in range(8):
            decisions.note(decision(number))
        await ledger.tried(1)
        ledger.may_go_on.set()
    assert ledger.written == [decision(number) for number in range(5)]
    assert total("lost") == lost + 3


async def test_a_name_that_is_no_text_spoils_no_batch() -> None:
    """Dovecot may name a user in bytes that are no UTF-8: that decision alone is lost."""
    ledger, decisions = await opened()
    lost = total("lost")
    async with running(decisions):
        decisions.note(decision(1, user="\udce9"))
        decisions.note(decision(2))
        await ledger.tried(1)
    assert ledger.written == [decision(2)]
    assert total("lost") == lost + 1


async def test_an_unexpected_failure_does_not_end_the_writer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bug is logged with its traceback, and later decisions are still written."""
    ledger, decisions = await opened()
    ledger.failing = RuntimeError("a bug")
    async with running(decisions):
        decisions.note(decision(1))
        await ledger.tried(2)
        ledger.failing = None
    assert ledger.written == [decision(1)]
    assert "RuntimeError" in caplog.text
