from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mailhooks.batch import ROUND, TRIES, Batch
from mailhooks.errors import (
    RspamdMisconfigured,
    RspamdUnavailable,
    SourceError,
    StatisticsError,
)
from mailhooks.ledger import Outcome, SqliteLedger
from mailhooks.lesson import Lesson
from mailhooks.rspamd import LearnResult, LearnStatus
from mailhooks.teacher import TOO_LARGE, Done, Result, Task, Teacher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from mailhooks.rspamd import RspamdClient

ANNA = "anna@example.org"
LIMIT = 1000


class FakeRspamd:
    """Learns what it is told; `answers` are used up first."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.answers: list[LearnStatus | Exception] = []
        self.held: dict[tuple[str, bytes], str] = {}
        self.counts = {Lesson.SPAM: 0, Lesson.HAM: 0}
        self.redis_is_away = False
        self.at_once = self.most_at_once = 0

    def count(self, _user: str) -> dict[Lesson, int]:
        if self.redis_is_away:
            raise StatisticsError("Redis is away")
        return dict(self.counts)

    async def learn(self, message: bytes, lesson: Lesson, *, user: str, bulk: bool) -> LearnResult:
        return await self._learn(lesson.value, message, user, bulk=bulk)

    async def _learn(self, lesson: str, message: bytes, user: str, *, bulk: bool) -> LearnResult:
        assert bulk
        self.asked.append((lesson, user, message))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(3):
            await asyncio.sleep(0)
        self.at_once -= 1
        answer = self.answers.pop(0) if self.answers else LearnStatus.LEARNED
        if isinstance(answer, Exception):
            raise answer
        if answer is LearnStatus.LEARNED and self.held.get((user, message)) == lesson:
            answer = LearnStatus.ALREADY_LEARNED
        if answer is LearnStatus.LEARNED:
            self.counts[Lesson(lesson)] += 1
            if self.held.get((user, message)):
                self.counts[Lesson(lesson).opposite] -= 1
            self.held[user, message] = lesson
        return LearnResult(answer, "", 200)


class FakeEvidence:
    """Knows what the fake Rspamd holds; `count` is what it was told."""

    def __init__(self, rspamd: FakeRspamd) -> None:
        self._rspamd = rspamd
        self.asked: list[tuple[int, int | None]] = []
        self.failures: list[Exception] = []

    async def held(self, tasks: Sequence[Task], count: int) -> list[Task]:
        return await self.likely_held(tasks, count)

    async def likely_held(self, tasks: Sequence[Task], count: int | None) -> list[Task]:
        self.asked.append((len(tasks), count))
        if self.failures:
            raise self.failures.pop(0)
        return [each for each in tasks if (each.user, each.raw) in self._rspamd.held]


@pytest.fixture
def ledger() -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(":memory:")
    yield ledger
    ledger.close()


@pytest.fixture
def rspamd() -> FakeRspamd:
    return FakeRspamd()


@pytest.fixture
def teacher(ledger: SqliteLedger, rspamd: FakeRspamd) -> Teacher:
    return made(ledger, rspamd)


def made(ledger: SqliteLedger, rspamd: FakeRspamd, **options: object) -> Teacher:
    client: RspamdClient = rspamd  # type: ignore[assignment]
    return Teacher(  # type: ignore[call-overload, no-any-return, unused-ignore]
        ledger,
        client,
        origin="hand",
        max_message_bytes=LIMIT,
        count=rspamd.count,
        **options,  # type: ignore[arg-type]
    )


def task(number: int = 1, lesson: Lesson = Lesson.SPAM, size: int = 0) -> Task:
    raw = b"Subject: %d\n\nhello\n" % number + b"x" * size
    return Task.of(ANNA, lesson, "here", f"here#{number}", raw)


async def test_what_is_learned_is_written_down_and_known_next_time(
    teacher: Teacher, rspamd: FakeRspamd, ledger: SqliteLedger
) -> None:
    """The second time costs no request, which is how an interrupted run goes on."""
    assert await teacher.teach(task()) == Result(Done.LEARNED)
    assert await teacher.teach(task()) == Result(Done.KNOWN)
    assert ledger.taught(ANNA, task().digest) is None
    await teacher.settle()
    assert await teacher.teach(task()) == Result(Done.KNOWN)
    assert len(rspamd.asked) == 1
    taught = ledger.taught(ANNA, task().digest)
    assert taught is not None
    assert (taught.held, taught.last.origin) == (Lesson.SPAM, "hand")
    assert taught.last.outcome is Outcome.LEARNED


async def test_the_opposite_lesson_relearns(teacher: Teacher, ledger: SqliteLedger) -> None:
    """A changed mind is sent to Rspamd and counted as a correction."""
    await teacher.teach(task())
    await teacher.settle()
    assert await teacher.teach(task(lesson=Lesson.HAM)) == Result(Done.RELEARNED)
    await teacher.settle()
    assert ledger.counts()[ANNA].ham == 1
    assert sum(ledger.counts()[ANNA].corrections.values()) == 1


async def test_what_only_rspamd_knew_is_held_from_now_on(
    teacher: Teacher, rspamd: FakeRspamd
) -> None:
    """A run that was killed between learn and ledger is repeated without harm."""
    rspamd.answers = [LearnStatus.ALREADY_LEARNED]
    assert await teacher.teach(task()) == Result(Done.ALREADY_LEARNED)
    assert await teacher.teach(task()) == Result(Done.KNOWN)


async def test_a_refusal_says_why_and_is_tried_again_by_hand_only(
    teacher: Teacher, rspamd: FakeRspamd, ledger: SqliteLedger
) -> None:
    """A person may insist; a nightly reconcile does not send the same mail for ever."""
    rspamd.answers = [LearnStatus.TOO_FEW_TOKENS] * 2
    refused = Result(Done.REFUSED, "too-few-tokens")
    assert await teacher.teach(task()) == refused
    assert await teacher.teach(task()) == refused
    await teacher.settle()
    automatic = made(ledger, rspamd, retry_refused=False)
    again = await automatic.teach(task())
    assert again is not None
    assert again.done is Done.REFUSED
    assert len(rspamd.asked) == 2
    assert await automatic.teach(task(lesson=Lesson.HAM)) == Result(Done.LEARNED)


async def test_too_large_a_message_is_not_sent(teacher: Teacher, rspamd: FakeRspamd) -> None:
    """What the daemon would not take is not learned by hand either."""
    assert await teacher.teach(task(size=LIMIT)) == Result(Done.REFUSED, TOO_LARGE)
    assert not rspamd.asked


async def test_what_waits_in_the_spool_is_left_to_the_daemon(
    ledger: SqliteLedger, rspamd: FakeRspamd
) -> None:
    """The user's last word is about to be learned, and it may be the opposite."""
    teacher = made(ledger, rspamd, waiting={(ANNA, task().digest)})
    assert await teacher.teach(task()) == Result(Done.WAITING)
    assert not rspamd.asked


