"""What ``mailhooks explain``, ``stats`` and ``tune`` say of mail that was really delivered."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from delivered import message_id, status

from mailhooks.lab.letters import LetterBox, LetterKind
from mailhooks.ledger import SqliteLedger
from mailhooks.message import content_digest

if TYPE_CHECKING:
    from pathlib import Path

    from mailhooks.lab import Lab
    from mailhooks.lab.mailbox import StoredMessage

Train = Callable[[str, LetterKind], None]
LIMIT_S = 120.0


def run(
    lab: Lab, *arguments: str, given: bytes = b"", config: Path | None = None, exits: int = 0
) -> str:
    path = config or lab.root / "mailhooks/mailhooks.toml"
    done = subprocess.run(
        [sys.executable, "-m", "mailhooks", "--config", str(path), *arguments],
        input=given,
        capture_output=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == exits, done
    return done.stdout.decode()


def explained(lab: Lab, raw: bytes, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(lab, "explain", "-", "--json", *arguments, given=raw))
    return found


def decided(lab: Lab, name: str, raw: bytes) -> list[Any]:
    ledger = SqliteLedger(lab.root / "ledger.sqlite")
    try:
        return ledger.decisions(lab.users[name].address, content_digest(raw))
    finally:
        ledger.close()


def delivered(lab: Lab, name: str, raw: bytes) -> StoredMessage:
    """The copy, once the daemon has written down what it decided."""
    lab.send(raw, [name])
    copy = lab.mailbox(name).wait_for(message_id(raw))
    lab.wait("the decision is in the ledger", lambda: bool(decided(lab, name, copy.raw)))
    return copy


@pytest.fixture
def newsletter(box: LetterBox, people: list[str]) -> bytes:
    return box.newsletter([f"{people[0]}@mail.example"]).raw


def test_a_verdict_is_explained_as_it_was_given_and_with_what_became_of_it(
    lab: Lab, people: list[str], newsletter: bytes, taste: Train
) -> None:
    """The same figures as at delivery; then the user's correction, and what it changed."""
    name = people[0]
    taste(name, LetterKind.NEWSLETTER)
    copy = delivered(lab, name, newsletter)
    assert copy.folder == "Junk", status(copy.raw)
    found = explained(lab, copy.raw)
    assert (found["user"], found["user_from"]) == (lab.users[name].address, "Delivered-To")
    assert (found["sender"], found["delivered"]) == ("sender@example.org", True)
    assert found["carried"]["valid"]
    weights = [abs(symbol["score"]) for symbol in found["carried"]["symbols"]]
    assert len(weights) > 3
    assert weights == sorted(weights, reverse=True)
    own = found["bayes"]["own"]
    assert (own["spam"], own["ham"], own["ready"]) == (10, 10, True)
    assert own["probability"] > 0.9
    # What was said at delivery is said again: here, in the message, and in the ledger.
    assert found["status"] == found["delivered_status"] == status(copy.raw)
    (decision,) = found["decisions"]
    assert (decision["folder"], decision["reason"]) == ("junk", found["reason"])
    assert decision["score"] == pytest.approx(found["score"])
    assert decision["queue_id"] == found["carried"]["queue_id"]
    assert decision["own"] == {"probability": own["probability"], "spam": 10, "ham": 10}
    assert (found["taught"], found["missing"]) == (None, [])
    assert found["turn"]["folder"] == "inbox"
    assert found["turn"]["points"] == pytest.approx(found["threshold"] - found["score"])

    lab.mailbox(name).move([copy.uid], "Junk", "INBOX")
    lab.wait("learned", lambda: lab.learns(name) == (10, 11))
    lab.wait("written down", lambda: decided(lab, name, copy.raw)[0].corrected)
    again = explained(lab, copy.raw)
    (decision,) = again["decisions"]
    assert (decision["taught"], decision["corrected"]) == ("ham", True)
    assert (again["taught"]["held"], again["taught"]["origin"]) == ("ham", "move")
    assert again["bayes"]["own"]["ham"] == 11
    assert again["bayes"]["own"]["probability"] < own["probability"]

    user = lab.users[name].address
    verdicts = json.loads(run(lab, "stats", "--user", user, "--json"))[0]["verdicts"]
    assert (verdicts["junk"], verdicts["false_positives"]) == (1, 1)
    tuned = json.loads(run(lab, "tune", "--user", user, "--json"))
    assert tuned["now"]["ham_in_junk"] == 1
    assert tuned["thresholds"][-1]["ham_in_junk"] == 0
    text = run(lab, "explain", "-", given=copy.raw)
    assert re.search(r"(?m)^milter score: +-?[\d.]+ of 100\.00, .*; signature valid$", text)
    assert re.search(r"(?m)^ +corrected by the user as ham, ", text)


