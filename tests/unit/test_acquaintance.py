from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.acquaintance import (
    MOST_HAM,
    MOST_SPAM,
    Kind,
    Past,
    Trait,
    acquaintance,
    traits_of,
)
from mailhooks.bayes import MOST_POINTS
from mailhooks.message import read_header

numbers = st.integers(0, 10_000)
pasts = st.builds(Past, numbers, numbers, numbers, numbers)
kinds = st.sampled_from(Kind)


@pytest.mark.parametrize(
    ("header", "traits"),
    [
        (b"From: Ann <Ann@X.example>", {"sender": "ann@x.example", "domain": "x.example"}),
        (b"From: ann@x.example (Ann)", {"sender": "ann@x.example", "domain": "x.example"}),
        (
            b'From: "b@b.example" <ann@x.example>',
            {"sender": "ann@x.example", "domain": "x.example"},
        ),
        (b"From: undisclosed", {}),
        (b"From: <>", {}),
        (b"List-Id: The list <The.List.example>", {"list": "the.list.example"}),
        (b"List-Id: the.list.example", {"list": "the.list.example"}),
        (b"X-BeenThere: the@list.example", {"list": "the.list.example"}),
        (b"List-Post: <mailto:the@list.example>", {"list": "the.list.example"}),
        (b"List-Id:\nX-BeenThere: the@list.example", {"list": "the.list.example"}),
        (b"List-Id: <" + b"x" * 256 + b">", {}),
        (b"Subject: nothing", {}),
    ],
)
def test_a_message_is_known_again_by_list_and_sender(header: bytes, traits: dict[str, str]) -> None:
    """Names are compared without upper case, comments and display names."""
    found = traits_of(read_header(header + b"\n\nbody"))
    assert {trait.kind.value: trait.name for trait in found} == traits


@given(st.sampled_from([b"From: ", b"List-Id: <", b"X-BeenThere: "]), st.binary(max_size=3000))
def test_no_header_is_too_odd(name: bytes, value: bytes) -> None:
    """Whatever stands there, at most one name of each kind comes out, and a short one."""
    found = traits_of(read_header(name + value + b"\n\n"))
    assert len({trait.kind for trait in found}) == len(found)
    assert all(0 < len(trait.name) <= 1000 for trait in found)


@given(kinds, pasts)
def test_one_more_word_never_speaks_for_the_other_side(kind: Kind, past: Past) -> None:
    """Spam adds points, ham takes some away, and the user's own word weighs more than silence."""
    spam, ham, junk, inbox = past.said_spam, past.said_ham, past.left_junk, past.left_inbox
    here = past.points(kind)
    assert Past(spam + 1, ham, junk, inbox).points(kind) >= here
    assert Past(spam, ham + 1, junk, inbox).points(kind) <= here
    silent = Past(spam, ham, junk + 1, inbox).points(kind)
    assert here <= silent <= Past(spam + 1, ham, junk, inbox).points(kind)


@given(st.dictionaries(st.builds(Trait, kinds, st.text(max_size=3)), pasts, max_size=3))
def test_the_points_are_bounded_on_both_sides(past: dict[Trait, Past]) -> None:
    """What anybody can forge helps by half the usual threshold at most."""
    assert -MOST_HAM <= acquaintance(past).points <= MOST_SPAM
    assert acquaintance(past, 2.0).points <= 2.0
    assert acquaintance(past, 0.0).points <= 0.0


def test_whoever_is_not_known_has_no_points() -> None:
    """Nor does a record that was taken back wholly, or one that is even."""
    trait = Trait(Kind.LIST, "a.example")
    for past in ({}, {trait: Past()}, {trait: Past(7, 7, 3, 3)}):
        assert acquaintance(past).points == 0
    assert acquaintance({trait: Past()}).known == ()


def test_a_clear_word_about_a_list_outvotes_everything() -> None:
    """Ten messages called spam, none ever good: Bayes and a good list's score cannot save one."""
    known = acquaintance({Trait(Kind.LIST, "a.example"): Past(said_spam=10)})
    assert -5 - MOST_POINTS + known.points >= 6


def test_a_slip_does_not_condemn_a_list_that_was_left_alone() -> None:
    """One message called spam by mistake weighs little against twenty in INBOX."""
    known = acquaintance({Trait(Kind.LIST, "a.example"): Past(said_spam=1, left_inbox=20)})
    assert known.points < 0
