from __future__ import annotations

import fnmatch
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from click.testing import CliRunner

from mailhooks.accounts import Accounts, no_password
from mailhooks.cli import main
from mailhooks.dovecot.script_protocol import encode_request
from mailhooks.errors import StatisticsError
from mailhooks.ledger import WEEK_S, Answer, Decision, Outcome, Source, SqliteLedger
from mailhooks.lesson import Lesson
from mailhooks.policy import Folder, Reason
from mailhooks.spool import Label, Spool
from mailhooks.statistics import Learned, Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result


class FakeRedis:
    """The commands that `Statistics` uses, on a dictionary."""

    def __init__(self) -> None:
        self.hashes: dict[bytes, dict[str, bytes]] = {}
        self.sets: dict[str, set[bytes]] = {
            f"BAYES_{kind}_keys": set() for kind in ("SPAM", "HAM", "SPAM_SHARED", "HAM_SHARED")
        }

    def learns(self, user: str, spam: int, ham: int, tokens: int = 3) -> None:
        key = f"RS{user}".encode()
        self.hashes[key] = {
            "version": b"2",
            "learns_spam": b"%d" % spam,
            "learns_ham": b"%d" % ham,
        }
        for number in range(tokens):
            self.hashes[key + b"_%d" % (10**17 + number)] = {"S": b"1"}
        for members in self.sets.values():
            members.add(key)

    def hmget(self, key: str | bytes, fields: list[str]) -> list[bytes | None]:
        found = self.hashes.get(key.encode() if isinstance(key, str) else key, {})
        return [found.get(field) for field in fields]

    def sunion(self, names: list[str]) -> set[bytes]:
        return set().union(*(self.sets[name] for name in names))

    def scan_iter(self, match: str, count: int) -> Iterator[bytes]:
        assert count
        # Redis escapes by a backslash, fnmatch by a class of one.
        pattern = match.replace("\\*", "[*]").replace("\\?", "[?]").replace("\\-", "-")
        pattern = pattern.replace("\\[", "[[]").replace("\\]", "]")
        return iter([key for key in self.hashes if fnmatch.fnmatchcase(key.decode(), pattern)])

    def pipeline(self, *, transaction: bool) -> FakePipeline:
        assert not transaction
        return FakePipeline(self)

    def unlink(self, *keys: str | bytes) -> None:
        for key in keys:
            self.hashes.pop(key.encode() if isinstance(key, str) else key, None)

    def srem(self, name: str, member: bytes) -> None:
        self.sets[name].discard(member)

    def hlen(self, name: str) -> int:
        return len(self.hashes.get(name.encode(), {}))

    def close(self) -> None:
        pass


class FakePipeline:
    def __init__(self, fake: FakeRedis) -> None:
        self._fake = fake
        self._answers: list[Any] = []

    def hmget(self, key: bytes, fields: list[str]) -> None:
        self._answers.append(self._fake.hmget(key, fields))

    def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        return self._answers


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRedis:
    fake = FakeRedis()
    monkeypatch.setattr(redis.Redis, "from_url", lambda *_args, **_options: fake)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "mailhooks.toml"
    path.write_text(
        f'[daemon]\nspool_dir = "{tmp_path}/spool"\ndrop_dir = "{tmp_path}/drop"\n'
        "mail_users = []\n"
        f'[learning]\nledger_file = "{tmp_path}/ledger.sqlite"\n'
        '[doveadm]\ncommand = ["/no/such/doveadm"]\n'
        "[redis]\nmin_learns = 20\n"
    )
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


def run(settings: Path, *arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, ["--config", str(settings), *arguments], input=answer)


def answer(
    digest: str,
    lesson: Lesson,
    *,
    user: str = "anna",
    outcome: Outcome = Outcome.LEARNED,
    ago_s: float = 60,
) -> Answer:
    return Answer(
        user=user,
        digest=digest,
        lesson=lesson,
        outcome=outcome,
        origin="move",
        time=time.time() - ago_s,
    )


