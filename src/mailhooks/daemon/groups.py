"""Samples by user and message: what each group teaches, when it is due, and whose turn it is. Pure.

What was under way when a process died is a suspect: it comes last and alone, so
that no other sample is blamed if it kills this process, too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailhooks.daemon.schedule import Schedule
from mailhooks.ledger import DELIVERY

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.lesson import Lesson
    from mailhooks.spool import Entry, Label

Key = tuple[str, str]
"""User and digest."""


def key_of(entry: Entry) -> Key:
    """The group a sample belongs to."""
    return entry.label.user, entry.label.digest


def settled_lesson(entries: list[Entry]) -> Entry | None:
    """The sample of a group that is to be learned, or None if they cancel out.

    The user's last word wins, over deliveries too. If it takes the first move
    back, the message is where it was before, and there is nothing to learn,
    unless its delivery was a sample too: that one's lesson then still stands.
    A keyword that a client sets together with a move agrees with it, and one
    action is one lesson.

    Args:
        entries: one user's samples of one message, oldest first, not empty.
    """
    by_user = _by_user(entries)
    last = (by_user or entries)[-1]
    # Only a move or an append proves where the message was before; a keyword does not.
    placed = [entry for entry in by_user if entry.label.origin in ("move", "append")]
    first = (placed or by_user or entries)[0]
    if not by_user or first.label.lesson is last.label.lesson:
        return last
    delivered = [entry for entry in entries if entry.label.origin == DELIVERY]
    return delivered[-1] if delivered else None


def _by_user(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.label.origin != DELIVERY]


@dataclass(slots=True)
class _Group:
    entries: list[Entry] = field(default_factory=list)
    failures: int = 0


class Groups:
    """All samples that wait or are under way.

    Args:
        settle_s: how long a sample waits for the user to change their mind, in seconds.
    """

    def __init__(self, settle_s: Callable[[Label], float]) -> None:
        self._settle_s = settle_s
        self._groups: dict[Key, _Group] = {}
        self._schedule: Schedule[Key] = Schedule()
        self._suspects: Schedule[Key] = Schedule()
        self._suspected: set[str] = set()
        self._busy: set[Key] = set()
        self._delivered: Counter[tuple[str, Lesson]] = Counter()
        self.names: set[str] = set()

    @property
    def oldest(self) -> float | None:
        """When the user acted whose sample waits longest; None without one."""
        # The entries of a group are sorted, and there may be very many groups.
        return min((each.entries[0].label.received for each in self._groups.values()), default=None)

    def suspect(self, names: set[str]) -> None:
        """From now on treat these samples as suspects."""
        self._suspected |= names

    def is_suspect(self, entry: Entry) -> bool:
        """Whether a sample was under way when a process died."""
        return entry.name in self._suspected

    def add(self, entry: Entry) -> bool:
        """Have a sample come up once it has settled; returns False if it is there already."""
        if entry.name in self.names:
            return False
        self.names.add(entry.name)
        self._count_delivered(entry, 1)
        key = key_of(entry)
        group = self._groups.setdefault(key, _Group())
        group.entries.append(entry)
        # By when the user acted: a call out of the drop folder comes late.
        group.entries.sort(key=lambda each: (each.label.received, each.name))
        group.failures = 0
        if key not in self._busy:
            self._put(key, self._settled_at(group))
        return True

    def delivered(self, user: str, lesson: Lesson) -> int:
        """How many of a user's deliveries wait to train as one class."""
        return self._delivered[user, lesson]

    def start_due(self, now: float, connections: int) -> tuple[list[Key], float | None]:
        """Groups that are to be handled now; each is under way until :meth:`end` or :meth:`fail`.

        Args:
            now: seconds since the epoch.
            connections: groups under way at once.

        Returns:
            Which, and the seconds until there is more to do; None if something must happen first.
        """
        started: list[Key] = []
        alone = bool(self._suspected) and any(self._has_suspect(key) for key in self._busy)
        while not alone and len(self._busy) < connections:
            # One after another for each user, or Redis' count could not tell which it was.
            key = self._schedule.pop(now, {user for user, _ in self._busy})
            if key is None:
                break
            self._busy.add(key)
            started.append(key)
        if self._busy:
            return started, self._schedule.wait_s(now) or None
        if (key := self._suspects.pop(now)) is not None:
            self._busy.add(key)
            return [key], None
        waits = [w for s in (self._schedule, self._suspects) if (w := s.wait_s(now)) is not None]
        return started, min(waits, default=None)

    def entries(self, key: Key) -> list[Entry]:
        """The samples of a group, oldest first."""
        return list(self._groups[key].entries)

    def end(self, key: Key, entries: list[Entry]) -> None:
        """Forget samples that were handled; what came meanwhile comes up by itself."""
        group = self._groups[key]
        for entry in entries:
            group.entries.remove(entry)
            self.names.discard(entry.name)
            self._count_delivered(entry, -1)
            self._suspected.discard(entry.name)
        self._busy.discard(key)
        if group.entries:
            self._put(key, self._settled_at(group))
        else:
            del self._groups[key]

    def failures(self, key: Key) -> int:
        """Count one more failure of a group; returns how many in a row there were."""
        self._groups[key].failures += 1
        return self._groups[key].failures

    def again(self, key: Key, not_before: float) -> None:
        """Have a group that is no longer under way come up again."""
        self._busy.discard(key)
        self._put(key, max(not_before, self._settled_at(self._groups[key])))

    def _count_delivered(self, entry: Entry, step: int) -> None:
        if entry.label.origin != DELIVERY:
            return
        key = entry.label.user, entry.label.lesson
        self._delivered[key] += step
        if not self._delivered[key]:
            del self._delivered[key]

    def _settled_at(self, group: _Group) -> float:
        # What a user says waits for their next word only, and not as long as a delivery would.
        decisive = (_by_user(group.entries) or group.entries)[-1].label
        return decisive.received + self._settle_s(decisive)

    def _put(self, key: Key, due: float) -> None:
        # In one of the two only: a group may become a suspect while it waits.
        self._schedule.discard(key)
        self._suspects.discard(key)
        (self._suspects if self._has_suspect(key) else self._schedule).put(key, key[0], due)

    def _has_suspect(self, key: Key) -> bool:
        if not self._suspected:  # nearly always
            return False
        group = self._groups.get(key)
        return group is not None and any(map(self.is_suspect, group.entries))
