"""Settings: one TOML file into frozen, typed sections.

``load(path)`` and ``parse(text)`` return :class:`Settings` or raise
:class:`~mailhooks.errors.ConfigError`, which lists every problem at once as
``section.key: reason``. A missing key means its default; an unknown one is an
error, since a misspelt setting that does nothing is worse than none.

Each part of mailhooks is handed its own section, never the whole.
"""

from __future__ import annotations

import difflib
import math
import pwd
import tomllib
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import msgspec

from mailhooks.acquaintance import MOST_SPAM
from mailhooks.errors import ConfigError
from mailhooks.lesson import (
    DEFAULT_SHARED_PREFIXES,
    USUAL_NAMES,
    MailboxRoles,
    Role,
    shared_pattern,
)
from mailhooks.systemd import secret_file
from mailhooks.training import AGREEING, SETTLE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_PORT = 65535
DEFAULT_PATH = Path("/etc/mailhooks/mailhooks.toml")


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[daemon]``: sockets, spool and limits of ``mailhooks serve``.

    Attributes:
        socket_dir: folder of the sockets that Dovecot's Sieve talks to.
        spool_dir: folder in which samples wait to be learned.
        drop_dir: folder in which calls wait that found the daemon away.
        mail_users: users (names or numbers) whose processes may speak for any
            Dovecot user; any other process speaks for the system user it runs as.
        deadline_s: seconds within which a delivery gets its verdict. Well below
            Dovecot's ``sieve_execute_exec_timeout``, 10 s by default.
        max_message_bytes: larger messages are neither classified nor learned.
        metrics: where metrics and health are served over HTTP, ``host:port`` or
            ``unix:/path``; empty for nowhere.
    """

    socket_dir: Path = Path("/run/mailhooks")
    spool_dir: Path = Path("/var/spool/mailhooks")
    drop_dir: Path = Path("/var/spool/mailhooks-drop")
    mail_users: tuple[str | int, ...] = ("vmail", "dovecot")
    deadline_s: float = 5.0
    max_message_bytes: int = 64 * 1024 * 1024
    metrics: str = ""


class RspamdSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[rspamd]``: where Rspamd listens.

    Attributes:
        scan_url: the normal worker, asked for verdicts.
        learn_url: the controller, told what to learn.
        password: the controller's ``enable_password``; empty when ``secure_ip``
            lets this host in without.
        classifier: ``name`` of the classifier of each user's own statistics;
            empty if Rspamd has only one.
        shared_classifier: ``name`` of the one that all users share; empty if
            there is none.
        max_connections: scans and learns at once, each.
        learn_timeout_s: seconds one learn may take.
    """

    scan_url: str = "http://127.0.0.1:11333"
    learn_url: str = "http://127.0.0.1:11334"
    password: str = ""
    classifier: str = ""
    shared_classifier: str = ""
    password_file: str = ""
    max_connections: int = 16
    learn_timeout_s: float = 30.0


class MilterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[milter]``: the socket of ``mailhooks milter``, in libmilter's notation.

    Attributes:
        socket: ``unix:/path`` or ``inet:port@host``.
        timeout_s: seconds libmilter waits for Postfix on an open connection.
    """

    socket: str = "unix:/run/mailhooks/milter.sock"
    timeout_s: int = 600


class LmtpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[lmtp]``: ``mailhooks lmtp``, the delivery filter for hosts without Sieve extprograms.

    Attributes:
        listen: where Postfix delivers to, ``unix:/path`` or ``host:port``.
        next_hop: the LMTP server that stores mail, likewise.
        deadline_s: seconds within which a message has its verdicts, or goes on
            without; a little more than ``daemon.deadline_s``.
        next_hop_timeout_s: seconds the next hop may take for one answer. Less
            than Postfix's ``lmtp_data_done_timeout``, 600 s by default.
        username: whether a mailbox's user is named by the whole ``address`` or by
            its ``local-part``; the same as where mail is learned.
        recipient_delimiter: each of these characters begins an extension, which
            is no part of the user's name; empty for none.
        junk_detail: the extension that junk is delivered to, such as ``Junk`` for
            ``user+Junk@example.org``; empty to deliver all mail as addressed.
    """

    listen: str = "unix:/run/mailhooks/lmtp.sock"
    next_hop: str = "unix:/run/dovecot/lmtp"
    deadline_s: float = 6.0
    next_hop_timeout_s: float = 300.0
    username: Literal["address", "local-part"] = "address"
    recipient_delimiter: str = "+"
    junk_detail: str = ""


class ScoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[score]``: how the milter score is carried.

    Attributes:
        key_file: lines ``key-id secret``; the first signs, all verify.
        bind_sender: whether the envelope sender at delivery must be that of the
            milter pass; false where Postfix rewrites senders in between (SRS by
            sender_canonical_maps, masquerade_domains).
        max_age_s: seconds after which a carried score is no longer believed;
            the default is Postfix's maximal_queue_lifetime.
        received_depth: how many of the topmost Received lines may hold the
            queue id the score was signed for: Dovecot's own and the MX's, and
            one more for each relay between them.
    """

    key_file: Path = Path("/etc/mailhooks/keys")
    bind_sender: bool = True
    max_age_s: int = 5 * 86400
    received_depth: int = 2


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[policy]``: from scores to a verdict.

    Attributes:
        threshold: the sum of milter score and Bayes score from which mail goes
            to Junk; the default is Rspamd's own add_header level.
        thresholds: others, by user (``anna@example.org``) or by domain
            (``example.org``); a user's own comes before the domain's.
        honour_action: whether Rspamd's own "add header" or "rewrite subject" in
            the milter pass is enough for Junk, whatever Bayes says.
        full_scan: whether mail without a verified milter score is scanned in
            full at delivery.
        full_scan_timeout_s: seconds after which such a scan is given up.
        acquaintance_points: the most points that what a user said of a message's list and
            sender before adds to the sum; 0 to leave it out.
    """

    threshold: float = 6.0
    thresholds: dict[str, float] = {}
    honour_action: bool = False
    full_scan: bool = True
    full_scan_timeout_s: float = 4.0
    acquaintance_points: float = MOST_SPAM

    def threshold_of(self, user: str) -> float:
        """The threshold of a Dovecot user, given in lower case."""
        if not self.thresholds:
            return self.threshold
        domain = user.rpartition("@")[2]
        return self.thresholds.get(user, self.thresholds.get(domain, self.threshold))


class LearningSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[learning]``: what is learned, and how gently.

    Attributes:
        learn_on_delivery: which deliveries train by themselves, see
            :mod:`mailhooks.training`: ``balanced`` ham and spam that Bayes is not sure of
            as long as neither class is far ahead, and more of what nearly went to Junk,
            ``all`` every message delivered to INBOX as ham, ``confident`` those that
            nothing speaks against, ``off`` none.
        spam_on_delivery: whether ``balanced`` trains spam too, which the milter score
            alone condemns.
        delivery_settle_s: seconds a delivered message is left alone before it
            trains; a move within them wins.
        shared_agreement: users who must have taught a message the same before the
            statistics that all users share learn it; 0 for never.
        settle_s: seconds a sample waits, so that the last of several moves wins.
        connections: learns at once.
        retry_first_s: seconds before the first retry after a temporary failure.
        retry_cap_s: the longest wait between two retries.
        rescan_s: seconds after which samples that another process put into the
            spool, or took out of it, are noticed.
        ledger_file: SQLite file that notes what each user was taught and what
            deliveries decided.
        keep_days: days after which the ledger forgets a message, and a decision.
    """

    learn_on_delivery: Literal["off", "confident", "all", "balanced"] = "balanced"
    spam_on_delivery: bool = False
    delivery_settle_s: float = SETTLE_S
    shared_agreement: int = AGREEING
    settle_s: float = 30.0
    connections: int = 8
    retry_first_s: float = 1.0
    retry_cap_s: float = 300.0
    rescan_s: float = 5.0
    ledger_file: Path = Path("/var/lib/mailhooks/ledger.sqlite")
    keep_days: float = 400.0


class MailboxSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[mailboxes]``: which mailboxes are Junk, Trash, Sent and Drafts, and whose.

    Dovecot's part of the configuration holds the same names: render it again
    after a change here.

    Attributes:
        usual_names: whether the names that common clients use count, in more
            than twenty languages.
        junk: further names of Junk mailboxes. All that lies below one is Junk
            too, upper and lower case are the same, and ``INBOX.`` in front is ignored.
        trash: further names of Trash mailboxes; what goes there teaches nothing.
        sent: further names of Sent mailboxes; what lies there teaches nothing.
        drafts: further names of Drafts mailboxes; what lies there teaches nothing.
        separators: what parts a mailbox from its sub-folder.
        shared: whose statistics learn from a shared mailbox: ``actor``, who
            moves or marks the message, or ``owner``, to whom the mailbox belongs
            in which it then lies. ``owner`` needs one of ``daemon.mail_users``
            to own the processes, since only such a process may speak for others.
        shared_prefixes: prefixes of shared namespaces as in Dovecot, with ``%u``
            for the owner, or ``%n`` and ``%d`` for the parts of the name; one
            without any is a public namespace, which nobody owns.
        keywords: whether junk keywords that clients set teach something. Without them
            Dovecot runs no script when a flag changes, so reading mail costs nothing.
    """

    usual_names: bool = True
    junk: tuple[str, ...] = ()
    trash: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    drafts: tuple[str, ...] = ()
    separators: Literal["/.", "/", "."] = "/."
    shared: Literal["actor", "owner"] = "actor"
    shared_prefixes: tuple[str, ...] = DEFAULT_SHARED_PREFIXES
    keywords: bool = True

    def roles(self) -> MailboxRoles:
        """What decides about a mailbox by its name."""
        names = {
            Role.JUNK: self.junk,
            Role.TRASH: self.trash,
            Role.SENT: self.sent,
            Role.DRAFTS: self.drafts,
        }
        if self.usual_names:
            names = {role: further + USUAL_NAMES[role] for role, further in names.items()}
        return MailboxRoles(
            names,
            shared_prefixes=self.shared_prefixes,
            separators=self.separators,
        )


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[redis]``: where Rspamd keeps each user's statistics.

    Attributes:
        url: Rspamd's Redis, as ``redis://``, ``rediss://`` or ``unix://``; empty
            to take Rspamd's word for what it has learned.
        key_prefix: what the keys of statistics begin with, ``RS`` unless
            Rspamd's classifier was given another prefix.
        shared_key: the key of the statistics that all users share, which is the
            ``prefix`` of that classifier.
        min_learns: messages of each class that Rspamd's classifier wants before
            it speaks; Rspamd tells nobody, so repeat its setting here.
    """

    url: str = "redis://127.0.0.1:6379/0"
    key_prefix: str = "RS"
    shared_key: str = "SHARED"
    min_learns: int = 200


class DoveadmSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[doveadm]``: how ``mailhooks retrain`` and ``reconcile`` read live accounts.

    Attributes:
        command: the program with its first arguments.
        ham_mailboxes: mailboxes whose read mail ``retrain`` learns as ham, with
            all that lies below them; upper and lower case are the same, and
            ``INBOX.`` in front is ignored.
    """

    command: tuple[str, ...] = ("doveadm",)
    ham_mailboxes: tuple[str, ...] = ("INBOX", "Archive", "Archives")


class AccountsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[accounts]``: the host's domains, users and aliases.

    Attributes:
        database: URL of the SQL database that ``mailcfg`` keeps; empty for none.
    """

    database: str = ""


class DoctorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[doctor]``: how ``mailhooks doctor`` reads the servers' configuration.

    Attributes:
        postconf: the program with its first arguments.
        doveconf: likewise.
        rspamadm: likewise.
    """

    postconf: tuple[str, ...] = ("postconf",)
    doveconf: tuple[str, ...] = ("doveconf",)
    rspamadm: tuple[str, ...] = ("rspamadm",)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file, one attribute a section."""

    daemon: DaemonSettings = DaemonSettings()
    rspamd: RspamdSettings = RspamdSettings()
    milter: MilterSettings = MilterSettings()
    lmtp: LmtpSettings = LmtpSettings()
    score: ScoreSettings = ScoreSettings()
    policy: PolicySettings = PolicySettings()
    learning: LearningSettings = LearningSettings()
    mailboxes: MailboxSettings = MailboxSettings()
    redis: RedisSettings = RedisSettings()
    doveadm: DoveadmSettings = DoveadmSettings()
    accounts: AccountsSettings = AccountsSettings()
    doctor: DoctorSettings = DoctorSettings()


def load(path: Path) -> Settings:
    """Read settings from a file.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or holds wrong keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError([f"cannot be read: {reason}"], str(path)) from error
    return _with_password(parse(text, str(path)), str(path))


def _with_password(settings: Settings, path: str) -> Settings:
    """The settings with the password out of the file they name."""
    file = settings.rspamd.password_file
    if not file:
        return settings
    if settings.rspamd.password:
        raise ConfigError(["rspamd.password_file: rspamd.password is set too; keep one"], path)
    source = secret_file(Path(file))
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(
            [f"rspamd.password_file: {source} cannot be read: {reason}"], path
        ) from error
    if not lines or not lines[0].strip():
        raise ConfigError([f"rspamd.password_file: the first line of {source} is empty"], path)
    rspamd = msgspec.structs.replace(settings.rspamd, password=lines[0].strip())
    return msgspec.structs.replace(settings, rspamd=rspamd)


