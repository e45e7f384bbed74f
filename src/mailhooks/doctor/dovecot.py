"""Dovecot: does it ask us at delivery, tell us what users do, and with the names we expect?"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mailhooks import doveconf
from mailhooks.config import uids_of
from mailhooks.daemon import CLASSIFY_SOCKET, LEARN_SOCKET
from mailhooks.doctor import access
from mailhooks.doctor.check import Finding, failed, ok, skipped, warning
from mailhooks.doctor.program import NotRunError, WentWrongError, output_of, unknown, version_of
from mailhooks.doctor.sieve import script
from mailhooks.lesson import Role

if TYPE_CHECKING:
    from mailhooks.config import Settings
    from mailhooks.doveconf import Block, Doveconf
    from mailhooks.lesson import MailboxRoles

NAME: Final = "dovecot"
OLDEST_TRIED: Final = (2, 3, 19)
LAST_THAT_PANICS: Final = (2, 4, 4)
"""Up to this release ``execute :output`` that reaches exec_timeout ends the lmtp process."""
DEFAULT_TIMEOUT_S: Final = 10.0
MARGIN_S: Final = 1.0
HOOK: Final = "mailhooks-drop"
CLASSIFY_SCRIPT, LEARN_SCRIPT = "classify.sieve", "learn.sieve"
CAUSES: Final = frozenset({"COPY", "APPEND", "FLAG"})
_IMAPSIEVE: Final = "sieve_imapsieve"
_JUNK: Final = "Junk"
"""Where classify.sieve files junk."""
_RENDER = "Render Dovecot's part of the configuration again, then `doveadm reload`."
_RELOAD = "then `doveadm reload`."
_SPECIAL_USE: Final = {
    "\\Junk": Role.JUNK,
    "\\Trash": Role.TRASH,
    "\\Sent": Role.SENT,
    "\\Drafts": Role.DRAFTS,
}


def dovecot(settings: Settings, *, filtered: bool = False) -> list[Finding]:
    """All about Dovecot's configuration, and the Sieve scripts it names.

    Args:
        settings: of this host.
        filtered: whether `mailhooks lmtp` gives the verdicts, and Sieve need not.
    """
    try:
        found = doveconf.parse(output_of(settings.doctor.doveconf))
    except (NotRunError, WentWrongError) as problem:
        return [unknown(NAME, "Dovecot", "doveconf", problem)]
    roles = settings.mailboxes.roles()
    findings = [version(found)]
    if not filtered:
        findings += [deadline(found, settings.daemon.deadline_s), *delivery(found)]
    if filtered and _IMAPSIEVE not in found.words("sieve_plugins"):
        findings.append(
            skipped(
                "dovecot imapsieve",
                f"{_IMAPSIEVE} is not in sieve_plugins: only `mailhooks reconcile` and `retrain` "
                "learn what users do",
                "docs/lmtp.md tells how to learn without it.",
            )
        )
    else:
        findings += [
            plugins(found, filtered=filtered),
            extensions(found),
            sockets(found, settings.daemon.socket_dir),
            fallback(found),
            *imapsieve(found, keywords=settings.mailboxes.keywords),
            names(found, roles),
            mail_user(found, settings.daemon.mail_users),
        ]
    return [*findings, *special_use(found, roles)]


def version(found: Doveconf) -> Finding:
    """Whether this Dovecot is none older than we have tried."""
    name = "dovecot version"
    text = f"Dovecot {found.version}"
    if found.pigeonhole:
        text += f", Pigeonhole {found.pigeonhole}"
    if version_of(found.version) < OLDEST_TRIED:
        return warning(
            name,
            f"{text}: older than any that mailhooks was tried with",
            "Upgrade to Dovecot 2.3.19 or newer.",
        )
    return ok(name, text)


def deadline(found: Doveconf, deadline_s: float) -> Finding:
    """Whether we answer before Dovecot gives up."""
    name, key = "dovecot deadline", "sieve_execute_exec_timeout"
    value = found.setting(key)
    timeout_s = doveconf.seconds(value) if value else DEFAULT_TIMEOUT_S
    if timeout_s is None:
        return failed(name, f"{key} = {value} is no time", f"Set {key} = 10s, {_RELOAD}")
    text = f"daemon.deadline_s is {deadline_s:g} s, {key} {timeout_s:g} s"
    advice = f"Set {key} = 10s in Dovecot, or a smaller [daemon] deadline_s."
    if deadline_s >= timeout_s:
        panics = version_of(found.version) <= LAST_THAT_PANICS
        so = "this Dovecot's lmtp process panics" if panics else "there is no verdict"
        return failed(name, f"{text}: when Rspamd is slow, {so}", advice)
    if deadline_s > timeout_s - MARGIN_S:
        return warning(name, f"{text}: less than a second between them", advice)
    return ok(name, text)


def plugins(found: Doveconf, *, filtered: bool = False) -> Finding:
    """Whether Sieve runs at delivery, if it must, and in IMAP, and may call programs."""
    name = "dovecot plugins"
    wanted = (
        ("sieve_plugins", "", "sieve_extprograms"),
        ("sieve_plugins", "", _IMAPSIEVE),
        *(() if filtered else (("mail_plugins", "lmtp", "sieve"),)),
        ("mail_plugins", "imap", "imap_sieve"),
    )
    missing = [
        f"{key}{f' of protocol {protocol}' if protocol else ''} lacks {word}"
        for key, protocol, word in wanted
        if word not in found.words(key, protocol)
    ]
    if missing:
        return failed(name, "; ".join(missing), f"Add what is lacking, {_RELOAD}")
    return ok(
        name, f"Sieve runs {'' if filtered else 'at delivery and '}in IMAP, and calls programs"
    )


def extensions(found: Doveconf) -> Finding:
    """Whether our scripts may use what they require, and users' scripts may not."""
    name = "dovecot extensions"
    everywhere = found.words("sieve_extensions")
    ours = everywhere | found.words("sieve_global_extensions")
    missing = [
        word
        for word in ("editheader", "vnd.dovecot.execute", "vnd.dovecot.environment")
        if word not in ours
    ]
    if missing:
        return failed(
            name,
            f"sieve_extensions and sieve_global_extensions lack {', '.join(missing)}, without "
            "which our scripts do not run",
            (
                "Set sieve_extensions { editheader = yes } and sieve_global_extensions "
                "{ vnd.dovecot.execute = yes } and { vnd.dovecot.environment = yes }, "
                if found.is_new
                else "Set sieve_extensions = +editheader and sieve_global_extensions = "
                "+vnd.dovecot.execute +vnd.dovecot.environment, "
            )
            + _RELOAD,
        )
    if "vnd.dovecot.execute" in everywhere:
        return warning(
            name,
            "sieve_extensions lets users' own scripts run programs (vnd.dovecot.execute)",
            f"Move it to sieve_global_extensions, {_RELOAD}",
        )
    return ok(name, "our scripts may use what they require")


