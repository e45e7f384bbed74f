"""What is to be done next: when it is due, and users taking turns. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_Item = tuple[float, int, K, str]
"""When it is due, the order of the calls, key and user; ten thousand may wait."""


class Schedule(Generic[K]):
    """Keys that become due; of those that are due, every user's earliest one comes in turn.

    Putting, popping and waiting cost O(log n), so that one user's ten thousand
    samples slow nothing down.
    """

    def __init__(self) -> None:
        self._items: dict[K, _Item[K]] = {}
        self._later: list[_Item[K]] = []
        self._order = itertools.count()
        self._ready: dict[str, list[_Item[K]]] = {}
        self._turns: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, key: K, user: str, due: float) -> None:
        """Have a key come up at a time; a second call for the same key moves it."""
        item = self._items[key] = due, next(self._order), key, user
        heapq.heappush(self._later, item)

    def discard(self, key: K) -> None:
        """Forget a key, if it is there."""
        self._items.pop(key, None)

    def pop(self, now: float, busy: Collection[str] = ()) -> K | None:
        """Take the next key that is due, or None if there is none.

        Args:
            now: the time, as in :meth:`put`.
            busy: users whose turn is passed over.
        """
        self._collect(now)
        for _ in range(len(self._turns)):
            user = self._turns.popleft()
            if user in busy:
                self._turns.append(user)
                continue
            waiting = self._ready[user]
            while waiting:
                item = heapq.heappop(waiting)
                if self._is_there(item):
                    del self._items[item[2]]
                    self._end_turn(user)
                    return item[2]
            self._end_turn(user)
        return None

    def _is_there(self, item: _Item[K]) -> bool:
        """Whether a key was neither forgotten nor moved since it was put there."""
        return self._items.get(item[2]) is item

    def _end_turn(self, user: str) -> None:
        if self._ready[user]:
            self._turns.append(user)
        else:
            del self._ready[user]

    def wait_s(self, now: float) -> float | None:
        """Seconds until something is due: 0 if it is, None if nothing is there."""
        self._collect(now)
        if any(self._is_there(item) for each in self._ready.values() for item in each):
            return 0.0
        return max(0.0, self._later[0][0] - now) if self._later else None

    def _collect(self, now: float) -> None:
        """Move what has become due from the heap to its user's queue."""
        while self._later and (self._later[0][0] <= now or not self._is_there(self._later[0])):
            item = heapq.heappop(self._later)
            if not self._is_there(item):
                continue
            user = item[3]
            if user not in self._ready:
                self._ready[user] = []
                self._turns.append(user)
            heapq.heappush(self._ready[user], item)
