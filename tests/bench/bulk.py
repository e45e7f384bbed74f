"""How fast `mailhooks learn` is beside `rspamc -n 8`: the same messages, the same Rspamd.

The contenders take turns on one private lab, each round with users nobody has
taught before, and the one who begins changes. After every run Redis must count
as many messages for both, or the comparison is void. Run as root; needs a
corpus of real mail (CORPUS, see tests/support/corpus.py) and, unlike the rest of
``make bench``, takes as many rounds and sizes as it is told:

    PYTHONPATH=tests:tests/support python -m bench.bulk [--messages 500] [--rounds 5] [--json]

The ratio is the median, over the rounds, of messages a second of mailhooks over
that of rspamc; 1.0 or more means at least as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import corpus

import storm
from bench.figures import Figure
from mailhooks.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.machine import Watch

DEFAULT_SIZES = (500, 2000)
BENCH_ROUNDS = 3
TARGET_RATIO = 1.0
# Two messages with equal tokens are learned once or twice, as it happens.
TOLERATED_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Run:
    """One contender's run over all messages: wall clock, processor time, and what Redis counts."""

    wall_s: float
    cpu_s: float
    learned: int


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Run a command to its end; returns seconds on the clock, and of processor time.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        # Both end with 1 if Rspamd refuses a message for good, as a few of any corpus.
        if process.returncode not in {0, 1}:
            output.seek(0)
            raise RuntimeError(f"{command[0]} failed: {output.read()[-2000:]!r}")
    return wall_s, usage.ru_utime + usage.ru_stime


def commands(lab: Lab, user: str, folder: Path) -> dict[str, list[str]]:
    """Each contender's command line for teaching a folder of messages."""
    address = urlsplit(lab.learn_url).netloc
    config = str(lab.root / "mailhooks/mailhooks.toml")
    mailhooks = str(Path(sys.executable).with_name("mailhooks"))
    return {
        "mailhooks": [mailhooks, "--config", config, "learn", "spam", "--user", user, str(folder)],
        "rspamc": [
            *("rspamc", "-n", "8", "-h", address, f"--password={lab.rspamd_password}"),
            *("-d", user, "--header", "Learn-Type=bulk", "learn_spam", str(folder)),
        ],
    }


def compare(lab: Lab, folder: Path, rounds: int, label: str) -> dict[str, list[Run]]:
    """Let the contenders take turns; the first round warms up and is not returned."""
    runs: dict[str, list[Run]] = {"mailhooks": [], "rspamc": []}
    for number in range(rounds + 1):
        names = list(runs)[:: 1 if number % 2 else -1]
        for name in names:
            user = f"{name}.{label}.{number}@mail.example"
            wall_s, cpu_s = timed(commands(lab, user, folder)[name])
            learned = lab.learns(user)[0]
            if number:
                runs[name].append(Run(wall_s, cpu_s, learned))
    return runs


def figures(runs: dict[str, list[Run]], messages: int) -> dict[str, Any]:
    """Medians and spreads, and the ratio.

    Raises:
        RuntimeError: the contenders did not do the same work.
    """
    counts = [run.learned for each in runs.values() for run in each]
    if max(counts) - min(counts) > TOLERATED_SHARE * messages or min(counts) < messages * 0.9:
        raise RuntimeError(f"not the same work: Redis counts {counts} of {messages}")
    ratios = [
        theirs.wall_s / ours.wall_s
        for ours, theirs in zip(runs["mailhooks"], runs["rspamc"], strict=True)
    ]
    return {
        "messages": messages,
        "learned": sorted(set(counts)),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    } | {
        name: {
            "messages_per_s": round(messages / statistics.median(run.wall_s for run in each), 1),
            "wall_s": round(statistics.median(run.wall_s for run in each), 3),
            "wall_range_s": [
                round(min(run.wall_s for run in each), 3),
                round(max(run.wall_s for run in each), 3),
            ],
            "cpu_s": round(statistics.median(run.cpu_s for run in each), 3),
        }
        for name, each in runs.items()
    }


def measure(lab: Lab, watch: Watch, everything: Sequence[bytes], top: Path) -> Figure:
    """The figure of ``make bench``: 2,000 messages, three rounds after one to warm up."""
    folder = top / "letters"
    folder.mkdir()
    messages = everything[: max(DEFAULT_SIZES)]
    for number, raw in enumerate(messages):
        (folder / f"{number:05}.eml").write_bytes(raw)
    before = watch.probe()
    runs = compare(lab, folder, BENCH_ROUNDS, "bulk")
    found = figures(runs, len(messages))
    ours, theirs = (found[name]["messages_per_s"] for name in ("mailhooks", "rspamc"))
    return Figure(
        "bulk_vs_rspamc_ratio",
        tuple(
            theirs.wall_s / ours.wall_s
            for ours, theirs in zip(runs["mailhooks"], runs["rspamc"], strict=True)
        ),
        note=f"{ours:.0f} messages/s, rspamc -n 8 {theirs:.0f}/s",
        busy=max(before, watch.probe()),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, action="append", help="how many; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    options = parser.parse_args()
    sizes = options.messages or DEFAULT_SIZES
    everything = storm.distinct(list(corpus.sample(sys.maxsize, seed=11)))
    results = []
    with Lab(("anna",)) as lab, tempfile.TemporaryDirectory() as top:
        for size in sizes:
            folder = Path(top) / str(size)
            folder.mkdir()
            for number, raw in enumerate(everything[:size]):
                (folder / f"{number:05}.eml").write_bytes(raw)
            messages = len(everything[:size])
            runs = compare(lab, folder, options.rounds, str(size))
            results.append(figures(runs, messages))
    answer = {
        "bulk_vs_rspamc_ratio": min(result["ratio"] for result in results),
        "target": TARGET_RATIO,
        "sizes": results,
    }
    if options.json:
        print(json.dumps(answer, indent=2))  # noqa: T201
        return
    for result in results:
        print(f"{result['messages']} messages, {options.rounds} rounds:")  # noqa: T201
        for name in ("mailhooks", "rspamc"):
            each = result[name]
            low, high = each["wall_range_s"]
            print(  # noqa: T201
                f"  {name:10} {each['messages_per_s']:7.1f} messages/s   {each['wall_s']:.2f} s"
                f" ({low:.2f} to {high:.2f}), {each['cpu_s']:.2f} s of processor time"
            )
        low, high = result["ratio_range"]
        print(f"  ratio      {result['ratio']:7.2f} ({low:.2f} to {high:.2f})")  # noqa: T201
    print(f"bulk_vs_rspamc_ratio {answer['bulk_vs_rspamc_ratio']:.2f}, target {TARGET_RATIO}")  # noqa: T201


if __name__ == "__main__":
    main()
