"""The servers' own programs that print their configuration, run without a shell."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from mailhooks.doctor.check import Finding, failed, skipped

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_S = 10.0
_REASON_CHARS = 300


class NotRunError(Exception):
    """A program is not on this host, so nothing is known of its server."""


class WentWrongError(Exception):
    """A program ran and reported a failure, or did not come to an end."""


def output_of(command: Sequence[str], *arguments: str, wrong_codes: bool = True) -> str:
    """What a program prints to its standard output.

    Args:
        command: the program with its first arguments.
        arguments: further ones.
        wrong_codes: whether an exit status other than 0 is a failure.

    Raises:
        NotRunError: there is no such program here.
        WentWrongError: it failed; says what it said last.
    """
    try:
        done = subprocess.run(  # noqa: S603 - the administrator names the program
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as problem:
        raise WentWrongError(f"{command[0]} did not end within {TIMEOUT_S:g} s") from problem
    except OSError as problem:
        raise NotRunError(f"{command[0]}: {problem.strerror}") from problem
    if wrong_codes and done.returncode != 0:
        lines = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        reason = lines[-1][:_REASON_CHARS] if lines else f"exit status {done.returncode}"
        raise WentWrongError(f"{command[0]} failed: {reason}")
    return done.stdout.decode("utf-8", "backslashreplace")


def unknown(name: str, server: str, setting: str, problem: Exception) -> Finding:
    """What is found when a server's configuration cannot be read.

    Args:
        name: of the finding.
        server: whose configuration.
        setting: of ``[doctor]``, that names the program.
        problem: a :class:`NotRunError` or a :class:`WentWrongError`.
    """
    if isinstance(problem, NotRunError):
        return skipped(
            name,
            f"{problem}, so {server}'s configuration was not looked at",
            f"If {server} runs on this host, name its program in [doctor] {setting}; if not, run "
            "the doctor there too.",
        )
    return failed(
        name,
        str(problem),
        f"Correct {server}'s configuration or [doctor] {setting}, and run the doctor as root.",
    )


def version_of(text: str) -> tuple[int, ...]:
    """A version's leading numbers: ``2.3.19.1 (9b53102964)`` is (2, 3, 19, 1)."""
    numbers = []
    for part in text.split(maxsplit=1)[:1]:
        for number in part.split("."):
            if not number.isdecimal():
                break
            numbers.append(int(number))
    return tuple(numbers)
