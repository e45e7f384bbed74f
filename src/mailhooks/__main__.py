"""``python -m mailhooks``."""

from mailhooks.cli import main

main()
