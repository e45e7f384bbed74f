"""What the doctor makes of the servers' configuration, as their own programs print it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mailhooks import doveconf
from mailhooks.config import DaemonSettings, DoctorSettings, MailboxSettings, Settings
from mailhooks.doctor import dovecot, live, postfix, program, rspamd
from mailhooks.doctor.check import Finding, Level
from mailhooks.keys import KeyRing, new_key
from mailhooks.ledger import Answer, Outcome, Taught
from mailhooks.lesson import Lesson
from mailhooks.setup.render import render
from mailhooks.statistics import Learned

OK, SKIPPED, WARNING, FAILED = Level.OK, Level.SKIPPED, Level.WARNING, Level.FAILED


# program.py


def test_a_program_that_is_absent_is_not_checked() -> None:
    """As on a host that has only some of the servers."""
    with pytest.raises(program.NotRunError) as caught:
        program.output_of(["/nonexistent/postconf"])
    finding = program.unknown("postfix", "Postfix", "postconf", caught.value)
    assert finding.level is SKIPPED
    assert "[doctor] postconf" in finding.advice


def test_a_program_that_fails_says_why() -> None:
    """With its last line."""
    with pytest.raises(program.WentWrongError, match="no such thing"):
        program.output_of(["/bin/sh", "-c", "echo a; echo no such thing >&2; exit 3"])


@pytest.mark.parametrize(
    ("text", "version"),
    [("2.3.19.1 (9b53102964)", (2, 3, 19, 1)), ("3.7.11", (3, 7, 11)), ("", ()), ("x", ())],
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    """Leading numbers."""
    assert program.version_of(text) == version


# postfix.py

SMTPD = [postfix.Service("smtp", "inet", chroot=False, program="smtpd")]
OURS = "inet:11@127.0.0.1"


@pytest.mark.parametrize(
    ("value", "milters"),
    [
        ("inet:h:1", [("inet:h:1", {})]),
        ("inet:h:1,unix:/a unix:b", [("inet:h:1", {}), ("unix:/a", {}), ("unix:b", {})]),
        (
            "{ inet:h:1, default_action=accept, command_timeout=5s }, { unix:/a }",
            [("inet:h:1", {"default_action": "accept", "command_timeout": "5s"}), ("unix:/a", {})],
        ),
        ("", []),
    ],
)
def test_milters_with_and_without_braces(value: str, milters: list[Any]) -> None:
    """As Postfix reads them."""
    found = postfix.parse_milters(value)
    assert [(each.address, each.options) for each in found] == milters


def chain(value: str, ports: frozenset[int] = frozenset()) -> Finding:
    main = {"smtpd_milters": value, "milter_default_action": "accept"}
    return postfix.milters(main, SMTPD, OURS, lambda: ports)[0]


@pytest.mark.parametrize(
    ("value", "ports", "level", "word"),
    [
        ("inet:r:12 inet:m:11", {12}, OK, ""),
        ("inet:r:12 inet:m:11", set(), OK, ""),
        ("inet:m:11 inet:r:12", {12}, FAILED, "Name Rspamd's first"),
        ("inet:dkim:9 inet:m:11 inet:r:12", {12}, FAILED, "Name Rspamd's first"),
        ("inet:m:11", set(), FAILED, "Name Rspamd's first"),
        ("inet:r:12", {12}, FAILED, "Add it behind Rspamd's milter"),
    ],
)
def test_the_order_of_milters(value: str, ports: set[int], level: Level, word: str) -> None:
    """Ours stands behind Rspamd's, which is known by its port or is whatever comes first."""
    finding = chain(value, frozenset(ports))
    assert finding.level is level
    assert word in finding.advice


