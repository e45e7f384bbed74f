from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import sqlite3
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from click.testing import CliRunner

from mailhooks.cli import main
from mailhooks.config import (
    LearningSettings,
    PolicySettings,
    RedisSettings,
    RspamdSettings,
    ScoreSettings,
    Settings,
)
from mailhooks.daemon.classify import Classifier
from mailhooks.daemon.weights import Weights
from mailhooks.doctor import (
    access,
    configuration,
    examine,
    folders,
    host,
    probe,
    redis,
    rspamd,
    sockets,
)
from mailhooks.doctor.check import Check, Finding, Level, failed, ok, run, skipped, warning
from mailhooks.doctor.ledger import ledger
from mailhooks.dovecot import ScriptCall, ScriptServer
from mailhooks.keys import KeyRing, format_keys, new_key
from mailhooks.ledger import SqliteLedger
from mailhooks.lesson import Lesson
from mailhooks.message import content_digest
from mailhooks.rspamd import RspamdClient
from mailhooks.spool import Entry, Label, Spool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

OK, WARNING, FAILED = Level.OK, Level.WARNING, Level.FAILED
NOT_OURS = {"spool space", "spool file system"}  # what the machine is short of
STRANGER = 54321  # a uid that no account of the machine has
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


def levels(findings: list[Finding]) -> dict[str, Level]:
    return {finding.name: finding.level for finding in findings}


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1
    return findings[0]


# check.py


def test_findings_come_in_the_order_of_the_checks() -> None:
    """However long each of them takes."""
    first_may_end = threading.Event()

    def slow() -> list[Finding]:
        first_may_end.wait(10)
        return [ok("slow", "")]

    def quick() -> list[Finding]:
        first_may_end.set()
        return [ok("quick", ""), ok("quick too", "")]

    found = run([Check("slow", slow), Check("quick", quick)], timeout_s=10)
    assert [finding.name for finding in found] == ["slow", "quick", "quick too"]


@pytest.mark.parametrize(
    "raised", [ZeroDivisionError("a\nb"), TimeoutError("a b"), SystemExit("a b")]
)
def test_a_check_that_raises_is_an_error_that_names_the_exception(raised: BaseException) -> None:
    """Without a traceback, and the other checks go on."""

    def broken() -> list[Finding]:
        raise raised

    checks = [Check("one", broken), Check("two", lambda: [ok("two", "")])]
    found = run(checks, timeout_s=10)
    assert levels(found) == {"one": FAILED, "two": OK}
    assert f"{type(raised).__name__}: a b" in found[0].text


def test_a_check_that_hangs_is_an_error_in_time() -> None:
    """The others' findings are there."""
    never = threading.Event()
    checks = [
        Check("hangs", lambda: [ok("hangs", str(never.wait(30)))]),
        Check("two", lambda: [ok("two", "")]),
    ]
    started = time.monotonic()
    try:
        found = run(checks, timeout_s=0.2)
        assert time.monotonic() - started < 10
    finally:
        never.set()
    assert levels(found) == {"hangs": FAILED, "two": OK}


# configuration.py


def test_every_problem_of_the_settings_is_a_finding(tmp_path: Path) -> None:
    """And nothing else is looked at."""
    path = tmp_path / "mailhooks.toml"
    path.write_text("[daemon]\ndeadline_s = 99\nspool = 1\n", encoding="utf-8")
    found = examine(path)
    assert [finding.level for finding in found] == [FAILED, FAILED]
    assert "daemon.deadline_s" in found[0].text
    assert str(path) in found[1].text


@pytest.mark.parametrize(
    ("mode", "password", "level"),
    [(0o600, "x", OK), (0o640, "x", OK), (0o644, "x", WARNING), (0o644, "", OK)],
)
def test_a_password_in_settings_that_anybody_may_read(
    tmp_path: Path, mode: int, password: str, level: Level
) -> None:
    """A warning, if there is a password."""
    path = tmp_path / "mailhooks.toml"
    path.touch()
    path.chmod(mode)
    settings = Settings(rspamd=RspamdSettings(password=password))
    assert only(configuration.settings_private(path, settings)).level is level


@pytest.mark.parametrize(
    ("mode", "level"), [(0o600, OK), (0o640, OK), (0o644, FAILED), (0o604, FAILED), (0o660, FAILED)]
)
def test_a_key_file_that_others_may_open(tmp_path: Path, mode: int, level: Level) -> None:
    """An error; the owner's group may read it."""
    path = tmp_path / "keys"
    path.write_text(format_keys(KeyRing((new_key(),))), encoding="utf-8")
    path.chmod(mode)
    ring, found = configuration.key_file(path)
    assert ring is not None
    assert only(found).level is level


def test_a_key_file_that_is_missing_or_wrong(tmp_path: Path) -> None:
    """An error that says which."""
    path = tmp_path / "keys"
    ring, found = configuration.key_file(path)
    assert (ring, only(found).level) == (None, FAILED)
    path.write_text("short secret\n", encoding="utf-8")
    ring, found = configuration.key_file(path)
    assert (ring, only(found).level) == (None, FAILED)
    assert "line 1" in found[0].text


