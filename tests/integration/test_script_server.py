"""The script server on real UNIX sockets, with friendly and hostile peers."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailhooks import strand
from mailhooks.dovecot import (
    HeaderLimits,
    Peer,
    ScriptCall,
    ScriptServer,
    ServerLimits,
    call_script,
    encode_request,
)
from mailhooks.errors import MailhooksError, ProtocolError, SpoolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

PATIENCE_S = 60.0  # for what must happen at all, on a machine however busy
HEADER = encode_request(["learn"], {"USER": "alice"})
MESSAGE = b"Subject: secret-subject\r\n\r\nbody\r\n"
MEBIBYTE = 1024 * 1024
PIECE = 64 * 1024
CALLS = 40


@pytest.fixture
def path() -> Iterator[Path]:
    """A path short enough for a socket, whatever pytest's own folder is called."""
    with tempfile.TemporaryDirectory(prefix="mh-script-") as folder:
        yield Path(folder) / "mailhooks-learn"


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mailhooks.dovecot")


async def echo(call: ScriptCall) -> bytes:
    return call.message


@asynccontextmanager
async def serving(server: ScriptServer) -> AsyncIterator[ScriptServer]:
    """Run a server and check that it leaves nothing behind."""
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace_s=PATIENCE_S)
    assert server.memory.held_bytes == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    """A connection whose misdeeds the test spells out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(str(path))
        yield sock


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def reply_of(sock: socket.socket) -> bytes:
    """All bytes up to end of file."""
    loop = asyncio.get_running_loop()
    reply = b""
    async with asyncio.timeout(PATIENCE_S):
        while piece := await loop.sock_recv(sock, PIECE):
            reply += piece
    return reply


async def call(path: Path, message: bytes = MESSAGE) -> tuple[bytes, bool]:
    return await call_script(path, ["learn"], {"USER": "alice"}, message, timeout_s=PATIENCE_S)


def kind(path: Path) -> str:
    """Say what is at a path without following links."""
    try:
        return stat.filemode(path.lstat().st_mode)
    except FileNotFoundError:
        return "nothing"


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> str:
    """Wait for a log line and return it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for line in caplog.messages:
                if text in line:
                    return line
            await asyncio.sleep(0.01)


async def test_call_reaches_the_handler(path: Path) -> None:
    """A handler gets everything Dovecot sent and the peer's identity from the kernel."""
    calls = []

    async def handler(call: ScriptCall) -> bytes:
        calls.append(call)
        return b"verdict=spam"

    async with serving(ScriptServer(path, handler)):
        answer = await call_script(path, ["a\tb", "c"], {"USER": "älice"}, MESSAGE)
    assert answer == (b"verdict=spam", True)
    (seen,) = calls
    assert (seen.args, seen.env, seen.message) == (("a\tb", "c"), {"USER": "älice"}, MESSAGE)
    assert seen.peer == Peer(os.getpid(), os.getuid(), os.getgid())
    assert seen.accepted_at_s <= asyncio.get_running_loop().time()
    assert "secret-subject" not in repr(seen)


async def test_large_messages_arrive_whole(path: Path) -> None:
    """Messages of many pieces go through in both directions, many at a time."""
    message = b"".join(b"%07d\r\n" % number for number in range(300_000))
    limits = ServerLimits(read_timeout_s=PATIENCE_S, reply_timeout_s=PATIENCE_S)
    async with serving(ScriptServer(path, echo, limits=limits)):
        answers = await asyncio.gather(*(call(path, message) for _ in range(5)))
    assert answers == [(message, True)] * 5


async def test_empty_message(path: Path) -> None:
    """A call without a message is a call."""
    async with serving(ScriptServer(path, echo)):
        assert await call(path, b"") == (b"", True)


async def test_nobody_reads_the_answer(path: Path) -> None:
    """After noreply the handler runs although the peer has gone, and nothing is sent."""
    done = asyncio.Event()

    async def handler(call: ScriptCall) -> bytes:
        assert not call.wants_reply
        done.set()
        return b"output"

    async with serving(ScriptServer(path, handler)):
        with connected(path) as sock:
            await send(sock, encode_request(wants_reply=False) + MESSAGE)
        async with asyncio.timeout(PATIENCE_S):
            await done.wait()
        with connected(path) as sock:
            await send(sock, encode_request(wants_reply=False) + MESSAGE)
            sock.shutdown(socket.SHUT_WR)
            assert await reply_of(sock) == b""


