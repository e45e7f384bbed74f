from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, cast

import pytest

from mailhooks.config import MailboxSettings
from mailhooks.daemon.learn import Learner, event_of
from mailhooks.dovecot import Peer, ScriptCall
from mailhooks.errors import ProtocolError, SpoolError
from mailhooks.lesson import Appended, Change, Event, Flagged, Lesson, Moved
from mailhooks.message import content_digest

if TYPE_CHECKING:
    from mailhooks.daemon.samples import Samples

MAIL_UID = 5000
MESSAGE = b"Message-ID: <1@example.org>\r\nSubject: secret\r\n\r\nbody\r\n"
ANN, BOB = "ann@example.org", "bob@example.org"


class FakeSamples:
    """Notes what it is given to keep."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, Lesson, str, str, bytes]] = []
        self.received: list[float | None] = []
        self.full = False

    async def take(
        self,
        user: str,
        lesson: Lesson,
        digest: str,
        origin: str,
        message: bytes,
        *,
        received: float | None = None,
    ) -> None:
        if self.full:
            raise SpoolError("disk full")
        self.received.append(received)
        self.taken.append((user, lesson, digest, origin, message))


def learner(samples: FakeSamples, shared: Literal["actor", "owner"] = "actor") -> Learner:
    settings = MailboxSettings(shared=shared)
    return Learner(cast("Samples", samples), settings, frozenset({MAIL_UID}))


def call(*args: str, user: str = ANN, uid: int = MAIL_UID) -> ScriptCall:
    return ScriptCall(args, {"USER": user}, Peer(1, uid, uid), MESSAGE, 0.0)


@pytest.mark.parametrize(
    ("args", "event"),
    [
        (("cause=COPY", "from=INBOX", "to=Junk"), Moved("INBOX", "Junk")),
        (("to=a=b", "cause=copy", "from= "), Moved(" ", "a=b")),
        (("cause=APPEND", "to=Junk"), Appended("Junk")),
        (("cause=FLAG", "to=INBOX", "junk=set", "notjunk=cleared"),
         Flagged("INBOX", Change.SET, Change.CLEARED)),
        (("cause=FLAG", "to=INBOX", "junk=same", "notjunk=set"),
         Flagged("INBOX", Change.SAME, Change.SET)),
    ],
)  # fmt: skip
def test_the_arguments_say_what_has_happened(args: tuple[str, ...], event: Event) -> None:
    """Each cause has its own arguments, in any order."""
    assert event_of(args) == event


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((), "argument cause is missing"),
        (("cause=COPY", "junk"), "argument 'junk': expected name=value"),
        (("cause=COPY", "from=INBOX"), "argument to is missing, cause=COPY needs it"),
        (("cause=COPY", "from=", "to=Junk"), "argument from is empty"),
        (("cause=COPY", "from=a", "from=b", "to=c"), "argument from is given twice"),
        (("cause=COPY", "from=a", "to=b", "junk=set"), "argument junk is unknown with cause=COPY"),
        (("cause=APPEND", "from=a", "to=b"), "argument from is unknown with cause=APPEND"),
        (("cause=EXPUNGE", "to=b"), "argument cause: 'EXPUNGE' is not COPY or APPEND or FLAG"),
        (("cause=FLAG", "to=b", "junk=set"), "argument notjunk is missing, cause=FLAG needs it"),
        (
            ("cause=FLAG", "to=b", "junk=yes", "notjunk=same"),
            "argument junk: 'yes' is not same or set or cleared",
        ),
    ],
)
def test_wrong_arguments_are_named_with_the_reason(args: tuple[str, ...], reason: str) -> None:
    """Whoever wrote the Sieve script finds the mistake in the log."""
    with pytest.raises(ProtocolError) as caught:
        event_of(args)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("args", "lesson", "origin"),
    [
        (("cause=COPY", "from=INBOX", "to=Junk"), Lesson.SPAM, "move"),
        (("cause=COPY", "from=Junk", "to=INBOX"), Lesson.HAM, "move"),
        (("cause=APPEND", "to=Junk"), Lesson.SPAM, "append"),
        (("cause=FLAG", "to=INBOX", "junk=same", "notjunk=set"), Lesson.HAM, "keyword"),
    ],
)
async def test_a_lesson_is_kept_for_the_acting_user(
    args: tuple[str, ...], lesson: Lesson, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One sample and one line in the log, which holds nothing of the message."""
    caplog.set_level(logging.INFO)
    samples = FakeSamples()
    assert await learner(samples).answer(call(*args)) == b""
    digest = content_digest(MESSAGE)
    assert samples.taken == [(ANN, lesson, digest, origin, MESSAGE)]
    assert caplog.messages == [
        f"user={ANN}: sample {digest[:12]} taken: {lesson.value}, {origin}",
    ]


