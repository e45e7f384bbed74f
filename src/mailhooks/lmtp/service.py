"""``mailhooks lmtp``: listens until SIGTERM or SIGINT, then lets messages under way end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mailhooks.config import listen_address
from mailhooks.dovecot import listener
from mailhooks.errors import MailhooksError
from mailhooks.lmtp.session import Filter, Session
from mailhooks.systemd import Supervisor

if TYPE_CHECKING:
    from mailhooks.config import DaemonSettings, LmtpSettings

log = logging.getLogger("mailhooks.lmtp")

CLASSIFY_SOCKET: Final = "mailhooks-classify"
GRACE_S: Final = 30.0
BACKLOG: Final = 512


async def serve(
    settings: LmtpSettings, daemon: DaemonSettings, supervisor: Supervisor | None = None
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: of ``[lmtp]``.
        daemon: where the daemon listens, and the largest message it takes.
        supervisor: hears of readiness and of signs of life.

    Raises:
        MailhooksError: the address cannot be listened on.
    """
    # It would log every command, addresses included.
    logging.getLogger("mail.log").setLevel(logging.WARNING)
    shared = Filter(
        settings=settings,
        next_hop=listen_address(settings.next_hop),
        classify_socket=daemon.socket_dir / CLASSIFY_SOCKET,
        max_message_bytes=daemon.max_message_bytes,
        hostname=socket.gethostname(),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    where = listen_address(settings.listen)
    sock = _listening(where)
    file = listener.identity(where) if isinstance(where, Path) else None
    server = await loop.create_server(partial(Session, shared), sock=sock, backlog=BACKLOG)
    log.info("listening on %s, next hop %s", settings.listen, settings.next_hop)
    supervisor = supervisor or Supervisor()
    supervisor.ready(f"listening on {settings.listen}")
    while not stop.is_set():
        # The event loop goes round, and that is all there is to hang here.
        with suppress(TimeoutError):
            async with asyncio.timeout(supervisor.ping_every_s or None):
                await stop.wait()
        supervisor.alive()
    supervisor.stopping()
    if isinstance(where, Path):
        listener.remove(where, file)
    server.close()
    for session in list(shared.sessions):
        session.end()
    if shared.sessions:
        log.info("stopping, %d connections are open", len(shared.sessions))
        await asyncio.wait(shared.sessions.values(), timeout=GRACE_S)


def _listening(where: Path | tuple[str, int]) -> socket.socket:
    if isinstance(where, Path):
        return listener.listen(where, backlog=BACKLOG, mode=0o666)
    try:
        return socket.create_server(
            where, family=socket.AF_INET6 if ":" in where[0] else socket.AF_INET, backlog=BACKLOG
        )
    except OSError as error:
        reason = error.strerror or error
        raise MailhooksError(f"{where[0]} port {where[1]}: cannot listen: {reason}") from error
