from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailhooks.accounts import route

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet


class Small:
    """A directory of example.org, written down."""

    def __init__(self, aliases: Mapping[str, list[str]], users: AbstractSet[str]) -> None:
        self._aliases = {_full(source): list(map(_full, to)) for source, to in aliases.items()}
        self._users = set(map(_full, users))

    def destinations(self, sources: AbstractSet[str]) -> dict[str, list[str]]:
        return {each: self._aliases[each] for each in sources if each in self._aliases}

    def accounts(self, addresses: AbstractSet[str]) -> set[str]:
        return self._users & addresses

    def hosted(self, domains: AbstractSet[str]) -> set[str]:
        return {"example.org"} & domains


def _full(name: str) -> str:
    return name if "@" in name[1:] else f"{name.removeprefix('@')}@example.org"


def small(aliases: dict[str, list[str]], *users: str) -> Small:
    catch_all = aliases.pop("@", None)
    directory = Small(aliases, set(users))
    if catch_all:
        directory._aliases["@example.org"] = list(map(_full, catch_all))
    return directory


@pytest.mark.parametrize(
    ("aliases", "users", "bad"),
    [
        ({}, {"ann"}, []),
        ({}, set(), ["ann"]),
        ({"ann": ["bob"]}, {"bob"}, []),
        ({"@": ["bob"]}, {"bob"}, []),
        ({"ann": ["ann"]}, set(), ["ann"]),
        ({"ann": ["ann"]}, {"ann"}, []),
    ],
)
def test_mail_bounces_that_meets_no_user_no_alias_and_no_catch_all(
    aliases: dict[str, list[str]], users: set[str], bad: list[str]
) -> None:
    directory = small(aliases, *users)
    assert route.bouncing(directory, ["ann@example.org"]) == list(map(_full, bad))


def test_an_extension_and_a_foreign_domain_arrive() -> None:
    directory = small({}, "ann")
    assert route.bouncing(directory, ["ann+lists@example.org", "x@elsewhere.example"]) == []


@pytest.mark.parametrize(
    ("aliases", "users", "start", "way"),
    [
        ({"a": ["b"], "b": ["c"]}, {"c"}, "a", ""),
        ({"a": ["b"], "b": ["a"]}, set(), "a", "a b a"),
        ({"a": ["b"], "b": ["c", "d"], "d": ["a"]}, {"c"}, "a", "a b d a"),
        ({"a": ["b+x"], "b": ["a"]}, set(), "a", "a b+x a"),
        # A user with a copy is expanded once: two users may read each other's mail.
        ({"a": ["a", "b"], "b": ["b", "a"]}, {"a", "b"}, "a", ""),
        ({"a": ["b"], "b": ["b", "a"]}, {"a", "b"}, "a", ""),
        ({"a": ["b"], "b": ["a"]}, {"a", "b"}, "a", "a b a"),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"]}, {"d"}, "a", ""),
        # A loop that does not come back to the start is the fault of another alias.
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, set(), "a", ""),
        # Whoever is no user and has no alias falls to the catch-all.
        ({"@": ["a"], "a": ["gone"]}, set(), "a", "a gone a"),
        ({"@": ["a"], "a": ["ann"]}, {"ann"}, "a", ""),
    ],
)
def test_a_loop_is_found_with_its_way(
    aliases: dict[str, list[str]], users: set[str], start: str, way: str
) -> None:
    found = route.loop(small(aliases, *users), _full(start))
    assert [each.removesuffix("@example.org") for each in found] == way.split()


def test_a_catch_all_that_leads_back_to_itself_is_a_loop() -> None:
    directory = small({"@": ["a"], "a": ["gone"]})
    assert route.loop(directory, "@example.org") == [
        "@example.org",
        "a@example.org",
        "gone@example.org",
        "@example.org",
    ]
