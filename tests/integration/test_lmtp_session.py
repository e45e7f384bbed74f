"""The delivery filter between raw protocol frames and a next hop that keeps every byte."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest
from lmtp_store import Store

from mailhooks.config import LmtpSettings
from mailhooks.dovecot import ScriptCall, ScriptServer
from mailhooks.errors import MailhooksError
from mailhooks.lmtp import address, verdicts
from mailhooks.lmtp import session as lmtp_session
from mailhooks.lmtp.session import Filter, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

INBOX = b"inbox verified No, score=1.00"
JUNK = b"junk verified Yes, score=7.00"
STATUS = b"X-Spam-Status: No, score=1.00\r\n"
JUNK_STATUS = b"X-Spam-Flag: YES\r\nX-Spam-Status: Yes, score=7.00\r\n"
UNANSWERED = b"X-Spam-Status: No, mailhooks did not answer\r\n"
LETTER = b"Subject: x\r\n\r\nhello\r\n"
BUSY_S = 30.0
"""What a busy machine may take for anything."""


@dataclass
class Daemon:
    """Stands for `mailhooks serve`: a verdict by user."""

    verdicts: dict[str, bytes | Exception | None] = field(default_factory=dict)
    calls: list[ScriptCall] = field(default_factory=list)

    async def answer(self, call: ScriptCall) -> bytes:
        self.calls.append(call)
        verdict = self.verdicts.get(call.env["USER"], INBOX)
        if verdict is None:
            await asyncio.sleep(3600)
        if isinstance(verdict, Exception):
            raise verdict
        assert verdict
        return verdict


class Client:
    """Sends frames, reads replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def reply(self) -> str:
        """One reply; of several lines, joined by /."""
        lines: list[str] = []
        while True:
            async with asyncio.timeout(BUSY_S):
                line = (await self._reader.readline()).decode()
            assert line.endswith("\r\n"), lines
            lines.append(line[:3] + line[4:-2] if line[3] == "-" else line[:-2])
            if line[3] == " ":
                return " / ".join(lines)

    async def say(self, *lines: str | bytes) -> list[str]:
        """Send lines one by one; the reply to each."""
        replies = []
        for line in lines:
            self.send(line)
            replies.append(await self.reply())
        return replies

    def send(self, *lines: str | bytes) -> None:
        for line in lines:
            self.writer.write((line.encode() if isinstance(line, str) else line) + b"\r\n")

    async def begin(self, *recipients: str) -> None:
        """LHLO to DATA, with these recipients."""
        replies = await self.say(
            "MAIL FROM:<s@example.org>", *(f"RCPT TO:<{each}>" for each in recipients), "DATA"
        )
        assert [reply[:1] for reply in replies] == ["2"] * (len(recipients) + 1) + ["3"], replies

    async def deliver(self, content: bytes, *recipients: str) -> list[str]:
        """A whole transaction; the reply for each recipient."""
        await self.begin(*recipients)
        self.writer.write(content + b".\r\n")
        return [await self.reply() for _ in recipients]

    async def is_closed(self) -> bool:
        async with asyncio.timeout(BUSY_S):
            with contextlib.suppress(ConnectionError):
                return await self._reader.read() == b""
        return True


@dataclass
class World:
    """The filter between a client and a next hop."""

    store: Store
    daemon: Daemon
    filter: Filter
    path: Path

    @contextlib.asynccontextmanager
    async def client(self, *, greet: bool = True) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        client = Client(reader, writer)
        try:
            assert (await client.reply()).startswith("220 mx.example LMTP")
            if greet:
                assert (await client.say("LHLO client.example"))[0].startswith("250")
            yield client
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def world(
    folder: Path,
    *,
    store: Store | None = None,
    max_message_bytes: int = 1 << 20,
    **settings: object,
) -> AsyncIterator[World]:
    """A filter, its daemon and its next hop; everybody is patient unless told otherwise."""
    times = {"deadline_s": BUSY_S, "next_hop_timeout_s": BUSY_S}
    daemon = Daemon()
    shared = Filter(
        settings=LmtpSettings(**(times | settings)),  # type: ignore[arg-type]
        next_hop=folder / "store",
        classify_socket=folder / "mailhooks-classify",
        max_message_bytes=max_message_bytes,
        hostname="mx.example",
    )
    classify = ScriptServer(shared.classify_socket, daemon.answer)
    await classify.start()
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(partial(Session, shared), folder / "lmtp")
    try:
        async with store or Store(folder / "store") as running:
            yield World(running, daemon, shared, folder / "lmtp")
    finally:
        server.close()
        if shared.sessions:
            for task in shared.sessions.values():
                task.cancel()
            await asyncio.wait(shared.sessions.values())
        await classify.stop(grace_s=0)
    assert shared.memory.held_bytes == 0


