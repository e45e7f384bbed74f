"""What every ledger promises, and what the SQLite one does with its file."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mailhooks.acquaintance import Kind, Past, Trait
from mailhooks.bayes import Opinion
from mailhooks.errors import LedgerError
from mailhooks.ledger import (
    DELIVERY,
    WEEK_S,
    Answer,
    Counts,
    Decided,
    Decision,
    Ledger,
    Outcome,
    Rates,
    Source,
    SqliteLedger,
    Taught,
)
from mailhooks.ledger.schema import APPLICATION_ID, MIGRATIONS, migrate
from mailhooks.lesson import Lesson
from mailhooks.policy import (
    Bayes,
    Folder,
    NoBayes,
    NoBayesWhy,
    NoScan,
    NoScanWhy,
    Reason,
    decide,
)
from mailhooks.score import Course, MilterScore, NoScore, RspamdScore, Why

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# A second implementation joins the contract by one line here; it is opened with a path.
IMPLEMENTATIONS: list[type[SqliteLedger]] = [SqliteLedger]

SPAM, HAM = Lesson.SPAM, Lesson.HAM
LEARNED, ALREADY, REFUSED = Outcome.LEARNED, Outcome.ALREADY_LEARNED, Outcome.REFUSED

# Records answers and says so after each; argv: path, user, how many.
WRITER = """
import sys
from pathlib import Path
from {module} import {name} as open_ledger
from mailhooks.ledger import Answer, Outcome
from mailhooks.lesson import Lesson

path, user, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ledger = open_ledger(path)
for number in range(limit):
    sample = f"{{user}}-{{number}}"
    ledger.begin_attempt(sample)
    ledger.record(
        Answer(
            user=user,
            digest=str(number),
            lesson=Lesson.SPAM if number % 3 else Lesson.HAM,
            outcome=Outcome.LEARNED,
            origin="move",
            time=float(number),
        )
    )
    print(number, flush=True)
    if number % 2:
        ledger.end_attempt(sample)
ledger.close()
"""


def answer(
    lesson: Lesson = SPAM,
    outcome: Outcome = LEARNED,
    *,
    user: str = "ann",
    digest: str = "d1",
    time: float = 0.0,
    detail: str = "",
    origin: str = "move",
    traits: tuple[Trait, ...] = (),
) -> Answer:
    return Answer(
        user=user,
        digest=digest,
        lesson=lesson,
        outcome=outcome,
        origin=origin,
        time=time,
        detail=detail,
        traits=traits,
    )


def decision(
    folder: Folder = Folder.INBOX,
    *,
    user: str = "ann",
    digest: str = "d1",
    time: float = 0.0,
    traits: tuple[Trait, ...] = (),
) -> Decision:
    return Decision(
        user=user,
        digest=digest,
        time=time,
        folder=folder,
        reason=Reason.SUM,
        source=Source.CARRIED,
        objective=4.1,
        threshold=6.0,
        points=1.5,
        probability=0.9,
        own=Opinion(0.9, 201, 340),
        queue_id="4XyZ1234abcd",
        acquaintance=-1.5,
        traits=traits,
    )


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[SqliteLedger]:
    found: type[SqliteLedger] = request.param
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(kind: type[SqliteLedger], path: Path) -> Iterator[Ledger]:
    with closing(kind(path)) as opened:
        yield opened


def start_writer(
    kind: type[SqliteLedger], path: Path, user: str, limit: int
) -> subprocess.Popen[str]:
    code = WRITER.format(module=kind.__module__, name=kind.__qualname__)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), user, str(limit)],
        stdout=subprocess.PIPE,
        text=True,
    )


# What was taught


def test_a_message_nobody_taught_is_unknown(ledger: Ledger) -> None:
    """No answer is None, also for another user's or another message."""
    ledger.record(answer())
    assert ledger.taught("bob", "d1") is None
    assert ledger.taught("ann", "d2") is None


@pytest.mark.parametrize("outcome", [LEARNED, ALREADY])
@pytest.mark.parametrize("lesson", list(Lesson))
def test_a_confirmed_lesson_is_held(ledger: Ledger, lesson: Lesson, outcome: Outcome) -> None:
    """What Rspamd learned, now or earlier, is what its statistics hold."""
    given = answer(lesson, outcome, time=12.5)
    assert ledger.record(given) == 0
    assert ledger.taught("ann", "d1") == Taught(lesson, given)


def test_a_refused_lesson_is_noted_and_holds_nothing(ledger: Ledger) -> None:
    """The reason of a refusal can be looked up, and the statistics hold nothing."""
    given = answer(SPAM, REFUSED, detail="contains less tokens than required: 3 < 11")
    assert ledger.record(given) == 0
    assert ledger.taught("ann", "d1") == Taught(None, given)


def test_a_refusal_does_not_overwrite_what_is_held(ledger: Ledger) -> None:
    """Spam that cannot be relearned as ham is still spam to the statistics."""
    refusal = answer(HAM, REFUSED, detail="denied")
    assert ledger.record(answer(SPAM), refusal) == 0
    assert ledger.taught("ann", "d1") == Taught(SPAM, refusal)


