"""``mailhooks setup`` on a stock host."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from stock_host import PYTHON, delivered, mailhooks, rspamd, run, send, servers, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JOURNAL = Path("/var/lib/mailhooks-setup")


@dataclass(frozen=True)
class Mine:
    """An administrator's own settings for a generation of Dovecot.

    Attributes:
        conflicts: some that ours cannot stand beside.
        advice: what is said about them.
        merged: the same after the administrator has followed that.
        late: a file that is read after our drop-in.
        ours: what the drop-in says then.
        left_out: what it leaves to the administrator.
    """

    conflicts: str
    advice: tuple[str, ...]
    merged: str
    late: str
    ours: tuple[str, ...]
    left_out: str


MINE = {
    "2.3": Mine(
        conflicts="""
plugin {
  sieve_plugins = sieve_extprograms
  sieve_before = /etc/dovecot/mine.sieve
  imapsieve_mailbox1_name = Junk
  imapsieve_mailbox1_causes = COPY
  imapsieve_mailbox1_before = file:/etc/dovecot/mine.sieve
}
protocol lmtp {
  mail_plugins = $mail_plugins quota
}
""",
        advice=(
            "mailhooks needs sieve_plugins = sieve_extprograms sieve_imapsieve",
            "imapsieve_mailbox1_*",
        ),
        merged="""
plugin {
  sieve_plugins = sieve_extprograms sieve_imapsieve
  sieve_before = /etc/dovecot/mine.sieve
  imapsieve_mailbox1_name = Archive
}
""",
        late="protocol imap {\n  mail_plugins = $mail_plugins quota\n}\n",
        ours=(
            "sieve_before2 = /etc/mailhooks/sieve/classify.sieve",
            "imapsieve_mailbox2_name = *",
        ),
        left_out="sieve_plugins",
    ),
    "2.4": Mine(
        conflicts="""
sieve_execute_exec_timeout = 20s
sieve_script mine {
  type = before
  path = /etc/dovecot/mine.sieve
}
mailbox Junk {
  sieve_script mine-for-junk {
    type = before
    cause = copy
    path = /etc/dovecot/mine.sieve
  }
}
protocol lmtp {
  mail_plugins {
    quota = yes
  }
}
""",
        advice=(
            "mailhooks needs sieve_execute_exec_timeout = 10s",
            "sieve_script mine-for-junk",
        ),
        merged="""
sieve_plugins = sieve_extprograms
sieve_script mine {
  type = before
  path = /etc/dovecot/mine.sieve
}
sieve_script my-users {
  type = personal
  path = ~/mine.sieve
}
""",
        late="protocol imap {\n  mail_plugins {\n    quota = yes\n  }\n}\n",
        ours=("sieve_script mailhooks-classify {", "sieve_imapsieve = yes"),
        left_out="sieve_script personal",
    ),
}


def setup(*options: str, ok: bool = True) -> str:
    return run(PYTHON, "-m", "mailhooks", "setup", *options, ok=ok)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Each test begins and ends with a stock host."""
    # A place for programs that come before the servers' own.
    run("mount", "-t", "tmpfs", "tmpfs", "/usr/local/sbin")
    yield
    run("umount", "/usr/local/sbin")
    if JOURNAL.exists():
        setup("--remove")
        shutil.rmtree(JOURNAL, ignore_errors=True)


def test_a_stock_host_is_set_up_and_left_as_it_was() -> None:
    """Shown, applied, checked, used, taken back: /etc is byte for byte what it was."""
    before = tree()
    shown = setup()
    assert tree() == before
    assert not JOURNAL.exists()
    assert "Nothing was changed" in shown
    with servers():
        setup("--apply")
        after = tree()
        assert setup("--apply").startswith("Nothing to do")
        assert tree() == after
        with rspamd(), mailhooks():
            findings = json.loads(run(PYTHON, "-m", "mailhooks", "doctor", "--json"))
            assert not [each for each in findings if each["level"] != "ok"]
            send("ann@localhost", "hello ann")
            message = delivered("hello ann")
            assert "X-Spam-Status: No, score=" in message
            assert "milter=none" not in message.partition("\n\n")[0]
        setup("--remove")
        assert tree() == before
        assert not JOURNAL.exists()


def change(path: str, text: str) -> Callable[[], None]:
    """Add to a file; returns what takes it back."""
    file = Path(path)
    before = file.read_bytes() if file.exists() else None
    file.write_bytes((before or b"") + text.encode())

    def undo() -> None:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)

    return undo


