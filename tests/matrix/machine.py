"""A Debian of some release to run tests in: a folder made of archives, gone at the end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import corpus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TREE = Path(__file__).resolve().parents[2]
TOOLS = TREE / "tools"
BUILD = TREE / "build"
# Where in it: the environment that docs/installing.md makes, the sources, a JUnit file.
VENV = "opt/mailhooks"
SOURCES = "root/mailhooks"
JUNIT = "root/junit.xml"
CORPUS = "root/corpus"
PYTHON = f"/{VENV}/bin/python"
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}
# What is no part of the sources.
LEFT_OUT = ("build", "dist", ".*", "__pycache__")
SUITE_TIMEOUT_S = 3600.0


def has_groups() -> bool:
    """Whether a systemd can be run here, which needs cgroup v2."""
    mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    return any(line.split()[2] == "cgroup2" for line in mounts)


def test_deb(package: Path, part: str, release: str, log: Path) -> tuple[str, int]:
    """Run tools/test-deb for a package; returns the JUnit file, if any, and the exit status.

    Args:
        package: from :meth:`Machine.build_deb`.
        part: ``package`` or ``systemd``.
        release: Debian's code name.
        log: where everything goes that is printed.

    Raises:
        subprocess.TimeoutExpired: see :meth:`Machine.pytest`.
    """
    junit = package.with_name(f"{part}.xml")
    junit.unlink(missing_ok=True)
    with log.open("ab") as file:
        status = subprocess.run(
            [str(TOOLS / "test-deb"), str(package), part],
            env=os.environ | {"RELEASE": release, "RESULTS": str(package.parent)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=SUITE_TIMEOUT_S,
            check=False,
        ).returncode
    return junit.read_text(encoding="utf-8") if junit.exists() else "", status


class MachineError(Exception):
    """A machine could not be made; the message says why."""


class Machine:
    """A fresh one with servers, the wheel, and what the tests need besides.

    Args:
        release: Debian's code name.
        packages: of Debian.
        wheel: of mailhooks.
        log: where everything goes that is printed while it is made.

    Raises:
        MachineError: something could not be made or installed; nothing is left of it.
    """

    def __init__(self, release: str, packages: Sequence[str], wheel: Path, log: Path) -> None:
        self._log = log
        self._wheel = wheel
        self._mail: dict[str, str] = {}
        base = self._base(release, packages)
        self._folder = Path(tempfile.mkdtemp(prefix=f"{release}-", dir=BUILD / "matrix"))
        try:
            self._folder.chmod(0o755)
            self._unpack(base)
            self._add_dependencies(base)
            self._add_mailhooks()
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove it; what ran in it and was mounted there has ended with each command."""
        subprocess.run(("/bin/rm", "-rf", "--one-file-system", self._folder), check=False)

    def says(self, *argv: str) -> str:
        """What a command prints in it, whatever its exit status."""
        return subprocess.run(
            [str(TOOLS / "in-root"), str(self._folder), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        ).stdout

    def pytest(
        self, log: Path, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> tuple[str, int]:
        """Run tests of the sources there; returns the JUnit file, if any, and the exit status.

        Raises:
            subprocess.TimeoutExpired: they took more than an hour, and were killed.
        """
        junit = self._folder / JUNIT
        junit.unlink(missing_ok=True)
        status = self._run(
            *("sh", "-c", f'ip link set lo up && cd /{SOURCES} && exec "$@"', "sh"),
            *(PYTHON, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml=/{JUNIT}"),
            *arguments,
            log=log,
            timeout_s=SUITE_TIMEOUT_S,
            environ=self._mail | dict(environ or {}),
        )
        return junit.read_text(encoding="utf-8") if junit.exists() else "", status

    def build_deb(self, folder: Path) -> Path:
        """Build the Debian package there, with this release's Python, and copy it to a folder.

        Raises:
            MachineError: it could not be built.
        """
        target = self._folder / "root/deb"
        argv = (f"/{SOURCES}/tools/build-deb", f"/root/{self._wheel.name}", "/root/deb")
        environ = _way_to_index(self._folder)
        self._check("tools/build-deb", self._run(*argv, network=True, environ=environ))
        return Path(shutil.copy(next(target.glob("*.deb")), folder))

    def _base(self, release: str, packages: Sequence[str]) -> Path:
        argv = [str(TOOLS / "debian-root"), release, *packages]
        with self._log.open("ab") as log:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                check=False,
            )
        self._check("tools/debian-root", done.returncode)
        return Path(done.stdout.strip())

    def _add_dependencies(self, base: Path) -> None:
        """What mailhooks and its tests need of PyPI, for this machine's Python; kept, too."""
        project = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        needs = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
        key = hashlib.sha256("\n".join(needs).encode()).hexdigest()[:10]
        archive = base.with_name(f"{base.stem}-python-{key}.tar")
        if archive.exists():
            self._unpack(archive)
            return
        self._check("python3 -m venv", self._run("python3", "-m", "venv", f"/{VENV}"))
        self._pip(*needs, network=True)
        part = archive.with_suffix(f".{os.getpid()}")
        self._tar("-cf", str(part), VENV)
        part.rename(archive)

    def _add_mailhooks(self) -> None:
        shutil.copy(self._wheel, self._folder / "root")
        self._pip("--no-deps", "--no-index", f"/root/{self._wheel.name}")
        left_out = shutil.ignore_patterns(*LEFT_OUT)
        shutil.copytree(TREE, self._folder / SOURCES, ignore=left_out, symlinks=True)
        mail = corpus.find_corpus()
        if mail is not None:
            target = self._folder / CORPUS / mail.name
            target.parent.mkdir()
            (shutil.copytree if mail.is_dir() else shutil.copy)(mail, target)
            self._mail = {"CORPUS": f"/{CORPUS}/{mail.name}"}

    def _pip(self, *arguments: str, network: bool = False) -> None:
        environ = _way_to_index(self._folder) if network else {}
        argv = (PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments)
        self._check("pip", self._run(*argv, network=network, environ=environ))

    def _unpack(self, archive: Path) -> None:
        self._tar("-xf", str(archive))

    def _tar(self, *arguments: str) -> None:
        argv = ("tar", "-C", str(self._folder), "--numeric-owner", *arguments)
        with self._log.open("ab") as log:
            status = subprocess.run(argv, stdout=log, stderr=log, check=False).returncode
        self._check("tar", status)

    def _run(
        self,
        *argv: str,
        network: bool = False,
        log: Path | None = None,
        timeout_s: float | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> int:
        values = ENVIRONMENT | dict(environ or {})
        variables = [f"{name}={value}" for name, value in values.items()]
        with (log or self._log).open("ab") as file:
            return subprocess.run(
                [str(TOOLS / "in-root"), str(self._folder), "env", "-i", *variables, *argv],
                env=os.environ | {"NETWORK": "host" if network else "private"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=timeout_s,
                check=False,
            ).returncode

    def _check(self, what: str, status: int) -> None:
        if status:
            raise MachineError(f"{what} ended with status {status}: see {self._log}")


def _way_to_index(root: Path) -> dict[str, str]:
    """How this machine's pip reaches an index, as variables for one in a root."""
    argv = [sys.executable, str(TOOLS / "way-to-index"), str(root)]
    environ: dict[str, str] = json.loads(subprocess.check_output(argv, text=True))
    return environ
