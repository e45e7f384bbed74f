from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.accounts import address
from mailhooks.errors import AccountsError


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("example.org", "example.org"),
        ("EXAMPLE.Org", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\N{COMBINING DIAERESIS}cher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("пример.рф", "xn--e1afmkfd.xn--p1ai"),
        # A confusable domain is legal; its A-label cannot be taken for another.
        ("p\N{CYRILLIC SMALL LETTER A}ypal.example", "xn--pypal-4ve.example"),
    ],
)
def test_a_domain_is_stored_as_its_a_label(typed: str, stored: str) -> None:
    assert address.domain(typed) == stored


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "localhost",
        "example.org.",
        ".example.org",
        "a..example",
        "-a.example",
        "a_b.example",
        "a b.example",
        "a.example\n",
        "a\0.example",
        "192.0.2.1",
        "[192.0.2.1]",
        "*.example",
        "a.example;drop",
        "\N{FULLWIDTH LATIN SMALL LETTER A}.example",
        "a\N{IDEOGRAPHIC FULL STOP}example",
        "a\N{RIGHT-TO-LEFT OVERRIDE}b.example",
        "a\N{ZERO WIDTH SPACE}b.example",
        "xn--a.example",
        "\udcff.example",
        "a" * 64 + ".example",
        "a." * 125 + "example",
    ],
)
def test_what_is_no_domain_is_refused(typed: str) -> None:
    with pytest.raises(AccountsError, match="is no domain"):
        address.domain(typed)


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("Ann@Example.ORG", "ann@example.org"),
        ("o'brien+x@example.org", "o'brien+x@example.org"),
        ("x'or'1'='1@example.org", "x'or'1'='1@example.org"),
        ("björn@bücher.example", "björn@xn--bcher-kva.example"),
        ("bjo\N{COMBINING DIAERESIS}rn@example.org", "björn@example.org"),
        ("山田tarou@example.org", "山田tarou@example.org"),
        ("a" * 64 + "@example.org", "a" * 64 + "@example.org"),
    ],
)
def test_an_address_has_one_spelling(typed: str, stored: str) -> None:
    assert address.address(typed) == stored


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "ann",
        "@",
        "ann@",
        "ann@localhost",
        "a@b@example.org",
        ".ann@example.org",
        "ann.@example.org",
        "a..b@example.org",
        "-ann@example.org",
        '"ann b"@example.org',
        "ann b@example.org",
        " ann@example.org",
        "ann\t@example.org",
        "ann\r\nRCPT TO:<x>@example.org",
        "ann\0@example.org",
        "ann\x1b[31m@example.org",
        "ann%x@example.org",
        "x!ann@example.org",
        "a;b@example.org",
        "a,b@example.org",
        "<ann@example.org>",
        "a\\b@example.org",
        "a" * 65 + "@example.org",
        "ü" * 33 + "@example.org",
        f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 20}.example",
        "\N{CYRILLIC SMALL LETTER A}nn@example.org",
        "\N{FULLWIDTH LATIN SMALL LETTER A}nn@example.org",
        "\N{LATIN SMALL LIGATURE FI}@example.org",
        "gro\N{LATIN SMALL LETTER SHARP S}@example.org",
        "\N{LATIN CAPITAL LETTER A WITH DIAERESIS}@example.org",
        "\N{COMBINING DIAERESIS}a@example.org",
        "a\N{RIGHT-TO-LEFT OVERRIDE}b@example.org",
        "a\N{ZERO WIDTH JOINER}b@example.org",
        "a\N{SOFT HYPHEN}b@example.org",
        "a\N{NO-BREAK SPACE}b@example.org",
        "\N{GRINNING FACE}@example.org",
        "a\ue000b@example.org",
        "a\udcffb@example.org",
    ],
)
def test_what_is_no_address_or_looks_like_another_is_refused(typed: str) -> None:
    with pytest.raises(AccountsError, match=r"is no (address|domain)"):
        address.address(typed)


@given(st.text(max_size=90))
def test_spelling_twice_changes_nothing_and_nothing_invisible_is_let_through(local: str) -> None:
    """Whatever is typed is refused with a reason, or stored in a form that is stable and seen."""
    try:
        stored = address.address(f"{local}@example.org")
    except AccountsError as error:
        assert str(error).isascii()
        assert str(error).isprintable()
        return
    assert address.address(stored) == stored
    assert stored.isprintable()
    assert unicodedata.normalize("NFKC", stored).casefold() == stored


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("ann+x@example.org", "extension"),
        ("o'brien@example.org", "auth_username_chars"),
        ("björn@example.org", "auth_username_chars"),
    ],
)
def test_nobody_gets_an_account_that_could_not_be_logged_in_to(typed: str, reason: str) -> None:
    assert address.address(typed) == typed
    with pytest.raises(AccountsError, match=reason):
        address.account(typed)


def test_a_catch_all_is_a_source_and_no_destination() -> None:
    assert address.source("@Example.org") == "@example.org"
    with pytest.raises(AccountsError, match="not to a whole domain"):
        address.destination("@example.org")


def test_what_is_shown_of_an_input_is_short_and_printable() -> None:
    assert address.shown("ann@example.org") == "ann@example.org"
    assert address.shown("a\x1b[31m\u202e\udcff") == r"'a\x1b[31m\u202e\udcff'"
    assert len(address.shown("ü" * 100_000)) < 600


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("ann+x+y@example.org", "ann@example.org"),
        ("ann@example.org", "ann@example.org"),
        ("+x@example.org", "+x@example.org"),
        ("@example.org", "@example.org"),
    ],
)
def test_an_extension_is_what_follows_the_first_plus(given: str, base: str) -> None:
    assert address.without_extension(given) == base
