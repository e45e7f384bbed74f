"""Runs the tests that need real servers on each Debian; see ``make matrix``.

    PYTHONPATH=tests:tests/support python -m matrix --packages "postfix ..." WHEEL

Each generation has its own packages, its own Python and a root of its own, private to the run.
Prints a table; writes build/matrix.json, and logs and JUnit files to build/matrix. Exits with 1 if
anything failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from matrix.machine import BUILD, Machine, MachineError
from matrix.results import VERSION_COMMANDS, Generation, Suite, read_junit, table, version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

RELEASES = {"12": "bookworm", "13": "trixie", "14": "forky"}
# Mailhooks on a stock host; in a root that nothing else has used.
STOCK = "setup"
SUITES = {
    "integration": ("tests/integration",),
    # Its only test runs those of the stock host, once more.
    "e2e": ("tests/e2e", "--ignore=tests/e2e/test_setup.py"),
}
CORE = ("demo", "verdicts", "learning", "lmtp_mode", "fork_mode")
# As in the Makefile.
TWO_AT_ONCE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")


def suites_of(tests: Sequence[str]) -> dict[str, Sequence[str]]:
    """Which suites to run: name -> arguments for pytest.

    Args:
        tests: nothing for all of them, ``core`` for the main job, or paths.
    """
    if not tests:
        return {STOCK: ("tests/private",), **SUITES}
    if tests == ["core"]:
        core = [f"tests/e2e/test_{name}.py" for name in CORE]
        return {STOCK: ("tests/private",), "core": core}
    return {"tests": tests}


def run(
    release: str, suites: dict[str, Sequence[str]], packages: Sequence[str], wheel: Path
) -> Generation:
    """One generation: make it, and run the suites there."""
    began_s = time.monotonic()
    folder = BUILD / "matrix" / release
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    found = Generation(release)
    done: dict[str, Suite] = {}
    machine: Machine | None = None
    try:
        for name, arguments in suites.items():
            if machine is None:
                machine = Machine(RELEASES[release], packages, wheel, folder / "making.log")
                said = {name: machine.says(*argv) for name, argv in VERSION_COMMANDS.items()}
                versions = {name: version_of(text) for name, text in said.items()}
                found = dataclasses.replace(found, versions=versions)
            print(f"Debian {release}: {name}", flush=True)  # noqa: T201
            done[name] = _suite(machine, name, arguments, folder)
            if name == STOCK:
                machine.remove()
                machine = None
    except MachineError as error:
        found = dataclasses.replace(found, error=str(error))
    finally:
        if machine is not None:
            machine.remove()
    return dataclasses.replace(found, suites=done, took_s=time.monotonic() - began_s)


def _suite(machine: Machine, name: str, arguments: Sequence[str], folder: Path) -> Suite:
    began_s = time.monotonic()
    log = folder / f"{name}.log"
    try:
        if name == STOCK:
            junit, status = machine.pytest(log, *arguments, MAILHOOKS_PRIVATE="root")
        else:
            junit, status = machine.pytest(log, *TWO_AT_ONCE, *arguments)
    except subprocess.TimeoutExpired as error:
        took_s = time.monotonic() - began_s
        return Suite(took_s=took_s, error=f"not done after {error.timeout:.0f} s: see {log}")
    (folder / f"{name}.xml").write_text(junit, encoding="utf-8")
    return read_junit(junit, status, time.monotonic() - began_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix; returns the exit status."""
    parser = argparse.ArgumentParser(prog="matrix")
    parser.add_argument("wheel", type=Path, help="of mailhooks")
    parser.add_argument("--packages", required=True, help="of Debian, which the tests need")
    parser.add_argument("--releases", default=" ".join(RELEASES), help="numbers of Debians")
    parser.add_argument("--tests", default="", help="'core', or paths; default: all")
    options = parser.parse_args(arguments)
    releases = options.releases.split()
    if unknown := set(releases) - set(RELEASES):
        parser.error(f"no such release: {', '.join(unknown)}; there are {', '.join(RELEASES)}")
    suites = suites_of(options.tests.split())
    found = []
    for release in releases:
        found.append(run(release, suites, options.packages.split(), options.wheel))
        print(f"\n{table(found)}\n", flush=True)  # noqa: T201
        text = json.dumps([dataclasses.asdict(each) for each in found], indent=2)
        (BUILD / "matrix.json").write_text(text + "\n", encoding="utf-8")
    return 0 if all(each.ok for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
