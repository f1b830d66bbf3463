"""Listing a tree: its checkpoints with their configurations and metrics, chosen by conditions.

    list_checkpoints(root, convention, where=[parse_where("gen_em >= 0.95")], sort="-gen_em")

Only `run.json` files and folders are read, no checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, cast

from ckptman.queries import conditions
from ckptman.queries.conditions import Where, check_key
from ckptman.rules import Convention, TrainConfig, comparing, convention_file, placement, terms
from ckptman.text import UsageError, given_path, json_text, wording
from ckptman.tree import Finding, Inventory, contents, finding, records
from ckptman.tree import metrics as tree_metrics

_MOST_VALUES = 8
"""Values that an explanation lists; of more, it gives the range."""


@dataclass(frozen=True)
class ListedCheckpoint:
    """One checkpoint of the tree, with what is known of its run."""

    row: records.CheckpointRow
    final: bool
    """Whether it is of the end of training."""
    k: int | None
    """The longest trained list."""
    generalization: tree_metrics.Measured | None
    """That of the run, which is that of its final checkpoint; None where it was not measured."""
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    """The run's last metrics."""
    facets: Mapping[str, Any] = field(default_factory=dict)
    """Its facets that are no levels of the tree, where they are known."""
    measures: Mapping[str, Any] = field(default_factory=dict)
    """What metrics by a name of their own come to, where they were asked for."""

    @property
    def has_file(self) -> bool:
        """Whether there is one; not for the runs of `Listing.without_files` and `Listing.gone`."""
        return bool(self.row.kind)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What conditions call the checkpoint's own values."""
        return {
            **self.row.fields,
            **{name: value for name, value in self.facets.items() if name not in self.row.family},
            "final": self.final,
            "k": self.k,
            "gen_em": None if self.generalization is None else self.generalization.value,
            "gen_em_lists": None if self.generalization is None else self.generalization.known_lists,
        }

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """Everything a condition can ask for; of keys with one name, the checkpoint's, then the configuration's."""
        return ChainMap(
            *(cast(MutableMapping[str, Any], part) for part in (self.fields, self.measures, self.config, self.metrics))
        )

    def to_json(self) -> dict[str, Any]:
        """The checkpoint as a JSON object."""
        source = None if self.generalization is None else self.generalization.source
        more: dict[str, Any] = {"gen_em_source": source, "config": self.config, "metrics": self.metrics}
        if self.measures:
            more["measures"] = self.measures
        return {key: json_text.jsonable(value) for key, value in {**self.fields, **more}.items()}

    def to_line(self, values: bytes) -> bytes:
        """As `to_json`, as text; `values` is `line_of_values`."""
        source = None if self.generalization is None else self.generalization.source
        return json_text.dump_line({**self.fields, "gen_em_source": source})[:-1] + b"," + values[1:]

    def line_of_values(self) -> bytes:
        """The run's own values as text, which all of its checkpoints share."""
        return json_text.dump_line({"config": self.config, "metrics": self.metrics})


@dataclass(frozen=True)
class Unmatched:
    """A condition that no checkpoint of the tree fulfils, even alone."""

    where: Where
    there_are: tuple[str, ...]
    """For each of its keys, the values that there are."""


@dataclass
class Summary:
    """How much a listing holds, and what it leaves out."""

    root: Path
    checkpoints: int = 0
    runs: int = 0
    size: int = 0
    """Bytes of the checkpoints."""
    total: int = 0
    """Checkpoints of the tree, before any condition."""
    not_listed: list[Finding] = field(default_factory=list)
    _folders: set[str] = field(default_factory=set)

    def count(self, item: ListedCheckpoint) -> None:
        """Count one that is listed."""
        self.count_run(item.row.path.rpartition("/")[0], 1, item.row.size)

    def count_run(self, folder: str, checkpoints: int, size: int) -> None:
        """Count some of one folder."""
        self.checkpoints += checkpoints
        self.size += size
        self._folders.add(folder)
        self.runs = len(self._folders)

    @property
    def complete(self) -> bool:
        """Whether every record of the tree could be read."""
        return not any(item.code in _INCOMPLETE for item in self.not_listed)


