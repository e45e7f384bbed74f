"""Mail given by hand: one file, a folder, a Maildir, an mbox, an archive or standard input.

Everything is read as a stream, so memory holds one message at a time however
large the source. A message is handed out exactly as stored; only what belongs
to the container is taken away: compression, an mbox's "From " line, the empty
line that closes a message there, and its ``>From `` escapes.

What cannot be read does not keep the rest from being read: the readable
messages come first, then one `SourceError` names every file that failed and why.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import sys
import tarfile
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Literal, Self, cast

from mailhooks.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SourceKind = Literal["file", "folder", "maildir", "mbox", "tar"]
"""What a path turned out to be; compression makes no difference."""

_HEAD_BYTES = 512  # one tar block: enough for every signature below
_TAR_MAGIC_OFFSET = 257  # POSIX.1-1988 ustar header
_TAR_NAME = re.compile(r"\.(?:tar(?:\.(?:gz|bz2|xz))?|tgz|tbz2?|txz)$", re.IGNORECASE)
_CHUNK_BYTES = 1 << 16
_REPORTED_PROBLEMS = 5
_RENAMES_FOLLOWED = 3

_GZIP, _BZIP2, _XZ = "gzip", "bzip2", "xz"
_COMPRESSION_BY_SUFFIX = {
    ".gz": _GZIP,
    ".tgz": _GZIP,
    ".bz2": _BZIP2,
    ".tbz2": _BZIP2,
    ".tbz": _BZIP2,
    ".xz": _XZ,
    ".txz": _XZ,
}
# Long enough that the first bytes of a message cannot be taken for them: the
# signatures of RFC 1952, of bzip2 blocks (data and end of stream) and of .xz.
_COMPRESSION_BY_MAGIC = (
    (re.compile(rb"\x1f\x8b\x08"), _GZIP),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), _BZIP2),
    (re.compile(rb"\xfd7zXZ\x00"), _XZ),
)
_READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)

# "From : somebody" is a header in the obsolete syntax of RFC 5322, 4.5.
_MBOX_START = re.compile(rb"(?:\r?\n)*From (?![ \t]*:)")
_FROM_LINE_TIME = re.compile(rb"From .*\d:\d\d")
_FROM_LINE_YEAR = re.compile(rb"From .*\b(?:19|20)\d\d\b")
_HEADER_LINE = re.compile(rb"[!-9;-~]+[ \t]*:|>From ")
_ESCAPED_FROM = re.compile(rb">+From ")
_MAILDIR_FOLDERS = ("cur", "new")
_MAILDIR_BOOKKEEPING = frozenset({"maildirfolder", "maildirsize", "subscriptions"})
_MAILDIR_NAME = re.compile(r"\d{9,}\.")  # seconds since 1970, then what makes it unique


@dataclass(frozen=True, slots=True)
class FoundMessage:
    """One message of a source.

    Attributes:
        name: unique within the source and the same on the next run, so that work can be
            resumed: the file's path; ``path#12`` for the twelfth message of an mbox;
            ``path#12:member`` inside an archive. In a Maildir it leaves out what a mail
            client changes, ``cur`` or ``new`` and the flags.
        raw: the message as stored, line endings and all.
    """

    name: str
    raw: bytes


def kind_of(path: Path) -> SourceKind:
    """Tell what a path holds, by looking inside rather than by trusting its name.

    Args:
        path: a file or directory.

    Raises:
        SourceError: it is missing, cannot be read or is an empty file.
    """
    with _explained(path):
        if path.is_dir():
            return "maildir" if _is_maildir(path) or _is_maildir_part(path) else "folder"
        with path.open("rb") as stored:
            kind, _ = _recognised(stored, path.name)
    if kind is None:
        raise SourceError(f"{_shown(path)}: the file is empty")
    return kind


def iter_messages(
    path: Path | Literal["-"], *, stdin: BinaryIO | None = None
) -> Iterator[FoundMessage]:
    """Hand out every message of a source, one at a time and always in the same order.

    Folders are searched recursively; dotfiles, Dovecot's own files and a Maildir's ``tmp``
    are left out, empty files passed over.

    Args:
        path: a file or directory, or ``-`` for standard input. A file of that name is
            reached by its absolute path.
        stdin: read instead of the process's standard input.

    Yields:
        The messages, as stored.

    Raises:
        SourceError: on the first step if there is nothing to read; after the last readable
            message if some part could not be read.
    """
    found = 0
    for message in _messages(path, stdin):
        found += 1
        yield message
    if not found:
        raise SourceError(f"{_shown(path)}: no message in it")


def _messages(path: Path | Literal["-"], stdin: BinaryIO | None) -> Iterator[FoundMessage]:
    if str(path) == "-":
        yield from _from_stored(stdin or sys.stdin.buffer, "standard input", "-", "")
        return
    path = Path(path)
    with _explained(path):
        is_directory = stat.S_ISDIR(path.stat().st_mode)
    if is_directory:
        yield from _from_directory(path)
        return
    with _explained(path), path.open("rb") as stored:
        yield from _from_stored(stored, _shown(path), _shown(path), path.name)


def _from_directory(top: Path) -> Iterator[FoundMessage]:
    problems: list[str] = []
    for file, lasting_name in _files(top, problems):
        with _collected(problems, file):
            stored = file.open("rb") if lasting_name is None else _open_in_maildir(file)
            if stored is None:
                continue
            with stored:
                # Suffixes mean nothing in a Maildir: names end in a host's name there.
                yield from _from_stored(
                    stored,
                    _shown(file),
                    lasting_name or _shown(file),
                    file.name if lasting_name is None else "",
                    may_be_empty=True,
                )
    _complain(problems)


def _from_stored(
    stored: IO[bytes], where: str, name: str, file_name: str, *, may_be_empty: bool = False
) -> Iterator[FoundMessage]:
    """Read one open file of any kind.

    Args:
        stored: the file, at its beginning.
        where: what errors call it.
        name: what its messages are called.
        file_name: its name, if the suffix means anything.
        may_be_empty: pass over an empty file instead of raising.
    """
    with _explained(where):
        kind, content = _recognised(stored, file_name)
        if kind == "tar":
            yield from _from_tar(content, where, name)
        elif kind is not None:
            yield from _from_content(kind, content, name)
        elif not may_be_empty:
            raise SourceError(f"{where}: the file is empty")


def _from_content(kind: SourceKind, content: IO[bytes], name: str) -> Iterator[FoundMessage]:
    if kind == "mbox":
        for number, raw in enumerate(_split_mbox(content), start=1):
            if raw.strip() and not _is_folder_data(raw):
                yield FoundMessage(f"{name}#{number}", raw)
        return
    raw = content.read()
    if raw.strip():
        yield FoundMessage(name, raw)


# --- archives ------------------------------------------------------------------------


def _from_tar(content: IO[bytes], where: str, name: str) -> Iterator[FoundMessage]:
    problems: list[str] = []
    number = 0
    with (
        _collected(problems, where),
        tarfile.open(fileobj=content, mode="r|", tarinfo=_StrictMember) as archive,
    ):
        while (member := archive.next()) is not None:
            # TarFile keeps every member it has seen, to be able to go back; in
            # a stream of a million messages that is a leak.
            archive.members.clear()  # type: ignore[attr-defined]
            # A hard link, as Dovecot makes of copies, repeats a message already handed out.
            packed = archive.extractfile(member) if member.isreg() else None
            if packed is None or not _is_mail_member(member.name):
                continue
            number += 1
            label = f"#{number}:{_shown(member.name)}"
            with _collected(problems, where + label):
                kind, inner = _recognised(packed, member.name)
                if kind == "tar":
                    problems.append(f"{where}{label}: an archive within the archive")
                elif kind is not None:
                    yield from _from_content(kind, inner, name + label)
        # To the end, so that the checksum of a compressed archive is verified.
        while content.read(_CHUNK_BYTES):
            pass
    _complain(problems)


def _is_mail_member(name: str) -> bool:
    """Apply the rules of directories to a path in an archive, where nothing can be looked up."""
    *folders, file = name.split("/")
    if file.startswith((".", "dovecot")) or file in _MAILDIR_BOOKKEEPING:
        return False
    folder = folders[-1] if folders else ""
    if folder == "tmp" and _MAILDIR_NAME.match(file):
        return False
    hidden = any(part.startswith(".") and part not in {".", ".."} for part in folders)
    return not hidden or folder in _MAILDIR_FOLDERS  # as in Maildir++: .Junk/cur/...


class _StrictMember(tarfile.TarInfo):
    """A tar member whose damaged header is an error; tarfile takes it for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # the end; tarfile wants to see it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged or cut off: {error}") from error


