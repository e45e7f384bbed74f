"""The units of the package under a systemd of their own; tools/test-deb boots it.

The tests build on one another, as an administrator's day does.
"""

from __future__ import annotations

import imaplib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import stock_host
from stock_host import REDIS, delivered, run, send, tree, wait

UNITS = ("mailhooks", "mailhooks-milter", "mailhooks-classify.socket", "mailhooks-learn.socket")
SETTINGS = Path("/etc/mailhooks/mailhooks.toml")
DOVECOT_GIVES_UP_S = 10
# Long enough for Rspamd to learn from, and to judge.
TEXTS = {
    "offer": "Dear winner, claim the huge casino bonus prize today! " * 3,
    "minutes": "Minutes of our meeting about roof, carpenter, bill and neighbours. " * 3,
}
# What an administrator has copied before the package goes.
KEPT: dict[Path, bytes] = {}
CALL = """
import asyncio
from mailhooks.dovecot import call_script
headers = (
    "From: a@example.org", "To: ann@localhost", "Subject: hello", "MIME-Version: 1.0",
    "Message-ID: <2@example.org>", "Date: Mon, 1 Jun 2026 12:00:00 +0000",
)
message = "\\r\\n".join((*headers, "", "hello", "")).encode()
env = {"USER": "ann", "SENDER": "a@example.org"}
path = "/run/mailhooks/mailhooks-classify"
print(asyncio.run(call_script(path, (), env, message, timeout_s=60)))
"""


@pytest.fixture(scope="session", autouse=True)
def host() -> None:
    """A stock host, its servers started by systemd."""
    stock_host.configure()
    run("dpkg", "-i", "/root/mailhooks.deb")
    conf = Path(f"/etc/{REDIS}/{REDIS}.conf")
    text = conf.read_text(encoding="utf-8")
    assert "appendonly no" in text
    conf.write_text(text.replace("appendonly no", "appendonly yes"), encoding="utf-8")
    # They run since the system started, with what was configured then.
    run("systemctl", "restart", f"{REDIS}-server", "rspamd", "dovecot", "postfix")


def call() -> tuple[str, float]:
    """One call for a verdict: what comes of it, and after how many seconds."""
    began_s = time.monotonic()
    done = subprocess.run(
        [stock_host.PYTHON, "-c", CALL], capture_output=True, text=True, check=False
    )
    answer = done.stdout.strip() or done.stderr.strip().rpartition("\n")[2]
    return answer, time.monotonic() - began_s


def metrics() -> bytes:
    """What Prometheus would get."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("/run/mailhooks/metrics.sock")
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return connection.makefile("rb").read()


def main_pid(unit: str) -> int:
    return int(run("systemctl", "show", "-p", "MainPID", "--value", unit))


def test_setup_starts_everything_and_mail_gets_its_verdict() -> None:
    """Sandbox, credentials, sockets: the doctor finds nothing wrong, and a message gets through."""
    before = tree()
    run("mailhooks", "setup", "--apply")
    run("mailhooks", "setup", "--remove")
    after = tree()
    assert after == before
    run("mailhooks", "setup", "--apply")
    for unit in UNITS:
        assert run("systemctl", "is-active", unit) == "active\n"
    wait("Rspamd answers", lambda: all(map(stock_host.listens, (11332, 11333, 11334))))
    findings = json.loads(run("mailhooks", "doctor", "--json"))
    assert not [each for each in findings if each["level"] != "ok"]
    # The sandbox takes nothing away that the daemon needs: it would go on, slower or blind.
    assert "spool journal" in {each["name"] for each in findings}
    assert b"\nprocess_resident_memory_bytes " in metrics()
    assert "handed-over sockets" in run("journalctl", "-u", "mailhooks", "-o", "cat")
    send("ann@localhost", "hello ann")
    message = delivered("hello ann")
    assert "X-Spam-Status: No, score=" in message
    assert "milter=none" not in message


def taught() -> tuple[int, int]:
    """What ann has taught, as Rspamd's statistics count it: (spam, ham)."""
    rows = json.loads(run("mailhooks", "stats", "--user", "ann", "--json"))
    return rows[0]["spam"], rows[0]["ham"]


