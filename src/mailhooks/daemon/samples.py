"""From the spool to Rspamd: settle, coalesce, learn, retry, until nothing is left.

Samples of one user and one message form a group. A group is due when its last
sample has settled; then its last lesson is learned, once. A user's move that
another move took back within that time teaches nothing, and neither does a
lesson the ledger says the statistics hold already.

Rspamd's word is not enough for "exactly once": it says "learned" while Redis is
away, and it learns again what a killed process had sent. So a user's lessons
are learned one after another, and the count of learned messages that Redis
keeps for that user tells afterwards whether this one is among them.

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
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from mailhooks.daemon.schedule import Schedule
from mailhooks.errors import (
    LedgerError,
    RspamdError,
    RspamdMisconfigured,
    RspamdUnavailable,
    SpoolError,
    StatisticsError,
)
from mailhooks.ledger import Answer, Outcome
from mailhooks.lesson import Lesson
from mailhooks.retry import delay_s
from mailhooks.rspamd import LearnResult, LearnStatus
from mailhooks.spool import Entry, Label, Spool

if TYPE_CHECKING:
    from mailhooks.config import LearningSettings
    from mailhooks.ledger import Ledger
    from mailhooks.rspamd import RspamdClient

log = logging.getLogger("mailhooks.learn")

MAX_CRASHES = 3
"""A sample under way when that many processes died is set aside."""

PRUNE_EVERY_S = 86400.0

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
LEARNS = Counter(
    "mailhooks_learns_total", "What became of one try to learn a user's message.", ["outcome"]
)
SPOOL_FAILURES = Counter(
    "mailhooks_spool_failures_total", "Times the spool could not be used.", ["during"]
)
# A series that begins with its first event hides that event from rate().
for _origin in ("move", "append", "keyword", "delivery"):
    for _lesson in Lesson:
        TAKEN.labels(_origin, _lesson.value)
for _outcome in (
    *(status.value for status in LearnStatus),
    *("already", "taken-back", "overtaken", "dropped", "set-aside"),
    *("temporary", "configuration", "failed"),
):
    LEARNS.labels(_outcome)
for _during in ("take", "scan", "learn"):
    SPOOL_FAILURES.labels(_during)

Key = tuple[str, str]
Count = Callable[[str, Lesson], int]


def settled_lesson(entries: list[Entry]) -> Entry | None:
    """The sample of a group that is to be learned, or None if they cancel out. Pure.

    The last one wins. If it takes the first move back, the message is where it
    was before, and there is nothing to learn, unless its delivery was a sample
    too: that one's lesson, ham, then still stands. A keyword that a client sets
    together with a move agrees with it, and one action is one lesson.

    Args:
        entries: one user's samples of one message, oldest first, not empty.
    """
    last = entries[-1]
    by_user = [entry for entry in entries if entry.label.origin != "delivery"]
    # Only a move or an append proves where the message was before; a keyword does not.
    placed = [entry for entry in by_user if entry.label.origin in ("move", "append")]
    first = (placed or by_user or entries)[0]
    if not by_user or first.label.lesson is last.label.lesson:
        return last
    delivered = [entry for entry in entries if entry.label.origin == "delivery"]
    return delivered[-1] if delivered else None


@dataclass(slots=True)
class _Group:
    entries: list[Entry] = field(default_factory=list)
    failures: int = 0


class Samples:
    """Takes samples, and learns them in the background.

    Args:
        spool: durable storage.
        open_ledger: opens the ledger; called again while it fails.
        rspamd: learns.
        settings: settle time, retries, connections.
        count: how many messages of a class a user's statistics count, from Redis;
            blocks, raises StatisticsError. None to take Rspamd's word.
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
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._spool = spool
        self._open_ledger = open_ledger
        self._rspamd = rspamd
        self._settings = settings
        self._count = count
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._groups: dict[Key, _Group] = {}
        self._known: set[str] = set()
        self._schedule: Schedule[Key] = Schedule()
        self._suspects: Schedule[Key] = Schedule()
        self._crashes: set[str] = set()
        # Of each user, samples that were begun and of which nobody knows the end.
        self._unclear: dict[str, list[Entry]] = {}
        self._busy: set[Key] = set()
        self._changed = asyncio.Event()
        self._ledger: Ledger | None = None
        self._complaint: SpoolError | LedgerError | None = None
        # The last sample that could not be put on disk: when, and why.
        self._refusal: tuple[float, SpoolError] | None = None
        self._woke_s = self._looked_s = 0.0

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
        label = Label(
            user=user,
            lesson=lesson,
            digest=digest,
            origin=origin,
            received=self._clock() if received is None else received,
        )
        try:
            entry = await asyncio.to_thread(self._spool.put, label, message)
        except SpoolError as error:
            SPOOL_FAILURES.labels("take").inc()
            self._refusal = self._clock(), error
            raise
        self._refusal = None
        TAKEN.labels(origin, lesson.value).inc()
        self._add(entry)

    @property
    def waiting(self) -> int:
        """Samples not yet learned, as far as they have been noticed."""
        return len(self._known)

    @property
    def oldest_s(self) -> float:
        """Seconds since the user acted whose sample waits longest; 0 without one."""
        # The entries of a group are sorted, and there may be very many groups.
        received = (group.entries[0].label.received for group in self._groups.values())
        oldest = min(received, default=None)
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
        return self._ledger is not None

    @property
    def spool_usable(self) -> bool:
        """Whether the spool could be looked through, and took what came lately."""
        return not isinstance(self._complaint, SpoolError) and not self._refused_lately

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
        WAITING.set_function(lambda: self.waiting)
        OLDEST_AGE.set_function(lambda: self.oldest_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_house())
                while True:
                    self._woke_s = time.monotonic()
                    self._changed.clear()
                    wait_s = self._start_due(tasks)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._changed.wait()
        finally:
            if self._ledger is not None:
                self._ledger.close()

    async def _keep_house(self) -> None:
        """Open what is not open, look through the spool, prune the ledger; for ever."""
        pruned = -PRUNE_EVERY_S
        while True:
            try:
                await self._look_through()
                await self._count_set_aside()
                if self._ledger is not None and self._clock() - pruned >= PRUNE_EVERY_S:
                    pruned = self._clock()
                    before = pruned - self._settings.keep_days * 86400
                    await asyncio.to_thread(self._ledger.prune, before)
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
            return list(self._spool.entries(self._known))

        ledger = self._ledger
        try:
            if ledger is None:
                ledger = await asyncio.to_thread(self._open_ledger)
                self._crashes = set(await asyncio.to_thread(ledger.attempts))
            for entry in await asyncio.to_thread(read):
                self._add(entry)
        except BaseException:
            if ledger is not None and self._ledger is None:
                ledger.close()
            raise
        # Only now: what was under way in a crash is known before anything is learned.
        if self._ledger is None:
            self._ledger = ledger
            self._changed.set()

    async def _count_set_aside(self) -> None:
        # A file in bad/ that cannot be read is no reason to learn nothing.
        with contextlib.suppress(SpoolError):
            SET_ASIDE.set(
                await asyncio.to_thread(lambda: sum(1 for _ in self._spool.all_set_aside()))
            )

    def _add(self, entry: Entry) -> None:
        if entry.name in self._known:
            return
        self._known.add(entry.name)
        key = (entry.label.user, entry.label.digest)
        group = self._groups.setdefault(key, _Group())
        group.entries.append(entry)
        # By when the user acted: a call out of the drop folder comes late.
        group.entries.sort(key=lambda each: (each.label.received, each.name))
        group.failures = 0
        if entry.name in self._crashes:
            self._unclear.setdefault(key[0], []).append(entry)
        if key not in self._busy:
            received = max(each.label.received for each in group.entries)
            self._put(key, received + self._settings.settle_s)
        self._changed.set()

    def _put(self, key: Key, due: float) -> None:
        suspect = any(entry.name in self._crashes for entry in self._groups[key].entries)
        # In one of the two only: a group may become a suspect while it waits.
        self._schedule.discard(key)
        self._suspects.discard(key)
        (self._suspects if suspect else self._schedule).put(key, key[0], due)

    def _start_due(self, tasks: asyncio.TaskGroup) -> float | None:
        """Start what is due, as far as connections allow.

        What was under way when a process died comes last and alone, so that
        no other sample is blamed if it kills this one too.

        Returns:
            Seconds until there is more to do; None if something else must happen first.
        """
        if self._ledger is None:
            return None
        now = self._clock()
        alone = any(self._is_suspect(key) for key in self._busy)
        while not alone and len(self._busy) < self._settings.connections:
            # One after another for each user, or Redis' count could not tell which it was.
            key = self._schedule.pop(now, {user for user, _ in self._busy})
            if key is None:
                break
            self._start(tasks, key)
        if self._busy:
            return self._schedule.wait_s(now) or None
        if (key := self._suspects.pop(now)) is not None:
            self._start(tasks, key)
            return None
        waits = [w for s in (self._schedule, self._suspects) if (w := s.wait_s(now)) is not None]
        return min(waits) if waits else None

    def _start(self, tasks: asyncio.TaskGroup, key: Key) -> None:
        self._busy.add(key)
        tasks.create_task(self._finish(key))

    def _is_suspect(self, key: Key) -> bool:
        group = self._groups.get(key)
        return group is not None and any(e.name in self._crashes for e in group.entries)

    async def _finish(self, key: Key) -> None:
        """Finish one group; nothing that goes wrong here stops the worker or loses a sample."""
        group = self._groups[key]
        entries = list(group.entries)
        wait_s = 0.0
        try:
            await self._learn(entries)
        except RspamdMisconfigured as error:
            LEARNS.labels("configuration").inc()
            wait_s = self._postpone(key, logging.ERROR, f"kept until settings change: {error}")
        except (RspamdUnavailable, SpoolError, LedgerError, StatisticsError) as error:
            LEARNS.labels("temporary").inc()
            if isinstance(error, SpoolError):
                SPOOL_FAILURES.labels("learn").inc()
            wait_s = self._postpone(key, logging.WARNING, f"kept: {error}")
        except Exception:
            LEARNS.labels("failed").inc()
            # Its attempt is not ended: to the ledger it counts like a death.
            log.exception("user=%s: sample %.12s: unexpected failure", *key)
            wait_s = self._postpone(key, logging.ERROR, "kept: unexpected failure")
            self._crashes |= {entry.name for entry in entries}
            self._unclear.setdefault(key[0], []).extend(entries)
        else:
            self._forget(key, entries)
        finally:
            self._busy.discard(key)
            if key in self._groups:
                newest = max(entry.label.received for entry in group.entries)
                due = max(self._clock() + wait_s, newest + self._settings.settle_s)
                self._put(key, due)
            self._changed.set()

    def _forget(self, key: Key, entries: list[Entry]) -> None:
        group = self._groups[key]
        for entry in entries:
            group.entries.remove(entry)
            self._known.discard(entry.name)
            self._crashes.discard(entry.name)
        if not group.entries:
            del self._groups[key]

    async def _learn(self, entries: list[Entry]) -> None:
        chosen = settled_lesson(entries)
        if chosen is None:
            LEARNS.labels("taken-back").inc()
            log.info("user=%s: sample %.12s: taken back", *_key(entries[-1]))
        else:
            await asyncio.to_thread(self._clear_up, chosen.label.user)
            begun = await asyncio.to_thread(self._begin, chosen)
            if begun is not None:
                message, before = begun
                try:
                    result = await self._ask(chosen.label, message)
                except RspamdError:
                    if not await asyncio.to_thread(self._has_ended, chosen, before):
                        raise
                    result = LearnResult(LearnStatus.LEARNED, "counted", 0)
                else:
                    await asyncio.to_thread(self._check, chosen, before, result)
                await asyncio.to_thread(self._record, chosen, result)
        await asyncio.to_thread(self._remove, entries)

    def _learns(self, label: Label) -> int | None:
        return None if self._count is None else self._count(label.user, label.lesson)

    def _clear_up(self, user: str) -> None:
        """Find out what became of this user's samples that were begun and not ended.

        Before anything else of the user is learned, since that would change the count.
        """
        ledger = self._opened()
        for entry in list(self._unclear.get(user, ())):
            before = ledger.learns_before(entry.name)
            count = self._learns(entry.label)
            if before is not None and count is not None and count > before:
                self._record(entry, LearnResult(LearnStatus.LEARNED, "counted", 0))
                ledger.end_attempt(entry.name)
            else:
                # It may wait for long, and others' lessons will raise the count.
                ledger.forget_learns(entry.name)
            self._unclear[user].remove(entry)
        self._unclear.pop(user, None)

    def _has_ended(self, entry: Entry, before: int | None) -> bool:
        """After an error: whether the sample was learned all the same.

        Raises:
            StatisticsError: that cannot be known now; it will be cleared up first.
        """
        self._unclear.setdefault(entry.label.user, []).append(entry)
        count = self._learns(entry.label)
        self._unclear.pop(entry.label.user)
        if before is not None and count is not None and count > before:
            return True
        self._opened().end_attempt(entry.name)
        return False

    def _check(self, entry: Entry, before: int | None, result: LearnResult) -> None:
        """Believe Rspamd's "learned" only if Redis counts it.

        Raises:
            RspamdUnavailable: it does not.
            StatisticsError: that cannot be known now; it will be cleared up first.
        """
        if result.status is not LearnStatus.LEARNED or before is None:
            return
        if not self._has_ended(entry, before):
            raise RspamdUnavailable('Rspamd says "learned", but Redis does not count it')

    async def _ask(self, label: Label, message: bytes) -> LearnResult:
        learn = self._rspamd.learn_spam if label.lesson is Lesson.SPAM else self._rspamd.learn_ham
        # A user's own word counts even where the statistics already agree by
        # 95 %; a mere delivery adds nothing there, and Rspamd may refuse it.
        return await learn(message, user=label.user, bulk=label.origin != "delivery")

    def _begin(self, entry: Entry) -> tuple[bytes, int | None] | None:
        """The message to be learned and the count before; None if nothing is to be learned."""
        ledger, label = self._opened(), entry.label
        taught = ledger.taught(label.user, label.digest)
        if taught is not None and taught.held is label.lesson:
            LEARNS.labels("already").inc()
            log.info("user=%s: sample %.12s: is %s already", *_key(entry), label.lesson.value)
            return None
        if taught is not None and taught.last.time > label.received:
            LEARNS.labels("overtaken").inc()
            log.info("user=%s: sample %.12s: overtaken by a later one", *_key(entry))
            return None
        message = self._spool.message(entry)
        if message is None:
            LEARNS.labels("dropped").inc()
            log.info("user=%s: sample %.12s: dropped by somebody", *_key(entry))
            return None
        before = self._learns(label)
        # This start is noted before, so after three deaths it is the fourth.
        if ledger.begin_attempt(entry.name, before) > MAX_CRASHES:
            self._spool.set_aside(entry, f"under way when {MAX_CRASHES} processes died")
            ledger.end_attempt(entry.name)
            LEARNS.labels("set-aside").inc()
            log.error("user=%s: sample %.12s: set aside, it kills the worker", *_key(entry))
            return None
        return message, before

    def _record(self, entry: Entry, result: LearnResult) -> None:
        ledger, label = self._opened(), entry.label
        ledger.record(
            Answer(
                user=label.user,
                digest=label.digest,
                lesson=label.lesson,
                outcome=Outcome.of(result.status),
                origin=label.origin,
                time=label.received,
                detail="" if result.learned else result.status.value,
            )
        )
        LEARNS.labels(result.status.value).inc()
        log.info(
            "user=%s: sample %.12s as %s: %s",
            *_key(entry),
            label.lesson.value,
            result.status.value,
        )

    def _remove(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._spool.remove(entry)
            self._opened().end_attempt(entry.name)

    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise LedgerError("the ledger is not open")
        return self._ledger

    def _postpone(self, key: Key, level: int, reason: str) -> float:
        """Say why a group has to wait; returns for how long, in seconds."""
        group = self._groups[key]
        group.failures += 1
        wait_s = delay_s(
            group.failures,
            first_s=self._settings.retry_first_s,
            cap_s=self._settings.retry_cap_s,
            rng=self._rng,
        )
        log.log(level, "user=%s: sample %.12s: %s; next try in %.1f s", *key, reason, wait_s)
        return wait_s


def _key(entry: Entry) -> Key:
    return entry.label.user, entry.label.digest