def trace_removed(content: bytes) -> bytes:
    """A delivered copy without the filter's own Received field."""
    head, received, rest = content.partition(b"Received: from client.example\r\n\tby mx.example ")
    assert received
    assert rest.startswith(b"(mailhooks) with LMTP id ")
    _, _, date_and_rest = rest.partition(b"\r\n\t")
    return head + date_and_rest.partition(b"\r\n")[2]


async def test_each_recipient_has_a_copy_a_transaction_and_a_reply(tmp_path: Path) -> None:
    """Verdicts differ, so do the copies; the daemon is asked for users, the next hop for paths."""
    async with world(tmp_path) as it, it.client() as client:
        it.daemon.verdicts["ben@x.example"] = JUNK
        replies = await client.deliver(LETTER, "Ann+a@x.example", "ben@x.example", "cem@x.example")
        assert replies == [
            "250 2.0.0 <Ann+a@x.example> Saved",
            "250 2.0.0 <ben@x.example> Saved",
            "250 2.0.0 <cem@x.example> Saved",
        ]
        copies = {each.rcpt: trace_removed(each.content) for each in it.store.stored}
        assert copies == {
            "RCPT TO:<Ann+a@x.example>": STATUS + LETTER,
            "RCPT TO:<ben@x.example>": JUNK_STATUS + LETTER,
            "RCPT TO:<cem@x.example>": STATUS + LETTER,
        }
        calls = {call.env["USER"]: call for call in it.daemon.calls}
        assert sorted(calls) == ["ann@x.example", "ben@x.example", "cem@x.example"]
        for call in it.daemon.calls:
            assert call.env["SENDER"] == "s@example.org"
            # As Dovecot asks: with the last hop's trace on top, and no verdict yet.
            assert call.message.startswith(b"Received: from client.example\r\n\tby mx.example ")
            assert call.message.endswith(LETTER)


async def test_a_pipelined_dialog_with_two_messages_is_answered_in_order(tmp_path: Path) -> None:
    """All of it in one write, behind LHLO; a refused recipient and RSET in the middle."""
    async with world(tmp_path) as it, it.client() as client:
        it.store.answers["RCPT TO:<nobody@x>"] = "550 5.1.1 <nobody@x> secret reason"
        client.send(
            "MAIL FROM:<> SIZE=100 BODY=8BITMIME",
            "RCPT TO:<ann@x>",
            "RCPT TO:<nobody@x>",
            "DATA",
            b"first\r\n\r\n..\r\n.",
            "NOOP",
            "MAIL FROM:<a@b>",
            "RCPT TO:<ann@x>",
            "RSET",
            "MAIL FROM:<b@b>",
            "RCPT TO:<ben@x>",
            "DATA",
            b"second\r\n.",
            "QUIT",
        )
        codes = [*["250"] * 2, "550", "354", *["250"] * 7, "354", "250", "221"]
        replies = [await client.reply() for _ in codes]
        assert [reply[:3] for reply in replies] == codes
        assert replies[2] == "550 5.1.1 refused by the server that stores mail"
        assert all(
            reply[4:8] == f"{reply[0]}.{reply[4:8][2]}." for reply in replies if "354" not in reply
        )
        assert await client.is_closed()
        first, second = it.store.stored
        assert (first.mail[:30], second.mail[:16]) == (
            "MAIL FROM:<> BODY=8BITMIME SIZ",
            "MAIL FROM:<b@b> ",
        )
        assert trace_removed(first.content) == STATUS + b"first\r\n\r\n..\r\n"
        assert trace_removed(second.content) == STATUS + b"second\r\n"


