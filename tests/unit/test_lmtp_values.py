"""Addresses, the wire and the stamp of the delivery filter: pure, so tried with anything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.lmtp import address, wire
from mailhooks.lmtp.stamp import STRANGERS, UNANSWERED, Answer, parse_answer, stamped

SIEVE = (Path(__file__).resolve().parents[2] / "sieve/classify.sieve").read_text(encoding="utf-8")
JUNK = Answer(is_junk=True, has_score=True, status="Yes, score=7.00")
HAM = Answer(is_junk=False, has_score=False, status="No, score=1.00")


@pytest.mark.parametrize(
    ("argument", "path", "parameters"),
    [
        ("TO:<ann@x.example>", "<ann@x.example>", {}),
        ("to: <Ann+a@X.example> A=b c", "<Ann+a@X.example>", {"A": "b", "C": None}),
        ('TO:<"a >\\" b"@x> SIZE=1', '<"a >\\" b"@x>', {"SIZE": "1"}),
        ("TO:<jörg@exämple.org>", "<jörg@exämple.org>", {}),
        ("TO:<>", "<>", {}),
        ("TO:<@relay.example:ann@x>", "<@relay.example:ann@x>", {}),
    ],
)
def test_a_path_is_taken_as_it_stands(
    argument: str, path: str, parameters: dict[str, str | None]
) -> None:
    """Quoting, case and route stay, and parameters are told apart."""
    assert address.parse_argument(argument, "TO:") == (path, parameters)


@pytest.mark.parametrize(
    "argument",
    [
        None,
        "",
        "ann@x",
        "FROM:<ann@x>",
        "TO:ann@x",
        "TO:<ann@x",
        "TO:<ann@x>>",
        "TO:<a b@x>",
        'TO:<"a@x>',
        "TO:<a\rb@x>",
        'TO:<"a\x00"@x>',
        "TO:<ann@x>A=b",
        "TO:<ann@x> A=b A=c",
        "TO:<ann@x> =b",
        "TO:<ann@x> A=",
    ],
)
def test_what_is_no_path_is_refused(argument: str | None) -> None:
    """Nothing that a next hop could read in another way gets there."""
    with pytest.raises(ValueError, match="expected"):
        address.parse_argument(argument, "TO:")


@pytest.mark.parametrize(
    ("path", "user"),
    [
        ("<ann@x.example>", "ann@x.example"),
        ("<Ann+Lists+A@X.Example>", "ann@x.example"),
        ("<ann-a@x.example>", "ann@x.example"),
        ("<+a@x.example>", "+a@x.example"),
        ('<"ann"@x.example>', "ann@x.example"),
        ('<"a\\"n@n+a"@x.example>', 'a"n@n@x.example'),
        ("<@relay:ann+a@x.example>", "ann@x.example"),
        ("<postmaster>", "postmaster"),
    ],
)
def test_a_user_is_named_as_where_mail_is_learned(path: str, user: str) -> None:
    """In lower case, without extension and quoting; by the local part alone if that is the way."""
    assert address.user_of(path, delimiters="+-", with_domain=True) == user
    local = user.rpartition("@")[0] or user
    assert address.user_of(path, delimiters="+-", with_domain=False) == local


def test_without_delimiters_there_are_no_extensions() -> None:
    """A plus sign may be part of a name."""
    assert address.user_of("<a+b@x>", delimiters="", with_domain=True) == "a+b@x"


@pytest.mark.parametrize(
    ("path", "detail", "junk"),
    [
        ("<Ann@x>", "Junk", "<Ann+Junk@x>"),
        ("<ann+lists@x>", "Junk", "<ann+Junk@x>"),
        ('<"a b"@x>', "Junk", '<"a b+Junk"@x>'),
        ("<ann@x>", "Junk E-mail", '<"ann+Junk E-mail"@x>'),
        ("<ann>", "Junk", "<ann+Junk>"),
    ],
)
def test_the_junk_address_has_another_extension(path: str, detail: str, junk: str) -> None:
    """Quoted where it must be; it parses, and means the same user."""
    assert address.with_detail(path, detail, "+") == junk
    assert address.parse_argument(f"TO:{junk}", "TO:") == (junk, {})
    for each in (path, junk):
        user = address.user_of(each, delimiters="+", with_domain=True)
        assert user == address.user_of(path, delimiters="+", with_domain=True)


LINES = st.lists(st.sampled_from([b".", b"..", b"", b"x", b"\r", b"\x00\xff", b".\r."]), max_size=6)


@given(LINES)
def test_content_comes_out_of_the_wire_as_it_went_in(lines: list[bytes]) -> None:
    """Doubling dots and taking them back is no change, and only the end looks like the end."""
    message = b"".join(line + b"\r\n" for line in lines)
    sent = wire.encode(message)
    assert sent.endswith(wire.END)
    content = sent[: -len(wire.END)]
    assert wire.decode(content) == message
    assert wire.is_end(content)
    ends = [at for at in range(len(content)) if content[at:].startswith(wire.END)]
    assert not [at for at in ends if wire.is_end(content[:at])]


@given(st.lists(st.sampled_from([b".", b"\n", b"\r", b"\r\n", b"a"]), max_size=12))
def test_no_bare_line_feed_gets_through(pieces: list[bytes]) -> None:
    """Whoever takes LF for a line end sees no end of content but ours."""
    sent = wire.encode(wire.decode(b"".join(pieces)))
    assert not re.search(rb"(?<!\r)\n", sent)
    lines = sent.split(b"\n")
    assert [number for number, line in enumerate(lines) if line == b".\r"] == [len(lines) - 2]


def test_the_stamp_and_the_sieve_script_agree() -> None:
    """What is removed and added is the same with and without Sieve."""
    deleted = {
        name.lower().encode()
        for name in re.findall(r'^  deleteheader "(.*)";', SIEVE, re.MULTILINE)
    }
    assert deleted == STRANGERS
    assert '    deleteheader "X-Mailhooks-Score";' in SIEVE
    assert f'set "status" "{UNANSWERED.status}";' in SIEVE
    added = re.findall(r'addheader "(.*?)"', SIEVE)
    copy = stamped(b"\r\n", JUNK).decode()
    assert sorted(re.findall(r"^(\S+):", copy, re.MULTILINE)) == sorted(added)


FORGED = (
    b"X-Spam-Status: No\r\n\tfolded\r\n folded\r\n"
    b"Subject: x\r\n folded\r\n"
    b"x-SPAM-flag : NO\r\n"
    b"X-Mailhooks-Score: v=1\r\n\tfolded\r\n"
    b"X-Mailhooks-Rspamd: v=1\r\n"
    b"X-Spammer: stays\r\n"
    b"no header field\r\n"
    b"X-Spam: last\r\n"
)
BODY = b"\r\nX-Spam-Flag: of the body\r\n"


@pytest.mark.parametrize(
    ("answer", "ours", "score"),
    [
        (JUNK, b"X-Spam-Flag: YES\r\nX-Spam-Status: Yes, score=7.00\r\n", True),
        (HAM, b"X-Spam-Status: No, score=1.00\r\n", False),
        (UNANSWERED, b"X-Spam-Status: No, mailhooks did not answer\r\n", True),
    ],
)
def test_what_a_stranger_wrote_is_out_and_ours_is_in(
    answer: Answer, ours: bytes, score: bool
) -> None:
    """Folded lines go with their field, a score that is none goes too, the body stays."""
    kept = b"X-Mailhooks-Score: v=1\r\n\tfolded\r\n" if score else b""
    rest = b"Subject: x\r\n folded\r\n" + kept + b"X-Spammer: stays\r\nno header field\r\n"
    assert stamped(FORGED + BODY, answer) == ours + rest + BODY
    assert stamped(FORGED, answer) == ours + rest


@given(
    st.lists(st.sampled_from([b"X-Spam: a\r\n", b" b\r\n", b"A: b\r\n", b"\r\n", b"\x00\xff\r\n"]))
)
def test_nothing_but_such_fields_is_touched(lines: list[bytes]) -> None:
    """All other lines are there, in order."""
    ours = b"X-Spam-Status: No, score=1.00\r\n"
    expected, dropping, in_header = [ours], False, True
    for line in lines:
        in_header = in_header and line != b"\r\n"
        dropping = in_header and (line.startswith(b"X-Spam") or (dropping and line[:1] == b" "))
        if not dropping:
            expected.append(line)
    assert stamped(b"".join(lines), HAM) == b"".join(expected)


def test_the_answer_of_the_daemon_is_read() -> None:
    """Folder, score and status, as Sieve gets them."""
    assert parse_answer(b"junk verified Yes, score=7.00") == JUNK
    assert parse_answer(b"inbox none No, score=1.00") == HAM
    assert parse_answer(b"junk broken-verified Yes, score=7.00") == JUNK


@pytest.mark.parametrize(
    "output",
    [b"", b"junk", b"junk none", b"trash none x", b"junk none a\r\nX-Evil: b", b"junk none \xff"],
)
def test_what_is_no_answer_is_refused(output: bytes) -> None:
    """No text from elsewhere gets into a header."""
    with pytest.raises(ValueError, match="no answer"):
        parse_answer(output)
