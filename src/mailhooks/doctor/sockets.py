"""The sockets that Dovecot and Postfix talk to: each is asked what its peer would ask."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

from mailhooks.config import listen_address
from mailhooks.doctor import access, probe
from mailhooks.doctor.check import Finding, failed, ok, warning
from mailhooks.doctor.http import get
from mailhooks.dovecot import call_script
from mailhooks.errors import ProtocolError
from mailhooks.negotiation import connected, negotiates

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mailhooks.keys import KeyRing

CLASSIFY, LEARN = "classify socket", "learn socket"
MILTER, LMTP = "milter socket", "lmtp socket"
PATIENCE_S = 1.0
"""So much later than its deadline an answer is still waited for, to say that it was late."""
MILTER_S = METRICS_S = LMTP_S = 5.0

_TEACHES_NOTHING: Final = ("cause=COPY", "from=INBOX", "to=INBOX")
_START = "Start `mailhooks serve`; if it runs, its log says what is wrong."


def classify(
    path: Path,
    keys: KeyRing | None,
    *,
    threshold: float,
    deadline_s: float,
    mail_uids: Collection[int],
) -> list[Finding]:
    """Whether a delivery gets its verdict in time, and the daemon has the keys that sign.

    Args:
        path: the socket.
        keys: as in the key file; without them no verdict is asked for, since the
            message might be learned as ham.
        threshold: from which mail goes to Junk.
        deadline_s: within which the daemon promises to answer.
        mail_uids: users that must be able to connect.
    """
    env = {"USER": probe.user(mail_uids), "SENDER": ""} if keys else {}
    message = probe.junk(keys, threshold) if keys else probe.MESSAGE
    answer = _call(CLASSIFY, path, (), env, message, deadline_s, mail_uids)
    if isinstance(answer, Finding):
        return [answer]
    output, succeeded, took_s = answer
    took = f"in {took_s * 1000:.0f} ms"
    if not keys:
        return [ok(CLASSIFY, f"{path}: answers {took}; no verdict was asked for without a key")]
    if not succeeded:
        return [_refused(CLASSIFY, path)]
    text = output.decode("ascii", "replace")
    if not text.startswith("junk verified "):
        why = re.search(r"milter=none \((.*?)\)", text)
        reason = why[1] if why else f"answer {text!r}"
        return [
            failed(
                CLASSIFY,
                f"{path}: does not believe a score signed with the first key of the key file"
                f" ({reason}), so no mail goes to Junk",
                "Restart `mailhooks serve` and `mailhooks milter`, which read the key file when "
                "they start; then see whether both are of one version.",
            )
        ]
    lame = re.search(r"bayes=none \((unavailable|deadline)\)", text)
    if lame:
        return [
            warning(
                CLASSIFY,
                f"{path}: answers {took}, without Bayes ({lame[1]})",
                "`mailhooks serve` cannot ask Rspamd: see the findings about Rspamd, and its log.",
            )
        ]
    return [ok(CLASSIFY, f"{path}: a verdict {took}, the deadline is {deadline_s:g} s")]


def learn(path: Path, *, deadline_s: float, mail_uids: Collection[int]) -> list[Finding]:
    """Whether what users do is listened to; asked with a move that teaches nothing."""
    env = {"USER": probe.user(mail_uids)}
    answer = _call(LEARN, path, _TEACHES_NOTHING, env, probe.MESSAGE, deadline_s, mail_uids)
    if isinstance(answer, Finding):
        return [answer]
    _, succeeded, took_s = answer
    if not succeeded:
        return [_refused(LEARN, path)]
    return [ok(LEARN, f"{path}: answers in {took_s * 1000:.0f} ms")]


def _refused(name: str, path: Path) -> Finding:
    return failed(
        name,
        f"{path}: refuses a call that is right",
        "The log of `mailhooks serve` says why; run the doctor as root.",
    )


def _call(
    name: str,
    path: Path,
    args: Sequence[str],
    env: dict[str, str],
    message: bytes,
    deadline_s: float,
    mail_uids: Collection[int],
) -> tuple[bytes, bool, float] | Finding:
    """Output, success and seconds of one call, or what is wrong with the socket."""
    started = time.monotonic()
    timeout_s = deadline_s + PATIENCE_S
    try:
        output, succeeded = asyncio.run(call_script(path, args, env, message, timeout_s=timeout_s))
        took_s = time.monotonic() - started
        shut_out = [uid for uid in mail_uids if not access.may_connect(uid, path)]
    except TimeoutError:
        return failed(name, f"{path}: accepts, and gives no answer in {timeout_s:g} s", _START)
    except OSError as problem:
        return failed(name, f"{path}: {problem.strerror or problem}", _START)
    except ProtocolError as problem:
        return failed(
            name,
            f"{path}: does not answer like a script socket: {problem}",
            "Another program listens there, or [daemon] socket_dir names another folder than "
            "Dovecot's socket_dir does.",
        )
    if shut_out:
        return failed(
            name,
            f"{path}: {access.all_named(shut_out)} may not connect (socket mode "
            f"{access.mode_of(path.stat())})",
            "Let these users through to the folder and write to the socket; Dovecot's Sieve "
            "connects as the user of the mailbox ([daemon] mail_users).",
        )
    return output, succeeded, took_s


def milter(address: str, timeout_s: float = MILTER_S) -> list[Finding]:
    """Whether the milter accepts Postfix, and speaks the milter protocol.

    Args:
        address: in libmilter's notation.
        timeout_s: for its greeting.
    """
    try:
        is_milter = negotiates(address, timeout_s)
    except TimeoutError:
        problem = f"gives no answer in {timeout_s:g} s"
    except OSError as failure:
        problem = failure.strerror or str(failure)
    else:
        if is_milter:
            return [ok(MILTER, f"{address}: negotiates like a milter")]
        problem = "does not answer like a milter"
    return [
        failed(
            MILTER,
            f"{address}: {problem}",
            "Start `mailhooks milter`; if it runs, its log says what is wrong. Until then mail has "
            "no score and goes to INBOX.",
        )
    ]


def metrics(address: str, timeout_s: float = METRICS_S) -> list[Finding]:
    """Whether the daemon says of itself that it learns, and that its spool has its journal.

    Args:
        address: ``daemon.metrics``; empty for nowhere.
        timeout_s: for its answer.
    """
    name = "health"
    if not address:
        return [ok(name, "[daemon] metrics is empty: metrics and health are served nowhere")]
    where = listen_address(address)
    base = address if isinstance(where, Path) else f"http://{address}"
    try:
        answer = asyncio.run(get(base, "/healthz", timeout_s))
        state = json.loads(answer.body)
        trouble = str(state["trouble"])
        journal_trouble = str(state.get("journal_trouble", ""))  # an old one says nothing of it
    except (OSError, aiohttp.ClientError, ValueError, KeyError, TypeError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem) or "no answer"
        return [warning(name, f"{address}: {reason}", _START)]
    if trouble:
        found = [
            failed(
                name,
                f"{address}: `mailhooks serve` says: {trouble}",
                "See the findings about the spool, the ledger and Rspamd.",
            )
        ]
    else:
        found = [ok(name, f"{address}: `mailhooks serve` says it takes samples and learns")]
    return [*found, _journal(journal_trouble)]


def _journal(trouble: str) -> Finding:
    name = "spool journal"
    if not trouble:
        return ok(name, "`mailhooks serve` takes samples by way of it")
    return warning(
        name,
        f"`mailhooks serve` goes without it: {trouble}",
        "Nothing is lost, but each sample waits for two syncs of the disk, and users for it. Make "
        "room for 32 MB, see that one `mailhooks serve` runs and owns the folder, and that the "
        "kernel's log has no errors of the disk; restart it if the disk had any.",
    )


def lmtp(address: str, timeout_s: float = LMTP_S) -> list[Finding]:
    """Whether the delivery filter greets as LMTP servers do (RFC 2033).

    Args:
        address: ``lmtp.listen``.
        timeout_s: for its greeting.
    """
    where = listen_address(address)
    try:
        if isinstance(where, Path):
            connection = connected(f"unix:{where}", timeout_s)
        else:
            connection = socket.create_connection(where, timeout=timeout_s)
        with connection:
            greeting = connection.recv(4)
            with suppress(OSError):
                connection.sendall(b"QUIT\r\n")
    except TimeoutError:
        problem = f"gives no answer in {timeout_s:g} s"
    except OSError as failure:
        problem = failure.strerror or str(failure)
    else:
        if greeting == b"220 ":
            return [ok(LMTP, f"{address}: greets like an LMTP server")]
        problem = "does not greet like an LMTP server"
    return [
        failed(
            LMTP,
            f"{address}: {problem}",
            "Start `mailhooks lmtp`; if it runs, its log says what is wrong. Until then mail waits "
            "in Postfix's queue.",
        )
    ]