def test_a_chroot_hides_the_socket(tmp_path: Path) -> None:
    """Debian's smtpd runs in one, and looks for the socket below the queue."""
    (tmp_path / "m").touch()
    main = {"smtpd_milters": f"inet:r:12 unix:{tmp_path}/m", "queue_directory": "/nonexistent"}
    main |= {"mail_owner": str(os.geteuid())}
    inside = [postfix.Service("smtp", "inet", chroot=True, program="smtpd")]
    assert postfix.milters(main, SMTPD, f"unix:{tmp_path}/m", frozenset)[0].level is OK
    finding = postfix.milters(main, inside, f"unix:{tmp_path}/m", frozenset)[0]
    assert (finding.level, "chroot" in finding.advice) == (FAILED, True)


@pytest.mark.parametrize(
    ("flag", "by_default", "chroot"), [("y", False, True), ("n", True, False), ("-", True, True)]
)
def test_services_of_master_cf(flag: str, by_default: bool, chroot: bool) -> None:
    """Whether one runs in a chroot depends on Postfix's age where it is not said."""
    line = f"smtp       inet  n       -       {flag}       -       -       smtpd\n"
    found = postfix.services(line, chroot_by_default=by_default)
    assert found == [postfix.Service("smtp", "inet", chroot, "smtpd")]


LIMIT = "_destination_recipient_limit"


@pytest.mark.parametrize(
    ("main", "level"),
    [
        ({"virtual_transport": "lmtp:unix:x", f"lmtp{LIMIT}": "1"}, OK),
        ({"virtual_transport": "lmtp:unix:x", f"lmtp{LIMIT}": "50"}, WARNING),
        ({"mailbox_transport": "mine:", f"default{LIMIT}": "50"}, WARNING),
        ({"virtual_transport": "virtual"}, SKIPPED),
        ({"virtual_transport": "mailboxes:[mailbox.example.org]"}, SKIPPED),
    ],
)
def test_the_recipients_of_one_delivery(main: dict[str, str], level: Level) -> None:
    """The limit is that of the transport that delivers; to another host, mail need not be split."""
    programs = {"lmtp": "lmtp", "mine": "pipe", "mailboxes": "smtp", "virtual": "virtual"}
    lines = [
        postfix.Service(name, "unix", chroot=False, program=program)
        for name, program in programs.items()
    ]
    assert postfix.recipients(main, lines).level is level


@pytest.mark.parametrize(
    ("main", "address"),
    [
        ({"virtual_transport": "lmtp:unix:/run/x"}, "unix:/run/x"),
        (
            {"virtual_transport": "lmtp:unix:private/x", "queue_directory": "/q"},
            "unix:/q/private/x",
        ),
        ({"virtual_transport": "lmtp:inet:127.0.0.1:24"}, "127.0.0.1:24"),
        ({"virtual_transport": "virtual", "mailbox_transport": "lmtp:[::1]:24"}, "[::1]:24"),
        ({"mailbox_transport": "lmtp:[a.example]:24"}, "a.example:24"),
        ({}, "unix:/run/dovecot/lmtp"),
    ],
)
def test_where_postfix_delivers(main: dict[str, str], address: str) -> None:
    """To the transport's next hop; else to Dovecot's own socket."""
    assert postfix.next_hop(main) == address


# doveconf.py and dovecot.py

NEWER = r"""
# 2.4.1-4 (7d8c0e5759): /etc/dovecot/dovecot.conf
# Pigeonhole version 2.4.1-4 (0a86619f)
dovecot_config_version = 2.4.1
base_dir = /run/dovecot
mail_uid = 64997
sieve_plugins = sieve_imapsieve sieve_extprograms
sieve_extensions {
  editheader = yes
}
sieve_global_extensions {
  vnd.dovecot.environment = yes
  vnd.dovecot.execute = yes
}
sieve_execute_socket_dir = ../mailhooks
sieve_script mailhooks {
  path = /etc/mailhooks/sieve/classify.sieve
  type = before
}
namespace inbox {
  mailbox Junk {
    special_use = "\\Junk"
    sieve_script mailhooks-learn {
      cause = copy append flag
      path = /etc/mailhooks/sieve/learn.sieve
      type = before
    }
  }
  mailbox Trash {
    special_use = \Trash
  }
}
protocol imap {
  mail_plugins {
    imap_sieve = yes
  }
}
protocol lmtp {
  mail_plugins {
    sieve = yes
  }
}
"""
OLDER = """
# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf
# Pigeonhole version 0.5.19 (4eae2f79)
base_dir = /var/run/dovecot
plugin {
  sieve_execute_exec_timeout = 10s
  sieve_plugins = sieve_extprograms sieve_imapsieve
}
protocol lmtp {
  mail_plugins = " quota sieve"
  plugin {
    sieve_execute_exec_timeout = 4 secs
  }
}
"""


