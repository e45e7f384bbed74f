"""What became of many lessons: counted, told to people and scripts, and as an exit status."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from mailhooks.cli import common
from mailhooks.teacher import Done

if TYPE_CHECKING:
    from mailhooks.errors import MailhooksError
    from mailhooks.lesson import Lesson
    from mailhooks.teacher import Result, Task

_WORDS = {
    Done.LEARNED: ("learned", "to be learned"),
    Done.RELEARNED: ("relearned", "to be relearned"),
    Done.ALREADY_LEARNED: ("known to Rspamd", "known to Rspamd"),
    Done.KNOWN: ("known", "known"),
    Done.WAITING: ("waiting in the spool", "waiting in the spool"),
    Done.REFUSED: ("refused", "refused"),
}


@dataclass(slots=True)
class Tally:
    """What has become of the messages so far."""

    dry_run: bool = False
    refusals_fail: bool = True
    done: Counter[Done] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    places: defaultdict[tuple[str, str, Lesson], Counter[Done]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    expected: int | None = None
    problems: list[str] = field(default_factory=list)
    interrupted: bool = False
    error: MailhooksError | None = None

    def count(self, task: Task, result: Result) -> None:
        """Add one result."""
        self.done[result.done] += 1
        self.places[task.user, task.place, task.lesson][result.done] += 1
        if result.done is Done.REFUSED:
            self.reasons[result.detail] += 1

    def expect(self, count: int) -> None:
        """Say that so many more messages are coming."""
        self.expected = (self.expected or 0) + count

    @property
    def sentence(self) -> str:
        """The summary on one line."""
        parts = [
            f"{self.done[done]} {_WORDS[done][self.dry_run]}" for done in Done if self.done[done]
        ]
        if self.reasons:
            reasons = ", ".join(f"{count} {why}" for why, count in self.reasons.most_common())
            parts[-1] += f" ({reasons})"
        total = common.plural(self.done.total(), "message")
        return f"{total}: {', '.join(parts)}" if parts else total

    @property
    def exit_code(self) -> int:
        """0 if everything is learned or known, 130 after Ctrl-C, else 1.

        What Rspamd refuses for good is a failure to a person who named that very message. It
        is none to a command that goes through an account every night.
        """
        if self.interrupted:
            return common.EXIT_INTERRUPTED
        refused = self.refusals_fail and self.done[Done.REFUSED]
        incomplete = refused or self.problems or self.error
        return common.EXIT_INCOMPLETE if incomplete else 0

    def as_json(self) -> dict[str, Any]:
        """The summary for scripts."""
        return {
            "dry_run": self.dry_run,
            "messages": self.done.total(),
            "outcomes": {done.value: self.done[done] for done in Done},
            "refused": dict(self.reasons),
            "places": [
                {
                    "user": user,
                    "place": place,
                    "lesson": lesson.value,
                    "outcomes": {done.value: count for done, count in counts.items()},
                }
                for (user, place, lesson), counts in self.places.items()
            ],
            "problems": self.problems,
            "error": str(self.error) if self.error else None,
            "interrupted": self.interrupted,
        }


def finish(
    tally: Tally, *, as_json: bool, with_places: bool, more: dict[str, Any] | None = None
) -> None:
    """Print the summary, with more in JSON, and exit with a status that says how it went."""
    if as_json:
        common.print_json(tally.as_json() | (more or {}))
    else:
        if with_places and tally.places:
            _print_places(tally)
        click.echo(tally.sentence + (". Nothing was taught: dry run." if tally.dry_run else ""))
    for problem in tally.problems:
        click.echo(f"cannot be read: {problem}", err=True)
    if tally.error is not None:
        click.echo(f"stopped: {tally.error}", err=True)
        click.echo("Nothing is lost: the same command goes on where this one stopped.", err=True)
    elif tally.interrupted:
        click.echo("Interrupted: the same command goes on where this one stopped.", err=True)
    sys.exit(tally.exit_code)


def _print_places(tally: Tally) -> None:
    shown = [done for done in Done if tally.done[done]]
    headings = ["user", "mailbox", "as", *(_WORDS[done][tally.dry_run] for done in shown)]
    rows = [
        [user, place, lesson.value, *(str(counts[done]) for done in shown)]
        for (user, place, lesson), counts in tally.places.items()
    ]
    common.table(headings, rows, set(range(3, len(headings))))
    click.echo()
