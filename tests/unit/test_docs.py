"""The documentation is true as far as a program can tell."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import get_type_hints

import click
import msgspec
import pytest

from mailhooks.cli import main
from mailhooks.config import Settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def documented() -> dict[str, dict[str, str]]:
    """Sections, keys and defaults as docs/settings.md has them."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^## `\[", SETTINGS, flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", part, flags=re.MULTILINE)
        found[part.partition("]")[0]] = dict(rows)
    return found


def test_every_setting_is_documented_with_its_default() -> None:
    """No setting is missing from the page, none there does not exist, and defaults agree."""
    actual = {
        section: {
            field.name: msgspec.json.encode(field.default, enc_hook=str).decode()
            for field in msgspec.structs.fields(kind)
        }
        for section, kind in get_type_hints(Settings).items()
    }
    assert {
        section: {key: value.replace(", ", ",") for key, value in keys.items()}
        for section, keys in documented().items()
    } == actual


def commands(command: click.Command, path: str) -> list[str]:
    """Every command below one, by its whole name."""
    if isinstance(command, click.Group):
        return [
            name
            for key, below in command.commands.items()
            for name in commands(below, f"{path} {key}")
        ]
    return [path]


@pytest.mark.parametrize("name", commands(main, "mailhooks"))
def test_every_command_is_documented(name: str) -> None:
    """Somebody who reads only the documentation knows of each command."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert name in text or (name == "mailhooks lab demo" and "make demo" in text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there."""
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_modules_and_names_of_the_library_page_exist() -> None:
    """What docs/library.md offers can be imported as it says."""
    text = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(mailhooks\.\w+)` \| (.*) \|$", text, flags=re.MULTILINE)
    assert len(rows) > 5
    for module, names in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
