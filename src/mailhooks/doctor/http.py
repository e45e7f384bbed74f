"""One HTTP request to a server on a port or a UNIX socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, header and body of an answer."""

    status: int
    header: Mapping[str, str]
    body: bytes


async def get(base: str, path: str, timeout_s: float) -> Answer:
    """Ask once.

    Args:
        base: ``http://host:port`` or ``unix:/path``.
        path: of the resource.
        timeout_s: for all of it.

    Raises:
        OSError: nobody listens, or there was no answer in time (TimeoutError).
        aiohttp.ClientError: the answer is none.
    """
    unix = base.removeprefix("unix:") if base.startswith("unix:") else ""
    connector = aiohttp.UnixConnector(unix) if unix else None
    timeout = aiohttp.ClientTimeout(timeout_s)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.get(f"{'http://localhost' if unix else base}{path}") as answer,
    ):
        return Answer(answer.status, answer.headers, await answer.read())
