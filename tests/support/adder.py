"""What one of several processes does that add users to one database at once."""

from __future__ import annotations

from mailhooks.accounts import Accounts, no_password


def add(url: str, addresses: list[str]) -> list[str]:
    """Add users; return those that were not there before."""
    with Accounts(url) as accounts:
        return [each for each in addresses if accounts.add_user(each, no_password()).changed]


def migrate(url: str) -> tuple[int, int]:
    """Make the tables; return the versions before and after."""
    with Accounts(url) as accounts:
        return accounts.migrate()