@pytest.mark.parametrize(
    ("spam", "ham", "state"),
    [
        (20, 20, "ready"),
        (20, 6, "14 more ham needed"),
        (19, 300, "1 more spam needed"),
        (0, 5, "20 more spam and 15 more ham needed"),
    ],
)
def test_the_state_says_what_is_missing(spam: int, ham: int, state: str) -> None:
    """Rspamd wants enough of both classes."""
    assert Learned(spam, ham).lacking(20) == state


def test_stats_of_everybody(settings: Path, fake: FakeRedis, ledger: SqliteLedger) -> None:
    """Whoever Redis, the ledger or the spool knows has a line."""
    fake.learns("anna", 20, 6)
    ledger.record(answer("d", Lesson.SPAM, user="bert", outcome=Outcome.REFUSED))
    output = run(settings, "stats").stdout
    assert [line.split()[0] for line in output.splitlines()] == ["user", "anna", "bert"]
    assert "14 more ham needed" in output


def test_stats_of_everybody_show_who_has_taught_nothing(
    settings: Path, fake: FakeRedis, ledger: SqliteLedger, tmp_path: Path
) -> None:
    """If the accounts can be listed; else a line says why they are missing."""
    fake.learns("anna@example.org", 20, 20)
    assert ledger.users() == []
    done = run(settings, "stats", "--json")
    assert [row["user"] for row in json.loads(done.stdout)] == ["anna@example.org"]
    assert "not shown: who has taught nothing" in done.stderr
    url = f"sqlite:///{tmp_path}/accounts.sqlite"
    with Accounts(url) as accounts:
        accounts.migrate()
        accounts.add_domain("example.org")
        for name in ("anna", "bert"):
            accounts.add_user(f"{name}@example.org", no_password())
    settings.write_text(settings.read_text() + f'[accounts]\ndatabase = "{url}"\n')
    done = run(settings, "stats", "--json")
    assert [(row["user"], row["spam"], row["ready"]) for row in json.loads(done.stdout)] == [
        ("anna@example.org", 20, True),
        ("bert@example.org", 0, False),
    ]
    assert not done.stderr


def test_stats_of_one_user_tell_corrections_and_outcomes(
    settings: Path, fake: FakeRedis, ledger: SqliteLedger, tmp_path: Path
) -> None:
    """Weeks run up to now; what is older is not counted."""
    fake.learns("anna", 20, 20)
    ledger.record(answer("old", Lesson.SPAM, ago_s=9 * WEEK_S))
    ledger.record(answer("a", Lesson.SPAM, ago_s=2.5 * WEEK_S), answer("b", Lesson.SPAM))
    ledger.record(answer("a", Lesson.HAM, ago_s=1.5 * WEEK_S), answer("b", Lesson.HAM))
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    label = Label(user="anna", lesson=Lesson.SPAM, digest="c", origin="move", received=1.0)
    spool.put(label, b"x")
    row = json.loads(run(settings, "stats", "--user", "Anna", "--json").stdout)[0]
    assert row["ready"]
    assert row["corrections_by_week"] == [0, 0, 1, 1]
    assert row["outcomes"] == {"learned": 4}
    assert row["ledger"] == {"spam": 1, "ham": 2}
    assert row["waiting"] == 1
    text = run(settings, "stats", "--user", "Anna").stdout
    assert "state:       ready" in text
    assert "0.5 a week in 4 weeks: 0 0 1 1" in text


def test_forget_asks_and_says_what_it_removed(
    settings: Path, fake: FakeRedis, ledger: SqliteLedger, tmp_path: Path
) -> None:
    """Statistics, ledger and spool; without a yes nothing at all."""
    fake.learns("anna", 2, 1)
    ledger.record(answer("a", Lesson.SPAM), answer("b", Lesson.HAM))
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    for user in ("anna", "bert"):
        label = Label(user=user, lesson=Lesson.SPAM, digest="c", origin="move", received=1.0)
        spool.put(label, b"x")
        spool.set_aside(spool.put(label, b"y"), "reason")
    refused = run(settings, "forget", "--user", "Anna", answer="n\n")
    assert refused.exit_code == 1
    assert (
        "Forget anna: 2 spam and 1 ham in Redis, 2 messages in the ledger, 2 samples in the spool, "
        "0 calls in the drop folder?" in refused.stderr
    )
    assert ledger.users() == ["anna"]
    output = run(settings, "forget", "--user", "Anna", answer="y\n").stdout
    assert "Redis: removed 2 spam, 1 ham, 3 tokens" in output
    assert "ledger: removed 2 messages" in output
    assert "spool: removed 2 samples" in output
    assert "learn cache belongs to all users and was kept" in output
    assert (fake.hashes, ledger.users()) == ({}, [])
    assert [entry.label.user for entry in spool.entries()] == ["bert"]
    assert [each.label.user for each in spool.all_set_aside() if each.label] == ["bert"]


