"""``mailhooks serve`` and ``mailhooks milter`` under a supervisor that speaks as systemd does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from mailhooks.dovecot import call_script
from mailhooks.errors import ProtocolError
from mailhooks.keys import KeyRing, format_keys, new_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("mailhooks-classify", "mailhooks-learn")
PATIENCE_S = 60
MESSAGE = b"From: a@example.org\r\nSubject: hello\r\n\r\nhello\r\n"
# What systemd does between fork and exec: sockets from descriptor 3 on, and the pid.
LAUNCHER = """
import os, sys
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
for number, descriptor in enumerate(sys.argv[1].split(",") if sys.argv[1] else []):
    os.dup2(int(descriptor), 100 + number)
for number in range(int(os.environ["LISTEN_FDS"])):
    os.dup2(100 + number, 3 + number)
os.execv(sys.executable, [sys.executable, "-m", "mailhooks", *sys.argv[2:]])
"""


class Host:
    """The sockets, the settings and the notifications of one service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = folder / "mailhooks.toml"
        self.write_settings("threshold = 6.0")
        (folder / "keys").write_text(format_keys(KeyRing((new_key(),))), encoding="utf-8")
        (folder / "drop").mkdir()
        self.sockets = {name: socket.socket(socket.AF_UNIX) for name in NAMES}
        for name, sock in self.sockets.items():
            sock.bind(str(folder / name))
            sock.listen(1024)
        self.heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.bind(str(folder / "notify"))
        self.heard.settimeout(PATIENCE_S)
        self.process: subprocess.Popen[bytes] | None = None

    def write_settings(self, policy: str) -> None:
        self.settings.write_text(
            f"""
            [daemon]
            socket_dir = "{self.folder}"
            spool_dir = "{self.folder}/spool"
            drop_dir = "{self.folder}/drop"
            mail_users = [{os.getuid()}]
            [rspamd]
            scan_url = "unix:{self.folder}/nobody"
            learn_url = "unix:{self.folder}/nobody"
            [milter]
            socket = "unix:{self.folder}/milter.sock"
            [lmtp]
            listen = "unix:{self.folder}/lmtp.sock"
            next_hop = "unix:{self.folder}/nobody"
            [score]
            key_file = "{self.folder}/keys"
            [policy]
            {policy}
            [learning]
            ledger_file = "{self.folder}/ledger.sqlite"
            [redis]
            url = ""
            """,
            encoding="utf-8",
        )

    def start(self, command: str = "serve", *, sockets: bool = True, watchdog_s: float = 0) -> None:
        descriptors = [sock.fileno() for sock in self.sockets.values()] if sockets else []
        environ = os.environ | {
            "LISTEN_FDS": str(len(descriptors)),
            "LISTEN_FDNAMES": ":".join(NAMES if sockets else ()),
            "NOTIFY_SOCKET": str(self.folder / "notify"),
        }
        if watchdog_s:
            environ["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", LAUNCHER, ",".join(map(str, descriptors))),
                    *("--config", str(self.settings), command),
                ],
                env=environ,
                pass_fds=descriptors,
                stdout=log,
                stderr=log,
            )

    def hear(self, line: str) -> None:
        """Return once the service has said this."""
        while not self.heard.recv(4096).decode().startswith(line):
            pass

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def call(self, name: str, args: tuple[str, ...] = ()) -> tuple[bytes, bool]:
        async def run() -> tuple[bytes, bool]:
            env = {"USER": "ann@example.org", "SENDER": "a@example.org"}
            return await call_script(self.folder / name, args, env, MESSAGE, timeout_s=PATIENCE_S)

        return asyncio.run(run())


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A service's surroundings; what still runs at the end is killed."""
    host = Host(tmp_path)
    yield host
    if host.process is not None:
        host.process.kill()
        host.process.wait()
    for sock in (*host.sockets.values(), host.heard):
        sock.close()


