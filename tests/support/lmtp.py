"""LMTP as Postfix speaks it, for mail that meets no milter."""

from __future__ import annotations

import smtplib
import socket


class UnixLmtp(smtplib.LMTP):
    """LMTP to a UNIX socket, as Postfix delivers."""

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__("unix")

    def _get_socket(self, *_args: object) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(self._path)
        return connection
