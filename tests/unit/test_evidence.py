from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, cast

import pytest

from mailhooks.errors import RspamdUnavailable, StatisticsError
from mailhooks.evidence import GUESSES, Evidence
from mailhooks.lesson import Lesson

if TYPE_CHECKING:
    from collections.abc import Collection

    from mailhooks.rspamd import RspamdClient
    from mailhooks.statistics import Statistics


@dataclass(frozen=True)
class Lost:
    """A message whose tokens are its letters; of upper-case ones the guess decides."""

    raw: bytes
    user: str = "anna"
    lesson: Lesson = Lesson.HAM


@dataclass
class Servers:
    """Rspamd and its Redis: `held` is what anna's statistics hold."""

    held: set[str]
    guesses: list[str] = field(default_factory=list)
    taught: dict[str, list[bytes]] = field(default_factory=dict)
    rounds: int = 0
    is_away: bool = False

    async def learn_spam(self, message: bytes, *, user: str, bulk: bool) -> None:
        assert bulk
        if self.is_away:
            raise RspamdUnavailable("away")
        guess = self.guesses[min(self.rounds, len(self.guesses) - 1)] if self.guesses else ""
        self.taught[user] = [f"{chr(letter)}{guess}".encode() for letter in message]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def removed_tokens(self, beginning: str) -> dict[str, list[bytes]]:
        assert all(user.startswith(beginning) for user in self.taught)
        self.rounds += 1
        removed, self.taught = self.taught, {}
        return removed

    def share_held(self, user: str, lesson: Lesson, tokens: Collection[bytes]) -> float:
        assert (user, lesson) == ("anna", Lesson.HAM)
        return sum(token.decode() in self.held for token in tokens) / max(1, len(tokens))


def evidence(servers: Servers) -> Evidence:
    return Evidence(cast("RspamdClient", servers), lambda: cast("Statistics", servers))


async def test_a_message_is_likely_held_if_nearly_all_of_its_tokens_are() -> None:
    """Half of them, which other messages brought, prove nothing."""
    servers = Servers(held=set("abcdefghijk"))
    tasks = [Lost(b"abcdefghijk"), Lost(b"abx"), Lost(b"d"), Lost(b"abcdefghix")]
    assert await evidence(servers).likely_held(tasks, None) == [tasks[0], tasks[2], tasks[3]]
    assert not servers.taught


async def test_no_more_are_likely_held_than_there_can_be() -> None:
    """The one of which a token is missing came with another message."""
    servers = Servers(held=set("abcdefghijk"))
    tasks = [Lost(b"abcdefghix"), Lost(b"abcdefghij"), Lost(b"xyz")]
    assert await evidence(servers).likely_held(tasks, 1) == [tasks[1]]
    assert await evidence(servers).likely_held(tasks, 3) == [tasks[1], tasks[0]]


async def test_with_their_number_known_it_is_found_at_the_first_look() -> None:
    """Nobody is looked at again once that many are found."""
    servers = Servers(held=set("abc"))
    tasks = [Lost(b"xyz"), Lost(b"abc"), Lost(b"abx")]
    assert await evidence(servers).held(tasks, 1) == [tasks[1]]
    assert servers.rounds == 1


async def test_another_guess_at_the_language_is_tried_again() -> None:
    """The tokens in Redis are those of the guess that the learn was made with."""
    servers = Servers(held={"a2", "b2"}, guesses=["1", "1", "2"])
    assert await evidence(servers).likely_held([Lost(b"ab"), Lost(b"cd")], 2) == [Lost(b"ab")]
    assert servers.rounds == GUESSES


async def test_if_no_guess_fits_the_likeliest_are_taken() -> None:
    """The number is certain, so somebody has to be."""
    servers = Servers(held=set("abcd"))
    tasks = [Lost(b"axyz"), Lost(b"abcz"), Lost(b"abxz")]
    assert await evidence(servers).held(tasks, 1) == [tasks[1]]


async def test_an_absent_rspamd_means_not_now_and_leaves_nothing_behind() -> None:
    """Whoever asked waits and asks again."""
    servers = Servers(held=set("a"), is_away=True)
    with pytest.raises(StatisticsError, match="cannot be found out"):
        await evidence(servers).held([Lost(b"a")], 1)
    assert servers.rounds == 1
    assert next(itertools.chain(servers.taught), None) is None