def test_a_key_file_that_the_daemon_may_not_read(tmp_path: Path) -> None:
    """An error that names its user."""
    path = tmp_path / "keys"
    path.write_text(format_keys(KeyRing((new_key(),))), encoding="utf-8")
    path.chmod(0o600)
    finding = only(configuration.key_file(path, STRANGER)[1])
    assert (finding.level, f"uid {STRANGER}" in finding.text) == (FAILED, True)
    assert "chown" in finding.advice


def test_a_key_file_that_systemd_hands_over(tmp_path: Path) -> None:
    """Root alone may read it, and the unit says that the service gets it all the same."""
    path, unit = tmp_path / "keys", tmp_path / "mailhooks.service"
    path.write_text(format_keys(KeyRing((new_key(),))), encoding="utf-8")
    path.chmod(0o600)
    units = (tmp_path / "none", unit)
    unit.write_text(f"[Service]\nLoadCredential=keys:{path}.old\n", encoding="utf-8")
    assert only(configuration.key_file(path, STRANGER, units=units)[1]).level is FAILED
    unit.write_text(f"[Service]\nLoadCredential=keys:{path}\n", encoding="utf-8")
    assert only(configuration.key_file(path, STRANGER, units=units)[1]).level is OK


@pytest.mark.parametrize(("age_s", "level"), [(10, OK), (1000, WARNING)])
def test_an_old_key_that_signed_nothing_that_counts(
    tmp_path: Path, age_s: float, level: Level
) -> None:
    """It may go once the last score it signed has expired."""
    path = tmp_path / "keys"
    keys = KeyRing((new_key(), new_key()))
    path.write_text(format_keys(keys), encoding="utf-8")
    path.chmod(0o600)
    os.utime(path, (0, time.time() - age_s))
    finding = only(configuration.key_file(path, None, 500)[1])
    assert finding.level is level
    assert level is OK or keys.keys[1].key_id in finding.text


# folders.py


def sample(received: float = 0.0) -> Label:
    return Label(user="ann", lesson=Lesson.SPAM, digest="d", origin="move", received=received)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made


def test_a_spool_in_order(spool: Spool) -> None:
    """A sample that has just come is no reason to worry, and nothing is left behind."""
    spool.put(sample(), b"message")
    before = sorted(spool.folder.rglob("*"))
    found = folders.spool(spool.folder)
    assert {name: level for name, level in levels(found).items() if name not in NOT_OURS} == {
        "spool": OK,
        "spool writable": OK,
        "spool waiting": OK,
        "spool set aside": OK,
    }
    assert sorted(spool.folder.rglob("*")) == before


@pytest.mark.parametrize("instead", ["nothing", "a file", "a link to nothing"])
def test_a_spool_that_is_no_folder(tmp_path: Path, instead: str) -> None:
    """One error, and nothing is said about its samples."""
    folder = tmp_path / "spool"
    if instead == "a file":
        folder.touch()
    elif instead == "a link to nothing":
        folder.symlink_to(tmp_path / "nowhere")
    finding = only(folders.spool(folder))
    assert (finding.name, finding.level) == ("spool", FAILED)
    assert str(folder) in finding.text


def test_a_spool_that_others_may_enter(spool: Spool) -> None:
    """A warning that says the mode."""
    spool.folder.chmod(0o750)
    finding = folders.spool(spool.folder)[0]
    assert (finding.name, finding.level) == ("spool", WARNING)
    assert "0750" in finding.text


@ROOT_ONLY
def test_a_spool_of_two_owners(spool: Spool) -> None:
    """An error: somebody ran the daemon as another user."""
    os.chown(spool.folder / "new", STRANGER, STRANGER)
    assert folders.spool(spool.folder)[0].level is FAILED


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """An error with the system's reason."""
    finding = folders.writable("x", tmp_path / "missing")
    assert finding.level is FAILED
    assert "No such file" in finding.text


@pytest.mark.parametrize(
    ("free", "inodes_free", "level"),
    [
        (50, 50, OK),
        (5, 50, OK),
        (4, 50, WARNING),
        (50, 4, WARNING),
        (0, 50, FAILED),
        (50, 0, FAILED),
    ],
)
def test_room_on_the_file_system(tmp_path: Path, free: int, inodes_free: int, level: Level) -> None:
    """The scarcer of space and inodes decides, of 100 each."""
    answer = (4096, 4096, 100, free, free, 100, inodes_free, inodes_free, 0, 255)
    finding = folders.space("x", tmp_path, lambda _: os.statvfs_result(answer))
    assert finding.level is level


def test_a_file_system_that_counts_no_inodes(tmp_path: Path) -> None:
    """Its space alone decides."""
    answer = (4096, 4096, 100, 50, 50, 0, 0, 0, 0, 255)
    finding = folders.space("x", tmp_path, lambda _: os.statvfs_result(answer))
    assert finding.level is OK
    assert "inodes" not in finding.text


