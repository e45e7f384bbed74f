"""One contract on SQLite, PostgreSQL and MariaDB: every command, and what must hold."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import multiprocessing
import multiprocessing.pool
import os
import re
import select
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adder
import databases
import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from click.testing import CliRunner

import mailhooks.accounts
from mailhooks.accounts import Accounts, hash_password, no_password
from mailhooks.accounts import address as spelling
from mailhooks.accounts.database import Database
from mailhooks.accounts.schema import MIGRATIONS
from mailhooks.cli.mailcfg import main
from mailhooks.errors import AccountsError, AccountsUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
MAILCFG = Path(sys.executable).with_name("mailcfg")


@pytest.fixture
def url(empty_database: str) -> str:
    """A database with the schema."""
    assert adder.migrate(empty_database) == (0, len(MIGRATIONS))
    return empty_database


@pytest.fixture
def mailcfg(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run one command; no output of any of them may show a hash."""
    cheap = functools.partial(hash_password, hasher=CHEAP)
    monkeypatch.setattr(mailhooks.accounts, "hash_password", cheap)

    def run(*arguments: str, status: int = 0, stdin: str = "") -> Result:
        result = CliRunner().invoke(main, ["--db", url, *arguments], input=stdin)
        assert result.exit_code == status, (arguments, result.output, result.exception)
        assert "$" not in result.output
        return result

    return run


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What a query of Postfix or Dovecot would find."""
    with Accounts(url) as accounts, accounts.database.reading() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement)]


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that is stored, in one order."""
    tables = {
        "domain": "SELECT name FROM domain",
        "mailuser": "SELECT address, password, enabled FROM mailuser",
        "alias": "SELECT source, destination FROM alias",
    }
    return {name: sorted(rows(url, statement)) for name, statement in tables.items()}


def test_domains(mailcfg: Callable[..., Result]) -> None:
    """adddom, lsdom and rmdom, each once too often."""
    assert "set up" in mailcfg("adddom", "Bücher.example").output
    assert "already" in mailcfg("adddom", "xn--bcher-kva.example").output
    mailcfg("adddom", "example.org")
    mailcfg("adduser", "ann@example.org", stdin="long enough\n")
    listed = json.loads(mailcfg("lsdom", "--json").stdout)
    assert listed == [
        {"name": "example.org", "users": 1},
        {"name": "xn--bcher-kva.example", "users": 0},
    ]
    assert mailcfg("lsdom").stdout == "example.org\t1\nxn--bcher-kva.example\t0\n"
    mailcfg("adddom", "example.org", "--admin", "ann@example.org")
    assert len(mailcfg("lsalias", "example.org").stdout.splitlines()) == 8
    refused = mailcfg("rmdom", "example.org", status=1)
    assert "1 user and 8 aliases" in refused.output
    removed = mailcfg("rmdom", "example.org", "--force")
    assert "1 user" in removed.output
    assert mailcfg("lsuser").stdout == mailcfg("lsalias").stdout == ""
    assert "no such domain" in mailcfg("rmdom", "example.org", status=1).output
    mailcfg("rmdom", "bücher.example")
    assert mailcfg("lsdom", "--json").stdout == "[]\n"


def test_a_domain_and_its_system_aliases_are_one_change(
    mailcfg: Callable[..., Result], url: str
) -> None:
    """A refused administrator's address leaves no domain behind."""
    mailcfg("adddom", "example.org", "--admin", "ann@example.org", status=1)
    assert not any(everything(url).values())
    mailcfg("adddom", "example.org")
    mailcfg("adduser", "postmaster@example.org", stdin="long enough\n")
    mailcfg("adddom", "example.org", "--admin", "postmaster@example.org")
    assert ("postmaster@example.org", "postmaster@example.org") not in everything(url)["alias"]
    assert len(everything(url)["alias"]) == 7


