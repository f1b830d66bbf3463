"""Learning curves as documents show them; each run's is read once for all that are written together."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any

from ckptman.rules import Convention
from ckptman.tree import history, metrics

GENERALIZATION = "gen_em"
"""The metric that stands for a run's generalization."""

_MOST_POINTS = 50
"""Points of a curve in a figure; of longer ones, evenly spaced ones."""
_POINTS = 160
"""Points of a curve in a page: the evaluations of the published recipe."""
_DIGITS = 4

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Thinned:
    """What a page shows of a run."""

    steps: tuple[int, ...]
    columns: Mapping[str, list[float | None]]
    """By metric; of those measured at each length their mean, called as `results --metric` calls it."""


class Curves:
    """The learning curves of a tree's runs.

    Args:
        root: The tree.
        convention: Its rules.
        whole: What `thinned` gives is kept while `points` are asked for, so that no file is read twice.
    """

    def __init__(self, root: Path, convention: Convention, *, whole: bool = False) -> None:
        self.root, self._convention, self._whole = root, convention, whole
        self._thinned: dict[PurePosixPath, Thinned | None] = {}

    def points(self, folder: PurePosixPath, config: Mapping[str, Any], metric: str = GENERALIZATION) -> Points:
        """A run's metric by step, as many points as a figure has; none where it is no curve."""
        curve = history.usable(self.root / folder)
        if self._whole:
            self._thinned[folder] = self._thin(curve)
        points: Points = []
        for step, row in curve.rows().items() if curve is not None else ():
            if metric == GENERALIZATION:
                value = metrics.from_metrics(row, config, self._convention)
                value = metrics.finite(row.get(GENERALIZATION)) if value is None else value  # as other trainers log it
            elif (named := self._convention.metrics.get(metric)) is not None:
                value = metrics.from_metrics(row, config, self._convention, named)
            else:
                value = mean_of(row, metric)
            if value is not None:
                points.append((step, value))
        every = math.ceil(len(points) / _MOST_POINTS)
        return [*points[:-1:every], points[-1]] if len(points) > 1 else []  # a single value is no curve

    def thinned(self, folder: PurePosixPath) -> Thinned | None:
        """All of a run's metrics; None where it has no curve."""
        if folder in self._thinned:
            return self._thinned.pop(folder)
        return self._thin(history.usable(self.root / folder))

    def _thin(self, curve: history.History | None) -> Thinned | None:
        if curve is None:
            return None
        columns = _by_length(curve.columns, self._convention)
        kept = _kept(curve.steps, columns.values())
        return Thinned(
            tuple(curve.steps[place] for place in kept),
            {
                name: [_short(values[place]) for place in kept]
                for name, values in columns.items()
                if not _counts(values, curve.steps)
            },
        )


def mean_of(values: Mapping[str, Any], pattern: str) -> float | None:
    """A metric of a run; with `*` in it, the mean over all that match."""
    names = [name for name in values if fnmatchcase(name, pattern)] if "*" in pattern else [pattern]
    known = [value for name in names if (value := metrics.finite(values.get(name))) is not None]
    return fmean(known) if known else None


def _kept(steps: Sequence[int], columns: Collection[Sequence[Any]]) -> list[int]:
    """The places of so many steps as are shown: of each stretch the one at which most was logged, or the last of these.

    Between two evaluations the loss alone may be logged, and far more often.
    """
    stride = max(1, -(-len(steps) // _POINTS))
    ends = range((len(steps) - 1) % stride, len(steps), stride)
    if stride == 1:
        return list(ends)
    logged = [sum(value is not None for value in row) for row in zip(*columns, strict=True)] or [0] * len(steps)
    return [max(range(max(0, end - stride + 1), end + 1), key=lambda place: (logged[place], place)) for end in ends]


def _counts(values: Sequence[Any], steps: Sequence[int]) -> bool:
    """Whether a metric is but the number of the step."""
    return len({value - step for value, step in zip(values, steps, strict=True) if value is not None}) < 2


def _by_length(columns: Mapping[str, Sequence[Any]], convention: Convention) -> dict[str, Sequence[Any]]:
    stem = convention.metric.pattern.split("{k}")[0].rpartition("/")[2]
    length = re.compile(rf"(.*?{re.escape(stem)})[0-9]+(/.*|$)")
    found: dict[str, Sequence[Any]] = {}
    alike: dict[str, list[Sequence[Any]]] = defaultdict(list)
    for name, column in columns.items():
        if match := length.fullmatch(name):
            alike[f"{match[1]}*{match[2]}"].append(column)
        elif not name.startswith("_"):
            found[name] = column
    return found | {name: [_mean(row) for row in zip(*several, strict=True)] for name, several in alike.items()}


def _mean(row: Sequence[Any]) -> float | None:
    known = [metrics.finite(value) for value in row]
    return None if None in known else fmean(value for value in known if value is not None)


def _short(value: Any) -> float | None:
    """A value to as many digits as can be seen; None for one that cannot be drawn."""
    number = metrics.finite(value)
    if number is None:
        return None
    return round(number, _DIGITS) if abs(number) >= 0.1 else float(f"{number:.{_DIGITS - 1}g}")
