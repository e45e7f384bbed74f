"""The doctor on a real host: sound, and with one fault planted at a time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import pytest

from mailhooks.doctor import Finding, Level, examine, try_out
from mailhooks.keys import KeyRing, format_keys, new_key
from mailhooks.ledger import SqliteLedger
from mailhooks.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from mailhooks.lab import Lab

TIMEOUT_S = 90.0
OK, SKIPPED, WARNING, FAILED = Level.OK, Level.SKIPPED, Level.WARNING, Level.FAILED
# What the machine itself may be short of.
NOT_OURS = {"spool space", "ledger space", "spool file system", "ledger file system"}
Plant = Callable[["Lab"], AbstractContextManager[None]]


def settings_file(lab: Lab) -> Path:
    return lab.root / "mailhooks/mailhooks.toml"


def run(lab: Lab, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mailhooks", "--config", str(settings_file(lab))]
    command += ["doctor", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


def not_ok(findings: list[Finding]) -> dict[str, Finding]:
    return {
        finding.name: finding
        for finding in findings
        if finding.level is not OK and finding.name not in NOT_OURS
    }


# A sound host


def test_a_sound_host_is_all_ok(lab: Lab) -> None:
    """Every line begins with ok and is one line, but for what the machine itself is short of."""
    done = run(lab)
    *lines, summary = done.stdout.splitlines()
    assert not done.stderr
    assert len(lines) > 50
    wrong = [
        line
        for line in lines
        if not line.startswith("ok ") and not any(name in line for name in NOT_OURS)
    ]
    assert not wrong, "\n".join(wrong)
    assert summary.startswith(f"{len(lines)} findings: ")
    assert summary.endswith(" 0 failed")
    assert "\x1b" not in done.stdout
    assert done.returncode in (0, 1)


def test_the_doctor_teaches_nothing_and_leaves_nothing(lab: Lab) -> None:
    """Redis, spool and ledger know nobody of the probe's name afterwards."""
    before = lab.redis("KEYS", "RS*")
    done = run(lab, "--json")
    for finding in json.loads(done.stdout):
        assert bool(finding["advice"]) == (finding["level"] != "ok"), finding
    assert not lab.redis("KEYS", "*doctor*").strip()
    assert lab.redis("KEYS", "RS*") == before
    lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)
    with contextlib.closing(SqliteLedger(lab.root / "ledger.sqlite")) as ledger:
        assert not ledger.decisions("doctor@invalid")


# Faults


