"""What users' actions teach, done over real IMAP with MOVE, COPY, APPEND and STORE."""

from __future__ import annotations

import asyncio
import itertools
import threading
import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mailhooks.config import MailboxSettings
from mailhooks.dovecot import ScriptCall, ScriptServer
from mailhooks.lab import Lab
from mailhooks.setup import installed_generation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailhooks.lab.letters import LetterBox
    from mailhooks.lab.mailbox import Mailbox

SPAM, HAM, NOTHING = (1, 0), (0, 1), (0, 0)
LESSONS = {SPAM: "spam", HAM: "ham", NOTHING: "nothing"}
FORMER_SPAM = 3  # Rspamd unlearns rightly only where there is more to hold than the one
Learned = tuple[int, int]

# Mailboxes of other users below shared/. Namespaces of one separator only can
# be listed together, and Maildir's own is a dot.
SHARED_NAMESPACE = {
    "2.3": r"""
namespace inbox {
  separator = /
}
namespace shared {
  type = shared
  separator = /
  prefix = shared/%%u/
  location = maildir:%%h/Maildir:INDEXPVT=~/shared/%%u
  subscriptions = no
  list = children
}
protocol imap {
  mail_plugins = imap_sieve acl imap_acl
}
plugin {
  acl = vfile
}
service auth {
  unix_listener auth-userdb {
    mode = 0777
  }
}
""",
    "2.4": r"""
namespace inbox {
  separator = /
}
namespace shared {
  type = shared
  separator = /
  prefix = shared/$user/
  mail_driver = maildir
  mail_path = %{owner_home}/Maildir
  mail_index_private_path = ~/shared/%{owner_user}
  subscriptions = no
  list = children
}
mail_plugins {
  acl = yes
}
protocol imap {
  mail_plugins {
    imap_acl = yes
  }
}
acl_driver = vfile
service auth {
  unix_listener auth-userdb {
    mode = 0777
  }
}
""",
}


@pytest.fixture(scope="module")
def host() -> Iterator[Lab]:
    """A host of stock settings with enough accounts for all that follows."""
    with Lab([f"user{number}" for number in range(120)]) as lab:
        yield lab


_unused = itertools.count()


@pytest.fixture
def name() -> str:
    """An account without mail and statistics."""
    return f"user{next(_unused)}"


def settled(lab: Lab) -> None:
    """A sample is on disk before IMAP says OK: once the spool is empty, all is learned."""
    lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)


def only_uid(mailbox: Mailbox, folder: str) -> int:
    (message,) = mailbox.messages(folder)
    return message.uid


def put(lab: Lab, box: LetterBox, name: str, folder: str, *flags: str) -> int:
    """One letter into a mailbox, whatever that teaches; returns its uid."""
    mailbox = lab.mailbox(name)
    raw = box.newsletter([f"{name}@mail.example"]).raw
    before = {message.uid for message in mailbox.messages(folder)}
    mailbox.append(folder, raw, flags=flags)
    (uid,) = {message.uid for message in mailbox.messages(folder)} - before
    settled(lab)
    return uid


def train(lab: Lab, box: LetterBox, name: str) -> None:
    """A user who has called some letters junk."""
    lab.mailbox(name).create("Training")
    for _ in range(FORMER_SPAM):
        uid = put(lab, box, name, "Training")
        lab.mailbox(name).flag([uid], "Training", add=["$Junk"])
    settled(lab)
    assert lab.learns(name) == (FORMER_SPAM, 0)


def plus(learned: Learned, lesson: Learned, *, unlearned: bool = False) -> Learned:
    spam, ham = learned[0] + lesson[0], learned[1] + lesson[1]
    return (spam - 1, ham) if unlearned else (spam, ham)


def spelled(case: tuple[object, ...]) -> str:
    """The name of a test case."""
    *what, lesson = case
    texts = (" ".join(map(str, each)) if isinstance(each, list) else str(each) for each in what)
    return f"{', '.join(texts)}: {LESSONS[lesson]}"  # type: ignore[index]


