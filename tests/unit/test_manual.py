"""The manual pages say all that the commands and docs/ say, and read well with man and mandoc."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, get_type_hints

import click
import manpages
import msgspec
import pytest

from mailhooks.cli import main
from mailhooks.cli.mailcfg import main as mailcfg
from mailhooks.config import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = {page.file: page for page in manpages.pages()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pages as files."""
    folder = tmp_path_factory.mktemp("man")
    manpages.write(folder)
    return sorted(folder.rglob("*.*"))


def read(file: str) -> str:
    """A page's text, its fonts and escapes left out."""
    text = re.sub(r"\\f.|\\&|\\:|\\(?=-)", "", PAGES[file].text)
    for escape, char in (("aq", "'"), ("dq", '"'), ("ti", "~"), ("ga", "`")):
        text = text.replace(f"\\({escape}", char)
    return text


def commands(
    command: click.Command, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, click.Context(below, parent=context, info_name=name))


def every_command() -> list[tuple[click.Command, click.Context]]:
    found = []
    for root, name in ((main, "mailhooks"), (mailcfg, "mailcfg")):
        found += list(commands(root, click.Context(root, info_name=name)))
    return found


@pytest.mark.parametrize(
    ("command", "context"), every_command(), ids=lambda each: getattr(each, "command_path", "")
)
def test_a_command_is_in_the_manual_with_its_options(
    command: click.Command, context: click.Context
) -> None:
    """Its synopsis, its help, each option with what it does, and its example."""
    words = context.command_path.split()
    text = read("man1/{}.1".format("-".join(words[: 1 if words[0] == "mailcfg" else 2])))
    assert f"\n{context.command_path} " in text
    for param in command.params:
        # --db and --config are mailcfg's own on all its commands, explained once.
        if isinstance(param, click.Option):
            assert all(option in text for option in param.opts)
            assert " ".join(str(param.help).split()) in text
    if command is not main:
        # mailhooks(1) begins as the README does.
        first = " ".join((command.help or "").split("\n\n")[0].split())
        assert first.replace("`", "") in text
    assert (command.epilog or "").removeprefix("Example: ") in text


def test_every_setting_is_in_the_manual_with_its_default() -> None:
    """mailhooks.toml(5) has each under the heading of its section."""
    parts = re.split(r"^\.SH \[(\w+)\]$", read("man5/mailhooks.toml.5"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    kinds = get_type_hints(Settings)
    assert set(sections) == set(kinds)
    for section, kind in kinds.items():
        keys = re.findall(r"^\.TP\n(\w+) = \S+", sections[section], flags=re.MULTILINE)
        assert set(keys) == {field.name for field in msgspec.structs.fields(kind)}


def test_a_page_names_only_pages_that_exist() -> None:
    """Whoever follows a reference to a page of ours gets it."""
    ours = {(page.name, page.section) for page in PAGES.values()}
    for file in PAGES:
        for name, section in re.findall(r"\b(mail(?:hooks|cfg)[\w.-]*)\((\d)\)", read(file)):
            assert (name, int(section)) in ours, f"{file}: {name}({section})"


def test_man_shows_the_pages_without_a_warning(files: list[Path]) -> None:
    """Its formatter groff finds nothing wrong, as lintian would ask it."""
    done = subprocess.run(
        ["/usr/bin/man", "--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "mailhooks" in done.stdout


def test_mandoc_shows_the_pages_without_a_warning(files: list[Path]) -> None:
    """Nor does the other formatter, which Alpine and the BSDs have."""
    done = subprocess.run(
        ["/usr/bin/mandoc", "-T", "lint", "-W", "warning", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
