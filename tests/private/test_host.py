"""``mailhooks setup`` on a stock host."""

from __future__ import annotations

import json
from pathlib import Path

from stock_host import PYTHON, delivered, mailhooks, rspamd, run, send, servers, tree

JOURNAL = Path("/var/lib/mailhooks-setup")


def setup(*options: str, ok: bool = True) -> str:
    return run(PYTHON, "-m", "mailhooks", "setup", *options, ok=ok)


def test_a_stock_host_is_set_up_and_left_as_it_was() -> None:
    """Shown, applied, checked, used, taken back: /etc is byte for byte what it was."""
    before = tree()
    shown = setup()
    assert tree() == before
    assert not JOURNAL.exists()
    assert "Nothing was changed" in shown
    with servers():
        print(setup("--apply"))
        after = tree()
        assert setup("--apply").startswith("Nothing to do")
        assert tree() == after
        with rspamd(), mailhooks():
            findings = json.loads(run(PYTHON, "-m", "mailhooks", "doctor", "--json"))
            assert not [each for each in findings if each["level"] != "ok"]
            send("ann@mx.example.org", "hello ann")
            message = delivered("hello ann")
            assert "X-Spam-Status: No, score=" in message
            assert "milter=none" not in message.partition("\n\n")[0]
        print(setup("--remove"))
        assert tree() == before
        assert not JOURNAL.exists()