@pytest.mark.parametrize(
    "args",
    [
        ("cause=COPY", "from=INBOX", "to=Archive"),
        ("cause=COPY", "from=Junk", "to=Trash"),
        ("cause=APPEND", "to=Sent"),
        ("cause=FLAG", "to=Trash", "junk=set", "notjunk=same"),
    ],
)
async def test_what_teaches_nothing_is_answered_and_not_kept(
    args: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Dovecot hears success, nothing is stored, and the log is not filled."""
    caplog.set_level(logging.INFO)
    samples = FakeSamples()
    samples.full = True
    assert await learner(samples).answer(call(*args)) == b""
    assert caplog.messages == []


async def test_a_sample_that_is_not_on_disk_is_not_answered_for() -> None:
    """The spool's failure is the call's failure."""
    samples = FakeSamples()
    samples.full = True
    with pytest.raises(SpoolError):
        await learner(samples).answer(call("cause=APPEND", "to=Junk"))


async def test_a_call_that_had_to_wait_keeps_its_time() -> None:
    """What the user did while the daemon was away is sorted in where it belongs."""
    samples = FakeSamples()
    await learner(samples).answer(call("cause=APPEND", "to=Junk"), 1234.5)
    await learner(samples).answer(call("cause=APPEND", "to=Junk"))
    assert samples.received == [1234.5, None]


async def test_nobody_teaches_for_another_user() -> None:
    """A process that belongs to one system user names no other."""
    samples = FakeSamples()
    with pytest.raises(ProtocolError, match="may not speak"):
        await learner(samples).answer(call("cause=APPEND", "to=Junk", uid=4242424))
    assert samples.taken == []


@pytest.mark.parametrize(
    ("shared", "args", "user"),
    [
        ("actor", ("cause=APPEND", f"to=shared/{BOB}/Junk"), ANN),
        ("owner", ("cause=APPEND", f"to=shared/{BOB}/Junk"), BOB),
        ("owner", ("cause=APPEND", "to=Junk"), ANN),
        ("owner", ("cause=COPY", "from=INBOX", f"to=shared/{BOB.upper()}/Junk"), BOB),
        ("owner", ("cause=COPY", f"from=shared/{BOB}/Junk", f"to=shared/{BOB}"), BOB),
        # To read somebody's Junk is no right to teach for them.
        ("owner", ("cause=COPY", f"from=shared/{BOB}/Junk", "to=INBOX"), ANN),
        ("owner", ("cause=FLAG", f"to=shared/{BOB}/INBOX", "junk=set", "notjunk=same"), BOB),
    ],
)
async def test_whose_statistics_a_shared_mailbox_teaches(
    shared: Literal["actor", "owner"], args: tuple[str, ...], user: str
) -> None:
    """The acting user's; by configuration those of the owner who let them write there."""
    samples = FakeSamples()
    await learner(samples, shared).answer(call(*args))
    assert [taken[0] for taken in samples.taken] == [user]


async def test_a_system_user_cannot_teach_for_an_owner() -> None:
    """It could name any mailbox on the socket without asking Dovecot for leave."""
    samples = FakeSamples()
    await learner(samples, "owner").answer(
        call("cause=APPEND", f"to=shared/{BOB}/Junk", user="daemon", uid=1)
    )
    assert [taken[0] for taken in samples.taken] == ["daemon"]


async def test_an_owner_with_control_characters_is_refused() -> None:
    """What ends up in file names, keys and logs is a plain name."""
    with pytest.raises(ProtocolError, match="names no user"):
        await learner(FakeSamples(), "owner").answer(call("cause=APPEND", "to=shared/bob\nx/Junk"))
