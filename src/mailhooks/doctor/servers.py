"""Rspamd and Redis, asked what mailhooks asks them, without teaching anything."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mailhooks.doctor import probe
from mailhooks.doctor.check import Finding, error, ok, warning
from mailhooks.errors import RspamdError, RspamdMisconfigured, StatisticsError
from mailhooks.rspamd import RspamdClient
from mailhooks.statistics import Statistics

if TYPE_CHECKING:
    from mailhooks.config import RedisSettings, RspamdSettings

TIMEOUT_S = 5.0
BROKEN_VERSIONS = {"3.13": "its learn cache is broken", "3.13.0": "its learn cache is broken"}

_START = "Start Rspamd, or correct [rspamd] {key}."


def scans(settings: RspamdSettings) -> list[Finding]:
    """Whether the normal worker answers, and runs Bayes alone when asked to."""
    return asyncio.run(_scans(settings))


async def _scans(settings: RspamdSettings) -> list[Finding]:
    url = settings.scan_url
    async with RspamdClient(scan_url=url, learn_url=url, timeout_s=TIMEOUT_S) as rspamd:
        try:
            await rspamd.ping()
        except RspamdError as problem:
            return [error("rspamd scan", str(problem), _START.format(key="scan_url"))]
        if url == settings.learn_url:
            first = warning(
                "rspamd scan",
                f"{url}: is scan_url and learn_url, so every delivery waits for one process",
                "Name the normal worker in [rspamd] scan_url, by default on port 11333.",
            )
        else:
            first = ok("rspamd scan", f"{url}: answers")
        return [first, await _bayes_only(rspamd, url)]


async def _bayes_only(rspamd: RspamdClient, url: str) -> Finding:
    name = "rspamd bayes"
    try:
        await rspamd.check_bayes(probe.MESSAGE, user=probe.USER)
    except RspamdError as problem:
        return error(
            name,
            str(problem),
            "See that this host may scan, and that no setting of Rspamd's makes it ignore the "
            "Settings header (a proxy in between may remove it).",
        )
    return ok(name, f"{url}: runs Bayes alone when asked to")


def learns(settings: RspamdSettings) -> list[Finding]:
    """Whether the controller lets us teach, and has statistics to be taught."""
    return asyncio.run(_learns(settings))


async def _learns(settings: RspamdSettings) -> list[Finding]:
    name, url = "rspamd learn", settings.learn_url
    try:
        client = RspamdClient(
            scan_url=url,
            learn_url=url,
            password=settings.password or None,
            timeout_s=TIMEOUT_S,
        )
    except ValueError:  # its text holds the password
        return [
            error(name, "[rspamd] password cannot be sent in an HTTP header", "Choose another.")
        ]
    async with client as rspamd:
        try:
            await rspamd.ping()
        except RspamdError as problem:
            return [error(name, str(problem), _START.format(key="learn_url"))]
        try:
            # Rspamd looks at the password first, and then refuses to learn nothing.
            await rspamd.learn_spam(b"", user=probe.USER)
            stat = await rspamd.stat()
        except RspamdMisconfigured as problem:
            return [
                error(
                    name,
                    str(problem),
                    "Set [rspamd] password to the controller's enable_password, and learn_url to "
                    "the controller, by default on port 11334.",
                )
            ]
        except RspamdError as problem:
            return [error(name, str(problem), "See Rspamd's own log.")]
    way = "takes our password" if settings.password else "lets us teach without a password"
    symbols = [statfile.symbol for statfile in stat.statfiles]
    return [
        ok(name, f"{url}: {way}"),
        _version(url, stat.version),
        ok("rspamd statistics", f"{url}: {', '.join(symbols)}")
        if symbols
        else error(
            "rspamd statistics",
            f"{url}: Rspamd has no classifier that could learn",
            "Define one for each user in local.d/classifier-bayes.conf: backend = redis, "
            "per_user = true.",
        ),
    ]


def _version(url: str, version: str) -> Finding:
    name = "rspamd version"
    if version in BROKEN_VERSIONS:
        return warning(
            name, f"{url}: Rspamd {version}: {BROKEN_VERSIONS[version]}", "Install a newer one."
        )
    return ok(name, f"{url}: Rspamd {version}")


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
        return [error(name, "[redis] url is not a URL that could be used", advice)]
    with closing(client):
        try:
            client.ping()
            with Statistics(settings.url, settings.key_prefix, timeout_s=TIMEOUT_S) as known:
                users, shared = len(known.users()), known.learned("")
        except (redis.RedisError, StatisticsError, OSError) as problem:
            return [error(name, f"[redis] url: {problem}", advice)]
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
        return error(
            name,
            f"Redis' last write to disk failed ({state})",
            "See Redis' own log, and whether its disk is full.",
        )
    if writes_log:
        return ok(name, "appendonly is on")
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
            "Set appendonly yes in redis.conf, by `redis-cli CONFIG SET appendonly yes` first.",
        )
    return warning(
        name,
        f"Redis only saves snapshots (save {save}): a crash loses what was learned since, which "
        "mailhooks takes for learned",
        "Set appendonly yes in redis.conf, by `redis-cli CONFIG SET appendonly yes` first.",
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
