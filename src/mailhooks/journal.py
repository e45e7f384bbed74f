"""A journal for power cuts: one sync makes a file durable that is not synced itself yet.

A new file needs two syncs, of itself and of its folder, each of which makes the
file system write its own journal. Overwriting blocks that a file has already
needs one, which writes nothing else: a quarter of the time. So a new file is
written without any sync, and its name and content once more into a segment, a
file of fixed size full of zeros: first there, so that the disk is at work while
the file is made. Readers of the folder see the file at once,
and kill -9 takes nothing away, since the kernel has it. Only a power cut or a
crash of the kernel can lose the file, and then the segment still has it.

Every few seconds the segments change places, the files of the one that rests
are synced, and it is filled with zeros again: nothing of a file stays behind
once the file is gone.

A record is a head (what begins here, when the kernel was booted, sizes, CRC),
the file's name and its content, filled up to whole blocks. What was cut off in
the middle does not fit its CRC and was promised to nobody; nor was what follows,
since a sync covers all that was written before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""A thousand messages of usual size, and more than one IMAP client moves in a second."""

BLOCK_BYTES: Final = 4096
_MAGIC: Final = b"mhjournl"
_HEAD: Final = struct.Struct(">8s16sIII")  # magic, boot, bytes of name and content, CRC
_ZEROS: Final = bytes(1024 * 1024)
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class _Segment:
    """One file of fixed size; what it holds is appended, and erased as a whole.

    Attributes:
        names: of the files it holds.
        end: bytes in use.
        unwritten: files it holds that are only being made.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._is_new = os.fstat(self._descriptor).st_size != size_bytes
        self.names: list[str] = []
        self.end = 0
        self.unwritten = 0

    def close(self) -> None:
        os.close(self._descriptor)

    def records(self) -> Iterator[tuple[bytes, str, bytes]]:
        """Boot, name and content of every record up to the first that is torn."""
        offset = 0
        while head := os.pread(self._descriptor, _HEAD.size, offset):
            if len(head) < _HEAD.size:
                return
            magic, boot, name_bytes, content_bytes, crc = _HEAD.unpack(head)
            size_bytes = name_bytes + content_bytes
            if magic != _MAGIC or offset + _HEAD.size + size_bytes > self._size_bytes:
                return
            body = os.pread(self._descriptor, size_bytes, offset + _HEAD.size)
            if len(body) < size_bytes or zlib.crc32(body, zlib.crc32(head[:-4])) != crc:
                return
            yield boot, os.fsdecode(body[:name_bytes]), body[name_bytes:]
            offset += _whole_blocks(_HEAD.size + size_bytes)

    def has_room(self, size_bytes: int) -> bool:
        return self.end + size_bytes <= self._size_bytes

    def append(self, name: str, record: bytes) -> None:
        os.pwrite(self._descriptor, record, self.end)
        self.end += len(record)
        self.names.append(name)

    def begin_writing(self, offset: int) -> None:
        """Have the kernel begin to write what was appended there, without waiting."""
        os.posix_fadvise(self._descriptor, offset, self.end - offset, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def prepare(self) -> None:
        """Give it its size, and zeros all over; both are on disk when this returns."""
        try:
            # First, since it finds out at once whether there is room.
            os.posix_fallocate(self._descriptor, 0, self._size_bytes)
            os.ftruncate(self._descriptor, self._size_bytes)
            self._fill_with_zeros(self._size_bytes)
            os.fsync(self._descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            raise

    def erase(self) -> None:
        """Fill what was used with zeros; they are on disk when this returns."""
        self._fill_with_zeros(self.end)
        os.fdatasync(self._descriptor)
        self.names, self.end = [], 0

    def _fill_with_zeros(self, end: int) -> None:
        for offset in range(0, end, len(_ZEROS)):
            zeros = _ZEROS[: end - offset]
            # A new file has no blocks yet, but reads as zeros.
            if self._is_new or os.pread(self._descriptor, len(zeros), offset) != zeros:
                os.pwrite(self._descriptor, zeros, offset)


class Journal:
    """Two segments in a folder of their own; any thread may use it, one process at a time.

    Args:
        folder: created with mode 0700 if it is missing.
        restore: gets name and content of each file that a power cut may have taken,
            oldest first; it is durable when that returns.
        make_durable: gets names of files that were written without a sync; those that
            are still there are durable when that returns.
        size_bytes: of one segment.

    Raises:
        OSError: no room for the segments, another process has them, or a file cannot be restored.
    """

    def __init__(
        self,
        folder: Path,
        restore: Callable[[str, bytes], None],
        make_durable: Callable[[list[str]], None],
        *,
        size_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._make_durable = make_durable
        self._boot = _boot()
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock, self._sync_lock, self._checkpoint_lock = (threading.Lock() for _ in range(3))
        self._file_made = threading.Condition(self._lock)
        self._written = self._synced = 0
        self._is_broken = False
        opened: list[_Segment] = []
        try:
            try:
                fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OSError(error.errno, "another process has it") from error
            for name in ("a", "b"):
                opened.append(_Segment(folder / name, size_bytes))  # noqa: PERF401 - for the except
            self._recover(opened, restore)
            for segment in opened:
                segment.prepare()
            os.fsync(self._folder)
        except BaseException:
            for segment in opened:
                segment.close()
            os.close(self._folder)
            raise
        self._active, self._resting = opened

    def close(self) -> None:
        """Make all files durable and let go.

        Raises:
            OSError: that failed; the segments still hold them.
        """
        try:
            self.checkpoint()
        finally:
            for segment in (self._active, self._resting):
                segment.close()
            os.close(self._folder)

    def keep(self, name: str, content: bytes, make: Callable[[], None]) -> bool:
        """Make a file, and make durable that it exists and what it holds.

        Args:
            name: of the file.
            content: all of it.
            make: makes the file, without a sync.

        Returns:
            False if there is no room now: the caller has to sync the file.

        Raises:
            OSError: it cannot be written; the journal may have it all the same, for some seconds.
        """
        record = _record(self._boot, name, content)
        with self._lock:
            has_room = self._active.has_room(len(record)) or self._change_places(len(record))
            if has_room:
                segment = self._active
                segment.append(name, record)
                segment.unwritten += 1
                self._written += 1
                ticket, offset = self._written, segment.end - len(record)
        if not has_room:
            make()
            return False
        try:
            segment.begin_writing(offset)
            make()
        finally:
            with self._lock:
                segment.unwritten -= 1
                self._file_made.notify_all()
        # Who waited here for another's sync may find that one after it has covered all.
        with self._sync_lock:
            if self._synced < ticket and not self._is_broken:
                with self._lock:
                    # The other segment was synced when they changed places.
                    segment, reached = self._active, self._written
                self._sync(segment)
                self._synced = reached
            return self._synced >= ticket

    def checkpoint(self) -> None:
        """Make the files durable by themselves, and erase what the journal has of them.

        Raises:
            OSError: a file or a segment cannot be synced, or once could not; nothing is erased.
        """
        if self._is_broken:
            raise OSError(errno.EIO, "the disk failed to sync it, and it is not used since")
        with self._checkpoint_lock:
            # What rests and was not erased the last time comes first.
            for _ in range(2):
                if self._resting.end:
                    with self._lock:  # or a file that is only being made would be missed
                        while self._resting.unwritten:
                            self._file_made.wait()
                    self._make_durable(self._resting.names)
                    self._resting.erase()
                with self._lock:
                    if not self._active.end:
                        return
                    self._change_places(0)

    def _change_places(self, size_bytes: int) -> bool:
        if self._is_broken or self._resting.end or not self._resting.has_room(size_bytes):
            return False
        self._sync(self._active)
        self._active, self._resting = self._resting, self._active
        return True

    def _sync(self, segment: _Segment) -> None:
        try:
            segment.sync()
        except OSError:
            # The kernel tells once what it could not write, and then calls the pages clean
            # (https://lwn.net/Articles/752063/): no later sync of them can be believed.
            self._is_broken = True
            raise

    def _recover(self, segments: list[_Segment], restore: Callable[[str, bytes], None]) -> None:
        found = sorted(
            ((name, boot, content) for each in segments for boot, name, content in each.records()),
        )
        # While the kernel runs, the folder is right: a file that is not there was handled.
        self._make_durable([name for name, boot, _ in found if boot == self._boot])
        for name, boot, content in found:
            if boot != self._boot:
                restore(name, content)


def _record(boot: bytes, name: str, content: bytes) -> bytes:
    body = os.fsencode(name) + content
    head = _HEAD.pack(_MAGIC, boot, len(body) - len(content), len(content), 0)[:-4]
    record = b"".join((head, zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "big"), body))
    return record.ljust(_whole_blocks(len(record)), b"\0")


def _whole_blocks(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _boot() -> bytes:
    """What tells this run of the kernel from all others; 16 bytes."""
    return bytes.fromhex(_BOOT.read_text("ascii").replace("-", ""))
