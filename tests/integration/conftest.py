"""Private servers for the tests in this folder: Rspamd with Redis, PostgreSQL, MariaDB."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import databases
import pytest

from mailhooks.lab.host import REDIS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_START_TIMEOUT_S = 30.0
_POLL_S = 0.05
# Modules that ask the network, or remember earlier mail, would make a scan slow or random.
_QUIET_MODULES = (
    "antivirus arc asn bimi dcc dkim dkim_signing dmarc fuzzy_check greylist history_redis mx_check"
    " neural phishing ratelimit rbl replies reputation spf surbl url_redirector"
)


@dataclass(frozen=True)
class PrivateRspamd:
    """Addresses of a running Rspamd whose per-user classifier needs two learns a class."""

    scan_url: str
    learn_url: str
    password: str
    redis_socket: Path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write_settings(root: Path, scan_port: int, learn_port: int, redis_socket: Path) -> None:
    override = root / "etc" / "override.d"
    override.mkdir(parents=True)
    (root / "etc" / "local.d").mkdir()
    (root / "tld.dat").write_text("com\nnet\norg\n", encoding="ascii")
    settings = {
        "worker-normal.inc": f'bind_socket = "127.0.0.1:{scan_port}"; count = 1;',
        "worker-controller.inc": (
            f'bind_socket = "127.0.0.1:{learn_port}";\n'
            # Loopback is trusted by default, and then no password is ever looked at.
            'password = "read-only"; enable_password = "secret"; secure_ip = "192.0.2.1";'
        ),
        "worker-proxy.inc": "enabled = false;",
        "worker-fuzzy.inc": "enabled = false;",
        "options.inc": (
            'dns { nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }\n'
            # Compiling the whole list of top-level domains takes ten seconds.
            f'disable_hyperscan = true; url_tld = "{root}/tld.dat";\n'
            f'control_socket = "{root}/run/control.sock mode=0600";'
        ),
        "logging.inc": f'type = "file"; filename = "{root}/log/rspamd.log"; level = "info";',
        "redis.conf": f'servers = "{redis_socket}";',
        "classifier-bayes.conf": f'per_user = true; min_learns = 2; servers = "{redis_socket}";',
    }
    settings |= {f"{module}.conf": "enabled = false;" for module in _QUIET_MODULES.split()}
    for name, text in settings.items():
        (override / name).write_text(text, encoding="ascii")


def _start(
    command: list[str], options: Iterable[tuple[str, object]], folder: Path
) -> subprocess.Popen[bytes]:
    arguments = [str(part) for option in options for part in option]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(
    what: str, is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            text = log.read_text(errors="replace") if log.exists() else "(no log)"
            pytest.fail(f"{what} did not start:\n{text[-4000:]}")
        time.sleep(_POLL_S)


def _answers_ping(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/ping")
        return connection.getresponse().status == HTTPStatus.OK
    return False


@pytest.fixture(scope="session")
def rspamd() -> Iterator[PrivateRspamd]:
    """Start Redis and Rspamd on private addresses; stop and remove them at the end."""
    if not shutil.which("rspamd") or not shutil.which(f"{REDIS}-server"):
        pytest.skip(f"rspamd and {REDIS}-server are not installed")
    # Not tmp_path: its name is too long for a socket, and Rspamd drops its privileges.
    root = Path(tempfile.mkdtemp(prefix="mh-rspamd-"))
    root.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        for name in ("db", "run", "log"):
            (root / name).mkdir()
            (root / name).chmod(0o777)
        redis_socket = root / "run" / "redis.sock"
        scan_port, learn_port = _free_port(), _free_port()
        _write_settings(root, scan_port, learn_port, redis_socket)
        redis_log = root / "log" / "redis.log"
        redis_options = {
            "--port": "0",
            "--unixsocket": redis_socket,
            "--unixsocketperm": "777",
            "--save": "",
            "--logfile": redis_log,
        }
        redis = _start([f"{REDIS}-server"], redis_options.items(), root)
        stack.callback(_stop, redis)
        _wait_for(f"{REDIS}-server", redis_socket.exists, redis, redis_log)
        account = ["-u", "_rspamd", "-g", "_rspamd"] if os.geteuid() == 0 else []
        command = ["rspamd", "-f", *account, "-c", "/etc/rspamd/rspamd.conf"]
        variables = {"LOCAL_CONFDIR": "etc", "DBDIR": "db", "RUNDIR": "run", "LOGDIR": "log"}
        options = [("--var", f"{name}={root / folder}") for name, folder in variables.items()]
        server = _start(command, options, root)
        stack.callback(_stop, server)
        log = root / "log" / "rspamd.log"
        running = PrivateRspamd(
            scan_url=f"http://127.0.0.1:{scan_port}",
            learn_url=f"http://127.0.0.1:{learn_port}",
            password="secret",
            redis_socket=redis_socket,
        )
        for port in (scan_port, learn_port):
            _wait_for("rspamd", functools.partial(_answers_ping, port), server, log)
        yield running


@pytest.fixture(scope="session")
def postgresql() -> Iterator[databases.Server]:
    """A private PostgreSQL."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("postgresql is not installed")
    with databases.postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[databases.Server]:
    """A private MariaDB."""
    if not shutil.which("mariadb-install-db"):
        pytest.skip("mariadb-server is not installed")
    with databases.mariadb() as server:
        yield server


@pytest.fixture(params=databases.BACKENDS)
def empty_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a new empty database, once for each kind."""
    if request.param == "sqlite":
        place = databases.quick_folder()
        with tempfile.TemporaryDirectory(prefix="mh-sql-", dir=place) as folder:
            yield f"sqlite:///{folder}/accounts.sqlite"
        return
    server: databases.Server = request.getfixturevalue(request.param)
    yield server.new()
