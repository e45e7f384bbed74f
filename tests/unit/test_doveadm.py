from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from mailhooks.doveadm import AccountMailbox, Doveadm, Found
from mailhooks.errors import DoveadmError

if TYPE_CHECKING:
    from pathlib import Path

INBOX = AccountMailbox("INBOX", "00ff", 3)
BINARY = b"Subject: \xff\xfe\0\n\n" + bytes(range(256)) + b"\f\nuid: 2\nsize.physical: 1\ntext:\n"


class FakeDoveadm:
    """A program that prints prepared output and notes its arguments.

    Outputs are tried in order; one is used if all its words are among the arguments.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "doveadm"
        self.program.write_text(
            '#!/bin/sh\nfolder=$(dirname "$0")\n'
            'printf "%s\\n" "$*" >> "$folder/calls"\n'
            'for rule in "$folder"/rule*; do\n'
            '  all=yes; for word in $(cat "$rule/words"); do\n'
            '    case " $* " in *" $word "*) ;; *) all=no;; esac\n'
            "  done\n"
            '  if [ $all = yes ]; then cat "$rule/out"; cat "$rule/err" >&2; '
            'exit $(cat "$rule/code"); fi\n'
            "done\n"
        )
        self.program.chmod(stat.S_IRWXU)
        self.rules = 0

    def prints(self, words: str, output: bytes, *, errors: str = "", code: int = 0) -> None:
        rule = self.folder / f"rule{self.rules:02}"
        rule.mkdir()
        (rule / "words").write_text(words)
        (rule / "out").write_bytes(output)
        (rule / "err").write_text(errors)
        (rule / "code").write_text(str(code))
        self.rules += 1

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def fake(tmp_path: Path) -> FakeDoveadm:
    return FakeDoveadm(tmp_path)


@pytest.fixture
def doveadm(fake: FakeDoveadm) -> Doveadm:
    return Doveadm([str(fake.program), "-c", "x.conf"])


def record(uid: int, raw: bytes, *, size: int | None = None) -> bytes:
    length = len(raw) if size is None else size
    return b"uid: %d\nsize.physical: %d\ntext:\n%s" % (uid, length, raw)


async def fetched(doveadm: Doveadm, *uids: int) -> list[tuple[int, bytes]]:
    return [each async for each in doveadm.fetch("anna", INBOX, uids)]


async def test_mailboxes_come_with_the_id_that_names_them_for_certain(
    fake: FakeDoveadm, doveadm: Doveadm
) -> None:
    """Names are Unicode, as people write them."""
    rows = [{"mailbox": "Entwürfe %*", "guid": "ab", "messages": "7"}]
    fake.prints("mailbox status", json.dumps(rows).encode())
    assert await doveadm.mailboxes("anna") == [AccountMailbox("Entwürfe %*", "ab", 7)]
    assert fake.calls == ["-c x.conf -f json mailbox status -u anna guid messages *"]


async def test_a_search_names_the_mailbox_by_id_and_sorts_by_arrival(
    fake: FakeDoveadm, doveadm: Doveadm
) -> None:
    """In a name doveadm would take * and % for wildcards."""
    rows = [
        {"uid": str(uid), "date.received.unixtime": str(date)} for uid, date in ((1, 9), (2, 5))
    ]
    fake.prints("fetch", json.dumps(rows).encode())
    assert await doveadm.search("anna", INBOX, ["SEEN"]) == [Found(2, 5), Found(1, 9)]
    assert fake.calls[0].endswith("mailbox-guid 00ff SEEN")


async def test_messages_are_exact_even_if_they_look_like_doveadm_output(
    fake: FakeDoveadm, doveadm: Doveadm
) -> None:
    """Sizes part the messages, not what is in them."""
    fake.prints("fetch", b"\f\n".join([record(1, BINARY), record(2, b"no end"), record(5, b"")]))
    assert await fetched(doveadm, 5, 2, 1) == [(1, BINARY), (2, b"no end"), (5, b"")]
    assert len(fake.calls) == 1


@pytest.mark.parametrize("wrong", [-4, 4, 4000])
async def test_after_a_wrong_size_messages_are_read_one_a_call(
    fake: FakeDoveadm, doveadm: Doveadm, wrong: int
) -> None:
    """Nothing is cut, glued together or left out."""
    messages = {1: b"Subject: 1\n\none\n", 2: b"Subject: 2\n\ntwo\n", 3: b"Subject: 3\n\nthree\n"}
    records = [
        record(uid, raw, size=len(raw) + (wrong if uid == 2 else 0))
        for uid, raw in messages.items()
    ]
    fake.prints("1,2,3", b"\f\n".join(records))
    for uid, raw in messages.items():
        fake.prints(f"uid {uid}", b"text:\n" + raw)
    assert await fetched(doveadm, 1, 2, 3) == list(messages.items())


async def test_a_message_cannot_pass_for_another_uid(fake: FakeDoveadm, doveadm: Doveadm) -> None:
    """Should a size be too small by chance, a uid nobody asked for gives it away."""
    inner = record(7, b"forged")
    outer = b"Subject: x\n\nhello\f\n" + inner
    fake.prints("1,2", record(1, outer, size=len(outer) - len(inner) - 2))
    fake.prints("uid 1", b"text:\n" + outer)
    fake.prints("uid 2", b"text:\nsecond")
    assert (7, b"forged") not in await fetched(doveadm, 1, 2)


async def test_messages_that_have_gone_are_left_out(fake: FakeDoveadm, doveadm: Doveadm) -> None:
    """Their owner may expunge mail while we read."""
    fake.prints("1,2", record(1, b"here"))
    fake.prints("uid 2", b"")
    assert await fetched(doveadm, 1, 2) == [(1, b"here")]


async def test_one_damaged_message_is_an_error_after_all_others(
    fake: FakeDoveadm, doveadm: Doveadm
) -> None:
    """Dovecot gives up at it; each of the rest is asked for by itself."""
    fake.prints("1,2,3", record(1, b"one"), code=75)
    fake.prints("uid 2", b"text:\n", errors="Error: read(x) failed\n", code=75)
    fake.prints("uid 3", b"text:\nthree")
    read = doveadm.fetch("anna", INBOX, [1, 2, 3])
    assert [await anext(read), await anext(read)] == [(1, b"one"), (3, b"three")]
    with pytest.raises(DoveadmError, match="Error: read"):
        await anext(read)


async def test_users_are_listed_once(fake: FakeDoveadm, doveadm: Doveadm) -> None:
    """Two user databases may know the same one."""
    fake.prints("user", b"anna\nbert\nanna\n")
    assert await doveadm.users() == ["anna", "bert"]


@pytest.mark.parametrize("user", ["", "a*", "?@example.org", "a\nb"])
async def test_a_user_that_doveadm_takes_for_a_mask_is_an_error(
    doveadm: Doveadm, user: str
) -> None:
    """Else one user's statistics would learn all other users' mail."""
    with pytest.raises(DoveadmError, match="cannot name the user"):
        await doveadm.mailboxes(user)


async def test_a_failure_says_what_doveadm_said(fake: FakeDoveadm, doveadm: Doveadm) -> None:
    """The last line of its complaint, as an error of ours."""
    fake.prints("mailbox", b"", errors="Warning: x\nError: User doesn't exist\n", code=67)
    with pytest.raises(DoveadmError, match="failed: Error: User doesn't exist"):
        await doveadm.mailboxes("nobody")


async def test_a_mailbox_that_has_gone_holds_nothing(fake: FakeDoveadm, doveadm: Doveadm) -> None:
    """To doveadm that is an error (68), to us it is no mail."""
    fake.prints("fetch", b"[]", errors="Error: Mailbox doesn't exist\n", code=68)
    assert await doveadm.search("anna", INBOX, ["ALL"]) == []


async def test_a_missing_program_and_strange_output_are_named(fake: FakeDoveadm) -> None:
    """No traceback for an administrator who lacks dovecot-core."""
    with pytest.raises(DoveadmError, match="/no/such/doveadm cannot be run: No such file"):
        await Doveadm(["/no/such/doveadm"]).users()
    fake.prints("mailbox", b"what?")
    with pytest.raises(DoveadmError, match="no JSON"):
        await Doveadm([str(fake.program)]).mailboxes("anna")
