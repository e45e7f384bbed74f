"""One recipient's verdict: asks Rspamd and Redis for what the policy needs, in time."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from mailhooks.bayes import Opinion, blend, points
from mailhooks.errors import RspamdError, RspamdLate
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.message import without_fields
from mailhooks.policy import (
    Bayes,
    NoBayes,
    NoBayesWhy,
    NoScan,
    NoScanWhy,
    Verdict,
    decide,
)
from mailhooks.score import Course, MilterScore, NoScore, RspamdScore
from mailhooks.strand import Begun

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from mailhooks.acquaintance import Acquaintance, NoAcquaintance, Trait
    from mailhooks.config import PolicySettings
    from mailhooks.daemon.acquaintances import Acquaintances
    from mailhooks.daemon.weights import Weights
    from mailhooks.rspamd import BayesOpinion, RspamdClient

log = logging.getLogger("mailhooks.classify")

WEIGHTS_SHARE = 0.25
"""This part of the time for Bayes may be spent on asking Redis for the counts."""

ACQUAINTANCE_SHARE = 0.25
"""This part of the time the ledger has, while Rspamd works."""

FULL_SCAN = {
    "groups_disabled": ["statistics", "hfilter"],
    "symbols_disabled": [
        *("GREYLIST_CHECK", "GREYLIST_SAVE", "RATELIMIT_CHECK", "RATELIMIT_UPDATE"),
        "REPLIES_SET",
    ],
}
"""Settings of a full scan at delivery: no Bayes, which runs apart; no judgement of an SMTP client
that is not there (hfilter alone would give 2.5 points); nothing that counts a message again, or
takes it, since it comes from a local address, for one that a user has sent (REPLIES_SET)."""

STRANGERS = (b"x-spam", b"x-mailhooks-", b"x-rspamd-")
"""Header names whose claims no full scan shall see; at delivery they are removed."""


class Judge:
    """Judges at delivery, and again for whoever wants a verdict explained; all of it strands.

    Args:
        rspamd: asked for Bayes alone, and for a full scan in place of a missing score.
        weights: how much each set of statistics has learned.
        policy: thresholds, and what stands in for a missing score.
        shared: whether Rspamd keeps statistics that all users share.
        acquaintances: what users said of lists and senders before; None to ask nobody.
    """

    def __init__(
        self,
        rspamd: RspamdClient,
        weights: Weights,
        policy: PolicySettings,
        *,
        shared: bool,
        acquaintances: Acquaintances | None = None,
    ) -> None:
        self._rspamd = rspamd
        self._weights = weights
        self._policy = policy
        self._shared = shared
        self._acquaintances = acquaintances

    async def verdict(
        self,
        message: bytes,
        user: str,
        milter: MilterScore | NoScore,
        bayes: Awaitable[Bayes | NoBayes],
        *,
        traits: tuple[Trait, ...],
        sender: str | None,
        recipient: str | None,
        timeout_s: float,
        judged: str | None = None,
    ) -> Verdict:
        """What the policy says of one recipient's copy; never fails, whatever is away.

        Args:
            message: as it is delivered.
            user: the Dovecot user, in lower case.
            milter: the carried score.
            bayes: :meth:`bayes`, perhaps under way already.
            traits: of the message, by which the user may know its list or sender.
            sender: the envelope's, for a full scan.
            recipient: likewise.
            timeout_s: seconds for a full scan, and for the acquaintance with list and sender.
            judged: the digest of a message that was delivered before.
        """
        began_s, most = time.monotonic(), self._policy.acquaintance_points
        ledger = self._acquaintances if most else None
        asked = ledger.ask(user, traits, judged) if ledger is not None else None
        scan: RspamdScore | NoScan | None = None
        if isinstance(milter, NoScore):
            scanned = Begun(self._scan(message, user, sender, recipient, timeout_s))
            try:
                opinion, scan = await bayes, await scanned
            finally:
                scanned.close()
        else:
            opinion = await bayes
        known: Acquaintance | NoAcquaintance | None = None
        if ledger is not None:
            deadline_s = began_s + timeout_s * ACQUAINTANCE_SHARE
            known = await ledger.told(asked, most=most, deadline_s=deadline_s)
        return decide(
            milter,
            opinion,
            self._policy.threshold_of(user),
            scan=scan,
            honour_action=self._policy.honour_action,
            acquaintance=known,
        )

    async def bayes(self, message: bytes, user: str, timeout_s: float) -> Bayes | NoBayes:
        """What one user's statistics say, or why they say nothing; never fails.

        Args:
            message: as it is delivered.
            user: the Dovecot user, in lower case.
            timeout_s: seconds for everything that Rspamd and Redis are asked.
        """
        deadline_s = time.monotonic() + timeout_s
        try:
            own, shared = await self._rspamd.check_opinions(message, user=user, timeout_s=timeout_s)
            left_s = deadline_s - time.monotonic()
            return await self._blended(user, own, shared, min(left_s, timeout_s * WEIGHTS_SHARE))
        except RspamdLate:
            log.warning("user=%s: no Bayes: Rspamd did not answer in %.1f s", user, timeout_s)
            return NoBayes(NoBayesWhy.DEADLINE)
        except (RspamdError, ValueError) as error:
            log.warning("user=%s: no Bayes: %s", user, error)
            return NoBayes(NoBayesWhy.UNAVAILABLE)

    async def _blended(
        self, user: str, own: BayesOpinion | None, shared: BayesOpinion | None, timeout_s: float
    ) -> Bayes | NoBayes:
        """Both opinions, weighed by what each of them has learned; so long for each count."""
        mine = await self._weighed(own, user, timeout_s)
        others = await self._weighed(shared, SHARED_USER, timeout_s) if self._shared else None
        probability = blend(mine, others)
        if probability is None:
            return NoBayes(NoBayesWhy.NO_OPINION)
        return Bayes(points(probability, mine), probability, mine, others)

    async def _weighed(self, opinion: BayesOpinion | None, whose: str, timeout_s: float) -> Opinion:
        # Redis that does not answer costs a blend its weights, not its opinions.
        learned = await self._weights.of(whose, timeout_s)
        probability = None if opinion is None else opinion.probability
        return Opinion(probability, learned[Lesson.SPAM], learned[Lesson.HAM])

    async def _scan(
        self, message: bytes, user: str, sender: str | None, recipient: str | None, timeout_s: float
    ) -> RspamdScore | NoScan:
        """Rspamd's judgement without Bayes, of mail that carries none it gave before."""
        if not self._policy.full_scan:
            return NoScan(NoScanWhy.OFF)
        seconds = min(timeout_s, self._policy.full_scan_timeout_s)
        try:
            result = await self._rspamd.check(
                without_fields(message, STRANGERS),
                user=user,
                settings=FULL_SCAN,
                envelope_from=_envelope_address(sender),
                rcpts=filter(None, [_envelope_address(recipient)]),
                timeout_s=seconds,
            )
        except RspamdLate:
            log.warning("user=%s: no full scan: Rspamd did not answer in %.1f s", user, seconds)
            return NoScan(NoScanWhy.DEADLINE)
        except (RspamdError, ValueError) as error:
            log.warning("user=%s: no full scan: %s", user, error)
            return NoScan(NoScanWhy.UNAVAILABLE)
        return RspamdScore(
            score=result.score,
            required=result.required,
            action=result.action,
            course=Course.SKIPPED if result.is_skipped else Course.SCORED,
            symbols=tuple((symbol.name, symbol.score) for symbol in result.symbols),
        )


def _envelope_address(address: str | None) -> str | None:
    """What Rspamd may be told of an address that a stranger wrote."""
    sound = address is not None and address.isprintable() and address.isascii()
    return address if sound else None
