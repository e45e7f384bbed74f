"""What the second milter costs Postfix: messages accepted a second, delivery left out."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from bench.figures import Figure, alternate, quantile, same_work
from mailhooks.lab.host import ADDRESS

if TYPE_CHECKING:
    from bench.host import BenchHost
    from bench.machine import Watch

SESSIONS = 8
WARM_UP = 16


def measure(host: BenchHost, watch: Watch, message: bytes, *, rounds: int, messages: int) -> Figure:
    """Let smtp-source send through Rspamd's milter alone, and through both.

    Args:
        host: the lab; its mail is thrown away meanwhile.
        watch: tells what else the machine does.
        message: what is sent.
        rounds: how often.
        messages: in each round.
    """
    config = str(host.lab.root / "postfix")
    both = _run("/usr/sbin/postconf", "-c", config, "-h", "smtpd_milters")
    transport = _run("/usr/sbin/postconf", "-c", config, "-h", "virtual_transport")
    settings = {"rspamd alone": both[: both.index("}") + 1], "both": both}
    letter = host.folder / "letter.eml"
    letter.write_bytes(message.replace(b"\r\n", b"\n"))
    rates: dict[str, list[float]] = {name: [] for name in settings}

    def configure(milters: str, to: str) -> None:
        values = (f"smtpd_milters={milters}", f"virtual_transport={to}")
        _run("/usr/sbin/postconf", "-c", config, "-e", *values)
        _run("/usr/sbin/postfix", "-c", config, "reload")

    def send(count: int) -> float:
        started = time.perf_counter()
        _run(
            *("/usr/sbin/smtp-source", "-s", str(SESSIONS), "-m", str(count)),
            *("-f", "sender@example.org", "-t", host.user("ours"), "-F", str(letter)),
            f"{ADDRESS}:{host.lab.smtp_port}",
        )
        return time.perf_counter() - started

    def run(name: str, _number: int) -> None:
        configure(settings[name], "discard:")
        send(WARM_UP)  # Postfix's processes take a new setting when they begin anew
        host.lab.wait_queue_empty(120)
        signed = _signed(host)
        rates[name].append(messages / send(messages))
        host.lab.wait_queue_empty(120)
        expected = messages if name == "both" else 0
        same_work("milter", {"expected": expected, "scored by ours": _signed(host) - signed})

    before = watch.probe()
    try:
        alternate(list(settings), rounds, run)
    finally:
        configure(both, transport)
    alone, with_ours = (quantile(rates[name], 0.5) for name in settings)
    return Figure(
        "milter_throughput_ratio",
        tuple(ours / base for base, ours in zip(*rates.values(), strict=True)),
        note=f"{with_ours:.1f}/s, Rspamd's milter alone {alone:.1f}/s",
        busy=max(before, watch.probe()),
    )


def _signed(host: BenchHost) -> int:
    return host.lab.log("milter").count(": score=")


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]}: {done.stderr or done.stdout}")
    return done.stdout.strip()