# --- directories ---------------------------------------------------------------------


def _files(top: Path, problems: list[str]) -> Iterator[tuple[Path, str | None]]:
    """Walk a directory in a stable order.

    Yields:
        Each file that may be mail, with its lasting name if it lies in a Maildir.
    """
    if _is_maildir_part(top):
        yield from _maildir_files(top.parent, [top.name], problems)
        return
    seen: set[tuple[int, int]] = set()
    # The flag says whether files count as messages: those beside a Maildir's
    # cur and new are the mail server's bookkeeping.
    pending = [(top, True)]
    while pending:
        directory, loose = pending.pop()
        with _collected(problems, directory):
            status = directory.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link back to a folder that contains it
            seen.add((status.st_dev, status.st_ino))
            if _is_maildir(directory):
                loose = False
                yield from _maildir_files(directory, _MAILDIR_FOLDERS, problems)
            folders, files = _entries(directory, problems)
            if loose:
                yield from ((file, None) for file in files)
            pending.extend((folder, loose) for folder in reversed(folders))


def _entries(directory: Path, problems: list[str]) -> tuple[list[Path], list[Path]]:
    """List the sub-folders to search and the files that may be messages."""
    folders: list[Path] = []
    files: list[Path] = []
    maildir = _is_maildir(directory)
    for path in sorted(directory.iterdir()):
        with _collected(problems, path):
            if path.is_dir():
                part_of_maildir = maildir and path.name in {*_MAILDIR_FOLDERS, "tmp"}
                # The one hidden folder that is wanted is a Maildir++ folder.
                hidden = path.name.startswith(".") and not _is_maildir(path)
                if not part_of_maildir and not hidden:
                    folders.append(path)
            # Anything else might be a FIFO or a device, to be read for ever.
            elif not path.name.startswith(".") and stat.S_ISREG(path.stat().st_mode):
                files.append(path)
    return folders, files


