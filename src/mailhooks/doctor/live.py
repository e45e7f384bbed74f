"""The whole way in earnest: two messages delivered, one learned and unlearned, nothing left.

The delivered messages have no text, so that a host that learns on delivery
refuses them for their lack of tokens. What is learned is another message, in
the name of a user that no host can have (RFC 2606): Rspamd can unlearn a
message only by learning it as the opposite, which would stay with a real user.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import smtplib
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mailhooks.daemon import LEARN_SOCKET
from mailhooks.daemon.decisions import EVERY_S
from mailhooks.doctor import postfix
from mailhooks.doctor.check import Finding, Level, failed, ok, warning
from mailhooks.doctor.program import NotRunError, WentWrongError, output_of
from mailhooks.doctor.redis import LearnCache
from mailhooks.dovecot import call_script
from mailhooks.errors import LedgerError, ProtocolError, SpoolError, StatisticsError
from mailhooks.ledger import SqliteLedger
from mailhooks.lesson import Lesson
from mailhooks.message import content_digest, read_header
from mailhooks.spool import Spool
from mailhooks.statistics import Learned, Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailhooks.config import Settings
    from mailhooks.ledger import Taught

DELIVERY_S: Final = 30.0
LEARN_S: Final = 30.0
"""Beyond the time for which samples settle."""
DECISION_S: Final = 3 * EVERY_S
COUNT_S: Final = 5.0
POLL_S: Final = 0.1
BAD: Final = 300
"""SMTP answers from here on are no consent (RFC 5321, 4.2.1)."""
DOMAIN: Final = "mailhooks.invalid"
_STATUS: Final = "X-Spam-Status"
_QUEUED: Final = "queued as "
# Plain English, since the tokens depend on the language: Rspamd guesses that of random
# words anew each time, and would not know again what it is to unlearn.
_TEXT: Final = """\
This is the message that the doctor of mailhooks has sent to see whether what it is taught will be
learned. There is nothing for you to do about it, and if all of it works as it should, you will not
have seen it at all, because it has been taken away again by the time you would have read this.
It was learned as spam at first and then as good mail, in the name of a user who is not there, so
that those who have an account on this host would not find any of it in what they have been taught.
"""
_LOG = "See the logs of Postfix, Dovecot and `mailhooks serve`, and the findings above."


@dataclass(slots=True)
class Sent:
    """A test message, as what Postfix queues it, and whether it came through."""

    message_id: str
    raw: bytes
    queue_id: str = ""
    delivered: bool = False


@dataclass(slots=True)
class Live:
    """One run.

    Attributes:
        settings: of this host.
        user: the Dovecot user who gets the messages.
        smtp: where mail comes in, ``host:port``.
        lmtp: where Postfix delivers, ``host:port`` or ``unix:/path``.
        pupil: in whose name a message is learned.
        sent: what may lie in the mailbox, or be on its way there.
    """

    settings: Settings
    user: str
    smtp: str
    lmtp: str
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    sent: list[Sent] = field(default_factory=list)

    @property
    def pupil(self) -> str:
        """In whose name a message is learned."""
        return f"doctor-{self.token}@{DOMAIN}"

    def run(self) -> Iterator[Finding]:
        """Every step; the last one removes what the others made."""
        try:
            self._found("")
        except (NotRunError, WentWrongError) as problem:
            yield failed(
                "live user",
                f"{self.user}: {problem}",
                "Name a user of Dovecot's with --user, and see that [doveadm] command works.",
            )
            return
        cache = LearnCache(self.settings.redis)
        before = cache.entries()
        try:
            yield self._delivered("live smtp", self._send_by_smtp)
            yield self._delivered("live lmtp", self._send_by_lmtp)
            yield from self._taught()
        finally:
            left = self._cleaned()
            left += cache.forget(cache.entries() - before)
        yield left_behind(left)

    def _delivered(self, name: str, send: Callable[[Sent], str]) -> Finding:
        message_id = f"doctor-{self.token}.{name.rpartition(' ')[2]}@{DOMAIN}"
        message = Sent(message_id, self._message(message_id))
        started = time.monotonic()
        self.sent.append(message)
        try:
            refusal = send(message)
            if refusal:
                return failed(name, f"refused: {refusal}", _LOG)
            header = self._wait_for_delivery(message.message_id)
        except (OSError, smtplib.SMTPException, ValueError) as problem:
            where = self.smtp if name == "live smtp" else self.lmtp
            option = "--smtp" if name == "live smtp" else "--lmtp"
            reason = getattr(problem, "strerror", None) or str(problem)
            return failed(
                name, f"{where}: {reason}", f"Start the server, or name another with {option}."
            )
        except (NotRunError, WentWrongError) as problem:
            return failed(name, str(problem), "See that [doveadm] command works.")
        took = f"after {time.monotonic() - started:.1f} s"
        if header is None:
            return failed(name, f"accepted, and not delivered {took}", _LOG)
        message.delivered = True
        return verdict(name, header, took)

    def _send_by_smtp(self, message: Sent) -> str:
        host, port = _host_port(self.smtp, 25)
        with smtplib.SMTP(host, port, timeout=DELIVERY_S) as server:
            answer = _transaction(server, self.user, message.raw)
        _, found, queue_id = answer.partition(_QUEUED)
        message.queue_id = queue_id.strip() if found else ""
        return "" if answer.startswith("250 ") else answer

    def _send_by_lmtp(self, message: Sent) -> str:
        path = self.lmtp.removeprefix("unix:")
        where = (path, 0) if path.startswith("/") else _host_port(path, 24)
        server = smtplib.LMTP(*where, timeout=DELIVERY_S)
        with server:
            answer = _transaction(server, self.user, message.raw)
        return "" if answer.startswith("250 ") else answer

    def _message(self, message_id: str) -> bytes:
        date = format_datetime(datetime.now(UTC))
        lines = (
            f"Date: {date}",
            f"From: <doctor@{DOMAIN}>",
            f"To: <{self.user}>",
            f"Message-ID: <{message_id}>",
        )
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode()

    def _found(self, message_id: str) -> list[dict[str, Any]]:
        """Copies in the mailbox: ``uid``, ``mailbox-guid`` and ``hdr`` of each."""
        query = ("HEADER", "Message-ID", message_id) if message_id else ("UID", "4294967295")
        fields = "uid mailbox-guid hdr"
        command = self.settings.doveadm.command
        output = output_of(command, "-f", "json", "fetch", "-u", self.user, fields, *query)
        return list(json.loads(output or "[]"))

    def _wait_for_delivery(self, message_id: str) -> str | None:
        deadline = time.monotonic() + DELIVERY_S
        while time.monotonic() < deadline:
            found = self._found(message_id)
            if found:
                return str(found[0]["hdr"])
            time.sleep(POLL_S)
        return None

    def _taught(self) -> Iterator[Finding]:
        """Spam, then ham: the counts must move by exactly that."""
        head = self._message(f"doctor-{self.token}.learn@{DOMAIN}")
        raw = head + _TEXT.replace("\n", "\r\n").encode("ascii")
        for name, lesson, source, target in (
            ("live learn", Lesson.SPAM, "INBOX", "Junk"),
            ("live unlearn", Lesson.HAM, "Junk", "INBOX"),
        ):
            # Rspamd unlearns by learning the opposite.
            expected = Learned(int(lesson is Lesson.SPAM), int(lesson is Lesson.HAM))
            started = time.monotonic()
            try:
                self._move(raw, source, target)
                answer = self._wait_for_answer(content_digest(raw), lesson)
                counts = self._counts(expected)
            except (OSError, ProtocolError, LedgerError, StatisticsError) as problem:
                yield failed(name, str(problem) or "no answer in time", _LOG)
                return
            took = f"after {time.monotonic() - started:.1f} s"
            finding = lesson_learned(name, lesson, answer, counts, expected, took)
            yield finding
            if finding.level is Level.FAILED:
                return

    def _move(self, raw: bytes, source: str, target: str) -> None:
        daemon = self.settings.daemon
        args = ("cause=COPY", f"from={source}", f"to={target}")
        env = {"USER": self.pupil}
        call = call_script(
            daemon.socket_dir / LEARN_SOCKET, args, env, raw, timeout_s=daemon.deadline_s + 1
        )
        if not asyncio.run(call)[1]:
            raise ProtocolError(
                "`mailhooks serve` refuses to speak of another user: run the doctor as root"
            )

    def _wait_for_answer(self, digest: str, lesson: Lesson) -> Taught | None:
        learning = self.settings.learning
        deadline = time.monotonic() + learning.settle_s + LEARN_S
        while time.monotonic() < deadline:
            if learning.ledger_file.exists():
                ledger = SqliteLedger(learning.ledger_file)
                try:
                    known = ledger.taught(self.pupil, digest)
                finally:
                    ledger.close()
                if known is not None and known.last.lesson is lesson:
                    return known
            time.sleep(POLL_S)
        return None

    def _counts(self, expected: Learned) -> Learned | None:
        """What Redis counts; Rspamd takes the old class back a little after it learned the new."""
        redis = self.settings.redis
        if not redis.url:
            return None
        deadline = time.monotonic() + COUNT_S
        with Statistics(redis.url, redis.key_prefix) as statistics:
            while (counts := statistics.learned(self.pupil)) != expected:
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL_S)
        return counts

    def _cleaned(self) -> list[str]:
        """Take everything back; returns what could not be, and where it is."""
        left: list[str] = []
        for message in self.sent:
            try:
                self._remove(message)
            except (NotRunError, WentWrongError, ValueError) as problem:
                left.append(f"Message-ID {message.message_id} with {self.user}: {problem}")
        redis, learning = self.settings.redis, self.settings.learning
        try:
            self._drop_samples()
            if learning.ledger_file.exists():
                ledger = SqliteLedger(learning.ledger_file)
                try:
                    ledger.forget(self.pupil)
                    self._forget_decisions(ledger)
                finally:
                    ledger.close()
        except (SpoolError, LedgerError) as problem:
            left.append(f"{self.pupil} in the ledger or spool: {problem}")
        if redis.url:
            try:
                with Statistics(redis.url, redis.key_prefix) as statistics:
                    statistics.forget(self.pupil)
            except StatisticsError as problem:
                left.append(f"statistics of {self.pupil}: {problem}")
        return left

    def _remove(self, message: Sent) -> None:
        """From Postfix's queue first, lest it is delivered behind our back."""
        found = self._found(message.message_id)
        problem = ""
        if not found and message.queue_id:
            problem = postfix.withdraw(self.settings.doctor, message.queue_id)
            found = self._found(message.message_id)
        for copy in found:
            guid, uid = str(copy["mailbox-guid"]), str(copy["uid"])
            arguments = ("expunge", "-u", self.user, "mailbox-guid", guid, "uid", uid)
            output_of(self.settings.doveadm.command, *arguments)
        if not found and problem:
            raise WentWrongError(f"is still queued as {message.queue_id}: {problem}")

    def _forget_decisions(self, ledger: SqliteLedger) -> None:
        """The daemon writes them a little later, if it decided at all."""
        deadline = time.monotonic() + DECISION_S
        digests = {content_digest(sent.raw) for sent in self.sent if sent.delivered}
        while digests and time.monotonic() < deadline:
            digests = {it for it in digests if not ledger.forget_message(self.user.lower(), it)}
            time.sleep(POLL_S)

    def _drop_samples(self) -> None:
        """What the daemon has not learned yet of ours, ham on delivery included."""
        spool = Spool(self.settings.daemon.spool_dir)
        if not (spool.folder / "new").is_dir():
            return
        digests = {content_digest(sent.raw) for sent in self.sent}
        for entry in spool.entries():
            if entry.label.user == self.pupil or entry.label.digest in digests:
                with suppress(SpoolError):  # learned meanwhile
                    spool.drop(entry.name)


