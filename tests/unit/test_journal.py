"""What a power cut leaves of samples that were promised."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailhooks import journal
from mailhooks.errors import SpoolError
from mailhooks.lesson import Lesson
from mailhooks.spool import Label, Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

SEGMENT_BYTES = 256 * 1024


def opened(folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> Spool:
    spool = Spool(folder)
    spool.prepare()
    spool.keep_journal(segment_bytes=segment_bytes)
    return spool


def put(spool: Spool, message: bytes) -> str:
    label = Label(
        user="ann@example.org",
        lesson=Lesson.SPAM,
        digest="d",
        origin="move",
        received=1.0,
        size_bytes=len(message),
    )
    return spool.put(label, message).name


def held(spool: Spool) -> dict[str, bytes]:
    return {entry.name: spool.message(entry) or b"" for entry in spool.entries()}


def segments(folder: Path) -> list[Path]:
    return [folder / "journal" / name for name in ("a", "b")]


@pytest.fixture(autouse=True)
def boot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stands for the kernel's own file, so that tests can boot."""
    path = tmp_path_factory.mktemp("boot") / "boot_id"
    path.write_text("00000000-0000-0000-0000-000000000001\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_BOOT", path)
        yield path


def cut_power(spool: Spool, boot: Path) -> None:
    """Take away all that was not synced, at worst: every file; then boot."""
    if spool._journal is not None:
        os.close(spool._journal._folder)
    for path in (spool.folder / "new").iterdir():
        path.unlink()
    boot.write_text("00000000-0000-0000-0000-000000000002\n")


def test_a_power_cut_takes_no_sample(tmp_path: Path, boot: Path) -> None:
    """Files that never reached the disk come back, byte for byte, under their names."""
    spool = opened(tmp_path)
    promised = {put(spool, raw): raw for raw in (b"", b"one\n\n\x00", b"x" * 9000)}
    assert held(spool) == promised
    cut_power(spool, boot)
    again = opened(tmp_path)
    assert held(again) == promised
    again.close()


def test_a_file_cut_short_comes_back_whole(tmp_path: Path, boot: Path) -> None:
    """The name may have reached the disk, and only half of the content."""
    spool = opened(tmp_path)
    names = [put(spool, b"message" * 1000) for _ in range(2)]
    kept = {name: (tmp_path / "new" / name).read_bytes() for name in names}
    cut_power(spool, boot)
    for length, (name, content) in zip((0, 4096), kept.items(), strict=True):
        (tmp_path / "new" / name).write_bytes(content[:length])
    again = opened(tmp_path)
    assert {name: (tmp_path / "new" / name).read_bytes() for name in names} == kept
    again.close()


def test_what_was_never_promised_is_not_learned(tmp_path: Path) -> None:
    """Of a file that is not in the journal, half is no sample."""
    spool = opened(tmp_path)
    empty, half = put(spool, b"one"), put(spool, b"two" * 3000)
    os.truncate(tmp_path / "new" / empty, 0)
    os.truncate(tmp_path / "new" / half, 4096)
    assert held(spool) == {}
    assert [path.name for path in (tmp_path / "bad").iterdir()] == [f"{half}.unreadable"]
    spool.close()


