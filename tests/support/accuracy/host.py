"""A private Rspamd and its Redis, configured as on a real host."""

from __future__ import annotations

from mailhooks.lab import Lab

SERVERS = frozenset({"redis", "rspamd"})
_CLASSIFIERS = "rspamd/local.d/statistic.conf"
_HITS = "min_token_hits = {};"


class StatisticsHost(Lab):
    """The lab, of which only Redis and Rspamd run; all statistics are empty.

    Args:
        min_learns: messages of each class before Bayes speaks.
        min_token_hits: how often a word must have been learned to count; ours is 1, Rspamd's 2.
    """

    def __init__(self, *, min_learns: int, min_token_hits: int) -> None:
        super().__init__(min_learns=min_learns)
        self._min_token_hits = min_token_hits

    def _prepare(self) -> None:
        super()._prepare()
        for name in set(self.servers) - SERVERS:
            del self.servers[name]
        path = self.root / _CLASSIFIERS
        text = path.read_text(encoding="utf-8")
        assert _HITS.format(1) in text
        wanted = text.replace(_HITS.format(1), _HITS.format(self._min_token_hits))
        path.write_text(wanted, encoding="utf-8")
