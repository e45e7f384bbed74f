"""The client against a socket that answers byte for byte as Rspamd 3.4 does."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mailhooks.errors import RspamdError, RspamdMisconfigured, RspamdUnavailable
from mailhooks.lesson import SHARED_USER
from mailhooks.rspamd import LearnStatus, RspamdClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

MESSAGE = b"Subject: hello\r\n\r\nworld\r\n"
USER = "bob@example.org"
FEW = "<few@x> contains less tokens than required for bayes classifier: 3 < 11"
SCAN = b'{"is_skipped":false,"score":1.5,"required_score":15.0,"action":"no action","symbols":{}}'


def learn_answer(code: int, text: str, body: str | None = None) -> bytes:
    """Return what the controller sends for this outcome of a learn."""
    content = (f'{{"error":"{text}"}}' if body is None else body).encode()
    head = (
        f"HTTP/1.1 {code} {text}\r\n"
        "Connection: close\r\n"
        "Server: rspamd/3.4\r\n"
        "Date: Sun, 22 Nov 2026 18:30:14 GMT\r\n"
        f"Content-Length: {len(content)}\r\n"
        "Content-Type: application/json\r\n"
        "Cache-Control: no-store\r\n"
        "\r\n"
    )
    return head.encode() + content


def scan_answer(body: bytes = SCAN) -> bytes:
    return learn_answer(200, "OK", body.decode())


LEARNED = learn_answer(200, "OK", '{"success":true}')


@dataclass
class Request:
    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) < 2
        return found[0] if found else None


@dataclass
class FakeRspamd:
    """Reads one request a connection, sends the segments one by one, closes."""

    segments: list[bytes] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hang: bool = False
    most_at_once: int = 0
    _at_once: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = [(k, v.strip()) for k, _, v in (f.partition(":") for f in fields if f)]
            request = Request(line, headers, b"")
            request.body = await reader.readexactly(int(request["Content-Length"] or 0))
            self.requests.append(request)
            self.asked.set()
            if self.hang:
                await reader.read()
            for segment in self.segments:
                writer.write(segment)
                for _ in range(3):  # turns of the loop, in which the client reads the segment
                    await asyncio.sleep(0)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._at_once -= 1
            writer.close()

    @asynccontextmanager
    async def on_tcp(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    @asynccontextmanager
    async def on_unix(self, path: Path) -> AsyncIterator[str]:
        async with await asyncio.start_unix_server(self.serve, path):
            yield f"unix:{path}"


@asynccontextmanager
async def client_of(fake: FakeRspamd, **settings: Any) -> AsyncIterator[RspamdClient]:
    async with (
        fake.on_tcp() as url,
        RspamdClient(scan_url=url, learn_url=url, **settings) as client,
    ):
        yield client


async def test_a_learn_sends_the_message_and_names_its_user() -> None:
    """The body is untouched and no header comes from the message."""
    fake = FakeRspamd([LEARNED])
    async with client_of(fake, password="secret") as client:
        result = await client.learn_spam(MESSAGE, user=USER)
    assert result.status is LearnStatus.LEARNED
    (request,) = fake.requests
    assert request.line == "POST /learnspam HTTP/1.1"
    assert request.body == MESSAGE
    assert (request["Deliver-To"], request["Password"]) == (USER, "secret")
    assert request["Learn-Type"] is None
    # A compressed answer would have to be unpacked.
    assert request["Accept-Encoding"] == "identity"


async def test_bulk_and_ham_reach_rspamd() -> None:
    """The class is the path, bulk a header."""
    fake = FakeRspamd([LEARNED])
    async with client_of(fake) as client:
        await client.learn_ham(MESSAGE, user=USER, bulk=True)
    assert fake.requests[0].line == "POST /learnham HTTP/1.1"
    assert fake.requests[0]["Learn-Type"] == "bulk"
    assert fake.requests[0]["Password"] is None
    assert fake.requests[0]["Classifier"] is None


async def test_one_of_several_classifiers_learns() -> None:
    """Rspamd knows it by a header: the user's own, or the one all users share."""
    fake = FakeRspamd([LEARNED, LEARNED])
    async with client_of(fake, classifier="own", shared_classifier="all") as client:
        await client.learn_spam(MESSAGE, user=USER)
        await client.learn_ham(MESSAGE, user=SHARED_USER)
    assert [request["Classifier"] for request in fake.requests] == ["own", "all"]
    assert fake.requests[1]["Deliver-To"] == SHARED_USER


