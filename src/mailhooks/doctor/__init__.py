"""Is this host's installation in order? What ``mailhooks doctor`` finds out.

``examine`` looks at everything the settings file names and says what it found,
one :class:`Finding` for each thing, in an order that suits repairing. It
changes nothing, teaches nothing, and always comes to an end. ``try_out`` sends
and teaches test messages, and removes them again.
"""

from __future__ import annotations

from mailhooks.doctor.check import Finding, Level
from mailhooks.doctor.host import CHECKS, examine, try_out

__all__ = ["CHECKS", "Finding", "Level", "examine", "try_out"]