@pytest.mark.parametrize("action", ["move", "copy"])
@pytest.mark.parametrize(
    "case",
    [
        ("INBOX", "Junk", SPAM),
        ("Archive", "Junk", SPAM),
        ("Trash", "Junk", SPAM),
        ("INBOX", "Junk.old", SPAM),
        ("INBOX", "INBOX.Spam", SPAM),
        ("INBOX", "junk e-mail", SPAM),
        ("INBOX", "Courrier indésirable", SPAM),
        ("INBOX", unicodedata.normalize("NFD", "COURRIER INDÉSIRABLE"), SPAM),
        ("INBOX", "Нежелательная почта.старая", SPAM),
        ("Junk", "INBOX", HAM),
        ("Junk", "Archive", HAM),
        ("Junk", "Freunde & Bekannte", HAM),
        ("迷惑メール", "INBOX", HAM),
        ("Junk", "Trash", NOTHING),
        ("Junk", "Papierkorb.alt", NOTHING),
        ("Junk", "Gelöschte Elemente", NOTHING),
        ("Junk", "Junk", NOTHING),
        ("Junk", "Junk.old", NOTHING),
        ("Junk", "Spamverdacht", NOTHING),
        ("Trash", "Trash", NOTHING),
        ("Trash", "INBOX", NOTHING),
        ("INBOX", "Archive", NOTHING),
        ("INBOX", "Junkyard", NOTHING),
        ("Sent", "Junk", NOTHING),
        ("Drafts", "Junk", NOTHING),
        ("Junk", "Sent", NOTHING),
        ("Junk", "Drafts", NOTHING),
    ],
    ids=spelled,
)
def test_what_a_move_or_a_copy_teaches(
    host: Lab,
    name: str,
    box: LetterBox,
    action: str,
    case: tuple[str, str, Learned],
) -> None:
    """Into Junk is spam, out of it is ham, and throwing away is neither, in any language."""
    source, destination, lesson = case
    mailbox = host.mailbox(name)
    existing = {"INBOX", "Junk", "Trash", "Archive", "Sent", "Drafts"}
    mailbox.create(*({source, destination} - existing))
    if lesson == HAM:
        train(host, box, name)
    uid = put(host, box, name, source)
    before = host.learns(name)
    getattr(mailbox, action)([uid], source, destination)
    settled(host)
    assert host.learns(name) == plus(before, lesson, unlearned=lesson == HAM)


@pytest.mark.parametrize(
    "case",
    [
        ("Junk", [], SPAM),
        ("Junk", ["$NotJunk"], SPAM),
        ("Спам", [], SPAM),
        ("INBOX", ["$Junk"], NOTHING),
        ("Sent", [r"\Seen"], NOTHING),
        ("Trash", [], NOTHING),
    ],
    ids=spelled,
)
def test_what_an_append_teaches(
    host: Lab, name: str, box: LetterBox, case: tuple[str, list[str], Learned]
) -> None:
    """A client that stores a message in Junk calls it spam; keywords it brings say nothing."""
    folder, flags, lesson = case
    if folder == "Спам":
        host.mailbox(name).create(folder)
    put(host, box, name, folder, *flags)
    assert host.learns(name) == lesson