def test_a_killed_process_gives_no_handled_sample_back(tmp_path: Path) -> None:
    """While the kernel runs, the folder is right: what is not there was learned or dropped."""
    spool = opened(tmp_path)
    names = [put(spool, b"message") for _ in range(3)]
    spool.drop(names[1])
    os.close(spool._journal._folder)  # type: ignore[union-attr]
    again = opened(tmp_path)
    assert list(held(again)) == [names[0], names[2]]
    again.close()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9000), min_size=1, max_size=8),
    cut=st.floats(0, 1),
    garbage=st.binary(min_size=1, max_size=64),
)
def test_a_torn_tail_takes_nothing_that_is_before_it(
    sizes: list[int], cut: float, garbage: bytes
) -> None:
    """Whatever the last write left, whole records before it count, and nothing else does."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        boot = folder / "boot"
        boot.write_text("00000000-0000-0000-0000-000000000001\n")
        patch.setattr(journal, "_BOOT", boot)
        spool = opened(folder / "spool")
        promised, ends = {}, []
        for number, size in enumerate(sizes):
            raw = bytes([65 + number]) * size
            promised[put(spool, raw)] = raw
            ends.append(spool._journal._active.end)  # type: ignore[union-attr]
        torn_at = int(cut * (ends[-1] - 1))
        (segment,) = (path for path in segments(spool.folder) if any(path.read_bytes()))
        content = segment.read_bytes()
        tail = (garbage * (ends[-1] // len(garbage) + 1))[: ends[-1] - torn_at]
        segment.write_bytes(content[:torn_at] + tail + content[ends[-1] :])
        cut_power(spool, boot)
        again = opened(spool.folder)
        found = held(again)
        again.close()
    certain = [name for name, end in zip(promised, ends, strict=True) if end <= torn_at]
    assert list(found)[: len(certain)] == certain
    assert found.items() <= promised.items()


def test_nothing_of_a_sample_stays_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are synced by themselves before the journal forgets them, and it forgets all."""
    spool = opened(tmp_path)
    name, gone = put(spool, b"private" * 100), put(spool, b"private, too")
    spool.drop(gone)
    synced = []
    sync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    spool.keep_journal()
    spool.keep_journal()
    assert synced == [name, "new"]
    assert not any(any(path.read_bytes()) for path in segments(tmp_path))
    assert list(held(spool)) == [name]
    spool.close()


def test_a_full_journal_makes_samples_wait_for_their_own_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two segments hold so much; after that, and for a large message, all is as without one."""
    spool = opened(tmp_path, segment_bytes=8192)
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
    )
    names = [put(spool, b"x" * size) for size in (9000, 100, 100, 100, 100, 100)]
    assert synced == [names[0], "new", names[5], "new"]
    assert list(held(spool)) == names
    spool.close()


def test_a_disk_that_fails_is_not_believed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample under way is refused and gone; later ones are synced by themselves."""
    spool = opened(tmp_path)

    def failing(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        with pytest.raises(SpoolError, match="Input/output error"):
            put(spool, b"refused")
    assert held(spool) == {}
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
    )
    name = put(spool, b"taken")
    assert synced == [name, "new"]
    with pytest.raises(SpoolError, match="the disk failed to sync it"):
        spool.keep_journal()


def test_without_room_for_a_journal_samples_are_taken_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of the disk is left to the samples."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    spool = Spool(tmp_path)
    spool.prepare()
    with pytest.raises(SpoolError, match="cannot keep its journal: No space left"):
        spool.keep_journal(segment_bytes=SEGMENT_BYTES)
    assert [path.stat().st_size for path in segments(tmp_path) if path.exists()] in ([0], [0, 0])
    name = put(spool, b"taken")
    assert list(held(spool)) == [name]


def test_one_process_at_a_time_keeps_the_journal(tmp_path: Path) -> None:
    """A second one takes samples without it."""
    first = opened(tmp_path)
    second = Spool(tmp_path)
    with pytest.raises(SpoolError, match="cannot keep its journal: another process has it"):
        second.keep_journal(segment_bytes=SEGMENT_BYTES)
    names = [put(second, b"two"), put(first, b"one")]
    assert list(held(first)) == names
    first.close()
    second.keep_journal(segment_bytes=SEGMENT_BYTES)
    second.close()


class TakenMeanwhile(list[tuple[int, str]]):
    """Spare files of which another thread takes the last between look and reach."""

    def __bool__(self) -> bool:
        return True


def test_a_spare_file_that_another_thread_takes_first_is_no_error(tmp_path: Path) -> None:
    """The learning socket and a delivery take samples at once, each in a thread of its own."""
    spool = opened(tmp_path)
    spool._ready = TakenMeanwhile()
    name = put(spool, b"hello")
    assert held(spool) == {name: b"hello"}
    spool._ready = []
    spool.close()


