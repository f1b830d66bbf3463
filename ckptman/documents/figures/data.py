"""What the figures show: for each a table of everything that is drawn, and how its columns are to be seen.

figure = data.FIGURES["generalization"](data.Selection.of(runs, convention, curves))   # None where there is nothing
figure.csv()
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

from ckptman.documents.learning_curves import GENERALIZATION, Curves, mean_of
from ckptman.rules import Convention, comparing, placement, terms
from ckptman.text import wording
from ckptman.tree import contents, metrics

THRESHOLD = 95.0
"""Exact match, in percent, from which a configuration is said to generalize."""

_TOKENS = "token_acc"
"""What the trainers call the share of right positions, beside the metric of the generalization."""

_SHARE = re.compile(r"(^|[/_])acc(uracy)?$")
"""The end of a metric's name that says that it is a share."""

_PERCENT = 100.0
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
    order: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Every title of a row of panels, and of a column, in order; those that stand in neither come last."""
    threshold: float | None = None
    """A value that a line marks."""
    spread: str = ""
    """What bars are, where any row has a deviation."""
    sides: tuple[terms.FacetValue, ...] = ()
    """The two values that are told apart by filled and hollow markers; none where there are not two."""
    side: str = ""
    """The column that has them."""

    def csv(self) -> bytes:
        """The table, as it lies beside the figure."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().encode("utf-8", "backslashreplace")  # names may be no Unicode


class Order(NamedTuple):
    """Where a run stands among the others."""

    side: int
    row: int
    column: int
    series: tuple[Any, ...]
    run: tuple[Any, ...]


@dataclass(frozen=True)
class Shown:
    """A run, and where in the figures it belongs."""

    run: contents.Run
    record: Any
    side: terms.Scalar
    """Its value of the facet whose two values are told apart; None where there is no such facet."""
    row: str
    column: str
    series: str
    k: int | None
    """None in a convention without K."""
    order: Order

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
    curves: Curves
    metric: str = GENERALIZATION
    known: tuple[str, ...] = ()
    """Every series of what this is a part of, so that a series looks alike in all of its figures."""

    @classmethod
    def of(
        cls, runs: Iterable[contents.Run], convention: Convention, curves: Curves, metric: str = GENERALIZATION
    ) -> Selection:
        """Put every run that has a record, a K and a family into its panel and series."""
        shown = _Places(convention).shown(runs)
        return cls(tuple(sorted(shown, key=lambda item: item.order)), convention, curves, metric)

    def of_side(self, side: terms.Scalar) -> Selection:
        """Those with one value of the facet that has two."""
        runs = tuple(item for item in self.runs if item.side == side)
        return Selection(runs, self.convention, self.curves, self.metric, self.series)

    @property
    def which(self) -> str:
        """What a title adds where all runs are of one side."""
        sides = {item.side for item in self.runs}
        return (
            f", {wording.lowered(side_title(next(iter(sides)), self.convention))}"
            if len(sides) == 1 and self.is_sided
            else ""
        )

    @property
    def is_sided(self) -> bool:
        """Whether the convention has a facet of two values."""
        return sided(self.convention) is not None

    @cached_property
    def series(self) -> tuple[str, ...]:
        """Every series, in the convention's order."""
        return self.known or tuple(
            dict.fromkeys(item.series for item in sorted(self.runs, key=lambda item: item.order.series))
        )

    def titles(self, title: Callable[[Shown], str], place: Callable[[Shown], Any]) -> tuple[str, ...]:
        """What `title` says of the runs, in the order of their `place`."""
        return tuple(dict.fromkeys(title(item) for item in sorted(self.runs, key=place)))

    @property
    def measure(self) -> terms.Metric | None:
        """The metric, where the convention declares it."""
        return self.convention.metric if self.metric == GENERALIZATION else self.convention.metrics.get(self.metric)

    @property
    def is_share(self) -> bool:
        """Whether the metric's values are shares: as declared, or as its name says."""
        if self.measure is not None:
            return self.measure.share
        declared = [item for item in self.convention.metrics.values()
                    if fnmatchcase(self.metric, item.glob)]  # fmt: skip
        return declared[0].share if declared else _SHARE.search(self.metric) is not None

    def span(self, metric: terms.Metric) -> str:
        """The lengths of a metric, over all runs: `K = 17–32`; empty where it has none."""
        bounds = {found for item in self.runs if (found := metric.bounds(item.record.config)) is not None}
        if not metric.is_by_length or not bounds:
            return ""
        if len(bounds) == 1:
            low, high = next(iter(bounds))
            return f"K = {low}" if low == high else f"K = {low}–{high}"
        return "the trained lengths" if self.tests_what_was_trained else "the tested lengths"

    @property
    def tests_what_was_trained(self) -> bool:
        """Whether the metric is over lengths that each run was trained on, and over no others."""
        metric = self.convention.metric
        known = [(found, _trained(item, self.convention)) for item in self.runs
                 if (found := metric.bounds(item.record.config)) is not None]  # fmt: skip
        return bool(known) and all(low in trained and high in trained for (low, high), trained in known)

    def value(self, shown: Shown) -> float | None:
        """A run's value of the metric."""
        if self.metric == GENERALIZATION:
            return shown.run.measured.value if shown.run.measured is not None else None
        if self.measure is not None:
            return metrics.from_metrics(shown.record.metrics, shown.record.config, self.convention, self.measure)
        return mean_of(shown.record.metrics, self.metric)


