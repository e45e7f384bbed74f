"""What systemd hands a service and hears from it: sockets, secrets, readiness, signs of life.

Without systemd nothing is handed over and nothing is said. The protocols are
those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3), which other
supervisors speak too; none of them needs a library.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mailhooks.errors import MailhooksError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

log = logging.getLogger("mailhooks.systemd")

FIRST_FD: Final = 3
"""SD_LISTEN_FDS_START."""
SEND_S: Final = 1.0
"""A supervisor that does not read must not hold up the service for longer."""
PINGS: Final = 4
"""Signs of life within the time after which systemd takes the service for hung."""


def take_sockets(
    environ: MutableMapping[str, str] = os.environ, *, pid: int | None = None
) -> dict[str, socket.socket]:
    """The listening sockets that were handed to this process, by their names.

    The variables are removed, so that no child takes the sockets for its own.

    Args:
        environ: holds LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, or not.
        pid: this process; given by tests.

    Raises:
        MailhooksError: the variables contradict themselves, or a descriptor is no socket.
    """
    owner = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if owner != str(pid or os.getpid()):
        return {}
    if not count.isdecimal() or int(count) != len(names) or len(set(names)) != len(names):
        raise MailhooksError(
            f"LISTEN_FDS={count} does not go with LISTEN_FDNAMES={':'.join(names)}: each socket "
            "needs one name of its own (FileDescriptorName= in its unit)"
        )
    taken = {}
    for descriptor, name in enumerate(names, start=FIRST_FD):
        try:
            taken[name] = socket.socket(fileno=descriptor)
        except OSError as error:
            raise MailhooksError(
                f"LISTEN_FDNAMES: {name} is no socket (descriptor {descriptor}): {error.strerror}"
            ) from error
        os.set_inheritable(descriptor, False)
    return taken


def turn_away(sockets: Iterable[socket.socket]) -> int:
    """End every connection that waits on these sockets; returns how many.

    For a service that cannot start: its peers learn at once that there is no
    answer, and do not wait in a queue that systemd keeps open.
    """
    count = 0
    for listening in sockets:
        with suppress(OSError):  # nobody waits any more
            listening.setblocking(False)
            while True:
                listening.accept()[0].close()
                count += 1
    return count


def secret_file(path: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Where to read a secret from: the credential of the file's name, else the file itself.

    A unit's ``LoadCredential=keys:/etc/mailhooks/keys`` hands the service a copy
    of a file that only root may read; the settings name the same file for both.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    credential = Path(folder) / path.name
    try:
        return credential if folder and credential.is_file() else path
    except OSError:  # it is meant to be read, and whoever tries will say why it cannot be
        return credential


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Who started the service and wants to hear from it.

    Attributes:
        address: a datagram socket, ``/path`` or ``@abstract``; empty for nobody.
        watchdog_s: seconds of silence after which the service is killed and
            started again; 0 for never.
    """

    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ, *, pid: int | None = None) -> Supervisor:
        """The supervisor that NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID speak of."""
        address = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        watched = environ.get("WATCHDOG_PID", "") in ("", str(pid or os.getpid()))
        if not address.startswith(("/", "@")) or not usec.isdecimal() or not watched:
            usec = "0"
        return cls(address if address.startswith(("/", "@")) else "", int(usec) / 1e6)

    @property
    def ping_every_s(self) -> float:
        """Seconds between two signs of life; 0 if nobody waits for them."""
        return self.watchdog_s / PINGS

    def ready(self, status: str) -> None:
        """The service answers, for the first time or again after a reload."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The service reads its settings again; ``ready`` follows."""
        # CLOCK_MONOTONIC is what systemd compares with (Type=notify-reload).
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={usec}", "STATUS=reading the settings again")

    def stopping(self) -> None:
        """The service finishes what is under way."""
        self._tell("STOPPING=1", "STATUS=stopping")

    def alive(self) -> None:
        """The service makes progress."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        # A NUL in front makes a name abstract, unix(7).
        address = self.address.replace("@", "\0", 1) if self.address[0] == "@" else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_S)
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("the supervisor did not take %r: %s", lines[0], error)
