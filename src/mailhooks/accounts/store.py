"""The accounts of a host: domains, users and aliases, and every change to them.

A change is one transaction: all of it or nothing. Addresses are taken as people
type them and stored in their one spelling; passwords are taken as hashes only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import sqlalchemy as sa

from mailhooks.accounts import address as spelling
from mailhooks.accounts import route
from mailhooks.accounts.database import Database
from mailhooks.accounts.password import checked_hash
from mailhooks.accounts.rows import Rows
from mailhooks.accounts.schema import alias, domain, mailuser
from mailhooks.errors import AccountsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

PAGE = 1000
"""Rows read at a time; between two pages nothing is locked."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain whose mail this host takes: its A-label, and how many users it has."""

    name: str
    users: int


@dataclass(frozen=True, slots=True)
class User:
    """An account: its address, whose part behind the ``@`` is ``domain``."""

    address: str
    domain: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class Alias:
    """One destination of an alias; ``source`` may be ``@domain``."""

    id: int
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Done:
    """What a change did.

    Attributes:
        subject: what it was about, in the spelling that is stored.
        changed: False if all was so already.
        notes: what else was done, or should be known.
    """

    subject: str
    changed: bool
    notes: tuple[str, ...] = ()


class Accounts:
    """The accounts in one database; a context manager that closes it.

    Threads may share it; a child after ``fork`` may not. Every method raises
    AccountsUnavailable if the database cannot be used, and AccountsError if it refuses,
    with the reason as its text; then nothing was changed.

    Args:
        url: ``sqlite:////path/to/file``, ``postgresql://user:password@host/name`` or
            ``mariadb://user:password@host/name``.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; harmless to repeat."""
        self._database.close()

    @property
    def database(self) -> Database:
        """The database below."""
        return self._database

    def migrate(self) -> tuple[int, int]:
        """Make the tables, or bring them up to date; see :meth:`Database.migrate`."""
        return self._database.migrate()

    def domains(self) -> Iterator[Domain]:
        """All domains in the order of their names."""
        count = sa.func.count(mailuser.c.id)
        query = (
            sa.select(domain.c.name, count)
            .select_from(domain.outerjoin(mailuser, mailuser.c.domain_id == domain.c.id))
            .group_by(domain.c.name)
            .order_by(domain.c.name)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        for name, users in rows:
            yield Domain(name, users)

    def users(
        self, domain_name: str | None = None, *, enabled_only: bool = False
    ) -> Iterator[User]:
        """Users in the order of their addresses, read page by page.

        Every user who is there all the while comes exactly once; of those added or removed
        meanwhile some may come.

        Args:
            domain_name: only the users of this domain.
            enabled_only: leave out those that are disabled.

        Raises:
            AccountsError: there is no such domain.
        """
        query = sa.select(mailuser.c.address, mailuser.c.enabled)
        if domain_name is not None:
            number = self._read(lambda rows: rows.domain_id(spelling.domain(domain_name)))
            query = query.where(mailuser.c.domain_id == number)
        if enabled_only:
            query = query.where(mailuser.c.enabled == 1)
        for address, enabled in self._pages(query, mailuser.c.address):
            yield User(address, spelling.domain_of(address), bool(enabled))

    def user(self, address: str) -> User | None:
        """The user of an address, None if there is none."""
        name = spelling.address(address)
        query = sa.select(mailuser.c.enabled).where(mailuser.c.address == name)
        with self._database.reading() as connection:
            enabled = connection.execute(query).scalar()
        return None if enabled is None else User(name, spelling.domain_of(name), bool(enabled))

    def aliases(self, domain_name: str | None = None) -> Iterator[Alias]:
        """Aliases in the order of their sources, one a destination, read page by page.

        Args:
            domain_name: only those whose source is in this domain.

        Raises:
            AccountsError: there is no such domain.
        """
        query = sa.select(alias.c.source, alias.c.id, alias.c.destination)
        if domain_name is not None:
            name = spelling.domain(domain_name)
            self._read(lambda rows: rows.domain_id(name))
            query = query.where(alias.c.source.endswith(f"@{name}", autoescape=True))
        # The whole of a source at a time would be unbounded, so the second key parts it.
        last: tuple[str, str] | None = None
        while True:
            page = query.order_by(alias.c.source, alias.c.destination).limit(PAGE)
            if last is not None:
                # Not as a comparison of rows, for which MariaDB reads the whole index.
                page = page.where(
                    alias.c.source >= last[0],
                    sa.or_(alias.c.source > last[0], alias.c.destination > last[1]),
                )
            with self._database.reading() as connection:
                found = connection.execute(page).all()
            for source, number, destination in found:
                yield Alias(number, source, destination)
            if len(found) < PAGE:
                return
            last = found[-1][0], found[-1][2]

    def expect_domain(self, name: str) -> None:
        """See that a domain is known.

        Raises:
            AccountsError: there is no such domain.
        """
        self._read(lambda rows: rows.domain_id(spelling.domain(name)))

    def add_domain(self, name: str, *, admin: str | None = None) -> Done:
        """Take mail for a domain from now on.

        Args:
            name: the domain.
            admin: where the aliases of :data:`SYSTEM_NAMES` that are missing shall lead.

        Raises:
            AccountsError: the name is none, or mail to the admin's address would bounce.
        """
        name = spelling.domain(name)
        leader = None if admin is None else spelling.destination(admin)
        with self._database.writing() as connection:
            rows = Rows(connection)
            notes: list[str] = []
            is_new = not rows.hosted({name})
            if is_new:
                connection.execute(sa.insert(domain).values(name=name))
                bad = route.bouncing(rows, rows.destinations_in(name))
                notes += [f"aliases lead to {each}, which is no user or alias yet" for each in bad]
            added = rows.add_system_aliases(name, leader) if leader else []
            notes += [f"added the alias {each} -> {leader}" for each in added]
            return Done(name, changed=is_new or bool(added), notes=tuple(notes))

    def remove_domain(self, name: str, *, force: bool = False) -> Done:
        """Take no more mail for a domain.

        Aliases of other domains that lead to it stay: its mail may be elsewhere now.

        Args:
            name: the domain.
            force: remove its users and aliases, too.

        Raises:
            AccountsError: there is no such domain, or it has users or aliases.
        """
        name = spelling.domain(name)
        with self._database.writing() as connection:
            rows = Rows(connection)
            number = rows.domain_id(name)
            own_users = mailuser.c.domain_id == number
            own_aliases = alias.c.source.endswith(f"@{name}", autoescape=True)
            users, aliases = rows.count(mailuser, own_users), rows.count(alias, own_aliases)
            if (users or aliases) and not force:
                raise AccountsError(
                    f"{name} still has {_counted(users, 'user')} and"
                    f" {_counted(aliases, 'alias', 'aliases')}: remove them first, or use --force"
                )
            connection.execute(sa.delete(alias).where(own_aliases))
            connection.execute(sa.delete(mailuser).where(own_users))
            connection.execute(sa.delete(domain).where(domain.c.id == number))
            notes = [f"removed {_counted(users, 'user')}"] if users else []
            if aliases:
                notes.append(f"removed {_counted(aliases, 'alias', 'aliases')}")
            notes += [f"aliases still lead to {each}" for each in rows.destinations_in(name)]
            return Done(name, changed=True, notes=tuple(notes))

    def add_user(self, address: str, password_hash: str, *, enabled: bool = True) -> Done:
        """Make an account; one that exists stays as it is, its password included.

        Args:
            address: its address.
            password_hash: what :func:`~mailhooks.accounts.hash_password` made.
            enabled: whether it may log in and receive mail.

        Raises:
            AccountsError: the address is none for an account, or its domain is not known.
        """
        name = spelling.account(address)
        checked_hash(password_hash)
        with self._database.writing() as connection:
            rows = Rows(connection)
            if rows.accounts({name}):
                return Done(name, changed=False)
            connection.execute(
                sa.insert(mailuser).values(
                    address=name,
                    domain_id=rows.domain_id(spelling.domain_of(name)),
                    password=password_hash,
                    enabled=int(enabled),
                )
            )
            return Done(name, changed=True, notes=rows.without_copy(name))

    def remove_user(self, address: str, *, force: bool = False) -> Done:
        """Remove an account; its mail stays where it is.

        Args:
            address: its address.
            force: remove the aliases that lead to nothing else, too.

        Raises:
            AccountsError: there is no such user, or mail of an alias would bounce or go round.
        """
        name = spelling.address(address)
        with self._database.writing() as connection:
            rows = Rows(connection)
            self._one(connection, sa.delete(mailuser).where(mailuser.c.address == name), name)
            own_copy = sa.and_(alias.c.source == name, alias.c.destination == name)
            connection.execute(sa.delete(alias).where(own_copy))
            return Done(name, changed=True, notes=rows.settle(name, force=force))

    def set_password(self, address: str, password_hash: str) -> Done:
        """Give an account another password; it holds at the next login."""
        checked_hash(password_hash)
        name = spelling.address(address)
        with self._database.writing() as connection:
            change = sa.update(mailuser).where(mailuser.c.address == name)
            self._one(connection, change.values(password=password_hash), name)
            return Done(name, changed=True)

    def set_enabled(self, address: str, *, enabled: bool) -> Done:
        """Let an account log in and receive mail, or neither."""
        name = spelling.address(address)
        with self._database.writing() as connection:
            query = sa.select(mailuser.c.enabled).where(mailuser.c.address == name)
            before = connection.execute(query).scalar()
            if before is None:
                raise AccountsError(_no_user(name))
            change = sa.update(mailuser).where(mailuser.c.address == name)
            connection.execute(change.values(enabled=int(enabled)))
            return Done(name, changed=bool(before) is not enabled)

    def add_alias(self, source: str, destination: str) -> Done:
        """Let mail for one address go to another one, beside those it goes to already.

        Raises:
            AccountsError: an address is none, the source's domain is not known, the
                destination would bounce, or mail would go round.
        """
        source, destination = spelling.source(source), spelling.destination(destination)
        subject = f"{source} -> {destination}"
        with self._database.writing() as connection:
            rows = Rows(connection)
            rows.domain_id(spelling.domain_of(source))
            if destination in rows.destinations({source}).get(source, ()):
                return Done(subject, changed=False)
            connection.execute(sa.insert(alias).values(source=source, destination=destination))
            rows.refuse_loop(source)
            if route.bouncing(rows, {destination}):
                raise AccountsError(f"{subject}: {destination} is no user and no alias")
            return Done(subject, changed=True, notes=rows.without_copy(source))

    def remove_alias(self, source: str, *, force: bool = False) -> Done:
        """Remove an alias with all its destinations.

        Args:
            source: whose mail goes elsewhere.
            force: remove the aliases that lead to nothing else, too.

        Raises:
            AccountsError: there is no such alias, or mail of another one would bounce or go
                round.
        """
        source = spelling.source(source)
        with self._database.writing() as connection:
            removal = sa.delete(alias).where(alias.c.source == source)
            if not connection.execute(removal).rowcount:
                raise AccountsError(f"{source}: no such alias")
            return Done(source, changed=True, notes=Rows(connection).settle(source, force=force))

    def remove_alias_number(self, number: int, *, force: bool = False) -> Done:
        """Remove one destination of an alias by the number that :meth:`aliases` shows.

        Raises:
            AccountsError: as :meth:`remove_alias`.
        """
        query = sa.select(alias.c.source, alias.c.destination).where(alias.c.id == number)
        with self._database.writing() as connection:
            rows = Rows(connection)
            found = connection.execute(query).one_or_none()
            if found is None:
                raise AccountsError(f"no alias has the number {number}")
            source, destination = found
            connection.execute(sa.delete(alias).where(alias.c.id == number))
            notes = rows.settle(source, force=force)
            rows.refuse_loop(source)
            notes += rows.without_copy(source)
            return Done(f"{source} -> {destination}", changed=True, notes=notes)

    def _read(self, question: Callable[[Rows], _T]) -> _T:
        with self._database.reading() as connection:
            return question(Rows(connection))

    def _pages(self, query: sa.Select[Any], column: sa.Column[Any]) -> Iterator[Any]:
        """Rows in the order of their first, unique column, each page in its own transaction.

        Not a cursor held open: on SQLite nobody could write while somebody looks at a list.
        """
        page = query.order_by(column).limit(PAGE)
        while True:
            with self._database.reading() as connection:
                found = connection.execute(page).all()
            yield from found
            if len(found) < PAGE:
                return
            page = query.where(column > found[-1][0]).order_by(column).limit(PAGE)

    @staticmethod
    def _one(connection: sa.Connection, change: sa.Update | sa.Delete, name: str) -> None:
        if not connection.execute(change).rowcount:
            raise AccountsError(_no_user(name))


def _no_user(name: str) -> str:
    return f"{name}: no such user"


def _counted(count: int, noun: str, nouns: str = "") -> str:
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
