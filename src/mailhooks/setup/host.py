"""One host: what mailhooks needs there, from what its servers say of themselves."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from mailhooks import config
from mailhooks.doveconf import generation
from mailhooks.errors import SetupError
from mailhooks.keys import KeyRing, format_keys, load_keys, new_key
from mailhooks.setup import dovecot, postfix, rspamd
from mailhooks.setup.plan import Command, Conflict, File, Folder, Link, Plan
from mailhooks.setup.render import names, render, sieve_scripts

if TYPE_CHECKING:
    from mailhooks.setup.journal import Journal

FOLDER: Final = Path("/etc/mailhooks")
STATE: Final = Path("/var/lib/mailhooks")
USER: Final = "mailhooks"
MILTER_SOCKET: Final = "inet:11336@127.0.0.1"
HEADER_CHECKS: Final = FOLDER / "smtp_header_checks"
HOOKS: Final = FOLDER / "hooks"
SIEVE: Final = FOLDER / "sieve"
UNITS: Final = Path("/etc/systemd/system")
PACKAGED_UNITS: Final = Path("/lib/systemd/system")
SYSTEMD_RUNS: Final = Path("/run/systemd/system")
OLDEST: Final = {"Postfix": (3, 7), "Dovecot": (2, 3), "Rspamd": (3, 4)}
SERVICES: Final = ("mailhooks.service", "mailhooks-milter.service")
FILTER: Final = "mailhooks-lmtp.service"
SOCKETS: Final = ("mailhooks-classify.socket", "mailhooks-learn.socket")


@dataclass(frozen=True, slots=True)
class Host:
    """A host as it is before anything is changed.

    Attributes:
        postfix: Postfix.
        dovecot: Dovecot, without our drop-in.
        rspamd: Rspamd.
        settings: mailhooks' own; the file's, or what the file will say.
        toml: the file's text.
        keys: the keys; the file's, or new ones.
        command: the program that units start.
    """

    postfix: postfix.Postfix
    dovecot: dovecot.Dovecot
    rspamd: rspamd.Rspamd
    settings: config.Settings
    toml: str
    keys: KeyRing
    command: Path


def survey() -> Host:
    """Look at this host.

    Raises:
        SetupError: a server is missing, too old, or its configuration is broken.
        ConfigError: there are settings or keys, and they are wrong.
    """
    mail, store, judge = postfix.survey(), dovecot.survey(), rspamd.survey()
    for name, version in (
        ("Postfix", mail.version),
        ("Dovecot", store.version),
        ("Rspamd", judge.version),
    ):
        oldest = OLDEST[name]
        if _numbers(version) < oldest:
            need = ".".join(map(str, oldest))
            raise SetupError(f"{name} {version or '(unknown)'} is too old, {need} is needed")
    path = FOLDER / "mailhooks.toml"
    if path.exists():
        toml = path.read_text(encoding="utf-8")
        settings = config.load(path)
    else:
        users: list[str | int] = ["vmail", "dovecot"]
        if store.mail_uid and store.mail_uid not in users:
            users.append(int(store.mail_uid) if store.mail_uid.isdecimal() else store.mail_uid)
        toml = render(
            "host/mailhooks.toml",
            {
                "folder": FOLDER,
                "mail_users": users,
                "milter_socket": MILTER_SOCKET,
                "redis_url": rspamd.redis_url(judge.redis),
            },
        )
        settings = config.parse(toml, str(path))
    key_file = settings.score.key_file
    keys = load_keys(key_file) if key_file.exists() else KeyRing((new_key(),))
    command = Path(sys.executable).parent / "mailhooks"
    return Host(mail, store, judge, settings, toml, keys, command)


def plan(host: Host, journal: Journal) -> Plan:
    """What is to be done. Reads files, changes none."""
    made = Plan()
    if not _has_user(USER):
        made.user = USER
    _plan_own(host, made)
    _plan_units(host, made)
    values = _values(host)
    made.hidden.append(values["rspamd"]["report_key"])
    _plan_rspamd(host, journal, values, made)
    _plan_dovecot(host, journal, values, made)
    _plan_postfix(host, journal, values, made)
    if made.is_empty:
        made.checks.clear()
    else:
        changed = {file.path.name for file in made.changed_files()}
        made.commands += reloads(
            host.dovecot.base_dir,
            host.postfix.values["queue_directory"],
            sockets="restart" if changed & set(SOCKETS) else "start",
        )
        if not SYSTEMD_RUNS.is_dir():
            made.notes.append("Restart Rspamd, and start mailhooks: no systemd runs here.")
    return made


def package_units(command: Path) -> dict[str, str]:
    """The units of a package that installs this program, by their names; for stock settings."""
    values = _own_values(config.Settings(), command)
    return {Path(name).name: render(name, values) for name in names("systemd/system")}


def _plan_own(host: Host, made: Plan) -> None:
    daemon, learning = host.settings.daemon, host.settings.learning
    made.folders += [
        Folder(FOLDER),
        Folder(SIEVE),
        Folder(STATE, 0o750, USER, holds_data=True),
        Folder(daemon.spool_dir, 0o700, USER, holds_data=True),
        # Anybody's Sieve may put a call there; only mailhooks may see and take it.
        Folder(daemon.drop_dir, 0o3733, USER, holds_data=True),
    ]
    if learning.ledger_file.parent != STATE:
        made.folders.append(Folder(learning.ledger_file.parent, 0o750, USER, holds_data=True))
    key_file = host.settings.score.key_file
    keys = key_file.read_bytes() if key_file.exists() else format_keys(host.keys).encode()
    # Root reads it for the services, unless there is no systemd to do so.
    owner = "" if shutil.which("systemctl") else USER
    made.files += [
        File(FOLDER / "mailhooks.toml", host.toml.encode(), 0o640, group=USER),
        File(key_file, keys, 0o600, owner=owner, secret=True),
    ]
    for script, content in sieve_scripts():
        made.files.append(File(SIEVE / script, content))
        made.made.append((SIEVE / script).with_suffix(".svbin"))
    if not (_everybody_may_run(host.command) and _everybody_may_run(Path(sys.executable))):
        made.conflicts.append(
            Conflict(
                str(host.command),
                "lies in a folder that other users may not enter, or that systemd hides from "
                "services (/home, /root, /tmp)",
                "Install mailhooks where its services can start it, such as: "
                "python3 -m venv /opt/mailhooks && /opt/mailhooks/bin/pip install mailhooks",
            )
        )


def _plan_units(host: Host, made: Plan) -> None:
    if not shutil.which("systemctl"):
        made.notes.append(
            "There is no systemd: have your supervisor run, as user mailhooks, "
            f"`{host.command} serve` and `{host.command} milter`; see docs/installing.md."
        )
        return
    folders = {}
    for name in names("systemd/system"):
        unit, content = Path(name).name, render(name, _values(host)).encode()
        packaged = PACKAGED_UNITS / unit
        folders[unit] = UNITS
        if packaged.exists() and packaged.read_bytes() == content:
            folders[unit] = PACKAGED_UNITS
        else:
            made.files.append(File(UNITS / unit, content))
    for unit, target in (
        *((name, "multi-user.target") for name in SERVICES),
        *((name, "sockets.target") for name in SOCKETS),
    ):
        wants = Folder(UNITS / f"{target}.wants")
        if wants not in made.folders:
            made.folders.append(wants)
        made.links.append(Link(wants.path / unit, str(folders[unit] / unit)))


def _plan_rspamd(host: Host, journal: Journal, values: dict[str, Any], made: Plan) -> None:
    made.folders.append(Folder(host.rspamd.folder / "local.d"))
    files, conflicts = rspamd.files(host.rspamd, values, journal.is_ours)
    made.files += files
    made.conflicts += conflicts
    made.checks.append(Command(("rspamadm", "configtest")))


def _plan_dovecot(host: Host, journal: Journal, values: dict[str, Any], made: Plan) -> None:
    store = host.dovecot
    hook_dir = Path(values["dovecot"]["hook_dir"])
    made.folders.append(Folder(hook_dir))
    hook = render("dovecot/mailhooks-drop", values).encode()
    _add(journal, made, File(hook_dir / "mailhooks-drop", hook, 0o755))
    fragment = render(f"dovecot-{generation(store.version)}/mailhooks.conf", values)
    text, conflicts = dovecot.fitted(store, fragment)
    made.conflicts += conflicts or dovecot.checked(store, text)
    _add(journal, made, File(store.folder / "conf.d" / dovecot.DROP_IN, text.encode()))
    made.checks.append(Command(("doveconf", "-n")))
    for script, _ in sieve_scripts():
        # With -c: a running Dovecot would answer with the configuration it started with.
        conf = str(store.folder / "dovecot.conf")
        made.checks.append(Command(("sievec", "-c", conf, str(SIEVE / script))))


def _plan_postfix(host: Host, journal: Journal, values: dict[str, Any], made: Plan) -> None:
    mail = host.postfix
    wanted = postfix.parse(render("postfix/milters.cf", values))
    deliverers = postfix.deliverers(mail)
    for name in sorted(deliverers):
        # One delivery, one recipient: a slow verdict delays nobody else's copy.
        wanted[f"{name}_destination_recipient_limit"] = "1"
    if not deliverers:
        made.notes.append(
            "Postfix does not hand mail to Dovecot by LMTP, as far as its *_transport settings "
            "tell, and only such mail meets Sieve and gets a verdict. For system users, if "
            "Dovecot's lmtp listens there: postconf -e "
            "'mailbox_transport = lmtp:unix:private/dovecot-lmtp'; then run this again."
        )
    wanted["smtp_header_checks"] = f"regexp:{HEADER_CHECKS}"
    made.files.append(File(HEADER_CHECKS, render("host/smtp_header_checks", {}).encode()))
    settings, conflicts = postfix.needed(mail, wanted, ours=journal.postfix)
    made.conflicts += conflicts
    content = postfix.edited(mail, postfix.changes(mail, settings))
    made.files.append(File(mail.folder / "main.cf", content))
    made.postfix = {each.name: each.ours for each in settings}
    made.checks.append(Command(("postfix", "check")))


def reloads(
    base_dir: Path, queue_dir: str, *, sockets: str = "start", services: str = "restart"
) -> list[Command]:
    """The commands that have running servers read their configuration again.

    Args:
        base_dir: Dovecot's.
        queue_dir: Postfix's.
        sockets: what to do with ours; ``start`` keeps those that are open as they are.
        services: likewise.
    """
    if SYSTEMD_RUNS.is_dir():
        return [
            Command(("systemctl", "daemon-reload")),
            Command(("systemctl", sockets, *SOCKETS)),
            Command(("systemctl", services, *SERVICES)),
            Command(("systemctl", "try-reload-or-restart", "rspamd", "dovecot", "postfix")),
        ]
    running = (
        (base_dir / "master.pid", "dovecot", ("doveadm", "reload")),
        (Path(queue_dir) / "pid/master.pid", "master", ("postfix", "reload")),
    )
    return [Command(argv) for path, program, argv in running if _runs(path, program)]


def _runs(pid_file: Path, program: str) -> bool:
    """Whether the process of a pid file, which may be an old one, is this program."""
    try:
        pid = pid_file.read_text(encoding="ascii").strip() or "none"
        return Path("/proc", pid, "exe").readlink().name == program
    except OSError:
        return False


def _add(journal: Journal, made: Plan, file: File) -> None:
    """A file that must not take the place of somebody else's."""
    if file.path.exists() and not journal.is_ours(file.path):
        if file.path.read_bytes() == file.content:
            return
        made.conflicts.append(
            Conflict(str(file.path), "is there already", "Move it away, or merge and remove it.")
        )
    made.files.append(file)


