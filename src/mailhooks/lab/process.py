"""One server of the lab: started in a session of its own, watched, stopped for certain."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mailhooks.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

STOP_S = 5.0
ASK_AGAIN_S = 0.5
POLL_S = 0.02


class Server:
    """A program that runs until it is stopped.

    Args:
        name: as messages call it.
        argv: the command, staying in the foreground.
        ready: true once the server answers.
        log: its output; shown when it dies.
        grace_s: seconds it gets to end by itself.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        ready: Callable[[], bool],
        log: Path,
        *,
        grace_s: float = STOP_S,
    ) -> None:
        self._grace_s = grace_s
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running server.

        Raises:
            LabError: it is not running.
        """
        if self._process is None or self._process.poll() is not None:
            raise LabError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start without waiting; see :meth:`wait_ready`.

        Raises:
            LabError: the program cannot be started.
        """
        with self.log.open("ab") as output:
            try:
                # A signal between the fork and the assignment would leave a
                # server behind that nobody knows.
                with signals_deferred():
                    self._process = self._spawn(output)
            except OSError as error:
                raise LabError(f"{self.name}: {self._argv[0]}: {error.strerror}") from error

    def _spawn(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - argv is ours
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )

    def wait_ready(self, timeout_s: float) -> None:
        """Return once the server answers.

        Raises:
            LabError: it died, or did not answer in time; shows the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self._ready():
            if self._process is None or self._process.poll() is not None:
                raise LabError(f"{self.name} died while starting:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.name} did not answer within {timeout_s:.0f} s:\n{self.tail()}"
                )
            time.sleep(POLL_S)

    def terminate(self) -> None:
        """Ask the server to end, without waiting."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def signal(self, number: int) -> None:
        """Send a signal to every process of the server, such as SIGSTOP."""
        for pid in _session(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Kill every process of the server at once, as a crash or the OOM killer would."""
        process = self._process
        if process is None:
            return
        # A dying parent's children may fork once more before they die.
        deadline = time.monotonic() + STOP_S
        while (pids := _session(process.pid)) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.poll()
            time.sleep(POLL_S)
        process.wait()
        self._process = None

    def stop(self) -> None:
        """Ask the server to end, and kill what is left of it after a while."""
        deadline = time.monotonic() + self._grace_s
        while self._process is not None and time.monotonic() < deadline:
            # Asked again and again: a server that has only just started loses
            # the first SIGTERM (Dovecot does).
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ASK_AGAIN_S)
                break
        self.kill()

    def tail(self, lines: int = 15) -> str:
        """The end of the server's log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"(no log: {error.strerror})"
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP arrive only when the block is over.

    Their handlers are Python's, so a program started within inherits nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {
        number: signal.signal(number, lambda number, _frame: arrived.append(number))
        for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


def _session(leader: int) -> list[int]:
    """Living processes of a session; servers fork, and their children keep the session."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        # pid (comm) state ppid pgrp session ...: proc(5); comm may hold anything.
        state, _ppid, _pgrp, session = stat.rpartition(")")[2].split()[:4]
        if int(session) == leader and state not in "ZX":
            members.append(int(entry.name))
    return members


def tcp_answers(address: str, port: int, greeting: bytes = b"") -> bool:
    """Whether a server accepts on this port and, if asked for, greets with these bytes."""
    try:
        with socket.create_connection((address, port), timeout=1) as connection:
            return not greeting or connection.recv(len(greeting)) == greeting
    except OSError:
        return False


def unix_answers(path: Path) -> bool:
    """Whether a server accepts on this UNIX socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
        except OSError:
            return False
        return True