async def test_no_users_statistics_learn_what_is_meant_for_the_shared_ones() -> None:
    """Without a shared classifier that is a mistake in the settings."""
    fake = FakeRspamd([LEARNED])
    async with client_of(fake, classifier="own") as client:
        with pytest.raises(RspamdMisconfigured, match="no shared classifier"):
            await client.learn_spam(MESSAGE, user=SHARED_USER)
    assert fake.requests == []


async def test_one_scan_tells_the_own_and_the_shared_opinion() -> None:
    """Each from its own pair of symbols; one that is silent has none."""
    scan = json.loads(SCAN)
    scan["symbols"]["BAYES_HAM_SHARED"] = {
        "score": -2.0,
        "metric_score": -4.0,
        "options": ["91.70%"],
    }
    fake = FakeRspamd([scan_answer(json.dumps(scan).encode())])
    async with client_of(fake) as client:
        own, shared = await client.check_opinions(MESSAGE, user=USER)
    assert own is None
    assert shared is not None
    assert shared.probability == pytest.approx((1 - 0.917) / 2)


@pytest.mark.parametrize("size", [1, 2, 3, 11, 12, 13, 40, 100_000])
async def test_a_204_is_read_with_its_reason_and_body(size: int) -> None:
    """However the network cuts it, with the cut inside the status code too."""
    answer = learn_answer(204, FEW)
    fake = FakeRspamd([answer[start : start + size] for start in range(0, len(answer), size)])
    async with client_of(fake) as client:
        for _ in range(2):  # the second connection is treated like the first
            result = await client.learn_spam(MESSAGE, user=USER)
            assert (result.status, result.http_status) == (LearnStatus.TOO_FEW_TOKENS, 204)
            assert result.explanation == FEW.removeprefix("<few@x> ")


async def test_a_204_whose_reason_was_replaced_is_read_from_its_body() -> None:
    """This is what needs the body of a 204."""
    answer = learn_answer(204, FEW).replace(FEW.encode(), b"No Content", 1)
    async with client_of(FakeRspamd([answer])) as client:
        result = await client.learn_spam(MESSAGE, user=USER)
    assert result.status is LearnStatus.TOO_FEW_TOKENS


@pytest.mark.parametrize("tail", [b"", b"Content-Length: 0\r\n"])
async def test_a_204_without_a_body_is_temporary(tail: bytes) -> None:
    """A proxy that mends Rspamd's HTTP also takes away the cause."""
    answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n" + tail + b"\r\n"
    async with client_of(FakeRspamd([answer])) as client:
        with pytest.raises(RspamdUnavailable, match="204 No Content"):
            await client.learn_spam(MESSAGE, user=USER)


async def test_a_reason_as_long_as_a_message_id_can_be_is_read() -> None:
    """The sender chooses the length of the reason phrase."""
    fake = FakeRspamd([learn_answer(204, f"<{'x' * 200_000}> {FEW}")])
    async with client_of(fake) as client:
        result = await client.learn_spam(MESSAGE, user=USER)
    assert result.status is LearnStatus.TOO_FEW_TOKENS


@pytest.mark.parametrize("text", ['<f"e\\w@x> ', "<\N{LATIN SMALL LETTER E WITH ACUTE}> ", ""])
async def test_odd_message_ids_in_the_reason_do_no_harm(text: str) -> None:
    """Quotes are not escaped in the body."""
    fake = FakeRspamd([learn_answer(204, text + FEW)])
    async with client_of(fake) as client:
        result = await client.learn_spam(MESSAGE, user=USER)
    assert result.status is LearnStatus.TOO_FEW_TOKENS


async def test_an_error_of_redis_as_status_code_is_temporary_and_told() -> None:
    """Rspamd 3.4 puts hiredis' error number where the code belongs."""
    text = "cannot get learned: error getting reply from redis server r:6379: Connection refused"
    async with client_of(FakeRspamd([learn_answer(1, text)])) as client:
        with pytest.raises(RspamdUnavailable, match=f"no answer we know: 1 {text}"):
            await client.learn_spam(MESSAGE, user=USER)


async def test_a_wrong_password_is_a_mistake_and_is_not_repeated() -> None:
    """The URL is named, the password is not."""
    fake = FakeRspamd([learn_answer(401, "Unauthorized")])
    async with client_of(fake, password="hush") as client:
        for call in (client.learn_spam(MESSAGE, user=USER), client.stat()):
            with pytest.raises(RspamdMisconfigured, match=r"http://127\.0\.0\.1:\d+ refuses") as e:
                await call
            assert "hush" not in str(e.value)


