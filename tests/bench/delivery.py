"""What a verdict costs an LMTP delivery: ours, a fork of sh and rspamc, and none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lmtp import UnixLmtp

from bench import load
from bench.classify import callers
from bench.figures import Figure, alternate, quantile, same_work
from bench.host import OURS, SENDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.host import BenchHost
    from bench.machine import Watch

CONTENDERS = ("filing", OURS, "forking")
BARE = "bare"
# Rspamd guesses a text's language, and with it its tokens, anew at every scan.
FLIPPED_SHARE = 0.1
OWN_MS = 2.0
"""What a delivery may cost beyond Rspamd's own time."""


def agreed(host: BenchHost, messages: Sequence[bytes], count: int) -> list[bytes]:
    """Messages that ours and the fork file alike; half of them into each folder if possible."""
    filed: list[list[str]] = []
    for name in (OURS, "forking"):
        folders = []
        with UnixLmtp(str(host.lab.root / "run/lmtp")) as lmtp:
            for raw in messages:
                host.fill(name, ())
                lmtp.sendmail(SENDER, [host.user(name)], raw)
                folders.append("INBOX" if host.mailbox(name).count("INBOX") else "Junk")
        filed.append(folders)
    same = [
        (folder, raw)
        for folder, other, raw in zip(*filed, messages, strict=True)
        if folder == other
    ]
    inbox = [raw for folder, raw in same if folder == "INBOX"][: count // 2]
    junk = [raw for folder, raw in same if folder == "Junk"][: count - len(inbox)]
    return inbox + junk


def measure(
    host: BenchHost, watch: Watch, messages: Sequence[bytes], *, rounds: int
) -> list[Figure]:
    """Deliver the same messages to each contender, round after round.

    Args:
        host: the lab.
        watch: tells what else the machine does.
        messages: that ours and the fork file alike.
        rounds: how often.
    """
    medians: dict[str, list[float]] = {name: [] for name in (*CONTENDERS, BARE)}
    bare = callers(host, messages)[BARE]
    folders: dict[str, tuple[int, int]] = {}

    def run(name: str, _number: int) -> None:
        if name == BARE:  # Rspamd's own time, in the same rounds
            done = load.run(bare, len(messages), 1)
            medians[name].append(quantile(done.latencies_s, 0.5) * 1000)
            return
        host.fill(name, ())
        times = []
        with UnixLmtp(str(host.lab.root / "run/lmtp")) as lmtp:
            for raw in messages:
                started = time.perf_counter()
                lmtp.sendmail(SENDER, [host.user(name)], raw)
                times.append((time.perf_counter() - started) * 1000)
        medians[name].append(quantile(times, 0.5))
        box = host.mailbox(name)
        folders[name] = box.count("INBOX"), box.count("Junk")
        if name != "filing" and {OURS, "forking"} <= set(folders):
            junk = [folders[who][1] for who in (OURS, "forking")]
            if abs(junk[0] - junk[1]) > FLIPPED_SHARE * len(messages):
                same_work("delivery", {OURS: junk[0], "forking": junk[1]})
        same_work("delivery", {"sent": len(messages), "filed": sum(folders[name])})

    before = watch.probe()
    alternate((*CONTENDERS, BARE), rounds, run)
    busy = max(before, watch.probe())
    rows = list(zip(*(medians[name] for name in CONTENDERS), strict=True))
    filing, ours, forking = (quantile(medians[name], 0.5) for name in CONTENDERS)
    bayes_ms = quantile(medians[BARE], 0.5)
    note = f"{ours:.1f} ms, with a fork {forking:.1f} ms, only filing {filing:.1f} ms"
    return [
        Figure(
            "classify_vs_fork_speedup",
            tuple((fork - file) / (own - file) for file, own, fork in rows),
            note=f"{note}; of what each adds to filing",
            busy=busy,
        ),
        Figure(
            "classify_vs_fork_whole_speedup",
            tuple(fork / own for _, own, fork in rows),
            busy=busy,
        ),
        Figure(
            "delivery_added_ms_p50",
            tuple(own - file for file, own, _ in rows),
            limit=bayes_ms + OWN_MS,
            note=f"{note}; Rspamd's own time {bayes_ms:.2f} ms",
            busy=busy,
        ),
    ]
