"""Rspamd's answers are read for what they mean, and never for more."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.errors import RspamdError, RspamdMisconfigured, RspamdUnavailable
from mailhooks.rspamd import (
    BayesOpinion,
    CheckResult,
    LearnStatus,
    Statfile,
    Symbol,
    bayes_of,
    classify_learn_answer,
    parse_check,
    parse_stat,
)

FEW = "contains less tokens than required for bayes classifier: 3 < 11"
MANY = "contains more tokens than allowed for bayes classifier: 900 > 500"
DENIED = "all learn conditions denied learning spam in default classifier"
PASSTHROUGH = "Cannot learn statistics when passthrough result has been set; not classified"
ALREADY = "has been already learned as spam, ignore it"

FINAL_ANSWERS = [
    (208, f"<a@b> {ALREADY}", LearnStatus.ALREADY_LEARNED, ALREADY),
    (204, f"<a@b> {FEW}", LearnStatus.TOO_FEW_TOKENS, FEW),
    (204, f"<a@b> {MANY}", LearnStatus.TOO_MANY_TOKENS, MANY),
    (204, DENIED, LearnStatus.CONDITION_DENIED, DENIED),
    (204, PASSTHROUGH, LearnStatus.PASSTHROUGH, PASSTHROUGH),
    (400, "Empty body is not permitted", LearnStatus.EMPTY, "Empty body is not permitted"),
    (
        500,
        "Trying to learn an empty message",
        LearnStatus.EMPTY,
        "Trying to learn an empty message",
    ),
    (413, "Undefined Error", LearnStatus.TOO_LARGE, "larger than Rspamd takes"),
]


def error_body(text: str) -> bytes:
    """Rspamd pastes the text between quotes and escapes nothing."""
    return f'{{"error":"{text}"}}'.encode()


def test_a_learned_sample_is_learned() -> None:
    """The only 200 that counts is the one that says success."""
    result = classify_learn_answer(200, "OK", b'{"success":true}')
    assert (result.status, result.learned, result.final) == (LearnStatus.LEARNED, True, True)


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"success":false}', b"<html>", b"[1]"])
def test_a_200_of_something_else_is_temporary(body: bytes) -> None:
    """A web server in Rspamd's place answers 200 to anything."""
    with pytest.raises(RspamdUnavailable, match="without success"):
        classify_learn_answer(200, "OK", body)


@pytest.mark.parametrize(("code", "text", "status", "explanation"), FINAL_ANSWERS)
def test_each_refusal_has_its_own_status(
    code: int, text: str, status: LearnStatus, explanation: str
) -> None:
    """The reason phrase is enough, and the explanation leaves out the Message-ID."""
    result = classify_learn_answer(code, text, b"")
    assert (result.status, result.explanation, result.http_status) == (status, explanation, code)


@pytest.mark.parametrize(("code", "text", "status", "explanation"), FINAL_ANSWERS)
def test_the_body_stands_in_for_a_lost_reason(
    code: int, text: str, status: LearnStatus, explanation: str
) -> None:
    """A proxy that writes its own reason phrase changes nothing."""
    result = classify_learn_answer(code, "No Content", error_body(text))
    assert (result.status, result.explanation) == (status, explanation)


def test_only_a_repeat_counts_as_learned_among_refusals() -> None:
    """`learned` asks whether the statistics hold the sample, `final` whether to send it again."""
    found = {
        status: classify_learn_answer(code, text, b"") for code, text, status, _ in FINAL_ANSWERS
    }
    assert [s for s, r in found.items() if r.learned] == [LearnStatus.ALREADY_LEARNED]
    assert [s for s, r in found.items() if not r.final] == [LearnStatus.CONDITION_DENIED]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (429, "Too many authentication failures"),
        (404, "cannot find classifier with name bayes2"),
        (404, "no classifiers defined"),
        (404, "cannot find statfile backend to learn spam in default classifier"),
        (404, "class 'spam' is not defined in classifier bayes"),
        (500, "invalid command"),
    ],
)
def test_a_mistake_in_the_settings_is_said_loudly(code: int, text: str) -> None:
    """The error repeats what Rspamd said."""
    with pytest.raises(RspamdMisconfigured, match=text.partition("'")[0]):
        classify_learn_answer(code, text, error_body(text))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (204, ""),
        (204, "No Content"),
        (204, f"{FEW}, or so"),
        (208, "Already Reported"),
        (400, "Bad Request"),
        (404, "Not found"),
        (500, "Cannot push learned results to the backend"),
        (500, "cannot get learned: error getting reply from redis server"),
        (503, "Service Unavailable"),
        (299, FEW),
        (302, "Found"),
    ],
)
def test_what_is_not_known_is_temporary(code: int, text: str) -> None:
    """No sample is given up because of an answer that nobody foresaw."""
    with pytest.raises(RspamdUnavailable, match=str(code)):
        classify_learn_answer(code, text, error_body(text))


