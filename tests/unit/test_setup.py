"""What ``mailhooks setup`` decides, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailhooks import doveconf
from mailhooks.config import MailboxSettings, Settings
from mailhooks.errors import SetupError
from mailhooks.setup import dovecot, postfix, rspamd
from mailhooks.setup.journal import ABSENT, Journal
from mailhooks.setup.plan import File, Plan, show
from mailhooks.setup.render import render

MACROS = "j {daemon_name} {daemon_addr} v _"
RSPAMD = "{ inet:127.0.0.1:11332, default_action=accept }"
OURS = "{ inet:127.0.0.1:11336, default_action=accept }"
WANTED = {
    "smtpd_milters": f"{RSPAMD}, {OURS}",
    "non_smtpd_milters": "$smtpd_milters",
    "milter_default_action": "accept",
    "milter_connect_macros": "j {client_addr} v",
    "smtp_header_checks": "regexp:/ours",
    "lmtp_destination_recipient_limit": "1",
}


def a_postfix(**explicit: str) -> postfix.Postfix:
    values = {"milter_connect_macros": MACROS, "smtp_header_checks": ""} | explicit
    return postfix.Postfix("3.7.11", Path("/etc/postfix"), explicit, values, frozenset({"lmtp"}))


def values_of(settings: list[postfix.Setting]) -> dict[str, str]:
    return {each.name: each.value for each in settings}


def test_a_postfix_without_milters_gets_the_whole_chain() -> None:
    """Rspamd first, ours behind; nothing of Postfix's own defaults is lost."""
    settings, conflicts = postfix.needed(a_postfix(), WANTED, ours={})
    assert not conflicts
    assert values_of(settings) == WANTED | {"milter_connect_macros": MACROS + " {client_addr}"}


def test_ours_comes_behind_the_milters_that_are_there() -> None:
    """An administrator's chain keeps its order and its own answers to a milter's death."""
    host = a_postfix(
        smtpd_milters="unix:/opendkim, inet:localhost:11332",
        non_smtpd_milters="inet:localhost:11332",
        milter_default_action="tempfail",
        smtp_header_checks="regexp:/theirs",
    )
    settings, conflicts = postfix.needed(host, WANTED, ours={})
    assert not conflicts
    found = values_of(settings)
    assert found["smtpd_milters"] == f"unix:/opendkim, inet:localhost:11332, {OURS}"
    assert found["non_smtpd_milters"] == f"inet:localhost:11332, {OURS}"
    assert "milter_default_action" not in found
    assert found["smtp_header_checks"] == "regexp:/theirs regexp:/ours"


def test_a_second_setup_of_postfix_changes_nothing() -> None:
    """What the first has set is known as ours, and is what the second wants."""
    first, _ = postfix.needed(a_postfix(smtpd_milters="unix:/opendkim"), WANTED, ours={})
    host = a_postfix(**values_of(first))
    second, conflicts = postfix.needed(host, WANTED, ours={s.name: s.ours for s in first})
    assert not conflicts
    assert postfix.changes(host, second) == {}
    assert second == first


def test_a_single_value_of_somebody_else_is_a_conflict() -> None:
    """It is named with its value, and with the one that is needed."""
    host = a_postfix(lmtp_destination_recipient_limit="50")
    settings, conflicts = postfix.needed(host, WANTED, ours={})
    assert "lmtp_destination_recipient_limit" not in values_of(settings)
    assert [(c.where, c.found) for c in conflicts] == [
        ("/etc/postfix/main.cf: lmtp_destination_recipient_limit", "50")
    ]
    assert "lmtp_destination_recipient_limit = 1" in conflicts[0].advice


