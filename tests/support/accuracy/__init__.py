"""Real mail replayed through the real Rspamd for users of different taste: ``make accuracy``."""
