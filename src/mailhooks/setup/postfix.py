"""Postfix's part: our milter behind Rspamd's, one recipient a delivery, our headers kept in.

Where a setting is a list, ours is added to the administrator's; where it is
one value that somebody else has set, that is a conflict. What main.cf becomes
is found out by ``postconf -e`` on a copy, so the file keeps its form.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mailhooks.setup.plan import Conflict
from mailhooks.setup.run import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LISTS = frozenset(
    {"smtpd_milters", "non_smtpd_milters", "milter_connect_macros", "smtp_header_checks"}
)
FOR_OUR_CHAIN = frozenset({"milter_default_action", "milter_protocol"})
"""Settings that an administrator with milters of their own has decided about."""
TRANSPORTS = ("mailbox_transport", "virtual_transport", "local_transport")
RSPAMD_PORT = "11332"
_WORD = re.compile(r"\{[^}]*\}|[^\s,{}]+")
_ADDRESS = re.compile(r"(?:inet|unix|local):[^\s,]+")


@dataclass(frozen=True, slots=True)
class Postfix:
    """An installed Postfix.

    Attributes:
        version: such as ``3.7.11``.
        folder: of main.cf.
        explicit: settings that main.cf sets.
        values: all settings, defaults included.
        lmtp_services: names of services in master.cf that deliver by LMTP.
    """

    version: str
    folder: Path
    explicit: Mapping[str, str]
    values: Mapping[str, str]
    lmtp_services: frozenset[str]


def survey() -> Postfix:
    """Ask postconf.

    Raises:
        SetupError: Postfix is not installed, or its configuration is broken.
    """
    values = parse(run("postconf"))
    services = (line.split() for line in run("postconf", "-M").splitlines())
    return Postfix(
        version=values["mail_version"],
        folder=Path(values["config_directory"]),
        explicit=parse(run("postconf", "-n")),
        values=values,
        lmtp_services=frozenset(
            # service type private unpriv chroot wakeup maxproc command, master(5)
            words[0]
            for words in services
            if len(words) > 7 and words[7] == "lmtp"  # noqa: PLR2004
        ),
    )


def parse(text: str) -> dict[str, str]:
    """Settings in the form of main.cf: a line that begins with white space goes on."""
    found: dict[str, str] = {}
    for line in re.sub(r"\n[ \t]+", " ", re.sub(r"(?m)^\s*#.*\n?", "", text)).splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name.strip()] = value.strip()
    return found


def words(value: str) -> list[str]:
    """The members of a list; ``{ ... }`` is one member."""
    return _WORD.findall(value)


def address(word: str) -> str:
    """The address of a milter, without what is said about it."""
    found = _ADDRESS.search(word)
    return found[0] if found else word


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting in main.cf as it has to be.

    Attributes:
        name: of the setting.
        value: all of it.
        ours: what of it is ours, which a removal takes away again.
    """

    name: str
    value: str
    ours: str


def needed(
    postfix: Postfix, wanted: Mapping[str, str], *, ours: Mapping[str, str]
) -> tuple[list[Setting], list[Conflict]]:
    """What has to be set, and what stands in the way. Pure.

    Args:
        postfix: as it is.
        wanted: our settings; of ``smtpd_milters`` Rspamd's is first, ours last.
        ours: what of each setting an earlier setup has set.
    """
    found: list[Setting] = []
    conflicts: list[Conflict] = []
    has_chain = bool(_foreign(postfix, "smtpd_milters", ours))
    for name, value in wanted.items():
        old = _foreign(postfix, name, ours)
        if name == "milter_connect_macros":  # the only one of these with a default
            old = old or _foreign_words(postfix.values.get(name, ""), ours.get(name, ""))
        if name in FOR_OUR_CHAIN and has_chain:
            continue
        if name == "smtpd_milters":
            new = _chain(old, words(value))
        elif name == "non_smtpd_milters":
            new = _same_chain(old, words(wanted["smtpd_milters"]))
        elif name in LISTS:
            base = words(old)
            new = " ".join([*base, *(word for word in words(value) if word not in base)])
        elif old and old != value:
            conflicts.append(
                Conflict(
                    f"{postfix.folder}/main.cf: {name}",
                    old,
                    f"mailhooks needs {name} = {value}; set it so, or remove the line.",
                )
            )
            continue
        else:
            new = value
        found.append(Setting(name, new, _foreign_words(new, old)))
    return found, conflicts


