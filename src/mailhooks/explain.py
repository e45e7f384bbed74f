"""A verdict explained: what it is made of, what became of it, what would turn it round. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mailhooks.acquaintance import NoAcquaintance
from mailhooks.bayes import points
from mailhooks.message import content_digest, normal_address, read_header
from mailhooks.policy import Bayes, Folder, NoBayes, NoScan, Reason
from mailhooks.score import NoScore, Why, received_ids, verify

if TYPE_CHECKING:
    from mailhooks.bayes import Opinion
    from mailhooks.config import ScoreSettings
    from mailhooks.keys import KeyRing
    from mailhooks.ledger import Decided, Decision, Taught
    from mailhooks.message import Header
    from mailhooks.policy import Verdict
    from mailhooks.score import MilterScore, RspamdScore
    from mailhooks.statistics import Learned

_HALVINGS = 40

_BY_NUMBERS = frozenset({Reason.SUM, Reason.ACQUAINTANCE, Reason.SCORE_ALONE})
_NOTHING_COUNTS = {
    Reason.ACTION: "Rspamd's own action decides, whatever the sum: see [policy] honour_action",
    Reason.PASSTHROUGH: "a module of Rspamd decided by itself, whatever the sum",
    Reason.SKIPPED: "Rspamd was told not to judge this message, so nobody does",
    Reason.NO_SCORE: "a verified milter score, or a full scan: without either nothing goes to Junk",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a message brings along.

    Attributes:
        score: the milter score, if its signature is valid; else why not.
        expired: whether it is older than ``score.max_age_s`` by now. A message that was delivered
            long ago keeps the score that counted then.
        delivered: whether Dovecot has delivered it, by its Return-Path.
        sender: the envelope sender by Return-Path; None if that is missing.
        recipient: by Delivered-To, in lower case; None if that is missing. A stranger may
            have written it into a message that was not delivered here.
        queue_id: Postfix's; ``-`` if unknown.
        status: the X-Spam-Status that its delivery wrote; empty if it was not delivered.
        message_id: as it stands, with what cannot be printed replaced.
        digest: of the message's content.
    """

    score: MilterScore | NoScore
    expired: bool
    delivered: bool
    sender: str | None
    recipient: str | None
    queue_id: str
    status: str
    message_id: str
    digest: str


def carried(message: bytes, keys: KeyRing, settings: ScoreSettings, now: float) -> Carried:
    """Read a message, delivered or not, as its delivery would.

    Args:
        message: all of it. A delivered one has Dovecot's Received line on top, as it has at
            the delivery itself.
        keys: all that may have signed.
        settings: how far a score is believed.
        now: seconds since the epoch.
    """
    header = read_header(message)
    sender = _first(header, "return-path")
    bound = normal_address(sender) if sender is not None and settings.bind_sender else None

    def verified(max_age_s: float) -> MilterScore | NoScore:
        return verify(
            header,
            bound,
            keys,
            now=now,
            max_age_s=max_age_s,
            received_depth=settings.received_depth,
        )

    score = verified(settings.max_age_s)
    expired = score == NoScore(Why.EXPIRED)
    if expired and sender is not None:
        score = verified(math.inf)
    recipient = _first(header, "delivered-to")
    ids = received_ids(header, settings.received_depth)
    return Carried(
        score=score,
        expired=expired,
        delivered=sender is not None,
        sender=None if sender is None else sender.strip("<> "),
        recipient=None if recipient is None else _user(recipient),
        queue_id=ids[-1] if ids else "-",
        status=(_first(header, "x-spam-status") or "") if sender is not None else "",
        message_id=_first(header, "message-id") or "",
        digest=content_digest(message),
    )


