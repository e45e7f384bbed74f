"""Waiting for a socket, with fewer steps of the event loop than ``loop.sock_recv`` takes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket


async def readable(sock: socket.socket) -> None:
    """Return when a read would not block: there is input, its end or an error.

    Args:
        sock: a connected, non-blocking socket that nobody else waits for.
    """
    loop = asyncio.get_running_loop()
    number = sock.fileno()
    ready = loop.create_future()
    loop.add_reader(number, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(number)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