@pytest.mark.parametrize(
    "case",
    [
        ("INBOX", [], ["$Junk"], [], SPAM),
        ("INBOX", [], ["junk"], [], SPAM),
        ("INBOX", [], ["$NotJunk"], [], HAM),
        ("INBOX", [], ["NonJunk"], [], HAM),
        ("INBOX", [], ["$JUNK"], [], SPAM),
        ("Archive", ["$NotJunk"], ["$Junk"], ["$NotJunk"], SPAM),
        ("INBOX", ["$Junk"], ["$NotJunk"], ["$Junk"], HAM),
        ("INBOX", ["Junk"], [r"\Seen", "NonJunk"], [], HAM),
        ("INBOX", ["$Junk"], [], ["$Junk"], HAM),
        ("INBOX", ["$NotJunk"], [], ["$NotJunk"], NOTHING),
        ("INBOX", [], ["$Junk", "$NotJunk"], [], NOTHING),
        ("INBOX", ["$Junk"], ["$Junk"], [], NOTHING),
        ("INBOX", ["$Junk"], [r"\Seen", "JunkRecorded", "work"], [], NOTHING),
        ("Trash", [], ["$Junk"], [], NOTHING),
        ("Trash", ["$Junk"], ["$NotJunk"], ["$Junk"], NOTHING),
        ("Sent", [], ["$NotJunk"], [], NOTHING),
        ("Drafts", [], ["$NotJunk"], [], NOTHING),
    ],
    ids=spelled,
)
def test_what_a_keyword_teaches(
    host: Lab,
    name: str,
    box: LetterBox,
    case: tuple[str, list[str], list[str], list[str], Learned],
) -> None:
    """The keyword that is set speaks, whichever of the two families it is of."""
    folder, at_first, add, remove, lesson = case
    uid = put(host, box, name, folder, *at_first)
    assert host.learns(name) == NOTHING
    host.mailbox(name).flag([uid], folder, add=add, remove=remove)
    settled(host)
    assert host.learns(name) == lesson


def test_flags_replaced_in_one_command_are_understood(host: Lab, name: str, box: LetterBox) -> None:
    """STORE FLAGS takes $Junk away and sets $NotJunk at once: ham."""
    uid = put(host, box, name, "INBOX", r"\Flagged", "$Junk")
    host.mailbox(name).set_flags([uid], "INBOX", [r"\Seen", "$NotJunk"])
    settled(host)
    assert host.learns(name) == HAM


def test_a_keyword_and_a_move_of_one_action_are_one_lesson(
    host: Lab, name: str, box: LetterBox
) -> None:
    """Clients mark and move in either order; the message counts once."""
    mailbox = host.mailbox(name)
    uid = put(host, box, name, "INBOX")
    mailbox.flag([uid], "INBOX", add=["$Junk"], remove=["$NotJunk"])
    mailbox.move([uid], "INBOX", "Junk")
    settled(host)
    assert host.learns(name) == SPAM
    uid = put(host, box, name, "INBOX")
    mailbox.move([uid], "INBOX", "Junk")
    last = mailbox.messages("Junk")[-1].uid
    mailbox.flag([last], "Junk", add=["$Junk"])
    settled(host)
    assert host.learns(name) == (2, 0)


@contextmanager
def calls_of(lab: Lab) -> Iterator[list[tuple[str, ...]]]:
    """Stand in for the daemon, and note the arguments of every message Sieve sends."""
    sent: list[tuple[str, ...]] = []

    async def note(call: ScriptCall) -> bytes:
        sent.append(call.args)
        return b""

    async def serve() -> None:
        server = ScriptServer(lab.root / "run/mailhooks/mailhooks-learn", note)
        await server.start()
        ready.set()
        await asyncio.to_thread(done.wait)
        await server.stop()

    ready, done = threading.Event(), threading.Event()
    lab.servers["daemon"].stop()
    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    try:
        assert ready.wait(30)
        yield sent
    finally:
        done.set()
        thread.join()
        lab.restart("daemon")