def sockets(found: Doveconf, socket_dir: Path) -> Finding:
    """Whether Dovecot looks for our sockets where they are."""
    name, key = "dovecot sockets", "sieve_execute_socket_dir"
    value = found.setting(key)
    if not value:
        programs = Path(found.setting("sieve_execute_bin_dir"))
        if programs.is_absolute() and (programs / CLASSIFY_SOCKET).is_file():
            return ok(name, f"{programs}: Dovecot runs our programs itself")
        return failed(
            name,
            f"{key} is not set, so Dovecot asks nobody for verdicts",
            f"Set {key} to the way from base_dir to {socket_dir}, such as ../mailhooks, {_RELOAD}",
        )
    # Dovecot puts base_dir in front even of an absolute path.
    base = Path(found.setting("base_dir") or "/run/dovecot")
    folder = Path(os.path.realpath(f"{base}/{value}"))
    if folder != Path(os.path.realpath(socket_dir)):
        return failed(
            name,
            f"{key} = {value} leads to {folder}, our sockets are in {socket_dir}",
            f"Set {key} = {os.path.relpath(socket_dir, base)}, {_RELOAD}",
        )
    return ok(name, f"{key} leads to {folder}")


def fallback(found: Doveconf) -> Finding:
    """Whether what users do is kept while the daemon is away."""
    name, key = "dovecot fallback", "sieve_execute_bin_dir"
    folder = Path(found.setting(key) or "/nonexistent")
    program = folder / HOOK
    if not program.exists() and (folder / LEARN_SOCKET).exists():
        program = folder / LEARN_SOCKET  # in fork mode it does both
    try:
        status = program.stat()
    except OSError:
        what = f"{program}: no such program" if found.setting(key) else f"{key} is not set"
        return warning(
            name,
            f"{what}: what users teach while `mailhooks serve` is away is lost",
            f"Set {key} to the folder of {HOOK}, {_RELOAD}",
        )
    if not status.st_mode & 0o001 or status.st_mode & 0o002:
        return warning(
            name,
            f"{program}: mode {access.mode_of(status)}, Dovecot does not run it",
            f"chmod 755 {program}",
        )
    return ok(name, f"{program}: mode {access.mode_of(status)}")


