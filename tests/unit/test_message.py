from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.message import (
    content_digest,
    identity,
    is_editable,
    normal_address,
    read_header,
    unfold,
    without_fields,
)

MESSAGE = (
    b"Received: from a\r\n\tby b\r\nFrom: Ann <ann@example.org>\r\nSubject: one\r\n two\r\n"
    b"subject: three\r\n\r\nbody: not a header\r\n"
)


def test_values_are_found_whatever_their_case_and_unfolded() -> None:
    """A field's values come topmost first, on one line each."""
    header = read_header(MESSAGE)
    assert header.values("SUBJECT") == [b"one two", b"three"]
    assert header.values("received") == [b"from a by b"]
    assert header.values("body") == []


def test_lf_and_crlf_read_alike() -> None:
    """Line ends do not change what a header says."""
    lf = MESSAGE.replace(b"\r\n", b"\n")
    assert read_header(lf).values("subject") == read_header(MESSAGE).values("subject")


def test_a_message_without_header_or_body_reads_as_empty() -> None:
    """Nothing that is no header field is taken for one."""
    assert read_header(b"").fields == ()
    assert read_header(b"\r\nSubject: in the body\r\n").fields == ()
    assert read_header(b"no colon here\r\n\r\n").fields == ()
    assert read_header(b"From someone Mon Jan 1\nSubject: x\n\n").values("subject") == [b"x"]


@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_an_exception(data: bytes) -> None:
    """A hostile message cannot make the reader fail."""
    header = read_header(data)
    assert header.size_bytes <= len(data)
    assert len(content_digest(data)) == 64


@given(
    st.lists(
        st.sampled_from(
            [
                *(b"From", b"DATE", b"Subject", b"message-id", b"x", b":"),
                *(b" ", b"\t", b"\r", b"\n", b"\r\n", b"\xff", b"\x00", b"\x0b"),
            ]
        ),
        max_size=30,
    )
)
def test_a_digest_is_the_same_with_and_without_a_header_read_before(parts: list[bytes]) -> None:
    """A move and a delivery of one message agree, however odd it is."""
    data = b"".join(parts)
    assert content_digest(data) == content_digest(data, read_header(data))


@given(
    st.lists(
        st.sampled_from(
            [
                b"From",
                b"from ",
                b"FROM\t",
                b"Fro",
                b"Date",
                b":",
                b" x",
                b"\ty",
                b"\r\n",
                b"\n",
                b"\r",
            ]
        ),
        max_size=20,
    ).map(b"".join)
)
def test_some_fields_are_read_as_among_all(message: bytes) -> None:
    """Whoever asks for a field that was not read is told so."""
    some, whole = read_header(message, "from", "date"), read_header(message)
    assert some.size_bytes == whole.size_bytes
    for name in ("From", "date"):
        assert some.values(name) == whole.values(name)
    with pytest.raises(ValueError, match="not read: subject"):
        some.values("subject")


@given(st.lists(st.sampled_from([b"a", b"b:", b" ", b"\t", b"\r\n ", b"\n\t"]), max_size=20))
def test_folding_differently_does_not_change_a_value(parts: list[bytes]) -> None:
    """Unfolding is idempotent and deaf to how white space is written."""
    value = b"x".join(parts)
    assert unfold(unfold(value)) == unfold(value)
    assert unfold(re.sub(rb"\r?\n[ \t]", b" ", value)) == unfold(value)


def test_an_envelope_address_is_compared_without_brackets_and_case() -> None:
    """Postfix gives it to milters in lower case, and to Dovecot as it was typed."""
    assert normal_address("<Ann.X@Example.ORG>") == b"ann.x@example.org"
    assert normal_address("<>") == b""


def test_identity_takes_every_value_of_a_doubled_field() -> None:
    """A second From added later makes it another message."""
    one = identity(read_header(b"From: a\r\n\r\n"))
    two = identity(read_header(b"From: a\r\nFrom: b\r\n\r\n"))
    assert one != two


