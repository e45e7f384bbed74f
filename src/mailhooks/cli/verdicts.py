"""How good verdicts were: what ``mailhooks stats`` says of it, and ``mailhooks tune``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from mailhooks.cli import common
from mailhooks.ledger import Rates
from mailhooks.tune import ENOUGH_CORRECTIONS, HAM_WEIGHT, tuning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailhooks.tune import Trial, Tuning

DAY_S = 86400.0


def rates_json(rates: Mapping[int, Rates], weeks: int) -> dict[str, Any]:
    """A user's rates, by week and altogether; the oldest week first, the last one ends now."""
    by_week = [rates.get(week, Rates()) for week in range(weeks)]
    return _rates_json(sum(by_week, Rates())) | {"by_week": [_rates_json(each) for each in by_week]}


def _rates_json(rates: Rates) -> dict[str, Any]:
    return {
        "inbox": rates.inbox,
        "junk": rates.junk,
        "false_positives": rates.false_positives,
        "false_negatives": rates.false_negatives,
        "false_positive_rate": rates.false_positive_rate,
        "false_negative_rate": rates.false_negative_rate,
    }


def rate_text(verdicts: Mapping[str, Any], kind: str) -> str:
    """One rate with its count, such as ``0.4% (5)``; ``-`` where there was no such mail."""
    rate, count = verdicts[f"{kind}_rate"], verdicts[f"{kind}s"]
    return "-" if rate is None else f"{rate:.1%} ({count})"


def rates_lines(verdicts: Mapping[str, Any], span: str) -> list[tuple[str, str]]:
    """A user's rates for people, as names and texts."""
    by_week = verdicts["by_week"]
    return [
        ("verdicts", f"{verdicts['inbox']} INBOX, {verdicts['junk']} Junk in {span}"),
        (
            "ham in Junk",
            f"{rate_text(verdicts, 'false_positive')} of good mail in {span}: "
            + " ".join(str(week["false_positives"]) for week in by_week),
        ),
        (
            "missed spam",
            f"{rate_text(verdicts, 'false_negative')} of spam, in INBOX, in {span}: "
            + " ".join(str(week["false_negatives"]) for week in by_week),
        ),
    ]


@click.command(epilog="Example: mailhooks tune --user anna@example.org --since 30")
@click.option(
    "--user", "-u", type=common.user_name, metavar="USER", required=True, help="Whose mail."
)
@click.option(
    "--since",
    type=click.IntRange(1, 3650),
    metavar="DAYS",
    default=90,
    show_default=True,
    help="How far to look back.",
)
@common.json_option
@click.pass_context
def tune(ctx: click.Context, *, user: str, since: int, as_json: bool) -> None:
    """Show what other thresholds would have done with a user's mail.

    What the user moved into or out of Junk is the truth; mail that was never corrected counts as
    right. Nothing is changed: a threshold is set by [policy] threshold and thresholds.
    """
    settings = common.loaded(ctx)
    name = user.lower()
    begin = time.time() - since * DAY_S
    with common.opened_ledger(settings.learning) as ledger:
        decided = ledger.decisions(name, since=begin)
    found = tuning(decided, settings.policy.threshold_of(name))
    if as_json:
        common.print_json({"user": name, "since": begin} | _tuning_json(found))
    else:
        _print(name, begin, found)


def _tuning_json(found: Tuning) -> dict[str, Any]:
    best = found.best
    return {
        "decisions": found.decisions,
        "corrections": found.corrections,
        "enough": best is not None,
        "now": _trial_json(found.now),
        "best": None if best is None else _trial_json(best),
        "thresholds": [_trial_json(each) for each in found.trials],
    }


def _trial_json(trial: Trial) -> dict[str, Any]:
    return {
        "threshold": trial.threshold,
        "ham_in_junk": trial.ham_in_junk,
        "spam_in_inbox": trial.spam_in_inbox,
    }


def _print(user: str, begin: float, found: Tuning) -> None:
    date = datetime.fromtimestamp(begin, UTC).astimezone().strftime("%Y-%m-%d")
    click.echo(
        f"{user}: {common.plural(found.decisions, 'verdict')} since {date}, "
        f"{common.plural(found.corrections, 'correction')}. "
        "Mail that was never corrected counts as right."
    )
    if not found.decisions:
        return
    best = found.best
    marks = {found.now.threshold: "now"}
    if best is not None:
        marks[best.threshold] = "now, and best" if best == found.now else "best"
    rows, before = [], ["", ""]
    for each in found.trials:
        figures = [str(each.ham_in_junk), str(each.spam_in_inbox)]
        mark = marks.get(each.threshold, "")
        if mark or figures != before:  # else it does as the one above
            rows.append([f"{each.threshold:.2f}", *figures, mark])
        before = figures
    common.table(["threshold", "ham in Junk", "spam in INBOX", ""], rows, {0, 1, 2})
    if best is None:
        click.echo(f"Too few corrections to say which is best: it takes {ENOUGH_CORRECTIONS}.")
    else:
        click.echo(f"Best, if a good message in Junk is as bad as {HAM_WEIGHT} spam in INBOX.")
