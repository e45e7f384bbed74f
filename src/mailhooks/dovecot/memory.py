"""A bound on the input of all calls held at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Share:
    """One call's part of the memory; empty until ``MessageMemory.grow``."""

    held_bytes: int = 0
    waiter: asyncio.Future[None] | None = None


class MessageMemory:
    """Counts the input of calls; makes them wait while there is too much.

    The oldest call with a share never waits. It ends in bounded time and hands
    the privilege on, so calls that wait for one another cannot block for ever.
    The bytes held are therefore at most the limit, one whole message, and one
    piece for each connection (pieces are counted once they have been read).

    Attributes:
        held_bytes: bytes of all shares now.
        peak_bytes: the largest ``held_bytes`` so far.
    """

    def __init__(self, limit_bytes: int, piece_bytes: int) -> None:
        self.held_bytes = 0
        self.peak_bytes = 0
        self._limit_bytes = limit_bytes
        self._piece_bytes = piece_bytes
        self._shares: dict[Share, None] = {}  # oldest first
        self._waiting = 0

    async def grow(self, share: Share, size_bytes: int) -> None:
        """Count a piece just read and return when the next one may be read.

        Args:
            share: the call's share.
            size_bytes: size of the piece.
        """
        self._shares.setdefault(share)
        share.held_bytes += size_bytes
        self.held_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        while self.held_bytes > self._limit_bytes and share is not next(iter(self._shares)):
            share.waiter = asyncio.get_running_loop().create_future()
            self._waiting += 1
            try:
                await share.waiter
            finally:
                self._waiting -= 1
                share.waiter = None

    def release(self, share: Share) -> None:
        """Give all bytes of a call back; a second time does nothing.

        Args:
            share: the call's share.
        """
        self.held_bytes -= share.held_bytes
        share.held_bytes = 0
        self._shares.pop(share, None)
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        room_bytes = self._limit_bytes - self.held_bytes
        for position, share in enumerate(self._shares):
            if position and room_bytes < 0:
                return
            if share.waiter is not None and not share.waiter.done():
                share.waiter.set_result(None)
                room_bytes -= self._piece_bytes
