from __future__ import annotations

import re
from typing import TYPE_CHECKING

import corpus
from delivered import status

from mailhooks.errors import LabError
from mailhooks.message import read_header

if TYPE_CHECKING:
    from mailhooks.lab import Lab

MESSAGES = 300
NUMBER = b"X-Test-Number"
# Gone by mailhooks (copies from outside) and by Postfix (message_drop_headers).
GONE = re.compile(
    rb"(?im)^(?:x-(?:spam[\w-]*|spamd-\w+|mailhooks-[\w-]*)|return-path|bcc|resent-bcc|content-length)"
    rb"[ \t]*:.*\r\n(?:[ \t].*\r\n)*"
)


def own_part(raw: bytes) -> bytes:
    """A message from our number on: everything above it was added on the way."""
    return raw[raw.index(NUMBER + b":") :]


def comparable(raw: bytes) -> bytes:
    """A message less the header fields that servers replace or drop."""
    header, empty_line, body = raw.partition(b"\r\n\r\n")
    return GONE.sub(b"", header + b"\r\n") + empty_line + body


def test_every_real_message_is_in_one_folder_of_each_recipient_byte_for_byte(
    lab: Lab, people: list[str]
) -> None:
    """300 real messages, malformed ones too, arrive once, whole, with one verdict each."""
    recipients = people[:2]
    sent: dict[int, bytes] = {}
    for number, raw in enumerate(corpus.sample(MESSAGES, seed=20)):
        marked = NUMBER + b": %d\r\n" % number + re.sub(rb"\r?\n", b"\r\n", raw)
        try:
            lab.send(marked, recipients)
        except LabError as error:
            # Rspamd's own rejection is a verdict too, and nothing may arrive then.
            assert "Spam message rejected" in str(error)
            continue
        sent[number] = marked
    assert len(sent) > MESSAGES * 0.9
    lab.wait_queue_empty(300)
    for name in recipients:
        found: dict[int, list[bytes]] = {}
        for folder in ("INBOX", "Junk", "Trash", "Archive", "Sent", "Drafts"):
            for message in lab.mailbox(name).messages(folder):
                value = read_header(message.raw).values(NUMBER.decode())[0]
                found.setdefault(int(value), []).append(message.raw)
        assert {number: len(copies) for number, copies in found.items()} == dict.fromkeys(sent, 1)
        for number, (copy,) in found.items():
            assert re.match(r"(Yes|No), score=", status(copy))
            assert comparable(own_part(copy)) == comparable(sent[number])
