"""Envelope addresses as they stand in MAIL and RCPT, and the mailbox users they mean. Pure."""

from __future__ import annotations

import re
from typing import Final

# RFC 5321, 4.1.2: a path in angle brackets, what is quoted may hold anything
# printable. Parameters follow after a space.
_PATH: Final = r"(<(?:[^\x00-\x20\x7f\"<>\\]|\"(?:[^\x00-\x1f\x7f\"\\]|\\[^\x00-\x1f\x7f])*\")*>)"
_ARGUMENT: Final = re.compile(rf"\s*{_PATH}((?: +[^\x00-\x20\x7f]+)*) *\Z")
_PARAMETER: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^=]+))?\Z")
_ROUTE: Final = re.compile(r"@[^:\"]*:")
_ATOMS: Final = re.compile(r"[^\x00-\x20\x7f\"(),:;<>@\[\\\]]+\Z")


def parse_argument(argument: str | None, keyword: str) -> tuple[str, dict[str, str | None]]:
    """The path and the parameters of MAIL FROM or RCPT TO.

    Args:
        argument: what follows MAIL or RCPT.
        keyword: ``FROM:`` or ``TO:``.

    Returns:
        The path as it stands, in angle brackets, and parameters by their names
        in upper case; None is the value of one that has none.

    Raises:
        ValueError: it is no such argument.
    """
    text = argument or ""
    match = _ARGUMENT.match(text[len(keyword) :])
    if text[: len(keyword)].upper() != keyword or not match:
        raise ValueError(f"expected {keyword}<address>")
    parameters: dict[str, str | None] = {}
    for word in match[2].split():
        parameter = _PARAMETER.match(word)
        if not parameter or parameter[1].upper() in parameters:
            raise ValueError("expected parameters as NAME or NAME=value, each once")
        parameters[parameter[1].upper()] = parameter[2]
    return match[1], parameters


def parts(path: str) -> tuple[str, str]:
    """Local part, unquoted, and domain of a path; an address without domain has an empty one."""
    mailbox = _ROUTE.sub("", path[1:-1], count=1) if path.startswith("<@") else path[1:-1]
    # A quoted local part may hold an @, a domain may not.
    local, at, domain = mailbox.rpartition("@")
    if not at:
        local, domain = mailbox, ""
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return local, domain


def user_of(path: str, *, delimiters: str, with_domain: bool) -> str:
    """The mailbox user an address belongs to, as Dovecot names them.

    Args:
        path: of RCPT.
        delimiters: each of these characters begins an extension, such as ``+``.
        with_domain: whether users are named by whole addresses.

    Returns:
        The user in lower case, the extension left out.
    """
    local, domain = parts(path)
    user = _without_extension(local, delimiters)
    return (f"{user}@{domain}" if with_domain and domain else user).lower()


def with_detail(path: str, detail: str, delimiters: str) -> str:
    """The address with another extension, such as ``<ann+Junk@example.org>``."""
    local, domain = parts(path)
    local = f"{_without_extension(local, delimiters)}{delimiters[0]}{detail}"
    if not _ATOMS.match(local):
        local = '"{}"'.format(re.sub(r'(["\\])', r"\\\1", local))
    return f"<{local}@{domain}>" if domain else f"<{local}>"


def _without_extension(local: str, delimiters: str) -> str:
    # An extension needs a user before it.
    starts = [at for at in (local.find(each, 1) for each in delimiters) if at > 0]
    return local[: min(starts)] if starts else local
