"""Rspamd's Redis, or Valkey: does it answer, and does it keep what users taught?"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mailhooks.doctor.check import Finding, failed, ok, warning
from mailhooks.errors import StatisticsError
from mailhooks.statistics import Statistics

if TYPE_CHECKING:
    from mailhooks.config import RedisSettings

TIMEOUT_S = 5.0
CACHE_KEYS = tuple(b"learned_ids" + b"X" * number for number in range(10))


def statistics(settings: RedisSettings) -> list[Finding]:
    """Whether Redis answers, holds statistics for each user, and keeps them."""
    name = "redis"
    if not settings.url:
        return [ok(name, "[redis] url is empty: Rspamd's word is taken for what it learned")]
    advice = "Start Redis, or correct [redis] url."
    try:
        # By default redis-py asks again and again, for longer than a check may take.
        client = redis.Redis.from_url(
            settings.url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:  # its text may hold a password
        return [failed(name, "[redis] url is not a URL that could be used", advice)]
    with closing(client):
        try:
            client.ping()
            with Statistics(settings.url, settings.key_prefix, timeout_s=TIMEOUT_S) as known:
                users, shared = len(known.users()), known.learned("")
        except (redis.RedisError, StatisticsError, OSError) as problem:
            return [failed(name, f"[redis] url: {problem}", advice)]
        return [
            per_user(users, shared.spam + shared.ham, settings.key_prefix),
            *_durability(client),
        ]


def per_user(users: int, shared: int, prefix: str) -> Finding:
    """Whether statistics are those of users, by what was learned so far.

    Args:
        users: how many have statistics.
        shared: messages that were learned for nobody in particular.
        prefix: what keys begin with.
    """
    if shared and not users:
        return warning(
            "redis",
            f"{shared} messages were learned for all users together (key {prefix}), none for one",
            "Set per_user = true in Rspamd's local.d/classifier-bayes.conf, or correct "
            "[redis] key_prefix.",
        )
    have = "1 user has" if users == 1 else f"{users} users have"
    return ok("redis", f"{have} statistics with the key prefix {prefix}")


def _durability(client: redis.Redis) -> list[Finding]:
    try:
        info: Any = client.info()
    except redis.ResponseError as problem:
        return [
            warning(
                "redis persistence",
                f"cannot be seen: {problem}",
                "Let this Redis user run INFO and CONFIG GET, or see for yourself that Redis has "
                "appendonly on and evicts nothing.",
            )
        ]
    try:
        save: Any = client.config_get("save")
    except redis.ResponseError:  # not allowed, or a service that has no CONFIG
        save = {}
    return [
        persistence(info, save.get("save")),
        memory(info),
    ]


def persistence(info: dict[str, Any], save: str | None) -> Finding:
    """Whether Redis has what users taught when it comes back after a power cut.

    Args:
        info: Redis' answer to INFO.
        save: its setting ``save``; None if we may not read it.
    """
    name = "redis persistence"
    writes_log = bool(info.get("aof_enabled"))
    state = info.get("aof_last_write_status" if writes_log else "rdb_last_bgsave_status", "ok")
    if (writes_log or save) and state != "ok":
        return failed(
            name,
            f"Redis' last write to disk failed ({state})",
            "See Redis' own log, and whether its disk is full.",
        )
    if writes_log:
        return ok(name, "appendonly is on")
    program = "valkey" if "valkey_version" in info else "redis"
    advice = (
        f"Set appendonly yes in {info.get('config_file') or f'{program}.conf'}, by "
        f"`{program}-cli CONFIG SET appendonly yes` first."
    )
    if save is None:
        return warning(
            name,
            "appendonly is off, and the setting save cannot be read",
            "Turn appendonly on, or see for yourself that Redis saves snapshots.",
        )
    if not save:
        return warning(
            name,
            "Redis writes nothing to disk: all that users taught is gone when it stops",
            advice,
        )
    return warning(
        name,
        f"Redis only saves snapshots (save {save}): a crash loses what was learned since, which "
        "mailhooks takes for learned",
        advice,
    )


def memory(info: dict[str, Any]) -> Finding:
    """Whether Redis throws statistics away when it runs out of memory."""
    name = "redis memory"
    policy, limit = info.get("maxmemory_policy", "noeviction"), int(info.get("maxmemory", 0))
    if limit and policy != "noeviction":
        return warning(
            name,
            f"with more than {limit} bytes Redis forgets statistics (maxmemory-policy {policy})",
            "Set maxmemory-policy noeviction, and maxmemory high enough, or give Rspamd's "
            "statistics a Redis of their own.",
        )
    return ok(name, f"maxmemory {limit or 'without limit'}, maxmemory-policy {policy}")


class LearnCache:
    """Which messages Rspamd remembers to have learned: a few bytes each, of all users.

    Rspamd forgets them when there are many (``redis_cache.c``, ``bayes_cache_*.lua``); we take
    ours out at once, if it can be told from the others.

    Args:
        settings: of Redis; without a URL nothing is known.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._url = settings.url

    def entries(self) -> frozenset[tuple[bytes, bytes]]:
        """All there are: the key of the cache's part, and the id; none if Redis is away."""
        with suppress(redis.RedisError, ValueError, OSError), self._client() as client:
            found: set[tuple[bytes, bytes]] = set()
            for part in CACHE_KEYS:
                ids: Any = client.hkeys(part)
                found |= {(part, each) for each in ids}
            return frozenset(found)
        return frozenset()

    def forget(self, entries: frozenset[tuple[bytes, bytes]]) -> list[str]:
        """Remove one entry; of several nobody knows which are ours, and they stay."""
        if len(entries) != 1:
            return []
        ((part, ours),) = entries
        with suppress(redis.RedisError, OSError), self._client() as client:
            client.hdel(part, ours)
            return []
        return ["an entry in Rspamd's learn cache: Redis does not answer"]

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(
            self._url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
