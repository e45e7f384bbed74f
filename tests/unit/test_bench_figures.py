"""The benchmark's own honesty, as far as it is arithmetic: intervals, noise, equal work."""

from __future__ import annotations

import json
import math
import random
import re
import statistics
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import curves
from bench.figures import (
    TARGETS,
    DishonestError,
    Figure,
    alternate,
    details,
    flat,
    interval,
    markdown,
    quantile,
    renewed,
    same_work,
    table,
)
from bench.machine import Watch

QUIET = 0.1
NAME = "classify_throughput_ratio"  # at least 0.90
DOCS = Path(__file__).parents[2] / "docs"


def test_five_rounds_give_the_smallest_and_the_largest_value() -> None:
    """Fewer than six values hold the median with 95 % in no narrower interval."""
    assert interval([5, 1, 4, 2, 3]) == (1, 5)


def test_more_rounds_give_a_narrower_interval() -> None:
    """One outlier among twelve no longer counts."""
    assert interval([*range(1, 12), 1000]) == (3, 10)


def test_the_interval_holds_the_true_median_nineteen_times_in_twenty() -> None:
    """Against a distribution with a long tail, as times have."""
    rng = random.Random(3)
    held = 0
    for _ in range(1000):
        low, high = interval([rng.expovariate(1) for _ in range(9)])
        held += low <= 0.6931 <= high
    assert held >= 950


def test_a_figure_is_met_or_missed_only_if_all_of_its_interval_is() -> None:
    """Between the two it is unclear, whatever the median says."""
    assert Figure(NAME, (0.91, 0.95, 0.93)).verdict(QUIET) == "met"
    assert Figure(NAME, (0.81, 0.85, 0.89)).verdict(QUIET) == "missed"
    assert Figure(NAME, (0.85, 0.95, 0.93)).verdict(QUIET) == "unclear"


def test_on_a_noisy_machine_nobody_wins() -> None:
    """However clear the values look, and in the table, too."""
    figure = Figure(NAME, (0.95, 0.96, 0.97), busy=0.3)
    assert figure.verdict(QUIET) == "noisy"
    assert "noisy" in table([figure], QUIET)
    assert "met" not in table([figure], QUIET)


def test_an_empty_comparison_of_equals_shows_no_winner() -> None:
    """The same contender twice, with noise of ten per cent: the ratio's interval holds 1."""
    rng = random.Random(5)
    rounds = tuple(rng.gauss(1, 0.1) / rng.gauss(1, 0.1) for _ in range(9))
    low, high = interval(rounds)
    assert low < 1 < high
    assert Figure("bulk_vs_rspamc_ratio", rounds).verdict(QUIET) == "unclear"


def test_contenders_change_places_every_round() -> None:
    """Who runs second finds warm caches."""
    seen: list[str] = []
    alternate(["a", "b"], 3, lambda name, number: seen.append(f"{name}{number}"))
    assert seen == ["a0", "b0", "b1", "a1", "a2", "b2"]


def test_different_work_voids_a_comparison() -> None:
    """The error shows what each did."""
    same_work("move", {"ours": 3, "theirs": 3})
    with pytest.raises(DishonestError, match=r"move: .*'theirs': 2"):
        same_work("move", {"ours": 3, "theirs": 2})


def test_the_file_is_flat_and_the_details_hold_every_round() -> None:
    """Whoever reads bench.json finds names and numbers, and nothing to unpack."""
    figures = [Figure(name, (1.0, 2.0, 4.0)) for name in TARGETS]
    assert json.loads(json.dumps(flat(figures))) == dict.fromkeys(TARGETS, 2.0)
    told = details(figures, QUIET)[NAME]
    assert isinstance(told, dict)
    assert told["rounds"] == [1.0, 2.0, 4.0]


def test_a_figure_without_a_target_is_only_shown() -> None:
    """In the table and on the page, where the next run replaces it."""
    figure = Figure("classify_vs_fork_whole_speedup", (3.0, 4.0, 5.0), note="a note")
    assert figure.verdict(QUIET) == "no target"
    page = "before\n<!-- make bench DOCS=docs writes from here -->\nold\n<!-- to here -->\nafter\n"
    for name in ("first", "second"):
        page = renewed(page, markdown([figure], QUIET, name))
    assert page.startswith("before\n")
    assert page.endswith("<!-- to here -->\nafter\n")
    assert page.count("| `classify_vs_fork_whole_speedup` | 4.00 | 3.00 to 5.00 | - |") == 1
    assert ("second" in page, "first" in page, "old" in page) == (True, False, False)
    with pytest.raises(ValueError, match="write between"):
        renewed("no marks", "block")


def test_a_quantile_is_one_of_the_values() -> None:
    """Nearest rank, so that a p99 has been measured once."""
    values = [random.Random(1).random() for _ in range(101)]
    assert quantile(values, 0.5) == statistics.median(values)
    assert quantile(values, 0.999) == max(values)


def test_own_work_is_not_taken_for_noise() -> None:
    """What this process computes between two probes is ours, so others' share stays below it."""
    watch = Watch()
    # A share is others' time over all time: with ours counted as theirs, one busy
    # processor of this machine would be the least that is told.
    total = sum(number * number for number in range(2_000_000))
    assert total > 0
    assert 0.0 <= watch.probe(0.01) <= 1.0
    assert len(watch.shares) == 1


def test_the_page_explains_each_name_and_its_limit() -> None:
    """What is compared, and with what; a limit is not changed in one place only."""
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (`.+`) \| .+ \| ([^|]+) \|$", page.partition("## The figures")[0])
    said = {name: target for names, target in rows for name in re.findall(r"`(\w+)`", names)}
    assert list(said) == list(TARGETS)
    for name, target in TARGETS.items():
        if not math.isnan(target.limit):
            assert f"{target.limit:g}" in said[name], name


def lines_of(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each line of a plot."""
    drawn = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}polyline")  # noqa: S314 - ours
    places = [[point.split(",") for point in line.attrib["points"].split()] for line in drawn]
    return [[(float(x), float(y)) for x, y in line] for line in places]


def test_the_plot_has_median_and_slowest_at_each_level() -> None:
    """Further right is more in flight, higher up is slower."""
    points = [(level, 1.0 * level, 3.0 * level) for level in curves.LEVELS]
    panel = dict.fromkeys(curves.COLOURS, points)
    svg = curves.draw({"classify & more": panel, "learn": panel})
    lines = lines_of(svg)
    assert len(lines) == 2 * len(curves.COLOURS) * 2
    for median, slow in zip(lines[::2], lines[1::2], strict=True):
        assert [x for x, _ in median] == sorted({x for x, _ in slow})
        assert len(median) == len(curves.LEVELS) == 4
        assert all(high < low for (_, low), (_, high) in zip(median, slow, strict=True))
        assert [y for _, y in median] == sorted((y for _, y in median), reverse=True)
    assert all(f">{level}</text>" in svg for level in (1, 4, 16, 64))


def test_the_docs_show_a_plot_of_both_contenders() -> None:
    """Verdicts and learning, each with a median and a 99th percentile."""
    assert "](latency.svg)" in (DOCS / "performance.md").read_text(encoding="utf-8")
    lines = lines_of((DOCS / "latency.svg").read_text(encoding="utf-8"))
    assert [len(line) for line in lines] == [len(curves.LEVELS)] * 8