@dataclass(frozen=True)
class Listing:
    """What a listing found."""

    root: Path
    checkpoints: tuple[ListedCheckpoint, ...]
    total: int
    """Checkpoints of the tree, before any condition."""
    not_listed: tuple[Finding, ...]
    """Checkpoints of the tree that could not be listed, and what could not be read."""
    unmatched: tuple[Unmatched, ...]
    without_files: tuple[ListedCheckpoint, ...] = ()
    """The W&B runs without a checkpoint, overwritten or not, that fulfil the conditions."""
    gone: tuple[ListedCheckpoint, ...] = ()
    """The same of the runs with a run.json of which no checkpoint is here any more."""

    @property
    def summary(self) -> Summary:
        """How much that is."""
        found = Summary(self.root, total=self.total, not_listed=list(self.not_listed))
        for item in self.checkpoints:
            found.count(item)
        return found

    @property
    def complete(self) -> bool:
        """Whether every record of the tree could be read."""
        return self.summary.complete

    def to_json(self) -> dict[str, Any]:
        """The listing as one JSON document."""
        return {
            "schema_version": records.SCHEMA_VERSION,
            "root": str(self.root),
            "checkpoints": [checkpoint.to_json() for checkpoint in self.checkpoints],
            "not_listed": [item.to_json() for item in self.not_listed],
        }


_INCOMPLETE = frozenset({"bad-record", "unreadable"})


def list_checkpoints(
    root: str | Path = "checkpoints",
    *,
    convention: Convention | None = None,
    where: str | Where | Sequence[str | Where] = (),
    sort: str | None = None,
    metrics: str | Sequence[str] = (),
) -> Listing:
    """List the checkpoints of a tree that fulfil every condition.

    Args:
        root: The tree.
        convention: The rules; by default those of the nearest ckptman.yaml in or above the tree, or the built-in ones.
        where: Conditions, as `ckptman ls --where` takes them: `gen_em >= 0.95 and n_layers == 1`. Their keys are those
            of a checkpoint (`group`, `task`, `seed`, `step`, `kind`, `final`, `k`, `gen_em` …), of the configuration,
            and of the run's metrics.
        sort: The key to sort by, with a `-` before it for the largest first; what has no value stands last.
            By default in the order of the folders, numbers in their names by size.
        metrics: Metrics that each checkpoint is to have a value of, in `measures`: as for `results`.

    Raises:
        UsageError: where there is no tree, for a condition that is none, and for a key or metric that nothing has.
    """
    root, every = given_path(root, "the path of the tree"), conditions.all_of(where)
    metrics = (metrics,) if isinstance(metrics, str) else metrics
    convention = convention_file.rules_for(convention, root)
    inventory = contents.take_inventory(root, convention, contents.Depth.NAMES)
    every_run = sorted(_listed(inventory.runs), key=lambda item: wording.natural_key(item.row.path))
    found = [item for item in every_run if item.has_file]
    asked = {*(key for condition in every for key in condition.keys), (sort or "").removeprefix("-")}
    named = [*metrics, *(name for name in convention.metrics if name in asked)]
    if named:
        check_metrics(metrics, found, convention)
        found = [replace(item, measures={name: value_of(item, name, convention) for name in named}) for item in found]
    rows = [item.values for item in found]
    known = known_keys(convention)
    for condition in every:
        condition.check(rows, known)

    def fulfil(items: Iterable[ListedCheckpoint]) -> list[ListedCheckpoint]:
        return [item for item in items if all(condition.matches(item.values) for condition in every)]

    chosen = fulfil(found)
    if sort is not None:
        key = sort.removeprefix("-")
        check_key(key, rows, known)
        chosen = _sorted(chosen, key, largest_first=sort.startswith("-"))
    return Listing(
        root=inventory.scan.root,
        checkpoints=tuple(chosen),
        total=len(found),
        not_listed=tuple(sorted(_not_listed(inventory, convention), key=lambda item: (item.path, item.code))),
        unmatched=tuple(
            Unmatched(where=condition, there_are=tuple(_values_there_are(condition, rows)))
            for condition in every
            if rows and not any(condition.matches(row) for row in rows)
        ),
        without_files=tuple(fulfil(_without_files(inventory.scan, convention))),
        gone=tuple(fulfil(item for item in every_run if not item.has_file)),
    )