def test_a_newer_dovecot_is_understood() -> None:
    """2.4 has lists in blocks, no block plugin, and imapsieve inside mailboxes."""
    found = doveconf.parse(NEWER)
    assert (found.version, found.pigeonhole) == ("2.4.1", "2.4.1-4")
    assert dovecot.plugins(found).level is OK
    assert dovecot.extensions(found).level is OK
    assert dovecot.sockets(found, Path("/run/mailhooks")).level is OK
    assert dovecot.imapsieve(found)[0].level is OK
    assert dovecot.special_use(found, MailboxSettings().roles())[0].level is OK
    assert dovecot.deadline(found, 5.0).level is OK
    assert "classify.sieve" in dovecot.delivery(found)[0].text


@pytest.mark.parametrize(
    ("head", "foot", "key"),
    [("plugin {", "}", "sieve_env_mailhooks_"), ("sieve_environment {", "}", "mailhooks_")],
)
def test_names_of_mailboxes_in_either_dovecot(head: str, foot: str, key: str) -> None:
    """In the block of plugins, or in one of their own; percent signs may be doubled."""
    roles = MailboxSettings(junk=("50% off",)).roles()
    values = [f'{key}{name} = "{value}"' for name, value in roles.for_sieve().items()]
    for lines, level in (
        (values, OK),
        ([line.replace("%", "%%") for line in values], OK),
        ([line.replace("50% off", "50% on") for line in values], FAILED),
        (values[:1], WARNING),
    ):
        found = doveconf.parse("\n".join([head, *lines, foot]))
        assert dovecot.names(found, roles).level is level


def test_rules_of_a_newer_dovecot_for_all_mailboxes() -> None:
    """Scripts beside all settings say by their cause what they are for."""
    text = """
        sieve_script mailhooks-classify {
          cause = delivery
          path = /etc/mailhooks/sieve/classify.sieve
          type = before
        }
        sieve_script mailhooks-learn {
          cause = copy append
          path = /etc/mailhooks/sieve/learn.sieve
          type = before
        }
    """
    findings = dovecot.imapsieve(doveconf.parse(text))
    assert (findings[0].level, "FLAG" in findings[0].text) == (WARNING, True)
    assert dovecot.imapsieve(doveconf.parse(text.replace("append", "append flag")))[0].level is OK
    assert dovecot.imapsieve(doveconf.parse(text), keywords=False)[0].level is OK


@pytest.mark.parametrize(
    ("generation", "with_flag"),
    [("2.3", "causes = COPY APPEND FLAG\n"), ("2.4", "cause = copy append flag\n")],
)
def test_without_keywords_a_changed_flag_runs_no_script(generation: str, with_flag: str) -> None:
    """Dovecot's part of the configuration leaves the cause out, the rest stays as it is."""
    texts = [
        render(
            f"dovecot-{generation}/mailhooks.conf",
            {
                "mailboxes": MailboxSettings(keywords=keywords),
                "daemon": DaemonSettings(),
                "dovecot": {"socket_dir": "a", "hook_dir": "b", "sieve_dir": "c"},
            },
        )
        for keywords in (True, False)
    ]
    assert with_flag in texts[0]
    assert texts[1] == texts[0].replace(with_flag, with_flag[:-6] + "\n")


