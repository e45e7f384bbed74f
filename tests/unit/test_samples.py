from __future__ import annotations

import asyncio
import contextlib
import random
import time
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from mailhooks.config import LearningSettings
from mailhooks.daemon.groups import settled_lesson
from mailhooks.daemon.samples import Samples
from mailhooks.daemon.tutor import Tutor
from mailhooks.errors import (
    LedgerError,
    RspamdAway,
    RspamdMisconfigured,
    RspamdUnavailable,
    SpoolError,
    StatisticsError,
)
from mailhooks.ledger import Answer, Ledger, Outcome, SqliteLedger
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.rspamd import LearnResult, LearnStatus, RspamdClient
from mailhooks.spool import Entry, Label, Spool
from mailhooks.strand import pause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

SPAM, HAM = Lesson.SPAM, Lesson.HAM


def entry(lesson: Lesson, origin: str = "move") -> Entry:
    return Entry("n", Label(user="ann", lesson=lesson, digest="d", origin=origin, received=0.0))


def group(letters: str) -> list[Entry]:
    """Samples in order: Move, Append, Keyword or Delivery, each as Spam or Ham."""
    origins = {"M": "move", "A": "append", "K": "keyword", "D": "delivery"}
    return [
        entry(SPAM if sample[1] == "S" else HAM, origins[sample[0]]) for sample in letters.split()
    ]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        *[(case, SPAM) for case in ("MS", "AS", "KS", "MS MS", "MS MH MS", "KS MS", "MS KS")],
        *[(case, HAM) for case in ("MH", "KH", "DH", "KH MH", "MH KH")],
        # Taken back within the settle time.
        *[(case, None) for case in ("MS MH", "MH MS", "KS MS KH MH", "KS MS KH", "KS KH", "KH KS")],
        *[(case, None) for case in ("MS KH", "MH KS", "AS MH", "AS KH")],
        # A keyword proves nothing about where the message was before.
        ("KS MH", HAM),
        ("KH MS", SPAM),
        ("KS KH MH", HAM),
        # Ham on delivery, then the user's word.
        *[(case, SPAM) for case in ("DH MS", "DH KS", "DH MS KS")],
        *[(case, HAM) for case in ("DH MS MH", "DH KS KH", "DH KS MS KH MH")],
        # Delivered again after the user's word.
        *[(case, SPAM) for case in ("MS DH", "DH MS DH", "DS MS DH")],
        ("DS MH", HAM),
    ],
)
def test_what_a_group_of_samples_teaches(samples: str, expected: Lesson | None) -> None:
    """The last word wins, and a move that was taken back teaches nothing."""
    chosen = settled_lesson(group(samples))
    assert (chosen.label.lesson if chosen else None) is expected


class FakeRspamd:
    """Notes what it is asked to learn; fails as told."""

    def __init__(self) -> None:
        self.learned: list[tuple[str, Lesson, bytes]] = []
        self.bulk: list[bool] = []
        self.failures: list[Exception] = []
        self.answer = LearnResult(LearnStatus.LEARNED, "", 200)
        self.poison = b""
        self.forgetful = 0  # says "learned" without learning
        self.mute = 0  # learns without saying so
        self.poisoned = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0
        self.under_way: set[str] = set()
        self.crowded = False

    async def learn(
        self, message: bytes, lesson: Lesson, *, user: str, bulk: bool = False
    ) -> LearnResult:
        return await self._learn(user, lesson, message, bulk)

    async def _learn(self, user: str, lesson: Lesson, message: bytes, bulk: bool) -> LearnResult:
        self.at_once += 1
        self.crowded |= user in self.under_way
        self.under_way.add(user)
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            while not self.gate.is_set():
                await pause(0.002)
            if self.failures:
                raise self.failures.pop(0)
            if self.poison and message == self.poison:
                self.poisoned += 1
                raise MemoryError
        finally:
            self.at_once -= 1
            self.under_way.discard(user)
        if self.forgetful:
            self.forgetful -= 1
            return self.answer
        self.learned.append((user, lesson, message))
        if self.mute:
            self.mute -= 1
            raise RspamdUnavailable("died after learning")
        self.bulk.append(bulk)
        return self.answer

    async def count(self, user: str, lesson: Lesson) -> int:
        """What Redis would count."""
        await pause(0)
        return sum((who, what) == (user, lesson) for who, what, _ in self.learned)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


