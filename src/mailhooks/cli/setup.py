"""``mailhooks setup``: puts mailhooks between a host's servers, and takes it out again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from mailhooks.errors import SetupError

if TYPE_CHECKING:
    from mailhooks.setup.journal import Journal
    from mailhooks.setup.plan import Plan


@click.command()
@click.option("--apply", "is_applied", is_flag=True, help="Do what is shown without this option.")
@click.option("--remove", "is_removed", is_flag=True, help="Take all of it back.")
def setup(is_applied: bool, is_removed: bool) -> None:
    """Put mailhooks between this host's Postfix, Dovecot and Rspamd.

    Without an option nothing changes: you see each file that would be made or
    changed, as a diff, and each command that would run. What somebody else has
    set is never overwritten but shown, with what to merge; until then nothing
    is applied. If a server's own configuration test fails, everything is put
    back as it was. Running it again brings changes in mailhooks' settings to
    the servers.
    """
    from mailhooks.setup import apply, host
    from mailhooks.setup.journal import Journal
    from mailhooks.setup.plan import show

    if is_applied and is_removed:
        raise click.UsageError("give either --apply or --remove")
    if os.geteuid() != 0:
        raise SetupError("setup needs root, also to look: run it with sudo")
    journal = Journal.read()
    if journal.begun and not (is_applied or is_removed):
        raise SetupError("a setup was cut short: run it with --apply or --remove, which undoes it")
    if apply.recover(journal):
        click.echo("A setup that was cut short has been undone.")
    if is_removed:
        _remove(journal)
        return
    plan = host.plan(host.survey(), journal)
    if plan.is_empty and not plan.conflicts:
        click.echo("Nothing to do: everything is in place.")
        _notes(plan)
        return
    for line in show(plan):
        click.echo(line)
    _notes(plan)
    if plan.conflicts:
        _conflicts(plan)
        raise SetupError(f"{len(plan.conflicts)} conflicts (above): nothing was changed")
    if not is_applied:
        click.echo("\nNothing was changed. mailhooks setup --apply does all this.")
        return
    problems = apply.apply(plan, journal)
    click.echo("\nDone. mailhooks doctor checks it; mailhooks setup --remove takes it back.")
    for problem in problems:
        click.echo(f"after that: {problem}", err=True)
    if problems:
        raise SetupError("everything is in place, but not all servers use it yet")


def _remove(journal: Journal) -> None:
    from mailhooks.setup import apply

    if journal.is_empty:
        click.echo("Nothing to do: mailhooks setup has changed nothing here.")
        return
    for note in apply.remove(journal):
        click.echo(note)
    click.echo("Everything is taken back.")


def _notes(plan: Plan) -> None:
    for note in plan.notes:
        click.echo(f"note: {note}")


def _conflicts(plan: Plan) -> None:
    click.echo("\nConflicts, nothing is applied until they are solved:")
    for conflict in plan.conflicts:
        click.echo(f"\n{conflict.where}\n    there is: {conflict.found}")
        for line in conflict.advice.splitlines():
            click.echo(f"    {line}")
