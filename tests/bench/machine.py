"""What else the machine does while we measure: others' processor time, and stolen time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

BUSY_LIMIT: Final = 0.10
"""The share of all processors that others may use before times say nothing."""

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PROBE_S: Final = 0.5


class Watch:
    """Measures what others use while none of us works.

    Between two measurements the lab rests, so whatever the processors do then is
    somebody else's, and steal time is the hypervisor's at any moment.
    """

    def __init__(self) -> None:
        self.shares: list[float] = []

    def probe(self, probe_s: float = PROBE_S) -> float:
        """The share of all processors that is in use just now, 0 to 1; also kept."""
        before, started = _used_s(), time.monotonic()
        time.sleep(probe_s)
        elapsed_s = time.monotonic() - started
        share = (_used_s() - before) / elapsed_s / (os.cpu_count() or 1)
        self.shares.append(share)
        return share


def _used_s() -> float:
    """Seconds of processor time used on this machine so far, steal included."""
    # cpu user nice system idle iowait irq softirq steal ...: proc(5)
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def processor_s(pids: list[int]) -> float:
    """Seconds of processor time that processes have used, those of all threads."""
    total_ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total_ns += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total_ns / 1e9


def resident_mb(pid: int) -> float:
    """Memory of a process that is not swapped out, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no VmRSS")