SETTINGS = LearningSettings(
    settle_s=0.0,
    delivery_settle_s=0.0,
    retry_first_s=0.001,
    retry_cap_s=0.002,
    connections=2,
    rescan_s=0.005,
)


@pytest.fixture
def rspamd() -> FakeRspamd:
    return FakeRspamd()


@asynccontextmanager
async def running(
    folder: Path,
    rspamd: FakeRspamd,
    settings: LearningSettings = SETTINGS,
    clock: Callable[[], float] | None = None,
    open_ledger: Callable[[], Ledger] | None = None,
    count: Callable[[str, Lesson], Awaitable[int]] | None = None,
    *,
    has_shared: bool = False,
) -> AsyncIterator[Samples]:
    spool = Spool(folder)
    with contextlib.suppress(SpoolError):
        spool.prepare()
    samples = Samples(
        spool,
        open_ledger or (lambda: SqliteLedger(folder / "ledger")),
        cast("RspamdClient", rspamd),
        settings,
        count=count,
        has_shared=has_shared,
        clock=clock or time.time,
        rng=random.Random(1),
    )
    worker = asyncio.create_task(samples.run())
    try:
        yield samples
    finally:
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker


async def test_a_sample_is_learned_once_and_leaves_the_spool(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """From the spool to Rspamd as the right class for the right user."""
    async with running(tmp_path, rspamd) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: samples.waiting == 0)
    assert rspamd.learned == [("ann", SPAM, b"one")]
    assert list((tmp_path / "new").iterdir()) == []


async def test_lessons_are_learned_even_where_some_statistics_agree(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """Rspamd's learn condition looks at whichever classifier spoke last, others' too."""
    async with running(tmp_path, rspamd) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: samples.waiting == 0)
        await samples.take("ann", HAM, "d2", "delivery", b"two")
        await until(lambda: samples.waiting == 0)
    assert rspamd.bulk == [True, True]


async def test_samples_of_an_earlier_run_are_learned(tmp_path: Path, rspamd: FakeRspamd) -> None:
    """A restart loses nothing that was promised."""
    spool = Spool(tmp_path)
    spool.prepare()
    spool.put(Label(user="ann", lesson=HAM, digest="d", origin="move", received=0.0), b"old")
    async with running(tmp_path, rspamd) as samples:
        await until(lambda: bool(rspamd.learned) and samples.waiting == 0)
    assert rspamd.learned == [("ann", HAM, b"old")]


async def test_a_temporary_failure_is_retried_until_it_works(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """Rspamd being down, wrongly configured or hit by a bug delays a sample, and no more."""
    rspamd.failures = [RspamdUnavailable("down"), RspamdMisconfigured("password"), KeyError("bug")]
    async with running(tmp_path, rspamd) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: samples.waiting == 0)
    assert rspamd.learned == [("ann", SPAM, b"one")]
    assert rspamd.failures == []


async def test_nothing_is_learned_before_it_has_settled(tmp_path: Path, rspamd: FakeRspamd) -> None:
    """A move and its undo within the settle time cause no request at all."""
    clock = Clock()
    settings = msgspec.structs.replace(SETTINGS, settle_s=30.0)
    async with running(tmp_path, rspamd, settings, clock) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await samples.take("ann", HAM, "d1", "move", b"one")
        await samples.take("ann", SPAM, "d2", "move", b"two")
        clock.now += 31
        await samples.take("bob", SPAM, "d3", "move", b"three")  # wakes the worker
        await until(lambda: samples.waiting == 1)
    assert rspamd.learned == [("ann", SPAM, b"two")]


