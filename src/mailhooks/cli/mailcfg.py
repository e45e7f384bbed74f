"""The command ``mailcfg``: the host's domains, users and aliases.

Exit status: 0 done, or so already; 1 refused or not found; 2 misused; 3 the database is away,
has no schema or a newer one.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mailhooks import __version__, config
from mailhooks.cli import common
from mailhooks.errors import AccountsError, AccountsUnavailable, ConfigError, MailhooksError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mailhooks.accounts import Accounts, Done, Plan

DATABASE_VARIABLE = "MAILCFG_DB"

_MESSAGE_CHARS = 500

_C = TypeVar("_C", bound="Callable[..., Any]")

_SEEN_BY_ALL = (
    "a password on the command line is seen by every user of this host in the list of processes,"
    " and stays in the shell's history; leave it out to be asked, or pipe it in"
)


class _Refused(click.ClickException):
    exit_code = 1


class _Misused(click.ClickException):
    exit_code = 2


class _Unavailable(click.ClickException):
    exit_code = 3


class Commands(common.Group):
    """Shows what went wrong without a traceback, with an exit status that says of what kind."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            # The parser repeats what was typed as it is.
            message = "".join(
                char if char.isprintable() else ascii(char)[1:-1]
                for char in error.message[:_MESSAGE_CHARS]
            )
            raise click.UsageError(message, error.ctx) from error
        except AccountsUnavailable as error:
            raise _Unavailable(str(error)) from error
        except ConfigError as error:
            raise _Misused(str(error)) from error
        except MailhooksError as error:
            raise _Refused(str(error)) from error


