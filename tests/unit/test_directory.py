from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailhooks.accounts import Accounts, no_password
from mailhooks.config import AccountsSettings, DoveadmSettings, RedisSettings
from mailhooks.directory import known_users
from mailhooks.doctor.check import Level
from mailhooks.doctor.users import users
from mailhooks.errors import AccountsUnavailable, DoveadmError

if TYPE_CHECKING:
    from pathlib import Path

NO_REDIS = RedisSettings(url="")


@pytest.fixture
def database(tmp_path: Path) -> AccountsSettings:
    """Two users, one of them disabled."""
    url = f"sqlite:///{tmp_path}/accounts.sqlite"
    with Accounts(url) as accounts:
        accounts.migrate()
        accounts.add_domain("example.org")
        accounts.add_user("bert@example.org", no_password())
        accounts.add_user("anna@example.org", no_password(), enabled=False)
    return AccountsSettings(database=url)


@pytest.fixture
def doveadm(tmp_path: Path) -> DoveadmSettings:
    """A program that lists two users, as `doveadm user '*'` does."""
    program = tmp_path / "doveadm"
    program.write_text('#!/bin/sh\n[ "$*" = "user *" ] && printf "Carla\\nanna@example.org\\n"\n')
    program.chmod(0o755)
    return DoveadmSettings(command=(str(program),))


async def test_users_are_those_of_the_database_if_there_is_one(
    database: AccountsSettings, doveadm: DoveadmSettings
) -> None:
    """Disabled ones too, since their mail is still there; Dovecot is not asked."""
    assert await known_users(database, doveadm) == ["anna@example.org", "bert@example.org"]


async def test_users_are_else_those_dovecot_lists(doveadm: DoveadmSettings) -> None:
    """As Dovecot spells them."""
    assert await known_users(AccountsSettings(), doveadm) == ["Carla", "anna@example.org"]


async def test_a_database_that_cannot_be_used_is_not_passed_over(
    tmp_path: Path, doveadm: DoveadmSettings
) -> None:
    """Dovecot's list is no substitute: somebody said which one counts."""
    with pytest.raises(AccountsUnavailable, match="initdb"):
        await known_users(AccountsSettings(database=f"sqlite:///{tmp_path}/none"), doveadm)
    with pytest.raises(DoveadmError):
        await known_users(AccountsSettings(), DoveadmSettings(command=("/no/such/doveadm",)))


def test_the_doctor_says_how_many_users_there_are_and_by_whom(
    database: AccountsSettings, doveadm: DoveadmSettings
) -> None:
    """Nothing to do, wherever they come from."""
    for accounts, text in (
        (database, "2 users by [accounts] database"),
        (AccountsSettings(), f"2 users by {doveadm.command[0]} user '*'"),
    ):
        (finding,) = users(accounts, doveadm, NO_REDIS)
        assert (finding.level, finding.text) == (Level.OK, text)


def test_the_doctor_finds_users_that_cannot_be_listed(tmp_path: Path) -> None:
    """A database that is configured and away is an error, no doveadm a warning."""
    missing = DoveadmSettings(command=("/no/such/doveadm",))
    (finding,) = users(AccountsSettings(), missing, NO_REDIS)
    assert finding.level is Level.WARNING
    assert "/no/such/doveadm" in finding.text
    away = AccountsSettings(database=f"sqlite:///{tmp_path}/none")
    (finding,) = users(away, missing, NO_REDIS)
    assert finding.level is Level.FAILED
    assert "initdb" in finding.advice
