"""What users said of lists and senders before, read from the ledger while Rspamd works."""

from __future__ import annotations

import contextlib
import logging
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from mailhooks.acquaintance import (
    Acquaintance,
    NoAcquaintance,
    NoAcquaintanceWhy,
    acquaintance,
)
from mailhooks.errors import LedgerError
from mailhooks.strand import result

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.acquaintance import Past, Trait
    from mailhooks.ledger import Ledger

    Asked = Future[dict[Trait, Past]] | dict[Trait, Past]

log = logging.getLogger("mailhooks.acquaintances")

QUICK_S = 0.005
"""As long as answers come sooner, nobody is kept waiting by an answer that is waited for."""


class Acquaintances:
    """Asks the ledger: at once, or in a thread of its own while the disk is slow or the file shut.

    A busy disk holds no verdict up, and the way to a thread and back takes ten times as long as the
    answer.

    Args:
        open_ledger: opens the ledger; called again while it fails.
    """

    def __init__(self, open_ledger: Callable[[], Ledger]) -> None:
        self._open_ledger = open_ledger
        self._ledger: Ledger | None = None
        self._thread = ThreadPoolExecutor(1, "acquaintances")
        self._complaint = ""
        self._is_quick = False  # to open it may take long

    def open(self) -> None:
        """Open the ledger soon, so that the first delivery finds it open; never fails."""
        self._thread.submit(self._past, "", (), None)

    def ask(self, user: str, traits: tuple[Trait, ...], judged: str | None = None) -> Asked | None:
        """Begin to look up what a user said of list and sender; hardly waits, never fails.

        Args:
            user: the Dovecot user, in lower case.
            traits: of the message; None comes back if it has none.
            judged: the digest of a message that was delivered before, whose own delivery says
                nothing of it.
        """
        if not traits:
            return None
        try:
            if self._is_quick:
                return self._past(user, traits, judged)
            return self._thread.submit(self._past, user, traits, judged)
        except (LedgerError, RuntimeError) as error:  # RuntimeError: closed
            failed: Future[dict[Trait, Past]] = Future()
            failed.set_exception(error)
            return failed

    async def told(
        self, asked: Asked | None, *, most: float, deadline_s: float
    ) -> Acquaintance | NoAcquaintance | None:
        """What came of it; None if nothing was asked. Never fails; a strand.

        Args:
            asked: the question.
            most: the most points an acquaintance may have against a message.
            deadline_s: how long to wait for the ledger, by ``time.monotonic``.
        """
        if asked is None:
            return None
        try:
            past = await result(asked, deadline_s) if isinstance(asked, Future) else asked
        except TimeoutError:
            self._complain("the ledger did not answer in time")
            return NoAcquaintance(NoAcquaintanceWhy.DEADLINE)
        except (LedgerError, RuntimeError, CancelledError) as error:
            self._complain(str(error) or "the ledger is closed")
            return NoAcquaintance(NoAcquaintanceWhy.UNAVAILABLE)
        self._complaint = ""
        return acquaintance(past, most)

    def _past(self, user: str, traits: tuple[Trait, ...], judged: str | None) -> dict[Trait, Past]:
        began_s, self._is_quick = time.monotonic(), False
        if self._ledger is None:
            self._ledger = self._open_ledger()
        past = self._ledger.past(user, traits, digest=judged)
        self._is_quick = time.monotonic() - began_s < QUICK_S
        return past

    def _complain(self, text: str) -> None:
        """Say it once for each trouble."""
        if text != self._complaint:
            log.warning("no acquaintance with list or sender: %s", text)
        self._complaint = text

    def close(self) -> None:
        """Let go of the ledger; afterwards nobody is known."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._ledger is not None:
            with contextlib.suppress(LedgerError):
                self._ledger.close()