def sided(convention: Convention) -> terms.Facet | None:
    """The facet whose two values figures tell apart: the first one with two values of a key."""
    return next((f for f in convention.told_facets if f.config is not None and len(f.values) == 2), None)


def side_of(family: terms.Family, config: Mapping[str, Any], convention: Convention) -> terms.Scalar:
    """A run's value of that facet, as its folder says or else its configuration; None where there is none."""
    facet = sided(convention)
    if facet is None:
        return None
    return {**placement.facets_of(config, convention), **convention.folders.named(family)}.get(facet.name)


def side_title(side: terms.Scalar, convention: Convention) -> str:
    """A value of that facet for people; empty where there is none."""
    facet = sided(convention)
    return "" if facet is None else facet.heading(side)


class _Places:
    """Where in a figure a run belongs: panels by the axes that every regime has, series by the others."""

    def __init__(self, convention: Convention) -> None:
        self.convention = convention
        rules = [(regime, rule) for grid in convention.grids.values() for regime, rule in grid.regimes.items()]
        axes = [axis for grid in convention.grids.values() for axis in grid.axes]
        shared = [axis for axis in dict.fromkeys(axes) if all(axis in rule.axes for _, rule in rules)]
        apart = {facet.config for facet in convention.told_facets}
        self.panels = [axis for axis in shared if axis not in apart][:2]
        words = [value.word for facet in convention.told_facets for value in facet.values]
        self.series = {
            regime: tuple(dict.fromkeys(
                axis for name, rule in rules if name == regime for axis in rule.axes
                if axis not in self.panels and axis not in apart
            ))
            for regime in dict.fromkeys([*words, *dict(rules), ""])
        }  # fmt: skip
        self.values = {axis: list(values) for grid in convention.grids.values() for axis, values in grid.axes.items()}

    def shown(self, runs: Iterable[contents.Run]) -> list[Shown]:
        """The runs that can be placed."""
        cells: dict[tuple[Any, ...], list[tuple[contents.Run, Any]]] = defaultdict(list)
        for run in runs:
            k_key = self.convention.k_key
            k = None if k_key is None else run.config.get(k_key)
            if run.record is None or run.family is None or not run.files or (k_key is not None and not _is_int(k)):
                continue
            axes = (*self.panels, *self.series[self._regime(run)])
            cells[(run.family, k, *(_key(run.config.get(axis)) for axis in axes))].append((run, k))
        return [self._shown(run, k, keys) for cell in cells.values() for keys in [self._apart(cell)] for run, k in cell]

    def _regime(self, run: contents.Run) -> str:
        """The part of the grid that a run's family is of."""
        facets = placement.facets_of(run.config, self.convention)
        known = (facets.get(facet.name) for facet in self.convention.told_facets)
        return next((str(value) for value in known if self.series.get(str(value))), "")

    def _apart(self, cell: Sequence[tuple[contents.Run, Any]]) -> list[str]:
        """The keys in which runs differ that would otherwise be taken for seeds of one configuration."""
        ignored = self.convention.ignored_keys | {self.convention.seed_key, self.convention.group_key}
        first = cell[0][0].config
        return sorted({key for run, _ in cell for key in comparing.differing_keys(first, run.config, ignored)})

    def _shown(self, run: contents.Run, k: int | None, apart: Sequence[str]) -> Shown:
        assert run.family is not None
        assert run.record is not None  # it was placed
        facet = sided(self.convention)
        side = side_of(run.family, run.config, self.convention)
        sides = [] if facet is None else [value.value for value in facet.values]
        regime = self._regime(run)
        regimes = list(self.series)
        config = run.config
        row, column = (self._panel(config, self.panels[index : index + 1]) for index in (0, 1))
        words = [self._said(axis, config[axis]) for axis in self.series[regime] if axis in config]
        words = [
            " ".join(words) or self._fixed(run) or "all",
            *(f"{key} {wording.value_text(config.get(key))}" for key in apart),
        ]
        at_row, at_column, *_ = *(self._index(axis, config.get(axis)) for axis in self.panels), 0, 0
        order = Order(
            sides.index(side) if side in sides else len(sides),
            at_row,
            at_column,
            (
                regimes.index(regime) if regime else len(regimes),
                *(self._index(axis, config.get(axis)) for axis in self.series[regime]),
                *words[1:],
            ),
            (k or 0, run.seed is None, run.seed or 0, str(run.folder)),
        )
        return Shown(run, run.record, side, row, column, ", ".join(words), k, order)

    def _said(self, axis: str, value: Any) -> str:
        """A value in a legend: a word for itself, a flag or a number with what it is of."""
        title = self.convention.axis(axis)
        return value if isinstance(value, str) else f"{title.title} {title.word(value).lower()}"

    def _fixed(self, run: contents.Run) -> str:
        """The values of the facets that conditions decide, such as `fixed`."""
        known = placement.facets_of(run.config, self.convention)
        conditions = (facet.name for facet in self.convention.told_facets if facet.config is None)
        return " ".join(str(known[name]) for name in conditions if name in known)

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
    what, metric = _metric_title(selection), selection.measure
    is_main = selection.metric == GENERALIZATION
    span = selection.span(metric) if metric is not None else ""
    title = (
        f"Generalization to {span}" if is_main and span and metric is not None and metric.is_generalization else what
    )
    return _over_k(selection, "generalization", title, what, threshold=THRESHOLD if is_main else None)


