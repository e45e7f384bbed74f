"""What Rspamd's Redis holds of one user's statistics: read, and forgotten.

Rspamd (``src/libstat/backends/redis_backend.c`` in 3.4, the Lua scripts that
replaced it later) keeps::

    RS<user>                       hash: version, learns_spam, learns_ham
    RS<user>_<token>               hash: S, H; the token is a 64-bit number
    RS<user>_tokens, RS<user>_z    words of tokens, with store_tokens
    BAYES_SPAM_keys, BAYES_HAM_keys    sets of all RS<user>
    learned_ids, learned_idsX, ...     hash: message -> class; of all users

So ``RSanna_1`` is a token of anna or the statistics of anna_1; what is in the
hash tells. Who a ``learned_ids`` entry belongs to cannot be told: its key is a
digest over user and tokens.
"""

from __future__ import annotations

import itertools
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import redis

from mailhooks.errors import StatisticsError
from mailhooks.lesson import SHARED_USER, Lesson

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_SETS = ("BAYES_SPAM_keys", "BAYES_HAM_keys")
_SHARED_SETS = ("BAYES_SPAM_SHARED_keys", "BAYES_HAM_SHARED_keys")
_LEARNS = ("learns_spam", "learns_ham")
_CLASS = {Lesson.SPAM: "S", Lesson.HAM: "H"}
_OF_A_USER = ("version", *_LEARNS)
_TOKEN = re.compile(rb"\d{1,20}")
_WORDS = (b"tokens", b"z")
_LEARN_CACHE = "learned_ids"
_CACHE_PARTS = 10
_GLOB_SPECIAL = re.compile(r"[\\*?\[\]^-]")
_AT_ONCE = 1000
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Learned:
    """How many messages a user's statistics count of each class.

    As Rspamd has it: 3.4 takes away what it never counted, and goes below zero.
    """

    spam: int
    ham: int

    def lacking(self, min_learns: int) -> str:
        """``ready``, or how many of which class are missing before Rspamd uses them."""
        needed = [
            f"{min_learns - count} more {name}"
            for name, count in (("spam", self.spam), ("ham", self.ham))
            if count < min_learns
        ]
        return f"{' and '.join(needed)} needed" if needed else "ready"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed of a user."""

    spam: int
    ham: int
    tokens: int


class Statistics:
    """Rspamd's Redis, inside ``with``; every method raises StatisticsError when Redis fails.

    Args:
        url: as in the settings.
        prefix: what every user's keys begin with.
        shared_key: the key of what all users share.
        timeout_s: seconds one answer may take.
    """

    def __init__(
        self, url: str, prefix: str, *, shared_key: str = "", timeout_s: float = _TIMEOUT_S
    ) -> None:
        with _explained(url):
            self._redis = redis.Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
            )
        self._url = url
        self._prefix = prefix
        self._shared_key = shared_key

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def learned(self, user: str) -> Learned:
        """How much a user has taught; zeros for one who is not known."""
        with _explained(self._url):
            values: Any = self._redis.hmget(self._key(user), list(_LEARNS))
        spam, ham = (int(value or 0) for value in values)
        return Learned(spam, ham)

    def _key(self, user: str) -> str:
        return self._shared_key if user == SHARED_USER else self._prefix + user

    def users(self) -> list[str]:
        """Everybody with statistics, sorted."""
        with _explained(self._url):
            answer: Any = self._redis.sunion(list(_SETS))
        names = {key.decode("utf-8", "replace") for key in answer}
        return sorted(
            name.removeprefix(self._prefix)
            for name in names
            if name.startswith(self._prefix) and name != self._prefix
        )

    def forget(self, user: str) -> Forgotten:
        """Remove a user's statistics, and nobody else's; looks at every key there is."""
        own = self._key(user).encode()
        learned, tokens = self.learned(user), 0
        with _explained(self._url):
            pattern = _GLOB_SPECIAL.sub(r"\\\g<0>", self._key(user)) + "_*"
            keys = self._redis.scan_iter(match=pattern, count=_AT_ONCE)
            while batch := list(itertools.islice(keys, _AT_ONCE)):
                mine = self._tokens_among(batch, own)
                tokens += len(mine)
                if mine:
                    self._redis.unlink(*mine)
            # Last, so that a run that was cut off can be seen and repeated.
            self._redis.unlink(own, *(own + b"_" + kind for kind in _WORDS))
            for name in (*_SETS, *_SHARED_SETS):
                self._redis.srem(name, own)
        return Forgotten(learned.spam, learned.ham, tokens)

    def removed_tokens(self, beginning: str) -> dict[str, list[bytes]]:
        """Remove all users whose names begin so; returns the tokens of each.

        Args:
            beginning: which no name of a real user has.
        """
        start = (self._prefix + beginning).encode()
        tokens: dict[str, list[bytes]] = {}
        with _explained(self._url):
            pattern = _GLOB_SPECIAL.sub(r"\\\g<0>", self._prefix + beginning) + "*"
            for key in self._redis.scan_iter(match=pattern, count=_AT_ONCE):
                owner, separator, token = key.rpartition(b"_")
                if separator and _TOKEN.fullmatch(token):
                    user = owner[len(start) - len(beginning.encode()) :].decode()
                    tokens.setdefault(user, []).append(token)
                self._redis.unlink(key)
            for name in (*_SETS, *_SHARED_SETS):
                for member in self._redis.sscan_iter(name, match=pattern, count=_AT_ONCE):
                    self._redis.srem(name, member)
        return tokens

    def share_held(self, user: str, lesson: Lesson, tokens: Collection[bytes]) -> float:
        """How many of some tokens a user's statistics hold for a class, from 0 to 1."""
        if not tokens:
            return 0.0
        with _explained(self._url):
            pipeline = self._redis.pipeline(transaction=False)
            for token in tokens:
                pipeline.hget(f"{self._prefix}{user}_".encode() + token, _CLASS[lesson])
            held = sum(float(count or 0) > 0 for count in pipeline.execute())
        return held / len(tokens)

    def clear_learn_cache(self) -> int:
        """Remove Rspamd's learn cache of all users; returns how many messages it knew."""
        names = [_LEARN_CACHE + "X" * number for number in range(_CACHE_PARTS)]
        with _explained(self._url):
            sizes: list[Any] = [self._redis.hlen(name) for name in names]
            self._redis.unlink(*names)
        return sum(map(int, sizes))

    def _tokens_among(self, keys: Iterable[bytes], own: bytes) -> list[bytes]:
        candidates = [key for key in keys if _TOKEN.fullmatch(key[len(own) + 1 :])]
        pipeline = self._redis.pipeline(transaction=False)
        for key in candidates:
            pipeline.hmget(key, list(_OF_A_USER))
        answers = pipeline.execute(raise_on_error=False)
        return [
            key
            for key, answer in zip(candidates, answers, strict=True)
            # An error says that it is no hash, so nothing of Rspamd's Bayes.
            if isinstance(answer, list) and not any(answer)
        ]


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, ValueError, OSError) as error:
        # A URL may hold a password.
        shown = re.sub(r"//[^/@]*@", "//", url)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StatisticsError(f"Redis at {shown}: {reason}") from error
