"""The front end in Postfix's milter chain; pymilter is confined to this package."""

from mailhooks.milter.hook import ScoreMilter, run

__all__ = ["ScoreMilter", "run"]
