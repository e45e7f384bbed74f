"""Programs of others speak to ours: Postfix's smtp-source and smtp-sink, swaks, miltertest."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hmac
import re
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from lmtp_store import Store

from mailhooks.dovecot import ScriptCall, ScriptServer
from mailhooks.keys import KeyRing, format_keys, new_key
from mailhooks.message import read_header
from mailhooks.score import MilterScore, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BUSY_S = 60.0


def program(name: str, package: str) -> str:
    """The path of somebody else's program; without it the test is skipped."""
    path = shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin")
    if not path:
        pytest.skip(f"Debian package {package} is not installed; `make test` installs it")
    return path


async def run(*command: str | Path) -> tuple[int, str]:
    """Exit status, and all that a program printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(BUSY_S):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


@contextlib.asynccontextmanager
async def running(ready: Path, *command: str | Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A server, from when its socket answers until it is killed."""
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(BUSY_S):
            while not answers(ready):
                assert process.returncode is None, f"{command[0]} died"
                await asyncio.sleep(0.02)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass(frozen=True)
class Place:
    """The filter's folder."""

    root: Path

    @property
    def command(self) -> list[str | Path]:
        return [sys.executable, "-m", "mailhooks", "--config", self.root / "mailhooks.toml"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "mailhooks.toml").write_text(
        f'[daemon]\nsocket_dir = "{tmp_path}"\nmax_message_bytes = 100000\n'
        f'[lmtp]\nlisten = "unix:{tmp_path}/lmtp"\nnext_hop = "unix:{tmp_path}/store"\n'
        f"deadline_s = {BUSY_S}\nnext_hop_timeout_s = {BUSY_S}\n"
        f'[milter]\nsocket = "unix:{tmp_path}/milter"\n[score]\nkey_file = "{tmp_path}/keys"\n',
        encoding="utf-8",
    )
    return Place(tmp_path)


def for_junk(user: str) -> bool:
    """Whose mail is junk here."""
    return "2" in user.partition("@")[0]


@contextlib.asynccontextmanager
async def daemon(place: Place) -> AsyncIterator[list[str]]:
    """Stands for `mailhooks serve`; yields the users."""
    users: list[str] = []

    async def answer(call: ScriptCall) -> bytes:
        users.append(call.env["USER"])
        if for_junk(call.env["USER"]):
            return b"junk verified Yes, score=7.00"
        return b"inbox verified No, score=1.00"

    server = ScriptServer(place.root / "mailhooks-classify", answer)
    await server.start()
    try:
        yield users
    finally:
        await server.stop()


async def test_smtp_source_to_smtp_sink(place: Place) -> None:
    """Two hundred messages for three recipients each, over four connections: 600 copies arrive."""
    source, sink = program("smtp-source", "postfix"), program("smtp-sink", "postfix")
    dumps = place.root / "dumps"
    dumps.mkdir()
    store = place.root / "store"
    async with (
        daemon(place) as users,
        running(
            store,
            sink,
            "-L",
            "-u",
            getpass.getuser(),
            "-d",
            dumps / "%M%S.",
            f"unix:{store}",
            "100",
        ),
        running(place.root / "lmtp", *place.command, "lmtp"),
    ):
        where = f"unix:{place.root}/lmtp"
        options = ["-L", "-s", "4", "-m", "200", "-r", "3", "-l", "2000", "-t", "ann@x.example"]
        assert await run(source, *options, where) == (0, "")
    assert len(users) == 600
    copies = [path.read_text() for path in dumps.iterdir()]
    assert len(copies) == 600
    recipients = [
        re.findall(r"^X-Rcpt-Args: <(\S+@x.example)>", copy, re.MULTILINE) for copy in copies
    ]
    # ann, 2ann and 3ann in each; since Postfix 3.11 ann0 to ann599.
    assert sorted(recipients) == sorted([user] for user in users)
    assert len(set(users)) >= 3
    junk = 0
    for copy, (user,) in zip(copies, recipients, strict=True):
        junk += for_junk(user)
        assert copy.count("\nX-Spam-Flag: YES\n") == for_junk(user)
        assert (
            len(re.findall("^X-Spam-Status: (?:Yes|No), score=[17].00$", copy, re.MULTILINE)) == 1
        )
    assert 0 < junk < 600


async def test_swaks(place: Place) -> None:
    """Two recipients, one of them unknown, and a message that is too large, as swaks has it."""
    swaks: list[str | Path] = [
        program("swaks", "swaks"),
        "--protocol",
        "LMTP",
        "--socket",
        place.root / "lmtp",
    ]
    swaks += [
        "--helo",
        "client.example",
        "--from",
        "s@example.org",
        "--pipeline",
        "--show-raw-text",
    ]
    store = Store(place.root / "store", answers={"RCPT TO:<nobody@x>": "550 5.1.1 unknown"})
    async with (
        daemon(place),
        store,
        running(place.root / "lmtp", *place.command, "lmtp") as filter_,
    ):
        body = "..\\n.\\nX-Spam-Flag: NO\\n"
        status, output = await run(*swaks, "--to", "nobody@x,2ben@x", "--data", f"A: b\\n\\n{body}")
        assert status == 0, output
        assert "<** 550 5.1.1 refused by the server that stores mail" in output
        assert "<-  250 2.0.0 <2ben@x> Saved" in output
        (stored,) = store.stored
        assert stored.content.startswith(b"X-Spam-Flag: YES\r\nX-Spam-Status: Yes, score=7.00\r\n")
        assert b"\r\nA: b\r\n\r\n...\r\n..\r\nX-Spam-Flag: NO\r\n" in stored.content
        status, output = await run(*swaks, "--to", "ann@x", "--body", "x " * 60_000)
        assert status != 0
        assert "<** 552 5.3.4 larger than this host takes" in output
        filter_.send_signal(signal.SIGTERM)
        async with asyncio.timeout(BUSY_S):
            assert await filter_.wait() == 0
        assert not (place.root / "lmtp").exists()


async def test_miltertest(place: Place) -> None:
    """On the milter's real socket a report becomes a score that verifies, a stolen one does not."""
    miltertest = program("miltertest", "miltertest")
    keys = KeyRing((new_key(),))
    (place.root / "keys").write_text(format_keys(keys), encoding="utf-8")
    (place.root / "keys").chmod(0o600)
    text = f"v=1; t={int(time.time())}; q=4Q; s=4.100; r=15.000; a=no action; p=0; y=A:4.10"
    secret = keys.signing.report_secret().encode()
    report = f"{text}; b={hmac.digest(secret, text.encode(), 'sha256').hex()}"
    milter = f"unix:{place.root}/milter"
    script = __file__.replace("test_foreign_clients.py", "milter.lua")
    async with running(place.root / "milter", *place.command, "milter"):
        status, output = await run(
            miltertest, "-s", script, "-D", f"socket={milter}", "-D", f"report={report}"
        )
    assert status == 0, output
    value = re.sub(r"\s+", " ", output.partition("score=")[2]).strip()
    header = read_header(
        b"Received: by x id 4Q\r\nFrom: News <news@example.org>\r\nMessage-ID: <1@example.org>\r\n"
        b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nX-Mailhooks-Score: %s\r\n\r\n" % value.encode()
    )
    score = verify(
        header, b"news@example.org", keys, now=time.time(), max_age_s=600, received_depth=1
    )
    assert isinstance(score, MilterScore), score
    assert score.score == 4.1
