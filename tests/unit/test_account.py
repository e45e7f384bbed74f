from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mailhooks.account import Account, Limits, Part, chosen
from mailhooks.doveadm import AccountMailbox, Doveadm, Found
from mailhooks.ledger import Answer, Outcome, SqliteLedger
from mailhooks.lesson import Lesson, MailboxRoles
from mailhooks.message import content_digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator

USER = "Anna@example.org"
SPAM, HAM = Lesson.SPAM, Lesson.HAM


class FakeAccount:
    """An account in memory: mailbox -> message numbers; every search finds all of it."""

    def __init__(self, mailboxes: dict[str, list[int]]) -> None:
        self.mail = mailboxes
        self.queries: dict[str, list[str]] = {}

    async def mailboxes(self, _user: str) -> list[AccountMailbox]:
        return [AccountMailbox(name, name, len(uids)) for name, uids in self.mail.items()]

    async def search(
        self, _user: str, mailbox: AccountMailbox, query: Iterable[str]
    ) -> list[Found]:
        self.queries[mailbox.name] = list(query)
        return [Found(uid, 1000 + uid) for uid in self.mail[mailbox.name]]

    async def fetch(
        self, _user: str, _mailbox: AccountMailbox, uids: Iterable[int]
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        for uid in uids:
            yield uid, raw(uid)


def raw(number: int) -> bytes:
    return b"Subject: %d\n\nhello\n" % number


def account(fake: FakeAccount) -> Account:
    doveadm: Doveadm = fake  # type: ignore[assignment]
    return Account(doveadm, USER, MailboxRoles(), ("INBOX", "Archive"))


LIMITS = Limits(max_message_bytes=1000, ham_before=1_700_000_000)


async def planned(fake: FakeAccount, limits: Limits = LIMITS) -> dict[str, tuple[str, list[int]]]:
    return {
        part.mailbox.name: (part.lesson.value, [found.uid for found in part.found])
        for part in await account(fake).retrain_plan(limits)
    }


async def test_junk_is_spam_and_inbox_and_archive_are_ham() -> None:
    """With what lies below Junk and Archive; below INBOX lies anything."""
    names = ["Junk", "INBOX.Spam.old", "INBOX", "Archive/2024", "INBOX.archive", "INBOX/Friends"]
    names += ["Trash", "Sent", "Lists", "shared/bob/Junk", "Archived"]
    fake = FakeAccount({name: [1] for name in names})
    assert {name: lesson for name, (lesson, _) in (await planned(fake)).items()} == {
        "Junk": "spam",
        "INBOX.Spam.old": "spam",
        "INBOX": "ham",
        "Archive/2024": "ham",
        "INBOX.archive": "ham",
    }


async def test_only_read_and_settled_mail_is_ham() -> None:
    """Age and being read are asked of ham alone; keywords that contradict a mailbox of both."""
    fake = FakeAccount({"Junk": [1], "INBOX": [2]})
    await planned(fake, Limits(max_message_bytes=10, since=5, ham_before=1_700_000_000))
    ham, spam = " ".join(fake.queries["INBOX"]), " ".join(fake.queries["Junk"])
    for query in (ham, spam):
        assert query.startswith("UNDELETED NOT LARGER 10 SINCE 0000000005")
    assert "SEEN UNKEYWORD $Junk UNKEYWORD Junk BEFORE 1700000000" in ham
    assert "SEEN" not in spam
    assert "UNKEYWORD $NotJunk UNKEYWORD NonJunk" in spam


def parts(spam: list[int], inbox: list[int], archive: list[int]) -> list[Part]:
    return [
        Part(AccountMailbox(name, name, 0), lesson, tuple(Found(age, age) for age in ages))
        for name, lesson, ages in (
            ("Junk", SPAM, spam),
            ("INBOX", HAM, inbox),
            ("Archive", HAM, archive),
        )
    ]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, [[1, 2, 3, 4], [5, 7], [6]]),
        ({"most": 2}, [[3, 4], [7], [6]]),
        ({"balance": True}, [[2, 3, 4], [5, 7], [6]]),
        ({"balance": True, "most": 2}, [[3, 4], [7], [6]]),
        ({"balance": True, "most": 100}, [[2, 3, 4], [5, 7], [6]]),
    ],
)
def test_the_newest_of_each_class_are_chosen(
    limits: dict[str, Any], expected: list[list[int]]
) -> None:
    """Over all mailboxes of the class; --balance takes as many of one as of the other."""
    result = chosen(parts([1, 2, 3, 4], [5, 7], [6]), Limits(max_message_bytes=1, **limits))
    assert [[found.uid for found in part.found] for part in result] == expected


def test_balance_without_one_class_learns_nothing() -> None:
    """Equal numbers of nothing."""
    result = chosen(parts([1, 2], [], []), Limits(max_message_bytes=1, balance=True))
    assert all(not part.found for part in result)


async def test_a_copy_of_what_lies_in_junk_is_no_ham() -> None:
    """Spam comes first, whatever order Dovecot lists mailboxes in."""
    fake = FakeAccount({"INBOX": [1, 2], "Junk": [2, 3]})
    one = account(fake)
    tasks = [task async for task in one.tasks(await one.retrain_plan(LIMITS))]
    assert [(task.lesson, task.raw) for task in tasks] == [
        (SPAM, raw(2)),
        (SPAM, raw(3)),
        (HAM, raw(1)),
    ]
    assert {task.user for task in tasks} == {USER.lower()}


@pytest.fixture
def ledger() -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(":memory:")
    yield ledger
    ledger.close()


def taught(ledger: SqliteLedger, number: int, lesson: Lesson) -> None:
    ledger.record(
        Answer(
            user=USER.lower(),
            digest=content_digest(raw(number)),
            lesson=lesson,
            outcome=Outcome.LEARNED,
            origin="move",
            time=1.0,
        )
    )


async def differences(fake: FakeAccount, ledger: SqliteLedger) -> list[tuple[str, Lesson, bytes]]:
    found = account(fake).differences(ledger, Limits(max_message_bytes=1000), lambda _: None)
    return [(task.place, task.lesson, task.raw) async for task in found]


async def test_what_was_learned_as_spam_and_lies_elsewhere_was_moved_out(
    ledger: SqliteLedger,
) -> None:
    """Not into Trash, Sent or Drafts, and not if a copy is still in Junk."""
    for number in (2, 3, 4, 6):
        taught(ledger, number, SPAM)
    taught(ledger, 5, HAM)
    fake = FakeAccount({"INBOX": [2, 5, 6, 7], "Junk": [1, 2], "Trash": [3], "Friends": [4]})
    assert await differences(fake, ledger) == [
        ("Junk", SPAM, raw(1)),
        ("Junk", SPAM, raw(2)),
        ("INBOX", HAM, raw(6)),
        ("Friends", HAM, raw(4)),
    ]


async def test_without_any_spam_learned_only_junk_is_read(ledger: SqliteLedger) -> None:
    """Nothing can have been moved out, and reading a whole account takes its time."""
    taught(ledger, 1, HAM)
    fake = FakeAccount({"INBOX": [1, 2], "Junk": [3]})
    assert await differences(fake, ledger) == [("Junk", SPAM, raw(3))]
    assert "INBOX" not in fake.queries
