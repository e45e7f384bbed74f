"""Asks the daemon for each recipient's verdict, and goes on without in time."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from mailhooks.dovecot import call_script
from mailhooks.errors import ProtocolError
from mailhooks.lmtp.stamp import UNANSWERED, Answer, parse_answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

log = logging.getLogger("mailhooks.lmtp")

AT_ONCE: Final = 4
"""Calls for one message at the same time; each holds a copy of it."""


async def ask(
    socket: Path, message: bytes, users: Iterable[str], env: Mapping[str, str], deadline_s: float
) -> dict[str, Answer]:
    """Every user's answer, each user asked for once.

    Args:
        socket: of ``mailhooks-classify``.
        message: with CRLF line ends.
        users: the mailboxes' owners.
        env: of the call; ``USER`` is added.
        deadline_s: seconds for all of them together.

    Returns:
        By user; who was not answered for in time has :data:`UNANSWERED`.
    """
    answers = dict.fromkeys(users, UNANSWERED)
    turns = asyncio.Semaphore(AT_ONCE)

    async def ask_for(user: str) -> None:
        try:
            async with turns:
                output, ok = await call_script(
                    socket, [], {**env, "USER": user}, message, timeout_s=deadline_s
                )
            answers[user] = parse_answer(output if ok else b"")
        except (OSError, ProtocolError, ValueError) as error:
            reason = str(error) or "no answer in time"
            log.warning("user=%s: no verdict: mailhooks serve: %s", user, reason)

    tasks = {asyncio.create_task(ask_for(user)): user for user in answers}
    try:
        _, late = await asyncio.wait(tasks, timeout=deadline_s)
        for task in late:
            log.warning("user=%s: no verdict: not in %g s", tasks[task], deadline_s)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return answers