def test_users(mailcfg: Callable[..., Result], url: str) -> None:
    """adduser, passwd, disable, enable, lsuser and rmuser, each once too often."""
    assert "mailcfg adddom" in mailcfg("adduser", "ann@example.org", "x", status=1).output
    mailcfg("adddom", "example.org")
    mailcfg("adddom", "example.net")
    mailcfg("adduser", "Ann@Example.org", stdin="correct horse\n")
    (before,) = rows(url, "SELECT password FROM mailuser")
    assert before[0].startswith("{ARGON2ID}$argon2id$v=19$")
    again = mailcfg("adduser", "ann@example.org", "another one")
    assert "already" in again.stdout
    assert "process" in again.stderr
    assert rows(url, "SELECT password FROM mailuser") == [before]
    mailcfg("passwd", "ann@example.org", stdin="battery staple\r\n")
    assert rows(url, "SELECT password FROM mailuser") != [before]
    mailcfg("adduser", "bob@example.net", stdin="correct horse")
    assert "disabled" in mailcfg("disable", "bob@example.net").stdout
    assert "already" in mailcfg("disable", "bob@example.net").stdout
    assert rows(url, "SELECT address FROM mailuser WHERE enabled = 1") == [("ann@example.org",)]
    assert mailcfg("lsuser").stdout == "ann@example.org\nbob@example.net\tdisabled\n"
    assert json.loads(mailcfg("lsuser", "EXAMPLE.net", "--json").stdout) == [
        {"address": "bob@example.net", "domain": "example.net", "enabled": False}
    ]
    assert "enabled" in mailcfg("enable", "bob@example.net").stdout
    assert "already" in mailcfg("enable", "bob@example.net").stdout
    for command in ("passwd", "rmuser", "enable", "disable"):
        missing = mailcfg(command, "carl@example.net", status=1, stdin="long enough\n")
        assert "carl@example.net: no such user" in missing.output
    mailcfg("lsuser", "example.com", status=1)
    mailcfg("rmuser", "bob@example.net")
    mailcfg("rmuser", "bob@example.net", status=1)
    assert mailcfg("lsuser").stdout == "ann@example.org\n"


def test_aliases(mailcfg: Callable[..., Result], url: str) -> None:
    """addalias, lsalias and rmalias: groups, catch-alls, other hosts, and what is refused."""
    mailcfg("adddom", "example.org")
    mailcfg("adddom", "example.net")
    for name in ("ann", "bob"):
        mailcfg("adduser", f"{name}@example.org", stdin="long enough\n")
    mailcfg("addalias", "all@example.org", "Bob@example.org")
    mailcfg("addalias", "all@example.org", "ann@example.org")
    assert "already" in mailcfg("addalias", "ALL@example.org", "ann@example.org").output
    mailcfg("addalias", "@example.net", "all@example.org")
    mailcfg("addalias", "away@example.net", "ann@elsewhere.example")
    mailcfg("addalias", "lists@example.org", "ann+lists@example.org")
    assert [line.split("\t")[1:] for line in mailcfg("lsalias").stdout.splitlines()] == [
        ["@example.net", "all@example.org"],
        ["all@example.org", "ann@example.org"],
        ["all@example.org", "bob@example.org"],
        ["away@example.net", "ann@elsewhere.example"],
        ["lists@example.org", "ann+lists@example.org"],
    ]
    before = everything(url)
    for source, destination, complaint in (
        ("x@example.com", "ann@example.org", "example.com: no such domain"),
        ("x@example.org", "nobody@example.org", "no user and no alias"),
        ("x@example.org", "x@example.org", "lead to itself"),
        ("bob@example.org", "all@example.org", "all@example.org -> bob@example.org"),
        ("ann@example.org", "lists@example.org", "would go round"),
        ("x@example.org", "@example.net", "not to a whole domain"),
    ):
        refused = mailcfg("addalias", source, destination, status=1)
        assert complaint in " ".join(refused.output.replace("mail would", "would").split())
    for arguments in (["rmuser", "bob@example.org"], ["rmalias", "all@example.org"]):
        refused = mailcfg(*arguments, status=1)
        assert "would bounce" in refused.output
    assert everything(url) == before
    note = mailcfg("addalias", "ann@example.org", "ann@elsewhere.example").stderr
    assert "the alias wins" in note
    assert mailcfg("addalias", "ann@example.org", "ann@example.org").stderr == ""


