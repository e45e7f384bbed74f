"""Whether it is known who has an account here."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from mailhooks.directory import known_users, source_name
from mailhooks.doctor.check import Finding, failed, ok, warning
from mailhooks.errors import AccountsError, DoveadmError, StatisticsError
from mailhooks.statistics import Statistics

if TYPE_CHECKING:
    from mailhooks.config import AccountsSettings, DoveadmSettings, RedisSettings

TIMEOUT_S = 5.0


def users(
    accounts: AccountsSettings, doveadm: DoveadmSettings, redis: RedisSettings
) -> list[Finding]:
    """Whether all users can be listed, and whether there are statistics of nobody's."""
    name, source = "users", source_name(accounts, doveadm)
    try:
        known = asyncio.run(known_users(accounts, doveadm))
    except AccountsError as problem:
        return [
            failed(
                name,
                str(problem),
                "Correct [accounts] database, or make the database with `mailcfg initdb`.",
            )
        ]
    except DoveadmError as problem:
        return [
            warning(
                name,
                f"cannot be listed: {problem}",
                "`mailhooks retrain --all` needs to know them: run the doctor as root, set "
                "[doveadm] command, Dovecot's iterate_query, or [accounts] database.",
            )
        ]
    count = "1 user" if len(known) == 1 else f"{len(known)} users"
    text = f"{count} by {source}"
    if redis.url:
        # Another check says what is wrong with Redis.
        with (
            suppress(StatisticsError),
            Statistics(redis.url, redis.key_prefix, timeout_s=TIMEOUT_S) as statistics,
        ):
            gone = set(statistics.users()) - {user.lower() for user in known}
            if gone:
                text += (
                    f"; statistics of {len(gone)} who are none of them, such as {min(gone)}: "
                    "see `mailhooks forget`"
                )
    return [ok(name, text)]
