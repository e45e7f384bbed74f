"""What each user taught Rspamd, remembered here so that nothing counts twice.

The spool holds what is still to be learned; the ledger holds what was learned,
and what Rspamd refused and why. It knows digests, figures and the user's own
address, and nothing of a message's content.

:class:`Ledger` is the contract, :class:`SqliteLedger` the one that keeps it on
one host. ``SqliteLedger(":memory:")`` is a ledger for tests.
"""

from __future__ import annotations

from mailhooks.ledger.base import WEEK_S, Answer, Counts, Ledger, Outcome, Taught
from mailhooks.ledger.sqlite import SqliteLedger

__all__ = [
    "WEEK_S",
    "Answer",
    "Counts",
    "Ledger",
    "Outcome",
    "SqliteLedger",
    "Taught",
]