def test_aliases_are_removed_whole_or_by_number(mailcfg: Callable[..., Result]) -> None:
    """What would then bounce is refused, or goes too if forced; numbers are not used again."""
    mailcfg("adddom", "example.org")
    for name in ("ann", "bob"):
        mailcfg("adduser", f"{name}@example.org", stdin="long enough\n")
        mailcfg("addalias", "all@example.org", f"{name}@example.org")
    mailcfg("addalias", "everybody@example.org", "all@example.org")
    aliases = {each["destination"]: each["id"] for each in listed(mailcfg)}
    for option in ("-id", "--id"):
        mailcfg("rmalias", option, str(aliases["bob@example.org"]), status=int(option == "--id"))
    mailcfg("rmalias", "-id", str(aliases["ann@example.org"]), status=1)
    mailcfg("rmalias", status=2)
    mailcfg("rmalias", "all@example.org", "-id", "1", status=2)
    assert len(listed(mailcfg)) == 2
    removed = mailcfg("rmuser", "ann@example.org", "--force").output
    assert "all@example.org" in removed
    assert "everybody@example.org" in removed
    assert listed(mailcfg) == []
    mailcfg("rmalias", "all@example.org", status=1)
    mailcfg("addalias", "new@example.org", "bob@example.org")
    assert listed(mailcfg)[0]["id"] > max(aliases.values())
    # Mail for who is gone would fall to the catch-all, and go round.
    mailcfg("addalias", "@example.org", "new@example.org")
    assert "would go round" in mailcfg("rmuser", "bob@example.org", status=1).output
    mailcfg("rmalias", "@example.org")
    mailcfg("rmalias", "new@example.org")


