"""The direction of imports, and where public names live."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import mailhooks

PACKAGE = Path(mailhooks.__file__).parent
# Each part may import those of the ranks below its own, and its own modules.
RANKS = (
    {"errors", "hooks"},
    {"message", "lesson", "retry", "systemd", "negotiation", "keys", "training", "config"}
    | {"strand", "doveconf", "acquaintance"},
    {"score", "source", "setup", "bayes", "journal"},
    {
        "policy",
        "spool",
        "ledger",
        "rspamd",
        "dovecot",
        "doveadm",
        "statistics",
        "count",
        "accounts",
    },
    {"evidence"},
    {"teacher", "explain", "tune"},
    {"account", "batch", "directory"},
    {"daemon", "milter", "lmtp"},
    {"lab", "doctor"},
    {"cli"},
    {"__main__"},
)
RANK_OF = {part: rank for rank, parts in enumerate(RANKS) for part in parts}
# Pure parts touch neither sockets nor files.
PURE = {
    *("message", "lesson", "doveconf", "retry", "score", "policy", "bayes", "acquaintance"),
    *("training", "explain", "tune"),
}
IMPURE_MODULES = {"asyncio", "socket", "os", "aiohttp", "pathlib", "subprocess", "Milter"}


def imports(path: Path) -> set[str]:
    """The modules a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def parts_imported(path: Path) -> set[str]:
    """The parts of mailhooks a file imports."""
    return {
        name.split(".")[1]
        for name in imports(path)
        if name.startswith("mailhooks.") and name.split(".")[1] in RANK_OF
    }


FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards_only(path: Path) -> None:
    """No part knows those above it, and front ends do not know each other."""
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in parts_imported(path) - {part}:
        assert RANK_OF[other] < RANK_OF[part] or RANK_OF[part] < 4, f"{part} imports {other}"
        assert RANK_OF[other] <= RANK_OF[part], f"{part} imports {other}"


@pytest.mark.parametrize("part", sorted(PURE))
def test_pure_parts_touch_neither_sockets_nor_files(part: str) -> None:
    """What decides can be tested without a server."""
    assert not imports(PACKAGE / f"{part}.py") & IMPURE_MODULES


def test_pymilter_is_confined_to_the_milter() -> None:
    """Only one package needs a C compiler to install."""
    users = {path.parent.name for path in FILES if "Milter" in imports(path)}
    assert users == {"milter"}


@pytest.mark.parametrize(
    "module",
    ["accounts", "rspamd", "dovecot", "daemon", "milter", "lmtp", "lab", "doctor", "setup", "cli"],
)
def test_public_names_are_importable_from_their_package(module: str) -> None:
    """What a package offers is what it lists."""
    package = importlib.import_module(f"mailhooks.{module}")
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_the_package_is_typed_and_documented() -> None:
    """Type checkers believe the annotations, and every module says what it is."""
    assert (PACKAGE / "py.typed").exists()
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
