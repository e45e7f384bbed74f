"""``python -m accuracy``: replay a corpus for every contender, print and keep the figures."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from corpus import find_corpus

from accuracy import figures
from accuracy.host import StatisticsHost
from accuracy.plot import draw
from accuracy.replay import CONTENDERS, DEFAULT, SHARED, TODAY, Contender, milter_scans, replay
from accuracy.stream import make_stream, read_letters
from mailhooks.errors import MailhooksError

if TYPE_CHECKING:
    from accuracy.figures import Figures
    from accuracy.replay import MilterScan
    from accuracy.stream import Letter

ORDERS = {"date order": False, "shuffled": True}
FEWEST = 100


def main() -> int:
    """Run everything; 0 when the figures are there, whether or not the targets are met."""
    arguments = _arguments()
    corpus = find_corpus()
    if corpus is None:
        sys.stderr.write(
            "No mail: set CORPUS to an archive, or to a folder with ham and spam sub-folders.\n"
        )
        return 1
    letters = read_letters(corpus)
    if min(sum(it.is_spam for it in letters), sum(not it.is_spam for it in letters)) < FEWEST:
        sys.stderr.write(
            f"{corpus}: needs {FEWEST} messages each below folders named ham and spam.\n"
        )
        return 1
    return _run(letters, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="accuracy", description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build"), help="where figures go")
    parser.add_argument("--docs", type=Path, help="also renew accuracy.md and .svg in this folder")
    parser.add_argument("--seed", type=int, default=1, help="of recipients, delays and shuffling")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="replays at once")
    return parser.parse_args()


def _run(letters: list[Letter], arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    _say(f"{len(letters)} messages, {sum(it.is_spam for it in letters)} of them spam; scanning")
    with StatisticsHost(min_learns=1, min_token_hits=1) as host:
        scans = asyncio.run(milter_scans(host, letters))
    _say(f"scanned in {time.monotonic() - started:.0f} s")
    done: dict[tuple[str, str], Figures] = {}
    # A process that is told to end stops its servers first; the pool's inherit that.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    pool = ProcessPoolExecutor(arguments.jobs)
    try:
        tasks = {
            pool.submit(run_one, letters, scans, contender, arguments.seed, shuffled=shuffled): (
                order,
                contender.name,
            )
            for contender in reversed(CONTENDERS)  # those that ask most come first
            for order, shuffled in ORDERS.items()
        }
        for task in as_completed(tasks):
            order, name = tasks[task]
            done[order, name] = task.result()
            error = figures.shown(done[order, name]["error"]["all"])
            _say(f"{time.monotonic() - started:4.0f} s  {order}, {name}: {error} % wrong")
    finally:
        pool.shutdown(cancel_futures=True)
    names = [it.name for it in CONTENDERS]
    runs = {order: {name: done[order, name] for name in names} for order in ORDERS}
    report = _report(letters, runs, arguments.seed)
    sys.stdout.write(report)
    svg = draw(
        {order: {name: it["curve"] for name, it in run.items()} for order, run in runs.items()},
        figures.CURVE_WIDTH,
    )
    arguments.build.mkdir(parents=True, exist_ok=True)
    content = {"seed": arguments.seed, "messages": len(letters), "orders": runs}
    (arguments.build / "accuracy.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (arguments.build / "accuracy.svg").write_text(svg, encoding="utf-8")
    if arguments.docs is not None:
        _renew_docs(arguments.docs, report, svg)
    _say(f"took {time.monotonic() - started:.0f} s")
    return 0


def run_one(
    letters: list[Letter],
    scans: dict[str, MilterScan],
    contender: Contender,
    seed: int,
    *,
    shuffled: bool,
) -> Figures:
    """Replay one stream for one contender on a host of its own."""
    stream = make_stream(letters, seed=seed, shuffled=shuffled)
    with StatisticsHost(
        min_learns=contender.min_learns, min_token_hits=contender.min_token_hits
    ) as host:
        return figures.figures_of(asyncio.run(replay(host, stream, scans, contender)))


def _report(letters: list[Letter], runs: dict[str, dict[str, Figures]], seed: int) -> str:
    stream = make_stream(letters, seed=seed, shuffled=False)
    disputed = sum(it.is_disputed for it in stream)
    about = (
        f"{len(letters):,} messages ({sum(it.is_spam for it in letters):,} spam), "
        f"{sum(len(it.copies) for it in stream):,} copies, seed {seed}; the users disagree "
        f"about {100 * disputed / len(stream):.0f} % of the messages.\n"
    )
    parts = [about]
    for order, run in runs.items():
        reached = figures.targets(run[DEFAULT.name], run[TODAY.name], run[SHARED.name])
        parts += [
            f"### {order.capitalize()}\n",
            figures.summary_table(run),
            f"Targets for {DEFAULT.name}:\n",
            "".join(f"    {it.line()}\n" for it in reached),
        ]
    parts += [f"### Each user, {order}\n\n{figures.user_table(run)}" for order, run in runs.items()]
    return "\n".join(parts)


def _renew_docs(folder: Path, report: str, svg: str) -> None:
    page = folder / "accuracy.md"
    text = page.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- figures -->\n).*(<!-- /figures -->)", re.DOTALL)
    page.write_text(
        marked.sub(lambda it: f"{it[1]}{report}{it[2]}", text, count=1), encoding="utf-8"
    )
    (folder / "accuracy.svg").write_text(svg, encoding="utf-8")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MailhooksError as failure:
        sys.exit(f"accuracy: {failure}")
