"""Samples waiting to be learned: a folder of plain files that survives kill -9 and reboot.

::

    spool/tmp/      being written; what is left here after a crash was never promised
    spool/new/      durable; a file's name sorts by the time it arrived
    spool/bad/      set aside, each with the reason in its first line
    spool/spare/    empty files of learned samples, for the next ones
    spool/journal/  what a power cut could take from new/, for some seconds

A file is one line of JSON (who, what, when), an empty line, and the message
as Dovecot sent it. It is written to tmp/, synced, renamed into new/ and the
folder synced; only then does anybody hear that it is safe. Folders are 0700
and files 0600, since samples are private mail. (Maildir's protocol,
https://cr.yp.to/proto/maildir.html, with the syncs spelled out.)

A process that takes many samples keeps a journal (:mod:`mailhooks.journal`):
then one sync, of the journal, replaces the other two.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from mailhooks.errors import SpoolError
from mailhooks.journal import SEGMENT_BYTES, Journal
from mailhooks.lesson import Lesson

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

MAX_LABEL_BYTES = 64 * 1024
UNFINISHED_S = 3600.0
"""A temporary file this old belongs to a process that died."""
SPARE_FILES = 1024
"""Empty files that are kept at most: as many as somebody may move at once."""

_counter = itertools.count()


class Label(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who is to learn what: the first line of a spool file.

    Attributes:
        user: the Dovecot user whose statistics are meant.
        lesson: ``spam`` or ``ham``.
        digest: of the message's content; the same message moved twice has one.
        origin: what made the sample: ``move``, ``append``, ``keyword`` or ``delivery``.
        received: seconds since the epoch.
        reason: why the sample was set aside; empty otherwise.
        size_bytes: of the message, so that a file that a power cut has cut off is known;
            0 for unknown.
    """

    user: str
    lesson: Lesson
    digest: str
    origin: str
    received: float
    reason: str = ""
    size_bytes: int = 0


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A durable sample, its message still on disk."""

    name: str
    label: Label


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file in bad/; one that is no sample has no label."""

    name: str
    label: Label | None


