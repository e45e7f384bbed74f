"""``mailhooks explain``: why a message is where it is, and what would change that."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mailhooks.acquaintance import NoAcquaintance
from mailhooks.cli import common
from mailhooks.errors import LedgerError, SourceError, StatisticsError
from mailhooks.explain import (
    Carried,
    Explanation,
    Statistic,
    by_weight,
    carried,
    decision_text,
    opinions,
    turn,
)
from mailhooks.lesson import SHARED_USER
from mailhooks.message import read_header
from mailhooks.policy import Bayes, Folder, NoBayes, NoScan
from mailhooks.score import NoScore
from mailhooks.source import iter_messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailhooks.bayes import Opinion
    from mailhooks.config import Settings
    from mailhooks.ledger import Decided, Taught
    from mailhooks.policy import Verdict
    from mailhooks.score import RspamdScore
    from mailhooks.statistics import Learned

ASKED = ("mailhooks.classify", "mailhooks.weights", "mailhooks.acquaintances")
"""Who says in the log of a delivery what it had to do without."""


@click.command(epilog="Example: mailhooks explain --user anna@example.org ~/Maildir/cur/17953.M1")
@click.argument("path", metavar="FILE|-")
@click.option(
    "--user",
    "-u",
    type=common.user_name,
    metavar="USER",
    help="Whose verdict; that of Delivered-To if not given.",
)
@common.json_option
@click.pass_context
def explain(ctx: click.Context, *, path: str, user: str | None, as_json: bool) -> None:
    """Explain the verdict on one message, delivered or not.

    Asks Rspamd, Redis and the ledger as a delivery would, and teaches nothing. FILE holds one
    message; - is standard input.

    Exits with 0 if all could be asked, 1 if something is missing from the explanation, which it
    then names, or there is no message, 2 if the command was wrong.
    """
    settings = common.loaded(ctx)
    message = _message(path, settings.daemon.max_message_bytes)
    explanation = asyncio.run(_explained(settings, message, user and user.lower()))
    if as_json:
        common.print_json(explanation.as_json())
    else:
        _print(explanation)
    if explanation.missing:
        ctx.exit(common.EXIT_INCOMPLETE)


def _message(path: str, most_bytes: int) -> bytes:
    """The one message that a file holds.

    Raises:
        SourceError: there is none, or more than one, or it is no message.
        click.BadParameter: there is no such file.
    """
    if path != "-" and not Path(path).exists():
        raise click.BadParameter(f"{path!r} does not exist", param_hint="FILE")
    found = iter_messages("-" if path == "-" else Path(path))
    raw = next(found).raw
    if next(found, None) is not None:
        raise SourceError(f"{path}: holds more than one message: give one of them")
    if not read_header(raw).fields:
        raise SourceError(f"{path}: is no message: it has no header field")
    if len(raw) > most_bytes:
        raise SourceError(
            f"{path}: has {len(raw)} bytes; messages of more than {most_bytes} "
            "(daemon.max_message_bytes) are not classified"
        )
    return raw


async def _explained(settings: Settings, message: bytes, user: str | None) -> Explanation:
    from mailhooks.acquaintance import traits_of
    from mailhooks.daemon.acquaintances import Acquaintances
    from mailhooks.daemon.judge import Judge
    from mailhooks.daemon.service import weights_in
    from mailhooks.keys import load_keys
    from mailhooks.ledger import SqliteLedger
    from mailhooks.rspamd import RspamdClient

    keys = load_keys(settings.score.key_file)
    brought = carried(message, keys, settings.score, time.time())
    name = user or brought.recipient
    if not name:
        raise click.UsageError("the message has no Delivered-To field: say whose verdict by --user")
    missing: list[str] = []
    own, shared = _statistics(settings, name, missing)
    weights = weights_in(settings.redis)
    # To look into the ledger must not make one.
    path = settings.learning.ledger_file
    acquaintances = Acquaintances(lambda: SqliteLedger(path)) if path.exists() else None
    try:
        async with RspamdClient(
            scan_url=settings.rspamd.scan_url,
            learn_url=settings.rspamd.learn_url,
            classifier=settings.rspamd.classifier,
            shared_classifier=settings.rspamd.shared_classifier,
        ) as rspamd:
            with _what_is_missing(missing):
                judge = Judge(
                    rspamd,
                    weights,
                    settings.policy,
                    shared=bool(settings.rspamd.shared_classifier),
                    acquaintances=acquaintances,
                )
                verdict = await judge.verdict(
                    message,
                    name,
                    brought.score,
                    judge.bayes(message, name, settings.daemon.deadline_s),
                    traits=traits_of(read_header(message)),
                    sender=brought.sender,
                    recipient=name,
                    timeout_s=settings.daemon.deadline_s,
                    judged=brought.digest,
                )
    finally:
        weights.close()
        if acquaintances is not None:
            acquaintances.close()
    decisions, taught = _ledger(settings, name, brought, missing)
    return Explanation(
        user=name,
        user_from="--user" if user else "Delivered-To",
        carried=brought,
        verdict=verdict,
        own=own,
        shared=shared,
        decisions=decisions,
        taught=taught,
        missing=tuple(dict.fromkeys(missing)),
    )


def _statistics(
    settings: Settings, user: str, missing: list[str]
) -> tuple[Statistic, Statistic | None]:
    """How ready the user's statistics and the shared ones are."""
    from mailhooks.statistics import Statistics

    redis, names = settings.redis, [user]
    if settings.rspamd.shared_classifier:
        names.append(SHARED_USER)
    learned: dict[str, Learned] = {}
    if redis.url:
        try:
            with Statistics(redis.url, redis.key_prefix, shared_key=redis.shared_key) as statistics:
                learned = {name: statistics.learned(name) for name in names}
        except StatisticsError as error:
            missing.append(str(error))
    own, *shared = [
        Statistic(learned=learned.get(name), min_learns=redis.min_learns) for name in names
    ]
    return own, shared[0] if shared else None


