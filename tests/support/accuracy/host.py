"""A private Rspamd and its Redis, configured as on a real host."""

from __future__ import annotations

from mailhooks.lab import Lab

SERVERS = frozenset({"redis", "rspamd"})
STOCK = "local.d/classifier-bayes.conf"
TWO = "local.d/statistic.conf"
GROUP = "local.d/statistics_group.conf"

_CLASSIFIER = """
classifier "bayes" {{
  name = "bayes{name}";
  backend = "redis";
  {whose};
  new_schema = true;
  cache {{ }}
  cache_key = "{cache}";
  tokenizer {{ name = "osb"; }}
  min_tokens = 11;
  min_learns = {min_learns};
  min_token_hits = {min_token_hits};
  learn_condition = 'return require("lua_bayes_learn").can_learn';
  statfile {{ symbol = "BAYES_HAM{symbol}"; spam = false; }}
  statfile {{ symbol = "BAYES_SPAM{symbol}"; spam = true; }}
}}
"""


class StatisticsHost(Lab):
    """The lab, of which only Redis and Rspamd run; both sets of statistics start empty.

    Args:
        min_learns: messages of each class before Bayes speaks.
        min_token_hits: how often a word must have been learned to count.
    """

    def __init__(self, *, min_learns: int, min_token_hits: int) -> None:
        super().__init__(min_learns=min_learns)
        self._min_token_hits = min_token_hits

    def _prepare(self) -> None:
        super()._prepare()
        for name in set(self.servers) - SERVERS:
            del self.servers[name]
        folder = self.root / "rspamd"
        (folder / STOCK).unlink(missing_ok=True)
        counts = {"min_learns": self._min_learns, "min_token_hits": self._min_token_hits}
        own = {"name": "", "symbol": "", "whose": "per_user = true", "cache": "learned_ids"}
        shared = {
            "name": "_shared",
            "symbol": "_SHARED",
            "whose": 'prefix = "SHARED"',
            "cache": "shared_learned_ids",
        }
        self._write(TWO, "".join(_CLASSIFIER.format(**it, **counts) for it in (own, shared)))
        pairs = (("BAYES_SPAM", 8), ("BAYES_HAM", -4))
        symbols = [
            f'"{name}{suffix}" {{ weight = {weight}; }}'
            for name, weight in pairs
            for suffix in ("", "_SHARED")
        ]
        self._write(GROUP, f"symbols {{ {' '.join(symbols)} }}\n")

    def _write(self, name: str, text: str) -> None:
        path = self.root / "rspamd" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
