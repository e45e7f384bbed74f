"""What Rspamd's answers mean; no input or output happens here.

Rspamd reports a learn by status code and one line of text, sent as the reason
phrase and again as ``{"error":"..."}``. The texts below are those of
``src/libstat/stat_process.c`` and ``src/controller.c``, the same in 3.4 and 4.1.5.
A text may start with the Message-ID, which the sender chose: match its end only.
"""

from __future__ import annotations

import enum
import json
import re
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from mailhooks.errors import RspamdMisconfigured, RspamdUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Spam first. The second pair belongs to the statistics that all users share.
BAYES_SYMBOLS = ("BAYES_SPAM", "BAYES_HAM")
SHARED_SYMBOLS = ("BAYES_SPAM_SHARED", "BAYES_HAM_SHARED")
# No or a wrong password, an address that may not ask, and (4.x) too many wrong passwords.
REFUSED_US = frozenset({401, 403, 429})

# A few symbols come from Rspamd's core, such as TAGGED_RCPT for plus-addresses,
# and no settings keep them away. A full scan shows dozens.
_MOST_CORE_SYMBOLS = 5
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
# How many characters of a peer's text go into a message of ours.
_TEXT_LIMIT = 200
# Rounding alone keeps the two figures of a Bayes symbol closer together than this.
_AGREE = 0.02


class LearnStatus(enum.Enum):
    """What became of one sample; what may succeed later is an error instead."""

    LEARNED = "learned"
    ALREADY_LEARNED = "already-learned"
    TOO_FEW_TOKENS = "too-few-tokens"
    TOO_MANY_TOKENS = "too-many-tokens"
    CONDITION_DENIED = "condition-denied"
    PASSTHROUGH = "passthrough"
    EMPTY = "empty"
    TOO_LARGE = "too-large"


@dataclass(frozen=True, slots=True)
class LearnResult:
    """Rspamd's answer to one sample; ``explanation`` is its text without the Message-ID."""

    status: LearnStatus
    explanation: str
    http_status: int

    @property
    def learned(self) -> bool:
        """Whether the statistics now hold the sample, by this learn or by an earlier one."""
        return self.status in {LearnStatus.LEARNED, LearnStatus.ALREADY_LEARNED}

    @property
    def final(self) -> bool:
        """Whether sending it again must end the same; only a denied one may pass as ``bulk``."""
        return self.status is not LearnStatus.CONDITION_DENIED


@dataclass(frozen=True, slots=True)
class Symbol:
    """One rule that matched: the points it gave, the points it can give, and its remarks."""

    name: str
    score: float
    weight: float | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BayesOpinion:
    """What one user's statistics say: points, positive for spam; probability of spam, 0 to 1."""

    score: float
    probability: float


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Rspamd's answer to one scan: ``score`` points of the ``required`` ones that mean reject.

    ``is_skipped`` is true when Rspamd stopped before its rules ran; ``messages`` are texts that
    modules and settings have added.
    """

    score: float
    required: float | None
    action: str
    symbols: tuple[Symbol, ...] = ()
    is_skipped: bool = False
    message_id: str = ""
    scan_time_s: float | None = None
    messages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Statfile:
    """One class of one classifier; ``learns`` is zero when it is counted for each user."""

    symbol: str
    learns: int
    users: int


@dataclass(frozen=True, slots=True)
class StatResult:
    """The controller's counters since Rspamd started, apart from ``total_learns``."""

    version: str
    uptime_s: int
    scanned: int
    learned: int
    total_learns: int
    statfiles: tuple[Statfile, ...]