def test_what_a_user_moves_is_learned_and_counts_in_the_next_verdict() -> None:
    """By IMAP, into Junk and out of it; and the doctor, in earnest, finds all in order."""
    with SETTINGS.open("a", encoding="utf-8") as file:
        file.write("[learning]\nsettle_s = 1\n")
    run("systemctl", "restart", "mailhooks")
    run("sh", "-c", "echo ann:secret | chpasswd")
    with imaplib.IMAP4("127.0.0.1") as imap:
        imap.login("ann", "secret")
        imap.create("Junk")
        for subject, text in TEXTS.items():
            send("ann@localhost", subject, text)
            assert "bayes=none" in delivered(subject)
        for mailbox, subjects in (("INBOX", TEXTS), ("Junk", ["minutes"])):
            imap.select(mailbox)
            for subject in subjects:
                found = imap.uid("SEARCH", "SUBJECT", subject)[1][0].decode()
                target = "Junk" if mailbox == "INBOX" else "INBOX"
                assert imap.uid("MOVE", found, target)[0] == "OK"
            if mailbox == "INBOX":
                wait("both are spam", lambda: taught() == (2, 0))
        wait("one is ham", lambda: taught() == (1, 1))
    send("ann@localhost", "another offer", TEXTS["offer"])
    assert "bayes=none" not in delivered("another offer").partition("\n\n")[0]
    findings = json.loads(run("mailhooks", "doctor", "--json", "--live", "--user", "ann"))
    assert not [each for each in findings if each["level"] != "ok"]
    assert {"live smtp", "live lmtp", "live learn", "live unlearn", "live cleanup"} <= {
        each["name"] for each in findings
    }
    assert taught() == (1, 1)


def test_a_restart_refuses_no_call() -> None:
    """Calls go on while the service is restarted; each has a verdict."""
    answers: list[str] = []
    over = threading.Event()

    def calls() -> None:
        while not over.is_set():
            answers.append(call()[0])

    thread = threading.Thread(target=calls)
    thread.start()
    for _ in range(3):
        run("systemctl", "restart", "mailhooks")
    over.set()
    thread.join()
    assert answers
    assert all("inbox" in answer for answer in answers), answers


def test_a_hung_daemon_is_replaced_before_dovecot_gives_up() -> None:
    """Whoever called it meanwhile gets a verdict from the next one."""
    pid = main_pid("mailhooks")
    os.kill(pid, signal.SIGSTOP)
    answer, took_s = call()
    assert "inbox" in answer
    assert took_s < DOVECOT_GIVES_UP_S
    assert main_pid("mailhooks") != pid


def test_a_hung_milter_is_replaced() -> None:
    """Its watchdog notices within its time."""
    pid = main_pid("mailhooks-milter")
    os.kill(pid, signal.SIGSTOP)
    wait("the milter is replaced", lambda: main_pid("mailhooks-milter") not in (0, pid))
    wait("the milter answers", lambda: stock_host.listens(11336))


def test_a_reload_brings_new_settings_into_force() -> None:
    """The process stays, the threshold is the new one."""
    pid = main_pid("mailhooks")
    with SETTINGS.open("a", encoding="utf-8") as file:
        file.write("[policy]\nthreshold = 7.5\n")
    run("systemctl", "reload", "mailhooks")
    wait("the new threshold counts", lambda: "required=7.50" in call()[0])
    assert main_pid("mailhooks") == pid


def test_a_daemon_that_cannot_start_keeps_nobody_waiting() -> None:
    """Calls fail long before Dovecot gives up, then the sockets close; mending brings it back."""
    settings = SETTINGS.read_bytes()
    SETTINGS.write_bytes(settings + b"nonsense\n")
    run("systemctl", "restart", "mailhooks", ok=False)
    answer, took_s = call()
    assert "inbox" not in answer
    assert took_s < DOVECOT_GIVES_UP_S
    wait("the sockets close", lambda: not Path("/run/mailhooks/mailhooks-classify").exists())
    SETTINGS.write_bytes(settings)
    run("systemctl", "reset-failed", "mailhooks")
    run("systemctl", "restart", "mailhooks")
    assert "inbox" in call()[0]


def test_an_upgrade_leaves_what_runs_renewed_and_mail_flowing() -> None:
    """The package's own scripts restart the services; nothing that was set up is undone."""
    pids = {unit: main_pid(unit) for unit in ("mailhooks", "mailhooks-milter")}
    run("dpkg", "-i", "/root/mailhooks.deb")
    for unit, pid in pids.items():
        assert run("systemctl", "is-active", unit) == "active\n"
        assert main_pid(unit) != pid
    assert "inbox" in call()[0]
    assert "Nothing to do" in run("mailhooks", "setup")


def test_keys_are_rotated_while_mail_flows() -> None:
    """In the order that docs/operating.md gives, no message goes without its milter score."""
    old = json.loads(run("mailhooks", "key", "list", "--json"))[0]["key_id"]
    run("mailhooks", "key", "rotate")
    run("systemctl", "restart", "mailhooks")
    run("mailhooks", "setup", "--apply")
    run("systemctl", "restart", "mailhooks-milter")
    wait("Rspamd answers", lambda: all(map(stock_host.listens, (11332, 11333, 11334))))
    send("ann@localhost", "signed with the new key")
    assert "milter=none" not in delivered("signed with the new key")
    run("mailhooks", "key", "remove", old, "--yes")
    run("systemctl", "restart", "mailhooks", "mailhooks-milter")
    send("ann@localhost", "the old key is gone")
    assert "milter=none" not in delivered("the old key is gone")


