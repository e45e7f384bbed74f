"""The services of contrib/ under OpenRC, runit and s6: the same day with each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import stock_host
from stock_host import run, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

CONTRIB = Path("/usr/share/doc/mailhooks/contrib")
SETTINGS = Path("/etc/mailhooks/mailhooks.toml")
SOCKETS = Path("/run/mailhooks")
SERVICES = ("mailhooks", "mailhooks-milter")
CALL = """
import asyncio, sys
from mailhooks.dovecot import call_script
name, number, *arguments = sys.argv[1:]
message = f"From: a@example.org\\r\\nSubject: number {number}\\r\\n\\r\\nhello\\r\\n".encode()
env = {"USER": "ann", "SENDER": "a@example.org"}
path = f"/run/mailhooks/mailhooks-{name}"
print(asyncio.run(call_script(path, tuple(arguments), env, message, timeout_s=60)))
"""


def call(name: str, number: int = 0, *arguments: str) -> str:
    """What comes of a call as Dovecot's Sieve makes it; the error if nothing does."""
    argv = [stock_host.PYTHON, "-c", CALL, name, str(number), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def waiting() -> int:
    """Samples on disk that nobody has learned yet: there is no Rspamd here."""
    return len(json.loads(run("mailhooks", "queue", "list", "--json")))


def pid_of(command: str) -> int:
    """The process that runs `mailhooks COMMAND` as the user mailhooks; 0 if none does."""
    wanted = f"/opt/mailhooks/bin/python3\0/opt/mailhooks/bin/mailhooks\0{command}\0"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_text() == wanted:
                assert process.owner() == "mailhooks"
                return int(process.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return 0


@dataclass(frozen=True)
class Supervisor:
    """How an administrator speaks to a supervisor: the command line, with the service's name."""

    start: str
    stop: str
    restart: str
    reload: str

    def say(self, order: str, service: str) -> None:
        run(*getattr(self, order).format(service).split())


def said(command: str) -> str:
    return subprocess.run(command.split(), capture_output=True, text=True, check=False).stdout


def install(kind: str, folder: Path) -> None:
    """Copy the service directories; the test itself starts them."""
    for service in SERVICES:
        shutil.copytree(CONTRIB / kind / service, folder / service)
        (folder / service / "down").touch()


@contextmanager
def openrc() -> Iterator[Supervisor]:
    # What its boot leaves in a root that it has booted.
    Path("/run/openrc").mkdir(exist_ok=True)
    Path("/run/openrc/softlevel").touch()
    shutil.copy(CONTRIB / "openrc/mailhooks", "/etc/init.d/mailhooks")
    Path("/etc/init.d/mailhooks-milter").symlink_to("mailhooks")
    service = "rc-service {} "
    yield Supervisor(service + "start", service + "stop", service + "restart", service + "reload")
    assert "serving" in Path("/var/log/mailhooks.log").read_text(encoding="utf-8")


@contextmanager
def runit() -> Iterator[Supervisor]:
    folder = Path("/etc/service")
    folder.mkdir(exist_ok=True)
    install("runit", folder)
    with subprocess.Popen(["/usr/bin/runsvdir", "-P", str(folder)]) as process:
        wait("runsv", lambda: said("sv status mailhooks mailhooks-milter").count("down:") == 2)
        try:
            yield Supervisor("sv start {}", "sv -w 20 stop {}", "sv -w 20 restart {}", "sv hup {}")
            assert "serving" in Path("/var/log/mailhooks/current").read_text(encoding="utf-8")
        finally:
            process.send_signal(signal.SIGHUP)  # ends its services, too


@contextmanager
def s6() -> Iterator[Supervisor]:
    folder = Path("/run/service")
    folder.mkdir()
    install("s6", folder)
    with subprocess.Popen(["/usr/bin/s6-svscan", str(folder)]):
        for service in SERVICES:
            wait("s6-supervise", lambda: "down" in said(f"s6-svstat {folder}/{service}"))  # noqa: B023 - waited for at once
        name = f"{folder}/{{}}"
        try:
            yield Supervisor(
                f"s6-svc -wu -u {name}",
                f"s6-svc -wD -T 20000 -d {name}",
                f"s6-svc -wr -T 20000 -r {name}",
                f"s6-svc -h {name}",
            )
            assert "serving" in Path("/var/log/mailhooks/current").read_text(encoding="utf-8")
        finally:
            run("s6-svscanctl", "-t", str(folder))


@pytest.mark.parametrize("supervised", [openrc, runit, s6], ids=lambda each: each.__name__)
def test_a_supervisor_runs_both_services(
    supervised: Callable[[], AbstractContextManager[Supervisor]],
) -> None:
    """Start, a crash, a reload, a restart that loses nothing, and a stop."""
    for folder in ("/var/log/mailhooks", "/var/log/mailhooks-milter", "/run/mailhooks"):
        shutil.rmtree(folder, ignore_errors=True)
    settings = SETTINGS.read_bytes()
    with supervised() as supervisor:
        for service in SERVICES:
            supervisor.say("start", service)
        wait("serve answers", lambda: "inbox" in call("classify"))
        wait("the milter listens", lambda: stock_host.listens(11336))
        before = waiting()

        pid = pid_of("serve")
        os.kill(pid, signal.SIGKILL)
        wait("serve is back after a crash", lambda: pid_of("serve") not in (0, pid))
        wait("serve answers again", lambda: "inbox" in call("classify"))

        pid = pid_of("serve")
        SETTINGS.write_bytes(settings + b"[policy]\nthreshold = 7.5\n")
        supervisor.say("reload", "mailhooks")
        wait("the new threshold counts", lambda: "required=7.50" in call("classify"))
        assert pid_of("serve") == pid

        for number in range(3):
            call("learn", number, "cause=COPY", "from=INBOX", "to=Junk")
        assert waiting() == before + 3
        supervisor.say("restart", "mailhooks")
        wait("serve is another one", lambda: pid_of("serve") not in (0, pid))
        wait("serve answers again", lambda: "inbox" in call("classify"))
        assert waiting() == before + 3

        pid = pid_of("milter")
        supervisor.say("restart", "mailhooks-milter")
        wait("the milter is another one", lambda: pid_of("milter") not in (0, pid))
        wait("the milter listens again", lambda: stock_host.listens(11336))

        for service in SERVICES:
            supervisor.say("stop", service)
        assert not pid_of("serve")
        assert not pid_of("milter")
        assert not (SOCKETS / "mailhooks-classify").exists()
        assert waiting() == before + 3
    SETTINGS.write_bytes(settings)