async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    """204 included."""
    fake = FakeRspamd([learn_answer(204, FEW)])
    async with (
        fake.on_unix(tmp_path / "s") as url,
        RspamdClient(scan_url=url, learn_url=url) as client,
    ):
        result = await client.learn_spam(MESSAGE, user=USER)
    assert result.status is LearnStatus.TOO_FEW_TOKENS


async def test_a_message_beyond_a_megabyte_is_sent_whole() -> None:
    """Nothing on the way cuts it, or warns about its size."""
    fake = FakeRspamd([LEARNED])
    async with client_of(fake) as client:
        await client.learn_spam(MESSAGE + b"x" * 3_000_000, user=USER)
    assert len(fake.requests[0].body) == len(MESSAGE) + 3_000_000


async def test_a_scan_passes_on_what_is_known_of_the_envelope() -> None:
    """A bounce has an empty sender; several recipients are several headers."""
    fake = FakeRspamd([scan_answer()])
    async with client_of(fake, password="secret") as client:
        result = await client.check(
            MESSAGE,
            user=USER,
            settings_id="delivery",
            envelope_from="",
            helo="mx.example.net",
            ip="192.0.2.7",
            rcpts=["a@example.org", "b@example.org"],
            queue_id="4XYZ",
        )
    assert (result.score, result.required) == (1.5, 15.0)
    (request,) = fake.requests
    assert request.line == "POST /checkv2 HTTP/1.1"
    assert (request["From"], request["Helo"], request["IP"]) == (
        "<>",
        "mx.example.net",
        "192.0.2.7",
    )
    assert (request["Settings-ID"], request["Queue-Id"]) == ("delivery", "4XYZ")
    assert [v for k, v in request.headers if k == "Rcpt"] == ["a@example.org", "b@example.org"]
    # The normal worker asks for no password and has no business knowing it.
    assert request["Password"] is None


async def test_a_bayes_check_asks_for_statistics_alone() -> None:
    """By a bare object that needs nothing in Rspamd's configuration."""
    symbol = {"score": 3.25351, "metric_score": 5.1, "options": ["94.53%"]}
    shared = {"score": 1.0, "metric_score": 2.0}
    body = {"score": 4.2, "symbols": {"BAYES_SPAM": symbol, "BAYES_SPAM_SHARED": shared}}
    fake = FakeRspamd([scan_answer(json.dumps(body).encode())])
    async with client_of(fake) as client:
        opinion = await client.check_bayes(MESSAGE, user=USER)
    assert opinion is not None
    assert opinion.score == 3.25351
    assert opinion.probability == pytest.approx(0.97265)
    assert fake.requests[0]["Deliver-To"] == USER
    settings = json.loads(fake.requests[0]["Settings"] or "")
    assert settings["groups_enabled"] == ["statistics"]
    assert {"HISTORY_SAVE", "REPLIES_SET", "NEURAL_LEARN"} <= set(settings["symbols_disabled"])


async def test_a_bayes_check_that_was_a_full_scan_is_a_mistake() -> None:
    """Rspamd ignored our settings, and somebody has to hear of it."""
    others = "".join(f',"RULE_{number}":{{"score":1}}' for number in range(20))
    body = b'{"score":1,"symbols":{"BAYES_HAM":{"score":-1}%s}}' % others.encode()
    async with client_of(FakeRspamd([scan_answer(body)])) as client:
        with pytest.raises(RspamdMisconfigured, match="RULE_0"):
            await client.check_bayes(b"x", user="ann")


async def test_symbols_of_rspamds_core_do_not_spoil_a_bayes_check() -> None:
    """A plus-address brings TAGGED_RCPT along, whatever the settings say."""
    body = (
        b'{"score":1,"symbols":{"BAYES_HAM":{"score":-1,"options":["90.00%"]},'
        b'"TAGGED_RCPT":{"score":0}}}'
    )
    async with client_of(FakeRspamd([scan_answer(body)])) as client:
        opinion = await client.check_bayes(b"x", user="ann")
    assert opinion is not None
    assert opinion.score == -1


@pytest.mark.parametrize(
    "body", [SCAN, b'{"score":15,"is_skipped":true,"symbols":{"GTUBE":{"score":0}}}']
)
async def test_no_opinion_is_none(body: bytes) -> None:
    """Untrained statistics, and a test pattern that Rspamd judges before any rule."""
    async with client_of(FakeRspamd([scan_answer(body)])) as client:
        assert await client.check_bayes(MESSAGE, user=USER) is None


