"""A live account read through ``doveadm``, whatever format its mailboxes have.

Messages come out byte for byte as they are stored. Of doveadm's formatters
only ``pager`` with the field ``text`` allows that: ``json`` and ``text.utf8``
replace what is not UTF-8, ``tab`` ends a message with nothing that could not
be in it. ``pager`` parts messages by a form feed, which a message may hold as
well, so the size decides where one ends. Should Dovecot be wrong about a size,
or stop at a damaged message, the rest is read one message a call, up to the
end of the output.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mailhooks.errors import DoveadmError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

# Exit codes of doveadm (doveadm-cmd / sysexits.h): no such mailbox, among others.
_NOT_FOUND = 68
_UIDS_AT_ONCE = 500
_MOST_PROBLEMS = 20
_REASON_CHARS = 300
_ONE_FIELDS = "text"
_MANY_FIELDS = "uid size.physical text"
_HEAD = re.compile(rb"\Auid: (\d+)\nsize\.physical: (\d+)\ntext:\n\Z")
_HEAD_END = b"\ntext:\n"
_SEPARATOR = b"\f\n"


@dataclass(frozen=True, slots=True)
class AccountMailbox:
    """A mailbox of an account: its name in Unicode, and the id that names it for certain."""

    name: str
    guid: str
    messages: int


@dataclass(frozen=True, slots=True)
class Found:
    """A message that a search found.

    Attributes:
        uid: within its mailbox.
        received: IMAP's internal date, seconds since the epoch.
    """

    uid: int
    received: int


class Doveadm:
    """Runs ``doveadm``; every method raises `mailhooks.errors.DoveadmError` when that fails.

    Args:
        command: the program with its first arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)

    async def users(self) -> list[str]:
        """Every user that Dovecot's user databases list."""
        output = await self._output("user", "*")
        return list(dict.fromkeys(_text(output).split("\n")[:-1]))

    async def mailboxes(self, user: str) -> list[AccountMailbox]:
        """Every mailbox of a user that exists; one merely announced by the configuration may not.

        Shared mailboxes are among them.
        """
        output = await self._output(
            "-f", "json", "mailbox", "status", "-u", _checked(user), "guid messages", "*"
        )
        return [
            AccountMailbox(str(row["mailbox"]), str(row["guid"]), int(row["messages"]))
            for row in _rows(output)
        ]

    async def search(self, user: str, mailbox: AccountMailbox, query: Iterable[str]) -> list[Found]:
        """The messages of a mailbox that match a query (doveadm-search-query(7)), oldest first."""
        output = await self._output(
            *("-f", "json", "fetch", "-u", _checked(user), "uid date.received.unixtime"),
            *("mailbox-guid", mailbox.guid, *query),
        )
        found = [
            Found(int(row["uid"]), int(row["date.received.unixtime"])) for row in _rows(output)
        ]
        return sorted(found, key=lambda each: (each.received, each.uid))

    async def fetch(
        self, user: str, mailbox: AccountMailbox, uids: Iterable[int]
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Messages as they are stored, by uid; those that have gone meanwhile are left out.

        What cannot be read does not keep the rest from being read: the error comes last.
        """
        ordered = iter(sorted(uids))
        problems: list[str] = []
        while batch := list(itertools.islice(ordered, _UIDS_AT_ONCE)):
            done = 0
            async with aclosing(self._stream(user, mailbox, batch)) as stream:
                async for uid, raw in stream:
                    done = uid
                    yield uid, raw
            # Almost always there is none: all were read, or the last ones have gone.
            for uid in [uid for uid in batch if uid > done]:
                try:
                    one = await self._one(user, mailbox, uid)
                except DoveadmError as error:
                    problems.append(str(error))
                    if len(problems) == _MOST_PROBLEMS:
                        raise DoveadmError("\n".join(problems)) from error
                    continue
                if one is not None:
                    yield uid, one
        if problems:
            raise DoveadmError("\n".join(problems))

    async def _stream(
        self, user: str, mailbox: AccountMailbox, uids: list[int]
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Messages one after another; ends early where a size turns out to be wrong.

        What is wrong for good shows again, as an error, when the rest is read one by one.
        """
        listed = ",".join(map(str, uids))
        arguments = ("-f", "pager", "fetch", "-u", _checked(user), _MANY_FIELDS)
        async with self._running(*arguments, *_chosen(mailbox, listed)) as process:
            assert process.stdout is not None  # noqa: S101 - told to be a pipe
            wanted = set(uids)
            while (record := await _record(process.stdout)) is not None:
                uid, raw = record
                # Each once, and asked for: else the "record" is part of a message.
                if uid not in wanted:
                    return
                wanted.remove(uid)
                yield uid, raw

    async def _one(self, user: str, mailbox: AccountMailbox, uid: int) -> bytes | None:
        output = await self._output(
            *("-f", "pager", "fetch", "-u", _checked(user), _ONE_FIELDS),
            *_chosen(mailbox, str(uid)),
        )
        head, _, raw = output.partition(b"text:\n")
        if head:
            raise DoveadmError(f"{self._command[0]} printed something unexpected: {head[:40]!r}")
        return raw or None

    async def _output(self, *arguments: str) -> bytes:
        async with self._running(*arguments, errors=asyncio.subprocess.PIPE) as process:
            output, errors = await process.communicate()
        # A mailbox that is not there, or went away meanwhile, holds no messages.
        if process.returncode not in (0, _NOT_FOUND):
            raise self._failed(process.returncode, errors)
        return output

    @asynccontextmanager
    async def _running(
        self, *arguments: str, errors: int = asyncio.subprocess.DEVNULL
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A running doveadm; it is killed if nobody wants the rest of its output."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                # Ctrl-C is for us: we stop reading when what is under way is finished.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DoveadmError(f"{self._command[0]} cannot be run: {reason}") from error
        try:
            yield process
        finally:
            # What has closed its output is about to end; killing it now would race with asyncio.
            if process.stdout is None or not process.stdout.at_eof():
                with suppress(ProcessLookupError):
                    process.kill()
            await process.wait()

    def _failed(self, code: int | None, errors: bytes) -> DoveadmError:
        lines = _text(errors).strip().splitlines()
        reason = lines[-1][:_REASON_CHARS] if lines else f"exit status {code}"
        return DoveadmError(f"{self._command[0]} failed: {reason}")


async def _record(output: asyncio.StreamReader) -> tuple[int, bytes] | None:
    """One message of a stream in pager format; None at the end, or where a size is wrong."""
    try:
        head = _HEAD.match(await output.readuntil(_HEAD_END))
        if head is None:
            return None
        uid, size = int(head[1]), int(head[2])
        raw = await output.readexactly(size)
        following = await output.read(1)
        if following:
            following += await output.readexactly(1)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None
    return (uid, raw) if following in (b"", _SEPARATOR) else None


def _chosen(mailbox: AccountMailbox, uids: str) -> tuple[str, ...]:
    # By id: in a name, doveadm takes * and % for wildcards.
    return ("mailbox-guid", mailbox.guid, "uid", uids)


def _checked(user: str) -> str:
    """A user that means one account.

    Raises:
        DoveadmError: doveadm would take it for a mask, and read other users' mail.
    """
    if not user or any(character in "*?\0\n" for character in user):
        raise DoveadmError(f"doveadm cannot name the user {user!r}")
    return user


def _rows(output: bytes) -> list[dict[str, Any]]:
    try:
        rows = json.loads(output or b"[]")
    except ValueError as error:
        raise DoveadmError(f"doveadm printed no JSON: {_text(output[:40])!r}") from error
    return list(rows)


def _text(output: bytes) -> str:
    return output.decode("utf-8", "backslashreplace")
