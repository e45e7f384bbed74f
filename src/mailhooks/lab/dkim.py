"""The key that Rspamd signs outgoing mail with, and the DNS record that verifiers look up."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailhooks.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

KEY_BITS = 2048


@dataclass(frozen=True, slots=True)
class DkimRecord:
    """What belongs into the DNS (RFC 6376, 3.6.2)."""

    name: str
    text: str

    def __str__(self) -> str:
        """The record as a zone file has it; one string of a TXT record has 255 bytes at most."""
        parts = [self.text[start : start + 255] for start in range(0, len(self.text), 255)]
        return f"{self.name}. IN TXT " + " ".join(f'"{part}"' for part in parts)


def selector_of(moment: datetime) -> str:
    """The selector of a key made at that time: YYYYMM."""
    return f"{moment:%Y%m}"


def make_dkim_key(
    folder: Path, *, domain: str, selector: str, run: Callable[..., str]
) -> DkimRecord:
    """Make a domain's key, readable for Rspamd.

    Args:
        folder: where it goes, as ``DOMAIN.SELECTOR.key``.
        domain: whose mail it signs.
        selector: its name below that domain.
        run: runs a command and returns what it prints, raising LabError if it fails.

    Raises:
        LabError: rspamadm prints no record.
    """
    key = folder / f"{domain}.{selector}.key"
    bits = str(KEY_BITS)
    printed = run(
        "/usr/bin/rspamadm", "dkim_keygen", "-b", bits, "-s", selector, "-d", domain, "-k", str(key)
    )
    text = "".join(re.findall(r'"([^"]*)"', printed))
    if not text.startswith("v=DKIM1"):
        raise LabError(f"rspamadm dkim_keygen printed no record: {printed[:80]!r}")
    shutil.chown(key, "_rspamd", "_rspamd")
    key.chmod(0o400)
    return DkimRecord(f"{selector}._domainkey.{domain}", text)