def _first(header: Header, name: str) -> str | None:
    values = header.values(name)
    if not values:
        return None
    text = values[0].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _user(address: str) -> str:
    """The mailbox of an address: without angle brackets and plus-extension, in lower case."""
    local, at, domain = address.strip("<> ").lower().rpartition("@")
    return f"{local.partition('+')[0]}{at}{domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The least of each that would turn a verdict round, all else being equal.

    Attributes:
        folder: where the message would then go.
        points: how many more are needed; below 0, more than so many fewer. None if no
            number of points would do.
        probability: Bayes' probability from which it is Junk; None if Bayes alone can do nothing.
        threshold: up to which it is Junk; None if the threshold plays no part.
        remark: what decides instead of all these; empty if they do.
    """

    folder: Folder
    points: float | None = None
    probability: float | None = None
    threshold: float | None = None
    remark: str = ""


def turn(verdict: Verdict) -> Turn:
    """What would turn a verdict round."""
    folder = Folder.INBOX if verdict.folder is Folder.JUNK else Folder.JUNK
    objective = verdict.objective
    if objective is None or verdict.reason not in _BY_NUMBERS:
        return Turn(folder=folder, remark=_NOTHING_COUNTS[verdict.reason])
    return Turn(
        folder=folder,
        points=verdict.threshold - verdict.score,
        probability=_probability(
            verdict.threshold - objective.score - verdict.acquaintance_points, opinions(verdict)[0]
        ),
        threshold=verdict.score,
    )


def _probability(missing: float, own: Opinion | None) -> float | None:
    """The least probability that is worth so many points; None if all are, or none is."""
    low, high = 0.0, 1.0
    if points(low, own) >= missing or points(high, own) < missing:
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if points(middle, own) >= missing else (middle, high)
    return high


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """How ready one set of statistics is.

    Attributes:
        learned: messages of each class, by Redis; None if it does not tell.
        min_learns: of each class, before Rspamd uses them.
    """

    learned: Learned | None
    min_learns: int

    @property
    def ready(self) -> bool | None:
        """Whether Rspamd uses them; None if nobody knows."""
        if self.learned is None:
            return None
        return min(self.learned.spam, self.learned.ham) >= self.min_learns

    @property
    def state(self) -> str:
        """``ready``, or what is missing."""
        return "unknown" if self.learned is None else self.learned.lacking(self.min_learns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that is known of one message for one user.

    Attributes:
        user: the Dovecot user.
        user_from: where the name comes from, ``--user`` or ``Delivered-To``.
        carried: what the message brings along.
        verdict: what a delivery would decide now.
        own: how ready the user's statistics are.
        shared: how ready those are that all users share; None if there are none.
        decisions: what deliveries decided about it, oldest first.
        taught: what the user's statistics were taught of it.
        missing: what could not be asked, and why.
    """

    user: str
    user_from: str
    carried: Carried
    verdict: Verdict
    own: Statistic
    shared: Statistic | None
    decisions: tuple[Decided, ...]
    taught: Taught | None
    missing: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs; docs/explain.md explains every field."""
        verdict, carried_ = self.verdict, self.carried
        milter, bayes = verdict.milter, verdict.bayes
        opinion = bayes if isinstance(bayes, Bayes) else None
        own, shared = opinions(verdict)
        change = turn(verdict)
        return {
            "user": self.user,
            "user_from": self.user_from,
            "message_id": carried_.message_id,
            "digest": carried_.digest,
            "queue_id": carried_.queue_id,
            "sender": carried_.sender,
            "delivered": carried_.delivered,
            "delivered_status": carried_.status,
            "carried": (
                {"valid": False, "reason": milter.why.value}
                if isinstance(milter, NoScore)
                else {"valid": True, "reason": "", "expired": carried_.expired}
                | _score_json(milter)
                | {"queue_id": milter.queue_id, "time": milter.time}
            ),
            "scan": _scan_json(verdict.scan),
            "bayes": {
                "own": _statistic_json(self.own, own),
                "shared": (None if self.shared is None else _statistic_json(self.shared, shared)),
                "probability": None if opinion is None else opinion.probability,
                "points": None if opinion is None else opinion.score,
                "reason": bayes.why.value if isinstance(bayes, NoBayes) else "",
            },
            "acquaintance": _acquaintance_json(verdict),
            "score": verdict.score,
            "threshold": verdict.threshold,
            "folder": verdict.folder.value,
            "reason": verdict.reason.value,
            "confidence": verdict.confidence,
            "status": verdict.status(),
            "turn": {
                "folder": change.folder.value,
                "points": change.points,
                "probability": change.probability,
                "threshold": change.threshold,
                "remark": change.remark,
            },
            "decisions": [decided_json(each) for each in self.decisions],
            "taught": _taught_json(self.taught),
            "missing": list(self.missing),
        }


def opinions(verdict: Verdict) -> tuple[Opinion | None, Opinion | None]:
    """What the user's own statistics and the shared ones said, if they did."""
    bayes = verdict.bayes
    return (bayes.own, bayes.shared) if isinstance(bayes, Bayes) else (None, None)


