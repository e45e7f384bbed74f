"""Calls a script socket the way Dovecot does: for the doctor, tests and benchmarks."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mailhooks.dovecot.script_protocol import decode_reply, encode_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PIECE_BYTES: Final = 64 * 1024


async def call_script(
    path: str | os.PathLike[str],
    args: Sequence[str],
    env: Mapping[str, str],
    message: bytes,
    *,
    timeout_s: float = 10.0,
) -> tuple[bytes, bool]:
    """Make one call.

    Args:
        path: the socket.
        args: the program's arguments, none empty.
        env: environment variables.
        message: the message, with CRLF line ends.
        timeout_s: for the whole call; Dovecot allows 10 s.

    Returns:
        The program's output and whether it succeeded.

    Raises:
        OSError: nobody listens, or the backlog is full (BlockingIOError), or
            there was no answer in time (TimeoutError).
        ProtocolError: the answer does not end in a verdict.
        ValueError: the protocol cannot carry an argument or a name.
    """
    loop = asyncio.get_running_loop()
    request = encode_request(args, env) + message
    reply = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        # At once or never, as UNIX sockets do; the event loop's own connect
        # would take a full backlog for a connection under way.
        sock.connect(os.fspath(path))
        async with asyncio.timeout(timeout_s):
            with suppress(BrokenPipeError, ConnectionResetError):
                # A server may have answered and gone; what it said counts.
                await loop.sock_sendall(sock, request)
                sock.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while piece := await loop.sock_recv(sock, _PIECE_BYTES):
                    reply += piece
    return decode_reply(bytes(reply))
