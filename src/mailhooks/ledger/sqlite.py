"""The ledger of one host, in one SQLite file."""

from __future__ import annotations

import hmac
import math
import time
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mailhooks.acquaintance import Past, Trait, Word
from mailhooks.bayes import Opinion
from mailhooks.ledger.base import (
    DELIVERY,
    WEEK_S,
    Answer,
    Counts,
    Decided,
    Decision,
    Ledger,
    Outcome,
    Rates,
    Source,
    Taught,
)
from mailhooks.ledger.database import Database
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.policy import Folder, Reason

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

# Some ten milliseconds of work, then as long a pause: whoever waits for a lock of Python or
# SQLite is not queued and must find it free.
_PRUNED_AT_ONCE = 200
_PAUSE_S = 0.01

_TRAIT_BYTES = 12
"""Of a trait's hash: two of one user's are alike by chance in none of our lifetimes."""


_PAST = (
    "SELECT trait, said_spam, said_ham, left_junk, left_inbox FROM past"
    " WHERE user = ? AND trait = ?"
)


class SqliteLedger(Ledger):
    """Kept in one SQLite file; text must be free of lone surrogates.

    Args:
        path: created with mode 0600 if it is missing, or ``":memory:"``. Its folder is not
            created: where an encrypted volume is not mounted, a new ledger would be wrong.
        clock: seconds since the epoch; dates attempts.

    Raises:
        LedgerError: the file cannot be opened or created, is no ledger, or is one of a newer
            mailhooks.
    """

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._database = Database(path)
        with self._database.transaction("DEFERRED") as db:
            (key,) = db.execute("SELECT key FROM secret").fetchone()
        self._mac = hmac.new(key, digestmod="sha256")

    def close(self) -> None:
        """Let go of the file; harmless to repeat."""
        self._database.close()

    def record(self, *answers: Answer, ended: Collection[str] = ()) -> int:
        """Write answers down in one transaction; returns how many were corrections."""
        with self._database.transaction() as db:
            corrections = sum([_record(db, answer) for answer in answers])
            for (user, digest), since in _oldest(answers).items():
                _attribute(db, user, digest, since)
            for answer in answers:
                # What a delivery taught by itself, the user only left where it was.
                if answer.origin != DELIVERY:
                    self._recount(db, answer, Word.of(answer.lesson))
            _end(db, ended)
        return corrections

    def taught(self, user: str, digest: str) -> Taught | None:
        """What this user was taught of this message; None if there never was an answer."""
        rows = self._database.rows(
            "SELECT held, lesson, outcome, origin, detail, time"
            " FROM message JOIN answer ON answer.message = message.id"
            " WHERE user = ? AND digest = ? ORDER BY answer.id DESC LIMIT 1",
            (user, digest),
        )
        if not rows:
            return None
        held, lesson, outcome, origin, detail, answered = rows[0]
        return Taught(
            Lesson(held) if held else None,
            Answer(
                user=user,
                digest=digest,
                lesson=Lesson(lesson),
                outcome=Outcome(outcome),
                origin=origin,
                detail=detail,
                time=answered,
            ),
        )

    def agreement(self, digest: str) -> dict[Lesson, int]:
        """How many users hold a message as what; the shared statistics are nobody's."""
        with self._database.transaction("DEFERRED") as db:
            rows = db.execute(
                "SELECT held, count(*) FROM message"
                " WHERE digest = ? AND held IS NOT NULL AND user != ? GROUP BY held",
                (digest, SHARED_USER),
            ).fetchall()
        return dict.fromkeys(Lesson, 0) | {Lesson(held): number for held, number in rows}

    def counts(self, user: str | None = None, *, since: float = 0.0) -> dict[str, Counts]:
        """Figures by user, in order of their names; users not in the ledger are left out."""
        values = {"user": user, "since": since, "week": WEEK_S}
        with self._database.transaction("DEFERRED") as db:
            held = db.execute(
                # In the order of the file: five times as fast as jumping through the index.
                "SELECT user, sum(held IS 'spam'), sum(held IS 'ham') FROM message NOT INDEXED"
                " WHERE :user IS NULL OR user = :user GROUP BY user ORDER BY user",
                values,
            ).fetchall()
            answered = db.execute(
                "SELECT user, outcome, CAST((time - :since) / :week AS INTEGER), count(*),"
                " sum(corrects) FROM message JOIN answer ON answer.message = message.id"
                " WHERE (:user IS NULL OR user = :user) AND time >= :since GROUP BY 1, 2, 3",
                values,
            ).fetchall()
        outcomes: defaultdict[str, dict[Outcome, int]] = defaultdict(dict)
        corrections: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for name, value, week, number, corrected in answered:
            outcome = Outcome(value)
            outcomes[name][outcome] = outcomes[name].get(outcome, 0) + number
            if corrected:
                corrections[name][week] = corrections[name].get(week, 0) + corrected
        return {
            name: Counts(spam=spam, ham=ham, outcomes=outcomes[name], corrections=corrections[name])
            for name, spam, ham in held
        }

    def users(self) -> list[str]:
        """Everybody who taught something, sorted."""
        with self._database.transaction("DEFERRED") as db:
            rows = db.execute("SELECT DISTINCT user FROM message ORDER BY user").fetchall()
        return [name for (name,) in rows]

    def decide(self, *decisions: Decision) -> None:
        """Write decisions down in one transaction."""
        with self._database.transaction() as db:
            for decision in decisions:
                _decide(db, decision)
                is_junk = decision.folder is Folder.JUNK
                self._recount(db, decision, Word.LEFT_JUNK if is_junk else Word.LEFT_INBOX)
            # A user may have been quicker than whoever wrote the decision down.
            for (user, digest), since in _oldest(decisions).items():
                _attribute(db, user, digest, since)

    def decisions(
        self, user: str, digest: str | None = None, *, since: float = 0.0
    ) -> list[Decided]:
        """A user's decisions, oldest first."""
        one = "" if digest is None else "AND digest = :digest"
        with self._database.transaction("DEFERRED") as db:
            rows = db.execute(
                f"SELECT {_COLUMNS}, taught, taught_time FROM decision"  # noqa: S608 - no value in it
                f" WHERE user = :user {one} AND time >= :since ORDER BY time, id",
                {"user": user, "digest": digest, "since": since},
            ).fetchall()
        return [_decided(row) for row in rows]

    def rates(self, user: str | None = None, *, since: float = 0.0) -> dict[str, dict[int, Rates]]:
        """How often verdicts were wrong, by user and whole weeks after ``since``."""
        one = "" if user is None else "user = :user AND"
        with self._database.transaction("DEFERRED") as db:
            rows = db.execute(
                "SELECT user, CAST((time - :since) / :week AS INTEGER),"  # noqa: S608 - no value in it
                " sum(folder = 'inbox'), sum(folder = 'junk'),"
                " sum(folder = 'junk' AND taught IS 'ham'),"
                " sum(folder = 'inbox' AND taught IS 'spam')"
                f" FROM decision INDEXED BY decision_rates WHERE {one} time >= :since"
                " GROUP BY 1, 2 ORDER BY 1, 2",
                {"user": user, "since": since, "week": WEEK_S},
            ).fetchall()
        found: dict[str, dict[int, Rates]] = {}
        for name, week, inbox, junk, false_positives, false_negatives in rows:
            found.setdefault(name, {})[week] = Rates(
                inbox=inbox,
                junk=junk,
                false_positives=false_positives,
                false_negatives=false_negatives,
            )
        return found

    def past(
        self, user: str, traits: Sequence[Trait], *, digest: str | None = None
    ) -> dict[Trait, Past]:
        """What became of a user's earlier messages with some traits; one never met is left out."""
        named = {self._hash(user, trait): trait for trait in traits}
        if not named:
            return {}
        # For IN (...) SQLite builds a table first, which takes longer than to look twice.
        statement = " UNION ALL ".join([_PAST] * len(named))
        values = [value for trait in named for value in (user, trait)]
        if digest is None:  # a delivery, which is waited for
            rows, itself = self._database.rows(statement, values), None
        else:
            with self._database.transaction("DEFERRED") as db:
                rows = db.execute(statement, values).fetchall()
                itself = db.execute(
                    "SELECT word, traits FROM counted WHERE user = ? AND digest = ?",
                    (user, digest),
                ).fetchone()
        found = {trait: Past(*numbers) for trait, *numbers in rows}
        if itself is not None and (word := Word(itself[0])) in _LEFT:
            for trait in found.keys() & _split(itself[1]):
                number = getattr(found[trait], word.value)
                found[trait] = replace(found[trait], **{word.value: number - 1})
        return {trait: found[name] for name, trait in named.items() if name in found}

    def _hash(self, user: str, trait: Trait) -> bytes:
        words = f"{user}\0{trait.kind.value}\0{trait.name}".encode("utf-8", "replace")
        mac = self._mac.copy()
        mac.update(words)
        return mac.digest()[:_TRAIT_BYTES]

    def _recount(self, db: sqlite3.Connection, each: Answer | Decision, word: Word) -> None:
        """Count a message's traits as one word, in place of what it counted as before."""
        if not each.traits:
            return
        row = db.execute(
            "SELECT word, traits FROM counted WHERE user = ? AND digest = ?",
            (each.user, each.digest),
        ).fetchone()
        # What was said stands, whenever another delivery of the message was written down.
        if row is not None and (row[0] == word.value or word in _LEFT):
            return
        if row is not None:
            _count(db, each.user, _split(row[1]), Word(row[0]), -1, each.time)
        traits = [self._hash(each.user, trait) for trait in each.traits]
        _count(db, each.user, traits, word, 1, each.time)
        db.execute(
            "INSERT OR REPLACE INTO counted (user, digest, word, traits, time)"
            " VALUES (?, ?, ?, ?, ?)",
            (each.user, each.digest, word.value, b"".join(traits), each.time),
        )

    def forget(self, user: str) -> int:
        """Remove everything about a user; returns how many messages they had taught."""
        with self._database.transaction() as db:
            for table in ("decision", "past", "counted"):
                db.execute(f"DELETE FROM {table} WHERE user = ?", (user,))  # noqa: S608 - no value
            removed = db.execute("DELETE FROM message WHERE user = ?", (user,)).rowcount
        self._database.empty_log()
        return removed

    def forget_message(self, user: str, digest: str) -> int:
        """Remove what a user was taught and what was decided of one message; how many that were."""
        with self._database.transaction() as db:
            row = db.execute(
                "SELECT word, traits, time FROM counted WHERE user = ? AND digest = ?",
                (user, digest),
            ).fetchone()
            if row is not None:
                _count(db, user, _split(row[1]), Word(row[0]), -1, row[2])
                db.execute("DELETE FROM counted WHERE user = ? AND digest = ?", (user, digest))
            return sum(
                db.execute(
                    f"DELETE FROM {table} WHERE user = ? AND digest = ?",  # noqa: S608 - no value
                    (user, digest),
                ).rowcount
                for table in ("decision", "message")
            )

    def prune(self, before: float) -> int:
        """Remove messages whose last answer is older, and what was decided or begun before then."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM attempt WHERE time < ?", (before,))
        self._prune(
            "DELETE FROM decision WHERE id IN (SELECT id FROM decision WHERE time < ? LIMIT ?)",
            before,
        )
        # Single messages are forgotten; what is known of a list or sender lasts while it writes.
        for table, moment, name in (("counted", "time", "digest"), ("past", "changed", "trait")):
            self._prune(
                f"DELETE FROM {table} WHERE (user, {name}) IN"  # noqa: S608 - no value in it
                f" (SELECT user, {name} FROM {table} WHERE {moment} < ? LIMIT ?)",
                before,
            )
        return self._prune(
            "DELETE FROM message WHERE id IN (SELECT id FROM message WHERE changed < ? LIMIT ?)",
            before,
        )

    def _prune(self, statement: str, before: float) -> int:
        total = 0
        while True:
            with self._database.transaction() as db:
                removed = db.execute(statement, (before, _PRUNED_AT_ONCE)).rowcount
            total += removed
            if removed < _PRUNED_AT_ONCE:
                return total
            time.sleep(_PAUSE_S)

    def begin_attempt(self, sample: str, learns: int | None = None) -> int:
        """Note that a sample is about to be handled; returns how often it was begun without end."""
        with self._database.transaction() as db:
            db.execute(
                "INSERT INTO attempt (sample, begun, learns, time) VALUES (?, 1, ?, ?)"
                " ON CONFLICT (sample) DO UPDATE SET begun = begun + 1,"
                " learns = excluded.learns, time = excluded.time",
                (sample, learns, self._clock()),
            )
            row = db.execute("SELECT begun FROM attempt WHERE sample = ?", (sample,)).fetchone()
        return int(row[0])

    def learns_before(self, sample: str) -> int | None:
        """The count noted when a sample that was not ended was last begun, if there is one."""
        with self._database.transaction("DEFERRED") as db:
            row = db.execute("SELECT learns FROM attempt WHERE sample = ?", (sample,)).fetchone()
        return None if row is None else row[0]

    def forget_learns(self, sample: str) -> None:
        """Forget the count noted with a sample."""
        with self._database.transaction() as db:
            db.execute("UPDATE attempt SET learns = NULL WHERE sample = ?", (sample,))

    def attempts(self) -> dict[str, int]:
        """Samples that were begun and not ended, and how often."""
        with self._database.transaction("DEFERRED") as db:
            return dict(db.execute("SELECT sample, begun FROM attempt").fetchall())

    def end_attempt(self, *samples: str) -> None:
        """Note that the process outlived samples; harmless to repeat."""
        with self._database.transaction() as db:
            _end(db, samples)


_DAY_S = 86400.0
_LEFT = frozenset({Word.LEFT_INBOX, Word.LEFT_JUNK})


def _end(db: sqlite3.Connection, samples: Iterable[str]) -> None:
    for sample in samples:
        db.execute("DELETE FROM attempt WHERE sample = ?", (sample,))


def _split(traits: bytes) -> list[bytes]:
    return [traits[at : at + _TRAIT_BYTES] for at in range(0, len(traits), _TRAIT_BYTES)]


def _count(
    db: sqlite3.Connection, user: str, traits: Iterable[bytes], word: Word, step: int, when: float
) -> None:
    """Count one message more or less for each trait."""
    column = word.value
    for trait in traits:
        db.execute(
            f"INSERT INTO past (user, trait, {column}, changed) VALUES (?, ?, max(0, ?), ?)"  # noqa: S608
            f" ON CONFLICT (user, trait) DO UPDATE SET {column} = max(0, {column} + ?),"
            # Its index need not move with every message.
            " changed = CASE WHEN excluded.changed > changed + ? THEN excluded.changed"
            " ELSE changed END",
            (user, trait, step, when, step, _DAY_S),
        )


def _record(db: sqlite3.Connection, answer: Answer) -> bool:
    """Write one answer down; returns whether it is a correction."""
    row = db.execute(
        "SELECT id, held FROM message WHERE user = ? AND digest = ?", (answer.user, answer.digest)
    ).fetchone()
    message, was_held = row or (None, None)
    held = answer.lesson.value if answer.outcome.confirmed else was_held
    corrects = answer.corrects(Lesson(was_held) if was_held else None)
    if message is None:
        message = db.execute(
            "INSERT INTO message (user, digest, held, changed) VALUES (?, ?, ?, ?)",
            (answer.user, answer.digest, held, answer.time),
        ).lastrowid
    else:
        db.execute(
            "UPDATE message SET held = ?, changed = ? WHERE id = ?", (held, answer.time, message)
        )
    db.execute(
        "INSERT INTO answer (message, lesson, outcome, origin, detail, corrects, time)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            message,
            answer.lesson.value,
            answer.outcome.value,
            answer.origin,
            answer.detail,
            corrects,
            answer.time,
        ),
    )
    return corrects


_COLUMNS = (
    "user, digest, time, folder, reason, source, no_milter, no_scan, no_bayes, objective,"
    " threshold, points, probability, own_probability, own_spam, own_ham,"
    " shared_probability, shared_spam, shared_ham, queue_id, acquaintance"
)


def _decide(db: sqlite3.Connection, decision: Decision) -> None:
    values = (
        decision.user,
        decision.digest,
        decision.time,
        decision.folder.value,
        decision.reason.value,
        decision.source.value,
        decision.no_milter,
        decision.no_scan,
        decision.no_bayes,
        decision.objective,
        decision.threshold,
        decision.points,
        decision.probability,
        *_opinion_values(decision.own),
        *_opinion_values(decision.shared),
        decision.queue_id,
        decision.acquaintance,
    )
    marks = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO decision ({_COLUMNS}) VALUES ({marks})", values)  # noqa: S608


def _opinion_values(opinion: Opinion | None) -> tuple[float | None, int | None, int | None]:
    if opinion is None:
        return None, None, None
    return opinion.probability, opinion.spam, opinion.ham


def _decided(row: tuple[Any, ...]) -> Decided:
    (user, digest, decided, folder, reason, source, no_milter, no_scan, no_bayes, objective) = row[
        :10
    ]
    threshold, points, probability = row[10:13]
    queue_id, acquaintance, taught, taught_time = row[19:]
    return Decided(
        Decision(
            user=user,
            digest=digest,
            time=decided,
            folder=Folder(folder),
            reason=Reason(reason),
            source=Source(source),
            no_milter=no_milter,
            no_scan=no_scan,
            no_bayes=no_bayes,
            objective=objective,
            threshold=threshold,
            points=points,
            probability=probability,
            own=_opinion(row[13:16]),
            shared=_opinion(row[16:19]),
            queue_id=queue_id,
            acquaintance=acquaintance,
        ),
        Lesson(taught) if taught else None,
        taught_time,
    )


def _opinion(values: tuple[Any, ...]) -> Opinion | None:
    probability, spam, ham = values
    return None if spam is None else Opinion(probability, spam, ham)


def _attribute(db: sqlite3.Connection, user: str, digest: str, since: float) -> None:
    """Give each decision on a message the user's own last word until the next decision on it.

    Only where something written at ``since`` or later can have changed that: one message may
    come to a user many thousand times.
    """
    lessons = db.execute(
        "SELECT lesson, time FROM message JOIN answer ON answer.message = message.id"
        " WHERE user = ? AND digest = ? AND origin <> ? ORDER BY answer.id",
        (user, digest, DELIVERY),
    ).fetchall()
    if not lessons:
        return
    decisions = db.execute(
        "SELECT id, time FROM decision WHERE user = :user AND digest = :digest AND time >="
        " ifnull((SELECT max(time) FROM decision"
        "   WHERE user = :user AND digest = :digest AND time < :since), :since)"
        " ORDER BY time, id",
        {"user": user, "digest": digest, "since": since},
    ).fetchall()
    ends = [*(decided for _, decided in decisions[1:]), math.inf]
    for (number, begin), end in zip(decisions, ends, strict=False):
        own = [(lesson, given) for lesson, given in lessons if begin <= given < end]
        taught, taught_time = own[-1] if own else (None, None)
        db.execute(
            "UPDATE decision SET taught = ?, taught_time = ? WHERE id = ?"
            " AND (taught IS NOT ? OR taught_time IS NOT ?)",
            (taught, taught_time, number, taught, taught_time),
        )


def _oldest(entries: Sequence[Answer] | Sequence[Decision]) -> dict[tuple[str, str], float]:
    """The messages concerned, each with its user, and the time of the first entry on it."""
    found: dict[tuple[str, str], float] = {}
    for entry in entries:
        key = entry.user, entry.digest
        found[key] = min(entry.time, found.get(key, math.inf))
    return found