def json_lines(root: Path, convention: Convention, summary: Summary) -> Iterator[bytes]:
    """The document of `Listing.to_json` of a whole tree, a checkpoint a line, while it is read; nothing is held.

    Raises:
        UsageError: where there is no tree.
    """

    def text_of(found: Iterable[ListedCheckpoint]) -> _Text:
        items = [item for item in found if item.has_file]
        values = items[0].line_of_values() if items else b""  # a folder holds one run
        folder = items[0].row.path.rpartition("/")[0] if items else ""
        text = b",\n".join(item.to_line(values) for item in items)
        return text, folder, len(items), sum(item.row.size for item in items)

    def of_one(folder: records.ScannedFolder) -> _Text | None:
        whole = contents.run_of(folder, convention)
        if whole is None or any(entry.kind == "folder" and entry.path != folder.kept_wandb for entry in folder.entries):
            return None
        return text_of(sorted(_listed([whole]), key=_by_name))

    def texts() -> Iterator[_Text]:
        for found in records.share_folders(root, convention, of_one, natural=True):
            if isinstance(found, records.ScannedFolder):
                for items in _in_turn(root, convention, [found], summary.not_listed):
                    yield text_of(items)
            else:
                yield found

    known = texts()
    first = next(known)
    head = json_text.dump_line({"schema_version": records.SCHEMA_VERSION, "root": str(root), "checkpoints": []})
    yield head[:-2]
    separator = b"\n"
    for text, folder, count, size in chain([first], known):
        if count:
            summary.count_run(folder, count, size)
            yield separator + text
            separator = b",\n"
    summary.not_listed.sort(key=lambda item: (item.path, item.code))
    summary.total = summary.checkpoints
    yield b"\n]," + json_text.dump_line({"not_listed": [item.to_json() for item in summary.not_listed]})[1:] + b"\n"


_Text = tuple[bytes, str, int, int]
"""The lines of a run's checkpoints, its folder, how many they are, and their bytes."""


def list_runs(root: Path, convention: Convention, keep: Callable[[str], bool]) -> tuple[Listing, frozenset[str]]:
    """Of each run of a tree the last checkpoint, while it is read, and the names of all metrics. Of its metrics those
    that are to be kept are, and so its source, its SHA-256 and the run's id.

    Raises:
        UsageError: where there is no tree.
    """
    from ckptman.tree import statistics

    folders = records.FoldersInTurn(root, convention, natural=True)
    not_listed: list[Finding] = []
    found: list[ListedCheckpoint] = []
    names: set[str] = set()
    sharing = statistics.Sharing(convention)
    families: dict[str, Mapping[str, Any]] = {}
    gone: list[ListedCheckpoint] = []
    total = 0
    for items in _in_turn(root, convention, folders, not_listed):
        total += sum(item.has_file for item in items)
        for item in items[-1:]:  # a folder holds one run
            if not item.has_file:
                gone.append(item)
                continue
            names.update(item.metrics)
            row = item.row
            family = families.setdefault(repr(row.family), row.family)
            source, sha256 = (
                text if keep(key) else "" for key, text in (("source", row.source), ("sha256", row.sha256))
            )
            row = replace(
                row,
                source=source,
                sha256=sha256,
                family=family,
                run_id=row.run_id if keep("run_id") else None,
                group=sharing.one(row.group),
                kind=sharing.one(row.kind),
                step=sharing.one(row.step),
            )
            config = statistics.SharedConfig(*sharing.config(item.config))
            metrics = {key: value for key, value in item.metrics.items() if keep(key)}
            found.append(replace(item, row=row, config=config, metrics=metrics or _NONE, facets=item.facets or _NONE))
    without_files = tuple(_without_files(folders.rest(), convention))
    not_listed.sort(key=lambda item: (item.path, item.code))
    return Listing(root, tuple(found), total, tuple(not_listed), (), without_files, tuple(gone)), frozenset(names)


_NONE: Mapping[str, Any] = {}


