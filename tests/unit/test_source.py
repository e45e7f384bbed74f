"""Reading mail given by hand: files, folders, Maildirs, mboxes, archives, standard input."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import mailbox
import os
import random
import tarfile
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailhooks.errors import SourceError
from mailhooks.source import FoundMessage, iter_messages, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

LETTER = b"From: a@example.org\nSubject: one\n\nHello\n"
OTHER = b"From: b@example.org\r\nSubject: two\r\n\r\nGood bye\r\n"
BINARY = b"From: c@example.org\n\n\x00\xff\xfe \x80 caf\xe9\r\r\n\x1a no newline at the end"
MBOX = (
    b"From a@example.org Tue Nov 18 10:00:00 2025\n" + LETTER + b"\n"
    b"From b@example.org Tue Nov 18 11:00:00 2025\n" + OTHER + b"\n"
)
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def raws(path: Path) -> list[bytes]:
    return [message.raw for message in iter_messages(path)]


def names(path: Path) -> list[str]:
    return [message.name for message in iter_messages(path)]


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_maildir(path: Path) -> Path:
    for part in ("cur", "new", "tmp"):
        (path / part).mkdir(parents=True)
    return path


def tar_of(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def read_until_error(path: Path) -> tuple[list[bytes], str]:
    read: list[bytes] = []
    with pytest.raises(SourceError) as caught:
        read.extend(message.raw for message in iter_messages(path))
    return read, str(caught.value)


class TestFile:
    def test_is_handed_out_byte_for_byte(self, tmp_path: Path) -> None:
        """NULs, 8-bit bytes, odd line ends and a missing last newline pass unchanged."""
        path = put(tmp_path / "letter.eml", BINARY)
        assert list(iter_messages(path)) == [FoundMessage(str(path), BINARY)]

    def test_with_a_from_line_is_an_mbox_of_one(self, tmp_path: Path) -> None:
        """A lone message that begins with "From " loses that line."""
        path = put(tmp_path / "letter", b"From a@example.org Tue Nov 18 10:00:00 2025\n" + LETTER)
        assert kind_of(path) == "mbox"
        assert list(iter_messages(path)) == [FoundMessage(f"{path}#1", LETTER)]

    def test_with_a_blank_before_the_colon_is_no_mbox(self, tmp_path: Path) -> None:
        """The obsolete header syntax "From : a" is not taken for an mbox's "From " line."""
        raw = b"From : a@example.org\nSubject: old\n\nHi\n"
        path = put(tmp_path / "letter", raw)
        assert kind_of(path) == "file"
        assert raws(path) == [raw]

    def test_through_a_pipe(self) -> None:
        """A path that cannot be sought, as a shell's <(...) gives, is read like a file."""
        reading, writing = os.pipe()
        os.write(writing, gzip.compress(MBOX))
        os.close(writing)
        try:
            assert raws(Path(f"/dev/fd/{reading}")) == [LETTER, OTHER]
        finally:
            os.close(reading)