def _own_values(settings: config.Settings, command: Path) -> dict[str, Any]:
    """What the templates of units name."""
    values = {name: getattr(settings, name) for name in get_type_hints(type(settings))}
    values["service"] = {"command": command, "config": FOLDER / "mailhooks.toml", "user": USER}
    return values


def _values(host: Host) -> dict[str, Any]:
    """What the templates name."""
    settings = host.settings
    values = _own_values(settings, host.command)
    plugin = host.dovecot.plugin
    socket_dir = os.path.relpath(settings.daemon.socket_dir, host.dovecot.base_dir)
    values["dovecot"] = {
        "socket_dir": socket_dir,
        "hook_dir": plugin.get("sieve_execute_bin_dir", HOOKS),
        "sieve_dir": SIEVE,
        "drop_dir": settings.daemon.drop_dir,
    }
    values["milter"] = {"postfix_socket": _for_postfix(settings.milter.socket)}
    values["rspamd"] = {
        "milter": postfix.rspamd_address(host.rspamd.proxy),
        "password_file": settings.rspamd.password_file,
        "min_learns": settings.redis.min_learns,
        "shared": bool(settings.rspamd.shared_classifier),
        "report_key": host.keys.signing.report_secret(),
    }
    values["redis"] = {"server": host.rspamd.redis or rspamd.DEFAULT_REDIS}
    return values


def _for_postfix(socket: str) -> str:
    """A milter's address as Postfix writes it: ``inet:host:port``, not ``inet:port@host``."""
    kind, _, rest = socket.partition(":")
    port, _, where = rest.partition("@")
    return socket if kind == "unix" else f"inet:{where}:{port}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _everybody_may_run(program: Path) -> bool:
    program = Path(os.path.realpath(program))
    if program.is_relative_to("/home") or program.is_relative_to("/root"):
        return False
    if program.is_relative_to("/tmp"):  # noqa: S108 - a name, nothing is written there
        return False
    try:
        return all(path.stat().st_mode & stat.S_IXOTH for path in (program, *program.parents))
    except OSError:
        return False
