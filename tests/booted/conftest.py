"""These tests need a systemd of their own."""

from __future__ import annotations

import os

# tools/test-deb says so; the rest of the suite does not come here.
collect_ignore = [] if os.environ.get("MAILHOOKS_PRIVATE") == "booted" else ["test_booted.py"]
