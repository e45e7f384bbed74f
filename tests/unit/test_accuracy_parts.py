"""The parts of ``make accuracy`` that need no server: tastes, streams and figures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from accuracy.figures import Target, curve, figures_of, targets
from accuracy.plot import draw
from accuracy.replay import Outcome, Replay
from accuracy.stream import Letter, Tastes, make_stream, read_letters

if TYPE_CHECKING:
    from pathlib import Path


def letter(number: int, *, is_spam: bool = False, list_name: str = "", topic: str = "") -> Letter:
    return Letter(
        key=str(number),
        raw=b"",
        is_spam=is_spam,
        time_s=float(number),
        list_name=list_name,
        is_newsletter=False,
        topics=frozenset({topic} if topic else ()),
    )


LETTERS = [letter(number, is_spam=number % 2 == 0) for number in range(400)]


def test_labels_come_from_the_nearest_folder_that_says_so(tmp_path: Path) -> None:
    """``hard-ham`` and ``spam_2`` speak, ``spamassassin`` and other folders do not."""
    for number, place in enumerate(("a/hard-ham", "b/spam_2", "spamassassin/c", "d")):
        folder = tmp_path / "spam-and-more" / place
        folder.mkdir(parents=True)
        (folder / "1").write_bytes(b"Subject: %d\n\nx\n" % number)
    found = read_letters(tmp_path / "spam-and-more")
    assert {(it.raw[9:10], it.is_spam) for it in found} == {(b"0", False), (b"1", True)}


def test_tastes_differ_by_what_a_message_is() -> None:
    """Lists and offers, whatever else the corpus holds."""
    tastes = Tastes(frozenset({"chatter.example"}), frozenset({"money"}))
    chatter = letter(1, list_name="chatter.example")
    offer = letter(2, is_spam=True, topic="money")
    assert tastes.who_calls_it_spam(chatter) == {"anna": False, "bert": True, "clara": False}
    assert tastes.who_calls_it_spam(offer) == {"anna": True, "bert": True, "clara": False}
    assert set(tastes.who_calls_it_spam(letter(3, is_spam=True, topic="travel")).values()) == {True}


def test_unwanted_lists_stay_within_their_share() -> None:
    """Neither a list that hardly writes nor one that is most of the mail."""
    mail = [letter(n, list_name="big") for n in range(300)]
    mail += [letter(n, list_name="middle") for n in range(300, 320)]
    mail += [letter(320, list_name="tiny"), *LETTERS]
    assert Tastes.of(mail).unwanted_lists == {"middle"}


def test_wanted_topics_are_as_many_as_it_takes() -> None:
    """A corpus without one kind of offer has another."""
    money = [letter(n, is_spam=True, topic="money") for n in range(30)]
    travel = [letter(n, is_spam=True, topic="travel") for n in range(60)]
    assert Tastes.of([*LETTERS, *money, *money]).wanted_topics == {"money"}
    assert Tastes.of([*LETTERS, *money, *travel]).wanted_topics == {"money", "travel"}


def test_a_stream_is_the_same_for_the_same_seed() -> None:
    """And another one for another seed; recipients are one to three different users."""
    first, again, other = (make_stream(LETTERS, seed=s, shuffled=True) for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert {len({copy.user for copy in item.copies}) for item in first} == {1, 2, 3}
    assert all(len({copy.user for copy in it.copies}) == len(it.copies) for it in first)


def test_date_order_keeps_the_order_of_arrival() -> None:
    """Only recipients and delays are drawn."""
    assert [it.key for it in make_stream(LETTERS, seed=1, shuffled=False)] == [
        it.key for it in LETTERS
    ]


def test_some_mistakes_are_never_corrected() -> None:
    """About a tenth; the others within three days' worth of messages."""
    copies = [copy for it in make_stream(LETTERS, seed=1, shuffled=False) for copy in it.copies]
    never = [copy for copy in copies if copy.delay is None]
    assert 0.05 < len(never) / len(copies) < 0.15
    assert {0 <= copy.delay <= 180 for copy in copies if copy.delay is not None} == {True}


def outcomes(count: int, wrong_from: int) -> list[Outcome]:
    return [
        Outcome(n, "anna", is_spam=True, is_junk=n < wrong_from, is_disputed=n % 2 == 0)
        for n in range(count)
    ]


def test_figures_are_percent_of_their_own_part() -> None:
    """And JSON can hold them."""
    found = figures_of(Replay(outcomes(4000, 3000)))
    assert found["error"] == {"all": 25.0, "first 500": 0.0, "next 1500": 0.0, "rest": 50.0}
    assert found["class"]["ham"] is None
    assert json.loads(json.dumps(found))["users"]["anna"]["error"]["rest"] == 50.0


def test_a_curve_ends_with_the_stream() -> None:
    """Even with one that is shorter than its window."""
    assert curve(outcomes(1000, 750))[-1] == (1000, 100.0)
    assert curve(outcomes(100, 50)) == [(100, 50.0)]


@pytest.mark.parametrize(
    ("reached", "limit", "word"), [(4.9, 5.0, "met"), (5.1, 5.0, "MISSED"), (None, 5.0, "too")]
)
def test_a_target_says_whether_it_is_met(reached: float | None, limit: float, word: str) -> None:
    """A stream that is too short proves nothing."""
    assert Target("this", reached, limit).line().startswith(word)


def test_the_default_is_measured_against_half_of_todays_error() -> None:
    """And against the better of the two at the beginning."""
    good, bad = (figures_of(Replay(outcomes(1000, n))) for n in (900, 100))
    whole, early, *_ = targets(good, bad, bad)
    assert (whole.reached, whole.limit, whole.is_met) == (10.0, 45.0, True)
    assert (early.reached, early.limit, early.is_met) == (0.0, 80.0, True)


def test_the_plot_is_xml_with_a_line_for_each_coloured_contender() -> None:
    """Contenders without a colour stay in the tables."""
    svg = draw({"shuffled": {"today": [(250, 20.0), (300, 10.0)], "other": [(250, 1.0)]}}, 250)
    assert svg.count("<polyline") == 1
    assert svg.startswith("<svg")
