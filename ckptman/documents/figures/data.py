"""What the figures show: for each a table of everything that is drawn, and how its columns are to be seen.

figure = data.FIGURES["generalization"](data.Selection.of(runs, convention))     # None where nothing is measured
figure.csv()
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from ckptman.rules import Convention, comparing
from ckptman.text import RefusedError
from ckptman.tree import contents, history, metrics

THRESHOLD = 95.0
"""Exact match, in percent, from which a configuration is said to generalize."""

GENERALIZATION = "gen_em"
"""The metric that stands for a run's generalization."""

_TOKENS = "token_acc"
"""What the trainers call the share of right positions, beside the metric of the generalization."""

_PERCENT = 100.0
_MOST_POINTS = 50
"""Points of a learning curve that are drawn; of longer ones, evenly spaced ones."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure: its table, and what the columns are."""

    name: str
    kind: str
    """How it is drawn: `lines`, `versus`, `scatter`, `heat` or `curves`."""
    title: str
    caption: str
    """What is to be seen, in a sentence or two; also the text for those who do not see it."""
    x: str
    """Titles of the axes, with units."""
    y: str
    rows: tuple[Row, ...]
    """The columns `row` and `column` say in which panel, `series` in which colour."""
    percent: bool = True
    """Whether values are shares, as percent."""
    series: tuple[str, ...] = ()
    """Every series, in order."""

    def csv(self) -> bytes:
        """The table, as it lies beside the figure."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().encode()


@dataclass(frozen=True)
class Shown:
    """A run, and where in the figures it belongs."""

    run: contents.Run
    record: Any
    layernorm: bool
    row: str
    column: str
    series: str
    k: int
    order: tuple[Any, ...]

    @property
    def settings(self) -> Row:
        """The columns that every table begins with."""
        return {"row": self.row, "column": self.column, "series": self.series, "k": self.k}

    @property
    def which(self) -> Row:
        """The columns that every table with a row for each run ends with."""
        return {"seed": self.run.seed, "run": str(self.run.folder)}


@dataclass(frozen=True)
class Selection:
    """The runs that are drawn, and the metric that is."""

    runs: tuple[Shown, ...]
    convention: Convention
    root: Path
    metric: str = GENERALIZATION
    known: tuple[str, ...] = ()
    """Every series of what this is a part of, so that a series looks alike in all of its figures."""

    @classmethod
    def of(
        cls, runs: Iterable[contents.Run], convention: Convention, root: Path, metric: str = GENERALIZATION
    ) -> Selection:
        """Put every run that has a record, a K and a family into its panel and series."""
        shown = _Places(convention).shown(runs)
        return cls(tuple(sorted(shown, key=lambda item: item.order)), convention, root, metric)

    def with_layernorm(self, layernorm: bool) -> Selection:
        """Those with, or without, LayerNorm."""
        runs = tuple(item for item in self.runs if item.layernorm is layernorm)
        return Selection(runs, self.convention, self.root, self.metric, self.series)

    @property
    def which(self) -> str:
        """What a title adds where all runs are with LayerNorm, or all without."""
        titles = self.convention.families.layernorm_titles
        sides = {item.layernorm for item in self.runs}
        return f", {_lower(titles[next(iter(sides))])}" if len(sides) == 1 else ""

    @cached_property
    def series(self) -> tuple[str, ...]:
        """Every series, in the convention's order."""
        return self.known or tuple(
            dict.fromkeys(item.series for item in sorted(self.runs, key=lambda item: item.order[-2]))
        )

    def value(self, shown: Shown) -> float | None:
        """A run's value of the metric."""
        if self.metric == GENERALIZATION:
            return shown.run.measured.value if shown.run.measured is not None else None
        return mean_of(shown.record.metrics, self.metric)


def mean_of(values: Mapping[str, Any], pattern: str) -> float | None:
    """A metric of a run; with `*` in it, the mean over all that match."""
    names = [name for name in values if fnmatchcase(name, pattern)] if "*" in pattern else [pattern]
    known = [value for name in names if (value := _finite(values.get(name))) is not None]
    return fmean(known) if known else None


