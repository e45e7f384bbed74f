"""What users said of lists and senders before, read from the ledger while Rspamd works."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from mailhooks.acquaintance import (
    Acquaintance,
    NoAcquaintance,
    NoAcquaintanceWhy,
    acquaintance,
)
from mailhooks.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.acquaintance import Past, Trait
    from mailhooks.ledger import Ledger

    Asked = Future[dict[Trait, Past]]

log = logging.getLogger("mailhooks.acquaintances")


class Acquaintances:
    """Asks the ledger, in a thread of its own: a busy disk elsewhere holds no verdict up.

    Args:
        open_ledger: opens the ledger; called again while it fails.
    """

    def __init__(self, open_ledger: Callable[[], Ledger]) -> None:
        self._open_ledger = open_ledger
        self._ledger: Ledger | None = None
        self._thread = ThreadPoolExecutor(1, "acquaintances")
        self._complaint = ""

    def ask(self, user: str, traits: tuple[Trait, ...], judged: str | None = None) -> Asked | None:
        """Begin to look up what a user said of list and sender; neither waits nor fails.

        Args:
            user: the Dovecot user, in lower case.
            traits: of the message; None comes back if it has none.
            judged: the digest of a message that was delivered before, whose own delivery says
                nothing of it.
        """
        if not traits:
            return None
        try:
            return self._thread.submit(self._past, user, traits, judged)
        except RuntimeError as error:  # closed
            failed: Asked = Future()
            failed.set_exception(error)
            return failed

    async def told(
        self, asked: Asked | None, *, most: float, timeout_s: float
    ) -> Acquaintance | NoAcquaintance | None:
        """What came of it; None if nothing was asked. Never fails.

        Args:
            asked: the question.
            most: the most points an acquaintance may have against a message.
            timeout_s: seconds to wait for the ledger from now on.
        """
        if asked is None:
            return None
        try:
            # Mostly it is, and then the thread never has to wake the event loop.
            if not asked.done():
                async with asyncio.timeout(timeout_s):
                    await asyncio.wrap_future(asked)
            past = asked.result()
        except TimeoutError:
            self._complain("the ledger did not answer in time")
            return NoAcquaintance(NoAcquaintanceWhy.DEADLINE)
        except (LedgerError, RuntimeError, CancelledError) as error:
            self._complain(str(error) or "the ledger is closed")
            return NoAcquaintance(NoAcquaintanceWhy.UNAVAILABLE)
        self._complaint = ""
        return acquaintance(past, most)

    def _past(self, user: str, traits: tuple[Trait, ...], judged: str | None) -> dict[Trait, Past]:
        if self._ledger is None:
            self._ledger = self._open_ledger()
        return self._ledger.past(user, traits, digest=judged)

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
