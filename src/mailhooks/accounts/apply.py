"""Bringing a database to a declared list of accounts: first a plan, then all of it or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mailhooks.accounts import address as spelling
from mailhooks.accounts.declared import Declared, Plan, Present, plan
from mailhooks.accounts.password import no_password
from mailhooks.accounts.schema import alias, domain, mailuser
from mailhooks.errors import AccountsError

if TYPE_CHECKING:
    from mailhooks.accounts.store import Accounts


def planned(accounts: Accounts, declared: Declared, *, keep: bool = False) -> Plan:
    """What :func:`carry_out` would change.

    Raises:
        AccountsError: the list cannot be carried out; see :func:`~.declared.plan`.
    """
    with accounts.database.reading() as connection:
        return plan(declared, _present(connection), keep=keep)


def carry_out(
    accounts: Accounts, declared: Declared, shown: Plan, *, keep: bool = False
) -> list[str]:
    """Change what a plan says, in one transaction.

    Args:
        accounts: the accounts to change.
        declared: the list.
        shown: the plan somebody agreed to.
        keep: as for :func:`planned`.

    Returns:
        The addresses of new accounts for which nobody has a password yet.

    Raises:
        AccountsError: the database has changed since, so that the plan is another one.
    """
    with accounts.database.writing() as connection:
        if plan(declared, _present(connection), keep=keep) != shown:
            raise AccountsError("somebody changed the accounts meanwhile: run it again")
        _remove(connection, shown)
        return _add(connection, shown)


def _present(connection: sa.Connection) -> Present:
    users = connection.execute(sa.select(mailuser.c.address, mailuser.c.enabled))
    aliases = connection.execute(sa.select(alias.c.source, alias.c.destination))
    return Present(
        domains=frozenset(connection.execute(sa.select(domain.c.name)).scalars()),
        users={address: bool(enabled) for address, enabled in users},
        aliases=frozenset((source, destination) for source, destination in aliases),
    )


def _remove(connection: sa.Connection, shown: Plan) -> None:
    pair = sa.and_(alias.c.source == sa.bindparam("of"), alias.c.destination == sa.bindparam("to"))
    one_user = mailuser.c.address == sa.bindparam("of")
    for statement, rows in (
        (sa.delete(alias).where(pair), [{"of": of, "to": to} for of, to in shown.remove_aliases]),
        (sa.delete(mailuser).where(one_user), [{"of": of} for of in shown.remove_users]),
        (
            sa.delete(domain).where(domain.c.name == sa.bindparam("of")),
            [{"of": of} for of in shown.remove_domains],
        ),
        (
            sa.update(mailuser).where(one_user).values(enabled=sa.bindparam("to")),
            [{"of": of, "to": int(wanted)} for of, wanted in shown.set_enabled],
        ),
    ):
        _execute(connection, statement, rows)


def _add(connection: sa.Connection, shown: Plan) -> list[str]:
    _execute(connection, sa.insert(domain), [{"name": name} for name in shown.add_domains])
    numbers = dict(connection.execute(sa.select(domain.c.name, domain.c.id)).all())
    users: list[dict[str, Any]] = [
        {
            "address": address,
            "domain_id": numbers[spelling.domain_of(address)],
            "password": password_hash or no_password(),
            "enabled": int(enabled),
        }
        for address, password_hash, enabled in shown.add_users
    ]
    _execute(connection, sa.insert(mailuser), users)
    pairs = [{"source": source, "destination": to} for source, to in shown.add_aliases]
    _execute(connection, sa.insert(alias), pairs)
    return [address for address, password_hash, _ in shown.add_users if not password_hash]


def _execute(
    connection: sa.Connection, statement: sa.Executable, rows: list[dict[str, Any]]
) -> None:
    if rows:
        connection.execute(statement, rows)
