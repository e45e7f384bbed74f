"""Configuration files of a host, rendered from the templates beside this module."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

if TYPE_CHECKING:
    from collections.abc import Mapping


def render_tree(kind: str, folder: Path, values: Mapping[str, Any]) -> list[Path]:
    """Render every template of one kind into a folder, sub-folders kept.

    Args:
        kind: ``postfix``, ``dovecot``, ``rspamd``, ``redis``, ``mailhooks`` or ``systemd``.
        folder: where the files go; created if missing.
        values: what the templates name; a name they need and do not get is an error.

    Returns:
        The files written.
    """
    templates = _environment()
    written = []
    for name in sorted(templates.list_templates()):
        if not name.startswith(f"{kind}/"):
            continue
        target = folder / name.removeprefix(f"{kind}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(templates.get_template(name).render(values), encoding="utf-8")
        written.append(target)
    return written


def names(folder: str) -> list[str]:
    """The names of all templates below a folder, such as ``rspamd/local.d``."""
    return [name for name in _environment().list_templates() if name.startswith(f"{folder}/")]


def render(name: str, values: Mapping[str, Any]) -> str:
    """The text of one template, such as ``dovecot/mailhooks.conf``."""
    return _environment().get_template(name).render(values)


def copy_sieve(folder: Path) -> list[Path]:
    """Copy the Sieve scripts to a folder; returns the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in sieve_scripts():
        target = folder / name
        target.write_bytes(content)
        written.append(target)
    return written


def sieve_scripts() -> list[tuple[str, bytes]]:
    """The Sieve scripts: their names and contents."""
    return [(path.name, path.read_bytes()) for path in sorted(_sieve_folder().glob("*.sieve"))]


def _sieve_folder() -> Path:
    return Path(str(resources.files("mailhooks") / "sieve"))


def _environment() -> jinja2.Environment:
    folder = Path(str(resources.files("mailhooks") / "setup" / "templates"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - configuration files, not HTML
        keep_trailing_newline=True,
    )
    environment.globals["basename"] = os.path.basename
    return environment
