"""Asks a milter what Postfix asks first: whether it speaks the milter protocol.

Needs neither pymilter nor a library: a packet is a length, a letter and data
(libmilter's mfdef.h).
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Final

_HEAD_BYTES: Final = 5
# SMFIC_OPTNEG, version 6, with all actions and steps that Postfix offers; SMFIC_QUIT.
_NEGOTIATE: Final = struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF)
_QUIT: Final = struct.pack("!Ic", 1, b"Q")


def negotiates(address: str, timeout_s: float) -> bool:
    """Whether who listens at an address answers like a milter.

    Args:
        address: in libmilter's notation.
        timeout_s: seconds for the connection, and again for the answer.

    Raises:
        OSError: nobody listens there, or the connection broke; TimeoutError: no answer.
    """
    with connected(address, timeout_s) as connection:
        connection.sendall(_NEGOTIATE)
        head = connection.recv(_HEAD_BYTES, socket.MSG_WAITALL)
        with suppress(OSError):
            connection.sendall(_QUIT)
    return head[_HEAD_BYTES - 1 :] == b"O"


def connected(address: str, timeout_s: float) -> socket.socket:
    """A connection to ``unix:/path`` or ``inet:port@host``.

    Raises:
        OSError: there is none.
    """
    kind, _, rest = address.partition(":")
    if kind != "unix":
        port, _, host = rest.partition("@")
        return socket.create_connection((host, int(port)), timeout=timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(rest)
    except BaseException:
        connection.close()
        raise
    return connection