def test_forget_removes_calls_that_wait_in_the_drop_folder(
    settings: Path, fake: FakeRedis, tmp_path: Path
) -> None:
    """Else the daemon would learn them once it is back; others' and what is no call stay."""
    fake.learns("anna", 1, 1)
    drop = tmp_path / "drop"
    drop.mkdir()
    args = ["cause=COPY", "from=INBOX", "to=Junk"]
    for name, user in (("1", "Anna"), ("2", "bert"), (".being-written", "anna")):
        (drop / name).write_bytes(encode_request(args, {"USER": user}) + b"Subject: x\r\n")
    (drop / "3").write_bytes(b"no call of anna")
    refused = run(settings, "forget", "-u", "anna", answer="n\n")
    assert "1 call in the drop folder?" in refused.stderr
    output = run(settings, "forget", "-u", "anna", "--yes").stdout
    assert "drop folder: removed 1 call\n" in output
    assert sorted(path.name for path in drop.iterdir()) == [".being-written", "2", "3"]


def test_forget_goes_by_whose_statistics_would_learn(
    settings: Path, fake: FakeRedis, tmp_path: Path
) -> None:
    """With shared mailboxes teaching their owners, that may be somebody else than who acted."""
    settings.write_text(settings.read_text() + '[mailboxes]\nshared = "owner"\n')
    fake.learns("anna", 1, 1)
    drop = tmp_path / "drop"
    drop.mkdir()
    owned = ["cause=COPY", "from=INBOX", "to=shared/anna/Junk"]
    (drop / "1").write_bytes(encode_request(owned, {"USER": "bert"}) + b"Subject: x\r\n")
    assert "removed 0 calls" in run(settings, "forget", "-u", "bert", "--yes").stdout
    assert "removed 1 call\n" in run(settings, "forget", "-u", "anna", "--yes").stdout


@pytest.mark.parametrize("user", ["anna", "a*", "an?a", "[a]nna", "an-na"])
def test_forget_touches_nobody_whose_name_is_alike(
    settings: Path, fake: FakeRedis, user: str
) -> None:
    """Not a longer name, not one with a number behind an underscore, not what a pattern matches."""
    others = ["annabel", f"{user}_1", f"{user}_100000000000000077", "bnna", "anna2", "xanna"]
    for other in others:
        fake.learns(other, 5, 5)
    before = dict(fake.hashes)
    fake.learns(user, 1, 1)
    result = json.loads(run(settings, "forget", "-u", user, "--yes", "--json").stdout)
    assert result["tokens"] == 3
    assert fake.hashes == before
    assert f"RS{user}".encode() not in fake.sets["BAYES_SPAM_keys"]


def test_the_learn_cache_of_all_users_goes_only_on_demand(settings: Path, fake: FakeRedis) -> None:
    """It is one for all users, so the option says what it costs."""
    fake.hashes[b"learned_ids"] = {"a": b"1", "b": b"-1"}
    run(settings, "forget", "-u", "anna", "--yes")
    assert fake.hlen("learned_ids") == 2
    output = run(settings, "forget", "-u", "anna", "--yes", "--learn-cache").stdout
    assert "learn cache: removed 2 messages" in output
    assert fake.hlen("learned_ids") == 0


def test_an_absent_redis_is_one_line_without_its_password(settings: Path) -> None:
    """The URL names the place; the secret in it stays secret."""
    settings.write_text(settings.read_text() + 'url = "redis://:secret@127.0.0.1:1/0"\n')
    result = run(settings, "stats")
    assert result.exit_code == 1
    assert "Error: Redis at redis://127.0.0.1:1/0: " in result.stderr
    assert "secret" not in result.stderr


