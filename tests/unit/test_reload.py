from __future__ import annotations

import re
from pathlib import Path

import msgspec

from mailhooks.config import Settings, parse
from mailhooks.daemon.reload import AT_ONCE, compare


def test_what_decides_about_a_call_changes_at_once() -> None:
    """Thresholds and names are in force for the next call; what is open stays as it is."""
    running = parse("")
    read = parse(
        '[policy]\nthreshold = 3\n[rspamd]\npassword = "new"\n[mailboxes]\njunk = ["Müll"]\n'
        '[learning]\nlearn_on_delivery = "all"\nsettle_s = 1\n[doveadm]\ncommand = ["x"]'
    )
    reload = compare(running, read)
    assert reload.changed == ("policy.threshold", "learning.learn_on_delivery", "mailboxes.junk")
    assert reload.waiting == ("rspamd.password", "learning.settle_s")
    assert reload.settings.policy.threshold == 3
    assert reload.settings.mailboxes.junk == ("Müll",)
    assert reload.settings.rspamd == running.rspamd
    assert reload.settings.learning.settle_s == running.learning.settle_s


def test_the_same_settings_change_nothing() -> None:
    """A reload without a change keeps what runs."""
    settings = parse("[policy]\nthreshold = 3")
    reload = compare(settings, settings)
    assert (reload.settings, reload.changed, reload.waiting) == (settings, (), ())


def test_the_documentation_says_what_a_reload_changes() -> None:
    """The page names exactly what the code takes over, and all of that exists."""
    page = Path(__file__).resolve().parents[2] / "docs/settings.md"
    part = page.read_text(encoding="utf-8").partition("## Reloading")[2].partition("\n## ")[0]
    listed = re.findall(r"^- `\[?([\w.]+)\]?`", part, flags=re.MULTILINE)
    assert set(listed) == AT_ONCE
    sections = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    for name in AT_ONCE:
        section, _, key = name.partition(".")
        assert not key or hasattr(sections[section], key), name
        assert section in sections
