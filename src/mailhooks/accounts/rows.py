"""What the database holds, as it is within one transaction, and whether mail still arrives.

Addresses are given and returned in the spelling that is stored.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mailhooks.accounts import address as spelling
from mailhooks.accounts import route
from mailhooks.accounts.declared import SYSTEM_NAMES
from mailhooks.accounts.schema import alias, domain, mailuser
from mailhooks.errors import AccountsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from collections.abc import Set as AbstractSet

_IN_CHUNK = 500


class Rows:
    """What is in the database within one transaction: a :class:`route.Directory`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def destinations(self, sources: AbstractSet[str]) -> dict[str, list[str]]:
        """The destinations of those sources that have any."""
        query = sa.select(alias.c.source, alias.c.destination)
        found: dict[str, list[str]] = {}
        for source, destination in self._among(query, alias.c.source, sources):
            found.setdefault(source, []).append(destination)
        return found

    def accounts(self, addresses: AbstractSet[str]) -> set[str]:
        """Those addresses that are accounts."""
        query = sa.select(mailuser.c.address)
        return {row[0] for row in self._among(query, mailuser.c.address, addresses)}

    def hosted(self, domains: AbstractSet[str]) -> set[str]:
        """Those domains whose mail is ours."""
        query = sa.select(domain.c.name)
        return {row[0] for row in self._among(query, domain.c.name, domains)}

    def domain_id(self, name: str) -> int:
        """The number of a domain.

        Raises:
            AccountsError: there is no such domain.
        """
        number = self._connection.execute(
            sa.select(domain.c.id).where(domain.c.name == name)
        ).scalar()
        if number is None:
            raise AccountsError(f"{name}: no such domain (mailcfg adddom {name})")
        return int(number)

    def count(self, table: sa.Table, where: sa.ColumnElement[bool]) -> int:
        """How many rows there are."""
        query = sa.select(sa.func.count()).select_from(table).where(where)
        return int(self._connection.execute(query).scalar_one())

    def destinations_in(self, name: str) -> list[str]:
        """The addresses of a domain that aliases lead to."""
        query = (
            sa.select(alias.c.destination)
            .distinct()
            .where(alias.c.destination.endswith(f"@{name}", autoescape=True))
            .order_by(alias.c.destination)
        )
        return list(self._connection.execute(query).scalars())

    def add_system_aliases(self, name: str, admin: str) -> list[str]:
        """Lead the system's names in a domain to somebody, but for those that are in use.

        Returns:
            The addresses that lead there now.

        Raises:
            AccountsError: mail to them would bounce or go round.
        """
        wanted = {f"{each}@{name}" for each in SYSTEM_NAMES}
        added = sorted(wanted - self.accounts(wanted) - self.destinations(wanted).keys())
        for each in added:
            self._connection.execute(sa.insert(alias).values(source=each, destination=admin))
        if added and route.bouncing(self, {admin}):
            raise AccountsError(f"{admin} is no user and no alias")
        for each in added:
            self.refuse_loop(each)
        return added

    def without_copy(self, source: str) -> tuple[str, ...]:
        """What to say of a user whose mail an alias takes elsewhere, and nothing of others."""
        destinations = self.destinations({source}).get(source, [])
        if not destinations or source in destinations or not self.accounts({source}):
            return ()
        note = (
            f"{source} is a user, too, and the alias wins: mail goes to"
            f" {', '.join(sorted(destinations))} only; for a copy in the user's own mailbox:"
            f" mailcfg addalias {source} {source}"
        )
        return (note,)

    def refuse_loop(self, source: str) -> None:
        """See that mail to an alias arrives.

        Raises:
            AccountsError: it would go round; shows the way.
        """
        destinations = self.destinations({source}).get(source, [])
        if source in destinations and not self.accounts({source}):
            raise AccountsError(f"{source} would lead to itself, and is no user")
        way = route.loop(self, source)
        if way:
            raise AccountsError(f"mail would go round: {' -> '.join(way)}")

    def settle(self, removed: str, *, force: bool) -> tuple[str, ...]:
        """See to the aliases that led to something removed.

        Args:
            removed: an address or ``@domain`` that is no user or has no alias any more.
            force: remove them; else refuse.

        Returns:
            What was removed.

        Raises:
            AccountsError: mail of an alias would bounce or go round.
        """
        notes: list[str] = []
        waiting = [removed]
        while waiting:
            name = waiting.pop()
            for number, source, destination in self._leading_to(name):
                bad = bool(route.bouncing(self, {destination}))
                if not bad and not route.loop(self, source):
                    continue
                if not force:
                    why = "would bounce" if bad else "would go round"
                    raise AccountsError(
                        f"mail of the alias {source} -> {destination} {why}:"
                        f" remove it first (mailcfg rmalias -id {number}), or use --force"
                    )
                self._connection.execute(sa.delete(alias).where(alias.c.id == number))
                notes.append(f"removed the alias {source} -> {destination}, too")
                waiting.append(source)
        return tuple(notes)

    def _leading_to(self, name: str) -> list[tuple[int, str, str]]:
        local = spelling.local_of(name)
        columns = alias.c.id, alias.c.source, alias.c.destination
        queries = [sa.select(*columns).where(alias.c.destination == name)]
        if not local:
            everywhere = alias.c.destination.endswith(name, autoescape=True)
            queries = [sa.select(*columns).where(everywhere)]
        elif "+" not in local:
            # ann+lists@example.org ends at ann@example.org, too. A range, so the index serves.
            extended = sa.and_(
                alias.c.destination >= f"{local}+",
                alias.c.destination < f"{local},",  # "," follows "+" in ASCII
                alias.c.destination.endswith(name.removeprefix(local), autoescape=True),
            )
            queries.append(sa.select(*columns).where(extended))
        rows = itertools.chain.from_iterable(self._connection.execute(each) for each in queries)
        return sorted((number, source, destination) for number, source, destination in rows)

    def _among(
        self, query: sa.Select[Any], column: sa.Column[Any], values: Collection[str]
    ) -> Iterable[Any]:
        ordered = sorted(values)
        chunks = (ordered[at : at + _IN_CHUNK] for at in range(0, len(ordered), _IN_CHUNK))
        return itertools.chain.from_iterable(
            self._connection.execute(query.where(column.in_(chunk))).all() for chunk in chunks
        )