def _metric_title(selection: Selection) -> str:
    """What is drawn, for an axis: `Exact match on K = 17–32`."""
    metric = selection.measure
    return selection.metric if metric is None else " on ".join(filter(None, (metric.title, selection.span(metric))))


def _tokens(selection: Selection) -> Figure | None:
    """The share of right positions in place of that of right lists."""
    metric = selection.convention.metric
    beside = replace(metric, pattern=metric.pattern.rpartition("/")[0] + f"/{_TOKENS}")

    def value(shown: Shown) -> float | None:
        names, bounds = beside.keys(shown.record.config), metric.bounds(shown.record.config)
        if not names or bounds is None:
            return None
        low, high = bounds
        known = metrics.numbers(shown.record.metrics, names)
        if None not in known:
            return fmean(item for item in known if item is not None)
        measured = _evaluated(shown, "token_accuracy")
        return fmean(measured[k] for k in range(low, high + 1)) if all(
            k in measured for k in range(low, high + 1)) else None  # fmt: skip

    title = " on ".join(filter(None, ("Token accuracy", selection.span(beside))))
    return _over_k(selection, "tokens", "Token accuracy", title, value=value)


def _over_k(
    selection: Selection, name: str, title: str, y: str, *, value: Callable[[Shown], float | None] | None = None,
    threshold: float | None = None,
) -> Figure | None:  # fmt: skip
    share = value is not None or selection.is_share
    value = value or selection.value
    runs = [item for item in selection.runs if item.k is not None]
    measured = [(item, found) for item in runs if (found := value(item)) is not None]
    percent = share and _are_shares(found for _, found in measured)
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
    threshold = threshold if percent else None
    return Figure(
        name, "lines", title + selection.which,
        f"{title} against the longest trained list K: each dot is a run, lines join the means over the runs of a "
        f"configuration, bars are one {kind} standard deviation."
        + (f" The dashed line is {threshold:g} %." if threshold is not None else ""),
        "Longest trained list K (numbers)", y + (" (%)" if percent else ""), tuple(rows), percent, selection.series,
        order=_order(selection), threshold=threshold, spread=f"mean ± standard deviation ({kind})",
    )  # fmt: skip


_LONGEST_SIDE = 20
"""Of a title that stands along a low panel, in characters."""