def test_a_sample_that_has_waited_for_hours(spool: Spool) -> None:
    """A warning with the count and the age; a strange file has none."""
    old = time.time_ns() - 3 * 3600 * 10**9
    (spool.folder / "new" / f"{old:020d}.1.0").touch()
    (spool.folder / "new" / "strange").touch()
    finding = folders.samples_waiting(spool.folder)
    assert finding.level is WARNING
    assert "2 samples waiting, the oldest for 3 h" in finding.text


def test_a_delivery_that_settles_for_days_is_not_stuck(spool: Spool) -> None:
    """It is meant to wait; only what is overdue is a warning."""
    label = Label(user="ann", lesson=Lesson.HAM, digest="d", origin="delivery", received=0.0)
    entry = spool.put(label, b"message")
    old = f"{time.time_ns() - 3 * 3600 * 10**9:020d}.1.0"
    (spool.folder / "new" / entry.name).rename(spool.folder / "new" / old)
    settle_s = {"delivery": 86400.0}
    assert folders.samples_waiting(spool.folder, settle_s.__getitem__).level is OK
    settle_s = {"delivery": 3600.0}
    finding = folders.samples_waiting(spool.folder, settle_s.__getitem__)
    assert (finding.level, "overdue by 2 h" in finding.text) == (WARNING, True)


def test_samples_set_aside(spool: Spool) -> None:
    """A warning that names the command to look at them with."""
    spool.set_aside(spool.put(sample(), b"message"), "reason")
    finding = folders.samples_set_aside(spool.folder)
    assert finding.level is WARNING
    assert "1 sample set aside" in finding.text
    assert "mailhooks queue list" in finding.advice


@pytest.mark.parametrize(
    ("kind", "level"), [("ext4", OK), ("tmpfs", WARNING), ("nfs4", WARNING), ("zfs", OK)]
)
def test_the_kind_of_file_system(tmp_path: Path, kind: str, level: Level) -> None:
    """What forgets at a restart, or cannot be relied on, is a warning; the innermost counts."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"22 1 0:2 / / rw - tmpfs none rw\n23 22 0:3 / {tmp_path} rw,x shared:1 - {kind} none rw\n",
        encoding="utf-8",
    )
    finding = folders.file_system("x", tmp_path / "spool", mounts)
    assert (finding.level, kind in finding.text) == (level, True)


def test_a_sample_from_the_future(spool: Spool) -> None:
    """A warning: the clock was wrong, or is."""
    later = time.time_ns() + 3 * 3600 * 10**9
    (spool.folder / "new" / f"{later:020d}.1.0").touch()
    finding = folders.samples_waiting(spool.folder)
    assert (finding.level, "3 h in the future" in finding.text) == (WARNING, True)
    assert "clock" in finding.advice


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    folder = tmp_path / "drop"
    folder.mkdir()
    folder.chmod(0o3733)
    return folder


def test_a_drop_folder_in_order(drop: Path) -> None:
    """Anybody may write there, and files that are being written do not count."""
    (drop / ".being-written").touch()
    (drop / "1").touch()
    assert levels(folders.drop(drop, os.geteuid(), [STRANGER])) == {
        "drop folder": OK,
        "drop waiting": OK,
        "drop set aside": OK,
    }


@pytest.mark.parametrize(
    ("mode", "level"), [(0o3733, OK), (0o755, FAILED), (0o700, FAILED), (0o1777, WARNING)]
)
def test_the_mode_of_the_drop_folder(drop: Path, mode: int, level: Level) -> None:
    """An error if mail users are kept out, a warning if others may do too much."""
    drop.chmod(mode)
    assert folders.drop(drop, os.geteuid(), [STRANGER])[0].level is level


def test_a_drop_folder_that_the_daemon_cannot_empty(drop: Path) -> None:
    """An error: it belongs to somebody else than the spool."""
    finding = folders.drop(drop, STRANGER, [])[0]
    assert finding.level is FAILED
    assert f"uid {STRANGER}" in finding.text


def test_a_drop_folder_that_is_missing(tmp_path: Path) -> None:
    """One error that says how to make it."""
    finding = only(folders.drop(tmp_path / "drop", None, []))
    assert finding.level is FAILED
    assert "install -d -m 3733" in finding.advice


def test_calls_that_nobody_takes_and_calls_set_aside(drop: Path) -> None:
    """A warning each."""
    (drop / "1").touch()
    os.utime(drop / "1", (0, time.time() - 7200))
    (drop / ".bad-2").touch()
    found = folders.drop(drop, None, [])
    assert levels(found) == {"drop folder": OK, "drop waiting": WARNING, "drop set aside": WARNING}
    assert "1 call waiting, the oldest for 2 h" in found[1].text


# access.py


@pytest.mark.parametrize(
    ("mode", "owner", "expected"),
    [(0o007, True, False), (0o007, False, True), (0o700, True, True), (0o700, False, False)],
)
def test_rights_are_those_of_the_narrowest_class(
    tmp_path: Path, mode: int, owner: bool, expected: bool
) -> None:
    """An owner without rights has none, even where everybody else has them."""
    status = list(tmp_path.stat())
    status[0], status[4], status[5] = mode, STRANGER if owner else STRANGER + 1, STRANGER
    assert access.may(STRANGER, os.stat_result(status), access.READ) is expected


# ledger.py


def test_a_ledger_in_order_is_not_changed(tmp_path: Path) -> None:
    """Neither its content nor its date, and it is found in order while it is in use."""
    path = tmp_path / "ledger.sqlite"
    with contextlib.closing(SqliteLedger(path)):
        before = path.read_bytes(), path.stat().st_mtime_ns
        assert ledger(path, os.geteuid())[0].level is OK
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_ledger_that_is_not_there_yet(tmp_path: Path) -> None:
    """Nothing to worry about, and none is made."""
    path = tmp_path / "ledger.sqlite"
    assert ledger(path, None)[0].level is OK
    assert not path.exists()


def test_a_ledger_without_its_folder(tmp_path: Path) -> None:
    """An error: mailhooks makes no folder where an encrypted volume may be missing."""
    assert only(ledger(tmp_path / "missing" / "ledger.sqlite", None)).level is FAILED


@pytest.mark.parametrize(
    ("statement", "level", "says"),
    [
        ("PRAGMA user_version = 99", FAILED, "newer mailhooks"),
        ("PRAGMA application_id = 7", FAILED, "another program"),
        ("PRAGMA user_version = 0", WARNING, "has version 0"),
    ],
)
def test_a_ledger_of_somebody_else(tmp_path: Path, statement: str, level: Level, says: str) -> None:
    """Another version or another program is told apart."""
    path = tmp_path / "ledger.sqlite"
    SqliteLedger(path).close()
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute(statement)
    finding = ledger(path, None)[0]
    assert finding.level is level
    assert says in finding.text


def test_a_ledger_that_is_no_database(tmp_path: Path) -> None:
    """An error with SQLite's reason."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"x" * 4096)
    assert ledger(path, None)[0].level is FAILED


