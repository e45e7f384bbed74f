"""A delivery filter between Postfix and any LMTP server, for hosts without Sieve extprograms.

* ``session``: one connection from the mail server, on aiosmtpd;
* ``verdicts``: asks the daemon, for all recipients of a message at once;
* ``stamp``: what a verdict changes in a copy's header;
* ``next_hop``: the connection to the server that stores mail;
* ``address`` and ``wire``: what both sides speak, as values;
* ``service``: listens until SIGTERM.
"""

from __future__ import annotations

from mailhooks.lmtp.service import serve

__all__ = ["serve"]
