from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from mailhooks.config import load
from mailhooks.errors import ConfigError, MailhooksError
from mailhooks.keys import KeyRing, format_keys, load_keys, new_key
from mailhooks.systemd import Supervisor, secret_file, take_sockets, turn_away

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def notifications(tmp_path: Path) -> Iterator[socket.socket]:
    """A supervisor's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def test_sockets_are_for_the_process_they_were_meant_for() -> None:
    """A child that inherits the variables does not take its parent's sockets, nor later ones."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "HOME": "/"}
    assert take_sockets(environ, pid=2) == {}
    assert environ == {"HOME": "/"}


def test_without_a_supervisor_there_are_no_sockets() -> None:
    """A daemon started by hand opens its own."""
    assert take_sockets({}) == {}


@pytest.mark.parametrize(
    ("count", "names"), [("2", "a"), ("1", "a:b"), ("2", "a:a"), ("x", "a"), ("", "a")]
)
def test_variables_that_contradict_themselves_are_an_error(count: str, names: str) -> None:
    """A socket served under a wrong name would classify what is to be learned."""
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    with pytest.raises(MailhooksError, match=f"LISTEN_FDS={count} does not go with"):
        take_sockets(environ, pid=7)


def test_who_waits_is_turned_away_at_once(tmp_path: Path) -> None:
    """A service that cannot start leaves nobody waiting on a socket that stays open."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen(8)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for each in waiting:
            each.settimeout(10)
            each.connect(str(tmp_path / "s"))
        assert turn_away([listening]) == 3
        for each in waiting:
            assert each.recv(1) == b""
            each.close()
    assert turn_away([listening]) == 0  # closed by now


def test_a_service_tells_its_supervisor(notifications: socket.socket, tmp_path: Path) -> None:
    """Each state goes out as one datagram in the words of sd_notify(3)."""
    supervisor = Supervisor.of(
        {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "6000000"}
    )
    assert supervisor.watchdog_s == 6.0
    assert supervisor.ping_every_s == 1.5
    supervisor.ready("serving")
    supervisor.alive()
    supervisor.reloading()
    supervisor.stopping()
    assert notifications.recv(999) == b"READY=1\nSTATUS=serving"
    assert notifications.recv(999) == b"WATCHDOG=1"
    assert notifications.recv(999).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert notifications.recv(999).startswith(b"STOPPING=1\n")


def test_an_abstract_address_is_reached() -> None:
    """Systemd may write @name for a name that is in no folder."""
    name = f"mailhooks-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.bind(f"\0{name}")
        Supervisor(f"@{name}").alive()
        assert sock.recv(999) == b"WATCHDOG=1"


def test_a_supervisor_that_is_gone_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The service goes on, and says in its log that nobody listens."""
    Supervisor(str(tmp_path / "nobody")).alive()
    assert "the supervisor did not take 'WATCHDOG=1'" in caplog.text


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "6000000"},
        {"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "6000000"},
        {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "1"},
    ],
)
def test_nobody_is_pinged_who_did_not_ask(environ: dict[str, str]) -> None:
    """The watchdog of another process, or of nobody, is not ours."""
    assert Supervisor.of(environ, pid=2).ping_every_s == 0


def test_a_credential_takes_the_place_of_the_file_of_its_name(tmp_path: Path) -> None:
    """The settings name one path, for root's commands and for the sandboxed service."""
    path = tmp_path / "etc" / "keys"
    (tmp_path / "credentials").mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    assert secret_file(path, environ) == path
    (tmp_path / "credentials" / "keys").touch()
    assert secret_file(path, environ) == tmp_path / "credentials" / "keys"
    assert secret_file(path, {}) == path


def test_keys_and_password_come_from_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has to be readable for the service's user."""
    ring = KeyRing((new_key(),))
    (tmp_path / "keys").write_text(format_keys(ring), encoding="utf-8")
    (tmp_path / "rspamd-password").write_text("secret\n", encoding="utf-8")
    settings = tmp_path / "mailhooks.toml"
    settings.write_text('[rspamd]\npassword_file = "/nowhere/rspamd-password"\n', encoding="utf-8")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load(settings).rspamd.password == "secret"
    assert load_keys(tmp_path / "not there" / "keys") == ring


@pytest.mark.parametrize(
    ("text", "content", "problem"),
    [
        ('password_file = "FILE"', None, "rspamd.password_file: FILE cannot be read: No such"),
        ('password_file = "FILE"', "\nsecret", "rspamd.password_file: the first line of FILE is"),
        (
            'password = "x"\npassword_file = "FILE"',
            "secret",
            "rspamd.password_file: rspamd.password is set too; keep one",
        ),
        ('password_file = "pass"', None, "rspamd.password_file: must be an absolute path"),
    ],
)
def test_a_password_file_that_cannot_be_used_is_named(
    tmp_path: Path, text: str, content: str | None, problem: str
) -> None:
    """Whoever reads the error knows the setting and the file."""
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    settings = tmp_path / "mailhooks.toml"
    settings.write_text("[rspamd]\n" + text.replace("FILE", str(file)), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(settings)
    assert caught.value.problems[0].startswith(problem.replace("FILE", str(file)))
