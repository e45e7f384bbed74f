"""These tests need a Debian of their own, with the package and other supervisors than systemd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import stock_host

# tools/test-deb says so; the rest of the suite does not come here.
PRIVATE = os.environ.get("MAILHOOKS_PRIVATE") == "supervised"
collect_ignore = [] if PRIVATE else ["test_supervisors.py"]


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """A host without systemd on which mailhooks is set up, and no service of it runs."""
    # How setup knows; so the key file is the services' own.
    Path("/usr/bin/systemctl").unlink()
    stock_host.configure()
    stock_host.run("dpkg", "-i", "/root/mailhooks.deb")
    stock_host.run("mailhooks", "setup", "--apply")
