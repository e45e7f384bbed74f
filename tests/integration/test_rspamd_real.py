"""What the client makes of a real Rspamd, outcome by outcome."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import re
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mailhooks.errors import RspamdMisconfigured, RspamdUnavailable
from mailhooks.lab.host import REDIS
from mailhooks.rspamd import LearnStatus, RspamdClient, bayes_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

BAYES_ONLY = {"groups_enabled": ["statistics"]}
NEUTRAL_TEXT = "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima"
SPAM_TEXT = (
    "viagra casino lottery winner prize urgent transfer million dollars click bargain discount"
    " pills cheap luxury replica"
)
HAM_TEXT = (
    "meeting agenda quarterly report invoice project deadline review colleague schedule budget"
    " lunch minutes proposal draft summary"
)
NEUTRAL, SPAM, HAM = NEUTRAL_TEXT.split(), SPAM_TEXT.split(), HAM_TEXT.split()
TOO_SHORT = b"Message-ID: <short@example.org>\r\n\r\nhi\r\n"


def mail(words: list[str], number: int = 0, subject: str = "note") -> bytes:
    # Without plain English around them Rspamd guesses another language each time, and with the
    # language the tokens change.
    sentences = [f"This is what we have to say about the {word} for you." for word in words]
    return (
        "From: a@example.org\r\nTo: b@example.net\r\n"
        f"Subject: {subject}\r\nMessage-ID: <{number}@example.org>\r\n"
        f"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n\r\n{' '.join(sentences)}\r\n"
    ).encode()


@pytest.fixture
def user() -> str:
    """Somebody whom Rspamd has never heard of."""
    return f"{uuid.uuid4().hex}@example.org"


@pytest.fixture
async def client(rspamd: Any) -> AsyncIterator[RspamdClient]:
    async with RspamdClient(
        scan_url=rspamd.scan_url, learn_url=rspamd.learn_url, password=rspamd.password
    ) as client:
        yield client


async def train(client: RspamdClient, user: str) -> None:
    """Teach enough of both classes for verdicts near 0 and 1."""
    rng = random.Random(1)
    for number in range(12):
        for words, learn in ((SPAM, client.learn_spam), (HAM, client.learn_ham)):
            text = rng.sample(words, 12) + rng.sample(NEUTRAL, 4)
            subject = " ".join(rng.sample(words, 3))
            result = await learn(mail(text, number, subject), user=user, bulk=True)
            assert result.status is LearnStatus.LEARNED


async def ask_redis(rspamd: Any, *command: bytes) -> list[bytes]:
    """Send one command that answers with a flat list of strings."""
    reader, writer = await asyncio.open_unix_connection(str(rspamd.redis_socket))
    parts = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in command)
    writer.write(b"*%d\r\n%b" % (len(command), parts))
    head = await reader.readline()
    assert head.startswith(b"*"), head
    found = []
    for _ in range(int(head[1:])):
        size = int((await reader.readline())[1:])
        found.append((await reader.readexactly(size + 2))[:-2])
    writer.close()
    await writer.wait_closed()
    return found


@contextmanager
def redis_out_of_reach(rspamd: Any) -> Iterator[None]:
    """Take the name of Redis' socket away, so that Rspamd cannot connect."""
    socket = Path(rspamd.redis_socket)
    elsewhere = socket.with_name("redis.away")
    socket.rename(elsewhere)
    # Rspamd 4.1 keeps connections.
    cut = (f"{REDIS}-cli", "-s", str(elsewhere), "CLIENT", "KILL", "TYPE", "normal")
    subprocess.run(cut, check=True, capture_output=True)
    try:
        yield
    finally:
        elsewhere.rename(socket)


async def statistics_of(rspamd: Any, user: str) -> dict[bytes, list[bytes]]:
    """Return every Redis key of one user with its sorted content."""
    keys = await ask_redis(rspamd, b"KEYS", f"RS{user}*".encode())
    return {key: sorted(await ask_redis(rspamd, b"HGETALL", key)) for key in keys}


async def raw_answer(url: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Post without any HTTP library and return every byte of the answer."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_learn_lands_in_the_statistics_of_its_user(
    rspamd: Any, client: RspamdClient, user: str
) -> None:
    """In the hash `RS<user>`, whoever the message itself says it was delivered to."""
    message = b"Delivered-To: mallory@example.org\r\n" + mail(SPAM)
    result = await client.learn_spam(message, user=user)
    assert (result.status, result.http_status) == (LearnStatus.LEARNED, 200)
    found = await ask_redis(rspamd, b"HGETALL", f"RS{user}".encode())
    assert dict(zip(found[::2], found[1::2], strict=True))[b"learns_spam"] == b"1"
    assert b"learns_ham" not in found
    assert await statistics_of(rspamd, "mallory@example.org") == {}