class TestMbox:
    def test_is_split_and_numbered(self, tmp_path: Path) -> None:
        """Messages are numbered from one and keep their own line ends."""
        path = put(tmp_path / "INBOX.mbox", MBOX)
        assert list(iter_messages(path)) == [
            FoundMessage(f"{path}#1", LETTER),
            FoundMessage(f"{path}#2", OTHER),
        ]

    def test_with_crlf_is_split(self, tmp_path: Path) -> None:
        """An mbox whose separators and empty lines end in CRLF is split alike."""
        crlf = LETTER.replace(b"\n", b"\r\n")
        path = put(tmp_path / "box", MBOX.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        assert raws(path) == [crlf, OTHER]

    def test_loses_one_level_of_escapes(self, tmp_path: Path) -> None:
        """Of ">From " and ">>From " one ">" is taken, of other quotes none."""
        body = b"Subject: x\n\n>From here\n>>From there\n> From the quote\n>Frome\n"
        path = put(tmp_path / "box", b"From a Tue Nov 18 10:00:00 2025\n" + body + b"\n")
        assert raws(path) == [b"Subject: x\n\nFrom here\n>From there\n> From the quote\n>Frome\n"]

    def test_splits_only_after_an_empty_line(self, tmp_path: Path) -> None:
        """A line "From ..." within a paragraph belongs to the text, whatever follows."""
        raw = b"Subject: x\n\nGreetings\nFrom a Tue Nov 18 10:00:00 2025\nSubject: y\n"
        path = put(tmp_path / "box", b"From a Tue Nov 18 10:00:00 2025\n" + raw + b"\n")
        assert raws(path) == [raw]

    def test_keeps_an_unescaped_paragraph_whole(self, tmp_path: Path) -> None:
        """An undated paragraph "From ..." that no headers follow splits nothing."""
        raw = b"Subject: x\n\nHello\n\nFrom what I hear\nit will rain\n"
        path = put(tmp_path / "box", b"From a Tue Nov 18 10:00:00 2025\n" + raw + b"\n")
        assert raws(path) == [raw]

    @pytest.mark.parametrize(
        "line", [b"From x", b"From - Tue Nov 18 10:00:00 2025", b"From a@b 2025-11-18T10:00Z"]
    )
    def test_accepts_separators_of_many_writers(self, tmp_path: Path, line: bytes) -> None:
        """A separator counts by its date, or by the headers below it."""
        path = put(tmp_path / "box", line + b"\n" + LETTER + b"\n" + line + b"\n" + LETTER)
        assert raws(path) == [LETTER, LETTER]

    def test_leaves_out_the_folder_data_of_imap_servers(self, tmp_path: Path) -> None:
        """The pseudo message UW-IMAP keeps in front is not handed out; numbers do not shift."""
        data = (
            b"From MAILER-DAEMON Tue Nov 18 10:00:00 2025\nFrom: Mail System\n"
            b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n"
            b"X-IMAP: 1700000000 1\n\nThis text is part of the internal format.\n\n"
        )
        path = put(tmp_path / "box", data + MBOX)
        assert names(path) == [f"{path}#2", f"{path}#3"]

    def test_is_never_held_whole(self, tmp_path: Path) -> None:
        """Memory stays at the size of a message while an mbox a hundred times larger goes by."""
        letter = b"Subject: x\n\n" + b"All work and no play.\n" * 4000
        path = tmp_path / "box.gz"
        with gzip.open(path, "wb", compresslevel=1) as box:
            for _ in range(100):
                box.write(b"From a Tue Nov 18 10:00:00 2025\n" + letter + b"\n")
        tracemalloc.start()
        try:
            count = sum(1 for _ in iter_messages(path))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert count == 100
        assert peak < 10 * len(letter)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.lists(
                st.one_of(
                    st.sampled_from([b"", b"From me", b"From x 10:00 2025", b"Subject: y", b"\r"]),
                    st.binary(max_size=40).filter(lambda line: b"\n" not in line),
                ),
                min_size=1,
                max_size=8,
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_reads_back_what_the_standard_library_wrote(self, letters: list[list[bytes]]) -> None:
        """Whatever mailbox.mbox writes comes back the same, in the same order."""
        written = [b"Subject: s\n\n" + b"\n".join(lines) + b"\n" for lines in letters]
        # mailbox.mbox does not escape what is escaped already, so what it
        # writes of such a line cannot be told from an escaped one.
        written = [raw for raw in written if not any(is_escaped(line) for line in raw.split(b"\n"))]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "box")
            box = mailbox.mbox(path)
            for raw in written:
                box.add(raw)
            box.close()
            if not written:
                return
            assert raws(path) == written
            assert kind_of(path) == "mbox"


def is_escaped(line: bytes) -> bool:
    return line.startswith(b">") and line.lstrip(b">").startswith(b"From ")


class TestCompression:
    @pytest.mark.parametrize("suffix", COMPRESSORS)
    @pytest.mark.parametrize("named", [True, False], ids=["suffix", "magic"])
    def test_of_a_file_and_an_mbox(self, tmp_path: Path, suffix: str, named: bool) -> None:
        """Compressed mail is recognised by its suffix or by its first bytes alone."""
        compress = COMPRESSORS[suffix]
        letter = put(tmp_path / ("letter" + suffix * named), compress(BINARY))
        box = put(tmp_path / ("box" + suffix * named), compress(MBOX))
        assert (kind_of(letter), raws(letter)) == ("file", [BINARY])
        assert (kind_of(box), raws(box)) == ("mbox", [LETTER, OTHER])

    @pytest.mark.parametrize("suffix", COMPRESSORS)
    def test_that_is_cut_off_gives_what_is_readable_first(
        self, tmp_path: Path, suffix: str
    ) -> None:
        """Complete messages of a truncated mbox are handed out, then the error names the file."""
        noise = random.Random(1)
        letters = [
            b"N: %d\n\n%s\n" % (n, noise.randbytes(30_000).hex().encode()) for n in range(40)
        ]
        box = b"".join(b"From a 10:00 2025\n" + letter + b"\n" for letter in letters)
        path = put(tmp_path / f"box{suffix}", COMPRESSORS[suffix](box)[:-200_000])
        read, error = read_until_error(path)
        assert 0 < len(read) < 40
        assert read == letters[: len(read)]
        assert error.startswith(f"{path}: cannot be read: ")

    def test_in_name_only_is_an_error(self, tmp_path: Path) -> None:
        """A file named .gz that is not compressed is refused rather than misread."""
        path = put(tmp_path / "letter.gz", LETTER)
        with pytest.raises(SourceError, match=r"letter\.gz: cannot be read: Not a gzipped file"):
            raws(path)

    def test_of_nothing_is_an_empty_file(self, tmp_path: Path) -> None:
        """A compressed file without content is reported as empty."""
        with pytest.raises(SourceError, match=r"letter\.gz: the file is empty"):
            raws(put(tmp_path / "letter.gz", gzip.compress(b"")))


class TestFolder:
    def test_is_searched_in_order_and_in_depth(self, tmp_path: Path) -> None:
        """Files come sorted, those of sub-folders after a folder's own; dotfiles are left out."""
        for name in ("b", "a.eml", "sub/c", ".hidden", ".git/d", "README"):
            put(tmp_path / name, LETTER)
        assert kind_of(tmp_path) == "folder"
        assert names(tmp_path) == [
            str(tmp_path / name) for name in ("README", "a.eml", "b", "sub/c")
        ]

    def test_may_mix_kinds_of_file(self, tmp_path: Path) -> None:
        """Mboxes, archives and compressed files in a folder are opened like ones given alone."""
        put(tmp_path / "box", MBOX)
        put(tmp_path / "one.eml.gz", gzip.compress(BINARY))
        put(tmp_path / "pack.tar", tar_of({"x": OTHER}))
        assert raws(tmp_path) == [LETTER, OTHER, BINARY, OTHER]
        assert len(set(names(tmp_path))) == 4

    def test_with_a_circle_of_links_ends(self, tmp_path: Path) -> None:
        """A link back to a folder above is not followed again."""
        put(tmp_path / "sub/a", LETTER)
        (tmp_path / "sub/loop").symlink_to(tmp_path)
        (tmp_path / "sub/self").symlink_to("self")
        read, error = read_until_error(tmp_path)
        assert read == [LETTER]
        assert error.startswith(f"{tmp_path / 'sub/self'}: cannot be read: ")

    def test_with_a_fifo_does_not_wait(self, tmp_path: Path) -> None:
        """Only regular files are opened: a FIFO would never end."""
        put(tmp_path / "a", LETTER)
        os.mkfifo(tmp_path / "b")
        assert raws(tmp_path) == [LETTER]

    def test_reads_on_after_a_bad_file(self, tmp_path: Path) -> None:
        """Bad files do not hide good ones behind them; the error at the end lists them."""
        put(tmp_path / "a.gz", gzip.compress(LETTER)[:-4])
        put(tmp_path / "b", OTHER)
        (tmp_path / "c").symlink_to("nowhere")
        read, error = read_until_error(tmp_path)
        assert read == [OTHER]
        broken, missing = sorted(error.splitlines())
        assert broken.startswith(f"{tmp_path / 'a.gz'}: cannot be read: ")
        assert missing == f"{tmp_path / 'c'}: does not exist"

    def test_with_many_bad_files_lists_a_few(self, tmp_path: Path) -> None:
        """The error stays readable when hundreds of files are bad."""
        for number in range(20):
            put(tmp_path / f"{number}.gz", b"x")
        _, error = read_until_error(tmp_path)
        assert error.splitlines()[-1] == "and 15 more"

    def test_passes_over_empty_files(self, tmp_path: Path) -> None:
        """An empty file among others is no reason to complain."""
        put(tmp_path / "a", b"")
        put(tmp_path / "b", LETTER)
        assert raws(tmp_path) == [LETTER]

    def test_names_can_be_printed(self, tmp_path: Path) -> None:
        """A file name that is not UTF-8 yields a name that is."""
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).write_bytes(LETTER)
        assert names(tmp_path) == [f"{tmp_path}/caf\\xe9"]


