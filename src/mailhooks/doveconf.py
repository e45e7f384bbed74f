"""What ``doveconf`` prints, as a tree; the same for Dovecot 2.3 and 2.4. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION = re.compile(r"^# (?:v)?(\d[\w.]*)", re.MULTILINE)
_PIGEONHOLE = re.compile(r"^# Pigeonhole version (\S+)", re.MULTILINE)
_UNITS_S = {"": 1.0, "ms": 0.001, "msec": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0}


@dataclass(slots=True)
class Block:
    """A block in braces, or the whole file.

    Attributes:
        name: what stands before the brace, such as ``mailbox Junk``.
        values: its settings, unquoted.
        blocks: those inside, in order.
    """

    name: str = ""
    values: dict[str, str] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)

    def named(self, kind: str) -> Iterator[Block]:
        """The blocks whose name begins with a word."""
        return (block for block in self.blocks if block.name.split()[:1] == [kind])

    @property
    def title(self) -> str:
        """A block's name without its first word."""
        return self.name.partition(" ")[2].strip().strip('"')


@dataclass(frozen=True, slots=True)
class Doveconf:
    """A whole configuration; a version is empty if it was not printed."""

    root: Block
    version: str
    pigeonhole: str

    @property
    def is_new(self) -> bool:
        """Whether its settings have the names and forms of 2.4."""
        return generation(self.version) == "2.4"

    def setting(self, name: str, protocol: str = "") -> str:
        """A setting's value, of a protocol if it has its own; empty if it is not set.

        Dovecot 2.3 keeps those of plugins in a block ``plugin``, 2.4 beside all others.
        """
        for scope in self._scopes(protocol):
            if name in scope.values:
                return scope.values[name]
        return ""

    def words(self, name: str, protocol: str = "") -> frozenset[str]:
        """A setting that lists words, without the ``+`` some of them may have in front.

        Dovecot 2.4 writes such lists as blocks of ``word = yes`` as well.
        """
        found: set[str] = set()
        for scope in self._scopes(protocol):
            for block in scope.named(name):
                found |= {word for word, value in block.values.items() if value == "yes"}
            if name in scope.values:
                found |= set(re.split(r"[\s,]+", scope.values[name]))
            if found:
                break
        return frozenset(word.lstrip("+") for word in found if word.strip("+"))

    def _scopes(self, protocol: str) -> Iterator[Block]:
        for block in self.root.named("protocol"):
            if protocol and protocol in block.title.split():
                yield from block.named("plugin")
                yield block
        yield from self.root.named("plugin")
        yield self.root


@dataclass(frozen=True, slots=True)
class SieveScript:
    """A ``sieve_script`` of Dovecot 2.4.

    Attributes:
        name: of the block.
        type: when it runs, such as ``before``; a user's own is ``personal``.
        causes: what it runs for, in capitals; empty for the default.
        where: the mailbox whose block it stands in; ``*`` for none.
        path: of the script, or of a folder; as it is written.
    """

    name: str
    type: str
    causes: frozenset[str]
    where: str
    path: str


def sieve_scripts(root: Block, inside: str = "") -> Iterator[SieveScript]:
    """All that a configuration names, in order."""
    for block in root.blocks:
        if block.name.split()[:1] == ["sieve_script"]:
            value = {key.removeprefix("sieve_script_"): each for key, each in block.values.items()}
            causes = value.get("cause", "").upper().split()
            for listed in block.named("cause"):
                causes += [word.upper() for word, is_on in listed.values.items() if is_on == "yes"]
            yield SieveScript(
                name=block.title,
                type=value.get("type", "personal"),
                causes=frozenset(causes),
                where=inside or "*",
                path=value.get("path", ""),
            )
        else:
            of_mailbox = block.name.split()[:1] in (["mailbox"], ["imapsieve_from"])
            yield from sieve_scripts(block, block.title if of_mailbox else inside)


def generation(version: str) -> str:
    """How a Dovecot's configuration is written: ``2.3``, or ``2.4`` for that and all later ones.

    Args:
        version: as Dovecot tells it, such as ``2.3.19.1 (9b53102964)`` or ``2.4.1-4``.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    return "2.4" if found and (int(found[1]), int(found[2])) >= (2, 4) else "2.3"


def parse(text: str) -> Doveconf:
    """Read what ``doveconf`` printed; a line that is none of its own is left out."""
    version, pigeonhole = _VERSION.search(text), _PIGEONHOLE.search(text)
    root = Block()
    open_blocks = [root]
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line == "}":
            if len(open_blocks) > 1:
                open_blocks.pop()
            continue
        name, equals, value = line.partition("=")
        if line.endswith("{") and not equals:
            block = Block(line.removesuffix("{").strip())
            open_blocks[-1].blocks.append(block)
            open_blocks.append(block)
        elif equals:
            open_blocks[-1].values[name.strip()] = _unquoted(value.strip())
    return Doveconf(root, version[1] if version else "", pigeonhole[1] if pigeonhole else "")


def seconds(value: str) -> float | None:
    """A time span such as ``10s``, ``10 secs`` or ``1 mins``; None if it is none."""
    match = re.fullmatch(r"(\d+)\s*([a-z]*)", value.strip())
    if match is None:
        return None
    unit = match[2].removesuffix("s") if match[2] not in ("s", "ms") else match[2]
    return int(match[1]) * _UNITS_S[unit] if unit in _UNITS_S else None


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value