def _versus(selection: Selection) -> Figure | None:
    """With LayerNorm and without (or the two values of another facet), and the difference, where both were measured."""
    facet = sided(selection.convention)
    if facet is None:
        return None
    first_side, second_side = (value.value for value in facet.values)
    means: dict[tuple[Any, ...], dict[terms.Scalar, list[float]]] = defaultdict(lambda: defaultdict(list))
    first: dict[tuple[Any, ...], Shown] = {}
    words, titles = [value.word for value in facet.values], [value.title for value in facet.values]
    for item in selection.runs:
        key = item.row, item.column, item.series, item.k
        if item.k is not None and (value := selection.value(item)) is not None:
            means[key][item.side].append(value)
            first.setdefault(key, item)
    if not any(len(found) == 2 for found in means.values()):
        return None
    percent = selection.is_share and _are_shares(
        value for found in means.values() for values in found.values() for value in values)  # fmt: skip
    factor = _PERCENT if percent else 1.0
    rows = []
    for key, found in means.items():
        on, off = (factor * fmean(found[side]) if found.get(side) else None for side in (first_side, second_side))
        rows.append({
            **first[key].settings, words[0]: _round(on), words[1]: _round(off),
            "difference": None if on is None or off is None else _round(on - off),
            f"n_{words[0]}": len(found.get(first_side, ())), f"n_{words[1]}": len(found.get(second_side, ())),
        })  # fmt: skip
    what = _metric_title(selection).replace(" on ", " on\n", 1)
    one, other = map(wording.lowered, titles)
    unit = (" (%)", "(points)") if percent else ("", "")
    below = f"{titles[0]}\nhigher by {unit[1]}" if len(titles[0]) <= _LONGEST_SIDE else f"Difference\n{unit[1]}"
    return Figure(
        facet.name, "versus", f"{titles[0]} and {other}",
        f"Above, the mean over runs {one} (full line, filled markers) and {other} (dotted "
        f"line, hollow markers); below, how much higher it is {one}"
        f"{' in percentage points' if percent else ''}.",
        "Longest trained list K (numbers)", f"{what}{unit[0]}|{below.rstrip().replace('|', '/')}",
        tuple(rows), percent, selection.series, sides=facet.values, side=facet.name,
        order=(selection.titles(lambda item: item.row, lambda item: item.order.row), _order(selection)[1]),
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
                **_settings(item, selection), **_side(item, selection), "trained": _round(_PERCENT * fmean(trained)),
                "value": _round(_PERCENT * outside), **item.which,
            })  # fmt: skip
    if not rows or selection.metric != GENERALIZATION or not selection.convention.metric.share:
        return None
    if selection.tests_what_was_trained:
        return None  # it would be compared with itself
    facet = sided(selection.convention)
    return Figure(
        "distribution", "scatter", "In distribution and out of it",
        "Each marker is a run: exact match on the lengths it was trained on, and on longer lists. "
        f"{_filled(selection.convention)}On the diagonal, both are equal.",
        "Exact match on the trained lengths (%)", f"{_metric_title(selection)} (%)",
        tuple({**row, "row": "", "column": row["series"]} for row in rows), True, selection.series,
        order=((), selection.series),
        sides=() if facet is None else facet.values, side="" if facet is None else facet.name,
    )  # fmt: skip


def _lengths(selection: Selection) -> Figure | None:
    """Exact match by test length, a line of cells for each training K."""
    cells: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    first: dict[tuple[Any, ...], Shown] = {}
    for item in selection.runs:
        for k, value in _by_length(item, selection.convention).items() if item.k is not None else ():
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
    lengths: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for key in cells:
        lengths[key[:-1]].add(key[-1])
    if all(len(tested) == 1 for tested in lengths.values()):
        return None  # a single length each: the figure of the means shows that better
    return Figure(
        "lengths", "heat", "Exact match by test length" + selection.which,
        "Each line of cells is a training K, each cell a test length: the mean exact match over runs. Lengths left of "
        "the orange mark were trained on; what is white was not measured.",
        "Test length K (numbers)", "Longest trained list K (numbers)", tuple(rows), True, selection.series,
        order=(selection.series, _order(selection, _panel_of)[0]),
    )  # fmt: skip


