"""The programs that Dovecot forks, installed where it looks for them."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mailhooks.errors import ConfigError

if TYPE_CHECKING:
    from mailhooks.config import DaemonSettings

HOOKS: Final = ("mailhooks-classify", "mailhooks-learn")
DEFAULT_PYTHON: Final = Path("/usr/bin/python3")
ANSWER_MARGIN_S: Final = 1.5
"""Seconds for the way to the daemon and back, beyond the daemon's own deadline."""
LONGEST_S: Final = 9.0
"""Well before Dovecot's ``sieve_execute_exec_timeout``, 10 s by default."""


def install_hooks(
    folder: Path, daemon: DaemonSettings, python: Path = DEFAULT_PYTHON
) -> list[Path]:
    """Write the programs into a folder, each by one rename; what has the names is replaced.

    Args:
        folder: Dovecot's ``sieve_execute_bin_dir``; created if missing.
        daemon: where the daemon listens and collects.
        python: a Python 3.11 or later that mail users may run; its packages are not used.

    Returns:
        The files written.

    Raises:
        ConfigError: no such interpreter, or the folder cannot be written.
    """
    if not os.access(python, os.X_OK):
        raise ConfigError([f"{python}: no such program: name a Python interpreter"])
    if len(str(python)) > 100 or re.search(r"\s", str(python)):  # noqa: PLR2004 - execve(2): 127
        raise ConfigError([f"{python}: a script's first line cannot hold this path"])
    text = _program(daemon, python)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in HOOKS:
            new = folder / f".{name}.new"
            new.write_text(text, encoding="utf-8")
            # Dovecot refuses programs that everybody may write.
            new.chmod(0o755)
            written.append(new.rename(folder / name))
    except OSError as error:
        raise ConfigError([f"{error.filename or folder}: {error.strerror}"]) from error
    return written


def _program(daemon: DaemonSettings, python: Path) -> str:
    source = (resources.files("mailhooks") / "hooks/program.py").read_text(encoding="utf-8")
    for name, value in (
        ("SOCKET_DIR", repr(str(daemon.socket_dir))),
        ("DROP_DIR", repr(str(daemon.drop_dir))),
        ("CLASSIFY_S", repr(min(daemon.deadline_s + ANSWER_MARGIN_S, LONGEST_S))),
    ):
        line = re.compile(rf"^{name} = .*$", re.MULTILINE)
        (default,) = line.findall(source)
        source = source.replace(default, f"{name} = {value}")
    return f"#!{python} -IS\n{source}"