def test_where_a_filter_gives_the_verdicts_sieve_need_not(tmp_path: Path) -> None:
    """And where nothing tells us what users do, that is said, and is a choice."""
    tool = tmp_path / "doveconf"
    tool.write_text("#!/bin/sh\necho '# 2.4.1 (x): /x'\n", encoding="utf-8")
    tool.chmod(0o755)
    settings = Settings(doctor=DoctorSettings(doveconf=(str(tool),)))
    found = {it.name: it.level for it in dovecot.dovecot(settings, filtered=True)}
    assert found == {
        "dovecot version": OK,
        "dovecot imapsieve": SKIPPED,
        "dovecot special use": WARNING,
    }
    assert "sieve classify" in {it.name for it in dovecot.dovecot(settings)}


def test_settings_of_a_protocol_come_before_those_of_all() -> None:
    """As Dovecot has it."""
    found = doveconf.parse(OLDER)
    assert found.setting("sieve_execute_exec_timeout") == "10s"
    assert found.setting("sieve_execute_exec_timeout", "lmtp") == "4 secs"
    assert found.words("mail_plugins", "lmtp") == {"quota", "sieve"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("10 secs", 10), ("1 mins", 60), ("500ms", 0.5), ("7", 7), ("soon", None)],
)
def test_time_spans(text: str, seconds: float | None) -> None:
    """As Dovecot prints them."""
    assert doveconf.seconds(text) == seconds


@pytest.mark.parametrize(
    ("version", "deadline_s", "level", "word"),
    [
        ("2.3.19", 5.0, OK, "10 s"),
        ("2.3.19", 9.5, WARNING, "less than a second"),
        ("2.4.4", 10.0, FAILED, "panics"),
        ("2.4.5", 10.0, FAILED, "no verdict"),
    ],
)
def test_releases_that_panic(version: str, deadline_s: float, level: Level, word: str) -> None:
    """Up to 2.4.4 a verdict that comes too late ends the delivering process."""
    finding = dovecot.deadline(doveconf.parse(f"# {version} (x): /x\n"), deadline_s)
    assert (finding.level, word in finding.text) == (level, True)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("", SKIPPED),
        ("mail_uid = 64997\n", OK),
        ("mail_uid = 64996\n", FAILED),
        ("userdb {\n  driver = passwd\n}\n", OK),
        ("userdb passwd {\n}\n", OK),
        ("userdb {\n  driver = sql\n}\n", SKIPPED),
    ],
)
def test_the_user_who_opens_mailboxes(text: str, level: Level) -> None:
    """Must be one who may speak for all; system users speak for themselves."""
    assert dovecot.mail_user(doveconf.parse(text), (64997,)).level is level


def test_a_mailbox_prefix_counts() -> None:
    """Many servers put INBOX. in front of every name."""
    text = (
        "namespace inbox {\n  prefix = INBOX.\n  mailbox Junk {\n    special_use = \\Junk\n  }\n}\n"
    )
    found = dovecot.special_use(doveconf.parse(text), MailboxSettings().roles())
    assert found[0].level is OK


# rspamd.py

PROXY = {"milter": True, "upstream": {"local": {"self_scan": True, "settings_id": "milter"}}}
MILTER = {"milter": {"id": "milter", "apply": {"groups_disabled": ["statistics"]}}}


@pytest.mark.parametrize(
    ("proxies", "settings", "level"),
    [
        ([PROXY], MILTER, OK),
        ([PROXY], {"milter": MILTER["milter"] | {"id": "other"}}, FAILED),
        ([PROXY], {"milter": {"apply": {"groups_disabled": "statistics"}}}, OK),
        ([PROXY], {"milter": {"id": "milter", "apply": {"groups_disabled": ["dkim"]}}}, FAILED),
        ([{"milter": True, "upstream": {"local": {"self_scan": True}}}], MILTER, FAILED),
        ([], MILTER, SKIPPED),
    ],
)
def test_bayes_is_off_in_the_milter_pass(
    proxies: list[dict[str, Any]], settings: dict[str, Any], level: Level
) -> None:
    """By the settings id of the proxy, and what settings of that id turn off."""
    assert rspamd.milter_pass(proxies, settings).level is level


