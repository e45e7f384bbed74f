"""Figures of replays: rates, learning curve, targets; as plain data and as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accuracy.stream import USERS
from mailhooks.lesson import Lesson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from accuracy.replay import Outcome, Replay

EARLY, LATE = 500, 2000
"""Messages of the stream after which the beginning ends, and the rest begins."""
CURVE_STEP = 50
CURVE_WIDTH = 250
"""The learning curve: error of so many messages, at every so-manieth."""

Figures = dict[str, Any]
Rate = float | None


def rate(outcomes: Iterable[Outcome]) -> Rate:
    """Wrong ones in percent; None of nothing."""
    wrong = [it.is_wrong for it in outcomes]
    return round(100 * sum(wrong) / len(wrong), 2) if wrong else None


def windows(outcomes: list[Outcome]) -> dict[str, Rate]:
    """Error of the whole stream, and of its three parts."""
    return {
        "all": rate(outcomes),
        "first 500": rate(it for it in outcomes if it.index < EARLY),
        "next 1500": rate(it for it in outcomes if EARLY <= it.index < LATE),
        "rest": rate(it for it in outcomes if it.index >= LATE),
    }


def by_class(outcomes: list[Outcome]) -> dict[str, Rate]:
    """Ham in Junk, and spam in INBOX, in percent of their class; of the whole and of the rest."""
    rest = [it for it in outcomes if it.index >= LATE]
    return {
        "ham": rate(it for it in outcomes if not it.is_spam),
        "spam": rate(it for it in outcomes if it.is_spam),
        "ham, rest": rate(it for it in rest if not it.is_spam),
        "spam, rest": rate(it for it in rest if it.is_spam),
    }


def figures_of(result: Replay) -> Figures:
    """Everything worth knowing of one replay, as JSON has it."""
    outcomes = result.outcomes
    disputed = [it for it in outcomes if it.is_disputed]
    learns = {
        user: {
            f"{how} as {lesson.value}": counter[user, lesson]
            for how, counter in (("corrected", result.corrected), ("trained", result.trained))
            for lesson in Lesson
        }
        for user in USERS
    }
    return {
        "error": windows(outcomes),
        "class": by_class(outcomes),
        "tastes differ": windows(disputed),
        "users": {
            user: {"error": windows(own), "class": by_class(own), "learns": learns[user]}
            for user in USERS
            for own in [[it for it in outcomes if it.user == user]]
        },
        "learns": sum(sum(it.values()) for it in learns.values()),
        "learns by themselves": sum(result.trained.values()),
        "learns that were wrong": result.wrongly,
        "shared learns": result.shared,
        "curve": curve(outcomes),
    }


def curve(outcomes: list[Outcome]) -> list[tuple[int, Rate]]:
    """The error of the last messages, along the stream."""
    length = outcomes[-1].index + 1 if outcomes else 0
    return [
        (end, rate(it for it in outcomes if end - CURVE_WIDTH <= it.index < end))
        for end in range(min(CURVE_WIDTH, length), length + 1, CURVE_STEP)
    ]


@dataclass(frozen=True, slots=True)
class Target:
    """Something the default policy shall reach.

    Attributes:
        what: in words.
        reached: by this policy, in percent; None if the stream is too short.
        limit: the most it may be, in percent.
    """

    what: str
    reached: Rate
    limit: Rate

    @property
    def is_met(self) -> bool | None:
        """None if that cannot be said of this stream."""
        if self.reached is None or self.limit is None:
            return None
        return self.reached <= self.limit

    def line(self) -> str:
        """Such as ``met     error of the whole stream: 10.4 % (at most 12.1 %)``."""
        verdict = {True: "met", False: "MISSED", None: "too short"}[self.is_met]
        return f"{verdict:9} {self.what}: {shown(self.reached)} % (at most {shown(self.limit)} %)"


def targets(default: Figures, today: Figures, shared: Figures) -> list[Target]:
    """What the default policy shall reach on a stream, and what it reached."""
    whole, early = today["error"]["all"], [it["error"]["first 500"] for it in (today, shared)]
    return [
        Target("error of the whole stream", default["error"]["all"], whole and whole / 2),
        Target(
            "error of the first 500",
            default["error"]["first 500"],
            None if None in early else min(early),
        ),
        Target("where tastes differ, after 2,000", default["tastes differ"]["rest"], 5.0),
        Target("ham misclassified, after 2,000", default["class"]["ham, rest"], 1.0),
    ]


def shown(value: Rate) -> str:
    """One decimal, or a dash."""
    return "-" if value is None else f"{value:.1f}"


def summary_table(runs: Mapping[str, Figures]) -> str:
    """Contenders in rows, as Markdown."""
    rows = [
        [
            name,
            *(shown(it["error"][part]) for part in ("all", "first 500", "next 1500", "rest")),
            shown(it["tastes differ"]["rest"]),
            *(shown(it["class"][part]) for part in ("ham", "spam", "ham, rest", "spam, rest")),
            f"{it['learns']:,}",
            f"{it['learns by themselves']:,}",
            f"{it['learns that were wrong']:,}",
        ]
        for name, it in runs.items()
    ]
    head = [
        *("error %", "whole stream", "first 500", "next 1,500", "rest", "rest, tastes differ"),
        *("ham in Junk", "spam in INBOX", "ham, rest", "spam, rest"),
        *("learns", "by themselves", "wrong"),
    ]
    return _table(head, rows)


def user_table(runs: Mapping[str, Figures]) -> str:
    """Contenders and users in rows, as Markdown."""
    rows = []
    for name, run in runs.items():
        for user, it in run["users"].items():
            learned = [it["learns"][key] for key in sorted(it["learns"])]
            rows.append(
                [
                    name,
                    user,
                    shown(it["class"]["ham"]),
                    shown(it["class"]["spam"]),
                    *(shown(it["error"][part]) for part in ("first 500", "next 1500", "rest")),
                    *map(str, learned),
                ]
            )
    head = [
        *("", "user", "ham in Junk %", "spam in INBOX %"),
        *("error, first 500", "next 1,500", "rest"),
        *("learned: corrected ham", "corrected spam", "trained ham", "trained spam"),
    ]
    return _table(head, rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
