"""Configuration of Postfix, Dovecot, Rspamd, Redis and mailhooks itself."""

from mailhooks.setup.hooks import install_hooks
from mailhooks.setup.host import package_units
from mailhooks.setup.render import copy_sieve, render, render_tree

__all__ = ["copy_sieve", "install_hooks", "package_units", "render", "render_tree"]
