from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailhooks.accounts import SYSTEM_NAMES
from mailhooks.accounts.declared import Declared, Plan, Present, load, plan
from mailhooks.errors import AccountsError

if TYPE_CHECKING:
    from pathlib import Path

HASH = "{BLF-CRYPT}$2y$05$" + "a" * 53
BASE = "admin: a@b.example\ndomains: [a.example]\n"
YAML = f"""
admin: ann@example.org
domains:
  - example.org
  - {{name: bücher.example, admin: bob@example.org}}
users:
  - Ann@example.org
  - {{address: bob@example.org, enabled: false, password_hash: "{HASH}"}}
aliases:
  info@example.org: [ann@example.org, bob@example.org]
  root@example.org: bob@example.org
  "@bücher.example": ann@example.org
"""
TOML = f"""
admin = "ann@example.org"
domains = ["example.org", {{ name = "bücher.example", admin = "bob@example.org" }}]
users = [
    "Ann@example.org",
    {{ address = "bob@example.org", enabled = false, password_hash = "{HASH}" }},
]
[aliases]
"info@example.org" = ["ann@example.org", "bob@example.org"]
"root@example.org" = "bob@example.org"
"@bücher.example" = "ann@example.org"
"""


def read(tmp_path: Path, text: str, name: str = "accounts.yaml") -> Declared:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_yaml_and_toml_declare_the_same(tmp_path: Path) -> None:
    declared = read(tmp_path, YAML)
    assert declared == read(tmp_path, TOML, "accounts.toml")
    assert declared.domains == {"example.org", "xn--bcher-kva.example"}
    assert declared.users == {"ann@example.org": ("", None), "bob@example.org": (HASH, False)}


def test_each_domain_gets_the_system_aliases_to_its_admin_unless_the_name_is_taken(
    tmp_path: Path,
) -> None:
    aliases = read(tmp_path, YAML).aliases
    for name in set(SYSTEM_NAMES) - {"root"}:
        assert (f"{name}@example.org", "ann@example.org") in aliases
        assert (f"{name}@xn--bcher-kva.example", "bob@example.org") in aliases
    assert [to for source, to in aliases if source == "root@example.org"] == ["bob@example.org"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "domains: none is named"),
        ("[]", "Expected `object`, got `array`"),
        ("domains: [example.org", "not YAML"),
        ("domains: [example.org]", "admin: missing"),
        ("admin: nobody\ndomains: [example.org]", "admin: nobody is no address"),
        ("admin: a@b.example\ndomain: [example.org]", "unknown field `domain`"),
        ("admin: a@b.example\ndomains: [a.example, A.example]", r"domains\[1\]: .* twice"),
        ("admin: a@b.example\ndomains: [no dot]", r"domains\[0\]: 'no dot'|no dot is no domain"),
        ("admin: a@b.example\ndomains: [1]", r"domains\[\.*0?\]"),
        (
            BASE + "users: [x@b.example]",
            r"users\[0\]: b.example is not among the domains",
        ),
        (
            BASE + "users: [x@a.example, X@a.example]",
            r"users\[1\]: x@a.example is there twice",
        ),
        (
            BASE + "users: [{address: x@a.example, password: hello}]",
            "unknown field `password`",
        ),
        (
            BASE + "users: [{address: x@a.example, password_hash: hello}]",
            r"users\[0\].password_hash: a password hash is",
        ),
        (
            BASE + "aliases: {x@a.example: a@b.example, x@a.example: c@b.example}",
            "'x@a.example' is there twice",
        ),
        (
            BASE + "aliases: {x@a.example: a@b.example, X@a.example: c@b.example}",
            r"aliases\[X@a.example\]: x@a.example is there twice",
        ),
        (
            BASE + "aliases: {x@a.example: [c@b.example, C@b.example]}",
            "c@b.example is there twice",
        ),
        (BASE + "aliases: {x@a.example: []}", "leads nowhere"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(AccountsError, match=complaint) as caught:
        read(tmp_path, text)
    assert "accounts.yaml: " in str(caught.value)
    assert "hello" not in str(caught.value)


def test_all_that_is_wrong_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(AccountsError) as caught:
        read(tmp_path, "admin: x\ndomains: [a]\nusers: [b]\naliases: {c: d}")
    assert len(str(caught.value).splitlines()) >= 4


@pytest.mark.parametrize("name", ["accounts.txt", "accounts.toml"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AccountsError, match=r"must end in|not TOML"):
        read(tmp_path, "admin: x", name)
    with pytest.raises(AccountsError, match="cannot be read"):
        load(tmp_path / "gone.yaml")


def declared(users: dict[str, tuple[str, bool | None]], aliases: set[tuple[str, str]]) -> Declared:
    return Declared(frozenset({"example.org"}), users, frozenset(aliases))


ANN, BOB, INFO = (f"{name}@example.org" for name in ("ann", "bob", "info"))


def test_a_plan_adds_changes_and_removes() -> None:
    present = Present(
        frozenset({"old.example"}), {BOB: True, "x@old.example": True}, frozenset({(INFO, BOB)})
    )
    wanted = declared({ANN: ("", None), BOB: (HASH, False)}, {(INFO, ANN)})
    found = plan(wanted, present)
    assert list(found.lines()) == [
        f"- alias  {INFO} -> {BOB}",
        "- user   x@old.example",
        "- domain old.example",
        "+ domain example.org",
        f"+ user   {ANN} (no password yet)",
        f"~ user   {BOB}: disable",
        f"+ alias  {INFO} -> {ANN}",
    ]
    assert found.removals == 3
    kept = plan(wanted, present, keep=True)
    assert kept.removals == 0
    assert kept.add_users == found.add_users


def test_what_is_so_already_needs_no_plan_and_a_disabled_user_stays_disabled() -> None:
    present = Present(frozenset({"example.org"}), {ANN: False}, frozenset())
    assert plan(declared({ANN: (HASH, None)}, set()), present) == Plan()
    assert not plan(declared({ANN: (HASH, None)}, set()), present)
    assert plan(declared({ANN: (HASH, True)}, set()), present).set_enabled == ((ANN, True),)


def test_a_list_that_would_lose_mail_is_refused() -> None:
    with pytest.raises(AccountsError) as caught:
        plan(declared({}, {(INFO, ANN), (BOB, "b@example.org"), ("b@example.org", BOB)}), Present())
    assert f"{ANN}, which is no user and no alias" in str(caught.value)
    assert f"b@example.org -> {BOB} -> b@example.org" in str(caught.value)
    plan(declared({ANN: ("", None)}, {(INFO, ANN)}), Present())