def test_what_others_have_set_is_shown_and_never_overwritten() -> None:
    """Each conflict says what to merge; once that is done, all that was there before goes on."""
    mine = MINE[run("dovecot", "--version")[:3]]
    undo = [
        change("/etc/rspamd/local.d/settings.conf", "mine { id = mine; apply {} }\n"),
        change(
            "/etc/postfix/main.cf",
            "smtpd_milters = inet:127.0.0.1:8891\nlmtp_destination_recipient_limit = 5\n"
            "smtp_header_checks = regexp:/etc/postfix/mine\n",
        ),
        change("/etc/dovecot/conf.d/97-mine.conf", mine.conflicts),
    ]
    Path("/etc/dovecot/conf.d/zz-late.conf").write_text(mine.late, encoding="utf-8")
    before = tree()
    said = setup("--apply", ok=False)
    assert tree() == before
    assert not JOURNAL.exists()
    assert "/etc/rspamd/local.d/settings.conf\n    there is: is there already" in said
    assert "mailhooks needs lmtp_destination_recipient_limit = 1" in said
    for advice in mine.advice:
        assert advice in said
    assert "nothing was changed" in said
    for each in undo:
        each()
    # Merged, as the text says; what can stand beside ours does.
    undo = [
        change("/etc/rspamd/local.d/settings.conf", "# mailhooks: merged\n"),
        change(
            "/etc/postfix/main.cf",
            "smtpd_milters = inet:127.0.0.1:8891\nlmtp_destination_recipient_limit = 1\n"
            "smtp_header_checks = regexp:/etc/postfix/mine\n",
        ),
        change("/etc/dovecot/conf.d/97-mine.conf", mine.merged),
    ]
    before = tree()
    setup("--apply")
    drop_in = Path("/etc/dovecot/conf.d/99-mailhooks.conf").read_text(encoding="utf-8")
    for text in mine.ours:
        assert text in drop_in
    assert mine.left_out not in drop_in
    plugins = run("doveconf", "-f", "protocol=imap", "-h", "mail_plugins").split()
    assert set(plugins) >= {"quota", "imap_sieve"}
    chain = run("postconf", "-h", "smtpd_milters")
    assert [chain.index(port) for port in ("8891", "11332", "11336")] == sorted(
        chain.index(port) for port in ("8891", "11332", "11336")
    )
    assert run("postconf", "-h", "smtp_header_checks") == (
        "regexp:/etc/postfix/mine regexp:/etc/mailhooks/smtp_header_checks\n"
    )
    assert setup("--apply").startswith("Nothing to do")
    setup("--remove")
    assert tree() == before
    for each in undo:
        each()
    Path("/etc/dovecot/conf.d/zz-late.conf").unlink()


def test_a_server_that_refuses_the_new_configuration_has_the_old_one_back() -> None:
    """Everything is undone, the system user included; and so it is after a crash."""
    before = tree()
    fake = Path("/usr/local/sbin/postfix")
    fake.write_text("#!/bin/sh\necho 'fatal: I do not like it' >&2; exit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    said = setup("--apply", ok=False)
    assert "postfix check: exit status 1: fatal: I do not like it" in said
    assert "Everything is as it was before." in said
    assert tree() == before
    fake.write_text("#!/bin/sh\nkill -9 $PPID\n", encoding="utf-8")
    setup("--apply", ok=False)
    assert tree() != before
    assert "a setup was cut short" in setup(ok=False)
    assert "has been undone" in setup("--remove")
    assert tree() == before


def test_what_was_changed_since_is_not_lost() -> None:
    """A removal takes out what is ours, keeps what is the administrator's, and says so."""
    before = tree()
    setup("--apply")
    Path("/var/spool/mailhooks-drop/call").touch()
    change("/etc/mailhooks/mailhooks.toml", "[policy]\nthreshold = 5\n")
    change("/etc/postfix/main.cf", "message_size_limit = 12345678\n")
    # New settings reach the servers.
    change("/etc/mailhooks/mailhooks.toml", '[mailboxes]\njunk = ["Reklame"]\n')
    assert "eklame" in setup("--apply")
    change("/etc/postfix/main.cf", "biff = yes\n")
    main_cf = Path("/etc/postfix/main.cf")
    said = setup("--remove")
    assert "/etc/postfix/main.cf was changed since: only our settings were taken out" in said
    assert "/var/spool/mailhooks-drop holds what mailhooks kept for its users: it stays" in said
    after = tree()
    assert {
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    } == {str(main_cf)}
    text = main_cf.read_text(encoding="utf-8")
    assert "message_size_limit = 12345678" in text
    assert "mailhooks" not in text
    assert "milter" not in text
    kept = JOURNAL / "kept/etc/mailhooks/mailhooks.toml"
    assert "Reklame" in kept.read_text(encoding="utf-8")