@pytest.mark.parametrize("outcome", [LEARNED, ALREADY])
def test_the_opposite_lesson_is_a_correction(ledger: Ledger, outcome: Outcome) -> None:
    """A message taught the other way is held the other way, and counted as corrected.

    Rspamd may say "already learned" because we died before we could note it.
    """
    ledger.record(answer(SPAM), answer(SPAM, ALREADY))
    assert ledger.record(answer(HAM, outcome)) == 1
    assert ledger.record(answer(HAM, ALREADY)) == 0
    taught = ledger.taught("ann", "d1")
    assert taught is not None
    assert taught.held is HAM


def test_answers_count_in_the_order_of_recording(ledger: Ledger) -> None:
    """A clock that was set back does not turn the order round."""
    ledger.record(answer(SPAM, time=100.0))
    ledger.record(answer(HAM, time=50.0))
    assert ledger.taught("ann", "d1") == Taught(HAM, answer(HAM, time=50.0))


def test_a_batch_is_written_wholly_or_not_at_all(ledger: Ledger) -> None:
    """One answer that cannot be written takes the others of its call with it."""
    with pytest.raises(LedgerError):
        ledger.record(answer(), answer(digest="d2", time=float("nan")))
    assert ledger.users() == []
    assert ledger.record() == 0


@pytest.mark.parametrize("user", ["", "ann@example.org", "Ann", "ánn", "a\0b", "' OR 1=1 --", "%"])
def test_names_are_kept_apart_byte_for_byte(ledger: Ledger, user: str) -> None:
    """No name is another's, whatever characters it has."""
    ledger.record(answer(user="ann"), answer(HAM, user=user))
    assert ledger.users() == sorted({"ann", user})
    assert ledger.counts(user)[user] == Counts(ham=1, outcomes={LEARNED: 1})


def test_text_that_is_no_unicode_is_refused(ledger: Ledger) -> None:
    """A lone surrogate is an error of the ledger's own, not a crash of the worker."""
    with pytest.raises(LedgerError):
        ledger.record(answer(user="\udce9"))
    with pytest.raises(LedgerError):
        ledger.taught("\udce9", "d1")


# Figures


def test_counts_tell_each_users_figures(ledger: Ledger) -> None:
    """Messages held are counted once however often taught; answers are all counted."""
    ledger.record(
        answer(SPAM),
        answer(SPAM, ALREADY),
        answer(HAM, digest="d2"),
        answer(SPAM, digest="d3"),
        answer(SPAM, REFUSED, digest="d4"),
        answer(HAM, user="bob"),
    )
    assert ledger.counts() == {
        "ann": Counts(spam=2, ham=1, outcomes={LEARNED: 3, ALREADY: 1, REFUSED: 1}),
        "bob": Counts(ham=1, outcomes={LEARNED: 1}),
    }
    assert ledger.counts("bob") == {"bob": Counts(ham=1, outcomes={LEARNED: 1})}
    assert ledger.counts("eve") == {}


def test_corrections_are_counted_by_week_since_a_time(ledger: Ledger) -> None:
    """Week 0 begins at the time asked for, and what is older counts only as held."""
    start = 1_000_000.0
    ledger.record(
        answer(SPAM, time=start - 2),
        answer(HAM, time=start - 1),
        answer(SPAM, time=start),
        answer(HAM, time=start + WEEK_S - 1),
        answer(SPAM, time=start + 2 * WEEK_S),
        answer(HAM, user="bob", time=start - 1),
    )
    assert ledger.counts(since=start) == {
        "ann": Counts(spam=1, outcomes={LEARNED: 3}, corrections={0: 2, 2: 1}),
        "bob": Counts(ham=1),
    }


# What deliveries decided

CARRIED = MilterScore(
    score=4.1,
    required=15.0,
    action="no action",
    course=Course.SCORED,
    symbols=(("A", 4.1),),
    queue_id="4Q",
    time=1,
)
SCANNED = RspamdScore(
    score=2.5, required=None, action="no action", course=Course.SCORED, symbols=()
)
BAYES = Bayes(3.2, 0.97, own=Opinion(0.99, 8, 9), shared=Opinion(0.8, 900, 800))
SILENT = Bayes(1.1, 0.8, own=Opinion(None, 1, 0), shared=Opinion(0.8, 900, 800))


