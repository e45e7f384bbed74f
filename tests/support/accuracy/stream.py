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
_OFFERS = re.compile(
    rb"mortgage|\bloans?\b|insurance|refinanc|\bdebts?\b|credit card|interest rate", re.IGNORECASE
)
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
    is_offer: bool


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
        is_offer=len(_OFFERS.findall(raw)) > 1,
    )


def _time_s(message: email.message.Message) -> float:
    received = [str(value).rpartition(";")[2] for value in message.get_all("received", [])[:1]]
    for text in (*received, str(message.get("date", ""))):
        try:
            return parsedate_to_datetime(text.strip()).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return 0.0


def unwanted_lists(letters: list[Letter], share: float = UNWANTED_LISTS_SHARE) -> frozenset[str]:
    """Some lists, always the same of the same mail, that make about this share of it."""
    sizes = Counter(it.list_name for it in letters if it.list_name and not it.is_spam)
    room = share * len(letters)
    chosen = set()
    for name in sorted(sizes, key=lambda it: hashlib.sha256(it.encode()).digest()):
        if SMALLEST_LIST_SHARE * len(letters) <= sizes[name] <= room:
            chosen.add(name)
            room -= sizes[name]
    return frozenset(chosen)


def opinions(letter: Letter, lists: frozenset[str]) -> dict[str, bool]:
    """Who calls a letter spam.

    anna agrees with the corpus; to bert newsletters and some lists are spam;
    clara wants the offers of loans and insurance that others call spam.
    """
    return {
        "anna": letter.is_spam,
        "bert": letter.is_spam or letter.is_newsletter or letter.list_name in lists,
        "clara": letter.is_spam and not letter.is_offer,
    }


def make_stream(letters: list[Letter], *, seed: int, shuffled: bool) -> list[Item]:
    """Send every letter to one to three of the users; the same for the same seed."""
    rng = random.Random(seed)
    lists = unwanted_lists(letters)
    order = list(letters)
    if shuffled:
        rng.shuffle(order)
    items = []
    for letter in order:
        told = opinions(letter, lists)
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