def test_threads_share_syncs_and_lose_nothing(tmp_path: Path, boot: Path) -> None:
    """Whoever has waited for another's sync is as safe as who made it, checkpoints included."""
    spool = opened(tmp_path)

    def work(thread: int) -> dict[str, bytes]:
        done = {}
        for number in range(30):
            raw = b"%d %d " % (thread, number) * 300
            done[put(spool, raw)] = raw
            if number % 10 == thread:
                spool.keep_journal()
        return done

    with ThreadPoolExecutor(8) as pool:
        promised = {name: raw for done in pool.map(work, range(8)) for name, raw in done.items()}
    assert held(spool) == promised
    kept = {path.name for path in (tmp_path / "new").iterdir()}
    assert kept == set(promised)
    last = {put(spool, raw): raw for raw in (b"last", b"but one")}
    cut_power(spool, boot)
    again = opened(tmp_path)
    assert last.items() <= held(again).items()
    assert held(again).items() <= (promised | last).items()
    again.close()


PUTTER = """
import sys
from pathlib import Path
from mailhooks.lesson import Lesson
from mailhooks.spool import Label, Spool
spool = Spool(Path(sys.argv[1]))
spool.prepare()
spool.keep_journal(segment_bytes=1 << 20)
number = 0
while True:
    raw = b"%d" % number * 500
    label = Label(user="u", lesson=Lesson.HAM, digest="d", origin="move", received=1.0,
                  size_bytes=len(raw))
    print(spool.put(label, raw).name, number, flush=True)
    number += 1
    spool.make_ready()
    if number % 40 == 0:
        spool.keep_journal()
"""


@pytest.mark.parametrize("lines", [1, 25, 90])
def test_a_kill_takes_nothing_and_a_power_cut_after_it_neither(
    tmp_path: Path, boot: Path, lines: int
) -> None:
    """A real process is killed while it takes samples; every promise it printed is kept."""
    command = [sys.executable, "-c", PUTTER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        printed += process.stdout.readlines()
    told = dict(line.split() for line in printed if line.endswith("\n"))
    promised = {name: number.encode() * 500 for name, number in told.items()}
    spool = Spool(tmp_path)
    found = held(spool)
    assert promised.items() <= found.items()
    assert len(found) <= len(promised) + 1
    # What the last checkpoint had not synced yet is lost, and another kernel comes up.
    journaled = {name for path in segments(tmp_path) for name in names_in(path)}
    assert journaled
    for name in journaled:
        (tmp_path / "new" / name).unlink(missing_ok=True)
    boot.write_text("00000000-0000-0000-0000-000000000003\n")
    spool.keep_journal(segment_bytes=1 << 20)
    assert promised.items() <= held(spool).items()
    spool.close()


def names_in(path: Path) -> list[str]:
    segment = journal._Segment(path, path.stat().st_size)
    try:
        return [name for _, name, _ in segment.records()]
    finally:
        segment.close()


def test_a_checkpoint_waits_for_a_file_that_is_being_made(tmp_path: Path) -> None:
    """The journal has a sample before its file is there, and must not let go of it before."""
    spool = opened(tmp_path)
    begun, go_on = threading.Event(), threading.Event()
    write = spool._write

    def slow(name: str, content: bytes) -> None:
        begun.set()
        assert go_on.wait(60)
        write(name, content)

    spool._write = slow  # type: ignore[method-assign,assignment]
    with ThreadPoolExecutor(2) as pool:
        name = pool.submit(put, spool, b"x" * 5000)
        assert begun.wait(60)
        checkpoint = pool.submit(spool.keep_journal)
        assert not wait([checkpoint], timeout=0.2).done
        go_on.set()
        checkpoint.result(60)
        assert all(set(path.read_bytes()) == {0} for path in segments(tmp_path))
        assert held(spool) == {name.result(60): b"x" * 5000}
    spool.close()


def test_a_file_that_cannot_be_made_is_refused_and_holds_nothing_up(tmp_path: Path) -> None:
    """Who sent it hears so, and the journal forgets it with the next checkpoint."""
    spool = opened(tmp_path)
    (tmp_path / "new").rmdir()
    with pytest.raises(SpoolError, match="cannot take a sample"):
        put(spool, b"x" * 5000)
    spool.prepare()
    name = put(spool, b"taken")
    spool.keep_journal()
    assert held(spool) == {name: b"taken"}
    assert all(set(path.read_bytes()) == {0} for path in segments(tmp_path))
    spool.close()
