"""The Sieve scripts: there, compiled, not changed since, and those of this version."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from mailhooks.doctor.check import Finding, failed, ok, warning

if TYPE_CHECKING:
    from pathlib import Path


def script(name: str, path: Path) -> list[Finding]:
    """Whether one script can run as it was shipped; Dovecot's processes cannot compile it.

    Args:
        name: of the finding.
        path: the source; its compiled form stands beside it.
    """
    compiled = path.with_suffix(".svbin")
    compile_it = f"sievec {path}"
    try:
        source = path.stat()
    except OSError as problem:
        return [
            failed(
                name,
                f"{path}: {problem.strerror}",
                f"Copy the one that came with mailhooks, then `{compile_it}`.",
            )
        ]
    try:
        made = compiled.stat()
    except OSError as problem:
        return [
            warning(
                name,
                f"{compiled}: {problem.strerror}: Dovecot compiles the script for each message",
                f"Run `{compile_it}`.",
            )
        ]
    if made.st_mtime < source.st_mtime:
        return [
            warning(
                name,
                f"{compiled}: older than its source: Dovecot compiles the script for each message",
                f"Run `{compile_it}`.",
            )
        ]
    if path.read_bytes() != (resources.files("mailhooks") / "sieve" / path.name).read_bytes():
        return [
            warning(
                name,
                f"{path}: is not the script of this version of mailhooks",
                f"Unless you changed it on purpose: copy the new one, then `{compile_it}`.",
            )
        ]
    return [ok(name, f"{path}: compiled, and of this version")]
