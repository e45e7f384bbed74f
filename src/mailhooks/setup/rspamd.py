"""Rspamd's part: files in local.d, each only where there is none that somebody else made."""

from __future__ import annotations

import grp
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailhooks.setup.plan import Conflict, File
from mailhooks.setup.render import names, render
from mailhooks.setup.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FOLDER = Path("/etc/rspamd")
MERGED = "# mailhooks: merged"
"""An administrator's word, in a file of theirs, that it holds what ours would."""
DEFAULT_PROXY = "localhost:11332"
DEFAULT_REDIS = "127.0.0.1"
STOCK_CLASSIFIER = "local.d/classifier-bayes.conf"
NOT_OURS_TO_SET = frozenset({"dkim_signing.conf"})
"""Files of the lab's whole mail host that have nothing to do with mailhooks."""
GROUPS = ("_rspamd", "rspamd")


@dataclass(frozen=True, slots=True)
class Rspamd:
    """An installed Rspamd.

    Attributes:
        version: such as ``3.4``.
        folder: of local.d.
        proxy: where its milter listens, as in its own configuration.
        redis: the servers its configuration names; empty for none.
        group: of its processes; empty if not known.
    """

    version: str
    folder: Path
    proxy: str
    redis: str
    group: str


def survey() -> Rspamd:
    """Ask rspamadm.

    Raises:
        SetupError: Rspamd is not installed, or its configuration is broken.
    """
    version = re.search(r"\d+(?:\.\d+)*", run("rspamadm", "--version"))
    proxy = _find(documents(run("rspamadm", "configdump", "-j", "worker")), "rspamd_proxy")
    bind = proxy.get("bind_socket", DEFAULT_PROXY)
    redis = next(iter(documents(run("rspamadm", "configdump", "-j", "redis"))), {})
    servers = redis.get("servers") or redis.get("write_servers") or ""
    return Rspamd(
        version=version[0] if version else "",
        folder=FOLDER,
        proxy=str(bind[0] if isinstance(bind, list) else bind),
        redis=servers if isinstance(servers, str) else ",".join(map(str, servers)),
        group=next((name for name in GROUPS if _has_group(name)), ""),
    )


def documents(text: str) -> list[dict[str, Any]]:
    """The JSON objects that configdump prints one after another."""
    decoder = json.JSONDecoder()
    found = []
    position = 0
    while (start := text.find("{", position)) >= 0:
        value, position = decoder.raw_decode(text, start)
        found.append(value)
    return found


def redis_url(servers: str) -> str:
    """The first of Rspamd's Redis servers, as a URL."""
    first = re.split(r"[,;\s]+", servers.strip())[0] if servers.strip() else DEFAULT_REDIS
    if first.startswith("/"):
        return f"unix://{first}"
    host, _, port = first.partition(":")
    return f"redis://{host}:{port or 6379}/0"


def files(
    rspamd: Rspamd, values: Mapping[str, Any], is_ours: Callable[[Path], bool]
) -> tuple[list[File], list[Conflict]]:
    """Our files, and those of others that stand in the way."""
    wanted: list[File] = []
    conflicts: list[Conflict] = []
    stock = rspamd.folder / STOCK_CLASSIFIER
    if stock.exists() and MERGED not in stock.read_text(encoding="utf-8", errors="replace"):
        conflicts.append(
            Conflict(
                str(stock),
                "is there already, and Rspamd takes either this file or statistic.conf",
                "Carry what you need of it over to local.d/statistic.conf once that is there, and "
                f"remove it; or add the line `{MERGED}`.",
            )
        )
    for name in names("rspamd/local.d"):
        path = rspamd.folder / name.removeprefix("rspamd/")
        if path.name in NOT_OURS_TO_SET:
            continue
        if path.name == "redis.conf" and rspamd.redis and not is_ours(path):
            continue
        text = render(name, values)
        if not path.exists() or is_ours(path):
            mode = 0o640 if rspamd.group else 0o644
            wanted.append(File(path, text.encode(), mode, group=rspamd.group))
        elif MERGED not in path.read_text(encoding="utf-8", errors="replace"):
            conflicts.append(
                Conflict(
                    str(path),
                    "is there already",
                    f"Merge this into it, and add the line `{MERGED}`:\n{text}",
                )
            )
    return wanted, conflicts


def _find(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for each in found:
        inner = each.get(name)
        if isinstance(inner, list):  # several workers of a kind
            inner = inner[0]
        if isinstance(inner, dict):
            return inner
    return {}


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
