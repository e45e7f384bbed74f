"""``make bench`` in small: contenders do the same work, or there is no figure. No speeds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from lmtp import UnixLmtp

import storm
from bench import classify, curves, delivery, drain, load, moves
from bench.figures import DishonestError
from bench.host import OURS, PIPERS, SENDER, BenchHost
from bench.machine import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGES = 20


@pytest.fixture(scope="module")
def host() -> Iterator[BenchHost]:
    """The benchmark's own host."""
    with BenchHost() as found:
        found.teach(OURS, "forking")
        yield found


@pytest.fixture(scope="module")
def stamped(host: BenchHost) -> list[bytes]:
    """Messages that carry a score, as deliveries do."""
    return host.stamped([*host.spam[30:40], *host.ham[30:40]], MESSAGES)


def test_each_account_runs_its_own_script(host: BenchHost, stamped: list[bytes]) -> None:
    """A setting that Dovecot does not know would leave a contender with ours, unseen."""
    says = {"filing": b"", OURS: b"score=", "forking": b"by rspamc"}
    for name, status in says.items():
        host.fill(name, ())
        with UnixLmtp(str(host.lab.root / "run/lmtp")) as lmtp:
            lmtp.sendmail(SENDER, [host.user(name)], stamped[0])
        box = host.mailbox(name)
        (found,) = [*box.messages("INBOX"), *box.messages("Junk")]
        marks = re.findall(rb"(?m)^X-Spam-Status: .*$", found.raw)
        assert [status in mark for mark in marks] == [True] * bool(status), name
        host.fill(name, ())
    samples = host.lab.waiting_samples()
    for name in ("plain", "idle"):
        host.fill(name, stamped[:1])
        box = host.mailbox(name)
        box.move([found.uid for found in box.messages("INBOX")], "INBOX", "Junk")
        assert box.count("Junk") == 1
        assert host.lab.waiting_samples() == samples, name


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


def test_single_calls_of_both_ways_are_timed_in_turn(host: BenchHost, stamped: list[bytes]) -> None:
    """One difference of medians and one of the slowest for each round."""
    figures = classify.added(
        host, Watch(host.leaders), stamped[0], rounds=2, calls=2 * classify.TURN
    )
    assert [figure.name for figure in figures] == ["classify_added_ms_p50", "classify_added_ms_p99"]
    assert [len(figure.rounds) for figure in figures] == [2, 2]


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
    answers = {
        "ours": load.run(ways["ours"], len(stamped), 4).answers,
        "bare": load.run(wrong, len(stamped), 4).answers,
    }
    with pytest.raises(DishonestError):
        classify.check(answers)


def test_the_curve_has_all_levels_for_each_contender(host: BenchHost) -> None:
    """With as many requests as there may be in flight, and more."""
    scored = host.stamped([*host.spam[30:50], *host.ham[30:50]], 40)
    found = curves.measure(host, scored, storm.distinct([*host.spam, *host.ham]), 10)
    for contenders in found.values():
        assert list(contenders) == list(curves.COLOURS)
        for points in contenders.values():
            assert [level for level, _, _ in points] == list(curves.LEVELS)
            assert all(0 < median <= slow for _, median, slow in points)


def test_a_curve_of_refused_samples_is_void() -> None:
    """Who refuses is quick."""
    learned = [b"HTTP/1.1 200 OK\r\n\r\n{}"] * 10
    curves._check_learns({"mailhooks": [b"+\n"] * 10, "Rspamd alone": learned})
    for ours, bare in (
        ([b"+\n"] * 9 + [b"-\n"], learned),
        ([b"+\n"] * 10, learned[:8] + [b"HTTP/1.1 503 no\r\n\r\n"] * 2),
    ):
        with pytest.raises(DishonestError):
            curves._check_learns({"mailhooks": ours, "Rspamd alone": bare})


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


def test_a_round_of_the_pipe_that_lost_lessons_is_run_once_more(host: BenchHost) -> None:
    """What rspamc said is told; the time of lessons that were not learned is no time."""
    program = host.folder / "bin/bench-learn"
    whole = program.read_text()
    failed = host.folder / "failed"
    failed.touch()
    failed.chmod(0o666)
    fails_once = f"[ -s {failed} ] || {{ echo yes > {failed}; echo no; exit 1; }}"
    try:
        program.write_text(
            whole.replace("exec ", f"{{ {fails_once}; }} >> {host.folder}/said\nexec ")
        )
        assert moves.piped_s(host, iter(PIPERS[-3:]), host.spam[:5]) > 0
        learned = [host.lab.learns(host.user(account))[0] for account in PIPERS[-3:]]
        assert learned == [4, 5, 0]
        program.write_text("#!/bin/sh\nexit 1\n")
        with pytest.raises(DishonestError, match=r"rspamc learned 0 of 5, and said '.*success"):
            moves.piped_s(host, iter(PIPERS[-5:-3]), host.spam[:5])
    finally:
        program.write_text(whole)


def test_the_worker_learns_as_much_as_a_bare_client(host: BenchHost) -> None:
    """By Redis' own count, or no ratio is given."""
    messages = [*host.spam[40:60], *host.ham[40:60]]
    assert drain.measure(host, Watch(host.leaders), messages, rounds=1).rounds
