"""Addresses as they are stored and compared: one spelling for each, or a reason why not.

What is stored is what Postfix looks up and what Dovecot logs in: lower case, Unicode in
normal form C, the domain as IDNA's A-label. Characters that cannot be seen, that look like
another one or that mean something to Postfix are refused. Pure.
"""

from __future__ import annotations

import re
import unicodedata

import idna

from mailhooks.errors import AccountsError

# RFC 5321 4.5.3.1, all in octets; a path of 256 holds an address and its angle brackets.
MAX_LOCAL_BYTES = 64
MAX_ADDRESS_BYTES = 254
MAX_DOMAIN_BYTES = 253

_SHOWN_CHARS = 80
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
# RFC 5322's atext without "!" and "%", which Postfix rewrites (swap_bangpath, allow_percent_hack).
_ATOM_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789#$&'*+/=?^_`{|}~.-")
# Dovecot's auth_username_chars: what a login may hold unless somebody changed that setting.
_ACCOUNT = re.compile(r"[a-z0-9._-]+")
# Scripts that are written together, and with Latin (as in UTS 39's "highly restrictive").
_EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"}


def shown(text: str) -> str:
    """What was typed, fit for a terminal: escaped where it is not plain ASCII, and not too long."""
    short = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
    is_plain = short.isascii() and short.isprintable() and short and " " not in short
    return short if is_plain else ascii(short)


def domain(text: str) -> str:
    """A domain as its A-label in lower case (RFC 5890), such as ``xn--bcher-kva.example``.

    Raises:
        AccountsError: it is no domain name that mail can be for; says why.
    """
    if len(text) > MAX_DOMAIN_BYTES:
        raise AccountsError(f"{shown(text)} is no domain: longer than {MAX_DOMAIN_BYTES} bytes")
    plain = unicodedata.normalize("NFC", text).lower()
    try:
        name = idna.encode(plain, strict=True).decode("ascii")
    except UnicodeError as error:  # IDNAError is one, too
        reason = ascii(str(error)).strip("'\"")
        raise AccountsError(f"{shown(text)} is no domain: {_short(reason)}") from error
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise AccountsError(f"{shown(text)} is no domain: not letters, digits, hyphens and dots")
    if len(labels) == 1:
        raise AccountsError(f"{shown(text)} is no domain: there is no dot in it")
    if labels[-1].isdigit():
        raise AccountsError(f"{shown(text)} is no domain: it looks like an IP address")
    return name


def address(text: str) -> str:
    """Any address that mail can be for, its local part as a dot-atom (RFC 5322, RFC 6531).

    Raises:
        AccountsError: it is none, or one that could be taken for another; says why.
    """
    if len(text) > MAX_ADDRESS_BYTES:
        raise AccountsError(f"{shown(text)} is no address: longer than {MAX_ADDRESS_BYTES} bytes")
    local, at, host = text.rpartition("@")
    if not at or not local:
        raise AccountsError(f"{shown(text)} is no address: it is not name@domain")
    try:
        name = _local(local)
    except ValueError as error:
        raise AccountsError(f"{shown(text)} is no address: {error}") from error
    result = f"{name}@{domain(host)}"
    if len(result.encode()) > MAX_ADDRESS_BYTES:
        raise AccountsError(f"{shown(text)} is no address: longer than {MAX_ADDRESS_BYTES} bytes")
    return result


def account(text: str) -> str:
    """The address of an account, which is also the name somebody logs in with.

    Raises:
        AccountsError: it is no address, or Dovecot would not let anybody log in by it.
    """
    result = address(text)
    local = local_of(result)
    if "+" in local:
        raise AccountsError(
            f"{shown(text)} cannot be an account: what follows + is an extension of the name"
            " before it (recipient_delimiter); make it an alias"
        )
    if not _ACCOUNT.fullmatch(local):
        raise AccountsError(
            f"{shown(text)} cannot be an account: Dovecot lets nobody log in by a name that holds"
            " more than a-z, 0-9, dot, hyphen and underscore (auth_username_chars); give the"
            " account such a name, and make this an alias"
        )
    return result


def source(text: str) -> str:
    """What an alias is for: an address, or ``@domain`` for all else in that domain.

    Raises:
        AccountsError: it is neither.
    """
    if text.startswith("@"):
        return f"@{domain(text[1:])}"
    return address(text)


def destination(text: str) -> str:
    """Where an alias leads: one address, here or elsewhere.

    Raises:
        AccountsError: it is none.
    """
    if text.startswith("@"):
        raise AccountsError(f"{shown(text)}: an alias leads to addresses, not to a whole domain")
    return address(text)


def local_of(text: str) -> str:
    """What stands before the ``@`` of a stored address; empty for ``@domain``."""
    return text.rpartition("@")[0]


def domain_of(text: str) -> str:
    """What stands behind the ``@`` of a stored address or ``@domain``."""
    return text.rpartition("@")[2]


def without_extension(text: str) -> str:
    """A stored address without ``+extension``, as Postfix and Dovecot look it up in the end."""
    local, _, host = text.rpartition("@")
    base = local.partition("+")[0]
    return f"{base}@{host}" if base else text


def _local(text: str) -> str:
    """A local part in its one spelling.

    Raises:
        ValueError: there is none; the reason for people.
    """
    name = "".join(
        char.lower() if char.isascii() else char for char in unicodedata.normalize("NFC", text)
    )
    for char in name:
        if char.isascii() and char not in _ATOM_CHARS:
            raise ValueError(f"{char!r} cannot be in it")
        if not char.isascii() and unicodedata.category(char)[0] not in "LMN":
            raise ValueError(f"U+{ord(char):04X} cannot be in it: no letter, mark or digit")
    if name.startswith("-"):
        raise ValueError("it starts with a hyphen, which Postfix refuses (allow_min_user)")
    if "" in name.split("."):
        raise ValueError("a dot at its start, at its end or beside another dot")
    if len(name.encode()) > MAX_LOCAL_BYTES:
        raise ValueError(f"more than {MAX_LOCAL_BYTES} bytes before the @")
    if not name.isascii():
        _refuse_confusable(name)
    return name


def _refuse_confusable(name: str) -> None:
    # Postfix folds what it looks up, so anything else would never be found.
    if name.casefold() != name:
        raise ValueError("upper case beyond ASCII; write it in lower case")
    if unicodedata.normalize("NFKC", name) != name:
        raise ValueError("it holds a character that stands for another one")
    if unicodedata.category(name[0])[0] == "M":
        raise ValueError("it starts with a combining mark")
    scripts = {_script(char) for char in name if unicodedata.category(char)[0] == "L"}
    if len(scripts) > 1 and not scripts <= _EAST_ASIAN | {"LATIN"}:
        mixed = ", ".join(sorted(script.capitalize() for script in scripts))
        raise ValueError(f"it mixes letters that look alike ({mixed})")


def _script(char: str) -> str:
    return re.split("[ -]", unicodedata.name(char, "UNKNOWN"), maxsplit=1)[0]


def _short(reason: str) -> str:
    return reason if len(reason) <= _SHOWN_CHARS else f"{reason[:_SHOWN_CHARS]}..."