def _ledger(
    settings: Settings, user: str, brought: Carried, missing: list[str]
) -> tuple[tuple[Decided, ...], Taught | None]:
    """What the ledger knows of this message."""
    path = settings.learning.ledger_file
    if not path.exists():  # to look into it must not make one
        missing.append(f"ledger {path}: does not exist yet")
        return (), None
    try:
        with common.opened_ledger(settings.learning) as ledger:
            return (
                tuple(ledger.decisions(user, brought.digest)),
                ledger.taught(user, brought.digest),
            )
    except LedgerError as error:
        missing.append(str(error))
        return (), None


class _Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._lines.append(text.partition(": ")[2] if text.startswith("user=") else text)


@contextmanager
def _what_is_missing(missing: list[str]) -> Iterator[None]:
    """Collect what a delivery would say in its log, instead of logging it."""
    collector = _Collector(missing)
    loggers = [logging.getLogger(name) for name in ASKED]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(collector)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(collector)
            logger.propagate = propagate


Row = tuple[str, str]


def _print(explanation: Explanation) -> None:
    rows = list(_rows(explanation))
    if not sys.stdout.isatty():
        for name, text in rows:
            click.echo(f"{name + ':' if name else '':14}{text}".rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"verdict": "bold red" if explanation.verdict.folder is Folder.JUNK else "bold green"}
    styles["missing"] = "bold yellow"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name), Text(text, style=styles.get(name, "")))
    Console(highlight=False).print(table)


def _rows(explanation: Explanation) -> Iterator[Row]:
    verdict, brought = explanation.verdict, explanation.carried
    yield "message", brought.message_id or "(without Message-ID)"
    source = "" if explanation.user_from == "--user" else " (from Delivered-To)"
    yield "user", f"{explanation.user}{source}"
    yield (
        "sender",
        (
            "unknown: no Return-Path, so the signature is not compared with it"
            if brought.sender is None
            else f"{brought.sender or '<>'} (from Return-Path)"
        ),
    )
    yield from _carried_rows(brought, verdict)
    yield from _bayes_rows(explanation)
    yield from _acquaintance_rows(verdict)
    yield "threshold", f"{verdict.threshold:.2f}"
    yield "verdict", f"{_name(verdict.folder)}: {_reasoning(verdict)}"
    yield _turn_name(verdict), _turn_text(verdict)
    yield from _history_rows(explanation)
    for text in explanation.missing:
        yield "missing", text


def _carried_rows(brought: Carried, verdict: Verdict) -> Iterator[Row]:
    milter = brought.score
    if isinstance(milter, NoScore):
        yield "milter score", f"none: {milter.why.value}"
        if isinstance(verdict.scan, NoScan):
            yield "full scan", f"none: {verdict.scan.why.value}"
        elif verdict.scan is not None:
            yield "full scan", _score_text(verdict.scan)
            yield from _symbol_rows(verdict.scan)
        return
    yield "milter score", f"{_score_text(milter)}; signature valid"
    old = "; too old for another delivery (score.max_age_s)" if brought.expired else ""
    yield "scanned", f"{_moment(milter.time)}, queue id {milter.queue_id}{old}"
    yield from _symbol_rows(milter)


def _score_text(score: RspamdScore) -> str:
    required = "" if score.required is None else f" of {score.required:.2f}"
    return f"{score.score:.2f}{required}, {score.action} ({score.course.value})"


