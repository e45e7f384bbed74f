"""The count against a socket that answers byte for byte as Redis does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mailhooks.count import LearnCount
from mailhooks.errors import StatisticsError
from mailhooks.lesson import Lesson

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNTS = b"*2\r\n$2\r\n14\r\n$-1\r\n"


@contextlib.contextmanager
def redis(answer: bytes, path: Path) -> Iterator[list[bytes]]:
    """Takes one connection on a UNIX socket and answers what it hears first."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            with server.accept()[0] as connection:
                heard.append(connection.recv(65536))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield heard
        thread.join(10)


def test_both_classes_are_counted_and_what_is_missing_is_none(tmp_path: Path) -> None:
    """A user who was taught one class only has zero of the other."""
    with redis(COUNTS, tmp_path / "s") as heard:
        count = LearnCount(f"unix://{tmp_path}/s", "RS")("j\u00fcrgen@x")
    assert count == {Lesson.SPAM: 14, Lesson.HAM: 0}
    assert heard == [
        b"*4\r\n$5\r\nHMGET\r\n$11\r\nRSj\xc3\xbcrgen@x\r\n$11\r\nlearns_spam\r\n$10\r\nlearns_ham\r\n"
    ]


def test_the_url_says_who_logs_in_and_to_which_database(tmp_path: Path) -> None:
    """As redis-py reads it."""
    with redis(b"+OK\r\n+OK\r\n" + COUNTS, tmp_path / "s") as heard:
        url = f"unix://ann:s%2Fcret@{tmp_path}/s?db=3"
        assert LearnCount(url, "RS")("u")[Lesson.SPAM] == 14
    assert heard[0].startswith(
        b"*3\r\n$4\r\nAUTH\r\n$3\r\nann\r\n$6\r\ns/cret\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH"),
        (b"", "closed the connection"),
        (b"+OK\r\n*2\r\n$2\r\n1", "closed the connection"),
        (b"HTTP/1.1 400 x\r\n", "TTP"),
        (b"+OK\r\n*2\r\n$3\r\nabc\r\n$-1\r\n", "abc"),
        (b"+OK\r\n:7\r\n", "answered"),
    ],
)
def test_what_is_no_count_is_an_error_that_names_redis(
    answer: bytes, why: str, tmp_path: Path
) -> None:
    """Never zero, which would pass for a proof; and never the password."""
    with (
        redis(answer, tmp_path / "s"),
        pytest.raises(StatisticsError, match=f"Redis at unix://.*({why})") as caught,
    ):
        LearnCount(f"unix://:hush@{tmp_path}/s", "RS")("u")
    assert "hush" not in str(caught.value)


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    """Redis may be restarting."""
    with pytest.raises(StatisticsError, match="No such file"):
        LearnCount(f"unix://{tmp_path}/none", "RS")("u")


def test_a_connection_is_used_again_until_redis_closes_it(tmp_path: Path) -> None:
    """Two counts go over one connection, and a third one finds another by itself."""
    ask = LearnCount(f"unix://{tmp_path}/s", "RS")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()

        def serve() -> list[int]:
            asked = []
            for most in (2, 1):
                with server.accept()[0] as connection:
                    asked.append(0)
                    while asked[-1] < most and connection.recv(65536):
                        connection.sendall(COUNTS)
                        asked[-1] += 1
            return asked

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(serve)
            assert [ask("u")[Lesson.SPAM] for _ in range(3)] == [14] * 3
            assert asked.result(60) == [2, 1]


async def test_others_go_on_until_redis_answers(tmp_path: Path) -> None:
    """The answer comes after something that this thread has yet to do."""
    ask = LearnCount(f"unix://{tmp_path}/s", "RS", timeout_s=60)
    with socket.socket(socket.AF_UNIX) as server, ThreadPoolExecutor(1) as pool:
        server.bind(str(tmp_path / "s"))
        server.listen()
        asked, may_answer = threading.Event(), threading.Event()

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(65536)
                asked.set()
                may_answer.wait(60)
                connection.sendall(COUNTS)

        pool.submit(serve)

        async def go_on() -> None:
            await asyncio.to_thread(asked.wait, 60)
            may_answer.set()

        counts, _ = await asyncio.gather(ask.told("u"), go_on())
    assert counts == {Lesson.SPAM: 14, Lesson.HAM: 0}


@pytest.mark.parametrize("is_waited_for", [True, False])
async def test_an_answer_that_comes_too_late_is_an_error(
    tmp_path: Path, is_waited_for: bool
) -> None:
    """However it is asked."""
    ask = LearnCount(f"unix://{tmp_path}/s", "RS", timeout_s=0.05)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        with pytest.raises(StatisticsError, match="timed out"):
            await ask.told("u") if is_waited_for else ask("u")
