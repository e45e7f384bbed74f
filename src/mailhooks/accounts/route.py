"""Where mail to an address goes, as Postfix expands virtual aliases (virtual(5)).

An address is looked up as it is, then without its ``+extension``, then as
``@domain``. An account without an alias of its own is not for the catch-all:
the look-up that docs/accounts.md gives to Postfix sees to that. An address that is
among its own destinations is not expanded again. Pure: what there is comes from a
:class:`Directory`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mailhooks.accounts.address import domain_of, without_extension

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from collections.abc import Set as AbstractSet


class Directory(Protocol):
    """What is known, asked for many addresses at once."""

    def destinations(self, sources: AbstractSet[str]) -> Mapping[str, Collection[str]]:
        """The destinations of those sources that have any."""

    def accounts(self, addresses: AbstractSet[str]) -> AbstractSet[str]:
        """Those addresses that are accounts."""

    def hosted(self, domains: AbstractSet[str]) -> AbstractSet[str]:
        """Those domains whose mail is ours."""


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one address.

    Attributes:
        source: the alias that applies, ``""`` if none does.
        destinations: where that alias leads.
    """

    source: str = ""
    destinations: tuple[str, ...] = ()


ARRIVED = Step()
"""The address is an account, or in somebody else's domain."""


def steps(directory: Directory, addresses: AbstractSet[str]) -> dict[str, Step | None]:
    """What becomes of each address; None where mail to it bounces."""
    bases = {each: without_extension(each) for each in addresses}
    catch_all = {each: f"@{domain_of(each)}" for each in addresses}
    known = directory.destinations({*addresses, *bases.values(), *catch_all.values()})
    accounts = directory.accounts({*addresses, *bases.values()})
    hosted = directory.hosted({domain_of(each) for each in addresses})
    result: dict[str, Step | None] = {}
    for each in addresses:
        own = next((name for name in (each, bases[each]) if name in known), None)
        if own is not None:
            result[each] = Step(own, tuple(known[own]))
        elif each in accounts or bases[each] in accounts or domain_of(each) not in hosted:
            result[each] = ARRIVED
        elif catch_all[each] in known:
            result[each] = Step(catch_all[each], tuple(known[catch_all[each]]))
        else:
            result[each] = None
    return result


def bouncing(directory: Directory, addresses: Iterable[str]) -> list[str]:
    """Those addresses that nobody here would receive."""
    found = steps(directory, set(addresses))
    bad: list[str] = []
    for each, step in sorted(found.items()):
        # An address that leads to itself and has no account has nowhere to arrive.
        if step is None or (each in step.destinations and not directory.accounts({each})):
            bad.append(each)
    return bad


def loop(directory: Directory, source: str) -> list[str]:
    """The way from an alias back to itself, both ends included; empty if there is none."""
    start = directory.destinations({source}).get(source, ())
    if source in start:
        return []
    came_from = dict.fromkeys(start, source)
    frontier = set(start)
    while frontier:
        found = steps(directory, frontier)
        frontier = set()
        for each, step in sorted(found.items()):
            if step is None or not step.source:
                continue
            if step.source == source:
                return _way(came_from, each, source)
            if step.source in step.destinations:
                continue  # Postfix expands it once
            for further in step.destinations:
                if further not in came_from:
                    came_from[further] = each
                    frontier.add(further)
    return []


def _way(came_from: Mapping[str, str], last: str, source: str) -> list[str]:
    way = [last] if last == source else [source, last]
    way.append(came_from[last])
    while way[-1] != source:
        way.append(came_from[way[-1]])
    return way[::-1]
