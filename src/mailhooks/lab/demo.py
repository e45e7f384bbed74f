"""The demonstration: one newsletter, two recipients, two verdicts, on real servers.

Everything it says is measured while it runs; if something does not come true,
it ends in :class:`~mailhooks.errors.LabError`.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mailhooks.errors import LabError
from mailhooks.lab.host import ADDRESS, Lab, whole
from mailhooks.lab.letters import LetterBox, LetterKind
from mailhooks.message import read_header
from mailhooks.source import iter_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mailhooks.lab.mailbox import StoredMessage
    from mailhooks.rspamd import CheckResult

FIRST, SECOND = "alice", "bob"
# An alias that reaches both.
BOTH = "both"
NUMBER = "X-Demo-Number"
MIN_LEARNS = 5
GENERATED = 16
OWN_LEAST, OWN_MOST = 8, 40
SPAM = 8
DELIVERY_FIELDS = re.compile(
    rb"(?im)^(?:delivered-to|x-original-to|return-path|x-spam[\w-]*|x-spamd-[\w-]*"
    rb"|x-rspamd-[\w-]*|x-mailhooks-[\w-]*)[ \t]*:.*\n(?:[ \t].*\n)*"
)


@dataclass(frozen=True, slots=True)
class Material:
    """The mail of one demonstration.

    Attributes:
        newsletters: that both get, and the first account moves to Junk.
        personal: that both get and keep.
        spam: well-made spam that no rule catches; both move it to Junk.
        new_newsletter: sent after the learning.
        new_personal: likewise.
    """

    newsletters: Sequence[bytes]
    personal: Sequence[bytes]
    spam: Sequence[bytes]
    new_newsletter: bytes
    new_personal: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one copy of a message."""

    message: str
    recipient: str
    milter: str
    bayes: str
    total: str
    threshold: str
    folder: str


