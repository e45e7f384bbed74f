"""What came of the suites on each Debian: read from JUnit files, written as a table. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# How each program says its version, and where in that it stands.
VERSION_COMMANDS: Mapping[str, Sequence[str]] = {
    "postfix": ("postconf", "-h", "mail_version"),
    "dovecot": ("dovecot", "--version"),
    "rspamd": ("rspamd", "--version"),
    "redis": ("redis-server", "--version"),
    "python": ("python3", "--version"),
}
_NUMBER = re.compile(r"\d+(?:\.\d+)+")


@dataclass(frozen=True, slots=True)
class Suite:
    """What came of one run of pytest.

    Attributes:
        error: why it gave no result, or an incomplete one; empty if it did.
        bad: the tests that failed.
        skipped: why tests were skipped -> how many.
        took_s: how long it ran.
    """

    passed: int = 0
    bad: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    took_s: float = 0.0
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether tests ran, and all of them passed or were skipped."""
        return not self.bad and not self.error and self.passed > 0

    def __str__(self) -> str:
        """For a cell of the table."""
        parts = [
            "ERROR" if self.error else "",
            f"{len(self.bad)} FAILED" if self.bad else "",
            f"{self.passed} passed",
            f"{sum(self.skipped.values())} skipped" if self.skipped else "",
        ]
        return ", ".join(filter(None, parts))


@dataclass(frozen=True, slots=True)
class Generation:
    """What came of all suites on one Debian.

    Attributes:
        release: its number.
        versions: program -> version.
        suites: name -> what came of it.
        took_s: with everything that had to be made first.
        error: why nothing could be run; empty if it could.
    """

    release: str
    versions: Mapping[str, str] = field(default_factory=dict)
    suites: Mapping[str, Suite] = field(default_factory=dict)
    took_s: float = 0.0
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether every suite is."""
        return not self.error and bool(self.suites) and all(s.ok for s in self.suites.values())


def version_of(said: str) -> str:
    """The version number in what a program says; empty if there is none."""
    found = _NUMBER.search(said)
    return found[0] if found else ""


def read_junit(text: str, status: int, took_s: float) -> Suite:
    """What came of a run of pytest.

    Args:
        text: the JUnit file; empty if there is none.
        status: exit status of pytest.
        took_s: how long it ran.
    """
    try:
        cases = list(ET.fromstring(text).iter("testcase")) if text else []  # noqa: S314 - our own
    except ET.ParseError as problem:
        return Suite(took_s=took_s, error=f"its JUnit file cannot be read: {problem}")
    passed, bad, skipped = 0, [], dict[str, int]()
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            bad.append(f"{case.get('classname', '')}::{case.get('name', '')}")
        elif (skip := case.find("skipped")) is not None:
            why = skip.get("message", "")
            skipped[why] = skipped.get(why, 0) + 1
        else:
            passed += 1
    error = ""
    if not cases:
        error = f"pytest ended with status {status} and ran no test"
    elif status and not bad:
        error = f"pytest ended with status {status}, though no test failed"
    # A test that fails and whose end fails, too, has two entries.
    return Suite(passed, tuple(dict.fromkeys(bad)), skipped, took_s, error)


def table(found: Sequence[Generation]) -> str:
    """One row for each generation; below it what failed, and what was not run."""
    suites = list(dict.fromkeys(name for each in found for name in each.suites))
    rows = [["Debian", *VERSION_COMMANDS, *suites, "seconds"]]
    notes: list[str] = []
    for each in found:
        rows.append(
            [
                each.release,
                *(each.versions.get(name, "-") for name in VERSION_COMMANDS),
                *(str(each.suites.get(name, "-")) for name in suites),
                f"{each.took_s:.0f}",
            ]
        )
        if each.error:
            notes.append(f"Debian {each.release}: {each.error}")
        for name, suite in each.suites.items():
            where = f"Debian {each.release}, {name}"
            if suite.error:
                notes.append(f"{where}: {suite.error}")
            notes += [f"{where}: FAILED {test}" for test in suite.bad]
            notes += [f"{where}: {count} skipped: {why}" for why, count in suite.skipped.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *notes] if notes else lines)


def total(found: Sequence[Generation]) -> str:
    """All tests of all generations in one line; what gave no result counts as failed."""
    suites = [suite for each in found for suite in each.suites.values()]
    failed = sum(len(suite.bad) + bool(suite.error) for suite in suites)
    failed += sum(bool(each.error) for each in found)
    skipped = sum(sum(suite.skipped.values()) for suite in suites)
    passed = sum(suite.passed for suite in suites)
    return f"{passed} passed, {failed} failed, {skipped} skipped"
