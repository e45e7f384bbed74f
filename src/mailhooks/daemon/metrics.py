"""Metrics and health over HTTP, for Prometheus and for whoever watches the host.

``GET /metrics`` answers in Prometheus' text format; each metric is declared
beside the code that counts. ``GET /healthz`` answers in JSON, with 200 if
samples are taken and learned, else with 503 and the reason. Both say nothing
about users or their mail.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics, generate_latest

from mailhooks.config import listen_address
from mailhooks.dovecot import listener
from mailhooks.errors import MailhooksError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mailhooks.daemon.samples import Samples

log = logging.getLogger("mailhooks.daemon")

SOCKET_MODE = 0o666  # as for the other sockets: the folder decides who gets in
BACKLOG = 128
START_S = 5.0
"""A host name that cannot be looked up must not keep the service from learning."""
STOP_S = 1.0
"""Seconds that an answer under way may still take when the service stops."""


def health(samples: Samples) -> dict[str, bool | int | float | str]:
    """What ``GET /healthz`` answers; ``ok`` decides about 200 or 503."""
    return {
        "ok": not samples.trouble,
        "trouble": samples.trouble,
        "spool_usable": samples.spool_usable,
        "ledger_open": samples.ledger_open,
        "journal_trouble": samples.journal_trouble,
        "samples_waiting": samples.waiting,
        "oldest_waiting_s": round(samples.oldest_s, 3),
    }


def application(samples: Samples) -> web.Application:
    """The web application, not yet listening anywhere."""

    async def answer_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def answer_health(_request: web.Request) -> web.Response:
        state = health(samples)
        return web.json_response(state, status=200 if state["ok"] else 503)

    # Prometheus itself makes no use of them, and they double every counter.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    app = web.Application()
    app.router.add_get("/metrics", answer_metrics)
    app.router.add_get("/healthz", answer_health)
    return app


@asynccontextmanager
async def metrics_served(address: str, samples: Samples) -> AsyncIterator[None]:
    """Serve metrics and health while the context is open.

    If the address cannot be had, the log says so and nothing else changes:
    mail does not wait for metrics.

    Args:
        address: as in the settings, ``daemon.metrics``; empty for nowhere.
        samples: what health is judged by.
    """
    async with contextlib.AsyncExitStack() as stack:
        if address:
            try:
                async with asyncio.timeout(START_S):
                    await _start(address, application(samples), stack)
                log.info("metrics at %s", address)
            except TimeoutError:
                log.error("no metrics at %s: the name was not found in time", address)
            except (OSError, ValueError, MailhooksError) as error:
                log.error("no metrics at %s: %s", address, error)
        yield


async def _start(address: str, app: web.Application, stack: contextlib.AsyncExitStack) -> None:
    """Listen; what is to be undone at the end is left with the stack.

    Raises:
        OSError: the port cannot be had.
        ValueError: the host name or the path is none.
        MailhooksError: the socket cannot be had.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    where = listen_address(address)
    if isinstance(where, tuple):
        await web.TCPSite(runner, *where, backlog=BACKLOG).start()
        return
    # Not aiohttp's UnixSite: it takes the path from a server that still answers there.
    sock = listener.listen(where, backlog=BACKLOG, mode=SOCKET_MODE)
    stack.callback(listener.remove, where, listener.identity(where))
    await web.SockSite(runner, sock).start()
