"""Passwords: hashed by Argon2id in the form Dovecot reads, never kept or shown.

Dovecot's scheme prefix says how a hash was made
(https://doc.dovecot.org/2.3/configuration_manual/authentication/password_schemes/).
"""

from __future__ import annotations

import base64
import re
import secrets
import unicodedata

from argon2 import PasswordHasher
from argon2.low_level import Type

from mailhooks.errors import AccountsError

MAX_PASSWORD_BYTES = 1024
SHORT_CHARS = 8
"""Below this a password is called short (NIST SP 800-63B 5.1.1.1)."""

# Like `doveadm pw -s ARGON2ID`: RFC 9106's second choice, on one lane, because a login of
# Dovecot's has one thread. 64 MiB and 0.15 s a login.
HASHER = PasswordHasher(
    time_cost=3, memory_cost=64 * 1024, parallelism=1, hash_len=32, salt_len=16, type=Type.ID
)

_SALTED = r"m=\d{1,8},t=\d{1,4},p=\d{1,3}\$[A-Za-z0-9+/]{8,64}\$[A-Za-z0-9+/]{16,128}"
_CRYPT = "[A-Za-z0-9./]"
# Strong schemes of Dovecot 2.3 that other programs write, too.
_HASHES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\{{ARGON2ID\}}\$argon2id\$v=19\${_SALTED}",
        rf"\{{ARGON2I\}}\$argon2i\$v=19\${_SALTED}",
        rf"\{{BLF-CRYPT\}}\$2[aby]\$\d\d\${_CRYPT}{{53}}",
        rf"\{{SHA512-CRYPT\}}\$6\$(?:rounds=\d{{4,9}}\$)?{_CRYPT}{{1,16}}\${_CRYPT}{{86}}",
    )
)


def hash_password(password: str, hasher: PasswordHasher = HASHER) -> str:
    """A password as Dovecot's ``{ARGON2ID}$argon2id$...``, with a salt of its own.

    Raises:
        AccountsError: the password is empty, too long, or holds what nobody can type.
    """
    if not password:
        raise AccountsError("the password is empty")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in password):
        raise AccountsError("the password holds control characters or is not UTF-8")
    if len(password.encode()) > MAX_PASSWORD_BYTES:
        raise AccountsError(f"the password is longer than {MAX_PASSWORD_BYTES} bytes")
    return "{ARGON2ID}" + hasher.hash(password)


def no_password() -> str:
    """A hash that no password has: an account that receives mail and lets nobody log in."""
    salt, digest = (
        base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode("ascii")
        for size in (HASHER.salt_len, HASHER.hash_len)
    )
    cost = f"m={HASHER.memory_cost},t={HASHER.time_cost},p={HASHER.parallelism}"
    return f"{{ARGON2ID}}$argon2id$v=19${cost}${salt}${digest}"


def checked_hash(text: str) -> str:
    """A hash made elsewhere, if Dovecot reads it and it is a strong one.

    Raises:
        AccountsError: it is not; the text is not repeated.
    """
    if not any(pattern.fullmatch(text) for pattern in _HASHES):
        raise AccountsError(
            "a password hash is {ARGON2ID}, {ARGON2I}, {BLF-CRYPT} or {SHA512-CRYPT} and what"
            " `doveadm pw -s` prints behind it"
        )
    return text
