"""How long ``mailhooks serve`` takes from exec to ready, and how much memory it then has."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from bench.figures import Figure
from mailhooks.lab.process import unix_answers

if TYPE_CHECKING:
    from bench.host import BenchHost
    from bench.machine import Watch

LIMIT_S = 60.0


def measure(host: BenchHost, watch: Watch, *, rounds: int) -> Figure:
    """Start the lab's daemon again and again."""
    before = watch.probe()
    values = tuple(_start(host) for _ in range(rounds))
    return Figure("startup_s", values, busy=max(before, watch.probe()))


def _start(host: BenchHost) -> float:
    """Seconds until the daemon tells its supervisor that it is ready, as it tells systemd."""
    daemon = host.lab.servers["daemon"]
    daemon.stop()
    path = host.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(path))
        supervisor.settimeout(LIMIT_S)
        os.environ["NOTIFY_SOCKET"] = str(path)
        try:
            started = time.perf_counter()
            daemon.start()
            while b"READY=1" not in supervisor.recv(4096).split(b"\n"):
                pass
            elapsed_s = time.perf_counter() - started
        finally:
            del os.environ["NOTIFY_SOCKET"]
            path.unlink()
    # Ready means that calls are taken at once.
    for name in ("classify", "learn"):
        if not unix_answers(host.lab.root / "run/mailhooks" / f"mailhooks-{name}"):
            raise RuntimeError(f"ready, but mailhooks-{name} takes no calls")
    return elapsed_s
