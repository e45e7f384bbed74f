"""``mailhooks doctor``: is this host's installation in order?"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import click

from mailhooks.cli import common

if TYPE_CHECKING:
    from pathlib import Path

    from mailhooks.doctor import Finding

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}


@click.command(epilog="Example: mailhooks doctor --json | jq '.[] | select(.level != \"ok\")'")
@common.json_option
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Check this host's installation, and say how to mend what is wrong.

    Looks at the settings, keys, folders and ledger, and asks the services, Rspamd and Redis what
    they are asked in earnest, without teaching anything. Run it as root. Exit status: 0 if there
    are no errors, whatever the warnings; 1 if there are.
    """
    from mailhooks.doctor import examine

    path: Path = ctx.find_root().obj
    findings = examine(path)
    if as_json:
        common.print_json([_as_json(finding) for finding in findings])
    else:
        _print(findings)
    if any(finding.level.value == "error" for finding in findings):
        ctx.exit(1)


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "name": finding.name,
        "level": finding.level.value,
        "text": finding.text,
        "advice": finding.advice,
    }


def _print(findings: list[Finding]) -> None:
    marked = sys.stdout.isatty() and "utf" in (sys.stdout.encoding or "").lower()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark, colour = _MARKS[finding.level.value]
        sign = click.style(mark, fg=colour) if marked else f"{finding.level.value:7}"
        click.echo(f"{sign} {finding.name:{width}}  {finding.text}")
        if finding.advice:
            indent = 1 if marked else 7
            click.echo(f"{'':{indent}} {'':{width}}  -> {finding.advice}")
    levels = Counter(finding.level.value for finding in findings)
    click.echo(
        f"{common.plural(len(findings), 'finding')}: {levels['ok']} ok, "
        f"{common.plural(levels['warning'], 'warning')}, "
        f"{common.plural(levels['error'], 'error')}"
    )
