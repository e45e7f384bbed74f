"""How near the worker comes to what Rspamd's controller can learn at all."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bench.figures import Figure, alternate, quantile
from mailhooks.lab.host import DOMAIN
from mailhooks.lesson import Lesson
from mailhooks.message import content_digest
from mailhooks.spool import Label, Spool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.host import BenchHost
    from bench.machine import Watch

USERS = 32  # of one user, one is learned after another
IN_FLIGHT = 8
TOLERATED_SHARE = 0.01
LONG_AGO_S = 3600.0


def measure(host: BenchHost, watch: Watch, messages: Sequence[bytes], *, rounds: int) -> Figure:
    """Learn the same messages as the worker does from its spool, and with a bare client.

    Args:
        host: the lab.
        watch: tells what else the machine does.
        messages: no two alike; spam and ham alternate.
        rounds: how often.
    """
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    learned: dict[str, int] = {}

    def run(name: str, number: int) -> None:
        users = [f"{name}.{number}.{user}@{DOMAIN}" for user in range(USERS)]
        # Two neighbours are one user's, of both classes.
        lessons = [
            (users[place // 2 % USERS], tuple(Lesson)[place % 2], raw)
            for place, raw in enumerate(messages)
        ]
        forget_all()
        learn = _drained if name == "ours" else _taught
        rates[name].append(len(messages) / learn(host, lessons))
        learned[name] = sum(sum(host.lab.learns(user)) for user in users)
        if len(learned) == 2:
            difference = abs(learned["ours"] - learned["bare"])
            if difference > TOLERATED_SHARE * len(messages) or not min(learned.values()):
                raise RuntimeError(f"drain: the contenders did not do the same work: {learned}")

    before = watch.probe()
    with host.without_statistics() as forget_all:
        alternate(list(rates), rounds, run)
    ours, bare = (quantile(rates[name], 0.5) for name in rates)
    return Figure(
        "drain_ratio",
        tuple(own / base for own, base in zip(*rates.values(), strict=True)),
        note=f"{ours:.0f} learns/s, a bare client {bare:.0f}/s",
        busy=max(before, watch.probe()),
    )


def _drained(host: BenchHost, lessons: Sequence[tuple[str, Lesson, bytes]]) -> float:
    """Seconds in which the worker learns what lies in its spool when it starts."""
    daemon = host.lab.servers["daemon"]
    daemon.stop()
    spool = Spool(host.lab.root / "spool")
    spool.prepare()
    for user, lesson, raw in lessons:
        digest = content_digest(raw)
        received = time.time() - LONG_AGO_S  # settled
        spool.put(
            Label(user=user, lesson=lesson, digest=digest, origin="move", received=received), raw
        )
    host.lab.restart("daemon")
    started = time.perf_counter()
    new = host.lab.root / "spool/new"
    while any(new.iterdir()):
        time.sleep(0.02)
    return time.perf_counter() - started


def _taught(host: BenchHost, lessons: Sequence[tuple[str, Lesson, bytes]]) -> float:
    """Seconds in which a client learns the same from memory, several at once."""

    async def run() -> float:
        async with host.lab.rspamd() as rspamd:
            waiting = iter(lessons)

            async def work() -> None:
                for user, lesson, raw in waiting:
                    await rspamd.learn(raw, lesson, user=user, bulk=True)

            started = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
            return time.perf_counter() - started

    return asyncio.run(run())
