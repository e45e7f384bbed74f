"""The lab, with an account for each contender: one Dovecot serves all, by their own settings."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import corpus

from mailhooks.errors import LabError
from mailhooks.lab import Lab
from mailhooks.lab.host import ADDRESS, DOMAIN, MAIL_UID
from mailhooks.lab.letters import LetterBox
from mailhooks.lab.mailbox import Mailbox
from mailhooks.lab.process import unix_answers
from mailhooks.lesson import Lesson
from mailhooks.message import without_fields
from mailhooks.setup import copy_sieve, installed_generation
from mailhooks.source import iter_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

OURS = "ours"
SENDER = "sender@example.org"
TYPICAL_BYTES = 10_000
TAUGHT = 60
PIPERS = tuple(f"piping{number}" for number in range(12))  # twice as many as there are rounds
BULK = "--header Learn-Type=bulk"
CONTENDERS = ("filing", "forking", "discarding", *PIPERS, "plain", "idle", "unmarked", "bare")
PAUSE_S = 0.02
SAID_CHARS = 600
# The topmost trace fields, down to the first Received.
_DOVECOT = re.compile(
    rb"\A(?:(?!Received:)[^\n]*\n)*Received:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE
)

FILING = 'require ["fileinto"];\nfileinto "INBOX";\n'
# What guides show: Sieve runs a shell script, which calls rspamc. A script cannot have the sum
# of Rspamd's rules and the user's Bayes without scanning again; it files and marks as ours does.
FORKING = """require ["editheader", "fileinto", "mailbox", "variables", "vnd.dovecot.execute"];
set "status" "No, rspamc did not answer";
set "folder" "inbox";
set "score" "verified";
if execute :pipe :output "answer" "bench-classify" {
  set "status" "No, by rspamc";
  if string :contains "${answer}" "Spam: true" {
    set "status" "Yes, by rspamc";
    set "folder" "junk";
  }
}
"""
AFTER_THE_VERDICT = "# Pigeonhole before 0.5.21"  # where classify.sieve goes on
# All rules but those that ask the DNS, which the lab does not have: each of them would wait until
# it gives up. The scores are the same.
OFFLINE = json.dumps(
    {
        "groups_enabled": [
            *("statistics", "header", "headers", "content", "mime_types", "subject", "body"),
            *("html", "mua", "date", "experimental", "forwarding", "upstream_spam_filters"),
            *("compromised_hosts", "excessqp", "excessb64", "blankspam", "mid", "policies"),
        ]
    },
    separators=(",", ":"),
)
DISCARDING = 'require ["copy", "vnd.dovecot.pipe"];\npipe :copy "bench-discard";\n'
PIPING = 'require ["copy", "vnd.dovecot.pipe"];\npipe :copy "bench-learn";\n'


@dataclass(frozen=True, slots=True)
class Names:
    """What a generation of Dovecot calls the settings in which accounts differ.

    Attributes:
        classify: which script runs at delivery, for an account.
        learn: likewise, which after what a user does.
        no_imapsieve: an account whose IMAP runs no scripts.
        no_flags: one whose IMAP runs none when a flag changes.
        extra: the accounts, and pipe beside ours, for all; FOLDER is ours.
    """

    classify: str
    learn: str
    no_imapsieve: str
    no_flags: str
    extra: str


NAMES = {
    "2.3": Names(
        classify="sieve_before=",
        learn="imapsieve_mailbox1_before=file:",
        # An empty value would mean "yes"; zlib does nothing for a flag.
        no_imapsieve="mail_plugins=zlib",
        no_flags="imapsieve_mailbox1_causes=COPY",
        extra="""
passdb {
  driver = passwd-file
  args = username_format=%Lu FOLDER/users
}
userdb {
  driver = passwd-file
  args = username_format=%Lu FOLDER/users
}
plugin {
  sieve_plugins = sieve_extprograms sieve_imapsieve
  sieve_global_extensions = +vnd.dovecot.execute +vnd.dovecot.environment +vnd.dovecot.pipe
  sieve_pipe_socket_dir = ../mailhooks
  sieve_pipe_bin_dir = FOLDER/bin
}
""",
    ),
    "2.4": Names(
        classify="sieve_script/mailhooks-classify/path=",
        learn="sieve_script/mailhooks-learn/path=",
        # Dovecot 2.4.1 takes no single one out of what protocol imap has.
        no_imapsieve="mail_plugins=",
        no_flags="sieve_script/mailhooks-learn/cause=copy",
        extra="""
