"""What imapsieve costs a user who moves or reads mail."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from typing import TYPE_CHECKING

from bench.figures import DishonestError, Figure, alternate, quantile, same_work
from bench.host import OURS, PIPERS
from mailhooks.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.host import BenchHost
    from bench.machine import Watch

log = logging.getLogger("bench.moves")

CONTENDERS = ("discarding", OURS, "piping")
LEARNED_SHARE = 0.9


def _move_all(host: BenchHost, name: str, messages: Sequence[bytes]) -> float:
    """MOVE everything from INBOX into Junk in one command; returns seconds."""
    host.fill(name, messages)
    with host.mailbox(name).session() as imap:
        imap.select("INBOX")
        started = time.perf_counter()
        status, answer = imap.uid("MOVE", "1:*", "Junk")
        elapsed_s = time.perf_counter() - started
    if status != "OK" or host.mailbox(name).count("Junk") != len(messages):
        raise RuntimeError(f"MOVE of {name}: {status} {answer}")
    return elapsed_s


def _learned(host: BenchHost) -> None:
    """Have the spool as it is when all samples were learned; how fast that is, ``drain`` tells."""
    daemon = host.lab.servers["daemon"]
    daemon.stop()
    with closing(Spool(host.lab.root / "spool")) as spool:
        spool.prepare()
        spool.keep_journal()
        for entry in spool.entries():
            spool.remove(entry)
    host.lab.restart("daemon")


def piped_s(host: BenchHost, pipers: Iterator[str], messages: Sequence[bytes]) -> float:
    """Seconds a message of the usual pipe, with all of them learned.

    The pipe drops a lesson whenever ``rspamc`` fails, and tells nobody. A round in which it did is
    said and run once more; the time of doing less would be no time to compare with.

    Args:
        host: the lab.
        pipers: accounts that have learned nothing yet; one for each try.
        messages: what is moved.

    Raises:
        DishonestError: lessons were lost twice in a row.
    """
    for account in (next(pipers), next(pipers)):
        elapsed_s = _move_all(host, account, messages)
        learned = host.lab.learns(host.user(account))[0]
        # Rspamd refuses a few of any corpus, for want of text.
        if learned > len(messages) * LEARNED_SHARE:
            return elapsed_s / len(messages)
        lost = f"rspamc learned {learned} of {len(messages)}, and said {host.piping_said()!r}"
        log.warning("%s: %s", account, lost)
    raise DishonestError(f"move: the contenders did not do the same work: {lost}")


def moving(
    host: BenchHost, watch: Watch, messages: Sequence[bytes], *, rounds: int, piped: int
) -> list[Figure]:
    """Move mail into Junk: sample on disk, discarded, and taught by a fork of rspamc.

    Args:
        host: the lab; samples settle there longer than a round takes.
        watch: tells what else the machine does.
        messages: no two alike.
        rounds: how often.
        piped: how many of the messages the slow contender moves.
    """
    each_s: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    pipers = iter(PIPERS)

    def run(name: str, _number: int) -> None:
        if name == "piping":
            each_s[name].append(piped_s(host, pipers, messages[:piped]))
            return
        if name == OURS:
            _learned(host)
        discarded = host.discarded()
        each_s[name].append(_move_all(host, name, messages) / len(messages))
        samples = sum(1 for _ in (host.lab.root / "spool/new").iterdir())
        done = samples if name == OURS else host.discarded() - discarded
        same_work("move", {"moved": len(messages), name: done})

    before = watch.probe()
    alternate(CONTENDERS, rounds, run)
    busy = max(before, watch.probe())
    _learned(host)
    noop, ours, pipe = (quantile(each_s[name], 0.5) * 1000 for name in CONTENDERS)
    note = f"{ours:.2f} ms a message, discarding {noop:.2f} ms, sh + rspamc {pipe:.1f} ms"
    rows = list(zip(*(each_s[name] for name in CONTENDERS), strict=True))
    return [
        Figure(
            "move_vs_noop_ratio", tuple(own / base for base, own, _ in rows), note=note, busy=busy
        ),
        Figure(
            "move_vs_rspamc_speedup",
            tuple(fork / own for _, own, fork in rows),
            note=note,
            busy=busy,
        ),
    ]


def reading(
    host: BenchHost, watch: Watch, messages: Sequence[bytes], *, rounds: int
) -> list[Figure]:
    """Mark everything as read: a flag change runs our Sieve, and should cost next to nothing."""
    names = ("plain", OURS, "idle", "unmarked")
    times: dict[str, list[float]] = {name: [] for name in names}
    samples = host.lab.waiting_samples()
    for name in names:
        host.fill(name, messages)

    def run(name: str, _number: int) -> None:
        with host.mailbox(name).session() as imap:
            imap.select("INBOX")
            started = time.perf_counter()
            imap.uid("STORE", "1:*", "+FLAGS", r"(\Seen)")
            times[name].append(time.perf_counter() - started)
            seen = len((imap.uid("SEARCH", "SEEN")[1][0] or b"").split())
            same_work("seen", {"messages": len(messages), name: seen})
            imap.uid("STORE", "1:*", "-FLAGS", r"(\Seen)")

    before = watch.probe()
    alternate(names, rounds, run)
    same_work("seen", {"samples before": samples, "and after": host.lab.waiting_samples()})
    busy = max(before, watch.probe())
    plain, ours, idle, unmarked = (quantile(times[name], 0.5) * 1000 for name in names)
    rows = list(zip(*times.values(), strict=True))
    note = f"{ours:.0f} ms for {len(messages)} messages, without imapsieve {plain:.0f} ms"
    return [
        Figure(
            "seen_flag_ratio",
            tuple(own / base for base, own, _, _ in rows),
            note=f"{note}, with imapsieve and an empty script {idle:.0f} ms",
            busy=busy,
        ),
        Figure(
            "seen_flag_without_keywords_ratio",
            tuple(off / base for base, _, _, off in rows),
            note=f"{unmarked:.0f} ms, without imapsieve {plain:.0f} ms",
            busy=busy,
        ),
    ]
