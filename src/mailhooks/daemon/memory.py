"""How the C library keeps memory: so that a service of many threads stays as small as it began."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# glibc's malloc.h; mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
LARGE_BYTES = 128 * 1024


def keep_small() -> None:
    """Have all threads share one heap, and large blocks given back when they are freed.

    By default each thread fills a heap of its own up to what it needed at most, and
    the first large message that is freed has all later ones come from there, too. Threads
    gain nothing from it where they hold Python's lock. Does nothing with other C libraries.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, LARGE_BYTES)