def _in_turn(
    root: Path, convention: Convention, folders: Iterable[records.ScannedFolder], not_listed: list[Finding]
) -> Iterator[list[ListedCheckpoint]]:
    """The checkpoints of each folder, in their order; what cannot be listed is put into `not_listed`."""
    for folder in folders:
        if not (folder.entries or folder.unreadable) or folder.is_kept:
            yield []
        elif (whole := contents.run_of(folder, convention)) is not None:
            yield sorted(_listed([whole]), key=_by_name)
        else:
            inventory = contents.inventory_of(
                records.scan_of(root, [folder], convention), convention, contents.Depth.NAMES
            )
            not_listed += _not_listed(inventory, convention)
            yield sorted(_listed(inventory.runs), key=_by_name)


def _by_name(item: ListedCheckpoint) -> tuple[object, ...]:
    return tuple(wording.natural_key(item.row.path.rpartition("/")[2]))


def known_keys(convention: Convention) -> frozenset[str]:
    """Keys that a condition may ask for in any tree, an empty one too."""
    return frozenset(
        {
            *(field.name for field in dataclasses.fields(records.CheckpointRow) if field.name != "family"),
            *(facet.name for facet in convention.told_facets),
            *("final", "k", "gen_em", "gen_em_lists"),
            *(field.name for field in dataclasses.fields(TrainConfig)),
            *(key for name_field in convention.fields for key in name_field.config),
            *(key for metric in convention.metrics.values() for key in metric.keys({})),
            *convention.metrics,
        }
    )


# --- what was measured ------------------------------------------------------------------------------------------------


def value_of(item: ListedCheckpoint, metric: str, convention: Convention) -> float | None:
    """A run's value of a metric: `gen_em`, one that the convention names, a key, or with `*` the mean of all that
    match."""
    if metric == terms.DEFAULT_METRIC:
        return None if item.generalization is None else item.generalization.value
    if (named := convention.metrics.get(metric)) is not None:
        return tree_metrics.from_metrics(item.metrics, item.config, convention, named)
    keys = [key for key in item.metrics if fnmatchcase(key, metric)] if "*" in metric else [metric]
    values = [value for key in keys if (value := tree_metrics.finite(item.metrics.get(key))) is not None]
    return tree_metrics.mean(values) if values else None


def check_metrics(
    asked: Iterable[str], runs: Sequence[ListedCheckpoint], convention: Convention, names: Iterable[str] | None = None
) -> None:
    """Refuse a metric that no run has.

    Args:
        asked: The metrics.
        runs: The runs; without any, nothing is refused.
        convention: Names metrics.
        names: The names of all that was measured; by default those that the runs hold.

    Raises:
        UsageError: (`no-metric`).
    """
    for metric in asked:
        if not runs or metric == terms.DEFAULT_METRIC or any(value_of(x, metric, convention) is not None for x in runs):
            continue
        known = sorted({key for item in runs for key in item.metrics} if names is None else names)
        raise UsageError(
            f"no run has a metric {metric!r}{wording.did_you_mean(metric, known)}",
            code="no-metric",
            fix=f"There are: {', '.join(known[:12]) or 'none'}{' …' if len(known) > 12 else ''}",
        )


# --- what is there ----------------------------------------------------------------------------------------------------


def _listed(runs: Iterable[contents.Run]) -> Iterator[ListedCheckpoint]:
    """The checkpoints of runs; of one with a record and none of those, what is known of it, as one that is nowhere."""
    for run in runs:
        if run.record is None:
            continue
        k = run.record.config.get(run.convention.k_key or "")
        for entry in [file.entry for file in run.files if file.entry is not None and file.is_listed] or [_NOWHERE]:
            yield ListedCheckpoint(
                row=records.row_of(run.folder, run.record, entry),
                final=entry.kind in run.convention.final_kinds,
                k=comparing.whole(k),
                generalization=run.measured,
                config=run.config,
                metrics=run.record.metrics,
                facets=placement.other_facets(run.record.config, run.convention),
            )


_NOWHERE = records.CheckpointEntry(
    records.RUN_FILE, "", None, 0, "", records.SourceFile(path="", size=0, mtime_ns=0, inode=0)
)


