"""Private PostgreSQL and MariaDB servers on UNIX sockets, gone without trace at the end."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mailhooks.accounts.database import DRIVERS

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKENDS = ("sqlite", "postgresql", "mariadb")

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.05
_POSTGRESQL_SETTINGS = (
    "listen_addresses=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "shared_buffers=16MB",
)
_numbers = itertools.count()


class Server:
    """A running server: where it is, and new empty databases in it."""

    def __init__(self, address: str, first: str) -> None:
        self._address = address
        url = sa.make_url(address.format(database=first))
        self._engine = sa.create_engine(
            url.set(drivername=DRIVERS[url.drivername]),
            isolation_level="AUTOCOMMIT",
            poolclass=sa.NullPool,
        )

    def new(self) -> str:
        """The URL of a new empty database."""
        name = f"accounts{next(_numbers)}"
        with self._engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return self._address.format(database=name)


@contextmanager
def postgresql() -> Iterator[Server]:
    """A PostgreSQL whose own order of text is a language's, not that of bytes."""
    programs = max(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    with _folder("postgres") as folder:
        _run(
            [
                programs / "initdb",
                "-D",
                folder / "data",
                "-A",
                "trust",
                "-U",
                "mailcfg",
                "-E",
                "UTF8",
            ]
            + ["--no-sync", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en"],
            folder,
            "postgres",
        )
        settings = [word for setting in _POSTGRESQL_SETTINGS for word in ("-c", setting)]
        command = [programs / "postgres", "-D", folder / "data", "-k", folder, *settings]
        server = Server(f"postgresql://mailcfg@/{{database}}?host={folder}", "postgres")
        # SIGQUIT: at once, since nobody wants the data.
        with _process(command, folder, "postgres", signal.SIGQUIT):
            yield server


@contextmanager
def mariadb() -> Iterator[Server]:
    """A MariaDB with its defaults."""
    with _folder("mysql") as folder:
        data = f"--datadir={folder}/data"
        _run(
            ["mariadb-install-db", "--no-defaults", data, "--skip-test-db"]
            + ["--auth-root-authentication-method=normal", "--skip-name-resolve"],
            folder,
            "mysql",
        )
        socket = folder / "socket"
        command = ["/usr/sbin/mariadbd", "--no-defaults", data, f"--socket={socket}"]
        command += ["--skip-networking", f"--pid-file={folder}/pid", f"--tmpdir={folder}"]
        command += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M"]
        server = Server(f"mariadb://root@localhost/{{database}}?unix_socket={socket}", "mysql")
        with _process(command, folder, "mysql", signal.SIGKILL):
            yield server


@contextmanager
def _folder(account: str) -> Iterator[Path]:
    # Not tmp_path: its name is too long for a socket, and these servers never run as root.
    folder = Path(tempfile.mkdtemp(prefix="mh-sql-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, account, account)
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


def _as(account: str) -> dict[str, str]:
    return {"user": account, "group": account} if os.geteuid() == 0 else {}


def _run(command: list[object], folder: Path, account: str) -> None:
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        extra_groups=[] if os.geteuid() == 0 else None,
        **_as(account),
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")


@contextmanager
def _process(
    command: list[object], folder: Path, account: str, stop: signal.Signals
) -> Iterator[None]:
    log = folder / "log"
    with ExitStack() as stack:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stack.enter_context(log.open("wb")),
            stderr=subprocess.STDOUT,
            extra_groups=[] if os.geteuid() == 0 else None,
            **_as(account),
        )
        try:
            deadline = time.monotonic() + _START_TIMEOUT_S
            # Not by trying to connect: PyMySQL forgets to close a socket it could not use.
            while not re.search(rb"ready (for|to accept) connections", log.read_bytes()):
                gone = process.poll() is not None or time.monotonic() > deadline
                assert not gone, log.read_text(errors="replace")[-4000:]
                time.sleep(_POLL_S)
            yield
        finally:
            process.send_signal(stop)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
