"""From the spool to Rspamd: settle, coalesce, learn, retry, until nothing is left.

Samples of one user and one message form a group. A group is due when its last
sample has settled; then its last lesson is learned, once. A user's move that
another move took back within that time teaches nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailhooks.errors import RspamdMisconfigured, RspamdUnavailable, SpoolError
from mailhooks.lesson import Lesson
from mailhooks.retry import delay_s
from mailhooks.spool import Entry, Label, Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.config import LearningSettings
    from mailhooks.rspamd import RspamdClient

log = logging.getLogger("mailhooks.learn")

Key = tuple[str, str]


def settled_lesson(entries: list[Entry]) -> Entry | None:
    """The sample of a group that is to be learned, or None if they cancel out. Pure.

    The last one wins. If it takes the first move back, the message is where it
    was before, and there is nothing to learn, unless its delivery was a sample
    too: that one's lesson, ham, then still stands.

    Args:
        entries: one user's samples of one message, oldest first, not empty.
    """
    last = entries[-1]
    moves = [entry for entry in entries if entry.label.origin == "move"]
    if not moves or moves[0].label.lesson is last.label.lesson:
        return last
    delivered = [entry for entry in entries if entry.label.origin == "delivery"]
    return delivered[-1] if delivered else None


@dataclass(slots=True)
class _Group:
    entries: list[Entry] = field(default_factory=list)
    due: float = 0.0
    failures: int = 0


class Samples:
    """Takes samples, and learns them in the background.

    Args:
        spool: durable storage.
        rspamd: learns.
        settings: settle time, retries, connections.
        clock: seconds since the epoch.
        rng: jitter of retries.
    """

    def __init__(
        self,
        spool: Spool,
        rspamd: RspamdClient,
        settings: LearningSettings,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._spool = spool
        self._rspamd = rspamd
        self._settings = settings
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._groups: dict[Key, _Group] = {}
        self._busy: set[Key] = set()
        self._changed = asyncio.Event()

    async def load(self) -> int:
        """Prepare the spool and find what an earlier run left in it; returns how many.

        Raises:
            SpoolError: the spool cannot be used.
        """

        def read() -> list[Entry]:
            self._spool.prepare()
            return list(self._spool.entries())

        entries = await asyncio.to_thread(read)
        for entry in entries:
            self._add(entry)
        return len(entries)

    async def take(
        self, user: str, lesson: Lesson, digest: str, origin: str, message: bytes
    ) -> None:
        """Make a sample durable and let the worker know.

        Raises:
            SpoolError: it is not durable, and the caller still owns it.
        """
        label = Label(
            user=user, lesson=lesson, digest=digest, origin=origin, received=self._clock()
        )
        self._add(await asyncio.to_thread(self._spool.put, label, message))

    @property
    def waiting(self) -> int:
        """Samples not yet learned."""
        return sum(len(group.entries) for group in self._groups.values())

    async def run(self) -> None:
        """Learn for ever; cancel to stop. Samples that are not finished stay in the spool."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                wait_s = self._start_due(tasks)
                try:
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def _add(self, entry: Entry) -> None:
        group = self._groups.setdefault((entry.label.user, entry.label.digest), _Group())
        group.entries.append(entry)
        group.entries.sort(key=lambda each: each.name)
        group.due = max(group.due, entry.label.received + self._settings.settle_s)
        group.failures = 0
        self._changed.set()

    def _start_due(self, tasks: asyncio.TaskGroup) -> float | None:
        """Start what is due, as far as connections allow.

        Users take turns: of the due groups, one of the user with the fewest
        learns under way comes first. Returns seconds until the next group is
        due, None if nothing is waiting for time alone.
        """
        now = self._clock()
        due = [k for k, group in self._groups.items() if k not in self._busy and group.due <= now]
        due.sort(key=lambda key: self._groups[key].entries[0].name)
        while due and len(self._busy) < self._settings.connections:
            at_work = [user for user, _ in self._busy]
            key = min(due, key=lambda each: at_work.count(each[0]))
            due.remove(key)
            self._busy.add(key)
            tasks.create_task(self._learn_group(key))
        later = [
            g.due - now for k, g in self._groups.items() if k not in self._busy and g.due > now
        ]
        return max(0.0, min(later)) if later else None

    async def _learn_group(self, key: Key) -> None:
        """Learn one group; nothing that goes wrong here stops the worker or loses a sample."""
        group = self._groups[key]
        entries = list(group.entries)
        try:
            await self._learn(key[0], entries)
        except RspamdMisconfigured as error:
            self._postpone(key, logging.ERROR, f"kept until Rspamd's settings are right: {error}")
        except (RspamdUnavailable, SpoolError) as error:
            self._postpone(key, logging.WARNING, f"kept: {error}")
        except Exception:
            log.exception("user=%s: sample %.12s: unexpected failure", *key)
            self._postpone(key, logging.ERROR, "kept: unexpected failure")
        else:
            group.entries = [entry for entry in group.entries if entry not in entries]
            if not group.entries:
                del self._groups[key]
        finally:
            self._busy.discard(key)
            self._changed.set()

    async def _learn(self, user: str, entries: list[Entry]) -> None:
        chosen = settled_lesson(entries)
        if chosen is None:
            log.info("user=%s: sample %.12s: taken back", user, entries[-1].label.digest)
        else:
            message = await asyncio.to_thread(self._spool.message, chosen)
            lesson = chosen.label.lesson
            learn = self._rspamd.learn_spam if lesson is Lesson.SPAM else self._rspamd.learn_ham
            # A user's own word counts even where the statistics already agree by
            # 95 %; a mere delivery adds nothing there, and Rspamd may refuse it.
            result = await learn(message, user=user, bulk=chosen.label.origin != "delivery")
            log.info(
                "user=%s: sample %.12s as %s: %s",
                user,
                chosen.label.digest,
                lesson.value,
                result.status.value,
            )
        for entry in entries:
            await asyncio.to_thread(self._spool.remove, entry)

    def _postpone(self, key: Key, level: int, reason: str) -> None:
        group = self._groups[key]
        group.failures += 1
        wait_s = delay_s(
            group.failures,
            first_s=self._settings.retry_first_s,
            cap_s=self._settings.retry_cap_s,
            rng=self._rng,
        )
        group.due = self._clock() + wait_s
        log.log(
            level, "user=%s: sample %.12s: %s; next try in %.0f s", key[0], key[1], reason, wait_s
        )
