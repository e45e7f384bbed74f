"""One stream of mail, delivered and corrected as one contender would have it."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis.asyncio

from accuracy.stream import DAY
from mailhooks.acquaintance import acquaintance, traits_of
from mailhooks.bayes import Opinion, blend, points
from mailhooks.ledger import Answer, Decision, Source, SqliteLedger
from mailhooks.ledger import Outcome as Learned
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.message import read_header
from mailhooks.policy import Folder, Reason
from mailhooks.training import AGREEING, SETTLE_S, SURE, Delivery, Mode, trains

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from accuracy.host import StatisticsHost
    from accuracy.stream import Copy, Item, Letter
    from mailhooks.rspamd import BayesOpinion, CheckResult, RspamdClient

THRESHOLD = 6.0
"""Rspamd's add-header level, the same for all contenders."""

SETTLE = round(SETTLE_S / 86400 * DAY)
"""Messages of the stream that arrive while a delivery settles."""

# A replay has neither the client's address nor DNS of twenty years ago.
_MILTER = {
    "groups_disabled": [
        *("statistics", "rbl", "surbl", "spf", "dkim", "dmarc", "arc", "fuzzy"),
    ]
}
_SCANS_AT_ONCE = 4
# Rspamd's own weights of BAYES_SPAM and BAYES_HAM (scores.d/statistics_group.conf), and how it
# makes points of them: weight * |2p - 1| ** 8 (classifiers/bayes.c).
_STOCK_WEIGHTS = (5.1, -3.0)
# The autolearn sample that Rspamd ships in statistic.conf.
_AUTO_SPAM, _AUTO_HAM, _AUTO_BALANCE = 6.0, -0.5, 0.9
_REJECT = 15.0
_EVERYBODY = "everybody"


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to run statistics.

    Attributes:
        name: as tables call it.
        statistics: ``shared``: one set for all; ``first``: each user's, of which the first
            recipient's decide for all; ``own``: each recipient's own.
        min_learns: of Rspamd.
        min_token_hits: of Rspamd.
        mode: which deliveries train, for ``own``.
        spam_too: whether ``balanced`` trains what the milter score condemns.
        is_perfect: whether each user teaches at once all that is wrong or unsure, for ``own``:
            nobody does, but more cannot be had of Rspamd's Bayes.
        asks_shared: whether ``own`` blends in the shared statistics.
        knows: whether ``own`` counts what the user said of list and sender before.
        autolearns: whether Rspamd's autolearn runs, for the others.
        bootstraps: whether the inbox is learned as ham, until Bayes speaks and then as long as
            there is more spam, for the others.
    """

    name: str
    statistics: str
    min_learns: int = 1
    min_token_hits: int = 1
    mode: Mode = Mode.OFF
    spam_too: bool = False
    is_perfect: bool = False
    asks_shared: bool = True
    knows: bool = True
    autolearns: bool = False
    bootstraps: bool = False


SHARED = Contender("shared", "shared", 200, 2, autolearns=True)
TODAY = Contender("today", "first", 200, 2, autolearns=True)
HELPED = Contender("today, helped", "first", 20, 2, bootstraps=True)
OFF = Contender("mailhooks off", "own", mode=Mode.OFF)
ALL = Contender("mailhooks all", "own", mode=Mode.ALL)
CONFIDENT = Contender("mailhooks confident", "own", mode=Mode.CONFIDENT)
DEFAULT = Contender("mailhooks balanced", "own", mode=Mode.BALANCED)
SPAM_TOO = Contender("balanced, spam too", "own", mode=Mode.BALANCED, spam_too=True)
UNSHARED = Contender(
    "spam too, not shared", "own", mode=Mode.BALANCED, spam_too=True, asks_shared=False
)
BAYES_ALONE = Contender("balanced, Bayes alone", "own", mode=Mode.BALANCED, knows=False)
PERFECT = Contender("perfect users", "own", is_perfect=True, knows=False)
CONTENDERS = (
    *(SHARED, TODAY, HELPED, OFF, ALL, CONFIDENT, DEFAULT, BAYES_ALONE, SPAM_TOO, UNSHARED),
    PERFECT,
)


@dataclass(frozen=True, slots=True)
class MilterScan:
    """What Rspamd says without Bayes: points, and how many rules spoke against the message."""

    score: float
    against: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one copy.

    Attributes:
        index: of the message in the stream.
        user: the recipient.
        is_spam: to this user.
        is_junk: as filed.
        is_disputed: whether users differ about the message.
    """

    index: int
    user: str
    is_spam: bool
    is_junk: bool
    is_disputed: bool

    @property
    def is_wrong(self) -> bool:
        """Whether the user would have to move it."""
        return self.is_spam is not self.is_junk


