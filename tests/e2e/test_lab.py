from __future__ import annotations

import imaplib
import os
import re
import signal
import smtplib
import ssl
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailhooks.errors import LabError
from mailhooks.lab import Lab, host
from mailhooks.lab.process import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = [sys.executable, "-m", "mailhooks", "lab", "up"]
LIMIT_S = 60.0
OURS = {os.getpid(), os.getppid()}


def leftovers(root: str) -> list[str]:
    """Living processes that name this folder, and the folder itself."""
    found = [root] if Path(root).exists() else []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
                # Postfix's master is known by its environment and folder alone.
                command += (entry / "environ").read_bytes() + bytes((entry / "cwd").readlink())
            except OSError:
                continue
            if root.encode() in command and int(entry.name) not in OURS:
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.fixture
def _foreground() -> Iterator[None]:
    """As in a terminal: what a shell runs in the background, these tests too, ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def command(_foreground: None, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`mailhooks lab up`, with its folder below the test's own."""
    process = subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short path: those of UNIX sockets end at 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="mh", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    folder.rmdir()  # fails if the lab left anything behind


def test_lab_up_says_how_to_connect_and_ctrl_c_removes_it(
    command: subprocess.Popen[str],
) -> None:
    """What it prints works in a mail client, and afterwards nothing of it is left."""
    assert command.stdout is not None
    lines = []
    for line in command.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    text = "".join(lines)
    root = re.search(r"in (/\S+)", text)
    ports = dict(re.findall(r"^(IMAPS|submission|SMTP) +127\.0\.0\.1:(\d+)", text, re.MULTILINE))
    account = re.search(r"user (\S+) +password (\S+)", text)
    authority = re.search(r"trust (\S+)\.\n", text)
    mailcfg = re.search(r"mailcfg (--db \S+ lsuser)", text)
    assert root, text
    assert ports.keys() == {"IMAPS", "submission", "SMTP"}, text
    assert account, text
    assert authority, text
    assert mailcfg, text
    month = datetime.now(UTC).strftime("%Y%m")
    assert f'\n{month}._domainkey.mail.example. IN TXT "v=DKIM1; k=rsa; p=' in text
    tls = ssl.create_default_context(cafile=authority[1])
    with imaplib.IMAP4_SSL("127.0.0.1", int(ports["IMAPS"]), ssl_context=tls) as client:
        assert client.login(account[1], account[2])[0] == "OK"
    with smtplib.SMTP("127.0.0.1", int(ports["submission"])) as sender:
        sender.starttls(context=tls)
        sender.login(account[1], account[2])
        sender.sendmail(account[1], ["far@example.org"], b"Subject: x\r\n\r\nhello\r\n")
    with smtplib.SMTP("127.0.0.1", int(ports["SMTP"])) as sender:
        sender.sendmail("a@example.org", [account[1]], b"Subject: x\r\n\r\nhello\r\n")
    users = subprocess.run(
        [Path(sys.executable).with_name("mailcfg"), *mailcfg[1].split()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert account[1] in users.stdout
    assert leftovers(root[1])
    command.send_signal(signal.SIGINT)
    rest, _ = command.communicate(timeout=LIMIT_S)
    assert command.returncode == 0, rest
    assert "stopped and removed" in rest
    assert leftovers(root[1]) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_half_way_through_the_start_removes_it(
    command: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    """However early it is stopped, no server and no file stays."""
    deadline = time.monotonic() + LIMIT_S
    while not list(tmp_path.glob("*/log/redis.log")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    command.send_signal(number)
    output, _ = command.communicate(timeout=LIMIT_S)
    assert command.returncode == 0, output
    assert leftovers(str(tmp_path / "mailhooks-lab")) == []
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_while_starting_is_named_and_everything_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error shows the end of that server's log."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    lab = Lab()
    define = lab._define_servers

    def broken(**ports: int) -> None:
        define(**ports)
        lab.servers["postfix"] = Server(
            "postfix",
            ["/bin/sh", "-c", "echo no such luck >&2; exit 3"],
            lambda: False,
            lab.root / "log/postfix.log",
        )

    monkeypatch.setattr(lab, "_define_servers", broken)
    with pytest.raises(LabError, match=r"(?s)postfix died while starting:.*no such luck"):
        lab.start()
    assert leftovers(str(tmp_path)) == [str(tmp_path)]
    assert list(tmp_path.iterdir()) == []


def test_without_root_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Postfix and Dovecot need root, and the message says so before anything starts."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="run it with sudo"):
        Lab().start()


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has to guess which Debian package a program is in."""
    monkeypatch.setattr(host, "PACKAGES", {"/no/such/program": "the-package"})
    with pytest.raises(LabError, match=r"not installed: the-package.*apt-get install"):
        Lab().start()
