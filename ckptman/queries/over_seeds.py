"""What the runs of a tree reached: a row for each configuration, over its seeds.

    results(root, where=[parse_where("regime == 'fixed'")], metric="gen/K20/token_acc").rows

A run counts once, by the metrics in its `run.json`, whether or not its checkpoints are listed one by one. Beside the
figures over the runs whose files are here stand, where asked for, those over all W&B runs: by what each logged, whether
its files are here, were overwritten, or never were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import Any

from ckptman.queries.conditions import Where, check_key
from ckptman.queries.listing import (
    ListedCheckpoint,
    Listing,
    check_metrics,
    known_keys,
    list_checkpoints,
    list_runs,
    value_of,
)
from ckptman.rules import Convention, comparing, convention_file, terms
from ckptman.text import UsageError, given_path, json_text, wording
from ckptman.tree import metrics, records, statistics


@dataclass(frozen=True)
class LoggedRun:
    """A W&B run, with files here or without, and what it logged."""

    run_id: str | None
    seed: int | None
    value: float | None
    """None where it did not log the metric."""
    has_files: bool


@dataclass(frozen=True)
class Result:
    """One configuration, or whatever the rows are grouped by."""

    settings: Mapping[str, Any]
    """What the row stands for, in the order of the columns."""
    values: tuple[tuple[int | None, float], ...]
    """Each run's seed and value, by seed."""
    unmeasured: int
    """Further runs of the configuration, in which the metric was not measured."""
    population: bool
    """Whether `deviation` is that of the population of these runs, instead of the sample's."""
    pooled: tuple[str, ...] = ()
    """In a summary, the configuration keys in which the runs differ, seeds and columns apart."""
    logged: tuple[LoggedRun, ...] = ()
    """All W&B runs of the row, by seed, where they were asked for."""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The configuration of which the row is; empty where it is over several."""

    @property
    def over_all(self) -> Result:
        """The row over all its W&B runs."""
        known = tuple((run.seed, run.value) for run in self.logged if run.value is not None)
        return replace(self, values=known, unmeasured=len(self.logged) - len(known))

    @property
    def runs(self) -> int:
        """How many runs the mean is over."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """Mean over the runs; None where none was measured."""
        return fmean(value for _, value in self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the runs; None where there are too few."""
        known = [value for _, value in self.values]
        if self.population:
            return pstdev(known) if known else None
        return stdev(known) if len(known) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return {
            "settings": json_text.jsonable(self.settings), "n": self.runs, "mean": self.mean,
            "deviation": self.deviation, "unmeasured": self.unmeasured,
            "values": [{"seed": seed, "value": value} for seed, value in self.values],
        } | ({"all_runs": self._logged_json()} if self.logged else {})  # fmt: skip

    def _logged_json(self) -> dict[str, Any]:
        row = self.over_all
        return {"n": row.runs, "mean": row.mean, "deviation": row.deviation, "unmeasured": row.unmeasured,
                "runs": [dict(vars(run)) for run in self.logged]}  # fmt: skip


@dataclass(frozen=True)
class Threshold:
    """For one configuration, the smallest K whose mean reaches a value."""

    settings: Mapping[str, Any]
    """The configuration without K and what follows from it."""
    smallest: int | None
    """None where no K that was measured reaches it."""
    measured: tuple[int, ...]
    """Each K that was measured."""


@dataclass(frozen=True)
class Difference:
    """Configurations that differ in one key, side by side."""

    settings: Mapping[str, Any]
    means: Mapping[Any, Result]
    """By the key's value."""

    @property
    def difference(self) -> float | None:
        """The mean at the larger value (true after false) less that at the smaller; None unless both are measured."""
        means = [self.means[value].mean for value in sorted(self.means, key=_order)]
        return means[1] - means[0] if len(means) == 2 and means[0] is not None and means[1] is not None else None


@dataclass(frozen=True)
class Results:
    """All rows of a question."""

    root: Path
    metric: str
    by: tuple[str, ...]
    population: bool
    rows: tuple[Result, ...]
    listing: Listing
    """What the rows were made from, and what could not be read."""

    def to_json(self) -> dict[str, Any]:
        """The results as one JSON document."""
        return {
            "schema_version": records.SCHEMA_VERSION, "root": str(self.root), "metric": self.metric,
            "by": list(self.by), "deviation": "population" if self.population else "sample",
            "results": [row.to_json() for row in self.rows],
            "not_listed": [item.to_json() for item in self.listing.not_listed],
        }  # fmt: skip