def test_a_ledger_that_is_damaged(tmp_path: Path) -> None:
    """An error, although it opens: SQLite looks through it."""
    path = tmp_path / "ledger.sqlite"
    SqliteLedger(path).close()
    with contextlib.closing(sqlite3.connect(path)) as file:
        page, number = (
            file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count")
        )
    with path.open("r+b") as raw:
        raw.seek(page * (number - 1))
        raw.write(b"\xff" * page)
    finding = ledger(path, None)[0]
    assert (finding.level, "damaged" in finding.text) == (FAILED, True)
    assert "backup" in finding.advice


def test_a_ledger_that_the_daemon_may_not_write(tmp_path: Path) -> None:
    """An error, although we, being root, could."""
    path = tmp_path / "ledger.sqlite"
    SqliteLedger(path).close()
    finding = ledger(path, STRANGER)[0]
    assert finding.level is FAILED
    assert "may not write" in finding.text


# sockets.py

KEYS = KeyRing((new_key(),))
LIMITS = {"deadline_s": 2.0, "mail_uids": frozenset[int]()}


@contextlib.contextmanager
def script_socket(path: Path, answer: Callable[[ScriptCall], Awaitable[bytes]]) -> Iterator[None]:
    """A script server in a thread of its own."""
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        server = ScriptServer(path, answer)
        await server.start()
        started.set()
        await stop.wait()
        await server.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    try:
        assert started.wait(10)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


class NoRspamd:
    """No opinion about anything."""

    async def check_opinions(
        self, _message: bytes, *, user: str, timeout_s: float
    ) -> tuple[None, None]:
        assert timeout_s > 0
        assert user == probe.USER
        return None, None


class NoSamples:
    """Must not be given any."""

    def delivered(self, _user: str, _lesson: Lesson) -> int:
        return 0

    def keep(self, *_args: object) -> None:
        pytest.fail("the probe was learned")


def classifier(keys: KeyRing, samples: Any, threshold: float = 6.0) -> Classifier:
    rspamd: Any = NoRspamd()
    return Classifier(
        rspamd,
        keys,
        Weights(None, 2),
        samples,
        threads=ThreadPoolExecutor(1),
        score=ScoreSettings(),
        policy=PolicySettings(threshold=threshold, full_scan=False),
        learning=LearningSettings(learn_on_delivery="all"),
        deadline_s=2.0,
        mail_uids=frozenset({os.geteuid()}),
    )


@pytest.mark.parametrize("threshold", [-5.0, 6.0, 5000.0])
def test_a_verdict_is_asked_for_without_teaching(tmp_path: Path, threshold: float) -> None:
    """Even where every delivery to INBOX is learned as ham."""
    path = tmp_path / "classify"
    mail_uids = frozenset({os.geteuid()})
    with script_socket(path, classifier(KEYS, NoSamples(), threshold).answer):
        found = sockets.classify(
            path, KEYS, threshold=threshold, deadline_s=2.0, mail_uids=mail_uids
        )
    assert only(found).level is OK, found


