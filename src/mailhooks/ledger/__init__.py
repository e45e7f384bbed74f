"""What each user taught Rspamd, so that nothing counts twice, and what each delivery decided.

The spool holds what is still to be learned; the ledger holds what was learned,
and what Rspamd refused and why. A lesson that contradicts an earlier decision
is its correction. It knows digests, figures and the user's own address, and
nothing of a message's content.

:class:`Ledger` is the contract, :class:`SqliteLedger` the one that keeps it on
one host. ``SqliteLedger(":memory:")`` is a ledger for tests.
"""

from __future__ import annotations

from mailhooks.ledger.base import (
    DELIVERY,
    WEEK_S,
    Answer,
    Counts,
    Decided,
    Decision,
    Ledger,
    Outcome,
    Rates,
    Source,
    Taught,
)
from mailhooks.ledger.sqlite import SqliteLedger

__all__ = [
    "DELIVERY",
    "WEEK_S",
    "Answer",
    "Counts",
    "Decided",
    "Decision",
    "Ledger",
    "Outcome",
    "Rates",
    "Source",
    "SqliteLedger",
    "Taught",
]