async def test_only_what_the_next_hop_offers_is_offered(tmp_path: Path) -> None:
    """So that a client converts or returns what could not go on; each is passed on when used."""
    poor = Store(tmp_path / "store", offers=("SIZE 50000",))
    async with world(tmp_path, store=poor) as it, it.client(greet=False) as client:
        (greeting,) = await client.say("LHLO client.example")
        assert greeting == (
            "250mx.example / 250PIPELINING / 250ENHANCEDSTATUSCODES / 250 SIZE 45904"
        )
        for refused in ("BODY=8BITMIME", "SMTPUTF8", "RET=FULL", "8BITMIME", "PIPELINING"):
            (reply,) = await client.say(f"MAIL FROM:<a@b> {refused}")
            assert reply == f"555 5.5.4 {refused.partition('=')[0]} is not offered"
        assert await client.say("MAIL FROM:<a@b> SIZE=45905") == [
            "552 5.3.4 larger than this host takes"
        ]
        it.store.offers = ("8BITMIME", "SMTPUTF8", "SIZE")
        (greeting,) = await client.say("LHLO client.example")
        assert greeting.endswith("250SIZE 1048576 / 2508BITMIME / 250 SMTPUTF8")
        await client.say("MAIL FROM:<jörg@x> SMTPUTF8 BODY=8BITMIME", "RCPT TO:<jürgen@x>", "DATA")
        await client.say("Subject: ä\r\n\r\n.".encode())
        (stored,) = it.store.stored
        assert stored.mail.startswith("MAIL FROM:<jörg@x> BODY=8BITMIME SMTPUTF8 SIZE=")
        assert stored.rcpt == "RCPT TO:<jürgen@x>"
        assert b"with UTF8LMTP id " in stored.content
        assert it.daemon.calls[0].env["USER"] == "jürgen@x"


async def test_each_recipient_learns_what_the_next_hop_said_of_theirs(tmp_path: Path) -> None:
    """Codes are passed on, words of refusal are not."""
    async with world(tmp_path) as it, it.client() as client:
        it.store.answers = {
            ". <b@x>": "452 4.2.2 over quota: secret",
            ". <c@x>": "550 no enhanced code",
            ". <d@x>": "250 fine",
        }
        assert await client.deliver(LETTER, "a@x", "b@x", "c@x", "d@x") == [
            "250 2.0.0 <a@x> Saved",
            "452 4.2.2 not now, try again later",
            "550 5.0.0 refused by the server that stores mail",
            "250 2.0.0 fine",
        ]
        assert [each.rcpt for each in it.store.stored] == ["RCPT TO:<a@x>", "RCPT TO:<d@x>"]


# On the wire, dots doubled: as sent, and as it arrives if that is something else.
CONTENTS = {
    "empty": (b"", b""),
    "dots": (b"..\r\n...x\r\nx.\r\n\r\n..\r\n", None),
    "dots that are not doubled": (b".x\r\n.\t\r\n", b"x\r\n\t\r\n"),
    "bare CR": (b"a\rb\r\r\n\r\r.\r\n", None),
    "NUL and 8 bits": (bytes(set(range(256)) - set(b"\r\n.")) + b"\r\n", None),
    "bare LF": (b"a: b\n\nx\n.\nQUIT\r\n", b"a: b\r\n\r\nx\r\n..\r\nQUIT\r\n"),
    "a hidden end": (b"x\n.\r\nMAIL FROM:<e@e>\r\n", b"x\r\n..\r\nMAIL FROM:<e@e>\r\n"),
    "a long line": (b"x" * 300_000 + b"\r\n", None),
    "many lines": (b"y.\r\n" * 50_000, None),
    "no header": (b"\r\nbody\r\n", None),
    "a fold first": (b" folded\r\na: b\r\n\r\n", None),
}


