from __future__ import annotations

import errno
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mailhooks.errors import SpoolError
from mailhooks.lesson import Lesson
from mailhooks.spool import Entry, Label, Spool

MESSAGE = b"Subject: x\r\n\r\n\x00\xff\n\nbody\n\n"


def label(**changes: Any) -> Label:
    values: dict[str, Any] = {
        "user": "ann@example.org",
        "lesson": Lesson.SPAM,
        "digest": "d" * 64,
        "origin": "move",
        "received": 1.5,
    }
    return Label(**(values | changes))


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def test_a_sample_is_found_again_by_another_process(spool: Spool) -> None:
    """What was put is there, byte for byte, for whoever opens the folder next."""
    spool.put(label(), MESSAGE)
    again = Spool(spool.folder)
    again.prepare()
    (entry,) = again.entries()
    assert entry.label == label()
    assert again.message(entry) == MESSAGE


def test_samples_come_in_the_order_they_were_put(spool: Spool) -> None:
    """The last of several moves is the last in the spool."""
    names = [spool.put(label(digest=str(number)), b"").name for number in range(20)]
    assert [entry.name for entry in spool.entries()] == names


def test_a_removed_sample_is_gone_and_removing_it_twice_is_no_error(spool: Spool) -> None:
    """A crash between two steps may make us do the second one again."""
    entry = spool.put(label(), MESSAGE)
    spool.remove(entry)
    spool.remove(entry)
    assert list(spool.entries()) == []


def test_private_mail_is_readable_by_nobody_else(spool: Spool) -> None:
    """Folders are 0700 and files 0600, whatever the umask."""
    spool.put(label(), MESSAGE)
    for path in (spool.folder, *spool.folder.iterdir()):
        assert path.stat().st_mode & 0o777 == 0o700
    (file,) = (spool.folder / "new").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_half_written_files_of_a_crash_are_dropped(spool: Spool) -> None:
    """They were never promised to anybody; one that is being written is left alone."""
    half = spool.folder / "tmp" / "half"
    half.write_bytes(b"{")
    spool.clean()
    assert half.exists()
    os.utime(half, (1.0, 1.0))
    spool.clean()
    assert not half.exists()


def test_a_file_that_is_no_sample_is_set_aside(spool: Spool) -> None:
    """A damaged file is kept for people to look at and blocks nobody."""
    (spool.folder / "new" / "0").write_bytes(b"garbage\n")
    spool.put(label(), MESSAGE)
    assert len(list(spool.entries())) == 1
    assert (spool.folder / "bad" / "0.unreadable").read_bytes() == b"garbage\n"


def test_a_sample_set_aside_keeps_its_message_and_reason(spool: Spool) -> None:
    """Nothing is thrown away because it could not be learned."""
    entry = spool.put(label(), MESSAGE)
    spool.set_aside(entry, "crashed the worker")
    assert list(spool.entries()) == []
    content = (spool.folder / "bad" / entry.name).read_bytes()
    assert b'"reason":"crashed the worker"' in content.partition(b"\n\n")[0]
    assert content.partition(b"\n\n")[2] == MESSAGE


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender hears of it and keeps the sample; no half of it stays."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpoolError, match="No space left on device"):
        spool.put(label(), MESSAGE)
    assert list((spool.folder / "tmp").iterdir()) == []
    assert list(spool.entries()) == []


