"""The tables of the SQLite ledger, and how an older file comes to have them.

``PRAGMA user_version`` says how many of the migrations a file has seen, and
``PRAGMA application_id`` that it is a ledger at all. Tables and statements
keep to what SQLite 3.34 knows, the oldest one found beside Python 3.11 (no
STRICT, no RETURNING).
"""

from __future__ import annotations

import itertools
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

APPLICATION_ID = 0x6D686B6C  # "mhkl"; shown by file(1)

Migration = tuple[str, ...]
"""Statements that lead from one version to the next; never edit one that was released."""

MIGRATIONS: tuple[Migration, ...] = (
    (
        # held: "spam", "ham" or NULL. changed: time of the last answer, for pruning.
        """
        CREATE TABLE message (
            id INTEGER PRIMARY KEY,
            user TEXT NOT NULL,
            digest TEXT NOT NULL,
            held TEXT,
            changed REAL NOT NULL,
            UNIQUE (user, digest)
        )
        """,
        "CREATE INDEX message_changed ON message (changed)",
        # Every answer, because statistics look back; the highest id of a message is its last.
        """
        CREATE TABLE answer (
            id INTEGER PRIMARY KEY,
            message INTEGER NOT NULL REFERENCES message (id) ON DELETE CASCADE,
            lesson TEXT NOT NULL,
            outcome TEXT NOT NULL,
            origin TEXT NOT NULL,
            detail TEXT NOT NULL,
            corrects INTEGER NOT NULL,
            time REAL NOT NULL
        )
        """,
        "CREATE INDEX answer_message ON answer (message)",
        # Samples begun and not ended. Their names say nothing of user or message.
        # learns: the user's learned messages of that class just before, if known.
        """
        CREATE TABLE attempt (
            sample TEXT PRIMARY KEY,
            begun INTEGER NOT NULL,
            learns INTEGER,
            time REAL NOT NULL
        ) WITHOUT ROWID
        """,
    ),
    (
        # What each delivery decided. source: "carried", "scanned" or "none", with the reasons of
        # what is missing in no_*. taught: the user's own last word since, "spam" or "ham".
        """
        CREATE TABLE decision (
            id INTEGER PRIMARY KEY,
            user TEXT NOT NULL,
            digest TEXT NOT NULL,
            time REAL NOT NULL,
            folder TEXT NOT NULL,
            reason TEXT NOT NULL,
            source TEXT NOT NULL,
            no_milter TEXT NOT NULL,
            no_scan TEXT NOT NULL,
            no_bayes TEXT NOT NULL,
            objective REAL,
            threshold REAL NOT NULL,
            points REAL,
            probability REAL,
            own_probability REAL,
            own_spam INTEGER,
            own_ham INTEGER,
            shared_probability REAL,
            shared_spam INTEGER,
            shared_ham INTEGER,
            queue_id TEXT NOT NULL,
            taught TEXT,
            taught_time REAL
        )
        """,
        "CREATE INDEX decision_message ON decision (user, digest, time)",
        # All that rates ask for, so that they need not look into the table.
        "CREATE INDEX decision_rates ON decision (user, time, folder, taught)",
        "CREATE INDEX decision_time ON decision (time)",
    ),
    # How many users hold a message as what.
    ("CREATE INDEX message_digest ON message (digest, held, user)",),
    (
        # Lists and senders as keyed hashes: whoever has the file can try names, not read them.
        "CREATE TABLE secret (key BLOB NOT NULL)",
        "INSERT INTO secret VALUES (randomblob(32))",
        # What became of a user's messages with one trait; changed: when the last one came,
        # give or take a day.
        """
        CREATE TABLE past (
            user TEXT NOT NULL,
            trait BLOB NOT NULL,
            said_spam INTEGER NOT NULL DEFAULT 0,
            said_ham INTEGER NOT NULL DEFAULT 0,
            left_junk INTEGER NOT NULL DEFAULT 0,
            left_inbox INTEGER NOT NULL DEFAULT 0,
            changed REAL NOT NULL,
            PRIMARY KEY (user, trait)
        ) WITHOUT ROWID
        """,
        # As what each message counts there, so that its next word replaces the last.
        # traits: their hashes, one after the other.
        """
        CREATE TABLE counted (
            user TEXT NOT NULL,
            digest TEXT NOT NULL,
            word TEXT NOT NULL,
            traits BLOB NOT NULL,
            time REAL NOT NULL,
            PRIMARY KEY (user, digest)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX past_changed ON past (changed)",
        "CREATE INDEX counted_time ON counted (time)",
        # What the acquaintance with list and sender added; NULL if it was not asked.
        "ALTER TABLE decision ADD COLUMN acquaintance REAL",
    ),
)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a file up to date: all that is missing in one transaction, with its record.

    If anything fails the file is as it was, and the program that wrote it can still use it.

    Args:
        connection: in autocommit mode (``isolation_level=None``).
        migrations: all there are, oldest first.

    Raises:
        sqlite3.Error: a statement failed, or the file belongs to a newer mailhooks or to
            another program; says which.
    """
    try:
        # Locked before the version is read, since two processes may come to a new file at once.
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection, newest=len(migrations))
        # Not executescript(): it would commit what is under way.
        for statement in itertools.chain(*migrations[version:]):
            connection.execute(statement)
        if version < len(migrations):
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection, *, newest: int) -> int:
    """How many migrations the file has seen; a file that is nobody's yet has seen none."""
    application, version, tables = (
        int(connection.execute(question).fetchone()[0])
        for question in (
            "PRAGMA application_id",
            "PRAGMA user_version",
            "SELECT count(*) FROM sqlite_master",
        )
    )
    if application != APPLICATION_ID and (application or version or tables):
        raise sqlite3.DatabaseError("is the database of another program")
    if version > newest:
        raise sqlite3.DatabaseError(
            f"was written by a newer mailhooks: it has version {version}, this one knows {newest}"
        )
    return version
