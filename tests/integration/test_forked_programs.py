"""The installed programs, run as Dovecot runs them, against a real script socket."""

from __future__ import annotations

import ast
import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

import mailhooks
from mailhooks.config import DaemonSettings
from mailhooks.dovecot import ScriptCall, ScriptParser, ScriptServer, encode_request
from mailhooks.errors import ConfigError, MailhooksError
from mailhooks.setup import install_hooks

ARGS = ["cause=COPY", "from=Ordner\tÄ", "to=Junk\x01\xff".replace("\xff", "\udcff")]
ENV = {"USER": "ann@example.org", "HOME": "/home/ann", "HOST": "mx", "SENDER": "\udce4@x"}
MESSAGE = b"Subject: x\r\n\r\n\x00\xff\r\n" * 1000
PROGRAM = Path(mailhooks.__file__).parent / "hooks/program.py"


@dataclass(frozen=True)
class Place:
    """A daemon's folders, and the programs installed for them."""

    daemon: DaemonSettings
    bin_dir: Path

    def server(self, name: str, handler: object) -> ScriptServer:
        return ScriptServer(self.daemon.socket_dir / name, handler)  # type: ignore[arg-type]

    def dropped(self) -> list[Path]:
        return sorted(self.daemon.drop_dir.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    daemon = DaemonSettings(
        socket_dir=tmp_path / "run", drop_dir=tmp_path / "drop folder's", deadline_s=0.1
    )
    daemon.socket_dir.mkdir()
    daemon.drop_dir.mkdir()
    install_hooks(tmp_path / "bin", daemon)
    return Place(daemon, tmp_path / "bin")


async def run(
    place: Place, name: str, message: bytes = MESSAGE, args: list[str] = ARGS
) -> tuple[int, bytes, str]:
    """Exit status, output and standard error; in Dovecot's environment, without PATH."""
    process = await asyncio.create_subprocess_exec(
        place.bin_dir / name,
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=ENV | {"SECRET": "stays here"},
    )
    output, errors = await process.communicate(message)
    assert process.returncode is not None
    return process.returncode, output, errors.decode()


@pytest.mark.parametrize("name", ["mailhooks-learn", "mailhooks-classify"])
async def test_the_call_arrives_as_over_a_socket_and_the_answer_comes_back(
    place: Place, name: str
) -> None:
    """Arguments, environment and message are the same to the byte, in the name of the caller."""
    calls: list[ScriptCall] = []

    async def handler(call: ScriptCall) -> bytes:
        calls.append(call)
        return b"junk verified Yes\n-\n"

    server = place.server(name, handler)
    await server.start()
    try:
        assert await run(place, name) == (0, b"junk verified Yes\n-\n", "")
    finally:
        await server.stop()
    (call,) = calls
    assert call.args == tuple(ARGS)
    assert call.env == ENV
    assert call.message == MESSAGE
    assert call.peer.uid == os.getuid()
    assert place.dropped() == []


async def refuse(_call: ScriptCall) -> bytes:
    raise MailhooksError("no")


async def never(_call: ScriptCall) -> bytes:
    await asyncio.sleep(60)
    return b""


@pytest.mark.parametrize("handler", [None, refuse, never], ids=["absent", "refuses", "hangs"])
async def test_what_the_daemon_does_not_take_is_dropped(place: Place, handler: object) -> None:
    """The drop folder has the call as the socket would have, and the program succeeds."""
    server = place.server("mailhooks-learn", handler)
    if handler:
        await server.start()
    try:
        status, output, errors = await run(place, "mailhooks-learn")
    finally:
        await server.stop(grace_s=0)
    assert (status, output) == (0, b"")
    assert errors.startswith("mailhooks-learn: mailhooks serve: ")
    assert errors.count("\n") == 1
    (path,) = place.dropped()
    assert path.read_bytes() == encode_request(ARGS, ENV) + MESSAGE
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("handler", "why"),
    [(None, "[Errno 2] No such file"), (refuse, "refused"), (never, "timed out")],
    ids=["absent", "refuses", "hangs"],
)
async def test_without_a_verdict_there_is_no_output_and_a_failure(
    place: Place, handler: object, why: str
) -> None:
    """Sieve goes on as if unanswered, after the program's own deadline, and nothing is kept."""
    server = place.server("mailhooks-classify", handler)
    if handler:
        await server.start()
    try:
        status, output, errors = await run(place, "mailhooks-classify", args=[])
    finally:
        await server.stop(grace_s=0)
    assert (status, output) == (1, b"")
    assert errors.startswith(f"mailhooks-classify: failed: {why}")
    assert place.dropped() == []


async def test_a_large_message_goes_through_whole(place: Place) -> None:
    """Sixty megabytes arrive in the drop folder, whether or not the daemon read some of it."""
    message = os.urandom(1 << 20) * 60
    status, _, _ = await run(place, "mailhooks-learn", message)
    assert status == 0
    parser = ScriptParser()
    assert parser.feed(place.dropped()[0].read_bytes()) == message


@pytest.mark.parametrize("args", [ARGS, ["cause=COPY", "", "to=Junk"]])
async def test_what_cannot_be_kept_is_a_failure(place: Place, args: list[str]) -> None:
    """Only what is on disk is reported as done, so that Sieve can turn to its last resort."""
    place.daemon.drop_dir.rmdir()
    status, _, errors = await run(place, "mailhooks-learn", args=args)
    assert status == 1
    assert "mailhooks-learn: failed: " in errors


def test_the_program_needs_nothing_that_starts_slowly() -> None:
    """Each message starts it anew: nothing of mailhooks, nothing that is not built in or tiny."""
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported == {"_socket", "os", "select", "sys", "time"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_installing_says_what_is_wrong(tmp_path: Path) -> None:
    """A missing interpreter and a file in the way are named, and nothing is half-written."""
    with pytest.raises(ConfigError, match="no-python: no such program"):
        install_hooks(tmp_path / "bin", DaemonSettings(), tmp_path / "no-python")
    assert not (tmp_path / "bin").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"{tmp_path}/file"):
        install_hooks(tmp_path / "file/bin", DaemonSettings())


async def test_no_second_try_is_made_by_a_program(place: Place) -> None:
    """It waits for its own connection as long as it takes, so Sieve's second try asks nobody."""
    calls: list[ScriptCall] = []

    async def handler(call: ScriptCall) -> bytes:
        calls.append(call)
        return b"junk verified Yes"

    server = place.server("mailhooks-classify", handler)
    await server.start()
    try:
        assert await run(place, "mailhooks-classify", args=["again"]) == (1, b"", "")
        assert calls == []
    finally:
        await server.stop()
