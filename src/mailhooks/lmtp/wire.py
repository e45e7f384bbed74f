"""A message as it travels between DATA and the lone dot (RFC 5321, 4.5.2), and as it is. Pure.

Lines end in CRLF on the wire. A bare LF ends a line too, as Postfix and Dovecot
have it: it goes on as CRLF, since a next hop that took ``LF . CRLF`` for the end
of a message could be made to read a second one out of the first. Everything else
stays as it is: bare CR, NUL, 8-bit bytes, lines of any length.
"""

from __future__ import annotations

import re
from typing import Final

END: Final = b".\r\n"
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")


def decode(wire: bytes) -> bytes:
    """The message; ``wire`` is all before the final dot."""
    message = wire.replace(b"\r\n.", b"\r\n")
    if message.startswith(b"."):
        message = message[1:]
    if message.count(b"\n") != message.count(b"\r\n"):
        message = _BARE_LF.sub(b"\r\n", message)
    return message


def encode(message: bytes) -> bytes:
    """What to send after DATA, the final dot included.

    The wire cannot tell a message whose last line has no end: it gets one.
    """
    wire = message.replace(b"\r\n.", b"\r\n..")
    if wire.startswith(b"."):
        wire = b"." + wire
    if wire and not wire.endswith(b"\r\n"):
        wire += b"\r\n"
    return wire + END


def is_end(before: bytes | bytearray) -> bool:
    """Whether the ``.CRLF`` that follows these bytes of a message is its end."""
    return not before or before.endswith(b"\r\n")