@pytest.mark.parametrize(
    ("classifiers", "level"),
    [
        ([{"name": "bayes", "per_user": True}, {"name": "shared"}], OK),
        ([{"name": "bayes"}], FAILED),
        ([{"name": "other", "per_user": True}], FAILED),
    ],
)
def test_statistics_of_each_user(classifiers: list[dict[str, Any]], level: Level) -> None:
    """By the classifier that is taught."""
    assert rspamd.per_user(classifiers, "bayes").level is level


def test_the_secret_of_the_report() -> None:
    """That of the first key; of an old one for a while; never another."""
    new, old = new_key(), new_key()
    keys = KeyRing((new, old))
    for secret, level in (
        (new.report_secret(), OK),
        (old.report_secret(), WARNING),
        (new_key().report_secret(), FAILED),
    ):
        assert rspamd.report(f'local KEY = "{secret}"\n', keys).level is level
    assert rspamd.report("", keys).level is FAILED


# live.py


@pytest.mark.parametrize(
    ("address", "expected"),
    [("a:1", ("a", 1)), ("a", ("a", 25)), ("[::1]:7", ("::1", 7)), ("", None), ("a/b", None)],
)
def test_addresses_of_servers(address: str, expected: tuple[str, int] | None) -> None:
    """A host alone means the usual port."""
    if expected is None:
        with pytest.raises(ValueError, match="is not host:port"):
            live._host_port(address, 25)
    else:
        assert live._host_port(address, 25) == expected


@pytest.mark.parametrize(
    ("name", "header", "level", "word"),
    [
        ("live smtp", "X-Spam-Status: No, score=1 required=6 milter=1\n", OK, "score=1"),
        ("live lmtp", "X-Spam-Status: No, score=1 milter=none (absent)\n", OK, "absent"),
        ("live smtp", "X-Spam-Status: No, score=1 milter=none (absent)\n", FAILED, "milters"),
        ("live smtp", "X-Spam-Status: No, mailhooks did not answer\n", FAILED, "did not answer"),
        ("live lmtp", "Subject: x\n", FAILED, "classify.sieve did not run"),
    ],
)
def test_what_a_delivered_message_says(name: str, header: str, level: Level, word: str) -> None:
    """Only what came by SMTP must have met the milters."""
    finding = live.verdict(name, header, "after 1 s")
    assert (finding.level, word in finding.text) == (level, True)


def taught(held: Lesson | None, outcome: Outcome) -> Taught:
    answer = Answer(
        user="u", digest="d", lesson=Lesson.SPAM, outcome=outcome, origin="move", time=0.0
    )
    return Taught(held, answer)


LEARNED = taught(Lesson.SPAM, Outcome.LEARNED)


@pytest.mark.parametrize(
    ("answer", "counts", "level"),
    [
        (LEARNED, Learned(1, 0), OK),
        (LEARNED, Learned(2, 0), FAILED),
        (LEARNED, Learned(1, 1), FAILED),
        (LEARNED, None, WARNING),
        (taught(None, Outcome.REFUSED), Learned(0, 0), FAILED),
        (None, Learned(0, 0), FAILED),
    ],
)
def test_what_counts_as_learned(
    answer: Taught | None, counts: Learned | None, level: Level
) -> None:
    """The ledger says so, and Redis counts exactly that."""
    finding = live.lesson_learned("x", Lesson.SPAM, answer, counts, Learned(1, 0), "after 1 s")
    assert finding.level is level
