"""How long the commands for one user take in a database of 100,000 users and as many aliases.

Run it as ``PYTHONPATH=tests/support python tests/bench/accounts.py [COUNT]``; it starts private
database servers. The time of a call is all it spends in the database, transaction included;
hashing is apart. The file of SQLite lies in the folder for temporary files.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
import time
import tracemalloc
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click
import databases

from mailhooks.accounts import Accounts, no_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROUNDS = 30
LIMIT_MS = 100.0


def main() -> None:
    """Print a table for each database; exit with 1 if a median is above the limit."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    slow = False
    for backend in databases.BACKENDS:
        with ExitStack() as stack:
            if backend == "sqlite":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mh-sql-"))
                url = f"sqlite:///{folder}/accounts.sqlite"
            else:
                url = stack.enter_context(getattr(databases, backend)()).new()
            accounts = stack.enter_context(Accounts(url))
            accounts.migrate()
            databases.fill(accounts, count)
            click.echo(f"{backend}, {count} users and aliases        median   longest")
            for name, call in calls(accounts, count):
                took_ms = sorted(timed(call, number) for number in range(ROUNDS))
                slow |= statistics.median(took_ms) > LIMIT_MS  # the longest says how busy we are
                click.echo(
                    f"  {name:44} {statistics.median(took_ms):6.1f} ms {took_ms[-1]:6.1f} ms"
                )
            listed(accounts.users)
    sys.exit(slow)


def calls(accounts: Accounts, count: int) -> Iterable[tuple[str, Callable[[int], object]]]:
    """The commands that concern one user or alias, with a number that differs each time."""

    def user(number: int) -> str:
        return f"user{(number * 3301) % count:06}@example.org"

    yield "adduser", lambda n: accounts.add_user(f"new{n}@example.org", no_password())
    yield "adduser, there already", lambda n: accounts.add_user(user(n), no_password())
    yield "passwd", lambda n: accounts.set_password(user(n), no_password())
    yield "disable", lambda n: accounts.set_enabled(user(n), enabled=False)
    yield "enable", lambda n: accounts.set_enabled(user(n), enabled=True)
    yield "addalias", lambda n: accounts.add_alias(f"also{n}@example.org", user(n))
    yield "rmalias", lambda n: accounts.remove_alias(f"also{n}@example.org")
    yield "rmuser, with its alias", lambda n: accounts.remove_user(user(n), force=True)
    yield "lsuser, the first page", lambda _: next(accounts.users())
    yield "lsuser DOM, the first page", lambda _: next(accounts.users("example.org"))


def timed(call: Callable[[int], object], number: int) -> float:
    """Milliseconds that a call takes."""
    begun = time.perf_counter()
    call(number)
    return (time.perf_counter() - begun) * 1000


def listed(users: Callable[[], Iterable[object]]) -> None:
    """Print how long the whole list takes, and how much memory at most."""
    begun = time.perf_counter()
    count = sum(1 for _ in users())
    took_s = time.perf_counter() - begun
    tracemalloc.start()
    functools.reduce(lambda _, each: each, users())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    click.echo(f"  lsuser, all {count}: {took_s:.1f} s, at most {peak_bytes / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