def _without_files(scan: records.TreeScan, convention: Convention) -> Iterator[ListedCheckpoint]:
    """The W&B runs without a checkpoint, as checkpoints that are nowhere."""
    for listed in (scan.overwritten, scan.without_files):
        for folder, run in ((folder, run) for folder, runs in listed.items() for run in runs):
            levels = convention.folders.parse(folder)
            yield ListedCheckpoint(
                row=records.CheckpointRow(
                    source="", path=str(folder / records.OVERWRITTEN_FILE), sha256="", size=0, run_id=run.run_id,
                    group=run.group, family={} if levels is None else levels.facets, task=run.task,
                    source_task=run.source_task, seed=run.seed, step=None, kind="",
                ),
                final=False,
                k=comparing.whole(run.config.get(convention.k_key or "")),
                generalization=None,
                config=run.config,
                metrics=run.metrics,
                facets=placement.other_facets(run.config, convention),
            )  # fmt: skip


def _not_listed(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Checkpoint files without a record, records without a file, links to none, and what could not be read."""
    scan = inventory.scan
    here = {file.path for file in inventory.files}
    for entry in scan.entries:
        if entry.kind == "symlink" and _is_checkpoint(entry.path, scan, convention) and entry.path not in here:
            leads = "to no file" if os.path.exists(scan.root / entry.path) else "nowhere"  # noqa: PTH110
            yield finding("dangling-link", entry.path, f"it leads {leads}")
    for path, problem in scan.unreadable:
        yield finding("unreadable", path, f"it cannot be read: {problem}")
    unlisted: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in inventory.files:
        if not file.is_of_listed_size:
            yield finding("wrong-size", file.path, "it has another size than its run.json says")
        if file.entry is None:
            unlisted[file.path.parent].append(file.path)
    for run in scan.runs:
        others = unlisted.pop(run.path, [])
        if run.record is not None:
            for name in sorted({entry.file for entry in run.record.checkpoints} - set(run.files)):
                yield finding("missing-file", run.path / name, "run.json lists it, and it is not there")
            for path in others:
                yield finding("unrecorded-file", path, "its run.json does not list it")
        elif run.problem is not None:
            yield finding("bad-record", run.path, f"its run.json cannot be used: {run.problem}")
        elif others:
            yield finding("no-record", run.path, "it has no run.json")
    for paths in unlisted.values():
        for path in paths:
            yield finding("no-record", path, "it is not in the folder of a run, and no run.json tells of it")


def _is_checkpoint(path: PurePosixPath, scan: records.TreeScan, convention: Convention) -> bool:
    return path.name.endswith(convention.checkpoint.suffix) and not scan.is_kept(path)


# --- order ------------------------------------------------------------------------------------------------------------


def _sorted(items: list[ListedCheckpoint], key: str, *, largest_first: bool) -> list[ListedCheckpoint]:
    """In the order of a key; items of one value stay in their order, and those without one come last."""
    present = [(order, item) for item in items if (order := _order(item.values.get(key))) is not None]
    absent = [item for item in items if _order(item.values.get(key)) is None]
    present.sort(key=lambda pair: pair[0], reverse=largest_first)
    return [*(item for _, item in present), *absent]


def _order(value: Any) -> tuple[int, float, str] | None:
    """What a value of any type is sorted by: numbers before text before anything else."""
    if value is None or value == "NaN" or value != value:  # not a number: it has no place in an order
        return None
    if value in ("Infinity", "-Infinity"):
        value = float(value)
    if isinstance(value, int | float):
        return 0, value, ""
    return (1, 0, value) if isinstance(value, str) else (2, 0, str(value))


# --- explaining -------------------------------------------------------------------------------------------------------


def _values_there_are(condition: Where, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For each key of a condition, the values that the tree has, in a few words."""
    for key in condition.keys:
        orders = {order: value for row in rows if (order := _order(value := row.get(key))) is not None}
        values = [_shown(orders[order]) for order in sorted(orders)]
        if not values:
            yield f"{key} is not known of any checkpoint"
        elif len(values) <= _MOST_VALUES:
            yield f"{key} is {', '.join(values)}"
        else:
            node = condition.node
            meant = node.literal.text if isinstance(node, conditions.Comparison) and max(orders)[0] == 1 else ""
            hint = wording.did_you_mean(meant, values) if meant else ""
            yield f"{key} goes from {values[0]} to {values[-1]}{hint}"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
