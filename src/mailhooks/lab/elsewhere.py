"""The rest of the world: a foreign mail server that takes whatever leaves the lab, and keeps it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailhooks.lab.process import Server, tcp_answers

if TYPE_CHECKING:
    from pathlib import Path

NAME = "elsewhere"
# smtp-sink(1) writes the envelope above the message, one line a command.
_ENVELOPE = re.compile(rb"X-(Client-Addr|Client-Proto|Helo-Args|Mail-Args|Rcpt-Args): (.*)\n")
_ADDRESS = re.compile(rb"<([^>]*)>")


@dataclass(frozen=True, slots=True)
class DepartedMessage:
    """A message as a foreign server got it.

    Attributes:
        sender: the envelope's.
        recipients: the envelope's.
        raw: the message, with CRLF; the first line is the foreign server's own Received.
    """

    sender: str
    recipients: tuple[str, ...]
    raw: bytes


def foreign_server(address: str, port: int, folder: Path, log: Path) -> Server:
    """The server; what it takes goes to files in a folder that is its own."""
    return Server(
        NAME,
        # smtp-sink creates its files where it stands, as the user it is given.
        ["/usr/sbin/smtp-sink", "-u", "postfix", "-R", str(folder), "-d", "%s.",
         f"inet:{address}:{port}", "100"],
        lambda: tcp_answers(address, port, b"220 "),
        log,
    )  # fmt: skip


def departed(folder: Path) -> list[DepartedMessage]:
    """All messages that foreign server has taken, the oldest first."""
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return [message for path in files if (message := parse_dump(path.read_bytes()))]


def parse_dump(dump: bytes) -> DepartedMessage | None:
    """A file of smtp-sink's; None if it never got a message."""
    envelope: list[tuple[bytes, bytes]] = []
    at = 0
    while found := _ENVELOPE.match(dump, at):
        envelope.append((found[1], found[2]))
        at = found.end()
    if at == len(dump):
        return None

    def addresses(command: bytes) -> tuple[str, ...]:
        return tuple(
            match[1].decode("utf-8", "replace")
            for name, value in envelope
            if name == command and (match := _ADDRESS.match(value))
        )

    # It also writes an empty line at the end.
    raw = re.sub(rb"\r?\n", b"\r\n", dump[at:].removesuffix(b"\n"))
    return DepartedMessage("".join(addresses(b"Mail-Args")), addresses(b"Rcpt-Args"), raw)
