"""One running host: which checks there are, and what each of them needs."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from mailhooks.config import uids_of
from mailhooks.daemon import CLASSIFY_SOCKET, LEARN_SOCKET
from mailhooks.doctor import configuration, folders, probe, servers, sockets
from mailhooks.doctor.check import Check, Finding, run
from mailhooks.doctor.ledger import ledger
from mailhooks.doctor.users import users
from mailhooks.errors import SpoolError
from mailhooks.message import content_digest
from mailhooks.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from mailhooks.config import Settings

TIMEOUT_S = 20.0
"""For all checks together; longer than any of them waits for a server."""


def examine(path: Path, *, timeout_s: float = TIMEOUT_S) -> list[Finding]:
    """Look at the host that a settings file describes.

    Args:
        path: the settings file.
        timeout_s: after that, what has not answered is an error.
    """
    settings, found = configuration.settings_file(path)
    if settings is None:
        return found
    return found + run(_checks(path, settings), timeout_s=timeout_s)


def _checks(path: Path, settings: Settings) -> list[Check]:
    daemon, learning = settings.daemon, settings.learning
    mail_uids = uids_of(daemon.mail_users)
    uid = _owner(daemon.spool_dir)
    return [
        Check("settings private", partial(configuration.settings_private, path, settings)),
        Check("key file", lambda: configuration.key_file(settings.score.key_file)[1]),
        Check("spool", partial(folders.spool, daemon.spool_dir)),
        Check("drop folder", partial(folders.drop, daemon.drop_dir, uid, mail_uids)),
        Check("ledger", partial(ledger, learning.ledger_file, uid)),
        Check(sockets.CLASSIFY, partial(_classify, settings, mail_uids)),
        Check(
            sockets.LEARN,
            partial(
                sockets.learn,
                daemon.socket_dir / LEARN_SOCKET,
                deadline_s=daemon.deadline_s,
                mail_uids=mail_uids,
            ),
        ),
        Check(sockets.MILTER, partial(sockets.milter, settings.milter.socket)),
        Check("rspamd scan", partial(servers.scans, settings.rspamd)),
        Check("rspamd learn", partial(servers.learns, settings.rspamd)),
        Check("redis", partial(servers.statistics, settings.redis)),
        Check("users", partial(users, settings.accounts, settings.doveadm, settings.redis)),
    ]


def _classify(settings: Settings, mail_uids: frozenset[int]) -> list[Finding]:
    keys, _ = configuration.key_file(settings.score.key_file)
    found = sockets.classify(
        settings.daemon.socket_dir / CLASSIFY_SOCKET,
        keys,
        threshold=settings.policy.threshold,
        deadline_s=settings.daemon.deadline_s,
        mail_uids=mail_uids,
    )
    if keys and settings.learning.learn_on_delivery != "off":
        _take_back(Spool(settings.daemon.spool_dir))
    return found


def _take_back(spool: Spool) -> None:
    """Drop the probe, should a daemon with other keys have taken it for good mail.

    Were it faster than us, Rspamd would refuse the message for its lack of tokens.
    """
    digest = content_digest(probe.MESSAGE)
    with suppress(SpoolError):  # other findings say what is wrong with the spool
        for entry in spool.entries():
            if entry.label.digest == digest:
                spool.drop(entry.name)


def _owner(folder: Path) -> int | None:
    """The user of ``mailhooks serve``: samples are 0700 and its own."""
    try:
        return folder.stat().st_uid
    except OSError:
        return None
