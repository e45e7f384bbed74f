"""What is to be done next: when it is due, and users taking turns. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Schedule(Generic[K]):
    """Keys that become due; of those that are due, every user's earliest one comes in turn.

    Putting, popping and waiting cost O(log n), so that one user's ten thousand
    samples slow nothing down.
    """

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._users: dict[K, str] = {}
        self._later: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._ready: dict[str, list[tuple[float, int, K]]] = {}
        self._turns: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._due)

    def put(self, key: K, user: str, due: float) -> None:
        """Have a key come up at a time; a second call for the same key moves it."""
        self._due[key] = due
        self._users[key] = user
        heapq.heappush(self._later, (due, next(self._order), key))

    def discard(self, key: K) -> None:
        """Forget a key, if it is there."""
        if key in self._due:
            del self._due[key], self._users[key]

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
                due, _, key = heapq.heappop(waiting)
                # Else it was moved since it became due, and is there again.
                if self._due.get(key) == due:
                    del self._due[key], self._users[key]
                    self._end_turn(user)
                    return key
            self._end_turn(user)
        return None

    def _end_turn(self, user: str) -> None:
        if self._ready[user]:
            self._turns.append(user)
        else:
            del self._ready[user]

    def wait_s(self, now: float) -> float | None:
        """Seconds until something is due: 0 if it is, None if nothing is there."""
        self._collect(now)
        if any(self._due.get(key) == due for each in self._ready.values() for due, _, key in each):
            return 0.0
        return max(0.0, self._later[0][0] - now) if self._later else None

    def _collect(self, now: float) -> None:
        """Move what has become due from the heap to its user's queue."""
        while self._later and (
            self._later[0][0] <= now or self._due.get(self._later[0][2]) != self._later[0][0]
        ):
            item = heapq.heappop(self._later)
            due, _, key = item
            if self._due.get(key) != due:
                continue
            user = self._users[key]
            if user not in self._ready:
                self._ready[user] = []
                self._turns.append(user)
            heapq.heappush(self._ready[user], item)
