"""A host without Sieve at delivery: Postfix, `mailhooks lmtp`, Dovecot's LMTP."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from delivered import identified, message_id, status

from mailhooks.lab import Lab
from mailhooks.lab.host import ADDRESS, free_ports
from mailhooks.lab.letters import LetterBox
from mailhooks.lab.process import Server, tcp_answers
from mailhooks.message import read_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailhooks.lab.mailbox import StoredMessage

NAMES = ["ann", "ben", "cem"]
NO_SIEVE = """
lmtp_save_to_detail_mailbox = yes
protocol lmtp {
  mail_plugins =
}
"""
# All recipients of a message in one LMTP transaction.
TRANSPORT = "virtual_transport = lmtp:inet:{}:{}\nlmtp_destination_recipient_limit = 50\n"
SETTINGS = """
[daemon]
socket_dir = "{root}/run/mailhooks"
[lmtp]
listen = "{address}:{port}"
next_hop = "unix:{root}/run/lmtp"
deadline_s = 4.0
junk_detail = "Junk"
"""
KILLS = 5


@pytest.fixture(scope="module")
def host() -> Iterator[Lab]:
    (port,) = free_ports(1)
    transport = TRANSPORT.format(ADDRESS, port)
    with Lab(NAMES, deadline_s=3.0, extra_dovecot=NO_SIEVE, extra_postfix=transport) as lab:
        settings = lab.root / "lmtp.toml"
        settings.write_text(SETTINGS.format(root=lab.root, address=ADDRESS, port=port))
        lab.servers["lmtp"] = Server(
            "lmtp",
            [sys.executable, "-m", "mailhooks", "--config", str(settings), "lmtp"],
            lambda: tcp_answers(ADDRESS, port, b"220 "),
            lab.root / "log/lmtp.log",
        )
        lab.restart("lmtp")
        yield lab


@pytest.fixture
def letters(request: pytest.FixtureRequest) -> LetterBox:
    return LetterBox(sum(request.node.nodeid.encode()), now=datetime.now(UTC))


TO_ALL = [f"{name}@mail.example" for name in NAMES]


def copies(host: Lab, raw: bytes) -> dict[str, StoredMessage]:
    """Each recipient's copy, once all have it; nobody has two."""
    found = {name: host.mailbox(name).wait_for(message_id(raw)) for name in NAMES}
    host.wait_queue_empty()
    for name in NAMES:
        assert len(host.mailbox(name).find(message_id(raw))) == 1
    return found


def teach(host: Lab, letters: LetterBox, name: str) -> None:
    """Newsletters are spam to this user."""

    async def run() -> None:
        async with host.rspamd() as rspamd:
            user = host.users[name].address
            for _ in range(10):
                spam, ham = letters.newsletter([user]).raw, letters.personal([user]).raw
                assert (await rspamd.learn_spam(spam, user=user, bulk=True)).learned
                assert (await rspamd.learn_ham(ham, user=user, bulk=True)).learned

    asyncio.run(run())


def test_each_recipient_has_a_verdict_and_junk_is_filed(host: Lab, letters: LetterBox) -> None:
    """One transaction, three copies: Junk by the user's own statistics, whatever the address."""
    teach(host, letters, "ann")
    raw = letters.newsletter(TO_ALL).raw
    forged = b"X-Spam-Flag: YES\r\nX-Spam: Yes\r\nX-Mailhooks-Rspamd: v=1\r\n" + raw
    host.send(forged, ["Ann+news", "ben", "cem+any"])
    found = copies(host, raw)
    assert {name: copy.folder for name, copy in found.items()} == {
        "ann": "Junk",
        "ben": "INBOX",
        "cem": "INBOX",
    }
    for name, copy in found.items():
        header = read_header(copy.raw)
        assert header.values("x-spam-flag") == ([b"YES"] if name == "ann" else [])
        assert "milter=none" not in status(copy.raw)
        assert len(header.values("x-mailhooks-score")) == 1
        assert not header.values("x-mailhooks-rspamd")
        assert not header.values("x-spam")
    assert "bayes=none (no opinion)" in status(found["ben"].raw)
    # The transaction really had three recipients.
    assert host.log("postfix").count("nrcpt=3") == 1
    assert host.log("lmtp").count(f"user={host.users['ann'].address} junk") == 1


@pytest.mark.parametrize("sender", ["", "S+tag=x@EXAMPLE.org", '"s\\p q"@example.org'])
def test_the_milter_score_stays_verified(host: Lab, letters: LetterBox, sender: str) -> None:
    """Whoever the sender is, spam by Rspamd's own rules goes to Junk."""
    raw = identified(letters.spam(TO_ALL).raw)
    host.send(raw, NAMES, sender=sender)
    for copy in copies(host, raw).values():
        assert copy.folder == "Junk", status(copy.raw)