async def test_content_arrives_to_the_byte(tmp_path: Path) -> None:
    """Whatever is in it, but for a bare LF, which becomes a line end; the dialog stays in step."""
    async with world(tmp_path) as it, it.client() as client:
        for name, (sent, arrived) in CONTENTS.items():
            it.store.stored.clear()
            assert await client.deliver(sent, "ann@x") == ["250 2.0.0 <ann@x> Saved"], name
            content = trace_removed(it.store.stored[0].content)
            assert content == STATUS + (sent if arrived is None else arrived), name
        assert await client.say("NOOP") == ["250 2.0.0 OK"]


@pytest.mark.parametrize("how", ["absent", "hung", "refuses", "nonsense"])
async def test_mail_goes_on_without_a_verdict(tmp_path: Path, how: str) -> None:
    """Nobody waits beyond the deadline, and a stranger's verdict does not take its place."""
    async with world(tmp_path, deadline_s=0.3) as it, it.client() as client:
        it.daemon.verdicts = {
            "ann@x": {"hung": None, "refuses": MailhooksError("no")}.get(how, b"junk?")
        }
        if how == "absent":
            it.filter.classify_socket.unlink()
        letter = b"X-Spam-Flag: YES\r\nX-Mailhooks-Score: v=1\r\n" + LETTER
        replies = await client.deliver(letter, *["ann@x"] * 20)
        assert {reply[:3] for reply in replies} == {"250"}
        for copy in it.store.stored:
            content = trace_removed(copy.content)
            assert content == UNANSWERED + b"X-Mailhooks-Score: v=1\r\n" + LETTER


async def test_a_next_hop_that_is_down_defers_at_the_greeting(tmp_path: Path) -> None:
    """Not with a shorter offer, which would return mail that needs more; later all is well."""
    async with world(tmp_path) as it, it.client(greet=False) as client:
        (tmp_path / "store").rename(tmp_path / "away")
        (reply,) = await client.say("LHLO client.example")
        assert reply == "451 4.4.1 the server that stores mail is not available"
        assert (await client.say("MAIL FROM:<a@b>"))[0].startswith("503 5.5.1 ")
        (tmp_path / "away").rename(tmp_path / "store")
        for answer in ("421 4.3.2 busy", "554 5.3.2 no", "hello", "", "500 what is LHLO?"):
            it.store.answers = {"connect": answer}
            if answer.startswith("500"):
                it.store.answers = {"LHLO mx.example": answer}
            (reply,) = await client.say("LHLO client.example")
            assert reply[:7] in ("451 4.3", "451 4.4"), answer
        it.store.answers = {}
        assert (await client.say("LHLO client.example"))[0].startswith("250")
        assert await client.deliver(LETTER, "ann@x") == ["250 2.0.0 <ann@x> Saved"]


async def test_a_next_hop_that_restarts_is_found_again(tmp_path: Path) -> None:
    """Between messages nobody notices; between MAIL and RCPT it is for later."""
    async with world(tmp_path) as it, it.client() as client:
        it.store.disconnect()
        assert await client.deliver(LETTER, "ann@x") == ["250 2.0.0 <ann@x> Saved"]
        assert await client.say("MAIL FROM:<a@b>", "RCPT TO:<ann@x>") == [
            "250 2.1.0 OK",
            "250 2.1.5 OK",
        ]
        it.store.answers["RCPT TO:<ben@x>"] = ""
        replies = await client.say("RCPT TO:<ben@x>", "RCPT TO:<cem@x>")
        assert replies == ["451 4.4.2 the server that stores mail is not available"] * 2
        assert (await client.say("DATA"))[0][:3] == "354"
        assert await client.say(LETTER + b".") == ["250 2.0.0 <ann@x> Saved"]
        assert it.store.connections == 3


