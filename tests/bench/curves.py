"""Latency at 1, 4, 16 and 64 in flight: measured, and drawn as an SVG without a library."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from bench import classify, load
from bench.figures import quantile, same_work
from bench.host import OURS
from bench.memory import learn_caller
from bench.moves import LEARNED_SHARE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.host import BenchHost

    Answers = Mapping[str, Sequence[bytes]]

LEVELS: Final = (1, 4, 16, 64)
AGREED_SHARE: Final = 0.9  # of forty messages, one or two may be borderline for Bayes
WIDTH, HEIGHT, LEFT, TOP, PANEL = 900, 400, 60, 60, 290
FONT = 'font-family="sans-serif" font-size="13"'
COLOURS = {"mailhooks": "#004488", "Rspamd alone": "#999999"}

Point = tuple[int, float, float]
"""In flight, median and 99th percentile in milliseconds."""


def measure(
    host: BenchHost, scored: Sequence[bytes], distinct: Sequence[bytes], calls: int
) -> dict[str, dict[str, list[Point]]]:
    """Points by panel and contender: classify, and learn (until the sample is safe, or learned).

    Args:
        host: the lab.
        scored: messages to judge, with a carried score.
        distinct: messages to learn, no two alike.
        calls: requests at each level, at least.

    Raises:
        DishonestError: the contenders did not do the same work.
    """
    user = host.user("bare")
    headers = {"Deliver-To": user, "Password": host.lab.rspamd_password, "Learn-Type": "bulk"}
    bare_learn = [
        load.post("/learnspam", headers | {"Classifier": "bayes"}, raw) for raw in distinct
    ]
    ways = classify.callers(host, scored)
    panels: dict[str, tuple[dict[str, load.Caller], Callable[[Answers], None]]] = {
        "classify: until the verdict": (
            {"mailhooks": ways["ours"], "Rspamd alone": ways["bare"]},
            partial(classify.check, share=AGREED_SHARE),
        ),
        "learn: until IMAP goes on": (
            {
                "mailhooks": learn_caller(host, distinct),
                "Rspamd alone": load.http(host.lab.learn_url, bare_learn),
            },
            _check_learns,
        ),
    }
    found: dict[str, dict[str, list[Point]]] = {}
    for panel, (contenders, check) in panels.items():
        found[panel] = {name: [] for name in contenders}
        first = 0
        for level in LEVELS:
            count, answers = max(calls, 3 * level), {}
            for name, caller in contenders.items():
                done = load.run(caller, count, level, first)
                answers[name] = done.answers
                times = [value * 1000 for value in done.latencies_s]
                found[panel][name].append((level, quantile(times, 0.5), quantile(times, 0.99)))
            check(answers)
            first += count
    host.restart_daemon(empty_spool=True)
    if host.lab.learns(host.user(OURS)) == (0, 0):
        raise RuntimeError("curves: nobody had taught the user who was asked about")
    return found


def _check_learns(answers: Answers) -> None:
    """See that every sample was taken, and that Rspamd learned as much as it does of any corpus."""
    taken = answers["mailhooks"].count(b"+\n")
    learned = sum(b" 200 " in answer.partition(b"\r\n")[0] for answer in answers["Rspamd alone"])
    count = len(answers["mailhooks"])
    same_work("curves", {"samples": count, "taken": taken})
    if learned < LEARNED_SHARE * count:
        same_work("curves", {"taken": taken, "learned by Rspamd alone": learned})


def draw(panels: Mapping[str, Mapping[str, Sequence[Point]]]) -> str:
    """Both axes are logarithmic; the line is the median, dashes the 99th percentile."""
    points = [point for curves in panels.values() for curve in curves.values() for point in curve]
    low = math.floor(math.log10(min(median for _, median, _ in points)))
    high = math.ceil(math.log10(max(slow for _, _, slow in points)))
    width = (WIDTH - LEFT - 20 - 60) / len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for number, (name, colour) in enumerate(COLOURS.items()):
        x = LEFT + number * 160
        parts.append(f'<rect x="{x}" y="14" width="22" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 28}" y="21">{escape(name)}</text>')
    parts.append(f'<text x="{LEFT + 330}" y="21">line: median, dashes: 99th percentile</text>')
    for number, (title, curves) in enumerate(panels.items()):
        parts += _panel(title, curves, LEFT + number * (width + 60), width, low, high)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    title: str,
    curves: Mapping[str, Sequence[Point]],
    left: float,
    width: float,
    low: int,
    high: int,
) -> list[str]:
    def x(level: int) -> float:
        return left + width * math.log(level) / math.log(LEVELS[-1])

    def y(ms: float) -> float:
        return TOP + PANEL * (1 - (math.log10(ms) - low) / (high - low))

    parts = [f'<text x="{left}" y="{TOP - 12}">{escape(title)}, ms</text>']
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(
            f'<line x1="{left}" x2="{left + width:.1f}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
            f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
        )
    for level in LEVELS:
        at, below = x(level), TOP + PANEL + 18
        parts.append(f'<text x="{at:.1f}" y="{below}" text-anchor="middle">{level}</text>')
    middle, below = left + width / 2, TOP + PANEL + 38
    parts.append(f'<text x="{middle:.1f}" y="{below}" text-anchor="middle">in flight</text>')
    for name, curve in curves.items():
        for place, style in ((1, ""), (2, ' stroke-dasharray="5 4"')):
            line = " ".join(f"{x(point[0]):.1f},{y(point[place]):.1f}" for point in curve)
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}"'
                f' stroke-width="2"{style}/>'
            )
    return parts
