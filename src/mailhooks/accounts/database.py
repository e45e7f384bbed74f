"""One SQL database behind a URL: opening, transactions, and failures in plain words.

SQLite, PostgreSQL (psycopg) and MariaDB (PyMySQL) look alike from here. A
writing transaction first takes a lock that all writers share: administrators
change accounts seldom, and with one writer at a time there are neither
deadlocks nor conflicts to repeat. Postfix and Dovecot, which only read, wait
for nobody: PostgreSQL and MariaDB show them the last committed state; SQLite
makes them wait for the moment of a commit.

A SQLite file stays in rollback mode: to read one in WAL mode, Postfix and
Dovecot would need the right to write beside it.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from mailhooks.accounts import schema
from mailhooks.errors import AccountsUnavailable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

LOCK_TIMEOUT_S = 30
"""How long a writer waits for another one before it gives up."""

CONNECT_TIMEOUT_S = 10

DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mariadb"}
_MIGRATION_LOCK = "mailcfg_schema"
# Readable by a group, since Postfix and Dovecot have to read it; it holds hashes.
_FILE_MODE = 0o640


class Database:
    """Connections to one database, made when they are needed. Not usable after ``fork``.

    Args:
        url: ``sqlite:////path``, ``postgresql://...`` or ``mariadb://...``.

    Raises:
        AccountsUnavailable: the URL is none of these, or the driver for it is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
        except ArgumentError:
            # Not repeated: it may hold a password.
            parsed = None
        if parsed is None or parsed.drivername not in {*DRIVERS, *DRIVERS.values()}:
            raise AccountsUnavailable(
                "the database must be a URL: sqlite:////path/to/file,"
                " postgresql://user:password@host/name or mariadb://user:password@host/name"
            )
        self.url = parsed.set(drivername=DRIVERS.get(parsed.drivername, parsed.drivername))
        self.name = parsed.render_as_string(hide_password=True)
        self._file: Path | None = None
        if self.url.get_backend_name() == "sqlite":
            if not parsed.database or parsed.database == ":memory:" or parsed.query:
                raise AccountsUnavailable(
                    f"{self.name} names no file: write sqlite:////path/to/file"
                )
            self._file = Path(parsed.database)
        with self._explained():
            self._engine = self._made_engine()

    def _made_engine(self) -> sa.Engine:
        # Parameters hold password hashes, which belong in no error text.
        options: dict[str, Any] = {"hide_parameters": True}
        backend = self.url.get_backend_name()
        if backend == "sqlite":
            options["connect_args"] = {"timeout": LOCK_TIMEOUT_S}
        else:
            options["isolation_level"] = "READ COMMITTED"
            options["pool_pre_ping"] = True  # servers close connections that were idle for long
            connect: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S}
            if backend == "postgresql":
                connect["options"] = f"-c lock_timeout={LOCK_TIMEOUT_S}s"
            else:
                connect["charset"] = "utf8mb4"
                # Else PyMySQL reads all certificates of this host before it connects.
                connect["ssl_disabled"] = "unix_socket" in self.url.query
                connect["init_command"] = f"SET innodb_lock_wait_timeout={LOCK_TIMEOUT_S}"
            options["connect_args"] = connect
        engine = sa.create_engine(self.url, **options)
        if backend == "sqlite":
            sa.event.listen(engine, "connect", _sqlite_connected)
            sa.event.listen(engine, "begin", _sqlite_begins)
        return engine

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads.

        Raises:
            AccountsUnavailable: the database cannot be used.
        """
        with self._transaction("DEFERRED") as connection:
            schema.check(connection, lock=False)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes: all of the block or nothing of it, one block at a time.

        Raises:
            AccountsUnavailable: the database cannot be used, or stayed locked.
        """
        with self._transaction("IMMEDIATE") as connection:
            schema.check(connection, lock=True)
            yield connection

    def migrate(
        self, migrations: Sequence[schema.Migration] = schema.MIGRATIONS
    ) -> tuple[int, int]:
        """Make the schema, or bring it up to date; a SQLite file is created if it is missing.

        On SQLite and PostgreSQL all of it is one transaction with its record. MariaDB commits
        every statement by itself: there a migration that was interrupted is repeated by the
        next call.

        Returns:
            The version before, 0 for a new database, and the version now.

        Raises:
            AccountsUnavailable: the database cannot be used, has a newer schema, or has
                tables of another program.
        """
        if self._file is not None:
            with self._explained():
                _create(self._file)
        with self._transaction("IMMEDIATE") as connection, self._only_migration(connection):
            return schema.migrate(connection, migrations)

    @contextmanager
    def _only_migration(self, connection: sa.Connection) -> Iterator[None]:
        """Before there is a row to lock, something else has to keep others out."""
        match connection.dialect.name:
            case "postgresql":
                lock = sa.func.hashtext(_MIGRATION_LOCK)
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
                yield
            case "mysql":
                name = sa.func.concat(_MIGRATION_LOCK, ".", sa.func.database())
                taken = connection.execute(sa.select(sa.func.get_lock(name, LOCK_TIMEOUT_S)))
                if not taken.scalar():
                    raise AccountsUnavailable("is being migrated by somebody else: try again")
                try:
                    yield
                    connection.exec_driver_sql("COMMIT")  # or the next one would not see it yet
                finally:
                    connection.execute(sa.select(sa.func.release_lock(name)))
            case _:
                yield  # BEGIN IMMEDIATE has done it

    def close(self) -> None:
        """Close all connections; harmless to repeat."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, kind: Literal["DEFERRED", "IMMEDIATE"]) -> Iterator[sa.Connection]:
        with self._explained():
            if self._file is not None and not self._file.exists():
                raise AccountsUnavailable("is not there: run mailcfg initdb")
            engine = self._engine.execution_options(sqlite_begin=kind)
            with engine.begin() as connection:
                yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except AccountsUnavailable as error:
            raise AccountsUnavailable(f"database {self.name} {error}") from error
        except DBAPIError as error:
            raise AccountsUnavailable(f"database {self.name}: {_reason(error)}") from error
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            extra = _EXTRAS.get(getattr(error, "name", None) or "", "")
            hint = f": pip install 'mailhooks[{extra}]'" if extra else ""
            raise AccountsUnavailable(
                f"database {self.name}: its driver is not installed{hint}"
            ) from error
        except OSError as error:
            raise AccountsUnavailable(f"database {self.name}: {error.strerror or error}") from error
        except SQLAlchemyError as error:
            raise AccountsUnavailable(f"database {self.name}: {error}") from error


def _sqlite_connected(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where this module says so
    connection.execute("PRAGMA foreign_keys = ON")
    # A removed hash shall not linger in unused pages.
    connection.execute("PRAGMA secure_delete = ON")


def _sqlite_begins(connection: sa.Connection) -> None:
    # A writer takes SQLite's lock at once: had it read first, its first write could find
    # that another process wrote since, and no waiting would help.
    kind = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")


def _create(path: Path) -> None:
    """Create the file if it is missing, with the owner and group of its folder."""
    with suppress(FileExistsError):
        os.mknod(path, _FILE_MODE | stat.S_IFREG)
        path.chmod(_FILE_MODE)  # whatever the umask
        if os.geteuid() == 0:
            folder = path.parent.stat()
            shutil.chown(path, folder.st_uid, folder.st_gid)


def _reason(error: DBAPIError) -> str:
    """The driver's own words; only the first line, since PostgreSQL's next may show a row."""
    original = error.orig
    words = original.args if original is not None else ()
    text = str(words[-1] if words else original).strip()
    first = text.splitlines()[0] if text else type(original).__name__
    if _is_no_schema(first):
        return "has no accounts yet: run mailcfg initdb"
    return first


def _is_no_schema(text: str) -> bool:
    # SQLite: no such table; PostgreSQL: relation does not exist; MariaDB: Table doesn't exist.
    return schema.version_table.name in text and any(
        words in text for words in ("no such table", "does not exist", "doesn't exist")
    )
