from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mailhooks.daemon.dropbox import Dropbox
from mailhooks.dovecot import ScriptCall, encode_request
from mailhooks.errors import ProtocolError, SpoolError

if TYPE_CHECKING:
    from pathlib import Path

ARGS = ["cause=COPY", "from=INBOX", "to=Junk"]


class Handler:
    """Notes the calls it gets; fails as told."""

    def __init__(self) -> None:
        self.calls: list[tuple[ScriptCall, float]] = []
        self.failure: Exception | None = None

    async def __call__(self, call: ScriptCall, made: float) -> bytes:
        if self.failure:
            raise self.failure
        self.calls.append((call, made))
        return b""


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def dropbox(tmp_path: Path, handler: Handler) -> Dropbox:
    return Dropbox(tmp_path, handler, max_message_bytes=1000, every_s=0.01)


def drop(folder: Path, name: str, message: bytes, made: float) -> Path:
    path = folder / name
    path.write_bytes(encode_request(ARGS, {"USER": "ann"}) + message)
    os.utime(path, (made, made))
    return path


async def test_calls_are_taken_in_the_order_they_were_made(
    tmp_path: Path, dropbox: Dropbox, handler: Handler
) -> None:
    """The last move is the last to be heard, whatever the files are called."""
    drop(tmp_path, "a", b"second\r\n", 2000.0)
    drop(tmp_path, "b", b"first\r\n", 1000.0)
    assert await dropbox.empty() == 2
    assert [(call.message, made) for call, made in handler.calls] == [
        (b"first\r\n", 1000.0),
        (b"second\r\n", 2000.0),
    ]
    call = handler.calls[0][0]
    assert call.args == tuple(ARGS)
    assert call.env["USER"] == "ann"
    assert call.peer.uid == os.getuid()
    assert list(tmp_path.iterdir()) == []


async def test_a_file_being_written_is_left_alone(
    tmp_path: Path, dropbox: Dropbox, handler: Handler
) -> None:
    """Only a rename makes a call complete."""
    drop(tmp_path, ".123", b"half", 1.0)
    assert await dropbox.empty() == 0
    assert handler.calls == []
    assert (tmp_path / ".123").exists()


async def test_a_call_that_cannot_be_kept_now_stays(
    tmp_path: Path, dropbox: Dropbox, handler: Handler
) -> None:
    """A full disk costs time and no sample."""
    drop(tmp_path, "a", b"x", 1.0)
    handler.failure = SpoolError("disk full")
    with pytest.raises(SpoolError):
        await dropbox.empty()
    handler.failure = None
    assert await dropbox.empty() == 1


@pytest.mark.parametrize(
    "content", [b"nonsense", b"", b"VERSION\tscript\t9\t0\n-\n\n", b"x" * 2000]
)
async def test_what_is_no_call_is_set_aside_and_blocks_nobody(
    tmp_path: Path, dropbox: Dropbox, handler: Handler, content: bytes
) -> None:
    """Garbage is kept for people to look at, and the next call is taken."""
    (tmp_path / "a").write_bytes(content)
    os.utime(tmp_path / "a", (1.0, 1.0))
    drop(tmp_path, "b", b"good", 2.0)
    assert await dropbox.empty() == 1
    assert [call.message for call, _ in handler.calls] == [b"good"]
    assert [path.name for path in tmp_path.iterdir()] == [".bad-a"]


async def test_a_link_is_not_followed(tmp_path: Path, dropbox: Dropbox, handler: Handler) -> None:
    """Nobody lends their name to a file of somebody else's."""
    (tmp_path / "a").symlink_to("/etc/passwd")
    assert await dropbox.empty() == 0
    assert handler.calls == []


async def test_a_caller_who_is_refused_is_set_aside(
    tmp_path: Path, dropbox: Dropbox, handler: Handler
) -> None:
    """The file's owner counts as the caller, and may be the wrong one."""
    drop(tmp_path, "a", b"x", 1.0)
    handler.failure = ProtocolError("uid 1 may not speak for user 'ann'")
    assert await dropbox.empty() == 0
    assert (tmp_path / ".bad-a").exists()
