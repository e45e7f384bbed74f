"""Rspamd over HTTP: verdicts for one user, and lessons for one user.

``RspamdClient`` is the way in; its calls return the results named here, and
raise :class:`mailhooks.errors.RspamdUnavailable` for what may pass by itself
and :class:`mailhooks.errors.RspamdMisconfigured` for what somebody must change.
The functions turn Rspamd's answers into results without asking anybody.
"""

from __future__ import annotations

from mailhooks.rspamd.client import RspamdClient
from mailhooks.rspamd.results import (
    BayesOpinion,
    CheckResult,
    LearnResult,
    LearnStatus,
    Statfile,
    StatResult,
    Symbol,
    bayes_of,
    classify_learn_answer,
    parse_check,
    parse_stat,
)

__all__ = [
    "BayesOpinion",
    "CheckResult",
    "LearnResult",
    "LearnStatus",
    "RspamdClient",
    "StatResult",
    "Statfile",
    "Symbol",
    "bayes_of",
    "classify_learn_answer",
    "parse_check",
    "parse_stat",
]
