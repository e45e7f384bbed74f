"""What a live account teaches: which of its mailboxes and messages, and as what.

``retrain`` takes Junk as spam, and read mail that nobody threw out in time as
ham. ``reconcile`` compares where messages lie with what the ledger says they
were taught as, and teaches the difference.
"""

from __future__ import annotations

import unicodedata
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mailhooks.errors import DoveadmError
from mailhooks.lesson import Lesson, Role
from mailhooks.teacher import Task

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from mailhooks.doveadm import AccountMailbox, Doveadm, Found
    from mailhooks.ledger import Ledger
    from mailhooks.lesson import MailboxRoles

# What a user said by keyword counts wherever the message lies.
_NOT_JUNK_FLAGGED = ("UNKEYWORD", "$Junk", "UNKEYWORD", "Junk")
_NOT_HAM_FLAGGED = ("UNKEYWORD", "$NotJunk", "UNKEYWORD", "NonJunk")


@dataclass(frozen=True, slots=True)
class Part:
    """Messages of one mailbox that teach one thing; ``found`` is in order of arrival."""

    mailbox: AccountMailbox
    lesson: Lesson
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Which messages are meant.

    Attributes:
        max_message_bytes: larger ones are left out.
        since: received since then, seconds since the epoch; None for all.
        ham_before: likewise, ham received before then.
        most: of each class, the newest that many; None for all.
        balance: as many of one class as of the other, the newest.
    """

    max_message_bytes: int
    since: float | None = None
    ham_before: float | None = None
    most: int | None = None
    balance: bool = False


class Account:
    """One user's mail; what of it could not be read is in :attr:`problems`.

    Args:
        doveadm: reads it.
        name: the user, as Dovecot spells it.
        roles: which mailboxes are Junk and so on.
        ham_mailboxes: names of mailboxes whose read mail is good.
    """

    def __init__(
        self, doveadm: Doveadm, name: str, roles: MailboxRoles, ham_mailboxes: Iterable[str]
    ) -> None:
        self.name = name
        self.user = name.lower()
        self.problems: list[str] = []
        self._doveadm = doveadm
        self._roles = roles
        self._ham_mailboxes = [_folded(mailbox) for mailbox in ham_mailboxes]

    async def retrain_plan(self, limits: Limits) -> list[Part]:
        """What there is to learn: one part a mailbox, those without any message too.

        Raises:
            DoveadmError: the account cannot be read.
        """
        parts = []
        for mailbox in await self._own_mailboxes():
            query = list(_query(limits))
            if self._roles.role(mailbox.name) is Role.JUNK:
                lesson = Lesson.SPAM
                query += _NOT_HAM_FLAGGED
            elif self._is_for_ham(mailbox):
                lesson = Lesson.HAM
                query += ["SEEN", *_NOT_JUNK_FLAGGED]
                if limits.ham_before is not None:
                    query += ["BEFORE", _timestamp(limits.ham_before)]
            else:
                continue
            found = await self._doveadm.search(self.name, mailbox, query)
            parts.append(Part(mailbox, lesson, tuple(found)))
        return chosen(parts, limits)

    async def tasks(self, parts: Sequence[Part]) -> AsyncGenerator[Task, None]:
        """The messages of a plan, spam first; a copy of a message in Junk is no ham.

        Raises:
            DoveadmError: the account cannot be read.
        """
        spam: set[str] = set()
        for part in sorted(parts, key=lambda each: each.lesson is not Lesson.SPAM):
            async with aclosing(self._read(part)) as messages:
                async for task in messages:
                    if part.lesson is Lesson.SPAM:
                        spam.add(task.digest)
                    elif task.digest in spam:
                        continue
                    yield task

    async def differences(
        self, ledger: Ledger, limits: Limits, look: Callable[[Part], None]
    ) -> AsyncGenerator[Task, None]:
        """What lies in Junk; then, as ham, what lies elsewhere and was learned as spam.

        Trash, Sent and Drafts are left out: moving a message there says nothing.

        Args:
            ledger: what was taught.
            limits: which messages to look at.
            look: told of every mailbox, with the messages to be looked at.

        Raises:
            DoveadmError: the account cannot be read.
            LedgerError: the ledger cannot be read.
        """
        known = ledger.counts(self.user)
        any_spam = self.user in known and known[self.user].spam > 0
        mailboxes = await self._own_mailboxes()
        in_junk: set[str] = set()
        for lesson, role in ((Lesson.SPAM, Role.JUNK), (Lesson.HAM, Role.OTHER)):
            if lesson is Lesson.HAM and not any_spam:
                continue  # nothing can have been moved out
            flags = _NOT_HAM_FLAGGED if lesson is Lesson.SPAM else _NOT_JUNK_FLAGGED
            for mailbox in mailboxes:
                if self._roles.role(mailbox.name) is not role:
                    continue
                query = [*_query(limits), *flags]
                found = await self._doveadm.search(self.name, mailbox, query)
                part = Part(mailbox, lesson, tuple(found))
                look(part)
                async with aclosing(self._read(part)) as messages:
                    async for task in messages:
                        if lesson is Lesson.SPAM:
                            in_junk.add(task.digest)
                        elif task.digest in in_junk or not _is_spam(ledger, task):
                            continue
                        yield task

    async def _own_mailboxes(self) -> list[AccountMailbox]:
        """Without those that other users share: nobody knows here who moved what in them."""
        return [
            mailbox
            for mailbox in await self._doveadm.mailboxes(self.name)
            if self._roles.owner(mailbox.name, self.user) in (None, self.user)
        ]

    def _is_for_ham(self, mailbox: AccountMailbox) -> bool:
        if self._roles.role(mailbox.name) is not Role.OTHER:
            return False
        name = _folded(mailbox.name)
        return any(
            name == each or (name.startswith(each) and name[len(each)] in "/." and each != "inbox")
            for each in self._ham_mailboxes
        )

    async def _read(self, part: Part) -> AsyncGenerator[Task, None]:
        place = part.mailbox.name
        uids = [found.uid for found in part.found]
        async with aclosing(self._doveadm.fetch(self.name, part.mailbox, uids)) as messages:
            try:
                async for uid, raw in messages:
                    # Named by the account, too, since one run may read many.
                    name = f"{self.name} {place} uid {uid}"
                    yield Task.of(self.user, part.lesson, place, name, raw)
            except DoveadmError as error:
                # One damaged message or mailbox does not keep the others from being read.
                self.problems += str(error).splitlines()


def chosen(parts: Sequence[Part], limits: Limits) -> list[Part]:
    """The newest messages that the limits allow, over all mailboxes of a class. Pure."""
    have = dict.fromkeys(Lesson, 0)
    for part in parts:
        have[part.lesson] += len(part.found)
    most = {lesson: count if limits.most is None else limits.most for lesson, count in have.items()}
    if limits.balance:
        least = min(min(have[lesson], most[lesson]) for lesson in Lesson)
        most = dict.fromkeys(Lesson, least)
    result = list(parts)
    for lesson in Lesson:
        dated = [
            (found.received, number, found.uid)
            for number, part in enumerate(parts)
            if part.lesson is lesson
            for found in part.found
        ]
        kept = {entry[1:] for entry in sorted(dated, reverse=True)[: most[lesson]]}
        for number, part in enumerate(parts):
            if part.lesson is lesson:
                left = tuple(found for found in part.found if (number, found.uid) in kept)
                result[number] = replace(part, found=left)
    return result


def _query(limits: Limits) -> Iterable[str]:
    yield from ("UNDELETED", "NOT", "LARGER", str(limits.max_message_bytes))
    if limits.since is not None:
        yield from ("SINCE", _timestamp(limits.since))


def _timestamp(seconds: float) -> str:
    # doveadm knows a Unix time by its ten digits (doveadm-search-query(7)).
    return f"{max(0, int(seconds)):010d}"


def _is_spam(ledger: Ledger, task: Task) -> bool:
    taught = ledger.taught(task.user, task.digest)
    return taught is not None and taught.held is Lesson.SPAM


def _folded(mailbox: str) -> str:
    """A mailbox's name for comparing, without the prefix of the personal namespace."""
    name = unicodedata.normalize("NFC", mailbox).casefold()
    for prefix in ("inbox/", "inbox."):
        name = name.removeprefix(prefix)
    return name
