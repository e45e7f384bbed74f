"""``mailhooks serve``: both sockets, metrics and the worker, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from typing import TYPE_CHECKING

from mailhooks.config import Settings, uids_of
from mailhooks.count import LearnCount
from mailhooks.daemon.classify import Classifier
from mailhooks.daemon.decisions import Decisions
from mailhooks.daemon.dropbox import Dropbox
from mailhooks.daemon.learn import Learner
from mailhooks.daemon.metrics import metrics_served
from mailhooks.daemon.samples import Samples
from mailhooks.daemon.weights import Weights
from mailhooks.dovecot import ScriptServer, ServerLimits
from mailhooks.keys import load_keys
from mailhooks.ledger import SqliteLedger
from mailhooks.rspamd import RspamdClient
from mailhooks.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.config import RedisSettings
    from mailhooks.lesson import Lesson

log = logging.getLogger("mailhooks.daemon")

CLASSIFY_SOCKET = "mailhooks-classify"
LEARN_SOCKET = "mailhooks-learn"
WEIGHTS_TIMEOUT_S = 1.0
OPEN_FILES = 16384


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way.

    Raises:
        ConfigError: the key file is unusable.
        MailhooksError: a socket is unusable, or served by another process.
    """
    daemon = settings.daemon
    keys = load_keys(settings.score.key_file)
    mail_uids = uids_of(daemon.mail_users)
    # Each waiting Sieve call is an open file; the soft limit is often 1,024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, OPEN_FILES)), hard))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        rspamd = await stack.enter_async_context(
            RspamdClient(
                scan_url=settings.rspamd.scan_url,
                learn_url=settings.rspamd.learn_url,
                password=settings.rspamd.password or None,
                classifier=settings.rspamd.classifier,
                shared_classifier=settings.rspamd.shared_classifier,
                timeout_s=settings.rspamd.learn_timeout_s,
                max_connections=settings.rspamd.max_connections,
            )
        )
        weights = weights_in(settings.redis)
        stack.callback(weights.close)
        samples = Samples(
            Spool(daemon.spool_dir),
            lambda: SqliteLedger(settings.learning.ledger_file),
            rspamd,
            settings.learning,
            count=count_in(settings.redis),
            has_shared=bool(settings.rspamd.shared_classifier),
            taught=weights.forget,
        )
        decisions = Decisions(lambda: SqliteLedger(settings.learning.ledger_file))
        # Before the sockets, so that it ends after them.
        stack.push_async_callback(_cancel, asyncio.create_task(decisions.run()))
        classifier = Classifier(
            rspamd,
            keys,
            weights,
            samples,
            score=settings.score,
            policy=settings.policy,
            learning=settings.learning,
            deadline_s=daemon.deadline_s,
            mail_uids=mail_uids,
            shared=bool(settings.rspamd.shared_classifier),
            note=decisions.note,
        )
        # A handler keeps its own deadline; the server's is for one that cannot.
        limits = ServerLimits(
            message_bytes=daemon.max_message_bytes, handler_timeout_s=daemon.deadline_s + 0.5
        )
        learner = Learner(samples, settings.mailboxes, mail_uids)
        for name, handler in ((CLASSIFY_SOCKET, classifier.answer), (LEARN_SOCKET, learner.answer)):
            server = ScriptServer(daemon.socket_dir / name, handler, limits=limits)
            await server.start()
            stack.push_async_callback(server.stop)
        await stack.enter_async_context(metrics_served(daemon.metrics, samples))
        dropbox = Dropbox(
            daemon.drop_dir,
            learner.answer,
            max_message_bytes=daemon.max_message_bytes,
            every_s=settings.learning.rescan_s,
        )
        for work in (samples.run(), dropbox.run()):
            task = asyncio.create_task(work)
            stack.push_async_callback(_cancel, task)
            task.add_done_callback(lambda _task: stop.set())
        log.info("serving in %s", daemon.socket_dir)
        await stop.wait()
        log.info("stopping, %d samples stay in the spool", samples.waiting)


def count_in(redis: RedisSettings) -> Callable[[str, Lesson], int] | None:
    """How many messages of a class Redis counts for a user; None if no Redis is configured."""
    if not redis.url:
        return None
    counts = LearnCount(redis.url, redis.key_prefix, redis.shared_key)
    return lambda user, lesson: counts(user)[lesson]


def weights_in(redis: RedisSettings) -> Weights:
    """Where a delivery learns how much its statistics know."""
    counts = LearnCount(redis.url, redis.key_prefix, redis.shared_key, timeout_s=WEIGHTS_TIMEOUT_S)
    return Weights(counts if redis.url else None, redis.min_learns)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