def test_a_daemon_with_other_keys_is_found_and_the_probe_taken_back(
    tmp_path: Path, spool: Spool
) -> None:
    """It took the probe for good mail, and it is dropped before it settles."""

    class Samples:
        def delivered(self, _user: str, _lesson: Lesson) -> int:
            return 0

        def keep(
            self, user: str, lesson: Lesson, digest: str, origin: str, _message: bytes
        ) -> Entry:
            label = Label(user=user, lesson=lesson, digest=digest, origin=origin, received=0.0)
            return spool.put(label, probe.MESSAGE)

        def notice(self, _entry: Entry) -> None:
            pass

    path = tmp_path / "classify"
    mail_uids = frozenset({os.geteuid()})
    other = spool.put(sample(), b"of somebody else")
    with script_socket(path, classifier(KeyRing((new_key(),)), Samples()).answer):
        found = sockets.classify(path, KEYS, threshold=6.0, deadline_s=2.0, mail_uids=mail_uids)
    assert only(found).level is FAILED
    assert "unknown key" in found[0].text
    assert content_digest(probe.MESSAGE) in [entry.label.digest for entry in spool.entries()]
    host._take_back(spool)
    assert [entry.name for entry in spool.entries()] == [other.name]


def test_a_verdict_without_bayes_is_a_warning(tmp_path: Path) -> None:
    """Mail gets its verdict, but not by the user's taste."""

    async def answer(_call: ScriptCall) -> bytes:
        return b"junk verified Yes, score=9 required=6 milter=9 bayes=none (deadline)"

    path = tmp_path / "classify"
    with script_socket(path, answer):
        finding = only(sockets.classify(path, KEYS, threshold=6.0, **LIMITS))  # type: ignore[arg-type]
    assert (finding.level, "deadline" in finding.text) == (WARNING, True)


def test_without_keys_no_verdict_is_asked_for(tmp_path: Path) -> None:
    """The call names no user, so that the daemon refuses it."""
    users: list[str | None] = []

    async def answer(call: ScriptCall) -> bytes:
        users.append(call.env.get("USER"))
        return b""

    path = tmp_path / "classify"
    with script_socket(path, answer):
        found = sockets.classify(path, None, threshold=6.0, **LIMITS)  # type: ignore[arg-type]
    assert only(found).level is OK
    assert users == [None]


def test_the_learn_socket_is_asked_with_a_move_that_teaches_nothing(tmp_path: Path) -> None:
    """From INBOX to INBOX."""
    calls: list[tuple[str, ...]] = []

    async def answer(call: ScriptCall) -> bytes:
        calls.append(call.args)
        return b""

    path = tmp_path / "learn"
    with script_socket(path, answer):
        found = sockets.learn(path, deadline_s=2.0, mail_uids=[])
    assert calls == [("cause=COPY", "from=INBOX", "to=INBOX")]
    assert (only(found).name, found[0].level) == ("learn socket", OK)


def test_a_refused_call_is_an_error(tmp_path: Path) -> None:
    """The daemon's log knows why."""

    async def answer(_call: ScriptCall) -> bytes:
        raise ValueError("a bug")

    path = tmp_path / "learn"
    with script_socket(path, answer):
        finding = only(sockets.learn(path, deadline_s=2.0, mail_uids=[]))
    assert (finding.level, "refuses" in finding.text) == (FAILED, True)


def test_a_socket_that_mail_users_cannot_reach(tmp_path: Path) -> None:
    """An error that names them, although it answers us."""

    async def answer(_call: ScriptCall) -> bytes:
        return b""

    path = tmp_path / "learn"
    with script_socket(path, answer):
        path.chmod(0o600)
        finding = only(sockets.learn(path, deadline_s=2.0, mail_uids=[STRANGER]))
    assert finding.level is FAILED
    assert f"uid {STRANGER} may not connect" in finding.text