class TestMaildir:
    def test_yields_cur_and_new_of_all_folders(self, tmp_path: Path) -> None:
        """INBOX and Maildir++ sub-folders are read; tmp and the server's own files are not."""
        make_maildir(tmp_path)
        make_maildir(tmp_path / ".Junk")
        put(tmp_path / "cur/1700000002.M1P1.host:2,S", b"two: 2\n\n")
        put(tmp_path / "new/1700000001.M1P1.host", b"one: 1\n\n")
        put(tmp_path / "tmp/1700000003.M1P1.host", b"tmp: 3\n\n")
        put(tmp_path / ".Junk/cur/1700000004.M1P1.host:2,", b"junk: 4\n\n")
        for own in ("dovecot.index.log", "cur/dovecot.tmp", "subscriptions", ".Junk/maildirfolder"):
            put(tmp_path / own, b"not mail\n")
        assert kind_of(tmp_path) == "maildir"
        assert raws(tmp_path) == [b"one: 1\n\n", b"two: 2\n\n", b"junk: 4\n\n"]

    def test_names_survive_flags_and_moves(self, tmp_path: Path) -> None:
        """Reading a new message moves and renames its file, and its name stays the same."""
        make_maildir(tmp_path)
        path = put(tmp_path / "new/1700000001.M1P1.host,S=9", LETTER)
        before = names(tmp_path)
        path.rename(tmp_path / "cur/1700000001.M1P1.host,S=9:2,FS")
        assert names(tmp_path) == before == [str(tmp_path / "1700000001.M1P1.host,S=9")]
        assert names(tmp_path / "cur") == before

    def test_in_use_meanwhile_loses_nothing(self, tmp_path: Path) -> None:
        """A message moved by its reader after the listing is found again, a deleted one skipped."""
        make_maildir(tmp_path)
        for number in range(1, 4):
            put(tmp_path / f"new/170000000{number}.M1P1.host", b"n: %d\n\n" % number)
        messages = iter_messages(tmp_path)
        next(messages)
        second = tmp_path / "new/1700000002.M1P1.host"
        second.rename(tmp_path / "cur/1700000002.M1P1.host:2,S")
        (tmp_path / "new/1700000003.M1P1.host").unlink()
        assert [message.raw for message in messages] == [b"n: 2\n\n"]

    def test_with_folders_as_directories(self, tmp_path: Path) -> None:
        """Folders laid out as plain directories are found below a Maildir and below a folder."""
        make_maildir(tmp_path / "Mail")
        put(make_maildir(tmp_path / "Mail/Work/Old") / "cur/1700000001.a:2,", LETTER)
        put(tmp_path / "Mail/Work/notes", b"not mail\n")
        assert kind_of(tmp_path) == "folder"
        assert raws(tmp_path) == raws(tmp_path / "Mail") == [LETTER]

    def test_compressed_by_dovecot(self, tmp_path: Path) -> None:
        """Messages compressed in place, without any suffix, come out uncompressed."""
        make_maildir(tmp_path)
        put(tmp_path / "cur/1700000001.mx.gz:2,", LETTER)
        put(tmp_path / "cur/1700000002.host:2,SZ", gzip.compress(OTHER))
        assert raws(tmp_path) == [LETTER, OTHER]