# A LearnStatus is Rspamd's decision, a string the advice to whoever set Rspamd up, None a failure.
_LEARN_ANSWERS: tuple[tuple[int, str, LearnStatus | str | None], ...] = (
    (208, r"has been already learned as \S+, ignore it$", LearnStatus.ALREADY_LEARNED),
    # With the Redis learn cache the same words as a 404 say that the cache could not be asked: in
    # 3.4 when Redis refuses the connection (learn_cache/redis_cache.c: RSPAMD_LEARN_IGNORE), later
    # when the Lua call fails. Nothing was learned.
    (404, r"has been already learned as \S+, ignore it$", None),
    (204, r"contains less tokens than .+ classifier: \S+ < \S+$", LearnStatus.TOO_FEW_TOKENS),
    (204, r"contains more tokens than .+ classifier: \S+ > \S+$", LearnStatus.TOO_MANY_TOKENS),
    (204, r"^all learn conditions denied learning .*$", LearnStatus.CONDITION_DENIED),
    (204, r"^.* passthrough result has been set\b.*$", LearnStatus.PASSTHROUGH),
    (400, r"^Empty body is not permitted$", LearnStatus.EMPTY),
    # Newer than 3.4, for mail of which Rspamd could parse nothing at all.
    (500, r"^Trying to learn an empty message$", LearnStatus.EMPTY),
    (404, r"^cannot find classifier .*$", "name a classifier that exists"),
    (404, r"^no classifiers defined$", "define a classifier"),
    (404, r"^cannot find statfile backend .*$", "the classifier lacks this class"),
    (404, r"^class '.*' is not defined .*$", "the classifier lacks this class"),
    # A scanning worker's word for a command it does not have.
    (500, r"^invalid command$", "send learns to the controller, by default on port 11334"),
)


def classify_learn_answer(http_status: int, reason: str, body: bytes) -> LearnResult:
    """Tell from an answer of ``/learnspam`` or ``/learnham`` what Rspamd did with the sample.

    Either ``reason`` or ``body`` is enough, should something on the way replace the other.

    Raises:
        RspamdUnavailable: nothing was learned and a later attempt may succeed. Every answer
            that is not known belongs here, so that no sample is given up by mistake.
        RspamdMisconfigured: nothing will be learned until somebody changes a setting.
    """
    if http_status == HTTPStatus.OK:
        if _object(body).get("success") is True:
            return LearnResult(LearnStatus.LEARNED, "learned", http_status)
        raise RspamdUnavailable("answered 200 without success: is this Rspamd's controller?")
    if http_status in REFUSED_US:
        raise RspamdMisconfigured(
            f"refuses us ({http_status} {_short(reason)}): learning needs Rspamd's enable_password,"
            " or our address in secure_ip"
        )
    if http_status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        # Rspamd 4: the message has more bytes than its option max_message.
        return LearnResult(LearnStatus.TOO_LARGE, "larger than Rspamd takes", http_status)
    texts = (reason, _error_text(body))
    for status, pattern, outcome in _LEARN_ANSWERS:
        for text in texts:
            match = re.search(pattern, text) if status == http_status else None
            if match is None:
                continue
            if outcome is None:
                raise RspamdUnavailable("says 404 'already learned': it cannot reach Redis")
            if isinstance(outcome, str):
                raise RspamdMisconfigured(f"cannot learn ({_short(text)}): {outcome}")
            return LearnResult(outcome, _short(match.group()), http_status)
    raise RspamdUnavailable(f"gave no answer we know: {http_status} {_short(' / '.join(texts))}")


def parse_check(body: bytes) -> CheckResult:
    """Read the body of a 200 answer from ``/checkv2``.

    A field that is missing or odd gets its neutral value; the total does not, because a score
    that is absent is not 0.

    Raises:
        RspamdUnavailable: the body is no scan result.
    """
    answer, score = _scan(body)
    return CheckResult(
        score=score,
        required=_number(answer.get("required_score")),
        action=str(answer.get("action") or ""),
        symbols=tuple(
            _symbol(str(name), value) for name, value in _mapping(answer.get("symbols")).items()
        ),
        is_skipped=answer.get("is_skipped") is True,
        message_id=str(answer.get("message-id") or ""),
        scan_time_s=_number(answer.get("time_real")),
        messages={
            str(category): str(text) for category, text in _mapping(answer.get("messages")).items()
        },
    )


def parse_opinions(body: bytes) -> tuple[BayesOpinion | None, BayesOpinion | None]:
    """Read what a scan by Bayes alone says: the user's statistics, and those that all users share.

    As :func:`parse_check` and :func:`bayes_of`, without all that a delivery has no use for.

    Raises:
        RspamdUnavailable: the body is no scan result.
        RspamdMisconfigured: a full scan ran instead.
    """
    answer, _ = _scan(body)
    if answer.get("is_skipped") is True:  # a test pattern such as GTUBE comes before all settings
        return None, None
    symbols = _mapping(answer.get("symbols"))
    # A classifier that all users share may stand beside, as BAYES_SPAM_SHARED for instance.
    others = [name for name in symbols if not name.startswith(BAYES_SYMBOLS)]
    if len(others) > _MOST_CORE_SYMBOLS:
        raise RspamdMisconfigured(
            f"ran {len(others)} rules such as {others[0]} beside the statistics: it ignores our"
            " Settings header, or names Bayes symbols in its own way"
        )
    own, shared = (
        _opinion([_symbol(name, symbols[name]) for name in names if name in symbols], names)
        for names in (BAYES_SYMBOLS, SHARED_SYMBOLS)
    )
    return own, shared