def results(
    root: str | Path = "checkpoints",
    *,
    convention: Convention | None = None,
    where: str | Where | Sequence[str | Where] = (),
    metric: str = terms.DEFAULT_METRIC,
    by: str | Sequence[str] = (),
    summary: bool = False,
    population: bool = False,
    all_runs: bool = False,
) -> Results:
    """Mean and deviation of a metric over the runs of each configuration.

    Args:
        root: The tree.
        convention: The rules; by default those of the nearest ckptman.yaml in or above the tree, or the built-in ones.
        where: Conditions on the runs, as for `list_checkpoints`.
        metric: `gen_em`, or a key of the runs' metrics; with `*` in it, a run's value is the mean over all that match.
        by: Keys to group the runs by; by default each configuration is a row of its own.
        summary: Group the runs by the columns of the convention's `summary` instead.
        population: Give the population's standard deviation, as the lab publishes it, instead of the sample's.
        all_runs: Tell in each row's `logged` of all W&B runs, those without files included; some rows have no others.

    Raises:
        UsageError: where there is no tree, for a condition that is none, and for a key or metric that nothing has.
    """
    root, by = given_path(root, "the path of the tree"), (by,) if isinstance(by, str) else by
    convention = convention_file.rules_for(convention, root)
    if where:
        listing = list_checkpoints(root, convention=convention, where=where)
        names = frozenset(key for item in listing.checkpoints for key in item.metrics)
        runs = list({item.row.path.rpartition("/")[0]: item for item in listing.checkpoints}.values())
    else:
        asked = (*by, *(convention.summary.values() if summary else ()))
        listing, names = list_runs(root, convention, _needed(metric, asked, convention, all_runs=all_runs))
        runs = list(listing.checkpoints)
    without_files = listing.without_files if all_runs else ()
    rows = [item.values for item in runs] if by else []
    for key in by:
        check_key(key, rows, known_keys(convention))
    check_metrics([metric], runs, convention, names)
    groups: dict[object, list[ListedCheckpoint]] = {}
    for item in (*runs, *(listing.gone if all_runs else ())):
        groups.setdefault(_group_key(item, by, convention, summary=summary), []).append(item)
    for item, counted in _without_files(without_files, {} if by or summary else groups, convention):
        groups.setdefault(counted or _group_key(item, by, convention, summary=summary), []).append(item)
    columns = tuple(by) or (() if summary else _columns(groups.values(), convention))
    found = [_result(members, columns, metric, convention, population=population,
                     config={} if by or summary else members[0].config) for members in groups.values()]  # fmt: skip
    if all_runs:
        logged = (_logged(members, metric, convention) for members in groups.values())
        found = [replace(row, logged=each) for row, each in zip(found, logged, strict=True)]
    if summary:
        columns = tuple(convention.summary)
        found = [
            replace(row, settings=_summarized(members[0], convention), pooled=_pooled(members, convention))
            for row, members in zip(found, groups.values(), strict=True)
        ]
    found.sort(key=lambda row: [_order(value) for value in row.settings.values()])
    return Results(
        root=listing.root, metric=metric, by=columns, population=population, rows=tuple(found), listing=listing
    )


def _needed(metric: str, by: Sequence[str], convention: Convention, *, all_runs: bool) -> Callable[[str], bool]:
    """Which metrics of a run are asked for, and which other keys by their name."""
    if all_runs or metric in convention.metrics:  # the configuration says which
        return lambda key: True
    return lambda key: key in by or key == metric or ("*" in metric and fnmatchcase(key, metric))


def thresholds(found: Results, least: float, convention: Convention) -> tuple[Threshold, ...]:
    """The smallest K at which the mean is at least `least`, for each configuration."""
    k_key = convention.k_key or "k"
    axes = {
        axis for grid in convention.grids.values() for axis in grid.axes
    }  # one that a part sets is told all the same
    follows = convention.set_keys - axes
    apart = {"group", "task", k_key, "k", "block_size", *follows, *convention.ignored_keys}
    curves: dict[object, tuple[dict[str, Any], dict[int, float]]] = {}
    ks = [row.settings.get(k_key, row.settings.get("k")) for row in found.rows]
    for row, k, settings in zip(found.rows, ks, _lines(found.rows, ks, apart, {k_key, "k"}, convention), strict=True):
        _, means = curves.setdefault(_key(settings), (settings, {}))
        if isinstance(k, int) and row.mean is not None:
            means[k] = row.mean
    return tuple(
        Threshold(settings, min((k for k, mean in means.items() if mean >= least), default=None), tuple(sorted(means)))
        for settings, means in curves.values()
    )


