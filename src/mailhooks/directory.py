"""Who has an account on this host: the users of its accounts database, or else Dovecot's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mailhooks.doveadm import Doveadm

if TYPE_CHECKING:
    from mailhooks.config import AccountsSettings, DoveadmSettings


async def known_users(accounts: AccountsSettings, doveadm: DoveadmSettings) -> list[str]:
    """Every user of this host, those that are disabled included, as Dovecot spells them.

    Raises:
        AccountsUnavailable: a database is configured and cannot be used.
        DoveadmError: none is, and Dovecot does not say.
    """
    if accounts.database:
        return await asyncio.to_thread(_users_in, accounts.database)
    return await Doveadm(doveadm.command).users()


def source_name(accounts: AccountsSettings, doveadm: DoveadmSettings) -> str:
    """Where the users come from, in a word for messages; holds no password."""
    return "[accounts] database" if accounts.database else f"{doveadm.command[0]} user '*'"


def _users_in(url: str) -> list[str]:
    # Only hosts that have such a database pay for what it takes to read one.
    from mailhooks.accounts import Accounts

    with Accounts(url) as accounts:
        return [user.address for user in accounts.users()]
