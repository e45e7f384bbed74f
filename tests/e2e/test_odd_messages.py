from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from delivered import message_id

from mailhooks.lab.host import MAIL_UID
from mailhooks.ledger import Outcome, SqliteLedger

if TYPE_CHECKING:
    from mailhooks.lab import Lab
    from mailhooks.lab.letters import LetterBox

TEXT = b" ".join(b"word%d" % number for number in range(50))
ODD = {
    "empty": b"",
    "only-a-header": b"Subject: nothing else\n\n",
    "no-header": b"\n" + TEXT + b"\n",
    "no-line-end": b"Subject: x\n\nno line end",
    "garbage": random.Random(1).randbytes(50_000),
    "8-bit-and-nul": b"Subject: J\xc3\xb6rg \xff\x00\n\n" + TEXT + b"\x00\xff\xfe\n",
    "many-headers": b"".join(b"X-H%d: y\n" % n for n in range(100_000)) + b"\n" + TEXT + b"\n",
    "60-megabytes": b"Subject: large\n\n" + b"0123456789abcde\n" * (60 * 1024 * 64),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_message_has_a_defined_end_and_blocks_nobody(
    lab: Lab, people: list[str], box: LetterBox, name: str
) -> None:
    """Moved into Junk it is learned or finally refused, and the next message is learned too."""
    user = people[0]
    mailbox = lab.mailbox(user)
    mailbox.count("INBOX")  # Dovecot creates the Maildir
    path = lab.home(user) / "Maildir" / "new" / f"1.{name}.odd"
    path.write_bytes(ODD[name])
    os.chown(path, MAIL_UID, MAIL_UID)
    letter = box.newsletter([f"{user}@mail.example"]).raw
    lab.send(letter, [user])
    mailbox.wait_for(message_id(letter))
    mailbox.move([message.uid for message in mailbox.messages()], "INBOX", "Junk")
    assert mailbox.count("Junk") == 2
    lab.wait("both have ended", lambda: lab.waiting_samples() == 0, 60)
    ledger = SqliteLedger(lab.root / "ledger.sqlite")
    try:
        counts = ledger.counts(lab.users[user].address)[lab.users[user].address]
    finally:
        ledger.close()
    # A call that Dovecot did not wait for comes once more, from the drop folder.
    assert sum(counts.outcomes.values()) >= 2
    assert counts.spam == lab.learns(user)[0] >= 1
    assert set(counts.outcomes) <= {Outcome.LEARNED, Outcome.REFUSED}
    assert list((lab.root / "spool" / "bad").iterdir()) == []
