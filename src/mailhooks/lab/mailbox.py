"""What a user does in a mail client, over real IMAP."""

from __future__ import annotations

import base64
import imaplib
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mailhooks.errors import LabError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Sequence

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
        address: host and port of IMAPS.
        user: login name.
        password: its password.
        tls: whose certificates to trust.
    """

    def __init__(
        self, address: tuple[str, int], user: str, password: str, tls: ssl.SSLContext
    ) -> None:
        self.user = user
        self._address = address
        self._password = password
        self._tls = tls

    @contextmanager
    def session(self) -> Iterator[imaplib.IMAP4]:
        """A logged-in IMAP connection.

        Raises:
            LabError: no connection, or the server says no.
        """
        try:
            connection = imaplib.IMAP4_SSL(*self._address, ssl_context=self._tls, timeout=60)
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
            return _messages(imap, folder)

    def count(self, folder: str = "INBOX") -> int:
        """How many messages a mailbox holds."""
        with self.session() as imap:
            return _select(imap, folder, readonly=True)

    def find(self, message_id: str) -> list[StoredMessage]:
        """Every copy of a message, in whatever mailbox."""
        wanted = message_id.encode("ascii")
        with self.session() as imap:
            return [
                message
                for folder in ("INBOX", "Junk", "Trash", "Archive", "Sent", "Drafts")
                for message in _messages(imap, folder)
                if wanted in message.raw
            ]

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

    def append(self, folder: str, raw: bytes, *, flags: Sequence[str] = ()) -> None:
        """IMAP APPEND of a message."""
        with self.session() as imap:
            _data(imap.append(imap_name(folder), f"({' '.join(flags)})", "", raw))

    def create(self, *folders: str) -> None:
        """IMAP CREATE of mailboxes."""
        with self.session() as imap:
            for folder in folders:
                _data(imap.create(imap_name(folder)))

    def flag(
        self,
        uids: list[int],
        folder: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
    ) -> None:
        """IMAP STORE of flags and keywords, in one session: first those added."""
        with self.session() as imap:
            _select(imap, folder)
            for sign, flags in (("+", add), ("-", remove)):
                if flags:
                    self._store(imap, uids, f"{sign}FLAGS", flags)

    def set_flags(self, uids: list[int], folder: str, flags: Sequence[str]) -> None:
        """IMAP STORE that replaces all flags and keywords."""
        with self.session() as imap:
            _select(imap, folder)
            self._store(imap, uids, "FLAGS", flags)

    def grant(self, folder: str, user: str, rights: str) -> None:
        """IMAP SETACL (RFC 4314), where the server has it: let another user in."""
        with self.session() as imap:
            _data(imap.setacl(imap_name(folder), user, rights))

    def _store(self, imap: imaplib.IMAP4, uids: list[int], how: str, flags: Sequence[str]) -> None:
        _data(imap.uid("STORE", ",".join(map(str, uids)), how, f"({' '.join(flags)})"))

    def _transfer(self, command: str, uids: list[int], source: str, destination: str) -> None:
        if not uids:
            return
        with self.session() as imap:
            _select(imap, source)
            _data(imap.uid(command, ",".join(map(str, uids)), imap_name(destination)))


def imap_name(folder: str) -> str:
    """A mailbox's name as IMAP wants it: modified UTF-7 (RFC 3501, 5.1.3), quoted."""

    def shifted(match: re.Match[str]) -> str:
        if match[0] == "&":
            return "&-"
        coded = base64.b64encode(match[0].encode("utf-16-be"), b"+,").rstrip(b"=")
        return f"&{coded.decode('ascii')}-"

    coded = re.sub(r"&|[^ -~]+", shifted, folder)
    return '"{}"'.format(coded.replace("\\", "\\\\").replace('"', '\\"'))


def _messages(imap: imaplib.IMAP4, folder: str) -> list[StoredMessage]:
    if not _select(imap, folder, readonly=True):
        return []
    parts = _data(imap.uid("FETCH", "1:*", "(UID BODY.PEEK[])"))
    return [
        StoredMessage(folder, int(match[1]), part[1])
        for part in parts
        if isinstance(part, tuple) and (match := _UID.search(part[0]))
    ]


def _select(imap: imaplib.IMAP4, folder: str, *, readonly: bool = False) -> int:
    return int(_data(imap.select(imap_name(folder), readonly=readonly))[0])


def _data(answer: tuple[str, list[Any]]) -> list[Any]:
    status, data = answer
    if status != "OK":
        raise LabError(f"IMAP answered {status} {data[0]!r}")
    return data