def delivery(found: Doveconf) -> list[Finding]:
    """Whether the script that asks for a verdict runs before users' own, compiled."""
    scripts = [
        _path(value)
        for key, value in sorted(_all_settings(found.root).items())
        if re.fullmatch(r"sieve_before\d*", key)
    ]
    scripts += [
        _path(each.path) for each in doveconf.sieve_scripts(found.root) if each.type == "before"
    ]
    ours = _named(scripts, CLASSIFY_SCRIPT)
    if ours is None:
        setting = "sieve_script of type before" if found.is_new else "sieve_before"
        mend = "Add one with it for path" if found.is_new else "Set sieve_before to it"
        return [
            failed(
                "sieve classify",
                f"no {setting} names {CLASSIFY_SCRIPT}: deliveries get no verdict",
                f"{mend}, {_RELOAD}",
            )
        ]
    return script("sieve classify", ours)


def imapsieve(found: Doveconf, *, keywords: bool = True) -> list[Finding]:
    """Whether the script that tells us what users do runs in every mailbox, compiled.

    Args:
        found: Dovecot's settings.
        keywords: whether junk keywords shall teach, for which it runs on changed flags.
    """
    name = "dovecot imapsieve"
    wanted = [cause for cause in ("COPY", "APPEND", "FLAG") if keywords or cause != "FLAG"]
    causes_23, causes_24 = " ".join(wanted), " ".join(wanted).lower()
    rules = [*_rules_23(found), *_rules_24(found.root)]
    ours = [(where, causes, path) for where, causes, path in rules if path.name == LEARN_SCRIPT]
    if not ours:
        return [
            failed(
                name,
                f"no imapsieve rule runs {LEARN_SCRIPT}: what users do teaches nothing",
                (
                    "Add, outside of all blocks, a sieve_script with type = before, cause = "
                    f"{causes_24}, and the script for path, "
                    if found.is_new
                    else f"Set imapsieve_mailbox1_name = *, imapsieve_mailbox1_causes = {causes_23}"
                    " and imapsieve_mailbox1_before to the script (no gap in numbers), "
                )
                + _RELOAD,
            )
        ]
    everywhere = [each for each in ours if each[0] == "*"]
    runs = frozenset[str]().union(*(causes for _, causes, _ in everywhere or ours))
    missing = sorted(frozenset(wanted) - runs)
    if missing:
        finding = warning(
            name,
            f"{LEARN_SCRIPT} does not run on {', '.join(missing)}",
            (
                f"Set cause = {causes_24} in its sieve_script, "
                if found.is_new
                else f"Set imapsieve_mailboxN_causes = {causes_23}, "
            )
            + _RELOAD,
        )
    elif not everywhere and not found.is_new:
        finding = warning(
            name,
            f"{LEARN_SCRIPT} runs for {', '.join(each[0] for each in ours)} only",
            f"Set imapsieve_mailboxN_name = *, or moves out of Junk teach nothing, {_RELOAD}",
        )
    else:
        finding = ok(name, f"{LEARN_SCRIPT} runs on {' '.join(sorted(runs))}")
    return [finding, *script("sieve learn", ours[0][2])]


def _rules_23(found: Doveconf) -> list[tuple[str, frozenset[str], Path]]:
    """Rules by number; Pigeonhole's imap-sieve-storage.c stops at the first gap."""
    rules = []
    number = 1
    while mailbox := found.setting(f"imapsieve_mailbox{number}_name"):
        causes = found.words(f"imapsieve_mailbox{number}_causes")
        path = found.setting(f"imapsieve_mailbox{number}_before") or found.setting(
            f"imapsieve_mailbox{number}_after"
        )
        rules.append((mailbox, frozenset(map(str.upper, causes)) or CAUSES, _path(path)))
        number += 1
    return rules


def _rules_24(root: Block) -> list[tuple[str, frozenset[str], Path]]:
    """Scripts inside ``mailbox`` and ``imapsieve_from``, or with a cause beside all others."""
    return [
        (each.where, each.causes or CAUSES, _path(each.path))
        for each in doveconf.sieve_scripts(root)
        if each.type != "personal" and (each.causes or each.where != "*")
    ]


