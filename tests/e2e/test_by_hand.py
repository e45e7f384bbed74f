"""The commands that teach, ask and forget, against the real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from delivered import message_id

from mailhooks.doveadm import Doveadm
from mailhooks.errors import DoveadmError
from mailhooks.lab.host import MAIL_UID
from mailhooks.lab.letters import LetterBox, LetterKind
from mailhooks.lesson import Lesson
from mailhooks.message import content_digest
from mailhooks.spool import Label, Spool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mailhooks.lab import Lab

LIMIT_S = 120.0


def command(lab: Lab, *arguments: str) -> list[str]:
    config = str(lab.root / "mailhooks/mailhooks.toml")
    return [sys.executable, "-m", "mailhooks", "--config", config, *arguments]


def run(
    lab: Lab, *arguments: str, status: int = 0, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(lab, *arguments), input=stdin, capture_output=True, check=False, timeout=LIMIT_S
    )
    result = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )
    assert result.returncode == status, result
    return result


def run_json(lab: Lab, *arguments: str, status: int = 0) -> Any:
    return json.loads(run(lab, *arguments, "--json", status=status).stdout)


def doveadm_command(lab: Lab) -> list[str]:
    return ["doveadm", "-c", str(lab.root / "dovecot/dovecot.conf")]


def save(lab: Lab, name: str, mailbox: str, messages: Iterable[bytes], *flags: str) -> None:
    """Put messages into a mailbox behind the hooks' back, as a restore would."""
    user = lab.users[name].address
    count = 0
    for raw in messages:
        subprocess.run(
            [*doveadm_command(lab), "save", "-u", user, "-m", mailbox],
            input=raw,
            check=True,
            timeout=LIMIT_S,
        )
        count += 1
    if flags and count:
        flag = ["flags", "add", "-u", user, " ".join(flags), "mailbox", mailbox, "all"]
        subprocess.run([*doveadm_command(lab), *flag], check=True, timeout=LIMIT_S)


def letters(box: LetterBox, kind: LetterKind, count: int) -> list[bytes]:
    return [letter.raw for letter in box.letters(kind, count, ["someone@mail.example"])]


def as_mbox(messages: Iterable[bytes]) -> bytes:
    return b"".join(
        b"From a@b Mon Jan  1 00:00:00 2024\n" + raw.replace(b"\r\n", b"\n") + b"\n"
        for raw in messages
    )


def test_learn_teaches_once_and_a_changed_mind_too(
    lab: Lab, people: list[str], box: LetterBox, tmp_path: Path
) -> None:
    """Redis counts what the summary says; the daemon knows it as well."""
    name = people[0]
    user = lab.users[name].address
    mbox = tmp_path / "mail.mbox"
    mail = letters(box, LetterKind.SPAM, 30)
    mbox.write_bytes(as_mbox(mail))
    assert run_json(lab, "learn", "spam", "-u", user, str(mbox))["outcomes"]["learned"] == 30
    assert run_json(lab, "learn", "spam", "-u", user.upper(), str(mbox))["outcomes"]["known"] == 30
    assert lab.learns(name) == (30, 0)
    again = run(lab, "learn", "ham", "-u", user, "-", stdin=mail[0])
    assert "1 message: 1 relearned" in again.stdout
    assert lab.learns(name) == (29, 1)


