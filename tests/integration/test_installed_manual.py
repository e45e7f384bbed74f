"""The manual that is installed with the wheel."""

from __future__ import annotations

import sys
from pathlib import Path

import manpages


def test_the_wheel_brings_the_manual_to_where_man_looks() -> None:
    """share/man beside bin has every page, made of the help and docs/ of this very version."""

    def undated(text: str) -> str:
        head, _, rest = text.partition("\n")
        return " ".join(head.split()[:3]) + rest

    installed = Path(sys.prefix) / "share/man"
    for page in manpages.pages():
        text = (installed / page.file).read_text(encoding="utf-8")
        assert undated(text) == undated(page.text), page.file
