"""Asks Rspamd for verdicts and teaches it, over HTTP on TCP or a UNIX socket."""

from __future__ import annotations

import errno
import json
import time
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import urlsplit

from mailhooks.errors import (
    RspamdAway,
    RspamdError,
    RspamdLate,
    RspamdMisconfigured,
    RspamdUnavailable,
)
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.rspamd import exchange, results
from mailhooks.strand import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mailhooks.rspamd.results import BayesOpinion, CheckResult, LearnResult, StatResult

_T = TypeVar("_T")

_OK = 200
# Rspamd formats Redis keys that hold the user into 512 bytes; an address has at most 254.
_USER_LIMIT_BYTES = 255
# Works without configuration, and the answer shows whether it did. Settings-ID does neither.
# Enabling a group leaves on what works with a scan's result (flag explicit_disable in Rspamd's
# plugins). The pass before the queue has done all that; this one comes from a local address and
# has no judgement to hand on: REPLIES_SET would take the message for one that a user has sent, so
# that an answer to it is welcome, and NEURAL_LEARN would learn from half a result.
_AFTERWARDS = (
    *("HISTORY_SAVE", "REPLIES_SET", "MILTER_HEADERS", "NEURAL_LEARN", "RATELIMIT_UPDATE"),
    *("CLICKHOUSE_COLLECT", "ELASTIC_COLLECT", "EXPORT_AWS_S3"),
)
BAYES_ONLY: Final = json.dumps({"groups_enabled": ["statistics"], "symbols_disabled": _AFTERWARDS})
"""Settings of a scan by Bayes alone."""


def _checked_url(url: str) -> str:
    if url.startswith("unix:/"):
        return url
    parts = urlsplit(url)
    extras = parts.username or parts.password or parts.query or parts.fragment
    if parts.scheme != "http" or not parts.hostname or extras or parts.port == 0:
        raise ValueError(f"not http://host:port or unix:/path: {url!r}")
    return url.rstrip("/")


def _checked_user(user: str) -> str:
    # Rspamd strips blanks and a leading "<"; were nothing left, it would use the statistics that
    # all users share, or abort (g_assert in rspamd_protocol_escape_braces, protocol.c).
    sound = user.isprintable() and user == user.strip() and not user.startswith("<")
    if not sound or not 0 < len(user.encode()) <= _USER_LIMIT_BYTES:
        raise ValueError(f"not a user that Rspamd can tell from others: {user!r}")
    return user


def _checked_header(name: str, value: str) -> tuple[str, str]:
    # UnicodeEncodeError is a ValueError, too.
    if not value.encode().strip() or any(char in value for char in "\r\n\0"):
        raise ValueError(f"not a value for Rspamd's {name} header: {value!r}")
    return name, value


