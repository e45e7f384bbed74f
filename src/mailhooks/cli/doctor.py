"""``mailhooks doctor``: is this host's installation in order?"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

import click

from mailhooks.cli import common

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mailhooks.doctor import Finding

_MARKS = {
    "ok": ("✓", "green"),
    "not checked": ("-", "cyan"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "red"),
}
EXIT_WARNINGS, EXIT_FAILED = 1, 2


@click.command(epilog="Example: mailhooks doctor --json | jq '.[] | select(.level != \"ok\")'")
@click.option("--live", is_flag=True, help="Send, deliver and teach test messages, too.")
@click.option("--user", metavar="USER", help="With --live: the Dovecot user who gets them.")
@click.option(
    "--smtp",
    metavar="HOST:PORT",
    default="localhost:25",
    show_default=True,
    help="With --live: where mail comes in.",
)
@click.option(
    "--lmtp",
    metavar="ADDRESS",
    help="With --live: where Postfix delivers, host:port or unix:/path.  [default: as Postfix has"
    " it]",
)
@click.option(
    "--only",
    multiple=True,
    metavar="CHECK",
    help="Only this check, such as postfix, dovecot, redis; can be repeated.",
)
@common.json_option
@click.pass_context
def doctor(
    ctx: click.Context,
    *,
    only: tuple[str, ...],
    live: bool,
    user: str | None,
    smtp: str,
    lmtp: str | None,
    as_json: bool,
) -> None:
    """Check this host's installation, and say how to mend what is wrong.

    Looks at the settings, keys, folders and ledger, at the configuration of Postfix, Dovecot and
    Rspamd, and asks the services, Rspamd and Redis what they are asked in earnest, without
    teaching anything. Run it as root. Exit status: 0 if all is well, 1 if there are warnings, 2 if
    something failed.

    With --live, one message comes to the user by SMTP and one by LMTP, and another is learned and
    unlearned in the name of a user who does not exist. All of it is removed again.
    """
    from mailhooks.doctor import CHECKS, examine, try_out

    if live != bool(user):
        raise click.UsageError("give --live and --user together")
    for name in only:
        if name not in CHECKS:
            raise click.BadParameter(f"{name!r} is none of: {', '.join(CHECKS)}", ctx)
    path: Path = ctx.find_root().obj
    findings = examine(path, only=only)
    if user:
        findings += try_out(path, user, smtp=smtp, lmtp=lmtp)
    if as_json:
        common.print_json([_as_json(finding) for finding in findings])
    else:
        _print(findings)
    levels = {finding.level.value for finding in findings}
    ctx.exit(EXIT_FAILED if "failed" in levels else EXIT_WARNINGS if "warning" in levels else 0)


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "name": finding.name,
        "level": finding.level.value,
        "text": finding.text,
        "advice": finding.advice,
    }


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    terminal = sys.stdout.isatty() and "utf" in (sys.stdout.encoding or "").lower()
    for line in _for_people(findings, width) if terminal else _for_programs(findings, width):
        click.echo(line)
    counts = Counter(finding.level.value for finding in findings)
    click.echo(
        f"{common.plural(len(findings), 'finding')}: {counts['ok']} ok, "
        f"{counts['not checked']} not checked, {common.plural(counts['warning'], 'warning')}, "
        f"{counts['failed']} failed"
    )


def _for_programs(findings: list[Finding], width: int) -> Iterable[str]:
    """One line a finding, without colours."""
    for finding in findings:
        mend = f" -> {finding.advice}" if finding.advice else ""
        yield f"{finding.level.value:11} {finding.name:{width}}  {finding.text}{mend}"


def _for_people(findings: list[Finding], width: int) -> Iterable[str]:
    """Coloured, and the mend on lines of its own."""
    room = max(40, shutil.get_terminal_size().columns - width - 7)
    for finding in findings:
        mark, colour = _MARKS[finding.level.value]
        yield f"{click.style(mark, fg=colour)} {finding.name:{width}}  {finding.text}"
        for number, line in enumerate(textwrap.wrap(finding.advice, room)):
            yield f"{'':{width + 4}}{'->' if number == 0 else '  '} {line}"