async def test_users_take_turns(tmp_path: Path, rspamd: FakeRspamd) -> None:
    """One user's many samples do not starve another's single one."""
    rspamd.gate.clear()
    async with running(tmp_path, rspamd) as samples:
        for number in range(10):
            await samples.take("ann", SPAM, f"a{number}", "move", b"a")
        await samples.take("bob", SPAM, "b", "move", b"b")
        rspamd.gate.set()
        await until(lambda: samples.waiting == 0)
    position = [user for user, _, _ in rspamd.learned].index("bob")
    assert position <= 3


async def test_each_user_is_taught_one_lesson_at_a_time_and_users_side_by_side(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """Only so can Redis' count tell which lesson was learned; and connections are bounded."""
    rspamd.gate.clear()
    async with running(tmp_path, rspamd) as samples:
        for user in ("ann", "bob", "cat"):
            for number in range(5):
                await samples.take(user, SPAM, f"{number}", "move", b"a")
        await until(lambda: rspamd.at_once == SETTINGS.connections)
        rspamd.gate.set()
        await until(lambda: samples.waiting == 0)
    assert rspamd.most_at_once == SETTINGS.connections
    assert not rspamd.crowded
    assert len(rspamd.learned) == 15


async def test_a_move_during_a_learn_is_learned_afterwards(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """The opposite lesson that comes while the first is under way is not lost."""
    rspamd.gate.clear()
    async with running(tmp_path, rspamd) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: rspamd.at_once == 1)
        await samples.take("ann", HAM, "d1", "move", b"one")
        rspamd.gate.set()
        await until(lambda: samples.waiting == 0)
    assert [lesson for _, lesson, _ in rspamd.learned] == [SPAM, HAM]


async def test_a_lesson_the_statistics_hold_is_not_learned_again(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """The ledger knows; the opposite lesson is learned, and the first one then again."""
    async with running(tmp_path, rspamd) as samples:
        for lesson in (SPAM, SPAM, HAM, SPAM):
            await samples.take("ann", lesson, "d1", "move", b"one")
            await until(lambda: samples.waiting == 0)
    assert [lesson for _, lesson, _ in rspamd.learned] == [SPAM, HAM, SPAM]


async def test_a_final_refusal_is_noted_and_ends_the_sample(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """What Rspamd never will learn does not stay in the queue."""
    rspamd.answer = LearnResult(LearnStatus.TOO_FEW_TOKENS, "too few", 204)
    async with running(tmp_path, rspamd) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: samples.waiting == 0)
    ledger = SqliteLedger(tmp_path / "ledger")
    taught = ledger.taught("ann", "d1")
    ledger.close()
    assert taught is not None
    assert (taught.held, taught.last.outcome) == (None, Outcome.REFUSED)
    assert taught.last.detail == "too-few-tokens"


async def test_a_sample_that_kills_the_worker_three_times_is_set_aside(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """It comes last and alone, and after three deaths no more; the others are learned."""
    rspamd.poison = b"poison"
    async with running(tmp_path, rspamd) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"poison")
        await samples.take("ann", SPAM, "d2", "move", b"good")
        await until(lambda: samples.waiting == 0)
    assert rspamd.learned == [("ann", SPAM, b"good")]
    assert rspamd.poisoned == 3
    (bad,) = (tmp_path / "bad").iterdir()
    assert b"under way when 3 processes died" in bad.read_bytes()


async def test_outages_never_set_a_sample_aside(tmp_path: Path, rspamd: FakeRspamd) -> None:
    """However often Rspamd is down, the sample is learned in the end."""
    rspamd.failures = [RspamdUnavailable("down") for _ in range(20)]
    async with running(tmp_path, rspamd) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: samples.waiting == 0)
    assert rspamd.learned == [("ann", SPAM, b"one")]


async def test_samples_put_there_by_another_process_are_noticed(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """An administrator's retry needs no restart."""
    async with running(tmp_path, rspamd):
        label = Label(user="ann", lesson=SPAM, digest="d", origin="move", received=0.0)
        Spool(tmp_path).put(label, b"one")
        await until(lambda: rspamd.learned == [("ann", SPAM, b"one")])


async def test_a_ledger_that_cannot_be_opened_delays_learning_and_no_more(
    tmp_path: Path, rspamd: FakeRspamd, caplog: pytest.LogCaptureFixture
) -> None:
    """Samples are taken meanwhile, the trouble is said once, and then all is learned."""
    failures = 5

    def open_ledger() -> Ledger:
        nonlocal failures
        if failures:
            failures -= 1
            raise LedgerError("ledger is locked away")
        return SqliteLedger(tmp_path / "ledger")

    async with running(tmp_path, rspamd, open_ledger=open_ledger) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: rspamd.learned == [("ann", SPAM, b"one")])
    assert caplog.text.count("ledger is locked away") == 1


async def test_a_missing_spool_is_said_and_refused_and_used_again_when_it_is_back(
    tmp_path: Path, rspamd: FakeRspamd, caplog: pytest.LogCaptureFixture
) -> None:
    """A volume that is not mounted costs learning, and only for as long as it is away."""
    spool = tmp_path / "spool"
    spool.write_bytes(b"a file in its place")
    async with running(
        spool, rspamd, open_ledger=lambda: SqliteLedger(tmp_path / "ledger")
    ) as samples:
        await until(lambda: "cannot be prepared" in caplog.text)
        with pytest.raises(SpoolError):
            await samples.take("ann", SPAM, "d1", "move", b"one")
        spool.unlink()
        await until((spool / "new").is_dir)
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: rspamd.learned == [("ann", SPAM, b"one")])