def listed(mailcfg: Callable[..., Result]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(mailcfg("lsalias", "--json").stdout)
    return found


def test_a_list_is_applied(mailcfg: Callable[..., Result], url: str, tmp_path: Path) -> None:
    """What the plan shows is changed and nothing else, and no password is touched."""
    mailcfg("adddom", "old.example")
    mailcfg("adduser", "old@old.example", stdin="long enough\n")
    mailcfg("adddom", "example.org")
    mailcfg("adduser", "ann@example.org", stdin="long enough\n")
    (ann,) = rows(url, "SELECT password FROM mailuser WHERE address = 'ann@example.org'")
    path = tmp_path / "accounts.yaml"
    path.write_text(
        "admin: ann@example.org\ndomains: [example.org]\n"
        f"users: [{{address: ann@example.org, password_hash: '{no_password()}'}},"
        f" {{address: bob@example.org, password_hash: '{no_password()}'}}, carl@example.org]\n"
        "aliases: {'@example.org': [ann@example.org, bob@example.org]}\n"
    )
    before = everything(url)
    shown = mailcfg("apply", str(path), "--dry-run").stdout
    assert "- user   old@old.example\n- domain old.example\n" in shown
    assert "+ user   carl@example.org (no password yet)\n" in shown
    assert "+ alias  postmaster@example.org -> ann@example.org\n" in shown
    assert "ann@example.org" not in re.findall(r"user   (\S+)", shown)
    asked = mailcfg("apply", str(path), stdin="n\n", status=1)
    assert "3 removals" not in asked.output
    assert "2 removals" in asked.output
    assert everything(url) == before
    mailcfg("apply", str(path), "--keep", "--yes")
    assert {row[0] for row in rows(url, "SELECT name FROM domain")} == {
        "example.org",
        "old.example",
    }
    done = mailcfg("apply", str(path), stdin="y\n")
    assert "old.example" not in mailcfg("lsdom").stdout
    assert "nothing to change" in mailcfg("apply", str(path)).stdout
    assert rows(url, "SELECT password FROM mailuser WHERE address = 'ann@example.org'") == [ann]
    assert len(listed(mailcfg)) == 2 + 8
    assert "done" in done.output
    path.write_text("admin: gone@example.org\ndomains: [example.org]\n")
    assert "no user and no alias" in mailcfg("apply", str(path), "--yes", status=1).output
    assert mailcfg("lsuser").stdout.count("\n") == 3


def test_initdb_is_harmless_to_repeat_and_says_what_it_did(
    mailcfg: Callable[..., Result], url: str
) -> None:
    assert "up to date" in mailcfg("initdb").stdout
    before = everything(url)
    mailcfg("adddom", "example.org")
    mailcfg("initdb")
    assert everything(url) == before | {"domain": [("example.org",)]}


def test_help(mailcfg: Callable[..., Result]) -> None:
    """Help of everything, of one command, and of none that exists."""
    assert "adduser" in mailcfg("help").stdout
    assert "standard input" in mailcfg("help", "adduser").stdout
    mailcfg("help", "x'; DROP TABLE domain; --", status=2)


def test_before_initdb_every_command_says_so(empty_database: str) -> None:
    for command in (["lsuser"], ["lsdom"], ["adddom", "a.example"], ["rmuser", "a@a.example"]):
        result = CliRunner().invoke(main, ["--db", empty_database, *command])
        assert result.exit_code == 3
        assert "run mailcfg initdb" in result.output


def test_an_older_schema_migrates_with_its_rows_and_a_newer_one_is_refused(url: str) -> None:
    """The version is part of the change, and a failed migration changes neither."""
    with Accounts(url) as accounts:
        accounts.add_domain("example.org")
    database = Database(url)
    added = ("CREATE TABLE IF NOT EXISTS note (id {id}, words {text}){options}",)
    if not url.startswith("mariadb"):  # which commits each statement by itself
        with pytest.raises(AccountsUnavailable):
            database.migrate((*MIGRATIONS, (*added, "no such statement")))
        with database.reading() as connection:
            assert not sa.inspect(connection).has_table("note")
    assert database.migrate((*MIGRATIONS, added)) == (len(MIGRATIONS), len(MIGRATIONS) + 1)
    database.close()
    with Accounts(url) as accounts:
        for call in (accounts.migrate, lambda: accounts.add_domain("a.example")):
            with pytest.raises(AccountsUnavailable, match=r"version 2.*knows 1.*update mailhooks"):
                call()


def test_the_tables_of_another_program_are_left_alone(empty_database: str) -> None:
    """A database that holds a table called alias is not ours, whatever is in it."""
    database = Database(empty_database)
    if empty_database.startswith("sqlite"):
        Path(empty_database.removeprefix("sqlite:///")).touch()
    with database._transaction("IMMEDIATE") as connection:
        connection.exec_driver_sql("CREATE TABLE alias (address VARCHAR(10))")
    with pytest.raises(AccountsUnavailable, match="tables that mailcfg did not make"):
        database.migrate()
    database.close()


@pytest.fixture(scope="module")
def processes() -> Iterator[multiprocessing.pool.Pool]:
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        yield pool
        pool.close()
        pool.join()


def test_eight_processes_add_a_thousand_users_at_once(
    empty_database: str, processes: multiprocessing.pool.Pool
) -> None:
    """Many users are added by two of them: none is lost, and only one of the two is told so."""
    made = processes.map(adder.migrate, [empty_database] * 8, chunksize=1)
    assert sorted(made) == [(0, 1)] + [(1, 1)] * 7
    with Accounts(empty_database) as accounts:
        accounts.add_domain("example.org")
        users = [f"user{number:04}@example.org" for number in range(1000)]
        # The first of each part belong to the neighbour's, too.
        parts = [(users + users)[at : at + 150] for at in range(0, 1000, 125)]
        calls = [(empty_database, part) for part in parts]
        added = processes.starmap(adder.add, calls, chunksize=1)
        assert sorted(itertools.chain(*added)) == users
        assert [user.address for user in accounts.users()] == users


HOSTILE = (
    "'; DROP TABLE domain; --",
    '"; DROP TABLE domain; --',
    "x' OR '1'='1",
    "x'or'1'='1",
    "a'||(SELECT/**/password)||'",
    "\\'; DROP TABLE mailuser; #",
    "%s%(x)s:x?{0}$1",
    "%",
    "_",
    "a" * 100_000,
    "\N{CYRILLIC SMALL LETTER A}nn",
    "\N{CYRILLIC SMALL LETTER A}",
    "\N{FULLWIDTH LATIN SMALL LETTER A}nn",
    "ann\N{ZERO WIDTH SPACE}",
    "\N{RIGHT-TO-LEFT OVERRIDE}nna",
    "ann\0",
    "ann\n",
    "ann\x1b[2J",
    "\udcff",
    "\U0001f600",
    "1; SELECT pg_sleep(9)",
    "../../etc/passwd",
    "-1",
    "a b",
)
FORMS = ("{}", "{}@example.org", "ann@example.org{}", "@{}")


def templates(mailcfg: Callable[..., Result]) -> Iterator[list[str]]:
    """Every argument of every command, one at a time."""
    number = str(listed(mailcfg)[0]["id"])
    for command in ("adddom", "rmdom", "lsuser", "lsalias", "lsdom", "help", "apply"):
        yield [command, "--", "?"]
    for command in ("adduser", "passwd"):
        yield [command, "--", "?", "a password"]
    for command in ("rmuser", "disable", "enable", "rmalias"):
        yield [command, "--", "?"]
    yield ["addalias", "--", "?", "ann@example.org"]
    yield ["addalias", "--", "other@example.org", "?"]
    yield ["adddom", "example.org", "--admin", "?"]
    yield ["rmalias", "-id", f"{number}?"]


def test_hostile_input_is_refused_or_stored_exactly(
    mailcfg: Callable[..., Result], url: str
) -> None:
    """Whatever an argument holds, only what was meant changes, and only by an address as typed."""
    mailcfg("adddom", "example.org")
    for name in ("ann", "zoe"):
        mailcfg("adduser", f"{name}@example.org", "a password")
    mailcfg("addalias", "info@example.org", "ann@example.org")
    before = everything(url)
    stored = 0
    for template in templates(mailcfg):
        for text in dict.fromkeys(form.format(each) for form in FORMS for each in HOSTILE):
            if template[0] == "apply" and "\0" in text:
                continue  # no system call takes it, so no program can be given it
            result = CliRunner().invoke(
                main, ["--db", url, *(word.replace("?", text) for word in template)]
            )
            assert result.exit_code in (0, 1, 2), (template, text, result.output)
            assert result.exception is None or isinstance(result.exception, SystemExit)
            assert all(char.isprintable() or char in "\n\t" for char in result.output)
            assert len(result.output) < 5000
            if result.exit_code or template[0] in ("help", "lsdom", "lsuser", "lsalias"):
                continue
            now = everything(url)
            new = {value for table in now for row in now[table] for value in row} - {
                value for table in before for row in before[table] for value in row
            }
            typed = {spelling.source(text)} if "@" in text else {spelling.domain(text)}
            assert new - {"other@example.org"} <= typed | {
                f"{name}@example.org" for name in mailhooks.accounts.SYSTEM_NAMES
            } | {password for _, password, _ in now["mailuser"]}, (template, text)
            stored += bool(new & typed)
            restore(url, before)
    assert stored >= 8
    assert everything(url) == before


def restore(url: str, before: dict[str, list[tuple[Any, ...]]]) -> None:
    """Take back what a command was right to do."""
    now = everything(url)
    kept = {row[0] for row in before["domain"]}
    with Accounts(url) as accounts:
        for source in {row[0] for row in set(now["alias"]) - set(before["alias"])}:
            accounts.remove_alias(source, force=True)
        for row in set(now["mailuser"]) - set(before["mailuser"]):
            accounts.remove_user(row[0], force=True)
        for (name,) in now["domain"]:
            if name not in kept:
                accounts.remove_domain(name, force=True)
    assert everything(url) == before


PAGE = Path(__file__).resolve().parents[2] / "docs/accounts.md"


def test_the_documented_questions_of_postfix_and_dovecot_find_what_they_shall(url: str) -> None:
    """A catch-all takes no user's mail, and who is disabled gets none and does not log in."""
    block = PAGE.read_text(encoding="utf-8").partition("```sql\n")[2].partition("```")[0]
    parts = re.split(r"^-- (.*)\n", block, flags=re.MULTILINE)[1:]
    questions = {title.split(",")[1].split(":")[0].strip(): sql for title, sql in batched(parts)}

    def ask(which: str, value: str) -> list[str]:
        statement = re.sub("%[su]", value, questions[which])
        return sorted(row[0] for row in rows(url, statement))

    with Accounts(url) as accounts:
        accounts.add_domain("example.org")
        for name in ("ann", "bob", "carl"):
            accounts.add_user(f"{name}@example.org", no_password(), enabled=name != "carl")
        accounts.add_alias("@example.org", "ann@example.org")
        accounts.add_alias("bob@example.org", "bob@example.org")
        accounts.add_alias("bob@example.org", "ann@example.org")
    assert ask("virtual_mailbox_domains", "example.org") == ["example.org"]
    assert ask("virtual_mailbox_domains", "example.com") == []
    assert ask("virtual_mailbox_maps", "ann@example.org") == ["ann@example.org"]
    assert ask("virtual_mailbox_maps", "carl@example.org") == []
    assert ask("virtual_alias_maps", "ann@example.org") == ["ann@example.org"]
    assert ask("virtual_alias_maps", "carl@example.org") == ["carl@example.org"]
    assert ask("virtual_alias_maps", "@example.org") == ["ann@example.org"]
    assert ask("virtual_alias_maps", "x@example.org") == []
    assert ask("virtual_alias_maps", "bob@example.org") == ["ann@example.org", "bob@example.org"]
    assert ask("password_query", "bob@example.org") == ["bob@example.org"]
    assert ask("password_query", "carl@example.org") == []
    assert len(ask("iterate_query", "")) == 3


def batched(parts: list[str]) -> Iterator[tuple[str, str]]:
    """Two at a time."""
    return zip(parts[::2], parts[1::2], strict=True)


def test_text_compares_byte_by_byte(url: str) -> None:
    """Neither accents nor letters that sort alike make two addresses one."""
    with Accounts(url) as accounts:
        accounts.add_domain("example.org")
        accounts.add_user("ann@example.org", no_password())
        names = [f"{name}@example.org" for name in ("a", "ä", "ss", "z", "å", "0", "_")]
        for name in names:
            assert accounts.add_alias(name, "ann@example.org").changed
        assert [each.source for each in accounts.aliases()] == sorted(names)


@contextmanager
def statements(accounts: Accounts) -> Iterator[list[tuple[str, Any]]]:
    """What is sent to the database meanwhile."""
    found: list[tuple[str, Any]] = []

    def note(*event: Any) -> None:
        found.append((event[2], event[3]))

    sa.event.listen(accounts.database._engine, "before_cursor_execute", note)
    yield found
    sa.event.remove(accounts.database._engine, "before_cursor_execute", note)


def test_a_list_is_read_page_by_page_and_keeps_nobody_from_writing(url: str) -> None:
    """The first users come before the last are read; meanwhile others come and go."""
    with Accounts(url) as accounts, Accounts(url) as other:
        databases.fill(accounts, 2500)
        for read in (accounts.users, functools.partial(accounts.users, "example.org")):
            with statements(accounts) as sent:
                users = read()
                first = next(users)
                assert len([sql for sql, _ in sent if "LIMIT" in sql]) == 1
                other.set_enabled(first.address, enabled=False)
                other.add_user("zoe@example.org", no_password())
                other.remove_user("zoe@example.org")
                rest = [user.address for user in users]
                assert len([sql for sql, _ in sent if "LIMIT" in sql]) == 3
            assert rest == [f"user{each:06}@example.org" for each in range(1, 2500)]
        assert len(list(accounts.users(enabled_only=True))) == 2499
        with statements(accounts) as sent:
            aliases = list(accounts.aliases())
            assert len([sql for sql, _ in sent if "LIMIT" in sql]) == 3
        assert len({each.id for each in aliases}) == 2500
        assert [each.source for each in aliases] == sorted(each.source for each in aliases)


def test_no_command_for_one_user_reads_a_whole_table(url: str) -> None:
    """Every statement of such a command finds its rows by an index, whatever the size."""
    name = "user001234@example.org"
    with Accounts(url) as accounts:
        databases.fill(accounts, 3000)
        with accounts.database.writing() as connection:
            for table in ("mailuser", "alias"):
                is_mariadb = connection.dialect.name == "mysql"
                connection.exec_driver_sql(f"ANALYZE {'TABLE ' * is_mariadb}{table}")
        with statements(accounts) as sent:
            accounts.add_user("new@example.org", no_password())
            accounts.user(name)
            accounts.set_password(name, no_password())
            accounts.set_enabled(name, enabled=False)
            accounts.add_alias("new+a@example.org", name)
            accounts.add_alias(f"alias.{name}", "new@example.org")
            accounts.remove_alias("new+a@example.org")
            accounts.remove_alias(f"alias.{name}")
            accounts.remove_user(name)
        with accounts.database.reading() as connection:
            checked = 0
            for sql, parameters in dict(sent).items():
                if re.search(r"(FROM|UPDATE) (mailuser|alias)\b", sql):
                    checked += 1
                    assert not whole_tables(connection, sql, parameters), sql
            assert checked > 8


def whole_tables(connection: sa.Connection, sql: str, parameters: Any) -> list[str]:
    """What a database says it would read from one end to the other."""
    if connection.dialect.name == "sqlite":
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
        return [row[3] for row in plan if row[3].startswith("SCAN")]
    if connection.dialect.name == "mysql":
        plan = connection.exec_driver_sql(f"EXPLAIN {sql}", parameters)
        return [row.type for row in plan if row.type in ("ALL", "index") and row.table != "domain"]
    plan = connection.exec_driver_sql(f"EXPLAIN {sql}", parameters)
    return [row[0] for row in plan if re.search("Seq Scan on (mailuser|alias)", row[0])]


def terminal(url: str, *arguments: str, typed: list[str]) -> tuple[int, str]:
    """Run the installed program on a terminal of its own, and type an answer to each prompt."""
    master, slave = os.openpty()
    process = subprocess.Popen(
        ["/usr/bin/setsid", "--ctty", "--wait", MAILCFG, *arguments],
        env=os.environ | {"MAILCFG_DB": url},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    seen = b""
    answers = list(typed)
    with suppress(OSError):  # the terminal's end
        while select.select([master], [], [], 60)[0]:
            part = os.read(master, 1000)
            if not part:
                break
            seen += part
            if answers and len(typed) - len(answers) < len(re.findall(b"(?:word|ation): ", seen)):
                os.write(master, f"{answers.pop(0)}\n".encode())
    os.close(master)
    return process.wait(60), seen.decode()


def test_the_program_asks_for_a_password_twice_and_does_not_show_it(tmp_path: Path) -> None:
    """What Dovecot then verifies is what was typed."""
    url = f"sqlite:///{tmp_path}/accounts.sqlite"
    for arguments in (["initdb"], ["adddom", "example.org"]):
        done = subprocess.run(
            [MAILCFG, "--db", url, *arguments], check=True, capture_output=True, text=True
        )
        assert done.stderr == ""
    typed = ["first try 1", "first typo", "correct hörse", "correct hörse"]
    status, seen = terminal(url, "adduser", "ann@example.org", typed=typed)
    assert status == 0, seen
    assert "do not match" in seen
    assert "ann@example.org: added" in seen
    assert not any(word in seen for word in [*typed, "$argon2"])
    ((stored,),) = rows(url, "SELECT password FROM mailuser")
    assert dovecot_verifies(stored, "correct hörse")
    assert not dovecot_verifies(stored, "first try 1")


def dovecot_verifies(stored: str, password: str) -> bool:
    """Whether Dovecot lets somebody in."""
    doveadm = shutil.which("doveadm")
    assert doveadm
    command = [doveadm, "pw", "-t", stored, "-p", password]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "verified" in done.stdout or "verified" in done.stderr or done.returncode
    return done.returncode == 0


def test_dovecot_reads_our_hashes_and_lets_nobody_in_without_a_password() -> None:
    """Hashes of the real cost, too long ones, and those that belong to no password."""
    for password in ("correct horse", "ü" * 512, " lead and trail ", "{PLAIN}x"):
        hashed = hash_password(password)
        assert dovecot_verifies(hashed, password)
        assert not dovecot_verifies(hashed, password + "x")
    assert not dovecot_verifies(no_password(), "")
    assert not dovecot_verifies(no_password(), "correct horse")


# PyMySQL leaves it to the garbage collector to close a socket that met nobody.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_server_that_is_away_is_told_from_a_refusal(tmp_path: Path) -> None:
    """Exit status 3, with the reason and without the URL's password."""
    for url in (
        f"postgresql://mailcfg:hidden@/accounts?host={tmp_path}",
        f"mariadb://mailcfg:hidden@localhost/accounts?unix_socket={tmp_path}/none",
        f"sqlite:///{tmp_path}/none/accounts.sqlite",
    ):
        for command in ("initdb", "lsuser"):
            result = CliRunner().invoke(main, [command, "--db", url])
            assert result.exit_code == 3, result.output
            assert result.output.startswith(f"Error: database {url.split(':', maxsplit=1)[0]}")
            assert "hidden" not in result.output
    gc.collect()


def test_two_writers_at_once_wait_for_each_other(url: str) -> None:
    """Halves of a loop added at the same moment: the second one sees the first."""
    with Accounts(url) as accounts:
        accounts.add_domain("example.org")
        for name in "ab":
            accounts.add_user(f"{name}@example.org", no_password())
        with multiprocessing.pool.ThreadPool(2) as pool:

            def half(pair: tuple[str, str]) -> bool:
                with Accounts(url) as other, suppress(AccountsError):
                    return other.add_alias(*pair).changed
                return False

            ways = [("a@example.org", "b@example.org"), ("b@example.org", "a@example.org")]
            for _ in range(5):
                assert sorted(pool.map(half, ways, chunksize=1)) == [False, True]
                (alias,) = accounts.aliases()
                accounts.remove_alias_number(alias.id)
