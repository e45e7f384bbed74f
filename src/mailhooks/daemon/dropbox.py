"""Calls that found nobody: what Sieve left in a folder while the daemon was away.

``learn.sieve`` asks the daemon first. If that fails, whatever the reason, it
runs ``mailhooks-drop``, a few lines of shell that write the same call, in the
same protocol, into the drop folder, synced, by one rename. The daemon takes
them from there when it is back. The file's owner is the process that called,
so who may speak for whom is decided as on the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from typing import TYPE_CHECKING

from prometheus_client import Counter

from mailhooks.dovecot import Peer, ScriptCall, ScriptParser
from mailhooks.errors import MailhooksError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

log = logging.getLogger("mailhooks.learn")

CALLS = Counter("mailhooks_drop_folder_calls_total", "Calls found in the drop folder.", ["result"])
TAKEN, SET_ASIDE = CALLS.labels("taken"), CALLS.labels("set-aside")
FAILURES = Counter(
    "mailhooks_drop_folder_failures_total",
    "Looks into the drop folder that failed, or could not keep a call.",
)


class Dropbox:
    """Takes calls out of the drop folder.

    Args:
        folder: where ``mailhooks-drop`` writes; files that start with ``.`` are
            being written.
        handle: gets the call and when it was made, seconds since the epoch.
        max_message_bytes: larger files are set aside.
        every_s: seconds between two looks.
    """

    def __init__(
        self,
        folder: Path,
        handle: Callable[[ScriptCall, float], Awaitable[bytes]],
        *,
        max_message_bytes: int,
        every_s: float,
    ) -> None:
        self._folder = folder
        self._handle = handle
        self._max_message_bytes = max_message_bytes
        self._every_s = every_s
        self._complaint = ""

    async def run(self) -> None:
        """Look for ever; cancel to stop."""
        while True:
            try:
                await self.empty()
                self._complaint = ""
            except (OSError, MailhooksError) as error:
                FAILURES.inc()
                # Said once for each trouble, not every few seconds.
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    log.error("drop folder %s: %s", self._folder, error)
            await asyncio.sleep(self._every_s)

    async def empty(self) -> int:
        """Take every call that is there, oldest first; returns how many.

        Raises:
            OSError: the folder cannot be read.
            MailhooksError: a call could not be kept now; it stays, and so do those after it.
        """
        taken = 0
        for path in await asyncio.to_thread(calls_in, self._folder):
            try:
                call, made = await asyncio.to_thread(read_call, path, self._max_message_bytes)
                await self._handle(call, made)
            except FileNotFoundError:
                continue
            except ProtocolError as error:
                log.error("drop folder: %s is set aside: %s", path.name, error)
                await asyncio.to_thread(path.rename, path.with_name(f".bad-{path.name}"))
                SET_ASIDE.inc()
                continue
            await asyncio.to_thread(path.unlink)
            taken += 1
            TAKEN.inc()
        return taken


def calls_in(folder: Path) -> list[Path]:
    """The files of calls that wait, oldest first; OSError if the folder cannot be read."""
    dated = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if not path.name.startswith("."):
                dated.append((path.lstat().st_mtime_ns, path))
    return [path for _, path in sorted(dated)]


def read_call(path: Path, max_message_bytes: int) -> tuple[ScriptCall, float]:
    """One call, and when it was made.

    Raises:
        FileNotFoundError: it has been taken.
        ProtocolError: the file is no call.
    """
    # The descriptor is what is judged and read: a name may change its meaning.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ProtocolError(f"cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ProtocolError("not a plain file")
        if status.st_size > max_message_bytes:
            raise ProtocolError(f"{status.st_size} bytes are too many")
        parser = ScriptParser()
        message = parser.feed(file.read())
    request = parser.close()
    call = ScriptCall(
        args=request.args,
        env=request.env,
        peer=Peer(pid=0, uid=status.st_uid, gid=status.st_gid),
        message=message,
        accepted_at_s=0.0,
        wants_reply=False,
    )
    return call, status.st_mtime
