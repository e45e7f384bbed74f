from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest
from prometheus_client import REGISTRY, generate_latest

from mailhooks.config import (
    LearningSettings,
    PolicySettings,
    ScoreSettings,
    listen_address,
    parse,
)
from mailhooks.daemon.classify import Classifier
from mailhooks.daemon.dropbox import Dropbox
from mailhooks.daemon.metrics import metrics_served
from mailhooks.daemon.samples import REFUSAL_S, Samples
from mailhooks.daemon.weights import Weights
from mailhooks.dovecot import Peer, ScriptCall, ScriptServer, call_script, encode_request
from mailhooks.errors import (
    ConfigError,
    LedgerError,
    ProtocolError,
    RspamdLate,
    RspamdMisconfigured,
    RspamdUnavailable,
    SpoolError,
)
from mailhooks.keys import KeyRing, new_key
from mailhooks.lab.host import free_ports
from mailhooks.ledger import Ledger, SqliteLedger
from mailhooks.lesson import Lesson
from mailhooks.rspamd import LearnResult, LearnStatus, RspamdClient
from mailhooks.spool import Entry, Spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Executor

SPAM, HAM = Lesson.SPAM, Lesson.HAM
SETTINGS = LearningSettings(
    settle_s=0.0, retry_first_s=0.001, retry_cap_s=0.002, connections=2, rescan_s=0.005
)


def value(name: str, **labels: str) -> float:
    """What a series says now; one that does not exist fails the test."""
    found = REGISTRY.get_sample_value(name, labels)
    assert found is not None, (name, labels)
    return found


class Growth:
    """By how much a counter has grown since."""

    def __init__(self, name: str, **labels: str) -> None:
        self._name, self._labels = name, labels
        self._before = value(name, **labels)

    def __call__(self) -> float:
        return value(self._name, **self._labels) - self._before


def learns(outcome: str) -> Growth:
    return Growth("mailhooks_learns_total", outcome=outcome)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeRspamd:
    """Learns everything, after it has raised what it was given."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.status = LearnStatus.LEARNED

    async def learn(self, _message: bytes, _lesson: Lesson, **_how: Any) -> LearnResult:
        if self.failures:
            raise self.failures.pop(0)
        return LearnResult(self.status, "", 200)

    async def check_opinions(self, _message: bytes, **_how: Any) -> tuple[None, None]:
        if self.failures:
            raise self.failures.pop(0)
        return None, None


@pytest.fixture
def rspamd() -> FakeRspamd:
    return FakeRspamd()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def samples_in(
    folder: Path,
    rspamd: FakeRspamd,
    clock: Clock,
    open_ledger: Callable[[], Ledger] | None = None,
) -> Samples:
    return Samples(
        Spool(folder / "spool"),
        open_ledger or (lambda: SqliteLedger(folder / "ledger")),
        cast("RspamdClient", rspamd),
        SETTINGS,
        clock=clock,
    )


@asynccontextmanager
async def running(samples: Samples) -> AsyncIterator[None]:
    worker = asyncio.create_task(samples.run())
    try:
        yield
    finally:
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker


async def get(path: str, socket_path: Path) -> tuple[int, str, str]:
    """Status, content type without its parameters, and body."""
    connector = aiohttp.UnixConnector(path=str(socket_path))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://localhost{path}") as response,
    ):
        return response.status, response.content_type, await response.text()


async def health_of(samples: Samples, folder: Path) -> tuple[int, dict[str, Any]]:
    async with metrics_served(f"unix:{folder}/m.sock", samples):
        status, kind, text = await get("/healthz", folder / "m.sock")
    assert kind == "application/json"
    return status, json.loads(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9119", ("127.0.0.1", 9119)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:9119", ("::1", 9119)),
        ("unix:/run/m.sock", Path("/run/m.sock")),
    ],
)
def test_an_address_is_a_port_or_a_path(text: str, expected: tuple[str, int] | Path) -> None:
    """Both kinds of address that the setting allows are understood."""
    assert listen_address(text) == expected
    assert parse(f'[daemon]\nmetrics = "{text}"\n').daemon.metrics == text


@pytest.mark.parametrize(
    "text",
    [
        *("9119", ":9119", "localhost", "host:", "host:0", "host:65536", "host:x", "http://h:1"),
        *("unix:m.sock", "/run/m.sock", "h:1/metrics", "u@h:1", "::1:9119", "[::1:9119"),
    ],
)
def test_a_wrong_address_is_refused_with_what_is_expected(text: str) -> None:
    """The error names the key and both forms."""
    with pytest.raises(ConfigError) as caught:
        parse(f'[daemon]\nmetrics = "{text}"\n')
    assert caught.value.problems == [
        f"daemon.metrics: must be host:port, unix:/path or empty, not {text!r}"
    ]


async def test_metrics_are_served_on_a_socket_that_vanishes_at_the_end(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """Prometheus' text comes over a UNIX socket, and a stale socket is in nobody's way."""
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with metrics_served(f"unix:{path}", samples_in(tmp_path, rspamd, clock)):
        status, kind, text = await get("/metrics", path)
    assert (status, kind) == (200, "text/plain")
    assert '\nmailhooks_verdicts_total{folder="junk",reason="score and Bayes"} ' in text
    assert "_created" not in text
    assert not path.exists()


async def test_metrics_are_served_on_a_port(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """The same over TCP; whatever else is asked for is not there."""
    (port,) = free_ports(1)
    async with (
        metrics_served(f"127.0.0.1:{port}", samples_in(tmp_path, rspamd, clock)),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        async with session.get("/metrics") as response:
            assert "mailhooks_samples_waiting " in await response.text()
        async with session.get("/") as response:
            assert response.status == 404


async def test_without_an_address_nothing_is_served(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The default costs no port and no line in the log."""
    async with metrics_served("", samples_in(tmp_path, rspamd, clock)):
        assert caplog.text == ""