@pytest.mark.parametrize(("how", "later"), [("", "250"), (None, "451")], ids=["leaves", "silent"])
async def test_a_next_hop_that_fails_half_way_defers_what_is_not_stored(
    tmp_path: Path, how: str | None, later: str
) -> None:
    """Who has it, has it once; whoever it is silent for, it is not asked again in this message."""
    wait_s = 2.0 if how is None else BUSY_S
    async with world(tmp_path, next_hop_timeout_s=wait_s) as it, it.client() as client:
        it.store.answers[". <ben@x>"] = how
        replies = await client.deliver(LETTER, "ann@x", "ben@x", "cem@x", "dan@x")
        assert [reply[:3] for reply in replies] == ["250", "451", later, later]
        assert replies[1] == "451 4.4.2 the server that stores mail is not available"


@pytest.mark.parametrize(
    ("junk_answer", "stored"),
    [
        ("250 2.1.5 OK", ["ann+Junk@x", "ben+news@x"]),
        ("550 5.1.1 no such mailbox", ["ann+news@x", "ben+news@x"]),
    ],
)
async def test_junk_goes_to_the_junk_address_or_else_as_addressed(
    tmp_path: Path, junk_answer: str, stored: list[str]
) -> None:
    """An address that we made up and the next hop does not know costs no mail."""
    async with world(tmp_path, junk_detail="Junk") as it, it.client() as client:
        it.daemon.verdicts["ann@x"] = JUNK
        it.store.answers["RCPT TO:<ann+Junk@x>"] = junk_answer
        replies = await client.deliver(LETTER, "ann+news@x", "ben+news@x")
        assert [reply[:3] for reply in replies] == ["250", "250"]
        assert [each.rcpt for each in it.store.stored] == [f"RCPT TO:<{each}>" for each in stored]