def differences(found: Results, key: str, convention: Convention) -> tuple[Difference, ...]:
    """The rows that agree in all but one key, side by side; rows without a partner are left out."""
    key = next((facet.name for facet in convention.told_facets if facet.config == key), key)
    if found.rows and not any(key in row.settings for row in found.rows):
        raise UsageError(
            f"the results have no column {key!r}", code="unknown-key", fix=f"Columns are: {', '.join(found.by)}"
        )
    configs = {key, *(facet.config for facet in convention.told_facets if facet.name == key and facet.config)}
    values = [row.settings.get(key) for row in found.rows]
    pairs: dict[object, Difference] = {}
    for row, value, settings in zip(
        found.rows, values, _lines(found.rows, values, {"group", "task", *configs}, configs, convention), strict=True
    ):
        means = pairs.setdefault(_key(settings), Difference(settings, {})).means
        assert isinstance(means, dict)  # made here
        means[value] = row
    return tuple(pair for pair in pairs.values() if len(pair.means) > 1)


def _key(settings: Mapping[str, Any]) -> object:
    return tuple((name, comparing.key_of(value)) for name, value in settings.items())


def _lines(
    rows: Sequence[Result],
    values: Sequence[Any],
    dropped: Collection[str],
    own: Collection[str],
    convention: Convention,
) -> list[dict[str, Any]]:
    """What the lines stand for in which several rows come together, each by its value.

    That is the rows' settings but for the dropped ones. Where two rows would have one place then, their configurations
    differ in something that the dropped ones told (a group's name, the width of its models), which is added.
    """
    lines = [{name: value for name, value in row.settings.items() if name not in dropped} for row in rows]
    ignored = {*convention.ignored_keys, convention.seed_key, convention.group_key, *dropped}

    def clashes() -> list[list[int]]:
        places: dict[object, list[int]] = defaultdict(list)
        for at, (line, value) in enumerate(zip(lines, values, strict=True)):
            places[comparing.key_of(value), _key(line)].append(at)
        return [members for members in places.values() if len(members) > 1]

    first = clashes()
    differing = {key for members in first for key in _differing([rows[at].config for at in members], ignored)}
    for names in (sorted(differing), *([name] for name in dict.fromkeys(key for row in rows for key in row.settings)
                                       if name in dropped and name not in own)):  # fmt: skip
        if names and clashes():
            for line, row in zip(lines, rows, strict=True):
                line.update((name, row.settings.get(name, row.config.get(name))) for name in names)
    return lines


def _differing(configs: Sequence[Mapping[str, Any]], ignored: Collection[str]) -> set[str]:
    """The keys in which configurations differ, those that not all have too."""
    keys = {key for config in configs for key in config} - set(ignored)
    return {key for key in keys if len({comparing.key_of(config.get(key)) for config in configs}) > 1}


def _group_key(item: ListedCheckpoint, by: Sequence[str], convention: Convention, *, summary: bool) -> object:
    if summary:
        return tuple(map(comparing.key_of, _summarized(item, convention).values()))
    if by:
        return tuple(comparing.key_of(item.values.get(key)) for key in by)
    ignored = convention.ignored_keys | {convention.seed_key}
    return item.row.group, item.row.task, comparing.fingerprint(item.config, ignored)


def _without_files(
    gone: Sequence[ListedCheckpoint], groups: Mapping[object, Sequence[ListedCheckpoint]], convention: Convention
) -> Iterator[tuple[ListedCheckpoint, object | None]]:
    """Runs without files, each with the key of the configuration of its task that it counts to; None for one of its
    own."""
    places: dict[object, tuple[list[object], list[ListedCheckpoint]]] = defaultdict(lambda: ([], []))
    for key, (first, *_) in groups.items():
        places[first.row.group, first.row.task][0].append(key)
    for item in gone:
        places[item.row.group, item.row.task][1].append(item)
    ignored = convention.ignored_keys | {convention.seed_key}
    for keys, items in places.values():
        here = [groups[key][0].config for key in keys]
        pools = statistics.pooled(here, [item.config for item in items], ignored)
        counted = {at: keys[own[0]] for own, others in pools for at in others}
        yield from ((item, counted.get(at)) for at, item in enumerate(items))