def test_a_404_that_claims_a_repeat_is_a_failure() -> None:
    """Rspamd 3.4 says so of any sample when Redis refuses its connection."""
    with pytest.raises(RspamdUnavailable, match="cannot reach Redis"):
        classify_learn_answer(404, f"<a@b> {ALREADY}", b"")


def test_a_message_id_cannot_choose_the_outcome() -> None:
    """The sender wrote the first part of the text; only its end is Rspamd's."""
    evil = f'<{FEW}"> {PASSTHROUGH}'
    result = classify_learn_answer(204, f"{evil} {MANY}", b"")
    assert (result.status, result.explanation) == (LearnStatus.TOO_MANY_TOKENS, MANY)
    with pytest.raises(RspamdUnavailable):
        classify_learn_answer(500, f"<{ALREADY}> Internal error", b"")


def test_a_hostile_text_stays_short_and_printable() -> None:
    """What a peer says goes to a log."""
    with pytest.raises(RspamdUnavailable) as caught:
        classify_learn_answer(599, "\x1b[31m\n" + "x" * 100_000, b"")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@given(st.integers(100, 599), st.text(), st.binary())
def test_any_answer_ends_in_a_result_or_our_error(code: int, reason: str, body: bytes) -> None:
    """Nothing else comes out, and a result needs a code that Rspamd gives results."""
    try:
        result = classify_learn_answer(code, reason, body)
    except RspamdError:
        return
    assert result.http_status in {200, 204, 208, 400, 413, 500}


SCAN: dict[str, Any] = {
    "is_skipped": False,
    "score": 8.35351,
    "required_score": 15.0,
    "action": "add header",
    "symbols": {
        "BAYES_SPAM": {
            "name": "BAYES_SPAM",
            "score": 3.25351,
            "metric_score": 5.1,
            "description": "Message probably spam, probability: ",
            "options": ["94.53%"],
        },
        "GTUBE": {"name": "GTUBE", "score": 5.1, "metric_score": 5.1},
    },
    "messages": {},
    "message-id": "m1@x",
    "time_real": 0.002,
}


def test_a_scan_is_read() -> None:
    """The fields are those of Rspamd 3.4's /checkv2."""
    assert parse_check(json.dumps(SCAN).encode()) == CheckResult(
        score=8.35351,
        required=15.0,
        action="add header",
        symbols=(
            Symbol("BAYES_SPAM", 3.25351, 5.1, ("94.53%",)),
            Symbol("GTUBE", 5.1, 5.1),
        ),
        is_skipped=False,
        message_id="m1@x",
        scan_time_s=0.002,
    )


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "null", '"15"', "true", "1e999", "9" * 400])
def test_an_odd_required_score_is_none(odd: str) -> None:
    """Rspamd writes null, NaN or an absurd number when reject is switched off."""
    assert parse_check(b'{"score":1,"required_score":%s}' % odd.encode()).required is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"pong\r\n",
        b"[]",
        b"{}",
        b'{"score":NaN}',
        b'{"score":null}',
        b'{"score":"5"}',
        b'{"error":"invalid command","error_domain":"protocol-error"}',
        b"[" * 100_000,
    ],
)
def test_an_answer_without_a_score_is_no_result(body: bytes) -> None:
    """A score that is absent is not 0."""
    with pytest.raises(RspamdUnavailable, match="without a score"):
        parse_check(body)


def test_odd_symbols_do_no_harm() -> None:
    """Missing and odd fields get their neutral values; bytes that are no UTF-8 are replaced."""
    body = b'{"score":1,"symbols":{"A":{},"B":7,"C":{"score":null,"options":[1,"\xff"]}}}'
    assert parse_check(body).symbols == (
        Symbol("A", 0.0),
        Symbol("B", 0.0),
        Symbol("C", 0.0, None, ("1", "\N{REPLACEMENT CHARACTER}")),
    )


