from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from mailhooks.dovecot import call_script, encode_request

if TYPE_CHECKING:
    from mailhooks.lab import Lab
    from mailhooks.lab.letters import LetterBox

AT_ONCE = 1000
NOBODY = 65534
ARGS = ["cause=COPY", "from=INBOX", "to=Junk"]


def test_a_thousand_connections_at_once_are_all_served_and_learned(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """None is refused within Dovecot's 5 ms, and each sample is learned once."""
    path = lab.root / "run/mailhooks/mailhooks-learn"
    user = lab.users[people[0]].address
    letters = [box.newsletter([user]).raw for _ in range(AT_ONCE)]

    async def call_all() -> list[tuple[bytes, bool]]:
        return await asyncio.gather(
            *(call_script(path, ARGS, {"USER": user}, raw, timeout_s=60) for raw in letters)
        )

    assert asyncio.run(call_all()) == [(b"", True)] * AT_ONCE
    lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0, 180)
    assert lab.learns(people[0]) == (AT_ONCE, 0)


def call_as(uid: int, path: str, request: bytes) -> bytes:
    """The raw answer to a call made by a process of this uid."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing but system calls from here on: Python's files may be unreadable now.
        try:
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(20)
                connection.connect(path)
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(4096):
                    os.write(write_end, data)
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("program", ["mailhooks-learn", "mailhooks-classify"])
def test_a_stranger_on_the_host_cannot_speak_for_somebody_else(
    lab: Lab, people: list[str], box: LetterBox, program: str
) -> None:
    """The uid of the calling process decides; the call fails, is logged, and teaches nothing."""
    user = lab.users[people[0]].address
    raw = box.newsletter([user]).raw
    path = str(lab.root / "run/mailhooks" / program)
    request = encode_request(ARGS if "learn" in program else [], {"USER": user}) + raw
    assert call_as(NOBODY, path, request) == b"-\n"
    assert f"uid {NOBODY} may not speak for user '{user}'" in lab.log("daemon")
    assert lab.learns(people[0]) == (0, 0)
    assert lab.waiting_samples() == 0