async def test_counters_come_from_the_controller() -> None:
    """With the password."""
    fake = FakeRspamd([learn_answer(200, "OK", '{"version":"3.4","scanned":7}')])
    async with client_of(fake, password="secret") as client:
        assert (await client.stat()).scanned == 7
    assert fake.requests[0].line == "GET /stat HTTP/1.1"
    assert fake.requests[0]["Password"] == "secret"


async def test_a_ping_asks_both_and_wants_a_pong() -> None:
    """A web server that answers 200 is not Rspamd."""
    fake = FakeRspamd([learn_answer(200, "OK", "pong\r\n")])
    async with client_of(fake) as client:
        await client.ping()
        assert [request.line for request in fake.requests] == ["GET /ping HTTP/1.1"] * 2
        fake.segments = [learn_answer(200, "OK", "<html>")]
        with pytest.raises(RspamdUnavailable, match="ping"):
            await client.ping()


CALLS: dict[str, Callable[[RspamdClient], Awaitable[object]]] = {
    "learn": lambda client: client.learn_spam(MESSAGE, user=USER),
    "check": lambda client: client.check(MESSAGE, user=USER),
    "bayes": lambda client: client.check_bayes(MESSAGE, user=USER),
    "stat": lambda client: client.stat(),
    "ping": lambda client: client.ping(),
}
BROKEN = {
    "nothing": b"",
    "short": b"HTTP/1.1 2",
    "code cut": b"HTTP/1.1 204",
    "head cut": b"HTTP/1.1 204 contains less tok",
    "body cut": learn_answer(204, FEW)[:-3],
    "body of a scan cut": scan_answer()[:-3],
    "no http": b"220 mx.example.org ESMTP Postfix\r\n",
    "zeros": bytes(1000),
    "no length": b"HTTP/1.1 500 x\r\n\r\nbody until the end",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "bad gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "endless header": b"HTTP/1.1 200 " + b"x" * 2**21,
    "bad charset": b"HTTP/1.1 500 \xff\xfe\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
async def test_a_broken_answer_is_temporary(
    call: Callable[[RspamdClient], Awaitable[object]], answer: bytes
) -> None:
    """No error of the socket's comes through; ours names the URL and fits one line of a log."""
    async with client_of(FakeRspamd([answer])) as client:
        with pytest.raises(
            RspamdUnavailable, match=r"Rspamd at http://127\.0\.0\.1:\d+ "
        ) as caught:
            await call(client)
    assert "\n" not in str(caught.value)


async def test_a_redirect_is_not_followed() -> None:
    """The message and the password go to nobody but Rspamd."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    fake = FakeRspamd([answer])
    async with client_of(fake) as client:
        with pytest.raises(RspamdUnavailable, match="302 Found"):
            await client.learn_spam(MESSAGE, user=USER)
    assert len(fake.requests) == 1


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_an_answer_that_does_not_come_is_temporary(
    call: Callable[[RspamdClient], Awaitable[object]],
) -> None:
    """The time is the caller's, and the error names it."""
    async with client_of(FakeRspamd(hang=True), timeout_s=0.05) as client:
        with pytest.raises(RspamdUnavailable, match=r"gave no answer in 0\.05 s"):
            await call(client)


async def test_an_answer_that_comes_byte_by_byte_has_no_more_time() -> None:
    """What has come counts, not that more of it might come."""
    async with client_of(FakeRspamd([b"H"] * 20_000), timeout_s=0.05) as client:
        with pytest.raises(RspamdUnavailable, match=r"gave no answer in 0\.05 s"):
            await client.ping()


async def test_one_call_may_have_less_time() -> None:
    """A delivery waits less long than a learn."""
    async with client_of(FakeRspamd(hang=True), timeout_s=3600) as client:
        with pytest.raises(RspamdUnavailable, match=r"in 0\.05 s"):
            await client.check_bayes(MESSAGE, user=USER, timeout_s=0.05)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "unix:/nonexistent/rspamd.sock"])
async def test_no_server_is_temporary(url: str) -> None:
    """Rspamd may be restarting."""
    async with RspamdClient(scan_url=url, learn_url=url) as client:
        for call in CALLS.values():
            with pytest.raises(RspamdUnavailable, match=f"Rspamd at {url} cannot be asked"):
                await call(client)


