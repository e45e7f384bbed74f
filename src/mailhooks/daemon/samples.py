"""From the spool to Rspamd: settle, coalesce, learn, retry, until nothing is left.

Samples of one user and one message form a group. A group is due when its last
sample has settled; then its last lesson is learned, once. A user's move that
another move took back within that time teaches nothing, and neither does a
lesson the ledger says the statistics hold already.

`mailhooks.daemon.groups` says what a group comes to and whose turn it is,
`mailhooks.daemon.tutor` teaches it, exactly once.

The spool is the truth: it is looked through at the start and again and again,
so that samples that another process put there or took away are noticed, and a
spool that was missing is found again. A ledger that cannot be opened delays
learning and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from mailhooks.daemon.groups import Groups, Key
from mailhooks.daemon.tutor import LEARNS, Tutor
from mailhooks.errors import (
    LedgerError,
    RspamdAway,
    RspamdMisconfigured,
    RspamdUnavailable,
    SpoolError,
    StatisticsError,
)
from mailhooks.ledger import DELIVERY
from mailhooks.lesson import Lesson
from mailhooks.retry import delay_s
from mailhooks.spool import Entry, Label, Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.config import LearningSettings
    from mailhooks.daemon.tutor import Count
    from mailhooks.ledger import Ledger
    from mailhooks.rspamd import RspamdClient

log = logging.getLogger("mailhooks.learn")

PRUNE_EVERY_S = 86400.0

NOTICED_S = 0.02
"""How long samples taken by a thread are collected: waking the worker for each of a thousand
that one user moves would take as long as taking them."""

AT_ONCE = 2
"""Groups under way for each learn at once: while Rspamd learns of one, disk and ledger are done
with the one before and ready for the next."""

REFUSAL_S = 300.0
"""How long a sample that could not be put on disk counts as trouble.

