"""Many messages taught over a bounded number of connections, until somebody says stop."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from mailhooks.errors import DoveadmError, MailhooksError, RspamdUnavailable, SourceError
from mailhooks.retry import delay_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mailhooks.teacher import Result, Task

CONNECTIONS = 8
"""Learns at once, unless told otherwise."""

TRIES = 6
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 5.0


class Batch:
    """Many tasks over a bounded number of connections, one message a connection in memory.

    Args:
        handle: :meth:`Teacher.teach` or :meth:`Teacher.foresee`.
        report: told of each result, in the order in which they come.
        connections: tasks at once.
        sleep: waits between tries.
        rng: jitter of retries.
    """

    def __init__(
        self,
        handle: Callable[[Task], Awaitable[Result]],
        report: Callable[[Task, Result], None],
        *,
        connections: int = CONNECTIONS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._handle = handle
        self._report = report
        self._connections = connections
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._stop = asyncio.Event()
        self._turn = asyncio.Lock()
        self._error: MailhooksError | None = None
        self.problems: list[str] = []

    @property
    def stopped(self) -> bool:
        """Whether no further message is begun."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Begin no further message; those under way are finished."""
        self._stop.set()

    async def run(self, tasks: AsyncIterator[Task]) -> None:
        """Handle all tasks; mail that cannot be read ends up in :attr:`problems`.

        Raises:
            RspamdUnavailable: Rspamd stayed away through all tries; the rest was not begun.
            RspamdMisconfigured: likewise, at once.
            LedgerError: likewise, at once.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._connections):
                group.create_task(self._work(tasks))
        if self._error is not None:
            raise self._error

    async def _work(self, tasks: AsyncIterator[Task]) -> None:
        while (task := await self._next(tasks)) is not None:
            try:
                result = await self._patiently(task)
            except MailhooksError as error:
                self._error = self._error or error
                self.stop()
                return
            if result is not None:
                self._report(task, result)

    async def _next(self, tasks: AsyncIterator[Task]) -> Task | None:
        async with self._turn:
            if self.stopped:
                return None
            try:
                task = await anext(tasks, None)
            except (SourceError, DoveadmError) as error:
                self.problems += str(error).splitlines()
                return None
        # What was being read when somebody pressed Ctrl-C may be cut short.
        return None if self._stop.is_set() else task

    async def _patiently(self, task: Task) -> Result | None:
        """The result; None if somebody stopped us between two tries."""
        failures = 0
        while True:
            try:
                return await self._handle(task)
            except RspamdUnavailable:
                failures += 1
                if failures == TRIES:
                    raise
            if self.stopped:
                return None
            await self._sleep(
                delay_s(failures, first_s=FIRST_WAIT_S, cap_s=LONGEST_WAIT_S, rng=self._rng)
            )