@dataclass(frozen=True, slots=True)
class StockVerdict:
    """What a host without mailhooks decides, once for all recipients."""

    recipients: tuple[str, ...]
    score: float
    bayes: str
    action: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demonstration measured."""

    rows: Sequence[Row]
    stock: Sequence[StockVerdict]
    elapsed_s: float


def generated(seed: int) -> Material:
    """Mail written by the project itself, different for each seed."""
    box = LetterBox(seed, now=datetime.now(UTC))
    to = [f"{FIRST}@mail.example", f"{SECOND}@mail.example"]

    def some(kind: LetterKind, count: int) -> list[bytes]:
        return [letter.raw for letter in box.letters(kind, count, to)]

    newsletters = some(LetterKind.NEWSLETTER, GENERATED + 1)
    personal = some(LetterKind.PERSONAL, GENERATED + 1)
    return Material(
        newsletters[:-1],
        personal[:-1],
        [box.spam(to, neat=True).raw for _ in range(SPAM)],
        newsletters[-1],
        personal[-1],
    )


def own(path: Path, seed: int) -> Material:
    """A person's own mail, sorted into newsletters and the rest by its list headers.

    Args:
        path: a Maildir, mbox, folder of messages or archive.
        seed: of the generated spam, which one's own mail may lack.

    Raises:
        SourceError: the path cannot be read.
        LabError: it does not hold enough mail of both kinds.
    """
    newsletters: list[bytes] = []
    personal: list[bytes] = []
    for found in iter_messages(path):
        raw = as_first_sent(found.raw)
        (newsletters if is_newsletter(raw) else personal).append(raw)
    for kind, mail in (("newsletters", newsletters), ("other messages", personal)):
        if len(mail) <= OWN_LEAST:
            raise LabError(
                f"{path}: holds {len(newsletters)} newsletters (List-Id, List-Unsubscribe or "
                f"Precedence: bulk) and {len(personal)} other messages; the demo needs more "
                f"than {OWN_LEAST} {kind}"
            )
    newsletters, personal = _by_source(newsletters), _by_source(personal)
    return Material(
        newsletters[1:], personal[1:], generated(seed).spam, newsletters[0], personal[0]
    )


def as_first_sent(raw: bytes) -> bytes:
    """A delivered message less what the delivery, and an earlier filter, wrote above it.

    Rspamd would believe an old Delivered-To about whose statistics to use, and
    count an old spam flag.
    """
    return (
        DELIVERY_FIELDS.sub(b"", raw[: read_header(raw).size_bytes])
        + raw[read_header(raw).size_bytes :]
    )


def _by_source(messages: Sequence[bytes]) -> list[bytes]:
    """As many as the demo takes, of the most frequent lists and senders, the newest first."""
    sources: dict[bytes, list[bytes]] = {}
    for raw in messages:
        header = read_header(raw)
        name = (header.values("list-id") or header.values("from") or [b""])[0]
        sources.setdefault(name.lower(), []).append(raw)
    largest_first = sorted(sources.values(), key=len, reverse=True)
    return [raw for group in largest_first for raw in reversed(group)][: OWN_MOST + 1]


def is_newsletter(raw: bytes) -> bool:
    """Whether a message says of itself that it went to many."""
    header = read_header(raw)
    bulk = any(value.lower() in (b"bulk", b"list") for value in header.values("precedence"))
    return bulk or bool(header.values("list-id") or header.values("list-unsubscribe"))


def play(material: Material, say: Callable[[str], None]) -> Outcome:
    """Start a lab, send, move, learn, send again; tell the story on the way.

    Args:
        material: the mail.
        say: takes one paragraph.

    Raises:
        LabError: something did not come true; says what.
    """
    started = time.monotonic()
    host = Lab(
        (FIRST, SECOND),
        aliases={BOTH: (FIRST, SECOND)},
        min_learns=MIN_LEARNS,
        # The contrast to the host without mailhooks is clearer so.
        shared=False,
        learn_on_delivery="all",
        settle_s=0.5,
    )
    say("Starting a private mail host: Postfix, Dovecot, Rspamd, Redis, mailhooks ...")
    with host:
        say(
            f"Up after {time.monotonic() - started:.1f} s, in {host.root}. Nothing outside it is "
            f"touched. Rspamd's Bayes speaks after {MIN_LEARNS} learned messages of each class "
            "here."
        )
        return _Play(host, material, say, started).run()


class _Play:
    def __init__(
        self, host: Lab, material: Material, say: Callable[[str], None], started: float
    ) -> None:
        self._host = host
        self._material = material
        self._say = say
        self._started = started
        self._sent = 0

    def run(self) -> Outcome:
        material, say = self._material, self._say
        newsletters = self._send_all(material.newsletters)
        personal = self._send_all(material.personal)
        spam = self._send_all(material.spam)
        self._host.wait_queue_empty()
        say(
            f"Both accounts got the same mail by SMTP, each message sent once, to the alias "
            f"{whole(BOTH)} that reaches both: {len(newsletters)} newsletters, "
            f"{len(personal)} personal messages, {len(spam)} spam messages too well made for "
            "Rspamd's rules. What lies in INBOX was learned as ham for its owner."
        )
        self._wait_learned()
        moved = self._move_to_junk(FIRST, newsletters + spam)
        self._move_to_junk(SECOND, spam)
        say(
            f"{FIRST} moved the newsletters and the spam into Junk over IMAPS ({moved} messages), "
            f"{SECOND} only the spam."
        )
        self._wait_learned()
        for name in (FIRST, SECOND):
            spam_learns, ham_learns = self._host.learns(name)
            say(f"Redis now counts for {name}: {spam_learns} spam and {ham_learns} ham learned.")
        numbers = self._send_all([material.new_newsletter, material.new_personal])
        self._host.wait_queue_empty()
        if len(numbers) < 2:  # noqa: PLR2004 - the two that were just sent
            raise LabError("Rspamd rejected the new newsletter or personal message: no comparison")
        rows = [
            self._row(what, name, number)
            for what, number in zip(("newsletter", "personal"), numbers, strict=True)
            for name in (FIRST, SECOND)
        ]
        stock = asyncio.run(self._stock())
        return Outcome(rows, stock, time.monotonic() - self._started)

    def _send_all(self, messages: Sequence[bytes]) -> list[int]:
        """Send to both accounts by their alias; numbers of those that Postfix took."""
        taken = []
        for raw in messages:
            self._sent += 1
            marked = f"{NUMBER}: {self._sent}\r\n".encode() + raw
            try:
                self._host.send(marked, (BOTH,))
            except LabError as error:
                self._say(f"Message {self._sent} is left out: {error}")
                continue
            taken.append(self._sent)
        return taken

    def _wait_learned(self) -> None:
        self._host.wait(
            "everything in the spool is learned", lambda: self._host.waiting_samples() == 0, 60
        )

    def _move_to_junk(self, name: str, numbers: Sequence[int]) -> int:
        mailbox = self._host.mailbox(name)
        uids = [m.uid for m in mailbox.messages() if _number(m) in numbers]
        mailbox.move(uids, "INBOX", "Junk")
        return len(uids)

    def _row(self, what: str, name: str, number: int) -> Row:
        mailbox = self._host.mailbox(name)
        copies = [
            message
            for folder in ("INBOX", "Junk")
            for message in mailbox.messages(folder)
            if _number(message) == number
        ]
        if len(copies) != 1:
            raise LabError(f"{name} has {len(copies)} copies of the new {what} message, not one")
        values = read_header(copies[0].raw).values("X-Spam-Status")
        if len(values) != 1:
            raise LabError(
                f"{name}'s new {what} message has {len(values)} X-Spam-Status headers, not one"
            )
        # Nobody in the demo has a say about a sender yet; where mail was left is worth little.
        status = values[0].decode("ascii").partition(" acquaintance=")[0]
        parts = dict(
            zip(
                ("score", "required", "milter", "bayes"),
                _between(status, "score=", " required=", " milter=", " bayes="),
                strict=True,
            )
        )
        return Row(
            what,
            name,
            parts["milter"],
            re.sub(r", own [^)]*", "", parts["bayes"]),
            parts["score"],
            parts["required"],
            copies[0].folder,
        )

    async def _stock(self) -> list[StockVerdict]:
        """The request Rspamd's milter makes without mailhooks: all recipients, Bayes on."""
        found = []
        async with self._host.rspamd() as rspamd:
            for recipients in ((FIRST, SECOND), (SECOND, FIRST), (BOTH,)):
                result = await rspamd.check(
                    self._material.new_newsletter,
                    user=None,
                    envelope_from="sender@example.org",
                    helo="client.example.org",
                    ip=ADDRESS,
                    rcpts=[whole(name) for name in recipients],
                )
                found.append(StockVerdict(recipients, result.score, _bayes(result), result.action))
        return found


