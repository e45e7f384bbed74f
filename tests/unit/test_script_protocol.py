from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.dovecot import (
    HeaderLimits,
    ScriptParser,
    ScriptRequest,
    decode_reply,
    encode_reply,
    encode_request,
)
from mailhooks.errors import ProtocolError

VERSION = b"VERSION\tscript\t4\t0\n"

# What Dovecot can send: any byte, valid UTF-8 or not, as PEP 383 text.
texts = st.binary(max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
names = texts.filter(lambda name: name != "" and "=" not in name)


def parse(header: bytes, limits: HeaderLimits | None = None) -> ScriptRequest:
    parser = ScriptParser(limits)
    parser.feed(header)
    return parser.close()


@given(
    args=st.lists(texts.filter(bool), max_size=5),
    env=st.dictionaries(names, texts, max_size=5),
    wants_reply=st.booleans(),
    message=st.binary(max_size=200),
    data=st.data(),
)
def test_round_trip(
    args: list[str], env: dict[str, str], wants_reply: bool, message: bytes, data: st.DataObject
) -> None:
    """Whatever is encoded comes back the same, wherever the stream is cut."""
    stream = encode_request(args, env, wants_reply=wants_reply) + message
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    parser = ScriptParser()
    received = b"".join(
        parser.feed(stream[start:end])
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
    )
    assert parser.close() == ScriptRequest(tuple(args), env, wants_reply)
    assert received == message


@given(args=st.lists(texts.filter(bool), max_size=3), env=st.dictionaries(names, texts, max_size=3))
def test_byte_by_byte(args: list[str], env: dict[str, str]) -> None:
    """The request appears with the last byte of the header and not before."""
    header = encode_request(args, env)
    parser = ScriptParser()
    for position in range(len(header)):
        assert parser.request is None
        assert parser.feed(header[position : position + 1]) == b""
    assert parser.request is not None
    assert parser.feed(b"\n\n") == b"\n\n"


lines = st.sampled_from(
    [
        *(VERSION, b"VERSION\tscript\t5\t0\n"),
        *(b"env_A=1\n", b"env_A=2\n", b"env_B=\xff=\n", b"env_=1\n", b"env_C\n", b"env_D=\x01t\n"),
        *(b"-\n", b"noreply\n", b"arg\n", b"a\tb\n", b"\x01x\n", b"\n", b"end"),
    ]
)


@given(
    header=st.lists(lines, max_size=8).map(b"".join),
    limits=st.builds(
        HeaderLimits,
        header_bytes=st.integers(1, 80),
        line_bytes=st.integers(1, 40),
        env_count=st.integers(0, 3),
        arg_count=st.integers(0, 3),
    )
    | st.just(HeaderLimits()),
    sound=st.booleans(),
)
def test_one_piece_or_many(header: bytes, limits: HeaderLimits, sound: bool) -> None:
    """A header that comes in one piece says the same as byte by byte, or is refused like that."""
    stream = VERSION + header if sound else header

    def outcome(pieces: list[bytes]) -> tuple[object, bytes]:
        parser, message = ScriptParser(limits), b""
        try:
            for piece in pieces:
                message += parser.feed(piece)
            return parser.close(), message
        except ProtocolError:  # whichever limit it comes upon first
            return "refused", b""

    assert outcome([stream]) == outcome([bytes([byte]) for byte in stream])


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Arbitrary input is a request or a ProtocolError, never another error."""
    for stream in (data, VERSION + data, VERSION + b"env_" + data, VERSION + b"-\n" + data):
        with contextlib.suppress(ProtocolError):
            parse(stream)


@given(st.binary(max_size=100), st.booleans())
def test_reply_round_trip(output: bytes, ok: bool) -> None:
    """A reply says the same after the wire, also when the output looks like a verdict."""
    assert decode_reply(encode_reply(output, ok=ok)) == (output, ok)


def test_as_dovecot_sends_it() -> None:
    """A header recorded from Dovecot is understood, and the message follows untouched."""
    parser = ScriptParser()
    message = parser.feed(
        VERSION
        + b"env_USER=alice@example.org\nenv_HOME=/var/mail/alice\nenv_HOST=mx\n-\n"
        + b"learn\ncause=COPY\n\nSubject: a\x01b\r\n\r\n\r\n"
    )
    assert parser.request == ScriptRequest(
        ("learn", "cause=COPY"),
        {"USER": "alice@example.org", "HOME": "/var/mail/alice", "HOST": "mx"},
        wants_reply=True,
    )
    assert message == b"Subject: a\x01b\r\n\r\n\r\n"


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (b"\x010", "\x00"),
        (b"\x011", "\x01"),
        (b"\x01t", "\t"),
        (b"\x01r", "\r"),
        (b"\x01n", "\n"),
        (b"\x0111", "\x011"),
        (b"\x011t", "\x01t"),
        ("ü=é".encode(), "ü=é"),
        (b"\xff", "\udcff"),
    ],
)
def test_escapes(escaped: bytes, text: str) -> None:
    """Each escape is read and written as Dovecot does."""
    header = VERSION + b"env_X=" + escaped + b"\n-\n" + escaped + b"\n\n"
    request = parse(header)
    assert request.env == {"X": text}
    assert request.args == (text,)
    assert encode_request([text], {"X": text}) == header


def test_minor_version_and_noreply() -> None:
    """Any minor version is taken, and noreply says that nobody reads an answer."""
    request = parse(b"VERSION\tscript\t4\t17\nnoreply\n\n")
    assert request == ScriptRequest((), {}, wants_reply=False)


def test_env_is_read_only() -> None:
    """A handler cannot change the environment that later code trusts."""
    env = parse(VERSION + b"env_USER=a\n-\n\n").env
    with pytest.raises(TypeError):
        env["USER"] = "b"  # type: ignore[index]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"\n", r"line 1: expected VERSION.* got b''"),
        (b"VERSION\tscript\t3\t0\n", r"line 1: expected VERSION.*4<TAB>minor, got b'VERSION"),
        (b"VERSION\tscript\t5\t0\n", r"line 1: expected VERSION"),
        (b"VERSION\tscript\t4\n", r"line 1: expected VERSION"),
        (b"VERSION\tscript\t4\t\n", r"line 1: expected VERSION"),
        (b"VERSION\tscript\t4\t0\r\n", r"line 1: expected VERSION"),
        (b"VERSION\tscript\t4\t0 \n", r"line 1: expected VERSION"),
        (b"VERSION\tscript\t4\t" + b"9" * 5000 + b"\n", r"line 1: expected VERSION"),
        (b"VERSION script 4 0\n", r"line 1: expected VERSION"),
        (b"VERSION\tauth\t4\t0\n", r"line 1: expected VERSION"),
        ("VERSION\tscript\t٤\t0\n".encode(), r"line 1: expected VERSION"),
        (b"GET / HTTP/1.1\r\n", r"line 1: expected VERSION.* got b'GET / HTTP/1.1\\r'"),
        (VERSION + b"\n", r"line 2: expected env_NAME=value, '-' or 'noreply'"),
        (VERSION + b"-- \n", r"line 2: expected env_NAME=value, '-' or 'noreply'"),
        (VERSION + b"alarm=5\n", r"line 2: expected env_NAME=value, '-' or 'noreply'"),
        (VERSION + b"env_USER\n", r"line 2: expected env_NAME=value with a name and '='"),
        (VERSION + b"env_=x\n", r"line 2: expected env_NAME=value with a name and '='"),
        (VERSION + b"env_A=1\nenv_A=2\n", r"line 3: expected each environment variable once"),
        (VERSION + b"env_A=\x01x\n", r"line 2: expected a tab-escaped line"),
        (VERSION + b"env_A=\x01\n", r"line 2: expected a tab-escaped line"),
        (VERSION + b"env_A=\x01\x01\n", r"line 2: expected a tab-escaped line"),
        (VERSION + b"env_A=a\tb\n", r"line 2: expected a tab-escaped line"),
        (VERSION + b"-\narg\r\n", r"line 3: expected a tab-escaped line"),
        (VERSION + b"-\na\x00\n", r"line 3: expected a tab-escaped line"),
        (b"", r"line 1: expected the rest of the header, got end of input"),
        (VERSION + b"-\narg\n", r"line 4: expected the rest of the header, got end of input"),
        (VERSION + b"-\narg", r"line 3: expected the rest of the header, got end of input"),
    ],
)
def test_refused_headers(header: bytes, expected: str) -> None:
    """A wrong header names the line and what was expected there, at any chunking."""
    with pytest.raises(ProtocolError, match=expected):
        parse(header)
    with pytest.raises(ProtocolError, match=expected):
        byte_by_byte(header)


def byte_by_byte(header: bytes) -> None:
    parser = ScriptParser()
    for position in range(len(header)):
        parser.feed(header[position : position + 1])
    parser.close()


def test_errors_quote_no_user() -> None:
    """An error text about a line that may name a user does not repeat it."""
    with pytest.raises(ProtocolError) as caught:
        parse(VERSION + b"env_USER=alice\x01?\n")
    assert "alice" not in str(caught.value)


LIMITS = HeaderLimits(header_bytes=60, line_bytes=20, env_count=2, arg_count=2)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (VERSION + b"env_A=" + b"x" * 15, r"line 2: expected a line of at most 20 bytes"),
        (VERSION + b"env_A=" + b"x" * 15 + b"\n", r"line 2: expected a line of at most 20 bytes"),
        (VERSION + b"-\n" + b"aaaaaaaaa\n" * 9, r"line 5: expected at most 2 arguments"),
        (VERSION + b"env_A=\nenv_B=\nenv_C=\n", r"line 4: expected at most 2 environment"),
        (
            VERSION + b"env_A=123456789\nenv_B=123456789\n-\n" + b"aaaaaaaaaa",
            r"line 5: expected the header to end within 60 bytes",
        ),
    ],
)
def test_limits(header: bytes, expected: str) -> None:
    """Each limit is enforced, for a line that never ends as well."""
    with pytest.raises(ProtocolError, match=expected):
        parse(header, LIMITS)


def test_largest_header_within_limits() -> None:
    """A header that reaches every limit exactly is taken."""
    header = VERSION + b"env_A=12345\nenv_B=12\n-\n" + b"aaa\nbbbbbbbbb\n\n"
    limits = HeaderLimits(header_bytes=len(header), line_bytes=18, env_count=2, arg_count=2)
    message = ScriptParser(limits).feed(header + b"m" * 1000)
    assert message == b"m" * 1000
    with pytest.raises(ProtocolError, match=f"within {len(header) - 1} bytes"):
        parse(header, HeaderLimits(header_bytes=len(header) - 1))


def test_broken_parser_stays_broken() -> None:
    """After an error every later call raises it again and nothing piles up."""
    parser = ScriptParser(LIMITS)
    with pytest.raises(ProtocolError) as first:
        parser.feed(b"nonsense\n" + b"x" * 1000)
    with pytest.raises(ProtocolError) as second:
        parser.feed(b"x" * 1000)
    with pytest.raises(ProtocolError) as third:
        parser.close()
    assert first.value is second.value is third.value
    assert not parser._pending


def test_endless_line_holds_little_memory() -> None:
    """A line without end is given up once it exceeds its limit."""
    parser = ScriptParser(HeaderLimits(line_bytes=1000))
    parser.feed(VERSION)
    for _ in range(10):
        parser.feed(b"x" * 100)
    with pytest.raises(ProtocolError, match="at most 1000 bytes"):
        parser.feed(b"x")


@pytest.mark.parametrize(
    ("args", "env", "reason"),
    [
        (["a", "", "b"], {}, "an empty argument would end the header"),
        ([], {"": "x"}, "not a name"),
        ([], {"A=B": "x"}, "not a name"),
        (["\ud800"], {}, "surrogates not allowed"),
    ],
)
def test_requests_that_cannot_be_encoded(args: list[str], env: dict[str, str], reason: str) -> None:
    """What the protocol cannot carry is refused instead of sent as something else."""
    with pytest.raises(ValueError, match=reason):
        encode_request(args, env)


@pytest.mark.parametrize("data", [b"", b"+", b"\n", b"+\r\n", b"output", b"output\n", b"+\n "])
def test_replies_without_a_verdict(data: bytes) -> None:
    """A reply that does not end in a verdict is an error, not a failure of the program."""
    with pytest.raises(ProtocolError, match="expected it to end in"):
        decode_reply(data)
