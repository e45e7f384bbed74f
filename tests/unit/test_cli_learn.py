from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from mailhooks import batch
from mailhooks.cli import main
from mailhooks.lesson import SHARED_USER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

USER = "Anna@Example.org"


class Controller(ThreadingHTTPServer):
    """What `learn` needs of Rspamd's controller; `status` is its answer to all learns."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.learned: list[tuple[str, str, bytes]] = []
        self.status = 200


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Controller)
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        short = b"short" in raw
        status = 204 if short else self.server.status
        body = b'{"success":true}'
        if short:
            body = (
                b'{"error":"<x> contains less tokens than required for bayes classifier: 1 < 11"}'
            )
        elif status == 200:
            self.server.learned.append((self.path, self.headers["Deliver-To"], raw))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def controller() -> Iterator[Controller]:
    server = Controller()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, controller: Controller) -> Path:
    path = tmp_path / "mailhooks.toml"
    path.write_text(
        f'[daemon]\nspool_dir = "{tmp_path}/spool"\n'
        f'[rspamd]\nlearn_url = "http://127.0.0.1:{controller.server_port}"\n'
        f'[learning]\nledger_file = "{tmp_path}/ledger.sqlite"\n'
        '[redis]\nurl = ""\n'
    )
    return path


def learn(settings: Path, *arguments: str, stdin: bytes = b"") -> Result:
    command = ["--config", str(settings), "learn", *arguments]
    return CliRunner().invoke(main, command, input=stdin)


def mail(number: int) -> bytes:
    return b"Subject: %d\n\nhello\n" % number


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mail"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.eml").write_bytes(mail(number))
    return folder


def test_a_folder_is_learned_once_however_often_it_is_named(
    settings: Path, folder: Path, controller: Controller
) -> None:
    """The second run knows everything, which is how an interrupted one goes on."""
    first = learn(settings, "spam", "--user", USER, str(folder))
    assert first.exit_code == 0, first.output
    assert "20 messages: 20 learned" in first.stdout
    assert sorted(raw for _, _, raw in controller.learned) == sorted(map(mail, range(20)))
    assert {(path, user) for path, user, _ in controller.learned} == {("/learnspam", USER.lower())}
    second = learn(settings, "spam", "--user", USER.upper(), str(folder))
    assert (second.exit_code, len(controller.learned)) == (0, 20)
    assert "20 messages: 20 known" in second.stdout


def test_the_opposite_is_relearned(settings: Path, folder: Path, controller: Controller) -> None:
    """And the summary tells it from new mail."""
    learn(settings, "spam", "-u", USER, str(folder / "00.eml"))
    result = learn(settings, "ham", "-u", USER, str(folder / "00.eml"), str(folder / "01.eml"))
    assert "2 messages: 1 learned, 1 relearned" in result.stdout
    assert controller.learned[-1][0] == "/learnham"


def test_mbox_compressed_mbox_and_standard_input(
    settings: Path, tmp_path: Path, controller: Controller
) -> None:
    """Every kind of source, several at once."""
    mbox = b"".join(b"From a@b Mon Jan  1 00:00:00 2024\n" + mail(n) + b"\n" for n in range(3))
    (tmp_path / "a.mbox").write_bytes(mbox)
    (tmp_path / "b.mbox.gz").write_bytes(gzip.compress(mbox.replace(b"hello", b"good morning")))
    paths = [str(tmp_path / "a.mbox"), str(tmp_path / "b.mbox.gz"), "-"]
    result = learn(settings, "ham", "-u", USER, *paths, stdin=mail(9))
    assert result.exit_code == 0, result.output
    assert "7 messages: 7 learned" in result.stdout
    assert len(controller.learned) == 7


def test_refused_mail_is_named_with_the_reason_and_the_status_is_1(
    settings: Path, folder: Path
) -> None:
    """Everything else is learned."""
    (folder / "99.eml").write_bytes(b"Subject: x\n\nshort\n")
    result = learn(settings, "spam", "-u", USER, str(folder))
    assert result.exit_code == 1
    assert "21 messages: 20 learned, 1 refused (1 too-few-tokens)" in result.stdout
    assert f"{folder}/99.eml: refused: too-few-tokens" in result.stderr


def test_a_damaged_file_is_named_and_the_rest_is_learned(
    settings: Path, folder: Path, tmp_path: Path
) -> None:
    """What was read together with the damage included, and whatever comes next."""
    (folder / "10.mbox.gz").write_bytes(gzip.compress(mail(50))[:-4])
    (tmp_path / "next.eml").write_bytes(mail(60))
    result = learn(settings, "spam", "-u", USER, str(folder), str(tmp_path / "next.eml"))
    assert result.exit_code == 1
    assert "21 messages: 21 learned" in result.stdout
    assert f"cannot be read: {folder}/10.mbox.gz: " in result.stderr


def test_a_dry_run_asks_nobody_and_teaches_nothing(
    settings: Path, folder: Path, controller: Controller
) -> None:
    """It says what a real run would do."""
    learn(settings, "spam", "-u", USER, str(folder / "00.eml"))
    result = learn(settings, "spam", "-u", USER, "--dry-run", str(folder))
    assert result.exit_code == 0
    assert "20 messages: 19 to be learned, 1 known. Nothing was taught: dry run." in result.stdout
    assert len(controller.learned) == 1


def test_json_is_the_whole_of_standard_output(settings: Path, folder: Path) -> None:
    """A script needs no text processing."""
    (folder / "99.eml").write_bytes(b"Subject: x\n\nshort\n")
    result = learn(settings, "spam", "-u", USER, "--json", str(folder))
    answer: dict[str, Any] = json.loads(result.stdout)
    assert answer["messages"] == 21
    assert answer["outcomes"]["learned"] == 20
    assert answer["refused"] == {"too-few-tokens": 1}
    assert answer["places"][0]["user"] == USER.lower()
    assert answer["error"] is None


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["spam", "x"], "--user USER, or --shared"),
        (["spam", "-u", USER], "Missing argument"),
        (["junk", "-u", USER, "x"], "'junk' is not one of 'spam', 'ham'"),
        (["spam", "-u", USER, "/no/such/file"], "'/no/such/file' does not exist"),
        (["spam", "-u", " ", "-"], "is no user name"),
    ],
)
def test_a_wrong_command_has_status_2(settings: Path, arguments: list[str], problem: str) -> None:
    """Before anything is learned."""
    result = learn(settings, *arguments)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_an_absent_rspamd_stops_it_with_an_error_and_a_rerun_goes_on(
    settings: Path, folder: Path, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some tries, a clear line, status 1, and nothing done twice."""
    monkeypatch.setattr(batch, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(batch, "LONGEST_WAIT_S", 0.001)
    learn(settings, "spam", "-u", USER, str(folder / "00.eml"))
    controller.status = 500
    result = learn(settings, "spam", "-u", USER, str(folder))
    assert result.exit_code == 1
    assert "1 message: 1 known" in result.stdout
    assert "stopped: Rspamd at http://127.0.0.1" in result.stderr
    assert "the same command goes on" in result.stderr
    controller.status = 200
    assert (
        "20 messages: 19 learned, 1 known"
        in learn(settings, "spam", "-u", USER, str(folder)).stdout
    )


def test_a_ledger_that_cannot_be_opened_is_one_line(settings: Path, tmp_path: Path) -> None:
    """No traceback, status 1."""
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database at all, but long enough")
    result = learn(settings, "spam", "-u", USER, "-", stdin=mail(1))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ledger ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str) -> None:
    """The script asks mailhooks itself for what can follow."""
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_MAILHOOKS_COMPLETE" in result.stdout


