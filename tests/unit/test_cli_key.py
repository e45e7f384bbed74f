from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mailhooks.cli import main
from mailhooks.keys import Key, KeyRing, add_key, change_keys, load_keys, new_key

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

FIRST, SECOND = Key("first", b"f" * 64), Key("second", b"s" * 64)
TEXT = f"# ours\nfirst {'f' * 64}\n\n# of mx2\nsecond {'s' * 64}\n"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(TEXT)
    path.chmod(0o640)
    (tmp_path / "mailhooks.toml").write_text(f'[score]\nkey_file = "{path}"\n')
    return path


def run(keys: Path, *arguments: str, given: str = "") -> Result:
    config = keys.parent / "mailhooks.toml"
    return CliRunner().invoke(main, ["--config", str(config), "key", *arguments], input=given)


def ids(keys: Path) -> list[str]:
    return [key.key_id for key in load_keys(keys).keys]


def test_rotate_puts_a_new_key_on_top_and_keeps_the_others(keys: Path) -> None:
    """Old mail still verifies, comments stay, and the output says who must be restarted."""
    result = run(keys, "rotate")
    assert result.exit_code == 0, result.output
    fresh, *others = ids(keys)
    assert others == ["first", "second"]
    secret = load_keys(keys).signing.secret.decode()
    assert keys.read_text() == TEXT.replace("first", f"{fresh} {secret}\nfirst", 1)
    assert secret not in result.output
    assert f"{fresh} signs" in result.output
    assert "Restart mailhooks serve first, then mailhooks milter" in result.output
    assert "first must stay for 5 days" in result.output
    assert "key show --report" in result.output


def test_a_staged_key_verifies_first_and_signs_when_it_is_told(keys: Path) -> None:
    """Where milter and mailboxes are apart, the mailbox host knows a key before it is used."""
    result = run(keys, "add", "--new", "--json")
    fresh = json.loads(result.output)["added"]
    assert ids(keys) == ["first", "second", fresh]
    shown = run(keys, "show", fresh).output
    assert shown == f"{fresh} {load_keys(keys).keys[2].secret.decode()}\n"
    result = run(keys, "use", fresh, "--json")
    assert json.loads(result.output) == {"signs": fresh, "keys": [fresh, "first", "second"]}
    assert run(keys, "use", fresh).exit_code == 0
    assert ids(keys) == [fresh, "first", "second"]


def test_the_key_of_another_mx_is_read_from_standard_input(keys: Path) -> None:
    """What `key show` prints there, `key add` reads here; the secret is not repeated."""
    other = new_key()
    line = f"{other.key_id} {other.secret.decode()}\n"
    result = run(keys, "add", given=line)
    assert result.exit_code == 0, result.output
    assert load_keys(keys).find(other.key_id) == other
    assert load_keys(keys).signing == FIRST
    assert other.secret.decode() not in result.output


@pytest.mark.parametrize(
    ("arguments", "given", "problem"),
    [
        (["add"], "", "standard input: holds no key"),
        (["add"], f"a {'a' * 64}\nb {'b' * 64}\n", "standard input: holds more than one key"),
        (["add"], "third short\n", "standard input: line 1: the secret of third is shorter"),
        (["add"], f"first {'a' * 64}\n", "there is a key first already"),
        (["use", "third"], "", "there is no key third, only first, second"),
        (["show", "third"], "", "there is no key third, only first, second"),
        (["remove", "third", "--yes"], "", "there is no key third, only first, second"),
        (["remove", "first", "--yes"], "", "first signs: rotate, or let another one sign"),
    ],
)
def test_a_wrong_command_says_why_and_changes_nothing(
    keys: Path, arguments: list[str], given: str, problem: str
) -> None:
    """The file keeps every byte, and the error names the key or the line."""
    result = run(keys, *arguments, given=given)
    assert result.exit_code == 1
    assert problem in result.output
    assert keys.read_text() == TEXT
    assert [each.name for each in keys.parent.iterdir() if each.name.startswith(".")] == []


