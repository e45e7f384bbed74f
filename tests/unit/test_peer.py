from __future__ import annotations

import os
import pwd

import pytest

from mailhooks.daemon.peer import user_of
from mailhooks.errors import ProtocolError

MAIL_UIDS = frozenset({5000})
NOBODY = pwd.getpwnam("nobody")


def test_the_mail_user_names_any_user_in_lower_case() -> None:
    """Where all mailboxes belong to one uid, Dovecot says whose it is."""
    assert user_of({"USER": "Ann@Example.org"}, 5000, MAIL_UIDS) == "ann@example.org"
    assert user_of({"USER": "ann"}, 0, MAIL_UIDS) == "ann"


def test_a_system_user_speaks_for_itself_only() -> None:
    """Nobody trains somebody else's statistics from a shell."""
    assert user_of({"USER": NOBODY.pw_name}, NOBODY.pw_uid, MAIL_UIDS) == NOBODY.pw_name
    with pytest.raises(ProtocolError, match="may not speak for user 'ann'"):
        user_of({"USER": "ann"}, NOBODY.pw_uid, MAIL_UIDS)
    with pytest.raises(ProtocolError, match="uid 4242424 may not speak"):
        user_of({"USER": "ann"}, 4242424, MAIL_UIDS)


@pytest.mark.parametrize("env", [{}, {"USER": ""}, {"USER": "a\nb"}, {"HOME": "/"}])
def test_a_call_without_a_user_is_refused(env: dict[str, str]) -> None:
    """No statistics are used that belong to nobody in particular."""
    with pytest.raises(ProtocolError, match="names no user"):
        user_of(env, os.getuid(), frozenset({os.getuid()}))