def changes(postfix: Postfix, settings: list[Setting]) -> dict[str, str]:
    """Those settings that are not as they have to be."""
    return {
        each.name: each.value
        for each in settings
        if _normal(postfix.explicit.get(each.name, "")) != _normal(each.value)
    }


def without_ours(postfix: Postfix, ours: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What takes our settings back from a main.cf that others changed since: set, and remove."""
    defaults = parse(run("postconf", "-d"))
    to_set: dict[str, str] = {}
    to_remove: list[str] = []
    for name in ours.keys() & postfix.explicit.keys():
        left = _foreign(postfix, name, ours)
        if left in ("", _normal(defaults.get(name, ""))):
            to_remove.append(name)
        elif _normal(left) != _normal(postfix.explicit[name]):
            to_set[name] = ", ".join(words(left)) if name.endswith("milters") else left
    return to_set, sorted(to_remove)


def edited(postfix: Postfix, to_set: Mapping[str, str], to_remove: Sequence[str] = ()) -> bytes:
    """main.cf as ``postconf -e`` and ``postconf -X`` would leave it."""
    with tempfile.TemporaryDirectory(prefix="mailhooks-setup-") as name:
        for file in ("main.cf", "master.cf"):
            shutil.copy(postfix.folder / file, name)
        if to_set:
            run("postconf", "-c", name, "-e", *(f"{k} = {v}" for k, v in to_set.items()))
        if to_remove:
            run("postconf", "-c", name, "-X", *to_remove)
        return (Path(name) / "main.cf").read_bytes()


def deliverers(postfix: Postfix) -> set[str]:
    """Names of the transports by which Postfix hands mail to an LMTP server."""
    names = set()
    for setting in TRANSPORTS:
        service = postfix.values.get(setting, "").partition(":")[0]
        if service in postfix.lmtp_services:
            names.add(service)
    return names


def rspamd_address(bind_socket: str) -> str:
    """How Postfix reaches an Rspamd that listens there."""
    bind = bind_socket.split(maxsplit=1)[0] if bind_socket.split() else ""
    if bind.startswith("/"):
        return f"unix:{bind}"
    host, _, port = bind.rpartition(":")
    if host in ("", "*", "localhost", "0.0.0.0", "[::]"):  # noqa: S104 - a name, nothing is bound
        host = "127.0.0.1"
    return f"inet:{host}:{port or RSPAMD_PORT}"


def _foreign(postfix: Postfix, name: str, ours: Mapping[str, str]) -> str:
    """What of a setting in main.cf is the administrator's."""
    value = postfix.explicit.get(name, "")
    if name in LISTS:
        return _foreign_words(value, ours.get(name, ""))
    return "" if _normal(value) == _normal(ours.get(name, "")) else value


def _foreign_words(value: str, ours: str) -> str:
    added = words(ours)
    return " ".join(word for word in words(value) if word not in added)


def _chain(old: str, ours: list[str]) -> str:
    """A chain with Rspamd's milter in it, and ours behind."""
    rspamd, mailhooks = ours[0], ours[-1]
    chain = [word for word in words(old) if address(word) != address(mailhooks)]
    if not any(
        address(word) == address(rspamd) or address(word).endswith(f":{RSPAMD_PORT}")
        for word in chain
    ):
        chain.append(rspamd)
    return ", ".join([*chain, mailhooks])


def _same_chain(old: str, ours: list[str]) -> str:
    if not words(old) or "$smtpd_milters" in words(old):
        return old or "$smtpd_milters"
    return _chain(old, ours)


def _normal(value: str) -> str:
    return " ".join(words(value)) or value
