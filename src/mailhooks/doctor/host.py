"""One running host: which checks there are, and what each of them needs."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from mailhooks.config import uids_of
from mailhooks.daemon import CLASSIFY_SOCKET, LEARN_SOCKET
from mailhooks.doctor import configuration, folders, probe, redis, rspamd, sockets
from mailhooks.doctor.check import Check, Finding, run
from mailhooks.doctor.dovecot import dovecot
from mailhooks.doctor.ledger import ledger
from mailhooks.doctor.live import live
from mailhooks.doctor.postfix import lmtp_address, postfix
from mailhooks.doctor.users import users
from mailhooks.errors import SpoolError
from mailhooks.ledger import DELIVERY
from mailhooks.message import content_digest
from mailhooks.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from mailhooks.config import LearningSettings, Settings

TIMEOUT_S = 20.0
"""For all checks together; longer than any of them waits for a server."""


CHECKS = (
    "settings private",
    "key file",
    "spool",
    "drop folder",
    "ledger",
    sockets.CLASSIFY,
    sockets.LEARN,
    sockets.MILTER,
    "health",
    "rspamd scan",
    "rspamd learn",
    "rspamd configuration",
    "redis",
    "users",
    "postfix",
    "dovecot",
    sockets.LMTP,
)
"""What ``examine`` can be asked to look at alone; some of it gives several findings."""


def examine(
    path: Path, *, only: Collection[str] = (), timeout_s: float = TIMEOUT_S
) -> list[Finding]:
    """Look at the host that a settings file describes.

    Args:
        path: the settings file.
        only: some of :data:`CHECKS`; empty for all.
        timeout_s: after that, what has not answered has failed.
    """
    settings, found = configuration.settings_file(path)
    if settings is None:
        return found
    wanted = [each for each in _checks(path, settings) if not only or each.name in only]
    return found + run(wanted, timeout_s=timeout_s)


def try_out(path: Path, user: str, *, smtp: str, lmtp: str | None) -> list[Finding]:
    """Send, deliver, learn and unlearn test messages on the host that a settings file describes.

    Args:
        path: the settings file; if it is wrong, nothing is done, since ``examine`` says so.
        user: a Dovecot user.
        smtp: where mail comes in, ``host:port``.
        lmtp: where Postfix delivers, ``host:port`` or ``unix:/path``; None to find out.
    """
    settings, _ = configuration.settings_file(path)
    return [] if settings is None else live(settings, user, smtp=smtp, lmtp=lmtp)


def _checks(path: Path, settings: Settings) -> list[Check]:
    daemon, learning, score = settings.daemon, settings.learning, settings.score
    dump = rspamd.Dump(settings.doctor.rspamadm)
    mail_uids = uids_of(daemon.mail_users)
    uid = _owner(daemon.spool_dir)
    return [
        Check("settings private", partial(configuration.settings_private, path, settings)),
        Check("key file", lambda: configuration.key_file(score.key_file, uid, score.max_age_s)[1]),
        Check("spool", partial(folders.spool, daemon.spool_dir, partial(_settle_s, learning))),
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
        Check("health", partial(sockets.metrics, daemon.metrics)),
        Check("rspamd scan", partial(rspamd.scans, settings.rspamd)),
        Check("rspamd learn", partial(rspamd.learns, settings.rspamd)),
        Check("rspamd configuration", partial(_rspamd, settings, dump)),
        Check("redis", partial(redis.statistics, settings.redis)),
        Check("users", partial(users, settings.accounts, settings.doveadm, settings.redis)),
        Check(
            "postfix", partial(postfix, settings.doctor, settings.milter.socket, dump.milter_ports)
        ),
        Check("dovecot", lambda: dovecot(settings, filtered=_is_filtered(settings))),
        Check(sockets.LMTP, partial(_lmtp, settings)),
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


def _is_filtered(settings: Settings) -> bool:
    """Whether Postfix delivers to `mailhooks lmtp`."""
    return lmtp_address(settings.doctor) == settings.lmtp.listen


def _lmtp(settings: Settings) -> list[Finding]:
    return sockets.lmtp(settings.lmtp.listen) if _is_filtered(settings) else []


def _settle_s(learning: LearningSettings, origin: str) -> float:
    return learning.delivery_settle_s if origin == DELIVERY else learning.settle_s


def _rspamd(settings: Settings, dump: rspamd.Dump) -> list[Finding]:
    keys, _ = configuration.key_file(settings.score.key_file)
    return rspamd.configuration(dump, settings.rspamd, keys)


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
