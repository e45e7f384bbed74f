"""A host whose Dovecot forks the programs: bin_dir instead of socket_dir."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from delivered import message_id, status

from mailhooks.lab import Lab
from mailhooks.lab.letters import LetterBox
from mailhooks.setup import installed_generation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailhooks.lab.mailbox import StoredMessage

NO_SOCKETS = {
    "2.3": "plugin {\n  sieve_execute_socket_dir =\n}\n",
    "2.4": "sieve_execute_socket_dir =\n",
}
DEADLINE_S = 2.0


@pytest.fixture(scope="module")
def host() -> Iterator[Lab]:
    extra = NO_SOCKETS[installed_generation()]
    with Lab(["ann", "ben", "cem"], deadline_s=DEADLINE_S, extra_dovecot=extra) as lab:
        command = [sys.executable, "-m", "mailhooks", "--config"]
        command += [str(lab.root / "mailhooks/mailhooks.toml"), "install-hooks"]
        subprocess.run([*command, str(lab.root / "hooks")], check=True, capture_output=True)
        yield lab


@pytest.fixture
def letters() -> LetterBox:
    return LetterBox(5, now=datetime.now(UTC))


def deliver(host: Lab, letters: LetterBox, name: str) -> StoredMessage:
    raw = letters.newsletter([f"{name}@mail.example"]).raw
    host.send(raw, [name])
    return host.mailbox(name).wait_for(message_id(raw))


def learned(host: Lab, name: str, spam: int) -> None:
    host.wait("learned", lambda: host.learns(name)[0] >= spam)
    host.wait("nothing waits", lambda: host.waiting_samples() == 0)
    assert host.learns(name) == (spam, 0)


def test_both_programs_reach_the_daemon(host: Lab, letters: LetterBox) -> None:
    """A delivery gets its verdict and a move is learned, through processes that Dovecot forked."""
    copies = [deliver(host, letters, "ann") for _ in range(3)]
    for copy in copies:
        assert copy.folder == "INBOX"
        assert "milter=" in status(copy.raw)
    host.mailbox("ann").move([copy.uid for copy in copies], "INBOX", "Junk")
    learned(host, "ann", 3)
    assert "mailhooks-drop" not in host.log("dovecot")
    assert list((host.root / "drop").iterdir()) == []


@pytest.mark.parametrize(("name", "how"), [("ben", "killed"), ("cem", "hung")])
def test_the_daemon_may_be_away(host: Lab, letters: LetterBox, name: str, how: str) -> None:
    """Mail arrives without a verdict, moves wait in the drop folder; within the deadlines."""
    mailbox = host.mailbox(name)
    before = deliver(host, letters, name)
    daemon = host.servers["daemon"]
    logged = len(host.log("dovecot"))
    if how == "killed":
        daemon.kill()
    else:
        os.kill(daemon.pid, signal.SIGSTOP)
    try:
        copy = deliver(host, letters, name)
        assert copy.folder == "INBOX"
        assert status(copy.raw) == "No, mailhooks did not answer"
        mailbox.move([before.uid, copy.uid], "INBOX", "Junk")
        assert mailbox.count("Junk") == 2
        assert len(list((host.root / "drop").iterdir())) == 2
        assert host.learns(name) == (0, 0)
    finally:
        if how == "killed":
            host.restart("daemon")
        else:
            os.kill(daemon.pid, signal.SIGCONT)
    learned(host, name, 2)
    log = host.log("dovecot")[logged:]
    # The programs gave up by themselves, so it was their deadline and not Dovecot's, and
    # kept the calls; the shell's last resort was not needed.
    assert log.count("mailhooks-classify: failed: ") == 1
    assert log.count("mailhooks-learn: mailhooks serve: ") == log.count("kept in") == 2
    assert "mailhooks-drop" not in log
    assert "panic" not in log.lower()
    assert "milter=" in status(deliver(host, letters, name).raw)