def failures(outcome: Outcome) -> list[str]:
    """What did not come true, each in one sentence; empty if all of it did."""
    folders = {(row.message, row.recipient): row.folder for row in outcome.rows}
    expected = {
        ("newsletter", FIRST): "Junk",
        ("newsletter", SECOND): "INBOX",
        ("personal", FIRST): "INBOX",
        ("personal", SECOND): "INBOX",
    }
    wrong = [
        f"The new {message} message of {name} is in {found}, not in {folder}."
        for (message, name), folder in expected.items()
        if (found := folders.get((message, name))) != folder
    ]
    if any(row.milter.startswith("none") for row in outcome.rows):
        wrong.append("A copy carries no milter score.")
    if len({stock.score for stock in outcome.stock}) < 2:  # noqa: PLR2004
        wrong.append("The stock host's verdict did not depend on the order of recipients.")
    return wrong


def _number(message: StoredMessage) -> int:
    values = read_header(message.raw).values(NUMBER)
    return int(values[0]) if values else 0


def _between(text: str, *marks: str) -> list[str]:
    """The text after each mark, up to the next one."""
    found = []
    rest = text.partition(marks[0])[2]
    for mark in marks[1:]:
        part, _, rest = rest.partition(mark)
        found.append(part)
    return [*found, rest]


def _bayes(result: CheckResult) -> str:
    symbols = [s for s in result.symbols if s.name.startswith("BAYES_")]
    return ", ".join(f"{s.name} {s.score:.2f}" for s in symbols) or "none"
