"""The mailhooks milter: Rspamd's report in, one signed score header out.

It stands behind Rspamd's milter in Postfix's chain, sees the headers that
milter added, and rejects nothing: whatever goes wrong, the message passes,
at worst without a score.
"""

from __future__ import annotations

import functools
import logging
import os
import textwrap
import time
from typing import TYPE_CHECKING, Any

import Milter
import milter

from mailhooks.errors import MailhooksError
from mailhooks.message import Header, identity, normal_address
from mailhooks.milter.guard import Guard
from mailhooks.score import (
    MAX_FIELD_BYTES,
    REPORT_HEADER,
    SCORE_HEADER,
    MilterScore,
    read_report,
    sign,
)
from mailhooks.systemd import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.keys import KeyRing

log = logging.getLogger("mailhooks.milter")

STRIPPED = (b"x-mailhooks-", b"x-spam-")
"""Header names that only mailhooks writes; Rspamd has seen a stranger's by now."""

FOLD_AT = 76


class ScoreMilter(Milter.Base):  # type: ignore[misc] # pymilter is untyped
    """One SMTP connection, any number of messages; runs on a libmilter thread.

    Args:
        keys: the first signs.
        clock: seconds since the epoch.
    """

    def __init__(self, keys: KeyRing, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock
        self._sender = ""
        self._fields: list[tuple[bytes, bytes]] = []

    # pymilter asks Postfix not to send what is not overridden, and not to
    # wait for an answer where none is needed.
    @Milter.noreply  # type: ignore[untyped-decorator, unused-ignore]
    def envfrom(self, address: str, *_parameters: str) -> int:
        """MAIL FROM: a message begins."""
        self._sender = address
        self._fields = []
        return int(Milter.CONTINUE)

    @Milter.noreply  # type: ignore[untyped-decorator, unused-ignore]
    @Milter.decode("bytes")  # type: ignore[untyped-decorator, unused-ignore]
    def header(self, name: str | bytes, value: bytes) -> int:
        """One header field, folds included, those that Rspamd added among them."""
        raw = name.encode("ascii", "replace") if isinstance(name, str) else name
        self._fields.append((raw.rstrip(b" \t").lower(), value))
        return int(Milter.CONTINUE)

    def eom(self) -> int:
        """End of message: strip what strangers sent, add what Rspamd said."""
        queue_id = self.getsymval("i") or "?"
        try:
            self._carry(queue_id)
        except Exception:
            log.exception("%s: no score is carried", queue_id)
        return int(Milter.CONTINUE)

    def _carry(self, queue_id: str) -> None:
        header = Header(tuple(self._fields), 0)
        self._strip()
        result = read_report(header.values(REPORT_HEADER), queue_id, self._keys, self._clock())
        if not isinstance(result, MilterScore):
            log.warning("%s: no score from Rspamd: %s", queue_id, result.why.value)
            return
        # The macro has quoting and source route resolved, as the delivery will see it.
        sender = normal_address(self.getsymval("{mail_addr}") or self._sender)
        value = sign(result, identity(header), sender, self._keys)
        if len(value) > MAX_FIELD_BYTES:
            log.warning("%s: score header of %d bytes left out", queue_id, len(value))
            return
        # On top, so that no mass of headers a stranger wrote can hide it.
        self.addheader(SCORE_HEADER, fold(value), 0)
        log.info("%s: score=%.2f action=%s", queue_id, result.score, result.action)

    def _strip(self) -> None:
        """Remove a stranger's X-Mailhooks-* and X-Spam-* fields, and Rspamd's report."""
        counts: dict[bytes, int] = {}
        for name, _ in self._fields:
            if name.startswith(STRIPPED):
                counts[name] = counts.get(name, 0) + 1
        for name, count in counts.items():
            # From the last to the first, since a removal may renumber what follows.
            for index in range(count, 0, -1):
                self.chgheader(name.decode("ascii", "replace"), index, "")


def fold(value: str) -> str:
    """A header value folded at white space (RFC 5322, 2.2.3), line ends as libmilter wants them."""
    return "\n\t".join(
        textwrap.wrap(value, FOLD_AT, break_long_words=False, break_on_hyphens=False)
    )


def run(socket: str, keys: KeyRing, timeout_s: int, supervisor: Supervisor | None = None) -> None:
    """Serve until SIGTERM or SIGINT; libmilter handles both.

    Args:
        socket: ``unix:/path`` or ``inet:port@host``.
        keys: the first signs.
        timeout_s: seconds an idle connection from Postfix is kept.
        supervisor: hears of readiness and progress.

    Raises:
        MailhooksError: the socket cannot be opened.
    """
    Milter.factory = functools.partial(ScoreMilter, keys)
    Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS)
    log.info("listening on %s, signing with key %s", socket, keys.signing.key_id)
    # Postfix connects as another user. Whoever else does gets nothing signed
    # that Rspamd has not signed before.
    os.umask(0o111)
    runmilter: Callable[..., Any] = Milter.runmilter
    guard = Guard(socket, supervisor or Supervisor())
    guard.start()
    try:
        runmilter("mailhooks", socket, timeout_s)
    except milter.error as error:
        raise MailhooksError(f"milter socket {socket}: {error}") from error
    finally:
        guard.stop()
