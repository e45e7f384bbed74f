"""The delivery pass: one recipient's copy in, a verdict out, before the deadline."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

from mailhooks.acquaintance import (
    TRAIT_FIELDS,
    Acquaintance,
    NoAcquaintance,
    NoAcquaintanceWhy,
    traits_of,
)
from mailhooks.daemon.judge import Judge
from mailhooks.daemon.peer import user_of
from mailhooks.errors import SpoolError
from mailhooks.ledger import DELIVERY, Decision
from mailhooks.lesson import PROBE_USER, Lesson
from mailhooks.message import (
    DIGESTED_FIELDS,
    content_digest,
    is_editable,
    normal_address,
    read_header,
)
from mailhooks.policy import (
    Bayes,
    Folder,
    NoBayesWhy,
    NoScan,
    NoScanWhy,
    Reason,
    Verdict,
)
from mailhooks.score import (
    VERIFIED_FIELDS,
    Course,
    MilterScore,
    NoScore,
    Why,
    received_ids,
    verify,
)
from mailhooks.strand import Begun, result
from mailhooks.training import Delivery, Mode, trains

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from mailhooks.config import LearningSettings, PolicySettings, ScoreSettings
    from mailhooks.daemon.acquaintances import Acquaintances
    from mailhooks.daemon.samples import Samples
    from mailhooks.daemon.weights import Weights
    from mailhooks.dovecot import ScriptCall
    from mailhooks.keys import KeyRing
    from mailhooks.message import Header
    from mailhooks.rspamd import RspamdClient

log = logging.getLogger("mailhooks.classify")

OWN_SHARE = 0.25
"""This part of the deadline is kept for everything that is not Rspamd."""

READ_FIELDS = tuple(dict.fromkeys((*VERIFIED_FIELDS, *TRAIT_FIELDS, *DIGESTED_FIELDS)))
"""Header fields that a verdict needs."""

SMALL_BYTES = 1024 * 1024
"""The digest of a message up to this size takes some milliseconds."""

WEIGHTS_TIMEOUT_S = 0.25
"""Whether a delivery trains is not worth a longer wait for the counts."""

VERDICTS = Counter(
    "mailhooks_verdicts_total",
    "Verdicts given at delivery, and the row of the policy that gave them.",
    ["folder", "reason"],
)
MILTER_SCORES = Counter(
    "mailhooks_milter_scores_total",
    "Milter scores carried by delivered messages: how the verified ones came about, or why"
    " there is none.",
    ["result"],
)
SCANS = Counter(
    "mailhooks_full_scans_total",
    "Full scans at delivery of mail without a verified milter score: made, or why not.",
    ["result"],
)
BAYES = Counter(
    "mailhooks_bayes_total",
    "Bayes asked for at delivery: an opinion, or why there is none.",
    ["result"],
)
ACQUAINTANCES = Counter(
    "mailhooks_acquaintances_total",
    "Lists and senders looked up at delivery: known to the user or not, or why nobody knows.",
    ["result"],
)
OBJECTIVE = Histogram(
    "mailhooks_objective_score",
    "Rspamd's score without Bayes: carried, or of a full scan at delivery.",
    buckets=(-10, -5, -2, 0, 2, 4, 6, 8, 10, 15, 20),
)
PROBABILITY = Histogram(
    "mailhooks_bayes_probability",
    "Blended probability of spam, of deliveries with an opinion.",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.45, 0.55, 0.75, 0.9, 0.95, 0.99),
)
SECONDS = Histogram(
    "mailhooks_classification_seconds",
    "From the connection of Dovecot to the verdict.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
# A series that begins with its first event hides that event from rate(), and to look for one by its
# labels takes as long as to count.
_VERDICTS = {
    (folder, reason): VERDICTS.labels(folder.value, reason.value)
    for folder in Folder
    for reason in Reason
}
_MILTER_SCORES = {
    each: MILTER_SCORES.labels(each.value) for each in (Course.SCORED, Course.PASSTHROUGH, *Why)
}
_SCANS = {why: SCANS.labels(why.value) for why in NoScanWhy}
_SCAN_MADE = SCANS.labels("made")
_BAYES = {why: BAYES.labels(why.value) for why in NoBayesWhy}
_BAYES_OPINION = BAYES.labels("opinion")
_ACQUAINTANCES = {why: ACQUAINTANCES.labels(why.value) for why in NoAcquaintanceWhy}
_KNOWN, _UNKNOWN = (ACQUAINTANCES.labels(each) for each in ("known", "unknown"))


class Classifier:
    """Answers ``mailhooks-classify``.

    Args:
        rspamd: asked for one user's Bayes alone.
        keys: any of them may have signed the carried score.
        weights: how much each set of statistics has learned.
        samples: takes deliveries that train, if the settings say so.
        threads: what waits for the disk or takes long goes on in these.
        score: how far a carried score is believed.
        policy: thresholds, and what stands in for a missing score.
        learning: which deliveries train.
        deadline_s: seconds within which every call is answered.
        mail_uids: uids that may speak for any user.
        shared: whether Rspamd keeps statistics that all users share.
        clock: seconds since the epoch.
        note: has a decision written to the ledger; neither waits nor fails.
        acquaintances: what users said of lists and senders before; None to ask nobody.
    """

    def __init__(
        self,
        rspamd: RspamdClient,
        keys: KeyRing,
        weights: Weights,
        samples: Samples,
        *,
        threads: Executor,
        score: ScoreSettings,
        policy: PolicySettings,
        learning: LearningSettings,
        deadline_s: float,
        mail_uids: frozenset[int],
        shared: bool = False,
        clock: Callable[[], float] = time.time,
        note: Callable[[Decision], None] = lambda _: None,
        acquaintances: Acquaintances | None = None,
    ) -> None:
        self._threads = threads
        self._judge = Judge(rspamd, weights, policy, shared=shared, acquaintances=acquaintances)
        self._weights = weights
        self._keys = keys
        self._samples = samples
        self._score = score
        self._mode = Mode(learning.learn_on_delivery)
        self._spam_too = learning.spam_on_delivery
        self._deadline_s = deadline_s
        self._mail_uids = mail_uids
        self._clock = clock
        self._note = note

    async def answer(self, call: ScriptCall) -> bytes:
        """The verdict for Sieve, three words: folder, score, and the text of X-Spam-Status.

        The folder is ``inbox`` or ``junk``; the score ``verified`` or ``none``, with ``broken-``
        before it if Sieve must leave the header alone: :func:`mailhooks.message.is_editable`.

        Raises:
            ProtocolError: the caller may not speak for the user it names.
        """
        output, afterwards = await self.answer_directly(call)
        afterwards()
        return output

    async def answer_directly(self, call: ScriptCall) -> tuple[bytes, Callable[[], None]]:
        """The same as a strand, and what nobody waits for: log, metrics and the decision's note.

        In a thread of its own a verdict costs a fifth less than in an event loop.

        Raises:
            ProtocolError: as above.
        """
        deadline_s = call.accepted_at_s + self._deadline_s
        user = user_of(call.env, call.peer.uid, self._mail_uids)
        # What is not Rspamd's keeps a part of the deadline.
        left_s = deadline_s - self._deadline_s * OWN_SHARE - time.monotonic()
        bayes = Begun(self._judge.bayes(call.message, user, left_s))
        try:
            # Rspamd has the message by now; all that we find out by ourselves we find out
            # while it works.
            header = read_header(call.message, *READ_FIELDS)
            milter, traits = self._carried(header, call), traits_of(header)
            queue_id, now = self._queue_id(header), self._clock()
            editable = is_editable(call.message)
            verdict = await self._judge.verdict(
                call.message,
                user,
                milter,
                bayes,
                traits=traits,
                sender=call.env.get("SENDER"),
                recipient=call.env.get("RECIPIENT"),
                timeout_s=left_s,
            )
        finally:
            bayes.close()
        lesson = await self._lesson(user, verdict)
        digest = None
        is_small = len(call.message) <= SMALL_BYTES
        if lesson is not None or not is_small:
            digest = await self._digest(call.message, header, user, deadline_s)
        if lesson is not None and digest is not None:
            await self._keep(call.message, user, lesson, digest, deadline_s)
        text, elapsed_s = verdict.status(), time.monotonic() - call.accepted_at_s
        score = "none" if isinstance(milter, NoScore) else "verified"
        if not editable:
            score = f"broken-{score}"

        def afterwards() -> None:
            log.info("%s: user=%s %s: %s", queue_id, user, verdict.folder.value, text)
            if not editable:
                log.warning(
                    "%s: user=%s: a line in the header is no field: left as it is", queue_id, user
                )
            _count(verdict, elapsed_s)
            if user != PROBE_USER and (digest or is_small):
                self._note(
                    Decision.of(
                        verdict,
                        user=user,
                        digest=digest or content_digest(call.message, header),
                        time=now,
                        queue_id=queue_id,
                        traits=traits,
                    )
                )

        return f"{verdict.folder.value} {score} {text}".encode("ascii"), afterwards

    async def _digest(
        self, message: bytes, header: Header, user: str, deadline_s: float
    ) -> str | None:
        """The digest of a message; None of a large one if there is no time for it."""
        if len(message) <= SMALL_BYTES:
            return content_digest(message, header)
        now_s = time.monotonic()
        try:
            # Other deliveries would notice how long this takes.
            asked = self._threads.submit(content_digest, message)
            return await result(asked, now_s + (deadline_s - now_s) / 2)
        except TimeoutError:
            log.warning("user=%s: no time for a digest: nothing is noted or learned", user)
            return None

    async def _lesson(self, user: str, verdict: Verdict) -> Lesson | None:
        """What the delivery teaches, once it has been left alone for a while."""
        bayes, milter = verdict.bayes, verdict.milter
        # Rspamd that was not there leaves open whether there is anything to learn.
        was_asked = isinstance(bayes, Bayes) or bayes.why is NoBayesWhy.NO_OPINION
        if self._mode is Mode.OFF or not (was_asked or self._mode is Mode.ALL):
            return None
        known = await self._weights.of(user, WEIGHTS_TIMEOUT_S)
        spam, ham = (
            known[lesson] + self._samples.delivered(user, lesson)
            for lesson in (Lesson.SPAM, Lesson.HAM)
        )
        scored = isinstance(milter, MilterScore) and milter.course is Course.SCORED
        return trains(
            self._mode,
            Delivery(
                is_junk=verdict.folder is Folder.JUNK,
                probability=bayes.probability if isinstance(bayes, Bayes) else None,
                milter=milter.score if isinstance(milter, MilterScore) and scored else None,
                threshold=verdict.threshold,
                points=(bayes.score if isinstance(bayes, Bayes) else 0.0)
                + verdict.acquaintance_points,
                spam=spam,
                ham=ham,
            ),
            spam_too=self._spam_too,
        )

    def _carried(self, header: Header, call: ScriptCall) -> MilterScore | NoScore:
        sender = normal_address(call.env.get("SENDER", ""))
        return verify(
            header,
            sender if self._score.bind_sender else None,
            self._keys,
            now=self._clock(),
            max_age_s=self._score.max_age_s,
            received_depth=self._score.received_depth,
        )

    def _queue_id(self, header: Header) -> str:
        """Postfix's queue id for the log: Dovecot's own is on top, the last of ours the MX's."""
        ids = received_ids(header, self._score.received_depth)
        return ids[-1] if ids else "-"

    async def _keep(
        self, message: bytes, user: str, lesson: Lesson, digest: str, deadline_s: float
    ) -> None:
        """Keep a delivered message as a sample; a delivery never fails over it."""

        def keep() -> None:
            self._samples.notice(self._samples.keep(user, lesson, digest, DELIVERY, message))

        try:
            await result(self._threads.submit(keep), deadline_s)
        except TimeoutError:
            log.error("user=%s: %s on delivery: the spool is too slow", user, lesson.value)
        except SpoolError as error:
            log.error("user=%s: %s on delivery: %s", user, lesson.value, error)


def _count(verdict: Verdict, elapsed_s: float) -> None:
    milter, scan, bayes = verdict.milter, verdict.scan, verdict.bayes
    _VERDICTS[verdict.folder, verdict.reason].inc()
    _MILTER_SCORES[milter.course if isinstance(milter, MilterScore) else milter.why].inc()
    if scan is not None:
        (_SCANS[scan.why] if isinstance(scan, NoScan) else _SCAN_MADE).inc()
    (_BAYES_OPINION if isinstance(bayes, Bayes) else _BAYES[bayes.why]).inc()
    known = verdict.acquaintance
    if isinstance(known, NoAcquaintance):
        _ACQUAINTANCES[known.why].inc()
    elif isinstance(known, Acquaintance):
        (_KNOWN if known.known else _UNKNOWN).inc()
    if verdict.objective is not None:
        OBJECTIVE.observe(verdict.objective.score)
    if isinstance(bayes, Bayes):
        PROBABILITY.observe(bayes.probability)
    SECONDS.observe(elapsed_s)
