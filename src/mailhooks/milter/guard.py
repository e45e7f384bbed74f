"""Tells the supervisor that the milter answers: at first, and again and again.

libmilter has the main thread, in C, so a thread of its own does what Postfix
would do: it connects and negotiates. A milter that is stopped, has no threads
left or hangs while it accepts does not answer, and the supervisor hears nothing.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from mailhooks.negotiation import negotiates

if TYPE_CHECKING:
    from mailhooks.systemd import Supervisor

log = logging.getLogger("mailhooks.milter")

START_POLL_S: Final = 0.1
ANSWER_S: Final = 2.0


def answers(address: str, timeout_s: float = ANSWER_S) -> bool:
    """Whether a milter answers at an address in libmilter's notation."""
    try:
        return negotiates(address, timeout_s)
    except OSError:
        return False


class Guard:
    """Watches one milter of this process until :meth:`stop`.

    Args:
        address: of the milter, in libmilter's notation.
        supervisor: is told.
    """

    def __init__(self, address: str, supervisor: Supervisor) -> None:
        self._address = address
        self._supervisor = supervisor
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)

    def start(self) -> None:
        """Begin, if there is anybody to tell."""
        if self._supervisor.address:
            self._thread.start()

    def stop(self) -> None:
        """Say no more than that the milter stops."""
        self._stopped.set()
        self._supervisor.stopping()

    def _watch(self) -> None:
        while not answers(self._address):
            if self._stopped.wait(START_POLL_S):
                return
        self._supervisor.ready(f"listening on {self._address}")
        every_s = self._supervisor.ping_every_s
        while every_s and not self._stopped.wait(every_s):
            if answers(self._address, every_s):
                self._supervisor.alive()
            else:
                log.error("no answer at %s, the watchdog may end the milter", self._address)
