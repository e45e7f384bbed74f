"""Per-recipient Bayes verdicts and lossless training between Postfix, Dovecot and Rspamd.

Public names live where their subject lives:

- :mod:`mailhooks.rspamd`: ``RspamdClient`` and the results of its calls
- :mod:`mailhooks.dovecot`: Dovecot's script protocol, its server and client
- :mod:`mailhooks.score`: the milter score: read, sign, verify
- :mod:`mailhooks.policy`: from scores to a verdict
- :mod:`mailhooks.spool`: durable samples
- :mod:`mailhooks.config`: settings
- :mod:`mailhooks.errors`: everything that is raised on purpose
"""

__version__ = "0.1.0"
