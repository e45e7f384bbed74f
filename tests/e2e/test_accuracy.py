"""A short form of ``make accuracy``: the real Rspamd, a few hundred real messages."""

from __future__ import annotations

import asyncio

import pytest
from accuracy.figures import Figures, figures_of
from accuracy.host import StatisticsHost
from accuracy.replay import DEFAULT, TODAY, Contender, MilterScan, milter_scans, replay
from accuracy.stream import USERS, Letter, make_stream, read_letters
from corpus import corpus_path

MESSAGES = 300
SEED = 7


@pytest.fixture(scope="module")
def runs() -> dict[str, Figures]:
    """What the default policy and today's practice make of the same stream."""
    letters = read_letters(corpus_path(), limit=MESSAGES)
    found: dict[str, Figures] = {}
    scans: dict[str, MilterScan] = {}
    for contender in (DEFAULT, TODAY):
        found[contender.name] = _run(letters, scans, contender)
    return found


def _run(letters: list[Letter], scans: dict[str, MilterScan], contender: Contender) -> Figures:
    stream = make_stream(letters, seed=SEED, shuffled=True)
    with StatisticsHost(
        min_learns=contender.min_learns, min_token_hits=contender.min_token_hits
    ) as host:
        scans.update(scans or asyncio.run(milter_scans(host, letters)))
        return figures_of(asyncio.run(replay(host, stream, scans, contender)))


def test_the_default_policy_is_less_often_wrong_than_todays_practice(
    runs: dict[str, Figures],
) -> None:
    """In the first weeks already, when neither has learned much."""
    assert runs[DEFAULT.name]["error"]["all"] < runs[TODAY.name]["error"]["all"]


def test_self_training_is_hardly_ever_wrong(runs: dict[str, Figures]) -> None:
    """Deliveries train by themselves, and corrections come before they do."""
    run = runs[DEFAULT.name]
    assert run["learns by themselves"] > MESSAGES / 20
    assert run["learns that were wrong"] <= run["learns by themselves"] / 5


def test_every_user_gets_statistics_of_both_classes(runs: dict[str, Figures]) -> None:
    """Nobody is left with a Bayes that cannot speak."""
    for user in USERS:
        learns = runs[DEFAULT.name]["users"][user]["learns"]
        for lesson in ("spam", "ham"):
            assert learns[f"corrected as {lesson}"] + learns[f"trained as {lesson}"] > 0, user
