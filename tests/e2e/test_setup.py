"""``mailhooks setup`` on stock hosts, each private to one process and its namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PRIVATE = Path(__file__).resolve().parents[1] / "private"
NAMESPACES = (
    *("unshare", "--mount", "--propagation=private", "--net", "--ipc", "--uts"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
)


def test_setup_on_a_private_host(tmp_path: Path) -> None:
    """Everything in tests/private passes in mounts, network and processes of its own."""
    done = subprocess.run(
        [
            *NAMESPACES,
            *(sys.executable, "-m", "pytest", "-q", str(PRIVATE)),
            *("--rootdir", str(PRIVATE.parents[1]), f"--basetemp={tmp_path}/inner"),
            *("-p", "no:cacheprovider"),
        ],
        env=os.environ | {"MAILHOOKS_PRIVATE": "yes"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