def test_a_count_below_zero_is_shown_as_none(settings: Path, fake: FakeRedis) -> None:
    """Rspamd 3.4 takes away what was never there."""
    fake.learns("anna", -2, 30)
    row = json.loads(run(settings, "stats", "-u", "anna", "--json").stdout)[0]
    assert (row["spam"], row["state"]) == (0, "22 more spam needed")


def test_a_url_that_redis_does_not_know_is_our_error() -> None:
    """Should one slip through the settings."""
    with pytest.raises(StatisticsError):
        Statistics("http://x", "RS")


def decision(digest: str, score: float, *, user: str = "anna", ago_s: float = 100.0) -> Decision:
    return Decision(
        user=user,
        digest=digest,
        time=time.time() - ago_s,
        folder=Folder.JUNK if score >= 6 else Folder.INBOX,
        reason=Reason.SCORE_ALONE,
        source=Source.CARRIED,
        objective=score,
        threshold=6.0,
    )


def test_stats_tell_how_often_verdicts_were_wrong(
    settings: Path, fake: FakeRedis, ledger: SqliteLedger
) -> None:
    """By week, of the good mail and of the spam, also for users who never taught anything."""
    fake.learns("anna", 20, 20)
    ledger.decide(
        *(decision(f"ham{number}", 1.0) for number in range(7)),
        decision("spam", 9.0, ago_s=1.5 * WEEK_S),
        decision("wrong", 7.0),
        decision("missed", 2.0),
        decision("old", 9.0, ago_s=9 * WEEK_S),
        decision("x", 1.0, user="bert"),
    )
    ledger.record(answer("wrong", Lesson.HAM), answer("missed", Lesson.SPAM))
    row = json.loads(run(settings, "stats", "--user", "anna", "--json").stdout)[0]["verdicts"]
    by_week = row.pop("by_week")
    assert row == {
        "inbox": 8,
        "junk": 2,
        "false_positives": 1,
        "false_negatives": 1,
        "false_positive_rate": 1 / 8,
        "false_negative_rate": 1 / 2,
    }
    assert [week["junk"] for week in by_week] == [0, 0, 1, 1]
    text = run(settings, "stats", "--user", "anna").stdout
    assert "ham in Junk: 12.5% (1) of good mail in 4 weeks: 0 0 0 1" in text
    assert "missed spam: 50.0% (1) of spam, in INBOX, in 4 weeks: 0 0 0 1" in text
    lines = run(settings, "stats").stdout.splitlines()
    assert lines[1].split()[-4:] == ["12.5%", "(1)", "50.0%", "(1)"]
    assert lines[2].split()[0] == "bert"
    assert lines[2].split()[-3:] == ["0.0%", "(0)", "-"]


def test_tune_shows_what_other_thresholds_would_have_done(
    settings: Path, ledger: SqliteLedger
) -> None:
    """With the threshold of this user, and the best one only if there is enough to go by."""
    with settings.open("a") as file:
        file.write('[policy]\nthresholds = { "anna" = 7.0 }\n')
    ledger.decide(*(decision(str(number), 4.2) for number in range(19)), decision("old", 9.0))
    ledger.record(*(answer(str(number), Lesson.SPAM, ago_s=1.0) for number in range(19)))
    text = run(settings, "tune", "--user", "Anna").stdout
    assert "anna: 20 verdicts since " in text
    assert "19 corrections. Mail that was never corrected counts as right." in text
    assert "Too few corrections to say which is best: it takes 20." in text
    assert ["7.00", "0", "19", "now"] in [line.split() for line in text.splitlines()]

    ledger.decide(decision("one more", 4.2))
    ledger.record(answer("one more", Lesson.SPAM, ago_s=1.0))
    found = json.loads(run(settings, "tune", "--user", "anna", "--json").stdout)
    assert found["best"] == {"threshold": 4.0, "ham_in_junk": 0, "spam_in_inbox": 0}
    assert found["now"] == {"threshold": 7.0, "ham_in_junk": 0, "spam_in_inbox": 20}
    assert found["enough"] is True
    assert run(settings, "tune", "--user", "nobody").stdout.startswith("nobody: 0 verdicts since ")
