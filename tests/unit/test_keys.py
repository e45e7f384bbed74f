from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailhooks.errors import ConfigError
from mailhooks.keys import KeyRing, format_keys, load_keys, new_key, parse_keys

if TYPE_CHECKING:
    from pathlib import Path


def test_a_key_file_reads_back_as_it_was_written() -> None:
    """The first key signs, and all are found by their ids."""
    ring = KeyRing((new_key(), new_key()))
    again = parse_keys(format_keys(ring))
    assert again == ring
    assert again.signing == ring.keys[0]
    assert again.find(ring.keys[1].key_id) == ring.keys[1]
    assert again.find("other") is None


def test_a_secret_stays_out_of_a_repr() -> None:
    """A key that lands in a log or traceback does not give itself away."""
    key = new_key()
    assert key.secret.decode() not in repr(KeyRing((key,)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no key"),
        ("# only a comment\n", "holds no key"),
        ("one\n", "line 1: expected 'key-id secret'"),
        ("a b c\n", "line 1: expected 'key-id secret'"),
        ("\nk! " + "s" * 64, "line 2: expected 'key-id secret'"),
        ("a short", "line 1: the secret of a is shorter than 32 ASCII characters"),
        (f"a {'s' * 64}\na {'t' * 64}", "line 2: key id a is there twice"),
    ],
)
def test_a_wrong_line_is_named(text: str, problem: str) -> None:
    """The error says which line is wrong and why, and never shows a secret."""
    with pytest.raises(ConfigError) as caught:
        parse_keys(text, "/keys")
    assert caught.value.problems == [problem]
    assert "/keys: " in str(caught.value)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    """The error names the file that cannot be read."""
    with pytest.raises(ConfigError, match="key file cannot be read: No such file"):
        load_keys(tmp_path / "keys")
