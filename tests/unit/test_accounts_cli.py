from __future__ import annotations

import functools
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from argon2 import PasswordHasher
from click.testing import CliRunner

import mailhooks.accounts
from mailhooks.accounts import Accounts, hash_password, no_password
from mailhooks.accounts.database import Database
from mailhooks.accounts.password import checked_hash
from mailhooks.accounts.schema import MIGRATIONS, TYPES, metadata
from mailhooks.cli.mailcfg import main
from mailhooks.config import parse
from mailhooks.errors import AccountsError, AccountsUnavailable, ConfigError

if TYPE_CHECKING:
    from click.testing import Result

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PAGE = Path(__file__).resolve().parents[2] / "docs/accounts.md"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with one domain and one user; hashing is cheap."""
    monkeypatch.delenv("MAILCFG_DB", raising=False)
    cheap = functools.partial(hash_password, hasher=CHEAP)
    monkeypatch.setattr(mailhooks.accounts, "hash_password", cheap)
    url = f"sqlite:///{tmp_path}/accounts.sqlite"
    with Accounts(url) as accounts:
        accounts.migrate()
        accounts.add_domain("example.org")
        accounts.add_user("ann@example.org", no_password())
    return url


def run(*arguments: str, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


def test_the_database_is_that_of_the_option_then_the_environment_then_the_settings(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = run("lsuser")
    assert missing.exit_code == 2
    for way in ("--db", "MAILCFG_DB", "[accounts] database", "/etc/mailhooks/mailhooks.toml"):
        assert way in missing.output
    settings = tmp_path / "mailhooks.toml"
    settings.write_text(f'[accounts]\ndatabase = "{url}"\n')
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.sqlite"
    assert run("--config", str(settings), "lsuser").stdout == "ann@example.org\n"
    assert run("lsuser", "--config", str(settings)).stdout == "ann@example.org\n"
    monkeypatch.setenv("MAILCFG_DB", elsewhere)
    assert run("--config", str(settings), "lsuser").exit_code == 3
    for arguments in (["--db", url, "lsuser"], ["lsuser", "--db", url]):
        assert run(*arguments).stdout == "ann@example.org\n"
    monkeypatch.setenv("MAILCFG_DB", "")
    assert run("--config", str(settings), "lsuser").exit_code == 0
    assert run("--config", str(tmp_path / "none.toml"), "lsuser").exit_code == 2


@pytest.mark.parametrize(
    "url",
    ["accounts.sqlite", "sqlite://", "sqlite:///:memory:", "oracle://a:hidden@b/c", "a:hidden"],
)
def test_what_is_no_url_of_a_database_is_refused_without_repeating_a_password(url: str) -> None:
    result = run("--db", url, "lsuser")
    assert result.exit_code == 3
    assert "sqlite:////path/to/file" in result.output
    assert "hidden" not in result.output


@pytest.mark.parametrize(("kind", "driver"), [("postgresql", "psycopg"), ("mariadb", "pymysql")])
def test_a_missing_driver_is_named_by_what_installs_it(
    kind: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    result = run("--db", f"{kind}://a:hidden@b/c", "lsuser")
    assert result.exit_code == 3
    assert f"pip install 'mailhooks[{kind}]'" in result.output


def test_the_setting_is_checked_without_repeating_a_password() -> None:
    assert parse('[accounts]\ndatabase = "mariadb://a:b@c/d"').accounts.database.startswith("maria")
    with pytest.raises(ConfigError, match=r"accounts\.database: must be sqlite") as caught:
        parse('[accounts]\ndatabase = "oracle://a:hidden@b"')
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("stdin", "complaint"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("one\ntwo\n", "more than one line"),
        ("tab\there\n", "control characters"),
        (b"\xff\xfe\n", "not UTF-8"),
        ("ü" * 513, "longer than 1024"),
        ("a" * 5000, "longer than 1024"),
    ],
)
def test_a_password_nobody_could_use_is_refused(
    url: str, stdin: str | bytes, complaint: str
) -> None:
    for command in (["adduser", "bob@example.org"], ["passwd", "ann@example.org"]):
        result = run("--db", url, *command, stdin=stdin)
        assert result.exit_code == 1
        assert complaint in result.output
    assert run("--db", url, "lsuser").stdout == "ann@example.org\n"


def test_a_password_on_the_command_line_works_and_says_why_not_to(url: str) -> None:
    result = run("--db", url, "adduser", "bob@example.org", "geheim")
    assert result.exit_code == 0
    assert "list of processes" in result.stderr
    assert "history" in result.stderr
    assert "shorter than 8" in result.stderr
    assert "geheim" not in result.output
    assert run("--db", url, "adduser", "carl@example.org", stdin="long enough\n").stderr == ""


def test_no_password_is_asked_for_in_vain(url: str) -> None:
    """Who exists already, whose domain is not known or who is nobody: said before the question."""
    for arguments, status in (
        (["adduser", "ann@example.org"], 0),
        (["adduser", "ann@example.com"], 1),
        (["adduser", "nobody"], 1),
        (["passwd", "bob@example.org"], 1),
    ):
        result = run("--db", url, *arguments, stdin="one\ntwo\n")
        assert result.exit_code == status
        assert "more than one line" not in result.output


def test_lists_without_entries_are_json_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/accounts.sqlite"
    assert "made (schema version 1)" in run("--db", url, "initdb").stdout
    for command in ("lsuser", "lsalias", "lsdom"):
        assert json.loads(run("--db", url, command, "--json").stdout) == []


def test_what_another_program_stored_cannot_steer_the_terminal(url: str) -> None:
    with Accounts(url) as accounts, accounts.database.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO alias (source, destination) VALUES (?, 'x')", ("\x1b[2J",)
        )
    assert "\x1b" not in run("--db", url, "lsalias").stdout
    assert "\x1b" not in run("--db", url, "lsalias", "--json").stdout


def test_the_file_is_for_its_owner_and_group(url: str, tmp_path: Path) -> None:
    """It holds hashes; Postfix and Dovecot read it by the group, and need nothing beside it."""
    assert (tmp_path / "accounts.sqlite").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["accounts.sqlite"]
    with Accounts(url) as accounts, accounts.database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ann,\n" * 200)
    result = run("--db", f"sqlite:///{path}", "initdb")
    assert result.exit_code == 3
    assert "not a database" in result.output
    assert path.read_text() == "Dear Ann,\n" * 200


def test_an_old_schema_is_told_to_migrate(url: str) -> None:
    with Accounts(url) as accounts, accounts.database.writing() as connection:
        connection.exec_driver_sql("UPDATE mailcfg_schema SET version = 0")
    result = run("--db", url, "lsuser")
    assert result.exit_code == 3
    assert "schema version 0" in result.output
    assert "mailcfg initdb" in result.output
    assert run("--db", url, "initdb").exit_code == 0
    assert run("--db", url, "lsuser").stdout == "ann@example.org\n"


def test_an_error_holds_no_hash(url: str) -> None:
    """Not even the one a programmer sees: SQLAlchemy would show a statement's parameters."""
    with (
        pytest.raises(AccountsUnavailable) as caught,
        Accounts(url) as accounts,
        accounts.database.writing() as connection,
    ):
        connection.exec_driver_sql("INSERT INTO mailuser (password) VALUES (?)", ("{ARGON2ID}x",))
    assert "NOT NULL" in str(caught.value)
    assert "ARGON2ID" not in f"{caught.value} {caught.value.__cause__}"


