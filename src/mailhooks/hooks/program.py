"""``mailhooks-learn`` and ``mailhooks-classify`` where Dovecot forks them: one call each.

Hands the call to the daemon: message on standard input, arguments and
environment as Pigeonhole gives them (sieve_execute_bin_dir); the daemon's
answer on standard output. Exits with 0 once the daemon, or for
``mailhooks-learn`` the drop folder, has the call; else with 1 and the reason on
standard error, and Sieve goes on without an answer.

Started once a message, so it imports only what starts in a millisecond:
``_socket`` has all of ``socket`` that is needed here, in half the start time.
"""

import _socket
import os
import select
import sys
import time

# These three are replaced when the program is installed.
SOCKET_DIR = "/run/mailhooks"
DROP_DIR = "/var/spool/mailhooks-drop"
CLASSIFY_S = 6.5

# Seconds from the start until the daemon must have answered. What it does not
# learn in time is dropped, which loses nothing: no user waits longer for that.
ANSWER_S = {"mailhooks-classify": CLASSIFY_S, "mailhooks-learn": 2.0}
# Seconds Dovecot may take to hand over the message; late, it can still be dropped.
INPUT_S = {"mailhooks-classify": CLASSIFY_S, "mailhooks-learn": 8.0}

PIECE_BYTES = 1 << 18
ENVIRONMENT = (b"USER", b"HOME", b"HOST", b"SENDER", b"RECIPIENT", b"ORIG_RECIPIENT")
ESCAPES = ((b"\x01", b"\x011"), (b"\t", b"\x01t"), (b"\r", b"\x01r"), (b"\n", b"\x01n"))


def main(argv: list[str], started_s: float) -> int:
    """Run one call; returns the exit status.

    Args:
        argv: the program's path, whose last part is its name, and its arguments.
        started_s: when it started, by ``time.monotonic``.
    """
    program = os.path.basename(argv[0])  # noqa: PTH119 - pathlib would double the start time
    if program not in ANSWER_S:
        complain(program, f"failed: expected to be called {' or '.join(ANSWER_S)}")
        return 1
    if argv[1:] == ["again"] and program == "mailhooks-classify":
        # Sieve's second try, for the sake of Dovecot's own connections; ours take their time.
        return 1
    try:
        call = [header([os.fsencode(argument) for argument in argv[1:]])]
        call += read_input(started_s + INPUT_S[program])
        try:
            output = ask(program, call, started_s + ANSWER_S[program])
        except (OSError, ValueError) as error:
            if program != "mailhooks-learn":
                raise
            complain(program, f"mailhooks serve: {error}; kept in {DROP_DIR}")
            drop(call)
        else:
            write(1, output)
    except (OSError, ValueError) as error:
        complain(program, f"failed: {error}")
        return 1
    return 0


def header(arguments: list[bytes]) -> bytes:
    """The head of a call in Dovecot's script protocol (docs/hooks.md).

    Raises:
        ValueError: an argument is empty, which the protocol cannot carry.
    """
    if not all(arguments):
        raise ValueError("an argument is empty")
    lines = [b"VERSION\tscript\t4\t0"]
    lines += [
        escape(b"env_%s=%s" % (name, os.environb[name]))
        for name in ENVIRONMENT
        if name in os.environb
    ]
    return b"\n".join([*lines, b"-", *map(escape, arguments), b"", b""])


def escape(text: bytes) -> bytes:
    """Tab-escaped, as Dovecot does it; neither arguments nor environment can hold a NUL."""
    for raw, escaped in ESCAPES:
        text = text.replace(raw, escaped)
    return text


def read_input(deadline_s: float) -> list[bytes]:
    """Standard input in pieces.

    Raises:
        TimeoutError: it did not end in time.
    """
    pieces: list[bytes] = []
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
        piece = os.read(0, PIECE_BYTES)
        if not piece:
            return pieces
        pieces.append(piece)
    raise TimeoutError("the message did not arrive in time")


def ask(program: str, call: list[bytes], deadline_s: float) -> bytes:
    """The daemon's answer.

    Raises:
        OSError: nobody listens, or there was no answer in time.
        ValueError: the daemon said no, or something that is no answer.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        left(connection, deadline_s)
        connection.connect(f"{SOCKET_DIR}/{program}")
        for piece in call:
            left(connection, deadline_s)
            connection.sendall(piece)
        connection.shutdown(_socket.SHUT_WR)
        answer = b""
        while True:
            left(connection, deadline_s)
            piece = connection.recv(PIECE_BYTES)
            if not piece:
                break
            answer += piece
    finally:
        connection.close()
    if answer == b"-\n":
        raise ValueError("refused, its log says why")
    if not answer.endswith(b"+\n"):
        raise ValueError("no whole answer")
    return answer[:-2]


def left(connection: _socket.socket, deadline_s: float) -> None:
    """Let the next step on a connection take what is left of the time.

    Raises:
        TimeoutError: nothing is.
    """
    seconds = deadline_s - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    connection.settimeout(seconds)


def drop(call: list[bytes]) -> None:
    """Keep a call until the daemon is back; once this returns, it survives a power cut.

    Raises:
        OSError: the folder does not take it.
    """
    # Readable for the folder's group, which is the daemon's.
    os.umask(0o027)
    name = f"{time.time_ns()}.{os.getpid()}"
    hidden = f"{DROP_DIR}/.{name}"
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        for piece in call:
            write(descriptor, piece)
        os.fsync(descriptor)
        os.rename(hidden, f"{DROP_DIR}/{name}")  # noqa: PTH104 - as above
    except OSError:
        os.unlink(hidden)  # noqa: PTH108 - as above
        raise
    # Nobody may read the folder, so it cannot be synced; the file again, with its new name.
    os.fsync(descriptor)


def write(descriptor: int, data: bytes) -> None:
    """All of it.

    Raises:
        OSError: it cannot be written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def complain(program: str, text: str) -> None:
    """One line for Dovecot's log."""
    os.write(2, os.fsencode(f"{program}: {text}\n"))


if __name__ == "__main__":
    sys.exit(main(sys.argv, time.monotonic()))