def test_a_restart_refuses_no_connection_and_loses_nothing(host: Host) -> None:
    """With sockets handed over, each call before, during and after restarts is answered."""
    host.start()
    host.hear("READY=1")
    outcomes: list[str] = []
    samples = 0
    over = threading.Event()

    def calls() -> None:
        nonlocal samples
        number = 0
        while not over.is_set():
            number += 1
            try:
                answer, success = host.call("mailhooks-classify")
                assert answer.startswith(b"inbox ") or not success
                learned = host.call(
                    "mailhooks-learn", ("cause=COPY", "from=INBOX", f"to=Junk/{number}")
                )[1]
                samples += learned
                outcomes.append("answered" if success and learned else "failed")
            except ProtocolError:
                outcomes.append("cut off")  # by a kill, as any server's would be
            except OSError as error:
                outcomes.append(f"refused: {error}")

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGTERM):
            before = len(outcomes)
            status = host.end(number)
            assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0), host.log()
            host.start()
            host.hear("READY=1")
            deadline = time.monotonic() + PATIENCE_S
            while len(outcomes) < before + 8 and time.monotonic() < deadline:
                time.sleep(0.02)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not [each for each in outcomes if each.startswith("refused")]
    # Only the kill may cut calls short, one for each of those who were calling.
    assert outcomes.count("answered") >= 32
    assert len(outcomes) - outcomes.count("answered") <= 4, outcomes
    assert len(list((host.folder / "spool/new").iterdir())) >= samples


def test_a_reload_takes_over_what_it_can_and_keeps_what_was_right(host: Host) -> None:
    """A new threshold counts for the next call; wrong settings and keys change nothing."""
    host.start()
    host.hear("READY=1")
    assert b" required=6.00 " in host.call("mailhooks-classify")[0]
    assert host.process is not None

    host.write_settings("threshold = 7.5")
    with host.settings.open("a", encoding="utf-8") as file:
        file.write("key_prefix = 'XX'")
    host.process.send_signal(signal.SIGHUP)
    host.hear("RELOADING=1")
    host.hear("READY=1")
    assert b" required=7.50 " in host.call("mailhooks-classify")[0]
    assert "changed: policy.threshold" in host.log()
    assert "only a restart changes redis.key_prefix" in host.log()

    host.write_settings("treshold = 1.0")
    host.process.send_signal(signal.SIGHUP)
    host.hear("READY=1")
    host.write_settings("threshold = 1.0")
    (host.folder / "keys").write_text("short x", encoding="utf-8")
    host.process.send_signal(signal.SIGHUP)
    host.hear("READY=1")
    assert b" required=7.50 " in host.call("mailhooks-classify")[0]
    assert "did you mean threshold?" in host.log()
    assert "the secret of short is shorter" in host.log()
    assert host.log().count("the old settings stay in force") == 2

    assert host.end(signal.SIGTERM) == 0
    host.hear("STOPPING=1")


def test_who_waits_for_a_service_that_cannot_start_is_turned_away(host: Host) -> None:
    """Dovecot's ten seconds do not run out on a socket that nobody serves."""
    host.write_settings("treshold = 1.0")
    waiting = socket.socket(socket.AF_UNIX)
    with waiting:
        waiting.settimeout(PATIENCE_S)
        waiting.connect(str(host.folder / NAMES[0]))
        host.start()
        with suppress(ConnectionResetError):
            assert waiting.recv(1) == b""
    assert host.process is not None
    assert host.process.wait(PATIENCE_S) == 1
    assert "did you mean threshold?" in host.log()


@pytest.mark.parametrize("command", ["serve", "milter", "lmtp"])
def test_a_stopped_process_gives_no_sign_of_life(host: Host, command: str) -> None:
    """The watchdog hears a service that works, and nothing of one that hangs."""
    host.start(command, sockets=command == "serve", watchdog_s=2)
    host.hear("READY=1")
    for _ in range(3):
        host.hear("WATCHDOG=1")
    assert host.process is not None
    host.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, host.process.pid, os.WSTOPPED)
    host.heard.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            host.heard.recv(4096)  # said before it was stopped
    host.heard.settimeout(2.5)
    with pytest.raises(TimeoutError):
        host.heard.recv(4096)
    host.heard.settimeout(PATIENCE_S)
    host.process.send_signal(signal.SIGCONT)
    host.hear("WATCHDOG=1")
