"""One stock host for all tests here, which need namespaces of their own."""

from __future__ import annotations

import os

import pytest
import stock_host


@pytest.fixture(scope="session", autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The host; tests/e2e/test_setup.py makes the namespaces."""
    if "MAILHOOKS_PRIVATE" not in os.environ:
        pytest.skip("needs namespaces of its own: run tests/e2e/test_setup.py")
    stock_host.prepare(tmp_path_factory.mktemp("layers"))
