"""A whole Debian mail host with its stock configuration, private to one process.

For use only where tests/e2e/test_setup.py has made namespaces for it: mounts,
network and processes of its own, so that everything may listen on its usual
port and write to its usual place, and nothing of it is there afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import smtplib
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 60
VENV = Path("/opt/mailhooks")
PYTHON = str(VENV / "bin/python")
# Both call their user, files and programs after themselves.
REDIS = "valkey" if shutil.which("valkey-server") else "redis"
# What Debian's postfix asks about and writes for an "Internet Site".
MAIN_CF = """
alias_maps = {kind}:/etc/aliases
alias_database = {kind}:/etc/aliases
myhostname = mx.example.org
mydestination = $myhostname, localhost
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
recipient_delimiter = +
inet_interfaces = all
"""
# What an administrator adds who wants Sieve: delivery by Dovecot's LMTP.
DELIVERY = """
mailbox_transport = lmtp:unix:private/dovecot-lmtp
maillog_file = /var/log/mail.log
"""
# No DNS here; and the few scans do not pay for compiling patterns.
RSPAMD = """
dns {
  nameserver = ["127.0.0.1:9"];
  timeout = 0.05s;
  retransmits = 1;
}
disable_monitoring = true;
disable_hyperscan = true;
url_tld = "/etc/rspamd/tlds";
"""
# By the generation of Dovecot.
MAIL = {
    "2.3": "mail_location = maildir:~/Maildir\nauth_username_format = %Ln\n",
    "2.4": """
mail_driver = maildir
mail_path = ~/Maildir
mail_inbox_path =
auth_username_format = %{user | username | lower}
""",
}
DOVECOT = """
log_path = /dev/stderr
service lmtp {
  unix_listener /var/spool/postfix/private/dovecot-lmtp {
    mode = 0600
    user = postfix
    group = postfix
  }
}
"""


def run(*argv: str, ok: bool = True) -> str:
    """What a command says."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) is ok, f"{' '.join(argv)}: {done.returncode}: {said}"
    return said


def wait(what: str, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


def tree(folder: str = "/etc") -> dict[str, str]:
    """Everything below a folder: what it is, whose, and its content."""
    found = {}
    for path in Path(folder).rglob("*"):
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = f"{status.st_mode:o} {status.st_uid} {status.st_gid} {content}"
    return found


def prepare(layers: Path) -> None:
    """Make this machine a stock host with copies, on write, of all that anybody writes to."""
    run("mount", "-t", "tmpfs", "tmpfs", str(layers))
    for name in ("etc", "var", "home", "opt"):
        upper, work = layers / name, layers / f"{name}.work"
        upper.mkdir()
        work.mkdir()
        options = f"lowerdir=/{name},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "overlay", "-o", options, f"/{name}")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    run("ip", "link", "set", "lo", "up")
    install()
    # hash, or cdb since Debian 14
    kind = run("postconf", "-dh", "default_database_type").strip()
    shutil.copy("/usr/share/postfix/main.cf.debian", "/etc/postfix/main.cf")
    # No setting twice: each process would warn, postlogd too, which then waits for itself.
    run("postconf", "-e", *filter(None, MAIN_CF.replace("{kind}", kind).splitlines()))
    shutil.copy("/usr/share/postfix/master.cf.dist", "/etc/postfix/master.cf")
    Path("/etc/aliases").write_text("postmaster: root\n", encoding="utf-8")
    run("newaliases")
    configure()


def configure() -> None:
    """What an administrator has done before mailhooks comes."""
    run("ip", "link", "set", "lo", "up")
    # A postfix that is installed without a network writes none here.
    run("postconf", "-e", "inet_protocols = ipv4", *filter(None, DELIVERY.splitlines()))
    dovecot = MAIL[run("dovecot", "--version")[:3]] + DOVECOT
    Path("/etc/dovecot/conf.d/98-local.conf").write_text(dovecot, encoding="utf-8")
    Path("/etc/rspamd/override.d/options.inc").write_text(RSPAMD, encoding="utf-8")
    Path("/etc/rspamd/tlds").write_text("example\ncom\nnet\norg\n", encoding="utf-8")
    _make_certificate()
    run("useradd", "--create-home", "ann")
    run("postfix", "check")


def _make_certificate() -> None:
    """What Debian's ssl-cert makes, which is only recommended."""
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=mx"),
        *("-keyout", "/etc/dovecot/private/dovecot.key"),
        *("-out", "/etc/dovecot/private/dovecot.pem"),
    )


def install() -> None:
    """The mailhooks under test, where users other than root can run it."""
    python = "python{}.{}".format(*sys.version_info)
    base = Path(sys.base_prefix)
    if base != Path("/usr"):  # it may lie in somebody's home
        base = Path("/opt/python")
        base.mkdir()
        run("mount", "--bind", sys.base_prefix, str(base))
    run(str(base / "bin" / python), "-m", "venv", "--without-pip", str(VENV))
    import mailhooks as package

    installed = Path(package.__file__).parents[1]
    run("mount", "--bind", str(installed), str(VENV / "lib" / python / "site-packages"))
    script = VENV / "bin/mailhooks"
    script.write_text(f"#!{PYTHON}\nfrom mailhooks.cli import main\nmain()\n", encoding="utf-8")
    script.chmod(0o755)