def verdict(name: str, header: str, took: str) -> Finding:
    """What a delivered message says of its way.

    Args:
        name: of the finding; ``live smtp`` for a message that must have met the milters.
        header: of the delivered message.
        took: how long that took.
    """
    values = read_header(header.encode("utf-8", "replace")).values(_STATUS)
    status = values[0].decode("utf-8", "replace") if values else ""
    if not status:
        return failed(
            name,
            f"delivered {took}, without {_STATUS}: classify.sieve did not run",
            "See the findings about Dovecot's plugins and sieve_before.",
        )
    if "score=" not in status:
        return failed(
            name,
            f"delivered {took}: {status}",
            "See the finding about the classify socket, and Dovecot's log.",
        )
    if name == "live smtp" and "milter=none" in status:
        return failed(
            name,
            f"delivered {took}, without a score of the milters: {status}",
            "See the findings about Postfix's milters, the milter socket and Rspamd's report.",
        )
    return ok(name, f"delivered {took}: {status}")


def lesson_learned(
    name: str,
    lesson: Lesson,
    answer: Taught | None,
    counts: Learned | None,
    expected: Learned,
    took: str,
) -> Finding:
    """What the ledger and Redis say of one lesson.

    Args:
        name: of the finding.
        lesson: what was taught.
        answer: the ledger's last word; None if there was none in time.
        counts: what Redis counts now; None without Redis.
        expected: what it must count.
        took: how long that took.
    """
    if answer is None:
        return failed(name, f"not learned as {lesson.value} {took}", _LOG)
    if answer.held is not lesson:
        why = f"{answer.last.outcome.value} {answer.last.detail}".strip()
        return failed(name, f"not learned as {lesson.value}: {why}", _LOG)
    if counts is None:
        return warning(
            name,
            f"learned as {lesson.value} {took}, by Rspamd's word alone",
            "Set [redis] url, so that the counts in Redis can be compared.",
        )
    now = f"Redis counts {counts.spam} spam, {counts.ham} ham"
    if counts != expected:
        return failed(
            name,
            f"{now}, and not {expected.spam} and {expected.ham}",
            "See whether [redis] url and key_prefix are those of Rspamd's classifier, whether "
            "another classifier learns too ([rspamd] classifier), and Rspamd's log.",
        )
    return ok(name, f"learned as {lesson.value} {took}: {now}")


