"""A declared list of domains, users and aliases: reading the file, and what it asks to change.

Pure but for :func:`load`: the file's text becomes :class:`Declared`, and with what a
database holds (:class:`Present`) a :class:`Plan`. Who carries it out is ``accounts/apply.py``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from mailhooks.accounts import address as spelling
from mailhooks.accounts import route
from mailhooks.accounts.password import checked_hash
from mailhooks.errors import AccountsError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

SYSTEM_NAMES = (
    "abuse",
    "hostmaster",
    "mailer-daemon",
    "noc",
    "postmaster",
    "root",
    "security",
    "webmaster",
)
"""Names that mail to every domain must reach somebody by (RFC 2142 4 and 5, and by custom)."""


class _DomainEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    admin: str = ""


class _UserEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str
    enabled: bool | None = None
    password_hash: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    admin: str = ""
    domains: list[str | _DomainEntry] = []
    users: list[str | _UserEntry] = []
    aliases: dict[str, str | list[str]] = {}


_MAX_PATH_CHARS = 1000  # what is longer than any real one is shown in part


@dataclass(frozen=True, slots=True)
class Declared:
    """What a file asks for, in the spelling that is stored.

    Attributes:
        domains: names.
        users: by address: the hash for a new account, ``""`` for none, and whether it is
            enabled, None to leave that as it is.
        aliases: pairs of source and destination, those of the system included.
    """

    domains: frozenset[str]
    users: Mapping[str, tuple[str, bool | None]]
    aliases: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Present:
    """What a database holds: users with whether they are enabled."""

    domains: frozenset[str] = frozenset()
    users: Mapping[str, bool] = field(default_factory=dict)
    aliases: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to change, each part in order.

    Attributes:
        add_users: addresses with hash (``""`` for none) and whether enabled.
        set_enabled: addresses with what is to hold.
    """

    add_domains: tuple[str, ...] = ()
    remove_domains: tuple[str, ...] = ()
    add_users: tuple[tuple[str, str, bool], ...] = ()
    remove_users: tuple[str, ...] = ()
    set_enabled: tuple[tuple[str, bool], ...] = ()
    add_aliases: tuple[tuple[str, str], ...] = ()
    remove_aliases: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return self != Plan()

    def lines(self) -> Iterator[str]:
        """The plan as a diff: what is added, removed and changed."""
        yield from (f"- alias  {source} -> {where}" for source, where in self.remove_aliases)
        yield from (f"- user   {each}" for each in self.remove_users)
        yield from (f"- domain {each}" for each in self.remove_domains)
        yield from (f"+ domain {each}" for each in self.add_domains)
        for address, password_hash, enabled in self.add_users:
            words = [] if enabled else ["disabled"]
            words += [] if password_hash else ["no password yet"]
            yield f"+ user   {address}" + (f" ({', '.join(words)})" if words else "")
        for address, enabled in self.set_enabled:
            yield f"~ user   {address}: {'enable' if enabled else 'disable'}"
        yield from (f"+ alias  {source} -> {where}" for source, where in self.add_aliases)

    @property
    def removals(self) -> int:
        """How many domains, users and aliases go."""
        return len(self.remove_domains) + len(self.remove_users) + len(self.remove_aliases)


