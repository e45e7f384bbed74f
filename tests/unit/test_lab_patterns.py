"""When Rspamd finds the same words in a text at every scan, by its own log."""

from __future__ import annotations

from mailhooks.lab.patterns import uncompiled

START = "2026-11-23 03:55:50 #185(main) <247a6f>; main: rspamd 4.1.5 is loading configuration\n"
QUEUED = (
    "2026-11-23 03:55:51 #185(main) rspamd_multipattern_add_pending:"
    " added multipattern '{}' (3102 patterns) to pending compilation queue\n"
)
COMPILED = (
    "2026-11-23 03:55:53 #185(main) <247a6f>; main; rspamd_srv_handler:"
    " received multipattern loaded notification for '{}'\n"
)


def test_what_was_queued_is_awaited_until_the_helper_has_compiled_it() -> None:
    """Each list by its name, in whatever order."""
    log = START + QUEUED.format("stopwords_latin") + QUEUED.format("tld")
    assert uncompiled(log) == {"stopwords_latin", "tld"}
    assert uncompiled(log + COMPILED.format("tld")) == {"stopwords_latin"}
    assert not uncompiled(log + COMPILED.format("tld") + COMPILED.format("stopwords_latin"))


def test_what_cannot_be_compiled_is_not_awaited() -> None:
    """It then stays as it is."""
    failed = "2026-11-23 03:55:53 #223(hs_helper) failed to compile multipattern 'tld': no space\n"
    assert not uncompiled(START + QUEUED.format("tld") + failed)


def test_only_the_last_start_counts() -> None:
    """One that was killed meanwhile awaits nothing any more; the next finds what is on disk."""
    killed = START + QUEUED.format("tld")
    assert not uncompiled(killed + START)
    assert uncompiled(START + QUEUED.format("tld") + COMPILED.format("tld") + killed) == {"tld"}


def test_an_older_rspamd_awaits_nothing() -> None:
    """Up to 3 it compiles before it answers."""
    assert not uncompiled(START.replace("4.1.5", "3.12.1"))
    assert not uncompiled("")