def left_behind(left: list[str]) -> Finding:
    """Whether all test messages and what they taught are gone."""
    name = "live cleanup"
    if left:
        return failed(name, "; ".join(left), "Remove it by hand.")
    return ok(name, "messages, samples and what was learned are removed")


def live(settings: Settings, user: str, *, smtp: str, lmtp: str | None) -> list[Finding]:
    """Send, deliver, learn and unlearn; takes as long as samples settle, twice.

    Args:
        settings: of this host.
        user: a Dovecot user.
        smtp: where mail comes in, ``host:port``.
        lmtp: where Postfix delivers; None to find out.
    """
    if not user or any(character in "*?\0\n" or character.isspace() for character in user):
        return [failed("live user", f"{user!r} names no user", "Name one with --user.")]
    where = lmtp or postfix.lmtp_address(settings.doctor)
    return list(Live(settings, user, smtp, where).run())


def _host_port(address: str, default: int) -> tuple[str, int]:
    """Host and port of ``host:port``, ``[::1]:port`` or ``host``; ValueError for another text."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname or parts.netloc != address:
        raise ValueError(f"{address!r} is not host:port")
    return parts.hostname, parts.port or default


def _transaction(server: smtplib.SMTP, recipient: str, raw: bytes) -> str:
    """One message from nobody, so that nothing comes back; the last answer, whatever it is."""
    server.ehlo_or_helo_if_needed()
    code, text = server.mail("")
    if code < BAD:
        code, text = server.rcpt(recipient)
    if code < BAD:
        code, text = server.data(raw)
    return f"{code} {text.decode('utf-8', 'replace')}"
