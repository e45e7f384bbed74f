"""The secrets that sign a carried score: lines ``key-id secret``, newest first.

The first key signs, all of them verify, so a new key is put on top and the
old one stays until the last mail it signed has been delivered.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mailhooks.errors import ConfigError
from mailhooks.systemd import secret_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        mac = _begun(self.secret).copy()
        mac.update(data)
        return mac.digest()

    def report_secret(self) -> str:
        """The secret Rspamd signs its report to the milter with, 64 hexadecimal digits.

        Derived, so that Rspamd's configuration never holds the key itself.
        """
        return self.sign(b"mailhooks rspamd report").hex()


@lru_cache(maxsize=16)
def _begun(secret: bytes) -> hmac.HMAC:
    """To begin with the secret takes longer than all the rest."""
    return hmac.new(secret, digestmod="sha256")


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


def add_key(text: str, key: Key, *, signs: bool) -> str:
    """The text of a key file with one more key: on top, where it signs, or last.

    Raises:
        ConfigError: there is a key of this id already.
    """
    lines, where = _lines(text)
    if key.key_id in where:
        raise ConfigError([f"there is a key {key.key_id} already"])
    line = f"{key.key_id} {key.secret.decode('ascii')}\n"
    lines.insert(min(where.values(), default=len(lines)) if signs else len(lines), line)
    return "".join(lines)


def use_key(text: str, key_id: str) -> str:
    """The text of a key file with this key on top, where it signs.

    Raises:
        ConfigError: there is no such key.
    """
    lines, where = _lines(text)
    line = lines.pop(_found(where, key_id))
    lines.insert(min(where.values()), line)
    return "".join(lines)


def remove_key(text: str, key_id: str) -> str:
    """The text of a key file without this key.

    Raises:
        ConfigError: there is no such key, or it is the one that signs.
    """
    lines, where = _lines(text)
    if _found(where, key_id) == min(where.values()):
        raise ConfigError(
            [f"{key_id} signs: rotate, or let another one sign (key use), and remove it later"]
        )
    del lines[where[key_id]]
    return "".join(lines)


def _lines(text: str) -> tuple[list[str], dict[str, int]]:
    """The lines, each with its end, and which of them hold which key; comments stay in place."""
    lines = [f"{line}\n" for line in text.splitlines()]
    words = [line.split() for line in lines]
    return lines, {
        found[0]: number
        for number, found in enumerate(words)
        if found and not found[0].startswith("#")
    }


def _found(where: dict[str, int], key_id: str) -> int:
    if key_id not in where:
        raise ConfigError([f"there is no key {key_id}, only {', '.join(where) or 'none'}"])
    return where[key_id]


def change_keys(path: Path, change: Callable[[str], str]) -> KeyRing:
    """Replace a key file by a changed one: wholly or not at all, with its mode and owner.

    A file that is missing is made, readable by its owner only. Services read
    keys when they start, so they go on with those they have.

    Args:
        path: of the key file.
        change: from its text to the new one; empty if the file is missing.

    Returns:
        The keys that are now in the file.

    Raises:
        ConfigError: the file cannot be read or written, is wrong, or would be.
    """
    real = path.resolve()  # else a link would be replaced, and what it names stay as it was
    try:
        with _locked(real.parent):
            old = real.read_text(encoding="utf-8") if real.exists() else ""
            if _lines(old)[1]:
                parse_keys(old)
            new = change(old)
            ring = parse_keys(new)
            _replace(real, new)
    except ConfigError as error:
        raise ConfigError(error.problems, str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError([f"key file cannot be changed: {reason}"], str(path)) from error
    return ring


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if path.exists():
                status = path.stat()
                os.fchown(descriptor, status.st_uid, status.st_gid)
                shutil.copystat(path, name)  # access control lists are among it
                os.utime(name)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    with _opened(path.parent) as folder:
        os.fsync(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One change at a time, so that of two keys added at once none is lost."""
    with _opened(folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