def from_list(box: LetterBox, name: str, list_name: str) -> bytes:
    raw = box.personal([f"{name}@mail.example"]).raw
    return f"List-Id: A list <{list_name}>\r\n".encode() + raw


def test_a_list_that_a_user_calls_spam_goes_to_junk_for_that_user_alone(
    lab: Lab, people: list[str], box: LetterBox, tmp_path: Path
) -> None:
    """Its words are those of good mail: only who said what about the list tells it apart."""
    name, other = people[:2]
    user = lab.users[name].address
    list_name = f"tiresome.{name}.example"
    copy = delivered(lab, name, from_list(box, name, list_name))
    assert copy.folder == "INBOX", status(copy.raw)
    lab.mailbox(name).move([copy.uid], "INBOX", "Junk")
    lab.wait("learned", lambda: lab.learns(name) == (1, 0))
    lab.wait("written down", lambda: lab.waiting_samples() == 0)
    raw = from_list(box, name, list_name)
    lab.send(raw, [name, other])
    copy, others = (lab.mailbox(each).wait_for(message_id(raw)) for each in (name, other))
    assert (copy.folder, others.folder) == ("Junk", "INBOX"), status(copy.raw)
    lab.wait("the decision is in the ledger", lambda: bool(decided(lab, name, copy.raw)))
    found = explained(lab, copy.raw, "--user", user)
    assert (found["reason"], found["status"]) == ("score and acquaintance", status(copy.raw))
    (known,) = (it for it in found["acquaintance"]["known"] if it["kind"] == "list")
    assert (known["name"], known["said_spam"], known["left_junk"]) == (list_name, 1, 0)
    (decision,) = found["decisions"]
    assert decision["acquaintance"] == pytest.approx(found["acquaintance"]["points"])
    text = run(lab, "explain", "-", "--user", user, given=copy.raw)
    assert re.search(rf"list {re.escape(list_name)}: 1 called spam, 0 good", text)

    # What is taught by hand counts, too: the user thinks better of it.
    for number in range(4):
        path = tmp_path / f"{number}.eml"
        path.write_bytes(from_list(box, name, list_name))
    run(lab, "learn", "ham", "--user", user, str(tmp_path))
    again = explained(lab, copy.raw, "--user", user)
    assert again["folder"] == "inbox"
    assert again["acquaintance"]["points"] < 0


def test_a_message_that_was_never_delivered_is_explained_for_whoever_is_named(
    lab: Lab, people: list[str], newsletter: bytes, taste: Train, tmp_path: Path
) -> None:
    """Without a carried score it is scanned in full, as its delivery would do."""
    name = people[0]
    taste(name, LetterKind.NEWSLETTER)
    path = tmp_path / "letter.eml"
    path.write_bytes(newsletter)
    user = lab.users[name].address
    found = json.loads(run(lab, "explain", str(path), "--user", user.upper(), "--json"))
    assert (found["user"], found["user_from"]) == (user, "--user")
    assert found["carried"] == {"valid": False, "reason": "absent"}
    assert found["scan"]["made"]
    assert found["bayes"]["own"]["probability"] > 0.9
    assert (found["decisions"], found["missing"], found["sender"]) == ([], [], None)
    assert lab.learns(name) == (10, 10)


def test_what_is_away_is_named_and_the_rest_is_explained(
    lab: Lab, people: list[str], newsletter: bytes, tmp_path: Path
) -> None:
    """Without Rspamd, Redis and the ledger the carried score still tells its part."""
    copy = delivered(lab, people[0], newsletter)
    settings = (lab.root / "mailhooks/mailhooks.toml").read_text()
    away = tmp_path / "away.toml"
    away.write_text(
        settings.replace(lab.scan_url, "http://127.0.0.1:1")
        .replace(f"127.0.0.1:{lab.redis_port}", "127.0.0.1:1")
        .replace(str(lab.root / "ledger.sqlite"), str(tmp_path / "none.sqlite"))
    )
    text = run(lab, "explain", "-", "--json", given=copy.raw, config=away, exits=1)
    found = json.loads(text)
    assert found["carried"]["valid"]
    assert (found["reason"], found["bayes"]["reason"]) == ("score alone", "unavailable")
    assert found["bayes"]["own"]["state"] == "unknown"
    redis, rspamd, ledger = found["missing"]
    assert redis.startswith("Redis at redis://127.0.0.1:1/0: ")
    assert rspamd.startswith("no Bayes: Rspamd at http://127.0.0.1:1 cannot be asked: ")
    assert ledger == f"ledger {tmp_path}/none.sqlite: does not exist yet"
    assert not (tmp_path / "none.sqlite").exists()
