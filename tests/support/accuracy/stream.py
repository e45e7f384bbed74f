"""A stream of mail to three users who do not agree on what is spam. Pure but for reading files."""

from __future__ import annotations

import email
import hashlib
import random
import re
from collections import Counter
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from mailhooks.source import iter_messages

if TYPE_CHECKING:
    from pathlib import Path

USERS = ("anna", "bert", "clara")
DAY = 60
"""Messages of the stream that arrive on one day."""
LONGEST_DELAY_DAYS = 3
NEVER_SHARE = 0.1
"""Of all mistakes, those that nobody corrects."""
UNWANTED_LISTS_SHARE = 0.08
"""So much of the stream comes through lists that one user calls spam."""
SMALLEST_LIST_SHARE = 0.01
"""Nobody has a taste in lists that hardly ever write."""
WANTED_OFFERS_SHARE = 0.08
"""At least so much of the stream is spam that one user wants, if there is as much."""
# What offers are about; a message is about what it names twice.
_TOPICS = {
    "money": r"mortgage|\bloans?\b|insurance|refinanc|\bdebts?\b|credit card|interest rate",
    "travel": r"\bhotels?\b|vacation|\bholidays?\b|\bcruise|\bflights?\b|\bresorts?\b",
    "software": r"software|windows|adobe|microsoft|\bnorton\b|\bantivirus\b|download",
    "health": r"\bpills?\b|weight loss|\bdiet|pharmac|\bmedic|\bdoctors?\b|prescription",
}
_ABOUT = {name: re.compile(words.encode(), re.IGNORECASE) for name, words in _TOPICS.items()}
_UNSUBSCRIBE = re.compile(rb"unsubscribe", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Copy:
    """One recipient's copy, and what that user does if it is filed wrongly.

    Attributes:
        user: the recipient.
        is_spam: to this user.
        delay: messages of the stream until the user corrects a mistake; None if never.
    """

    user: str
    is_spam: bool
    delay: int | None


@dataclass(frozen=True, slots=True)
class Item:
    """One message of the stream.

    Attributes:
        key: of the message within the corpus.
        raw: its bytes.
        copies: the recipients' copies, the first recipient's first.
        is_disputed: whether some user calls it spam and another one does not.
    """

    key: str
    raw: bytes
    copies: tuple[Copy, ...]
    is_disputed: bool


@dataclass(frozen=True, slots=True)
class Letter:
    """A message of the corpus with its label, and what the tastes look at."""

    key: str
    raw: bytes
    is_spam: bool
    time_s: float
    list_name: str
    is_newsletter: bool
    topics: frozenset[str]


def read_letters(corpus: Path, limit: int = 6000) -> list[Letter]:
    """Read a corpus with ``ham`` and ``spam`` in its folders' names, in order of arrival."""
    letters = []
    for found in iter_messages(corpus):
        label = _label(found.name.removeprefix(str(corpus)))
        if label is None:
            continue
        letters.append(_letter(found.raw, is_spam=label))
    letters.sort(key=lambda it: (it.time_s, it.key))
    unique = list({it.key: it for it in letters}.values())
    if len(unique) > limit:
        unique = [unique[i * len(unique) // limit] for i in range(limit)]
    return unique


def _label(place: str) -> bool | None:
    """Spam or ham, by the nearest folder that says so, such as ``easy_ham_2``."""
    for part in reversed(re.split(r"[/:]", place.lower())[:-1]):
        words = re.split(r"[^a-z]+", part)
        if "ham" in words:
            return False
        if "spam" in words:
            return True
    return None


def _letter(raw: bytes, *, is_spam: bool) -> Letter:
    key = hashlib.sha256(raw).hexdigest()[:16]
    message = email.message_from_bytes(raw)
    fields = {name.lower(): str(value) for name, value in message.items()}
    names = (fields.get(name, "") for name in ("list-id", "mailing-list", "list-post"))
    list_name = re.sub(r"^.*<|>.*$|\s", "", next(filter(None, names), ""))
    body = raw.partition(b"\n\n")[2]
    html = b"<html" in body.lower()
    return Letter(
        key=key,
        raw=raw,
        is_spam=is_spam,
        time_s=_time_s(message),
        list_name=list_name,
        is_newsletter=html
        and ("list-unsubscribe" in fields or bool(not list_name and _UNSUBSCRIBE.search(body))),
        topics=frozenset(name for name, words in _ABOUT.items() if len(words.findall(raw)) > 1),
    )


def _time_s(message: email.message.Message) -> float:
    received = [str(value).rpartition(";")[2] for value in message.get_all("received", [])[:1]]
    for text in (*received, str(message.get("date", ""))):
        try:
            return parsedate_to_datetime(text.strip()).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return 0.0


@dataclass(frozen=True, slots=True)
class Tastes:
    """What the three users do not agree about, besides newsletters.

    Attributes:
        unwanted_lists: mailing lists that are spam to bert.
        wanted_topics: what the offers are about that are not spam to clara.
    """

    unwanted_lists: frozenset[str]
    wanted_topics: frozenset[str]

    @classmethod
    def of(cls, letters: list[Letter]) -> Tastes:
        """Tastes that differ about some of this mail; always the same for the same mail."""
        return cls(_unwanted_lists(letters), _wanted_topics(letters))

    def who_calls_it_spam(self, letter: Letter) -> dict[str, bool]:
        """Each user's opinion; anna's is the corpus's."""
        is_wanted_offer = letter.is_spam and bool(letter.topics & self.wanted_topics)
        is_tiresome = letter.is_newsletter or letter.list_name in self.unwanted_lists
        return {
            "anna": letter.is_spam,
            "bert": letter.is_spam or is_tiresome,
            "clara": letter.is_spam and not is_wanted_offer,
        }


def _unwanted_lists(letters: list[Letter]) -> frozenset[str]:
    """Some lists that together stay within their share."""
    sizes = Counter(it.list_name for it in letters if it.list_name and not it.is_spam)
    room = UNWANTED_LISTS_SHARE * len(letters)
    chosen = set()
    for name in sorted(sizes, key=lambda it: hashlib.sha256(it.encode()).digest()):
        if SMALLEST_LIST_SHARE * len(letters) <= sizes[name] <= room:
            chosen.add(name)
            room -= sizes[name]
    return frozenset(chosen)


def _wanted_topics(letters: list[Letter]) -> frozenset[str]:
    """One topic after the other, until enough of the spam is wanted."""
    chosen: set[str] = set()
    for topic in _TOPICS:
        wanted = sum(it.is_spam and bool(it.topics & chosen) for it in letters)
        if wanted < WANTED_OFFERS_SHARE * len(letters):
            chosen.add(topic)
    return frozenset(chosen)


def make_stream(letters: list[Letter], *, seed: int, shuffled: bool) -> list[Item]:
    """Send every letter to one to three of the users; the same for the same seed."""
    rng = random.Random(seed)
    tastes = Tastes.of(letters)
    order = list(letters)
    if shuffled:
        rng.shuffle(order)
    items = []
    for letter in order:
        told = tastes.who_calls_it_spam(letter)
        recipients = rng.sample(USERS, rng.choice((1, 2, 3)))
        items.append(
            Item(
                letter.key,
                letter.raw,
                tuple(
                    Copy(
                        user,
                        told[user],
                        None
                        if rng.random() < NEVER_SHARE
                        else rng.randrange(LONGEST_DELAY_DAYS * DAY + 1),
                    )
                    for user in recipients
                ),
                len(set(told.values())) > 1,
            )
        )
    return items