def listening(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    return made


@pytest.mark.parametrize("state", ["missing", "dead", "hung", "a file"])
def test_sockets_that_nobody_serves(tmp_path: Path, state: str) -> None:
    """An error for each way of it, for scripts and milter, in time."""
    path = tmp_path / "socket"
    with contextlib.ExitStack() as stack:
        if state in ("dead", "hung"):
            made = stack.enter_context(listening(path))
            if state == "hung":
                made.listen()
        elif state == "a file":
            path.touch()
        deadline_s = 0.1 - sockets.PATIENCE_S if state == "hung" else 1.0
        assert only(sockets.learn(path, deadline_s=deadline_s, mail_uids=[])).level is FAILED
        finding = only(sockets.milter(f"unix:{path}", timeout_s=0.1))
        assert (finding.name, finding.level) == ("milter socket", FAILED)


@pytest.mark.parametrize(
    ("reply", "level"),
    [
        (struct.pack("!IcIII", 13, b"O", 6, 0x11, 0), OK),
        (b"220 mail.example ESMTP\r\n", FAILED),
        (b"", FAILED),
    ],
)
def test_the_milter_is_asked_to_negotiate(reply: bytes, level: Level) -> None:
    """What answers otherwise, or hangs up, is no milter."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(17, socket.MSG_WAITALL)[4:5] == b"O"
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            address = f"inet:{server.getsockname()[1]}@127.0.0.1"
            assert only(sockets.milter(address)).level is level
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("greeting", "level"),
    [(b"220 mail.example LMTP\r\n", OK), (b"500 no\r\n", FAILED), (b"", FAILED)],
)
def test_the_delivery_filter_is_asked_to_greet(greeting: bytes, level: Level) -> None:
    """What greets otherwise, or hangs up, is no LMTP server."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            finding = only(sockets.lmtp(f"127.0.0.1:{server.getsockname()[1]}"))
        finally:
            thread.join()
    assert finding.level is level
    assert level is OK or "mailhooks lmtp" in finding.advice


# rspamd.py and redis.py


@contextlib.contextmanager
def fake_rspamd(answers: dict[str, tuple[int, str]], *, ahead_s: float = 0.0) -> Iterator[str]:
    """Answers each path with a status and a body, ``ID`` in it replaced; yields the URL."""
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()
    urls: list[str] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        status, text = answers.get(request.path, (200, "pong"))
        text = text.replace("ID", request.headers.get("Settings-ID", "none"))
        # Set here, since aiohttp's own is not ours to choose.
        reason = json.loads(text)["error"] if text.startswith('{"error"') else None
        header = {"Date": formatdate(time.time() + ahead_s)}
        return web.Response(status=status, reason=reason, text=text, headers=header)

    async def serve() -> None:
        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    try:
        assert started.wait(10)
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


EMPTY = (400, '{"error":"Empty body is not permitted"}')
STAT: dict[str, Any] = {"version": "3.4", "statfiles": [{"symbol": "BAYES_SPAM"}]}
SCAN: dict[str, Any] = {"score": 0.0, "symbols": {}, "messages": {"mailhooks_settings": "ID"}}
IN_ORDER = dict.fromkeys(["rspamd scan", "rspamd bayes", "rspamd settings", "clock"], OK)


def learns(url: str) -> dict[str, Level]:
    return levels(rspamd.learns(RspamdSettings(learn_url=url, password="x")))


def test_a_controller_in_order() -> None:
    """It refuses an empty message only after the password was right."""
    with fake_rspamd({"/learnspam": EMPTY, "/stat": (200, json.dumps(STAT))}) as url:
        assert learns(url) == {"rspamd learn": OK, "rspamd version": OK, "rspamd statistics": OK}


@pytest.mark.parametrize(
    ("stat", "named"),
    [
        (STAT | {"statfiles": []}, {"rspamd statistics": FAILED}),
        (STAT | {"version": "3.13.0"}, {"rspamd version": WARNING}),
    ],
)
def test_a_controller_with_a_flaw(stat: dict[str, Any], named: dict[str, Level]) -> None:
    """No classifier is an error, a version with a known fault a warning."""
    with fake_rspamd({"/learnspam": EMPTY, "/stat": (200, json.dumps(stat))}) as url:
        assert {k: v for k, v in learns(url).items() if v is not OK} == named


def test_a_controller_that_refuses_the_password() -> None:
    """The advice names the setting."""
    with fake_rspamd({"/learnspam": (403, "Unauthorized")}) as url:
        finding = only(rspamd.learns(RspamdSettings(learn_url=url, password="x")))
    assert finding.level is FAILED
    assert "[rspamd] password" in finding.advice


def test_a_password_that_cannot_be_sent_is_not_shown() -> None:
    """An error without the password."""
    finding = only(rspamd.learns(RspamdSettings(password="geheim\n")))
    assert finding.level is FAILED
    assert "geheim" not in finding.text + finding.advice


def test_a_scanning_worker_in_order() -> None:
    """It answers a ping, and runs nothing beside Bayes."""
    with fake_rspamd({"/checkv2": (200, json.dumps(SCAN))}) as url:
        found = rspamd.scans(RspamdSettings(scan_url=url))
    assert levels(found) == IN_ORDER


def test_a_worker_that_ignores_our_settings() -> None:
    """An error: every delivery would pay for a full scan."""
    full = SCAN | {"symbols": {f"RULE{n}": {"score": 0} for n in range(30)}}
    with fake_rspamd({"/checkv2": (200, json.dumps(full))}) as url:
        found = rspamd.scans(RspamdSettings(scan_url=url))
    assert levels(found) == IN_ORDER | {"rspamd bayes": FAILED}


def test_a_worker_that_does_not_know_our_settings() -> None:
    """Rspamd ignores an unknown id in silence; the answer lacks its mark."""
    with fake_rspamd({"/checkv2": (200, json.dumps(SCAN | {"messages": {}}))}) as url:
        found = rspamd.scans(RspamdSettings(scan_url=url))
    assert levels(found) == IN_ORDER | {"rspamd settings": FAILED}
    assert "milter and delivery" in found[2].text
    assert "local.d/settings.conf" in found[2].advice


@pytest.mark.parametrize(
    ("ahead_s", "level"),
    [(0, OK), (-100, WARNING), (100, WARNING), (4000, FAILED), (-4000, WARNING)],
)
def test_the_clock_of_another_host(ahead_s: float, level: Level) -> None:
    """Scores from the future are not believed, which nobody would guess."""
    with fake_rspamd({"/checkv2": (200, json.dumps(SCAN))}, ahead_s=ahead_s) as url:
        finding = rspamd.scans(RspamdSettings(scan_url=url))[3]
    assert (finding.name, finding.level) == ("clock", level)
    assert level is OK or "NTP" in finding.advice


@pytest.mark.parametrize("key", ["classifier", "shared_classifier"])
def test_a_classifier_of_a_name_that_rspamd_does_not_know(key: str) -> None:
    """An error that names the setting; with its right name, the message has too few tokens."""
    few = (204, '{"error":"contains less tokens than required for bayes classifier: 3 < 11"}')
    unknown = (404, '{"error":"cannot find classifier with name wrong"}')
    expected = ((few, OK), (unknown, FAILED))
    for answer, level in expected:
        with fake_rspamd({"/learnspam": answer, "/stat": (200, json.dumps(STAT))}) as url:
            named = RspamdSettings(
                learn_url=url,
                classifier="wrong" if key == "classifier" else "",
                shared_classifier="wrong" if key == "shared_classifier" else "",
            )
            findings = asyncio.run(_named(named))
        assert only(findings).level is level
        assert f"[rspamd] {key}" in findings[0].advice or level is OK


async def _named(settings: RspamdSettings) -> list[Finding]:
    async with RspamdClient(
        scan_url=settings.learn_url,
        learn_url=settings.learn_url,
        classifier=settings.classifier,
        shared_classifier=settings.shared_classifier,
    ) as client:
        return await rspamd._classifiers(client, settings)


def test_scans_that_go_to_the_controller() -> None:
    """A warning: it is one process."""
    with fake_rspamd({"/checkv2": (200, json.dumps(SCAN))}) as url:
        found = rspamd.scans(RspamdSettings(scan_url=url, learn_url=url))
    assert levels(found)["rspamd scan"] is WARNING


def test_servers_that_are_away(tmp_path: Path) -> None:
    """One error each."""
    url = f"unix:{tmp_path}/nobody"
    settings = RspamdSettings(scan_url=url, learn_url=url)
    assert levels(rspamd.scans(settings)) == {"rspamd scan": FAILED}
    assert levels(rspamd.learns(settings)) == {"rspamd learn": FAILED}
    nobody = RedisSettings(url=f"unix://{tmp_path}/nobody")
    assert levels(redis.statistics(nobody)) == {"redis": FAILED}


@pytest.mark.parametrize("url", ["redis://:geheim@127.0.0.1:1/0", "redis://:gehe/im@host:1/0"])
def test_the_password_of_redis_is_not_shown(url: str) -> None:
    """Neither when it cannot be reached nor when the URL is wrong."""
    finding = only(redis.statistics(RedisSettings(url=url)))
    assert finding.level is FAILED
    assert "gehe" not in finding.text + finding.advice


def test_no_redis_is_a_choice() -> None:
    """An empty URL is in order."""
    assert only(redis.statistics(RedisSettings(url=""))).level is OK


@pytest.mark.parametrize(
    ("info", "save", "level"),
    [
        ({"aof_enabled": 1, "aof_last_write_status": "ok"}, "", OK),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, "", FAILED),
        ({"aof_enabled": 0, "rdb_last_bgsave_status": "ok"}, "3600 1", WARNING),
        ({"aof_enabled": 0, "rdb_last_bgsave_status": "err"}, "3600 1", FAILED),
        ({"aof_enabled": 0}, "", WARNING),
        ({"aof_enabled": 0}, None, WARNING),
    ],
)
def test_whether_redis_keeps_what_it_is_given(
    info: dict[str, Any], save: str | None, level: Level
) -> None:
    """Only a log of writes loses nothing."""
    assert redis.persistence(info, save).level is level