@pytest.mark.parametrize(
    ("milter", "scan", "bayes", "expected"),
    [
        (CARRIED, None, BAYES, (Source.CARRIED, 4.1, "", "", "", 3.2)),
        (CARRIED, None, SILENT, (Source.CARRIED, 4.1, "", "", "", 1.1)),
        (
            NoScore(Why.EXPIRED),
            SCANNED,
            NoBayes(NoBayesWhy.DEADLINE),
            (Source.SCANNED, 2.5, "expired", "", "deadline", None),
        ),
        (
            NoScore(Why.ABSENT),
            NoScan(NoScanWhy.OFF),
            BAYES,
            (Source.NONE, None, "absent", "off", "", 3.2),
        ),
    ],
    ids=["carried", "own-silent", "scanned", "none"],
)
def test_a_verdict_comes_back_as_it_was_noted(
    ledger: Ledger,
    milter: MilterScore | NoScore,
    scan: RspamdScore | NoScan | None,
    bayes: Bayes | NoBayes,
    expected: tuple[object, ...],
) -> None:
    """Each part of the verdict is there, or the reason why it was missing."""
    verdict = decide(milter, bayes, 6.0, scan=scan)
    noted = Decision.of(verdict, user="ann", digest="d1", time=12.5, queue_id="4Q")
    ledger.decide(noted)
    (found,) = ledger.decisions("ann", "d1")
    assert found == Decided(noted)
    assert (
        noted.source,
        noted.objective,
        noted.no_milter,
        noted.no_scan,
        noted.no_bayes,
        noted.points,
    ) == expected
    assert (noted.folder, noted.reason) == (verdict.folder, verdict.reason)
    if isinstance(bayes, Bayes):
        assert (noted.own, noted.shared) == (bayes.own, bayes.shared)


def test_decisions_are_found_by_user_message_and_time(ledger: Ledger) -> None:
    """Oldest first, whatever the order they were written in."""
    ledger.decide(decision(time=20.0), decision(digest="d2", time=10.0), decision(user="bob"))
    ledger.decide()

    def times(user: str, digest: str | None = None, since: float = 0.0) -> list[float]:
        return [each.decision.time for each in ledger.decisions(user, digest, since=since)]

    assert times("ann") == [10.0, 20.0]
    assert times("ann", "d1") == [20.0]
    assert times("ann", since=15.0) == [20.0]
    assert times("ann", "d3") == times("eve") == []


def test_a_batch_of_decisions_is_written_wholly_or_not_at_all(ledger: Ledger) -> None:
    """One that cannot be written takes the others of its call with it."""
    with pytest.raises(LedgerError):
        ledger.decide(decision(), decision(user="\udce9"))
    assert ledger.decisions("ann") == []


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("folder", list(Folder))
@pytest.mark.parametrize("lesson", list(Lesson))
@pytest.mark.parametrize("late", [False, True], ids=["noted-first", "taught-first"])
def test_a_lesson_that_contradicts_the_folder_is_a_correction(
    ledger: Ledger, folder: Folder, lesson: Lesson, outcome: Outcome, late: bool
) -> None:
    """Whatever Rspamd makes of the lesson, and if the user was quicker than the ledger."""
    if not late:
        ledger.decide(decision(folder, time=10.0))
    ledger.record(answer(lesson, outcome, time=11.0))
    if late:
        ledger.decide(decision(folder, time=10.0))
    (found,) = ledger.decisions("ann", "d1")
    assert (found.taught, found.taught_time) == (lesson, 11.0)
    assert found.corrected is ((folder is Folder.JUNK) is (lesson is HAM))


def test_what_a_delivery_taught_and_what_was_taught_before_correct_nothing(
    ledger: Ledger,
) -> None:
    """Only the user's own word, and only about what had been decided by then."""
    ledger.record(answer(SPAM, time=5.0))
    ledger.decide(decision(time=10.0))
    ledger.record(
        answer(SPAM, time=11.0, origin=DELIVERY),
        answer(SPAM, time=11.0, user="bob"),
        answer(SPAM, time=11.0, digest="d2"),
    )
    (found,) = ledger.decisions("ann", "d1")
    assert found == Decided(decision(time=10.0))


def test_the_last_word_counts_and_belongs_to_the_last_decision_before_it(ledger: Ledger) -> None:
    """A correction taken back is none, and the same message may come twice."""
    ledger.decide(decision(time=10.0))
    ledger.record(answer(SPAM, time=11.0))
    ledger.decide(decision(Folder.JUNK, time=20.0))
    ledger.record(answer(HAM, time=21.0), answer(SPAM, time=22.0))
    first, second = ledger.decisions("ann", "d1")
    assert (first.taught, first.corrected) == (SPAM, True)
    assert (second.taught, second.corrected) == (SPAM, False)


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["decide", SPAM, HAM]), st.integers(1, 6)), min_size=1, max_size=8
    ),
    data=st.data(),
)
def test_decisions_get_the_same_word_in_whatever_order_they_are_written(
    events: list[tuple[str | Lesson, int]], data: st.DataObject
) -> None:
    """Each has the last lesson from its own time until the next decision."""
    written = data.draw(st.permutations(events))
    with closing(SqliteLedger(":memory:")) as ledger:
        for what, time in written:
            if isinstance(what, Lesson):
                ledger.record(answer(what, time=float(time)))
            else:
                ledger.decide(decision(time=float(time)))
        found = [(it.decision.time, it.taught) for it in ledger.decisions("ann", "d1")]
    times = sorted(time for what, time in events if what == "decide")
    ends = [*times[1:], 7]
    expected = []
    for begin, end in zip(times, ends, strict=False):
        own = [it for it, time in written if isinstance(it, Lesson) and begin <= time < end]
        expected.append((begin, own[-1] if own else None))
    assert found == expected