@pytest.mark.parametrize(
    ("bind_socket", "address"),
    [
        ("localhost:11332", "inet:127.0.0.1:11332"),
        ("*:11332", "inet:127.0.0.1:11332"),
        ("192.0.2.7:1234", "inet:192.0.2.7:1234"),
        ("/run/rspamd/milter.sock mode=0660", "unix:/run/rspamd/milter.sock"),
        ("", "inet:127.0.0.1:11332"),
    ],
)
def test_postfix_reaches_rspamd_where_it_listens(bind_socket: str, address: str) -> None:
    """Rspamd's own notation, in Postfix's."""
    assert postfix.rspamd_address(bind_socket) == address


FRAGMENT = """\
protocol imap {
  mail_plugins = $mail_plugins imap_sieve
}
plugin {
  sieve = file:~/sieve
  sieve_plugins = sieve_extprograms sieve_imapsieve
  sieve_before = /ours.sieve
  sieve_execute_socket_dir = ../mailhooks
  imapsieve_mailbox1_name = *
}
"""


def a_dovecot(**plugin: str) -> dovecot.Dovecot:
    return dovecot.Dovecot(
        "2.3.19.1", Path("/etc/dovecot"), Path("/run/dovecot"), "", plugin, {"imap": ()}
    )


def test_a_dovecot_without_sieve_gets_the_whole_fragment() -> None:
    """It is the very text the lab runs with."""
    assert dovecot.fitted(a_dovecot(), FRAGMENT) == (FRAGMENT, [])


def test_a_dovecot_gets_only_what_it_lacks() -> None:
    """What is set alike stays where it is set; numbered settings take the next number."""
    host = a_dovecot(
        sieve="file:~/theirs",
        sieve_plugins="sieve_imapsieve other sieve_extprograms",
        sieve_before="/theirs.sieve",
        sieve_before2="/more.sieve",
        imapsieve_mailbox1_name="Archive",
        imapsieve_mailbox2_name="Sent",
    )
    text, conflicts = dovecot.fitted(host, FRAGMENT)
    assert not conflicts
    assert "sieve_plugins" not in text
    assert "~/" not in text
    assert "  sieve_before3 = /ours.sieve\n" in text
    assert "  imapsieve_mailbox3_name = *\n" in text


@pytest.mark.parametrize(
    ("plugin", "advice"),
    [
        (
            {"sieve_plugins": "sieve_imapsieve"},
            "sieve_plugins = sieve_imapsieve sieve_extprograms",
        ),
        ({"sieve_execute_socket_dir": "sieve"}, "sieve_execute_socket_dir = ../mailhooks"),
        ({"imapsieve_mailbox1_name": "Junk"}, "this rule would learn it once more"),
        ({"imapsieve_mailbox1_from": "Spam"}, "this rule would learn it once more"),
    ],
)
def test_what_dovecot_has_otherwise_is_a_conflict(plugin: dict[str, str], advice: str) -> None:
    """The advice holds what both need."""
    _, conflicts = dovecot.fitted(a_dovecot(**plugin), FRAGMENT)
    assert len(conflicts) == 1
    assert advice in conflicts[0].advice


@pytest.mark.parametrize(
    ("version", "generation"),
    [
        ("2.3.19.1 (9b53102964)", "2.3"),
        ("2.3.21", "2.3"),
        ("2.4.1-4 (7d8c0e5759)", "2.4"),
        ("2.10.0", "2.4"),
        ("3.0", "2.4"),
        ("", "2.3"),
    ],
)
def test_a_dovecot_gets_the_templates_of_its_generation(version: str, generation: str) -> None:
    """By its own word; whatever comes after 2.4 is taken for alike."""
    assert doveconf.generation(version) == generation


@pytest.mark.parametrize(("generation", "percent"), [("2.3", "%%"), ("2.4", "%")])
def test_names_of_mailboxes_come_through_to_either_dovecot(generation: str, percent: str) -> None:
    """2.3 has every % twice, 2.4 only the one that would begin a variable."""
    settings = Settings(mailboxes=MailboxSettings(junk=('50 % "x" \\', "%{home}")))
    values = {
        "daemon": settings.daemon,
        "mailboxes": settings.mailboxes,
        "dovecot": {"socket_dir": "s", "hook_dir": "h", "sieve_dir": "d"},
    }
    text = render(f"dovecot-{generation}/mailhooks.conf", values)
    assert f'/50 {percent} \\"x\\" \\\\/' in text
    assert "/%%{home}/" in text