def test_completion_completes_commands_and_options() -> None:
    """Commands that are imported only when they run included."""
    for words, expected in (("mailhooks le", "learn"), ("mailhooks learn --dry", "--dry-run")):
        count = len(words.split()) - 1
        environment = {"COMP_WORDS": words, "COMP_CWORD": str(count)}
        result = CliRunner().invoke(
            main,
            prog_name="mailhooks",
            env=environment | {"_MAILHOOKS_COMPLETE": "bash_complete"},
        )
        assert result.stdout == f"plain,{expected}\n"


HEAVY = {"aiohttp", "redis", "rich", "prometheus_client", "jinja2", "Milter"}


def test_a_command_imports_nothing_that_it_does_not_use(settings: Path, folder: Path) -> None:
    """Importing takes as long as teaching a hundred messages."""
    code = (
        "import sys; from mailhooks.cli import main\n"
        "try: main()\n"
        f"finally: print(*({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    arguments = ["--config", str(settings), "learn", "spam", "-u", USER, str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout == "20 messages: 20 learned\n"
    assert done.stderr == "\n"


def test_a_bar_on_a_terminal_and_plain_lines_elsewhere(settings: Path, folder: Path) -> None:
    """A log file holds no control characters."""
    (folder / "99.eml").write_bytes(b"Subject: x\n\nshort\n")
    learn_all = [sys.executable, "-m", "mailhooks", "--config", str(settings), "learn", "spam"]
    leader, follower = pty.openpty()
    with open(leader, "rb", buffering=0) as terminal:  # noqa: PTH123 - a descriptor has no path
        done = subprocess.run(
            [*learn_all, "-u", "a", str(folder)],
            stdout=subprocess.PIPE,
            stderr=follower,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
            check=False,
        )
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while chunk := terminal.read(65536):
                shown += chunk
    assert done.stdout == b"21 messages: 20 learned, 1 refused (1 too-few-tokens)\n"
    assert b"21/" in shown
    assert b"\x1b[" in shown
    assert f"{folder}/99.eml: refused: too-few-tokens".encode() in shown
    plain = subprocess.run([*learn_all, "-u", "b", str(folder)], capture_output=True, check=False)
    assert plain.stderr.decode() == f"{folder}/99.eml: refused: too-few-tokens\n"


def test_the_shared_statistics_learn_in_a_name_nobody_has(
    settings: Path, folder: Path, controller: Controller
) -> None:
    """Only if there are such statistics, and never together with a user."""
    refused = learn(settings, "spam", "--shared", str(folder))
    assert refused.exit_code == 2
    assert "there are no shared statistics: rspamd.shared_classifier is empty" in refused.stderr
    assert learn(settings, "spam", "--shared", "-u", USER, str(folder)).exit_code == 2
    text = settings.read_text().replace("[rspamd]\n", '[rspamd]\nshared_classifier = "all"\n')
    settings.write_text(text)
    result = learn(settings, "spam", "--shared", str(folder))
    assert result.exit_code == 0, result.output
    assert {(path, user) for path, user, _ in controller.learned} == {("/learnspam", SHARED_USER)}
    assert len(controller.learned) == 20