@pytest.mark.parametrize(
    ("failure", "level", "text"),
    [
        (SpoolError("disk full"), "WARNING", "disk full"),
        (ValueError("oops"), "ERROR", "a bug"),
        (SystemExit(3), "ERROR", "a bug"),
        (asyncio.CancelledError(), "ERROR", "no answer"),
        (TimeoutError("elsewhere"), "ERROR", "a bug"),
    ],
)
async def test_handler_fails(
    path: Path,
    caplog: pytest.LogCaptureFixture,
    failure: BaseException,
    level: str,
    text: str,
) -> None:
    """Whatever a handler raises becomes a failure and a log line; the next call is served."""
    failures = [failure]

    async def handler(call: ScriptCall) -> bytes:
        if failures:
            raise failures.pop()
        return call.message

    async with serving(ScriptServer(path, handler)):
        assert await call(path) == (b"", False)
        assert await call(path) == (MESSAGE, True)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelname == level
    line = record.getMessage()
    assert line.startswith(f"mailhooks-learn: uid {os.getuid()} pid {os.getpid()}: failed: ")
    assert text in line
    assert "secret-subject" not in caplog.text


async def test_handler_returns_nonsense(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that is not bytes is a failure like any other bug."""

    async def handler(_: ScriptCall) -> bytes:
        return "text"  # type: ignore[return-value]

    async with serving(ScriptServer(path, handler)):
        assert await call(path) == (b"", False)
    assert "a bug" in caplog.text


CROWD = """
import resource, selectors, socket, sys
path, count, request = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
crowd = []
for _ in range(count):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(0.005)  # Dovecot's own
    sock.connect(path)      # raises if the backlog is full
    crowd.append(sock)
print("connected", len(crowd), flush=True)
for sock in crowd:
    sock.settimeout(60)
    sock.sendall(request)
    sock.shutdown(socket.SHUT_WR)
replies = [sock.makefile("rb").read() for sock in crowd]
print("answered", sum(reply == b"done+\\n" for reply in replies), flush=True)
"""


def backlog_limit() -> int:
    return int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii"))


@pytest.mark.skipif(backlog_limit() < 1000, reason="net.core.somaxconn is below 1,000")
async def test_a_thousand_at_once(path: Path) -> None:
    """A thousand peers connect within 5 ms each while the loop stands still; all are answered."""
    request = (HEADER + MESSAGE * 100).hex()
    crowd: list[subprocess.Popen[bytes]] = []
    lines: list[bytes] = []

    async def handler(call: ScriptCall) -> bytes:
        if not call.args:  # the first call: the loop does nothing until all are connected
            crowd.append(
                subprocess.Popen(  # noqa: ASYNC220 - to block the loop is the point
                    [sys.executable, "-c", CROWD, str(path), "1000", request],
                    stdout=subprocess.PIPE,
                )
            )
            assert crowd[0].stdout is not None
            lines.append(crowd[0].stdout.readline())
        await asyncio.sleep(0.001)
        return b"done"

    async with serving(ScriptServer(path, handler, limits=ServerLimits(read_timeout_s=60))):
        first = await call_script(path, [], {}, b"", timeout_s=PATIENCE_S)
        assert first == (b"done", True)
        assert lines == [b"connected 1000\n"]
        rest, _ = await asyncio.to_thread(crowd[0].communicate)
        assert rest == b"answered 1000\n"
        assert crowd[0].returncode == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEADER[:20], "expected the rest of the header"),
        (b"", "expected the rest of the header"),
        (b"VERSION\tscript\t3\t0\n-\n\n" + MESSAGE, "line 1: expected VERSION"),
        (b"VERSION\tscript\t4\t0\nenv_A=\x01x\n-\n\n", "expected a tab-escaped line"),
        (b"VERSION\tscript\t4\t0\nenv_A=\x01", "expected the rest of the header"),
        (b"VERSION\tscript\t4\t0\n" + b"x" * 300_000, "a line of at most 16384 bytes"),
        (b"VERSION\tscript\t4\t0\n-\n" + b"x\n" * 300_000, "at most 64 arguments"),
        (HEADER + b"x" * (MEBIBYTE + 1), "message is larger than 1048576 bytes"),
    ],
)
async def test_bad_input(
    path: Path, caplog: pytest.LogCaptureFixture, data: bytes, reason: str
) -> None:
    """Bad input is refused at once when it ends, with one log line that says why."""
    limits = ServerLimits(message_bytes=MEBIBYTE, read_timeout_s=PATIENCE_S)
    async with serving(ScriptServer(path, echo, limits=limits)):
        with connected(path) as sock:
            await send(sock, data)
            sock.shutdown(socket.SHUT_WR)
            assert await reply_of(sock) == b"-\n"
    (line,) = caplog.messages
    assert line.startswith(f"mailhooks-learn: uid {os.getuid()} pid {os.getpid()}: refused: ")
    assert reason in line
    assert "secret-subject" not in line


async def test_input_without_end(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Peers that never end their input are refused when time is up; others are served meanwhile."""
    starts = {
        b"": "input did not end in time",
        HEADER[:20]: "input did not end in time",
        HEADER + MESSAGE: "input did not end in time",
        b"VERSION\tscript\t3\t0\n-\n\n" + MESSAGE: "line 1: expected VERSION",
        b"VERSION\tscript\t4\t0\n-\n" + b"x\n" * 300_000: "at most 64 arguments",
        HEADER + b"x" * (MEBIBYTE + 1): "message is larger than 1048576 bytes",
    }
    limits = ServerLimits(message_bytes=MEBIBYTE, read_timeout_s=2)
    async with serving(ScriptServer(path, echo, limits=limits)):
        with ExitStack() as stack:
            hung = [stack.enter_context(connected(path)) for _ in starts]
            for sock, start in zip(hung, starts, strict=True):
                await send(sock, start)
            assert await call(path) == (MESSAGE, True)
            assert [await reply_of(sock) for sock in hung] == [b"-\n"] * len(hung)
    refused = [line.partition(": refused: ")[2] for line in caplog.messages if "refused" in line]
    assert len(refused) == len(starts)
    assert all(any(reason in line for line in refused) for reason in starts.values())
    assert "secret-subject" not in caplog.text


async def test_refused_call_is_read_to_the_end(path: Path) -> None:
    """A refused peer can send all it has, as Dovecot does, before it reads the failure."""
    body = b"x" * (20 * MEBIBYTE)
    async with serving(ScriptServer(path, echo)):
        with connected(path) as sock:
            await send(sock, b"VERSION\tscript\t5\t0\n" + body)  # a broken pipe would raise
            sock.shutdown(socket.SHUT_WR)
            assert await reply_of(sock) == b"-\n"


async def test_huge_message_takes_no_memory(path: Path) -> None:
    """A body of 100 MB with a limit of 1 MiB is thrown away while it is read."""
    limits = ServerLimits(message_bytes=MEBIBYTE, read_timeout_s=PATIENCE_S)
    async with serving(ScriptServer(path, echo, limits=limits)) as server:
        with connected(path) as sock:
            piece = bytes(MEBIBYTE)
            await send(sock, HEADER)
            tracemalloc.start()
            try:
                for _ in range(100):
                    await send(sock, piece)
                sock.shutdown(socket.SHUT_WR)
                assert await reply_of(sock) == b"-\n"
                _, peak_bytes = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    assert peak_bytes < 4 * MEBIBYTE
    assert server.memory.peak_bytes <= MEBIBYTE + PIECE


ENDLESS = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
try:
    sock.sendall(bytes.fromhex(sys.argv[2]))
    while True:
        sock.sendall(b"x" * 65536)
except (BrokenPipeError, ConnectionResetError):
    pass
"""


@pytest.mark.parametrize(
    ("start", "limits"),
    [
        (HEADER, ServerLimits(read_timeout_s=1.5, discard_bytes=1 << 60)),
        (HEADER, ServerLimits(message_bytes=0, read_timeout_s=1.5, discard_bytes=1 << 60)),
        (HEADER, ServerLimits(message_bytes=0, read_timeout_s=PATIENCE_S)),
        (HEADER[:20], ServerLimits(read_timeout_s=PATIENCE_S)),
        (
            HEADER[:20],
            ServerLimits(
                header=HeaderLimits(line_bytes=1 << 60, header_bytes=1 << 60), read_timeout_s=1.5
            ),
        ),
    ],
)
async def test_endless_flood(
    path: Path, caplog: pytest.LogCaptureFixture, start: bytes, limits: ServerLimits
) -> None:
    """A peer that sends as fast as it can for ever is cut off and starves nobody."""
    async with serving(ScriptServer(path, echo, limits=limits)):
        flood = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ENDLESS, str(path), start.hex()
        )
        if limits.message_bytes:
            assert await call(path) == (MESSAGE, True)
        async with asyncio.timeout(PATIENCE_S):
            assert await flood.wait() == 0
    assert f"pid {flood.pid}: refused: " in caplog.text


async def test_many_large_messages_take_turns(path: Path) -> None:
    """Messages that do not fit into memory together wait for one another and all arrive."""
    limits = ServerLimits(
        memory_bytes=MEBIBYTE, message_bytes=MEBIBYTE, read_timeout_s=PATIENCE_S, handlers=2
    )
    message = b"x" * MEBIBYTE
    async with serving(ScriptServer(path, echo, limits=limits)) as server:
        answers = await asyncio.gather(*(call(path, message) for _ in range(20)))
        assert answers == [(message, True)] * 20
        assert server.memory.peak_bytes <= 2 * MEBIBYTE + 20 * PIECE


async def test_hung_peers_that_fill_the_memory(path: Path) -> None:
    """Peers that fill the memory and hang lose it when their time is over."""
    limits = ServerLimits(memory_bytes=4 * PIECE, read_timeout_s=1.5)
    async with serving(ScriptServer(path, echo, limits=limits)) as server:
        with connected(path) as first, connected(path) as second:
            await send(first, HEADER + b"x" * (3 * PIECE))
            await send(second, HEADER + b"x" * (3 * PIECE))
            for hung in (first, second):
                # Not to the end of file: unread input turns that into a reset.
                assert await asyncio.get_running_loop().sock_recv(hung, 3) == b"-\n"
            assert server.memory.peak_bytes > limits.memory_bytes
            assert await call(path) == (MESSAGE, True)


async def test_peer_dies_in_the_middle(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half a message of a peer that died never reaches the handler."""
    calls = []

    async def handler(call: ScriptCall) -> bytes:
        calls.append(call.message)
        return b""

    async with serving(ScriptServer(path, handler)):
        with connected(path) as sock:
            await send(sock, HEADER + MESSAGE[:10])
        await logged(caplog, "went away: hung up; the message may be cut short")
        assert await call(path) == (b"", True)
    assert calls == [MESSAGE]


async def test_peer_only_knocks(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A peer that connects and leaves costs one log line, although it takes no answer."""
    async with serving(ScriptServer(path, echo)):
        with connected(path):
            pass
        await logged(caplog, "got end of input")
    assert len(caplog.messages) == 1


async def test_peer_leaves_before_the_answer(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A peer that does not wait for the answer leaves a log line and a running server."""
    running, left = asyncio.Event(), asyncio.Event()

    async def handler(call: ScriptCall) -> bytes:
        running.set()
        await left.wait()
        return call.message

    async with serving(ScriptServer(path, handler)):
        with connected(path) as sock:
            await send(sock, HEADER + MESSAGE)
            sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(PATIENCE_S):
                await running.wait()
        left.set()
        await logged(caplog, "went away: ")
        assert await call(path) == (MESSAGE, True)


async def test_peer_resets(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A peer that closes in the middle of a long answer leaves a log line."""

    async def handler(_: ScriptCall) -> bytes:
        return bytes(20 * MEBIBYTE)

    async with serving(ScriptServer(path, handler)):
        with connected(path) as sock:
            await send(sock, HEADER + MESSAGE)
            sock.shutdown(socket.SHUT_WR)
            await asyncio.get_running_loop().sock_recv(sock, 1)
        await logged(caplog, "went away: ")
        assert len((await call(path))[0]) == 20 * MEBIBYTE


async def test_peer_does_not_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A peer that does not take a long answer is given up."""

    async def handler(_: ScriptCall) -> bytes:
        return bytes(20 * MEBIBYTE)

    limits = ServerLimits(reply_timeout_s=0.1)
    async with serving(ScriptServer(path, handler, limits=limits)):
        with connected(path) as sock:
            await send(sock, HEADER + MESSAGE)
            sock.shutdown(socket.SHUT_WR)
            await logged(caplog, "did not take the answer in time")


@pytest.mark.parametrize("stubborn", [False, True])
async def test_slow_handler(path: Path, caplog: pytest.LogCaptureFixture, stubborn: bool) -> None:
    """The server answers at its own deadline, also for a handler that ignores cancellation."""
    release = asyncio.Event()

    async def handler(_: ScriptCall) -> bytes:
        while True:
            try:
                await release.wait()
            except asyncio.CancelledError:
                if not stubborn:
                    raise
            else:
                return b"late"

    limits = ServerLimits(handler_timeout_s=0.1, handlers=1)
    async with serving(ScriptServer(path, handler, limits=limits)):
        # The second one spends its time waiting for its turn.
        answers = await asyncio.gather(*(call(path) for _ in range(2)))
        assert answers == [(b"", False)] * 2
        release.set()
    assert caplog.text.count("failed: no answer within 0.1 s") == 2


async def test_handlers_are_limited(path: Path) -> None:
    """No more handlers run at once than the limit; complete calls wait for their turn."""
    running = most = 0

    async def handler(_: ScriptCall) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return b""

    limits = ServerLimits(handlers=3, handler_timeout_s=PATIENCE_S)
    async with serving(ScriptServer(path, handler, limits=limits)):
        answers = await asyncio.gather(*(call(path) for _ in range(30)))
    assert answers == [(b"", True)] * 30
    assert most == 3


async def test_connections_are_limited(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Connections beyond the limit wait in the backlog and are answered later."""
    limits = ServerLimits(connections=2)
    async with serving(ScriptServer(path, echo, limits=limits)):
        answers = await asyncio.gather(*(call(path) for _ in range(20)))
    assert answers == [(MESSAGE, True)] * 20
    assert "2 connections, more wait" in caplog.text


async def test_out_of_descriptors(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process without free file descriptors serves the waiting peer once it has one."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving(ScriptServer(path, echo)):
        with connected(path) as sock:
            # The kernel hands out the lowest free number: sock has the last one allowed.
            resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, limit[1]))
            try:
                await logged(caplog, "cannot accept: ")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            await send(sock, HEADER + MESSAGE)
            sock.shutdown(socket.SHUT_WR)
            assert await reply_of(sock) == MESSAGE + b"+\n"


async def test_stale_socket_is_replaced(path: Path) -> None:
    """A socket file that nobody answers does not keep the server from starting."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert kind(path).startswith("s")
    async with serving(ScriptServer(path, echo)):
        assert await call(path) == (MESSAGE, True)
    assert kind(path) == "nothing"


async def test_second_server_is_refused(path: Path) -> None:
    """A server that is alive keeps its socket, and the newcomer says why it gives up."""
    async with serving(ScriptServer(path, echo)):
        with pytest.raises(MailhooksError, match="mailhooks-learn: already running"):
            await ScriptServer(path, echo).start()
        assert await call(path) == (MESSAGE, True)


async def test_server_with_a_full_backlog_is_alive(path: Path) -> None:
    """A server too busy to accept is not taken for a dead one, nor by the client for a slow one."""
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        with connected(path):
            with pytest.raises(MailhooksError, match="already running"):
                await ScriptServer(path, echo).start()
            with pytest.raises(BlockingIOError):
                await call(path)
    assert kind(path).startswith("s")


async def test_other_files_are_left_alone(path: Path) -> None:
    """Whatever is at the path and is no socket stays as it is."""
    with path.open("w") as file:
        file.write("precious")
        file.flush()
        with pytest.raises(MailhooksError, match="exists and is not a socket"):
            await ScriptServer(path, echo).start()
        assert os.fstat(file.fileno()).st_nlink == 1


async def test_path_that_cannot_be_bound(path: Path) -> None:
    """What the system refuses is told with the path in front."""
    long_path = path.with_name("x" * 120)
    with pytest.raises(MailhooksError, match=f"{long_path}: cannot listen: "):
        await ScriptServer(long_path, echo).start()


async def test_group_that_is_not_ours(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gets in before the group is set, and if that fails no socket file stays behind."""
    modes = []

    def refuse(*_: object) -> None:
        modes.append(kind(path))
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(MailhooksError, match="cannot listen: Operation not permitted"):
        await ScriptServer(path, echo, gid=0).start()
    assert modes == ["s---------"]
    assert kind(path) == "nothing"


@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_permissions(path: Path, umask: int) -> None:
    """Socket and new directory have the permissions asked for, whatever the umask."""
    path = path.parent / "run" / "mailhooks" / "mailhooks-learn"
    server = ScriptServer(path, echo, mode=0o620, dir_mode=0o710, gid=os.getgid())
    before = os.umask(umask)
    try:
        async with serving(server):
            assert kind(path) == "srw--w----"
            assert kind(path.parent) == "drwx--x---"
            assert path.stat().st_gid == os.getgid()
    finally:
        assert os.umask(before) == umask


async def test_default_mode_lets_every_mail_user_in(path: Path) -> None:
    """By default anybody may connect: the peer's credentials decide, not the file."""
    async with serving(ScriptServer(path, echo)):
        assert kind(path) == "srw-rw-rw-"


async def test_stop_lets_calls_finish(path: Path) -> None:
    """Stopping refuses new connections and finishes the calls that are there."""
    running, release = asyncio.Event(), asyncio.Event()

    async def handler(call: ScriptCall) -> bytes:
        running.set()
        await release.wait()
        return call.message

    async with serving(ScriptServer(path, handler)) as server:
        waiting = asyncio.create_task(call(path))
        async with asyncio.timeout(PATIENCE_S):
            await running.wait()
        with connected(path) as late:  # in the backlog when the server stops
            stopping = asyncio.create_task(server.stop(grace_s=PATIENCE_S))
            await asyncio.sleep(0)
            assert kind(path) == "nothing"
            with pytest.raises(FileNotFoundError):
                await call(path)
            release.set()
            assert await waiting == (MESSAGE, True)
            await send(late, HEADER + MESSAGE)
            late.shutdown(socket.SHUT_WR)
            assert await reply_of(late) == MESSAGE + b"+\n"
            await stopping


async def test_stop_answers_what_does_not_finish(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After the grace period running and unfinished calls are answered with a failure."""
    running = asyncio.Event()

    async def handler(_: ScriptCall) -> bytes:
        running.set()
        await asyncio.Event().wait()
        return b""

    limits = ServerLimits(read_timeout_s=PATIENCE_S, handler_timeout_s=PATIENCE_S)
    async with serving(ScriptServer(path, handler, limits=limits)) as server:
        with connected(path) as unfinished:
            await send(unfinished, HEADER)
            waiting = asyncio.create_task(call(path))
            async with asyncio.timeout(PATIENCE_S):
                await running.wait()
            await server.stop(grace_s=0.05)
            assert await waiting == (b"", False)
            assert await reply_of(unfinished) == b"-\n"
    assert caplog.text.count("failed: the server stops") == 2


async def test_stop_leaves_a_successor_alone(path: Path) -> None:
    """A socket file that is no longer ours is not removed."""
    async with serving(ScriptServer(path, echo)):
        os.unlink(path)  # noqa: PTH108 - pathlib's is refused in coroutines
        successor = ScriptServer(path, echo)
        await successor.start()
    assert await call(path) == (MESSAGE, True)
    await successor.stop()
    assert kind(path) == "nothing"


async def test_start_again(path: Path) -> None:
    """A stopped server can be started again, and stopping twice does nothing."""
    server = ScriptServer(path, echo)
    for _ in range(2):
        async with serving(server):
            assert await call(path) == (MESSAGE, True)
        await server.stop()


@pytest.mark.parametrize("listening", [False, True])
async def test_socket_from_systemd(path: Path, listening: bool) -> None:
    """A socket handed over is served, and its file is left to whoever made it."""
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind(str(path))
    if listening:
        inherited.listen()
    async with serving(ScriptServer(path, echo, sock=inherited)):
        assert await call(path) == (MESSAGE, True)
    assert kind(path).startswith("s")


async def test_socket_of_another_kind(path: Path) -> None:
    """A socket that is no UNIX stream socket is refused with a reason."""
    with socket.socket(socket.AF_INET) as wrong:
        server = ScriptServer(path, echo, sock=wrong)
        with pytest.raises(MailhooksError, match="not a UNIX stream socket"):
            await server.start()


async def test_client_without_a_server(path: Path) -> None:
    """The client says that nobody listens, or that there was no answer, or no verdict."""
    with pytest.raises(FileNotFoundError):
        await call(path)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        with pytest.raises(ConnectionRefusedError):
            await call(path)
        silent.listen()
        with pytest.raises(TimeoutError):
            await call_script(path, [], {}, b"", timeout_s=0.05)
        silent.setblocking(False)
        silent.accept()[0].close()
        pending = asyncio.create_task(call(path))
        await asyncio.sleep(0)
        silent.accept()[0].close()
        with pytest.raises(ProtocolError, match="reply of 0 bytes"):
            await pending


async def test_a_whole_call_is_answered_without_the_event_loop(path: Path) -> None:
    """A direct handler runs in a thread, and what it leaves to do is done after the answer."""
    threads, done = [], threading.Event()

    async def direct(call: ScriptCall) -> tuple[bytes, Callable[[], None]]:
        threads.append(threading.current_thread())
        assert call.peer.pid == os.getpid()
        return call.message, done.set

    async def unused(_: ScriptCall) -> bytes:
        raise AssertionError

    async with serving(ScriptServer(path, unused, direct=direct)):
        assert await asyncio.gather(*(call(path) for _ in range(20))) == [(MESSAGE, True)] * 20
        assert await asyncio.to_thread(done.wait, PATIENCE_S)
    assert threading.current_thread() not in threads
    assert len(set(threads)) == 1


@pytest.fixture
def garbage() -> Iterator[Callable[[], list[object]]]:
    """What only the garbage collector has found since the test began."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)

    def found() -> list[object]:
        gc.collect()
        return gc.garbage

    yield found
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


async def test_a_call_leaves_nothing_to_the_garbage_collector(
    path: Path, garbage: Callable[[], list[object]]
) -> None:
    """What is free at once is there for the next call; the rest would wait for thousands more."""

    def slowly(message: bytes) -> bytes:
        time.sleep(0.01)  # or nobody would have to wait for it
        return message

    with ThreadPoolExecutor(1) as threads:

        async def direct(call: ScriptCall) -> tuple[bytes, None]:
            return await strand.result(threads.submit(slowly, call.message)), None

        async with serving(ScriptServer(path, echo, direct=direct)):
            for _ in range(CALLS):
                assert await call(path) == (MESSAGE, True)
    kinds = Counter(type(each) for each in garbage())
    ours = [kind for kind in kinds if kind is Future or kind.__module__.startswith("mailhooks.")]
    # Earlier tests leave servers behind, but fewer.
    assert [kind for kind in ours if kinds[kind] >= CALLS] == []


@pytest.mark.parametrize("failure", [SpoolError("disk full"), RuntimeError("oops"), SystemExit(1)])
async def test_a_direct_handler_that_fails_is_a_failure_for_dovecot_only(
    path: Path, caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    """The answer says so at once, and the next call is served."""
    failures = [failure]

    async def direct(call: ScriptCall) -> tuple[bytes, None]:
        if failures:
            raise failures.pop()
        return call.message, None

    async with serving(ScriptServer(path, echo, direct=direct)):
        assert await call(path) == (b"", False)
        assert await call(path) == (MESSAGE, True)
    assert "failed" in caplog.text


async def test_what_is_slow_goes_to_the_event_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what has been read of it."""
    monkeypatch.setattr("mailhooks.dovecot.lane.READ_S", -1.0)

    async def direct(_: ScriptCall) -> tuple[bytes, None]:
        raise AssertionError

    async with serving(ScriptServer(path, echo, direct=direct)):
        with connected(path) as slow:
            await send(slow, HEADER[:9])
            await send(slow, HEADER[9:] + MESSAGE)
            slow.shutdown(socket.SHUT_WR)
            assert await reply_of(slow) == MESSAGE + b"+\n"


async def test_what_is_large_or_wrong_goes_to_the_event_loop(path: Path) -> None:
    """There nobody waits for it, with the same answers and refusals as ever."""

    async def direct(call: ScriptCall) -> tuple[bytes, None]:
        return b"direct " + call.message, None

    async with serving(ScriptServer(path, echo, direct=direct)):
        with connected(path) as slow, connected(path) as wrong:
            await send(slow, HEADER[:9])
            await send(wrong, b"nonsense\n")
            wrong.shutdown(socket.SHUT_WR)
            assert await reply_of(wrong) == b"-\n"
            assert await call(path, b"quick") == (b"direct quick", True)
            large = bytes(3 * MEBIBYTE)
            assert await call(path, large) == (large, True)
            await send(slow, HEADER[9:] + MESSAGE)
            slow.shutdown(socket.SHUT_WR)
            assert (await reply_of(slow)).endswith(MESSAGE + b"+\n")


async def test_a_lane_answers_others_while_a_call_waits(path: Path) -> None:
    """For a socket, for a thread, or for a while; and each call keeps its own answer."""
    ours, theirs = socket.socketpair()
    told: Future[bytes] = Future()

    async def direct(call: ScriptCall) -> tuple[bytes, None]:
        if call.message == b"socket":
            await strand.readable(ours, time.monotonic() + PATIENCE_S)
            return ours.recv(10), None
        if call.message == b"thread":
            return await strand.result(told, time.monotonic() + PATIENCE_S), None
        if call.message == b"late":
            with pytest.raises(TimeoutError):
                await strand.readable(ours, time.monotonic())
            await strand.pause(0.01)
        return call.message, None

    with ours, theirs:
        ours.setblocking(False)
        async with serving(ScriptServer(path, echo, direct=direct)):
            waiting = asyncio.create_task(call(path, b"thread"))
            assert await call(path, b"late") == (b"late", True)
            heard = asyncio.create_task(call(path, b"socket"))
            assert await asyncio.gather(*(call(path, b"%d" % each) for each in range(20))) == [
                (b"%d" % each, True) for each in range(20)
            ]
            assert not waiting.done()
            theirs.send(b"heard")
            told.set_result(b"told")
            assert (await heard, await waiting) == ((b"heard", True), (b"told", True))


async def test_stopping_answers_a_lanes_calls_that_do_not_end(path: Path) -> None:
    """With a failure, and what they hold is let go."""
    entered, ended = threading.Event(), threading.Event()

    async def direct(_: ScriptCall) -> tuple[bytes, None]:
        entered.set()
        try:
            await strand.pause(PATIENCE_S)
        finally:
            ended.set()
        return b"", None

    server = ScriptServer(path, echo, direct=direct)
    await server.start()
    pending = asyncio.create_task(call(path))
    assert await asyncio.to_thread(entered.wait, PATIENCE_S)
    await server.stop(grace_s=0.01)
    assert await pending == (b"", False)
    assert ended.is_set()


async def test_while_the_disk_does_not_answer_the_event_loop_takes_calls(path: Path) -> None:
    """One call that is stuck holds up nobody else, and stopping does not wait for ever."""
    entered, release = threading.Event(), threading.Event()

    async def direct(call: ScriptCall) -> tuple[bytes, None]:
        entered.set()
        release.wait(PATIENCE_S)
        return b"late " + call.message, None

    async with serving(ScriptServer(path, echo, direct=direct)):
        stuck = asyncio.create_task(call(path, b"stuck"))
        assert await asyncio.to_thread(entered.wait, PATIENCE_S)
        assert await call(path, b"other") == (b"other", True)
        release.set()
        assert await stuck == (b"late stuck", True)
        # Only the lane answers again, once it is free.
        while await call(path, b"again") != (b"late again", True):
            await asyncio.sleep(0.05)