def _curves(selection: Selection) -> Figure | None:
    """Learning curves, a line a run."""
    rows: list[Row] = []
    for item in selection.runs:
        if item.record.history is None:
            continue
        for step, value in selection.curves.points(item.run.folder, item.record.config, selection.metric):
            column = "" if item.k is None else f"K = {item.k}"
            rows.append({**_settings(item, selection), "row": _panel_of(item, selection), "column": column,
                         "step": step, "value": value, **item.which})  # fmt: skip
    if not rows:
        return None
    percent = selection.is_share and _are_shares(row["value"] for row in rows)
    rows = [{**row, "value": _round((_PERCENT if percent else 1.0) * row["value"])} for row in rows]
    what = _metric_title(selection)
    return Figure(
        "curves", "curves", "Learning curves" + selection.which,
        "One line for each run, the seeds of a configuration in one colour; a column for each training K.",
        "Training iterations", what + (" (%)" if percent else ""), tuple(rows), percent, selection.series,
        order=(
            _order(selection, _panel_of)[0],
            tuple(f"K = {k}" for k in sorted({item.k or 0 for item in selection.runs})),
        ),
    )  # fmt: skip


_VERSUS = "versus"
_FIGURES: Mapping[str, Callable[[Selection], Figure | None]] = {
    "generalization": _generalization,
    _VERSUS: _versus,
    "distribution": _distribution,
    "lengths": _lengths,
    "tokens": _tokens,
    "curves": _curves,
}


def figures_of(convention: Convention) -> dict[str, Callable[[Selection], Figure | None]]:
    """By name, what each figure shows of some runs; None where they have nothing of it.

    The one that sets the two values of a facet against each other is called as the facet.
    """
    facet = sided(convention)
    return {facet.name if name == _VERSUS and facet else name: make for name, make in _FIGURES.items()
            if facet is not None or name != _VERSUS}  # fmt: skip


BY_SIDE = frozenset({"generalization", "lengths", "tokens", "curves"})
"""Those that `report` draws apart for the two values of that facet."""

OF_ONE_METRIC = frozenset({"distribution", "lengths", "tokens"})
"""Those that show a metric of their own, whichever is asked for."""

# --- what was measured ------------------------------------------------------------------------------------------------


def _by_length(shown: Shown, convention: Convention) -> dict[int, float]:
    """Exact match by test length, under whatever name the trained and the tested lengths were logged."""
    if "{k}" not in convention.metric.pattern:
        return {}
    ending = re.escape(convention.metric.pattern.partition("{k}")[2])
    found: dict[int, float] = {}
    for name, value in shown.record.metrics.items():
        match = re.fullmatch(rf"\D*(\d{{1,6}}){ending}", name)
        if match and (number := metrics.finite(value)) is not None:
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
        if k.isdecimal() and isinstance(row, dict) and (value := metrics.finite(row.get(what))) is not None
    }


def _trained(shown: Shown, convention: Convention) -> range:
    low, high = (shown.record.config.get(key) for key in convention.trained_keys or ("", ""))
    return range(low, high + 1) if _is_int(low) and _is_int(high) else range(0)


def _cell(shown: Shown) -> tuple[Any, ...]:
    return shown.side, shown.row, shown.column, shown.series, shown.k


def _settings(shown: Shown, selection: Selection) -> Row:
    """Panel, series and K; where there are runs of both sides, these are told apart by the panel."""
    both = len({item.side for item in selection.runs}) == 2
    title = side_title(shown.side, selection.convention) if both else ""
    row = ", ".join(filter(None, (title, shown.row)))
    return {**shown.settings, "row": row}


def _order(
    selection: Selection, row: Callable[[Shown, Selection], str] | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The titles of the rows of panels and of the columns, by the convention."""
    of_row = row or (lambda item, of: str(_settings(item, of)["row"]))
    return (selection.titles(lambda item: of_row(item, selection), lambda item: item.order[:3]),
            selection.titles(lambda item: item.column, lambda item: item.order.column))  # fmt: skip


def _side(shown: Shown, selection: Selection) -> Row:
    """The run's value of the facet that has two."""
    facet = sided(selection.convention)
    return {} if facet is None else {facet.name: shown.side}


def _filled(convention: Convention) -> str:
    facet = sided(convention)
    if facet is None:
        return ""
    first, second = (wording.lowered(value.title) for value in facet.values)
    return f"Filled is {first}, hollow {second}. "


def _panel_of(shown: Shown, selection: Selection) -> str:
    """Both axes of the panels in one line."""
    return ", ".join(filter(None, (_settings(shown, selection)["row"], shown.column)))


def _are_shares(values: Iterable[float]) -> bool:
    return all(0 <= value <= 1 for value in values)


def _round(value: float | None) -> float | None:
    """Enough digits for any figure, and few enough for a table that people read."""
    return None if value is None else float(f"{value:.6g}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _key(value: Any) -> object:
    return comparing.canonical(value)