def _remembered(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None:
        ctx.find_root().ensure_object(dict)[parameter.name] = value


def _database_options(command: _C) -> _C:
    """``--db`` and ``--config``, before or behind the name of a command."""
    for decorate in (
        click.option(
            "--config",
            type=click.Path(dir_okay=False, path_type=Path),
            expose_value=False,
            callback=_remembered,
            help=f"Settings whose [accounts] database is used.  [default: {config.DEFAULT_PATH}]",
        ),
        click.option(
            "--db",
            metavar="URL",
            expose_value=False,
            callback=_remembered,
            help=f"The database.  [default: that of {DATABASE_VARIABLE}, else of --config]",
        ),
    ):
        command = decorate(command)
    return command


@click.group(name="mailcfg", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mailcfg")
@_database_options
def main() -> None:
    """The host's domains, users and aliases, in the database that Postfix and Dovecot read.

    DOM is a domain, EMAIL an address, SRC an address or @domain (all other addresses of a
    domain), DST an address here or elsewhere.
    """


def _accounts(ctx: click.Context) -> Accounts:
    from mailhooks.accounts import Accounts

    given = ctx.find_root().ensure_object(dict)
    url = given.get("db") or os.environ.get(DATABASE_VARIABLE)
    path = given.get("config", config.DEFAULT_PATH)
    if not url and ("config" in given or path.exists()):
        url = config.load(path).accounts.database
    if not url:
        raise click.UsageError(
            f"which database? Give --db URL, set {DATABASE_VARIABLE},"
            f' or write [accounts] database = "URL" into {path}'
        )
    return Accounts(url)


def _command(*, name: str | None = None, epilog: str = "") -> Callable[[Callable[..., Any]], Any]:
    """A command of mailcfg with the options that all of them have."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        result: click.Command = main.command(name, epilog=epilog)(_database_options(function))
        return result

    return decorate


def _said(done: Done, changed: str, unchanged: str) -> None:
    click.echo(f"{done.subject}: {changed if done.changed else unchanged}")
    for note in done.notes:
        click.echo(f"note: {note}", err=True)


def _force_option(what: str) -> Callable[[_C], _C]:
    return click.option("--force", is_flag=True, help=f"Remove {what}, too.")


@_command(name="help", epilog="Example: mailcfg help adduser")
@click.argument("command", required=False)
@click.pass_context
def help_(ctx: click.Context, command: str | None) -> None:
    """Explain mailcfg, or one command."""
    root = ctx.find_root()
    if command is None:
        click.echo(main.get_help(root))
        return
    found = main.get_command(root, command)
    if found is None:
        raise click.UsageError(f"no such command: {_shown(command)}; see mailcfg help")
    with click.Context(found, info_name=command, parent=root) as inner:
        click.echo(found.get_help(inner))


@_command(epilog="Example: mailcfg --db sqlite:////var/lib/mailhooks/accounts.sqlite initdb")
@click.pass_context
def initdb(ctx: click.Context) -> None:
    """Make the tables, or bring those of an older version up to date. Harmless to repeat."""
    with _accounts(ctx) as accounts:
        before, now = accounts.migrate()
        where = accounts.database.name
    if before == now:
        click.echo(f"{where}: up to date (schema version {now})")
    elif before:
        click.echo(f"{where}: migrated from schema version {before} to {now}")
    else:
        click.echo(f"{where}: made (schema version {now})")


@_command(epilog="Example: mailcfg adddom example.org --admin ann@example.net")
@click.argument("domain", metavar="DOM")
@click.option(
    "--admin", metavar="EMAIL", help="Who gets mail to root, postmaster, abuse and the like."
)
@click.pass_context
def adddom(ctx: click.Context, domain: str, admin: str | None) -> None:
    """Take mail for a domain.

    With --admin, those system names of the domain that are neither user nor alias become aliases
    to that address, also if the domain is there already.
    """
    with _accounts(ctx) as accounts:
        _said(accounts.add_domain(domain, admin=admin), "set up", "is there already")


@_command(epilog="Example: mailcfg rmdom example.org")
@click.argument("domain", metavar="DOM")
@_force_option("its users and aliases")
@click.pass_context
def rmdom(ctx: click.Context, domain: str, *, force: bool) -> None:
    """Take no more mail for a domain. Refused while it has users or aliases."""
    with _accounts(ctx) as accounts:
        _said(accounts.remove_domain(domain, force=force), "removed", "")


@_command(epilog="Example: mailcfg lsdom --json")
@common.json_option
@click.pass_context
def lsdom(ctx: click.Context, *, as_json: bool) -> None:
    """List the domains, with how many users each has."""
    with _accounts(ctx) as accounts:
        domains = list(accounts.domains())
    if as_json:
        common.print_json([{"name": each.name, "users": each.users} for each in domains])
    else:
        for each in domains:
            click.echo(f"{each.name}\t{each.users}")


@_command(epilog="Example: mailcfg adduser ann@example.org")
@click.argument("address", metavar="EMAIL")
@click.argument("password", metavar="[PW]", required=False)
@click.pass_context
def adduser(ctx: click.Context, address: str, password: str | None) -> None:
    """Make an account. One that exists keeps its password.

    Without PW the password is asked for, or read from standard input.
    """
    from mailhooks.accounts import address as spelling
    from mailhooks.accounts import hash_password

    name = spelling.account(address)
    _warn_of(password)
    with _accounts(ctx) as accounts:
        unchanged = "is there already; its password stays (mailcfg passwd changes it)"
        if accounts.user(name):
            click.echo(f"{name}: {unchanged}")
            return
        accounts.expect_domain(spelling.domain_of(name))
        hashed = hash_password(_password(password))
        _said(accounts.add_user(name, hashed), "added", unchanged)


@_command(epilog="Example: mailcfg passwd ann@example.org <password-file")
@click.argument("address", metavar="EMAIL")
@click.argument("password", metavar="[PW]", required=False)
@click.pass_context
def passwd(ctx: click.Context, address: str, password: str | None) -> None:
    """Give an account another password; it holds at the next login.

    Without PW the password is asked for, or read from standard input.
    """
    from mailhooks.accounts import hash_password

    _warn_of(password)
    with _accounts(ctx) as accounts:
        user = accounts.user(address)
        if user is None:
            raise AccountsError(f"{_shown(address)}: no such user")
        hashed = hash_password(_password(password))
        _said(accounts.set_password(user.address, hashed), "password changed", "")


@_command(epilog="Example: mailcfg rmuser ann@example.org")
@click.argument("address", metavar="EMAIL")
@_force_option("aliases that would lead nowhere")
@click.pass_context
def rmuser(ctx: click.Context, address: str, *, force: bool) -> None:
    """Remove an account; its mail stays on disk. Refused while an alias needs it."""
    with _accounts(ctx) as accounts:
        _said(accounts.remove_user(address, force=force), "removed", "")


@_command(epilog="Example: mailcfg disable ann@example.org")
@click.argument("address", metavar="EMAIL")
@click.pass_context
def disable(ctx: click.Context, address: str) -> None:
    """Let an account neither log in nor receive mail."""
    with _accounts(ctx) as accounts:
        _said(accounts.set_enabled(address, enabled=False), "disabled", "is disabled already")


@_command(epilog="Example: mailcfg enable ann@example.org")
@click.argument("address", metavar="EMAIL")
@click.pass_context
def enable(ctx: click.Context, address: str) -> None:
    """Let an account log in and receive mail again."""
    with _accounts(ctx) as accounts:
        _said(accounts.set_enabled(address, enabled=True), "enabled", "is enabled already")


@_command(epilog="Example: mailcfg lsuser example.org")
@click.argument("domain", metavar="[DOM]", required=False)
@common.json_option
@click.pass_context
def lsuser(ctx: click.Context, domain: str | None, *, as_json: bool) -> None:
    """List the users, of one domain or all."""
    with _accounts(ctx) as accounts, _listed(as_json) as show:
        for user in accounts.users(domain):
            as_dict = {"address": user.address, "domain": user.domain, "enabled": user.enabled}
            show(as_dict, [user.address] if user.enabled else [user.address, "disabled"])


@_command(epilog="Example: mailcfg addalias info@example.org ann@example.org")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.pass_context
def addalias(ctx: click.Context, source: str, destination: str) -> None:
    """Let mail for SRC go to DST, beside the destinations it has."""
    with _accounts(ctx) as accounts:
        _said(accounts.add_alias(source, destination), "added", "is there already")


@_command(epilog="Example: mailcfg rmalias info@example.org")
@click.argument("source", metavar="SRC", required=False)
@click.option(
    "-id",
    "--id",
    "number",
    type=click.IntRange(1, 2**31 - 1),
    metavar="NUM",
    help="Only the destination with this number in lsalias.",
)
@_force_option("aliases that would lead nowhere")
@click.pass_context
def rmalias(ctx: click.Context, source: str | None, number: int | None, *, force: bool) -> None:
    """Remove an alias with all its destinations, or one of them by its number."""
    if (source is None) == (number is None):
        raise click.UsageError("give either SRC or -id NUM")
    with _accounts(ctx) as accounts:
        if source is not None:
            done = accounts.remove_alias(source, force=force)
        else:
            done = accounts.remove_alias_number(int(number or 0), force=force)
        _said(done, "removed", "")


@_command(epilog="Example: mailcfg lsalias --json")
@click.argument("domain", metavar="[DOM]", required=False)
@common.json_option
@click.pass_context
def lsalias(ctx: click.Context, domain: str | None, *, as_json: bool) -> None:
    """List the aliases of one domain or all: number, source, destination."""
    with _accounts(ctx) as accounts, _listed(as_json) as show:
        for each in accounts.aliases(domain):
            as_dict = {"id": each.id, "source": each.source, "destination": each.destination}
            show(as_dict, [str(each.id), each.source, each.destination])


@_command(epilog="Example: mailcfg apply accounts.yaml --dry-run")
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option("--keep", is_flag=True, help="Remove nothing: leave what FILE does not name.")
@common.yes_option
@click.pass_context
def apply(ctx: click.Context, file: Path, *, dry_run: bool, keep: bool, yes: bool) -> None:
    """Bring the database to the domains, users and aliases that FILE (YAML or TOML) names.

    Shows what will be added (+), changed (~) and removed (-), and asks. What FILE does not name
    is removed. A password that exists is never touched; a new account without password_hash has
    none until mailcfg passwd gives it one.
    """
    from mailhooks.accounts import carry_out, load, planned

    declared = load(file)
    with _accounts(ctx) as accounts:
        plan = planned(accounts, declared, keep=keep)
        for line in plan.lines():
            click.echo(line)
        if not plan:
            click.echo("nothing to change")
        elif not dry_run:
            common.confirmed(_question(plan), yes=yes)
            without = carry_out(accounts, declared, plan, keep=keep)
            click.echo("done")
            for address in without:
                click.echo(f"note: no password yet: mailcfg passwd {address}", err=True)


def _question(plan: Plan) -> str:
    removals = common.plural(plan.removals, "removal")
    return f"Change this, with {removals}?" if plan.removals else "Change this?"


def _warn_of(password: str | None) -> None:
    if password is not None:
        click.echo(f"warning: {_SEEN_BY_ALL}", err=True)


def _password(given: str | None) -> str:
    """A password: that of the command line, else asked for twice, else a line of standard input.

    Raises:
        AccountsError: standard input holds none, more than one line, or no UTF-8.
    """
    from mailhooks.accounts.password import SHORT_CHARS

    password: str | None = given
    if password is None and sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    elif password is None:
        password = _line_of_input()
    password = password or ""
    if len(password) < SHORT_CHARS:
        click.echo(f"warning: shorter than {SHORT_CHARS} characters", err=True)
    return password


def _line_of_input() -> str:
    from mailhooks.accounts.password import MAX_PASSWORD_BYTES

    raw = sys.stdin.buffer.read(MAX_PASSWORD_BYTES + 3)
    try:
        line, end, more = raw.decode().partition("\n")
    except UnicodeDecodeError as error:
        raise AccountsError("the password on standard input is not UTF-8") from error
    if end and more:
        raise AccountsError("standard input holds more than one line")
    return line.removesuffix("\r")


def _shown(text: str) -> str:
    from mailhooks.accounts.address import shown

    return shown(text)


@contextmanager
def _listed(as_json: bool) -> Iterator[Callable[[dict[str, Any], Iterable[str]], None]]:
    """What prints a list entry by entry: one JSON array, or a line each with tabs between."""
    count = 0

    def show(as_dict: dict[str, Any], columns: Iterable[str]) -> None:
        nonlocal count
        if as_json:
            click.echo(("[\n " if not count else ",\n ") + json.dumps(as_dict), nl=False)
        else:
            click.echo("\t".join(each if each.isprintable() else ascii(each) for each in columns))
        count += 1

    yield show
    if as_json:
        click.echo("\n]" if count else "[]")