@pytest.mark.parametrize("connections", [1, 8])
@pytest.mark.parametrize("server", ["rspamd", "redis"])
def test_a_server_that_dies_in_the_middle_costs_nothing_but_a_rerun(
    lab: Lab, people: list[str], box: LetterBox, tmp_path: Path, server: str, connections: int
) -> None:
    """A clear error and status 1, and afterwards everything is learned, once."""
    name = people[0]
    mbox = tmp_path / "mail.mbox"
    mbox.write_bytes(as_mbox(letters(box, LetterKind.SPAM, 300)))
    learn = ["learn", "spam", "-u", lab.users[name].address, "--connections", str(connections)]
    learn.append(str(mbox))
    with subprocess.Popen(
        command(lab, *learn), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lab.wait("some are learned", lambda: lab.learns(name)[0] > 20)
        lab.servers[server].kill()
        try:
            stdout, stderr = process.communicate(timeout=LIMIT_S)
        finally:
            lab.restart(server)
    assert process.returncode == 1, stdout + stderr
    assert "stopped: " in stderr
    assert "the same command goes on" in stderr
    outcomes = run_json(lab, *learn)["outcomes"]
    assert outcomes["refused"] == 0
    assert sum(outcomes.values()) == 300
    assert lab.learns(name) == (300, 0)


def test_however_often_rspamd_dies_under_a_learner_nothing_counts_twice(
    lab: Lab, people: list[str], box: LetterBox, tmp_path: Path
) -> None:
    """Each death leaves several learns under way of which nobody says whether they were done.

    Usually one run outlives all of them; on a slow machine it may give up, and is run again.
    """
    name = people[0]
    for number, raw in enumerate(letters(box, LetterKind.NEWSLETTER, 400)):
        (tmp_path / f"{number:03}.eml").write_bytes(raw)
    learn = ["learn", "spam", "-u", lab.users[name].address, str(tmp_path)]
    with subprocess.Popen(
        command(lab, *learn), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for count in (20, 110, 200, 290):

            def far_enough(count: int = count) -> bool:
                return lab.learns(name)[0] > count or process.poll() is not None

            lab.wait("some are learned", far_enough, LIMIT_S)
            lab.servers["rspamd"].kill()
            lab.restart("rspamd")
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0 or "the same command goes on" in stderr, stdout + stderr
    assert "400 messages: " in run(lab, *learn).stdout
    assert lab.learns(name) == (400, 0)
    assert "mailhooks-evidence" not in lab.redis("KEYS", "*")


def test_ctrl_c_finishes_what_is_under_way_and_a_rerun_does_the_rest(
    lab: Lab, people: list[str], box: LetterBox, tmp_path: Path
) -> None:
    """Status 130; what was learned is known, and nothing is learned twice."""
    name = people[0]
    mbox = tmp_path / "mail.mbox"
    mbox.write_bytes(as_mbox(letters(box, LetterKind.SPAM, 300)))
    learn = ["learn", "spam", "-u", lab.users[name].address, "--json", str(mbox)]
    with subprocess.Popen(
        command(lab, *learn), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lab.wait("some are learned", lambda: lab.learns(name)[0] > 20)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, stderr
    first = json.loads(stdout)
    assert first["interrupted"]
    assert lab.learns(name)[0] == first["outcomes"]["learned"] < 300
    second = run_json(lab, *learn[:-2], str(mbox))["outcomes"]
    assert (second["known"], second["learned"]) == (
        first["outcomes"]["learned"],
        300 - first["outcomes"]["learned"],
    )
    assert lab.learns(name)[0] == 300


def test_ctrl_c_twice_gives_up_what_is_under_way_and_a_rerun_still_counts_nothing_twice(
    lab: Lab, people: list[str], box: LetterBox, tmp_path: Path
) -> None:
    """What Rspamd made of it is found out before any of it is sent again."""
    name = people[0]
    mbox = tmp_path / "mail.mbox"
    mbox.write_bytes(as_mbox(letters(box, LetterKind.SPAM, 300)))
    learn = ["learn", "spam", "-u", lab.users[name].address, str(mbox)]
    with subprocess.Popen(
        command(lab, *learn), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lab.wait("some are learned", lambda: lab.learns(name)[0] > 20)
        # As if Rspamd hung: what is under way does not end by itself.
        os.kill(controller := controller_of(lab), signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            assert "Ctrl-C again" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=LIMIT_S) == 130
        finally:
            os.kill(controller, signal.SIGCONT)
    assert sum(run_json(lab, *learn)["outcomes"].values()) == 300
    assert lab.learns(name) == (300, 0)


def controller_of(lab: Lab) -> int:
    """The process of the lab's Rspamd that learns."""
    address = lab.learn_url.removeprefix("http://")
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_bytes()
            if b"controller process" in title and address.encode() in title:
                return int(folder.name)
    raise AssertionError("no controller")


def test_ctrl_c_ends_the_wait_for_standard_input(lab: Lab, people: list[str]) -> None:
    """Nobody has to close the terminal; and half a message is not learned."""
    name = people[0]
    with subprocess.Popen(
        command(lab, "learn", "spam", "-u", lab.users[name].address, "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"Subject: half a message\n\n" + b"many words " * 50)
        process.stdin.flush()
        stat = Path(f"/proc/{process.pid}/task")
        lab.wait("it reads", lambda: len(list(stat.iterdir())) > 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=LIMIT_S) == 130
    assert lab.learns(name) == (0, 0)


def kept_at(lab: Lab, location: str) -> list[str]:
    """The options by which doveadm finds mail there; Dovecot 2.4 has a setting for each part."""
    if lab.dovecot == "2.3":
        return ["-o", f"mail_location={location}"]
    driver, path, *inbox = location.split(":")
    settings = [f"mail_driver={driver}", f"mail_path={path}"]
    settings += [f"mail_inbox_path={each.removeprefix('INBOX=')}" for each in inbox]
    return [word for setting in settings for word in ("-o", setting)]


FORMATS = ["maildir:~/x", "sdbox:~/x", "mdbox:~/x", "mbox:~/x:INBOX=~/x/inbox"]


@pytest.mark.parametrize("location", FORMATS, ids=lambda each: each.partition(":")[0])
async def test_messages_are_read_byte_for_byte_from_every_mailbox_format(
    lab: Lab, people: list[str], location: str
) -> None:
    """Form feeds, lines that look like doveadm's own, 8-bit bytes, no end of line at the end."""
    user = lab.users[people[0]].address
    rng = random.Random(7)
    printable = bytes(byte for byte in range(1, 256) if byte not in b"\r\n")
    messages = [b"Subject: %d\nX: \xff\xfe\n\n" % number for number in range(5)]
    messages[1] += printable + b"\f\nuid: 2\nsize.physical: 3\ntext:\nabc\f\n"
    messages[2] += b"no end of line"
    messages[3] += b"\n".join(bytes(rng.choices(printable, k=70)) for _ in range(20_000)) + b"\n"
    messages[4] += b"body\n\f\n"
    here = [*doveadm_command(lab), *kept_at(lab, location)]
    create = [*here, "mailbox", "create", "-u", user, "Gr\u00fc\u00dfe"]
    await asyncio.to_thread(subprocess.run, create, check=True)
    for raw in messages:
        save_in = [*here, "save", "-u", user, "-m", "Gr\u00fc\u00dfe"]
        await asyncio.to_thread(subprocess.run, save_in, input=raw, check=True)
    doveadm = Doveadm(here)
    mailbox = next(each for each in await doveadm.mailboxes(user) if each.name == "Gr\u00fc\u00dfe")
    assert mailbox.messages == 5
    found = await doveadm.search(user, mailbox, ["ALL"])
    read = [raw async for _, raw in doveadm.fetch(user, mailbox, [each.uid for each in found])]
    # An mbox ends every message with an end of line.
    if location.startswith("mbox"):
        assert [raw.rstrip(b"\n") for raw in read] == [raw.rstrip(b"\n") for raw in messages]
    else:
        assert read == messages
    assert [content_digest(raw) for raw in read] == [content_digest(raw) for raw in messages]


async def test_files_of_a_maildir_are_read_as_they_are(lab: Lab, people: list[str]) -> None:
    """NUL bytes and mixed line ends, which only a file put there directly can hold.

    A file that Dovecot itself cannot read, since its name lies about its size,
    is an error after all others.
    """
    name = people[0]
    raw = b"Subject: x\nX-Nul: a\0b\r\n\nbody \0 nul\r mixed\r\nlf\n\x0cend"
    lab.mailbox(name).count("INBOX")  # creates the Maildir
    for number, size in enumerate(("", ",S=10", "")):
        file = lab.home(name) / f"Maildir/cur/170000000{number}.M1P1.x{size}:2,S"
        file.write_bytes(raw)
        os.chown(file, MAIL_UID, MAIL_UID)
    doveadm = Doveadm(doveadm_command(lab))
    user = lab.users[name].address
    inbox = next(each for each in await doveadm.mailboxes(user) if each.name == "INBOX")
    messages = doveadm.fetch(user, inbox, [1, 2, 3])
    assert [await anext(messages), await anext(messages)] == [(1, raw), (3, raw)]
    with pytest.raises(DoveadmError, match="uid=2"):
        await anext(messages)


def test_retrain_learns_junk_as_spam_and_read_mail_as_ham(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """The plan first; then the same, over INBOX and Archive, unread and other mail left out."""
    name = people[0]
    user = lab.users[name].address
    save(lab, name, "Junk", letters(box, LetterKind.SPAM, 6))
    save(lab, name, "INBOX", letters(box, LetterKind.PERSONAL, 3), r"\Seen")
    save(lab, name, "Archive", letters(box, LetterKind.PERSONAL, 2), r"\Seen")
    save(lab, name, "Sent", letters(box, LetterKind.PERSONAL, 2), r"\Seen")
    save(lab, name, "INBOX", letters(box, LetterKind.PERSONAL, 1))
    plan = run_json(lab, "retrain", "-u", user, "--older-than", "2100-01-01", "--dry-run")
    parts = {part["mailbox"]: (part["lesson"], part["messages"]) for part in plan["users"][user]}
    assert parts == {"Junk": ("spam", 6), "INBOX": ("ham", 3), "Archive": ("ham", 2)}
    young = run_json(lab, "retrain", "-u", user, "--dry-run")["users"][user]
    assert [part["mailbox"] for part in young] == ["Junk"]
    assert lab.learns(name) == (0, 0)
    run(lab, "retrain", "-u", user, "--older-than", "2100-01-01", "--balance")
    assert lab.learns(name) == (5, 5)
    done = run(lab, "retrain", "-u", user, "--older-than", "2100-01-01")
    assert "11 messages: 1 learned, 10 known" in done.stdout
    assert lab.learns(name) == (6, 5)


def test_a_dry_run_of_retrain_knows_what_was_taught_and_refused_mail_is_no_failure(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Junk may hold what Rspamd never learns: a nightly job neither fails nor asks again."""
    name = people[0]
    user = lab.users[name].address
    mail = letters(box, LetterKind.SPAM, 3)
    save(lab, name, "Junk", [*mail, b"Subject: hm\n\nhm\n"])
    run(lab, "learn", "spam", "-u", user, "-", stdin=as_mbox(mail[:2]))
    foreseen = run(lab, "retrain", "-u", user, "--dry-run")
    assert "4 messages: 2 to be learned, 2 known. Nothing was taught: dry run." in foreseen.stdout
    assert lab.learns(name) == (2, 0)
    done = run(lab, "retrain", "-u", user)
    assert "4 messages: 1 learned, 2 known, 1 refused (1 too-few-tokens)" in done.stdout
    again = run_json(lab, "reconcile", "-u", user)
    assert again["refused"] == {"too-few-tokens, as before": 1}
    assert lab.learns(name) == (3, 0)


def test_retrain_of_everybody_skips_whom_it_cannot_read(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Every user Dovecot lists is looked at, each with their own statistics."""
    for name in people[:2]:
        save(lab, name, "Junk", letters(box, LetterKind.SPAM, 2))
    plan = run_json(lab, "retrain", "--all", "--dry-run", "--max", "1")
    assert set(plan["users"]) == {each.address for each in lab.users.values()}
    for name in people[:2]:
        assert plan["users"][lab.users[name].address][0]["messages"] == 1


def test_reconcile_learns_what_moved_while_nobody_listened(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Into Junk: spam. Out of Junk again: ham. Into Trash: nothing. Twice: nothing more."""
    name = people[0]
    user = lab.users[name].address
    save(lab, name, "Junk", letters(box, LetterKind.SPAM, 4))
    save(lab, name, "INBOX", letters(box, LetterKind.PERSONAL, 2), r"\Seen")
    foreseen = run(lab, "reconcile", "-u", user, "--dry-run")
    assert "4 messages: 4 to be learned. Nothing was taught: dry run." in foreseen.stdout
    assert lab.learns(name) == (0, 0)
    run(lab, "reconcile", "-u", user)
    assert lab.learns(name) == (4, 0)
    # doveadm runs no imapsieve: these moves teach nothing by themselves.
    for target, uid in (("INBOX", "1"), ("Archive", "2"), ("Trash", "3")):
        move = ["move", "-u", user, target, "mailbox", "Junk", "uid", uid]
        subprocess.run([*doveadm_command(lab), *move], check=True, timeout=LIMIT_S)
    result = run_json(lab, "reconcile", "-u", user)
    assert result["outcomes"]["relearned"] == 2
    assert lab.learns(name) == (2, 2)
    assert run_json(lab, "reconcile", "-u", user)["outcomes"] == {
        "learned": 0,
        "relearned": 0,
        "already-learned": 0,
        "known": 1,
        "waiting": 0,
        "refused": 0,
    }


def test_reconcile_agrees_with_what_the_hooks_learned(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """The daemon's digest of a moved message is that of the message doveadm reads."""
    name = people[0]
    user = lab.users[name].address
    mailbox = lab.mailbox(name)
    raw = box.newsletter([user]).raw
    lab.send(raw, [name])
    mailbox.move([mailbox.wait_for(message_id(raw)).uid], "INBOX", "Junk")
    lab.wait("learned", lambda: lab.learns(name) == (1, 0))
    lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)
    assert run_json(lab, "reconcile", "-u", user)["outcomes"]["known"] == 1
    assert lab.learns(name) == (1, 0)


def test_the_daemon_takes_up_a_sample_that_is_to_be_tried_again(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Set aside, listed with its reason, retried, learned."""
    name = people[0]
    user = lab.users[name].address
    raw = letters(box, LetterKind.SPAM, 1)[0]
    spool = Spool(lab.root / "spool")
    label = Label(
        user=user,
        lesson=Lesson.SPAM,
        digest=content_digest(raw),
        origin="move",
        received=time.time(),
        reason="as a test",
    )
    # Straight into bad/, or the daemon might be quicker.
    aside = spool.folder / "bad" / spool_file(spool, label, raw)
    listed = run_json(lab, "queue", "list", "-u", user)
    assert [(each["state"], each["reason"]) for each in listed] == [("set aside", "as a test")]
    assert run(lab, "queue", "show", aside.name, "--message").stdout.encode() == raw
    run(lab, "queue", "retry", aside.name)
    lab.wait("learned", lambda: lab.learns(name) == (1, 0))
    lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)
    assert run_json(lab, "queue", "list", "-u", user) == []


def spool_file(spool: Spool, label: Label, raw: bytes) -> str:
    """Write a sample as the spool would, but set aside from the beginning."""
    elsewhere = Spool(spool.folder / "bad" / ".made")
    elsewhere.prepare()
    entry = elsewhere.put(label, raw)
    (elsewhere.folder / "new" / entry.name).rename(spool.folder / "bad" / entry.name)
    for part in ("tmp", "new", "bad", "spare", ""):
        (elsewhere.folder / part).rmdir()
    return entry.name


@pytest.fixture
def mail(box: LetterBox, tmp_path: Path) -> Path:
    path = tmp_path / "mail.mbox"
    path.write_bytes(as_mbox(letters(box, LetterKind.SPAM, 4)))
    return path


def test_stats_count_down_to_ready(lab: Lab, people: list[str], box: LetterBox, mail: Path) -> None:
    """The lab's Rspamd wants two of each class."""
    name = people[0]
    user = lab.users[name].address
    assert "2 more spam and 2 more ham needed" in run(lab, "stats", "-u", user).stdout
    run(lab, "learn", "spam", "-u", user, str(mail))
    assert "2 more ham needed" in run(lab, "stats", "-u", user).stdout
    run(lab, "learn", "ham", "-u", user, "-", stdin=as_mbox(letters(box, LetterKind.PERSONAL, 2)))
    row = run_json(lab, "stats", "-u", user)[0]
    assert (row["spam"], row["ham"], row["ready"], row["state"]) == (4, 2, True, "ready")
    assert row["outcomes"] == {"learned": 6}
    assert user in run(lab, "stats").stdout


def test_forget_removes_one_user_and_nobody_else(lab: Lab, people: list[str], mail: Path) -> None:
    """Not those whose names begin alike, hold a number behind an underscore, or match a pattern."""
    name = people[0]
    user = lab.users[name].address
    others = [f"{user}x", f"{user}_1", f"{user}_12345678901234567890", user.replace("u", "*", 1)]
    for each in (user, *others):
        run(lab, "learn", "spam", "-u", each, str(mail))
    keys = set(lab.redis("KEYS", "*").split())
    tokens = {key for key in keys if key.startswith(f"RS{user}_") and key.count("_") == 1}
    tokens -= {f"RS{each}" for each in others}
    removed = run_json(lab, "forget", "-u", user, "--yes")
    assert (removed["spam"], removed["tokens"]) == (4, len(tokens))
    assert set(lab.redis("KEYS", "*").split()) == keys - tokens - {f"RS{user}"}
    assert f"RS{user}" not in lab.redis("SMEMBERS", "BAYES_SPAM_keys").split()
    for each in others:
        assert lab.learns(each if "@" in each else f"{each}@x") == (4, 0)
        assert run_json(lab, "forget", "-u", each, "--yes")["spam"] == 4


def test_after_forget_only_a_cleared_learn_cache_lets_the_same_mail_be_learned(
    lab: Lab, people: list[str], mail: Path
) -> None:
    """Rspamd calls it already learned, which forget says; --learn-cache is the way out."""
    name = people[0]
    user = lab.users[name].address
    run(lab, "learn", "spam", "-u", user, str(mail))
    assert (
        "learn cache belongs to all users and was kept"
        in run(lab, "forget", "-u", user, "--yes").stdout
    )
    assert "4 known to Rspamd" in run(lab, "learn", "spam", "-u", user, str(mail)).stdout
    assert lab.learns(name) == (0, 0)
    assert run_json(lab, "forget", "-u", user, "--yes", "--learn-cache")["learn_cache"] >= 4
    assert "4 learned" in run(lab, "learn", "spam", "-u", user, str(mail)).stdout
    assert lab.learns(name) == (4, 0)


def test_a_user_that_doveadm_would_take_for_a_mask_is_refused(lab: Lab) -> None:
    """One user's statistics never learn from everybody's mail."""
    result = run(lab, "retrain", "-u", "user*@mail.example", status=1)
    assert "cannot name the user" in result.stderr