A full disk shows in nothing but that. What was refused comes again from the
drop folder every few seconds, so trouble that lasts is renewed.
"""

TAKEN = Counter(
    "mailhooks_samples_taken_total", "Samples put on disk by this process.", ["origin", "lesson"]
)
WAITING = Gauge("mailhooks_samples_waiting", "Samples in the spool that are not learned yet.")
OLDEST_AGE = Gauge(
    "mailhooks_samples_oldest_age_seconds",
    "Time since the user acted whose sample waits longest; 0 without one.",
)
SET_ASIDE = Gauge("mailhooks_samples_set_aside", "Files in the spool's folder bad/.")
JOURNAL = Gauge(
    "mailhooks_spool_journal_usable",
    "1 while samples are taken by way of the spool's journal, 0 while each is synced by itself.",
)
SPOOL_FAILURES = Counter(
    "mailhooks_spool_failures_total", "Times the spool could not be used.", ["during"]
)
# A series that begins with its first event hides that event from rate().
for _origin in ("move", "append", "keyword", DELIVERY):
    for _lesson in Lesson:
        TAKEN.labels(_origin, _lesson.value)
for _during in ("take", "scan", "learn"):
    SPOOL_FAILURES.labels(_during)


class Samples:
    """Takes samples, and learns them in the background.

    Args:
        spool: durable storage.
        open_ledger: opens the ledger; called again while it fails.
        rspamd: learns, in a thread of its own; its calls are strands (:mod:`mailhooks.strand`).
        settings: settle time, retries, connections.
        count: how many messages of a class a user's statistics count, from Redis; a strand,
            raises StatisticsError. None to take Rspamd's word.
        has_shared: whether Rspamd keeps statistics that all users share.
        taught: told of each user whose statistics have just learned.
        clock: seconds since the epoch.
        rng: jitter of retries.
    """

    def __init__(
        self,
        spool: Spool,
        open_ledger: Callable[[], Ledger],
        rspamd: RspamdClient,
        settings: LearningSettings,
        *,
        count: Count | None = None,
        has_shared: bool = False,
        taught: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._spool = spool
        self._open_ledger = open_ledger
        self._settings = settings
        self._taught = taught
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._groups = Groups(self._settle_s)
        self._tutor = Tutor(
            spool,
            rspamd,
            count,
            agreement=settings.shared_agreement if has_shared else 0,
            connections=settings.connections,
        )
        self._changed = asyncio.Event()
        self._complaint: SpoolError | LedgerError | None = None
        self._journal_complaint = ""
        # While Rspamd or Redis is away: tries in a row, and when the next one is due.
        self._outages = 0
        self._resume_at = 0.0
        # The last sample that could not be put on disk: when, and why.
        self._refusal: tuple[float, SpoolError] | None = None
        self._woke_s = self._looked_s = 0.0
        self._noticed: deque[Entry] = deque()
        self._is_told = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping = False

    async def take(
        self,
        user: str,
        lesson: Lesson,
        digest: str,
        origin: str,
        message: bytes,
        *,
        received: float | None = None,
    ) -> None:
        """Make a sample durable and let the worker know.

        Args:
            user: whose statistics learn.
            lesson: what the message is to them.
            digest: of the message's content.
            origin: what made the sample.
            message: all of it.
            received: when the user acted, in seconds since the epoch; None for now.

        Raises:
            SpoolError: it is not durable, and the caller still owns it.
        """
        self._add(
            await asyncio.to_thread(
                self.keep, user, lesson, digest, origin, message, received=received
            )
        )

    def keep(
        self,
        user: str,
        lesson: Lesson,
        digest: str,
        origin: str,
        message: bytes,
        *,
        received: float | None = None,
    ) -> Entry:
        """The first half of :meth:`take`, for any thread; blocks. The other is :meth:`notice`."""
        label = Label(
            user=sys.intern(user),  # ten thousand samples of one user may wait
            lesson=lesson,
            digest=digest,
            origin=origin,
            received=self._clock() if received is None else received,
            size_bytes=len(message),
        )
        try:
            entry = self._spool.put(label, message)
        except SpoolError as error:
            SPOOL_FAILURES.labels("take").inc()
            self._refusal = self._clock(), error
            raise
        self._refusal = None
        TAKEN.labels(origin, lesson.value).inc()
        return entry

    def notice(self, entry: Entry) -> None:
        """Let the worker know of a sample that was kept; for any thread."""
        # Before the worker runs nobody has to know: it looks through the spool first.
        if self._loop is not None:
            self._noticed.append(entry)
            if not self._is_told:
                self._is_told = True
                later = self._loop.call_later
                self._loop.call_soon_threadsafe(later, NOTICED_S, self._add_noticed)
        self._spool.make_ready()

    def _add_noticed(self) -> None:
        self._is_told = False
        while self._noticed:
            self._add(self._noticed.popleft())

    def delivered(self, user: str, lesson: Lesson) -> int:
        """How many of a user's deliveries wait to train as one class."""
        return self._groups.delivered(user, lesson)

    @property
    def waiting(self) -> int:
        """Samples not yet learned, as far as they have been noticed."""
        return len(self._groups.names)

    @property
    def oldest_s(self) -> float:
        """Seconds since the user acted whose sample waits longest; 0 without one."""
        oldest = self._groups.oldest
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    @property
    def went_round_s(self) -> float:
        """When the worker and the look through the spool both had last gone round.

        By ``time.monotonic``; 0 before the first time.
        """
        return min(self._woke_s, self._looked_s)

    @property
    def pause_s(self) -> float:
        """Seconds that the worker may rest between two turns."""
        return self._settings.rescan_s

    @property
    def ledger_open(self) -> bool:
        """Whether the ledger is open, without which nothing is learned."""
        return self._tutor.ledger is not None

    @property
    def spool_usable(self) -> bool:
        """Whether the spool could be looked through, and took what came lately."""
        return not isinstance(self._complaint, SpoolError) and not self._refused_lately

    @property
    def journal_trouble(self) -> str:
        """Why samples are taken without the journal, which is safe and slower; else empty."""
        return self._journal_complaint

    @property
    def trouble(self) -> str:
        """What keeps samples from being taken or learned just now; empty if nothing does."""
        if self._complaint is not None:
            return str(self._complaint)
        if self._refusal is not None and self._refused_lately:
            return str(self._refusal[1])
        return "" if self.ledger_open else "the spool has not been looked through yet"

    @property
    def _refused_lately(self) -> bool:
        return self._refusal is not None and self._clock() - self._refusal[0] < REFUSAL_S

    async def run(self) -> None:
        """Learn for ever; cancel to stop. Samples that are not finished stay in the spool."""
        self._loop, self._is_stopping = asyncio.get_running_loop(), False
        WAITING.set_function(lambda: self.waiting)
        OLDEST_AGE.set_function(lambda: self.oldest_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_house())
                try:
                    while True:
                        self._woke_s = time.monotonic()
                        self._changed.clear()
                        wait_s = self._start_due(tasks)
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(wait_s):
                                await self._changed.wait()
                finally:
                    self._is_stopping = True
        finally:
            await self._tutor.stop()
            if self._tutor.ledger is not None:
                self._tutor.ledger.close()

    async def _keep_house(self) -> None:
        """Open what is not open, look through the spool, prune the ledger; for ever."""
        pruned = -PRUNE_EVERY_S
        while True:
            try:
                await self._look_through()
                await self._count_set_aside()
                if self._tutor.ledger is not None and self._clock() - pruned >= PRUNE_EVERY_S:
                    pruned = self._clock()
                    before = pruned - self._settings.keep_days * 86400
                    await asyncio.to_thread(self._tutor.ledger.prune, before)
                self._complaint = None
            except (SpoolError, LedgerError) as error:
                if isinstance(error, SpoolError):
                    SPOOL_FAILURES.labels("scan").inc()
                # Said once for each trouble, not every few seconds.
                said, self._complaint = self._complaint, error
                if str(error) != str(said):
                    log.error("nothing is learned, samples are kept: %s", error)
            self._looked_s = time.monotonic()
            self._changed.set()  # the worker shows that it, too, can still go round
            await asyncio.sleep(self._settings.rescan_s)

    async def _look_through(self) -> None:
        """Notice what is in the spool; at first also what was under way in a crash."""

        def read() -> list[Entry]:
            self._spool.prepare()
            self._spool.clean()
            self._keep_journal()
            return list(self._spool.entries(self._groups.names))

        ledger = self._tutor.ledger
        try:
            if ledger is None:
                ledger = await asyncio.to_thread(self._open_ledger)
                self._groups.suspect(set(await asyncio.to_thread(ledger.attempts)))
            for entry in await asyncio.to_thread(read):
                self._add(entry)
        except BaseException:
            if ledger is not None and self._tutor.ledger is None:
                ledger.close()
            raise
        # Only now: what was under way in a crash is known before anything is learned.
        if self._tutor.ledger is None:
            self._tutor.ledger = ledger
            self._changed.set()

    def _keep_journal(self) -> None:
        """Without a journal all is as safe, and slower: nothing to stop for."""
        try:
            self._spool.keep_journal()
        except SpoolError as error:
            # Said once for each trouble, not every few seconds.
            if str(error) != self._journal_complaint:
                self._journal_complaint = str(error)
                JOURNAL.set(0)
                log.warning("each sample waits for two syncs of the disk: %s", error)
        else:
            self._journal_complaint = ""
            JOURNAL.set(1)

    async def _count_set_aside(self) -> None:
        # A file in bad/ that cannot be read is no reason to learn nothing.
        with contextlib.suppress(SpoolError):
            SET_ASIDE.set(
                await asyncio.to_thread(lambda: sum(1 for _ in self._spool.all_set_aside()))
            )

    def _settle_s(self, label: Label) -> float:
        settings = self._settings
        return settings.delivery_settle_s if label.origin == DELIVERY else settings.settle_s

    def _add(self, entry: Entry) -> None:
        if self._groups.add(entry):
            if self._groups.is_suspect(entry):
                self._tutor.doubt(entry)
            self._changed.set()

    def _start_due(self, tasks: asyncio.TaskGroup) -> float | None:
        """Start what is due, as far as connections allow.

        Returns:
            Seconds until there is more to do; None if something else must happen first.
        """
        if self._tutor.ledger is None or self._is_stopping:
            return None
        now = self._clock()
        if now < self._resume_at:
            return self._resume_at - now
        keys, wait_s = self._groups.start_due(now, AT_ONCE * self._settings.connections)
        for key in keys:
            tasks.create_task(self._finish(key, tasks))
        return wait_s

    async def _finish(self, key: Key, tasks: asyncio.TaskGroup) -> None:
        """Finish one group; nothing that goes wrong here stops the worker or loses a sample."""
        entries = self._groups.entries(key)
        wait_s = 0.0
        ended = False
        try:
            await self._tutor.finish(entries)
            self._taught(key[0])
            self._outages = 0
        except (RspamdAway, StatisticsError) as error:
            LEARNS.labels("temporary").inc()
            self._pause(error)
        except RspamdMisconfigured as error:
            LEARNS.labels("configuration").inc()
            wait_s = self._postpone(key, logging.ERROR, f"kept until settings change: {error}")
        except (RspamdUnavailable, SpoolError, LedgerError) as error:
            LEARNS.labels("temporary").inc()
            if isinstance(error, SpoolError):
                SPOOL_FAILURES.labels("learn").inc()
            wait_s = self._postpone(key, logging.WARNING, f"kept: {error}")
        except Exception:
            LEARNS.labels("failed").inc()
            # Its attempt is not ended: to the ledger it counts like a death.
            log.exception("user=%s: sample %.12s: unexpected failure", *key)
            wait_s = self._postpone(key, logging.ERROR, "kept: unexpected failure")
            self._groups.suspect({entry.name for entry in entries})
            self._tutor.doubt(*entries)
        else:
            ended = True
        finally:
            if ended:
                self._groups.end(key, entries)
            else:
                # What did not fail by itself keeps its place.
                self._groups.again(key, self._clock() + wait_s if wait_s else 0.0)
        # The next one follows at once; only what comes later is the worker's to wait for.
        if self._start_due(tasks) is not None:
            self._changed.set()

    def _pause(self, error: Exception) -> None:
        """Learn nothing for a while, since a server is away; afterwards all goes on in order."""
        now = self._clock()
        if now < self._resume_at:
            return
        self._outages += 1
        wait_s = delay_s(
            self._outages,
            first_s=self._settings.retry_first_s,
            cap_s=self._settings.retry_cap_s,
            rng=self._rng,
        )
        self._resume_at = now + wait_s
        log.warning("nothing is learned, samples are kept: %s; next try in %.1f s", error, wait_s)

    def _postpone(self, key: Key, level: int, reason: str) -> float:
        """Say why a group has to wait; returns for how long, in seconds."""
        wait_s = delay_s(
            self._groups.failures(key),
            first_s=self._settings.retry_first_s,
            cap_s=self._settings.retry_cap_s,
            rng=self._rng,
        )
        log.log(level, "user=%s: sample %.12s: %s; next try in %.1f s", *key, reason, wait_s)
        return wait_s