async def test_a_call_that_comes_late_does_not_overrule_a_later_lesson(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """What waited in the drop folder counts from when the user did it."""
    now = time.time()
    async with running(tmp_path, rspamd) as samples:
        await samples.take("ann", HAM, "d1", "move", b"one", received=now)
        await until(lambda: samples.waiting == 0)
        await samples.take("ann", SPAM, "d1", "move", b"one", received=now - 10)
        await until(lambda: samples.waiting == 0)
    assert [lesson for _, lesson, _ in rspamd.learned] == [HAM]


async def test_learned_is_believed_only_if_redis_counts_it(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """Rspamd says "learned" while Redis is away: the sample is kept and learned later."""
    rspamd.forgetful = 3
    async with running(tmp_path, rspamd, count=rspamd.count) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: samples.waiting == 0)
    assert rspamd.learned == [("ann", SPAM, b"one")]
    assert rspamd.forgetful == 0


async def test_an_answer_that_was_lost_does_not_make_it_learned_twice(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """Redis' count tells that it was learned although Rspamd died before it said so."""
    rspamd.mute = 1
    async with running(tmp_path, rspamd, count=rspamd.count) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await samples.take("ann", SPAM, "d2", "move", b"two")
        await until(lambda: samples.waiting == 0)
    assert sorted(rspamd.learned) == [("ann", SPAM, b"one"), ("ann", SPAM, b"two")]


async def test_what_a_killed_process_had_learned_is_not_learned_again(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """The next process clears that up before it teaches this user anything else."""
    spool = Spool(tmp_path)
    spool.prepare()
    entries = [
        spool.put(
            Label(user="ann", lesson=SPAM, digest=d, origin="move", received=time.time()),
            d.encode(),
        )
        for d in ("learned", "not")
    ]
    ledger = SqliteLedger(tmp_path / "ledger")
    for entry in entries:
        ledger.begin_attempt(entry.name, 0 if entry.label.digest == "learned" else 1)
    ledger.close()
    rspamd.learned.append(("ann", SPAM, b"learned"))
    async with running(tmp_path, rspamd, count=rspamd.count) as samples:
        await samples.take("ann", SPAM, "d3", "move", b"three")
        await until(lambda: len(rspamd.learned) == 3 and samples.waiting == 0)
    assert sorted(message for _, _, message in rspamd.learned) == [b"learned", b"not", b"three"]


async def test_a_count_that_others_raised_does_not_pass_for_a_lesson(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """A sample that was cleared up as not learned stays so through the next death."""
    now = time.time()
    spool = Spool(tmp_path)
    spool.prepare()
    late, other = (
        spool.put(
            Label(user="ann", lesson=SPAM, digest=digest, origin="move", received=received),
            digest.encode(),
        )
        for digest, received in (("late", now), ("other", now - 2000))
    )
    ledger = SqliteLedger(tmp_path / "ledger")
    ledger.begin_attempt(late.name, 0)
    ledger.close()
    # The other one settles first, and raises the count that the late one was begun with.
    slowly = msgspec.structs.replace(SETTINGS, settle_s=1000.0)
    async with running(tmp_path, rspamd, slowly, count=rspamd.count) as samples:
        await until(lambda: bool(rspamd.learned) and samples.waiting == 1)
    assert rspamd.learned == [("ann", SPAM, b"other")]
    assert other.name not in {entry.name for entry in spool.entries()}
    async with running(tmp_path, rspamd, count=rspamd.count) as samples:
        await until(lambda: len(rspamd.learned) == 2 and samples.waiting == 0)
    assert rspamd.learned[-1] == ("ann", SPAM, b"late")


async def test_a_sample_that_comes_into_doubt_while_redis_is_asked_is_not_forgotten(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """It was learned by a process that died, and is not learned again."""
    spool = Spool(tmp_path)
    spool.prepare()
    other, late = (
        spool.put(
            Label(user="ann", lesson=lesson, digest=digest, origin="move", received=time.time()),
            digest.encode(),
        )
        for lesson, digest in ((HAM, "other"), (SPAM, "late"))
    )
    asked = 0

    async def count(user: str, lesson: Lesson) -> int:
        nonlocal asked
        asked += 1
        if asked == 2:  # the proof of the first
            tutor.doubt(late)
        return 1 if lesson is SPAM else await rspamd.count(user, lesson)

    tutor = Tutor(spool, cast("RspamdClient", rspamd), count)
    with closing(SqliteLedger(tmp_path / "ledger")) as ledger:
        ledger.begin_attempt(late.name, 0)
        tutor.ledger = ledger
        for entry in (other, late):
            await tutor.finish([entry])
        await tutor.stop()
    assert rspamd.learned == [("ann", HAM, b"other")]


async def test_nothing_of_a_user_is_learned_while_redis_cannot_be_asked(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """Without the count nobody could say what was learned; the sample waits for it."""
    away = 5

    async def count(user: str, lesson: Lesson) -> int:
        nonlocal away
        if away:
            away -= 1
            raise StatisticsError("Redis is away")
        return await rspamd.count(user, lesson)

    async with running(tmp_path, rspamd, count=count) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: samples.waiting == 0)
    assert rspamd.learned == [("ann", SPAM, b"one")]


DELIVERY_SETTINGS = msgspec.structs.replace(SETTINGS, settle_s=30.0, delivery_settle_s=3600.0)


async def test_a_delivery_waits_longer_and_the_users_word_does_not_wait_with_it(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """A move within the delivery's settle time is learned as soon as it has settled itself."""
    clock = Clock()
    async with running(tmp_path, rspamd, DELIVERY_SETTINGS, clock) as samples:
        await samples.take("ann", HAM, "d1", "delivery", b"one")
        await samples.take("ann", HAM, "d2", "delivery", b"two")
        assert samples.delivered("ann", HAM) == 2
        clock.now += 100
        await samples.take("ann", SPAM, "d1", "move", b"one")
        clock.now += 31
        await samples.take("bob", SPAM, "d3", "move", b"three")  # wakes the worker
        await until(lambda: samples.waiting == 2)
        assert rspamd.learned == [("ann", SPAM, b"one")]
        assert samples.delivered("ann", HAM) == 1
        clock.now += 3600
        await samples.take("bob", SPAM, "d4", "move", b"four")
        await until(lambda: ("ann", HAM, b"two") in rspamd.learned)
        await until(lambda: samples.delivered("ann", HAM) == 0)


async def test_a_delivery_does_not_overrule_the_users_own_word(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """The same message delivered again, to INBOX, stays what the user called it."""
    async with running(tmp_path, rspamd) as samples:
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: samples.waiting == 0)
        await samples.take("ann", HAM, "d1", "delivery", b"one")
        await until(lambda: samples.waiting == 0)
    assert rspamd.learned == [("ann", SPAM, b"one")]


async def test_what_users_agree_about_teaches_the_shared_statistics_once(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """One user alone teaches nobody else; more than enough change nothing."""
    shared = (SHARED_USER, SPAM, b"one")
    async with running(tmp_path, rspamd, has_shared=True) as samples:
        for user in ("ann", "bob", "cid"):
            await samples.take(user, SPAM, "d1", "move", b"one")
            await until(lambda: not [*(tmp_path / "new").iterdir()] and samples.waiting == 0)
            assert rspamd.learned.count(shared) == (user != "ann")
    assert rspamd.learned.count(shared) == 1
    assert list((tmp_path / "new").iterdir()) == []


async def test_where_users_differ_the_shared_statistics_follow_the_greater_number(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """Two against two leave it as it was."""
    async with running(tmp_path, rspamd, has_shared=True) as samples:
        for user, lesson in (("a", SPAM), ("b", SPAM), ("c", HAM), ("d", HAM), ("e", HAM)):
            await samples.take(user, lesson, "d1", "move", b"one")
            await until(lambda: not [*(tmp_path / "new").iterdir()] and samples.waiting == 0)
    assert [lesson for who, lesson, _ in rspamd.learned if who == SHARED_USER] == [SPAM, HAM]
    assert [who for who, _, _ in rspamd.learned if who != SHARED_USER] == list("abcde")


async def test_without_shared_statistics_nothing_is_taught_to_them(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """However many users agree."""
    async with running(tmp_path, rspamd) as samples:
        for user in ("ann", "bob", "cid"):
            await samples.take(user, SPAM, "d1", "move", b"one")
        await until(lambda: samples.waiting == 0)
    assert {who for who, _, _ in rspamd.learned} == {"ann", "bob", "cid"}
    assert list((tmp_path / "new").iterdir()) == []


async def test_the_worker_prunes_the_ledger_by_age(tmp_path: Path, rspamd: FakeRspamd) -> None:
    """What was taught longer ago than learning.keep_days is forgotten, and nothing else."""
    ledger = SqliteLedger(tmp_path / "ledger")
    now = time.time()
    for digest, days in (("old", SETTINGS.keep_days + 1), ("young", SETTINGS.keep_days - 1)):
        ledger.record(
            Answer(
                user="ann",
                digest=digest,
                lesson=SPAM,
                outcome=Outcome.LEARNED,
                origin="move",
                time=now - days * 86400,
            )
        )
    async with running(tmp_path, rspamd):
        await until(lambda: ledger.taught("ann", "old") is None)
    assert ledger.taught("ann", "young") is not None
    ledger.close()


async def test_after_an_outage_samples_are_learned_in_the_order_users_made_them(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """All wait together while Rspamd is away, instead of each by chance for itself."""
    rspamd.failures = [RspamdAway("refused")] * 40
    messages = [b"%02d" % number for number in range(30)]
    async with running(tmp_path, rspamd) as samples:
        for number, message in enumerate(messages):
            await samples.take("ann", SPAM, f"d{number}", "move", message, received=float(number))
        await until(lambda: samples.waiting == 0)
    assert [message for _, _, message in rspamd.learned] == messages


async def test_one_message_that_fails_does_not_hold_up_others(
    tmp_path: Path, rspamd: FakeRspamd
) -> None:
    """Only a server that is away stops all; an answer that is none concerns its message."""
    rspamd.failures = [RspamdUnavailable("500")]
    slow = msgspec.structs.replace(SETTINGS, retry_first_s=60.0, retry_cap_s=60.0)
    async with running(tmp_path, rspamd, slow) as samples:
        await samples.take("ann", SPAM, "d0", "move", b"fails", received=0.0)
        await until(lambda: rspamd.failures == [])
        await samples.take("ann", SPAM, "d1", "move", b"fine", received=1.0)
        await until(lambda: samples.waiting == 1)
    assert [message for _, _, message in rspamd.learned] == [b"fine"]