class TestTar:
    @pytest.mark.parametrize("suffix", ["", *COMPRESSORS])
    def test_yields_its_messages(self, tmp_path: Path, suffix: str) -> None:
        """Members come in the archive's order, an mbox among them split."""
        packed = tar_of({"b": BINARY, "a/INBOX": MBOX, "a/.x": LETTER, "empty": b""})
        packed = COMPRESSORS[suffix](packed) if suffix else packed
        path = put(tmp_path / f"mail.tar{suffix}", packed)
        assert kind_of(path) == "tar"
        assert list(iter_messages(path)) == [
            FoundMessage(f"{path}#1:b", BINARY),
            FoundMessage(f"{path}#2:a/INBOX#1", LETTER),
            FoundMessage(f"{path}#2:a/INBOX#2", OTHER),
        ]

    def test_is_recognised_without_a_suffix(self, tmp_path: Path) -> None:
        """The signature in the first header is enough."""
        assert kind_of(put(tmp_path / "mail", tar_of({"a": LETTER}))) == "tar"

    def test_of_a_maildir_follows_its_rules(self, tmp_path: Path) -> None:
        """Packed Maildirs yield cur and new, sub-folders included, and nothing else."""
        members = {
            f"./Maildir/{name}": LETTER
            for name in (
                "cur/1700000001.a:2,S",
                ".Junk/new/1700000002.a",
                "tmp/1700000003.a",
                "dovecot-uidlist",
                "subscriptions",
                ".secret/x",
            )
        }
        path = put(tmp_path / "m.tar", tar_of(members))
        assert names(path) == [
            f"{path}#1:./Maildir/cur/1700000001.a:2,S",
            f"{path}#2:./Maildir/.Junk/new/1700000002.a",
        ]

    @pytest.mark.parametrize(
        ("size_bytes", "complete"),
        [(515, []), (1024, [LETTER]), (1100, [LETTER]), (1540, [LETTER])],
        ids=["first message", "between", "second header", "second message"],
    )
    def test_that_is_cut_off_gives_what_is_readable_first(
        self, tmp_path: Path, size_bytes: int, complete: list[bytes]
    ) -> None:
        """An archive cut off anywhere, even between two members, is an error after whole ones."""
        packed = tar_of({"a": LETTER, "b": OTHER})[:size_bytes]
        read, error = read_until_error(put(tmp_path / "m.tar", packed))
        assert read == complete
        assert f"{tmp_path / 'm.tar'}" in error

    def test_with_a_damaged_header_is_an_error(self, tmp_path: Path) -> None:
        """Damage in the middle is not mistaken for the end of the archive."""
        packed = bytearray(tar_of({"a": LETTER, "b": OTHER}))
        packed[1024:1030] = b"\xff" * 6
        read, error = read_until_error(put(tmp_path / "m.tar", bytes(packed)))
        assert read == [LETTER]
        assert "m.tar: cannot be read: damaged or cut off" in error

    def test_reads_on_after_a_bad_member(self, tmp_path: Path) -> None:
        """A bad member, such as an archive within the archive, does not hide those behind it."""
        members = {"a.gz": b"x", "b.tar": tar_of({"x": OTHER}), "c": LETTER}
        read, error = read_until_error(put(tmp_path / "m.tar", tar_of(members)))
        assert read == [LETTER]
        assert "m.tar#1:a.gz: cannot be read: Not a gzipped file" in error
        assert "m.tar#2:b.tar: an archive within the archive" in error