class RspamdClient:
    """Talks to one Rspamd, inside ``async with``; no call repeats itself.

    Every call is a strand (:mod:`mailhooks.strand`).

    Args:
        scan_url: the normal worker, ``http://host:port`` or ``unix:/path/to/socket``.
        learn_url: the controller, in the same notation.
        password: the controller's ``enable_password``; None when ``secure_ip`` or a UNIX socket
            lets us in. It goes to ``learn_url`` only.
        classifier: the classifier of users' own statistics, by its ``name`` in Rspamd's
            configuration; empty where there is only one.
        shared_classifier: likewise that of the statistics all users share, which are taught in
            the name of :data:`mailhooks.lesson.SHARED_USER`; empty where there are none.
        timeout_s: seconds for one call, waiting for a free connection included.
        max_connections: connections to each URL at once.
    """

    def __init__(
        self,
        *,
        scan_url: str,
        learn_url: str,
        password: str | None = None,
        classifier: str = "",
        shared_classifier: str = "",
        timeout_s: float = 10.0,
        max_connections: int = 16,
    ) -> None:
        if timeout_s <= 0 or max_connections < 1:
            raise ValueError("timeout_s and max_connections must be positive")
        self._scan_url = _checked_url(scan_url)
        self._learn_url = _checked_url(learn_url)
        self._password = [_checked_header("Password", password)] if password is not None else []
        self._classifiers = {SHARED_USER: shared_classifier}
        self._own_classifier = classifier
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._turns = {url: Turns(max_connections) for url in (self._scan_url, self._learn_url)}
        self._entered = False

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered = False

    async def check(
        self,
        message: bytes,
        *,
        user: str | None,
        settings_id: str | None = None,
        settings: Mapping[str, object] | None = None,
        envelope_from: str | None = None,
        helo: str | None = None,
        ip: str | None = None,
        rcpts: Iterable[str] = (),
        queue_id: str | None = None,
        timeout_s: float | None = None,
    ) -> CheckResult:
        """Scan a message with every rule that the settings leave on.

        Args:
            message: RFC 5322 bytes; any line endings.
            user: whose statistics speak, sent as it is: Rspamd lower-cases ASCII letters only, so
                a name with others must be spelled alike in learns and checks. Without one, Rspamd
                guesses from ``rcpts`` and from headers that the sender of the message wrote.
            settings_id: settings in Rspamd's configuration; one it lacks is silently ignored.
            settings: an object for Rspamd's ``Settings`` header, instead of ``settings_id``.
            envelope_from: the envelope sender; empty for bounces.
            helo: what the SMTP client called itself.
            ip: the SMTP client's address.
            rcpts: the envelope recipients.
            queue_id: the MTA's name for the message, for Rspamd's log.
            timeout_s: seconds for this call instead of the client's.

        Raises:
            RspamdLate: no answer in time.
            RspamdUnavailable: no answer, or none that is a result.
            RspamdMisconfigured: Rspamd does not let us scan.
            ValueError: an argument cannot be a header, or both kinds of settings are given.
        """
        if settings is not None and settings_id is not None:
            raise ValueError("Rspamd ignores settings_id beside settings: give one of them")
        headers = [
            ("Deliver-To", None if user is None else _checked_user(user)),
            ("Settings-ID", settings_id),
            ("Settings", None if settings is None else json.dumps(settings)),
            ("From", "<>" if envelope_from == "" else envelope_from),
            ("Helo", helo),
            ("IP", ip),
            ("Queue-Id", queue_id),
            *(("Rcpt", rcpt) for rcpt in rcpts),
        ]
        checked = [_checked_header(name, value) for name, value in headers if value is not None]
        parse = _when_ok(results.parse_check)
        return await self._ask(
            self._scan_url, "/checkv2", parse, checked, body=message, timeout_s=timeout_s
        )

    async def check_bayes(
        self, message: bytes, *, user: str, timeout_s: float | None = None
    ) -> BayesOpinion | None:
        """Ask for one user's statistics alone; like :meth:`check` with ``bayes_of``.

        Raises:
            RspamdMisconfigured: also when a full scan ran instead of Bayes alone.
        """
        own, _ = await self.check_opinions(message, user=user, timeout_s=timeout_s)
        return own

    async def check_opinions(
        self, message: bytes, *, user: str, timeout_s: float | None = None
    ) -> tuple[BayesOpinion | None, BayesOpinion | None]:
        """Ask for one user's statistics and for the shared ones, in one scan; own first.

        Raises:
            RspamdMisconfigured: also when a full scan ran instead of Bayes alone.
        """
        # Not by way of check(): every delivery asks this.
        headers = [("Deliver-To", _checked_user(user)), ("Settings", BAYES_ONLY)]
        return await self._ask(
            self._scan_url,
            "/checkv2",
            _parse_opinions,
            headers,
            body=message,
            timeout_s=timeout_s,
        )

    async def learn_spam(self, message: bytes, *, user: str, bulk: bool = False) -> LearnResult:
        """Teach one user's statistics that a message is spam, whatever they held before.

        ``bulk`` learns even what the last classifier that had an opinion already judges so by 95 %,
        be it another's. For the rest see :meth:`check`.

        Raises:
            RspamdUnavailable: not learned, try later.
            RspamdMisconfigured: not learned, and trying is of no use until a setting changes.
        """
        return await self._learn("/learnspam", message, user, bulk=bulk)

    async def learn_ham(self, message: bytes, *, user: str, bulk: bool = False) -> LearnResult:
        """Teach that a message is ham; in all else like :meth:`learn_spam`."""
        return await self._learn("/learnham", message, user, bulk=bulk)

    async def learn(
        self, message: bytes, lesson: Lesson, *, user: str, bulk: bool = False
    ) -> LearnResult:
        """Teach that a message is what the lesson says; in all else like :meth:`learn_spam`."""
        teach = self.learn_spam if lesson is Lesson.SPAM else self.learn_ham
        return await teach(message, user=user, bulk=bulk)

    async def stat(self) -> StatResult:
        """Read the controller's counters; errors are those of :meth:`check`."""
        parse = _when_ok(results.parse_stat)
        return await self._ask(self._learn_url, "/stat", parse, self._password)

    async def ping(self) -> None:
        """Return when both URLs answer like Rspamd; errors are those of :meth:`check`."""
        for url in (self._scan_url, self._learn_url):
            await self._ask(url, "/ping", _when_ok(_parse_pong))

    async def _learn(self, path: str, message: bytes, user: str, *, bulk: bool) -> LearnResult:
        kind = [("Learn-Type", "bulk")] if bulk else []
        classifier = self._classifiers.get(user, self._own_classifier)
        if user == SHARED_USER and not classifier:
            raise RspamdMisconfigured("no shared classifier is named in the settings")
        # Without a name every classifier learns.
        which = [_checked_header("Classifier", classifier)] if classifier else []
        headers = [("Deliver-To", _checked_user(user)), *self._password, *kind, *which]
        read = results.classify_learn_answer
        return await self._ask(self._learn_url, path, read, headers, body=message)

    async def _ask(
        self,
        url: str,
        path: str,
        read: Callable[[int, str, bytes], _T],
        headers: Iterable[tuple[str, str]] = (),
        *,
        body: bytes | None = None,
        timeout_s: float | None = None,
    ) -> _T:
        self._see_that_it_is_entered()
        seconds = self._timeout_s if timeout_s is None else timeout_s
        deadline_s, turns = time.monotonic() + seconds, self._turns[url]
        try:
            await turns.take(deadline_s)
            try:
                answer = await exchange.ask(url, path, headers, body, deadline_s)
            finally:
                turns.give()
            return read(*answer)
        except (OSError, RspamdError) as error:
            raise _explained(error, url, seconds) from error

    def _see_that_it_is_entered(self) -> None:
        if not self._entered:
            raise RuntimeError("an RspamdClient works only inside `async with`")