async def test_two_copies_at_once_are_learned_once(teacher: Teacher, rspamd: FakeRspamd) -> None:
    """Rspamd might count both, since its cache is written after the learn."""
    results = await asyncio.gather(*(teacher.teach(task()) for _ in range(5)))
    assert len(rspamd.asked) == 1
    assert results == [Result(Done.LEARNED)] + [Result(Done.KNOWN)] * 4
    assert not teacher._locks


async def test_a_dry_run_foresees_without_asking_or_writing(
    teacher: Teacher, rspamd: FakeRspamd, ledger: SqliteLedger
) -> None:
    """It tells new, known and turned round apart."""
    await teacher.teach(task(1))
    before = ledger.counts()
    foreseen = [
        (await teacher.foresee(each)).done for each in (task(1), task(2), task(1, Lesson.HAM))
    ]
    assert foreseen == [Done.KNOWN, Done.LEARNED, Done.RELEARNED]
    assert len(rspamd.asked) == 1
    assert ledger.counts() == before


class Run:
    """A batch with its results and without waiting."""

    def __init__(self, teacher: Teacher, connections: int = 3) -> None:
        self.results: list[Result] = []
        self.waits: list[float] = []
        self.on_wait: Callable[[], None] = lambda: None
        self.batch = Batch(
            teacher.teach,
            lambda _task, result: self.results.append(result),
            prove=teacher.prove,
            settle=teacher.settle,
            abandon=teacher.abandon,
            connections=connections,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.on_wait()
        await asyncio.sleep(0)


async def stream(*tasks: Task, error: Exception | None = None) -> AsyncIterator[Task]:
    for each in tasks:
        yield each
    if error is not None:
        raise error


async def test_as_many_at_once_as_connections_and_no_more(
    teacher: Teacher, rspamd: FakeRspamd
) -> None:
    """Everything is taught, over no more connections than asked for."""
    run = Run(teacher, connections=4)
    await run.batch.run(stream(*map(task, range(40))))
    assert len(run.results) == 40
    assert rspamd.most_at_once == 4


async def test_a_short_absence_of_rspamd_is_waited_out(
    teacher: Teacher, rspamd: FakeRspamd
) -> None:
    """A restart in the middle costs some waiting and no message."""
    rspamd.answers = [RspamdUnavailable("gone")] * 8
    run = Run(teacher, connections=2)
    await run.batch.run(stream(*map(task, range(10))))
    assert [result.done for result in run.results] == [Done.LEARNED] * 10
    assert rspamd.counts[Lesson.SPAM] == 10
    assert 1 <= len(run.waits) < TRIES


async def test_a_long_absence_stops_the_run_and_the_same_run_goes_on(
    teacher: Teacher, rspamd: FakeRspamd
) -> None:
    """The error comes out, what was learned is known, and the rest is learned next time."""
    rspamd.answers = [*[LearnStatus.LEARNED] * 3, *[RspamdUnavailable("gone")] * TRIES]
    run = Run(teacher, connections=1)
    with pytest.raises(RspamdUnavailable):
        await run.batch.run(stream(*map(task, range(10))))
    assert len(run.results) == 3
    assert len(run.waits) == TRIES - 1
    rspamd.answers.clear()
    again = Run(teacher)
    await again.batch.run(stream(*map(task, range(10))))
    done = [result.done for result in again.results]
    assert (done.count(Done.KNOWN), done.count(Done.LEARNED)) == (3, 7)


async def test_a_wrong_setting_stops_the_run_at_once(teacher: Teacher, rspamd: FakeRspamd) -> None:
    """Ten thousand messages are not sent to an Rspamd that refuses us."""
    rspamd.answers = [RspamdMisconfigured("wrong password")] * 50
    run = Run(teacher)
    with pytest.raises(RspamdMisconfigured):
        await run.batch.run(stream(*map(task, range(50))))
    assert len(rspamd.asked) <= 3
    assert not run.waits


async def test_stopping_finishes_what_is_under_way_and_begins_nothing(
    teacher: Teacher, rspamd: FakeRspamd, ledger: SqliteLedger
) -> None:
    """Ctrl-C leaves no learn without its entry in the ledger."""
    run = Run(teacher, connections=2)
    running = asyncio.create_task(run.batch.run(stream(*map(task, range(50)))))
    while len(rspamd.asked) < 6:
        await asyncio.sleep(0)
    run.batch.stop()
    await running
    assert 6 <= len(run.results) == len(rspamd.asked) < 10
    assert ledger.counts()[ANNA].spam == len(run.results)


async def test_stopping_ends_the_wait_for_an_absent_rspamd(
    teacher: Teacher, rspamd: FakeRspamd
) -> None:
    """Ctrl-C is not answered by five more tries."""
    rspamd.answers = [RspamdUnavailable("gone")] * 100
    run = Run(teacher, connections=1)
    run.on_wait = run.batch.stop
    await run.batch.run(stream(*map(task, range(5))))
    assert run.results == []
    assert len(run.waits) == 1


async def test_mail_that_cannot_be_read_is_a_problem_and_the_rest_is_taught(
    teacher: Teacher,
) -> None:
    """One damaged file does not keep the others from being learned."""
    run = Run(teacher)
    await run.batch.run(stream(task(1), task(2), error=SourceError("x: cannot be read: damaged")))
    assert [result.done for result in run.results] == [Done.LEARNED] * 2
    assert run.batch.problems == ["x: cannot be read: damaged"]


async def test_what_redis_does_not_count_is_not_believed(
    teacher: Teacher, rspamd: FakeRspamd, ledger: SqliteLedger
) -> None:
    """Rspamd 3.4 says "learned" while Redis is away; nothing of that round is written down."""
    run = Run(teacher, connections=1)
    rspamd.counts[Lesson.SPAM] = -1  # a learn goes missing after the first look
    looks = iter([{Lesson.SPAM: 0, Lesson.HAM: 0}])
    teacher._count = lambda user: next(looks, None) or rspamd.count(user)
    with pytest.raises(RspamdUnavailable, match=r"Redis counts 4 spam of anna\S+ instead of 5"):
        await run.batch.run(stream(*map(task, range(5))))
    assert run.results == []
    assert ledger.users() == []
    again = Run(made(ledger, rspamd))
    await again.batch.run(stream(*map(task, range(5))))
    assert [result.done for result in again.results] == [Done.ALREADY_LEARNED] * 5


async def test_a_learn_whose_answer_was_lost_is_counted_once(
    teacher: Teacher, rspamd: FakeRspamd, ledger: SqliteLedger
) -> None:
    """Rspamd died between learning and answering; Redis' count tells, and nothing is sent again."""
    run = Run(teacher, connections=2)
    rspamd.answers = [LearnStatus.LEARNED, RspamdUnavailable("died")]
    run.on_wait = lambda: None
    asked = rspamd._learn

    async def learn_and_die(lesson: str, message: bytes, user: str, *, bulk: bool) -> LearnResult:
        try:
            return await asked(lesson, message, user, bulk=bulk)
        except RspamdUnavailable:
            rspamd.counts[Lesson(lesson)] += 1
            raise

    rspamd._learn = learn_and_die  # type: ignore[method-assign]
    await run.batch.run(stream(*map(task, range(4))))
    assert [result.done for result in run.results] == [Done.LEARNED] * 4
    assert len(rspamd.asked) == 4
    assert ledger.counts()[ANNA].spam == 4


async def test_an_absent_redis_is_waited_for(teacher: Teacher, rspamd: FakeRspamd) -> None:
    """Nothing is sent to Rspamd meanwhile."""
    rspamd.redis_is_away = True
    run = Run(teacher)

    def back() -> None:
        assert not rspamd.asked
        rspamd.redis_is_away = len(run.waits) < 2

    run.on_wait = back
    await run.batch.run(stream(*map(task, range(5))))
    assert [result.done for result in run.results] == [Done.LEARNED] * 5


async def test_rounds_go_on_until_everything_is_taught(
    teacher: Teacher, rspamd: FakeRspamd
) -> None:
    """More messages than fit into one, over users and lessons."""
    tasks = [
        task(number, Lesson.HAM if number % 3 else Lesson.SPAM) for number in range(ROUND * 2 + 5)
    ]
    run = Run(teacher)
    await run.batch.run(stream(*tasks))
    assert len(run.results) == len(rspamd.asked) == len(tasks)


def loses_answers(rspamd: FakeRspamd, *lost: int) -> None:
    """Have Rspamd learn and die before it answers, at the given learns."""
    learn, number = rspamd._learn, 0

    async def learn_and_die(lesson: str, message: bytes, user: str, *, bulk: bool) -> LearnResult:
        nonlocal number
        number += 1
        dies = number in lost
        result = await learn(lesson, message, user, bulk=bulk)
        if dies:
            raise RspamdUnavailable("died")
        return result

    rspamd._learn = learn_and_die  # type: ignore[method-assign]


async def test_of_several_unclear_ones_the_learned_are_found_and_not_sent_again(
    ledger: SqliteLedger, rspamd: FakeRspamd
) -> None:
    """The count says how many of those under way were learned, the evidence which."""
    evidence = FakeEvidence(rspamd)
    run = Run(made(ledger, rspamd, evidence=evidence), connections=3)
    loses_answers(rspamd, 2)
    rspamd.answers = [RspamdUnavailable("died before")]
    await run.batch.run(stream(*map(task, range(6))))
    assert [result.done for result in run.results] == [Done.LEARNED] * 6
    assert rspamd.counts[Lesson.SPAM] == 6
    assert len(rspamd.asked) == 7
    assert evidence.asked == [(2, 1)]


async def test_what_a_run_could_not_clear_up_the_next_one_does(
    ledger: SqliteLedger, rspamd: FakeRspamd
) -> None:
    """Redis stays away at the end: nothing learned before is sent again by the same command."""
    evidence = FakeEvidence(rspamd)
    run = Run(made(ledger, rspamd, evidence=evidence), connections=2)
    loses_answers(rspamd, 3)
    looks = iter([True])

    def count(user: str) -> dict[Lesson, int]:
        if next(looks, False):
            return dict(rspamd.counts)
        raise StatisticsError(f"no count of {user}")

    run.batch._handle.__self__._count = count  # type: ignore[attr-defined]
    with pytest.raises(StatisticsError):
        await run.batch.run(stream(*map(task, range(10))))
    assert run.results == []
    sent = len(rspamd.asked)
    assert rspamd.counts[Lesson.SPAM] == sent
    again = Run(made(ledger, rspamd, evidence=evidence))
    await again.batch.run(stream(*map(task, range(10))))
    assert [result.done for result in again.results] == [Done.LEARNED] * 10
    assert (len(rspamd.asked), rspamd.counts[Lesson.SPAM]) == (10, 10)
    assert evidence.asked == [(sent, sent)]
    assert ledger.attempts() == {}


async def test_what_redis_proves_is_written_down_though_the_rest_stays_unclear(
    ledger: SqliteLedger, rspamd: FakeRspamd
) -> None:
    """Rspamd stays away: only those it was learning are looked for by the next run."""
    evidence = FakeEvidence(rspamd)
    evidence.failures = [StatisticsError("Rspamd is away")] * 99
    run = Run(made(ledger, rspamd, evidence=evidence), connections=3)
    loses_answers(rspamd, 5)
    rspamd.answers = [*[LearnStatus.LEARNED] * 5, RspamdUnavailable("died before")]
    with pytest.raises(StatisticsError):
        await run.batch.run(stream(*map(task, range(20))))
    proved = [result.done for result in run.results]
    assert set(proved) == {Done.LEARNED}
    assert len(proved) == ledger.counts()[ANNA].spam == rspamd.counts[Lesson.SPAM] - 1
    assert len(ledger.attempts()) == 2
    evidence.failures.clear()
    evidence.asked.clear()
    again = Run(made(ledger, rspamd, evidence=evidence))
    await again.batch.run(stream(*map(task, range(20))))
    assert rspamd.counts[Lesson.SPAM] == 20
    assert evidence.asked == [(2, 1)]
    assert ledger.attempts() == {}


async def test_what_redis_cannot_hold_is_not_looked_for(
    ledger: SqliteLedger, rspamd: FakeRspamd
) -> None:
    """A Redis that came back without its last seconds counts no more than before."""
    evidence = FakeEvidence(rspamd)
    run = Run(made(ledger, rspamd, evidence=evidence), connections=2)
    running = asyncio.create_task(run.batch.run(stream(*map(task, range(9)))))
    while len(rspamd.asked) < 5:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ledger.attempts()
    rspamd.counts[Lesson.SPAM] = 0
    rspamd.held.clear()
    again = Run(made(ledger, rspamd, evidence=evidence))
    await again.batch.run(stream(*map(task, range(9))))
    assert rspamd.counts[Lesson.SPAM] == 9
    assert not evidence.asked


async def test_evidence_that_cannot_be_had_is_waited_for(
    ledger: SqliteLedger, rspamd: FakeRspamd
) -> None:
    """Rspamd, too, may need a while to come back."""
    evidence = FakeEvidence(rspamd)
    evidence.failures = [StatisticsError("Rspamd is away")] * 2
    run = Run(made(ledger, rspamd, evidence=evidence), connections=3)
    loses_answers(rspamd, 2)
    rspamd.answers = [RspamdUnavailable("died before")]
    await run.batch.run(stream(*map(task, range(6))))
    assert rspamd.counts[Lesson.SPAM] == 6
    assert len(evidence.asked) == 3


async def test_a_cancelled_run_leaves_marks_for_what_was_under_way(
    ledger: SqliteLedger, rspamd: FakeRspamd
) -> None:
    """Ctrl-C twice: the next run looks before it sends any of those again."""
    evidence = FakeEvidence(rspamd)
    run = Run(made(ledger, rspamd, evidence=evidence), connections=2)
    running = asyncio.create_task(run.batch.run(stream(*map(task, range(9)))))
    while len(rspamd.asked) < 5:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    again = Run(made(ledger, rspamd, evidence=evidence))
    await again.batch.run(stream(*map(task, range(9))))
    assert rspamd.counts[Lesson.SPAM] == 9
    assert evidence.asked


async def test_a_changed_mind_whose_answer_was_lost_is_counted_once(
    teacher: Teacher, rspamd: FakeRspamd, ledger: SqliteLedger
) -> None:
    """It took one of the other class back, although nothing was confirmed."""
    await Run(teacher).batch.run(stream(task()))
    loses_answers(rspamd, 1)
    run = Run(teacher)
    await run.batch.run(stream(task(lesson=Lesson.HAM)))
    assert rspamd.counts == {Lesson.SPAM: 0, Lesson.HAM: 1}
    assert len(rspamd.asked) == 2
    assert ledger.counts()[ANNA].ham == 1


async def test_a_round_is_of_one_class(teacher: Teacher, rspamd: FakeRspamd) -> None:
    """Or counts could not tell how many of which were learned."""
    tasks = [task(number, Lesson.SPAM if number < 5 else Lesson.HAM) for number in range(10)]
    run = Run(teacher, connections=8)
    await run.batch.run(stream(*tasks))
    assert rspamd.counts == {Lesson.SPAM: 5, Lesson.HAM: 5}
    assert rspamd.most_at_once == 5
