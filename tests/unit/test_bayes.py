"""Two opinions made one, and its points."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.bayes import CAUTION, MOST_POINTS, Opinion, blend, own_weight, points

PROBABILITIES = st.floats(0, 1)
COUNTS = st.integers(-5, 10_000)
OPINIONS = st.builds(Opinion, st.none() | PROBABILITIES, COUNTS, COUNTS)


def test_nobody_knows_anything() -> None:
    """Silence is None, and worth no points."""
    assert blend(None, None) is None
    assert blend(Opinion(None, 500, 500), None) is None
    assert points(None) == 0


@given(st.none() | OPINIONS, st.none() | OPINIONS)
def test_a_blend_is_a_probability(own: Opinion | None, shared: Opinion | None) -> None:
    """Whatever Rspamd says, certainty and negative counts included."""
    blended = blend(own, shared)
    assert blended is None or 0 < blended < 1
    assert -MOST_POINTS <= points(blended) <= MOST_POINTS


@given(OPINIONS, OPINIONS)
def test_a_blend_lies_between_its_parts_and_one_half(own: Opinion, shared: Opinion) -> None:
    """No blend is surer than the surest of its parts."""
    parts = [0.5, *(it.probability for it in (own, shared) if it.probability is not None)]
    blended = blend(own, shared)
    if blended is not None:
        assert min(parts) - 1e-4 <= blended <= max(parts) + 1e-4


def test_one_class_alone_is_no_evidence() -> None:
    """Any number of learned spam says nothing without ham to compare it with."""
    assert own_weight(Opinion(0.99, 1000, 0)) == 0
    assert blend(Opinion(0.99, 1000, 0), None) == pytest.approx(0.5)


def test_the_shared_opinion_fades_and_never_jumps() -> None:
    """With every message a user teaches, his own statistics count more, by a small step."""
    shared = Opinion(0.99, 400, 400)
    blends = [blend(Opinion(0.01, n, n), shared) for n in range(500)]
    assert blends[0] == pytest.approx(blend(None, shared))
    steps = [a - b for a, b in itertools.pairwise(blends) if a and b]
    assert len(steps) == 499
    assert all(step > 0 for step in steps)
    assert max(steps) < 0.3
    assert blends[-1] is not None
    assert blends[-1] < 0.02


def test_experience_makes_cautious() -> None:
    """The more a user's own statistics know, the surer they must be; what is sure stays so."""
    young, old = Opinion(0.8, 3, 3), Opinion(0.8, 2000, 2000)
    assert points(0.8) > points(0.8, young) > points(0.8, old) > points(0.8) - CAUTION
    assert points(0.9999, old) == MOST_POINTS


@given(PROBABILITIES, PROBABILITIES)
def test_points_rise_with_the_probability(one: float, other: float) -> None:
    """More probable spam never gets fewer points."""
    low, high = sorted((one, other))
    assert points(low) <= points(high)


def test_a_sure_user_outvotes_the_milter_score() -> None:
    """Both ways, at the usual threshold of 6: a mailing list's -5, and 15 for an offer."""
    assert -5 + points(0.9999) >= 6
    assert 15 + points(0.0001) < 6
