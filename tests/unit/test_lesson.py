from __future__ import annotations

import re
import unicodedata
from itertools import product

import pytest

from mailhooks.lesson import (
    USUAL_NAMES,
    Appended,
    Change,
    Event,
    Flagged,
    Lesson,
    MailboxRoles,
    Moved,
    Role,
    lesson_of,
    shared_pattern,
)

SPAM, HAM = Lesson.SPAM, Lesson.HAM
SAME, SET, CLEARED = Change.SAME, Change.SET, Change.CLEARED
ROLES = MailboxRoles()

MOVES = [
    # into Junk
    ("INBOX", "Junk", SPAM),
    ("Archive/2026", "Junk", SPAM),
    ("Lists.python", "Junk", SPAM),
    ("Trash", "Junk", SPAM),
    ("INBOX", "Junk/old", SPAM),
    # out of Junk
    ("Junk", "INBOX", HAM),
    ("Junk", "Archive", HAM),
    ("Junk", "Friends", HAM),
    ("Junk/old", "Archive/2026", HAM),
    ("Spam", "inbox", HAM),
    # thrown away
    ("Junk", "Trash", None),
    ("Junk", "Trash/2026", None),
    ("Junk/old", "Deleted Items", None),
    ("INBOX", "Trash", None),
    ("Trash", "INBOX", None),
    ("Trash", "Trash", None),
    ("Trash", "Deleted Items", None),
    # within Junk
    ("Junk", "Junk", None),
    ("Junk", "Junk/old", None),
    ("Junk/old", "Junk", None),
    ("Junk", "Spam", None),
    # the user's own words
    ("Sent", "Junk", None),
    ("Drafts", "Junk", None),
    ("Junk", "Sent", None),
    ("Junk", "Drafts/letters", None),
    ("Drafts", "Sent", None),
    # neither
    ("INBOX", "Archive", None),
    ("INBOX", "INBOX", None),
    ("INBOX", "Junkyard", None),
    ("Junkyard", "INBOX", None),
    ("INBOX", "Archive/Junk", None),
    ("Junk mail of 2026", "INBOX", None),
]


@pytest.mark.parametrize(("source", "destination", "lesson"), MOVES)
def test_what_a_move_teaches(source: str, destination: str, lesson: Lesson | None) -> None:
    """Into Junk is spam, out of it is ham, and throwing away is neither."""
    assert lesson_of(Moved(source, destination), ROLES) is lesson


@pytest.mark.parametrize(
    ("mailbox", "lesson"),
    [
        ("Junk", SPAM),
        ("Spam/2026", SPAM),
        ("INBOX", None),
        ("Sent", None),
        ("Trash", None),
        ("Drafts", None),
    ],
)
def test_what_an_append_teaches(mailbox: str, lesson: Lesson | None) -> None:
    """A client that stores a message in Junk calls it spam; elsewhere it says nothing."""
    assert lesson_of(Appended(mailbox), ROLES) is lesson


FLAGS = [
    ("INBOX", SET, SAME, SPAM),
    ("INBOX", SAME, SET, HAM),
    ("INBOX", SET, CLEARED, SPAM),
    ("INBOX", CLEARED, SET, HAM),
    ("INBOX", SET, SET, None),
    ("INBOX", CLEARED, SAME, HAM),
    ("INBOX", SAME, CLEARED, None),
    ("INBOX", CLEARED, CLEARED, HAM),
    ("INBOX", SAME, SAME, None),
    ("Junk", SET, SAME, SPAM),
    ("Junk", SAME, SET, HAM),
    ("Junk", CLEARED, SET, HAM),
    ("Junk", CLEARED, SAME, None),
    ("Archive", SET, SAME, SPAM),
    *[
        (mailbox, junk, not_junk, None)
        for mailbox in ("Trash", "Trash/old", "Sent", "Drafts")
        for junk, not_junk in product(Change, Change)
    ],
]


@pytest.mark.parametrize(("mailbox", "junk", "not_junk", "lesson"), FLAGS)
def test_what_a_keyword_teaches(
    mailbox: str, junk: Change, not_junk: Change, lesson: Lesson | None
) -> None:
    """The keyword that was set speaks; taking the junk mark away outside Junk says ham."""
    assert lesson_of(Flagged(mailbox, junk, not_junk), ROLES) is lesson