@pytest.mark.parametrize("is_taught", [False, True], ids=["untaught", "taught"])
def test_the_thousandth_copy_of_a_message_costs_what_the_second_cost(
    path: Path, is_taught: bool
) -> None:
    """Whoever sends one message for ever does not make the ledger slower."""
    steps = []
    with closing(SqliteLedger(path)) as ledger:
        if is_taught:
            ledger.record(answer(time=9.0))
        ledger.decide(decision(time=10.0))
        connection = ledger._database._connection
        for first in (11, 1000):
            counted: list[str] = []
            connection.set_trace_callback(counted.append)
            ledger.decide(decision(time=float(first)))
            connection.set_trace_callback(None)
            steps.append(len(counted))
            ledger.decide(*(decision(time=20.0 + number) for number in range(900)))
    assert steps[0] == steps[1]


def test_rates_tell_each_users_wrong_verdicts_by_week(ledger: Ledger) -> None:
    """Wrong is what the user turned round; week 0 begins at the time asked for."""
    start = 1_000_000.0
    for number in range(8):
        folder = Folder.JUNK if number < 3 else Folder.INBOX
        ledger.decide(decision(folder, digest=str(number), time=start + number))
    ledger.decide(
        decision(Folder.JUNK, digest="late", time=start + 2 * WEEK_S),
        decision(Folder.JUNK, digest="old", time=start - 1),
        decision(user="bob", time=start),
    )
    ledger.record(
        answer(HAM, digest="0", time=start + 9),
        answer(SPAM, digest="1", time=start + 9),
        answer(SPAM, digest="5", time=start + 9),
        answer(SPAM, digest="6", time=start + WEEK_S),
    )
    first = Rates(inbox=5, junk=3, false_positives=1, false_negatives=2)
    assert ledger.rates(since=start) == {
        "ann": {0: first, 2: Rates(junk=1)},
        "bob": {0: Rates(inbox=1)},
    }
    assert ledger.rates("bob", since=start) == {"bob": {0: Rates(inbox=1)}}
    assert ledger.rates("eve") == {}
    assert (first.ham, first.spam) == (4, 4)
    assert (first.false_positive_rate, first.false_negative_rate) == (1 / 4, 2 / 4)
    assert (Rates().false_positive_rate, Rates().false_negative_rate) == (None, None)
    assert first + Rates(junk=1) == Rates(inbox=5, junk=4, false_positives=1, false_negatives=2)


def test_decisions_are_forgotten_with_their_user_and_pruned_by_age(ledger: Ledger) -> None:
    """Nothing decided outlives the user's wish, or the time it is kept for."""
    ledger.decide(decision(time=10.0), decision(digest="d2", time=20.0))
    ledger.decide(*(decision(user="bob", digest=str(number), time=10.0) for number in range(2500)))
    ledger.decide(decision(user="bob", time=20.0))
    assert ledger.forget("ann") == 0
    assert ledger.decisions("ann") == []
    assert ledger.prune(20.0) == 0
    assert [each.decision.time for each in ledger.decisions("bob")] == [20.0]


# Acquaintances

LIST, SENDER = Trait(Kind.LIST, "a.example"), Trait(Kind.SENDER, "b@b.example")
BOTH = (LIST, SENDER)


def test_a_message_counts_for_its_traits_as_what_the_user_said_of_it_last(ledger: Ledger) -> None:
    """Left in INBOX, then called spam, then ham: one message, counted once."""
    ledger.decide(decision(traits=BOTH))
    assert ledger.past("ann", BOTH) == dict.fromkeys(BOTH, Past(left_inbox=1))
    ledger.record(answer(SPAM, traits=BOTH))
    ledger.record(answer(SPAM, ALREADY, traits=BOTH))
    assert ledger.past("ann", [LIST]) == {LIST: Past(said_spam=1)}
    ledger.record(answer(HAM, REFUSED, traits=BOTH))
    assert ledger.past("ann", BOTH) == dict.fromkeys(BOTH, Past(said_ham=1))
    ledger.decide(decision(Folder.JUNK, traits=BOTH), decision(digest="d2", traits=(LIST,)))
    assert ledger.past("ann", BOTH) == {LIST: Past(0, 1, 0, 1), SENDER: Past(said_ham=1)}


def test_a_message_judged_again_is_no_acquaintance_of_its_own(ledger: Ledger) -> None:
    """Where it was left says nothing of itself; what the user said of it does."""
    ledger.decide(decision(traits=BOTH), decision(digest="d2", traits=(LIST,)))
    assert ledger.past("ann", BOTH, digest="d1") == {LIST: Past(left_inbox=1), SENDER: Past()}
    ledger.record(answer(SPAM, traits=BOTH))
    assert ledger.past("ann", [SENDER], digest="d1") == {SENDER: Past(said_spam=1)}


