"""Carries out a plan, or takes back all that earlier plans did; whole or not at all."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mailhooks import config
from mailhooks.errors import ConfigError, SetupError
from mailhooks.setup import postfix
from mailhooks.setup.host import FILTER, FOLDER, STATE, reloads
from mailhooks.setup.journal import ABSENT, write_file
from mailhooks.setup.plan import Command, Folder
from mailhooks.setup.run import run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mailhooks.setup.journal import Journal
    from mailhooks.setup.plan import File, Link, Plan

ACCOUNTS: Final = tuple(
    Path("/etc") / name
    for name in (
        *("passwd", "shadow", "group", "gshadow", "subuid", "subgid"),
        *("passwd-", "shadow-", "group-", "gshadow-", "subuid-", "subgid-", ".pwd.lock"),
    )
)
"""What useradd may change, its copies included."""
CHECKS: Final = (
    Command(("rspamadm", "configtest")),
    Command(("doveconf", "-n")),
    Command(("postfix", "check")),
)


def apply(plan: Plan, journal: Journal) -> list[str]:
    """Do it; returns what went wrong after all was in place.

    Raises:
        SetupError: something failed, and everything is as it was before.
    """
    if plan.conflicts:
        raise SetupError("there are conflicts, nothing was changed")
    paths = [each.path for each in (*plan.missing(), *plan.changed_files())]
    journal.begin([*(ACCOUNTS if plan.user else ()), *paths, *plan.made])
    try:
        if plan.user:
            _make_user(plan.user)
        for each in plan.missing():
            if isinstance(each, Folder):
                _make_folder(each)
            else:
                _make_link(each)
        for file in plan.changed_files():
            _write(file)
        for command in plan.checks:
            run(*command.argv)
    except BaseException as error:
        journal.roll_back()
        if isinstance(error, SetupError | OSError | KeyError):
            raise SetupError(f"{error}\nEverything is as it was before.") from error
        raise
    journal.user = plan.user or journal.user
    journal.postfix = plan.postfix
    journal.finish()
    return _run_all(plan.commands)


def recover(journal: Journal) -> bool:
    """Undo a setup that was cut short; True if there was one."""
    if not journal.begun:
        return False
    journal.roll_back()
    return True


def remove(journal: Journal) -> list[str]:
    """Take everything back; returns what the administrator should know.

    Raises:
        SetupError: a server's tool fails; run again, it goes on where it stopped.
    """
    base_dir = Path(run("doveconf", "-h", "base_dir").strip())
    queue_dir = run("postconf", "-h", "queue_directory").strip()
    commands = reloads(base_dir, queue_dir, sockets="stop", services="stop")
    # Ours are stopped while systemd still knows them; so is what an administrator has enabled.
    stops = [command for command in commands if "stop" in command.argv]
    if stops:
        stops.append(Command(("systemctl", "disable", "--now", FILTER)))
    notes = _filtered() + _run_all(stops)
    commands = [command for command in commands if command not in stops]
    folders: list[Path] = []
    for name in sorted(journal.origin, reverse=True):
        path = Path(name)
        if journal.origin[name].kind == "folder" or journal.left[name].kind == "folder":
            folders.append(path)
        elif path not in ACCOUNTS:
            notes += _take_back(path, journal)
    for path in folders:
        before, left = journal.origin[str(path)], journal.left[str(path)]
        if before.kind == "folder" and left.uid != before.uid:
            _give(path, before.uid, before.gid)
        if not journal.put_back(path, before):
            notes += _keep_folder(path, journal)
    _remove_user(journal)
    notes += _run_all([*CHECKS, *commands])
    journal.forget()
    return notes


def _filtered() -> list[str]:
    """What to know if Postfix hands its mail to our delivery filter, which will be gone."""
    try:
        lmtp = config.load(FOLDER / "mailhooks.toml").lmtp
    except ConfigError:
        return []
    values = postfix.survey().values
    return [
        f"{name} = {values[name]} still leads to `mailhooks lmtp`, which runs no more: mail waits "
        f"in Postfix's queue until you name the server behind it, {lmtp.next_hop}."
        for name in postfix.TRANSPORTS
        if values.get(name, "").endswith(lmtp.listen)
    ]


def _take_back(path: Path, journal: Journal) -> list[str]:
    before, left, now = (
        journal.origin[str(path)],
        journal.left[str(path)],
        journal.look(path),
    )
    if now in (left, before) or path.suffix == ".svbin":  # Dovecot may compile it anew
        journal.put_back(path, before)
        return []
    if path.name == "main.cf":
        current = postfix.survey()
        status = path.stat()
        content = postfix.edited(current, *postfix.without_ours(current, journal.postfix))
        write_file(path, content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        return [f"{path} was changed since: only our settings were taken out of it."]
    if now == ABSENT:
        return []
    if before == ABSENT:
        kept = journal.keep_aside(path)
        return [f"{path} was changed since: it is kept as {kept}."]
    return [f"{path} was changed since: it stays as it is."]


def _keep_folder(path: Path, journal: Journal) -> list[str]:
    if path.is_relative_to("/etc"):
        return [f"{path} holds files that are not ours: it stays."]
    if journal.user:
        # The number of a user who is no more may become somebody else's.
        _give(path, 0, 0)
        path.chmod(0o700)
    return [f"{path} holds what mailhooks kept for its users: it stays, remove it yourself."]


def _remove_user(journal: Journal) -> None:
    accounts = [path for path in ACCOUNTS if str(path) in journal.origin]
    if all(journal.look(path) == journal.left[str(path)] for path in accounts):
        for path in accounts:
            journal.put_back(path, journal.origin[str(path)])
    elif journal.user:
        try:
            pwd.getpwnam(journal.user)
        except KeyError:
            return
        run("userdel", journal.user)


def _make_user(name: str) -> None:
    run(
        *("useradd", "--system", "--user-group", "--no-create-home"),
        *("--home-dir", str(STATE), "--shell", "/usr/sbin/nologin", name),
    )


def _make_folder(folder: Folder) -> None:
    is_new = not folder.path.exists()
    folder.path.mkdir(parents=True, exist_ok=True)
    if folder.owner:
        account = pwd.getpwnam(folder.owner)
        _give(folder.path, account.pw_uid, account.pw_gid)
    if is_new or folder.owner:
        folder.path.chmod(folder.mode)


def _give(folder: Path, uid: int, gid: int) -> None:
    for where, folders, files, descriptor in os.fwalk(folder, follow_symlinks=False):
        del where
        for name in (*folders, *files):
            os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
    os.chown(folder, uid, gid)


def _make_link(link: Link) -> None:
    link.path.unlink(missing_ok=True)
    link.path.symlink_to(link.target)


def _write(file: File) -> None:
    mode, uid, gid = file.mode, 0, 0
    if file.path.exists():
        status = file.path.stat()
        mode = stat.S_IMODE(status.st_mode) if mode is None else mode
        uid, gid = status.st_uid, status.st_gid
    write_file(file.path, file.content, 0o600, uid, gid)
    if file.owner or file.group:
        shutil.chown(file.path, file.owner or None, file.group or None)  # type: ignore[arg-type]
    file.path.chmod(0o644 if mode is None else mode)


def _run_all(commands: Iterable[Command]) -> list[str]:
    problems = []
    for command in commands:
        try:
            run(*command.argv)
        except SetupError as error:
            problems.append(str(error))
    return problems
