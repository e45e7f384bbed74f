"""The accounts of the host: domains, users and aliases in SQL, which Postfix and Dovecot read.

::

    with Accounts("sqlite:////var/lib/mailhooks/accounts/accounts.sqlite") as accounts:
        accounts.add_user("ann@example.org", hash_password("..."))
        for user in accounts.users("example.org"):
            print(user.address)

The command line is ``mailcfg``; docs/accounts.md describes it, the tables, and the look-ups of
Postfix and Dovecot.
"""

from mailhooks.accounts.apply import carry_out, planned
from mailhooks.accounts.declared import SYSTEM_NAMES, Declared, Plan, load
from mailhooks.accounts.password import hash_password, no_password
from mailhooks.accounts.store import Accounts, Alias, Domain, Done, User

__all__ = [
    "SYSTEM_NAMES",
    "Accounts",
    "Alias",
    "Declared",
    "Domain",
    "Done",
    "Plan",
    "User",
    "carry_out",
    "hash_password",
    "load",
    "no_password",
    "planned",
]