NEW_FRAGMENT = """\
protocol imap {
  mail_plugins {
    imap_sieve = yes
  }
}
sieve_plugins {
  sieve_imapsieve = yes
}
sieve_execute_socket_dir = ../mailhooks
sieve_script personal {
  path = ~/sieve
}
sieve_script mailhooks-learn {
  type = before
  cause = copy
}
"""


def a_newer_dovecot(text: str = "") -> dovecot.Dovecot:
    root = doveconf.parse(text).root
    return dovecot.Dovecot(
        "2.4.1-4", Path("/etc/dovecot"), Path("/run/dovecot"), "", root.values, {}, root
    )


def test_a_newer_dovecot_without_sieve_gets_the_whole_fragment() -> None:
    """It is the very text the lab runs with."""
    assert dovecot.fitted(a_newer_dovecot(), NEW_FRAGMENT) == (NEW_FRAGMENT, [])


def test_a_newer_dovecot_gets_only_what_it_lacks() -> None:
    """What is set alike stays where it is set; users' own scripts are where they were."""
    host = a_newer_dovecot(
        "sieve_plugins = sieve_extprograms\nsieve_execute_socket_dir = ../mailhooks\n"
        "sieve_script mine {\n  path = ~/mine\n}\nsieve_script first {\n  type = before\n}\n"
    )
    text, conflicts = dovecot.fitted(host, NEW_FRAGMENT)
    assert not conflicts
    assert "sieve_execute_socket_dir" not in text
    assert "personal" not in text
    assert "~/sieve" not in text
    assert "sieve_script mailhooks-learn {\n  type = before" in text
    assert "  sieve_imapsieve = yes\n" in text


@pytest.mark.parametrize(
    ("theirs", "where", "advice"),
    [
        (
            "sieve_execute_socket_dir = sieve\n",
            "/etc/dovecot: sieve_execute_socket_dir",
            "sieve_execute_socket_dir = ../mailhooks",
        ),
        (
            "mailbox Junk {\n  sieve_script spam {\n    type = before\n    cause = copy\n  }\n}\n",
            "/etc/dovecot: sieve_script spam",
            "this script would learn it once more",
        ),
        (
            "imapsieve_from Spam {\n  sieve_script ham {\n    type = before\n  }\n}\n",
            "/etc/dovecot: sieve_script ham",
            "this script would learn it once more",
        ),
        (
            "sieve_script all {\n  type = before\n  cause {\n    append = yes\n  }\n}\n",
            "/etc/dovecot: sieve_script all",
            "this script would learn it once more",
        ),
    ],
)
def test_what_a_newer_dovecot_has_otherwise_is_a_conflict(
    theirs: str, where: str, advice: str
) -> None:
    """It is named, and what to do about it."""
    _, conflicts = dovecot.fitted(a_newer_dovecot(theirs), NEW_FRAGMENT)
    assert [each.where for each in conflicts] == [where]
    assert advice in conflicts[0].advice


def test_rspamd_prints_one_object_after_another() -> None:
    """Its configdump is a row of JSON objects, with other lines between."""
    text = '{\n"normal": {}\n}\nnote: x\n{"rspamd_proxy": {"bind_socket": "*:1"}}\n'
    assert rspamd.documents(text) == [{"normal": {}}, {"rspamd_proxy": {"bind_socket": "*:1"}}]


@pytest.mark.parametrize(
    ("servers", "url"),
    [
        ("", "redis://127.0.0.1:6379/0"),
        ("127.0.0.1", "redis://127.0.0.1:6379/0"),
        ("db.example:6380,other", "redis://db.example:6380/0"),
        ("/run/redis/redis.sock", "unix:///run/redis/redis.sock"),
    ],
)
def test_statistics_are_where_rspamd_has_them(servers: str, url: str) -> None:
    """The first server is the one that is written to."""
    assert rspamd.redis_url(servers) == url


