"""A private mail host on loopback, made of the stock Debian packages."""

from mailhooks.lab.host import Lab, LabUser
from mailhooks.lab.mailbox import Mailbox, StoredMessage

__all__ = ["Lab", "LabUser", "Mailbox", "StoredMessage"]
