"""What memory the daemon needs after its start, and how much more after long use."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from bench import classify, load
from bench.figures import Figure
from bench.machine import resident_mb
from mailhooks.dovecot import encode_request
from mailhooks.lab.host import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.host import BenchHost
    from bench.machine import Watch

IN_FLIGHT = 16
PORTIONS = 20
USERS = 50
SETTLED_S = 240.0
IDLE_S = 1.0


def learn_caller(host: BenchHost, messages: Sequence[bytes]) -> load.Caller:
    """Calls that move a message into Junk, of users in turn; no two calls alike."""
    heads = [
        encode_request(
            ("cause=COPY", "from=INBOX", "to=Junk"), {"USER": f"reader{number}@{DOMAIN}"}
        )
        for number in range(USERS)
    ]

    def request(number: int) -> bytes:
        marked = b"Message-ID: <%d.%d@bench.example>\r\n" % (number, time.monotonic_ns())
        return heads[number % USERS] + marked + messages[number % len(messages)]

    path = host.lab.root / "run/mailhooks/mailhooks-learn"
    return load.Caller(str(path), request, half_close=True)


def measure(
    host: BenchHost, watch: Watch, messages: Sequence[bytes], *, classified: int, learned: int
) -> list[Figure]:
    """Memory after a start, then after requests, all of them answered and learned.

    They come mixed, as in a long day: a sample is learned while others are taken.
    """
    config = host.lab.root / "mailhooks/mailhooks.toml"
    usual = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"(?m)^settle_s = .*$", "settle_s = 1.0", usual), encoding="utf-8")
    host.restart_daemon(empty_spool=True)
    time.sleep(IDLE_S)
    pid = host.lab.servers["daemon"].pid
    first_mb = resident_mb(pid)
    learn, ways = learn_caller(host, messages), classify.callers(host, messages)
    for portion in range(PORTIONS):
        count = learned // PORTIONS
        answers = load.run(learn, count, IN_FLIGHT, portion * count).answers
        if set(answers) != {b"+\n"}:
            raise RuntimeError("memory: the learn socket did not take every sample")
        for answer in load.run(ways["ours"], classified // PORTIONS, IN_FLIGHT).answers:
            classify.opinion(answer)
    host.lab.wait("all is learned", lambda: host.lab.waiting_samples() == 0, SETTLED_S)
    time.sleep(IDLE_S)
    last_mb = resident_mb(pid)
    watch.probe()
    config.write_text(usual, encoding="utf-8")
    host.restart_daemon()
    note = f"{first_mb:.1f} MB, then {last_mb:.1f} MB"
    work = f"{note}, after {classified} classify and {learned} learn requests"
    return [
        Figure("daemon_rss_mb", (first_mb,), note=note),
        Figure("daemon_rss_growth_mb", (last_mb - first_mb,), note=work),
    ]
