"""Dovecot's part: one drop-in in conf.d that adds to what is there and overrides nothing.

What is there is asked of doveconf, on a copy of the configuration without our
drop-in. The drop-in is the fragment that the lab runs with, less what the
administrator has set alike. In 2.3 numbered settings take the next free number,
and a list is one value; 2.4 has names instead of numbers, and adds to a list.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mailhooks.doveconf import Block, Doveconf, generation, parse, sieve_scripts
from mailhooks.setup.plan import Conflict
from mailhooks.setup.run import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DROP_IN = "99-mailhooks.conf"
LISTS = frozenset({"sieve_plugins", "sieve_extensions", "sieve_global_extensions"})
DEFAULTS = frozenset({"sieve"})
"""Settings whose value does not matter to us, as long as there is one."""
PERSONAL = "sieve_script personal {"
LEARNT = frozenset({"COPY", "APPEND", "FLAG"})
"""What users do in IMAP, as causes of a script."""
_SETTING = re.compile(r"^(\s*)([\w.]+) *= *(.*?)\s*$")
_BEFORE = re.compile(r"sieve_before(\d*)\Z")
_RULE = re.compile(r"imapsieve_mailbox(\d+)_(\w+)\Z")


@dataclass(frozen=True, slots=True)
class Dovecot:
    """An installed Dovecot, without what we added to it.

    Attributes:
        version: such as ``2.3.19.1``.
        folder: of dovecot.conf.
        base_dir: of its sockets.
        mail_uid: the user that owns all mail; empty if each user has a uid.
        plugin: settings in ``plugin { }``; in 2.4, which has no such block, all that
            are set outside of blocks.
        mail_plugins: by protocol.
        root: all that is set, in 2.4.
    """

    version: str
    folder: Path
    base_dir: Path
    mail_uid: str
    plugin: Mapping[str, str]
    mail_plugins: Mapping[str, tuple[str, ...]]
    root: Block = field(default_factory=Block)

    @property
    def is_new(self) -> bool:
        """Whether the configuration has the syntax of 2.4."""
        return generation(self.version) == "2.4"


def installed_generation() -> str:
    """The generation of the installed Dovecot.

    Raises:
        SetupError: Dovecot is not installed.
    """
    return generation(run("dovecot", "--version"))


def survey() -> Dovecot:
    """Ask doveconf.

    Raises:
        SetupError: Dovecot is not installed, or its configuration is broken.
    """
    # The first line names version and file: 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf
    found = re.match(r"# (\S+).*: (/\S+)", run("doveconf", "-n"))
    version, path = (found[1], Path(found[2])) if found else ("", Path("/etc/dovecot/dovecot.conf"))
    with copied(path.parent, None) as copy:
        is_new = generation(version) == "2.4"
        root = _set(copy).root if is_new else Block()
        return Dovecot(
            version=version,
            folder=path.parent,
            base_dir=Path(_value(copy, "base_dir")),
            mail_uid=_value(copy, "mail_uid"),
            plugin=root.values if is_new else _plugin(copy),
            mail_plugins={each: _mail_plugins(copy, each) for each in ("lmtp", "imap")},
            root=root,
        )


@contextmanager
def copied(folder: Path, drop_in: bytes | None) -> Iterator[Path]:
    """A copy of the configuration with this drop-in of ours, or with none; gives dovecot.conf."""
    with tempfile.TemporaryDirectory(prefix="mailhooks-setup-") as name:
        copy = Path(name) / "dovecot"
        shutil.copytree(folder, copy, symlinks=True)
        (copy / "conf.d" / DROP_IN).unlink(missing_ok=True)
        if drop_in is not None:
            (copy / "conf.d").mkdir(exist_ok=True)
            (copy / "conf.d" / DROP_IN).write_bytes(drop_in)
        yield copy / "dovecot.conf"


def fitted(dovecot: Dovecot, fragment: str) -> tuple[str, list[Conflict]]:
    """Our fragment with what this Dovecot needs of it, and what stands in the way. Pure."""
    return _fitted_24(dovecot, fragment) if dovecot.is_new else _fitted_23(dovecot, fragment)


def _fitted_23(dovecot: Dovecot, fragment: str) -> tuple[str, list[Conflict]]:
    before = _next_number(dovecot, _BEFORE)
    rule = _next_number(dovecot, _RULE)
    conflicts = list(_other_rules(dovecot))
    lines = []
    for line in fragment.splitlines():
        found = _SETTING.match(line)
        if not found:
            lines.append(line)
            continue
        space, name, value = found.groups()
        if _BEFORE.match(name):
            lines.append(f"{space}sieve_before{before if before > 1 else ''} = {value}")
        elif of_rule := _RULE.match(name):
            lines.append(f"{space}imapsieve_mailbox{rule}_{of_rule[2]} = {value}")
        elif name == "mail_plugins" or name not in dovecot.plugin:
            lines.append(line)
        elif not _satisfied(name, dovecot.plugin[name], value):
            merged = value
            if name in LISTS:
                old = dovecot.plugin[name].split()
                merged = " ".join([*old, *(w for w in value.split() if w not in old)])
            conflicts.append(
                Conflict(
                    f"{dovecot.folder}: plugin {{ {name} }}",
                    dovecot.plugin[name],
                    f"mailhooks needs {name} = {merged}; set it so where it is set.",
                )
            )
    return "\n".join(lines) + "\n", conflicts


def _fitted_24(dovecot: Dovecot, fragment: str) -> tuple[str, list[Conflict]]:
    conflicts = list(_other_scripts(dovecot))
    has_personal = any(each.type == "personal" for each in sieve_scripts(dovecot.root))
    lines: list[str] = []
    is_left_out = False
    for line in fragment.splitlines():
        is_left_out = is_left_out or (has_personal and line == PERSONAL)
        found = _SETTING.match(line)
        theirs = dovecot.plugin.get(found[2]) if found and not found[1] else None
        if is_left_out:
            is_left_out = line != "}"
        elif not found or theirs is None:
            lines.append(line)
        elif theirs != found[3].strip('"'):
            conflicts.append(
                Conflict(
                    f"{dovecot.folder}: {found[2]}",
                    theirs,
                    f"mailhooks needs {found[2]} = {found[3]}; set it so where it is set.",
                )
            )
    return "\n".join(lines) + "\n", conflicts


def checked(dovecot: Dovecot, drop_in: str) -> list[Conflict]:
    """Whether Dovecot with this drop-in has all that it had before, and reads it at all."""
    with copied(dovecot.folder, drop_in.encode()) as copy:
        after = {each: _mail_plugins(copy, each) for each in dovecot.mail_plugins}
        now = _set(copy) if dovecot.is_new else None
    path = dovecot.folder / "conf.d" / DROP_IN
    if not any("sieve" in plugin for plugin in after["imap"]):
        return [
            Conflict(
                str(dovecot.folder / "dovecot.conf"),
                "does not read conf.d/*.conf",
                f"Add `!include conf.d/*.conf`, or at its end `!include {path}`.",
            )
        ]
    conflicts = [
        Conflict(
            f"{dovecot.folder}: protocol {protocol} {{ mail_plugins }}",
            " ".join(plugins),
            f"{path} would end {', '.join(sorted(set(plugins) - set(after[protocol])))} there: "
            f"set these for all protocols (mail_plugins = $mail_plugins ...), or before {DROP_IN}.",
        )
        for protocol, plugins in dovecot.mail_plugins.items()
        if set(plugins) - set(after[protocol])
    ]
    return conflicts + (_overridden(dovecot, now, parse(drop_in)) if now else [])


def _overridden(dovecot: Dovecot, now: Doveconf, ours: Doveconf) -> list[Conflict]:
    """Lists of 2.4 that a file behind our drop-in sets anew, so that ours is not in them."""
    missing = {name: ours.words(name) - now.words(name) for name in sorted(LISTS)}
    return [
        Conflict(
            f"{dovecot.folder}: {name}",
            " ".join(sorted(now.words(name))) or "empty",
            f"A file that is read after {DROP_IN} sets it anew: add {' '.join(sorted(words))}.",
        )
        for name, words in missing.items()
        if words
    ]


def _satisfied(name: str, theirs: str, ours: str) -> bool:
    if name in DEFAULTS:
        return True
    if name in LISTS:
        return set(ours.split()) <= set(theirs.split())
    return theirs.strip('"') == ours.strip('"')


def _rules(dovecot: Dovecot) -> dict[int, dict[str, str]]:
    """The administrator's imapsieve rules by their numbers."""
    rules: dict[int, dict[str, str]] = {}
    for name, value in dovecot.plugin.items():
        found = _RULE.match(name)
        if found:
            rules.setdefault(int(found[1]), {})[found[2]] = value
    return rules


