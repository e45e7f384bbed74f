"""From rounds of measurements to medians, spreads and verdicts. Pure.

Contenders take turns, and each round gives one value, a ratio for most names. The
figure is the median; the interval holds the true median with some 95 % (order
statistics, binomial), which for five rounds is the smallest to the largest value.
A target counts as met or missed only if the whole interval says so and the machine
was quiet.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Verdict = Literal["met", "missed", "unclear", "noisy", "no target"]
COVERAGE: Final = 0.95
BEGIN: Final = "<!-- make bench DOCS=docs writes from here -->"
END: Final = "<!-- to here -->"


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be.

    Attributes:
        limit: the value that is still good; NaN if the figure is only shown.
        at_most: whether smaller is better.
        unit: shown behind the figure; empty for a ratio.
        what: for the table.
    """

    limit: float
    at_most: bool
    unit: str
    what: str

    def is_met(self, value: float) -> bool:
        """Whether one value is good enough."""
        return value <= self.limit if self.at_most else value >= self.limit


TARGETS: Final[Mapping[str, Target]] = {
    "classify_added_ms_p50": Target(0.7, True, "ms", "classify socket, more than bare /checkv2"),
    "classify_added_ms_p99": Target(3.0, True, "ms", "the same, the slowest of a hundred"),
    "classify_throughput_ratio": Target(0.90, False, "", "classify / bare /checkv2, 16 in flight"),
    "classify_cpu_ms": Target(math.nan, True, "ms", "the daemon's processor time for a verdict"),
    "classify_vs_fork_speedup": Target(8.0, False, "", "time added to LMTP: sh + rspamc / ours"),
    "classify_vs_fork_whole_speedup": Target(math.nan, False, "", "the same, of whole deliveries"),
    "delivery_added_ms_p50": Target(math.nan, True, "ms", "LMTP delivery, more than only filing"),
    "move_vs_noop_ratio": Target(2.0, True, "", "IMAP MOVE / piping to a socket that discards"),
    "move_vs_rspamc_speedup": Target(20.0, False, "", "IMAP MOVE / sh + rspamc pipe"),
    "seen_flag_ratio": Target(1.5, True, "", "STORE \\Seen / without imapsieve"),
    "seen_flag_without_keywords_ratio": Target(math.nan, True, "", "the same, keywords = false"),
    "milter_throughput_ratio": Target(0.95, False, "", "both milters / Rspamd's alone"),
    "bulk_vs_rspamc_ratio": Target(1.0, False, "", "mailhooks learn / rspamc -n 8"),
    "drain_ratio": Target(0.90, False, "", "the worker / a bare client of the controller"),
    "daemon_rss_mb": Target(60.0, True, "MB", "memory of the daemon after its start"),
    "daemon_rss_growth_mb": Target(5.0, True, "MB", "more after 20,000 classify, 5,000 learn"),
    "ledger_1m_cost_ratio": Target(1.5, True, "", "a learn's ledger work: 1,000,000 rows / none"),
    "users_100k_cost_ratio": Target(1.2, True, "", "classify: 100,000 users / 10"),
    "startup_s": Target(0.6, True, "s", "mailhooks serve from exec to ready"),
}
"""Every name in bench.json, in the order of the table."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One name's values, one for each round.

    Attributes:
        name: a key of ``TARGETS``.
        rounds: the values; one alone is a plain measurement without a spread.
        limit: instead of the target's, where that depends on the machine.
        note: the absolute times behind a ratio, for people.
        busy: the share of the machine that others had meanwhile, 0 to 1.
    """

    name: str
    rounds: tuple[float, ...]
    limit: float | None = None
    note: str = ""
    busy: float = 0.0

    @property
    def target(self) -> Target:
        """What this figure should be."""
        target = TARGETS[self.name]
        limit = target.limit if self.limit is None else self.limit
        return Target(limit, target.at_most, target.unit, target.what)

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.rounds)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true median lies."""
        return interval(self.rounds)

    def verdict(self, busy_limit: float) -> Verdict:
        """Met or missed if that is certain; else why not.

        Args:
            busy_limit: the share of the machine that others may have had.
        """
        if self.busy > busy_limit:
            return "noisy"
        if math.isnan(self.target.limit):
            return "no target"
        good = {self.target.is_met(bound) for bound in (*self.interval, self.value)}
        return "unclear" if len(good) > 1 else "met" if good == {True} else "missed"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of order statistics that holds the median with ``COVERAGE``.

    With fewer than six values no pair does, and the smallest and largest are given.
    """
    ordered, count = sorted(values), len(values)
    outside, skipped = 0.0, 0
    for skip in range(count // 2):
        outside += 2 * math.comb(count, skip) / 2**count
        if 1 - outside < COVERAGE:
            break
        skipped = skip
    return ordered[skipped], ordered[count - 1 - skipped]


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which a share of all lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def alternate(contenders: Sequence[str], rounds: int, run: Callable[[str, int], None]) -> None:
    """Let contenders take turns, each round in the other direction: none is always second.

    Args:
        contenders: their names.
        rounds: how often each runs.
        run: runs one contender in one round.
    """
    for number in range(rounds):
        for name in contenders[:: 1 if number % 2 == 0 else -1]:
            run(name, number)


def same_work(what: str, done: Mapping[str, object]) -> None:
    """See that contenders did the same, or their times mean nothing.

    Raises:
        DishonestError: they did not.
    """
    if len({repr(each) for each in done.values()}) > 1:
        raise DishonestError(f"{what}: the contenders did not do the same work: {dict(done)}")


class DishonestError(Exception):
    """A comparison that would compare different things."""


def table(figures: Sequence[Figure], busy_limit: float) -> str:
    """The figures for a terminal."""
    lines = [f"{'name':27} {'median':>10}  {'interval':>17}  {'target':>10}  verdict"]
    for figure in figures:
        target = figure.target
        low, high = figure.interval
        unit = f" {target.unit}" if target.unit else ""
        lines.append(
            f"{figure.name:27} {_short(figure.value) + unit:>10}"
            f"  {f'{_short(low)} .. {_short(high)}':>17}"
            f"  {_limit(target):>10}  {figure.verdict(busy_limit)}"
        )
        lines.append(f"    {target.what}{': ' + figure.note if figure.note else ''}")
    return "\n".join(lines)


def markdown(figures: Sequence[Figure], busy_limit: float, where: str) -> str:
    """The figures for the docs: a line on the run, and a table."""
    lines = [
        where,
        "",
        "| name | median | interval | target | verdict | in absolute figures |",
        "|---|---|---|---|---|---|",
    ]
    for figure in figures:
        unit = f" {figure.target.unit}" if figure.target.unit else ""
        low, high = map(_short, figure.interval)
        lines.append(
            f"| `{figure.name}` | {_short(figure.value)}{unit} | {low} to {high}"
            f" | {_limit(figure.target)} | {figure.verdict(busy_limit)} | {figure.note} |"
        )
    return "\n".join(lines)


def renewed(text: str, block: str) -> str:
    """A page with what stands between its two marks replaced.

    Raises:
        ValueError: the page has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"no {BEGIN} and {END} to write between")
    return f"{before}{begin}\n{block}\n{end}{after}"


def flat(figures: Sequence[Figure]) -> dict[str, float]:
    """What stands in bench.json."""
    return {figure.name: round(figure.value, 4) for figure in figures}


def details(figures: Sequence[Figure], busy_limit: float) -> dict[str, object]:
    """What stands behind bench.json: every round, and the verdicts."""
    return {
        figure.name: {
            "rounds": [round(value, 4) for value in figure.rounds],
            "interval": [round(bound, 4) for bound in figure.interval],
            "limit": round(figure.target.limit, 4),
            "busy": round(figure.busy, 3),
            "verdict": figure.verdict(busy_limit),
            "note": figure.note,
        }
        for figure in figures
    }


def _limit(target: Target) -> str:
    if math.isnan(target.limit):
        return "-"
    unit = f" {target.unit}" if target.unit else ""
    return f"{'<=' if target.at_most else '>='} {_short(target.limit)}{unit}"


def _short(value: float) -> str:
    return (
        f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    )
