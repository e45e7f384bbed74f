"""Runs the servers' own tools."""

from __future__ import annotations

import os
import subprocess

from mailhooks.errors import SetupError

TIMEOUT_S = 120.0
# Administrators' shells may lack sbin, and tools may speak the user's language.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
}


def run(*argv: str) -> str:
    """What a program prints to standard output.

    Raises:
        SetupError: it is not there, fails, or does not end; holds what it said.
    """
    try:
        done = subprocess.run(  # noqa: S603 - argv is ours
            argv,
            env=os.environ | ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise SetupError(f"{argv[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"{' '.join(argv)}: did not end within {TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode("utf-8", errors="replace").strip()
        raise SetupError(f"{' '.join(argv)}: exit status {done.returncode}: {said}")
    return done.stdout.decode("utf-8", errors="replace")
