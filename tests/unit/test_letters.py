"""Letters nobody wrote: repeatable, valid, varied and not too easy to tell apart."""

from __future__ import annotations

import email
import email.policy
import itertools
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from functools import cache
from html import unescape
from statistics import mean

import pytest

from mailhooks.lab.letters import Letter, LetterBox, LetterKind

NOW = datetime(2026, 11, 22, 18, 0, 30, tzinfo=UTC)
TO = ("alice@host.example", "bob@host.example")
KINDS = list(LetterKind)
LEGITIMATE = [LetterKind.NEWSLETTER, LetterKind.PERSONAL]
RESERVED = re.compile(r"(?:[\w-]+\.)*(?:example|example\.(?:com|net|org))")  # RFC 2606
DOCUMENTATION_NETWORK = re.compile(r"(?:192\.0\.2|198\.51\.100|203\.0\.113)\.\d+")  # RFC 5737


@cache
def letters(kind: LetterKind, count: int = 200) -> list[Letter]:
    return LetterBox(7, now=NOW).letters(kind, count, TO)


@cache
def parsed(letter: Letter) -> EmailMessage:
    message = email.message_from_bytes(letter.raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def shown(letter: Letter) -> str:
    """What a reader sees of the body, without links and markup."""
    part = parsed(letter).get_body(("plain", "html"))
    assert part is not None
    return re.sub(r"https?://\S+", " ", unescape(re.sub(r"<[^>]*>", " ", part.get_content())))


@cache
def vocabulary(letter: Letter) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W\d_]{2,}", f"{letter.subject} {shown(letter)}".lower()))


def document_share(kind: LetterKind) -> dict[str, float]:
    """In which share of a kind's letters each word is found."""
    found = Counter(word for letter in letters(kind) for word in vocabulary(letter))
    return {word: count / len(letters(kind)) for word, count in found.items()}


class TestRepeatability:
    @pytest.mark.parametrize("kind", KINDS)
    def test_same_seed_same_letters(self, kind: LetterKind) -> None:
        """Two boxes of one seed write the same bytes, whatever else draws random numbers."""
        assert LetterBox(7, now=NOW).letters(kind, 20, TO) == letters(kind)[:20]

    @pytest.mark.parametrize("kind", KINDS)
    def test_other_seed_other_letters(self, kind: LetterKind) -> None:
        """Another seed writes other letters."""
        other = LetterBox(8, now=NOW).letters(kind, 20, TO)
        assert not {letter.raw for letter in other} & {letter.raw for letter in letters(kind)}

    def test_methods_agree(self) -> None:
        """Each kind's own method writes what letter() writes for the kind."""
        first, second = LetterBox(3, now=NOW), LetterBox(3, now=NOW)
        assert [first.newsletter(TO), first.personal(TO), first.spam(TO)] == [
            second.letter(kind, TO) for kind in KINDS
        ]

    def test_needs_a_time_zone(self) -> None:
        """A present without a time zone is refused: dates would depend on the machine."""
        with pytest.raises(ValueError, match="time zone"):
            LetterBox(1, now=NOW.replace(tzinfo=None))

    @pytest.mark.parametrize("kind", KINDS)
    def test_needs_somebody_to_write_to(self, kind: LetterKind) -> None:
        """Without an address there is no letter."""
        with pytest.raises(ValueError, match="at least one address"):
            LetterBox(1, now=NOW).letter(kind, [])


