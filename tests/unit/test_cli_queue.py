from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mailhooks.cli import main
from mailhooks.ledger import Answer, Outcome, SqliteLedger
from mailhooks.lesson import Lesson
from mailhooks.spool import Entry, Label, Spool

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

RAW = b"Subject: x\r\n\r\n\xff\0 body\n\nend"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


@pytest.fixture
def settings(tmp_path: Path, spool: Spool) -> Path:
    path = tmp_path / "mailhooks.toml"
    path.write_text(
        f'[daemon]\nspool_dir = "{spool.folder}"\n'
        f'[learning]\nledger_file = "{tmp_path}/ledger.sqlite"\n'
    )
    return path


def queue(settings: Path, *arguments: str, answer: str = "") -> Result:
    command = ["--config", str(settings), "queue", *arguments]
    return CliRunner().invoke(main, command, input=answer)


def put(spool: Spool, user: str = "anna", digest: str = "d1", *, ago_s: float = 7200) -> Entry:
    label = Label(
        user=user,
        lesson=Lesson.SPAM,
        digest=digest,
        origin="move",
        received=time.time() - ago_s,
    )
    return spool.put(label, RAW)


def put_aside(spool: Spool, user: str = "anna", digest: str = "d2") -> Entry:
    entry = put(spool, user, digest)
    spool.set_aside(entry, "under way when 3 processes died")
    return entry


def names(settings: Path) -> dict[str, str]:
    return {
        sample["name"]: sample["state"]
        for sample in json.loads(queue(settings, "list", "--json").stdout)
    }


def test_an_empty_queue_says_so(settings: Path) -> None:
    """No table without rows."""
    assert queue(settings, "list").stdout == "0 waiting, 0 set aside\n"
    assert json.loads(queue(settings, "list", "--json").stdout) == []


def test_the_list_shows_who_what_how_old_and_why(settings: Path, spool: Spool) -> None:
    """Waiting samples and those set aside, of everybody or of one user."""
    waiting, bad = put(spool), put_aside(spool, "bert")
    (spool.folder / "bad" / "junk.unreadable").write_bytes(b"?")
    output = queue(settings, "list").stdout
    line = next(line for line in output.splitlines() if line.startswith(waiting.name))
    assert line.split() == [waiting.name, "waiting", "anna", "spam", "2", "h", "move"]
    assert "under way when 3 processes died" in output
    assert "not a sample of mailhooks" in output
    assert output.endswith("1 waiting, 2 set aside\n")
    assert bad.name in queue(settings, "list", "--user", "Bert").stdout
    assert waiting.name not in queue(settings, "list", "--user", "Bert").stdout


def test_show_prints_the_label_or_the_very_bytes_of_the_message(
    settings: Path, spool: Spool
) -> None:
    """What an administrator needs to see why a sample is stuck."""
    bad = put_aside(spool)
    label = queue(settings, "show", bad.name).stdout
    assert "reason:      under way when 3 processes died" in label
    assert "lesson:      spam" in label
    assert queue(settings, "show", bad.name, "--message").stdout_bytes == RAW
    assert json.loads(queue(settings, "show", bad.name, "--json").stdout)["size_bytes"] == len(RAW)


@pytest.mark.parametrize("name", ["nope", "../mailhooks.toml", "..", "new"])
@pytest.mark.parametrize("command", ["show", "retry", "drop"])
def test_a_name_that_is_no_sample_is_an_error(
    settings: Path, spool: Spool, command: str, name: str
) -> None:
    """And no way out of the spool."""
    put(spool)
    result = queue(settings, command, name)
    assert result.exit_code == 1
    assert "no sample" in result.stderr
    assert len(names(settings)) == 1


def test_retry_puts_back_what_was_set_aside_under_a_name_without_a_past(
    settings: Path, spool: Spool
) -> None:
    """The ledger counts deaths by name; order of arrival stays."""
    first, second = put_aside(spool, digest="d1"), put_aside(spool, digest="d2")
    waiting = put(spool, digest="d3")
    result = queue(settings, "retry", "--all")
    assert "2 samples to be tried again" in result.stdout
    states = names(settings)
    assert set(states.values()) == {"waiting"}
    assert waiting.name in states
    assert not {first.name, second.name} & set(states)
    assert [entry.label.digest for entry in spool.entries()] == ["d1", "d2", "d3"]
    assert spool.message(next(spool.entries())) == RAW


def test_retry_leaves_alone_what_a_later_lesson_has_overtaken(
    settings: Path, spool: Spool, tmp_path: Path
) -> None:
    """The user's last word counts, not the administrator's tidiness."""
    bad = put_aside(spool)
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.record(
        Answer(
            user="anna",
            digest="d2",
            lesson=Lesson.HAM,
            outcome=Outcome.LEARNED,
            origin="move",
            time=time.time(),
        )
    )
    ledger.close()
    result = queue(settings, "retry", bad.name)
    assert "taught the opposite since" in result.stdout
    assert names(settings) == {bad.name: "set aside"}


def test_drop_asks_and_removes(settings: Path, spool: Spool) -> None:
    """--all means all that was set aside; a waiting sample has to be named."""
    waiting, bad = put(spool), put_aside(spool)
    assert queue(settings, "drop", "--all", answer="n\n").exit_code == 1
    assert len(names(settings)) == 2
    assert "1 sample dropped" in queue(settings, "drop", "--all", answer="y\n").stdout
    assert names(settings) == {waiting.name: "waiting"}
    assert json.loads(queue(settings, "drop", waiting.name, "--yes", "--json").stdout) == {
        "dropped": [waiting.name]
    }
    assert names(settings) == {}
    assert bad.name != waiting.name


@pytest.mark.parametrize("command", ["retry", "drop"])
def test_names_or_all_but_not_both_and_not_neither(settings: Path, command: str) -> None:
    """Nobody drops everything by forgetting an argument."""
    assert queue(settings, command).exit_code == 2
    assert queue(settings, command, "x", "--all").exit_code == 2


def test_a_missing_spool_is_one_line(settings: Path, spool: Spool) -> None:
    """Such as an encrypted volume that is not mounted."""
    for folder in ("tmp", "new", "bad"):
        (spool.folder / folder).rmdir()
    result = queue(settings, "list")
    assert result.exit_code == 1
    assert "cannot be read: No such file or directory" in result.stderr
