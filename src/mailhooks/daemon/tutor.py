"""Teaching one sample exactly once, proved by the count that Redis keeps.

Rspamd's word is not enough for "exactly once": it says "learned" while Redis is
away, and it learns again what a killed process had sent. So a user's lessons
are learned one after another, and the count of learned messages that Redis
keeps for that user tells afterwards whether this one is among them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import Counter

from mailhooks.acquaintance import TRAIT_FIELDS, traits_of
from mailhooks.daemon.clerk import Clerk
from mailhooks.daemon.groups import key_of, settled_lesson
from mailhooks.errors import LedgerError, RspamdError, RspamdUnavailable
from mailhooks.ledger import DELIVERY, Answer, Outcome
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.message import read_header
from mailhooks.rspamd import LearnResult, LearnStatus
from mailhooks.spool import Label
from mailhooks.strand import Turns

if TYPE_CHECKING:
    from mailhooks.ledger import Ledger
    from mailhooks.rspamd import RspamdClient
    from mailhooks.spool import Entry, Spool

log = logging.getLogger("mailhooks.learn")

AGREEMENT = "agreement"
"""The origin of what the shared statistics learn because users agree."""

STOP_S = 1.0
"""Seconds that lessons under way may still take; what does not end is cleared up later."""

MAX_CRASHES = 3
"""A sample under way when that many processes died is set aside."""

LEARNS = Counter(
    "mailhooks_learns_total", "What became of one try to learn a user's message.", ["outcome"]
)
# A series that begins with its first event hides that event from rate().
for _outcome in (
    *(status.value for status in LearnStatus),
    *("already", "taken-back", "overtaken", "dropped", "set-aside"),
    *("temporary", "configuration", "failed"),
):
    LEARNS.labels(_outcome)

Count = Callable[[str, Lesson], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A message that is to be learned, and how many of its class were counted before."""

    message: bytes
    count: int | None


