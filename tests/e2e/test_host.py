"""The lab as a complete small mail host: accounts, clients, other hosts."""

from __future__ import annotations

import base64
import contextlib
import imaplib
import json
import re
import smtplib
import socket
import sqlite3
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dkim
import pytest
from delivered import message_id, status

from mailhooks.errors import LabError
from mailhooks.lab import Lab
from mailhooks.lab.host import ADDRESS, FOREIGN_ADDRESS
from mailhooks.lab.letters import LetterKind
from mailhooks.message import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailhooks.lab.letters import LetterBox

FAR = "friend@far.example"
NAMES = (
    *("dislikes", "likes", "untrained", "mover", "changes", "away"),
    *("there", "sender", "other", "signs", "sieves", "forwards"),
)
ALIASES: dict[str, str | list[str]] = {
    "trio": ["dislikes", "likes", "untrained"],
    "moved": "mover",
    "nested": "moved",
    "gone": "away",
    "gone-again": "gone",
    "some": ["gone-again", "there", "away+x"],
    "desk": ["sender", "other"],
    "others": "other",
    "elsewhere": ["forwards", FAR],
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One host for all of them; tests may claim to come from any address of the Internet."""
    with Lab(
        NAMES,
        aliases=ALIASES,
        extra_postfix="smtpd_authorized_xclient_hosts = 127.0.0.0/8",
        # Who fails to log in need not wait.
        extra_dovecot="auth_failure_delay = 0\n"
        "service anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n",
    ) as host:
        yield host


def mailcfg(lab: Lab, *arguments: str, text: str | None = None) -> None:
    """`mailcfg` on the running host."""
    command = [str(Path(sys.executable).with_name("mailcfg")), "--db", lab.database_url]
    done = subprocess.run(
        [*command, *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def letter(sender: str, to: str, number: str, *, more: bytes = b"") -> bytes:
    """A short message with a Message-ID of its own."""
    head = f"From: {sender}\r\nTo: {to}\r\nSubject: About {number}\r\nMessage-ID: <{number}@t>\r\n"
    date = f"Date: {datetime.now(UTC):%a, %d %b %Y %H:%M:%S +0000}\r\n"
    return (head + date).encode() + more + b"\r\nSee you on Sunday.\r\n"


def address(name: str) -> str:
    return f"{name}@mail.example"


class PlainImap(imaplib.IMAP4):
    """IMAP without TLS, from an address that is not the host's own.

    What comes from the address it goes to has crossed no line, and Dovecot takes it for secure.
    """

    def _create_socket(self, timeout: float | None) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout, (FOREIGN_ADDRESS, 0))


def plain(name: str, password: str) -> Callable[[bytes], bytes]:
    """The answer of SASL PLAIN (RFC 4616)."""
    return lambda _challenge: f"\0{name}\0{password}".encode()


def test_imap_takes_a_password_only_after_starttls(lab: Lab) -> None:
    """Without TLS no login is offered and none taken; with it the same works, for a user alone."""
    user = lab.users["there"]
    with PlainImap(ADDRESS, lab.imap_port, timeout=60) as imap:
        assert "LOGINDISABLED" in imap.capabilities
        assert not [each for each in imap.capabilities if each.startswith("AUTH=")]
        with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
            imap.login(user.address, user.password)
        imap.starttls(lab.tls)
        for name in ("' OR '1'='1", f"{user.address}' --", "nobody@mail.example"):
            with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
                imap.authenticate("PLAIN", plain(name, user.password))
        assert imap.login(user.address, user.password)[0] == "OK"


def test_smtp_takes_a_password_only_after_starttls(lab: Lab) -> None:
    """Submission offers and takes nothing before TLS; the port for other hosts no login at all."""
    user = lab.users["there"]
    secret = base64.b64encode(f"\0{user.address}\0{user.password}".encode()).decode()
    with smtplib.SMTP(ADDRESS, lab.submission_port) as smtp:
        smtp.ehlo()
        assert not smtp.has_extn("auth")
        assert smtp.docmd("AUTH", f"PLAIN {secret}")[0] == 530
        assert smtp.mail(user.address)[0] == 530
        smtp.starttls(context=lab.tls)
        smtp.ehlo()
        assert smtp.mail(user.address)[0] == 250
        assert smtp.rcpt(address("there"))[0] == 554  # TLS alone is no login
        smtp.rset()
        assert smtp.docmd("AUTH", f"PLAIN {secret}")[0] == 235
    with smtplib.SMTP(ADDRESS, lab.smtp_port) as smtp:
        smtp.starttls(context=lab.tls)
        smtp.ehlo()
        assert not smtp.has_extn("auth")
        assert smtp.docmd("AUTH", f"PLAIN {secret}")[0] == 503


def test_the_certificate_is_checked_by_who_trusts_the_labs_authority(lab: Lab) -> None:
    """A client that does not trust it, or wants another name, ends the connection."""
    wanted = ssl.create_default_context(cafile=str(lab.ca_file))
    for context, name in ((ssl.create_default_context(), ADDRESS), (wanted, "mail.example")):
        with (
            socket.create_connection((ADDRESS, lab.imaps_port)) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(plain, server_hostname=name)
    with (
        socket.create_connection((ADDRESS, lab.imaps_port)) as plain,
        wanted.wrap_socket(plain, server_hostname="mx.mail.example") as secured,
    ):
        assert secured.version() in ("TLSv1.2", "TLSv1.3")
        assert secured.recv(4) == b"* OK"


def test_a_password_change_holds_at_the_next_login(lab: Lab) -> None:
    """For reading and for sending; the old one is worth nothing from then on."""
    user = lab.users["changes"]
    lab.mailbox("changes").count()
    lab.submit("changes", letter(user.address, FAR, "before"), [FAR])
    new = "quite another one"
    mailcfg(lab, "passwd", user.address, text=f"{new}\n")
    with pytest.raises(LabError, match="AUTHENTICATIONFAILED"):
        lab.mailbox("changes").count()
    with pytest.raises(LabError, match="authentication failed"):
        lab.submit("changes", letter(user.address, FAR, "old"), [FAR])
    lab.users["changes"] = type(user)(user.address, new)
    lab.mailbox("changes").count()
    lab.submit("changes", letter(user.address, FAR, "after"), [FAR])


def test_a_disabled_user_cannot_log_in_and_gets_no_new_mail(lab: Lab) -> None:
    """5xx at RCPT by every address that leads to nobody else; a group goes on without them."""
    user, raw = lab.users["away"], letter("x@example.org", "all@mail.example", "disabled")
    lab.send(raw, ["away"])
    kept = lab.mailbox("away").wait_for(message_id(raw))
    mailcfg(lab, "disable", user.address)
    try:
        with pytest.raises(LabError, match="AUTHENTICATIONFAILED"):
            lab.mailbox("away").count()
        with pytest.raises(LabError, match="authentication failed"):
            lab.submit("away", raw, [FAR])
        for name in ("away", "AWAY", "away+shop", "gone", "gone+shop", "gone-again"):
            with pytest.raises(LabError, match=r"550.*5\.2\.1.*disabled"):
                lab.send(raw, [name])
            with pytest.raises(LabError, match=r"550.*5\.2\.1.*disabled"):
                lab.submit("there", raw, [name])
        to_group = letter("x@example.org", address("some"), "to-group")
        lab.send(to_group, ["some"])
        lab.mailbox("there").wait_for(message_id(to_group))
        lab.wait_queue_empty()
        assert not [each for each in lab.departed() if each.sender == ""]  # no bounce
    finally:
        mailcfg(lab, "enable", user.address)
    assert [each.uid for each in lab.mailbox("away").messages()] == [kept.uid]
    lab.send(letter("x@example.org", address("gone"), "enabled"), ["gone-again"])
    lab.mailbox("away").wait_for("<enabled@t>")


def test_accounts_made_on_a_running_host_get_mail_at_once(lab: Lab) -> None:
    """A new domain, user, alias and catch-all; nobody restarts anything."""
    mailcfg(lab, "adddom", "bücher.example")
    mailcfg(lab, "adduser", "anna@bücher.example", text="a good secret\n")
    mailcfg(lab, "addalias", "info@bücher.example", "anna@bücher.example")
    mailcfg(lab, "addalias", "@bücher.example", address("there"))
    domain = "xn--bcher-kva.example"
    raw = letter("x@example.org", f"info@{domain}", "new")
    lab.send(raw, [f"info+x@{domain}"])
    lab.users["anna"] = type(lab.users["there"])(f"anna@{domain}", "a good secret")
    try:
        assert lab.mailbox("anna").wait_for(message_id(raw)).folder == "INBOX"
        direct = letter("x@example.org", f"anna@{domain}", "direct")
        lab.send(direct, [f"anna@{domain}"])
        lab.mailbox("anna").wait_for(message_id(direct))
        stray = letter("x@example.org", f"whoever@{domain}", "stray")
        lab.send(stray, [f"whoever@{domain}"])
        lab.mailbox("there").wait_for(message_id(stray))
        assert lab.mailbox("there").find(message_id(direct)) == []
        assert lab.mailbox("anna").find(message_id(stray)) == []
    finally:
        del lab.users["anna"]
    with pytest.raises(LabError, match=r"550.*5\.1\.1"):
        lab.send(stray, ["whoever"])


def test_a_change_of_accounts_holds_mail_up_and_refuses_none(lab: Lab) -> None:
    """A look-up that finds the database locked is repeated until it is not."""
    raw = letter("x@example.org", address("there"), "meanwhile")
    base = sqlite3.connect(lab.database_url.removeprefix("sqlite:///"), isolation_level=None)
    with contextlib.closing(base), ThreadPoolExecutor(1) as pool:
        base.execute("BEGIN EXCLUSIVE")
        sent = pool.submit(lab.send, raw, ["there"])
        try:
            lab.wait("it is noticed", lambda: "database is locked" in lab.log("postfix"))
            assert not sent.done()
        finally:
            base.execute("ROLLBACK")
        sent.result()
    assert lab.mailbox("there").wait_for("<meanwhile@t>").folder == "INBOX"


@pytest.mark.parametrize(
    ("mail_from", "taken"),
    [
        ("sender@mail.example", True),
        ("Sender@MAIL.example", True),
        ("sender+shop@mail.example", True),
        ("desk@mail.example", True),
        ("", True),
        ("other@mail.example", False),
        ("others@mail.example", False),
        ("nobody@mail.example", False),
        ("sender@example.org", False),
        ("sender@sub.mail.example", False),
        ("' OR 1=1 --@mail.example", False),
    ],
)
def test_a_sender_may_use_addresses_that_lead_to_them_and_no_other(
    lab: Lab, mail_from: str, taken: bool
) -> None:
    """The account's own, with extension, and its aliases and groups; bounces have none."""
    user = lab.users["sender"]
    with smtplib.SMTP(ADDRESS, lab.submission_port) as smtp:
        smtp.starttls(context=lab.tls)
        smtp.login(user.address, user.password)
        local, at, domain = mail_from.rpartition("@")
        quoted = f'"{local}"{at}{domain}' if " " in local else mail_from
        assert smtp.docmd(f"MAIL FROM:<{quoted}>")[0] == 250
        code, text = smtp.rcpt(FAR)
    assert code == (250 if taken else 553), text


ELSEWHERE = (
    "victim@far.example",
    "victim%far.example@mail.example",
    "far.example!victim@mail.example",
    '"victim@far.example"@mail.example',
    "@mail.example:victim@far.example",
    "victim@far.example@mail.example",
    "victim@[198.51.100.1]",
)


@pytest.mark.parametrize(
    "way",
    [
        ("--local-interface", "127.0.0.99"),
        ("--xclient-addr", "203.0.113.7"),
        ("--xclient-addr", "203.0.113.7", "--from", "there@mail.example"),
    ],
    ids=["loopback", "internet", "forged"],
)
def test_the_host_is_no_open_relay(lab: Lab, way: tuple[str, ...]) -> None:
    """From foreign addresses mail is for this host's users only, however it is written."""
    done = subprocess.run(
        ["/usr/bin/swaks", "--server", f"{ADDRESS}:{lab.smtp_port}", "--from", "x@example.org",
         "--helo", "client.example.org", "--to", ",".join(ELSEWHERE), *way],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 24, done.stdout + done.stderr  # no recipient was accepted
    assert len(re.findall(r"^<\*\* 5\d\d ", done.stdout, re.MULTILINE)) == len(ELSEWHERE)
    if way[0] == "--xclient-addr":
        assert "NOQUEUE: reject: RCPT from unknown[203.0.113.7]" in lab.log("postfix")


def test_one_address_that_reaches_three_users_gives_three_verdicts(
    lab: Lab, box: LetterBox, taste: Callable[[str, LetterKind], None]
) -> None:
    """Each by the statistics of their own account; the group has none."""
    taste("dislikes", LetterKind.NEWSLETTER)
    taste("likes", LetterKind.PERSONAL)
    raw = box.newsletter([address("trio")]).raw
    lab.send(raw, ["trio"])
    found = {
        name: lab.mailbox(name).wait_for(message_id(raw))
        for name in ("dislikes", "likes", "untrained")
    }
    assert {name: copy.folder for name, copy in found.items()} == {
        "dislikes": "Junk",
        "likes": "INBOX",
        "untrained": "INBOX",
    }
    assert status(found["untrained"].raw).endswith("bayes=none (no opinion)")
    assert len({status(copy.raw) for copy in found.values()}) == 3
    users = lab.redis("--scan", "--pattern", "RS*@*").split()
    assert not [key for key in users if "trio" in key]


def test_what_comes_by_an_alias_of_an_alias_teaches_the_account(lab: Lab, box: LetterBox) -> None:
    """Redis and the ledger know the user alone, by the address of the account."""
    raw = box.newsletter([address("nested")]).raw
    lab.send(raw, ["nested+shop"])
    mailbox = lab.mailbox("mover")
    copy = mailbox.wait_for(message_id(raw))
    mailbox.move([copy.uid], copy.folder, "Junk")
    lab.wait("learned", lambda: lab.learns("mover") == (1, 0))
    keys = lab.redis("--scan", "--pattern", "RS*").split()
    assert not [key for key in keys if "nested" in key or "moved" in key]


def verified(lab: Lab, raw: bytes) -> bool:
    """What a foreign verifier says of a message, who has only the DNS record."""
    record = lab.dkim_record

    def txt(name: bytes | str, **_options: object) -> bytes | None:
        asked = name.decode() if isinstance(name, bytes) else name
        return record.text.encode() if asked.rstrip(".") == record.name else None

    return bool(dkim.DKIM(raw).verify(dnsfunc=txt))


def departed(lab: Lab, marker: str) -> bytes:
    """The one message with this text that left the host."""
    lab.wait_queue_empty()
    (raw,) = [each.raw for each in lab.departed() if marker.encode() in each.raw]
    return raw


BODIES = {
    "plain": b"See you.\r\n",
    "8-bit": "Grüße aus Köln.\r\n".encode(),
    "dots": b".\r\n..\r\nFrom here on\r\n \t\r\nx  \r\n\r\n\r\n",
    "empty": b"",
    "long": b"word " * 180 + b"\r\n",
}


@pytest.mark.parametrize("body", BODIES)
def test_mail_that_leaves_is_signed_and_carries_nothing_of_ours(lab: Lab, body: str) -> None:
    """A foreign verifier believes the signature; a user here gets the same message scored."""
    header = (
        f"From: Ann <{address('signs')}>\r\nTo: {FAR}, {address('other')}\r\n"
        f"Subject: {body} out\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nMIME-Version: 1.0\r\n"
        "X-Mailhooks-Score: v=1; s=-99\r\nX-Marker: out-" + body + "\r\n\r\n"
    )
    # Without Message-ID and Date: the host adds them before it signs.
    lab.submit("signs", header.encode() + BODIES[body], [FAR, "other"])
    raw = departed(lab, f"out-{body}\r\n")
    found = read_header(raw)
    assert [len(found.values(name)) for name in ("message-id", "date", "dkim-signature")] == [1] * 3
    assert b"x-mailhooks" not in raw.lower()
    assert verified(lab, raw)
    assert not verified(lab, raw.replace(b" out\r\n", b" in\r\n"))
    signature = found.values("dkim-signature")[0].decode()
    selector = re.findall(r"s=(\d{6});", signature)
    assert selector == [lab.dkim_record.name.partition(".")[0]]
    assert selector[0][4:] in {f"{month:02}" for month in range(1, 13)}
    assert "d=mail.example;" in signature

    copy = lab.mailbox("other").wait_for(message_id(raw))
    assert re.search(r"milter=-?[\d.]+ ", status(copy.raw)), status(copy.raw)
    assert len(read_header(copy.raw).values("x-mailhooks-score")) == 1
    assert verified(lab, copy.raw)


def test_only_mail_of_this_host_is_signed(lab: Lab) -> None:
    """Not a stranger's From, not mail without a sender, not mail from outside, near or far."""
    user = lab.users["signs"].address
    for number, (sender, header_from, signed) in enumerate(
        [(user, user, 1), (user, "boss@example.org", 0), ("", user, 0)]
    ):
        raw = letter(header_from, FAR, f"submitted-{number}")
        lab.submit("signs", raw, [FAR], sender=sender)
        found = read_header(departed(lab, f"<submitted-{number}@t>"))
        assert len(found.values("dkim-signature")) == signed, (sender, header_from)
    for number, (way, signed) in enumerate(
        [
            (("--local-interface", ADDRESS), 1),
            (("--local-interface", "127.0.0.99"), 0),
            (("--xclient-addr", "203.0.113.7"), 0),
        ]
    ):
        raw = letter(user, address("other"), f"brought-{number}")
        subprocess.run(
            ["/usr/bin/swaks", "--server", f"{ADDRESS}:{lab.smtp_port}", "--from", user, "--to",
             address("other"), "--data", "-", "--silent", "3", *way],
            input=raw,
            check=True,
        )  # fmt: skip
        copy = lab.mailbox("other").wait_for(f"<brought-{number}@t>")
        assert len(read_header(copy.raw).values("dkim-signature")) == signed, way


def test_forwarded_mail_carries_nothing_of_ours(lab: Lab) -> None:
    """An alias that leads here and elsewhere: scored here, and elsewhere as it came."""
    raw = letter("x@example.org", address("elsewhere"), "forwarded")
    lab.send(raw, ["elsewhere"])
    copy = lab.mailbox("forwards").wait_for("<forwarded@t>")
    assert read_header(copy.raw).values("x-mailhooks-score")
    left = departed(lab, "<forwarded@t>")
    assert b"x-mailhooks" not in left.lower()
    assert left.endswith(raw)


def test_users_are_known_from_the_database_and_else_from_dovecot(lab: Lab, tmp_path: Path) -> None:
    """Both name the same, disabled ones too, to whoever asks."""
    mailcfg(lab, "disable", address("untrained"))
    config = lab.root / "mailhooks/mailhooks.toml"
    without = tmp_path / "mailhooks.toml"
    text = config.read_text(encoding="utf-8")
    without.write_text(text.replace(f'database = "{lab.database_url}"\n', ""), encoding="utf-8")
    assert lab.database_url not in without.read_text(encoding="utf-8")
    expected = {user.address for user in lab.users.values()}
    for path, source in ((config, "[accounts] database"), (without, "doveadm user '*'")):

        def answer(*arguments: str, path: Path = path) -> Any:
            command = [sys.executable, "-m", "mailhooks", "--config", str(path), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode in (0, 1), done.stderr
            return json.loads(done.stdout)

        assert expected <= {row["user"] for row in answer("stats", "--json")}
        found = {each["name"]: each for each in answer("doctor", "--json")}["users"]
        assert found["level"] == "ok"
        assert source in found["text"]
    # With the database: tests/e2e/test_by_hand.py.
    assert expected <= answer("retrain", "--all", "--dry-run", "--json")["users"].keys()
    mailcfg(lab, "enable", address("untrained"))


def postmap(lab: Lab, table: str, key: str) -> list[str]:
    """What Postfix finds in one of the tables."""
    done = subprocess.run(
        ["/usr/sbin/postmap", "-c", str(lab.root / "postfix"), "-q", key,
         f"sqlite:{lab.root}/postfix/accounts-{table}.cf"],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert not done.stderr
    return sorted(done.stdout.strip().split(",")) if done.stdout.strip() else []


def test_what_postfix_finds_in_the_database(lab: Lab) -> None:
    """Aliases lead to accounts at once, loops end, and no key is taken for SQL."""
    path = lab.database_url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        base.executemany(  # loops, which mailcfg refuses to make
            "INSERT INTO alias(source, destination) VALUES (?, ?)",
            [(address(a), address(b)) for a, b in
             (("loop", "pool"), ("pool", "loop"), ("keeps", "keeps"), ("keeps", "there"))],
        )  # fmt: skip
    for table, key, found in (
        ("domains", "mail.example", ["mail.example"]),
        ("domains", "example", []),
        ("mailboxes", "there", ["there"]),
        ("mailboxes", "nobody", []),
        ("aliases", "there", ["there"]),
        ("aliases", "nobody", []),
        ("aliases", "nested", ["mover"]),
        ("aliases", "trio", ["dislikes", "likes", "untrained"]),
        ("aliases", "loop", []),
        ("aliases", "keeps", ["keeps", "there"]),
        ("senders", "there", ["there"]),
        ("senders", "there+x", ["there"]),
        ("senders", "desk", ["other", "sender"]),
        ("senders", "keeps", ["there"]),
        ("senders", "loop", []),
        ("senders", "elsewhere", ["forwards"]),
        ("disabled", "there", []),
        ("disabled", "loop", []),
        ("disabled", "nobody", []),
    ):
        expected = found if table == "domains" else [address(each) for each in found]
        asked = key if table == "domains" else address(key)
        assert postmap(lab, table, asked) == expected, (table, key)
    for key in ("' OR '1'='1@mail.example", "x' UNION SELECT password FROM mailuser --@a", "%s@%d"):
        for table in ("domains", "mailboxes", "aliases", "senders", "disabled"):
            assert postmap(lab, table, key) == []


def test_a_users_own_script_runs_after_ours(lab: Lab) -> None:
    """It sees the verdict that ours wrote, and its redirect leaves through the milters."""
    script = (
        'require ["fileinto", "mailbox", "copy"];\n'
        f'redirect :copy "{FAR}";\n'
        'if header :matches "X-Spam-Status" "No, score=*" { fileinto :create "Judged"; }\n'
    )
    doveadm = ["doveadm", "-c", str(lab.root / "dovecot/dovecot.conf")]
    subprocess.run(
        [*doveadm, "sieve", "put", "-u", address("sieves"), "-a", "mine"],
        input=script.encode(),
        check=True,
    )
    lab.send(letter("x@example.org", address("sieves"), "sieved"), ["sieves"])
    mailbox = lab.mailbox("sieves")
    lab.wait_queue_empty()
    assert [b"<sieved@t>" in each.raw for each in mailbox.messages("Judged")] == [True]
    assert mailbox.messages("INBOX") == []
    assert b"x-mailhooks" not in departed(lab, "<sieved@t>").lower()
