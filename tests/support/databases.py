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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mailhooks.accounts import no_password, schema
from mailhooks.accounts.database import DRIVERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailhooks.accounts import Accounts

BACKENDS = ("sqlite", "postgresql", "mariadb")

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.05
_ROOM_BYTES = 2**29
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


def fill(accounts: Accounts, count: int) -> None:
    """Give a database with tables many users of example.org, and as many aliases."""
    accounts.add_domain("example.org")
    names = [f"user{each:06}@example.org" for each in range(count)]
    with accounts.database.writing() as connection:
        number = connection.execute(sa.select(schema.domain.c.id)).scalar_one()
        connection.execute(
            sa.insert(schema.mailuser),
            [
                {"address": name, "domain_id": number, "password": no_password(), "enabled": 1}
                for name in names
            ],
        )
        connection.execute(
            sa.insert(schema.alias),
            [{"source": f"alias.{name}", "destination": name} for name in names],
        )


@contextmanager
def postgresql() -> Iterator[Server]:
    """A PostgreSQL whose own order of text is a language's, not that of bytes."""
    programs = max(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    with _folder("postgres") as folder:
        options = ["-A", "trust", "-U", "mailcfg", "-E", "UTF8", "--no-sync"]
        options += ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en"]
        with _process(
            [programs / "initdb", "-D", folder / "data", *options], folder, "postgres"
        ) as process:
            _finished(process, folder)
        settings = [word for setting in _POSTGRESQL_SETTINGS for word in ("-c", setting)]
        command: list[str | Path] = [
            programs / "postgres",
            "-D",
            folder / "data",
            "-k",
            folder,
            *settings,
        ]
        server = Server(f"postgresql://mailcfg@/{{database}}?host={folder}", "postgres")
        # SIGQUIT, PostgreSQL's "immediate shutdown", gives its shared memory back.
        with _process(command, folder, "postgres", signal.SIGQUIT) as process:
            _ready(process, folder)
            yield server


@contextmanager
def mariadb() -> Iterator[Server]:
    """A MariaDB with its defaults."""
    with _folder("mysql") as folder:
        data = f"--datadir={folder}/data"
        small = "--innodb-log-file-size=8M"
        options = ["--skip-test-db", "--auth-root-authentication-method=normal"]
        options += ["--skip-name-resolve", small]
        command = ["mariadb-install-db", "--no-defaults", data, *options]
        with _process(command, folder, "mysql") as process:
            _finished(process, folder)
        socket = folder / "socket"
        command = ["/usr/sbin/mariadbd", "--no-defaults", data, f"--socket={socket}"]
        command += ["--skip-networking", f"--pid-file={folder}/pid", f"--tmpdir={folder}"]
        command += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", small]
        server = Server(f"mariadb://root@localhost/{{database}}?unix_socket={socket}", "mysql")
        with _process(command, folder, "mysql") as process:
            _ready(process, folder)
            yield server


def quick_folder() -> Path | None:
    """A folder in memory if there is one with room, so that no test waits for a disk."""
    place = Path("/dev/shm")
    is_roomy = place.is_dir() and shutil.disk_usage(place).free > _ROOM_BYTES
    return place if is_roomy else None


@contextmanager
def _folder(account: str) -> Iterator[Path]:
    # Not tmp_path: its name is too long for a socket, and these servers never run as root.
    folder = Path(tempfile.mkdtemp(prefix="mh-sql-", dir=quick_folder()))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, account, account)
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _process(
    command: Sequence[str | Path],
    folder: Path,
    account: str,
    stop: signal.Signals = signal.SIGKILL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program as an unprivileged user, its output in ``log``; gone at the end.

    Nobody wants the data, so it is stopped at once.
    """
    is_root = os.geteuid() == 0
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=account if is_root else None,
            group=account if is_root else None,
            extra_groups=[] if is_root else None,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(stop)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _finished(process: subprocess.Popen[bytes], folder: Path) -> None:
    assert process.wait(_START_TIMEOUT_S) == 0, _log(folder)


def _ready(process: subprocess.Popen[bytes], folder: Path) -> None:
    # Not by trying to connect: PyMySQL forgets to close a socket it could not use.
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not re.search("ready (for|to accept) connections", _log(folder)):
        assert process.poll() is None, _log(folder)
        assert time.monotonic() < deadline, _log(folder)
        time.sleep(_POLL_S)


def _log(folder: Path) -> str:
    return (folder / "log").read_text(encoding="utf-8", errors="replace")[-4000:]
