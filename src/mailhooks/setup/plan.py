"""What is to be changed on a host: files, links, folders, a user, and what stands in the way."""

from __future__ import annotations

import difflib
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that has to be there; one that is there keeps its mode.

    Attributes:
        path: where.
        mode: permission bits.
        owner: user and group; empty for root.
        holds_data: what others put there outlives a removal.
    """

    path: Path
    mode: int = 0o755
    owner: str = ""
    holds_data: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A file with its content.

    Attributes:
        path: where.
        content: all of it.
        mode: permission bits; None for those it has, or 0644.
        owner: its owner; empty for root.
        group: its group; empty for root's.
        secret: its content is shown to nobody.
    """

    path: Path
    content: bytes = field(repr=False)
    mode: int | None = None
    owner: str = ""
    group: str = ""
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    path: Path
    target: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something of the administrator's that would have to be overwritten.

    Attributes:
        where: file or setting.
        found: what is there.
        advice: what to do; may have several lines.
    """

    where: str
    found: str
    advice: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command; program and arguments."""

    argv: tuple[str, ...]

    def __str__(self) -> str:
        """As a person would type it."""
        return " ".join(self.argv)


@dataclass(slots=True)
class Plan:
    """Everything that ``mailhooks setup`` would do.

    Attributes:
        user: the system user to be made; empty if it is there.
        folders: parents before what lies in them.
        files: all that have to be there, whether they are already or not.
        made: files that the commands make, which a removal takes away.
        links: units to be started at boot.
        checks: the servers' own tests; one that fails undoes everything.
        commands: what makes the servers use the new files.
        conflicts: while there is one, nothing is done.
        notes: what the administrator should know.
        postfix: of settings in main.cf, what is ours.
        hidden: secrets within files, shown to nobody.
    """

    user: str = ""
    folders: list[Folder] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    made: list[Path] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    checks: list[Command] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    postfix: dict[str, str] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list, repr=False)

    def changed_files(self) -> list[File]:
        """Those of the files that are not as they have to be."""
        return [file for file in self.files if not _is_there(file)]

    def missing(self) -> list[Folder | Link]:
        """Folders and links that are not there."""
        return [
            *(folder for folder in self.folders if not _is_owned(folder)),
            *(link for link in self.links if _target(link.path) != link.target),
        ]

    @property
    def is_empty(self) -> bool:
        """Whether everything is as it has to be."""
        made = all(path.exists() for path in self.made)
        return made and not (self.user or self.changed_files() or self.missing())


def show(plan: Plan) -> Iterator[str]:
    """The plan for a person to read: what is made, a diff for each file, commands."""
    if plan.user:
        yield f"make the system user {plan.user}"
    for each in plan.missing():
        if isinstance(each, Folder):
            owner = each.owner or "root"
            verb = "give" if each.path.is_dir() else "make"
            yield f"{verb} the folder {each.path} (mode {each.mode:04o}, of {owner})"
        else:
            yield f"make the link {each.path} -> {each.target}"
    for file in plan.changed_files():
        shown = "\n".join(diff(file))
        for secret in plan.hidden:
            shown = shown.replace(secret, "(a secret)")
        yield shown
    for command in (*plan.checks, *plan.commands):
        yield f"run {command}"


def diff(file: File) -> Iterator[str]:
    """How a file would change, as a unified diff, with its mode if that is no common one."""
    exists = file.path.exists()
    mode = f" (mode {file.mode:04o})" if file.mode not in (None, 0o644) else ""
    yield f"{'change' if exists else 'make'} the file {file.path}{mode}"
    if file.secret:
        yield "    (a secret, not shown)"
        return
    before = file.path.read_text(encoding="utf-8", errors="replace") if exists else ""
    lines = difflib.unified_diff(
        before.splitlines(),
        file.content.decode("utf-8", errors="replace").splitlines(),
        str(file.path) if exists else "/dev/null",
        str(file.path),
        lineterm="",
    )
    yield from (f"    {line}" for line in lines)


def _is_there(file: File) -> bool:
    try:
        status = file.path.stat()
        same = file.path.read_bytes() == file.content
    except OSError:
        return False
    return same and file.mode in (None, stat.S_IMODE(status.st_mode))


def _is_owned(folder: Folder) -> bool:
    try:
        return folder.path.is_dir() and folder.owner in ("", folder.path.owner())
    except KeyError:  # of a user who is no more
        return False


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
