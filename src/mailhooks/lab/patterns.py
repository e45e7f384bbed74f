"""The patterns that Rspamd compiles after it has started."""

from __future__ import annotations

import re

_QUEUED = re.compile(r"added multipattern '(\w+)' .* to pending compilation queue")
_DONE = re.compile(
    r"(?:received multipattern loaded notification for|failed to compile multipattern) '(\w+)'"
)


def uncompiled(log: str) -> set[str]:
    """Names of those it has not compiled, or given up, since its last start, by its log.

    Rspamd 4 answers before they are in their final form (``RSPAMD_MP_MODE_FALLBACK`` in its
    multipattern.h). Until then it takes some texts for another language, and finds other words
    in them: a message that it learns before and after that counts twice.
    """
    since = log.rpartition(" is loading configuration")[2]
    return set(_QUEUED.findall(since)) - set(_DONE.findall(since))
