from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailhooks.config import Settings, load, parse, uids_of
from mailhooks.errors import ConfigError
from mailhooks.lesson import Role


def test_an_empty_file_means_the_defaults() -> None:
    """Nothing has to be configured that has a good default."""
    assert parse("") == Settings()


def test_every_section_is_read() -> None:
    """Values of every type arrive where they belong."""
    settings = parse(
        """
        [daemon]
        socket_dir = "/run/x"
        mail_users = ["vmail", 5000]
        deadline_s = 3
        [rspamd]
        scan_url = "unix:/run/rspamd.sock"
        [milter]
        socket = "inet:9999@127.0.0.1"
        [policy]
        threshold = 5.5
        [learning]
        learn_on_delivery = "all"
        """
    )
    assert settings.daemon.socket_dir == Path("/run/x")
    assert settings.daemon.mail_users == ("vmail", 5000)
    assert settings.daemon.deadline_s == 3.0
    assert settings.rspamd.scan_url == "unix:/run/rspamd.sock"
    assert settings.milter.socket == "inet:9999@127.0.0.1"
    assert settings.policy.threshold == 5.5
    assert settings.learning.learn_on_delivery == "all"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[polcy]\n", "polcy: no such section; did you mean policy?"),
        ("policy = 1\n", "policy: is a section, write it as [policy]"),
        (
            "[policy]\nthreshhold = 1\n",
            "policy.threshhold: no such setting; did you mean threshold?",
        ),
        (
            "[policy]\nx = 1\n",
            (
                "policy.x: no such setting; known: threshold, thresholds, honour_action, full_scan,"
                " full_scan_timeout_s, acquaintance_points"
            ),
        ),
        (
            "[policy.thresholds]\n'Ann@x.example' = 5\n",
            "policy.thresholds: 'Ann@x.example' must be a user or a domain in lower case",
        ),
        (
            "[policy.thresholds]\n'x.example' = inf\n",
            "policy.thresholds: x.example: must be a finite number",
        ),
        ('[policy]\nthreshold = "6"\n', "policy.threshold: expected a number, got text in quotes"),
        (
            '[lmtp]\nnext_hop = "dovecot"\n',
            "lmtp.next_hop: must be host:port or unix:/path, not 'dovecot'",
        ),
        (
            "[lmtp]\nrecipient_delimiter = '+\"'\n",
            'lmtp.recipient_delimiter: must be printable characters other than " @ < >',
        ),
        (
            "[lmtp]\njunk_detail = 'Junk>'\n",
            'lmtp.junk_detail: must be printable characters other than " \\ < >',
        ),
        (
            '[lmtp]\njunk_detail = "Junk"\nrecipient_delimiter = ""\n',
            "lmtp.junk_detail: needs lmtp.recipient_delimiter",
        ),
        ("[policy]\nthreshold = nan\n", "policy.threshold: must be a finite number"),
        (
            "[daemon]\ndeadline_s = 30\n",
            "daemon.deadline_s: must be above 0 and at most 8 (Dovecot gives up at 10 s)",
        ),
        ('[daemon]\nspool_dir = "spool"\n', "daemon.spool_dir: must be an absolute path"),
        ("[daemon]\nspool_dir = 3\n", "daemon.spool_dir: expected text in quotes"),
        ("[daemon]\nmail_users = [1.5]\n", None),
        ('[daemon]\nmail_users = [""]\n', "daemon.mail_users: must not hold an empty name"),
        (
            '[rspamd]\nscan_url = "localhost:11333"\n',
            "rspamd.scan_url: must be http://host:port or unix:/path, not 'localhost:11333'",
        ),
        (
            '[rspamd]\nscan_url = "http://localhost:99999"\n',
            "rspamd.scan_url: must be http://host:port or unix:/path, not 'http://localhost:99999'",
        ),
        (
            '[milter]\nsocket = "inet:99999@127.0.0.1"\n',
            "milter.socket: must be unix:/path or inet:port@host, not 'inet:99999@127.0.0.1'",
        ),
        (
            '[milter]\nsocket = "/run/x"\n',
            "milter.socket: must be unix:/path or inet:port@host, not '/run/x'",
        ),
        (
            '[learning]\nlearn_on_delivery = "yes"\n',
            "learning.learn_on_delivery: invalid enum value 'yes'",
        ),
        ("[learning]\nconnections = 0\n", "learning.connections: must be a number above 0"),
        ("[learning]\nsettle_s = -1\n", "learning.settle_s: must be 0 or more"),
        ('[mailboxes]\njunk = "Spam"\n', "mailboxes.junk: expected a list, got text in quotes"),
        ('[mailboxes]\njunk = ["Spam", ""]\n', "mailboxes.junk: '' is no name of a mailbox"),
        ('[mailboxes]\ntrash = ["/Bin"]\n', "mailboxes.trash: '/Bin' is no name of a mailbox"),
        ('[mailboxes]\nsent = ["a\\nb"]\n', "mailboxes.sent: 'a\\nb' is no name of a mailbox"),
        ('[mailboxes]\njunk = ["inbox"]\n', "mailboxes.junk: INBOX cannot be one of these"),
        (
            '[mailboxes]\nshared_prefixes = ["shared/%h/"]\n',
            "mailboxes.shared_prefixes: 'shared/%h/': only %u, %n and %d are known",
        ),
        ('[mailboxes]\nseparators = ","\n', "mailboxes.separators: invalid enum value ','"),
        ("[policy\n", None),
    ],
)
def test_a_wrong_setting_is_named_with_the_reason(text: str, problem: str | None) -> None:
    """Each error names the file, the key and what is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "/etc/m.toml")
    if problem is not None:
        assert caught.value.problems == [problem]
    assert str(caught.value).startswith("/etc/m.toml: ")


def test_further_names_of_mailboxes_come_beside_the_usual_ones_or_instead() -> None:
    """One more name is one line; whoever wants none of ours says so."""
    further = parse('[mailboxes]\njunk = ["Müll"]\ntrash = ["Weg damit"]\n').mailboxes.roles()
    assert further.role("INBOX.müll") is Role.JUNK
    assert further.role("Spam") is Role.JUNK
    assert further.role("Weg damit/2026") is Role.TRASH
    text = '[mailboxes]\nusual_names = false\njunk = ["Müll"]\n'
    alone = parse(text).mailboxes.roles()
    assert alone.role("Müll") is Role.JUNK
    assert alone.role("Spam") is Role.OTHER


def test_all_problems_are_listed_at_once() -> None:
    """Nobody has to fix one line to learn of the next."""
    with pytest.raises(ConfigError) as caught:
        parse("[policy]\nthreshold = inf\n[daemon]\ndeadline_s = 0\nx = 1\n[y]\n")
    assert len(caught.value.problems) == 4


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file and one that is no text are told apart."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read: not UTF-8"):
        load(tmp_path / "binary.toml")


def test_users_are_found_by_name_and_number_and_unknown_ones_left_out() -> None:
    """A default that names users of another host is no error."""
    assert uids_of(("root", 4711, "no-such-user-here")) == frozenset({0, 4711})
    assert os.getuid() >= 0


def test_a_users_threshold_comes_before_the_domains_and_that_before_the_default() -> None:
    """Whoever has none of their own gets the next wider one."""
    policy = parse(
        "[policy]\nthreshold = 6\n[policy.thresholds]\n"
        "'ann@x.example' = 5\n'x.example' = 7.5\n'local' = 4\n"
    ).policy
    users = ("ann@x.example", "bob@x.example", "ann@y.example", "local")
    assert [policy.threshold_of(user) for user in users] == [5.0, 7.5, 6.0, 4.0]