def _summarized(item: ListedCheckpoint, convention: Convention) -> dict[str, Any]:
    """A run's value of each column of the summary; of an axis that its part of the grid lacks, that part's name."""
    facets = {facet.name: item.values.get(facet.name) for facet in convention.told_facets}
    axes = {axis for grid in convention.grids.values() for axis in grid.axes}
    parts = [(value, grid.regimes[str(value)]) for grid in convention.grids.values() for value in facets.values()
             if str(value) in grid.regimes]  # fmt: skip
    found = {}
    for column, key in convention.summary.items():
        found[column] = facets.get(key, item.values.get(key))
        if key in axes and key not in facets and parts and not any(key in part.axes for _, part in parts):
            found[column] = parts[0][0]
    return found


def _pooled(members: Sequence[ListedCheckpoint], convention: Convention) -> tuple[str, ...]:
    """The keys in which the runs of one row of a summary differ."""
    told = {key for facet in convention.told_facets for key in facet.keys} | set(convention.summary.values())
    ignored = convention.ignored_keys | told | {convention.seed_key}
    first = members[0].config
    differing = {key for item in members[1:] for key in comparing.differing_keys(first, item.config, ignored)}
    return tuple(sorted(differing))


def _columns(groups: Any, convention: Convention) -> tuple[str, ...]:
    """What tells configurations apart: place, K, the axes, and whatever else differs where these agree."""
    first = [members[0] for members in groups]
    lengths = () if convention.k_key is None else (convention.k_key,)
    facets = (facet.name for facet in convention.told_facets)
    told = {facet.config for facet in convention.told_facets}  # an axis may be one of them
    axes = (axis for axis in convention.axis_titles if axis not in told)
    shown = (*facets, "group", *lengths, "task", *axes)
    alike: dict[object, list[ListedCheckpoint]] = {}
    for item in first:
        alike.setdefault(tuple(comparing.key_of(item.values.get(key)) for key in shown), []).append(item)
    ignored = convention.ignored_keys | {convention.seed_key, *shown}
    more: set[str] = set()
    for members in alike.values():
        more |= _differing([item.config for item in members], ignored)
    return (*shown, *sorted(more))


def _result(
    members: list[ListedCheckpoint], columns: Sequence[str], metric: str, convention: Convention, *, population: bool,
    config: Mapping[str, Any],
) -> Result:  # fmt: skip
    here = [item for item in members if item.has_file]
    values = [(item.row.seed, value_of(item, metric, convention)) for item in here]
    measured = [(seed, value) for seed, value in values if value is not None]
    return Result(
        settings={key: members[0].values.get(key) for key in columns},
        values=tuple(sorted(measured, key=lambda pair: _order(pair[0]))),
        unmeasured=len(here) - len(measured),
        population=population,
        config=config,
    )


def _logged(members: Iterable[ListedCheckpoint], metric: str, convention: Convention) -> tuple[LoggedRun, ...]:
    """What each W&B run logged; one whose files lie in several folders is one, but `wandb agent` gives seeds one id."""
    found: dict[object, LoggedRun] = {}
    for item in members:
        if metric == terms.DEFAULT_METRIC:
            value = metrics.from_metrics(item.metrics, item.config, convention)
        else:
            value = value_of(item, metric, convention)
        run = LoggedRun(item.row.run_id, item.row.seed, value, item.has_file)
        if run.run_id is not None or item.metrics:  # else it is not known which run it is, and these are told
            found.setdefault(item.row.path if run.run_id is None else (run.run_id, run.seed), run)
    return tuple(sorted(found.values(), key=lambda run: (_order(run.seed), not run.has_files, run.run_id or "")))


def _order(value: Any) -> tuple[int, float, tuple[Any, ...]]:
    """An order of any settings: flags and numbers by size, then text, with the numbers in it by size."""
    if isinstance(value, int | float):
        return 0, value, ()
    return (1 if isinstance(value, str) else 2, 0, wording.natural_key(value))
