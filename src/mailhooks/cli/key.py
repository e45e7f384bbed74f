"""``mailhooks key``: the secrets that sign carried scores, and their rotation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mailhooks.cli import common
from mailhooks.errors import ConfigError
from mailhooks.keys import (
    KeyRing,
    add_key,
    change_keys,
    load_keys,
    new_key,
    parse_keys,
    remove_key,
    use_key,
)

if TYPE_CHECKING:
    from mailhooks.keys import Key

RSPAMD_FILE = Path("/etc/rspamd/local.d/milter_headers.conf")

_RESTART_SERVE = "Restart mailhooks serve on every mailbox host: it reads its keys at start."
_RESTART_BOTH = (
    "Restart mailhooks serve first, then mailhooks milter: they read their keys at start, and what "
    "one signs the other must know."
)

rspamd_option = click.option(
    "--rspamd-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=RSPAMD_FILE,
    show_default=True,
    help="Rspamd's file that holds the report secret.",
)


@click.group(cls=common.Group)
def key() -> None:
    """List, rotate, add and remove the secrets that sign carried scores.

    The first key of the key file signs, all of them verify. No command but show prints a secret.
    Services read their keys at start; each command says what is to be restarted.
    """


@key.command("list", epilog="Example: mailhooks key list")
@rspamd_option
@common.json_option
@click.pass_context
def list_keys(ctx: click.Context, *, rspamd_file: Path, as_json: bool) -> None:
    """List the ids of all keys, and what each is used for.

    Rspamd signs its report to the milter with a secret derived from one of them: the one that is
    found in its file, if that can be read.
    """
    ring = load_keys(common.loaded(ctx).score.key_file)
    text = _text(rspamd_file)
    rspamd = {each.key_id: None if text is None else _is_used(each, text) for each in ring.keys}
    if as_json:
        common.print_json(
            [
                {"key_id": name, "signs": name == ring.signing.key_id, "rspamd": used}
                for name, used in rspamd.items()
            ]
        )
        return
    words = {None: "?", True: "yes", False: ""}
    common.table(
        ["key", "use", "Rspamd's report"],
        [
            [name, "signs" if name == ring.signing.key_id else "verifies", words[used]]
            for name, used in rspamd.items()
        ],
    )


@key.command(epilog="Example: mailhooks key rotate")
@common.json_option
@click.pass_context
def rotate(ctx: click.Context, *, as_json: bool) -> None:
    """Put a new key on top: it signs, and the older ones go on verifying.

    For a host that has both milter and mailboxes. Where they are apart, every mailbox host must
    know a key before the first milter signs with it: see key add --new and key use.
    """
    settings = common.loaded(ctx)
    fresh = new_key()
    ring = change_keys(settings.score.key_file, lambda text: add_key(text, fresh, signs=True))
    days = f"{settings.score.max_age_s / 86400:g} days"
    lines = [f"{fresh.key_id} signs from the next start on.", _RESTART_BOTH]
    if len(ring.keys) > 1:
        old = ring.keys[1].key_id
        lines += [
            f"{old} must stay for {days} (score.max_age_s): mail in the queue is signed with it.",
            "Before you remove it, give Rspamd the new report secret (key show --report).",
        ]
    _done(ring, lines, as_json=as_json, added=fresh.key_id)


@key.command(epilog="Example: ssh mx mailhooks key show 1e12d6d5 | mailhooks key add")
@click.option("--new", is_flag=True, help="Make a fresh key instead of reading one.")
@common.json_option
@click.pass_context
def add(ctx: click.Context, *, new: bool, as_json: bool) -> None:
    """Add a key that verifies and does not sign: a line "key-id secret" from standard input.

    For the key of another MX, or, with --new, for one that every mailbox host is to know before
    the milter signs with it.
    """
    settings = common.loaded(ctx)
    fresh = new_key() if new else _read()
    ring = change_keys(settings.score.key_file, lambda text: add_key(text, fresh, signs=False))
    lines = [f"{fresh.key_id} verifies from the next start on.", _RESTART_SERVE]
    if ring.signing.key_id == fresh.key_id:
        lines = [f"{fresh.key_id} is the only key, so it signs, too.", _RESTART_BOTH]
    elif new:
        lines.append(
            f"Give it to every other host (key show {fresh.key_id}, key add), then let it sign "
            f"(key use {fresh.key_id})."
        )
    _done(ring, lines, as_json=as_json, added=fresh.key_id)


@key.command(epilog="Example: mailhooks key use 1e12d6d5")
@click.argument("key_id", metavar="ID")
@common.json_option
@click.pass_context
def use(ctx: click.Context, *, key_id: str, as_json: bool) -> None:
    """Let a key sign that all hosts know already."""
    settings = common.loaded(ctx)
    ring = change_keys(settings.score.key_file, lambda text: use_key(text, key_id))
    lines = [f"{key_id} signs from the next start on.", "Restart mailhooks milter."]
    _done(ring, lines, as_json=as_json)


@key.command(epilog="Example: mailhooks key show 1e12d6d5 | ssh mailbox mailhooks key add")
@click.argument("key_id", metavar="[ID]", required=False)
@click.option("--report", is_flag=True, help="The report secret made of it, for Rspamd.")
@click.pass_context
def show(ctx: click.Context, *, key_id: str | None, report: bool) -> None:
    """Print the secret of a key, as key add reads it; the one that signs, unless told otherwise.

    With --report it prints what Rspamd is to sign its report to the milter with: KEY in its
    local.d/milter_headers.conf.
    """
    ring = load_keys(common.loaded(ctx).score.key_file)
    found = ring.find(key_id) if key_id else ring.signing
    if found is None:
        raise ConfigError([_unknown(ring, key_id or "")])
    secret = found.secret.decode("ascii")
    click.echo(found.report_secret() if report else f"{found.key_id} {secret}")


@key.command(epilog="Example: mailhooks key remove 1e12d6d5")
@click.argument("key_id", metavar="ID")
@click.option("--force", is_flag=True, help="Also if Rspamd still uses it.")
@rspamd_option
@common.yes_option
@common.json_option
@click.pass_context
def remove(
    ctx: click.Context, *, key_id: str, force: bool, rspamd_file: Path, yes: bool, as_json: bool
) -> None:
    """Remove a key: what it has signed is believed no more. Asks first.

    The key that signs is never removed, and one that Rspamd's report secret is made of only with
    --force: without it the milter believes no report, and no mail carries a score.
    """
    settings = common.loaded(ctx)
    path = settings.score.key_file
    ring = load_keys(path)
    found = ring.find(key_id)
    if found is None:
        raise ConfigError([_unknown(ring, key_id)], str(path))
    remove_key(path.read_text(encoding="utf-8"), key_id)  # complains before anybody is asked
    text = _text(rspamd_file)
    if text is not None and _is_used(found, text) and not force:
        problem = (
            f"Rspamd's report secret is made of {key_id}: without it no mail would carry a score. "
            "Put the new one there (mailhooks key show --report), reload Rspamd, and repeat this; "
            "or give --force"
        )
        raise ConfigError([problem], str(rspamd_file))
    if text is None:
        click.echo(
            f"{rspamd_file} cannot be read, so nobody knows whether Rspamd's report secret is made "
            f"of {key_id}. If it is, no mail will carry a score: see key show --report.",
            err=True,
        )
    days = f"{settings.score.max_age_s / 86400:g} days"
    common.confirmed(
        f"Remove {key_id}? Mail it signed, up to {days} old, will be judged without its score",
        yes=yes,
    )
    ring = change_keys(path, lambda old: remove_key(old, key_id))
    lines = [f"{key_id} is removed.", _RESTART_BOTH]
    _done(ring, lines, as_json=as_json, removed=key_id)


def _done(ring: KeyRing, lines: list[str], *, as_json: bool, **changed: str) -> None:
    if as_json:
        result: dict[str, Any] = dict(changed)
        result |= {"signs": ring.signing.key_id, "keys": [each.key_id for each in ring.keys]}
        common.print_json(result)
    else:
        for line in lines:
            click.echo(line)


def _read() -> Key:
    """The one key on standard input.

    Raises:
        ConfigError: there is none, or more than one.
    """
    keys = parse_keys(sys.stdin.read(), "standard input").keys
    if len(keys) > 1:
        raise ConfigError(["holds more than one key"], "standard input")
    return keys[0]


def _unknown(ring: KeyRing, key_id: str) -> str:
    return f"there is no key {key_id}, only {', '.join(each.key_id for each in ring.keys)}"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _is_used(key: Key, rspamd: str) -> bool:
    return key.report_secret() in rspamd
