"""What users have taught: ``mailhooks stats``, and taking it back: ``mailhooks forget``."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from mailhooks.cli import common
from mailhooks.cli.verdicts import rate_text, rates_json, rates_lines
from mailhooks.directory import known_users
from mailhooks.errors import AccountsError, DoveadmError, ProtocolError, SpoolError
from mailhooks.ledger import WEEK_S, Counts
from mailhooks.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from mailhooks.config import Settings
    from mailhooks.statistics import Learned, Statistics

_SHARED_CACHE = (
    "Rspamd's learn cache belongs to all users and was kept: it will call what {user} taught "
    "before already learned, and not learn it. See forget --learn-cache."
)


@click.command(epilog="Example: mailhooks stats --user anna@example.org")
@click.option("--user", "-u", type=common.user_name, metavar="USER", help="Only this user.")
@click.option(
    "--weeks",
    type=click.IntRange(1, 520),
    default=4,
    show_default=True,
    help="How far to look back for corrections and outcomes.",
)
@common.json_option
@click.pass_context
def stats(ctx: click.Context, *, user: str | None, weeks: int, as_json: bool) -> None:
    """Show what users have taught, and whether Rspamd uses it yet.

    Those who have taught nothing are shown too, if [accounts] database or Dovecot lists them.
    Rspamd's Bayes says nothing before it has learned redis.min_learns messages of each class:
    until then a user is told how many are missing. A correction is a message that was taught as
    the opposite before. How much good mail went to Junk, and spam to INBOX, is what the user
    moved: mail that was never corrected counts as right.
    """
    from mailhooks.statistics import Learned, Statistics

    settings = common.loaded(ctx)
    since = time.time() - weeks * WEEK_S
    name = user.lower() if user else None
    waiting: Counter[str] = Counter()
    with suppress(SpoolError):  # no spool yet: nothing waits
        waiting.update(each.label.user for each in Spool(settings.daemon.spool_dir).entries())
    with (
        common.opened_ledger(settings.learning) as ledger,
        Statistics(
            settings.redis.url, settings.redis.key_prefix, shared_key=settings.redis.shared_key
        ) as statistics,
    ):
        counts = ledger.counts(name, since=since)
        taught = {name} if name else set(statistics.users())
        rates = ledger.rates(name, since=since)
        listed = set() if name else _listed(settings)
        names = [name] if name else sorted({*counts, *rates, *taught, *waiting, *listed})
        rows = [
            {"user": each}
            | _state(
                statistics.learned(each) if each in taught else Learned(0, 0),
                settings.redis.min_learns,
            )
            | _history(counts.get(each, Counts()), weeks)
            | {"verdicts": rates_json(rates.get(each, {}), weeks), "waiting": waiting[each]}
            for each in names
        ]
    if as_json:
        common.print_json(rows)
    elif user:
        _print_one(rows[0], weeks)
    elif rows:
        _print_all(rows)
    else:
        click.echo("Nobody has taught anything yet.")


def _listed(settings: Settings) -> set[str]:
    """Every user of this host, as Rspamd spells them; nobody if they cannot be listed."""
    try:
        users = asyncio.run(known_users(settings.accounts, settings.doveadm))
    except (AccountsError, DoveadmError) as error:
        click.echo(f"not shown: who has taught nothing, since {error}", err=True)
        return set()
    return {user.lower() for user in users}


def _state(learned: Learned, min_learns: int) -> dict[str, Any]:
    return {
        "spam": max(0, learned.spam),
        "ham": max(0, learned.ham),
        "min_learns": min_learns,
        "ready": min(learned.spam, learned.ham) >= min_learns,
        "state": learned.lacking(min_learns),
    }


def _history(counts: Counts, weeks: int) -> dict[str, Any]:
    return {
        "ledger": {"spam": counts.spam, "ham": counts.ham},
        # The oldest week first; the last one ends now.
        "corrections_by_week": [counts.corrections.get(week, 0) for week in range(weeks)],
        "outcomes": {outcome.value: count for outcome, count in counts.outcomes.items()},
    }


def _print_one(row: dict[str, Any], weeks: int) -> None:
    corrections = row["corrections_by_week"]
    outcomes = ", ".join(f"{count} {name}" for name, count in row["outcomes"].items())
    span = common.plural(weeks, "week")
    for name, value in (
        ("user", row["user"]),
        (
            "learned",
            f"{row['spam']} spam, {row['ham']} ham (Rspamd wants {row['min_learns']} each)",
        ),
        ("state", row["state"]),
        ("ledger", f"{row['ledger']['spam']} messages are spam, {row['ledger']['ham']} ham"),
        ("corrections", f"{sum(corrections) / weeks:.1f} a week in {span}: {_weekly(corrections)}"),
        ("outcomes", f"{outcomes or 'none'} in {span}"),
        *rates_lines(row["verdicts"], span),
        ("waiting", common.plural(row["waiting"], "sample")),
    ):
        click.echo(f"{name + ':':12} {value}")


def _print_all(rows: list[dict[str, Any]]) -> None:
    headings = ["user", "spam", "ham", "state", "corrections by week", "refused", "waiting"]
    headings += ["ham in Junk", "spam in INBOX"]
    lines = [
        [
            row["user"],
            str(row["spam"]),
            str(row["ham"]),
            row["state"],
            _weekly(row["corrections_by_week"]),
            str(row["outcomes"].get("refused", 0)),
            str(row["waiting"]),
            rate_text(row["verdicts"], "false_positive"),
            rate_text(row["verdicts"], "false_negative"),
        ]
        for row in rows
    ]
    common.table(headings, lines, {1, 2, 5, 6, 7, 8})


def _weekly(corrections: list[int]) -> str:
    return " ".join(map(str, corrections))


@click.command(epilog="Example: mailhooks forget --user anna@example.org")
@click.option(
    "--user", "-u", type=common.user_name, metavar="USER", required=True, help="Whose lessons go."
)
@click.option(
    "--learn-cache",
    is_flag=True,
    help="Also clear Rspamd's learn cache, which is one for all users.",
)
@common.yes_option
@common.json_option
@click.pass_context
def forget(ctx: click.Context, *, user: str, learn_cache: bool, yes: bool, as_json: bool) -> None:
    """Remove all that a user has taught: statistics in Redis, ledger, spool, drop folder.

    Asks first.

    Rspamd remembers every learned message in a cache that does not tell users apart. While it
    lasts, Rspamd calls what the user taught before "already learned", and learns it no more. To
    start again with the same mail, give --learn-cache: it clears the cache of all users. Others
    lose nothing that the ledger knows; but if one of them takes back a lesson, Rspamd will add
    the new one without taking the old one out.
    """
    from mailhooks.statistics import Statistics

    settings = common.loaded(ctx)
    name = user.lower()
    spool = Spool(settings.daemon.spool_dir)
    with (
        common.opened_ledger(settings.learning) as ledger,
        Statistics(
            settings.redis.url, settings.redis.key_prefix, shared_key=settings.redis.shared_key
        ) as statistics,
    ):
        learned = statistics.learned(name)
        known = ledger.counts(name).get(name, Counts())
        question = (
            f"Forget {name}: {learned.spam} spam and {learned.ham} ham in Redis, "
            f"{common.plural(known.spam + known.ham, 'message')} in the ledger, "
            f"{common.plural(len(_samples_of(spool, name)), 'sample')} in the spool, "
            f"{common.plural(len(_calls_of(settings, name)), 'call')} in the drop folder"
        )
        if learn_cache:
            question += ", and clear the learn cache of all users"
        common.confirmed(f"{question}?", yes=yes)
        removed = _forget(name, settings, spool, statistics)
        # Last, so that after a failure the same command finishes the work.
        removed["ledger_messages"] = ledger.forget(name)
        removed["learn_cache"] = statistics.clear_learn_cache() if learn_cache else None
    if as_json:
        common.print_json({"user": name} | removed)
        return
    click.echo(
        f"Redis: removed {removed['spam']} spam, {removed['ham']} ham, {removed['tokens']} tokens"
    )
    click.echo(f"ledger: removed {common.plural(removed['ledger_messages'], 'message')}")
    click.echo(f"spool: removed {common.plural(removed['samples'], 'sample')}")
    click.echo(f"drop folder: removed {common.plural(removed['calls'], 'call')}")
    if learn_cache:
        click.echo(f"learn cache: removed {common.plural(removed['learn_cache'], 'message')}")
    else:
        click.echo(_SHARED_CACHE.format(user=name))


def _forget(user: str, settings: Settings, spool: Spool, statistics: Statistics) -> dict[str, Any]:
    # In the order of a sample's way, or the daemon could learn one after the rest is gone.
    calls = 0
    for path in _calls_of(settings, user):
        with suppress(FileNotFoundError):  # taken a moment ago
            path.unlink()
            calls += 1
    samples = 0
    for name in _samples_of(spool, user):
        with suppress(SpoolError):  # learned a moment ago
            spool.drop(name)
            samples += 1
    forgotten = statistics.forget(user)
    return {
        "calls": calls,
        "samples": samples,
        "spam": forgotten.spam,
        "ham": forgotten.ham,
        "tokens": forgotten.tokens,
    }


def _samples_of(spool: Spool, user: str) -> list[str]:
    if not (spool.folder / "new").is_dir():
        return []
    waiting = [each.name for each in spool.entries() if each.label.user == user]
    return waiting + [
        each.name for each in spool.all_set_aside() if each.label and each.label.user == user
    ]


def _calls_of(settings: Settings, user: str) -> list[Path]:
    """Calls in the drop folder from which this user's statistics would learn.

    Raises:
        SpoolError: the folder cannot be read.
    """
    from mailhooks.config import uids_of
    from mailhooks.daemon.dropbox import calls_in, read_call
    from mailhooks.daemon.learn import event_of, learning_user
    from mailhooks.daemon.peer import user_of

    mail_uids = uids_of(settings.daemon.mail_users)
    roles = settings.mailboxes.roles() if settings.mailboxes.shared == "owner" else None
    found = []
    try:
        for path in calls_in(settings.daemon.drop_dir):
            # One that is no call teaches nobody, and one that has gone is in the spool.
            with suppress(ProtocolError, FileNotFoundError):
                call, _ = read_call(path, settings.daemon.max_message_bytes)
                uid = call.peer.uid
                learns = actor = user_of(call.env, uid, mail_uids)
                with suppress(ProtocolError):
                    learns = learning_user(
                        event_of(call.args), actor, uid, roles=roles, mail_uids=mail_uids
                    )
                if learns == user:
                    found.append(path)
    except FileNotFoundError:
        return []  # no drop folder
    except OSError as error:
        folder = settings.daemon.drop_dir
        raise SpoolError(f"drop folder {folder}: {error.strerror or error}") from error
    return found
