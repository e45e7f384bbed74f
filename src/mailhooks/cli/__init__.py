"""The command ``mailhooks``; one module a group of commands."""

from mailhooks.cli.main import main

__all__ = ["main"]
