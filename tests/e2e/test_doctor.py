"""The doctor on a real host: healthy, and with one part broken at a time."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mailhooks.keys import KeyRing, format_keys, new_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailhooks.lab import Lab

TIMEOUT_S = 60.0


def run(lab: Lab, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mailhooks"]
    command += ["--config", str(lab.root / "mailhooks/mailhooks.toml"), "doctor", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


def levels(lab: Lab) -> tuple[dict[str, str], int]:
    """The level of each finding, and the exit status."""
    done = run(lab, "--json")
    assert not done.stderr
    found = json.loads(done.stdout)
    for finding in found:
        assert bool(finding["advice"]) == (finding["level"] != "ok"), finding
    return {finding["name"]: finding["level"] for finding in found}, done.returncode


def test_a_healthy_host_has_no_errors(lab: Lab) -> None:
    """Each line begins with ok, but for what the machine itself is short of."""
    done = run(lab)
    *lines, summary = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert summary.endswith(" 0 errors")
    assert len([line for line in lines if line.startswith("ok ")]) > 20
    wrong = [line for line in lines if not line.startswith("ok ") and " space " not in line]
    assert not [line for line in wrong if not line.lstrip().startswith("->")]


def test_the_doctor_teaches_nothing(lab: Lab) -> None:
    """Nothing waits to be learned afterwards, and Redis knows nobody of the probe's name."""
    before = {name: lab.learns(name) for name in lab.users}
    levels(lab)
    assert not lab.redis("KEYS", "*doctor*").strip()
    assert {name: lab.learns(name) for name in lab.users} == before
    lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)


@pytest.mark.parametrize(
    ("dead", "named"),
    [
        ("daemon", {"classify socket", "learn socket"}),
        ("milter", {"milter socket"}),
        ("rspamd", {"rspamd scan", "rspamd learn"}),
        ("redis", {"redis"}),
    ],
)
@pytest.mark.parametrize("way", ["killed", "hung"])
def test_a_server_that_does_not_answer_is_named(
    lab: Lab, dead: str, named: set[str], way: str
) -> None:
    """The errors name it and nothing else, and the doctor does not wait for ever."""
    server = lab.servers[dead]
    if way == "killed":
        server.kill()
    else:
        server.signal(signal.SIGSTOP)
    try:
        found, status = levels(lab)
    finally:
        if way == "killed":
            lab.restart(dead)
        else:
            server.signal(signal.SIGCONT)
    assert {name for name, level in found.items() if level == "error"} == named
    assert status == 1


@contextlib.contextmanager
def spool_is_a_file(lab: Lab) -> Iterator[None]:
    spool = lab.root / "spool"
    away = spool.rename(lab.root / "spool.away")
    spool.touch()
    try:
        yield
    finally:
        spool.unlink()
        away.rename(spool)


@contextlib.contextmanager
def key_file_is_public(lab: Lab) -> Iterator[None]:
    (lab.root / "keys").chmod(0o644)
    try:
        yield
    finally:
        (lab.root / "keys").chmod(0o600)


@contextlib.contextmanager
def key_file_is_new(lab: Lab) -> Iterator[None]:
    path = lab.root / "keys"
    before = path.read_text(encoding="utf-8")
    path.write_text(format_keys(KeyRing((new_key(),))), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


@contextlib.contextmanager
def password_is_wrong(lab: Lab) -> Iterator[None]:
    path = lab.root / "mailhooks/mailhooks.toml"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(lab.rspamd_password, "wrong"), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


@contextlib.contextmanager
def socket_is_shut(lab: Lab) -> Iterator[None]:
    path = lab.root / "run/mailhooks/mailhooks-learn"
    path.chmod(0o600)
    try:
        yield
    finally:
        path.chmod(0o666)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (spool_is_a_file, {"spool"}),
        (key_file_is_public, {"key file"}),
        (key_file_is_new, {"classify socket"}),
        (password_is_wrong, {"rspamd learn"}),
        (socket_is_shut, {"learn socket"}),
    ],
)
def test_what_is_broken_is_named(
    lab: Lab, broken: Callable[[Lab], contextlib.AbstractContextManager[None]], named: set[str]
) -> None:
    """One error, of that name, and exit status 1."""
    with broken(lab):
        found, status = levels(lab)
    assert {name for name, level in found.items() if level == "error"} == named
    assert status == 1


def test_the_host_is_healthy_again_afterwards(lab: Lab) -> None:
    """What the other tests broke is mended, and the doctor sees that too."""
    found, status = levels(lab)
    assert "error" not in found.values(), found
    assert status == 0