async def test_a_repeat_is_already_learned(client: RspamdClient, user: str) -> None:
    """A genuine repeat is a 208."""
    await client.learn_spam(mail(SPAM), user=user)
    result = await client.learn_spam(mail(SPAM), user=user)
    assert (result.status, result.http_status) == (LearnStatus.ALREADY_LEARNED, 208)


async def test_too_few_tokens(client: RspamdClient, user: str) -> None:
    """A 204 whose explanation survives, without the Message-ID."""
    result = await client.learn_spam(TOO_SHORT, user=user)
    assert (result.status, result.http_status) == (LearnStatus.TOO_FEW_TOKENS, 204)
    assert result.explanation == "contains less tokens than required for bayes classifier: 3 < 11"


async def test_a_long_message_id_is_no_way_to_be_tried_for_ever(
    client: RspamdClient, user: str
) -> None:
    """Rspamd repeats it in the status line."""
    message = b"Message-ID: <" + b"x" * 100_000 + b"@example.org>\r\n\r\nhi\r\n"
    result = await client.learn_spam(message, user=user)
    assert result.status is LearnStatus.TOO_FEW_TOKENS


async def test_what_is_known_is_denied_unless_bulk(client: RspamdClient, user: str) -> None:
    """From 95 % on, in either class."""
    await train(client, user)
    for words, learn in ((SPAM, client.learn_spam), (HAM, client.learn_ham)):
        denied = await learn(mail(words), user=user)
        assert (denied.status, denied.http_status) == (LearnStatus.CONDITION_DENIED, 204)
        assert not denied.final
        learned = await learn(mail(words), user=user, bulk=True)
        assert learned.status is LearnStatus.LEARNED


async def test_an_empty_message(client: RspamdClient, user: str) -> None:
    """There is nothing to learn."""
    result = await client.learn_ham(b"", user=user)
    assert (result.status, result.http_status) == (LearnStatus.EMPTY, 400)


@pytest.mark.parametrize("password", [None, "wrong"])
async def test_a_wrong_password_is_a_mistake(rspamd: Any, user: str, password: str | None) -> None:
    """For learns and for counters."""
    async with RspamdClient(
        scan_url=rspamd.scan_url, learn_url=rspamd.learn_url, password=password
    ) as client:
        with pytest.raises(RspamdMisconfigured, match=r"401 Unauthorized.*enable_password"):
            await client.learn_spam(mail(SPAM), user=user)
        with pytest.raises(RspamdMisconfigured, match="401"):
            await client.stat()


async def test_a_scanning_worker_learns_nothing(rspamd: Any, user: str) -> None:
    """The two URLs are easily confused."""
    async with RspamdClient(scan_url=rspamd.scan_url, learn_url=rspamd.scan_url) as client:
        with pytest.raises(RspamdMisconfigured, match="controller"):
            await client.learn_spam(mail(SPAM), user=user)


async def test_without_redis_a_learn_is_temporary(
    rspamd: Any, client: RspamdClient, user: str
) -> None:
    """Rspamd 3.4 then claims with a 404 that it has already learned the sample."""
    with redis_out_of_reach(rspamd):
        with pytest.raises(RspamdUnavailable, match=r"[Rr]edis"):
            await client.learn_spam(mail(SPAM), user=user)
        assert await client.check_bayes(mail(SPAM), user=user) is None
    assert (await client.learn_spam(mail(SPAM), user=user)).status is LearnStatus.LEARNED


async def test_other_statistics_stay_untouched(
    rspamd: Any, client: RspamdClient, user: str
) -> None:
    """Those of another user, and those without a user that Rspamd falls back to."""
    other = f"other-{user}"
    await client.learn_spam(mail(SPAM), user=other)
    before = await statistics_of(rspamd, other)
    await client.learn_ham(mail(SPAM), user=user)
    await client.check_bayes(mail(SPAM), user=user)
    assert before
    assert await statistics_of(rspamd, other) == before
    assert await ask_redis(rspamd, b"HGETALL", b"RS") == []


async def test_case_is_folded_in_ascii_only(rspamd: Any, client: RspamdClient, user: str) -> None:
    """A user in UTF-8 works, but its letters beyond ASCII must be spelled alike each time."""
    umlaut = "\N{LATIN CAPITAL LETTER U WITH DIAERESIS}"
    await client.learn_spam(mail(SPAM), user=f"J{umlaut}RGEN-{user}")
    assert await statistics_of(rspamd, f"j{umlaut}rgen-{user}")
    assert not await statistics_of(rspamd, f"j{umlaut.lower()}rgen-{user}")