def parse(text: str, path: str = "") -> Settings:
    """Turn TOML text into settings.

    Args:
        text: the file's contents.
        path: named in front of every problem.

    Raises:
        ConfigError: the text is no TOML, or holds wrong keys; lists all of them.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"not TOML: {error}"], path) from error
    problems: list[str] = []
    sections: dict[str, Any] = {}
    section_types = get_type_hints(Settings)
    for name, content in tree.items():
        if name not in section_types:
            problems.append(f"{name}: no such section{_did_you_mean(name, section_types)}")
        elif not isinstance(content, dict):
            problems.append(f"{name}: is a section, write it as [{name}]")
        else:
            sections[name] = _section(name, content, section_types[name], problems)
    if problems:
        raise ConfigError(problems, path)
    settings = Settings(**sections)
    if settings.lmtp.junk_detail and not settings.lmtp.recipient_delimiter:
        raise ConfigError(["lmtp.junk_detail: needs lmtp.recipient_delimiter"], path)
    return settings


def _section(
    name: str, content: Mapping[str, Any], kind: type[msgspec.Struct], problems: list[str]
) -> msgspec.Struct | None:
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    before = len(problems)
    for key, raw in content.items():
        where = f"{name}.{key}"
        if key not in types:
            problems.append(f"{where}: no such setting{_did_you_mean(key, types)}")
            continue
        try:
            value = msgspec.convert(raw, types[key], dec_hook=_decode)
        except msgspec.ValidationError as error:
            problems.append(f"{where}: {_plain(error)}")
            continue
        complaint = CHECKS[where](value) if where in CHECKS else None
        if complaint:
            problems.append(f"{where}: {complaint}")
        values[key] = value
    return kind(**values) if len(problems) == before else None


def _decode(kind: type, raw: object) -> object:
    if kind is Path:
        if isinstance(raw, str):
            return Path(raw)
        raise ValueError("Expected `str`")
    raise NotImplementedError


def _plain(error: msgspec.ValidationError) -> str:
    """Msgspec's wording without Python's names for types."""
    text = str(error).split(" - at ", maxsplit=1)[0]
    for python, plain in (
        ("`str`", "text in quotes"),
        ("`int | float`", "a number"),
        ("`int`", "a whole number"),
        ("`float`", "a number"),
        ("`bool`", "true or false"),
        ("`array`", "a list"),
        ("`object`", "a table"),
    ):
        text = text.replace(python, plain)
    return text[:1].lower() + text[1:]


def _did_you_mean(word: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def _positive(value: float) -> str | None:
    return None if math.isfinite(value) and value > 0 else "must be a number above 0"


def _thresholds(value: dict[str, float]) -> str | None:
    for name, threshold in value.items():
        if not name or name != name.strip().lower():
            return f"{name!r} must be a user or a domain in lower case"
        if not math.isfinite(threshold):
            return f"{name}: must be a finite number"
    return None


def _not_negative(value: float) -> str | None:
    return None if math.isfinite(value) and value >= 0 else "must be 0 or more"


def _finite(value: float) -> str | None:
    return None if math.isfinite(value) else "must be a finite number"


def _deadline(value: float) -> str | None:
    # Dovecot's sieve_execute_exec_timeout is 10 s, and an `execute :output`
    # that reaches it makes the lmtp process panic: stay well below.
    return None if 0 < value <= 8 else "must be above 0 and at most 8 (Dovecot gives up at 10 s)"  # noqa: PLR2004


def _absolute(value: Path) -> str | None:
    return None if value.is_absolute() else "must be an absolute path"


def _absolute_or_empty(value: str) -> str | None:
    return _absolute(Path(value)) if value else None


def _url(value: str) -> str | None:
    if value.startswith("unix:/"):
        return None
    try:
        parts = urllib.parse.urlsplit(value)
        if parts.scheme == "http" and parts.hostname and parts.port != 0:
            return None
    except ValueError:  # urlsplit's word for a port that is none
        pass
    return f"must be http://host:port or unix:/path, not {value!r}"


def listen_address(value: str) -> Path | tuple[str, int]:
    """Where to listen: the path of ``unix:/path``, or host and port of ``host:port``.

    An IPv6 address stands in brackets, as in a URL.

    Raises:
        ValueError: the text is neither.
    """
    if value.startswith("unix:/"):
        return Path(value.removeprefix("unix:"))
    parts = urllib.parse.urlsplit(f"//{value}")
    # urlsplit takes more for a host with a port than anybody should write here.
    if parts.netloc != value or "@" in value or not parts.hostname or not parts.port:
        raise ValueError(f"{value!r} is neither host:port nor unix:/path")
    return parts.hostname, parts.port


def _address(value: str) -> str | None:
    try:
        listen_address(value)
    except ValueError:
        return f"must be host:port or unix:/path, not {value!r}"
    return None


def _delimiters(value: str) -> str | None:
    if all(" " < each <= "~" and each not in '"@<>' for each in value):
        return None
    return 'must be printable characters other than " @ < >'


def _junk_detail(value: str) -> str | None:
    if all(" " <= each != "\x7f" and each not in '"\\<>' for each in value):
        return None
    return 'must be printable characters other than " \\ < >'


def _metrics(value: str) -> str | None:
    try:
        if value:
            listen_address(value)
    except ValueError:
        return f"must be host:port, unix:/path or empty, not {value!r}"
    return None


def _redis_url(value: str) -> str | None:
    if not value or value.startswith(("redis://", "rediss://", "unix:///")):
        return None
    return f"must start with redis://, rediss:// or unix:///, not {value!r}"


def _database_url(value: str) -> str | None:
    kinds = "sqlite:///", "postgresql://", "mariadb://", "mysql://"
    if not value or value.startswith(kinds):
        return None
    # Not repeated: it may hold a password.
    return "must be sqlite:////path, postgresql://..., mariadb://... or empty"


def _not_empty(value: str | tuple[str, ...]) -> str | None:
    return None if value and all(value) else "must not be empty"


def _milter_socket(value: str) -> str | None:
    kind, _, rest = value.partition(":")
    if kind == "unix" and rest.startswith("/"):
        return None
    port, _, host = rest.partition("@")
    if kind in ("inet", "inet6") and port.isdecimal() and 0 < int(port) <= MAX_PORT and host:
        return None
    return f"must be unix:/path or inet:port@host, not {value!r}"


def _mail_users(value: tuple[str | int, ...]) -> str | None:
    # A user who does not exist here is no error: the default names two.
    return None if all(user != "" for user in value) else "must not hold an empty name"


def _mailbox_names(value: tuple[str, ...]) -> str | None:
    for name in value:
        if not name.strip("/. ") or not name.isprintable() or name[0] in "/." or name[-1] in "/.":
            return f"{name!r} is no name of a mailbox"
        if name.casefold() == "inbox":
            return "INBOX cannot be one of these"
    return None


def _shared_prefixes(value: tuple[str, ...]) -> str | None:
    for prefix in value:
        try:
            shared_pattern(prefix)
        except ValueError as error:
            return str(error)
    return None


CHECKS: dict[str, Callable[[Any], str | None]] = {
    "daemon.socket_dir": _absolute,
    "daemon.spool_dir": _absolute,
    "daemon.drop_dir": _absolute,
    "daemon.mail_users": _mail_users,
    "daemon.deadline_s": _deadline,
    "daemon.max_message_bytes": _positive,
    "daemon.metrics": _metrics,
    "rspamd.scan_url": _url,
    "rspamd.learn_url": _url,
    "rspamd.password_file": _absolute_or_empty,
    "rspamd.max_connections": _positive,
    "rspamd.learn_timeout_s": _positive,
    "milter.socket": _milter_socket,
    "milter.timeout_s": _positive,
    "lmtp.listen": _address,
    "lmtp.next_hop": _address,
    "lmtp.deadline_s": _positive,
    "lmtp.next_hop_timeout_s": _positive,
    "lmtp.recipient_delimiter": _delimiters,
    "lmtp.junk_detail": _junk_detail,
    "score.key_file": _absolute,
    "score.max_age_s": _positive,
    "score.received_depth": _positive,
    "policy.threshold": _finite,
    "policy.thresholds": _thresholds,
    "policy.full_scan_timeout_s": _positive,
    "policy.acquaintance_points": _not_negative,
    "learning.settle_s": _not_negative,
    "learning.delivery_settle_s": _not_negative,
    "learning.shared_agreement": _not_negative,
    "learning.connections": _positive,
    "learning.retry_first_s": _positive,
    "learning.retry_cap_s": _positive,
    "learning.rescan_s": _positive,
    "learning.ledger_file": _absolute,
    "learning.keep_days": _positive,
    "redis.url": _redis_url,
    "redis.key_prefix": _not_empty,
    "redis.shared_key": _not_empty,
    "redis.min_learns": _not_negative,
    "accounts.database": _database_url,
    "doctor.postconf": _not_empty,
    "doctor.doveconf": _not_empty,
    "doctor.rspamadm": _not_empty,
    "doveadm.command": _not_empty,
    "doveadm.ham_mailboxes": _not_empty,
    "mailboxes.junk": _mailbox_names,
    "mailboxes.trash": _mailbox_names,
    "mailboxes.sent": _mailbox_names,
    "mailboxes.drafts": _mailbox_names,
    "mailboxes.shared_prefixes": _shared_prefixes,
}


def uids_of(users: tuple[str | int, ...]) -> frozenset[int]:
    """The numeric ids of users given by name or number; unknown names are left out."""
    uids = set()
    for user in users:
        if isinstance(user, int):
            uids.add(user)
            continue
        try:
            uids.add(pwd.getpwnam(user).pw_uid)
        except KeyError:
            continue
    return frozenset(uids)
