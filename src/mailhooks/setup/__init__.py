"""Configuration of Postfix, Dovecot, Rspamd, Redis and mailhooks itself."""

from mailhooks.setup.dovecot import installed_generation
from mailhooks.setup.hooks import install_hooks
from mailhooks.setup.host import package_units
from mailhooks.setup.render import copy_sieve, render, render_tree

__all__ = [
    "copy_sieve",
    "install_hooks",
    "installed_generation",
    "package_units",
    "render",
    "render_tree",
]