class _Places:
    """Where in a figure a run belongs: panels by the axes that every regime has, series by the others."""

    def __init__(self, convention: Convention) -> None:
        self.convention = convention
        rules = [(regime, rule) for grid in convention.grids.values() for regime, rule in grid.regimes.items()]
        axes = [axis for grid in convention.grids.values() for axis in grid.axes]
        shared = [axis for axis in dict.fromkeys(axes) if all(axis in rule.axes for _, rule in rules)]
        self.panels = [axis for axis in shared if axis != convention.families.layernorm_config][:2]
        self.series = {
            regime: tuple(dict.fromkeys(
                axis for name, rule in rules if name == regime for axis in rule.axes
                if axis not in self.panels and axis != convention.families.layernorm_config
            ))
            for regime in convention.families.regime_folders
        }  # fmt: skip
        self.values = {axis: list(values) for grid in convention.grids.values() for axis, values in grid.axes.items()}

    def shown(self, runs: Iterable[contents.Run]) -> list[Shown]:
        """The runs that can be placed."""
        cells: dict[tuple[Any, ...], list[tuple[contents.Run, Any]]] = defaultdict(list)
        for run in runs:
            k = run.config.get(self.convention.families.k_config)
            if run.record is None or run.family is None or not run.files or not _is_int(k):
                continue
            axes = (*self.panels, *self.series[run.family[1]])
            cells[(run.family, k, *(_key(run.config.get(axis)) for axis in axes))].append((run, k))
        return [self._shown(run, k, keys) for cell in cells.values() for keys in [self._apart(cell)] for run, k in cell]

    def _apart(self, cell: Sequence[tuple[contents.Run, Any]]) -> list[str]:
        """The keys in which runs differ that would otherwise be taken for seeds of one configuration."""
        ignored = self.convention.ignored_keys | {self.convention.seed_key, self.convention.group_key}
        first = cell[0][0].config
        return sorted({key for run, _ in cell for key in comparing.differing_keys(first, run.config, ignored)})

    def _shown(self, run: contents.Run, k: int, apart: Sequence[str]) -> Shown:
        assert run.family is not None
        assert run.record is not None  # it was placed
        layernorm, regime = run.family
        config = run.config
        row, column = (self._panel(config, self.panels[index : index + 1]) for index in (0, 1))
        words = [self.convention.axis(axis).word(config[axis]) for axis in self.series[regime] if axis in config]
        words = [" ".join(words) or regime, *(f"{key} {_word(config.get(key))}" for key in apart)]
        order = (
            not layernorm,
            *(self._index(axis, config.get(axis)) for axis in self.panels),
            (
                list(self.convention.families.regime_folders).index(regime),
                *(self._index(axis, config.get(axis)) for axis in self.series[regime]),
                *words[1:],
            ),
            (k, run.seed is None, run.seed or 0, str(run.folder)),
        )
        return Shown(run, run.record, layernorm, row, column, ", ".join(words), k, order)

    def _panel(self, config: Mapping[str, Any], axes: Sequence[str]) -> str:
        return ", ".join(
            f"{self.convention.axis(axis).title} {str(self.convention.axis(axis).word(config[axis])).lower()}"
            for axis in axes if config.get(axis) is not None
        )  # fmt: skip

    def _index(self, axis: str, value: Any) -> int:
        values = self.values.get(axis, [])
        return values.index(value) if value in values else len(values)


# --- the figures ------------------------------------------------------------------------------------------------------


def _generalization(selection: Selection) -> Figure | None:
    """Against the training K: a dot a run, mean and deviation over the runs of a configuration."""
    if selection.metric == GENERALIZATION:
        low, high = selection.convention.generalization_k
        return _over_k(
            selection, "generalization", f"Generalization to K = {low}–{high}", f"Exact match on K = {low}–{high} (%)"
        )
    return _over_k(selection, "generalization", selection.metric, selection.metric)


def _tokens(selection: Selection) -> Figure | None:
    """The share of right positions in place of that of right lists."""
    low, high = selection.convention.generalization_k
    pattern = selection.convention.generalization_pattern.rpartition("/")[0] + f"/{_TOKENS}"
    names = [pattern.replace("{k}", str(k)) for k in range(low, high + 1)]

    def value(shown: Shown) -> float | None:
        known = [_finite(shown.record.metrics.get(name)) for name in names]
        if None not in known:
            return fmean(item for item in known if item is not None)
        measured = _evaluated(shown, "token_accuracy")
        return fmean(measured[k] for k in range(low, high + 1)) if all(
            k in measured for k in range(low, high + 1)) else None  # fmt: skip

    return _over_k(selection, "tokens", "Token accuracy", f"Token accuracy on K = {low}–{high} (%)", value=value)


def _over_k(
    selection: Selection, name: str, title: str, y: str, *, value: Callable[[Shown], float | None] | None = None
) -> Figure | None:
    measured = [(item, found) for item in selection.runs if (found := (value or selection.value)(item)) is not None]
    percent = _are_shares(found for _, found in measured)
    factor = _PERCENT if percent else 1.0
    groups: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for item, found in measured:
        groups[_cell(item)].append(found)
    rows = []
    for item, found in measured:
        over = metrics.over_runs(groups[_cell(item)], selection.convention)
        assert over is not None  # the run is one of them
        rows.append({
            **_settings(item, selection), "value": _round(factor * found), "mean": _round(factor * over.mean),
            "deviation": None if over.deviation is None else _round(factor * over.deviation), "n": over.runs,
            **item.which,
        })  # fmt: skip
    if not rows:
        return None
    kind = selection.convention.statistics
    return Figure(
        name, "lines", title + selection.which,
        f"{title} against the longest trained list K: each dot is a run, lines join the means over the runs of a "
        f"configuration, bars are one {kind} standard deviation."
        + (f" The dashed line is {THRESHOLD:g} %." if percent else ""),
        "Longest trained list K (numbers)", y, tuple(rows), percent, selection.series,
    )  # fmt: skip


