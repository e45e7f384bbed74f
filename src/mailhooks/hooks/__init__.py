"""Programs that Dovecot forks, for hosts whose Sieve reaches programs by bin_dir, not by socket.

Nothing here is imported by mailhooks: ``setup.install_hooks`` copies
``program.py`` to where Dovecot looks for programs, since it must start without
mailhooks, its virtual environment or anything else outside the standard library.
"""

from __future__ import annotations

__all__: list[str] = []
