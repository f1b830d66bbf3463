"""Metrics as a convention declares them: which keys of what was logged make a run's value, and over which lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ckptman.rules import comparing

LENGTH = "{k}"
"""Stands in a pattern for a length."""
EXACT_MATCH = "exact_match_acc"
"""What the exact match, which training logs and `eval` measures, is called at the end of a key."""
_MOST_LENGTHS = 100_000
_FEW_LENGTHS = 256
"""So few that their keys are remembered: most runs have those of others."""
Bound = int | str | None


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    title: str
    pattern: str
    """The key that it is logged under; with `{k}` in it, one key for each length."""
    low: Bound = None
    """The first length and the last: numbers, or configuration keys; None where the pattern holds no length."""
    high: Bound = None
    share: bool = True
    """Whether values are shares, from 0 to 1."""
    lower_is_better: bool = False

    def bounds(self, config: Mapping[str, Any]) -> tuple[int, int] | None:
        """The first and the last length for a run with this configuration; None where it does not say."""
        low, high = (
            comparing.whole(comparing.at(config, b)) if isinstance(b, str) else b for b in (self.low, self.high)
        )
        known = low is not None and high is not None and 0 <= high - low < _MOST_LENGTHS
        return (low, high) if known and low is not None and high is not None else None

    @property
    def fixed(self) -> tuple[int, int] | None:
        """The first and the last length where they are the same for all runs."""
        return self.bounds({})

    def keys(self, config: Mapping[str, Any]) -> list[str]:
        """The keys whose mean is the value; none where the configuration does not say the lengths."""
        if LENGTH not in self.pattern:
            return [self.pattern]
        bounds = self.bounds(config)
        if bounds is None:
            return []
        of = _keys_of if bounds[1] - bounds[0] < _FEW_LENGTHS else _keys_of.__wrapped__
        return list(of(self.pattern, *bounds))

    @property
    def is_by_length(self) -> bool:
        """Whether it is the mean over several lengths."""
        return LENGTH in self.pattern

    @property
    def is_of_lists(self) -> bool:
        """Whether it is a share of lists of some lengths."""
        return self.is_by_length and self.share

    @property
    def is_exact_match(self) -> bool:
        """Whether it is the share of lists of some lengths that are sorted right, as `eval` measures it."""
        return self.is_of_lists and self.pattern.rpartition("/")[2] == EXACT_MATCH

    @property
    def glob(self) -> str:
        """Its keys as a pattern of shells: `gen/K*/exact_match_acc`."""
        return self.pattern.replace(LENGTH, "*")

    @property
    def span(self) -> str:
        """Its lengths, for people: `K = 17–32`; empty where there are none."""
        if LENGTH not in self.pattern:
            return ""
        return "each run's own lengths" if self.fixed is None else f"K = {self.low}–{self.high}"

    @property
    def is_generalization(self) -> bool:
        """Whether the convention calls it so: over lengths that no run was trained on."""
        return self.name == "generalization"

    @property
    def short(self) -> str:
        """What the head of a column calls it."""
        return "Generalization" if self.is_generalization else self.title

    @property
    def heading(self) -> str:
        """Its title with its lengths."""
        return ", ".join(filter(None, (self.title, self.span)))


@lru_cache(maxsize=64)
def _keys_of(pattern: str, low: int, high: int) -> tuple[str, ...]:
    return tuple(pattern.replace(LENGTH, str(k)) for k in range(low, high + 1))
