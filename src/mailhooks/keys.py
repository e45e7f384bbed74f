"""The secrets that sign a carried score: lines ``key-id secret``, newest first.

The first key signs, all of them verify, so a new key is put on top and the
old one stays until the last mail it signed has been delivered.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailhooks.errors import ConfigError
from mailhooks.systemd import secret_file

if TYPE_CHECKING:
    from pathlib import Path

_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,32}\Z")
MIN_SECRET_CHARS = 32


@dataclass(frozen=True, slots=True)
class Key:
    """One secret.

    Attributes:
        key_id: travels with the score in clear.
        secret: never leaves the host, not even into a repr.
    """

    key_id: str
    secret: bytes = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """HMAC-SHA-256 of data (RFC 2104), 32 bytes."""
        return hmac.digest(self.secret, data, "sha256")

    def report_secret(self) -> str:
        """The secret Rspamd signs its report to the milter with, 64 hexadecimal digits.

        Derived, so that Rspamd's configuration never holds the key itself.
        """
        return self.sign(b"mailhooks rspamd report").hex()


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys of a host; never empty."""

    keys: tuple[Key, ...]

    @property
    def signing(self) -> Key:
        """The key new scores are signed with."""
        return self.keys[0]

    def find(self, key_id: str) -> Key | None:
        """The key of this id, or None."""
        return next((key for key in self.keys if key.key_id == key_id), None)


def new_key() -> Key:
    """A fresh random key."""
    secret = secrets.token_hex(32).encode("ascii")
    return Key(hashlib.sha256(secret).hexdigest()[:8], secret)


def format_keys(ring: KeyRing) -> str:
    """The text of a key file."""
    lines = "".join(f"{key.key_id} {key.secret.decode('ascii')}\n" for key in ring.keys)
    return f"# mailhooks: secrets that sign the milter score; the first line signs.\n{lines}"


def parse_keys(text: str, path: str = "") -> KeyRing:
    """Read the text of a key file.

    Raises:
        ConfigError: names every wrong line, or says that there is no key.
    """
    keys: list[Key] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not _KEY_ID.match(words[0]):  # noqa: PLR2004
            problems.append(f"line {number}: expected 'key-id secret'")
        elif len(words[1]) < MIN_SECRET_CHARS or not words[1].isascii():
            problems.append(
                f"line {number}: the secret of {words[0]} is shorter than "
                f"{MIN_SECRET_CHARS} ASCII characters"
            )
        elif any(key.key_id == words[0] for key in keys):
            problems.append(f"line {number}: key id {words[0]} is there twice")
        else:
            keys.append(Key(words[0], words[1].encode("ascii")))
    if not keys and not problems:
        problems.append("holds no key")
    if problems:
        raise ConfigError(problems, path)
    return KeyRing(tuple(keys))


def load_keys(path: Path) -> KeyRing:
    """Read a key file, or the copy of it that systemd made for this service.

    Raises:
        ConfigError: the file cannot be read or holds a wrong line.
    """
    path = secret_file(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError([f"key file cannot be read: {reason}"], str(path)) from error
    return parse_keys(text, str(path))