def test_a_file_of_rspamds_that_somebody_else_made_is_a_conflict(tmp_path: Path) -> None:
    """The text to merge is shown; a line in the file says that it has been."""
    host = rspamd.Rspamd("3.4", tmp_path, "", "127.0.0.1", "")
    values = {
        "rspamd": {"report_key": "k", "min_learns": 1, "shared": True},
        "redis": {"server": "127.0.0.1"},
    }
    (tmp_path / "local.d").mkdir()
    theirs = tmp_path / "local.d/settings.conf"
    theirs.write_text("mine {}\n", encoding="utf-8")
    files, conflicts = rspamd.files(host, values, lambda _path: False)
    assert [conflict.where for conflict in conflicts] == [str(theirs)]
    assert 'id = "delivery"' in conflicts[0].advice
    assert theirs not in [file.path for file in files]
    theirs.write_text(f"mine {{}}\n{rspamd.MERGED}\n", encoding="utf-8")
    files, conflicts = rspamd.files(host, values, lambda _path: False)
    assert conflicts == []
    assert "dkim_signing.conf" not in [file.path.name for file in files]
    stock = tmp_path / "local.d/classifier-bayes.conf"
    stock.write_text("per_user = true;\n", encoding="utf-8")
    (conflict,) = rspamd.files(host, values, lambda _path: False)[1]
    assert conflict.where == str(stock)
    assert "statistic.conf" in conflict.advice


def test_a_journal_puts_back_what_was_there(tmp_path: Path) -> None:
    """Files with mode, links, folders, and what was not there: as before, also after a crash."""
    host = tmp_path / "host"
    (host / "old").mkdir(parents=True)
    file, link, made = host / "file", host / "link", host / "new" / "deep"
    file.write_bytes(b"before\n")
    file.chmod(0o640)
    link.symlink_to("file")
    journal = Journal(tmp_path / "journal")
    journal.begin([file, link, made.parent, made, host / "old"])
    file.write_bytes(b"after\n")
    link.unlink()
    made.parent.mkdir()
    made.write_bytes(b"x")
    (host / "old").rmdir()

    again = Journal.read(tmp_path / "journal")  # as after a crash
    assert again.begun
    again.roll_back()
    assert file.read_bytes() == b"before\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert link.readlink() == Path("file")
    assert not made.parent.exists()
    assert (host / "old").is_dir()
    assert Journal.read(tmp_path / "journal").is_empty


def test_a_journal_remembers_the_first_state_and_knows_its_own(tmp_path: Path) -> None:
    """A second setup does not take the first one's work for the administrator's."""
    file = tmp_path / "file"
    journal = Journal(tmp_path / "journal")
    for content in (b"one", b"two"):
        journal.begin([file])
        file.write_bytes(content)
        journal.finish()
    again = Journal.read(tmp_path / "journal")
    assert again.origin[str(file)] == ABSENT
    assert again.is_ours(file)
    file.write_bytes(b"somebody else's")
    assert not again.is_ours(file)
    again.forget()
    assert not (tmp_path / "journal").exists()


def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Nothing is taken for untouched because the journal is damaged."""
    (tmp_path / "journal.json").write_text("{", encoding="utf-8")
    with pytest.raises(SetupError, match=r"journal\.json: cannot be read"):
        Journal.read(tmp_path)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """A key is in no diff, nor is what is derived from it."""
    plan = Plan(hidden=["tops3cret"])
    plan.files = [
        File(tmp_path / "keys", b"k1 hush\n", 0o600, secret=True),
        File(tmp_path / "lua", b'KEY = "tops3cret"\n'),
    ]
    shown = "\n".join(show(plan))
    assert "hush" not in shown
    assert "tops3cret" not in shown
    assert 'KEY = "(a secret)"' in shown
    assert "keys (mode 0600)" in shown