def _symbol_rows(score: RspamdScore) -> Iterator[Row]:
    for name, given in by_weight(score):
        yield "", f"{given:7.2f}  {name}"


def _bayes_rows(explanation: Explanation) -> Iterator[Row]:
    bayes = explanation.verdict.bayes
    opinion = bayes if isinstance(bayes, Bayes) else None
    no_opinion = bayes.why.value if isinstance(bayes, NoBayes) else "silent"
    own, shared = opinions(explanation.verdict)
    yield "own Bayes", _statistic_text(explanation.own, own, no_opinion)
    if explanation.shared is not None:
        text = _statistic_text(explanation.shared, shared, no_opinion)
        yield "shared Bayes", text
    if opinion is not None:
        both = opinion.own is not None and opinion.shared is not None
        text = f"{opinion.probability:.1%} spam, {opinion.score:+.2f} points"
        yield "blend" if both else "Bayes", text


def _acquaintance_rows(verdict: Verdict) -> Iterator[Row]:
    found = verdict.acquaintance
    if found is None:
        return
    if isinstance(found, NoAcquaintance):
        yield "acquaintance", f"{found.why.value}, {verdict.acquaintance_points:+.2f} points"
        return
    if not found.known:
        yield "acquaintance", "none with list or sender"
        return
    yield "acquaintance", f"{verdict.acquaintance_points:+.2f} points"
    for trait, past in found.known:
        name = f"{past.points(trait.kind):+7.2f}  {trait.kind.value} {_printable(trait.name)}"
        yield "", f"{name}: {past.said_spam} called spam, {past.said_ham} good"
        yield "", f"{'':9}left in Junk {past.left_junk}, in INBOX {past.left_inbox}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _statistic_text(statistic: Statistic, opinion: Opinion | None, no_opinion: str) -> str:
    probability = None if opinion is None else opinion.probability
    said = no_opinion if probability is None else f"{probability:.1%} spam"
    learned = statistic.learned
    if learned is None:
        return f"{said}; how much it has learned is unknown"
    return f"{said}; learned {learned.spam} spam and {learned.ham} ham: {statistic.state}"


def _reasoning(verdict: Verdict) -> str:
    objective = verdict.objective
    if objective is None or turn(verdict).remark:
        return verdict.reason.value
    points = f" {verdict.bayes.score:+.2f}" if isinstance(verdict.bayes, Bayes) else ""
    if verdict.acquaintance_points:
        points += f" {verdict.acquaintance_points:+.2f}"
    sign = ">=" if verdict.folder is Folder.JUNK else "<"
    return f"{objective.score:.2f}{points} = {verdict.score:.2f} {sign} {verdict.threshold:.2f}"


def _turn_name(verdict: Verdict) -> str:
    return f"to {_name(turn(verdict).folder)}"


def _turn_text(verdict: Verdict) -> str:
    change = turn(verdict)
    if change.points is None or change.threshold is None:
        return change.remark
    if change.folder is Folder.JUNK:
        parts = [
            f"{math.ceil(change.points * 100) / 100:.2f} points more",
            f"a threshold of {change.threshold:.2f} or less",
        ]
        bayes = "at {:.1%} or more"
    else:
        # The sum that equals the threshold is Junk still.
        parts = [
            f"{math.floor(-change.points * 100 + 1) / 100:.2f} points less",
            f"a threshold above {change.threshold:.2f}",
        ]
        bayes = "below {:.1%}"
    if change.probability is not None:
        parts.insert(1, f"Bayes {bayes.format(change.probability)}")
    return ", or ".join(parts)


def _history_rows(explanation: Explanation) -> Iterator[Row]:
    for decided in explanation.decisions:
        text = f"{_moment(decided.decision.time)} {decision_text(decided.decision)}"
        yield "decided", text
        if decided.taught is not None and decided.taught_time is not None:
            told = "corrected" if decided.corrected else "confirmed"
            yield (
                "",
                f"{told} by the user as {decided.taught.value}, {_moment(decided.taught_time)}",
            )
    if not explanation.decisions:
        status = explanation.carried.status
        yield "decided", f"by its own header: {status}" if status else "unknown to the ledger"
    taught = explanation.taught
    if taught is None:
        yield "taught", "nothing"
        return
    last, held = taught.last, "nothing" if taught.held is None else taught.held.value
    detail = f" ({last.detail})" if last.detail else ""
    yield (
        "taught",
        (
            f"{last.lesson.value} by {last.origin}, {_moment(last.time)}: "
            f"{last.outcome.value}{detail}; the statistics hold it as {held}"
        ),
    )


def _name(folder: Folder) -> str:
    return "Junk" if folder is Folder.JUNK else "INBOX"


def _moment(seconds: float) -> str:
    with suppress(OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"{seconds:.0f}"
