"""The systemd units, as systemd's own tools see them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from mailhooks.config import Settings, parse
from mailhooks.daemon import CLASSIFY_SOCKET, LEARN_SOCKET
from mailhooks.setup import render_tree

EXPOSURE = 20  # in tenths; 100 is a service without any sandbox
SERVICES = ("mailhooks", "mailhooks-milter", "mailhooks-lmtp")


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units of a host with mailhooks' own defaults and a password for Rspamd."""
    folder = tmp_path_factory.mktemp("units")
    settings = parse('[rspamd]\npassword_file = "/etc/mailhooks/rspamd-password"')
    values = {name: getattr(settings, name) for name in get_type_hints(Settings)}
    values["service"] = {
        "command": Path(sys.executable).parent / "mailhooks",
        "config": "/etc/mailhooks/mailhooks.toml",
        "user": "mailhooks",
    }
    render_tree("systemd", folder, values)
    return folder / "system"


def analyze(*argv: str) -> str:
    done = subprocess.run(
        ["/usr/bin/systemd-analyze", "--no-pager", *argv],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_sandboxed(units: Path, name: str) -> None:
    """Its exposure is at most 2.0 of 10, as systemd rates it."""
    path = units / f"{name}.service"
    answer = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(path))
    rating = re.search(r"Overall exposure level for .*: ([\d.]+)", answer)
    assert rating
    assert float(rating[1]) <= EXPOSURE / 10


def test_systemd_finds_nothing_wrong_in_the_units(units: Path) -> None:
    """No misspelt option, no program that is not there."""
    paths = [str(path) for path in sorted(units.iterdir())]
    assert len(paths) == 5
    assert analyze("verify", "--man=no", *paths) == ""


def test_a_hung_daemon_is_ended_before_dovecot_gives_up(units: Path) -> None:
    """Watchdog, a slow stop and a start leave a waiting call its deadline within ten seconds."""
    text = (units / "mailhooks.service").read_text(encoding="utf-8")
    seconds = {
        key: float(value) for key, value in re.findall(r"^(\w+Sec)=(\d+)$", text, re.MULTILINE)
    }
    deadline_s = Settings().daemon.deadline_s
    assert seconds["WatchdogSec"] + seconds["RestartSec"] < 10
    assert seconds["TimeoutStopSec"] + 1 + deadline_s < 10


@pytest.mark.parametrize("name", [CLASSIFY_SOCKET, LEARN_SOCKET])
def test_a_socket_has_the_name_the_daemon_looks_for(units: Path, name: str) -> None:
    """A handed-over socket is known by nothing else."""
    text = (units / f"{name}.socket").read_text(encoding="utf-8")
    assert f"FileDescriptorName={name}\n" in text
    assert f"ListenStream=/run/mailhooks/{name}\n" in text
    assert "Service=mailhooks.service\n" in text
