from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import mailhooks
from mailhooks.lab import demo
from mailhooks.lab.letters import LetterBox

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`mailhooks lab demo` as `make demo` runs it."""
    return subprocess.run(
        [sys.executable, "-m", "mailhooks", "lab", "demo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "80"},
    )


def folders(output: str) -> list[tuple[str, str, str]]:
    """(message, recipient, folder) of each row of the first table."""
    return re.findall(
        r"^ +(newsletter|personal) +(alice|bob) .* (INBOX|Junk) *$", output, re.MULTILINE
    )


EXPECTED = [
    ("newsletter", "alice", "Junk"),
    ("newsletter", "bob", "INBOX"),
    ("personal", "alice", "INBOX"),
    ("personal", "bob", "INBOX"),
]


def test_the_demo_comes_true() -> None:
    """One newsletter, two recipients, two verdicts; and a stock host's two orders differ."""
    done = run_demo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert folders(done.stdout) == EXPECTED
    stock = dict(
        re.findall(r"^ +(alice, bob|bob, alice|both) +(-?[\d.]+) ", done.stdout, re.MULTILINE)
    )
    assert float(stock["alice, bob"]) > float(stock["both"]) > float(stock["bob, alice"])


def test_the_demo_runs_on_a_persons_own_mail(tmp_path: Path) -> None:
    """A folder of messages, already delivered once, tells the same story."""
    box = LetterBox(77, now=datetime.now(UTC))
    old = b"Return-Path: <x@example.org>\nDelivered-To: me@example.org\nX-Spam-Flag: YES\n"
    for number in range(12):
        for name, letter in (
            ("n", box.newsletter(["me@example.org"])),
            ("p", box.personal(["me@example.org"])),
        ):
            (tmp_path / f"{name}{number}").write_bytes(old + letter.raw.replace(b"\r\n", b"\n"))
    done = run_demo("--mail", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 newsletters, 11 personal messages" in re.sub(r"\s+", " ", done.stdout)
    assert folders(done.stdout) == EXPECTED


def test_too_little_mail_is_said_before_anything_starts(tmp_path: Path) -> None:
    """The error counts what is there and says what is needed."""
    (tmp_path / "one").write_bytes(b"From: a@example.org\nSubject: x\n\nhello\n")
    done = run_demo("--mail", str(tmp_path))
    assert done.returncode == 1
    assert "holds 0 newsletters" in done.stderr
    assert "1 other messages" in done.stderr
    assert "Traceback" not in done.stderr


def rows(*changed: demo.Row) -> Sequence[demo.Row]:
    """The rows of a demo that came true, some of them replaced."""
    true = {
        (message, recipient): demo.Row(message, recipient, "1.0", "8.0", "9.0", "6.0", folder)
        for message, recipient, folder in EXPECTED
    }
    return list((true | {(row.message, row.recipient): row for row in changed}).values())


def test_a_demo_that_does_not_come_true_says_what_and_fails() -> None:
    """Each claim is checked against what was measured."""
    stock = [
        demo.StockVerdict(("alice", "bob"), 8.0, "", "add header"),
        demo.StockVerdict(("bob", "alice"), -3.0, "", "no action"),
    ]
    true = demo.Outcome(rows(), stock, 1.0)
    assert demo.failures(true) == []
    wrong_folder = replace(rows()[0], folder="INBOX")
    assert demo.failures(replace(true, rows=rows(wrong_folder))) == [
        "The new newsletter message of alice is in INBOX, not in Junk."
    ]
    unscored = replace(rows()[3], milter="none (absent)")
    assert demo.failures(replace(true, rows=rows(unscored))) == ["A copy carries no milter score."]
    assert demo.failures(replace(true, stock=stock[:1])) == [
        "The stock host's verdict did not depend on the order of recipients."
    ]


def test_it_is_the_installed_wheel_that_is_tested() -> None:
    """Neither the source tree nor an editable install stands in for it."""
    package = Path(mailhooks.__file__).parent
    assert ROOT / "src" not in package.parents
    for script in (ROOT / "sieve").glob("*.sieve"):
        assert (package / "sieve" / script.name).read_bytes() == script.read_bytes()