def test_every_dialect_knows_every_word_of_the_migrations() -> None:
    """A misspelt type would only be found on the server it is for."""
    for words in TYPES.values():
        for statements in MIGRATIONS:
            for statement in statements:
                assert "{" not in statement.format_map(words)
    text = "".join(statement for statements in MIGRATIONS for statement in statements)
    for table in set(metadata.tables.values()) - {metadata.tables["mailcfg_schema"]}:
        for column in table.columns:
            assert re.search(rf"^\s+{column.name} ", text, flags=re.MULTILINE), column


@pytest.mark.parametrize(
    "good",
    [
        no_password(),
        hash_password("long enough", hasher=CHEAP),
        "{BLF-CRYPT}$2y$05$" + "a" * 53,
        "{SHA512-CRYPT}$6$saltsalt$" + "b" * 86,
    ],
)
def test_strong_hashes_made_elsewhere_are_taken(good: str) -> None:
    assert checked_hash(good) == good


@pytest.mark.parametrize(
    "bad",
    ["", "hello", "{PLAIN}hello", "{MD5}abc", "$2y$05$" + "a" * 53, "{BLF-CRYPT}hello", "{CRYPT}x"],
)
def test_weak_hashes_and_clear_text_are_refused_unseen(bad: str) -> None:
    with pytest.raises(AccountsError) as caught:
        checked_hash(bad)
    assert "hello" not in str(caught.value)
    with pytest.raises(AccountsError), Accounts("sqlite:////nowhere/x") as accounts:
        accounts.add_user("ann@example.org", bad)


def test_two_hashes_of_one_password_differ() -> None:
    assert hash_password("long enough", hasher=CHEAP) != hash_password("long enough", hasher=CHEAP)
    assert no_password() != no_password()


def test_a_database_object_names_no_password() -> None:
    assert "hidden" not in Database("postgresql://a:hidden@b/c").name


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_and_option_of_mailcfg_is_documented(name: str) -> None:
    """Somebody who reads only the documentation knows of each."""
    text = PAGE.read_text(encoding="utf-8")
    assert f"mailcfg {name}" in text
    command = main.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(f"`{each}" in text for each in parameter.opts if len(each) > 2), parameter
