"""``make bench`` in small: contenders do the same work, or there is no figure. No speeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import classify, delivery, drain, load, moves
from bench.figures import DishonestError
from bench.host import OURS, BenchHost
from bench.machine import Watch
from mailhooks.setup import installed_generation

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGES = 20


@pytest.fixture(scope="module")
def host() -> Iterator[BenchHost]:
    """The benchmark's own host."""
    if installed_generation() != "2.3":
        pytest.skip("the benchmark's accounts are written for Dovecot 2.3")
    with BenchHost() as found:
        found.teach(OURS, "forking")
        yield found


@pytest.fixture(scope="module")
def stamped(host: BenchHost) -> list[bytes]:
    """Messages that carry a score, as deliveries do."""
    return host.stamped([*host.spam[30:40], *host.ham[30:40]], MESSAGES)


def test_both_ways_to_a_verdict_hear_the_same_opinions(
    host: BenchHost, stamped: list[bytes]
) -> None:
    """The socket and Rspamd itself, one by one and with several in flight."""
    ways = classify.callers(host, stamped)
    runs = {name: load.run(way, len(stamped), 4) for name, way in ways.items()}
    opinions = {
        name: [classify.opinion(answer) for answer in run.answers] for name, run in runs.items()
    }
    agreed = sum(ours == bare for ours, bare in zip(*opinions.values(), strict=True))
    assert agreed >= len(stamped) - 1  # Rspamd's guess of a language may flip one
    assert {"spam", "ham"} <= set(opinions["ours"])


def test_the_daemons_part_of_a_verdict_is_counted(host: BenchHost, stamped: list[bytes]) -> None:
    """Answers a second of both ways, and the processor time of ours alone."""
    figures = classify.throughput(
        host, Watch(host.leaders), stamped[0], rounds=1, calls=len(stamped)
    )
    assert [figure.name for figure in figures] == ["classify_throughput_ratio", "classify_cpu_ms"]
    assert all(figure.value > 0 for figure in figures)


def test_another_users_opinion_voids_the_comparison(host: BenchHost, stamped: list[bytes]) -> None:
    """A contender who asks about somebody untaught is caught."""
    ways = classify.callers(host, stamped)
    headers = {"Settings": '{"groups_enabled":["statistics"]}', "Deliver-To": host.user("bare")}
    wrong = load.http(host.lab.scan_url, [load.post("/checkv2", headers, raw) for raw in stamped])
    runs = {
        "ours": load.run(ways["ours"], len(stamped), 4),
        "bare": load.run(wrong, len(stamped), 4),
    }
    with pytest.raises(DishonestError):
        classify.check(runs)


def test_deliveries_are_filed_alike_by_ours_and_by_a_fork(
    host: BenchHost, stamped: list[bytes]
) -> None:
    """Figures come out only if every copy is there and the verdicts agree."""
    messages = delivery.agreed(host, stamped, 8)
    assert len(messages) == 8
    figures = delivery.measure(host, Watch(host.leaders), messages, rounds=1)
    assert [len(figure.rounds) for figure in figures] == [1, 1, 1]


def test_a_move_counts_samples_calls_and_learns(host: BenchHost) -> None:
    """Samples on disk for ours, calls for the discarding socket, learns for rspamc."""
    messages = [*host.spam[:MESSAGES], *host.ham[:MESSAGES]]
    figures = moves.moving(host, Watch(host.leaders), messages, rounds=1, piped=5)
    assert {figure.name for figure in figures} == {"move_vs_noop_ratio", "move_vs_rspamc_speedup"}
    assert all(it.rounds for it in moves.reading(host, Watch(host.leaders), messages, rounds=1))


def test_the_worker_learns_as_much_as_a_bare_client(host: BenchHost) -> None:
    """By Redis' own count, or no ratio is given."""
    messages = [*host.spam[40:60], *host.ham[40:60]]
    assert drain.measure(host, Watch(host.leaders), messages, rounds=1).rounds
