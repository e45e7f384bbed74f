"""Mail nobody wrote: newsletters, personal letters and spam for the lab and for tests.

The same seed gives the same letters. Nothing is fetched, every address and link
lies in a domain or network reserved for documentation (RFC 2606, RFC 5737), and
the three kinds share much of their vocabulary, so telling them apart is work.
"""

from __future__ import annotations

import random
import re
import struct
import textwrap
import unicodedata
import uuid
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from enum import Enum
from html import escape
from typing import TYPE_CHECKING, Final

from mailhooks.lab import words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NEWEST_MINUTES, _OLDEST_MINUTES = 2, 18 * 60  # Rspamd frowns at dates a day or more off
_ZONES_MINUTES = (-300, 0, 60, 60, 120, 330)
_TEXT_COLUMNS = 72
_LINE_LENGTH = 78  # RFC 5322, 2.1.1; the policy's own default
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_SEASONS = ("winter", "spring", "summer", "autumn")
_SHARE_NEWSLETTER_PLAIN = 0.15
_SHARE_NEWSLETTER_HTML_ONLY = 0.1
_SHARE_PERSONAL_HTML = 0.2
_SHARE_PERSONAL_REPLY = 0.4
_SHARE_PERSONAL_WORK = 0.3
_SHARE_PERSONAL_ATTACHMENT = 0.12
_SHARE_LATIN_1 = 0.4
_SHARE_SMALL_TALK = 0.3
_SHARE_SPAM_WITHOUT = 0.6

_SLOT = re.compile(r"\{(\w+)(?:\.(title|upper))?\}")
_EMPTY_FIRST_LINE = re.compile(rb"^([\w-]+:) ?\r\n[ \t]+", re.MULTILINE)
_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")


class LetterKind(Enum):
    """What a letter is to whoever receives it."""

    NEWSLETTER = "newsletter"
    """Legitimate bulk mail, the kind one person wants and another calls spam."""
    PERSONAL = "personal"
    """From a friend, the family or a colleague."""
    SPAM = "spam"
    """What everybody calls spam, and what Rspamd's rules recognise."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One generated message.

    Attributes:
        kind: what it is.
        subject: the Subject header, decoded.
        sender: the address of the From header, fit for the envelope too.
        raw: the message, lines ended by CRLF.
    """

    kind: LetterKind
    subject: str
    sender: str
    raw: bytes