def _is_maildir(directory: Path) -> bool:
    return all((directory / part).is_dir() for part in _MAILDIR_FOLDERS)


def _is_maildir_part(directory: Path) -> bool:
    return directory.name in _MAILDIR_FOLDERS and _is_maildir(directory.parent)


def _maildir_files(
    maildir: Path, parts: Sequence[str], problems: list[str]
) -> Iterator[tuple[Path, str]]:
    names: list[tuple[str, str]] = []
    for part in parts:
        with _collected(problems, maildir / part):
            # Strings, for a mailbox may hold hundreds of thousands.
            names += [(name, part) for name in os.listdir(maildir / part)]  # noqa: PTH208
    for name, part in sorted(names):
        if not name.startswith((".", "dovecot")):
            yield maildir / part / name, _shown(maildir / _unique_part(name))


def _open_in_maildir(file: Path) -> BinaryIO | None:
    """Open a message that its owner's mail client may be renaming.

    Returns:
        The open file, None if the message has gone from the folder.
    """
    current: Path | None = file
    for _ in range(_RENAMES_FOLLOWED):
        if current is None:
            break
        with suppress(FileNotFoundError):
            return current.open("rb")
        unique = _unique_part(file.name)
        cur = file.parent.parent / "cur"
        current = next((path for path in cur.iterdir() if _unique_part(path.name) == unique), None)
    return None


def _unique_part(name: str) -> str:
    return name.partition(":2,")[0]


# --- mbox ----------------------------------------------------------------------------