def test_what_a_delivery_taught_by_itself_is_nobodys_word(ledger: Ledger) -> None:
    """It counts as left where it was delivered, which it was."""
    ledger.decide(decision(traits=BOTH))
    ledger.record(answer(HAM, origin=DELIVERY, traits=BOTH))
    assert ledger.past("ann", BOTH) == dict.fromkeys(BOTH, Past(left_inbox=1))


def test_nobody_is_known_to_another_user_or_as_something_else(ledger: Ledger) -> None:
    """Each user has acquaintances of their own, and a list is no sender of that name."""
    ledger.record(answer(traits=(LIST,)))
    assert ledger.past("bob", BOTH) == {}
    assert ledger.past("ann", [Trait(Kind.DOMAIN, LIST.name), SENDER]) == {}
    assert ledger.past("ann", []) == {}


def test_acquaintances_are_forgotten_with_message_user_and_age(ledger: Ledger) -> None:
    """A forgotten message is taken back; a list lasts as long as it writes."""
    ledger.record(answer(time=10.0, traits=BOTH), answer(digest="d2", time=10.0, traits=(LIST,)))
    ledger.forget_message("ann", "d1")
    assert ledger.past("ann", [LIST]) == {LIST: Past(said_spam=1)}
    ledger.decide(decision(digest="d3", time=20 * 86400.0, traits=(LIST,)))
    ledger.prune(19 * 86400.0)
    assert ledger.past("ann", BOTH) == {LIST: Past(said_spam=1, left_inbox=1)}
    ledger.record(answer(user="bob", traits=(LIST,)))
    ledger.forget("ann")
    assert ledger.past("ann", BOTH) == {}
    assert ledger.past("bob", BOTH) == {LIST: Past(said_spam=1)}


def test_the_file_names_no_list_and_no_sender(path: Path) -> None:
    """Hashes only, under a secret that no other ledger has."""
    for name in ("one", "two"):
        with closing(SqliteLedger(path.with_name(name))) as ledger:
            ledger.record(answer(traits=BOTH))
            ledger.decide(decision(digest="d2", traits=BOTH))
    hashes = []
    for name in ("one", "two"):
        content = path.with_name(name).read_bytes()
        assert b"a.example" not in content
        assert b"b.example" not in content
        with connect(path.with_name(name)) as db:
            hashes.append({row[0] for row in db.execute("SELECT trait FROM past")})
    assert [len(each) for each in hashes] == [2, 2]
    assert not hashes[0] & hashes[1]


# Forgetting


def test_forget_removes_one_user_wholly(ledger: Ledger) -> None:
    """Nothing of the user is left, and others keep what they taught."""
    ledger.record(answer(), answer(HAM), answer(digest="d2"), answer(user="bob"))
    assert ledger.forget("ann") == 2
    assert ledger.forget("ann") == 0
    assert ledger.taught("ann", "d1") is None
    assert ledger.users() == ["bob"]
    assert ledger.record(answer(HAM)) == 0  # no correction of what was forgotten


def test_one_message_of_one_user_is_forgotten(ledger: Ledger) -> None:
    """What was decided and what was taught of it, and nothing else."""
    ledger.record(answer(), answer(digest="d2"), answer(user="bob"))
    ledger.decide(decision(), decision(digest="d2"))
    assert ledger.forget_message("ann", "d1") == 2
    assert ledger.forget_message("ann", "d1") == 0
    assert (ledger.taught("ann", "d1"), ledger.decisions("ann", "d1")) == (None, [])
    assert ledger.taught("ann", "d2") is not None
    assert [each.decision.digest for each in ledger.decisions("ann")] == ["d2"]
    assert ledger.taught("bob", "d1") is not None


def test_prune_removes_messages_by_the_age_of_their_last_answer(ledger: Ledger) -> None:
    """A message that was taught again lately keeps its whole history."""
    ledger.record(
        answer(digest="old", time=10.0),
        answer(digest="again", time=10.0),
        answer(HAM, digest="again", time=20.0),
        answer(digest="new", time=20.0),
    )
    assert ledger.prune(20.0) == 1
    assert ledger.taught("ann", "old") is None
    assert ledger.counts()["ann"] == Counts(
        spam=1, ham=1, outcomes={LEARNED: 3}, corrections={0: 1}
    )


def test_prune_removes_any_number(ledger: Ledger) -> None:
    """More messages than are removed at once are all removed and counted."""
    ledger.record(*(answer(digest=str(number)) for number in range(2500)))
    assert ledger.prune(1.0) == 2500
    assert ledger.prune(1.0) == 0
    assert ledger.users() == []


# Attempts


def test_attempts_without_an_end_add_up(kind: type[SqliteLedger], path: Path) -> None:
    """A sample that was under way whenever the process died is recognised by its count."""
    for number in (1, 2, 3, 4):
        with closing(kind(path)) as ledger:
            assert ledger.begin_attempt("1.2.3") == number
            assert ledger.begin_attempt(f"other-{number}") == 1
    with closing(kind(path)) as ledger:
        others = {f"other-{number}": 1 for number in (1, 2, 3, 4)}
        assert ledger.attempts() == {"1.2.3": 4} | others