async def test_an_address_that_cannot_be_had_is_a_line_in_the_log(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A port or socket in use, a file in the way and a host that is none end nothing."""
    samples = samples_in(tmp_path, rspamd, clock)
    living, file = tmp_path / "living", tmp_path / "file"
    file.write_bytes(b"precious")
    with (
        socket.socket() as taken,
        socket.socket(socket.AF_UNIX) as answering,
    ):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answering.bind(str(living))
        answering.listen()
        wrong = (
            f"127.0.0.1:{taken.getsockname()[1]}",
            f"unix:{living}",
            f"unix:{file}",
            f"unix:/{'x' * 200}",
            "two..dots:80",
        )
        for address in wrong:
            caplog.clear()
            async with metrics_served(address, samples):
                assert f"no metrics at {address}: " in caplog.text
    assert living.exists()
    assert file.read_bytes() == b"precious"


async def test_health_is_200_while_samples_are_taken_and_learned(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """Nothing is wrong: the figures come along."""
    samples = samples_in(tmp_path, rspamd, clock)
    async with running(samples):
        await until(lambda: samples.ledger_open)
        assert await health_of(samples, tmp_path) == (
            200,
            {
                "ok": True,
                "trouble": "",
                "spool_usable": True,
                "ledger_open": True,
                "journal_trouble": "",
                "samples_waiting": 0,
                "oldest_waiting_s": 0.0,
            },
        )


async def test_health_names_a_spool_that_cannot_be_used_until_it_can(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """A file in the place of the folder is 503 with the reason, and counted."""
    scans = Growth("mailhooks_spool_failures_total", during="scan")
    (tmp_path / "spool").write_bytes(b"")
    samples = samples_in(tmp_path, rspamd, clock)
    async with running(samples):
        await until(lambda: scans() >= 2)
        status, state = await health_of(samples, tmp_path)
        assert (status, state["ok"], state["spool_usable"]) == (503, False, False)
        assert "cannot be prepared" in state["trouble"]
        (tmp_path / "spool").unlink()
        await until(lambda: not samples.trouble)
        assert (await health_of(samples, tmp_path))[0] == 200


async def test_a_journal_that_cannot_be_opened_is_told_and_keeps_nobody_from_being_well(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """Health and the metric say so until it can be opened; samples are taken all the same."""
    usable = "mailhooks_spool_journal_usable"
    samples = samples_in(tmp_path, rspamd, clock)
    other = Spool(tmp_path / "spool")
    other.prepare()
    other.keep_journal(segment_bytes=1 << 16)
    async with running(samples):
        await until(lambda: samples.journal_trouble != "")
        assert value(usable) == 0
        status, state = await health_of(samples, tmp_path)
        assert (status, state["ok"]) == (200, True)
        assert "cannot keep its journal: another process has it" in state["journal_trouble"]
        await samples.take("ann", SPAM, "d", "move", b"one")
        other.close()
        await until(lambda: value(usable) == 1)
        assert (await health_of(samples, tmp_path))[1]["journal_trouble"] == ""


async def test_health_names_a_ledger_that_cannot_be_opened(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """Nothing is learned without it, so the host is not well; the spool is."""

    def locked() -> Ledger:
        raise LedgerError("ledger is locked away")

    samples = samples_in(tmp_path, rspamd, clock, locked)
    async with running(samples):
        await until(lambda: "locked away" in samples.trouble)
        status, state = await health_of(samples, tmp_path)
    assert (status, state["spool_usable"], state["ledger_open"]) == (503, True, False)


async def test_a_sample_that_was_refused_is_trouble_until_one_is_taken_or_time_has_passed(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk shows nowhere else, and does not stay on the page for ever."""
    samples = samples_in(tmp_path, rspamd, clock)
    refused = Growth("mailhooks_spool_failures_total", during="take")
    put = Spool.put

    def full(*_: object) -> Entry:
        raise SpoolError("disk full")

    async with running(samples):
        await until(lambda: samples.ledger_open)
        for recovery in ("time", "sample"):
            monkeypatch.setattr(Spool, "put", full)
            with pytest.raises(SpoolError):
                await samples.take("ann", SPAM, "d", "move", b"one")
            monkeypatch.setattr(Spool, "put", put)
            clock.now += REFUSAL_S - 1
            assert (samples.trouble, samples.spool_usable) == ("disk full", False)
            if recovery == "time":
                clock.now += 1
            else:
                await samples.take("ann", SPAM, "d", "move", b"one")
            assert (samples.trouble, samples.spool_usable) == ("", True)
    assert refused() == 2


async def test_samples_are_counted_from_taking_to_learning(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """Origin, lesson and outcome count one each; the gauges follow what waits."""
    samples = samples_in(tmp_path, rspamd, clock)
    taken = Growth("mailhooks_samples_taken_total", origin="append", lesson="ham")
    others = Growth("mailhooks_samples_taken_total", origin="move", lesson="ham")
    done, again = learns("learned"), learns("already")
    await asyncio.to_thread(Spool(tmp_path / "spool").prepare)
    await samples.take("ann", HAM, "d1", "append", b"one")
    clock.now += 50
    await samples.take("ann", HAM, "d2", "append", b"two")
    clock.now += 10
    assert (samples.waiting, samples.oldest_s) == (2, 60.0)
    async with running(samples):
        await until(lambda: done() == 2)
        await until(lambda: value("mailhooks_samples_waiting") == 0)
        assert value("mailhooks_samples_oldest_age_seconds") == 0
        await samples.take("ann", HAM, "d2", "append", b"two")
        assert value("mailhooks_samples_waiting") == 1
        await until(lambda: again() == 1)
    assert (taken(), others()) == (3, 0)


async def test_every_try_to_learn_counts_by_what_became_of_it(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """Rspamd away, wrongly configured, hit by a bug and refusing are told apart."""
    grown = {name: learns(name) for name in ("temporary", "configuration", "failed", "empty")}
    rspamd.failures = [RspamdUnavailable("away"), RspamdMisconfigured("password"), KeyError("bug")]
    rspamd.status = LearnStatus.EMPTY
    samples = samples_in(tmp_path, rspamd, clock)
    async with running(samples):
        await until(lambda: samples.ledger_open)
        await samples.take("ann", SPAM, "d1", "move", b"one")
        while grown["empty"]() == 0:
            clock.now += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await until(lambda: grown["empty"]() == 1)
    assert {name: growth() for name, growth in grown.items()} == dict.fromkeys(grown, 1)


async def test_a_move_taken_back_and_one_overtaken_are_outcomes(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """What needs no request to Rspamd is counted too."""
    back, late, done = learns("taken-back"), learns("overtaken"), learns("learned")
    samples = samples_in(tmp_path, rspamd, clock)
    await asyncio.to_thread(Spool(tmp_path / "spool").prepare)
    await samples.take("ann", SPAM, "d1", "move", b"one")
    await samples.take("ann", HAM, "d1", "move", b"one")
    await samples.take("ann", HAM, "d2", "move", b"two")
    async with running(samples):
        await until(lambda: back() == 1 and done() == 1 and samples.waiting == 0)
        await samples.take("ann", SPAM, "d2", "move", b"two", received=1.0)
        await until(lambda: late() == 1)
    assert (back(), late(), done()) == (1, 1, 1)


async def test_what_lies_in_bad_is_a_gauge(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """It falls again once somebody has seen to it; an odd thing there stops nothing."""
    samples = samples_in(tmp_path, rspamd, clock)
    bad = tmp_path / "spool/bad"
    async with running(samples):
        await until(bad.is_dir)
        (tmp_path / "spool/new/stray").write_bytes(b"no sample")
        await until(lambda: value("mailhooks_samples_set_aside") == 1)
        (bad / "stray.unreadable").unlink()
        await until(lambda: value("mailhooks_samples_set_aside") == 0)
        (bad / "folder").mkdir()
        done = learns("learned")
        await samples.take("ann", SPAM, "d1", "move", b"one")
        await until(lambda: done() == 1)
        assert samples.trouble == ""


async def test_calls_in_the_drop_folder_are_counted(tmp_path: Path) -> None:
    """Taken, set aside, and looks that failed."""
    full = True

    async def handle(_call: ScriptCall, _made: float) -> bytes:
        if full:
            raise SpoolError("full")
        return b""

    dropbox = Dropbox(tmp_path, handle, max_message_bytes=1000, every_s=0.005)
    name = "mailhooks_drop_folder_calls_total"
    taken, aside = Growth(name, result="taken"), Growth(name, result="set-aside")
    failures = Growth("mailhooks_drop_folder_failures_total")
    (tmp_path / "a").write_bytes(b"no call")
    (tmp_path / "b").write_bytes(encode_request([], {"USER": "ann"}) + b"x\r\n")
    worker = asyncio.create_task(dropbox.run())
    try:
        await until(lambda: failures() >= 1)
        full = False
        await until(lambda: taken() == 1)
    finally:
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker
    assert (taken(), aside()) == (1, 1)


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (None, "no opinion"),
        (RspamdUnavailable("away"), "unavailable"),
        (RspamdLate("late"), "deadline"),
    ],
)
async def test_a_verdict_counts_its_folder_and_what_it_rests_on(
    rspamd: FakeRspamd, failure: Exception | None, why: str
) -> None:
    """One delivery is one verdict, one milter score, one Bayes answer and one duration."""
    rspamd.failures = [failure] if failure else []
    classifier = Classifier(
        cast("RspamdClient", rspamd),
        KeyRing((new_key(),)),
        Weights(None, 2),
        cast("Samples", None),
        threads=cast("Executor", None),
        score=ScoreSettings(),
        policy=PolicySettings(full_scan=False),
        learning=LearningSettings(learn_on_delivery="off"),
        deadline_s=5.0,
        mail_uids=frozenset({1}),
    )
    grown = [
        Growth("mailhooks_verdicts_total", folder="inbox", reason="no score"),
        Growth("mailhooks_full_scans_total", result="off"),
        Growth("mailhooks_milter_scores_total", result="absent"),
        Growth("mailhooks_bayes_total", result=why),
        Growth("mailhooks_classification_seconds_count"),
    ]
    now = asyncio.get_running_loop().time()
    call = ScriptCall((), {"USER": "ann"}, Peer(0, 1, 1), b"Subject: x\r\n\r\ny\r\n", now)
    await classifier.answer(call)
    assert [growth() for growth in grown] == [1] * 5


async def test_calls_on_a_script_socket_count_by_result(tmp_path: Path) -> None:
    """Done, refused for wrong input, and failed in the handler; none stays open."""

    async def handle(call: ScriptCall) -> bytes:
        assert value("mailhooks_script_connections", program="counted") == 1
        if call.message == b"fail":
            raise ProtocolError("not like this")
        return b""

    server = ScriptServer(tmp_path / "counted", handle)
    await server.start()
    grown = [
        Growth("mailhooks_script_calls_total", program="counted", result=result)
        for result in ("done", "refused", "failed")
    ]
    try:
        for message in (b"one", b"two", b"fail"):
            with contextlib.suppress(ProtocolError):
                await call_script(tmp_path / "counted", [], {}, message)
            await until(lambda: value("mailhooks_script_connections", program="counted") == 0)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "counted")
        writer.write(b"nonsense\n\n")
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        await until(lambda: value("mailhooks_script_connections", program="counted") == 0)
    finally:
        await server.stop()
    assert [growth() for growth in grown] == [2, 1, 1]


async def test_metrics_name_no_user_and_no_message(
    tmp_path: Path, rspamd: FakeRspamd, clock: Clock
) -> None:
    """Whoever may scrape learns nothing about anybody."""
    samples = samples_in(tmp_path, rspamd, clock)
    done = learns("learned")
    async with running(samples):
        await until(lambda: samples.ledger_open)
        await samples.take("ann@private.example", SPAM, "c0ffee", "move", b"secret words")
        await until(lambda: done() == 1)
    text = generate_latest().decode()
    assert not [word for word in ("ann@", "private", "c0ffee", "secret") if word in text]
