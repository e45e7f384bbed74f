"""Every error mailhooks raises on purpose.

::

    MailhooksError
     +-- ConfigError          a setting is wrong; names every wrong key
     +-- ProtocolError        a peer on a script socket does not speak the protocol
     +-- SpoolError           a sample could not be put on disk; the sender must keep it
     +-- LedgerError          what was taught cannot be written down or looked up
     +-- SourceError          a file, Maildir or mbox given by hand cannot be read
     +-- DoveadmError         doveadm cannot be run, or failed
     +-- AccountsError        a change to the host's accounts is refused; says why
     |    +-- AccountsUnavailable  their database is away, has no schema, or a newer one
     +-- StatisticsError      Redis, which holds Rspamd's statistics, gave no usable answer
     +-- RspamdError          Rspamd gave no usable answer
     |    +-- RspamdUnavailable    temporary: no connection, timeout, 5xx
     |    |    +-- RspamdAway      nobody listens there
     |    +-- RspamdMisconfigured  permanent until somebody changes a setting
     +-- NextHopError         the LMTP server behind `mailhooks lmtp` cannot be spoken to
     +-- SetupError           a host cannot be set up as it is, or a server's tool failed
     +-- LabError             the private mail host cannot start or has failed

Anything else that is raised is a bug, and in a mail path a bug is treated as
a temporary failure: mail stays where it is or is delivered without us.
"""

from __future__ import annotations


class MailhooksError(Exception):
    """The root of every error mailhooks raises on purpose."""


class ConfigError(MailhooksError):
    """The configuration is wrong.

    Attributes:
        problems: one line for each wrong key, ``section.key: reason``.
    """

    def __init__(self, problems: list[str], path: str = "") -> None:
        self.problems = problems
        self.path = path
        super().__init__("\n".join(f"{path}: {line}" if path else line for line in problems))


class ProtocolError(MailhooksError):
    """The peer on a script socket does not speak Dovecot's script protocol."""


class SpoolError(MailhooksError):
    """A sample could not be made durable; whoever sent it still owns it."""


class LedgerError(MailhooksError):
    """The ledger cannot be opened, read or written; names the file and the reason."""


class SourceError(MailhooksError):
    """Mail given by hand (file, folder, Maildir, mbox) cannot be read."""


class DoveadmError(MailhooksError):
    """``doveadm`` cannot be run, failed, or printed something unexpected."""


class AccountsError(MailhooksError):
    """A change to the accounts is refused, or what it names is not there; nothing was changed."""


class AccountsUnavailable(AccountsError):  # noqa: N818 - reads as the state it reports
    """The database of accounts cannot be used: away, without schema, or with a newer one."""


class StatisticsError(MailhooksError):
    """Rspamd's statistics in Redis cannot be read or changed."""


class RspamdError(MailhooksError):
    """Rspamd gave no usable answer."""


class RspamdUnavailable(RspamdError):  # noqa: N818 - reads as the state it reports
    """Temporary: no connection, no answer in time, or an answer that asks to try later."""


class RspamdAway(RspamdUnavailable):
    """Nobody listens where Rspamd should: whatever is asked, not one message's fault."""


class RspamdLate(RspamdUnavailable):
    """It did not answer in time."""


class RspamdMisconfigured(RspamdError):  # noqa: N818 - reads as the state it reports
    """Rspamd refuses until somebody changes a setting, such as a password."""


class NextHopError(MailhooksError):
    """The LMTP server that stores mail is away, silent, or speaks something else.

    Attributes:
        enhanced: the enhanced status code that tells a mail server so (RFC 3463).
        is_silent: whether it let the time run out: to ask again would take as long.
    """

    def __init__(self, reason: str, enhanced: str, *, is_silent: bool = False) -> None:
        self.enhanced = enhanced
        self.is_silent = is_silent
        super().__init__(reason)


class LabError(MailhooksError):
    """The private mail host cannot be started, or one of its servers died."""


class SetupError(MailhooksError):
    """A host cannot be set up as it is, or a server's own tool failed."""