@dataclass(slots=True)
class Replay:
    """What one contender made of one stream.

    Attributes:
        outcomes: of every copy, in order.
        corrected: learns that users' corrections made, by user and lesson.
        trained: learns that deliveries made by themselves, likewise.
        wrongly: those of them that were not what the user thinks.
        shared: learns of the shared statistics.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    corrected: Counter[tuple[str, Lesson]] = field(default_factory=Counter)
    trained: Counter[tuple[str, Lesson]] = field(default_factory=Counter)
    wrongly: int = 0
    shared: int = 0


async def milter_scans(host: StatisticsHost, letters: Iterable[Letter]) -> dict[str, MilterScan]:
    """Scan every letter once without Bayes, so that all contenders start from the same score."""
    gate = asyncio.Semaphore(_SCANS_AT_ONCE)

    async def scan(client: RspamdClient, letter: Letter) -> tuple[str, MilterScan]:
        async with gate:
            result: CheckResult = await client.check(
                letter.raw, user="nobody@mail.example", settings=_MILTER, timeout_s=120.0
            )
        against = sum(symbol.score > 0 for symbol in result.symbols)
        return letter.key, MilterScan(result.score, against)

    async with host.rspamd() as client:
        return dict(await asyncio.gather(*(scan(client, letter) for letter in letters)))


async def replay(
    host: StatisticsHost,
    items: list[Item],
    scans: Mapping[str, MilterScan],
    contender: Contender,
) -> Replay:
    """Deliver a stream, and let the users correct what they do not agree with.

    The host's statistics must be empty.
    """
    async with (
        redis.asyncio.Redis(host="127.0.0.1", port=host.redis_port) as counts,
        host.rspamd() as client,
    ):
        with closing(_Run(client, counts, contender)) as run:
            for index, item in enumerate(items):
                await run.learn_what_is_due(index)
                if contender.statistics == "own":
                    await run.deliver_to_each(index, item, scans[item.key])
                else:
                    await run.deliver_to_all(index, item, scans[item.key])
            return run.result


class _Run:
    def __init__(self, client: RspamdClient, counts: Any, contender: Contender) -> None:
        self._client = client
        self._counts = counts
        self._contender = contender
        self._due: list[tuple[int, int, Item, Copy, Lesson, bool]] = []
        self._waiting: dict[tuple[str, str], Lesson] = {}
        self._waiting_counts: Counter[tuple[str, Lesson]] = Counter()
        self._held: dict[tuple[str, str], Lesson] = {}
        self._taught: dict[str, dict[str, Lesson]] = {}
        self._shared: set[str] = set()
        self._ledger = SqliteLedger(":memory:")
        self.result = Replay()

    def close(self) -> None:
        """Forget what the users said."""
        self._ledger.close()

    async def learn_what_is_due(self, index: int) -> None:
        """Corrections, and deliveries that have settled, up to this message of the stream."""
        while self._due and self._due[0][0] <= index:
            _, _, item, copy, lesson, is_correction = heapq.heappop(self._due)
            waited = self._waiting.pop((copy.user, item.key), None)
            if waited is not None:
                self._waiting_counts[copy.user, waited] -= 1
            # The user's move wins, whether the delivery still waits or was learned.
            if is_correction or waited is not None:
                await self._teach(copy, item, lesson, is_correction=is_correction)

    async def deliver_to_each(self, index: int, item: Item, scan: MilterScan) -> None:
        """One verdict for each recipient, from their own statistics and the shared ones."""
        users = [copy.user for copy in item.copies]
        shared_learns, *learns = await self._learned("SHARED", *(f"RS{_name(u)}" for u in users))
        opinions = await asyncio.gather(
            *(self._client.check_opinions(item.raw, user=_name(user)) for user in users)
        )
        for copy, learned, (own, shared) in zip(item.copies, learns, opinions, strict=True):
            probability = blend(
                _opinion(own, learned),
                _opinion(shared, shared_learns) if self._contender.asks_shared else None,
            )
            given = points(probability, _opinion(own, learned))
            given += self._acquaintance(copy.user, item)
            is_junk = scan.score + given >= THRESHOLD
            self._leave(index, item, copy, is_junk=is_junk)
            if self._contender.is_perfect:
                is_wrong = is_junk is not copy.is_spam
                await self._teach_perfectly(item, copy, is_wrong=is_wrong, probability=probability)
            self._note(index, item, copy, is_junk=is_junk)
            waiting = self._waiting_counts
            lesson = trains(
                self._contender.mode,
                Delivery(
                    is_junk=is_junk,
                    probability=probability,
                    milter=scan.score,
                    threshold=THRESHOLD,
                    points=given,
                    spam=learned[0] + waiting[copy.user, Lesson.SPAM],
                    ham=learned[1] + waiting[copy.user, Lesson.HAM],
                ),
                spam_too=self._contender.spam_too,
            )
            if lesson is not None:
                self._let_settle(index, item, copy, lesson)

    def _acquaintance(self, user: str, item: Item) -> float:
        """What this user said of the message's list and sender before, as points."""
        if not self._contender.knows:
            return 0.0
        return acquaintance(self._ledger.past(user, traits_of(read_header(item.raw)))).points

    def _leave(self, index: int, item: Item, copy: Copy, *, is_junk: bool) -> None:
        self._ledger.decide(
            Decision(
                user=copy.user,
                digest=item.key,
                time=index,
                folder=Folder.JUNK if is_junk else Folder.INBOX,
                reason=Reason.SUM,
                source=Source.NONE,
                objective=None,
                threshold=THRESHOLD,
                traits=traits_of(read_header(item.raw)),
            )
        )

    async def _teach_perfectly(
        self, item: Item, copy: Copy, *, is_wrong: bool, probability: float | None
    ) -> None:
        if is_wrong or probability is None or SURE < probability < 1 - SURE:
            await self._teach(copy, item, _truth(copy), is_correction=True)

    async def deliver_to_all(self, index: int, item: Item, scan: MilterScan) -> None:
        """One verdict for all recipients, from one set of statistics, as Rspamd gives it."""
        name = self._statistics_of(item.copies[0].user)
        ((spam, ham),) = await self._learned(f"RS{name}")
        opinion, _ = await self._client.check_opinions(item.raw, user=name)
        total = scan.score + _stock_points(opinion)
        is_junk = total >= THRESHOLD
        for copy in item.copies:
            self._note(index, item, copy, is_junk=is_junk)
            if self._contender.bootstraps and not is_junk:
                await self._bootstrap(index, item, copy)
        lesson = _autolearned(scan, opinion, spam, ham) if self._contender.autolearns else None
        if lesson is not None:
            await self._teach(item.copies[0], item, lesson, is_correction=False)

    async def _bootstrap(self, index: int, item: Item, copy: Copy) -> None:
        ((spam, ham),) = await self._learned(f"RS{self._statistics_of(copy.user)}")
        waiting = self._waiting_counts[copy.user, Lesson.HAM]
        if ham + waiting < max(self._contender.min_learns, spam):
            self._let_settle(index, item, copy, Lesson.HAM)

    def _note(self, index: int, item: Item, copy: Copy, *, is_junk: bool) -> None:
        outcome = Outcome(index, copy.user, copy.is_spam, is_junk, item.is_disputed)
        self.result.outcomes.append(outcome)
        if outcome.is_wrong and copy.delay is not None:
            self._plan(index + 1 + copy.delay, item, copy, _truth(copy), is_correction=True)

    def _let_settle(self, index: int, item: Item, copy: Copy, lesson: Lesson) -> None:
        self._waiting[copy.user, item.key] = lesson
        self._waiting_counts[copy.user, lesson] += 1
        self._plan(index + 1 + SETTLE, item, copy, lesson, is_correction=False)

    def _plan(
        self, due: int, item: Item, copy: Copy, lesson: Lesson, *, is_correction: bool
    ) -> None:
        order = len(self.result.outcomes) * 2 + is_correction
        heapq.heappush(self._due, (due, order, item, copy, lesson, is_correction))

    async def _teach(self, copy: Copy, item: Item, lesson: Lesson, *, is_correction: bool) -> None:
        name = self._statistics_of(copy.user)
        if self._held.get((name, item.key)) is lesson:
            return
        self._held[name, item.key] = lesson
        counter = self.result.corrected if is_correction else self.result.trained
        counter[copy.user, lesson] += 1
        self.result.wrongly += lesson is not _truth(copy)
        await self._client.learn(item.raw, lesson, user=name, bulk=True)
        if is_correction:
            self._ledger.record(
                Answer(
                    user=copy.user,
                    digest=item.key,
                    lesson=lesson,
                    outcome=Learned.LEARNED,
                    origin="move",
                    time=len(self.result.outcomes),
                    traits=traits_of(read_header(item.raw)),
                )
            )
        if self._contender.statistics == "own" and self._contender.asks_shared:
            await self._agree(copy.user, item, lesson)

    async def _agree(self, user: str, item: Item, lesson: Lesson) -> None:
        taught = self._taught.setdefault(item.key, {})
        taught[user] = lesson
        agreeing = sum(it is lesson for it in taught.values())
        if agreeing >= AGREEING and item.key not in self._shared:
            self._shared.add(item.key)
            self.result.shared += 1
            await self._client.learn(item.raw, lesson, user=SHARED_USER, bulk=True)

    async def _learned(self, *keys: str) -> list[tuple[int, int]]:
        """Messages learned as spam and as ham, as Redis counts them."""
        pipeline = self._counts.pipeline(transaction=False)
        for key in keys:
            pipeline.hmget(key, "learns_spam", "learns_ham")
        return [(int(spam or 0), int(ham or 0)) for spam, ham in await pipeline.execute()]

    def _statistics_of(self, user: str) -> str:
        return _name(_EVERYBODY if self._contender.statistics == "shared" else user)