async def test_a_bayes_check_runs_nothing_else(client: RspamdClient, user: str) -> None:
    """While a full scan of the same message runs a good deal more."""
    await train(client, user)
    everything = await client.check(mail(SPAM), user=user)
    statistics = await client.check(mail(SPAM), user=user, settings=BAYES_ONLY)
    assert len(everything.symbols) > 3
    assert [symbol.name for symbol in statistics.symbols] == ["BAYES_SPAM"]
    assert statistics.score == statistics.symbols[0].score
    opinion = await client.check_bayes(mail(SPAM), user=user)
    assert opinion is not None
    assert opinion.probability > 0.95


async def test_an_unknown_settings_id_is_ignored(client: RspamdClient, user: str) -> None:
    """Which is why a Bayes check does not use one."""
    result = await client.check(mail(SPAM), user=user, settings_id="no-such-settings")
    assert len(result.symbols) > 3


async def test_an_untrained_user_has_no_opinion(client: RspamdClient, user: str) -> None:
    """However much others have taught."""
    await train(client, f"other-{user}")
    assert await client.check_bayes(mail(SPAM), user=user) is None


async def test_a_test_pattern_is_no_opinion(client: RspamdClient, user: str) -> None:
    """Rspamd judges GTUBE before it looks at settings; that is no mistake of anybody's."""
    gtube = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
    assert await client.check_bayes(mail([gtube]), user=user) is None


async def test_the_probability_agrees_with_the_points(client: RspamdClient, user: str) -> None:
    """More spam words, more probability; the points are weight * |2p - 1| ** 8."""
    await train(client, user)
    found = []
    for share in range(len(SPAM) + 1):
        # One scan for both, since a second one may differ; see mail().
        message = mail(SPAM[:share] + HAM[share:])
        result = await client.check(message, user=user, settings=BAYES_ONLY)
        opinion = bayes_of(result)
        if opinion is None:  # between 0.45 and 0.55
            continue
        (symbol,) = result.symbols
        assert symbol.weight is not None
        assert opinion.score == pytest.approx(
            symbol.weight * abs(2 * opinion.probability - 1) ** 8, rel=2e-3, abs=2e-6
        )
        assert (opinion.probability > 0.5) == (symbol.name == "BAYES_SPAM")
        found.append(opinion)
    assert found[0].probability < 0.05
    assert found[-1].probability > 0.95
    by_score = sorted(found, key=lambda opinion: opinion.score)
    assert by_score == sorted(found, key=lambda opinion: opinion.probability)


async def test_counters_and_pings(client: RspamdClient, user: str) -> None:
    """A learn shows in the counters."""
    await client.ping()
    before = await client.stat()
    await client.learn_spam(mail(SPAM), user=user)
    after = await client.stat()
    assert after.learned == before.learned + 1
    assert re.fullmatch(r"\d+\.\d+.*", after.version)
    assert {file.symbol for file in after.statfiles} == {"BAYES_SPAM", "BAYES_HAM"}


async def test_nobody_listens(rspamd: Any, user: str) -> None:
    """Rspamd may be restarting."""
    async with RspamdClient(scan_url=rspamd.scan_url, learn_url="http://127.0.0.1:1") as client:
        with pytest.raises(RspamdUnavailable, match=r"http://127\.0\.0\.1:1 cannot be asked"):
            await client.learn_spam(mail(SPAM), user=user)


async def test_the_fake_of_the_unit_tests_sends_what_rspamd_sends(rspamd: Any, user: str) -> None:
    """Byte for byte, apart from the version and the date."""
    path = Path(__file__).parents[1] / "unit" / "test_rspamd_client.py"
    spec = importlib.util.spec_from_file_location("fake_of_the_unit_tests", path)
    assert spec is not None
    assert spec.loader is not None
    fake = importlib.util.module_from_spec(spec)
    # dataclasses look their module up there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, fake)
        spec.loader.exec_module(fake)
    headers = {"Deliver-To": user, "Password": rspamd.password}

    def shape(answer: bytes) -> bytes:
        return re.sub(rb"(?m)^(Server: rspamd/|Date: ).*\r$", rb"\1\r", answer)

    text = "<short@example.org> contains less tokens than required for bayes classifier: 3 < 11"
    refused = await raw_answer(rspamd.learn_url, "/learnspam", headers, TOO_SHORT)
    assert shape(refused) == shape(fake.learn_answer(204, text))
    learned = await raw_answer(rspamd.learn_url, "/learnspam", headers, mail(SPAM))
    assert shape(learned) == shape(fake.LEARNED)
    assert json.loads(learned.partition(b"\r\n\r\n")[2]) == {"success": True}
