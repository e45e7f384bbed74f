"""What a user does in a mail client, over real IMAP."""

from __future__ import annotations

import imaplib
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mailhooks.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator

POLL_S = 0.02
_UID = re.compile(rb"UID (\d+)")


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as IMAP hands it out."""

    folder: str
    uid: int
    raw: bytes


class Mailbox:
    """One user's account.

    Args:
        address: IMAP host and port.
        user: login name.
        password: its password.
    """

    def __init__(self, address: tuple[str, int], user: str, password: str) -> None:
        self.user = user
        self._address = address
        self._password = password

    @contextmanager
    def session(self) -> Iterator[imaplib.IMAP4]:
        """A logged-in IMAP connection.

        Raises:
            LabError: no connection, or the server says no.
        """
        try:
            connection = imaplib.IMAP4(*self._address, timeout=60)
            try:
                connection.login(self.user, self._password)
                yield connection
            finally:
                connection.logout()
        except (OSError, imaplib.IMAP4.error) as error:
            raise LabError(f"IMAP of {self.user}: {error}") from error

    def messages(self, folder: str = "INBOX") -> list[StoredMessage]:
        """All messages of a mailbox, oldest first; fetching leaves them unread."""
        with self.session() as imap:
            _select(imap, folder, readonly=True)
            if not _data(imap.uid("SEARCH", "ALL"))[0]:
                return []
            _, parts = imap.uid("FETCH", "1:*", "(UID BODY.PEEK[])")
        return [
            StoredMessage(folder, int(match[1]), part[1])
            for part in parts
            if isinstance(part, tuple) and (match := _UID.search(part[0]))
        ]

    def count(self, folder: str = "INBOX") -> int:
        """How many messages a mailbox holds."""
        with self.session() as imap:
            return _select(imap, folder, readonly=True)

    def find(self, message_id: str) -> list[StoredMessage]:
        """Every copy of a message, in whatever mailbox."""
        found = []
        for folder in ("INBOX", "Junk", "Trash", "Archive", "Sent", "Drafts"):
            found += [
                message
                for message in self.messages(folder)
                if message_id.encode("ascii") in message.raw
            ]
        return found

    def wait_for(self, message_id: str, timeout_s: float = 30.0) -> StoredMessage:
        """The first copy of a message, once it has been delivered.

        Raises:
            LabError: it was not delivered in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.find(message_id)
            if found:
                return found[0]
            if time.monotonic() > deadline:
                raise LabError(f"{self.user}: {message_id} was not delivered in {timeout_s:.0f} s")
            time.sleep(POLL_S)

    def move(self, uids: list[int], source: str, destination: str) -> None:
        """IMAP MOVE (RFC 6851) of some messages."""
        self._transfer("MOVE", uids, source, destination)

    def copy(self, uids: list[int], source: str, destination: str) -> None:
        """IMAP COPY of some messages."""
        self._transfer("COPY", uids, source, destination)

    def append(self, folder: str, raw: bytes) -> None:
        """IMAP APPEND of a message."""
        with self.session() as imap:
            _data(imap.append(folder, "", "", raw))

    def _transfer(self, command: str, uids: list[int], source: str, destination: str) -> None:
        if not uids:
            return
        with self.session() as imap:
            _select(imap, source)
            _data(imap.uid(command, ",".join(map(str, uids)), destination))


def _select(imap: imaplib.IMAP4, folder: str, *, readonly: bool = False) -> int:
    return int(_data(imap.select(folder, readonly=readonly))[0])


def _data(answer: tuple[str, list[Any]]) -> list[Any]:
    status, data = answer
    if status != "OK":
        raise LabError(f"IMAP answered {status} {data[0]!r}")
    return data