@pytest.mark.parametrize(
    ("mailbox", "role"),
    [
        ("Junk", Role.JUNK),
        ("JUNK", Role.JUNK),
        ("junk e-mail", Role.JUNK),
        ("INBOX.Spam", Role.JUNK),
        ("inbox/Spam/old", Role.JUNK),
        ("INBOX", Role.OTHER),
        ("INBOX.INBOX.Spam", Role.OTHER),
        ("Courrier indésirable", Role.JUNK),
        ("COURRIER INDÉSIRABLE", Role.JUNK),
        (unicodedata.normalize("NFD", "Courrier indésirable"), Role.JUNK),
        ("Спам", Role.JUNK),
        ("спам/2026", Role.JUNK),
        ("İSTENMEYEN E-POSTA", Role.JUNK),
        ("Gelöschte Elemente", Role.TRASH),
        ("Papierkorb", Role.TRASH),
        ("Junk/Trash", Role.JUNK),
        ("Trash/Junk", Role.TRASH),
        ("Éléments envoyés", Role.SENT),
        ("下書き", Role.DRAFTS),
        ("shared/bob@example.org/Junk", Role.JUNK),
        ("shared/bob@example.org/INBOX/Junk", Role.JUNK),
        ("shared/bob@example.org/Archive", Role.OTHER),
        ("shared/bob@example.org", Role.OTHER),
        ("shared/Junk", Role.OTHER),
        ("shared", Role.OTHER),
        ("", Role.OTHER),
    ],
)
def test_a_mailbox_is_known_by_its_name(mailbox: str, role: Role) -> None:
    """In any case and composition, at any depth, behind INBOX and behind a shared prefix."""
    assert ROLES.role(mailbox) is role


def test_every_usual_name_plays_its_part() -> None:
    """No two roles claim one name, and none is taken apart at a separator."""
    for role, names in USUAL_NAMES.items():
        for name in names:
            assert ROLES.role(name) is role, name
        assert len(names) > 25


def test_the_separator_can_be_told() -> None:
    """Where only a slash parts mailboxes, a dot is a letter of the name."""
    assert MailboxRoles(separators="/").role("Spam.org reports") is Role.OTHER
    assert MailboxRoles(separators="/").role("Spam/old") is Role.JUNK
    assert MailboxRoles(separators=".").role("INBOX.Spam.old") is Role.JUNK
    assert ROLES.role("Spam.org reports") is Role.JUNK


def test_a_name_of_several_levels_is_found_and_the_deepest_one_decides() -> None:
    """One sub-folder can be Junk while its parent is not, or is Trash."""
    roles = MailboxRoles({Role.JUNK: ["[Gmail]/Spam", "Trash/Junk"], Role.TRASH: ["Trash"]})
    assert roles.role("[gmail]/spam/old") is Role.JUNK
    assert roles.role("[Gmail]/All Mail") is Role.OTHER
    assert roles.role("Trash/Junk") is Role.JUNK
    assert roles.role("Trash/other") is Role.TRASH


@pytest.mark.parametrize(
    ("prefix", "mailbox", "owner"),
    [
        ("shared/%u/", "shared/Bob@Example.org/Junk", "bob@example.org"),
        ("shared/%%u/", "shared/bob@example.org/a/b", "bob@example.org"),
        ("shared/%u/", "shared/bob@example.org", "bob@example.org"),
        ("shared/%u/", "SHARED/bob/INBOX", "bob"),
        ("shared/%u/", "shared", None),
        ("shared/%u/", "Junk", None),
        ("shared.%n.", "shared.bob.Junk", "bob@example.net"),
        ("user/%n@%d/", "user/bob@example.org/Junk", "bob@example.org"),
        ("%d/%n/", "example.org/bob/Junk", "bob@example.org"),
        ("Other (old)/%u/", "Other (old)/bob/Junk", "bob"),
        ("Public/", "Public/Junk", None),
    ],
)
def test_whose_a_shared_mailbox_is(prefix: str, mailbox: str, owner: str | None) -> None:
    """The prefix of the shared namespace names the owner, in lower case."""
    roles = MailboxRoles(shared_prefixes=[prefix])
    assert roles.owner(mailbox, "ann@example.net") == owner