def _name(user: str) -> str:
    return f"{user}@mail.example"


def _truth(copy: Copy) -> Lesson:
    return Lesson.SPAM if copy.is_spam else Lesson.HAM


def _opinion(opinion: BayesOpinion | None, learned: tuple[int, int]) -> Opinion:
    return Opinion(None if opinion is None else opinion.probability, *learned)


def _stock_points(opinion: BayesOpinion | None) -> float:
    if opinion is None:
        return 0.0
    distance = 2 * opinion.probability - 1
    return _STOCK_WEIGHTS[distance < 0] * abs(distance) ** 8


def _autolearned(
    scan: MilterScan, opinion: BayesOpinion | None, spam: int, ham: int
) -> Lesson | None:
    """What ``autolearn`` in lua_bayes_learn.lua learns, with Rspamd's sample thresholds.

    The verdicts are those of lua_verdict.lua; a message that already has the symbol of the
    class is left out (``rspamd_stat_has_classifier_symbols``).
    """
    total = scan.score + _stock_points(opinion)
    against = scan.against + (opinion is not None and opinion.probability > 0.5)
    most = 1 / _AUTO_BALANCE
    if total >= _AUTO_SPAM and against > (1 if total >= _REJECT else 2):
        has_symbol = opinion is not None and opinion.probability > 0.5
        return None if has_symbol or spam / (ham + 1) > most else Lesson.SPAM
    if total <= _AUTO_HAM:
        has_symbol = opinion is not None and opinion.probability < 0.5
        return None if has_symbol or ham / (spam + 1) > most else Lesson.HAM
    return None