def test_file_and_folder_are_synced_before_put_returns(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise survives a power cut: first the content, then the name."""
    synced: list[str] = []

    def record(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(target.parent.name if target.is_file() else target.name)

    monkeypatch.setattr(os, "fsync", record)
    spool.put(label(), MESSAGE)
    assert synced == ["tmp", "new"]


def test_a_sample_that_somebody_took_away_is_none(spool: Spool) -> None:
    """An administrator may drop a sample while it waits."""
    entry = spool.put(label(), MESSAGE)
    (spool.folder / "new" / entry.name).unlink()
    assert spool.message(entry) is None
    spool.set_aside(entry, "too late")
    assert list((spool.folder / "bad").iterdir()) == []


def taking(spool: Spool) -> Spool:
    """As the daemon has it: with a journal, and so with spare files."""
    spool.keep_journal(segment_bytes=64 * 1024)
    return spool


def spares(spool: Spool) -> list[Path]:
    return list((spool.folder / "spare").iterdir())


def test_the_file_of_a_learned_sample_serves_the_next_one(spool: Spool) -> None:
    """A file costs little where none has to be made, and nothing of the old sample is in it."""
    with closing(taking(spool)):
        first = spool.put(label(), b"a long secret\n" * 1000)
        inode = (spool.folder / "new" / first.name).stat().st_ino
        spool.remove(first)
        (spare,) = spares(spool)
        assert (spare.stat().st_ino, spare.stat().st_size) == (inode, 0)
        second = spool.put(label(user="bob@example.org"), b"short")
        assert spares(spool) == []
        assert (spool.folder / "new" / second.name).stat().st_ino == inode
        assert spool.message(second) == b"short"
        assert list(spool.entries()) == [second]
        spool.remove(first)  # a second time
        assert list(spool.entries()) == [second]


def test_spare_files_serve_after_a_restart_and_those_with_content_are_removed(
    spool: Spool,
) -> None:
    """A process that died may have left half of a sample in one, which nobody was promised."""
    with closing(taking(spool)):
        spool.remove(spool.put(label(), MESSAGE))
    (spool.folder / "spare" / "half").write_bytes(b"{")
    again = Spool(spool.folder)
    with closing(taking(again)):
        (spare,) = spares(again)
        inode = spare.stat().st_ino
        entry = again.put(label(), MESSAGE)
        assert (spool.folder / "new" / entry.name).stat().st_ino == inode
        assert again.message(entry) == MESSAGE


def test_spare_files_are_not_kept_without_end(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What many samples leave behind is removed."""
    monkeypatch.setattr("mailhooks.spool.SPARE_FILES", 2)
    with closing(taking(spool)):
        for entry in [spool.put(label(), MESSAGE) for _ in range(4)]:
            spool.remove(entry)
        assert len(spares(spool)) == 2
        assert list(spool.entries()) == []
    (spool.folder / "spare" / "one more").touch()
    with closing(taking(Spool(spool.folder))):
        assert len(spares(spool)) == 2


def test_only_who_has_the_journal_uses_spare_files(spool: Spool) -> None:
    """Two processes never write into one file."""
    with closing(taking(spool)):
        spool.remove(spool.put(label(), MESSAGE))
        other = Spool(spool.folder)
        entry = other.put(label(), MESSAGE)
        assert len(spares(spool)) == 1
        other.remove(entry)
        assert len(spares(spool)) == 1


def test_a_file_that_somebody_links_to_is_left_as_it_is(spool: Spool, tmp_path: Path) -> None:
    """A backup made of hard links keeps what it has."""
    with closing(taking(spool)):
        entry = spool.put(label(), MESSAGE)
        (tmp_path / "backup").hardlink_to(spool.folder / "new" / entry.name)
        spool.remove(entry)
        assert spares(spool) == []
        assert list(spool.entries()) == []
    assert (tmp_path / "backup").read_bytes().endswith(MESSAGE)


def test_a_sample_learned_while_it_is_read_is_gone_and_not_another_one(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file may serve the next sample before the reader has come to the end of it."""
    stat = os.fstat

    def learned(entry: Entry) -> None:
        monkeypatch.undo()
        spool.remove(entry)
        spool.put(label(user="bob@example.org"), b"hers")

    with closing(taking(spool)):
        entry = spool.put(label(), MESSAGE)

        def slowly(_: str | Path) -> bytes:
            learned(entry)
            return b"{}\n\nhers"

        monkeypatch.setattr(spool, "_bytes_of", slowly)
        assert spool.message(entry) is None
        entry = spool.put(label(), MESSAGE)
        monkeypatch.setattr(Path, "read_bytes", slowly)
        with pytest.raises(SpoolError, match="No such file"):
            spool.read(entry.name)
        for is_garbage in (False, True):
            entry = spool.put(label(digest="mine"), MESSAGE)
            if is_garbage:
                (spool.folder / "new" / entry.name).write_bytes(b"garbage\n")

            def while_looking(descriptor: int, entry: Entry = entry) -> os.stat_result:
                learned(entry)
                return stat(descriptor)

            monkeypatch.setattr(os, "fstat", while_looking)
            assert "mine" not in [each.label.digest for each in spool.entries()]
        assert list((spool.folder / "bad").iterdir()) == []


def test_known_samples_are_not_read_again(spool: Spool) -> None:
    """Looking for new ones costs nothing for those that wait."""
    first, second = spool.put(label(), b""), spool.put(label(), b"")
    assert list(spool.entries({first.name})) == [second]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """Every operation on a spool that is not there says which and why."""
    gone = Spool(tmp_path / "gone")
    for operation in (
        lambda: gone.put(label(), MESSAGE),
        lambda: list(gone.entries()),
    ):
        with pytest.raises(SpoolError, match=r"gone.*No such file"):
            operation()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError, match="cannot be prepared"):
        Spool(tmp_path / "file").prepare()


def test_a_file_made_ready_long_ago_does_not_fail_the_next_sample(spool: Spool) -> None:
    """To clean() it looks like one that a dead process left."""
    spool.make_ready()
    (ready,) = (spool.folder / "tmp").iterdir()
    os.utime(ready, (0, 0))
    spool.clean()
    assert not ready.exists()
    entry = spool.put(label(), MESSAGE)
    assert spool.message(entry) == MESSAGE


def test_the_names_of_samples_do_not_stay_in_memory(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter's table of strings that are kept once grows by all it ever held."""
    spool.keep_journal(segment_bytes=64 * 1024)
    kept_once: list[str] = []
    intern = sys.intern

    def recorded(text: str) -> str:
        kept_once.append(text)
        return intern(text)

    monkeypatch.setattr(sys, "intern", recorded)
    entry = spool.put(label(), MESSAGE)
    assert list(spool.entries()) == [entry]
    assert spool.message(entry)
    spool.keep_journal()
    spool.remove(entry)
    spool.clean()
    assert entry.name not in kept_once
    spool.close()