class TestStandardInput:
    @pytest.mark.parametrize("dash", ["-", Path("-")])
    def test_takes_one_message(self, dash: Path) -> None:
        """A message on standard input is called "-"."""
        assert list(iter_messages(dash, stdin=io.BytesIO(BINARY))) == [FoundMessage("-", BINARY)]

    def test_takes_an_mbox(self) -> None:
        """An mbox on standard input is split and numbered."""
        found = list(iter_messages("-", stdin=io.BytesIO(MBOX)))
        assert found == [FoundMessage("-#1", LETTER), FoundMessage("-#2", OTHER)]

    def test_is_the_process_own_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a stream of its own it reads sys.stdin's bytes."""
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LETTER)))
        assert [message.raw for message in iter_messages("-")] == [LETTER]

    def test_without_anything_is_an_error(self) -> None:
        """Empty input is reported, not taken for an empty mailbox."""
        with pytest.raises(SourceError, match="standard input: the file is empty"):
            list(iter_messages("-", stdin=io.BytesIO()))


class TestErrors:
    @pytest.mark.parametrize("call", [kind_of, raws])
    def test_missing(self, tmp_path: Path, call: Callable[[Path], object]) -> None:
        """A path that does not exist is named with that reason."""
        with pytest.raises(SourceError, match="nowhere: does not exist"):
            call(tmp_path / "nowhere")

    @pytest.mark.parametrize("call", [kind_of, raws])
    def test_unreadable(self, tmp_path: Path, call: Callable[[Path], object]) -> None:
        """A path the system will not open is named with the system's reason."""
        (tmp_path / "self").symlink_to("self")
        with pytest.raises(SourceError, match="self: cannot be read: Too many levels"):
            call(tmp_path / "self")

    @pytest.mark.parametrize("call", [kind_of, raws])
    def test_empty(self, tmp_path: Path, call: Callable[[Path], object]) -> None:
        """An empty file given by name is an error."""
        with pytest.raises(SourceError, match="empty: the file is empty"):
            call(put(tmp_path / "empty", b""))

    def test_nothing_but_line_ends(self, tmp_path: Path) -> None:
        """A file of empty lines holds no message."""
        with pytest.raises(SourceError, match="blank: no message in it"):
            raws(put(tmp_path / "blank", b"\r\n\n"))

    def test_folder_without_messages(self, tmp_path: Path) -> None:
        """A folder in which nothing was found is an error, Maildir or not."""
        with pytest.raises(SourceError, match="no message in it"):
            raws(tmp_path)
        with pytest.raises(SourceError, match="no message in it"):
            raws(make_maildir(tmp_path))

    def test_stopping_early_closes_the_file(self, tmp_path: Path) -> None:
        """Whoever takes only the first messages leaks no open file."""
        path = put(tmp_path / "box.xz", lzma.compress(MBOX))
        before = len(list(Path("/proc/self/fd").iterdir()))
        messages = iter_messages(path)
        assert [message.raw for message in itertools.islice(messages, 1)] == [LETTER]
        del messages
        assert len(list(Path("/proc/self/fd").iterdir())) == before
