"""Runs all comparisons; see ``make bench`` and docs/performance.md.

    PYTHONPATH=tests:tests/support python -m bench [--only NAME]... [--docs docs]

Writes build/bench.json (name to number), build/bench-rounds.json (every round, and the verdicts)
and build/latency.svg. A comparison that fails, or whose contenders did not do the same work, is
left out, and the run exits with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import storm
from bench import (
    bulk,
    classify,
    curves,
    delivery,
    drain,
    ledgers,
    memory,
    milters,
    moves,
    startup,
)
from bench.figures import (
    TARGETS,
    DishonestError,
    Figure,
    details,
    flat,
    markdown,
    renewed,
    table,
)
from bench.host import OURS, BenchHost, hash_of
from bench.machine import BUSY_LIMIT, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BUILD = Path("build")
MACHINE = f"{os.cpu_count()} processors, Python {platform.python_version()} in {sys.base_prefix}"


class Bench:
    """Everything that is measured, in turn, on one host."""

    def __init__(self, host: BenchHost, watch: Watch) -> None:
        self._host = host
        self._watch = watch
        self.curves: dict[str, dict[str, list[curves.Point]]] = {}
        host.teach(OURS, "forking")
        self._typical = host.typical()
        self._distinct = sorted(storm.distinct([*host.spam, *host.ham]), key=hash_of)

    def steps(self) -> dict[str, Callable[[], list[Figure]]]:
        """What can be asked for, by name."""
        return {
            "startup": self._startup,
            "classify": self._classify,
            "delivery": self._delivery,
            "moves": self._moves,
            "milters": self._milters,
            "users": self._users,
            "ledger": self._ledger,
            "curves": self._curves,
            "bulk": self._bulk,
            "drain": self._drain,
            "memory": self._memory,
        }

    def _startup(self) -> list[Figure]:
        return [startup.measure(self._host, self._watch, rounds=7)]

    def _classify(self) -> list[Figure]:
        host, watch, message = self._host, self._watch, self._typical
        return [
            *classify.added(host, watch, message, rounds=12, calls=100),
            *classify.throughput(host, watch, message, rounds=15, calls=300),
        ]

    def _delivery(self) -> list[Figure]:
        host = self._host
        found = host.stamped([*host.spam[30:50], *host.ham[30:50]], 40)
        messages = delivery.agreed(host, found, 20)
        return delivery.measure(host, self._watch, messages, rounds=12)

    def _moves(self) -> list[Figure]:
        host, watch = self._host, self._watch
        thousand = self._distinct[:1000]
        return [
            *moves.moving(host, watch, thousand, rounds=5, piped=40),
            *moves.reading(host, watch, thousand, rounds=9),
        ]

    def _milters(self) -> list[Figure]:
        return [milters.measure(self._host, self._watch, self._typical, rounds=5, messages=150)]

    def _users(self) -> list[Figure]:
        host, watch, message = self._host, self._watch, self._typical
        return [ledgers.classifying(host, watch, message, users=100_000, rounds=12, calls=50)]

    def _ledger(self) -> list[Figure]:
        with tempfile.TemporaryDirectory(prefix="mailhooks-bench-") as folder:
            figure = ledgers.learning(
                Path(folder), self._watch, rows=1_000_000, users=10_000, rounds=12, learns=100
            )
        return [figure]

    def _curves(self) -> list[Figure]:
        host = self._host
        scored = host.stamped([*host.spam[60:90], *host.ham[60:90]], 60)
        self.curves = curves.measure(host, scored[:40], self._distinct[:900], 200)
        return []

    def _bulk(self) -> list[Figure]:
        with tempfile.TemporaryDirectory(prefix="mailhooks-bench-") as folder:
            return [bulk.measure(self._host.lab, self._watch, self._distinct, Path(folder))]

    def _drain(self) -> list[Figure]:
        messages = self._distinct[:2000]
        return [drain.measure(self._host, self._watch, messages, rounds=3)]

    def _memory(self) -> list[Figure]:
        messages = self._host.stamped(self._distinct[:40], 40)
        return memory.measure(self._host, self._watch, messages, classified=20_000, learned=5_000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--only", action="append", help="one step; may be repeated")
    parser.add_argument("--docs", type=Path, help="a folder whose page and plot are renewed")
    options = parser.parse_args(arguments)
    figures: list[Figure] = []
    void: dict[str, str] = {}
    started = time.monotonic()
    with BenchHost() as host:
        watch = Watch(host.leaders)
        print(_machine(host, watch), flush=True)  # noqa: T201
        bench = Bench(host, watch)
        steps = bench.steps()
        for name in options.only or steps:
            at = time.monotonic()
            try:
                found = steps[name]()
            except DishonestError as error:
                found, void[name] = [], str(error)
            except Exception as error:  # noqa: BLE001 - the other comparisons are none the worse
                traceback.print_exc()
                found, void[name] = [], f"failed: {error}"
            figures += found
            print(f"-- {name}, {time.monotonic() - at:.0f} s", flush=True)  # noqa: T201
            if found:
                print(table(found, BUSY_LIMIT), flush=True)  # noqa: T201
    order = list(TARGETS)
    figures.sort(key=lambda figure: order.index(figure.name))
    busiest = max(watch.shares)
    quiet = busiest <= BUSY_LIMIT
    print(f"\n{table(figures, BUSY_LIMIT)}\n")  # noqa: T201
    print(  # noqa: T201
        f"{time.monotonic() - started:.0f} s. Others used at most {busiest:.0%} of the processors"
        f" between measurements (limit {BUSY_LIMIT:.0%})."
        + ("" if quiet else " THE MACHINE IS NOT QUIET: take no figure above for a result.")
    )
    for name, reason in void.items():
        print(f"{name}: VOID: {reason}", file=sys.stderr)  # noqa: T201
    _write(figures, quiet=quiet, void=void, curves_=bench.curves, docs=options.docs)
    return 1 if void else 0


def _machine(host: BenchHost, watch: Watch) -> str:
    mail = "real mail" if host.is_real else "generated letters (set CORPUS for real mail)"
    share = watch.probe(2.0)
    return (
        f"{platform.machine()}, {platform.release()}, {MACHINE}, {mail};"
        f" others use {share:.0%} just now"
    )


def _write(
    figures: Sequence[Figure],
    *,
    quiet: bool,
    void: dict[str, str],
    curves_: dict[str, dict[str, list[curves.Point]]],
    docs: Path | None,
) -> None:
    BUILD.mkdir(exist_ok=True)
    (BUILD / "bench.json").write_text(json.dumps(flat(figures), indent=2) + "\n")
    rounds = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "quiet": quiet,
        "void": void,
        "figures": details(figures, BUSY_LIMIT),
        "curves": curves_,
    }
    (BUILD / "bench-rounds.json").write_text(json.dumps(rounds, indent=2) + "\n")
    page = docs / "performance.md" if docs else None
    if page and len(figures) == len(TARGETS):  # not the figures of a part of a run
        where = f"{rounds['time']}, {MACHINE}" + ("" if quiet else "; the machine was not quiet")
        block = markdown(figures, BUSY_LIMIT, where)
        page.write_text(renewed(page.read_text(encoding="utf-8"), block), encoding="utf-8")
    if curves_:
        for folder in filter(None, (BUILD, docs)):
            (folder / "latency.svg").write_text(curves.draw(curves_))


if __name__ == "__main__":
    sys.exit(main())
