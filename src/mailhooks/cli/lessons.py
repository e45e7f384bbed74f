"""Running many lessons from the command line: options, progress, Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

import click

from mailhooks.batch import CONNECTIONS, Batch
from mailhooks.cli import common
from mailhooks.cli.tally import Tally
from mailhooks.count import TIMEOUT_S, LearnCount
from mailhooks.errors import MailhooksError
from mailhooks.evidence import Evidence
from mailhooks.rspamd import RspamdClient
from mailhooks.spool import Spool
from mailhooks.teacher import Done, Result, Task, Teacher

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from mailhooks.config import Settings
    from mailhooks.ledger import Ledger
    from mailhooks.statistics import Statistics

    Tasks = Callable[[Ledger, Tally], AsyncGenerator[Task, None]]

SAY_EVERY_S = 10.0
connections_option = click.option(
    "--connections",
    type=click.IntRange(1, 64),
    default=CONNECTIONS,
    show_default=True,
    help="Messages taught at once.",
)
dry_run_option = click.option("--dry-run", "-n", is_flag=True, help="Only say what would be done.")


def run(
    settings: Settings,
    tasks: Tasks,
    *,
    origin: str,
    dry_run: bool,
    connections: int,
    by_hand: bool,
    on_stop: Callable[[], None] | None = None,
) -> Tally:
    """Do all tasks, or foresee them, until they end or somebody presses Ctrl-C.

    Args:
        settings: of the whole program.
        tasks: makes them; gets the ledger, and the tally to announce how many come.
        origin: what the ledger notes.
        dry_run: ask nobody, teach nothing.
        connections: tasks at once.
        by_hand: a person named these very messages: refused ones are tried
            again and are a failure, and samples in the spool do not count.
        on_stop: called on Ctrl-C, to end a read that waits for input.
    """
    return asyncio.run(
        _run(
            settings,
            tasks,
            origin=origin,
            tally=Tally(dry_run=dry_run, refusals_fail=by_hand),
            connections=connections,
            by_hand=by_hand,
            on_stop=on_stop,
        )
    )


async def _run(
    settings: Settings,
    tasks: Tasks,
    *,
    origin: str,
    tally: Tally,
    connections: int,
    by_hand: bool,
    on_stop: Callable[[], None] | None,
) -> Tally:
    rspamd = RspamdClient(
        scan_url=settings.rspamd.scan_url,
        learn_url=settings.rspamd.learn_url,
        password=settings.rspamd.password or None,
        classifier=settings.rspamd.classifier,
        shared_classifier=settings.rspamd.shared_classifier,
        timeout_s=settings.rspamd.learn_timeout_s,
        max_connections=connections,
    )
    with common.opened_ledger(settings.learning) as ledger, _progress(tally) as advance:
        async with rspamd, aclosing(tasks(ledger, tally)) as source:
            teacher = Teacher(
                ledger,
                rspamd,
                origin=origin,
                max_message_bytes=settings.daemon.max_message_bytes,
                retry_refused=by_hand,
                waiting=frozenset() if by_hand else _waiting(settings),
                count=_count_in(settings),
                evidence=_evidence_in(settings, rspamd),
            )

            def report(task: Task, result: Result) -> None:
                tally.count(task, result)
                advance(task, result)

            if tally.dry_run:
                batch = Batch(teacher.foresee, report, connections=connections)
            else:
                batch = Batch(
                    teacher.teach,
                    report,
                    prove=teacher.prove,
                    settle=teacher.settle,
                    abandon=teacher.abandon,
                    connections=connections,
                )
            with _ctrl_c(batch, tally, on_stop):
                try:
                    await batch.run(source)
                except MailhooksError as error:
                    tally.error = error
                except asyncio.CancelledError:
                    # Somebody pressed Ctrl-C twice.
                    if not tally.interrupted:
                        raise
            tally.problems += batch.problems
    return tally


def _count_in(settings: Settings) -> LearnCount | None:
    redis = settings.redis
    return LearnCount(redis.url, redis.key_prefix, redis.shared_key) if redis.url else None


def _evidence_in(settings: Settings, rspamd: RspamdClient) -> Evidence | None:
    redis = settings.redis

    def opened() -> Statistics:
        # Seldom needed, and its library takes a while to import.
        from mailhooks.statistics import Statistics

        return Statistics(
            redis.url, redis.key_prefix, shared_key=redis.shared_key, timeout_s=TIMEOUT_S
        )

    return Evidence(rspamd, opened) if redis.url else None


def _waiting(settings: Settings) -> frozenset[tuple[str, str]]:
    folder = settings.daemon.spool_dir
    if not (folder / "new").is_dir():
        return frozenset()
    return frozenset((each.label.user, each.label.digest) for each in Spool(folder).entries())


@contextmanager
def _ctrl_c(batch: Batch, tally: Tally, on_stop: Callable[[], None] | None) -> Iterator[None]:
    """On the first Ctrl-C finish what is under way, on the second give that up too."""
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()

    def interrupt() -> None:
        if tally.interrupted and running is not None:
            running.cancel()
            return
        tally.interrupted = True
        click.echo("Finishing what is under way; Ctrl-C again to give that up.", err=True)
        batch.stop()
        if on_stop is not None:
            on_stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextmanager
def _progress(tally: Tally) -> Iterator[Callable[[Task, Result], None]]:
    """A bar on a terminal; elsewhere a line now and then, and one for each refused message."""
    if not sys.stderr.isatty():
        yield _Lines(tally).advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    console = Console(stderr=True, highlight=False, markup=False)
    with Progress(*columns, console=console) as bar:
        row = bar.add_task("", total=None, now="")

        def advance(task: Task, result: Result) -> None:
            if result.done is Done.REFUSED:
                console.print(_refusal(task, result))
            bar.update(row, advance=1, total=tally.expected, now=tally.sentence.partition(": ")[2])

        yield advance


class _Lines:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._said = time.monotonic()

    def advance(self, task: Task, result: Result) -> None:
        if result.done is Done.REFUSED:
            click.echo(_refusal(task, result), err=True)
        if time.monotonic() - self._said >= SAY_EVERY_S:
            self._said = time.monotonic()
            click.echo(self._tally.sentence, err=True)


def _refusal(task: Task, result: Result) -> str:
    return f"{task.name}: refused: {result.detail}"
