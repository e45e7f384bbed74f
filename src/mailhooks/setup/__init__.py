"""Configuration of Postfix, Dovecot, Rspamd, Redis and mailhooks itself."""

from mailhooks.setup.dovecot import generation
from mailhooks.setup.hooks import install_hooks
from mailhooks.setup.host import package_units
from mailhooks.setup.render import copy_sieve, render, render_tree

__all__ = [
    "copy_sieve",
    "generation",
    "install_hooks",
    "package_units",
    "render",
    "render_tree",
]
