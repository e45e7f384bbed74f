"""Real mail, if the machine has it: a public corpus that is no part of the project."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailhooks.source import iter_messages

if TYPE_CHECKING:
    from collections.abc import Iterator

NEAR = Path(__file__).resolve().parents[3] / "shared" / "corpus"


def find_corpus() -> Path | None:
    """Where the corpus is: ``CORPUS``, or beside the clone; None if neither is there."""
    given = os.environ.get("CORPUS")
    path = Path(given) if given else next(iter(sorted(NEAR.glob("*.tar.xz"))), NEAR)
    return path if path.exists() else None


def corpus_path() -> Path:
    """Where the corpus is; skips the test if there is none."""
    path = find_corpus()
    if path is None:
        pytest.skip("no corpus of real mail: set CORPUS to an archive or folder of messages")
    return path


def sample(count: int, seed: int) -> Iterator[bytes]:
    """Some messages of the corpus, the same for the same seed."""
    messages = [found.raw for found in iter_messages(corpus_path())]
    yield from random.Random(seed).sample(messages, min(count, len(messages)))