def test_the_delivery_filter_stands_between_postfix_and_the_store() -> None:
    """As docs/lmtp.md says, in its sandbox: the verdict is its own, where Sieve gives none."""
    is_new = run("dovecot", "--version").startswith("2.4")
    none = "mail_plugins {\n    sieve = no\n  }" if is_new else "mail_plugins ="
    Path("/etc/dovecot/conf.d/99-no-sieve.conf").write_text(
        f"protocol lmtp {{\n  {none}\n}}\n", encoding="utf-8"
    )
    text = SETTINGS.read_text(encoding="utf-8")
    text = text.replace("mail_users = [", 'mail_users = ["mailhooks", ')
    text += '[lmtp]\nlisten = "127.0.0.1:10026"\nusername = "local-part"\n'
    SETTINGS.write_text(text, encoding="utf-8")
    run("systemctl", "reload", "mailhooks", "dovecot")
    run("systemctl", "enable", "--now", "mailhooks-lmtp")
    run("postconf", "-e", "mailbox_transport = lmtp:inet:127.0.0.1:10026")
    run("postfix", "reload")
    send("ann@localhost", "filtered")
    message = delivered("filtered")
    assert "X-Spam-Status: No, score=" in message
    assert "milter=none" not in message
    log = run("journalctl", "-u", "mailhooks-lmtp", "-o", "cat")
    assert "user=ann inbox: No, score=" in log
    findings = json.loads(run("mailhooks", "doctor", "--json", "--only", "lmtp socket"))
    assert {each["level"] for each in findings} == {"ok"}
    pid = main_pid("mailhooks-lmtp")
    run("systemctl", "kill", "-s", "KILL", "mailhooks-lmtp")
    wait("it is started again", lambda: main_pid("mailhooks-lmtp") not in (0, pid))
    wait("it listens", lambda: stock_host.listens(10026))
    send("ann@localhost", "filtered again")
    assert "X-Spam-Status: No, score=" in delivered("filtered again")
    run("systemctl", "stop", "mailhooks-lmtp")
    send("ann@localhost", "waits in the queue")
    mail_log = Path("/var/log/mail.log")
    wait("Postfix waits", lambda: "status=deferred" in mail_log.read_text(encoding="utf-8"))
    run("systemctl", "start", "mailhooks-lmtp")
    run("postqueue", "-f")
    assert "X-Spam-Status: No, score=" in delivered("waits in the queue")


def test_the_package_takes_everything_with_it() -> None:
    """Its removal stops all services, the filter that was enabled by hand too."""
    KEPT.update({path: path.read_bytes() for path in (SETTINGS, SETTINGS.with_name("keys"))})
    said = run("dpkg", "--remove", "mailhooks")
    assert "mailbox_transport = lmtp:inet:127.0.0.1:10026 still leads to `mailhooks lmtp`" in said
    for unit in (*UNITS, "mailhooks-lmtp"):
        run("systemctl", "is-active", unit, ok=False)
    assert not list(Path("/etc/systemd").rglob("*mailhooks*"))
    run("getent", "passwd", "mailhooks", ok=False)
    assert "mailhooks" not in run("postconf", "-n")
    assert not Path("/etc/dovecot/conf.d/99-mailhooks.conf").exists()


def test_the_next_package_goes_on_where_the_last_one_ended() -> None:
    """As after an upgrade to another Debian, which takes the package away: nothing is unlearned."""
    Path("/etc/dovecot/conf.d/99-no-sieve.conf").unlink()
    run("postconf", "-e", "mailbox_transport = lmtp:unix:private/dovecot-lmtp")
    run("dpkg", "-i", "/root/mailhooks.deb")
    SETTINGS.parent.mkdir()
    for path, content in KEPT.items():
        path.write_bytes(content)
    run("mailhooks", "setup", "--apply")
    assert SETTINGS.stat().st_mode & 0o777 == 0o640
    wait("Rspamd answers", lambda: all(map(stock_host.listens, (11332, 11333, 11334))))
    findings = json.loads(run("mailhooks", "doctor", "--json"))
    assert not [each for each in findings if each["level"] != "ok"]
    assert taught() == (1, 1)
    rows = json.loads(run("mailhooks", "stats", "--user", "ann", "--json"))
    assert rows[0]["ledger"] == {"spam": 1, "ham": 1}
    send("ann@localhost", "after all that", TEXTS["offer"])
    assert "bayes=none" not in delivered("after all that").partition("\n\n")[0]