def test_an_attempt_that_ended_is_forgotten(ledger: Ledger) -> None:
    """A sample that did no harm begins again at one."""
    ledger.begin_attempt("1.2.3")
    ledger.end_attempt("1.2.3")
    ledger.end_attempt("1.2.3")
    assert ledger.attempts() == {}
    assert ledger.begin_attempt("1.2.3") == 1


def test_attempts_end_with_what_is_recorded_of_them_or_not_at_all(ledger: Ledger) -> None:
    """A process that dies in between finds both or neither."""
    for sample in ("a", "b", "c", "d"):
        ledger.begin_attempt(sample)
    with pytest.raises(LedgerError):
        ledger.record(answer(time=float("nan")), ended=["a", "b"])
    assert sorted(ledger.attempts()) == ["a", "b", "c", "d"]
    assert ledger.taught("ann", "d1") is None
    ledger.record(answer(), ended=["a", "never begun"])
    assert sorted(ledger.attempts()) == ["b", "c", "d"]
    ledger.end_attempt("b", "c")
    assert sorted(ledger.attempts()) == ["d"]
    ledger.end_attempt()


def test_prune_removes_stale_attempts(kind: type[SqliteLedger], path: Path) -> None:
    """Attempts at samples that somebody deleted do not stay for ever."""
    with closing(kind(path, clock=lambda: 100.0)) as ledger:
        ledger.begin_attempt("1.2.3")
        assert ledger.prune(100.0) == 0
        assert ledger.begin_attempt("1.2.3") == 2
        assert ledger.prune(100.1) == 0
        assert ledger.begin_attempt("1.2.3") == 1


# Opening, sharing, dying


def test_what_was_recorded_is_there_after_reopening(kind: type[SqliteLedger], path: Path) -> None:
    """A restart forgets nothing."""
    with closing(kind(path)) as ledger:
        ledger.record(answer())
    with closing(kind(path)) as ledger:
        assert ledger.taught("ann", "d1") == Taught(SPAM, answer())


def test_a_closed_ledger_fails_as_documented(ledger: Ledger) -> None:
    """Closing twice is harmless, and a thread that comes too late gets an error it can catch."""
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.users()


def test_threads_write_at_once_without_loss(ledger: Ledger) -> None:
    """One ledger serves all threads of the daemon, readers among them."""
    threads, each = 8, 50
    together = threading.Barrier(threads)

    def write(thread: int) -> int:
        together.wait()
        for number in range(each):
            ledger.begin_attempt("shared")
            ledger.record(answer(user=f"u{thread}", digest=str(number)))
            assert ledger.taught(f"u{thread}", str(number)) is not None
        return ledger.record(answer(HAM, user=f"u{thread}", digest="0"))

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(write, range(threads))) == [1] * threads
    assert [count.spam for count in ledger.counts().values()] == [each - 1] * threads
    assert ledger.begin_attempt("shared") == threads * each + 1


def test_a_new_ledger_may_be_opened_by_several_at_once(
    kind: type[SqliteLedger], tmp_path: Path
) -> None:
    """Whoever comes while another makes the file waits for it instead of failing."""
    threads = 8
    together = threading.Barrier(threads)

    def come(path: Path) -> int:
        together.wait()
        with closing(kind(path)) as ledger:
            return ledger.begin_attempt("shared")

    with ThreadPoolExecutor(threads) as pool:
        for number in range(25):
            attempts = pool.map(come, [tmp_path / f"ledger-{number}"] * threads)
            assert sorted(attempts) == list(range(1, threads + 1))


def test_processes_write_at_once_without_loss(kind: type[SqliteLedger], path: Path) -> None:
    """Daemon and commands may come to a new ledger together and all write to it."""
    each = 500
    users = [f"u{number}" for number in range(4)]
    writers = [start_writer(kind, path, user, each) for user in users]
    with closing(kind(path)) as ledger:
        for number in range(each):
            ledger.record(answer(digest=str(number)))
        for writer in writers:
            writer.communicate()
            assert writer.returncode == 0
        counts = ledger.counts()
    assert {name: count.spam + count.ham for name, count in counts.items()} == dict.fromkeys(
        ["ann", *users], each
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_writer_leaves_every_confirmed_answer(
    kind: type[SqliteLedger], path: Path, seed: int
) -> None:
    """After kill -9 at any moment the ledger opens and holds whatever it said it holds."""
    rng = random.Random(seed)
    with start_writer(kind, path, "ann", 1_000_000) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(rng.randrange(1, 300))]
        writer.kill()
        said += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    with closing(kind(path)) as ledger:
        for number in map(int, said):
            taught = ledger.taught("ann", str(number))
            assert taught is not None
            assert taught.held is (SPAM if number % 3 else HAM)
        for number in map(int, said[:-1]):  # the last one's end may be missing
            assert ledger.begin_attempt(f"ann-{number}") == (1 if number % 2 else 2)


# Any sequence of calls, against a model