@contextlib.contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    before, times = path.read_text(encoding="utf-8"), path.stat()
    assert old in before
    path.write_text(before.replace(old, new), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextlib.contextmanager
def of_mode(path: Path, mode: int) -> Iterator[None]:
    before = path.stat().st_mode & 0o7777
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


def main_cf(old: str, new: str = "") -> Plant:
    return lambda lab: edited(lab.root / "postfix/main.cf", old, new)


def main_cf_with(line: str) -> Plant:
    # The last of several lines counts; postconf warns about it, as an administrator would see.
    return main_cf("compatibility_level = 3.6\n", f"compatibility_level = 3.6\n{line}\n")


def master_cf(old: str, new: str) -> Plant:
    return lambda lab: edited(lab.root / "postfix/master.cf", old, new)


def dovecot_conf(old: str, new: str = "", *, newer: tuple[str, str] | None = None) -> Plant:
    """An edit of dovecot.conf; ``newer`` is that for 2.4, if it differs."""

    def plant(lab: Lab) -> AbstractContextManager[None]:
        edit = newer if newer and lab.dovecot == "2.4" else (old, new)
        return edited(lab.root / "dovecot/dovecot.conf", *edit)

    return plant


def rspamd_conf(name: str, old: str, new: str = "") -> Plant:
    return lambda lab: edited(lab.root / "rspamd/local.d" / name, old, new)


def toml(old: str, new: str) -> Plant:
    return lambda lab: edited(settings_file(lab), old, new)


def mode(name: str, bits: int) -> Plant:
    return lambda lab: of_mode(lab.root / name, bits)


@contextlib.contextmanager
def milters_in_wrong_order(lab: Lab) -> Iterator[None]:
    ours = f"unix:{lab.root}/run/mailhooks/milter.sock"
    path = lab.root / "postfix/main.cf"
    theirs = path.read_text(encoding="utf-8").partition("{ inet:")[2].partition(",")[0]
    with (
        edited(path, ours, "OURS"),
        edited(path, f"inet:{theirs}", ours),
        edited(path, "OURS", f"inet:{theirs}"),
    ):
        yield


@contextlib.contextmanager
def no_milter_of_ours(lab: Lab) -> Iterator[None]:
    with edited(lab.root / "postfix/main.cf", "mailhooks/milter.sock", "other/milter.sock"):
        yield


@contextlib.contextmanager
def header_checks_drop_ours(lab: Lab) -> Iterator[None]:
    table = f"lmtp_header_checks = regexp:{lab.root}/postfix/leaving-headers"
    with main_cf_with(table)(lab):
        yield


@contextlib.contextmanager
def compiled_script_is_gone(lab: Lab) -> Iterator[None]:
    compiled = lab.root / "sieve/learn.svbin"
    away = compiled.rename(lab.root / "learn.svbin.away")
    try:
        yield
    finally:
        away.rename(compiled)


@contextlib.contextmanager
def compiled_script_is_old(lab: Lab) -> Iterator[None]:
    compiled = lab.root / "sieve/classify.svbin"
    times = compiled.stat()
    os.utime(compiled, (0, 0))
    try:
        yield
    finally:
        os.utime(compiled, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextlib.contextmanager
def script_is_of_another_version(lab: Lab) -> Iterator[None]:
    source = lab.root / "sieve/classify.sieve"
    times = source.stat()
    with edited(source, "# mailhooks:", "# mailhooks of old:"):
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
        yield


@contextlib.contextmanager
def spool_is_a_file(lab: Lab) -> Iterator[None]:
    spool = lab.root / "spool"
    away = spool.rename(lab.root / "spool.away")
    spool.touch()
    try:
        yield
    finally:
        spool.unlink()
        away.rename(spool)


@contextlib.contextmanager
def spool_is_in_memory(lab: Lab) -> Iterator[None]:
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        edited(settings_file(lab), f'spool_dir = "{lab.root}/spool"', f'spool_dir = "{folder}"'),
    ):
        yield


@contextlib.contextmanager
def key_file_is_new(lab: Lab) -> Iterator[None]:
    before = (lab.root / "keys").read_text(encoding="utf-8")
    with edited(lab.root / "keys", before, format_keys(KeyRing((new_key(),)))):
        yield


@contextlib.contextmanager
def report_secret_is_another(lab: Lab) -> Iterator[None]:
    with rspamd_conf("milter_headers.conf", lab.keys.signing.report_secret(), "0" * 64)(lab):
        yield


@contextlib.contextmanager
def password_is_wrong(lab: Lab) -> Iterator[None]:
    with edited(settings_file(lab), lab.rspamd_password, "wrong"):
        yield


@contextlib.contextmanager
def redis_writes_no_log(lab: Lab) -> Iterator[None]:
    lab.redis("CONFIG", "SET", "appendonly", "no")
    try:
        yield
    finally:
        lab.redis("CONFIG", "SET", "appendonly", "yes")


@contextlib.contextmanager
def settings_have_another_id(lab: Lab) -> Iterator[None]:
    with rspamd_conf("settings.conf", 'id = "milter"', 'id = "other"')(lab):
        lab.servers["rspamd"].stop()
        lab.restart("rspamd")
        try:
            yield
        finally:
            lab.servers["rspamd"].stop()
    lab.restart("rspamd")


@contextlib.contextmanager
def journal_is_anothers(lab: Lab) -> Iterator[None]:
    lab.servers["daemon"].stop()
    other = Spool(lab.root / "spool")
    other.keep_journal()
    lab.restart("daemon")

    def trouble() -> bool:
        found = examine(settings_file(lab), only=["health"])
        return "spool journal" in not_ok(found)

    try:
        lab.wait("the daemon says so", trouble)
        yield
    finally:
        other.close()
        lab.wait("the daemon has its journal", lambda: not trouble())


def killed(server: str) -> Plant:
    @contextlib.contextmanager
    def plant(lab: Lab) -> Iterator[None]:
        lab.servers[server].kill()
        try:
            yield
        finally:
            lab.restart(server)

    return plant


# What is planted, the check that is asked, what it finds, and a word of the mend, which
# is another for some generations of a server.
FAULTS: dict[str, tuple[Plant, str, str, Level, str | tuple[str, ...]]] = {
    "the milters stand in the wrong order": (
        milters_in_wrong_order,
        *("postfix", "postfix milters", FAILED, "Name Rspamd's first"),
    ),
    "our milter is not named": (
        no_milter_of_ours,
        *("postfix", "postfix milters", FAILED, "Add it behind Rspamd's milter"),
    ),
    "smtpd runs in a chroot": (
        master_cf("inet n - n - - smtpd", "inet n - y - - smtpd"),
        *("postfix", "postfix milters", FAILED, "chroot"),
    ),
    "Postfix may not connect to the milter": (
        mode("run/mailhooks/milter.sock", 0o600),
        *("postfix", "postfix milters", FAILED, "write to the socket"),
    ),
    "a dead milter turns mail away": (
        main_cf("default_action=accept", "default_action=tempfail"),
        *("postfix", "postfix without milters", FAILED, "default_action = accept"),
    ),
    "mail by sendmail meets no milter": (
        main_cf("non_smtpd_milters = $smtpd_milters"),
        *("postfix", "postfix sendmail", WARNING, "non_smtpd_milters = $smtpd_milters"),
    ),
    "another service has no milter": (
        master_cf(
            "pickup    unix", "127.0.0.1:9 inet n - n - - smtpd -o smtpd_milters=\npickup unix"
        ),
        *("postfix", "postfix services", WARNING, "-o smtpd_milters"),
    ),
    "several recipients share a delivery": (
        main_cf("lmtp_destination_recipient_limit = 1", "lmtp_destination_recipient_limit = 20"),
        *("postfix", "postfix recipients", WARNING, "lmtp_destination_recipient_limit=1"),
    ),
    "our headers leave the host": (
        main_cf("smtp_header_checks =", "#"),
        *("postfix", "postfix leaving", WARNING, "IGNORE"),
    ),
    "our headers are dropped on the way": (
        header_checks_drop_ours,
        *("postfix", "postfix arriving", FAILED, "lmtp_header_checks"),
    ),
    "Dovecot gives up before we answer": (
        dovecot_conf("sieve_execute_exec_timeout = 10s", "sieve_execute_exec_timeout = 4s"),
        *("dovecot", "dovecot deadline", FAILED, "deadline_s"),
    ),
    "a Sieve plugin is missing": (
        dovecot_conf(
            *("sieve_extprograms sieve_imapsieve", "sieve_extprograms"),
            newer=("  sieve_imapsieve = yes\n", ""),
        ),
        *("dovecot", "dovecot plugins", FAILED, "Add what is lacking"),
    ),
    "Sieve does not run at delivery": (
        dovecot_conf(
            *("mail_plugins = $mail_plugins sieve\n", "mail_plugins = $mail_plugins\n"),
            newer=("    sieve = yes\n", ""),
        ),
        *("dovecot", "dovecot plugins", FAILED, "Add what is lacking"),
    ),
    "a Sieve extension is missing": (
        dovecot_conf("+editheader ", newer=("  editheader = yes\n", "")),
        *("dovecot", "dovecot extensions", FAILED, ("+editheader", "editheader = yes")),
    ),
    "users' scripts may run programs": (
        dovecot_conf(
            *("sieve_extensions = +", "sieve_extensions = +vnd.dovecot.execute +"),
            newer=("  editheader = yes\n", "  editheader = yes\n  vnd.dovecot.execute = yes\n"),
        ),
        *("dovecot", "dovecot extensions", WARNING, "sieve_global_extensions"),
    ),
    "Dovecot looks elsewhere for our sockets": (
        dovecot_conf("sieve_execute_socket_dir = ../mailhooks", "sieve_execute_socket_dir = ../mh"),
        *("dovecot", "dovecot sockets", FAILED, "sieve_execute_socket_dir = ../mailhooks"),
    ),
    "the program for the drop folder cannot run": (
        mode("hooks/mailhooks-drop", 0o644),
        *("dovecot", "dovecot fallback", WARNING, "chmod 755"),
    ),
    "no script runs before users' own": (
        dovecot_conf(
            *("sieve_before =", "sieve_default ="),
            newer=("type = before\n  cause = delivery", "type = default\n  cause = delivery"),
        ),
        *("dovecot", "sieve classify", FAILED, ("sieve_before", "for path")),
    ),
    "a script is not compiled": (
        compiled_script_is_gone,
        *("dovecot", "sieve learn", WARNING, "sievec"),
    ),
    "a script is newer than its compiled form": (
        compiled_script_is_old,
        *("dovecot", "sieve classify", WARNING, "sievec"),
    ),
    "a script is of another version": (
        script_is_of_another_version,
        *("dovecot", "sieve classify", WARNING, "copy the new one"),
    ),
    "keywords are not listened to": (
        dovecot_conf("COPY APPEND FLAG", "COPY APPEND", newer=("copy append flag", "copy append")),
        *("dovecot", "dovecot imapsieve", WARNING, ("COPY APPEND FLAG", "copy append flag")),
    ),
    "no imapsieve rule is found": (  # on 2.3 because there is a gap in their numbers
        dovecot_conf(
            *("imapsieve_mailbox1_", "imapsieve_mailbox2_"),
            newer=("/learn.sieve", "/learn2.sieve"),
        ),
        *("dovecot", "dovecot imapsieve", FAILED, ("imapsieve_mailbox1_name", "sieve_script")),
    ),
    "Dovecot knows other names of mailboxes": (
        toml("junk = []", 'junk = ["Unrat"]'),
        *("dovecot", "dovecot mailbox names", FAILED, "again"),
    ),
    "another mailbox is Junk by special use": (
        dovecot_conf("mailbox Junk {", "mailbox Unrat {"),
        *("dovecot", "dovecot special use", FAILED, "[mailboxes] junk"),
    ),
    "mailboxes belong to a user who may not speak for others": (
        toml("mail_users = [", "mail_users = [1"),
        *("dovecot", "dovecot mail user", FAILED, "mail_users"),
    ),
    "Bayes judges in the milter pass": (
        rspamd_conf("worker-proxy.inc", 'settings_id = "milter";'),
        *("rspamd configuration", "rspamd milter pass", FAILED, 'settings_id = "milter"'),
    ),
    "the settings of the milter pass leave Bayes on": (
        rspamd_conf("settings.conf", "groups_disabled", "groups_enabled"),
        *("rspamd configuration", "rspamd milter pass", FAILED, "groups_disabled"),
    ),
    "statistics are everybody's": (
        rspamd_conf("statistic.conf", "per_user = true;"),
        *("rspamd configuration", "rspamd per user", FAILED, "per_user = true"),
    ),
    "Rspamd signs with another secret": (
        report_secret_is_another,
        *("rspamd configuration", "rspamd report", FAILED, "milter_headers.conf"),
    ),
    "Rspamd does not know the settings": (
        settings_have_another_id,
        *("rspamd scan", "rspamd settings", FAILED, "local.d/settings.conf"),
    ),
    "scans go to the controller": (
        lambda lab: edited(settings_file(lab), lab.scan_url, lab.learn_url),
        *("rspamd scan", "rspamd scan", WARNING, "11333"),
    ),
    "the shared classifier has another name": (
        toml('"bayes_shared"', '"bayes_common"'),
        *("rspamd learn", "rspamd classifiers", FAILED, "[rspamd] shared_classifier"),
    ),
    "the password is wrong": (
        password_is_wrong,
        *("rspamd learn", "rspamd learn", FAILED, "enable_password"),
    ),
    "Redis writes no log": (
        redis_writes_no_log,
        *("redis", "redis persistence", WARNING, "appendonly yes"),
    ),
    "the spool is a file": (
        spool_is_a_file,
        *("spool", "spool", FAILED, "install -d -m 700"),
    ),
    "the spool is in memory": (
        spool_is_in_memory,
        *("spool", "spool file system", WARNING, "on a disk"),
    ),
    "the spool is open to others": (
        mode("spool", 0o755),
        *("spool", "spool", WARNING, "chmod 700"),
    ),
    "the spool's journal cannot be opened": (
        journal_is_anothers,
        *("health", "spool journal", WARNING, "one `mailhooks serve`"),
    ),
    "users may not write to the drop folder": (
        mode("drop", 0o755),
        *("drop folder", "drop folder", FAILED, "chmod 3733"),
    ),
    "everybody may read the keys": (
        mode("keys", 0o644),
        *("key file", "key file", FAILED, "chmod 600"),
    ),
    "everybody may read the password": (
        mode("mailhooks/mailhooks.toml", 0o644),
        *("settings private", "settings private", WARNING, "chmod o="),
    ),
    "the daemon has other keys": (
        key_file_is_new,
        *("classify socket", "classify socket", FAILED, "Restart `mailhooks serve`"),
    ),
    "mail users may not connect": (
        mode("run/mailhooks/mailhooks-learn", 0o600),
        *("learn socket", "learn socket", FAILED, "write to the socket"),
    ),
    "the daemon is dead": (
        killed("daemon"),
        *("classify socket", "classify socket", FAILED, "Start `mailhooks serve`"),
    ),
    "the milter is dead": (
        killed("milter"),
        *("milter socket", "milter socket", FAILED, "Start `mailhooks milter`"),
    ),
    "Redis is dead": (killed("redis"), *("redis", "redis", FAILED, "Start Redis")),
    "a program is absent": (
        toml('postconf = ["postconf"', 'postconf = ["/nonexistent/postconf"'),
        *("postfix", "postfix", SKIPPED, "[doctor] postconf"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_doctor_finds_a_fault_and_names_the_mend(lab: Lab, fault: str) -> None:
    """Once it is planted, and no more when it is taken back."""
    plant, check, name, level, word = FAULTS[fault]
    with plant(lab):
        findings = examine(settings_file(lab), only=[check])
    found = {finding.name: finding for finding in findings}[name]
    assert found.level is level, found
    assert any(each in found.advice for each in ([word] if isinstance(word, str) else word)), found


def test_hung_servers_are_named_and_the_doctor_does_not_wait_for_ever(lab: Lab) -> None:
    """All at once, and nothing else is called failed; the exit status is that of monitoring."""
    hung = [lab.servers[name] for name in ("daemon", "milter", "rspamd", "redis")]
    for server in hung:
        server.signal(signal.SIGSTOP)
    try:
        done = run(lab, "--json")
    finally:
        for server in hung:
            server.signal(signal.SIGCONT)
    failed = {each["name"] for each in json.loads(done.stdout) if each["level"] == "failed"}
    expected = {"classify socket", "learn socket", "milter socket", "rspamd scan", "rspamd learn"}
    assert failed == expected | {"redis"}
    assert done.returncode == 2


def test_what_was_broken_is_in_order_again(lab: Lab) -> None:
    """The doctor sees that too."""
    found: dict[str, Finding] = {}

    def sound() -> bool:
        found.clear()
        found.update(not_ok(examine(settings_file(lab))))
        return not found

    # Servers that were hung have work to do first.
    try:
        lab.wait("the host is sound", sound, TIMEOUT_S)
    except Exception as error:
        raise AssertionError(found) from error


# In earnest


def live(lab: Lab, user: str, *options: str) -> dict[str, dict[str, str]]:
    address = lab.users[user].address
    smtp = f"127.0.0.1:{lab.smtp_port}"
    only = ("--only", "key file")
    done = run(lab, *only, "--json", "--live", "--user", address, "--smtp", smtp, *options)
    found = {each["name"]: each for each in json.loads(done.stdout)}
    failed = any(each["level"] == "failed" for each in found.values())
    assert (done.returncode == 2) == failed
    return {name: each for name, each in found.items() if name.startswith("live ")}


def traces(lab: Lab, user: str) -> list[object]:
    """Whatever the live check may leave behind."""
    address = lab.users[user].address
    with contextlib.closing(SqliteLedger(lab.root / "ledger.sqlite")) as ledger:
        known = [name for name in ledger.users() if "doctor" in name]
        decided = len(ledger.decisions(address))
    return [
        lab.learns(user),
        lab.redis("KEYS", "*doctor*").strip(),
        lab.redis("HLEN", "learned_ids"),
        lab.waiting_samples(),
        lab.queue_length(),
        known,
        decided,
        lab.mailbox(user).find("mailhooks.invalid"),
    ]


def test_the_live_check_delivers_learns_and_unlearns(lab: Lab, people: list[str]) -> None:
    """Redis counts exactly that, and nothing is left behind."""
    user = people[0]
    before = traces(lab, user)
    found = live(lab, user)
    assert {each["level"] for each in found.values()} == {"ok"}, found
    assert list(found) == ["live smtp", "live lmtp", "live learn", "live unlearn", "live cleanup"]
    assert "milter=none" not in found["live smtp"]["text"]
    assert "1 spam, 0 ham" in found["live learn"]["text"]
    assert "0 spam, 1 ham" in found["live unlearn"]["text"]
    assert traces(lab, user) == before


def test_a_live_check_without_the_daemon_leaves_nothing(lab: Lab, people: list[str]) -> None:
    """Both messages come without a verdict, which is said, and are removed."""
    before = traces(lab, people[0])
    with killed("daemon")(lab):
        found = live(lab, people[0])
    assert found.pop("live cleanup")["level"] == "ok"
    assert {each["level"] for each in found.values()} == {"failed"}, found
    assert "did not answer" in found["live smtp"]["text"]
    assert "live unlearn" not in found
    assert traces(lab, people[0]) == before


def test_a_message_that_is_not_delivered_is_taken_out_of_the_queue(
    lab: Lab, people: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would come later, when nobody removes it any more."""
    monkeypatch.setattr("mailhooks.doctor.live.DELIVERY_S", 2.0)
    user = lab.users[people[0]].address
    before = traces(lab, people[0])
    with main_cf_with("defer_transports = lmtp")(lab):
        reload_postfix(lab)
        findings = try_out(settings_file(lab), user, smtp=f"127.0.0.1:{lab.smtp_port}", lmtp=None)
    reload_postfix(lab)
    found = {finding.name: finding for finding in findings}
    assert "not delivered" in found.pop("live smtp").text
    assert {finding.level for finding in found.values()} == {OK}, found
    assert traces(lab, people[0]) == before


def test_an_unknown_user_gets_nothing(lab: Lab) -> None:
    """Nothing is sent before Dovecot knows who that is."""
    smtp = f"127.0.0.1:{lab.smtp_port}"
    (finding,) = try_out(settings_file(lab), "nobody@mail.example", smtp=smtp, lmtp=None)
    assert (finding.name, finding.level) == ("live user", FAILED)
    assert "--user" in finding.advice


def reload_postfix(lab: Lab) -> None:
    command = ["postfix", "-c", str(lab.root / "postfix"), "reload"]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)
