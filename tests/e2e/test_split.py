"""Milter and mailboxes on different hosts, with keys that change while mail is under way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import pytest
from delivered import identified, message_id, status
from scraped import scrape, series

from mailhooks.lab import Lab
from mailhooks.lab.host import ADDRESS
from mailhooks.message import read_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailhooks.lab.letters import LetterBox

LIMIT_S = 120.0


class Hosts(NamedTuple):
    """An MX host with Rspamd and the milter, and a mailbox host behind it."""

    mx: Lab
    mailboxes: Lab


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """MX, then the mailbox host's own Postfix as a relay, then Dovecot."""
    with ExitStack() as stack:
        mx, mailboxes = (stack.enter_context(Lab(["alice"], min_learns=2)) for _ in range(2))
        # As docs/split.md says: what leaves for strangers loses the score, this mail does not.
        service = "mailboxes unix - - n - - smtp -o smtp_header_checks="
        subprocess.run(
            [
                "/usr/sbin/postconf",
                "-c",
                str(mx.root / "postfix"),
                "-Me",
                f"mailboxes/unix={service}",
            ],
            check=True,
        )
        postconf(mx, f"virtual_transport=mailboxes:[{ADDRESS}]:{mailboxes.smtp_port}")
        postconf(mailboxes, "smtpd_milters=", "myhostname=mailboxes.mail.example")
        settings = mailboxes.root / "mailhooks/mailhooks.toml"
        text = settings.read_text()
        settings.write_text(text.replace("[score]\n", "[score]\nreceived_depth = 3\n"))
        yield Hosts(mx, mailboxes)


def postconf(lab: Lab, *settings: str) -> None:
    folder = str(lab.root / "postfix")
    subprocess.run(["/usr/sbin/postconf", "-c", folder, "-e", *settings], check=True)
    subprocess.run(
        ["/usr/sbin/postfix", "-c", folder, "reload"], check=True, stderr=subprocess.DEVNULL
    )


def key(lab: Lab, *arguments: str, given: str = "", exits: int = 0) -> str:
    config = str(lab.root / "mailhooks/mailhooks.toml")
    done = subprocess.run(
        [sys.executable, "-m", "mailhooks", "--config", config, "key", *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == exits, done
    return done.stdout + done.stderr


def restart(lab: Lab, server: str) -> None:
    lab.servers[server].stop()
    lab.restart(server)


def spam(box: LetterBox) -> bytes:
    return identified(box.spam(["alice@mail.example"]).raw)


def arrived(hosts: Hosts, raw: bytes) -> tuple[str, str, str]:
    """Folder, verdict line, and the id of the key that signed."""
    copy = hosts.mailboxes.mailbox("alice").wait_for(message_id(raw), 60)
    values = read_header(copy.raw).values("x-mailhooks-score")
    keys = re.findall(r"k=(\S+);", values[0].decode()) if values else [""]
    return copy.folder, status(copy.raw), keys[0]


def test_a_score_reaches_the_mailbox_host_through_every_change_of_keys(
    hosts: Hosts, box: LetterBox
) -> None:
    """Unknown key; the MX's key made known; a new one staged while mail waits; the old one gone."""
    mx, mailboxes = hosts
    first = mx.keys.signing.key_id
    unknown = series("mailhooks_milter_scores_total", result="unknown key")
    before = scrape(mailboxes)[unknown]

    letter = spam(box)
    mx.send(letter, ["alice"])
    _, line, _ = arrived(hosts, letter)
    assert "milter=none (unknown key) scan=" in line
    assert scrape(mailboxes)[unknown] == before + 1

    # The key of the MX host is added to those of the mailbox host.
    key(mailboxes, "add", given=key(mx, "show"))
    restart(mailboxes, "daemon")
    letter = spam(box)
    mx.send(letter, ["alice"])
    folder, line, by = arrived(hosts, letter)
    assert (folder, by) == ("Junk", first)
    assert re.search(r"milter=[\d.]+ bayes=none", line), line
    mailboxes.servers["postfix"].stop()
    waiting = spam(box)
    mx.send(waiting, ["alice"])
    mx.wait("it is in the queue", lambda: mx.queue_length() == 1)

    # A new key, known to the mailbox host before the milter signs with it.
    fresh = json.loads(key(mx, "add", "--new", "--json"))["added"]
    key(mailboxes, "add", given=key(mx, "show", fresh))
    restart(mailboxes, "daemon")
    key(mx, "use", fresh)
    restart(mx, "milter")
    mailboxes.restart("postfix")
    letter = spam(box)
    mx.send(letter, ["alice"])
    for raw, expected in ((letter, fresh), (waiting, first)):
        folder, line, by = arrived(hosts, raw)
        assert (folder, by) == ("Junk", expected), line
        assert "milter=none" not in line

    # Rspamd still signs its reports with a secret made of the first key.
    conf = mx.root / "rspamd/local.d/milter_headers.conf"
    assert "Rspamd's report secret is made of" in key(
        mx, "remove", first, "--yes", "--rspamd-file", str(conf), exits=1
    )
    old, new = (key(mx, "show", each, "--report").strip() for each in (first, fresh))
    conf.write_text(conf.read_text().replace(old, new))
    restart(mx, "rspamd")
    key(mx, "remove", first, "--yes", "--rspamd-file", str(conf))
    restart(mx, "milter")
    key(mailboxes, "remove", first, "--yes")
    restart(mailboxes, "daemon")
    letter = spam(box)
    mx.send(letter, ["alice"])
    folder, line, by = arrived(hosts, letter)
    assert (folder, by) == ("Junk", fresh), line