class LetterBox:
    """An endless supply of letters.

    Args:
        seed: equal seeds, times and calls give equal letters.
        now: the present, with a time zone; letters are dated within the day before it.

    Raises:
        ValueError: ``now`` has no time zone.
    """

    def __init__(self, seed: int, *, now: datetime) -> None:
        if now.tzinfo is None:
            raise ValueError("now needs a time zone")
        self._rng = random.Random(seed)  # noqa: S311 - repeatable letters, not secrets
        self._now = now

    def newsletter(self, to: Sequence[str]) -> Letter:
        """Write a shop's or publisher's newsletter to the addresses in ``to``."""
        return _Newsletter(self._rng, self._now, to).letter()

    def personal(self, to: Sequence[str]) -> Letter:
        """Write a private or office letter to the addresses in ``to``."""
        return _Personal(self._rng, self._now, to).letter()

    def spam(self, to: Sequence[str], *, neat: bool = False) -> Letter:
        """Write spam to the addresses in ``to``.

        Args:
            to: the addresses of the To header.
            neat: write headers that keep every rule, so that only the text gives it
                away; otherwise they are as sloppy as spammers are.
        """
        writer = _NeatSpam if neat else _Spam
        return writer(self._rng, self._now, to).letter()

    def letter(self, kind: LetterKind, to: Sequence[str]) -> Letter:
        """Write one letter of a kind.

        Args:
            kind: what to write.
            to: the addresses of the To header, at least one.

        Raises:
            ValueError: ``to`` is empty.
        """
        writers: dict[LetterKind, Callable[[Sequence[str]], Letter]] = {
            LetterKind.NEWSLETTER: self.newsletter,
            LetterKind.PERSONAL: self.personal,
            LetterKind.SPAM: self.spam,
        }
        return writers[kind](to)

    def letters(self, kind: LetterKind, count: int, to: Sequence[str]) -> list[Letter]:
        """Write ``count`` letters of a kind to the addresses in ``to``."""
        return [self.letter(kind, to) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class _Block:
    """A piece of a body, before it becomes text and HTML.

    Attributes:
        role: ``heading``, ``text``, ``link``, ``quote`` or ``small``.
    """

    role: str
    text: str
    url: str = ""


class _Writer:
    """What all letters have in common: filled patterns, dates, headers, MIME."""

    kind: LetterKind

    def __init__(self, rng: random.Random, now: datetime, to: Sequence[str]) -> None:
        if not to:
            raise ValueError("a letter needs at least one address to go to")
        self.rng = rng
        self.to = list(to)
        self.topic = rng.choice(words.TOPICS)
        zone = timezone(timedelta(minutes=rng.choice(_ZONES_MINUTES)))
        age = timedelta(seconds=rng.randint(60 * _NEWEST_MINUTES, 60 * _OLDEST_MINUTES))
        self.sent = (now - age).astimezone(zone).replace(microsecond=0)
        self.slots: words.Slots = dict(words.COMMON) | words.NAMES
        self.slots["thing"] = words.THINGS[self.topic]
        self.slots |= _time_of_year(self.sent)
        self.message = EmailMessage(policy=SMTP)

    # --- words ---

    def fill(self, pattern: str) -> str:
        """Replace every slot and every alternative of a pattern."""
        while True:
            filled = _ALTERNATIVES.sub(lambda m: self.rng.choice(m[1].split("|")), pattern)
            filled = _SLOT.sub(self._slot, filled)
            if filled == pattern:
                return filled
            pattern = filled

    def _slot(self, match: re.Match[str]) -> str:
        name, change = match[1], match[2]
        made = _MADE_UP.get(name)
        text = made(self.rng) if made else self.fill(self.rng.choice(self.slots[name]))
        if change == "upper":
            return text.upper()
        return _capitalised(text) if change == "title" else text

    def one_of(self, patterns: Sequence[str]) -> str:
        """Fill one of some patterns and begin it with a capital letter."""
        return _capitalised(self.fill(self.rng.choice(patterns)))

    def some_of(self, patterns: Sequence[str], least: int, most: int) -> list[str]:
        """Fill between ``least`` and ``most`` different patterns."""
        chosen = self.rng.sample(patterns, min(len(patterns), self.rng.randint(least, most)))
        return [_capitalised(self.fill(pattern)) for pattern in chosen]

    def talk(self, least: int, most: int) -> list[str]:
        """Say what all kinds of letters say alike."""
        said = self.some_of(words.TALK[self.topic], least, most)
        if self.chance(_SHARE_SMALL_TALK):
            said.insert(0, self.one_of(words.SMALL_TALK))
        return said

    def chance(self, share: float) -> bool:
        """Say yes in a ``share`` of all cases."""
        return self.rng.random() < share

    def hexadecimal(self, digits: int) -> str:
        """Make up an identifier."""
        return f"{self.rng.getrandbits(4 * digits):0{digits}x}"

    # --- headers and MIME ---

    def head(self, name: str, address: str, subject: str) -> None:
        """Set the headers every letter has but spam may lack."""
        local, _, domain = address.rpartition("@")
        self.message["Date"] = format_datetime(self.sent)
        self.message["From"] = Address(name, local, domain)
        self.message["To"] = ", ".join(self.to)
        self.message["Subject"] = subject

    def trace(self, domain: str) -> None:
        """Add the Received header of the sender's own submission server."""
        octets = self.rng.choice(("192.0.2", "198.51.100", "203.0.113"))
        client = f"{octets}.{self.rng.randint(2, 250)}"
        queue_id = "".join(self.rng.choices("BCDFGHJKLMNPQRSTVWXYZ3456789", k=11))
        self.message["Received"] = (
            f"from [{client}] by mail.{domain} with ESMTPSA id {queue_id}; "
            f"{format_datetime(self.sent + timedelta(seconds=self.rng.randint(1, 9)))}"
        )

    def body(self, text: str | None, html: str | None) -> None:
        """Set the content: plain, HTML, or both as alternatives."""
        charset = "utf-8"
        if self.chance(_SHARE_LATIN_1):
            both = (text or "") + (html or "")
            charset = "iso-8859-1" if _fits(both, "iso-8859-1") else charset
        if text is not None:
            self.message.set_content(text, charset=charset, cte=self._encoding(text))
        if html is not None and text is None:
            self.message.set_content(
                html, subtype="html", charset=charset, cte=self._encoding(html)
            )
        elif html is not None:
            self.message.add_alternative(
                html, subtype="html", charset=charset, cte=self._encoding(html)
            )

    def _encoding(self, text: str) -> str:
        plain = text.isascii() and all(len(line) <= _LINE_LENGTH for line in _lines(text))
        if plain and self.chance(0.8):
            return "7bit"
        # Base64 where nothing needs it looks like hiding, to Rspamd too.
        return "base64" if not text.isascii() and self.chance(0.3) else "quoted-printable"

    def finished(self, sender: str) -> Letter:
        """Turn the message into bytes."""
        for part in self.message.walk():
            if part is not self.message:
                del part["MIME-Version"]  # belongs to the whole; Python adds it to each part
            if part.is_multipart():
                # Python would make boundaries up from its own, unseeded randomness.
                part.set_boundary(self.fill("[=_|---=_Part_|b1_|]") + self.hexadecimal(24))
        head, end, content = self.message.as_bytes().partition(b"\r\n\r\n")
        # Python folds a value that just does not fit right behind the header's
        # name; legal, but no mail client does it, and Rspamd finds it odd.
        head = _EMPTY_FIRST_LINE.sub(rb"\1 ", head)
        return Letter(self.kind, str(self.message["Subject"]), sender, head + end + content)


class _Newsletter(_Writer):
    kind = LetterKind.NEWSLETTER

    def __init__(self, rng: random.Random, now: datetime, to: Sequence[str]) -> None:
        super().__init__(rng, now, to)
        first = rng.choice(words.NAMES["brand_first"])
        self.brand = f"{first} {rng.choice(words.BRANDS[self.topic])}"
        name = re.sub(r"[^a-z]+", rng.choice(("", "-")), self.brand.lower())
        self.domain = f"{name}.{rng.choice(('example', 'example', 'example.com', 'example.net'))}"
        path = rng.choice(("settings", "preferences", "profile", "list", "leave"))
        self.settings_url = f"https://www.{self.domain}/{path}/{self.hexadecimal(16)}"
        self.slots["thing"] += words.WARES[self.topic]
        self.slots |= words.NEWSLETTER | {
            "brand": (self.brand,),
            "settings_url": (self.settings_url,),
        }

    def letter(self) -> Letter:
        local = self.rng.choice(("news", "hello", "newsletter", "post", "team", "shop", "letters"))
        sender = f"{local}@{self.rng.choice(('', 'mail.', 'news.'))}{self.domain}"
        subject = self.one_of(words.NEWSLETTER["subject"])
        self.trace(self.domain)
        self.head(self.fill("[{brand}|{person} from {brand}]"), sender, subject)
        self.message["Message-ID"] = f"<{self.hexadecimal(20)}.{self.hexadecimal(6)}@{self.domain}>"
        list_name = re.sub(r"\W+", "-", self.fill("[{month}|{topic}|customers|letter]").lower())
        self.message["List-Id"] = f"{self.brand} <{list_name}.{self.domain}>"
        self.message["List-Unsubscribe"] = (
            f"<{self.settings_url}>, <mailto:leave-{self.hexadecimal(8)}@{self.domain}>"
        )
        if self.chance(0.6):
            self.message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        self.message["Precedence"] = "bulk"
        if self.chance(0.5):
            mailer, version = self.rng.choice(words.BULK_MAILERS)
            self.message[mailer] = version
        if self.chance(0.3):
            self.message["Reply-To"] = f"service@{self.domain}"
        blocks = self._blocks()
        text: str | None = _as_text(blocks)
        html: str | None = self._as_html(blocks)
        form = self.rng.random()
        if form < _SHARE_NEWSLETTER_PLAIN:
            html = None
        elif form < _SHARE_NEWSLETTER_PLAIN + _SHARE_NEWSLETTER_HTML_ONLY:
            text = None
        self.body(text, html)
        return self.finished(sender)

    def _blocks(self) -> list[_Block]:
        kinds = words.NEWSLETTER
        blocks = [_Block("text", self.one_of(kinds["greeting"]))]
        blocks.append(_Block("text", " ".join([self.one_of(kinds["intro"]), *self.talk(0, 2)])))
        for _ in range(self.rng.randint(2, 4)):
            if self.chance(0.15):
                # The odd item from another shelf, as real shops have.
                self.slots["thing"] = words.THINGS[self.rng.choice(words.TOPICS)]
            blocks.append(_Block("heading", self.one_of(kinds["headline"])))
            sentences = [*self.talk(0, 2), *self.some_of(kinds["offer"], 1, 2)]
            blocks.append(_Block("text", " ".join(sentences)))
            if self.chance(0.7):
                page = self.rng.choice(("p", "item", "shop", "read", "go"))
                url = f"https://www.{self.domain}/{page}/{self.hexadecimal(8)}"
                blocks.append(_Block("link", self.one_of(kinds["call"]), url))
        blocks.append(_Block("text", self.one_of(kinds["closing"])))
        blocks += [_Block("small", line) for line in self.some_of(kinds["footer"], 1, 3)]
        return blocks

    def _as_html(self, blocks: Sequence[_Block]) -> str:
        colour = self.rng.choice(("#2a6041", "#7b2d26", "#1d3557", "#6d597a", "#b56576", "#444444"))
        styles = {
            "heading": f'<h2 style="color:{colour}">',
            "text": "<p>",
            "small": '<p style="font-size:11px;color:#555555">',
        }
        rows = [f'<tr><td style="background:{colour};color:#ffffff">{escape(self.brand)}</td></tr>']
        for block in blocks:
            shown = escape(block.text).replace("\n", "<br>\n")
            if block.role == "link":
                inner = f'<p><a href="{block.url}">{shown}</a></p>'
            else:
                opening = styles[block.role]
                inner = f"{opening}{shown}</{opening[1:3].rstrip('> ')}>"
            rows.append(f"<tr><td>{inner}</td></tr>")
            if block.role == "heading" and self.chance(0.3):
                source = f"https://img.{self.domain}/{self.hexadecimal(10)}.jpg"
                rows.append(
                    f'<tr><td><img src="{source}" width="120" height="80" alt=""></td></tr>'
                )
        width = self.rng.choice((560, 600, 640))
        return _page(f'<table width="{width}" cellpadding="8">\n' + "\n".join(rows) + "\n</table>")


class _Personal(_Writer):
    kind = LetterKind.PERSONAL

    def letter(self) -> Letter:
        at_work = self.chance(_SHARE_PERSONAL_WORK)
        self.slots |= words.PERSONAL | {"you": (self._addressee(),)}
        person, surname = self.fill("{person}"), self.fill("{surname}")
        domain = self.fill("{office_host}" if at_work else "{mail_host}")
        sender = f"{self._local_part(person, surname)}@{domain}"
        subject = self.one_of(words.PERSONAL["subject"])
        is_reply = self.chance(_SHARE_PERSONAL_REPLY)
        self.trace(domain)
        self.head(
            self.rng.choice((f"{person} {surname}", f"{person} {surname}", person, "")),
            sender,
            self.fill("[Re|Re|RE|AW]: ") + subject if is_reply else subject,
        )
        blocks = self._blocks(person, is_reply=is_reply)
        if is_reply:
            earlier = f"<{self.hexadecimal(16)}@{self.to[0].rpartition('@')[2]}>"
            self.message["In-Reply-To"] = earlier
            self.message["References"] = earlier
            blocks += self._quoted()
        self._client(domain)
        if at_work:
            blocks.append(_Block("text", f"--\n{person} {surname}\n{domain.partition('.')[0]}"))
        html = _page(_paragraphs(blocks)) if self.chance(_SHARE_PERSONAL_HTML) else None
        self.body(_as_text(blocks) if html is None or self.chance(0.85) else None, html)
        if self.chance(_SHARE_PERSONAL_ATTACHMENT):
            self._attach()
        return self.finished(sender)

    def _addressee(self) -> str:
        if len(self.to) > 1:
            return self.rng.choice(("all", "everybody", "both of you", "you lot"))
        name = re.split(r"[^a-z]", self.to[0].partition("@")[0].lower())[0]
        return name.capitalize() or "there"

    def _local_part(self, person: str, surname: str) -> str:
        first, last = _ascii(person).lower(), _ascii(surname).lower()
        year = self.rng.randint(60, 99)
        return self.rng.choice((f"{first}.{last}", f"{first}{year}", f"{first[0]}{last}", first))

    def _client(self, domain: str) -> None:
        message_id = self.hexadecimal(18)
        if self.chance(0.7):
            header, client = self.rng.choice(words.USER_AGENTS)
            self.message[header] = client
            if "Thunderbird" in client:
                message_id = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        self.message["Message-ID"] = f"<{message_id}@{domain}>"

    def _blocks(self, person: str, *, is_reply: bool) -> list[_Block]:
        kinds = words.PERSONAL
        blocks = []
        if not is_reply or self.chance(0.6):
            blocks.append(_Block("text", self.one_of(kinds["greeting"])))
        first = [self.one_of(kinds["reply" if is_reply else "opener"])]
        blocks.append(_Block("text", " ".join([*first, *self.some_of(kinds["tell"], 1, 3)])))
        middle = [*self.talk(0, 2), *self.some_of(kinds["tell"], 1, 3)]
        self.rng.shuffle(middle)
        blocks.append(_Block("text", " ".join(middle)))
        blocks.append(_Block("text", " ".join(self.some_of(kinds["ask"], 1, 3))))
        blocks.append(_Block("text", f"{self.one_of(kinds['closing'])}\n{person}"))
        return blocks

    def _quoted(self) -> list[_Block]:
        sent = self.sent - timedelta(hours=self.rng.randint(1, 60))
        # English day and month names, whatever the locale.
        stamp = f"{format_datetime(sent)[:16].rstrip()} {sent:%H:%M}"
        attribution = self.rng.choice(words.QUOTE_LINES).format(sent=stamp, them=self.to[0])
        lines = [
            *self.some_of(words.PERSONAL["ask"], 1, 2),
            *self.some_of(words.PERSONAL["tell"], 1, 2),
        ]
        return [_Block("text", attribution), _Block("quote", " ".join(lines))]

    def _attach(self) -> None:
        name = re.sub(r"\W+", "-", _ascii(self.fill("{thing}-{day}"))).lower()
        content = self.rng.choice(("image", "table", "notes"))
        if content == "image":
            picture = _png(self.rng.randbytes(3), self.rng.randint(8, 40))
            self.message.add_attachment(
                picture, maintype="image", subtype="png", filename=f"{name}.png"
            )
        elif content == "table":
            rows = [self.fill("{day};{clock};{thing};{count}") for _ in range(5)]
            self.message.add_attachment(
                "\r\n".join(rows) + "\r\n", subtype="csv", filename=f"{name}.csv", cte="base64"
            )
        else:
            notes = "\r\n".join(self.talk(2, 5)) + "\r\n"
            self.message.add_attachment(notes, filename=f"{name}.txt", cte="quoted-printable")


class _Spam(_Writer):
    kind = LetterKind.SPAM

    def letter(self) -> Letter:
        self.slots |= words.SPAM
        domain = self.fill("{spam_host}")
        local = self.rng.choice(("info", "claims", "agent", "office", "mrs.smith", "desk"))
        sender = f"{local}{self.rng.randint(1, 999)}@{domain}"
        self.head(self.one_of(words.SPAM["sender_name"]), sender, self.fill("{subject}"))
        self.message["Message-ID"] = f"<{self.hexadecimal(12)}@{domain}>"
        if self.chance(_SHARE_SPAM_WITHOUT):
            # Not both, lest the scores of all rules add up to a rejection.
            del self.message[self.rng.choice(("Date", "Message-ID"))]
        if self.chance(0.4):
            self.message["Reply-To"] = f"{self.hexadecimal(6)}@{self.fill('{spam_host}')}"
        blocks = self._blocks(domain)
        disguise = self.rng.choice((self._as_outlook, self._as_outlook_express, self._as_others))
        disguise(blocks)
        return self.finished(sender)

    def _blocks(self, domain: str) -> list[_Block]:
        kinds = words.SPAM
        pitches = self.some_of(kinds["pitch"], 3, 7)
        pitches[1:1] = self.talk(0, 1)
        half = self.rng.randint(1, len(pitches) - 1)
        host = self.rng.choice((domain, f"www.{domain}", f"203.0.113.{self.rng.randint(2, 250)}"))
        return [
            _Block("text", self.one_of(kinds["greeting"])),
            _Block("text", " ".join(pitches[:half])),
            _Block("text", " ".join(pitches[half:])),
            _Block("link", self.one_of(kinds["call"]), f"http://{host}/{self.hexadecimal(10)}"),
            _Block("text", self.one_of(kinds["closing"])),
        ]

    # Each disguise is one a mail client would give away, and each alone brings
    # Rspamd's rules to about the same score.

    def _as_outlook(self, blocks: Sequence[_Block]) -> None:
        self.message["X-Mailer"] = self.fill("Microsoft Outlook 1[4|5|6].0")
        self.body(None, self._shouted(blocks))

    def _as_outlook_express(self, blocks: Sequence[_Block]) -> None:
        self.message.replace_header("Subject", f"RE: {self.message['Subject']}")
        self.message["X-Priority"] = "1"
        self.message["X-Mailer"] = "Microsoft Outlook Express 6.00.2900.5512"
        self.body(_as_text(blocks), self._shouted(blocks) if self.chance(0.5) else None)

    def _as_others(self, blocks: Sequence[_Block]) -> None:
        self.message["X-Mailer"] = self.fill("Thunderbird 2.0.0.[14|23] (Windows/20090812)")
        self.message["X-MSMail-Priority"] = "High"
        self.body(_as_text(blocks), None)

    def _shouted(self, blocks: Sequence[_Block]) -> str:
        colour = self.rng.choice(("red", "blue", "green", "#FF0000", "#CC00CC"))
        return f'<HTML><BODY><FONT COLOR="{colour}">{_paragraphs(blocks)}</FONT></BODY></HTML>\n'


class _NeatSpam(_Spam):
    def letter(self) -> Letter:
        self.slots |= words.SPAM
        domain = self.fill("{spam_host}")
        sender = f"office{self.rng.randint(1, 999)}@{domain}"
        subject = _capitalised(self.fill("{subject}").lower().rstrip("! "))
        self.head(self.one_of(words.SPAM["sender_name"]), sender, subject)
        self.message["Message-ID"] = f"<{self.hexadecimal(12)}@{domain}>"
        self.body(_as_text(self._blocks(domain)), None)
        return self.finished(sender)


# --- slots whose words are counted or reckoned ---------------------------------------


def _price(rng: random.Random) -> str:
    units, cents = rng.randint(3, 240), rng.choice((0, 50, 90, 95, 99))
    amount = f"{units}.{cents:02d}" if cents else str(units)
    return rng.choice(("{} euros", "{} dollars", "€{}", "£{}", "{} EUR", "${}")).format(amount)


def _clock(rng: random.Random) -> str:
    hour, minute = rng.randint(7, 21), rng.choice((0, 0, 15, 30, 45))
    return rng.choice((f"{hour}:{minute:02d}", f"{(hour - 1) % 12 + 1} o'clock", "noon"))


_MADE_UP: Final[dict[str, Callable[[random.Random], str]]] = {
    "price": _price,
    "clock": _clock,
    "percent": lambda rng: f"{rng.randrange(5, 75, 5)}{rng.choice(('%', ' %', ' percent'))}",
    "count": lambda rng: str(rng.choice((3, 5, 7, 10, 12, 14, 20, 24, 30, 48, 60, 100))),
    "oven": lambda rng: str(rng.randrange(150, 240, 10)),
    "code": lambda rng: (
        "".join(rng.choices("ABCDEFGHKLMNPRSTUVWXYZ", k=4)) + f"{rng.randint(5, 50)}"
    ),
    "prize_sum": lambda rng: f"{rng.randint(2, 950)},000",
    "topic": lambda rng: rng.choice(words.TOPICS),
}


def _time_of_year(sent: datetime) -> words.Slots:
    """Give the months, season and dates that somebody writing just then would mention."""
    soon = [sent + timedelta(days=days) for days in range(2, 32, 3)]
    return {
        "month": tuple(_MONTHS[(sent.month - 1 + later) % 12] for later in (0, 0, 1, 2)),
        "season": tuple(_SEASONS[(sent.month + later) % 12 // 3] for later in (0, 0, 1)),
        "date": tuple(f"{date.day} {_MONTHS[date.month - 1]}" for date in soon),
    }


# --- text and HTML -------------------------------------------------------------------


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lines(text: str) -> list[str]:
    return text.split("\n")


def _fits(text: str, charset: str) -> bool:
    try:
        text.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def _ascii(name: str) -> str:
    """Spell a name as people do in addresses, without accents."""
    spelled = name.translate(str.maketrans("øØłŁ", "oOlL", "'"))
    return unicodedata.normalize("NFKD", spelled).encode("ascii", "ignore").decode()


def _as_text(blocks: Sequence[_Block]) -> str:
    parts = []
    for block in blocks:
        prefix = "> " if block.role == "quote" else ""
        wrapped = [
            textwrap.fill(
                line,
                _TEXT_COLUMNS,
                initial_indent=prefix,
                subsequent_indent=prefix,
                break_long_words=False,
                break_on_hyphens=False,
            )
            for line in _lines(block.text)
        ]
        parts.append("\n".join(wrapped + ([block.url] if block.url else [])))
    return "\n\n".join(parts) + "\n"


def _paragraphs(blocks: Sequence[_Block]) -> str:
    parts = []
    for block in blocks:
        shown = escape(block.text).replace("\n", "<br>\n")
        if block.url:
            shown = f'<a href="{block.url}">{shown}</a>'
        tag = "blockquote" if block.role == "quote" else "p"
        parts.append(f"<{tag}>{shown}</{tag}>")
    return "\n".join(parts)


def _page(inner: str) -> str:
    return f"<!DOCTYPE html>\n<html>\n<head></head>\n<body>\n{inner}\n</body>\n</html>\n"


def _png(colour: bytes, side: int) -> bytes:
    """Paint a square of one colour, as a PNG (ISO/IEC 15948)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = name + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\x00" + colour * side) * side)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