@pytest.mark.parametrize("kind", KINDS)
class TestValidity:
    def test_parses_without_defects(self, kind: LetterKind) -> None:
        """The standard library finds no fault in any part or header."""
        for letter in letters(kind):
            message = parsed(letter)
            assert [part.defects for part in message.walk() if part.defects] == []
            assert [value.defects for value in message.values() if value.defects] == []
            assert message["MIME-Version"] == "1.0"

    def test_lines_suit_any_server(self, kind: LetterKind) -> None:
        """Lines end in CRLF, hold at most 998 bytes, all ASCII; no header begins with a fold."""
        for letter in letters(kind):
            assert letter.raw.endswith(b"\r\n")
            assert not re.search(rb"(?<!\r)\n|\r(?!\n)", letter.raw)
            assert max(len(line) for line in letter.raw.split(b"\r\n")) <= 998
            assert letter.raw.isascii()
            assert not re.search(
                rb"^[\w-]+: ?\r\n", letter.raw.partition(b"\r\n\r\n")[0], re.MULTILINE
            )

    def test_addresses_are_reserved(self, kind: LetterKind) -> None:
        """Every address and link lies in a domain or network nobody can own."""
        for letter in letters(kind):
            message = parsed(letter)
            bodies = [part.get_content() for part in message.walk() if is_text(part)]
            text = "\n".join([*map(str, message.values()), *bodies])
            hosts = re.findall(r"@([\w.-]+\w)", text) + re.findall(r"https?://([^/\s\"]+)", text)
            assert hosts
            assert [
                host
                for host in hosts
                if not RESERVED.fullmatch(host) and not DOCUMENTATION_NETWORK.fullmatch(host)
            ] == []

    def test_says_who_it_is_from_and_to(self, kind: LetterKind) -> None:
        """The sender is the From address, To holds the given addresses, the subject is right."""
        for letter in letters(kind):
            message = parsed(letter)
            assert [address.addr_spec for address in message["From"].addresses] == [letter.sender]
            assert tuple(address.addr_spec for address in message["To"].addresses) == TO
            assert message["Subject"] == letter.subject
            assert letter.kind is kind

    def test_dates_lie_in_the_past_day(self, kind: LetterKind) -> None:
        """Where there is a date, it is a little before the present."""
        ages = [NOW - date.datetime for letter in letters(kind) if (date := parsed(letter)["Date"])]
        assert ages
        assert timedelta(0) < min(ages) < max(ages) < timedelta(days=1)


def is_text(part: EmailMessage) -> bool:
    return part.get_content_maintype() == "text"


class TestHeaders:
    @pytest.mark.parametrize("kind", LEGITIMATE)
    def test_legitimate_mail_is_complete(self, kind: LetterKind) -> None:
        """Newsletters and personal letters have a Date and a Message-ID of their own."""
        messages = [parsed(letter) for letter in letters(kind)]
        assert all(message["Date"] for message in messages)
        assert len({message["Message-ID"] for message in messages}) == len(messages)

    def test_newsletters_name_their_list(self) -> None:
        """Only newsletters can be unsubscribed from (RFC 2369, RFC 2919, RFC 8058)."""
        for letter in letters(LetterKind.NEWSLETTER):
            message = parsed(letter)
            assert message["List-Unsubscribe"].startswith("<https://")
            assert re.fullmatch(r".+ <[\w.-]+\.example(?:\.com|\.net)?>", message["List-Id"])
            assert message["Precedence"] == "bulk"
        for letter in letters(LetterKind.PERSONAL) + letters(LetterKind.SPAM):
            assert not [name for name in parsed(letter) if name.startswith("List-")]

    def test_replies_refer_to_something(self) -> None:
        """A personal "Re:" carries references and a quote."""
        replies = [
            letter
            for letter in letters(LetterKind.PERSONAL)
            if re.match("(?:Re|AW): ", letter.subject, re.IGNORECASE)
        ]
        assert 20 < len(replies) < 180
        for letter in replies:
            assert parsed(letter)["In-Reply-To"] == parsed(letter)["References"]
            texts = [part.get_content() for part in parsed(letter).walk() if is_text(part)]
            assert any("\n> " in text or "<blockquote>" in text for text in texts)

    def test_spam_is_sloppy(self) -> None:
        """Spam shouts, and now and then lacks a Date or a Message-ID."""
        messages = [parsed(letter) for letter in letters(LetterKind.SPAM)]
        assert all(message["Subject"].isupper() for message in messages)
        assert 20 < sum(message["Date"] is None for message in messages) < 180
        assert 20 < sum(message["Message-ID"] is None for message in messages) < 180

    def test_one_recipient_is_greeted_by_name(self) -> None:
        """A personal letter to one address greets its owner, now and then at least."""
        written = LetterBox(5, now=NOW).letters(LetterKind.PERSONAL, 40, ["alice@host.example"])
        assert sum("Alice" in shown(letter) for letter in written) > 20