def names(found: Doveconf, roles: MailboxRoles) -> Finding:
    """Whether learn.sieve knows Junk, Trash, Sent and Drafts by our names."""
    name = "dovecot mailbox names"
    for key, value in roles.for_sieve().items():
        setting = f"sieve_env_mailhooks_{key}"
        actual = found.setting(setting)
        for block in found.root.named("sieve_environment"):  # Dovecot 2.4
            setting = f"sieve_environment {{ mailhooks_{key} }}"
            actual = block.values.get(f"mailhooks_{key}", actual)
        if not actual:
            return warning(
                name,
                f"{setting} is not set: learn.sieve sends everything that users do",
                _RENDER,
            )
        # Dovecot 2.3 doubles each %, 2.4 only one that would begin a variable.
        if value not in (actual, actual.replace("%%", "%"), actual.replace("%%{", "%{")):
            return failed(
                name,
                f"{setting} differs from [mailboxes]: what users do may teach nothing",
                _RENDER,
            )
    return ok(name, "those that learn.sieve is told are those of [mailboxes]")


def special_use(found: Doveconf, roles: MailboxRoles) -> list[Finding]:
    """Whether the mailboxes that clients take for Junk and Trash are that to us."""
    name = "dovecot special use"
    wrong: list[str] = []
    has_junk = False
    for namespace in found.root.named("namespace"):
        prefix = namespace.values.get("prefix", "")
        for mailbox in namespace.named("mailbox"):
            title = mailbox.values.get("mailbox_name", mailbox.title)
            use = mailbox.values.get("special_use", mailbox.values.get("mailbox_special_use", ""))
            for word in use.split():
                role = _SPECIAL_USE.get(word)
                if role and roles.role(prefix + title) is not role:
                    wrong.append(f'"{prefix}{title}" is {word}, not {role.value} in [mailboxes]')
                has_junk = has_junk or (word == "\\Junk" and title == _JUNK)
    if wrong:
        key = wrong[0].rpartition(", not ")[2].partition(" ")[0]
        return [
            failed(
                name,
                "; ".join(wrong),
                f"Add the name to [mailboxes] {key}, restart `mailhooks serve`, and render "
                "Dovecot's part again.",
            )
        ]
    if not has_junk:
        return [
            warning(
                name,
                f'no mailbox "{_JUNK}" has special_use = \\Junk: clients may not know the mailbox '
                "that junk is filed into",
                f"Add mailbox {_JUNK} {{ auto = subscribe; special_use = \\Junk }} to the "
                "namespace of INBOX.",
            )
        ]
    return [ok(name, "Junk, Trash, Sent and Drafts by special use are those of [mailboxes]")]


def mail_user(found: Doveconf, mail_users: tuple[str | int, ...]) -> Finding:
    """Whether the user whose processes open mailboxes may speak for everybody."""
    name = "dovecot mail user"
    value = found.setting("mail_uid")
    drivers = {block.values.get("driver", block.title) for block in found.root.named("userdb")}
    if not value and drivers == {"passwd"}:
        return ok(name, "users are system users, whose processes speak for themselves")
    if not value:
        return skipped(
            name,
            "mail_uid is not set: Dovecot's user database says whose processes open mailboxes",
            "See for yourself: where all mailboxes belong to one system user, [daemon] mail_users "
            "must name it.",
        )
    uid = access.uid_named(value)
    if uid is None:
        return failed(name, f"mail_uid = {value}: no such user", "Correct mail_uid in Dovecot.")
    if uid not in uids_of(mail_users):
        return failed(
            name,
            f"mail_uid = {value} is not among [daemon] mail_users: its calls are refused",
            "Add it to [daemon] mail_users, and restart `mailhooks serve`.",
        )
    return ok(name, f"mail_uid = {value} is among [daemon] mail_users")


def _path(value: str) -> Path:
    """A script's path without Pigeonhole's storage type and options."""
    return Path(value.removeprefix("file:").partition(";")[0])


def _named(paths: list[Path], name: str) -> Path | None:
    for path in paths:
        if path.name == name:
            return path
        if path.is_dir() and (path / name).is_file():  # sieve_before may name a folder
            return path / name
    return None


def _all_settings(root: Block) -> dict[str, str]:
    values = dict(root.values)
    for block in root.blocks:
        if block.name.split()[:1] in (["plugin"], ["protocol"]):
            values |= _all_settings(block)
    return values