def test_a_stolen_score_is_worth_nothing_without_the_milter(host: Lab, letters: LetterBox) -> None:
    """The filter's own Received field stands where Dovecot's would: a forged one is too deep."""
    raw = letters.personal(TO_ALL).raw
    host.send(raw, NAMES)
    score = read_header(copies(host, raw)["ann"].raw).values("x-mailhooks-score")[0]
    queue_id = score.partition(b"q=")[2].partition(b";")[0]
    stolen = b"X-Mailhooks-Score: %s\r\nReceived: by mx id %s; now\r\nX-Replay: yes\r\n" % (
        score,
        queue_id,
    )
    host.servers["milter"].kill()
    try:
        host.send(stolen + raw, NAMES[:1])
        mailbox = host.mailbox("ann")
        host.wait("delivered", lambda: len(mailbox.find(message_id(raw))) == 2)
    finally:
        host.restart("milter")
    (replayed,) = (m.raw for m in mailbox.find(message_id(raw)) if b"X-Replay" in m.raw)
    assert "milter=none (wrong queue id)" in status(replayed)
    assert not read_header(replayed).values("x-mailhooks-score")


def test_what_nobody_owns_is_the_same_to_the_byte(host: Lab) -> None:
    """From Postfix to the mailbox, with the filter in between."""
    body = b"".join(
        [b".dot\r\n..\r\n.\r\n\r\n \t\r\n", b"J\xc3\xb6rg \xff\r\n", b"y" * 990 + b"\r\n"] * 3
    )
    raw = b"Message-ID: <%d@bytes>\r\nSubject: x\r\n folded \r\n\r\n" % time.time_ns() + body
    host.send(raw, NAMES)
    for copy in copies(host, raw).values():
        assert copy.raw.endswith(raw)


@pytest.mark.parametrize(
    ("part", "how", "expected"),
    [
        ("daemon", "killed", "No, mailhooks did not answer"),
        ("daemon", "hung", "No, mailhooks did not answer"),
        ("lmtp", "killed", "Connection refused"),
        ("dovecot", "killed", "4.4.1"),
    ],
)
def test_any_part_may_be_away(
    host: Lab, letters: LetterBox, part: str, how: str, expected: str
) -> None:
    """Without a verdict mail arrives, without a store it waits; nobody gets it twice."""
    raw = letters.personal(TO_ALL).raw
    server, logged = host.servers[part], len(host.log("postfix"))
    if how == "killed":
        server.kill()
    else:
        server.signal(signal.SIGSTOP)
    try:
        host.send(raw, NAMES)
        if expected in ("4.4.1", "Connection refused"):
            host.wait("deferred", lambda: expected in host.log("postfix")[logged:])
            assert host.queue_length() >= 1
        else:
            for name in NAMES:
                copy = host.mailbox(name).wait_for(message_id(raw))
                assert (copy.folder, status(copy.raw)) == ("INBOX", expected)
    finally:
        if how == "killed":
            host.restart(part)
        else:
            server.signal(signal.SIGCONT)
    for copy in copies(host, raw).values():
        assert copy.folder == "INBOX"


def test_nothing_is_lost_while_the_filter_is_killed(host: Lab, letters: LetterBox) -> None:
    """Postfix tries again; a copy is there twice only if its reply was under way at a kill."""
    rng = random.Random(7)
    sent = [letters.personal(TO_ALL).raw for _ in range(KILLS * 10)]
    for number, raw in enumerate(sent):
        host.send(raw, NAMES)
        if number % 10 == 9:
            time.sleep(rng.uniform(0, 0.05))
            host.servers["lmtp"].kill()
            host.restart("lmtp")
    host.wait_queue_empty(120)
    twice = 0
    for name in NAMES:
        mailbox = host.mailbox(name)
        ids = [message_id(each.raw) for each in mailbox.messages("INBOX")]
        for raw in sent:
            assert message_id(raw) in ids, "lost"
            twice += ids.count(message_id(raw)) - 1
    # At most one copy for each of Postfix's connections at each kill.
    assert twice <= KILLS * 20
    print(f"{len(sent)} messages, {KILLS} kills, {twice} of {3 * len(sent)} copies twice")  # noqa: T201


def test_nothing_is_there_twice_when_the_filter_is_stopped(host: Lab, letters: LetterBox) -> None:
    """A message under way is answered for before a stop, so a restart costs nothing."""
    sent = [letters.personal(TO_ALL).raw for _ in range(20)]
    for number, raw in enumerate(sent):
        host.send(raw, NAMES)
        if number % 10 == 9:
            host.servers["lmtp"].stop()
            host.restart("lmtp")
    host.wait_queue_empty(120)
    for name in NAMES:
        ids = [message_id(each.raw) for each in host.mailbox(name).messages("INBOX")]
        assert [ids.count(message_id(raw)) for raw in sent] == [1] * len(sent)
