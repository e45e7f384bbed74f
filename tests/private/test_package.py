"""The Debian package, after the tests in test_host.py have used what it installed."""

from __future__ import annotations

from pathlib import Path

from stock_host import run, tree


def test_the_package_brings_both_programs_and_their_manual() -> None:
    """The accounts command has the drivers of all databases, too; man finds every page."""
    assert run("mailhooks", "--version") == run("mailcfg", "--version").replace(
        "mailcfg", "mailhooks"
    )
    for url in ("postgresql://nobody@127.0.0.1:1/none", "mariadb://nobody@127.0.0.1:1/none"):
        said = run("mailcfg", "--db", url, "lsdom", ok=False)
        assert "pip install" not in said
        assert "refused" in said
    for page in ("mailhooks", "mailhooks-doctor", "mailcfg", "mailhooks.toml", "mailhooks-hooks"):
        assert run("man", "-w", page).startswith("/usr/share/man/man")


def test_a_removed_package_leaves_servers_that_work_without_it() -> None:
    """Removal takes back what setup did first; of the package nothing is left."""
    before = tree()
    run("mailhooks", "setup", "--apply")
    wants = Path("/etc/systemd/system/multi-user.target.wants/mailhooks.service")
    assert wants.readlink() == Path("/lib/systemd/system/mailhooks.service")
    run("dpkg", "--remove", "mailhooks")
    assert tree() == before
    assert not Path("/opt/mailhooks").exists()
    assert not Path("/usr/bin/mailhooks").is_symlink()
    assert "mailhooks" not in run("getent", "passwd")
    assert "mailhooks" not in run("postconf", "-n")
