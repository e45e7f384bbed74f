"""``mailhooks serve``: both sockets, metrics and the worker, until SIGTERM or SIGINT.

SIGHUP reads the settings and keys again, see :mod:`mailhooks.daemon.reload`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mailhooks.config import Settings, uids_of
from mailhooks.count import LearnCount
from mailhooks.daemon.acquaintances import Acquaintances
from mailhooks.daemon.classify import Classifier
from mailhooks.daemon.decisions import Decisions
from mailhooks.daemon.dropbox import Dropbox
from mailhooks.daemon.learn import Learner
from mailhooks.daemon.metrics import metrics_served
from mailhooks.daemon.reload import compare
from mailhooks.daemon.samples import Samples
from mailhooks.daemon.weights import Weights
from mailhooks.dovecot import ScriptServer, ServerLimits, lane
from mailhooks.errors import MailhooksError, SpoolError
from mailhooks.keys import load_keys
from mailhooks.ledger import SqliteLedger
from mailhooks.rspamd import RspamdClient
from mailhooks.spool import Spool
from mailhooks.systemd import Supervisor

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from mailhooks.config import RedisSettings
    from mailhooks.daemon.tutor import Count
    from mailhooks.dovecot import ScriptCall
    from mailhooks.lesson import Lesson

log = logging.getLogger("mailhooks.daemon")

CLASSIFY_SOCKET = "mailhooks-classify"
LEARN_SOCKET = "mailhooks-learn"
WEIGHTS_TIMEOUT_S = 1.0
VERDICT_THREADS = 4
OPEN_FILES = 16384
PREPARE_S = 1.0
STOP_S = 5.0
"""Seconds that calls under way may still take when the service stops."""
HANDED_OVER_STOP_S = 2.0
"""The same where systemd keeps the sockets: new calls wait there meanwhile, and
Dovecot gives up ten seconds after it has connected."""
STUCK_S = 600.0
"""A worker that has not gone round for so long will not: not a slow disk, not a slow Rspamd."""


async def serve(
    settings: Settings,
    *,
    reread: Callable[[], Settings],
    sockets: Mapping[str, socket.socket] | None = None,
    supervisor: Supervisor | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way.

    Args:
        settings: what to start with.
        reread: reads the settings again, on SIGHUP.
        sockets: opened by somebody else, by their names; others are opened here.
        supervisor: hears of readiness and progress.

    Raises:
        ConfigError: the key file is unusable.
        MailhooksError: a socket is unusable, or served by another process.
    """
    sockets, supervisor = sockets or {}, supervisor or Supervisor()
    if unknown := set(sockets) - {CLASSIFY_SOCKET, LEARN_SOCKET}:
        raise MailhooksError(
            f"handed over a socket named {', '.join(sorted(unknown))}; the names are "
            f"{CLASSIFY_SOCKET} and {LEARN_SOCKET}"
        )
    daemon = settings.daemon
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
        spool = await stack.enter_async_context(_spool_in(daemon.spool_dir))
        samples = Samples(
            spool,
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
        handlers = stack.enter_context(
            contextlib.closing(_Handlers(settings, rspamd, weights, samples, decisions))
        )
        # A handler keeps its own deadline; the server's is for one that cannot.
        limits = ServerLimits(
            message_bytes=daemon.max_message_bytes, handler_timeout_s=daemon.deadline_s + 0.5
        )
        # The first sample may come with the first connection; what is wrong with
        # the spool is the worker's to tell.
        with contextlib.suppress(SpoolError, TimeoutError):
            async with asyncio.timeout(PREPARE_S):
                await asyncio.to_thread(spool.prepare)
        servers: list[ScriptServer] = []
        stack.push_async_callback(_stop_all, servers, HANDED_OVER_STOP_S if sockets else STOP_S)
        for name, handler, direct in (
            (CLASSIFY_SOCKET, handlers.classify, handlers.classify_directly),
            (LEARN_SOCKET, handlers.learn, handlers.learn_directly),
        ):
            server = ScriptServer(
                daemon.socket_dir / name,
                handler,
                limits=limits,
                sock=sockets.get(name),
                direct=direct,
            )
            await server.start()
            servers.append(server)
        await stack.enter_async_context(metrics_served(daemon.metrics, samples))
        dropbox = Dropbox(
            daemon.drop_dir,
            handlers.learn,
            max_message_bytes=daemon.max_message_bytes,
            every_s=settings.learning.rescan_s,
        )
        for work in (samples.run(), dropbox.run(), _report_life(supervisor, samples)):
            task = asyncio.create_task(work)
            stack.push_async_callback(_cancel, task)
            task.add_done_callback(lambda _task: stop.set())
        where = "handed-over sockets" if sockets else str(daemon.socket_dir)

        def reload() -> None:
            supervisor.reloading()
            try:
                handlers.reload(reread())
            except MailhooksError as error:
                problems = "; ".join(str(error).splitlines())
                log.error("reload: the old settings stay in force: %s", problems)
            finally:
                supervisor.ready(f"serving {where}")

        loop.add_signal_handler(signal.SIGHUP, reload)
        log.info("serving %s", where)
        supervisor.ready(f"serving {where}")
        await stop.wait()
        supervisor.stopping()
        log.info("stopping, %d samples stay in the spool", samples.waiting)


class _Handlers:
    """What answers a call, by the settings in force."""

    def __init__(
        self,
        settings: Settings,
        rspamd: RspamdClient,
        weights: Weights,
        samples: Samples,
        decisions: Decisions,
    ) -> None:
        self._settings, self._rspamd, self._weights = settings, rspamd, weights
        self._samples, self._decisions = samples, decisions
        path = settings.learning.ledger_file
        self._acquaintances = Acquaintances(lambda: SqliteLedger(path))
        self._acquaintances.open()
        self._threads = ThreadPoolExecutor(VERDICT_THREADS, "verdicts")
        self._classifier, self._learner = self._made_by(settings)

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        self._acquaintances.close()

    async def classify(self, call: ScriptCall) -> bytes:
        return await self._classifier.answer(call)

    async def learn(self, call: ScriptCall, made: float | None = None) -> bytes:
        return await self._learner.answer(call, made)

    async def classify_directly(self, call: ScriptCall) -> lane.Answer:
        return await self._classifier.answer_directly(call)

    async def learn_directly(self, call: ScriptCall) -> lane.Answer:
        return await self._learner.answer_directly(call)

    def reload(self, read: Settings) -> None:
        """Put new settings into force, and log which wait for a restart.

        Raises:
            ConfigError: the keys are unusable; nothing has changed.
        """
        reload = compare(self._settings, read)
        self._classifier, self._learner = self._made_by(reload.settings)
        self._settings = reload.settings
        log.info("reload: keys read again; changed: %s", ", ".join(reload.changed) or "nothing")
        if reload.waiting:
            log.warning("reload: only a restart changes %s", ", ".join(reload.waiting))

    def _made_by(self, settings: Settings) -> tuple[Classifier, Learner]:
        mail_uids = uids_of(settings.daemon.mail_users)
        classifier = Classifier(
            self._rspamd,
            load_keys(settings.score.key_file),
            self._weights,
            self._samples,
            threads=self._threads,
            score=settings.score,
            policy=settings.policy,
            learning=settings.learning,
            deadline_s=settings.daemon.deadline_s,
            mail_uids=mail_uids,
            shared=bool(settings.rspamd.shared_classifier),
            note=self._decisions.note,
            acquaintances=self._acquaintances,
        )
        return classifier, Learner(self._samples, settings.mailboxes, mail_uids)


async def _report_life(supervisor: Supervisor, samples: Samples) -> None:
    """Tell the supervisor that the event loop and the worker go round; for ever."""
    started_s = time.monotonic()
    # Between two turns of the worker lie its pause and a look at the disk.
    while supervisor.ping_every_s:
        silent_s = time.monotonic() - max(started_s, samples.went_round_s)
        if silent_s < samples.pause_s + STUCK_S:
            supervisor.alive()
        else:
            log.critical("the worker has been stuck for %.0f s, the watchdog may end it", silent_s)
        await asyncio.sleep(supervisor.ping_every_s)
    await asyncio.Event().wait()


async def _stop_all(servers: list[ScriptServer], grace_s: float) -> None:
    await asyncio.gather(*(server.stop(grace_s=grace_s) for server in servers))


def count_in(redis: RedisSettings) -> Count | None:
    """How many messages of a class Redis counts for a user; None if no Redis is configured."""
    if not redis.url:
        return None
    counts = LearnCount(redis.url, redis.key_prefix, redis.shared_key)

    async def count(user: str, lesson: Lesson) -> int:
        return (await counts.told(user))[lesson]

    return count


def weights_in(redis: RedisSettings) -> Weights:
    """Where a delivery learns how much its statistics know."""
    counts = LearnCount(redis.url, redis.key_prefix, redis.shared_key, timeout_s=WEIGHTS_TIMEOUT_S)
    return Weights(counts if redis.url else None, redis.min_learns)


@contextlib.asynccontextmanager
async def _spool_in(folder: Path) -> AsyncIterator[Spool]:
    spool = Spool(folder)
    try:
        yield spool
    finally:
        try:
            await asyncio.to_thread(spool.close)
        except SpoolError as error:
            log.warning("%s", error)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
