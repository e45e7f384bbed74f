"""What `make matrix` makes of what pytest and the servers say."""

from __future__ import annotations

import re

import pytest

from matrix.results import Generation, Suite, read_junit, table, total, version_of

JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="5" errors="1" failures="1" skipped="1">
<testcase classname="tests.e2e.test_a" name="test_good" time="0.1"/>
<testcase classname="tests.e2e.test_a" name="test_bad"><failure message="no"/></testcase>
<testcase classname="tests.e2e.test_a" name="test_bad"><error message="end"/></testcase>
<testcase classname="tests.e2e.test_b" name="test_not"><skipped message="no corpus"/></testcase>
<testcase classname="tests.e2e.test_b" name="test_too"/>
</testsuite></testsuites>
"""
GOOD = '<testsuites><testsuite><testcase classname="a" name="b"/></testsuite></testsuites>'


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("3.7.11\n", "3.7.11"),
        ("2.3.19.1 (9b53102964)\n", "2.3.19.1"),
        ("Rspamd daemon version 3.12.1\n\nCPU architecture x86_64; features: avx2", "3.12.1"),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0", "7.0.15"),
        ("Python 3.14.7", "3.14.7"),
        ("", ""),
    ],
)
def test_versions_are_found_in_what_programs_say(said: str, version: str) -> None:
    """Whatever stands before and behind them."""
    assert version_of(said) == version


def test_each_test_counts_once() -> None:
    """Also one that failed, and failed at its end again."""
    suite = read_junit(JUNIT, 1, 2.5)
    assert suite == Suite(2, ("tests.e2e.test_a::test_bad",), {"no corpus": 1}, 2.5)
    assert not suite.ok
    assert str(suite) == "1 FAILED, 2 passed, 1 skipped"


@pytest.mark.parametrize(
    ("text", "status", "error"),
    [
        ("", 2, "pytest ended with status 2 and ran no test"),
        ("<testsuites/>", 5, "pytest ended with status 5 and ran no test"),
        (GOOD, 3, "pytest ended with status 3, though no test failed"),
        ("<testsuites>", 0, "its JUnit file cannot be read"),
    ],
)
def test_a_run_without_a_result_is_no_success(text: str, status: int, error: str) -> None:
    """No file, no test, half a file, a crash at the end."""
    suite = read_junit(text, status, 1.0)
    assert not suite.ok
    assert error in suite.error
    assert str(suite).startswith("ERROR")


def test_a_suite_in_which_every_test_was_skipped_is_no_success() -> None:
    """It has shown nothing."""
    assert not Suite(skipped={"no servers": 3}).ok
    assert read_junit(GOOD, 0, 1.0).ok


def test_a_generation_is_good_if_every_suite_is() -> None:
    """And only if it could be made."""
    good = Suite(3)
    assert Generation("12", suites={"setup": good, "e2e": good}).ok
    assert not Generation("12", suites={"setup": good, "e2e": Suite(2, ("a::b",))}).ok
    assert not Generation("12", suites={"setup": good}, error="no mirror").ok
    assert not Generation("12").ok


def test_the_table_has_a_row_for_each_generation_and_names_what_is_not_good() -> None:
    """A suite that one of them did not get to is a dash."""
    versions = dict.fromkeys(("postfix", "dovecot", "rspamd", "redis", "python"), "-")
    versions |= {"postfix": "3.7.11", "dovecot": "2.3.19.1", "python": "3.11.2"}
    bad = Suite(2, ("a::b",), {"no corpus": 2})
    found = [
        Generation("12", versions, {"setup": Suite(4), "e2e": bad}, 61.7),
        Generation("13", {}, {"setup": Suite(error="no result")}, 5, "no mirror"),
    ]
    assert total(found) == "6 passed, 3 failed, 2 skipped"
    rows = [re.split("  +", line) for line in table(found).splitlines()]
    assert rows[0] == ["Debian", *versions, "setup", "e2e", "seconds"]
    assert rows[2] == [
        *("12", "3.7.11", "2.3.19.1", "-", "-", "3.11.2"),
        *("4 passed", "1 FAILED, 2 passed, 2 skipped", "62"),
    ]
    assert rows[3] == ["13", *"-----", "ERROR, 0 passed", "-", "5"]
    assert rows[4:] == [
        [""],
        ["Debian 12, e2e: FAILED a::b"],
        ["Debian 12, e2e: 2 skipped: no corpus"],
        ["Debian 13: no mirror"],
        ["Debian 13, setup: no result"],
    ]
