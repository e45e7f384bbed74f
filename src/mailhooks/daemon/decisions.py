"""Delivery decisions on their way into the ledger: collected, and written shortly afterwards.

A delivery never waits for the ledger, and never fails over it: what is decided
is kept in memory for half a second and written in batches from a thread. While
the ledger cannot be written, some thousands of decisions wait; what comes on
top of them is lost, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from prometheus_client import Counter

from mailhooks.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.ledger import Decision, Ledger

log = logging.getLogger("mailhooks.classify")

EVERY_S = 0.5
"""The longest a decision waits before it is written."""

AT_ONCE = 200
"""So many are written without waiting, and at most so many in one transaction."""

MOST_WAITING = 10_000
"""Some ten megabytes, and at ten deliveries a second a quarter of an hour."""

RETRY_S = 5.0
"""Seconds between two tries while the ledger cannot be written."""

DECISIONS = Counter(
    "mailhooks_decisions_total",
    "Decisions of deliveries on their way into the ledger: what became of them.",
    ["result"],
)
FAILURES = Counter(
    "mailhooks_decision_failures_total", "Times decisions could not be written to the ledger."
)
# A series that begins with its first event hides that event from rate().
for _result in ("written", "lost"):
    DECISIONS.labels(_result)


class Decisions:
    """Takes decisions, and writes them to the ledger in the background.

    Args:
        open_ledger: opens the ledger; called again while it fails.
        every_s: the longest a decision waits.
        retry_s: seconds between two tries while the ledger cannot be written.
        most_waiting: decisions kept in memory at most.
    """

    def __init__(
        self,
        open_ledger: Callable[[], Ledger],
        *,
        every_s: float = EVERY_S,
        retry_s: float = RETRY_S,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._open_ledger = open_ledger
        self._every_s = every_s
        self._retry_s = retry_s
        self._most_waiting = most_waiting
        self._waiting: deque[Decision] = deque()
        self._ledger: Ledger | None = None
        self._writing: asyncio.Task[bool] | None = None
        self._some = asyncio.Event()
        self._many = asyncio.Event()
        self._is_told = False  # the writer, of what waits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._complaint = ""

    def note(self, decision: Decision) -> None:
        """Have a decision written soon; never waits and never fails. In any thread."""
        if len(self._waiting) >= self._most_waiting or not _is_text(decision.user):
            DECISIONS.labels("lost").inc()
            return
        self._waiting.append(decision)
        # The first of a batch wakes the writer, who looks at all that have come.
        if not self._is_told:
            self._is_told = True
            self._tell(self._some)
        if len(self._waiting) >= AT_ONCE and not self._many.is_set():
            self._tell(self._many)

    def _tell(self, event: asyncio.Event) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the writer with it
                self._loop.call_soon_threadsafe(event.set)

    async def run(self) -> None:
        """Write for ever; cancel to stop. What still waits is then written, in one last try."""
        self._loop = asyncio.get_running_loop()
        if self._waiting:
            self._some.set()
        try:
            while True:
                await self._some.wait()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._every_s):
                        await self._many.wait()
                if not await self._write_all():
                    await asyncio.sleep(self._retry_s)
        finally:
            if self._writing is not None:
                await asyncio.wait([self._writing])
            await self._write_all()
            DECISIONS.labels("lost").inc(len(self._waiting))
            self._waiting.clear()
            if self._ledger is not None:
                with contextlib.suppress(LedgerError):
                    self._ledger.close()

    async def _write_all(self) -> bool:
        """Write what waits; returns whether that succeeded."""
        while self._waiting:
            # A thread goes on when its caller is cancelled: it must be waited for, or the last
            # try would write the same decisions once more.
            self._writing = asyncio.create_task(self._write_some())
            if not await asyncio.shield(self._writing):
                return False
        self._some.clear()
        self._many.clear()
        self._is_told = False
        if self._waiting:  # it came just now, and nobody was told
            self._some.set()
        return True

    async def _write_some(self) -> bool:
        batch = list(islice(self._waiting, AT_ONCE))
        try:
            await asyncio.to_thread(self._write, batch)
        except Exception as error:  # noqa: BLE001 - said with its traceback; the next batch must go on
            self._complain(error)
            return False
        for _ in batch:
            self._waiting.popleft()
        DECISIONS.labels("written").inc(len(batch))
        if self._complaint:
            self._complaint = ""
            log.info("decisions are written to the ledger again")
        return True

    def _write(self, batch: list[Decision]) -> None:
        if self._ledger is None:
            self._ledger = self._open_ledger()
        self._ledger.decide(*batch)

    def _complain(self, error: Exception) -> None:
        """Count a failure, and say it once for each trouble; whatever it was, deliveries go on."""
        FAILURES.inc()
        if str(error) == self._complaint:
            return
        self._complaint = str(error)
        log.error(
            "decisions cannot be written to the ledger: %s",
            error,
            exc_info=None if isinstance(error, LedgerError) else error,
        )


def _is_text(user: str) -> bool:
    """Whether a name can be written down: Dovecot may hand on bytes that are no UTF-8."""
    try:
        user.encode()
    except UnicodeEncodeError:
        return False
    return True
