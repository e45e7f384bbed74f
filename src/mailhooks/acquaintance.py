"""What a user said of a message's list and sender before, and its points. Pure.

Bayes knows words. A mailing list that one user calls spam reads like another
one that the same user keeps, so the words of both say nothing. But the user has
said it: of the list, and of senders. Up to three traits of a message are known
again: its list, the address in From, and that address' domain. What became of
earlier messages with the same trait makes points for each:

    factor * log((spam + PRIOR) / (ham + PRIOR))

where the user's own word counts 1, and a message that was only left where it
had been delivered counts ``LEFT``. So a mixed record says little, a trait that
nobody has met says nothing, and what a list has always been outweighs a slip.

Anybody can write a friend's address into From, or the name of a list. So all
traits together speak for a message by at most half the usual threshold, and
against it by so much that one user's clear word about a list outvotes everything.

The constants are those that won in ``make accuracy``; see docs/accuracy.md.
"""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mailhooks.lesson import Lesson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailhooks.message import Header

PRIOR: Final = 0.5
"""Messages of each class that every trait begins with."""

LEFT: Final = 0.1
"""What a message counts that was left where it was delivered; the user's own word counts 1."""

MOST_SPAM: Final = 24.0
"""The most points against a message: still the threshold, though Bayes is at its most for it,
and the milter score is that of the best of lists, some -5."""

MOST_HAM: Final = 3.0
"""The most points for a message: half the usual threshold, since whoever forges From gets them."""

LONGEST_NAME: Final = 255
"""Octets of a name that is known again; a longer one is nobody's (RFC 5321, 4.5.3.1)."""

_LOOKED_AT_BYTES: Final = 1000
"""Bytes of a field that are looked at; patterns below take long for very long ones."""

_LIST_FIELDS: Final = ("list-id", "x-beenthere", "list-post", "x-mailing-list", "mailing-list")
TRAIT_FIELDS: Final = (*_LIST_FIELDS, "from")
"""Header fields that traits are taken from."""

_ANGLES: Final = re.compile(rb"<([^<>]*)>")
# Of From: quoted names and comments may hold anything, even addresses.
_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|\([^()]*\)')
_ADDRESS: Final = re.compile(rb"[^\s<>,;:@]+@[^\s<>,;:@]+")


class Kind(enum.Enum):
    """A trait that messages have in common."""

    LIST = "list"
    SENDER = "sender"
    DOMAIN = "domain"


_FACTORS: Final = {Kind.LIST: 10.0, Kind.SENDER: 3.0, Kind.DOMAIN: 1.5}
_MOST_AGAINST: Final = {Kind.LIST: MOST_SPAM, Kind.SENDER: 10.0, Kind.DOMAIN: 10.0}


class Word(enum.Enum):
    """What became of a message: a user's word, or where it was left."""

    SAID_SPAM = "said_spam"
    SAID_HAM = "said_ham"
    LEFT_JUNK = "left_junk"
    LEFT_INBOX = "left_inbox"

    @classmethod
    def of(cls, lesson: Lesson) -> Word:
        """A user's own lesson."""
        return cls.SAID_SPAM if lesson is Lesson.SPAM else cls.SAID_HAM


@dataclass(frozen=True, slots=True)
class Trait:
    """Something that messages have in common.

    Attributes:
        kind: what it is.
        name: of the list, the address, or the domain; in lower case.
    """

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class Past:
    """What became of a user's earlier messages with one trait; numbers of messages.

    Attributes:
        said_spam: those that the user called spam.
        said_ham: those that the user called good.
        left_junk: those delivered to Junk of which the user said nothing.
        left_inbox: those delivered to INBOX of which the user said nothing.
    """

    said_spam: int = 0
    said_ham: int = 0
    left_junk: int = 0
    left_inbox: int = 0

    def points(self, kind: Kind) -> float:
        """What it says of one more message: positive for spam."""
        spam = self.said_spam + LEFT * self.left_junk
        ham = self.said_ham + LEFT * self.left_inbox
        raw = _FACTORS[kind] * math.log((spam + PRIOR) / (ham + PRIOR))
        return max(-MOST_HAM, min(_MOST_AGAINST[kind], raw))


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """What is known of a message's traits.

    Attributes:
        points: of all of them together, to be added to the sum.
        known: each trait that the user has met, and what became of it.
    """

    points: float
    known: tuple[tuple[Trait, Past], ...] = ()


class NoAcquaintanceWhy(enum.Enum):
    """Why nobody knows what the user said before, though there may be something."""

    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class NoAcquaintance:
    """It could not be found out what the user said before, and why."""

    why: NoAcquaintanceWhy


def traits_of(header: Header) -> tuple[Trait, ...]:
    """The traits of a message by which it is known again: a list, a sender and a domain at most."""
    found = []
    if name := _list_name(header):
        found.append(Trait(Kind.LIST, name))
    if address := _address(header):
        found.append(Trait(Kind.SENDER, address))
        found.append(Trait(Kind.DOMAIN, address.rpartition("@")[2]))
    return tuple(found)


def acquaintance(past: Mapping[Trait, Past], most: float = MOST_SPAM) -> Acquaintance:
    """The points of everything that is known of a message's traits.

    Args:
        past: of each trait that was met.
        most: the most points against the message.
    """
    known = tuple((trait, each) for trait, each in past.items() if each != Past())
    total = sum(each.points(trait.kind) for trait, each in known)
    return Acquaintance(max(-MOST_HAM, min(most, total)), known)


def _list_name(header: Header) -> str:
    """The list's name as List-Id has it (RFC 2919), or made of an address in the same form."""
    for field in _LIST_FIELDS:
        for value in header.values(field, 1):
            angles = _ANGLES.search(value[:_LOOKED_AT_BYTES])
            name = _text(angles[1] if angles else value)
            name = name.removeprefix("mailto:").partition(";")[0].replace("@", ".")
            if name:
                return name
    return ""


def _address(header: Header) -> str:
    for value in header.values("from", 1):
        bare = _QUOTED.sub(b"", value[:_LOOKED_AT_BYTES])
        angles = _ANGLES.search(bare)
        if found := _ADDRESS.search(angles[1] if angles else bare):
            return _text(found[0])
    return ""


def _text(octets: bytes) -> str:
    """A name as it is compared; empty if it is too long to be one."""
    if len(octets) > LONGEST_NAME:
        return ""
    return "".join(octets.decode("utf-8", "replace").lower().split())
