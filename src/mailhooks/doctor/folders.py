"""The folders in which samples and calls wait: there, usable, private, not full, not forgotten."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mailhooks.doctor import access
from mailhooks.doctor.check import Finding, Level, failed, ok, warning
from mailhooks.spool import MAX_LABEL_BYTES, Label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SCARCE, EXHAUSTED = 0.05, 0.01
"""Shares of a file system that are free when it is time to worry, and too late."""
SAMPLE_OLD_S = 3600.0
FUTURE_S = 60.0
CALL_OLD_S = 300.0
"""A daemon that runs takes calls within seconds (learning.rescan_s)."""
DROP_MODE = 0o3733
IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
REMOTE = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "ceph", "glusterfs")
_PROBE_BYTES = 4096


def spool(folder: Path, settle_s: Callable[[str], float] = lambda _: 0.0) -> list[Finding]:
    """All about the folder in which samples wait to be learned.

    Args:
        folder: the spool.
        settle_s: how long a sample of an origin is meant to wait.
    """
    missing = _is_folder(
        "spool",
        folder,
        f"Without it no sample can be taken ([daemon] spool_dir): install -d -m 700 -o USER "
        f"{folder}, USER being the one `mailhooks serve` runs as, or mount what belongs there.",
    )
    if missing:
        return [missing]
    return [
        _spool_mode(folder),
        writable("spool writable", folder / "tmp" if (folder / "tmp").is_dir() else folder),
        space("spool space", folder),
        file_system("spool file system", folder),
        samples_waiting(folder, settle_s),
        samples_set_aside(folder),
    ]


def _is_folder(name: str, folder: Path, advice: str) -> Finding | None:
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except OSError as problem:
        return failed(name, f"{folder}: {problem.strerror}", advice)
    if not is_folder:
        return failed(name, f"{folder}: is a file, not a folder", f"Move it away. {advice}")
    return None


def _spool_mode(folder: Path) -> Finding:
    name, status = "spool", folder.stat()
    if stat.S_IMODE(status.st_mode) & 0o077:
        return warning(
            name,
            f"{folder}: samples are private mail, and others than {access.named(status.st_uid)} "
            f"may get in (mode {access.mode_of(status)})",
            f"chmod 700 {folder}",
        )
    parts = [folder / part for part in ("tmp", "new", "bad", "spare", "journal")]
    strange = [part for part in parts if part.is_dir() and part.stat().st_uid != status.st_uid]
    if strange:
        owner = access.named(status.st_uid)
        return failed(
            name,
            f"{strange[0]}: belongs to {access.named(strange[0].stat().st_uid)}, "
            f"and {folder} to {owner}",
            f"chown -R {owner} {folder}; run `mailhooks serve` as that user only.",
        )
    return ok(name, f"{folder}: mode {access.mode_of(status)}, of {access.named(status.st_uid)}")


def writable(name: str, folder: Path) -> Finding:
    """Whether a file can be written, synced and removed: done, not guessed from modes."""
    probe = folder / f".doctor-{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink()
    except OSError as problem:
        return failed(
            name,
            f"{folder}: cannot be written: {problem.strerror}",
            "Make room, mount it writable, or give it to the user of `mailhooks serve`; until then "
            "what users teach is refused and lost unless the drop folder takes it.",
        )
    return ok(name, f"{folder}: a file was written, synced and removed")


def space(
    name: str, folder: Path, measure: Callable[[Path], os.statvfs_result] = os.statvfs
) -> Finding:
    """Whether the file system has room: bytes and inodes that processes without root may use."""
    found = measure(folder)
    shares = {"space": found.f_bavail / max(1, found.f_blocks)}
    if found.f_files:  # file systems such as btrfs do not count inodes
        shares["inodes"] = found.f_favail / found.f_files
    what, least = min(shares.items(), key=lambda item: item[1])
    text = f"{folder}: " + ", ".join(f"{share:.0%} of {it} free" for it, share in shares.items())
    if least >= SCARCE:
        return ok(name, text)
    level = Level.FAILED if least < EXHAUSTED else Level.WARNING
    return Finding(
        name,
        level,
        text,
        f"Free some {what} on that file system; on a full one nothing that users teach is kept.",
    )


def file_system(name: str, folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> Finding:
    """Whether files survive a restart of the machine, by the kind of file system (proc(5)).

    Args:
        name: of the finding.
        folder: what lies on it.
        mounts: the kernel's list.
    """
    where = folder.resolve()
    best, kind = -1, ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        point, _, rest = line.partition(" - ")
        mounted = Path(point.split()[4].replace("\\040", " "))
        # Of two on one place, the later one hides the other.
        if where.is_relative_to(mounted) and len(mounted.parts) >= best:
            best, kind = len(mounted.parts), rest.split()[0]
    if kind in IN_MEMORY:
        return warning(
            name,
            f"{folder}: on {kind}, which forgets everything when the machine restarts",
            "Put it on a disk, or mount one there.",
        )
    if kind.startswith(REMOTE):
        return warning(
            name,
            f"{folder}: on {kind}, over the network: its syncs and locks are not to be relied on",
            "Put it on a disk of this host.",
        )
    return ok(name, f"{folder}: on {kind or 'a file system of unknown kind'}")


def samples_waiting(folder: Path, settle_s: Callable[[str], float] = lambda _: 0.0) -> Finding:
    """How many samples wait, and whether one is so long overdue that learning must be stuck.

    Args:
        folder: the spool.
        settle_s: how long a sample of an origin is meant to wait.
    """
    name = "spool waiting"
    if not (folder / "new").is_dir():
        return ok(name, f"{folder}: no samples yet, `mailhooks serve` has never run with it")
    ages, overdue_s = [], 0.0
    try:
        # Read-only, so not by Spool.entries(), which sets strange files aside.
        for path in (folder / "new").iterdir():
            ages.append(age_s := _sample_age_s(path.name))
            if age_s > SAMPLE_OLD_S:
                overdue_s = max(overdue_s, age_s - settle_s(_origin(path)))
    except OSError as problem:
        return _unreadable(name, folder / "new", problem)
    text = f"{folder}: {_count(ages, 'sample')} waiting"
    oldest_s = max(ages, default=0.0)
    if oldest_s > 0:
        text += f", the oldest for {_span(oldest_s)}"
    if min(ages, default=0.0) < -FUTURE_S:
        return warning(
            name,
            f"{text}, the newest from {_span(-min(ages))} in the future",
            "The clock was set back: see that it is right now. Samples are learned all the same.",
        )
    if overdue_s <= SAMPLE_OLD_S:
        return ok(name, text)
    return warning(
        name,
        f"{text}; one is overdue by {_span(overdue_s)}",
        "Learning is stuck: see the findings about Rspamd and Redis, and why samples are kept in "
        "the log of `mailhooks serve`. Nothing is lost; `mailhooks queue list` shows them.",
    )


def _origin(sample: Path) -> str:
    """What made a sample; empty if it has gone meanwhile, or is none."""
    try:
        with sample.open("rb") as file:
            return msgspec.json.decode(file.readline(MAX_LABEL_BYTES), type=Label).origin
    except (FileNotFoundError, msgspec.DecodeError):
        return ""


def _sample_age_s(name: str) -> float:
    # A spool file's name begins with its time of arrival; a strange file has no age.
    stamp = name.partition(".")[0]
    return time.time() - int(stamp) / 1e9 if stamp.isdecimal() else 0.0


def samples_set_aside(folder: Path) -> Finding:
    """Whether samples were given up and wait for somebody to decide."""
    name = "spool set aside"
    try:
        files = list((folder / "bad").iterdir()) if (folder / "bad").is_dir() else []
    except OSError as problem:
        return _unreadable(name, folder / "bad", problem)
    text = f"{folder}: {_count(files, 'sample')} set aside"
    if not files:
        return ok(name, text)
    return warning(
        name,
        text,
        "`mailhooks queue list` says why; then `mailhooks queue retry NAME` or "
        "`mailhooks queue drop NAME`.",
    )


def drop(folder: Path, daemon_uid: int | None, mail_uids: Iterable[int]) -> list[Finding]:
    """All about the folder in which calls wait that found the daemon away.

    Args:
        folder: where Sieve's fallback writes.
        daemon_uid: the user who has to empty it; None if not known.
        mail_uids: the users whose processes write there.
    """
    missing = _is_folder(
        "drop folder",
        folder,
        "Without it what users teach while `mailhooks serve` is away is lost ([daemon] drop_dir): "
        f"install -d -m 3733 -o USER {folder}, USER being the one `mailhooks serve` runs as.",
    )
    if missing:
        return [missing]
    return [_drop_mode(folder, daemon_uid, mail_uids), *_calls(folder)]


def _drop_mode(folder: Path, daemon_uid: int | None, mail_uids: Iterable[int]) -> Finding:
    name, status = "drop folder", folder.stat()
    mode, owner = access.mode_of(status), access.named(status.st_uid)
    shut_out = [
        uid for uid in mail_uids if not access.may(uid, status, access.WRITE | access.ENTER)
    ]
    if shut_out:
        return failed(
            name,
            f"{folder}: {access.all_named(shut_out)} may not write into it (mode {mode})",
            f"chmod 3733 {folder}, or what users teach while `mailhooks serve` is away is lost.",
        )
    # Its sticky bit keeps everybody but the owner from removing others' files.
    if daemon_uid not in (None, 0, status.st_uid):
        user = access.named(daemon_uid or 0)
        return failed(
            name,
            f"{folder}: belongs to {owner}, so `mailhooks serve`, which runs as {user}, "
            "cannot empty it",
            f"chown {user} {folder}",
        )
    if stat.S_IMODE(status.st_mode) != DROP_MODE:
        return warning(
            name,
            f"{folder}: mode {mode} lets others read, remove or keep out samples",
            f"chmod 3733 {folder}",
        )
    return ok(name, f"{folder}: mode {mode}, of {owner}")


def _calls(folder: Path) -> list[Finding]:
    names = "drop waiting", "drop set aside"
    waiting: list[float] = []
    set_aside: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".bad-"):
                    set_aside.append(entry.name)
                elif not entry.name.startswith("."):
                    modified = entry.stat(follow_symlinks=False).st_mtime
                    waiting.append(max(0.0, time.time() - modified))
    except FileNotFoundError:  # taken by the daemon between two looks, so it is at work
        return [ok(names[0], f"{folder}: calls are being taken")]
    except OSError as problem:
        return [_unreadable(names[0], folder, problem)]
    text = f"{folder}: {_count(waiting, 'call')} waiting"
    oldest_s = max(waiting, default=0.0)
    findings = [ok(names[0], text)]
    if oldest_s > CALL_OLD_S:
        findings = [
            warning(
                names[0],
                f"{text}, the oldest for {_span(oldest_s)}",
                "`mailhooks serve` takes them once it runs and may read them; its log says what "
                "hinders it.",
            )
        ]
    text = f"{folder}: {_count(set_aside, 'call')} set aside"
    if set_aside:
        findings.append(
            warning(
                names[1],
                text,
                "The log of `mailhooks serve` says why; somebody may have tried to speak for "
                f"another user. Remove them when you have looked: {folder}/.bad-*",
            )
        )
    else:
        findings.append(ok(names[1], text))
    return findings


def _unreadable(name: str, folder: Path, problem: OSError) -> Finding:
    return failed(
        name,
        f"{folder}: cannot be read: {problem.strerror}",
        "Run the doctor as root, or give the folder to the user of `mailhooks serve`.",
    )


def _count(things: list[float] | list[str] | list[Path], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