class Spool:
    """One folder of samples; all methods block, so call them in a thread.

    Args:
        folder: created with its sub-folders when :meth:`prepare` is called.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tmp = folder / "tmp"
        self._new = folder / "new"
        self._bad = folder / "bad"
        self._spare = folder / "spare"
        self._journal: Journal | None = None
        # An empty file in tmp/ or spare/, opened for the next sample.
        self._ready: list[tuple[int, str]] = []
        # Only who has the journal uses spare/, or two might take one file.
        self._spares: list[str] = []

    def prepare(self) -> None:
        """Create the folders where they are missing.

        Raises:
            SpoolError: a folder cannot be created or is not ours.
        """
        try:
            for folder in (self.folder, self._tmp, self._new, self._bad, self._spare):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise _failed("cannot be prepared", self.folder, error) from error

    def clean(self, *, older_than_s: float = UNFINISHED_S) -> None:
        """Drop half-written files of processes that died; nobody was promised anything of them.

        Args:
            older_than_s: younger ones may be being written just now.

        Raises:
            SpoolError: the folder cannot be read.
        """
        try:
            for leftover in self._tmp.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - leftover.stat().st_mtime >= older_than_s:
                        leftover.unlink()
        except OSError as error:
            raise _failed("cannot be cleaned", self._tmp, error) from error

    def put(self, label: Label, message: bytes) -> Entry:
        """Make a sample durable: when this returns, it survives a power cut.

        Raises:
            SpoolError: it could not (disk full, folder missing); nothing is left behind.
        """
        name = f"{time.time_ns():020d}.{os.getpid()}.{next(_counter)}"
        journal = self._journal
        try:
            content = _content(label, message)
            if journal is None:
                self._write(name, content, is_synced=True)
                return Entry(name, label)
            try:
                if not journal.keep(name, content, lambda: self._write(name, content)):
                    self._make_durable([name])
            except BaseException:
                (self._new / name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _failed("cannot take a sample", self.folder, error) from error
        return Entry(name, label)

    def keep_journal(self, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Take samples by way of a journal from now on; restores what a power cut took.

        Again: sync by themselves the samples that came since, and erase them from the journal.

        Args:
            segment_bytes: of the journal; it takes twice that on disk.

        Raises:
            SpoolError: no room for it, another process has it, or the disk failed: then each sample
                is synced by itself.
        """
        try:
            if self._journal is None:
                folder = self.folder / "journal"
                self._journal = Journal(
                    folder, self._restore, self._make_durable, size_bytes=segment_bytes
                )
                self._find_spares()
            else:
                self._journal.checkpoint()
        except OSError as error:
            raise _failed("cannot keep its journal", self.folder, error) from error

    def close(self) -> None:
        """Sync what came lately and leave nothing in the journal; harmless to repeat.

        Raises:
            SpoolError: that failed; the journal still has it.
        """
        self._spares.clear()  # the files stay for the next start
        while self._ready:
            descriptor, path = self._ready.pop()
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
        journal, self._journal = self._journal, None
        if journal is not None:
            try:
                journal.close()
            except OSError as error:
                raise _failed("cannot close its journal", self.folder, error) from error

    def _write(self, name: str, content: bytes, *, is_synced: bool = False) -> None:
        """Put a file into new/; nothing is left behind if that fails."""
        descriptor, temporary = self._opened()
        try:
            try:
                written = 0
                while written < len(content):
                    written += os.write(descriptor, content[written:] if written else content)
                if is_synced:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(temporary, self._at(name))  # noqa: PTH104 - once for every sample
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        if is_synced:
            _sync_folder(self._new)

    def _opened(self) -> tuple[int, str]:
        """An empty file in tmp/ or spare/: the one that is ready, or another."""
        with suppress(IndexError):  # none there, or another thread was quicker
            descriptor, path = self._ready.pop()
            if os.fstat(descriptor).st_nlink:
                return descriptor, path
            os.close(descriptor)  # it was tidied away, as clean() does when no sample came for long
        return self._created()

    def make_ready(self) -> None:
        """Have a file ready for the next sample, while nobody waits for it."""
        if not self._ready:
            with suppress(OSError):  # said when it is needed
                self._ready.append(self._created())

    def _created(self) -> tuple[int, str]:
        while self._spares:
            # Another thread may be quicker, and somebody may tidy the folder up.
            with suppress(IndexError, OSError):
                path = self._spares.pop()
                return os.open(path, os.O_WRONLY | os.O_CLOEXEC), path
        path = f"{self._tmp}/{time.time_ns():020d}.{os.getpid()}.{next(_counter)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(path, flags, 0o600), path

    def _find_spares(self) -> None:
        """See what an earlier process left in spare/."""
        with suppress(OSError), os.scandir(self._spare) as found:
            for file in found:
                # One with content was about to be emptied, or was being written, in a crash.
                if file.stat().st_size or len(self._spares) >= SPARE_FILES:
                    os.unlink(file)  # noqa: PTH108
                else:
                    self._spares.append(file.path)

    def _recycle(self, name: str) -> None:
        """Empty the file of a sample, and keep it for another one.

        To find an inode for a new file takes twenty times as long as all the rest where many
        files were removed within the last minutes (``recently_deleted`` in Linux'
        ``fs/ext4/ialloc.c``), as they are here.

        Raises:
            OSError: it is still there, or has other names, too.
        """
        spare = f"{self._spare}/{name}"
        descriptor = os.open(self._at(name), os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_nlink != 1:
                raise OSError(errno.EMLINK, "somebody keeps a link to it")
            os.rename(self._at(name), spare)  # noqa: PTH104 - once for every sample
            try:
                os.ftruncate(descriptor, 0)
            except BaseException:
                os.unlink(spare)  # noqa: PTH108
                raise
        finally:
            os.close(descriptor)
        self._spares.append(spare)

    def _make_durable(self, names: list[str]) -> None:
        """Sync files of new/ that are still there."""
        if len(names) > 1:
            # Each sync of a file whose blocks are still to be found writes the file system's own
            # journal; with all of them found before, one does for many.
            for name in names:
                with suppress(OSError):  # the sync tells what matters
                    _begin_writing(self._at(name))
        for name in names:
            with suppress(FileNotFoundError):
                _sync_file(self._at(name))
        if names:
            _sync_folder(self._new)

    def _restore(self, name: str, content: bytes) -> None:
        """Have a file in new/ as it was before a power cut."""
        with suppress(FileNotFoundError):
            if self._bytes_of(name) == content:
                self._make_durable([name])
                return
        self._write(name, content, is_synced=True)

    def entries(self, known: Collection[str] = ()) -> Iterator[Entry]:
        """The samples in new/, oldest first; a file that is none of ours goes to bad/.

        Args:
            known: names that are not read again.

        Raises:
            SpoolError: the folder cannot be read.
        """
        try:
            found = os.listdir(self._new)  # noqa: PTH208 - see _at
            names = sorted(set(found).difference(known))
        except OSError as error:
            raise _failed("cannot be read", self._new, error) from error
        for name in names:
            try:
                with open(self._at(name), "rb") as file:  # noqa: PTH123
                    line = file.readline(MAX_LABEL_BYTES)
                    size_bytes = os.fstat(file.fileno()).st_size - len(line) - 1
                if not line:
                    # A power cut came while it was taken, so nobody was promised anything.
                    (self._new / name).unlink(missing_ok=True)
                    continue
                label = msgspec.json.decode(line, type=Label)
                self._see_that_it_stayed(name)
            except FileNotFoundError:
                continue  # learned meanwhile
            except msgspec.DecodeError as error:
                self._set_aside_unreadable(name, str(error))
                continue
            except OSError as error:
                raise _failed("cannot be read", self._new / name, error) from error
            if label.size_bytes and label.size_bytes != size_bytes:
                self._set_aside_unreadable(name, "cut off by a power cut")
                continue
            yield Entry(name, label)

    def message(self, entry: Entry) -> bytes | None:
        """The message of a sample, byte for byte as it came; None if it is there no more.

        Raises:
            SpoolError: the file cannot be read.
        """
        try:
            content = self._bytes_of(entry.name)
            self._see_that_it_stayed(entry.name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed("cannot be read", self._new / entry.name, error) from error
        return content.partition(b"\n\n")[2]

    def remove(self, entry: Entry) -> None:
        """Forget a sample that has been learned or needs no learning.

        A crash before the removal reaches the disk makes it learned again,
        which Rspamd answers with "already learned": no harm, so no sync.

        Raises:
            SpoolError: the file cannot be removed.
        """
        if self._journal is not None and len(self._spares) < SPARE_FILES:
            with suppress(OSError):
                self._recycle(entry.name)
                return
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._at(entry.name))  # noqa: PTH108
        except OSError as error:
            raise _failed("cannot be removed", self._new / entry.name, error) from error

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Move a sample that cannot be learned to bad/, its reason written into it.

        Raises:
            SpoolError: it cannot be moved.
        """
        label = msgspec.structs.replace(entry.label, reason=reason)
        message = self.message(entry)
        if message is None:
            return
        try:
            temporary = self._tmp / entry.name
            temporary.write_bytes(_content(label, message))
            temporary.chmod(0o600)
            _sync_file(temporary)
            temporary.rename(self._bad / entry.name)
        except OSError as error:
            raise _failed("cannot be set aside", self._new / entry.name, error) from error
        self.remove(entry)

    def all_set_aside(self) -> Iterator[SetAside]:
        """The files in bad/, oldest first.

        Raises:
            SpoolError: the folder cannot be read.
        """
        try:
            for path in sorted(self._bad.iterdir()):
                with suppress(FileNotFoundError), path.open("rb") as file:
                    yield SetAside(path.name, _label(file.readline(MAX_LABEL_BYTES)))
        except OSError as error:
            raise _failed("cannot be read", self._bad, error) from error

    def read(self, name: str) -> bytes:
        """A file of new/ or bad/ as it is; SpoolError if it is not there or cannot be read."""
        path = self._named(name)
        try:
            content = path.read_bytes()
            path.stat()  # it may be another sample's by now
            return content
        except OSError as error:
            raise _failed("cannot be read", path, error) from error

    def retry(self, name: str) -> str:
        """Have a sample tried again; returns its fresh name.

        Under the old one, by which the ledger counts attempts, it would be set aside
        again. The fresh one sorts by the time of arrival too: the last sample wins.

        Raises:
            SpoolError: there is no such sample, or it cannot be moved.
        """
        path = self._named(name)
        if _label(self.read(name).partition(b"\n")[0]) is None:
            raise SpoolError(f"spool: {name} is no sample that could be learned")
        fresh = f"{name.partition('.')[0]}.{os.getpid()}.{time.time_ns()}"
        try:
            _sync_file(path)  # the journal, if there is one, knows it by its old name
            path.rename(self._new / fresh)
            _sync_folder(self._new)
        except OSError as error:
            raise _failed("cannot be tried again", path, error) from error
        return fresh

    def drop(self, name: str) -> None:
        """Remove a file of new/ or bad/ for good; SpoolError if it is not there or stays."""
        path = self._named(name)
        try:
            path.unlink()
        except OSError as error:
            raise _failed("cannot be dropped", path, error) from error

    def _at(self, name: str) -> str:
        """Where a sample is.

        A ``Path`` would enter each name into the interpreter's table of strings that are kept
        once (``sys.intern``), which becomes a megabyte larger by it.
        """
        return f"{self._new}/{name}"

    def _bytes_of(self, name: str) -> bytes:
        with open(self._at(name), "rb") as file:  # noqa: PTH123
            return file.read()

    def _named(self, name: str) -> Path:
        if name and "/" not in name and name not in (".", ".."):
            for folder in (self._new, self._bad):
                if (folder / name).is_file():
                    return folder / name
        raise SpoolError(f"spool {self.folder}: no sample {name!r}")

    def _see_that_it_stayed(self, name: str) -> None:
        """After reading: a file that was recycled meanwhile may have held another sample.

        Raises:
            FileNotFoundError: it was; no name comes twice.
        """
        os.stat(self._at(name))  # noqa: PTH116

    def _set_aside_unreadable(self, name: str, reason: str) -> None:
        try:
            (self._new / name).rename(self._bad / f"{name}.unreadable")
        except FileNotFoundError:
            return  # learned meanwhile, and recycled while it was read
        except OSError as error:
            raise _failed(f"cannot be set aside ({reason})", self._new / name, error) from error


def _content(label: Label, message: bytes) -> bytes:
    return b"%b\n\n%b" % (msgspec.json.encode(label), message)


def _label(line: bytes) -> Label | None:
    try:
        return msgspec.json.decode(line, type=Label)
    except msgspec.DecodeError:
        return None


def _sync_file(path: Path | str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _begin_writing(path: str) -> None:
    """Have the kernel begin to write a file, without waiting (``__filemap_fdatawrite_range``)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(what: str, path: Path, error: OSError) -> SpoolError:
    return SpoolError(f"spool {path} {what}: {error.strerror or error}")
