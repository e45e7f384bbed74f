"""One private mail host for all end-to-end tests; each test takes accounts nobody else uses."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import pytest

from mailhooks.lab import Lab
from mailhooks.lab.letters import LetterBox, LetterKind
from mailhooks.lesson import Lesson

ACCOUNTS = 240
Teach = Callable[..., None]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The host, with Bayes speaking after two messages of each class."""
    names = [f"user{number}" for number in range(ACCOUNTS)]
    aliases = {f"alias{number}": f"user{number}" for number in range(ACCOUNTS)}
    # What an administrator may have told Rspamd about some senders.
    rspamd = {
        "multimap.conf": """
            passed { type = "from"; map = "$LOCAL_CONFDIR/local.d/passed.map";
                     action = "accept"; prefilter = true; symbol = "PASSED"; }
            marked { type = "from"; map = "$LOCAL_CONFDIR/local.d/marked.map";
                     action = "add header"; prefilter = true; symbol = "MARKED"; }
        """,
        # A list within the configuration itself matches nothing in Rspamd 3.12.
        "passed.map": "passed@example.org\n",
        "marked.map": "marked@example.org\n",
        # Whatever the release's rules think of odd headers, nothing is refused for its score.
        "actions.conf": "reject = 100;",
        "settings.conf": """
            skipped { priority = high; from = "skipped@example.org"; want_spam = yes; }
        """,
    }
    with Lab(names, aliases=aliases, min_learns=2, extra_rspamd=rspamd) as host:
        yield host


_unused = itertools.count()


@pytest.fixture
def people() -> list[str]:
    """Three accounts without mail and statistics."""
    return [f"user{next(_unused)}" for _ in range(3)]


@pytest.fixture
def box(request: pytest.FixtureRequest) -> LetterBox:
    """Letters that are the same in every run, and different in every test."""
    return LetterBox(sum(request.node.nodeid.encode()), now=datetime.now(UTC))


@pytest.fixture
def teach(lab: Lab) -> Teach:
    """Have Rspamd learn messages for a user at once, without IMAP."""

    def learn(name: str, *, spam: Sequence[bytes] = (), ham: Sequence[bytes] = ()) -> None:
        async def run() -> None:
            async with lab.rspamd() as rspamd:
                user = lab.users[name].address
                for lesson, messages in ((Lesson.SPAM, spam), (Lesson.HAM, ham)):
                    for message in messages:
                        result = await rspamd.learn(message, lesson, user=user, bulk=True)
                        assert result.learned, result

        asyncio.run(run())

    return learn


@pytest.fixture
def taste(box: LetterBox, teach: Teach) -> Callable[[str, LetterKind], None]:
    """Train a user who finds one kind of letters spam and the other ham."""

    def train(name: str, disliked: LetterKind) -> None:
        liked = LetterKind.PERSONAL if disliked is LetterKind.NEWSLETTER else LetterKind.NEWSLETTER
        to = ["someone@mail.example"]
        teach(
            name,
            spam=[letter.raw for letter in box.letters(disliked, 10, to)],
            ham=[letter.raw for letter in box.letters(liked, 10, to)],
        )

    return train