def load(path: Path) -> Declared:
    """Read a file of declared accounts, YAML or TOML by its name's end.

    Raises:
        AccountsError: it cannot be read or holds something wrong; lists all of it.
    """
    name = str(path)
    if len(name) > _MAX_PATH_CHARS or not name.isprintable():
        name = spelling.shown(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise AccountsError(f"{name}: cannot be read: {reason}") from error
    try:
        match path.suffix.lower():
            case ".yaml" | ".yml":
                tree = yaml.load(text, _OnceLoader)  # noqa: S506 - a SafeLoader
            case ".toml":
                tree = tomllib.loads(text)
            case _:
                raise AccountsError(f"{name}: must end in .yaml, .yml or .toml")
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise AccountsError(f"{name}: not {path.suffix[1:].upper()}: {reason}") from error
    return parse(tree, name)


def parse(tree: Any, path: str) -> Declared:
    """Turn a file's content into what it declares.

    Raises:
        AccountsError: something is wrong; one line for each fault, ``path: where: reason``.
    """
    try:
        file = msgspec.convert({} if tree is None else tree, _File)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        place = where.rstrip("`").lstrip(".")
        raise AccountsError(f"{path}: {f'{place}: ' if place else ''}{what}") from error
    reader = _Reader()
    declared = reader.read(file)
    if reader.problems:
        raise AccountsError("\n".join(f"{path}: {each}" for each in reader.problems))
    return declared


class _Reader:
    """From the entries of a file to what it declares; goes on after a fault to find all."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def read(self, file: _File) -> Declared:
        if not file.domains:  # an empty file would remove everything
            self.problems.append("domains: none is named")
        admins = self._domains(file)
        users = self._users(file, admins)
        aliases = self._aliases(file, admins)
        named = {source for source, _ in aliases} | users.keys()
        for name, admin in admins.items():
            system = {f"{each}@{name}" for each in SYSTEM_NAMES} - named
            if not admin:
                self.problems.append(f"admin: missing; {name} needs somebody who gets root's mail")
            aliases |= {(source, admin) for source in system}
        return Declared(frozenset(admins), users, frozenset(aliases))

    def _domains(self, file: _File) -> dict[str, str]:
        default = self._spelled("admin", file.admin, spelling.destination) if file.admin else ""
        admins: dict[str, str] = {}
        for number, entry in enumerate(file.domains):
            where = f"domains[{number}]"
            given = _DomainEntry(entry) if isinstance(entry, str) else entry
            name = self._spelled(where, given.name, spelling.domain)
            admin = default
            if given.admin:
                admin = self._spelled(f"{where}.admin", given.admin, spelling.destination)
            self._once(where, name, admins)
            admins[name] = admin
        admins.pop("", None)
        return admins

    def _users(self, file: _File, admins: Mapping[str, str]) -> dict[str, tuple[str, bool | None]]:
        users: dict[str, tuple[str, bool | None]] = {}
        for number, entry in enumerate(file.users):
            where = f"users[{number}]"
            given = _UserEntry(entry) if isinstance(entry, str) else entry
            name = self._spelled(where, given.address, spelling.account)
            self._in_domain(where, name, admins)
            self._once(where, name, users)
            if given.password_hash:
                self._spelled(f"{where}.password_hash", given.password_hash, checked_hash)
            users[name] = given.password_hash, given.enabled
        users.pop("", None)
        return users

    def _aliases(self, file: _File, admins: Mapping[str, str]) -> set[tuple[str, str]]:
        aliases: set[tuple[str, str]] = set()
        sources: dict[str, None] = {}
        for key, value in file.aliases.items():
            where = f"aliases[{spelling.shown(key)}]"
            source = self._spelled(where, key, spelling.source)
            self._in_domain(where, source, admins)
            self._once(where, source, sources)
            sources[source] = None
            found: dict[str, None] = {}
            for each in [value] if isinstance(value, str) else value:
                name = self._spelled(where, each, spelling.destination)
                self._once(where, name, found)
                found[name] = None
            if not found:
                self.problems.append(f"{where}: leads nowhere")
            aliases |= {(source, each) for each in found if source and each}
        return aliases

    def _spelled(self, where: str, text: str, spell: Callable[[str], str]) -> str:
        try:
            return spell(text)
        except AccountsError as error:
            self.problems.append(f"{where}: {error}")
            return ""

    def _once(self, where: str, name: str, known: Collection[str]) -> None:
        if name and name in known:
            self.problems.append(f"{where}: {name} is there twice")

    def _in_domain(self, where: str, name: str, admins: Mapping[str, str]) -> None:
        if name and spelling.domain_of(name) not in admins:
            self.problems.append(f"{where}: {spelling.domain_of(name)} is not among the domains")


class _OnceLoader(yaml.SafeLoader):
    """YAML whose mappings hold no key twice; PyYAML alone would drop all but the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is there twice", key_node.start_mark
                )
            if key is not None:
                seen.add(key)
        return super().construct_mapping(node, deep)


def plan(declared: Declared, present: Present, *, keep: bool = False) -> Plan:
    """What brings a database to a declared list.

    A password that exists is never touched. Aliases are checked as they will be.

    Args:
        declared: the list.
        present: what the database holds.
        keep: leave alone what the list does not name.

    Raises:
        AccountsError: in the end mail of an alias would bounce or go round; lists all.
    """
    result = Plan(
        add_domains=_minus(declared.domains, present.domains),
        remove_domains=() if keep else _minus(present.domains, declared.domains),
        add_users=tuple(
            (name, *_new(declared, name)) for name in _minus(declared.users, present.users)
        ),
        remove_users=() if keep else _minus(present.users, declared.users),
        set_enabled=tuple(
            (name, wanted)
            for name, (_, wanted) in sorted(declared.users.items())
            if wanted is not None and present.users.get(name, wanted) is not wanted
        ),
        add_aliases=_minus(declared.aliases, present.aliases),
        remove_aliases=() if keep else _minus(present.aliases, declared.aliases),
    )
    _refuse_lost_mail(declared, present if keep else Present())
    return result


def _new(declared: Declared, name: str) -> tuple[str, bool]:
    password_hash, enabled = declared.users[name]
    return password_hash, enabled is not False


def _minus(these: Collection[Any], those: Collection[Any]) -> tuple[Any, ...]:
    return tuple(sorted(set(these) - set(those)))


def _refuse_lost_mail(declared: Declared, kept: Present) -> None:
    result = _Result(
        declared.domains | kept.domains,
        {*declared.users, *kept.users},
        declared.aliases | kept.aliases,
    )
    problems = [
        f"aliases lead to {each}, which is no user and no alias"
        for each in route.bouncing(result, {each for _, each in result.aliases})
    ]
    seen: set[str] = set()
    for source in sorted({source for source, _ in result.aliases}):
        way = [] if source in seen else route.loop(result, source)
        seen.update(way)
        if way:
            problems.append(f"mail would go round: {' -> '.join(way)}")
    if problems:
        raise AccountsError("\n".join(problems))


class _Result:
    """What will be, as a :class:`route.Directory`."""

    def __init__(
        self, domains: AbstractSet[str], users: AbstractSet[str], aliases: AbstractSet[Any]
    ) -> None:
        self.aliases = aliases
        self._domains = domains
        self._users = users
        self._by_source: dict[str, list[str]] = {}
        for source, destination in sorted(aliases):
            self._by_source.setdefault(source, []).append(destination)

    def destinations(self, sources: AbstractSet[str]) -> Mapping[str, list[str]]:
        return {each: self._by_source[each] for each in sources if each in self._by_source}

    def accounts(self, addresses: AbstractSet[str]) -> AbstractSet[str]:
        return addresses & self._users

    def hosted(self, domains: AbstractSet[str]) -> AbstractSet[str]:
        return domains & self._domains