class LedgerMachine(RuleBasedStateMachine):
    """A ledger beside a list of the answers it should know."""

    implementation: type[SqliteLedger]
    users = st.sampled_from(["ann", "bob"])

    def __init__(self) -> None:
        super().__init__()
        self.ledger = self.implementation(":memory:")
        self.known: dict[tuple[str, str], list[Answer]] = {}

    def held(self, key: tuple[str, str]) -> Lesson | None:
        confirmed = [each for each in self.known[key] if each.outcome.confirmed]
        return confirmed[-1].lesson if confirmed else None

    @rule(
        answers=st.lists(
            st.builds(
                Answer,
                user=users,
                digest=st.sampled_from("abc"),
                lesson=st.sampled_from(Lesson),
                outcome=st.sampled_from(Outcome),
                origin=st.just("move"),
                time=st.integers(0, 9).map(float),
                detail=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            ),
            max_size=4,
        )
    )
    def record(self, answers: list[Answer]) -> None:
        corrections = 0
        for it in answers:
            key = (it.user, it.digest)
            self.known.setdefault(key, [])
            corrections += it.corrects(self.held(key))
            self.known[key].append(it)
        assert self.ledger.record(*answers) == corrections

    @rule(user=users)
    def forget(self, user: str) -> None:
        gone = [key for key in self.known if key[0] == user]
        assert self.ledger.forget(user) == len(gone)
        self.drop(gone)

    @rule(before=st.integers(0, 9))
    def prune(self, before: int) -> None:
        gone = [key for key, answers in self.known.items() if answers[-1].time < before]
        assert self.ledger.prune(before) == len(gone)
        self.drop(gone)

    def drop(self, keys: list[tuple[str, str]]) -> None:
        for key in keys:
            del self.known[key]

    @invariant()
    def knows_the_same(self) -> None:
        assert self.ledger.users() == sorted({user for user, _ in self.known})
        for key, answers in self.known.items():
            assert self.ledger.taught(*key) == Taught(self.held(key), answers[-1])
        for user, counts in self.ledger.counts(since=3.0).items():
            keys = [key for key in self.known if key[0] == user]
            held = [self.held(key) for key in keys]
            late = [each for key in keys for each in self.known[key] if each.time >= 3]
            assert (counts.spam, counts.ham) == (held.count(SPAM), held.count(HAM))
            assert sum(counts.outcomes.values()) == len(late)

    def teardown(self) -> None:
        self.ledger.close()


def test_any_sequence_of_calls_agrees_with_a_model(kind: type[SqliteLedger]) -> None:
    """Whatever is recorded, forgotten and pruned, the answers are those of a plain list."""

    class Machine(LedgerMachine):
        implementation = kind

    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=50, stateful_step_count=20, deadline=None),
    )


# The SQLite file


def test_the_file_and_its_log_are_private(path: Path) -> None:
    """Nobody but the owner reads who taught what, also if the file was open to others."""
    path.touch(mode=0o644)
    with closing(SqliteLedger(path)) as ledger:
        ledger.record(answer())
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


def test_a_forgotten_user_is_gone_from_the_disk(path: Path) -> None:
    """Neither the file nor its log still has the name in unused space."""
    with closing(SqliteLedger(path)) as ledger:
        ledger.record(*(answer(user="ann@example.org", digest=str(n)) for n in range(500)))
        ledger.record(answer(user="bob@example.org"))
        ledger.forget("ann@example.org")
        content = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert b"ann@" not in content
    assert b"bob@" in content


def no_database(path: Path) -> None:
    path.write_bytes(b"Subject: this is no ledger\n" * 100)


def other_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmark (url TEXT)")


def other_versioned_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 1")


def newer_ledger(path: Path) -> None:
    with closing(sqlite3.connect(path)) as newer:
        migrate(newer, [()] * (len(MIGRATIONS) + 1))


def torn_ledger(path: Path) -> None:
    SqliteLedger(path).close()
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_database, "file is not a database"),
        (other_program, "is the database of another program"),
        (other_versioned_program, "is the database of another program"),
        (newer_ledger, "was written by a newer mailhooks: it has version"),
        (torn_ledger, "malformed"),
    ],
)
def test_a_file_that_is_not_ours_is_named_and_left_alone(
    path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    """The error says which file and why, and not a byte of it has changed."""
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=f"^ledger {path}: .*{reason}"):
        SqliteLedger(path)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_place_that_cannot_hold_a_ledger_is_named(tmp_path: Path) -> None:
    """A missing folder is not made up, and a folder is no file."""
    missing = tmp_path / "volume" / "ledger.db"
    with pytest.raises(LedgerError, match=f"^ledger {missing}: No such file or directory$"):
        SqliteLedger(missing)
    with pytest.raises(LedgerError, match=f"^ledger {tmp_path}: unable to open database file$"):
        SqliteLedger(tmp_path)


def test_an_unwritable_folder_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, who may write anywhere, so the refusal is made up."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "mknod", refuse)
    with pytest.raises(LedgerError, match=f"^ledger {path}: Permission denied$"):
        SqliteLedger(path)


