"""What else the machine does while we measure: others' processor time, and stolen time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

BUSY_LIMIT: Final = 0.10
"""The share of all processors that others may use before times say nothing."""

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PROBE_S: Final = 0.5


class Watch:
    """Measures what others use, while we work and while we rest.

    Ours is what belongs to this process, its children and the sessions of the
    lab's servers; the rest of what the processors did is somebody else's, and
    steal time, which the hypervisor took, is so at any moment.

    Attributes:
        shares: what others used of all processors, each time it was asked.
    """

    def __init__(self, leaders: Callable[[], list[int]] = list) -> None:
        self.shares: list[float] = []
        self._leaders = leaders
        self._last = self._now()

    def probe(self, probe_s: float = PROBE_S) -> float:
        """Others' share since the last time, or just now while we rest, whichever is more."""
        worked = self._share()
        time.sleep(probe_s)
        share = max(worked, self._share())
        self.shares.append(share)
        return share

    def _share(self) -> float:
        before, self._last = self._last, self._now()
        used, ours, elapsed = (now - then for now, then in zip(self._last, before, strict=True))
        # Who dies in between is missed for once, so ours may seem to shrink.
        others_s = used - max(0.0, ours)
        return min(1.0, max(0.0, others_s / max(elapsed, 0.001) / (os.cpu_count() or 1)))

    def _now(self) -> tuple[float, float, float]:
        return _used_s(), _own_s({os.getpid(), *self._leaders()}), time.monotonic()


def _used_s() -> float:
    """Seconds of processor time used on this machine so far, steal included."""
    # cpu user nice system idle iowait irq softirq steal ...: proc(5)
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def _own_s(leaders: set[int]) -> float:
    """Seconds used by the processes of sessions, and by their children that have ended."""
    ticks = 0
    own_session = os.getsid(0)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        session = int(fields[3])
        if session in leaders or (session == own_session and _is_ours(int(entry.name))):
            ticks += sum(map(int, fields[11:15]))  # utime stime cutime cstime
    return ticks / TICKS_PER_S


def _is_ours(pid: int) -> bool:
    """Whether a process is this one or a child of it."""
    if pid == os.getpid():
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return int(stat.rpartition(")")[2].split()[1]) == os.getpid()


def used_s(pid: int) -> float:
    """Seconds of processor time that the threads of a process have had so far."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(
        int((thread / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
        for thread in threads
    )


def resident_mb(pid: int) -> float:
    """Memory of a process that is not swapped out, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no VmRSS")
