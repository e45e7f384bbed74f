"""Dovecot's script sockets: what Sieve's pipe, filter and execute talk to.

Three parts that know little of one another:

* ``script_protocol``: bytes to values and back, no I/O;
* ``script_server``: sockets, deadlines and limits around one handler, with
  ``script_call`` (reading one call), ``listener`` (the socket file) and
  ``memory`` (bytes held) below it;
* ``script_client``: one call, the way Dovecot makes it.

A program is a handler::

    async def greet(call: ScriptCall) -> bytes:
        return f"hello {call.env['USER']}".encode()

    server = ScriptServer("/run/mailhooks/greet", greet)
    await server.start()
"""

from __future__ import annotations

from mailhooks.dovecot.script_call import Peer, ScriptCall, ServerLimits
from mailhooks.dovecot.script_client import call_script
from mailhooks.dovecot.script_protocol import (
    HeaderLimits,
    ScriptParser,
    ScriptRequest,
    decode_reply,
    encode_reply,
    encode_request,
)
from mailhooks.dovecot.script_server import ScriptServer

__all__ = [
    "HeaderLimits",
    "Peer",
    "ScriptCall",
    "ScriptParser",
    "ScriptRequest",
    "ScriptServer",
    "ServerLimits",
    "call_script",
    "decode_reply",
    "encode_reply",
    "encode_request",
]