passdb passwd-file {
  passwd_file_path = FOLDER/users
}
userdb passwd-file {
  passwd_file_path = FOLDER/users
}
sieve_global_extensions {
  vnd.dovecot.pipe = yes
}
sieve_pipe_socket_dir = ../mailhooks
sieve_pipe_bin_dir = FOLDER/bin
""",
    ),
}


class BenchHost:
    """A lab, messages, and accounts that differ in their Sieve settings only.

    * the lab's own user ``ours``: everything as mailhooks sets it up
    * ``filing``: delivery by a script that only files
    * ``forking``: delivery by ours, except that a fork of a shell and rspamc gives the verdict
    * ``discarding``: imapsieve pipes to a socket that discards
    * ``piping0`` and so on: imapsieve pipes to a shell and rspamc; a fresh one each try
    * ``plain``: IMAP without imapsieve
    * ``idle``: IMAP with imapsieve and an empty script
    * ``unmarked``: IMAP with imapsieve, but not for changed flags
    * ``bare``: only Rspamd knows it

    Attributes:
        lab: the host.
        is_real: whether the messages are real mail, not generated.
        spam: messages, and
        ham: more of them, of no user yet.
    """

    def __init__(self, *, settle_s: float = 30.0) -> None:
        self._stack = ExitStack()
        self._settle_s = settle_s
        self._numbers = itertools.count()
        self._passwords = {name: secrets.token_urlsafe(9) for name in CONTENDERS}
        self.folder = Path()
        self.is_real = corpus.find_corpus() is not None
        self.spam, self.ham = _messages()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="mailhooks-bench-"))
            )
            self.folder.chmod(0o755)
            self._write_scripts()
            self.lab = Lab((OURS,), settle_s=self._settle_s, extra_dovecot=self._dovecot())
            stack.enter_context(self.lab)
            self._write_programs()
            stack.enter_context(self._discarding())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def user(self, name: str) -> str:
        """The whole name of an account."""
        return f"{name}@{DOMAIN}"

    def mailbox(self, name: str) -> Mailbox:
        """The account over IMAP."""
        if name == OURS:
            return self.lab.mailbox(name)
        address = ADDRESS, self.lab.imaps_port
        return Mailbox(address, self.user(name), self._passwords[name], self.lab.tls)

    def home(self, name: str) -> Path:
        """The folder of an account's mail."""
        return self.lab.home(self.user(name))

    def discarded(self) -> int:
        """Calls that the discarding socket has had."""
        return (self.folder / "discarded").stat().st_size

    def piping_said(self) -> str:
        """The end of what rspamc said for those accounts."""
        return (self.folder / "said").read_text(errors="replace")[-SAID_CHARS:]

    def leaders(self) -> list[int]:
        """Processes in whose sessions the lab's servers run."""
        found = []
        for server in self.lab.servers.values():
            with suppress(LabError):
                found.append(server.pid)
        return found

    def fill(self, name: str, messages: Sequence[bytes]) -> None:
        """Put messages into INBOX, without a delivery, and nothing else; empty Junk."""
        mailbox = self.mailbox(name)
        mailbox.count("INBOX")  # Dovecot creates the Maildir
        maildir = self.home(name) / "Maildir"
        for folder in (maildir, maildir / ".Junk"):
            for path in [*folder.glob("cur/*"), *folder.glob("new/*")]:
                path.unlink()
        mailbox.count("INBOX")
        mailbox.count("Junk")
        for raw in messages:
            number = next(self._numbers)  # never the name of one that was there
            path = maildir / "new" / f"{1_700_000_000 + number}.M{number}.bench"
            path.write_bytes(raw.replace(b"\r\n", b"\n"))
            os.chown(path, MAIL_UID, MAIL_UID)
        if messages:
            os.sync()  # mail that users move has been on disk for long
        if mailbox.count("INBOX") != len(messages):
            raise RuntimeError(f"{name}: INBOX is not what was put there")

    def teach(self, *names: str) -> None:
        """Have Rspamd learn the same for users: ``TAUGHT`` messages, half of them spam."""

        async def run() -> None:
            async with self.lab.rspamd() as rspamd:
                for name in names:
                    for lesson, messages in ((Lesson.SPAM, self.spam), (Lesson.HAM, self.ham)):
                        for raw in messages[: TAUGHT // 2]:
                            await rspamd.learn(raw, lesson, user=self.user(name), bulk=True)

        asyncio.run(run())

    @contextmanager
    def without_statistics(self) -> Iterator[Callable[[], str]]:
        """Nobody has learned anything for a while; yields what brings that about again.

        Redis is slower the more it holds, and much slower while it moves to a larger table or
        writes its file anew: whoever learns just then would lose.
        """
        ask = self.lab.redis
        ask("CONFIG", "SET", "auto-aof-rewrite-percentage", "0")
        ask("SWAPDB", "0", "1")
        try:
            yield lambda: ask("FLUSHDB")
        finally:
            ask("FLUSHDB")
            ask("SWAPDB", "0", "1")
            ask("CONFIG", "SET", "auto-aof-rewrite-percentage", "100")

    def stamped(self, messages: Sequence[bytes], count: int) -> list[bytes]:
        """Messages as Dovecot gets them: they have met both milters, so they carry a score."""
        self.fill(OURS, ())
        for raw in messages:
            try:
                self.lab.send(raw, [OURS], SENDER)
            except Exception as error:
                if "Spam message rejected" not in str(error):
                    raise
        self.lab.wait_queue_empty(120)
        box = self.mailbox(OURS)
        found = [as_sent(it.raw) for folder in ("INBOX", "Junk") for it in box.messages(folder)]
        self.fill(OURS, ())
        return found[:count]

    def typical(self) -> bytes:
        """A message of some 10 KB, stamped; of real mail if there is any."""
        near = sorted([*self.spam, *self.ham], key=lambda raw: abs(len(raw) - TYPICAL_BYTES))
        return self.stamped(near[:5], 1)[0]

    def restart_daemon(self, *, empty_spool: bool = False) -> None:
        """Start the daemon anew, perhaps without the samples it has not learned."""
        self.lab.servers["daemon"].stop()
        if empty_spool:
            for folder in ("new", "tmp", "bad"):
                shutil.rmtree(self.lab.root / "spool" / folder, ignore_errors=True)
        self.lab.restart("daemon")

    def _write_scripts(self) -> None:
        ours = next(
            path for path in copy_sieve(self.folder / "sieve") if path.name == "classify.sieve"
        )
        _, mark, rest = ours.read_text(encoding="ascii").partition(AFTER_THE_VERDICT)
        for name, text in (
            ("filing", FILING),
            ("forking", FORKING + mark + rest),
            ("discarding", DISCARDING),
            ("piping", PIPING),
            ("idle", "# nothing\n"),
        ):
            (self.folder / f"{name}.sieve").write_text(text, encoding="ascii")
        (self.folder / "bin").mkdir()
        names = NAMES[installed_generation()]
        settings = {
            "filing": [f"{names.classify}{self.folder}/filing.sieve"],
            "forking": [
                f"{names.classify}{self.folder}/forking.sieve",
                f"sieve_execute_bin_dir={self.folder}/bin",
            ],
            "discarding": [f"{names.learn}{self.folder}/discarding.sieve"],
            **{name: [f"{names.learn}{self.folder}/piping.sieve"] for name in PIPERS},
            "idle": [f"{names.learn}{self.folder}/idle.sieve"],
            "plain": [names.no_imapsieve],
            "unmarked": [names.no_flags],
            "bare": [],
        }
        lines = [
            f"{self.user(name)}:{{PLAIN}}{self._passwords[name]}::::::"
            + " ".join(f"userdb_{field}" for field in fields)
            for name, fields in settings.items()
        ]
        users = self.folder / "users"
        users.write_text("\n".join(lines) + "\n", encoding="ascii")
        users.chmod(0o640)
        shutil.chown(users, "root", "dovecot")

    def _dovecot(self) -> str:
        return NAMES[installed_generation()].extra.replace("FOLDER", str(self.folder))

    def _write_programs(self) -> None:
        said = self.folder / "said"
        tell, password = f">> {said} 2>&1", self.lab.rspamd_password
        said.touch()
        shutil.chown(said, MAIL_UID)
        scan, learn = (urlsplit(url).netloc for url in (self.lab.scan_url, self.lab.learn_url))
        for name, command in (
            (
                "bench-classify",
                f"rspamc -h {scan} -d \"$USER\" --header 'Settings={OFFLINE}' symbols",
            ),
            (
                "bench-learn",
                f'rspamc -h {learn} -P {password} -d "$USER" {BULK} learn_spam {tell}',
            ),
        ):
            path = self.folder / "bin" / name
            path.write_text(f"#!/bin/sh\nexec /usr/bin/{command}\n", encoding="ascii")
            path.chmod(0o755)
        for script in self.folder.glob("*.sieve"):
            config = str(self.lab.root / "dovecot/dovecot.conf")
            subprocess.run(["/usr/bin/sievec", "-c", config, str(script)], check=True)

    @contextmanager
    def _discarding(self) -> Iterator[None]:
        path = self.lab.root / "run/mailhooks/bench-discard"
        program = Path(__file__).with_name("discard.py")
        count = self.folder / "discarded"
        count.touch()
        with subprocess.Popen([sys.executable, str(program), str(path), str(count)]) as process:
            try:
                while not unix_answers(path):
                    time.sleep(PAUSE_S)
                yield
            finally:
                process.kill()


def _messages() -> tuple[list[bytes], list[bytes]]:
    """Spam and ham with CRLF line ends: of the corpus, or generated letters."""
    path = corpus.find_corpus()
    spam: list[bytes] = []
    ham: list[bytes] = []
    if path is not None:
        for found in iter_messages(path):
            raw = re.sub(rb"\r?\n", b"\r\n", found.raw)
            (spam if "spam" in found.name else ham).append(raw)
        # The order of the archive is that of folders: neighbours are of one kind.
        spam.sort(key=hash_of)
        ham.sort(key=hash_of)
        return spam, ham
    box = LetterBox(1, now=_now())
    to = [f"someone@{DOMAIN}"]
    for number in range(1500):
        spam.append(box.spam(to).raw)
        ham.append((box.personal if number % 2 else box.newsletter)(to).raw)
    return spam, ham


def as_sent(delivered: bytes) -> bytes:
    """A delivered message as Postfix had sent it: without what Dovecot and Sieve added."""
    return without_fields(_DOVECOT.sub(b"", delivered, count=1), (b"x-spam-",))


def hash_of(raw: bytes) -> bytes:
    """An order that has nothing to do with content, and is the same in every run."""
    return hashlib.sha256(raw).digest()


def _now() -> datetime:
    return datetime.now(UTC)
