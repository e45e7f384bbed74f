"""What a check is, what it finds, and how many of them run without one holding up the rest."""

from __future__ import annotations

import enum
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class Level(enum.Enum):
    """How bad it is; what has failed makes mailhooks, or a part of it, not work now."""

    OK = "ok"
    SKIPPED = "not checked"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing.

    Attributes:
        name: the thing, the same in every run; for scripts.
        level: how bad it is.
        text: the path, address or setting, and what is the matter with it.
        advice: what to do about it; empty if nothing is to be done.
    """

    name: str
    level: Level
    text: str
    advice: str = ""


def ok(name: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(name, Level.OK, text)


def warning(name: str, text: str, advice: str) -> Finding:
    """It works, and soon may not."""
    return Finding(name, Level.WARNING, text, advice)


def skipped(name: str, text: str, advice: str) -> Finding:
    """It cannot be looked at from here; ``text`` says why, ``advice`` how it could be."""
    return Finding(name, Level.SKIPPED, text, advice)


def failed(name: str, text: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(name, Level.FAILED, text, advice)


@dataclass(frozen=True, slots=True)
class Check:
    """A look at one part of the host.

    Attributes:
        name: of the finding if the look itself fails.
        look: returns findings; may block, and may raise.
    """

    name: str
    look: Callable[[], Iterable[Finding]]


def run(checks: Sequence[Check], *, timeout_s: float) -> list[Finding]:
    """Run checks side by side; returns their findings in the order of the checks.

    A check that raises, or has not come to an end in time, has failed itself.

    Args:
        checks: what to look at.
        timeout_s: for all of them together.
    """
    deadline = time.monotonic() + timeout_s
    running = [(check, _start(check)) for check in checks]
    findings: list[Finding] = []
    for check, future in running:
        try:
            problem = future.exception(timeout=max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            findings.append(_unfinished(check.name, timeout_s))
            continue
        findings += [_broken(check.name, problem)] if problem else future.result()
    return findings


def _start(check: Check) -> Future[list[Finding]]:
    future: Future[list[Finding]] = Future()

    def work() -> None:
        try:
            future.set_result(list(check.look()))
        except BaseException as problem:  # noqa: BLE001 - one broken check shall not hide the others
            future.set_exception(problem)

    # Not an executor: Python waits for its threads at exit, and a look at a
    # network file system that hangs never ends.
    threading.Thread(target=work, name=f"check {check.name}", daemon=True).start()
    return future


def _unfinished(name: str, timeout_s: float) -> Finding:
    return failed(
        name,
        f"the check did not end within {timeout_s:g} s",
        "Something it looks at hangs, such as a file system or a server: see the findings beside "
        "this one, and try again.",
    )


def _broken(name: str, problem: BaseException) -> Finding:
    reason = " ".join(str(problem).split())
    return failed(
        name,
        f"the check itself failed: {type(problem).__name__}{': ' if reason else ''}{reason}",
        "This is a fault of mailhooks: please report it with this line.",
    )
