"""The listening end of a UNIX socket in the file system: made, replaced, removed."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from mailhooks.errors import MailhooksError

if TYPE_CHECKING:
    from pathlib import Path


def listen(
    path: Path, *, backlog: int, mode: int, gid: int | None = None, dir_mode: int = 0o755
) -> socket.socket:
    """Listen on a path and replace a socket file that nobody answers.

    The process's umask is changed for the moment of ``bind``, so call this
    before there are threads that create files.

    Args:
        path: where; a missing directory is created, parents too.
        backlog: connections the kernel queues, cut to net.core.somaxconn.
        mode: permissions of the socket file.
        gid: group of the socket file; None keeps the process's.
        dir_mode: permissions of the directory if it had to be created.

    Returns:
        A listening, non-blocking socket.

    Raises:
        MailhooksError: somebody else answers at the path, something there is
            not a socket, or the system refuses.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _make_directory(path.parent, dir_mode)
        _remove_stale(path)
        _bind(listener, path, mode, gid)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise MailhooksError(f"{path}: cannot listen: {error.strerror or error}") from error
    except BaseException:
        listener.close()
        raise
    return listener


def adopt(listener: socket.socket, backlog: int) -> None:
    """Make a socket opened by somebody else (systemd) ready for serving.

    Args:
        listener: a bound UNIX stream socket, listening or not.
        backlog: as for ``listen``.

    Raises:
        MailhooksError: it is another kind of socket.
    """
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM:
        raise MailhooksError(f"not a UNIX stream socket: {listener.family!r}, {listener.type!r}")
    listener.setblocking(False)
    listener.listen(backlog)


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, or None without one."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def remove(path: Path, expected: tuple[int, int] | None) -> None:
    """Remove a socket file unless somebody has put another in its place.

    Args:
        path: the file.
        expected: its ``identity`` when it was made.
    """
    with suppress(OSError):
        if expected is not None and identity(path) == expected:
            path.unlink()


def _make_directory(directory: Path, mode: int) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True)
        directory.chmod(mode)  # mkdir's own mode is subject to the umask


def _remove_stale(path: Path) -> None:
    found = identity(path)
    if found is None:
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise MailhooksError(f"{path}: exists and is not a socket; not removed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            remove(path, found)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # a full backlog belongs to a living server
    raise MailhooksError(f"{path}: already running: another server answers there")


def _bind(listener: socket.socket, path: Path, mode: int, gid: int | None) -> None:
    umask = os.umask(0o777)  # nobody gets in before owner and mode are right
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(umask)
    try:
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(mode)
    except OSError:
        path.unlink()  # or the next start meets a socket that nobody may open
        raise
