from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mailhooks.errors import SpoolError
from mailhooks.lesson import Lesson
from mailhooks.spool import Label, Spool

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