@contextlib.contextmanager
def running(*argv: str, log: str, ready: Callable[[], bool], **environ: str) -> Iterator[None]:
    """A server in the foreground."""
    with Path(log).open("ab") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, env=os.environ | environ)
    try:
        try:
            wait(f"{argv[0]} answers", lambda: ready() or process.poll() is not None)
            assert process.poll() is None
        except AssertionError as error:
            raise AssertionError(f"{argv}: {Path(log).read_text(encoding='utf-8')}") from error
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def listens(port: int) -> bool:
    """Whether anybody listens on a TCP port; /proc/net/tcp has it in hexadecimal."""
    return bool(
        re.search(rf":{port:04X} \S+ 0A ", Path("/proc/net/tcp").read_text(encoding="utf-8"))
    )


def as_user(name: str) -> tuple[str, ...]:
    return "setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups"


@contextlib.contextmanager
def servers() -> Iterator[None]:
    """Redis or Valkey, Dovecot and Postfix, as the system's own configuration has them."""
    Path(f"/run/{REDIS}").mkdir(exist_ok=True)
    shutil.chown(f"/run/{REDIS}", REDIS, REDIS)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            running(
                *as_user(REDIS),
                *(
                    f"{REDIS}-server",
                    f"/etc/{REDIS}/{REDIS}.conf",
                    "--daemonize",
                    "no",
                    "--appendonly",
                    "yes",
                ),
                log=f"/var/log/{REDIS}.out",
                ready=lambda: listens(6379),
            )
        )
        stack.enter_context(
            running(
                *("dovecot", "-F"),
                log="/var/log/dovecot.out",
                ready=lambda: Path("/var/spool/postfix/private/dovecot-lmtp").is_socket(),
            )
        )
        run("postfix", "start")
        stack.callback(run, "postfix", "stop")
        try:
            wait("Postfix answers", lambda: listens(25))
        except AssertionError as error:
            log = Path("/var/log/mail.log")
            raise AssertionError(log.read_text(encoding="utf-8")) from error
        yield


@contextlib.contextmanager
def rspamd() -> Iterator[None]:
    """Rspamd, likewise."""
    Path("/run/rspamd").mkdir(exist_ok=True)
    shutil.chown("/run/rspamd", "_rspamd", "_rspamd")
    with running(
        *("rspamd", "-f", "-c", "/etc/rspamd/rspamd.conf", "-u", "_rspamd", "-g", "_rspamd"),
        log="/var/log/rspamd.out",
        ready=lambda: all(map(listens, (11332, 11333, 11334))),
    ):
        yield


@contextlib.contextmanager
def mailhooks() -> Iterator[None]:
    """What the units would start, with the credentials they would load."""
    credentials = Path("/run/credentials")
    credentials.mkdir(exist_ok=True)
    shutil.copy("/etc/mailhooks/keys", credentials)
    shutil.chown(credentials / "keys", "mailhooks", "mailhooks")
    Path("/run/mailhooks").mkdir(exist_ok=True)
    shutil.chown("/run/mailhooks", "mailhooks", "mailhooks")
    with contextlib.ExitStack() as stack:
        for command, ready in (
            ("serve", lambda: Path("/run/mailhooks/mailhooks-learn").is_socket()),
            ("milter", lambda: listens(11336)),
        ):
            stack.enter_context(
                running(
                    *as_user("mailhooks"),
                    *(PYTHON, "-m", "mailhooks", command),
                    log=f"/var/log/mailhooks-{command}.out",
                    ready=ready,
                    CREDENTIALS_DIRECTORY=str(credentials),
                    LD_LIBRARY_PATH="/opt/python/lib",
                )
            )
        yield


def send(recipient: str, subject: str, text: str = "hello") -> None:
    """One message by SMTP, with a text of one line."""
    with smtplib.SMTP("127.0.0.1", 25, local_hostname="client.example.org") as smtp:
        smtp.sendmail(
            "sender@example.net",
            [recipient],
            f"From: sender@example.net\r\nTo: {recipient}\r\nSubject: {subject}\r\n"
            "Message-ID: <1@example.net>\r\nDate: Mon, 1 Jun 2026 12:00:00 +0000\r\n\r\n"
            f"{text}\r\n",
        )


def delivered(subject: str) -> str:
    """The message as it lies in ann's mailbox."""
    found: list[str] = []

    def look() -> bool:
        for path in Path("/home/ann/Maildir").glob("**/new/*"):
            text = path.read_text(encoding="utf-8")
            if f"Subject: {subject}\n" in text:
                found.append(text)
        return bool(found)

    wait(f"{subject} is delivered", look)
    return found[0]
