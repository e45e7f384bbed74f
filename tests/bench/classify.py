"""What the classify socket adds to Rspamd's own work, one at a time and sixteen at once."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from bench import load
from bench.figures import Figure, alternate, quantile, same_work
from bench.host import OURS, SENDER
from bench.machine import used_s
from mailhooks.dovecot import encode_request
from mailhooks.rspamd.client import BAYES_ONLY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.host import BenchHost
    from bench.machine import Watch

IN_FLIGHT = 16
TURN = 10  # single calls in a row: within a second a machine may get faster or slower by a third
AGREED_SHARE = 0.98  # Rspamd guesses a text's language anew at every scan
_OWN = re.compile(rb"own ([\d.]+)%")


def callers(host: BenchHost, messages: Sequence[bytes]) -> dict[str, load.Caller]:
    """Both ways to the same verdict, for the same user: the socket, and Rspamd itself."""
    user = host.user(OURS)
    head = encode_request((), {"USER": user, "SENDER": SENDER, "RECIPIENT": user})
    headers = {"Settings": BAYES_ONLY, "Deliver-To": user}
    return {
        "ours": load.script(
            host.lab.root / "run/mailhooks/mailhooks-classify", [head + raw for raw in messages]
        ),
        "bare": load.http(
            host.lab.scan_url, [load.post("/checkv2", headers, raw) for raw in messages]
        ),
    }


def opinion(answer: bytes) -> str:
    """What Bayes says in an answer of either contender: ``spam``, ``ham`` or ``silent``."""
    if not answer.startswith(b"HTTP/"):
        found = _OWN.search(answer)
        if not answer.endswith(b"+\n") or b" verified " not in answer:
            raise RuntimeError(f"not a verdict on a carried score: {answer[-200:]!r}")
        return "silent" if found is None else "spam" if float(found[1]) > 50 else "ham"
    symbols = json.loads(answer.partition(b"\r\n\r\n")[2])["symbols"]
    return "spam" if "BAYES_SPAM" in symbols else "ham" if "BAYES_HAM" in symbols else "silent"


def check(answers: Mapping[str, Sequence[bytes]], share: float = AGREED_SHARE) -> None:
    """See that both contenders got the same opinions, of so large a share of the messages."""
    pairs = zip(*(map(opinion, each) for each in answers.values()), strict=True)
    agreed = [len(set(pair)) == 1 for pair in pairs]
    if sum(agreed) < share * len(agreed):
        same_work("classify", {name: opinion(each[0]) for name, each in answers.items()})
        same_work("classify", {"same": sum(agreed), "of": len(agreed)})


def added(
    host: BenchHost, watch: Watch, message: bytes, *, rounds: int, calls: int
) -> list[Figure]:
    """The times of single calls, and how much longer ours take.

    Args:
        host: the lab.
        watch: tells what else the machine does.
        message: the one that is asked about.
        rounds: how many pairs of medians to compare.
        calls: of each contender in a round; a multiple of ``TURN``.
    """
    ways = callers(host, [message])
    for way in ways.values():
        load.run(way, 20, 1)
    times: dict[str, list[list[float]]] = {name: [[] for _ in range(rounds)] for name in ways}
    answers: dict[str, list[bytes]] = {name: [] for name in ways}

    def run(name: str, number: int) -> None:
        turn = load.run(ways[name], TURN, 1)
        times[name][number * TURN // calls] += [value * 1000 for value in turn.latencies_s]
        answers[name] += turn.answers

    before = watch.probe()
    alternate(list(ways), rounds * calls // TURN, run)
    busy = max(before, watch.probe())
    check(answers)
    figures = []
    for name, share in (("classify_added_ms_p50", 0.5), ("classify_added_ms_p99", 0.99)):
        values = tuple(
            quantile(ours, share) - quantile(bare, share)
            for ours, bare in zip(times["ours"], times["bare"], strict=True)
        )
        all_ms = {
            who: quantile((ms for each in lists for ms in each), share)
            for who, lists in times.items()
        }
        note = f"{all_ms['ours']:.2f} ms, Rspamd alone {all_ms['bare']:.2f} ms"
        figures.append(Figure(name, values, note=note, busy=busy))
    return figures


def throughput(
    host: BenchHost, watch: Watch, message: bytes, *, rounds: int, calls: int
) -> list[Figure]:
    """Answers a second with sixteen calls in flight, and the daemon's processor time for one."""
    ways = callers(host, [message])
    rates: dict[str, list[float]] = {name: [] for name in ways}
    runs: dict[str, load.Run] = {}
    daemon = host.lab.servers["daemon"].pid
    used_ms: list[float] = []

    def run(name: str, _number: int) -> None:
        before_s = used_s(daemon)
        runs[name] = load.run(ways[name], calls, IN_FLIGHT)
        if name == "ours":
            used_ms.append((used_s(daemon) - before_s) / calls * 1000)
        rates[name].append(runs[name].per_s)
        if len(rates["ours"]) == len(rates["bare"]):
            check({name: each.answers for name, each in runs.items()})

    before = watch.probe()
    alternate(list(ways), rounds, run)
    ratios = tuple(ours / bare for ours, bare in zip(rates["ours"], rates["bare"], strict=True))
    ours, bare = (quantile(rates[name], 0.5) for name in ("ours", "bare"))
    note = f"{ours:.0f}/s, Rspamd alone {bare:.0f}/s"
    busy = max(before, watch.probe())
    return [
        Figure("classify_throughput_ratio", ratios, note=note, busy=busy),
        Figure("classify_cpu_ms", tuple(used_ms), busy=busy),
    ]