class Tutor:
    """Handles groups of samples; of one user, one at a time.

    Args:
        spool: where the samples are.
        rspamd: learns; its calls are strands (:mod:`mailhooks.strand`).
        count: how many messages of a class a user's statistics count, from Redis; a strand,
            raises StatisticsError. None to take Rspamd's word.
        agreement: users who must have taught a message the same before the shared
            statistics learn it; 0 for never.
        connections: learns at once.
    """

    def __init__(
        self,
        spool: Spool,
        rspamd: RspamdClient,
        count: Count | None,
        *,
        agreement: int = 0,
        connections: int = 1,
    ) -> None:
        self._spool = spool
        self._rspamd = rspamd
        self._count = count
        self._agreement = agreement
        self._turns = Turns(connections)
        self._clerk = Clerk()
        # Of each user, samples that were begun and of which nobody knows the end.
        self._unclear: dict[str, list[Entry]] = {}
        self.ledger: Ledger | None = None

    async def stop(self) -> None:
        """Return when nothing is under way any more in a thread."""
        await self._clerk.stop(STOP_S)

    def doubt(self, *entries: Entry) -> None:
        """Note that samples were begun, and that nobody knows what became of them."""
        for entry in entries:
            self._unclear.setdefault(entry.label.user, []).append(entry)

    async def finish(self, entries: list[Entry]) -> None:
        """Teach what a group of samples comes to, and remove them from the spool.

        Args:
            entries: one user's samples of one message, oldest first.

        Raises:
            RspamdError: not learned, and the samples are still there.
            SpoolError: likewise; what was learned is known to the ledger.
            LedgerError: likewise.
            StatisticsError: it is not known yet whether it was learned.
        """
        await self._clerk.do(self._finish(entries))

    async def _finish(self, entries: list[Entry]) -> None:
        """The same as a strand, which may block for a moment."""
        chosen = settled_lesson(entries)
        if chosen is None:
            LEARNS.labels("taken-back").inc()
            log.info("user=%s: sample %.12s: taken back", *key_of(entries[-1]))
            self._drop(entries)
            return
        begun = await self._begin(chosen)
        result: LearnResult | RspamdError | None = None
        if begun is not None:
            try:
                # In bulk, or Rspamd refuses what the last of its classifiers already judges so
                # by 95 %: a user's word then would not count because others agree.
                await self._turns.take()
                try:
                    result = await self._rspamd.learn(
                        begun.message, chosen.label.lesson, user=chosen.label.user, bulk=True
                    )
                finally:
                    self._turns.give()
            except RspamdError as error:
                result = error
        await self._end(chosen, begun, result, entries)

    async def _end(
        self,
        chosen: Entry,
        begun: _Begun | None,
        result: LearnResult | RspamdError | None,
        entries: list[Entry],
    ) -> None:
        """Note what came of it, and remove the samples; raises as :meth:`finish`."""
        before = begun.count if begun is not None else None
        if isinstance(result, RspamdError):
            if not await self._has_ended(chosen, before):
                raise result
            result = LearnResult(LearnStatus.LEARNED, "counted", 0)
        elif result is not None:
            await self._check(chosen, before, result)
        if begun is not None and result is not None:
            self._record(chosen, result, begun.message, ended=entries)
            self._agree(chosen)
            self._remove(entries)
        else:
            self._agree(chosen)
            self._drop(entries)

    async def _learns(self, label: Label) -> int | None:
        return None if self._count is None else await self._count(label.user, label.lesson)

    async def _clear_up(self, user: str) -> None:
        """Find out what became of this user's samples that were begun and not ended.

        Before anything else of the user is learned, since that would change the count.
        """
        ledger = self._opened()
        for entry in list(self._unclear.get(user, ())):
            before = ledger.learns_before(entry.name)
            count = await self._learns(entry.label)
            if before is not None and count is not None and count > before:
                result = LearnResult(LearnStatus.LEARNED, "counted", 0)
                self._record(entry, result, self._spool.message(entry) or b"", ended=[entry])
            else:
                # It may wait for long, and others' lessons will raise the count.
                ledger.forget_learns(entry.name)
            self._cleared(entry)

    def _cleared(self, entry: Entry) -> None:
        """It is known what became of a sample; others of the user may have come into doubt."""
        doubtful = self._unclear[entry.label.user]
        doubtful.remove(entry)
        if not doubtful:
            del self._unclear[entry.label.user]

    async def _has_ended(self, entry: Entry, before: int | None) -> bool:
        """After an error: whether the sample was learned all the same.

        Raises:
            StatisticsError: that cannot be known now; it will be cleared up first.
        """
        self.doubt(entry)
        count = await self._learns(entry.label)
        self._cleared(entry)
        if before is not None and count is not None and count > before:
            return True
        self._opened().end_attempt(entry.name)
        return False

    async def _check(self, entry: Entry, before: int | None, result: LearnResult) -> None:
        """Believe Rspamd's "learned" only if Redis counts it.

        Raises:
            RspamdUnavailable: it does not.
            StatisticsError: that cannot be known now; it will be cleared up first.
        """
        if result.status is not LearnStatus.LEARNED or before is None:
            return
        if not await self._has_ended(entry, before):
            raise RspamdUnavailable('Rspamd says "learned", but Redis does not count it')

    async def _begin(self, entry: Entry) -> _Begun | None:
        """What is to be learned; None if nothing is."""
        await self._clear_up(entry.label.user)
        ledger, label = self._opened(), entry.label
        taught = ledger.taught(label.user, label.digest)
        if taught is not None and taught.held is label.lesson:
            LEARNS.labels("already").inc()
            log.info("user=%s: sample %.12s: is %s already", *key_of(entry), label.lesson.value)
            return None
        if taught is not None and taught.last.time > label.received:
            LEARNS.labels("overtaken").inc()
            log.info("user=%s: sample %.12s: overtaken by a later one", *key_of(entry))
            return None
        message = self._spool.message(entry)
        if message is None:
            LEARNS.labels("dropped").inc()
            log.info("user=%s: sample %.12s: dropped by somebody", *key_of(entry))
            return None
        if taught is not None and label.origin == DELIVERY != taught.last.origin:
            LEARNS.labels("overtaken").inc()
            log.info("user=%s: sample %.12s: the user's own word stands", *key_of(entry))
            return None
        before = await self._learns(label)
        # This start is noted before, so after three deaths it is the fourth.
        if ledger.begin_attempt(entry.name, before) > MAX_CRASHES:
            self._spool.set_aside(entry, f"under way when {MAX_CRASHES} processes died")
            ledger.end_attempt(entry.name)
            LEARNS.labels("set-aside").inc()
            log.error("user=%s: sample %.12s: set aside, it kills the worker", *key_of(entry))
            return None
        return _Begun(message, before)

    def _agree(self, entry: Entry) -> None:
        """Keep a sample for the shared statistics once enough users agree about a message.

        Before the user's own sample is removed, so that a crash in between loses nothing.
        """
        label = entry.label
        if not self._agreement or label.user == SHARED_USER:
            return
        ledger = self._opened()
        users = ledger.agreement(label.digest)
        others = users[label.lesson.opposite]
        known = ledger.taught(SHARED_USER, label.digest)
        if users[label.lesson] < max(self._agreement, others + 1) or (
            known is not None and known.last.lesson is label.lesson
        ):
            return
        message = self._spool.message(entry)
        if message is not None:
            # The worker finds it when it looks through the spool the next time.
            self._spool.put(
                Label(
                    user=SHARED_USER,
                    lesson=label.lesson,
                    digest=label.digest,
                    origin=AGREEMENT,
                    received=label.received,
                    size_bytes=len(message),
                ),
                message,
            )

    def _record(
        self, entry: Entry, result: LearnResult, message: bytes, ended: list[Entry]
    ) -> None:
        label = entry.label
        is_own = label.user != SHARED_USER and label.origin != DELIVERY
        self._opened().record(
            Answer(
                user=label.user,
                digest=label.digest,
                lesson=label.lesson,
                outcome=Outcome.of(result.status),
                origin=label.origin,
                time=label.received,
                detail="" if result.learned else result.status.value,
                traits=traits_of(read_header(message, *TRAIT_FIELDS)) if is_own else (),
            ),
            ended=[each.name for each in ended],
        )
        LEARNS.labels(result.status.value).inc()
        log.info(
            "user=%s: sample %.12s as %s: %s",
            *key_of(entry),
            label.lesson.value,
            result.status.value,
        )

    def _drop(self, entries: list[Entry]) -> None:
        """Remove samples that were not recorded; whether any was begun is known to the ledger."""
        self._opened().end_attempt(*(entry.name for entry in entries))
        self._remove(entries)

    def _remove(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._spool.remove(entry)

    def _opened(self) -> Ledger:
        if self.ledger is None:
            raise LedgerError("the ledger is not open")
        return self.ledger
