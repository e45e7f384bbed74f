"""Whose mail a call concerns, proved by the credentials of the calling process."""

from __future__ import annotations

import pwd
import re
from typing import TYPE_CHECKING

from mailhooks.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTROL = re.compile(r"[\x00-\x1f]")


def user_of(env: Mapping[str, str], uid: int, mail_uids: frozenset[int]) -> str:
    """The Dovecot user a call speaks for.

    Dovecot connects as the mailbox's system user (SO_PEERCRED tells the uid).
    Where all mailboxes belong to one uid, such as vmail, that uid may name any
    user in ``USER``. Any other process may only name the system user it is.

    Args:
        env: the call's environment.
        uid: of the calling process.
        mail_uids: uids that may name any user; root always may.

    Returns:
        The user in lower case, as Rspamd keeps its statistics.

    Raises:
        ProtocolError: no user is named, or one the caller is not.
    """
    user = env.get("USER", "")
    if not user or _CONTROL.search(user):
        raise ProtocolError("the call names no user (env_USER)")
    if uid not in mail_uids and uid != 0 and user != _system_name(uid):
        raise ProtocolError(f"uid {uid} may not speak for user {user!r}")
    return user.lower()


def _system_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
