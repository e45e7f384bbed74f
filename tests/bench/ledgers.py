"""What a long history and many users cost: a ledger of a million rows, 100,000 accounts."""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import sqlite3
import sys
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from bench import load
from bench.classify import opinion
from bench.figures import Figure, alternate, quantile, same_work
from bench.host import OURS, SENDER
from mailhooks.acquaintance import Kind, Trait
from mailhooks.dovecot import encode_request
from mailhooks.lab.host import DOMAIN
from mailhooks.lab.process import Server, unix_answers
from mailhooks.ledger import Answer, Outcome, SqliteLedger
from mailhooks.lesson import Lesson

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.host import BenchHost
    from bench.machine import Watch

START_S = 60.0
_names = itertools.count()


def grow(path: Path, rows: int, users: int) -> None:
    """Make a ledger with answers of many users; each row is a message and its answer."""
    SqliteLedger(path).close()
    now, each = time.time(), max(1, rows // users)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = OFF")
        for table, columns, values in (
            (
                "message",
                "id, user, digest, held, changed",
                lambda n: (n, _user(n // each), _digest(n), "spam", now),
            ),
            (
                "answer",
                "id, message, lesson, outcome, origin, detail, corrects, time",
                lambda n: (n, n, "spam", Outcome.LEARNED.value, "move", "", 0, now),
            ),
        ):
            marks = ", ".join("?" * (columns.count(",") + 1))
            db.executemany(
                f"INSERT INTO {table} ({columns}) VALUES ({marks})",  # noqa: S608 - constants
                map(values, range(rows)),
            )
        db.commit()
        count = db.execute("SELECT count(*) FROM answer").fetchone()[0]
    same_work("ledger", {"rows wanted": rows, "rows": count})


def _user(number: int) -> str:
    return f"user{number}@{DOMAIN}"


def _digest(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def _traits(digest: str) -> tuple[Trait, ...]:
    """What some messages have in common, as in real mail."""
    domain = f"{digest[:2]}.example"
    return (
        Trait(Kind.LIST, f"list{digest[:1]}.example"),
        Trait(Kind.SENDER, f"{digest[:3]}@{domain}"),
        Trait(Kind.DOMAIN, domain),
    )


def learning(
    folder: Path, watch: Watch, *, rows: int, users: int, rounds: int, learns: int
) -> Figure:
    """The ledger's part of a learn, in processor time and waiting: as the worker does it."""
    sizes = {"none": 0, "many": rows}
    for name, count in sizes.items():
        grow(folder / name, count, users)
    ledgers = {name: SqliteLedger(folder / name) for name in sizes}
    each_ms: dict[str, list[float]] = {name: [] for name in sizes}
    fresh = itertools.count(rows)

    def run(name: str, number: int) -> None:
        ledger = ledgers[name]
        todo = [(_user((number * learns + n) % users), _digest(next(fresh))) for n in range(learns)]
        started = time.perf_counter()
        for user, digest in todo:
            assert ledger.taught(user, digest) is None
            ledger.begin_attempt(digest[:40], 1)
            ledger.record(
                Answer(
                    user=user,
                    digest=digest,
                    lesson=Lesson.SPAM,
                    outcome=Outcome.LEARNED,
                    origin="move",
                    time=time.time(),
                    traits=_traits(digest),
                )
            )
            ledger.end_attempt(digest[:40])
        each_ms[name].append((time.perf_counter() - started) * 1000 / learns)
        user, digest = todo[-1]
        assert ledger.taught(user, digest) is not None

    before = watch.probe()
    alternate(list(sizes), rounds, run)
    busy = max(before, watch.probe())
    for ledger in ledgers.values():
        ledger.close()
    size_mb = (folder / "many").stat().st_size / 1e6
    for path in folder.iterdir():
        path.unlink()
    none, many = (quantile(each_ms[name], 0.5) for name in sizes)
    return Figure(
        "ledger_1m_cost_ratio",
        tuple(full / empty for empty, full in zip(*each_ms.values(), strict=True)),
        note=f"{many:.2f} ms with {rows:,} rows ({size_mb:.0f} MB), {none:.2f} ms with none",
        busy=busy,
    )


@contextmanager
def daemon(host: BenchHost, users: int) -> Iterator[Path]:
    """Another daemon beside the lab's, whose settings and ledger know that many users."""
    name = f"daemon{next(_names)}"
    folder = host.folder / name
    for part in ("", "spool", "drop", "run"):
        (folder / part).mkdir(mode=0o700)
    grow(folder / "ledger.sqlite", users * 3, users)
    text = (host.lab.root / "mailhooks/mailhooks.toml").read_text(encoding="utf-8")
    for key, value in (
        ("socket_dir", folder / "run"),
        ("spool_dir", folder / "spool"),
        ("drop_dir", folder / "drop"),
        ("ledger_file", folder / "ledger.sqlite"),
        ("metrics", ""),
    ):
        text, changed = re.subn(rf'(?m)^{key} = ".*"$', f'{key} = "{value}"', text)
        same_work("settings", {"wanted": 1, key: changed})
    thresholds = (f'"{_user(number)}" = {6 + number % 3}.0\n' for number in range(users))
    config = folder / "mailhooks.toml"
    config.write_text(f"{text}\n[policy.thresholds]\n{''.join(thresholds)}", encoding="utf-8")
    config.chmod(0o600)
    command = [sys.executable, "-m", "mailhooks", "--config", str(config), "serve"]
    socket = folder / "run/mailhooks-classify"
    server = Server(name, command, lambda: unix_answers(socket), folder / "log")
    server.start()
    try:
        server.wait_ready(START_S)
        yield socket
    finally:
        server.stop()
        shutil.rmtree(folder)


def classifying(
    host: BenchHost, watch: Watch, message: bytes, *, users: int, rounds: int, calls: int
) -> Figure:
    """Classify for the same user with few and with many others in settings and ledger."""
    user = host.user(OURS)
    request = encode_request((), {"USER": user, "SENDER": SENDER, "RECIPIENT": user}) + message
    times: dict[str, list[float]] = {"few": [], "many": []}
    with daemon(host, 10) as few, daemon(host, users) as many:
        ways = {"few": load.script(few, [request]), "many": load.script(many, [request])}
        for way in ways.values():
            load.run(way, 20, 1)

        def run(name: str, _number: int) -> None:
            done = load.run(ways[name], calls, 1)
            times[name].append(quantile(done.latencies_s, 0.5) * 1000)
            opinion(done.answers[0])

        before = watch.probe()
        alternate(list(ways), rounds, run)
        busy = max(before, watch.probe())
    ten, all_ = (quantile(times[name], 0.5) for name in times)
    return Figure(
        "users_100k_cost_ratio",
        tuple(many / few for few, many in zip(*times.values(), strict=True)),
        note=f"{all_:.2f} ms with {users:,} users, {ten:.2f} ms with 10",
        busy=busy,
    )
