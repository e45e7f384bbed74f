"""What is published: wheel and source distribution."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def files(*folders: str) -> set[str]:
    """Files of the source tree, by their paths in it."""
    return {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "egg-info" not in str(path)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, built as a release would be."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_holds_all_that_a_host_needs(built: Path) -> None:
    """Sieve scripts, templates and units are in it, beside the code."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    wanted = {name.removeprefix("src/") for name in files("src/mailhooks")}
    wanted |= {f"mailhooks/{name}" for name in files("sieve")}
    assert wanted <= names
    assert "mailhooks/setup/templates/systemd/system/mailhooks.service" in wanted


def test_the_source_distribution_holds_everything(built: Path) -> None:
    """Whoever has it can read, build, test and package mailhooks."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = files("src", "sieve", "tests", "docs", "contrib", "tools")
    wanted |= {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml"}
    assert wanted <= names
