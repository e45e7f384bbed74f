"""``mailhooks queue``: samples that wait to be learned, and those set aside."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from mailhooks.cli import common
from mailhooks.errors import SpoolError
from mailhooks.spool import Spool

if TYPE_CHECKING:
    from mailhooks.spool import Label

WAITING, SET_ASIDE = "waiting", "set aside"
all_option = click.option("--all", "everything", is_flag=True, help="Every sample set aside.")


@click.group(cls=common.Group)
def queue() -> None:
    """Samples that wait to be learned, and those set aside because they could not be."""


@queue.command("list", epilog="Example: mailhooks queue list --user anna@example.org")
@click.option("--user", "-u", type=common.user_name, metavar="USER", help="Only this user's.")
@common.json_option
@click.pass_context
def list_(ctx: click.Context, *, user: str | None, as_json: bool) -> None:
    """List samples, the oldest first: those that wait, then those set aside."""
    samples = _samples(_spool(ctx))
    if user is not None:
        samples = [sample for sample in samples if sample["user"] == user.lower()]
    if as_json:
        common.print_json(samples)
        return
    if samples:
        headings = ["name", "state", "user", "lesson", "age", "origin", "reason"]
        rows = [
            [
                *(str(sample[key]) for key in ("name", "state", "user", "lesson")),
                common.span(sample["age_s"]) if sample["age_s"] is not None else "",
                *(str(sample[key]) for key in ("origin", "reason")),
            ]
            for sample in samples
        ]
        common.table(headings, rows)
    states = [sample["state"] for sample in samples]
    click.echo(f"{states.count(WAITING)} waiting, {states.count(SET_ASIDE)} set aside")


@queue.command(epilog="Example: mailhooks queue show 01795375610909530000.917.0 --message | less")
@click.argument("name")
@click.option("--message", is_flag=True, help="Print the message instead, byte for byte.")
@common.json_option
@click.pass_context
def show(ctx: click.Context, *, name: str, message: bool, as_json: bool) -> None:
    """Show what a sample is, or its message."""
    spool = _spool(ctx)
    if message:
        click.echo(spool.read(name).partition(b"\n\n")[2], nl=False)
        return
    content = spool.read(name)
    sample = next((each for each in _samples(spool) if each["name"] == name), None)
    if sample is None:
        raise SpoolError(f"spool: {name} has just been learned or dropped")
    sample["size_bytes"] = len(content.partition(b"\n\n")[2])
    if as_json:
        common.print_json(sample)
        return
    for key, value in sample.items():
        if value not in (None, ""):
            click.echo(f"{key + ':':12} {value}")


@queue.command(epilog="Example: mailhooks queue retry --all")
@click.argument("names", nargs=-1, metavar="NAME...")
@all_option
@common.json_option
@click.pass_context
def retry(ctx: click.Context, *, names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Have samples tried again, those set aside and those that wait for their next try.

    The daemon notices within a few seconds (learning.rescan_s). A sample set aside is left alone
    if its user has taught the opposite since: the last word counts.
    """
    spool = _spool(ctx)
    # Not those that are no samples at all: nobody can learn them.
    learnable = [sample for sample in _samples(spool) if sample["lesson"]]
    chosen = _chosen(names, everything, [each for each in learnable if each["state"] == SET_ASIDE])
    by_name = {sample["name"]: sample for sample in learnable}
    retried, overtaken = [], []
    with common.opened_ledger(common.loaded(ctx).learning) as ledger:
        for name in chosen:
            sample = by_name.get(name)
            taught = ledger.taught(sample["user"], sample["digest"]) if sample else None
            if (
                sample is not None
                and sample["state"] == SET_ASIDE
                and taught is not None
                and taught.held is not None
                and taught.held.value != sample["lesson"]
                and taught.last.time > sample["received"]
            ):
                overtaken.append(name)
            else:
                retried.append(spool.retry(name))
    if as_json:
        common.print_json({"retried": retried, "overtaken": overtaken})
    else:
        for name in overtaken:
            click.echo(f"{name}: left alone, its user has taught the opposite since")
        click.echo(f"{common.plural(len(retried), 'sample')} to be tried again")


@queue.command(epilog="Example: mailhooks queue drop --all --yes")
@click.argument("names", nargs=-1, metavar="NAME...")
@all_option
@common.yes_option
@common.json_option
@click.pass_context
def drop(
    ctx: click.Context, *, names: tuple[str, ...], everything: bool, yes: bool, as_json: bool
) -> None:
    """Remove samples for good; nothing is learned from them. Asks first."""
    spool = _spool(ctx)
    samples = _samples(spool)
    chosen = _chosen(names, everything, [each for each in samples if each["state"] == SET_ASIDE])
    for name in chosen:
        spool.read(name)  # a name that does not exist is an error before anything is removed
    if chosen:
        common.confirmed(f"Drop {common.plural(len(chosen), 'sample')} for good?", yes=yes)
    for name in chosen:
        spool.drop(name)
    if as_json:
        common.print_json({"dropped": chosen})
    else:
        click.echo(f"{common.plural(len(chosen), 'sample')} dropped")


def _spool(ctx: click.Context) -> Spool:
    return Spool(common.loaded(ctx).daemon.spool_dir)


def _chosen(
    names: tuple[str, ...], everything: bool, candidates: list[dict[str, Any]]
) -> list[str]:
    if bool(names) == everything:
        raise click.UsageError("give either names or --all")
    return [sample["name"] for sample in candidates] if everything else list(dict.fromkeys(names))


def _samples(spool: Spool) -> list[dict[str, Any]]:
    """All there is, as scripts see it."""
    now = time.time()
    waiting = [_sample(entry.name, WAITING, entry.label, now) for entry in spool.entries()]
    set_aside = [_sample(each.name, SET_ASIDE, each.label, now) for each in spool.all_set_aside()]
    return waiting + set_aside


def _sample(name: str, state: str, label: Label | None, now: float) -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "user": label.user if label else "",
        "lesson": label.lesson.value if label else "",
        "origin": label.origin if label else "",
        "received": label.received if label else None,
        "age_s": now - label.received if label else None,
        "digest": label.digest if label else "",
        "reason": label.reason if label else "not a sample of mailhooks",
    }
