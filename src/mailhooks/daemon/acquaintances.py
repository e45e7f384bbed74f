"""What users said of lists and senders before, read from the ledger beside a delivery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mailhooks.acquaintance import (
    Acquaintance,
    NoAcquaintance,
    NoAcquaintanceWhy,
    acquaintance,
    traits_of,
)
from mailhooks.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.acquaintance import Past, Trait
    from mailhooks.ledger import Ledger
    from mailhooks.message import Header

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

    async def of(
        self,
        header: Header,
        user: str,
        *,
        most: float,
        timeout_s: float,
        judged: str | None = None,
    ) -> Acquaintance | NoAcquaintance | None:
        """What a message's list and sender are to a user; None if it has neither. Never fails.

        Args:
            header: of the message.
            user: the Dovecot user, in lower case.
            most: the most points it may have against a message.
            timeout_s: seconds to wait for the ledger.
            judged: the digest of a message that was delivered before, whose own delivery says
                nothing of it.
        """
        traits = traits_of(header)
        if not traits:
            return None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                past = await loop.run_in_executor(self._thread, self._past, user, traits, judged)
        except TimeoutError:
            self._complain(f"the ledger did not answer in {timeout_s:.1f} s")
            return NoAcquaintance(NoAcquaintanceWhy.DEADLINE)
        except (LedgerError, RuntimeError) as error:
            self._complain(str(error))
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
