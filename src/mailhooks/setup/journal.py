"""What was there before ``mailhooks setup`` came, so that it can be put back byte for byte.

For every path that setup touches, the journal keeps what was there before the
first touch (``origin``), what setup left (``left``), and, while a setup is
under way, what was there when it began (``begun``). It is written and synced
before anything changes, so that even a setup that was killed is undone later.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mailhooks.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER: Final = Path("/var/lib/mailhooks-setup")
"""Root's own: not below a folder of the service, whose user could rename it."""
VERSION: Final = 1

Kind = Literal["absent", "file", "link", "folder", "other"]


@dataclass(frozen=True, slots=True)
class State:
    """What is at a path; ``content`` is a link's target, or the digest of a file."""

    kind: Kind
    content: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0


ABSENT: Final = State("absent")


@dataclass(slots=True)
class Journal:
    """The journal of one host.

    Attributes:
        folder: where it is kept.
        origin: what was there before the first setup.
        left: what setup left there.
        begun: what was there when the setup under way began; empty without one.
        postfix: of settings in main.cf, what setup has set.
        user: the system user that setup made; empty if it was there.
    """

    folder: Path = FOLDER
    origin: dict[str, State] = field(default_factory=dict)
    left: dict[str, State] = field(default_factory=dict)
    begun: dict[str, State] = field(default_factory=dict)
    postfix: dict[str, str] = field(default_factory=dict)
    user: str = ""

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Journal:
        """The journal as it was last written; an empty one if there is none.

        Raises:
            SetupError: it cannot be read, or a newer mailhooks wrote it.
        """
        path = folder / "journal.json"
        try:
            tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(folder)
        except (OSError, ValueError) as error:
            raise SetupError(f"{path}: cannot be read: {error}") from error
        if tree.get("version") != VERSION:
            raise SetupError(f"{path}: written by another version of mailhooks; use that one")
        states = {
            name: {path: State(**state) for path, state in tree[name].items()}
            for name in ("origin", "left", "begun")
        }
        return cls(folder, postfix=tree["postfix"], user=tree["user"], **states)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be put back."""
        return not (self.origin or self.begun)

    def is_ours(self, path: Path) -> bool:
        """Whether a file is as setup has left it."""
        return str(path) in self.left and self.left[str(path)] == self.look(path)

    def made(self, path: Path) -> bool:
        """Whether a path was empty before setup came."""
        return self.origin.get(str(path)) == ABSENT

    def begin(self, paths: Iterable[Path]) -> None:
        """Keep what is there, before it changes."""
        for path in paths:
            self.begun[str(path)] = self.look(path, keep=True)
        self.write()

    def finish(self) -> None:
        """Everything is as it should be: what is there now is what setup left."""
        for name, state in self.begun.items():
            self.origin.setdefault(name, state)
            self.left[name] = self.look(Path(name))
        self.begun.clear()
        self.write()

    def roll_back(self) -> None:
        """Put back what was there when the setup under way began."""
        for name in sorted(self.begun, reverse=True):  # what lies in a folder before it
            self.put_back(Path(name), self.begun[name])
        self.begun.clear()
        self.write()

    def look(self, path: Path, *, keep: bool = False) -> State:
        """What is at a path now; ``keep`` keeps a file's content in the journal."""
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            return State("link", str(path.readlink()))
        if stat.S_ISDIR(status.st_mode):
            return State("folder", "", mode, status.st_uid, status.st_gid)
        if not stat.S_ISREG(status.st_mode):
            return State("other")
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if keep:
            self._make_folder()
            write_file(self.folder / "files" / digest, content, 0o600)
        return State("file", digest, mode, status.st_uid, status.st_gid)

    def put_back(self, path: Path, state: State) -> bool:
        """Have a path be as it was; False if a folder that should go still holds something."""
        now = self.look(path)
        if now == state:
            return True
        if now.kind == "folder" and state.kind == "absent":
            try:
                path.rmdir()
            except OSError:
                return False
        elif state.kind == "folder":
            path.mkdir(exist_ok=True)
            path.chmod(state.mode)
            os.chown(path, state.uid, state.gid)
        elif state.kind == "file":
            content = (self.folder / "files" / state.content).read_bytes()
            write_file(path, content, state.mode, state.uid, state.gid)
        else:
            path.unlink(missing_ok=True)
            if state.kind == "link":
                path.symlink_to(state.content)
        return True

    def keep_aside(self, path: Path) -> Path:
        """Move a file that somebody has changed out of the way; returns where it is now."""
        target = self.folder / "kept" / str(path).lstrip("/")
        self._make_folder()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
        return target

    def forget(self) -> None:
        """Remove the journal, all but the files that were kept aside."""
        shutil.rmtree(self.folder / "files", ignore_errors=True)
        (self.folder / "journal.json").unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def write(self) -> None:
        """Write it down."""
        self._make_folder()
        tree: dict[str, Any] = {"version": VERSION, "postfix": self.postfix, "user": self.user}
        for name in ("origin", "left", "begun"):
            states: dict[str, State] = getattr(self, name)
            tree[name] = {path: asdict(state) for path, state in states.items()}
        text = json.dumps(tree, indent=1) + "\n"
        write_file(self.folder / "journal.json", text.encode(), 0o600)

    def _make_folder(self) -> None:
        (self.folder / "files").mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)


def write_file(path: Path, content: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
    """A whole file or nothing, also after a power cut; never wider open than ``mode``."""
    temporary = path.with_name(f".{path.name}.mailhooks")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
