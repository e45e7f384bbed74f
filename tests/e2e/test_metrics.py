from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from delivered import message_id
from scraped import get, scrape, series

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mailhooks.lab import Lab
    from mailhooks.lab.letters import LetterBox


def health(lab: Lab) -> tuple[int, dict[str, Any]]:
    status, text = get(lab, "/healthz")
    return status, json.loads(text)


def settled(lab: Lab) -> None:
    lab.wait(
        "nothing waits", lambda: lab.waiting_samples() == 0 and health(lab)[1]["ok"], timeout_s=60
    )
    lab.wait("and the daemon knows", lambda: health(lab)[1]["samples_waiting"] == 0)


def learned(lab: Lab) -> float:
    return scrape(lab)[series("mailhooks_learns_total", outcome="learned")]


def deliver(lab: Lab, box: LetterBox, name: str) -> int:
    """One newsletter into a user's INBOX; returns its uid."""
    raw = box.newsletter([f"{name}@mail.example"]).raw
    lab.send(raw, [name])
    return lab.mailbox(name).wait_for(message_id(raw)).uid


def test_a_delivery_and_a_move_are_counted_once_each(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Verdict, milter score, Bayes, duration, calls, sample and lesson grow by one, no more."""
    name = people[0]
    settled(lab)
    before = scrape(lab)
    uid = deliver(lab, box, name)
    lab.mailbox(name).move([uid], "INBOX", "Junk")
    lab.wait("learned", lambda: lab.learns(name) == (1, 0))
    settled(lab)
    written = series("mailhooks_decisions_total", result="written")
    # Half a second later; also those of the tests before.
    lab.wait("the decision is written", lambda: scrape(lab)[written] > before[written])
    after = scrape(lab)
    grown = {
        key: after[key] - before[key]
        for key in after
        if after[key] != before[key]
        and key != written
        and not key[0].endswith(("_bucket", "_seconds_sum", "_age_seconds"))
    }
    assert grown == {
        series("mailhooks_verdicts_total", folder="inbox", reason="score alone"): 1,
        series("mailhooks_milter_scores_total", result="scored"): 1,
        series("mailhooks_bayes_total", result="no opinion"): 1,
        series("mailhooks_acquaintances_total", result="unknown"): 1,
        series("mailhooks_objective_score_count"): 1,
        series("mailhooks_classification_seconds_count"): 1,
        series("mailhooks_script_calls_total", program="mailhooks-classify", result="done"): 1,
        series("mailhooks_script_calls_total", program="mailhooks-learn", result="done"): 1,
        series("mailhooks_samples_taken_total", origin="move", lesson="spam"): 1,
        series("mailhooks_learns_total", outcome="learned"): 1,
    }


def test_a_spool_that_is_no_folder_is_seen_counted_and_forgotten_when_it_is_back(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Health turns to 503 with the reason, the failure counts, and the move is learned later."""
    name = people[0]
    settled(lab)
    uid = deliver(lab, box, name)
    before = scrape(lab)
    spool, away = lab.root / "spool", lab.root / "spool-away"
    spool.rename(away)
    try:
        spool.write_bytes(b"")
        lab.mailbox(name).move([uid], "INBOX", "Junk")
        lab.wait("it shows", lambda: "cannot be prepared" in health(lab)[1]["trouble"])
        status, state = health(lab)
        assert (status, state["ok"], state["spool_usable"]) == (503, False, False)
        during = scrape(lab)
        for where in ("take", "scan"):
            key = series("mailhooks_spool_failures_total", during=where)
            assert during[key] > before[key]
        key = series("mailhooks_script_calls_total", program="mailhooks-learn", result="failed")
        assert during[key] - before[key] == 1
    finally:
        spool.unlink()
        away.rename(spool)
    lab.wait("learned", lambda: lab.learns(name) == (1, 0))
    settled(lab)
    assert health(lab)[0] == 200
    after = scrape(lab)
    key = series("mailhooks_drop_folder_calls_total", result="taken")
    assert after[key] - before[key] == 1


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 256 KiB in place of a folder's content; yields a file that fills it."""
    mount = ["/usr/bin/mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        filler = folder / "filler"
        yield filler
    finally:
        subprocess.run(["/usr/bin/umount", str(folder)], check=True)


def filled(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_loses_nothing_and_shows_in_health_metrics_log_and_doctor(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """The call waits in the drop folder until there is room, and is learned then."""
    name = people[0]
    settled(lab)
    uid = deliver(lab, box, name)
    with small_disk(lab.root / "spool") as filler:
        lab.wait("the daemon uses it", (lab.root / "spool/new").is_dir)
        os.chown(filler.parent, 0, 0)
        before = scrape(lab)
        filled(filler)
        lab.mailbox(name).move([uid], "INBOX", "Junk")
        lab.wait("it shows", lambda: "No space left" in health(lab)[1]["trouble"])
        status, state = health(lab)
        assert (status, state["spool_usable"]) == (503, False)
        key = series("mailhooks_spool_failures_total", during="take")
        assert scrape(lab)[key] > before[key]
        assert "No space left on device" in lab.log("daemon")
        config = str(lab.root / "mailhooks/mailhooks.toml")
        doctor = [sys.executable, "-m", "mailhooks", "--config", config, "doctor", "--json"]
        done = subprocess.run(doctor, capture_output=True, check=False, timeout=60)
        found = {each["name"]: each["level"] for each in json.loads(done.stdout)}
        assert (found["spool space"], done.returncode) == ("failed", 2)
        assert lab.learns(name) == (0, 0)
        filler.unlink()
        lab.wait("learned", lambda: lab.learns(name) == (1, 0), 60)
        settled(lab)
