"""The floor for a pipe from Sieve: a script socket that reads, says yes, and keeps nothing.

Run as a program of its own, as mailhooks is: ``python discard.py SOCKET COUNT_FILE``.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress


def main(path: str, count_file: str) -> None:
    """Serve for ever, one call after another; the file's size is the number of calls."""
    with socket.socket(socket.AF_UNIX) as listener, open(count_file, "ab", 0) as count:  # noqa: PTH123
        listener.bind(path)
        os.chmod(path, 0o666)  # noqa: PTH101, S103 - Dovecot connects as the mail user
        listener.listen(4096)
        while True:
            call, _ = listener.accept()
            with call, suppress(BrokenPipeError):
                size_bytes = 0
                while piece := call.recv(65536):
                    size_bytes += len(piece)
                if size_bytes:
                    count.write(b".")
                call.sendall(b"+\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