@pytest.mark.parametrize(
    ("info", "advice"),
    [
        (
            {"redis_version": "7.0.15", "config_file": "/etc/redis/redis.conf"},
            "Set appendonly yes in /etc/redis/redis.conf, by `redis-cli CONFIG SET appendonly yes`",
        ),
        (
            {"valkey_version": "8.1.1", "config_file": "/etc/valkey/valkey.conf"},
            "Set appendonly yes in /etc/valkey/valkey.conf, by `valkey-cli CONFIG SET appendonly ",
        ),
        ({"valkey_version": "8.1.1", "config_file": ""}, "Set appendonly yes in valkey.conf, by "),
    ],
)
def test_redis_and_valkey_are_mended_in_their_own_files(info: dict[str, Any], advice: str) -> None:
    """The server itself says which it is, and what it read."""
    assert redis.persistence(info, "").advice.startswith(advice)


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"maxmemory": 0, "maxmemory_policy": "allkeys-lru"}, OK),
        ({"maxmemory": 1000, "maxmemory_policy": "noeviction"}, OK),
        ({"maxmemory": 1000, "maxmemory_policy": "volatile-ttl"}, WARNING),
    ],
)
def test_whether_redis_throws_statistics_away(info: dict[str, Any], level: Level) -> None:
    """It does if its memory has a limit and its policy is to evict."""
    assert redis.memory(info).level is level