def test_an_owner_has_no_domain_where_the_actor_has_none() -> None:
    """System users share with system users."""
    assert MailboxRoles(shared_prefixes=["shared/%n/"]).owner("shared/bob/Junk", "ann") == "bob"


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("", "must end with the separator"),
        ("shared/%u", "must end with the separator"),
        ("shared/%u%n/", "%u must be followed by a separator"),
        ("shared/%h/", "only %u, %n and %d are known"),
        ("shared/%u/%u/", "holds %u twice"),
        ("shared/%d/", "must hold %u, or %n, or %n and %d"),
        ("shared/%u/%n/", "must hold %u, or %n, or %n and %d"),
    ],
)
def test_a_wrong_prefix_is_refused_with_the_reason(prefix: str, reason: str) -> None:
    """A prefix that could name nobody, or two, is no prefix."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        shared_pattern(prefix)


class Script:
    """What learn.sieve does with an event, in Python."""

    def __init__(self, roles: MailboxRoles) -> None:
        settings = roles.for_sieve()
        self._top = re.compile(settings["top"], re.IGNORECASE | re.ASCII)
        self._junk = settings["junk"].translate(ASCII_LOWER)
        self._silent = settings["silent"].translate(ASCII_LOWER)

    def sends(self, event: Event) -> bool:
        if isinstance(event, Flagged):
            unheard = event.junk is SAME and event.not_junk is not SET
            return not unheard and self._level(event.mailbox) not in self._silent
        if isinstance(event, Appended):
            return self._level(event.mailbox) in self._junk
        if self._level(event.destination) in self._junk:
            return event.source != event.destination
        from_junk = self._level(event.source) in self._junk
        return from_junk and self._level(event.destination) not in self._silent

    def _level(self, mailbox: str) -> str:
        match = self._top.search(f"{mailbox}/")
        return f"/{match[3] if match else ''}/".translate(ASCII_LOWER)


ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
MAILBOXES = [
    *[name for names in USUAL_NAMES.values() for name in names[:3]],
    *[form for name in ("Courrier indésirable", "Éléments supprimés", "Спам", "Корзина")
      for form in (name, name.upper(), name.lower(), unicodedata.normalize("NFD", name))],
    *[f"{prefix}{name}" for prefix in ("INBOX.", "inbox/", "shared/bob@example.org/", "Archive/")
      for name in ("Junk", "spam", "Trash", "Sent", "INBOX", "Junk/old/Trash", "Trash.Junk")],
    "INBOX", "shared/bob@example.org", "shared", "Archive", "Junkyard", "Junk/", "", "/", "[x]*",
]  # fmt: skip


@pytest.mark.parametrize(
    "roles",
    [
        ROLES,
        MailboxRoles(separators="/"),
        MailboxRoles(shared_prefixes=["shared/%n@%d/", "Archive/"]),
        MailboxRoles(shared_prefixes=[]),
        MailboxRoles({Role.JUNK: ["Trash/Junk", "Archive/spam"], Role.TRASH: ["Trash", "Junk"]}),
    ],
)
def test_sieve_sends_every_message_that_can_teach(roles: MailboxRoles) -> None:
    """What the script holds back would have taught nothing."""
    events: list[Event] = [Moved(*pair) for pair in product(MAILBOXES, MAILBOXES)]
    events += [Appended(mailbox) for mailbox in MAILBOXES]
    events += [Flagged(*each) for each in product(MAILBOXES, Change, Change)]
    script = Script(roles)
    held_back = [event for event in events if not script.sends(event)]
    assert [event for event in held_back if lesson_of(event, roles) is not None] == []
    assert len(held_back) > len(events) / 2


@pytest.mark.parametrize(("source", "destination", "lesson"), MOVES)
def test_sieve_holds_back_ordinary_moves(
    source: str, destination: str, lesson: Lesson | None
) -> None:
    """Of the moves that teach nothing, only those into Junk and from other junk are sent."""
    sent = Script(ROLES).sends(Moved(source, destination))
    assert sent == (lesson is not None) or ROLES.role(destination) is Role.JUNK


def test_what_sieve_is_told_can_be_written_into_a_configuration_file() -> None:
    """One line each, the same in every run, and short enough for Dovecot."""
    for value in ROLES.for_sieve().values():
        assert value.isprintable() or "\n" not in value
        assert len(value.encode()) < 10_000
    assert MailboxRoles().for_sieve() == ROLES.for_sieve()
    assert MailboxRoles({}).for_sieve()["junk"] == "//"
