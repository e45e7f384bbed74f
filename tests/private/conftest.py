"""One stock host for all tests here, which need namespaces of their own."""

from __future__ import annotations

import os

import pytest
import stock_host

# What made the namespaces: tests/e2e/test_setup.py on this machine ("yes"), `make
# matrix` in a fresh Debian ("root"), or tools/test-deb in one where the package
# is to be installed ("deb").
MADE_BY = os.environ.get("MAILHOOKS_PRIVATE", "")
collect_ignore = [] if MADE_BY == "deb" else ["test_package.py"]


@pytest.fixture(scope="session", autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The host."""
    if MADE_BY == "deb":
        stock_host.configure()
        stock_host.run("dpkg", "-i", "/root/mailhooks.deb")
    elif MADE_BY == "root":
        stock_host.configure()
    elif MADE_BY:
        stock_host.prepare(tmp_path_factory.mktemp("layers"))
    else:
        pytest.skip("needs namespaces of its own: run tests/e2e/test_setup.py")
