"""One SQLite file, shared by threads and processes: opening, transactions, failures.

Durability: the file is in WAL mode with ``synchronous=NORMAL``. A write that
has returned is in the kernel, so it survives kill -9 of every process; a power
cut or a kernel crash may take the last writes back, never half of one
(https://sqlite.org/pragma.html#pragma_synchronous). That is the right way to
fail: a lost answer means at worst that a message is sent to Rspamd again, which
answers "already learned". Redis syncs its own file once a second by default,
so with ``FULL`` the ledger could hold what the statistics lost, and nothing
would ever bring it back. Attempts guard against a sample that kills the
process, for which the same is enough. So no commit waits for the disk.

What is in the log has to be written into the file one day, and that does wait:
for pages all over the file, the more the larger it is. A thread does it, with a
connection of its own, while others go on writing into the log.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mailhooks.errors import LedgerError
from mailhooks.ledger.schema import MIGRATIONS, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BUSY_TIMEOUT_S = 10.0
"""How long a call waits for another process's write before it fails."""

CHECKPOINT_ROWS = 500
"""Rows changed before a thread writes the log into the file; some thousand pages."""

MOST_LOG_PAGES = 8000
"""A log of that size, 32 MB, is written by whoever commits: the thread does not keep up."""

_PAUSE_S = 0.01
_IN_MEMORY = ":memory:"
_MODE = 0o600
_BEYOND_OWNER = 0o077
_FAILURES = (OSError, sqlite3.Error, UnicodeEncodeError)


class Database:
    """One connection behind one lock for all threads of a process.

    Between processes SQLite's own lock does the same. Not usable in a child
    after ``fork``.

    Args:
        path: created if it is missing, or ``":memory:"``.

    Raises:
        LedgerError: the file cannot be opened or created, is no ledger, or is one of a newer
            mailhooks.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._lock = threading.Lock()
        self._checkpointed = 0
        self._checkpoint: threading.Thread | None = None
        with self._failures_explained():
            if self._path != _IN_MEMORY:
                _make_private(Path(path))
            self._connection = sqlite3.connect(
                self._path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,  # transactions begin where this module says so
                check_same_thread=False,  # the lock sees to that
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        # First, because nothing may be written before it is known that the file is a ledger.
        migrate(self._connection, MIGRATIONS)
        self._switch_to_wal()
        self._connection.execute("PRAGMA synchronous = NORMAL")
        # A service keeps three of these open; what is not here is in the kernel's cache.
        self._connection.execute("PRAGMA cache_size = -160")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {MOST_LOG_PAGES}")
        self._connection.execute("PRAGMA foreign_keys = ON")
        # A user who is forgotten shall not linger in unused pages.
        self._connection.execute("PRAGMA secure_delete = ON")

    def _switch_to_wal(self) -> None:
        # Of several who come to a new file at once SQLite turns some away without waiting:
        # each has the file open for reading and would wait for the others to close it.
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    @contextmanager
    def transaction(
        self, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE"
    ) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing of it; one block at a time.

        Args:
            kind: IMMEDIATE to write, DEFERRED to read. A writer takes SQLite's lock at once:
                had it read first, its first write could find that another process wrote
                since, and no waiting would help.

        Raises:
            LedgerError: a statement failed, or the file stayed locked.
        """
        with self._lock, self._failures_explained():
            try:
                self._connection.execute(f"BEGIN {kind}")
                yield self._connection
                self._connection.execute("COMMIT")
                self._checkpoint_soon()
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """What one statement reads, by itself: a third of the work of a transaction.

        Raises:
            LedgerError: as for a transaction.
        """
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except _FAILURES as error:
                raise self._explained(error) from error

    def empty_log(self) -> None:
        """Write the log's content into the file, so that nothing removed is left in it.

        Best effort: if another process reads on, or the disk is full, it happens later by itself.
        """
        with self._lock, suppress(sqlite3.OperationalError):
            if self._checkpoint is not None:
                self._checkpoint.join()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Let go of the file; harmless to repeat."""
        with self._lock, self._failures_explained():
            if self._checkpoint is not None:
                # Or it might close the file last, and would have to remove the log.
                self._checkpoint.join()
            self._connection.close()

    def _checkpoint_soon(self) -> None:
        if self._connection.total_changes - self._checkpointed < CHECKPOINT_ROWS:
            return
        if self._path != _IN_MEMORY and (
            self._checkpoint is None or not self._checkpoint.is_alive()
        ):
            self._checkpointed = self._connection.total_changes
            self._checkpoint = threading.Thread(target=self._write_log_into_file, daemon=True)
            self._checkpoint.start()

    def _write_log_into_file(self) -> None:
        # Best effort: what is left is written the next time, or by whoever commits.
        with suppress(sqlite3.Error), closing(sqlite3.connect(self._path)) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def _failures_explained(self) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> LedgerError:
        reason = error.strerror if isinstance(error, OSError) else None
        return LedgerError(f"ledger {self._path}: {reason or error}")


def _make_private(path: Path) -> None:
    """Create the file if it is missing, readable by nobody else; SQLite's own files follow it.

    Never through a file descriptor: closing one drops all POSIX locks this
    process has on the file, those of another connection included
    (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    with suppress(FileExistsError):
        os.mknod(path, _MODE | stat.S_IFREG)
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) and mode & _BEYOND_OWNER:
        path.chmod(_MODE)