def test_a_lock_that_is_never_released_ends_in_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that hangs in a write does not hang the others."""
    monkeypatch.setattr("mailhooks.ledger.database.BUSY_TIMEOUT_S", 0.05)
    with closing(SqliteLedger(path)) as ledger, closing(sqlite3.connect(path)) as hung:
        hung.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked"):
            ledger.record(answer())
        assert ledger.taught("ann", "d1") is None  # readers are not concerned
        hung.execute("ROLLBACK")
        ledger.record(answer())


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT id FROM decision WHERE user = '' AND digest = '' ORDER BY time, id", "message"),
        ("SELECT count(*) FROM decision WHERE user = '' AND time > 0 AND taught = ''", "rates"),
        ("SELECT id FROM decision WHERE time < 0 LIMIT 1", "time"),
    ],
)
def test_a_million_decisions_are_asked_by_index(path: Path, query: str, index: str) -> None:
    """No question about one user or one message reads the table of all."""
    with closing(SqliteLedger(path)), connect(path) as db:
        plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}"))
    assert f"INDEX decision_{index} (" in plan
    assert "SCAN" not in plan


# Migrations

FAKES = (
    ("CREATE TABLE one (x)", "INSERT INTO one VALUES (1)"),
    ("ALTER TABLE one ADD COLUMN y DEFAULT 2",),
    ("CREATE TABLE three (x)",),
)


def connect(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, isolation_level=None))


def schema_of(path: Path) -> list[object]:
    with connect(path) as db:
        return [
            db.execute("PRAGMA user_version").fetchall(),
            db.execute("PRAGMA application_id").fetchall(),
            db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall(),
        ]


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_a_ledger_of_every_older_version_becomes_a_new_one(tmp_path: Path, version: int) -> None:
    """However old the file, it ends up with the same tables as one made today, and works."""
    old, new = tmp_path / "old", tmp_path / "new"
    SqliteLedger(new).close()
    with connect(old) as db:
        migrate(db, MIGRATIONS[:version])
    with closing(SqliteLedger(old)) as ledger:
        ledger.record(answer())
        ledger.decide(decision())
    assert schema_of(old) == schema_of(new)


@pytest.mark.parametrize("version", range(len(FAKES) + 1))
def test_migrations_carry_data_on_from_any_version(path: Path, version: int) -> None:
    """Only what a file has not seen yet is applied, each once, in order."""
    with connect(path) as db:
        migrate(db, FAKES[:version])
        migrate(db, FAKES)
        migrate(db, FAKES)
        assert db.execute("SELECT x, y FROM one").fetchall() == [(1, 2)]
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


@pytest.mark.parametrize("version", range(len(FAKES) + 1))
def test_a_failing_migration_leaves_the_file_as_it_was(path: Path, version: int) -> None:
    """Neither its own first half nor the migrations before it stay; the old program still runs."""
    with connect(path) as db:
        migrate(db, FAKES[:version])
    before = path.read_bytes()
    with connect(path) as db, pytest.raises(sqlite3.OperationalError, match="no such table: nine"):
        migrate(db, (*FAKES, ("CREATE TABLE four (x)", "INSERT INTO nine VALUES (1)")))
    assert path.read_bytes() == before


def test_a_ledger_that_cannot_be_migrated_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file, which still serves the mailhooks it came from."""
    with closing(SqliteLedger(path)) as ledger:
        ledger.record(answer())
    with monkeypatch.context() as patch:
        patch.setattr("mailhooks.ledger.database.MIGRATIONS", (*MIGRATIONS, ("nonsense",)))
        with pytest.raises(LedgerError, match=f'^ledger {path}: near "nonsense": syntax error$'):
            SqliteLedger(path)
    with closing(SqliteLedger(path)) as ledger:
        assert ledger.users() == ["ann"]


def test_a_count_noted_with_an_attempt_is_kept_until_it_proves_nothing(ledger: Ledger) -> None:
    """Begin notes it, a new begin replaces it, and forgetting leaves the attempt counted."""
    assert ledger.learns_before("s") is None
    ledger.begin_attempt("s", 7)
    assert ledger.learns_before("s") == 7
    assert ledger.begin_attempt("s", 9) == 2
    assert ledger.learns_before("s") == 9
    ledger.forget_learns("s")
    assert ledger.learns_before("s") is None
    assert ledger.attempts() == {"s": 2}


def test_the_log_is_written_into_the_file_while_others_go_on(tmp_path: Path) -> None:
    """A thread does it every few hundred rows: no answer waits for it, and the log stays small."""
    path = tmp_path / "ledger"
    ledger = SqliteLedger(path)
    size_bytes = path.stat().st_size
    for number in range(1000):
        ledger.record(answer(digest=f"{number:064d}"))
    deadline = time.monotonic() + 60
    while path.stat().st_size == size_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert path.with_name("ledger-wal").stat().st_size < 40_000_000
    ledger.close()
    assert not path.with_name("ledger-wal").exists()
