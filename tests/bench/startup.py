"""How long ``mailhooks serve`` takes from exec to ready, and how much memory it then has."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.figures import Figure
from mailhooks.lab.process import unix_answers

if TYPE_CHECKING:
    from bench.host import BenchHost
    from bench.machine import Watch

POLL_S = 0.002
LIMIT_S = 60.0


def measure(host: BenchHost, watch: Watch, *, rounds: int) -> Figure:
    """Start the lab's daemon again and again."""
    before = watch.probe()
    values = tuple(_start(host) for _ in range(rounds))
    return Figure("startup_s", values, busy=max(before, watch.probe()))


def _start(host: BenchHost) -> float:
    """Seconds until both sockets take calls."""
    daemon = host.lab.servers["daemon"]
    daemon.stop()
    sockets = [
        host.lab.root / "run/mailhooks" / f"mailhooks-{name}" for name in ("classify", "learn")
    ]
    started = time.perf_counter()
    daemon.start()
    while not all(unix_answers(path) for path in sockets):
        if time.perf_counter() - started > LIMIT_S:
            raise RuntimeError(daemon.tail())
        time.sleep(POLL_S)
    return time.perf_counter() - started
