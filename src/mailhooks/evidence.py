"""Whether a user's statistics hold a message, found out without teaching that user anything.

When a connection breaks in the middle of a learn, nobody says whether it was
learned. Asking again is no answer: Rspamd knows a message by its tokens, the
tokens depend on the language it guesses, and of a longer text it guesses that
from words picked at random, so it may learn the message a second time.

So the message is taught to somebody who does not exist. The tokens that this
leaves in Redis are the message's; if the user's statistics hold every one of
them, they hold the message, since Rspamd writes all tokens of a message in one
transaction (``src/libstat/backends/redis_backend.c``). The guess at the language
is why this is repeated: the best of the guesses counts.

Another Rspamd process may make a few tokens differently: those of header fields
span the fields, whose order is that of a Lua table (``lualib/lua_stat.lua``,
``get_headers_stat_tokens``), so the order in which it happens to be walked through.
That is why the number of messages held counts for more than a token missing.
"""

from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING, Protocol, TypeVar

from mailhooks.errors import RspamdUnavailable, StatisticsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailhooks.lesson import Lesson
    from mailhooks.rspamd import RspamdClient
    from mailhooks.statistics import Statistics

GUESSES = 8
"""How often a message is looked at."""

LIKELY = 0.85
"""The share of tokens from which a message counts as held if their number is not known."""


class Doubtful(Protocol):
    """A lesson of which nobody knows whether it was learned."""

    @property
    def user(self) -> str:
        """Whose statistics learn."""

    @property
    def lesson(self) -> Lesson:
        """What the message is."""

    @property
    def raw(self) -> bytes:
        """The message."""


T = TypeVar("T", bound=Doubtful)


class Evidence:
    """Asks Rspamd and Redis.

    Args:
        rspamd: learns.
        opened: gives access to Redis.
    """

    def __init__(self, rspamd: RspamdClient, opened: Callable[[], Statistics]) -> None:
        self._rspamd = rspamd
        self._opened = opened

    async def held(self, tasks: Sequence[T], count: int) -> list[T]:
        """Those of some messages that their users' statistics hold as what is to be taught.

        Args:
            tasks: the messages in doubt.
            count: how many of them are held.

        Raises:
            StatisticsError: Rspamd or Redis cannot be asked just now.
            RspamdMisconfigured: Rspamd does not let us learn.
        """
        return _most_held(tasks, await self._shares(tasks, count), count)

    async def likely_held(self, tasks: Sequence[T], most: int | None) -> list[T]:
        """As :meth:`held`, if their number is not known.

        Args:
            tasks: the messages in doubt.
            most: how many of them are held at most; None if nobody knows.

        Raises:
            StatisticsError: Rspamd or Redis cannot be asked just now.
            RspamdMisconfigured: Rspamd does not let us learn.
        """
        shares = await self._shares(tasks, most)
        likely = sum(share >= LIKELY for share in shares)
        return _most_held(tasks, shares, likely if most is None else min(likely, most))

    async def _shares(self, tasks: Sequence[T], enough: int | None) -> list[float]:
        """What share of each message's tokens is held; no more is asked once so many are whole."""
        shares = [0.0] * len(tasks)
        with self._opened() as statistics:
            for _ in range(GUESSES):
                open_questions = [number for number, share in enumerate(shares) if share < 1]
                if not open_questions or len(tasks) - len(open_questions) == enough:
                    break
                for number, share in zip(
                    open_questions,
                    await self._look([tasks[number] for number in open_questions], statistics),
                    strict=True,
                ):
                    shares[number] = max(shares[number], share)
        return shares

    async def _look(self, tasks: Sequence[Doubtful], statistics: Statistics) -> list[float]:
        """What share of each message's tokens is held, for one guess at its language."""
        nobody = f"mailhooks-evidence-{secrets.token_hex(8)}"
        names = [f"{nobody}-{number}" for number in range(len(tasks))]
        try:
            for name, task in zip(names, tasks, strict=True):
                await self._rspamd.learn_spam(task.raw, user=name, bulk=True)
        except RspamdUnavailable as error:
            raise StatisticsError(f"what was learned cannot be found out: {error}") from error
        finally:
            tokens = statistics.removed_tokens(nobody)
        return [
            statistics.share_held(task.user, task.lesson, tokens.get(name, ()))
            for name, task in zip(names, tasks, strict=True)
        ]


def _most_held(tasks: Sequence[T], shares: Sequence[float], count: int) -> list[T]:
    ranked = sorted(range(len(tasks)), key=lambda number: -shares[number])
    return [tasks[number] for number in itertools.islice(ranked, count)]