def _other_rules(dovecot: Dovecot) -> Iterator[Conflict]:
    for number, rule in sorted(_rules(dovecot).items()):
        names = f"{rule.get('name', '')} {rule.get('from', '')}"
        if re.search(r"junk|spam|\*", names, re.IGNORECASE):
            said = " ".join(f"{key}={value}" for key, value in sorted(rule.items()))
            yield Conflict(
                f"{dovecot.folder}: plugin {{ imapsieve_mailbox{number}_* }}",
                said,
                "mailhooks learns what goes into Junk and out of it; this rule would learn it once "
                "more. Remove it (and close the gap in the numbers).",
            )


def _other_scripts(dovecot: Dovecot) -> Iterator[Conflict]:
    """Scripts of 2.4 that learn what ours learns."""
    for script in sieve_scripts(dovecot.root):
        is_rule = script.type != "personal" and (script.where != "*" or script.causes & LEARNT)
        if is_rule and re.search(r"junk|spam|\*", script.where, re.IGNORECASE):
            yield Conflict(
                f"{dovecot.folder}: sieve_script {script.name}",
                f"for {script.where}: {script.path}",
                "mailhooks learns what goes into Junk and out of it; this script would learn it "
                "once more. Remove it.",
            )


def _next_number(dovecot: Dovecot, pattern: re.Pattern[str]) -> int:
    # A numbered setting without its number is the first.
    numbers = [int(found[1] or 1) for found in map(pattern.match, dovecot.plugin) if found]
    return max(numbers, default=0) + 1


def _plugin(conf: Path) -> dict[str, str]:
    text = run("doveconf", "-c", str(conf), "plugin")
    found = {}
    for line in text.splitlines()[1:-1]:
        setting = _SETTING.match(line)
        if setting:
            found[setting[2]] = setting[3]
    return found


def _mail_plugins(conf: Path, protocol: str) -> tuple[str, ...]:
    text = run("doveconf", "-c", str(conf), "-f", f"protocol={protocol}", "-h", "mail_plugins")
    # 2.3: names in a row; 2.4: a boolean list, one `name = yes` a line.
    names = re.findall(r"^\s*(\w+) = yes", text, flags=re.MULTILINE) or text.split()
    return tuple(name for name in names if name not in ("{", "}"))


def _set(conf: Path) -> Doveconf:
    return parse(run("doveconf", "-c", str(conf), "-n"))


def _value(conf: Path, name: str) -> str:
    return run("doveconf", "-c", str(conf), "-h", name).strip()
