"""How much each set of statistics has learned: read from Redis, remembered for a while."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mailhooks.errors import StatisticsError
from mailhooks.lesson import Lesson
from mailhooks.strand import result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Learned = Mapping[Lesson, int]

log = logging.getLogger("mailhooks.weights")

REMEMBERED_S = 30.0
"""Where much is learned already, a few learns more or less change a blend by little."""

YOUNG = 200
YOUNG_REMEMBERED_S = 1.0
"""Each learn counts as long as one class has fewer than ``YOUNG`` messages."""

MAX_REMEMBERED = 50_000


class Weights:
    """Counts of learned messages for a delivery; never fails, never holds one up for long.

    Args:
        count: asks Redis about a user; blocks, raises StatisticsError. None to assume ``least``.
        least: messages of each class that a classifier has learned at least once it
            speaks; assumed where Redis does not tell.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        count: Callable[[str], Learned] | None,
        least: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._least: Learned = dict.fromkeys(Lesson, least)
        self._clock = clock
        self._known: dict[str, tuple[float, Learned]] = {}
        self._complained = False
        # A thread of its own: Redis that hangs must not keep the spool's threads.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weights")

    def close(self) -> None:
        """Let go of the thread; harmless to repeat."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def forget(self, user: str) -> None:
        """Ask Redis the next time, since the user's statistics have just learned."""
        self._known.pop(user, None)

    async def of(self, user: str, timeout_s: float) -> Learned:
        """What the user's statistics have learned; ``SHARED_USER`` for the shared ones. A strand.

        Args:
            user: as in Rspamd's statistics.
            timeout_s: seconds to wait for Redis.
        """
        now = self._clock()
        known = self._known.get(user)
        if known is not None:
            is_young = min(known[1].values()) < YOUNG
            if now - known[0] < (YOUNG_REMEMBERED_S if is_young else REMEMBERED_S):
                return known[1]
        if self._count is None:
            return self._least
        try:
            asked = self._thread.submit(self._count, user)
            learned = await result(asked, time.monotonic() + timeout_s)
        except (TimeoutError, StatisticsError) as error:
            if not self._complained:
                reason = str(error) or "Redis does not answer"
                log.warning("blending without counts of learned messages: %s", reason)
            self._complained = True
            # An old count is nearer to the truth than none.
            learned = known[1] if known is not None else self._least
        else:
            self._complained = False
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[user] = (now, learned)
        return learned