@pytest.mark.parametrize(("users", "shared", "level"), [(0, 0, OK), (3, 9, OK), (0, 9, WARNING)])
def test_whether_statistics_are_those_of_users(users: int, shared: int, level: Level) -> None:
    """Only where all was learned for nobody in particular are they not."""
    assert redis.per_user(users, shared, "RS").level is level


# the command


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ([ok("a", "fine")], 0),
        ([ok("a", "fine"), skipped("s", "not here", "Look there.")], 0),
        ([ok("a", "fine"), warning("b", "hm", "Look.")], 1),
        ([warning("b", "hm", "Look."), failed("c", "bad", "Mend it.")], 2),
    ],
)
def test_the_exit_status_is_that_of_monitoring(
    monkeypatch: pytest.MonkeyPatch, findings: list[Finding], status: int
) -> None:
    """0, 1 or 2 as monitoring plug-ins have it; one line a finding, JSON holds the same."""
    monkeypatch.setattr("mailhooks.doctor.examine", lambda _path, **_: findings)
    invoke = functools.partial(CliRunner().invoke, main)
    done = invoke(["doctor", "--json"])
    assert done.exit_code == status
    assert [Finding(**each | {"level": Level(each["level"])}) for each in json.loads(done.stdout)]
    done = invoke(["doctor"])
    assert done.exit_code == status
    for finding in findings:
        mend = f" -> {finding.advice}" if finding.advice else ""
        assert f"{finding.level.value:11} {finding.name}  {finding.text}{mend}\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{len(findings)} finding")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--only", "dovcot"], "'dovcot' is none of: settings private, key file, spool"),
        (["--live"], "--user"),
        (["--user", "ann"], "--live"),
    ],
)
def test_options_that_mean_nothing(options: list[str], word: str) -> None:
    """Are refused before anything is looked at."""
    done = CliRunner().invoke(main, ["doctor", *options])
    assert done.exit_code == 2
    assert word in done.output


def test_one_check_can_be_asked_for_alone(tmp_path: Path) -> None:
    """While somebody mends just that."""
    path = tmp_path / "mailhooks.toml"
    path.write_text(f'[daemon]\ndrop_dir = "{tmp_path}/drop"\n', encoding="utf-8")
    found = examine(path, only=["drop folder"])
    assert levels(found) == {"settings": OK, "drop folder": FAILED}


def test_every_check_that_can_be_asked_for_exists(tmp_path: Path) -> None:
    """And none that exists is missing there."""
    checks = host._checks(tmp_path / "mailhooks.toml", Settings())
    assert tuple(each.name for each in checks) == host.CHECKS


def test_a_host_where_nothing_runs(tmp_path: Path) -> None:
    """Every part is named, nothing is made, and nothing raises."""
    path = tmp_path / "mailhooks.toml"
    path.write_text(
        f"""
        [daemon]
        socket_dir = "{tmp_path}/run"
        spool_dir = "{tmp_path}/spool"
        drop_dir = "{tmp_path}/drop"
        [rspamd]
        scan_url = "unix:{tmp_path}/scan"
        learn_url = "unix:{tmp_path}/learn"
        [milter]
        socket = "unix:{tmp_path}/milter"
        [score]
        key_file = "{tmp_path}/keys"
        [learning]
        ledger_file = "{tmp_path}/lib/ledger.sqlite"
        [redis]
        url = "unix://{tmp_path}/redis"
        [doctor]
        postconf = ["{tmp_path}/postconf"]
        doveconf = ["{tmp_path}/doveconf"]
        rspamadm = ["{tmp_path}/rspamadm"]
        [accounts]
        database = "sqlite:///{tmp_path}/accounts"
        """,
        encoding="utf-8",
    )
    found = levels(examine(path))
    assert {name for name, level in found.items() if level is Level.SKIPPED} == {
        "postfix",
        "dovecot",
        "rspamd configuration",
    }
    assert {name for name, level in found.items() if level is FAILED} == {
        "key file",
        "spool",
        "drop folder",
        "ledger",
        "classify socket",
        "learn socket",
        "milter socket",
        "rspamd scan",
        "rspamd learn",
        "redis",
        "users",
    }
    assert list(tmp_path.iterdir()) == [path]