def _score_json(score: RspamdScore) -> dict[str, Any]:
    return {
        "score": score.score,
        "required": score.required,
        "action": score.action,
        "course": score.course.value,
        "symbols": [{"name": name, "score": given} for name, given in by_weight(score)],
    }


def by_weight(score: RspamdScore) -> list[tuple[str, float]]:
    """Rspamd's symbols, those first that weigh most for or against the message."""
    return sorted(score.symbols, key=lambda each: (-abs(each[1]), each[0]))


def _scan_json(scan: RspamdScore | NoScan | None) -> dict[str, Any] | None:
    if scan is None:
        return None
    if isinstance(scan, NoScan):
        return {"made": False, "reason": scan.why.value}
    return {"made": True, "reason": ""} | _score_json(scan)


def _statistic_json(statistic: Statistic, opinion: Opinion | None) -> dict[str, Any]:
    learned = statistic.learned
    return {
        "probability": None if opinion is None else opinion.probability,
        "spam": None if learned is None else learned.spam,
        "ham": None if learned is None else learned.ham,
        "min_learns": statistic.min_learns,
        "ready": statistic.ready,
        "state": statistic.state,
    }


def _acquaintance_json(verdict: Verdict) -> dict[str, Any] | None:
    found = verdict.acquaintance
    if found is None:
        return None
    if isinstance(found, NoAcquaintance):
        return {"points": verdict.acquaintance_points, "reason": found.why.value, "known": []}
    return {
        "points": verdict.acquaintance_points,
        "reason": "",
        "known": [
            {"kind": trait.kind.value, "name": trait.name, "points": past.points(trait.kind)}
            | {
                "said_spam": past.said_spam,
                "said_ham": past.said_ham,
                "left_junk": past.left_junk,
                "left_inbox": past.left_inbox,
            }
            for trait, past in found.known
        ],
    }


def _taught_json(taught: Taught | None) -> dict[str, Any] | None:
    if taught is None:
        return None
    last = taught.last
    return {
        "held": None if taught.held is None else taught.held.value,
        "lesson": last.lesson.value,
        "outcome": last.outcome.value,
        "origin": last.origin,
        "detail": last.detail,
        "time": last.time,
    }


def decided_json(decided: Decided) -> dict[str, Any]:
    """One decision for programs."""
    decision = decided.decision
    return {
        "time": decision.time,
        "folder": decision.folder.value,
        "reason": decision.reason.value,
        "source": decision.source.value,
        "objective": decision.objective,
        "no_milter": decision.no_milter,
        "no_scan": decision.no_scan,
        "no_bayes": decision.no_bayes,
        "own": _opinion_json(decision.own),
        "shared": _opinion_json(decision.shared),
        "probability": decision.probability,
        "points": decision.points,
        "acquaintance": decision.acquaintance,
        "score": decision.total,
        "threshold": decision.threshold,
        "queue_id": decision.queue_id,
        "taught": None if decided.taught is None else decided.taught.value,
        "taught_time": decided.taught_time,
        "corrected": decided.corrected,
    }


def _opinion_json(opinion: Opinion | None) -> dict[str, Any] | None:
    if opinion is None:
        return None
    return {"probability": opinion.probability, "spam": opinion.spam, "ham": opinion.ham}


def decision_text(decision: Decision) -> str:
    """One decision in the words of X-Spam-Status."""
    parts = [f"{decision.folder.value}, {decision.reason.value}:"]
    if decision.total is not None:
        parts.append(f"score={decision.total:.2f}")
    parts.append(f"required={decision.threshold:.2f}")
    if decision.no_milter:
        parts.append(f"milter=none ({decision.no_milter})")
    if decision.objective is not None:
        name = "scan" if decision.no_milter else "milter"
        parts.append(f"{name}={decision.objective:.2f}")
    if decision.no_scan:
        parts.append(f"scan=none ({decision.no_scan})")
    if decision.points is not None and decision.probability is not None:
        parts.append(f"bayes={decision.points:.2f} ({decision.probability:.1%})")
    else:
        parts.append(f"bayes=none ({decision.no_bayes})")
    if decision.acquaintance:
        parts.append(f"acquaintance={decision.acquaintance:.2f}")
    return " ".join(parts)