@given(st.binary())
def test_any_body_ends_in_a_scan_or_our_error(body: bytes) -> None:
    """Whatever a broken peer sends."""
    for parse in (parse_check, parse_stat):
        with contextlib.suppress(RspamdUnavailable):
            parse(body)


def opinion(*symbols: Symbol) -> BayesOpinion | None:
    return bayes_of(CheckResult(score=0.0, required=None, action="", symbols=symbols))


def test_no_bayes_symbol_is_no_opinion() -> None:
    """Silence is not 50 %."""
    assert opinion(Symbol("MIME_GOOD", -0.1, -0.1)) is None


@pytest.mark.parametrize(
    ("name", "score", "weight", "option", "probability"),
    [
        # Taken from Rspamd 3.4. The last two: an opinion that the percentage alone still shows.
        ("BAYES_SPAM", 4.748492, 5.1, "99.11%", 0.99555),
        ("BAYES_SPAM", 0.265062, 5.1, "69.09%", 0.84545),
        ("BAYES_SPAM", 0.000361, 5.1, "30.28%", 0.6514),
        ("BAYES_HAM", -2.015592, -3.0, "95.15%", 0.02425),
        ("BAYES_HAM", -1.8e-05, -3.0, "22.24%", 0.3888),
        ("BAYES_SPAM", 0.0, 5.1, "11.00%", 0.555),
        ("BAYES_HAM", 0.0, -3.0, "11.00%", 0.445),
        # Certainty, which Rspamd may print with more than a hundred.
        ("BAYES_SPAM", 5.1, 5.1, "100.00%", 1.0),
        ("BAYES_HAM", -3.0, -3.0, "100.01%", 0.0),
    ],
)
def test_the_percentage_is_distance_from_even(
    name: str, score: float, weight: float, option: str, probability: float
) -> None:
    """30 % under BAYES_SPAM is a probability of 0.65 and not of 0.3."""
    found = opinion(Symbol(name, score, weight, (option,)))
    assert found is not None
    assert found.score == score
    assert found.probability == pytest.approx(probability, abs=1e-9)


def test_a_multiclass_percentage_is_recognised_by_its_score() -> None:
    """With `class =` in its statfiles Rspamd prints p itself: 5.1 * ((0.9 - 0.5) * 2) ** 8."""
    found = opinion(Symbol("BAYES_SPAM", 0.855638, 5.1, ("90.00%",)))
    assert found is not None
    assert found.probability == pytest.approx(0.9, abs=1e-6)


def test_without_a_percentage_the_score_tells() -> None:
    """The points are weight * |2p - 1| ** 8."""
    found = opinion(Symbol("BAYES_HAM", -2.015592, -3.0))
    assert found is not None
    assert found.probability == pytest.approx(0.0242, abs=1e-3)


def test_with_neither_the_symbol_says_nothing() -> None:
    """A composite may have taken the points away."""
    assert opinion(Symbol("BAYES_SPAM", 0.0)) == BayesOpinion(0.0, 0.5)


def test_two_opinions_add_up_and_the_stronger_names_the_probability() -> None:
    """Both can be there when two classifiers use the same symbols."""
    found = opinion(
        Symbol("BAYES_SPAM", 4.748492, 5.1, ("99.11%",)),
        Symbol("BAYES_HAM", -0.033738, -3.0, ("57.06%",)),
    )
    assert found is not None
    assert found.score == pytest.approx(4.714754)
    assert found.probability == pytest.approx(0.99555)


def test_counters_are_read() -> None:
    """The fields are those of Rspamd 3.4's /stat."""
    body = (
        b'{"version":"3.4","uptime":53,"scanned":7,"learned":2,"total_learns":5,"scan_times":[null],'
        b'"statfiles":[{"revision":3,"symbol":"BAYES_SPAM","users":1},"odd"]}'
    )
    found = parse_stat(body)
    assert (found.version, found.uptime_s, found.scanned) == ("3.4", 53, 7)
    assert (found.learned, found.total_learns) == (2, 5)
    assert found.statfiles[0] == Statfile("BAYES_SPAM", 3, 1)


def test_something_else_has_no_counters() -> None:
    """A web server may answer /stat, too."""
    with pytest.raises(RspamdUnavailable, match="/stat"):
        parse_stat(b"{}")