# No listener, no socket, no way there.
_AWAY = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.EHOSTUNREACH, errno.ENETUNREACH})


def _explained(error: OSError | RspamdError, url: str, seconds: float) -> RspamdError:
    """Whatever asking Rspamd raises, as an error that names it."""
    if isinstance(error, TimeoutError):
        return RspamdLate(f"Rspamd at {url} gave no answer in {seconds:g} s")
    if isinstance(error, RspamdError):
        return type(error)(f"Rspamd at {url} {error}")
    kind = RspamdAway if error.errno in _AWAY else RspamdUnavailable
    return kind(f"Rspamd at {url} cannot be asked: {_on_one_line(error)}")


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _when_ok(parse: Callable[[bytes], _T]) -> Callable[[int, str, bytes], _T]:
    def read(status: int, reason: str, body: bytes) -> _T:
        if status == _OK:
            return parse(body)
        if status in results.REFUSED_US:
            raise RspamdMisconfigured(f"refuses us ({status}): check password, port and secure_ip")
        raise RspamdUnavailable(f"answered {status} {reason[:200]}")

    return read


_parse_opinions = _when_ok(results.parse_opinions)


def _parse_pong(body: bytes) -> None:
    if body.strip() != b"pong":
        raise RspamdUnavailable("did not answer a ping like Rspamd")
