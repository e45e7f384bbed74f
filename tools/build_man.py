"""Hatch's hook that makes the manual pages with every wheel and source archive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPages(BuildHookInterface[Any]):
    """Leaves them in build/man, from where pyproject.toml has them packed."""

    def dependencies(self) -> list[str]:
        """What the commands import, whose help the pages are made of; nothing to compile."""
        needed: list[str] = self.metadata.core.dependencies
        return [each for each in needed if not each.startswith("pymilter")]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatch's signature
        """Make them."""
        root = Path(self.root)
        sys.path[:0] = [str(root / "src"), str(root / "tools")]
        import manpages

        manpages.write(root / "build/man")
