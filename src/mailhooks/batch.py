"""Many messages taught over a bounded number of connections, until somebody says stop.

They are taught in rounds. Within one, several of one class are under way at
once; at its end none is, so that what Redis counts can be compared with what
Rspamd said.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from mailhooks.errors import (
    DoveadmError,
    MailhooksError,
    RspamdUnavailable,
    SourceError,
    StatisticsError,
)
from mailhooks.retry import delay_s
from mailhooks.teacher import Done, Result, Settled, Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from mailhooks.lesson import Lesson

CONNECTIONS = 8
"""Learns at once, unless told otherwise."""

ROUND = 200
"""Messages between two looks at Redis' counts; an error throws no more back."""

TRIES = 6
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 5.0


async def _all_again(unclear: Collection[Task]) -> Settled:
    return Settled([], list(unclear))


def _drop(_unclear: Collection[Task]) -> None:
    pass


class Batch:
    """Handles tasks, one message a connection in memory.

    Args:
        handle: :meth:`Teacher.teach` or :meth:`Teacher.foresee`.
        report: told of each result, once it is proved or settled.
        prove: :meth:`Teacher.prove`, called while no task is under way; what was handled without
            an error is reported after it.
        settle: :meth:`Teacher.settle`, called after that for the rest.
        abandon: :meth:`Teacher.abandon`, called if the run ends with something unsettled.
        connections: tasks at once.
        sleep: waits between tries.
        rng: jitter of retries.
    """

    def __init__(
        self,
        handle: Callable[[Task], Awaitable[Result | None]],
        report: Callable[[Task, Result], None],
        *,
        prove: Callable[[Collection[Task]], None] = _drop,
        settle: Callable[[Collection[Task]], Awaitable[Settled]] = _all_again,
        abandon: Callable[[Collection[Task]], None] = _drop,
        connections: int = CONNECTIONS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._handle = handle
        self._report = report
        self._prove = prove
        self._settle = settle
        self._abandon = abandon
        self._connections = connections
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._stop = asyncio.Event()
        self._turn = asyncio.Lock()
        self._again: deque[Task] = deque()
        self._unclear: list[Task] = []
        self._results: list[tuple[Task, Result]] = []
        self._errors: list[MailhooksError] = []
        self._begun = 0
        self._lesson: Lesson | None = None
        self._turned = False
        self._ended = False
        self.problems: list[str] = []

    def stop(self) -> None:
        """Begin no further message; those under way are finished."""
        self._stop.set()

    async def run(self, tasks: AsyncIterator[Task]) -> None:
        """Handle all tasks; mail that cannot be read ends up in :attr:`problems`.

        Raises:
            RspamdUnavailable: Rspamd stayed away through all tries; the rest was not begun.
            StatisticsError: likewise Redis.
            RspamdMisconfigured: likewise, at once.
            LedgerError: likewise, at once.
        """
        try:
            await self._run(tasks)
        except BaseException:
            self._abandon(self._unclear)
            raise

    async def _run(self, tasks: AsyncIterator[Task]) -> None:
        failures = 0
        while not self._stop.is_set() and (self._again or not self._ended):
            self._begun, self._lesson, self._turned = 0, None, False
            async with asyncio.TaskGroup() as group:
                for _ in range(self._connections):
                    group.create_task(self._work(tasks))
            errors, self._errors = self._errors, []
            settled = await self._settled()
            if not errors:
                failures = 0
                continue
            for error in errors:
                if not isinstance(error, RspamdUnavailable | StatisticsError):
                    raise error
            failures = 1 if self._begun > len(settled.again) else failures + 1
            if failures == TRIES:
                raise errors[0]
            if not self._stop.is_set():
                await self._wait(failures)

    async def _work(self, tasks: AsyncIterator[Task]) -> None:
        while (task := await self._next(tasks)) is not None:
            try:
                result = await self._handle(task)
            except MailhooksError as error:
                self._unclear.append(task)
                self._errors.append(error)
            except asyncio.CancelledError:
                self._unclear.append(task)
                raise
            else:
                if result is None:
                    self._unclear.append(task)
                else:
                    # Without the message: a round may hold many large ones.
                    self._results.append((replace(task, raw=b""), result))

    async def _next(self, tasks: AsyncIterator[Task]) -> Task | None:
        async with self._turn:
            if self._stop.is_set() or self._errors or self._turned or self._begun == ROUND:
                return None
            task = self._again.popleft() if self._again else await self._read(tasks)
        # What was being read when somebody pressed Ctrl-C may be cut short.
        if task is None or self._stop.is_set():
            return None
        if self._errors:  # since the task was read
            self._again.append(task)
            return None
        if self._lesson not in (None, task.lesson):
            self._turned = True
            self._again.appendleft(task)
            return None
        self._lesson = task.lesson
        self._begun += 1
        return task

    async def _read(self, tasks: AsyncIterator[Task]) -> Task | None:
        if self._ended:
            return None
        try:
            task = await anext(tasks, None)
        except (SourceError, DoveadmError) as error:
            self.problems += str(error).splitlines()
            task = None
        self._ended = task is None
        return task

    async def _settled(self) -> Settled:
        """Settle the round and report its results; tasks to be handled again come first next."""
        failures = 0
        while True:
            try:
                self._prove(self._unclear)
                self._report_all()
                settled = await self._settle(self._unclear)
                break
            except StatisticsError:
                failures += 1
                if failures == TRIES:
                    raise
                await self._wait(failures)
        self._unclear = []
        self._results += [(task, Result(Done.LEARNED)) for task in settled.learned]
        self._report_all()
        self._again.extendleft(reversed(settled.again))
        return settled

    def _report_all(self) -> None:
        for task, result in self._results:
            self._report(task, result)
        self._results.clear()

    async def _wait(self, failures: int) -> None:
        await self._sleep(
            delay_s(failures, first_s=FIRST_WAIT_S, cap_s=LONGEST_WAIT_S, rng=self._rng)
        )