def _layernorm(selection: Selection) -> Figure | None:
    """With LayerNorm and without, and the difference, where both were measured."""
    means: dict[tuple[Any, ...], dict[bool, list[float]]] = defaultdict(lambda: defaultdict(list))
    first: dict[tuple[Any, ...], Shown] = {}
    for item in selection.runs:
        key = item.row, item.column, item.series, item.k
        if (value := selection.value(item)) is not None:
            means[key][item.layernorm].append(value)
            first.setdefault(key, item)
    if not any(len(found) == 2 for found in means.values()):
        return None
    percent = _are_shares(value for found in means.values() for values in found.values() for value in values)
    factor = _PERCENT if percent else 1.0
    rows = []
    for key, found in means.items():
        on, off = (factor * fmean(found[side]) if found.get(side) else None for side in (True, False))
        rows.append({
            **first[key].settings, "with": _round(on), "without": _round(off),
            "difference": None if on is None or off is None else _round(on - off),
            "n_with": len(found.get(True, ())), "n_without": len(found.get(False, ())),
        })  # fmt: skip
    low, high = selection.convention.generalization_k
    what = f"Exact match on\nK = {low}–{high}" if selection.metric == GENERALIZATION else selection.metric
    unit = (" (%)", "\n(points)") if percent else ("", "")
    titles = selection.convention.families.layernorm_titles
    return Figure(
        "layernorm", "versus", f"{titles[True]} and {_lower(titles[False])}",
        f"Above, the mean over runs with LayerNorm (full line, filled markers) and without (dotted line, hollow "
        f"markers); below, how much higher it is with LayerNorm{' in percentage points' if percent else ''}.",
        "Longest trained list K (numbers)", f"{what}{unit[0]}|Difference{unit[1]}",
        tuple(rows), percent, selection.series,
    )  # fmt: skip


def _distribution(selection: Selection) -> Figure | None:
    """A dot a run: exact match on the lengths that it was trained on against its generalization."""
    rows = []
    for item in selection.runs:
        inside = _by_length(item, selection.convention)
        trained = [value for k, value in inside.items() if k in _trained(item, selection.convention)]
        outside = selection.value(item)
        if trained and outside is not None:
            rows.append({
                **_settings(item, selection), "layernorm": item.layernorm, "trained": _round(_PERCENT * fmean(trained)),
                "value": _round(_PERCENT * outside), **item.which,
            })  # fmt: skip
    if not rows or selection.metric != GENERALIZATION:
        return None
    low, high = selection.convention.generalization_k
    return Figure(
        "distribution", "scatter", "In distribution and out of it",
        "Each marker is a run: exact match on the lengths it was trained on, and on longer lists. Filled is with "
        "LayerNorm, hollow without. On the diagonal, both are equal.",
        "Exact match on the trained lengths (%)", f"Exact match on K = {low}–{high} (%)",
        tuple({**row, "row": "", "column": row["series"]} for row in rows), True, selection.series,
    )  # fmt: skip


def _lengths(selection: Selection) -> Figure | None:
    """Exact match by test length, a line of cells for each training K."""
    cells: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    first: dict[tuple[Any, ...], Shown] = {}
    for item in selection.runs:
        for k, value in _by_length(item, selection.convention).items():
            cells[(*_cell(item), k)].append(value)
            first.setdefault((*_cell(item), k), item)
    rows = [
        {
            **_settings(first[key], selection), "row": first[key].series, "column": _panel_of(first[key], selection),
            "test_k": key[-1], "trained_from": min(_trained(first[key], selection.convention), default=None),
            "mean": _round(_PERCENT * fmean(values)), "n": len(values),
        }
        for key, values in cells.items()
    ]  # fmt: skip
    if not rows:
        return None
    return Figure(
        "lengths", "heat", "Exact match by test length" + selection.which,
        "Each line of cells is a training K, each cell a test length: the mean exact match over runs. Lengths left of "
        "the red mark were trained on; what is white was not measured.",
        "Test length K (numbers)", "Longest trained list K (numbers)", tuple(rows), True, selection.series,
    )  # fmt: skip