def bayes_of(result: CheckResult, symbols: tuple[str, str] = BAYES_SYMBOLS) -> BayesOpinion | None:
    """Take one classifier's opinion out of a scan; ``symbols`` are its own, for spam and ham.

    None when neither symbol is there: the user has not taught enough of both classes, the
    message says too little, the probability is within 0.45 to 0.55, or Redis is away.
    """
    return _opinion([symbol for symbol in result.symbols if symbol.name in symbols], symbols)


def _opinion(opinions: Sequence[Symbol], symbols: tuple[str, str]) -> BayesOpinion | None:
    if not opinions:
        return None
    strongest = max(opinions, key=lambda symbol: abs(symbol.score))
    distance = _distance(strongest) if strongest.name == symbols[0] else -_distance(strongest)
    return BayesOpinion(sum(symbol.score for symbol in opinions), 0.5 + distance / 2)


def _distance(symbol: Symbol) -> float:
    """Return how far the probability is from undecided: ``|2p - 1|``.

    Rspamd prints that as the percentage and scores ``weight * |2p - 1| ** 8`` (``bayes_classify``
    in ``src/libstat/classifiers/bayes.c``, the same from 3.4 to 4.1.5). A classifier with
    ``class =`` in its statfiles, possible since 3.13, prints ``p`` but scores alike, so where the
    two differ the score is right.
    """
    match = _PERCENT.fullmatch(symbol.options[0]) if symbol.options else None
    printed = min(float(match[1]) / 100, 1.0) if match else None
    share = symbol.score / symbol.weight if symbol.weight else 0.0
    # Rspamd rounds the points to six decimals, so for a weak opinion the percentage knows more.
    scored = min(share, 1.0) ** (1 / 8) if share > 0 else None
    if printed is None or (scored is not None and abs(printed - scored) > _AGREE):
        return scored or 0.0
    return printed


def parse_stat(body: bytes) -> StatResult:
    """Read the body of a 200 answer from ``/stat``; a counter that is missing counts as 0.

    Raises:
        RspamdUnavailable: the body is not the controller's statistics.
    """
    answer = _object(body)
    if "version" not in answer:
        raise RspamdUnavailable("did not answer /stat with Rspamd's counters")
    return StatResult(
        version=str(answer["version"]),
        uptime_s=_count(answer.get("uptime")),
        scanned=_count(answer.get("scanned")),
        learned=_count(answer.get("learned")),
        total_learns=_count(answer.get("total_learns")),
        statfiles=tuple(
            Statfile(str(it.get("symbol")), _count(it.get("revision")), _count(it.get("users")))
            for it in map(_mapping, _list(answer.get("statfiles")))
        ),
    )


def _scan(body: bytes) -> tuple[Mapping[str, Any], float]:
    """A scan's result, and its score."""
    answer = _object(body)
    score = _number(answer.get("score"))
    if score is None:
        why = _short(str(answer.get("error", "no reason given")))
        raise RspamdUnavailable(f"answered a scan without a score: {why}")
    return answer, score


def _symbol(name: str, value: Any) -> Symbol:
    fields = _mapping(value)
    return Symbol(
        name=name,
        score=_number(fields.get("score")) or 0.0,
        weight=_number(fields.get("metric_score")),
        options=tuple(map(str, _list(fields.get("options")))),
    )


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(msgspec.json.decode(body))
    except (ValueError, RecursionError):
        pass
    # Message-IDs and header texts reach the JSON in whatever bytes the sender used, and numbers
    # that JSON does not know.
    try:
        return _mapping(json.loads(body.decode(errors="replace")))
    except (ValueError, RecursionError):
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _error_text(body: bytes) -> str:
    # Not json.loads: the controller pastes its text between quotes without escaping it.
    match = re.fullmatch(r'\s*\{"error":"(.*)"\}\s*', body.decode(errors="replace"), re.DOTALL)
    return match[1] if match else ""


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None  # which NaN is not, either


def _count(value: Any) -> int:
    return int(_number(value) or 0)


def _short(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:_TEXT_LIMIT])
