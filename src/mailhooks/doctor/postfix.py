"""Postfix: does mail meet the milters in the right order, and pass when they are dead?"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mailhooks.doctor import access
from mailhooks.doctor.check import Finding, failed, ok, skipped, warning
from mailhooks.doctor.program import NotRunError, WentWrongError, output_of, unknown, version_of
from mailhooks.score import REPORT_HEADER, SCORE_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mailhooks.config import DoctorSettings

NAME: Final = "postfix"
OLDEST_TRIED: Final = (3, 7)
OUR_HEADERS: Final = (SCORE_HEADER, REPORT_HEADER)
_BRACED = re.compile(r"\{([^{}]*)\}|([^\s,{}]+)")
_LMTP_DEFAULT: Final = "unix:/run/dovecot/lmtp"


@dataclass(frozen=True, slots=True)
class Milter:
    """One entry of ``smtpd_milters``: where it listens, and its own settings."""

    address: str
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Service:
    """One line of master.cf: its name, kind and whether it runs in a chroot."""

    name: str
    kind: str
    chroot: bool
    program: str


def postfix(
    settings: DoctorSettings, socket: str, rspamd_ports: Callable[[], frozenset[int]]
) -> list[Finding]:
    """All about Postfix's configuration.

    Args:
        settings: names ``postconf``.
        socket: of ``mailhooks milter``, in libmilter's notation.
        rspamd_ports: the ports of Rspamd's milter; none if not known.
    """
    try:
        main = parameters(output_of(settings.postconf, "-x"))
        old_chroot = version_of(main.get("compatibility_level", "0")) < (1,)
        lines = services(output_of(settings.postconf, "-M"), chroot_by_default=old_chroot)
        overrides = parameters(output_of(settings.postconf, "-P"))
    except (NotRunError, WentWrongError) as problem:
        return [unknown(NAME, "Postfix", "postconf", problem)]
    return [
        version(main),
        *milters(main, lines, socket, rspamd_ports),
        sendmail(main, lines, socket),
        other_services(main, lines, overrides, socket),
        recipients(main, lines),
        *headers(main, partial(_looked_up, main)),
    ]


def parameters(text: str) -> dict[str, str]:
    """Lines ``name = value`` of postconf."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def services(text: str, *, chroot_by_default: bool) -> list[Service]:
    """Lines of ``postconf -M`` (master(5))."""
    found = []
    for line in text.splitlines():
        words = line.split()
        name, kind, chroot, program = words[0], words[1], words[4], words[7]
        in_chroot = chroot_by_default if chroot == "-" else chroot == "y"
        found.append(Service(name, kind, in_chroot, program))
    return found


def parse_milters(value: str) -> list[Milter]:
    """The entries of a list of milters, with and without braces (postconf(5))."""
    found = []
    for braced, plain in _BRACED.findall(value):
        words = [word for word in re.split(r"[\s,]+", plain or braced) if word]
        if words:
            options = dict(_option(word) for word in words[1:])
            found.append(Milter(words[0], options))
    return found