async def test_limits_refuse_one_message_and_not_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too large is said for each recipient; too many, or too much at once, is for later."""
    async with world(tmp_path, max_message_bytes=10_000) as it, it.client() as client:
        large = ["552 5.3.4 larger than this host takes"]
        assert (
            await client.deliver(b"x" * 78 + b"\r\n" + b"y\r\n" * 3_500, "a@x", "b@x") == large * 2
        )
        assert await client.deliver(b"x" * 200_000 + b"\r\n", "a@x") == large
        assert await client.deliver(b"\n" * 6_000 + b"\r\n", "a@x") == large
        assert await client.deliver(b"..\r\n" * 3_333, "a@x") == ["250 2.0.0 <a@x> Saved"]
        monkeypatch.setattr(lmtp_session, "MAX_RECIPIENTS", 2)
        replies = await client.say("MAIL FROM:<a@b>", *["RCPT TO:<a@x>"] * 3)
        assert replies[3] == "452 4.5.3 too many recipients for one message"
        assert (await client.say("RSET"))[0][:3] == "250"
        monkeypatch.setattr(lmtp_session, "MEMORY_BYTES", 12_000)
        async with it.client() as other:
            await client.begin("a@x")
            client.writer.write(b"x" * 9_000 + b"\r\n")
            async with asyncio.timeout(BUSY_S):
                while not it.filter.memory.held_bytes:
                    client.writer.write(b"y.\r\n")
                    await asyncio.sleep(0.01)
            assert (
                await other.deliver(b"x" * 9_000 + b"\r\n", "b@x", "c@x")
                == ["452 4.3.1 too much mail at once, try again later"] * 2
            )
            client.writer.write(b".\r\n")
            assert (await client.reply())[:3] == "250"
            assert (await other.deliver(b"x" * 9_000 + b"\r\n", "b@x"))[0][:3] == "250"


WRONG: list[tuple[str | bytes, str]] = [
    ("MAIL FROM:<a@b>", "503 5.5.1"),
    ("LHLO", "501 5.5.4"),
    ("EHLO x", "502 5.5.1"),
    ("HELO x", "502 5.5.1"),
    ("LHLO client.example", "250"),
    ("RCPT TO:<a@x>", "503 5.5.1"),
    ("DATA", "503 5.5.1"),
    ("MAIL", "501 5.5.4"),
    ("MAIL FROM:a@b", "501 5.5.4"),
    ("MAIL FROM:<a@b> SIZE=x", "501 5.5.4"),
    ("MAIL FROM:<a@b> BODY=BINARYMIME", "501 5.5.4"),
    ("MAIL FROM:<a\rb@c>", "501 5.5.4"),
    ("MAIL FROM:<a@b>", "250 2.1.0"),
    ("MAIL FROM:<a@b>", "503 5.5.1"),
    ("RCPT TO:<a@x> NOTIFY=NEVER", "555 5.5.4"),
    ("RCPT FROM:<a@x>", "501 5.5.4"),
    ("DATA", "503 5.5.1"),
    ("RCPT TO:<a@x>", "250 2.1.5"),
    ("DATA now", "501 5.5.4"),
    ("STARTTLS", "502 5.5.1"),
    ("AUTH PLAIN AGEAYg==", "502 5.5.1"),
    ("VRFY a@x", "502 5.5.1"),
    ("EXPN a@x", "502 5.5.1"),
    ("HELP", "502 5.5.1"),
    ("BDAT 5 LAST", "500 5.5.1"),
    ("", "500 5.5.1"),
    (b"\xff\xfe", "500 5.5.1"),
    ("NOOP " + "x" * 5_000, "500 5.5.1"),
    ("NOOP " + "x" * 200_000, "500 5.5.1"),
    ("RSET", "250 2.0.0"),
    ("QUIT", "221 2.0.0"),
]


async def test_wrong_commands_are_refused_and_change_nothing(tmp_path: Path) -> None:
    """Each gets a reply with an enhanced status code, and none reaches the next hop."""
    async with world(tmp_path) as it, it.client(greet=False) as client:
        for line, reply in WRONG:
            assert (await client.say(line))[0].startswith(reply), line[:50]
        assert [line for line in it.store.commands if line != "connect"] == [
            "LHLO mx.example",
            "MAIL FROM:<a@b>",
            "RCPT TO:<a@x>",
            "RSET",
        ]


async def test_a_bug_is_a_temporary_failure_for_each_recipient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing permanent, nothing of it in the reply, one reply each, and the next message works."""
    async with world(tmp_path) as it, it.client() as client:

        def broken(*_arguments: object) -> bytes:
            raise RuntimeError("secret")

        with monkeypatch.context() as patch:
            patch.setattr(lmtp_session, "stamped", broken)
            replies = await client.deliver(LETTER, "ann@x", "ben@x")
            assert replies == ["451 4.3.0 internal trouble, try again later"] * 2
            patch.setattr(address, "parse_argument", broken)
            assert await client.say("MAIL FROM:<a@b>") == replies[:1]
        assert caplog.text.count("RuntimeError: secret") == 3
        assert (await client.deliver(LETTER, "ann@x"))[0][:3] == "250"
        with monkeypatch.context() as patch:
            patch.setattr(verdicts, "ask", broken)
            await client.begin("ann@x", "ben@x")
            assert (await client.say(LETTER + b"."))[0][:3] == "421"
            assert await client.is_closed()


async def test_a_client_that_goes_away_leaves_nothing_behind(tmp_path: Path) -> None:
    """Before its lone dot nothing is stored; while a verdict is awaited neither."""
    async with world(tmp_path) as it:
        async with it.client() as client:
            await client.begin("ann@x")
            client.writer.write(LETTER)
        it.daemon.verdicts["ben@x"] = None
        async with it.client() as client:
            await client.begin("ben@x")
            client.writer.write(LETTER + b".\r\n")
            async with asyncio.timeout(BUSY_S):
                while not it.daemon.calls:
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(BUSY_S):
            while it.filter.sessions:
                await asyncio.sleep(0.01)
        assert it.store.stored == []


async def test_the_end_waits_for_the_message_under_way(tmp_path: Path) -> None:
    """An idle client is told at once, a busy one when it has its reply."""
    async with world(tmp_path) as it, it.client() as idle, it.client() as busy:
        await busy.begin("ann@x")
        for session in list(it.filter.sessions):
            session.end()
        assert (await idle.reply()).startswith("421 4.3.2 ")
        assert await idle.is_closed()
        assert (await busy.say(LETTER + b"."))[0][:3] == "250"
        assert (await busy.reply()).startswith("421 4.3.2 ")
        assert await busy.is_closed()