class TestVariety:
    @pytest.mark.parametrize("kind", LEGITIMATE)
    def test_no_two_letters_say_the_same(self, kind: LetterKind) -> None:
        """Of two hundred letters no two bodies are equal, nor are many words shared by a pair."""
        assert len({shown(letter) for letter in letters(kind)}) == 200
        words = [vocabulary(letter) for letter in letters(kind)]
        overlap = mean(len(a & b) / len(a | b) for a, b in itertools.combinations(words, 2))
        assert overlap < 0.25

    @pytest.mark.parametrize("kind", LEGITIMATE)
    def test_lengths_and_senders_vary(self, kind: LetterKind) -> None:
        """The longest body is several times the shortest, and few senders write twice."""
        lengths = [len(shown(letter).split()) for letter in letters(kind)]
        assert max(lengths) > 2.5 * min(lengths)
        assert min(lengths) > 20  # Rspamd's Bayes ignores the very short
        assert len({letter.sender for letter in letters(kind)}) > 150

    def test_every_form_occurs(self) -> None:
        """Plain, HTML, alternatives, both encodings and charsets, RFC 2047 and attachments."""
        everything = [letter for kind in LEGITIMATE for letter in letters(kind)]
        parts = [part for letter in everything for part in parsed(letter).walk()]
        assert {part.get_content_type() for part in parts} >= {
            *("text/plain", "text/html", "multipart/alternative", "multipart/mixed"),
            *("image/png", "text/csv"),
        }
        assert {parsed(letter).get_content_type() for letter in everything} == {
            *("text/plain", "text/html", "multipart/alternative", "multipart/mixed")
        }
        assert {part["Content-Transfer-Encoding"] for part in parts} >= {
            *("7bit", "quoted-printable", "base64")
        }
        assert {part.get_content_charset() for part in parts} >= {"utf-8", "iso-8859-1"}
        assert any(not letter.subject.isascii() for letter in everything)
        assert any(b"=?utf-8?" in letter.raw for letter in everything)

    def test_alternatives_say_the_same(self) -> None:
        """Text and HTML of one letter hold the same words; a mismatch would look like spam."""
        for letter in letters(LetterKind.NEWSLETTER):
            message = parsed(letter)
            if message.get_content_type() != "multipart/alternative":
                continue
            plain, html = (part.get_content() for part in message.iter_parts())
            in_html = set(re.findall(r"\w+", unescape(re.sub(r"<[^>]*>", " ", html))))
            in_plain = set(re.findall(r"\w+", re.sub(r"https?://\S+", " ", plain)))
            assert len(in_plain - in_html) <= 12  # the addresses shown in the footer


class TestDifficulty:
    def test_newsletters_and_personal_letters_share_words(self) -> None:
        """More than half of either kind's words are used by the other too."""
        newsletter, personal = (set(document_share(kind)) for kind in LEGITIMATE)
        shared = newsletter & personal
        assert len(shared) > 0.5 * max(len(newsletter), len(personal))

    @pytest.mark.parametrize("kind", KINDS)
    def test_no_word_gives_a_kind_away(self, kind: LetterKind) -> None:
        """No word is found in most letters of a kind and hardly ever in the others."""
        others = [document_share(other) for other in KINDS if other is not kind]
        telling = [
            word
            for word, share in document_share(kind).items()
            if share > 0.6 and all(other.get(word, 0) < 0.03 for other in others)
        ]
        assert telling == []
