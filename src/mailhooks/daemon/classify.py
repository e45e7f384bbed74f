"""The delivery pass: one recipient's copy in, a verdict out, before the deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from mailhooks.daemon.peer import user_of
from mailhooks.errors import RspamdError, SpoolError
from mailhooks.lesson import Lesson
from mailhooks.message import content_digest, normal_address, read_header
from mailhooks.policy import Bayes, Folder, NoBayes, NoBayesWhy, Verdict, decide
from mailhooks.score import MilterScore, NoScore, received_ids, verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.config import LearningSettings, PolicySettings, ScoreSettings
    from mailhooks.daemon.samples import Samples
    from mailhooks.dovecot import ScriptCall
    from mailhooks.keys import KeyRing
    from mailhooks.rspamd import RspamdClient

log = logging.getLogger("mailhooks.classify")

OWN_SHARE = 0.25
"""This part of the deadline is kept for everything that is not Rspamd."""


class Classifier:
    """Answers ``mailhooks-classify``.

    Args:
        rspamd: asked for one user's Bayes alone.
        keys: any of them may have signed the carried score.
        samples: takes good mail as ham, if the settings say so.
        score: how far a carried score is believed.
        policy: the threshold.
        learning: whether a delivery teaches.
        deadline_s: seconds within which every call is answered.
        mail_uids: uids that may speak for any user.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        rspamd: RspamdClient,
        keys: KeyRing,
        samples: Samples,
        *,
        score: ScoreSettings,
        policy: PolicySettings,
        learning: LearningSettings,
        deadline_s: float,
        mail_uids: frozenset[int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rspamd = rspamd
        self._keys = keys
        self._samples = samples
        self._score = score
        self._policy = policy
        self._learning = learning
        self._deadline_s = deadline_s
        self._mail_uids = mail_uids
        self._clock = clock

    async def answer(self, call: ScriptCall) -> bytes:
        """The verdict for Sieve, three words: folder, score, and the text of X-Spam-Status.

        The folder is ``inbox`` or ``junk``, the score ``verified`` or ``none``.

        Raises:
            ProtocolError: the caller may not speak for the user it names.
        """
        loop = asyncio.get_running_loop()
        deadline = call.accepted_at_s + self._deadline_s
        user = user_of(call.env, call.peer.uid, self._mail_uids)
        milter, queue_id = self._carried(call)
        reserve_s = self._deadline_s * OWN_SHARE
        bayes = await self._bayes(call.message, user, deadline - reserve_s - loop.time())
        verdict = decide(milter, bayes, self._policy.threshold)
        if verdict.folder is Folder.INBOX and self._learning.learn_on_delivery == "all":
            await self._teach_ham(call.message, user, deadline - loop.time())
        self._log(user, queue_id, verdict)
        score = "none" if isinstance(milter, NoScore) else "verified"
        return f"{verdict.folder.value} {score} {verdict.status()}".encode("ascii")

    def _carried(self, call: ScriptCall) -> tuple[MilterScore | NoScore, str]:
        """The carried score, and Postfix's queue id for the log."""
        header = read_header(call.message)
        sender = normal_address(call.env.get("SENDER", ""))
        milter = verify(
            header,
            sender if self._score.bind_sender else None,
            self._keys,
            now=self._clock(),
            max_age_s=self._score.max_age_s,
            received_depth=self._score.received_depth,
        )
        # Dovecot's own id is on top; the last of ours is the MX's.
        ids = received_ids(header, self._score.received_depth)
        return milter, ids[-1] if ids else "-"

    async def _bayes(self, message: bytes, user: str, timeout_s: float) -> Bayes | NoBayes:
        try:
            async with asyncio.timeout(timeout_s):
                opinion = await self._rspamd.check_bayes(message, user=user)
        except TimeoutError:
            log.warning("user=%s: no Bayes: Rspamd did not answer in %.1f s", user, timeout_s)
            return NoBayes(NoBayesWhy.DEADLINE)
        except (RspamdError, ValueError) as error:
            log.warning("user=%s: no Bayes: %s", user, error)
            return NoBayes(NoBayesWhy.UNAVAILABLE)
        if opinion is None:
            return NoBayes(NoBayesWhy.NO_OPINION)
        return Bayes(opinion.score, opinion.probability)

    async def _teach_ham(self, message: bytes, user: str, timeout_s: float) -> None:
        """Keep an inbox message as a ham sample; a delivery never fails over it."""
        try:
            digest = content_digest(message)
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._samples.take(user, Lesson.HAM, digest, "delivery", message)
        except TimeoutError:
            log.error("user=%s: ham on delivery: the spool is too slow, not learned", user)
        except SpoolError as error:
            log.error("user=%s: ham on delivery: %s", user, error)

    def _log(self, user: str, queue_id: str, verdict: Verdict) -> None:
        log.info("%s: user=%s %s: %s", queue_id, user, verdict.folder.value, verdict.status())
