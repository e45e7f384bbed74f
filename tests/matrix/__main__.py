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

from matrix.machine import BUILD, Machine, MachineError, has_groups, test_deb
from matrix.results import VERSION_COMMANDS, Generation, Suite, read_junit, table, total, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RELEASES = {"12": "bookworm", "13": "trixie", "14": "forky"}
# Mailhooks on a stock host; in a root that nothing else has used.
STOCK = "setup"
# The Debian package, built there, on stock hosts without and with a systemd.
DEB = ("package", "systemd")
SUITES: dict[str, Sequence[str]] = {
    STOCK: ("tests/private",),
    **dict.fromkeys(DEB, ()),
    "integration": ("tests/integration",),
    # Its only test runs those of the stock host, once more.
    "e2e": ("tests/e2e", "--ignore=tests/e2e/test_setup.py"),
}
# The main job, for those who have not the time: part of e2e.
CORE = tuple(f"tests/e2e/test_{name}.py" for name in ("demo", "verdicts", "learning", "lmtp_mode"))
# As in the Makefile.
TWO_AT_ONCE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")


def suites_of(tests: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Which suites to run: name -> arguments for pytest.

    Args:
        tests: names of suites, ``core`` for the main job, and paths; nothing for all suites.
    """
    named = SUITES | {"core": CORE}
    found = {name: named[name] for name in tests or SUITES if name in named}
    if paths := [path for path in tests if path not in named]:
        found["tests"] = paths
    return found


class Run:
    """One generation's run: machines are made as suites need them.

    Args:
        release: the number of the Debian.
        packages: see :class:`Machine`.
        wheel: see :class:`Machine`.
    """

    def __init__(self, release: str, packages: Sequence[str], wheel: Path) -> None:
        self._release = release
        self._packages = packages
        self._wheel = wheel
        self._folder = BUILD / "matrix" / release
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in ("*.deb", "making.log"):
            for path in self._folder.glob(old):
                path.unlink()
        self._machine: Machine | None = None

    def all(self, suites: Mapping[str, Sequence[str]]) -> Generation:
        """Run suites, one after another."""
        began_s = time.monotonic()
        versions: dict[str, str] = {}
        done: dict[str, Suite] = {}
        error = ""
        try:
            said = {name: self.machine.says(*argv) for name, argv in VERSION_COMMANDS.items()}
            versions = {name: version_of(text) for name, text in said.items()}
            for name, arguments in suites.items():
                if name == "systemd" and not has_groups():
                    _say("no cgroup v2 here: the units are not run by a systemd")
                    continue
                _say(f"Debian {self._release}: {name}")
                done[name] = self._suite(name, arguments)
        except MachineError as problem:
            error = str(problem)
        finally:
            self._remove()
        return Generation(self._release, versions, done, time.monotonic() - began_s, error)

    @property
    def machine(self) -> Machine:
        """The machine, made if there is none."""
        if self._machine is None:
            log = self._folder / "making.log"
            self._machine = Machine(RELEASES[self._release], self._packages, self._wheel, log)
        return self._machine

    def _remove(self) -> None:
        if self._machine is not None:
            self._machine.remove()
            self._machine = None

    def _suite(self, name: str, arguments: Sequence[str]) -> Suite:
        machine = self.machine
        log = self._folder / f"{name}.log"
        log.unlink(missing_ok=True)
        began_s = time.monotonic()
        try:
            if name in DEB:
                built = next(self._folder.glob("*.deb"), None)
                package = built or machine.build_deb(self._folder)
                junit, status = test_deb(package, name, RELEASES[self._release], log)
            elif name == STOCK:
                stock = {"MAILHOOKS_PRIVATE": "root"}
                junit, status = machine.pytest(log, *arguments, environ=stock)
                self._remove()
            else:
                junit, status = machine.pytest(log, *TWO_AT_ONCE, *arguments)
        except subprocess.TimeoutExpired as error:
            took_s = time.monotonic() - began_s
            return Suite(took_s=took_s, error=f"not done after {error.timeout:.0f} s: see {log}")
        (self._folder / f"{name}.xml").write_text(junit, encoding="utf-8")
        return read_junit(junit, status, time.monotonic() - began_s)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix; returns the exit status."""
    parser = argparse.ArgumentParser(prog="matrix")
    parser.add_argument("wheel", type=Path, help="of mailhooks")
    parser.add_argument("--packages", required=True, help="of Debian, which the tests need")
    parser.add_argument("--releases", default=" ".join(RELEASES), help="numbers of Debians")
    parser.add_argument("--tests", default="", help="suites, 'core', paths; default: all suites")
    options = parser.parse_args(arguments)
    releases = options.releases.split()
    if unknown := set(releases) - set(RELEASES):
        parser.error(f"no such release: {', '.join(unknown)}; there are {', '.join(RELEASES)}")
    suites = suites_of(options.tests.split())
    found = []
    for release in releases:
        found.append(Run(release, options.packages.split(), options.wheel).all(suites))
        _say(f"\n{table(found)}\n")
        text = json.dumps([dataclasses.asdict(each) for each in found], indent=2)
        (BUILD / "matrix.json").write_text(text + "\n", encoding="utf-8")
    _say(total(found))
    return 0 if all(each.ok for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
