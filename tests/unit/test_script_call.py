from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from mailhooks.dovecot import Peer, ServerLimits, encode_request
from mailhooks.dovecot.memory import MessageMemory, Share
from mailhooks.dovecot.script_call import discard, read_call

if TYPE_CHECKING:
    from collections.abc import Awaitable

PIECES = 100


async def turns_of_others(reading: Awaitable[object]) -> int:
    """Await something and count how often another task could run meanwhile."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await reading
    task.cancel()
    return turns


class Fast(socket.socket):
    """Of a peer so fast that its next piece is always there already."""

    pieces: list[bytes]

    def recv(self, *_: object) -> bytes:
        return self.pieces.pop(0)


def fast() -> Fast:
    sock = Fast(socket.AF_UNIX)
    sock.pieces = [encode_request(wants_reply=False), *[b"x"] * PIECES, b""]
    return sock


async def test_fast_peer_does_not_keep_others_from_reading() -> None:
    """While a message is read that never makes us wait, others get their turn."""
    with fast() as sock:
        reading = read_call(sock, Peer(0, 0, 0), ServerLimits(), MessageMemory(1, 1), Share())
        assert await turns_of_others(reading) >= PIECES


async def test_refused_fast_peer_does_not_either() -> None:
    """While input is discarded that never makes us wait, others get their turn."""
    with fast() as sock:
        assert await turns_of_others(discard(sock, 1000)) >= PIECES