def test_digest_ignores_what_deliveries_add_and_line_ends() -> None:
    """The same message has one digest before and after delivery."""
    delivered = b"X-Spam-Status: No\r\nReturn-Path: <a@b>\r\n" + MESSAGE
    assert content_digest(delivered) == content_digest(MESSAGE)
    assert content_digest(MESSAGE.replace(b"\r\n", b"\n")) == content_digest(MESSAGE)
    assert content_digest(MESSAGE + b"more\r\n") != content_digest(MESSAGE)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_fields_are_taken_out_with_their_folds_and_nothing_else_changes(end: bytes) -> None:
    """Also from the first line, and never from the body."""
    lines = [
        b"X-Spam-Flag: YES",
        b"Subject: x",
        b" X-Spam-folded: stays",
        b"x-spam: y",
        b"\tfold: z",
        b"X-Spamless",
        b"To: a",
        b"",
        b"X-Spam-Body: stays",
    ]
    kept = [*lines[1:3], lines[6], *lines[7:]]
    assert without_fields(end.join(lines), (b"x-spam",)) == end.join(kept)


def test_a_message_without_such_fields_is_as_it_was() -> None:
    """Byte for byte, whatever it is."""
    for message in (b"", b"\r\n", b"no header", b"A: b\r\n\r\nx", bytes(range(256))):
        assert without_fields(message, (b"x-spam",)) == message


def digest_of_a_parsed_header(message: bytes) -> str:
    """What the digest covers, by way of `read_header`."""
    header = read_header(message)
    digest = hashlib.sha256()
    for name in ("message-id", "date", "from", "subject"):
        for value in header.values(name):
            digest.update(b"%s:%s\n" % (name.encode("ascii"), value))
    digest.update(b"\n")
    digest.update(message[header.size_bytes :].replace(b"\r\n", b"\n").strip(b"\n"))
    return digest.hexdigest()


LINES = (
    b"Date:",
    b"from \t: x",
    b"SUBJECT:a",
    b"\tfold:",
    b" ",
    b"From a@b 12:00",
    b"x: y",
    b"",
    b":",
)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(LINES), st.binary(max_size=9)),
            st.sampled_from((b"\n", b"\r\n", b"\r", b"")),
        )
    )
)
def test_the_digest_reads_fields_as_the_parser_does(lines: list[tuple[bytes, bytes]]) -> None:
    """Only faster: folds, blanks before the colon, odd line ends, text that is no field."""
    message = b"".join(line + end for line, end in lines)
    assert content_digest(message) == digest_of_a_parsed_header(message)


@pytest.mark.parametrize(
    ("header", "editable"),
    [
        (b"A: b\r\nC:d\r\n", True),
        (b"A: b\nC : d\n e\n", True),
        (b" fold\r\nA: b\r\n", True),
        (b": no name\r\nA: b\r\n", True),
        (b"From x@y Mon Nov 23 10:00:00 2026\nA: b\n", True),
        (b"A: " + b"x" * 5000 + b"\r\n", True),
        (b"X" * 900 + b": y\r\n", True),
        (b"", True),
        (b"no colon\r\nA: b\r\n", False),
        (b"A: b\nno colon\n fold: x\n", False),
        (b"A: b\r\nlast", False),
        (b"X" * 1001 + b": y\r\n", False),
        (b"A: b\r\n" + b"X" * 998 + b"\r\n XX: y\r\n", False),
    ],
)
@pytest.mark.parametrize("body", [b"\r\nno colon\r\n", b"\nx\n", b""])
def test_a_header_with_a_line_that_is_no_field_is_not_edited(
    header: bytes, editable: bool, body: bytes
) -> None:
    """Whatever the body looks like, and however long the values are."""
    if header == b"A: b\r\nlast" and body:
        header += b"\r\n"
    assert is_editable(header + body) is editable