async def test_cancelling_passes_through() -> None:
    """A daemon that stops does not mistake it for a failure of Rspamd's."""
    fake = FakeRspamd(hang=True)
    async with client_of(fake) as client:
        task = asyncio.create_task(client.learn_spam(MESSAGE, user=USER))
        await fake.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_no_more_connections_than_allowed() -> None:
    """The rest waits its turn."""
    fake = FakeRspamd([LEARNED])
    async with client_of(fake, max_connections=2) as client:
        calls = (client.learn_spam(MESSAGE, user=USER) for _ in range(10))
        assert all(result.learned for result in await asyncio.gather(*calls))
    assert (len(fake.requests), fake.most_at_once) == (10, 2)


BLANK_USERS = ["", " ", "\t", "<>", "< >"]
CHANGED_USERS = [" bob", "bob ", "<bob@x>", "a\r\nPassword: x", "a\0b", "a\tb", "\udcff"]
LONG_USERS = ["x" * 256, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 128]


@pytest.mark.parametrize("user", [*BLANK_USERS, *CHANGED_USERS, *LONG_USERS])
async def test_a_user_that_rspamd_would_change_or_share_is_refused(user: str) -> None:
    """`<>` and a blank would teach the statistics that all users share, or kill a worker."""
    fake = FakeRspamd([LEARNED])
    async with client_of(fake) as client:
        for call in (client.learn_spam, client.learn_ham, client.check_bayes, client.check):
            with pytest.raises(ValueError, match="not a user"):
                await call(MESSAGE, user=user)
    assert fake.requests == []


async def test_users_go_out_as_they_are() -> None:
    """UTF-8 included; to fold their case is the caller's decision."""
    fake = FakeRspamd([LEARNED])
    users = ["J\N{LATIN SMALL LETTER U WITH DIAERESIS}rgen@ex.org", "Bob Smith", "x" * 255]
    async with client_of(fake) as client:
        for user in users:
            await client.learn_spam(MESSAGE, user=user)
    assert [request["Deliver-To"] for request in fake.requests] == users


@pytest.mark.parametrize("value", ["", " ", "a\r\nb", "a\nb", "a\0b", "\udcff"])
async def test_a_header_cannot_be_smuggled_in(value: str) -> None:
    """Whichever argument carries it."""
    fake = FakeRspamd([scan_answer()])
    async with client_of(fake) as client:
        for name in ("settings_id", "helo", "ip", "queue_id"):
            with pytest.raises(ValueError, match=r"header|surrogates"):
                await client.check(MESSAGE, user=None, **{name: value})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"header|surrogates"):
            await client.check(MESSAGE, user=None, rcpts=[value])
    with pytest.raises(ValueError, match=r"header|surrogates"):
        RspamdClient(scan_url="http://h:1", learn_url="http://h:1", password=value)
    assert fake.requests == []


async def test_two_kinds_of_settings_are_a_contradiction() -> None:
    """Rspamd would ignore one of them."""
    async with client_of(FakeRspamd()) as client:
        with pytest.raises(ValueError, match="one of them"):
            await client.check(MESSAGE, user=USER, settings_id="a", settings={})


NO_URLS = ["", "localhost:11333", "ftp://h:1", "http://", "unix:relative", "unix:"]
ODD_URLS = ["http://u:p@h:1", "http://h:1?q=1", "http://h:1#f", "http://h:99999", "http://h:0"]


@pytest.mark.parametrize("url", [*NO_URLS, *ODD_URLS])
def test_a_url_that_cannot_be_is_refused_at_once(url: str) -> None:
    """And not at the first delivery."""
    with pytest.raises(ValueError, match=r"not http|[Pp]ort"):
        RspamdClient(scan_url=url, learn_url="http://localhost:11334")


@pytest.mark.parametrize("wrong", [{"timeout_s": 0}, {"timeout_s": -1}, {"max_connections": 0}])
def test_limits_must_be_positive(wrong: dict[str, Any]) -> None:
    """No connections would mean to wait for ever."""
    with pytest.raises(ValueError, match="positive"):
        RspamdClient(scan_url="http://h:1", learn_url="http://h:1", **wrong)


async def test_outside_its_block_a_client_does_nothing() -> None:
    """That is a bug of the caller's and no failure of Rspamd's."""
    client = RspamdClient(scan_url="http://h:1", learn_url="http://h:1/")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="async with") as caught:
            await client.ping()
        assert not isinstance(caught.value, RspamdError)
        async with client:
            pass
