"""What a user's processes may do with a file, by its mode; root may do everything.

The doctor runs as root, the daemon and Dovecot's processes do not: that root
could open a file says nothing about them. Access control lists are not read.
"""

from __future__ import annotations

import os
import pwd
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

READ, WRITE, ENTER = 4, 2, 1


def may(uid: int, status: os.stat_result, wanted: int) -> bool:
    """Whether a user has these rights (``READ``, ``WRITE``, ``ENTER``, or-ed) on a file."""
    if uid == 0:
        return True
    if uid == status.st_uid:
        rights = status.st_mode >> 6
    elif status.st_gid in groups_of(uid):
        rights = status.st_mode >> 3
    else:
        rights = status.st_mode
    return rights & wanted == wanted


def may_connect(uid: int, socket: Path) -> bool:
    """Whether a user's processes may connect to a UNIX socket (unix(7))."""
    folders = socket.resolve().parents
    return may(uid, socket.stat(), WRITE) and all(may(uid, f.stat(), ENTER) for f in folders)


def groups_of(uid: int) -> frozenset[int]:
    """A user's groups; none for a number without an account."""
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    return frozenset(os.getgrouplist(account.pw_name, account.pw_gid))


def named(uid: int) -> str:
    """A user's name, or ``uid 64997`` for a number without an account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def all_named(uids: Iterable[int]) -> str:
    """Users' names, for a sentence."""
    return ", ".join(named(uid) for uid in sorted(uids))


def mode_of(status: os.stat_result) -> str:
    """Permission bits as chmod takes them, such as ``0700``."""
    return f"{stat.S_IMODE(status.st_mode):04o}"


def uid_named(name: str) -> int | None:
    """A user's number, given the name or the number itself; None if there is no such user."""
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