def _curves(selection: Selection) -> Figure | None:
    """Learning curves, a line a run."""
    rows: list[Row] = []
    for item in selection.runs:
        for step, value in _curve(item, selection):
            rows.append({**_settings(item, selection), "row": _panel_of(item, selection), "column": f"K = {item.k}",
                         "step": step, "value": value, **item.which})  # fmt: skip
    if not rows:
        return None
    percent = _are_shares(row["value"] for row in rows)
    rows = [{**row, "value": _round((_PERCENT if percent else 1.0) * row["value"])} for row in rows]
    low, high = selection.convention.generalization_k
    what = f"Exact match on K = {low}–{high}" if selection.metric == GENERALIZATION else selection.metric
    return Figure(
        "curves", "curves", "Learning curves" + selection.which,
        "One line for each run, the seeds of a configuration in one colour; a column for each training K.",
        "Training iterations", what + (" (%)" if percent else ""), tuple(rows), percent, selection.series,
    )  # fmt: skip


FIGURES: Mapping[str, Callable[[Selection], Figure | None]] = {
    "generalization": _generalization,
    "layernorm": _layernorm,
    "distribution": _distribution,
    "lengths": _lengths,
    "tokens": _tokens,
    "curves": _curves,
}
"""By name, what each figure shows of some runs; None where they have nothing of it."""

BY_LAYERNORM = frozenset({"generalization", "lengths", "tokens", "curves"})
"""Those that `report` draws apart for runs with LayerNorm and without."""

# --- what was measured ------------------------------------------------------------------------------------------------


def _by_length(shown: Shown, convention: Convention) -> dict[int, float]:
    """Exact match by test length, under whatever name the trained and the tested lengths were logged."""
    ending = re.escape(convention.generalization_pattern.partition("{k}")[2])
    found: dict[int, float] = {}
    for name, value in shown.record.metrics.items():
        match = re.fullmatch(rf"\D*(\d{{1,6}}){ending}", name)
        if match and (number := _finite(value)) is not None:
            found[int(match[1])] = number
    return dict(sorted(found.items())) or _evaluated(shown, "exact_match")


def _evaluated(shown: Shown, what: str) -> dict[int, float]:
    """The same as `eval` found it, in the evaluation with the most samples."""
    known = [item for item in shown.record.evaluations
             if item.get("mode") == metrics.TEACHER_FORCED and isinstance(item.get("by_k"), dict)]  # fmt: skip
    best: Mapping[str, Any] = max(known, key=lambda item: item.get("samples") or 0, default={"by_k": {}})
    return {
        int(k): value
        for k, row in best["by_k"].items()
        if k.isdecimal() and isinstance(row, dict) and (value := _finite(row.get(what))) is not None
    }


def _curve(shown: Shown, selection: Selection) -> Iterator[tuple[int, float]]:
    if shown.record.history is None:
        return
    try:
        curve = history.read(selection.root / shown.run.folder)
    except RefusedError:  # `validate` tells of it
        return
    if curve is None:
        return
    points = []
    for index, step in enumerate(curve.steps):
        row = {name: values[index] for name, values in curve.columns.items() if values[index] is not None}
        if selection.metric == GENERALIZATION:
            value = metrics.from_metrics(row, selection.convention)
            value = _finite(row.get(GENERALIZATION)) if value is None else value  # as other trainers log it
        else:
            value = mean_of(row, selection.metric)
        if value is not None:
            points.append((step, value))
    if len(points) > 1:  # a single value is no curve
        every = math.ceil(len(points) / _MOST_POINTS)
        yield from points[:-1:every]
        yield points[-1]


def _trained(shown: Shown, convention: Convention) -> range:
    low, high = (shown.record.config.get(key) for key in convention.families.fixed_when_equal)
    return range(low, high + 1) if _is_int(low) and _is_int(high) else range(0)


def _cell(shown: Shown) -> tuple[Any, ...]:
    return shown.layernorm, shown.row, shown.column, shown.series, shown.k


def _settings(shown: Shown, selection: Selection) -> Row:
    """Panel, series and K; where there are runs with LayerNorm and without, these are told apart by the panel."""
    titles = selection.convention.families.layernorm_titles
    both = len({item.layernorm for item in selection.runs}) == 2
    row = ", ".join(filter(None, (titles[shown.layernorm] if both else "", shown.row)))
    return {**shown.settings, "row": row}


def _panel_of(shown: Shown, selection: Selection) -> str:
    """Both axes of the panels in one line."""
    return ", ".join(filter(None, (_settings(shown, selection)["row"], shown.column)))


def _are_shares(values: Iterable[float]) -> bool:
    return all(0 <= value <= 1 for value in values)


def _finite(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _round(value: float | None) -> float | None:
    """Enough digits for any figure, and few enough for a table that people read."""
    return None if value is None else float(f"{value:.6g}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _key(value: Any) -> object:
    return comparing.canonical(value)


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else str(value)
