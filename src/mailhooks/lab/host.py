"""A whole private mail host on loopback, in one temporary folder.

Stock Postfix, Dovecot, Rspamd and Redis, our milter and our daemon, each with
configuration rendered from the templates a real host gets; only paths, ports
and the absence of DNS differ. Nothing in /etc and no running service is
touched, and everything is stopped and removed when the lab ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from argon2 import PasswordHasher

from mailhooks.accounts import Accounts, hash_password
from mailhooks.config import MailboxSettings
from mailhooks.errors import LabError
from mailhooks.keys import KeyRing, format_keys, new_key
from mailhooks.lab import elsewhere
from mailhooks.lab.certificates import make_certificates
from mailhooks.lab.dkim import DkimRecord, make_dkim_key, selector_of
from mailhooks.lab.mailbox import Mailbox
from mailhooks.lab.patterns import uncompiled
from mailhooks.lab.process import POLL_S, Server, signals_deferred, tcp_answers, unix_answers
from mailhooks.rspamd import RspamdClient
from mailhooks.setup import copy_sieve, installed_generation, render_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

ADDRESS = "127.0.0.1"
# From here comes what the Internet sends: no address of the host's own.
FOREIGN_ADDRESS = "127.0.0.2"
DOMAIN = "mail.example"
LONGEST_SOCKET = "run/dovecot/../mailhooks/mailhooks-classify"
MAX_SOCKET_PATH = 107  # unix(7): sun_path has 108 bytes, the last one a NUL
# Mailboxes belong to a number that no account of the machine has.
MAIL_UID = 64997
START_S = 120.0
PACKAGES = {
    "/usr/sbin/postfix": "postfix",
    "/usr/lib/postfix/postfix-sqlite.so": "postfix-sqlite",
    "/usr/sbin/dovecot": "dovecot-core",
    "/usr/lib/dovecot/modules/auth/libdriver_sqlite.so": "dovecot-sqlite",
    "/usr/lib/dovecot/imap": "dovecot-imapd",
    "/usr/lib/dovecot/lmtp": "dovecot-lmtpd",
    "/usr/bin/sievec": "dovecot-sieve",
    "/usr/bin/rspamd": "rspamd",
    "/usr/bin/openssl": "openssl",
}
# From Debian 13 on there is Valkey, too; the one differs from the other in its names.
REDIS = next((name for name in ("redis", "valkey") if shutil.which(f"{name}-server")), "redis")
PACKAGES[f"/usr/bin/{REDIS}-server"] = f"{REDIS}-server"
# Rspamd's own; from Debian 13 on it reads that of the package publicsuffix.
TLD_LISTS = (
    Path("/usr/share/rspamd/effective_tld_names.dat"),
    Path("/usr/share/publicsuffix/effective_tld_names.dat"),
)
LONG_TLDS = frozenset({"info", "name", "mobi", "jobs", "example", "test"})
# Below Linux's ephemeral range (32768 and up), so that no outgoing connection
# can take a port between the moment it is chosen and the moment it is bound.
PORT_RANGE = (20000, 32000)
PORT_PARTS = 8
_GIVEN: set[int] = set()


@dataclass(frozen=True, slots=True)
class LabUser:
    """An account of the lab."""

    address: str
    password: str

    @property
    def local_part(self) -> str:
        """The address before its ``@``."""
        return self.address.partition("@")[0]


class Lab:
    """A private mail host; use it as a context manager.

    Args:
        users: local parts of the accounts.
        aliases: local part of an alias -> local part of its account, or whole
            addresses; several for a group.
        min_learns: messages of each class before Rspamd's Bayes speaks (Rspamd: 200).
        shared: whether there are statistics that all users share.
        learn_on_delivery: see :class:`mailhooks.config.LearningSettings`.
        settle_s: likewise.
        delivery_settle_s: likewise.
        shared_agreement: likewise.
        deadline_s: see :class:`mailhooks.config.DaemonSettings`.
        mailboxes: see :class:`mailhooks.config.MailboxSettings`.
        extra_dovecot: added to the end of Dovecot's configuration.
        extra_rspamd: by the name of a file in Rspamd's local.d, what is added to its end.
        extra_postfix: added to the end of main.cf, where the last word counts.

    Attributes:
        imaps_port: where clients read mail, with TLS from the first byte on.
        imap_port: likewise, with STARTTLS before the login.
        submission_port: where clients send mail, with STARTTLS and a login.
        smtp_port: where other hosts bring mail.
        database_url: of the accounts, as ``mailcfg --db`` takes it.
        ca_file: the certificate that clients must trust.
        tls: the same, for Python's clients.
        dkim_record: what verifiers of outgoing mail look up.
        dovecot: the generation of the installed Dovecot, ``2.3`` or ``2.4``.
    """

    def __init__(
        self,
        users: Sequence[str] = ("alice", "bob", "carol"),
        *,
        aliases: Mapping[str, str | Sequence[str]] | None = None,
        min_learns: int = 2,
        shared: bool = True,
        learn_on_delivery: str = "off",
        settle_s: float = 0.0,
        delivery_settle_s: float = 0.0,
        shared_agreement: int = 0,
        deadline_s: float = 5.0,
        mailboxes: MailboxSettings | None = None,
        extra_dovecot: str = "",
        extra_rspamd: Mapping[str, str] | None = None,
        extra_postfix: str = "",
    ) -> None:
        self.users = {name: LabUser(f"{name}@{DOMAIN}", secrets.token_urlsafe(9)) for name in users}
        self.aliases = {
            whole(alias): [whole(name) for name in ([to] if isinstance(to, str) else to)]
            for alias, to in (aliases or {}).items()
        }
        self.keys = KeyRing((new_key(),))
        # Not token_urlsafe: rspamc takes one that begins with "-" for its next option.
        self.rspamd_password = secrets.token_hex(16)
        self._min_learns = min_learns
        self._shared = shared
        self._learning = {
            "learn_on_delivery": learn_on_delivery,
            "settle_s": settle_s,
            "delivery_settle_s": delivery_settle_s,
            "shared_agreement": shared_agreement,
        }
        self._deadline_s = deadline_s
        self._mailboxes = mailboxes or MailboxSettings()
        self._extra_dovecot = extra_dovecot
        self._extra_rspamd = extra_rspamd or {}
        self._extra_postfix = extra_postfix
        self._stack = contextlib.ExitStack()
        self.root = Path()
        self.servers: dict[str, Server] = {}
        self.smtp_port = self.submission_port = self.redis_port = 0
        self.imap_port = self.imaps_port = 0
        self.scan_url = self.learn_url = self.database_url = ""
        self.ca_file = Path()
        self.tls = ssl.create_default_context()
        self.dkim_record = DkimRecord("", "")
        self.dovecot = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and return once all of it answers.

        Raises:
            LabError: root or a package is missing, or a server does not start;
                whatever had started is stopped and removed.
        """
        check_machine()
        check_folder(Path(tempfile.gettempdir()))
        try:
            self._prepare()
            for server in self.servers.values():
                server.start()
            for server in self.servers.values():
                server.wait_ready(START_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop every server and remove the folder; harmless when nothing runs."""
        with signals_deferred():
            for server in reversed(self.servers.values()):
                server.terminate()
            for server in reversed(self.servers.values()):
                server.stop()
            self.servers.clear()
            self._stack.close()

    def restart(self, name: str) -> None:
        """Start a server again after it was stopped or killed.

        Raises:
            LabError: it does not start.
        """
        server = self.servers[name]
        server.start()
        server.wait_ready(START_S)

    def mailbox(self, name: str) -> Mailbox:
        """The account of a user, over IMAPS."""
        user = self.users[name]
        return Mailbox((ADDRESS, self.imaps_port), user.address, user.password, self.tls)

    def home(self, name: str) -> Path:
        """The folder of a user's mail."""
        local_part, _, domain = whole(name).partition("@")
        return self.root / "mail" / domain / local_part

    def send(
        self, raw: bytes, recipients: Iterable[str], sender: str = "sender@example.org"
    ) -> None:
        """Bring one message from another host to all recipients, in one SMTP transaction.

        Args:
            raw: the message.
            recipients: local parts of this host's addresses, or whole addresses.
            sender: MAIL FROM.

        Raises:
            LabError: Postfix did not take it for all recipients.
        """
        with self._smtp(self.smtp_port, FOREIGN_ADDRESS) as smtp:
            _send(smtp, raw, recipients, sender)

    def submit(
        self, name: str, raw: bytes, recipients: Iterable[str], sender: str | None = None
    ) -> None:
        """Send a message as a user's mail client does: submission, STARTTLS, login.

        Args:
            name: local part of the user.
            raw: the message.
            recipients: local parts of this host's addresses, or whole addresses.
            sender: MAIL FROM; None for the user's address.

        Raises:
            LabError: the login fails, or Postfix did not take it for all recipients.
        """
        user = self.users[name]
        with self._smtp(self.submission_port, ADDRESS) as smtp:
            smtp.starttls(context=self.tls)
            smtp.login(user.address, user.password)
            _send(smtp, raw, recipients, user.address if sender is None else sender)

    def departed(self) -> list[elsewhere.DepartedMessage]:
        """What has left the host, as a foreign server got it."""
        return elsewhere.departed(self.departed_dir)

    @property
    def departed_dir(self) -> Path:
        """The folder with the files of what has left the host."""
        return self.root / elsewhere.NAME

    @contextlib.contextmanager
    def _smtp(self, port: int, source: str) -> Iterator[smtplib.SMTP]:
        try:
            with smtplib.SMTP(
                ADDRESS, port, local_hostname="client.example.org", source_address=(source, 0)
            ) as smtp:
                yield smtp
        except (OSError, smtplib.SMTPException) as error:
            raise LabError(f"SMTP: {error}") from error

    def wait(self, what: str, true: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Return once something has become true.

        Raises:
            LabError: it did not in time; names ``what``.
        """
        deadline = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline:
                raise LabError(f"not within {timeout_s:.0f} s: {what}")
            time.sleep(POLL_S)

    def queue_length(self) -> int:
        """Messages in Postfix's queue."""
        output = self._run("/usr/sbin/postqueue", "-c", str(self.root / "postfix"), "-j")
        return len(output.splitlines())

    def wait_queue_empty(self, timeout_s: float = 60.0) -> None:
        """Return once Postfix has delivered everything."""
        self.wait("Postfix's queue is empty", lambda: self.queue_length() == 0, timeout_s)

    def redis(self, *command: str) -> str:
        """What redis-cli prints for a command."""
        program = f"/usr/bin/{REDIS}-cli"
        return self._run(program, "-h", ADDRESS, "-p", str(self.redis_port), *command)

    def learns(self, name: str) -> tuple[int, int]:
        """A user's learned messages as Redis counts them: (spam, ham).

        Args:
            name: local part, or a whole user name.
        """
        spam, ham = self.redis("HMGET", f"RS{whole(name)}", "learns_spam", "learns_ham").split(
            "\n"
        )[:2]
        return int(spam or 0), int(ham or 0)

    def waiting_samples(self) -> int:
        """Samples in the spool, and calls in the drop folder, that are not learned yet."""
        folders = (self.root / "spool" / "new", self.root / "drop")
        return sum(1 for folder in folders if folder.is_dir() for _ in folder.iterdir())

    def rspamd(self) -> RspamdClient:
        """A client of the lab's Rspamd; use it with ``async with``."""
        return RspamdClient(
            scan_url=self.scan_url,
            learn_url=self.learn_url,
            password=self.rspamd_password,
            classifier="bayes",
            shared_classifier="bayes_shared" if self._shared else "",
        )

    def log(self, name: str) -> str:
        """A server's whole log."""
        return (self.root / "log" / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def _prepare(self) -> None:
        # Servers run as users of their own and must get through to their folders.
        self.root = Path(tempfile.mkdtemp(prefix="mailhooks-lab-"))
        self._stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self.root.chmod(0o755)
        for name, owner, mode in (
            ("log", "root", 0o1777),
            ("run", "root", 0o755),
            ("run/dovecot", "root", 0o755),
            ("run/mailhooks", "root", 0o755),
            ("spool", "root", 0o700),
            ("mail", str(MAIL_UID), 0o700),
            ("hooks", "root", 0o755),
            ("drop", "root", 0o3733),
            ("redis", REDIS, 0o750),
            ("rspamd-data", "_rspamd", 0o750),
            ("queue", "root", 0o755),
            ("postfix-data", "postfix", 0o700),
            ("accounts", "root", 0o750),
            ("tls", "root", 0o755),
            ("dkim", "_rspamd", 0o700),
            (elsewhere.NAME, "postfix", 0o700),
        ):
            folder = self.root / name
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)
            if owner.isdecimal():
                os.chown(folder, int(owner), int(owner))
            else:
                shutil.chown(folder, owner, owner)
        # Postfix reads the accounts, and Dovecot does so as root; nobody else may.
        shutil.chown(self.root / "accounts", "root", "postfix")
        smtp, submission, imap, imaps, scan, learn, milter, redis, dns, away = free_ports(10)
        self.smtp_port, self.submission_port, self.redis_port = smtp, submission, redis
        self.imap_port, self.imaps_port = imap, imaps
        self._make_certificates()
        self._make_dkim_key()
        self._make_accounts()
        self.scan_url, self.learn_url = f"http://{ADDRESS}:{scan}", f"http://{ADDRESS}:{learn}"
        values = self._values(scan=scan, learn=learn, milter=milter, dns=dns, away=away)
        for kind in ("postfix", "rspamd", "redis", "mailhooks"):
            render_tree(kind, self.root / kind, values)
        self.dovecot = installed_generation()
        render_tree(f"dovecot-{self.dovecot}", self.root / "dovecot", values)
        for hook in render_tree("dovecot", self.root / "hooks", values):
            hook.chmod(0o755)
        (self.root / "keys").write_text(format_keys(self.keys), encoding="utf-8")
        (self.root / "keys").chmod(0o600)
        for name, text in self._extra_rspamd.items():
            with (self.root / "rspamd/local.d" / name).open("a", encoding="utf-8") as file:
                file.write(text)
        for path in self.root.glob("rspamd/*.d/*"):
            path.chmod(0o640)  # secrets are among them
            shutil.chown(path, "root", "_rspamd")
        (self.root / "mailhooks/mailhooks.toml").chmod(0o600)
        self._write_short_tld_list(self.root / "rspamd" / "tlds.dat")
        # Creates the queue's folders, as `postfix start` does.
        self._run("/usr/sbin/postfix", "-c", str(self.root / "postfix"), "check")
        for script in copy_sieve(self.root / "sieve"):
            # Compiled here, since the mail user may not write beside them.
            self._run("/usr/bin/sievec", "-c", str(self.root / "dovecot/dovecot.conf"), str(script))
        self._define_servers(scan=scan, learn=learn, milter=milter, away=away)

    def _make_certificates(self) -> None:
        made = make_certificates(
            self.root / "tls", name=f"mx.{DOMAIN}", address=ADDRESS, run=self._run
        )
        self.ca_file = made.ca_file
        self.tls = ssl.create_default_context(cafile=str(made.ca_file))

    def _make_dkim_key(self) -> None:
        self.dkim_record = make_dkim_key(
            self.root / "dkim",
            domain=DOMAIN,
            selector=selector_of(datetime.now(UTC)),
            run=self._run,
        )

    def _make_accounts(self) -> None:
        path = self.root / "accounts/accounts.sqlite"
        self.database_url = f"sqlite:///{path}"
        # Random passwords need no costly hashes, which every login would pay for.
        hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        with Accounts(self.database_url) as accounts:
            accounts.migrate()
            accounts.add_domain(DOMAIN)
            for user in self.users.values():
                accounts.add_user(user.address, hash_password(user.password, hasher))
            for alias, destinations in self.aliases.items():
                for destination in destinations:
                    accounts.add_alias(alias, destination)

    def _write_short_tld_list(self, target: Path) -> None:
        """The country and classic top-level domains of Rspamd's own list.

        Rspamd compiles the list at every start in a fresh folder: 9,000 names
        take ten seconds, these 300 a fraction of one.
        """
        own = next((path for path in TLD_LISTS if path.exists()), None)
        if own is None:
            raise LabError(f"Rspamd's list of top-level domains is not at {TLD_LISTS[-1]}")
        names = own.read_text(encoding="utf-8").splitlines()
        short = [n for n in names if n.isascii() and n.isalpha() and (len(n) < 4 or n in LONG_TLDS)]  # noqa: PLR2004
        target.write_text("\n".join(short) + "\n", encoding="utf-8")

    def _values(self, *, scan: int, learn: int, milter: int, dns: int, away: int) -> dict[str, Any]:
        root = self.root
        return {
            "host": {
                "address": ADDRESS,
                "name": f"mx.{DOMAIN}",
                "domain": DOMAIN,
                "dns": False,
            },
            "tls": {"cert_file": root / "tls/server.pem", "key_file": root / "tls/server.key"},
            "accounts": {
                "database": self.database_url,
                "database_file": self.database_url.removeprefix("sqlite:///"),
            },
            "postfix": {
                "config_dir": root / "postfix",
                "queue_dir": root / "queue",
                "data_dir": root / "postfix-data",
                "log": "/dev/stdout",
                "smtp_port": self.smtp_port,
                "submission_port": self.submission_port,
                # Nothing leaves the machine.
                "relayhost": f"[{ADDRESS}]:{away}",
                "extra": self._extra_postfix,
                # Postfix takes what is due within a second. Were that at once, it would find its
                # own delivery agent still at the file, and leave the message for minutes.
                "minimal_backoff_time": "3s",
                "maximal_backoff_time": "5s",
                "queue_run_delay": "1s",
            },
            "dovecot": {
                "base_dir": root / "run/dovecot",
                "state_dir": root / "run/dovecot",
                "log": "/dev/stderr",
                "config_dir": root / "dovecot",
                "imap_port": self.imap_port,
                "imaps_port": self.imaps_port,
                "sasl_socket": root / "run/sasl",
                "lmtp_socket": root / "run/lmtp",
                "mail_dir": root / "mail",
                "mail_uid": MAIL_UID,
                "sieve_dir": root / "sieve",
                "hook_dir": root / "hooks",
                "drop_dir": root / "drop",
                "socket_dir": "../mailhooks",
                "extra": self._extra_dovecot,
            },
            "rspamd": {
                "scan_address": f"{ADDRESS}:{scan}",
                "learn_address": f"{ADDRESS}:{learn}",
                "milter_address": f"{ADDRESS}:{milter}",
                "milter": f"inet:{ADDRESS}:{milter}",
                "dns_port": dns,
                "tld_list": root / "rspamd/tlds.dat",
                "min_learns": self._min_learns,
                "shared": self._shared,
                "workers": 2,
                "password": self.rspamd_password,
                "report_key": self.keys.signing.report_secret(),
                "dkim_dir": root / "dkim",
                "dkim_selector": self.dkim_record.name.partition(".")[0],
            },
            "redis": {
                "port": self.redis_port,
                "dir": root / "redis",
                "log": "",
                "server": f"{ADDRESS}:{self.redis_port}",
                "url": f"redis://{ADDRESS}:{self.redis_port}/0",
            },
            "doveadm": {"command": ["doveadm", "-c", str(root / "dovecot/dovecot.conf")]},
            "doctor": {
                "postconf": ["postconf", "-c", str(root / "postfix")],
                "doveconf": ["doveconf", "-c", str(root / "dovecot/dovecot.conf")],
                "rspamadm": ["rspamadm", *self._rspamd_folders()],
            },
            "daemon": {
                "socket_dir": root / "run/mailhooks",
                "spool_dir": root / "spool",
                "drop_dir": root / "drop",
                "deadline_s": self._deadline_s,
                "metrics": f"unix:{root}/run/mailhooks/metrics.sock",
            },
            "milter": {
                "socket": f"unix:{root}/run/mailhooks/milter.sock",
                "postfix_socket": f"unix:{root}/run/mailhooks/milter.sock",
            },
            "score": {"key_file": root / "keys"},
            "policy": {"threshold": 6.0},
            "learning": self._learning | {"ledger_file": root / "ledger.sqlite"},
            "mailboxes": self._mailboxes,
        }

    def _define_servers(self, *, scan: int, learn: int, milter: int, away: int) -> None:
        root, log = self.root, self.root / "log"
        ours = [
            sys.executable,
            "-m",
            "mailhooks",
            "--config",
            str(root / "mailhooks/mailhooks.toml"),
        ]
        sockets = root / "run/mailhooks"

        def rspamd_ready() -> bool:
            ports = all(tcp_answers(ADDRESS, port) for port in (scan, learn, milter))
            return ports and not uncompiled(self.log("rspamd"))

        for server in (
            Server(
                "redis",
                [
                    "/usr/bin/setpriv",
                    f"--reuid={REDIS}",
                    f"--regid={REDIS}",
                    "--clear-groups",
                    f"/usr/bin/{REDIS}-server",
                    str(root / "redis/redis.conf"),
                ],
                self._redis_ready,
                log / "redis.log",
            ),
            Server(
                "rspamd",
                [
                    "/usr/bin/rspamd",
                    "-f",
                    "-c",
                    "/etc/rspamd/rspamd.conf",
                    "-u",
                    "_rspamd",
                    "-g",
                    "_rspamd",
                    *self._rspamd_folders(),
                ],
                rspamd_ready,
                log / "rspamd.log",
            ),
            Server(
                "dovecot",
                ["/usr/sbin/dovecot", "-F", "-c", str(root / "dovecot/dovecot.conf")],
                lambda: (
                    tcp_answers(ADDRESS, self.imap_port, b"* OK")
                    and unix_answers(root / "run/sasl")
                    and unix_answers(root / "run/lmtp")
                ),
                log / "dovecot.log",
            ),
            elsewhere.foreign_server(
                ADDRESS, away, self.departed_dir, log / f"{elsewhere.NAME}.log"
            ),
            Server(
                "postfix",
                [
                    # Not `postfix start-fg`, whose master makes itself a session of its own.
                    "/usr/lib/postfix/sbin/master",
                    "-c",
                    str(root / "postfix"),
                    "-s",
                ],
                lambda: (
                    tcp_answers(ADDRESS, self.smtp_port, b"220 ")
                    and tcp_answers(ADDRESS, self.submission_port, b"220 ")
                ),
                log / "postfix.log",
            ),
            Server(
                "daemon",
                [*ours, "serve"],
                lambda: (
                    unix_answers(sockets / "mailhooks-classify")
                    and unix_answers(sockets / "mailhooks-learn")
                ),
                log / "daemon.log",
            ),
            Server(
                "milter",
                [*ours, "milter"],
                lambda: unix_answers(sockets / "milter.sock"),
                log / "milter.log",
                # libmilter looks up from an idle socket every five seconds only.
                grace_s=0.5,
            ),
        ):
            self.servers[server.name] = server

    def _rspamd_folders(self) -> list[str]:
        data = self.root / "rspamd-data"
        folders = {
            "LOCAL_CONFDIR": self.root / "rspamd",
            "DBDIR": data,
            "RUNDIR": data,
            "LOGDIR": self.root / "log",
        }
        return [f"--var={name}={folder}" for name, folder in folders.items()]

    def _redis_ready(self) -> bool:
        try:
            return self.redis("PING").strip() == "PONG"
        except LabError:
            return False

    def _run(self, *argv: str) -> str:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            raise LabError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def whole(name: str) -> str:
    """An address; a local part is one of this host's."""
    return name if "@" in name else f"{name}@{DOMAIN}"


def _send(smtp: smtplib.SMTP, raw: bytes, recipients: Iterable[str], sender: str) -> None:
    refused = smtp.sendmail(sender, [whole(name) for name in recipients], raw)
    if refused:
        answers = (f"{who}: {code} {text.decode()}" for who, (code, text) in refused.items())
        raise LabError(f"SMTP: refused for {', '.join(answers)}")


def check_folder(folder: Path) -> None:
    """See that a lab can live below a folder.

    Raises:
        LabError: UNIX sockets below it would have too long a name, or a
            configuration file could not hold its name.
    """
    longest = folder / "mailhooks-lab-12345678" / LONGEST_SOCKET
    if len(str(longest)) > MAX_SOCKET_PATH or not str(folder).isprintable() or " " in str(folder):
        raise LabError(
            f"the temporary folder {folder} has too long a name, or a space in it, for the "
            "servers' sockets: set TMPDIR=/tmp"
        )


def check_machine() -> None:
    """See that the machine can run a lab.

    Raises:
        LabError: says what is missing and what to do about it.
    """
    if os.geteuid() != 0:
        raise LabError(
            "the lab needs root, as Postfix and Dovecot do: run it with sudo. "
            "It touches nothing outside its own temporary folder."
        )
    missing = [package for path, package in PACKAGES.items() if not Path(path).exists()]
    if missing:
        raise LabError(
            f"not installed: {', '.join(missing)}. "
            f"On Debian: apt-get install --no-install-recommends {' '.join(missing)}"
        )


def free_ports(count: int) -> list[int]:
    """TCP ports on loopback that nobody uses, and no outgoing connection will take.

    None of them was given before, since it may not be bound yet.
    """
    # Labs that start side by side look in different parts of the range.
    part = set(range(*PORT_RANGE)[os.getpid() % PORT_PARTS :: PORT_PARTS])
    if len(part - _GIVEN) < len(part) / 2:
        _GIVEN.clear()
    found: list[int] = []
    for port in random.SystemRandom().sample(sorted(part - _GIVEN), len(part - _GIVEN)):
        with socket.socket() as probe:
            try:
                probe.bind((ADDRESS, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            _GIVEN.update(found)
            return found
    raise LabError("no free TCP ports on loopback")
