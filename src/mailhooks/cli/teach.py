"""``mailhooks learn``: teach messages from files, folders, Maildirs, mboxes or standard input."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

import click

from mailhooks.cli import common, lessons
from mailhooks.cli.tally import Tally, finish
from mailhooks.errors import SourceError
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.source import iter_messages
from mailhooks.teacher import Task

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from mailhooks.ledger import Ledger
    from mailhooks.source import FoundMessage

_STANDARD_INPUT: Literal["-"] = "-"
_READ_AT_ONCE_BYTES = 256 * 1024


@click.command(
    epilog="Example: mailhooks learn spam --user anna@example.org ~/Maildir/.Junk old.mbox.xz"
)
@click.argument("lesson", type=click.Choice([lesson.value for lesson in Lesson]))
@click.argument("paths", nargs=-1, required=True, metavar="PATH...|-")
@click.option(
    "--user",
    "-u",
    type=common.user_name,
    metavar="USER",
    help="Whose statistics learn.",
)
@click.option("--shared", is_flag=True, help="The statistics that all users share learn.")
@lessons.dry_run_option
@lessons.connections_option
@common.json_option
@click.pass_context
def learn(
    ctx: click.Context,
    *,
    lesson: str,
    paths: tuple[str, ...],
    user: str | None,
    shared: bool,
    dry_run: bool,
    connections: int,
    as_json: bool,
) -> None:
    """Teach one user's statistics, or the shared ones, that messages are spam, or ham.

    PATH is a message, a folder of messages, a Maildir, an mbox or a tar archive, compressed or
    not; - is standard input. What the user was taught before is passed over, so the same command
    can be run again after Ctrl-C or a failure.

    Exits with 0 if everything is learned or was known, 1 if something was refused or failed, 2 if
    the command was wrong, 130 after Ctrl-C.
    """
    settings = common.loaded(ctx)
    if shared is (user is not None):
        raise click.UsageError("say whose statistics learn: --user USER, or --shared")
    if shared and not settings.rspamd.shared_classifier:
        raise click.UsageError("there are no shared statistics: rspamd.shared_classifier is empty")
    pupil = SHARED_USER if user is None else user.lower()
    _see_that_all_exist(paths)
    stdin = _StandardInput()

    def tasks(_ledger: Ledger, tally: Tally) -> AsyncGenerator[Task, None]:
        return _tasks(paths, pupil, Lesson(lesson), stdin, tally)

    tally = lessons.run(
        settings,
        tasks,
        origin="hand",
        dry_run=dry_run,
        connections=connections,
        by_hand=True,
        on_stop=stdin.stop,
    )
    finish(tally, as_json=as_json, with_places=False)


async def _tasks(
    paths: tuple[str, ...], user: str, lesson: Lesson, stdin: _StandardInput, tally: Tally
) -> AsyncGenerator[Task, None]:
    """The messages of all paths; a path that cannot be read does not keep the next from it."""
    for path in paths:
        is_stdin = path == _STANDARD_INPUT
        found = iter_messages(
            _STANDARD_INPUT if is_stdin else Path(path), stdin=stdin.stream if is_stdin else None
        )
        ended, error = False, None
        # In a thread, for disks and pipes make one wait; some at once, for
        # going there and back takes longer than reading a usual message.
        while not ended:
            messages, error = await asyncio.to_thread(_some, found)
            ended = not messages or error is not None
            for message in messages:
                yield Task.of(user, lesson, path, message.name, message.raw)
        if error is not None and not tally.interrupted:
            tally.problems += str(error).splitlines()


def _some(found: Iterator[FoundMessage]) -> tuple[list[FoundMessage], SourceError | None]:
    """A few small messages, or one large one; none at the end; and why it ended, if not well."""
    messages: list[FoundMessage] = []
    size = 0
    try:
        while size < _READ_AT_ONCE_BYTES and (message := next(found, None)) is not None:
            messages.append(message)
            size += len(message.raw)
    except SourceError as error:
        return messages, error
    return messages, None


def _see_that_all_exist(paths: tuple[str, ...]) -> None:
    """Complain of a misspelt path before anything is learned.

    Raises:
        click.BadParameter: names it.
    """
    for path in paths:
        if path != _STANDARD_INPUT and not Path(path).exists():
            raise click.BadParameter(f"{path!r} does not exist", param_hint="PATH")


class _StandardInput:
    """Standard input whose reader Ctrl-C can wake while it waits for more."""

    def __init__(self) -> None:
        self._wake_reader, self._wake_writer = os.pipe()

    @property
    def stream(self) -> BinaryIO:
        """What to read from."""
        return cast("BinaryIO", io.BufferedReader(_Wakeable(sys.stdin.buffer, self._wake_reader)))

    def stop(self) -> None:
        """Have the reader fail, now or when it next reads."""
        os.write(self._wake_writer, b"\0")


class _Wakeable(io.RawIOBase):
    def __init__(self, source: BinaryIO, wake: int) -> None:
        super().__init__()
        self._source = source
        self._wake = wake

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            descriptor = self._source.fileno()
        except OSError:  # no real file, as in tests
            chunk = self._source.read(len(buffer))
        else:
            ready, _, _ = select.select([descriptor, self._wake], [], [])
            if self._wake in ready:
                # Not EINTR, after which the reader above would just try again.
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            chunk = os.read(descriptor, len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)