def test_remove_asks_and_takes_one_key_away(keys: Path) -> None:
    """What it signed is believed no more: that wants a yes."""
    refused = run(keys, "remove", "second", given="n\n")
    assert refused.exit_code == 1
    assert "will be judged without its score" in refused.output
    assert keys.read_text() == TEXT
    result = run(keys, "remove", "second", "--yes")
    assert result.exit_code == 0, result.output
    assert keys.read_text() == TEXT.replace(f"second {'s' * 64}\n", "")
    assert "nobody knows whether Rspamd's report secret is made of second" in result.output


def test_a_key_that_rspamd_still_uses_is_not_removed(keys: Path) -> None:
    """Without it the milter would believe no report, and no mail would carry a score."""
    rspamd = keys.parent / "milter_headers.conf"
    rspamd.write_text(f'local KEY = "{run(keys, "show", "second", "--report").output.strip()}"')
    listed = run(keys, "list", "--json", "--rspamd-file", str(rspamd))
    assert json.loads(listed.output) == [
        {"key_id": "first", "signs": True, "rspamd": False},
        {"key_id": "second", "signs": False, "rspamd": True},
    ]
    refused = run(keys, "remove", "second", "--yes", "--rspamd-file", str(rspamd))
    assert refused.exit_code == 1
    assert f"{rspamd}: Rspamd's report secret is made of second" in refused.output
    assert ids(keys) == ["first", "second"]
    forced = run(keys, "remove", "second", "--yes", "--force", "--rspamd-file", str(rspamd))
    assert forced.exit_code == 0
    assert ids(keys) == ["first"]


def test_list_says_what_each_key_is_for_without_its_secret(keys: Path) -> None:
    """Whether Rspamd uses one cannot be known if its file cannot be read."""
    result = run(keys, "list", "--rspamd-file", str(keys.parent / "missing"))
    assert [line.split() for line in result.output.splitlines()] == [
        ["key", "use", "Rspamd's", "report"],
        ["first", "signs", "?"],
        ["second", "verifies", "?"],
    ]


def test_the_first_key_of_a_host_makes_the_file(keys: Path) -> None:
    """A new file is for its owner only, and its one key signs."""
    keys.unlink()
    result = run(keys, "add", "--new")
    assert result.exit_code == 0, result.output
    assert "is the only key, so it signs, too" in result.output
    assert keys.stat().st_mode & 0o7777 == 0o600
    assert len(ids(keys)) == 1


def test_mode_owner_and_a_link_to_the_file_are_kept(keys: Path) -> None:
    """Services that could read the file before can read it afterwards, and nobody else can."""
    if os.geteuid() == 0:
        os.chown(keys, 12345, 23456)
    before = keys.stat()
    link = keys.parent / "link"
    link.symlink_to(keys)
    change_keys(link, lambda text: add_key(text, new_key(), signs=True))
    after = keys.stat()
    assert link.is_symlink()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )


def test_a_change_that_fails_leaves_the_old_file(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens while it is written, the file is the old one or the new one."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = run(keys, "rotate")
    assert result.exit_code == 1
    assert f"{keys}: key file cannot be changed: No space left on device" in result.output
    assert keys.read_text() == TEXT
    assert sorted(each.name for each in keys.parent.iterdir()) == ["keys", "mailhooks.toml"]


def test_keys_added_at_once_are_all_there(keys: Path) -> None:
    """Two administrators lose no key of each other's."""
    fresh = [new_key() for _ in range(8)]
    together = threading.Barrier(len(fresh))

    def add(key: Key) -> KeyRing:
        together.wait()
        return change_keys(keys, lambda text: add_key(text, key, signs=False))

    with ThreadPoolExecutor(len(fresh)) as pool:
        list(pool.map(add, fresh))
    assert set(load_keys(keys).keys) == {FIRST, SECOND, *fresh}