def test_what_cannot_teach_is_not_even_sent(host: Lab, name: str, box: LetterBox) -> None:
    """Reading, flagging, filing and deleting mail costs no conversation with the daemon."""
    mailbox = host.mailbox(name)
    # Dovecot 2.4.5 does not tell learn.sieve other than ASCII names: it sends then.
    trash = "Корзина" if host.dovecot == "2.3" else "Papierkorb"
    mailbox.create("Junk.old", trash)
    inbox, junk = put(host, box, name, "INBOX"), put(host, box, name, "Junk")
    with calls_of(host) as sent:
        mailbox.flag([inbox], "INBOX", add=[r"\Seen", r"\Flagged", "JunkRecorded", "project"])
        mailbox.flag([inbox], "INBOX", remove=[r"\Seen", "project"])
        mailbox.flag([inbox], "INBOX", add=["NonJunk"])
        mailbox.flag([inbox], "INBOX", remove=["NonJunk"])
        assert sent == [("cause=FLAG", "to=INBOX", "junk=same", "notjunk=set")]
        mailbox.move([inbox], "INBOX", "Archive")
        mailbox.copy([only_uid(mailbox, "Archive")], "Archive", "Trash")
        mailbox.copy([only_uid(mailbox, "Archive")], "Archive", "Sent")
        mailbox.append("Sent", box.newsletter(["x@example.org"]).raw)
        mailbox.flag([only_uid(mailbox, "Trash")], "Trash", add=["$Junk"])
        mailbox.copy([junk], "Junk", "Junk")
        mailbox.copy([junk], "Junk", "Trash")
        mailbox.move([junk], "Junk", trash)
        assert len(sent) == 1
        mailbox.copy([only_uid(mailbox, "Archive")], "Archive", "Junk.old")
        assert sent[1:] == [("cause=COPY", "from=Archive", "to=Junk.old")]


@pytest.fixture(scope="module", params=["actor", "owner"])
def sharing(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A host where bob lets ann into his mailboxes, for both meanings of that."""
    settings = MailboxSettings(shared=request.param, junk=('Müll "100 %" \\ $x',))
    extra = SHARED_NAMESPACE[installed_generation()]
    with Lab(["ann", "bob", "eve"], mailboxes=settings, extra_dovecot=extra) as lab:
        bob = lab.mailbox("bob")
        for folder in ("INBOX", "Junk"):
            bob.grant(folder, lab.users["ann"].address, "lrwstipek")
            bob.grant(folder, lab.users["eve"].address, "lrs")
        yield lab


def learned(lab: Lab) -> dict[str, Learned]:
    settled(lab)
    return {name: lab.learns(name) for name in lab.users}


def test_a_shared_mailbox_teaches_whom_the_settings_say(
    request: pytest.FixtureRequest, sharing: Lab, box: LetterBox
) -> None:
    """Moves, appends and keywords in bob's mailboxes count for ann, or for bob."""
    whose = "bob" if "owner" in request.node.name else "ann"
    ann, theirs = sharing.mailbox("ann"), "shared/bob@mail.example"

    expected = learned(sharing)

    def check(lesson: Learned) -> None:
        expected[whose] = plus(expected[whose], lesson)
        assert learned(sharing) == expected

    ann.append(f"{theirs}/Junk", box.newsletter(["b@example.org"]).raw)
    check(SPAM)
    for _ in range(FORMER_SPAM):
        uid = put(sharing, box, "ann", "INBOX")
        ann.move([uid], "INBOX", f"{theirs}/Junk")
        check(SPAM)
    uid = put(sharing, box, "ann", theirs)
    ann.flag([uid], theirs, add=["$NotJunk"])
    check(HAM)
    uid = ann.messages(f"{theirs}/Junk")[0].uid
    ann.move([uid], f"{theirs}/Junk", theirs)
    check((-1, 1))


def test_reading_somebodys_junk_is_no_right_to_teach_for_them(sharing: Lab, box: LetterBox) -> None:
    """What is copied out of bob's Junk into a reader's own INBOX is the reader's lesson."""
    put(sharing, box, "bob", "Junk")
    before = learned(sharing)
    eve, theirs = sharing.mailbox("eve"), "shared/bob@mail.example/Junk"
    eve.copy([eve.messages(theirs)[-1].uid], theirs, "INBOX")
    assert learned(sharing) == before | {"eve": plus(before["eve"], HAM)}


def test_a_further_name_reaches_dovecot_whatever_is_in_it(sharing: Lab, box: LetterBox) -> None:
    """Quotes, backslashes, percent and dollar signs survive Dovecot's configuration."""
    bob, folder = sharing.mailbox("bob"), 'MÜLL "100 %" \\ $X/2026'
    bob.create(folder)
    before = learned(sharing)["bob"]
    bob.move([put(sharing, box, "bob", "INBOX")], "INBOX", folder)
    assert learned(sharing)["bob"] == plus(before, SPAM)
