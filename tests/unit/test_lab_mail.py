"""What the lab reads of mail that left it, and of the key that signed it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from mailhooks.errors import LabError
from mailhooks.lab.dkim import DkimRecord, make_dkim_key, selector_of
from mailhooks.lab.elsewhere import DepartedMessage, parse_dump

if TYPE_CHECKING:
    from pathlib import Path

ENVELOPE = (
    b"X-Client-Addr: 127.0.0.1\nX-Client-Proto: ESMTP\nX-Helo-Args: mx.mail.example\n"
    b"X-Mail-Args: <ann@mail.example> SIZE=5\nX-Rcpt-Args: <b@far.example> ORCPT=rfc822;b@x\n"
    b"X-Rcpt-Args: <c@far.example>\n"
)


def test_a_message_that_left_is_told_from_its_envelope() -> None:
    """Byte for byte, with the line ends it came with; its own headers may look like an envelope."""
    message = (
        b"Received: by far.example\nX-Mail-Args: <x@y>\nSubject: s\n\n\nX-Rcpt-Args: <z>\n.x\n"
    )
    assert parse_dump(ENVELOPE + message + b"\n") == DepartedMessage(
        "ann@mail.example", ("b@far.example", "c@far.example"), message.replace(b"\n", b"\r\n")
    )
    bounce = parse_dump(ENVELOPE.replace(b"ann@mail.example", b"") + message + b"\n")
    assert bounce is not None
    assert bounce.sender == ""


def test_a_connection_without_a_message_left_none() -> None:
    """Such as a look whether the server answers."""
    assert parse_dump(b"") is None
    assert parse_dump(ENVELOPE) is None


def test_the_selector_is_year_and_month() -> None:
    """So that the next key has another one."""
    assert selector_of(datetime(2026, 1, 31, tzinfo=UTC)) == "202601"


def test_a_dkim_record_is_split_as_the_dns_wants_it() -> None:
    """A string of a TXT record has at most 255 bytes, and a verifier puts them together."""
    record = DkimRecord("202601._domainkey.mail.example", "v=DKIM1; p=" + "A" * 400)
    name, _, text = str(record).partition(" IN TXT ")
    assert name == "202601._domainkey.mail.example."
    parts = text.removeprefix('"').removesuffix('"').split('" "')
    assert [len(part) for part in parts] == [255, 156]
    assert "".join(parts) == record.text


def test_a_key_that_was_not_made_is_an_error(tmp_path: Path) -> None:
    """And not a record without a key."""
    with pytest.raises(LabError, match="printed no record"):
        make_dkim_key(tmp_path, domain="mail.example", selector="202601", run=lambda *_: "oops")
