"""Configuration of Postfix, Dovecot, Rspamd, Redis and mailhooks itself."""

from mailhooks.setup.hooks import install_hooks
from mailhooks.setup.render import copy_sieve, render_tree

__all__ = ["copy_sieve", "install_hooks", "render_tree"]
