"""Teaching from live accounts: ``mailhooks retrain`` and ``mailhooks reconcile``."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from mailhooks.account import Account, Limits, Part
from mailhooks.cli import common, lessons
from mailhooks.cli.tally import Tally, finish
from mailhooks.directory import known_users
from mailhooks.doveadm import Doveadm
from mailhooks.errors import DoveadmError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from mailhooks.config import Settings
    from mailhooks.ledger import Ledger
    from mailhooks.teacher import Task

user_option = click.option(
    "--user", "-u", type=common.user_name, metavar="USER", help="Whose account is read."
)
all_option = click.option(
    "--all",
    "everybody",
    is_flag=True,
    help="Every user of this host: of [accounts] database, or else those Dovecot lists.",
)
since_option = click.option(
    "--since",
    type=common.moment,
    metavar="AGE|DATE",
    help="Only mail received since then: 30d, 2024-12-31.",
)


@click.command(epilog="Example: mailhooks retrain --user anna@example.org --balance --dry-run")
@user_option
@all_option
@click.option(
    "--older-than",
    "ham_before",
    type=common.moment,
    metavar="AGE|DATE",
    default="7d",
    show_default=True,
    help="How long ago ham must have been received, so that its owner had time to move it.",
)
@since_option
@click.option("--max", "most", type=click.IntRange(1), help="Of each class, the newest that many.")
@click.option("--balance", is_flag=True, help="As much spam as ham, the newest of each.")
@lessons.dry_run_option
@lessons.connections_option
@common.json_option
@click.pass_context
def retrain(
    ctx: click.Context,
    *,
    user: str | None,
    everybody: bool,
    ham_before: float,
    since: float | None,
    most: int | None,
    balance: bool,
    dry_run: bool,
    connections: int,
    as_json: bool,
) -> None:
    """Teach statistics from live accounts: Junk as spam, read mail in INBOX and Archive as ham.

    Says first, by mailbox, what there is to look at. What was taught before is passed over; with
    --dry-run mail is read and compared with the ledger, and nothing is taught. Mail marked as
    deleted is left out, and so is mail whose junk keyword contradicts its mailbox.

    Exits like learn, but with 0 if there is nothing worse than mail that Rspamd refuses for good.
    """
    common.one_user_or_all(user, everybody)
    settings = common.loaded(ctx)
    limits = Limits(
        max_message_bytes=settings.daemon.max_message_bytes,
        since=since,
        ham_before=ham_before,
        most=most,
        balance=balance,
    )
    plans: dict[str, list[dict[str, Any]]] = {}

    async def tasks(_ledger: Ledger, tally: Tally) -> AsyncGenerator[Task, None]:
        async for account in _accounts(settings, user):
            try:
                plan = await account.retrain_plan(limits)
                _say_plan(account.name, plan)
                plans[account.name] = [_part_as_json(part) for part in plan if part.found]
                tally.expect(sum(len(part.found) for part in plan))
                async with aclosing(account.tasks(plan)) as found:
                    async for task in found:
                        yield task
            except DoveadmError as error:
                tally.problems.append(f"{account.name}: {error}")
            tally.problems += account.problems

    tally = _run(settings, tasks, "retrain", dry_run=dry_run, connections=connections)
    finish(tally, as_json=as_json, with_places=True, more={"users": plans})


@click.command(epilog="Example: mailhooks reconcile --all --dry-run")
@user_option
@all_option
@since_option
@lessons.dry_run_option
@lessons.connections_option
@common.json_option
@click.pass_context
def reconcile(
    ctx: click.Context,
    *,
    user: str | None,
    everybody: bool,
    since: float | None,
    dry_run: bool,
    connections: int,
    as_json: bool,
) -> None:
    """Teach what users moved while nobody listened: hooks were off, or a host was restored.

    What lies in Junk and was not learned as spam is learned as spam. What was learned as spam and
    now lies elsewhere, Trash, Sent and Drafts left out, is learned as ham. For the latter all mail
    is read and compared with the ledger, unless --since says that less will do. Samples that wait
    in the spool are left to the daemon.

    Exits like learn, but with 0 if there is nothing worse than mail that Rspamd refuses for good.
    """
    common.one_user_or_all(user, everybody)
    settings = common.loaded(ctx)
    limits = Limits(max_message_bytes=settings.daemon.max_message_bytes, since=since)

    async def tasks(ledger: Ledger, tally: Tally) -> AsyncGenerator[Task, None]:
        async for account in _accounts(settings, user):

            def look(part: Part, name: str = account.name) -> None:
                count = common.plural(len(part.found), "message")
                click.echo(f"{name}: {part.mailbox.name}: looking at {count}", err=True)

            try:
                async with aclosing(account.differences(ledger, limits, look)) as found:
                    async for task in found:
                        yield task
            except DoveadmError as error:
                tally.problems.append(f"{account.name}: {error}")
            tally.problems += account.problems

    tally = _run(settings, tasks, "reconcile", dry_run=dry_run, connections=connections)
    finish(tally, as_json=as_json, with_places=True)


def _run(
    settings: Settings,
    tasks: Callable[[Ledger, Tally], AsyncGenerator[Task, None]],
    origin: str,
    *,
    dry_run: bool,
    connections: int,
) -> Tally:
    return lessons.run(
        settings, tasks, origin=origin, dry_run=dry_run, connections=connections, by_hand=False
    )


async def _accounts(settings: Settings, user: str | None) -> AsyncGenerator[Account, None]:
    doveadm = Doveadm(settings.doveadm.command)
    roles = settings.mailboxes.roles()
    names = [user] if user else await known_users(settings.accounts, settings.doveadm)
    for name in names:
        yield Account(doveadm, name, roles, settings.doveadm.ham_mailboxes)


def _part_as_json(part: Part) -> dict[str, Any]:
    return {
        "mailbox": part.mailbox.name,
        "lesson": part.lesson.value,
        "messages": len(part.found),
    }


def _say_plan(name: str, plan: list[Part]) -> None:
    click.echo(name, err=True)
    parts = [part for part in plan if part.found]
    for part in parts:
        line = f"  {len(part.found):6} as {part.lesson.value:4}  {part.mailbox.name}"
        click.echo(line, err=True)
    if not parts:
        click.echo("       nothing to learn", err=True)
