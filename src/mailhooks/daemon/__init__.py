"""The daemon: answers Dovecot's Sieve and learns in the background."""

from mailhooks.daemon.service import CLASSIFY_SOCKET, LEARN_SOCKET, serve

__all__ = ["CLASSIFY_SOCKET", "LEARN_SOCKET", "serve"]