def _option(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def version(main: Mapping[str, str]) -> Finding:
    """Whether this Postfix is none older than we have tried."""
    name, found = "postfix version", main.get("mail_version", "")
    if version_of(found) < OLDEST_TRIED:
        return warning(
            name,
            f"Postfix {found}: older than any that mailhooks was tried with",
            "Upgrade to Postfix 3.7 or newer.",
        )
    return ok(name, f"Postfix {found}")


def milters(
    main: Mapping[str, str],
    lines: Sequence[Service],
    socket: str,
    rspamd_ports: Callable[[], frozenset[int]],
) -> list[Finding]:
    """Whether mail by SMTP meets Rspamd's milter, then ours, and passes when they are dead.

    Args:
        main: main.cf.
        lines: master.cf.
        socket: ours, in libmilter's notation.
        rspamd_ports: the ports of Rspamd's milter, none if not known; asked for only where
            another milter stands behind ours, since finding out takes a while.
    """
    name, chain = "postfix milters", parse_milters(main.get("smtpd_milters", ""))
    chroot = any(line.chroot and line.program == "smtpd" for line in lines)
    ours = _place(chain, main, socket)
    order = "postconf -e 'smtpd_milters = RSPAMD, {}'"
    if ours is None:
        return [
            failed(
                name,
                f"smtpd_milters does not name {socket}, so no mail has a score",
                f"Add it behind Rspamd's milter: {order.format(_for_postfix(socket))}, then "
                "`postfix reload`.",
            )
        ]
    entry = chain[ours]
    ports = frozenset() if entry is chain[-1] else rspamd_ports()
    theirs = [n for n, each in enumerate(chain) if _port(each.address) in ports]
    if (min(theirs) > ours) if theirs else ours == 0:
        return [
            failed(
                name,
                f"smtpd_milters: {entry.address} does not stand behind Rspamd's milter, whose "
                "result it never sees",
                f"Name Rspamd's first: {order.format(entry.address)}, then `postfix reload`.",
            )
        ]
    findings = [ok(name, f"smtpd_milters: ours is number {ours + 1} of {len(chain)}")]
    unreachable = _unreachable(entry.address, main, chroot=chroot)
    if unreachable:
        findings = [unreachable]
    findings.append(_when_dead(chain, main))
    return findings


def _when_dead(chain: Sequence[Milter], main: Mapping[str, str]) -> Finding:
    name = "postfix without milters"
    general = main.get("milter_default_action", "tempfail")
    harsh = [
        each.address for each in chain if each.options.get("default_action", general) != "accept"
    ]
    if harsh:
        return failed(
            name,
            f"mail is turned away while {harsh[0]} does not answer (default_action "
            f"{general} or its own)",
            "Let mail pass: default_action = accept for each milter in smtpd_milters, or "
            "`postconf -e milter_default_action=accept`.",
        )
    return ok(name, "mail passes while a milter does not answer")


def sendmail(main: Mapping[str, str], lines: Sequence[Service], socket: str) -> Finding:
    """Whether mail of the programs on this host meets our milter too."""
    name = "postfix sendmail"
    place = _place(parse_milters(main.get("non_smtpd_milters", "")), main, socket)
    if place is None or not lines:
        return warning(
            name,
            "non_smtpd_milters does not name our milter: mail by sendmail(1) has no score, and "
            "forged headers in it are not removed",
            "postconf -e 'non_smtpd_milters = $smtpd_milters', then `postfix reload`.",
        )
    return ok(name, "non_smtpd_milters: mail by sendmail(1) is scored too")


def other_services(
    main: Mapping[str, str],
    lines: Sequence[Service],
    overrides: Mapping[str, str],
    socket: str,
) -> Finding:
    """Whether a service of master.cf goes without our milter.

    Args:
        main: main.cf.
        lines: master.cf.
        overrides: ``service/type/parameter`` and its value, as ``postconf -P`` prints them.
        socket: ours.
    """
    name = "postfix services"
    without = [
        key.rpartition("/")[0]
        for key, value in overrides.items()
        if key.endswith("/smtpd_milters")
        and "$smtpd_milters" not in value
        and _place(parse_milters(value), main, socket) is None
    ]
    count = sum(line.program == "smtpd" for line in lines)
    if without:
        return warning(
            name,
            f"master.cf: {', '.join(without)} overrides smtpd_milters and leaves ours out",
            "If mail for this host comes in there, remove `-o smtpd_milters=...` or name our milter"
            " in it; where mail comes back from a content filter, it is right.",
        )
    return ok(name, f"master.cf: none of {count} SMTP services leaves our milter out")


def recipients(main: Mapping[str, str], lines: Sequence[Service]) -> Finding:
    """Whether each recipient's copy is delivered on its own; mail that is sent on is not split."""
    name = "postfix recipients"
    programs = {line.name: line.program for line in lines}
    transports = {
        main.get(key, "").partition(":")[0] for key in ("virtual_transport", "mailbox_transport")
    }
    delivering = sorted(it for it in transports if programs.get(it) in ("lmtp", "pipe"))
    if not delivering:
        return skipped(
            name,
            "neither virtual_transport nor mailbox_transport is a service for LMTP",
            "If this host has mailboxes, see for yourself that "
            "<transport>_destination_recipient_limit is 1.",
        )
    for transport in delivering:
        key = f"{transport}_destination_recipient_limit"
        limit = main.get(key, main.get("default_destination_recipient_limit", "50"))
        if limit != "1":
            return warning(
                name,
                f"{key} is {limit}: one recipient's slow verdict holds up the others', and a "
                "failure half-way is repeated for all",
                f"postconf -e {key}=1, then `postfix reload`.",
            )
    return ok(name, f"{delivering[0]}_destination_recipient_limit is 1")


def headers(main: Mapping[str, str], look_up: Callable[[str, str], str]) -> Iterable[Finding]:
    """Whether our headers stay on this host, and are still there at delivery.

    Args:
        main: main.cf.
        look_up: the result of a table (``regexp:/path``) for a header line; empty if none.
    """
    leaving, arriving = "postfix leaving", "postfix arriving"
    lines = [f"{name}: v=1" for name in OUR_HEADERS]
    try:
        stays = [
            line for line in lines if _action(main, "smtp_header_checks", line, look_up) != "IGNORE"
        ]
        dropped = [
            key
            for key in ("header_checks", "milter_header_checks", "lmtp_header_checks")
            for line in lines
            if _action(main, key, line, look_up) in ("IGNORE", "REPLACE", "REJECT", "DISCARD")
        ]
    except (NotRunError, WentWrongError) as problem:
        return [skipped(leaving, f"the tables cannot be looked into: {problem}", "Run as root.")]
    if stays:
        first = warning(
            leaving,
            f"{stays[0].partition(':')[0]} leaves this host with mail that is sent on",
            "Have smtp_header_checks drop it: smtp_header_checks = regexp:/etc/postfix/"
            "mailhooks-leaving with the line `/^X-Mailhooks-/ IGNORE`.",
        )
    else:
        first = ok(leaving, "smtp_header_checks: our headers stay here")
    if dropped:
        second = failed(
            arriving,
            f"{dropped[0]} removes or refuses our headers, so that no score reaches the delivery",
            f"Take X-Mailhooks- out of {dropped[0]}; only smtp_header_checks shall drop it.",
        )
    else:
        second = ok(arriving, "no header check drops our headers on the way to the mailbox")
    return [first, second]


def lmtp_address(settings: DoctorSettings) -> str:
    """Where Postfix delivers, ``unix:/path`` or ``host:port``; else Dovecot's usual socket."""
    try:
        main = parameters(output_of(settings.postconf, "-x"))
    except (NotRunError, WentWrongError):
        return _LMTP_DEFAULT
    return next_hop(main)


def next_hop(main: Mapping[str, str]) -> str:
    """The same, by main.cf."""
    for key in ("virtual_transport", "mailbox_transport"):
        transport, _, hop = main.get(key, "").partition(":")
        kind, _, rest = hop.partition(":")
        if kind == "unix" and rest:
            return f"unix:{Path(main.get('queue_directory', '/')) / rest}"
        if transport and hop:
            # Brackets around a name keep Postfix from looking for its MX.
            return re.sub(r"^\[([^]:]+)\]", r"\1", hop.removeprefix("inet:"))
    return _LMTP_DEFAULT


def withdraw(settings: DoctorSettings, queue_id: str) -> str:
    """Remove one message from Postfix's queue; returns why it may still be there, or nothing."""
    try:
        main = parameters(
            output_of(settings.postconf, "-x", "command_directory", "config_directory")
        )
        tool = f"{main['command_directory']}/postsuper"
        output_of([tool, "-c", main["config_directory"], "-d", queue_id])
    except (NotRunError, WentWrongError, KeyError) as problem:
        return str(problem)
    return ""


def _action(
    main: Mapping[str, str], key: str, line: str, look_up: Callable[[str, str], str]
) -> str:
    for table in re.split(r"[\s,]+", main.get(key, "")):
        result = look_up(table, line) if ":" in table else ""
        if result:
            return result.split()[0].upper()
    return ""


def _looked_up(main: Mapping[str, str], table: str, line: str) -> str:
    tool = f"{main.get('command_directory', '/usr/sbin')}/postmap"
    arguments = ("-c", main.get("config_directory", "/etc/postfix"), "-q", line, table)
    return output_of([tool], *arguments, wrong_codes=False).strip()


def _place(chain: Sequence[Milter], main: Mapping[str, str], socket: str) -> int | None:
    kind, _, rest = socket.partition(":")
    for number, each in enumerate(chain):
        if kind != "unix":
            if _port(each.address) == int(rest.partition("@")[0]):
                return number
        elif Path(rest) in _paths(each.address, main):
            return number
    return None


def _paths(address: str, main: Mapping[str, str]) -> set[Path]:
    """What a UNIX socket's name may mean: it is looked up in the queue's folder in a chroot."""
    kind, _, path = address.partition(":")
    if kind != "unix":
        return set()
    queue = Path(main.get("queue_directory", "/var/spool/postfix"))
    return {queue / path, queue / path.lstrip("/")}


def _port(address: str) -> int | None:
    kind, _, rest = address.partition(":")
    port = rest.rpartition(":")[2]
    return int(port) if kind in ("inet", "inet6") and port.isdecimal() else None


def _for_postfix(socket: str) -> str:
    """Libmilter's ``inet:port@host`` as Postfix writes it."""
    kind, _, rest = socket.partition(":")
    if kind == "unix":
        return shlex.quote(socket)
    port, _, host = rest.partition("@")
    return f"{kind}:{host}:{port}"


def _unreachable(address: str, main: Mapping[str, str], *, chroot: bool) -> Finding | None:
    """Why Postfix cannot connect to a milter's UNIX socket."""
    name = "postfix milters"
    kind, _, path = address.partition(":")
    if kind != "unix":
        return None
    queue = Path(main.get("queue_directory", "/var/spool/postfix"))
    seen = queue / path.lstrip("/") if chroot else queue / path
    if chroot and not seen.exists():
        return failed(
            name,
            f"smtpd runs in a chroot and looks for {address} at {seen}, where nothing is",
            "Take smtpd out of the chroot (postconf -F '*/inet/chroot=n'), or put the socket below "
            f"{queue} ([milter] socket) and leave that folder's name out in smtpd_milters.",
        )
    uid = access.uid_named(main.get("mail_owner", "postfix"))
    if uid is None or not seen.exists() or access.may_connect(uid, seen):
        return None
    return failed(
        name,
        f"{seen}: {access.named(uid)} may not connect (mode {access.mode_of(seen.stat())})",
        "Let Postfix's user through to the folder and write to the socket.",
    )