def _split_mbox(lines: IO[bytes]) -> Iterator[bytes]:
    """Split an mbox, and take one ``>`` off each escaped line as mboxrd asks for."""
    while (line := lines.readline()) and not line.startswith(b"From "):
        pass  # empty lines before the first message
    message = bytearray()
    empty_bytes = 0  # the size of the line before, if that was an empty one
    line = lines.readline()
    while line:
        following = lines.readline()
        if empty_bytes and _separates(line, following):
            yield bytes(message[:-empty_bytes])
            message.clear()
            empty_bytes = 0
        else:
            message += line[1:] if _ESCAPED_FROM.match(line) else line
            empty_bytes = len(line) if line in {b"\n", b"\r\n"} else 0
        line = following
    yield bytes(message[:-empty_bytes] if empty_bytes else message)


def _separates(line: bytes, following: bytes) -> bool:
    """Tell a separator from a paragraph that begins with "From", left unescaped by its writer.

    A separator carries a date; where it does not, headers have to follow.
    """
    if not line.startswith(b"From "):
        return False
    dated = _FROM_LINE_TIME.match(line) and _FROM_LINE_YEAR.match(line)
    return bool(dated or _HEADER_LINE.match(following))


def _is_folder_data(raw: bytes) -> bool:
    """Recognise the first entry of mboxes written by UW-IMAP and Alpine, which is no mail."""
    head = raw[:2048]
    return b"\nX-IMAP: " in head and b"FOLDER INTERNAL DATA" in head


# --- compression and recognition -----------------------------------------------------


def _recognised(stored: IO[bytes], file_name: str) -> tuple[SourceKind | None, IO[bytes]]:
    """Look at the beginning of a stream.

    Args:
        stored: an open file; pipes will do, nothing is sought.
        file_name: the file's name, if its suffix means anything.

    Returns:
        What it holds, None if nothing, and its content from the start, uncompressed.
    """
    head, content = _peeked(stored)
    if not head:
        return None, content
    compression = next(
        (name for magic, name in _COMPRESSION_BY_MAGIC if magic.match(head)),
        _COMPRESSION_BY_SUFFIX.get(Path(file_name).suffix.lower()),
    )
    if compression is not None:
        head, content = _peeked(_uncompressed(content, compression))
        if not head:
            return None, content
    if head[_TAR_MAGIC_OFFSET:].startswith(b"ustar") or _TAR_NAME.search(file_name):
        return "tar", content
    return ("mbox" if _MBOX_START.match(head) else "file"), content


def _uncompressed(stored: IO[bytes], compression: str) -> IO[bytes]:
    if compression == _GZIP:
        return cast("IO[bytes]", gzip.GzipFile(fileobj=stored))
    if compression == _BZIP2:
        return bz2.BZ2File(stored)
    return lzma.LZMAFile(stored)


def _peeked(stored: IO[bytes]) -> tuple[bytes, IO[bytes]]:
    head = stored.read(_HEAD_BYTES)
    return head, io.BufferedReader(_Rejoined(head, stored))


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes have been read already, as if they had not."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        super().__init__()
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        size = len(buffer)
        if self._head:
            chunk, self._head = self._head[:size], self._head[size:]
        else:
            chunk = self._rest.read(size)
        buffer[: len(chunk)] = chunk
        return len(chunk)


# --- errors --------------------------------------------------------------------------


@contextmanager
def _explained(where: Path | str) -> Iterator[None]:
    """Turn whatever reading raises into a SourceError that names the file."""
    try:
        yield
    except _READ_ERRORS as error:
        raise SourceError(_explanation(where, error)) from error


@contextmanager
def _collected(problems: list[str], where: Path | str) -> Iterator[None]:
    """Note what cannot be read, and go on."""
    try:
        with _explained(where):
            yield
    except SourceError as error:
        problems.append(str(error))


def _complain(problems: list[str]) -> None:
    if problems:
        more = len(problems) - _REPORTED_PROBLEMS
        lines = problems[:_REPORTED_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        raise SourceError("\n".join(lines))


def _explanation(where: Path | str, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{_shown(where)}: does not exist"
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{_shown(where)}: cannot be read: {reason or type(error).__name__}"


def _shown(where: Path | str) -> str:
    r"""Write a path so that any terminal takes it: bytes that are not UTF-8 become ``\xNN``."""
    return os.fsencode(where).decode("utf-8", "backslashreplace")
