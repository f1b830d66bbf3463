"""What the explorer shows, as one document: runs, the cells that they fill, files, findings. Tables are columns."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from ckptman.documents import document_text as say
from ckptman.documents.explorer.columns import EXACT, Room, brief, column, fitting, table
from ckptman.documents.explorer.curves import curves
from ckptman.documents.learning_curves import Curves
from ckptman.rules import Convention, GroupPattern, comparing, grids, placement, terms
from ckptman.text import RefusedError, json_text, wording
from ckptman.tree import Finding, contents, findings, records, standing
from ckptman.tree import statistics as tree_statistics

SIZE = 5_400_000
"""Bytes that the compressed data of a page may take, before it is written in letters: a third more."""

_OVERWRITTEN, _MISSING, _UNREADABLE = "overwritten", "missing", "unreadable"
_REFUSED, _WITHOUT_FILES = "refused", "no file known"
_STATES = {
    standing.Extent.COMPLETE: "complete",
    standing.Extent.FINAL: "final only",
    standing.Extent.ON_THE_WAY: "on the way",
    standing.Extent.NOTHING: "no file",
}
STATES = (*_STATES.values(), _REFUSED, _OVERWRITTEN, _WITHOUT_FILES, _MISSING, _UNREADABLE)
"""How a run stands, in the order of the legend."""

_MOST_FINDINGS = 20_000
_ROOT_MARK = "\ue000"
_DIGITS = 16
"""Digits of a checksum that are kept where there is no room for all of them."""


@dataclass(frozen=True)
class _Slot:
    """The place of a configuration in the map of its family: a section, a row, a column."""

    section: tuple[Any, ...]
    row: tuple[Any, ...]
    label: str
    """Of the row."""
    k: Any
    """Which is the column."""


@dataclass
class _Cell:
    """A configuration: all its runs, those that are not here too."""

    slot: _Slot
    group: str
    task: int | None
    folder: str
    """Its task folder; the folder that it would have, where it has none."""
    rows: list[_Row] = field(default_factory=list)


@dataclass
class _Row:
    """A run, here or not."""

    state: str
    folder: str
    seed: int | None
    config: Mapping[str, Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    has_curve: bool = False


_DETAILS = ("generalization", "from", "samples", "low", "high", "run_id", "size", "files", "lacks", "recorded",
            "source", "source_task", "attribution", "evidence", "config_source", "overwritten_by",
            "lost_files", "refused")  # fmt: skip
"""What is known of a run beside its place, its configuration and its metrics."""


def dataset(
    statistics: tree_statistics.TreeStatistics, found: Sequence[Finding], source: Curves | None, *, size: int = SIZE
) -> dict[str, Any]:
    """The document that the page shows.

    Args:
        statistics: What is in the tree.
        found: Findings about it.
        source: The learning curves of its runs; without them, none are read and none are shown.
        size: How many bytes it may take, compressed. What has no room is named in `left_out`.
    """
    room = Room(size)
    cells = _Cells(statistics)
    shown = [[item.code, item.path, *_findable(item, statistics), *cells.of(item)] for item in found[:_MOST_FINDINGS]]
    room.takes(shown)
    left_out = [f"{len(found) - len(shown):,} findings"] if len(shown) < len(found) else []
    return {
        "schema_version": records.SCHEMA_VERSION,
        **_words(statistics),
        "counts": _counts(statistics),
        "no_run": say.no_run_text(statistics),
        "unreadable": bool(statistics.unreadable),
        **_map(cells, room),
        **_runs(cells, source, room, left_out),
        "findings": shown,
        "codes": {
            code: [findings.KINDS[code].severity.value, findings.KINDS[code].meaning]
            for code in sorted({item.code for item in found})
        },
    }


def _findable(item: Finding, statistics: tree_statistics.TreeStatistics) -> list[str]:
    """What is said of a finding, with a mark for the tree's folder: the page knows where it lies by then."""
    root = str(statistics.inventory.scan.root)
    return [text.replace(root, _ROOT_MARK) for text in (item.message, item.fix)]


def _words(statistics: tree_statistics.TreeStatistics) -> dict[str, Any]:
    """How the convention calls things."""
    convention = statistics.convention
    axes = say.all_axes(convention)
    return {
        "states": STATES,
        "axes": {axis: convention.axis(axis).title for axis in axes},
        "words": {
            axis: [[value, convention.axis(axis).word(value)] for grid in convention.grids.values()
                   for value in grid.axes.get(axis, ())]
            for axis in axes
        },
        "ignored": sorted({*convention.ignored_keys, convention.seed_key}),
        "tested": list(convention.metric.fixed or ()),
        "metric": convention.metric.heading,
        "measured": convention.metric.short,
        "share": convention.metric.share,
        "trained": list(convention.trained_keys or ()),
        "pattern": convention.metric.pattern,
        "deviation": convention.statistics,
    }  # fmt: skip


def _counts(statistics: tree_statistics.TreeStatistics) -> dict[str, int]:
    counts = [count for count in statistics.grid_counts if statistics.expects(count.pattern.grid)]
    return {
        "expected": sum(count.runs_expected for count in counts),
        "complete": sum(count.complete for count in counts),
        "partial": sum(count.partial for count in counts),
        "refused": sum(count.refused for count in counts),
        "overwritten": sum(count.overwritten for count in counts),
        "missing": sum(count.missing for count in counts),
        "runs": len(statistics.runs),
        "files": statistics.file_count,
        "bytes": statistics.size,
    }


# --- cells ------------------------------------------------------------------------------------------------------------


class _Cells:
    """Every configuration of a tree and of the grids that it is part of."""

    def __init__(self, statistics: tree_statistics.TreeStatistics) -> None:
        self.statistics = statistics
        self.convention = statistics.convention
        self.absent: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
        for path in statistics.absent:
            self.absent[path.parent].append(path)
        self.by_slot: dict[_Slot, _Cell] = {}
        self.overwritten = {id(item) for item in statistics.lost}  # not by run id, which two folders may both hold
        told: set[int] = set()
        for configuration in statistics.configurations:
            first = configuration.runs[0]
            note = say.particulars(configuration, statistics)
            cell = self._cell(first.group, first.cell, first.config, configuration.folder, note, first.family)
            cell.rows += [self._here(_all_of(run)) for run in configuration.runs]
            lost = (*configuration.lost, *configuration.without_files)
            cell.rows += [self._lost(item) for item in lost]
            told |= {id(item) for item in lost}
        for item in (*statistics.lost, *statistics.without_files):
            if id(item) not in told:
                levels = self.convention.folders.parse(item.folder)
                said = {} if levels is None else levels.facets
                family = tuple(said.get(facet.name) for facet in self.convention.family_facets)
                cell = self._cell(item.run.group, item.cell, item.run.config, item.folder, "", family)
                cell.rows.append(self._lost(item))
        self._add_refused()
        self._add_missing()
        self.cells = sorted(self.by_slot.values(), key=lambda cell: _order(cell, self.convention))
        for cell in self.cells:
            cell.rows.sort(key=lambda row: (tree_statistics.seed_order(row.seed), row.folder))
        self.unreadable = [
            _Row(state=_UNREADABLE, folder=str(path.parent), seed=None, config={}, files=[_file(path, None)])
            for path in statistics.unknown
        ]

    def of(self, item: Finding) -> list[int]:
        """Where the cell stands that a finding is about, if its path alone does not tell."""
        return [
            index
            for index in self._of_folder[item.path]
            if item.values is not None
            for config in [self.cells[index].rows[0].config]
            if all(key in config and comparing.same_value(config[key], item.values[key]) for key in item.values)
        ][:1]

    @cached_property
    def _of_folder(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for index, cell in enumerate(self.cells):
            found[cell.folder].append(index)
        return found

    def _cell(
        self,
        group: str,
        key: contents.CellKey | None,
        config: Mapping[str, Any],
        folder: PurePosixPath,
        note: str = "",
        family: terms.Family | None = None,
    ) -> _Cell:
        slot = self._slot(
            group,
            key,
            config,
            folder,
            note,
            family if family is not None else (None,) * len(self.convention.family_facets),
        )
        if slot not in self.by_slot:
            task = self.convention.folders.parse_task(folder.name)
            self.by_slot[slot] = _Cell(slot, group, task, str(folder))
        return self.by_slot[slot]

    def _slot(
        self,
        group: str,
        key: contents.CellKey | None,
        config: Mapping[str, Any],
        folder: PurePosixPath,
        note: str,
        family: terms.Family,
    ) -> _Slot:
        pattern = placement.group_pattern(group, self.convention) if key is not None else None
        if key is None or pattern is None:
            label = f"{say.tail(folder)}{f' ({note})' if note else ''}"
            k = config.get(self.convention.k_key or "")
            return _Slot((1, *family), (str(folder), note), label, k if isinstance(k, int | str) else None)
        numbers = pattern.parse(group) or {}
        others = tuple((name, value) for name, value in numbers.items() if name != terms.K)
        place = (*tree_statistics.cell_order(key, self.convention), note)
        values = dict(zip(say.pattern_axes(pattern, self.convention), key[1], strict=True))
        label = say.brief(values, values, self.convention) + (f", {note}" if note else "")
        return _Slot((0, self.convention.groups.index(pattern), others), place, label, numbers.get(terms.K))

    def _here(self, run: contents.Run) -> _Row:
        convention = self.convention
        entries = {run.folder / item.file: item for item in run.record.checkpoints} if run.record is not None else {}
        files = [_file(file.path, file, file.entry) for file in run.files]
        files += [_file(path, None, entries.get(path), there=False) for path in self.absent[run.folder] if run.record]
        stands = run.standing
        more: dict[str, Any] = {"size": sum(file.size for file in run.files), "files": len(run.files),
                                "recorded": run.record is not None, "lacks": _lacks(stands, convention)}  # fmt: skip
        if run.measured is not None:
            low, high = run.measured.interval or (None, None)
            samples = run.measured.samples if run.measured.is_share else None
            more |= {"generalization": brief(run.measured.value, EXACT), "from": run.measured.source,
                     "samples": samples, "low": brief(low), "high": brief(high)}  # fmt: skip
        metrics: Mapping[str, Any] = {}
        if run.record is not None:
            metrics = run.record.metrics
            source = run.record.source
            folders = [PurePosixPath(item.source.path).parent for item in run.record.checkpoints[:1]]
            more |= {"run_id": run.record.run_id, "config_source": run.record.config_source,
                     "source": str(PurePosixPath(source.root, *folders)),
                     "source_task": source.task, "attribution": run.record.attribution.code,
                     "evidence": run.record.attribution.evidence}  # fmt: skip
            more["refused"] = _refused_text(run.record.run_id, run.group, run.record.task, run.seed, self.statistics)
        has_curve = run.record is not None and run.record.history is not None
        return _Row(_STATES[stands.extent], str(run.folder), run.seed, run.config, metrics, more, files, has_curve)

    def _lost(self, item: tree_statistics.Lost) -> _Row:
        run = item.run
        refused = _refused_text(run.run_id, run.group, run.task, run.seed, self.statistics)
        # As the documents count: of a file of no known configuration, the source's task number says nothing here.
        may_be_here = item.cell is None or (item.cell, run.seed) in self.statistics.refused_slots
        is_refused = refused and may_be_here
        state = _REFUSED if is_refused else _OVERWRITTEN if id(item) in self.overwritten else _WITHOUT_FILES
        more = {"run_id": run.run_id, "overwritten_by": ", ".join(run.overwritten_by), "refused": refused,
                "lost_files": ", ".join(run.files), "source_task": run.source_task,
                "source": "/".join([run.source.root, *run.source.wandb[:1]])}  # fmt: skip
        return _Row(state, str(item.folder), run.seed, run.config, run.metrics, more)

    def _add_refused(self) -> None:
        """What ingest refused of cells of the grid of which no run is told yet."""
        told = {(run.cell, run.seed) for run in self.statistics.filling}
        told |= {(item.cell, item.run.seed) for item in (*self.statistics.lost, *self.statistics.without_files)}
        for (key, seed), found in self.statistics.refused_slots.items():
            if (key, seed) not in told:
                config = found[0].file.config
                with suppress(RefusedError):
                    place = placement.place_of(config, self.convention, source_group=key[0], source_task=None)
                    family = tuple(place.family[facet.name] for facet in self.convention.family_facets)
                    cell = self._cell(key[0], key, config, place.folder, "", family)
                    cell.rows.append(_Row(_REFUSED, cell.folder, seed, config, more={"refused": _reasons(found)}))

    def _add_missing(self) -> None:
        """The runs that the grids expect and of which nothing is here, lost ones apart."""
        convention = self.convention
        there = {(run.cell, run.seed) for run in self.statistics.filling}
        there |= {(item.cell, item.run.seed) for item in (*self.statistics.lost, *self.statistics.without_files)}
        there |= self.statistics.refused_slots.keys()
        for group in self.statistics.grid_groups:
            grid = convention.grids[group.pattern.grid]
            if not self.statistics.expects(grid.name):
                continue
            for cell in grids.cells(grid, group.pattern.regime, convention.numbering):
                key = group.name, tuple(cell.values[axis] for axis in grid.regimes[group.pattern.regime].axes)
                seeds = [seed for seed in grid.seeds if (key, seed) not in there]
                if seeds:
                    self._add_missing_seeds(group, key, cell, seeds)

    def _add_missing_seeds(
        self, group: tree_statistics.GridGroup, key: contents.CellKey, cell: grids.Cell, seeds: Iterable[int]
    ) -> None:
        convention = self.convention
        grid = convention.grids[group.pattern.grid]
        config = grids.config_values(group.pattern, grid, group.held, cell, convention)
        family = placement.family_of_values(group.pattern, config, convention)
        folder = PurePosixPath(group.name)
        if len(family) == len(convention.family_facets):
            folder = convention.folders.folder(tuple(family.values()), group.name, cell.task)
        home = self._cell(group.name, key, config, folder)
        home.rows += [_Row(_MISSING, home.folder, seed, config) for seed in seeds]


def _refused_text(
    run_id: str | None, group: str, task: int | None, seed: int | None, statistics: tree_statistics.TreeStatistics
) -> str:
    """What ingest refused that seems to be of a run, and why."""
    return _reasons(x for x in statistics.refused if x.file.may_be_of(run_id, group, task, seed))


def _reasons(found: Iterable[tree_statistics.Refused]) -> str:
    return "; ".join(f"{PurePosixPath(x.file.root, x.file.path)}: {x.file.message}" for x in found)


def _lacks(stands: standing.Standing, convention: Convention) -> str:
    """What a run saved, or must have, and is not here."""
    found = [] if stands.has_final else sorted(convention.final_kinds)
    for missing in stands.missing:
        steps = list(missing.steps())
        listed = ", ".join(map(str, steps[:3])) + (", …" if len(steps) > 3 else "")
        found.append(f"{missing.count} × {missing.kind} ({listed})")
    return "; ".join(found)


def _all_of(run: tree_statistics.CountedRun) -> contents.Run:
    assert run.whole is not None  # of a tree that has a page, all is held
    return run.whole


def _file(
    path: PurePosixPath, file: contents.CheckpointFile | None, entry: Any = None, *, there: bool = True
) -> dict[str, Any]:
    known = file or entry
    return {"name": path.name, "kind": getattr(known, "kind", None), "step": getattr(known, "step", None),
            "size": getattr(known, "size", None), "sha256": getattr(entry, "sha256", None), "there": there}  # fmt: skip


def _order(cell: _Cell, convention: Convention) -> tuple[Any, ...]:
    section, *rest = cell.slot.section
    place = rest[0] if section == 0 else _family_order(tuple(rest), convention)
    k = cell.slot.k
    is_number = isinstance(k, int | float)
    names = tuple(wording.natural_key(part) if isinstance(part, str) else part for part in cell.slot.row)
    return section, place, str(rest), names, not is_number, k if is_number else 0, str(k)


# --- the map ----------------------------------------------------------------------------------------------------------


def _map(cells: _Cells, room: Room) -> dict[str, Any]:
    """The sections of the map, their rows and columns, and which cell stands where."""
    sections: dict[tuple[Any, ...], tuple[dict[Any, int], dict[Any, None]]] = {}
    placed: dict[str, list[Any]] = {key: [] for key in ("section", "row", "k", "group", "task", "folder")}
    labels: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for cell in cells.cells:
        rows, columns = sections.setdefault(cell.slot.section, ({}, {}))
        columns[cell.slot.k] = None
        if cell.slot.row not in rows:
            rows[cell.slot.row] = len(rows)
            labels[cell.slot.section].append(cell.slot.label)
        values = (list(sections).index(cell.slot.section), rows[cell.slot.row], cell.slot.k, cell.group, cell.task,
                  cell.folder)  # fmt: skip
        for key, value in zip(placed, values, strict=True):
            placed[key].append(value)
    document = {
        "sections": [
            {
                "title": _title(section, cells.convention),
                "rows": labels[section],
                "columns": sorted(columns, key=lambda k: (k is None, str(type(k)), k if k is not None else 0)),
            }
            for section, (_, columns) in sections.items()
        ],
        "cells": {"count": len(cells.cells), "columns": table(placed)},
    }
    room.takes(document)
    return document


def _title(section: tuple[Any, ...], convention: Convention) -> str:
    kind, *rest = section
    if kind:
        return f"{_family(tuple(rest), convention)}, outside of the grid"
    pattern: GroupPattern = convention.groups[rest[0]]
    others = ", ".join(f"{name} = {value}" for name, value in rest[1])
    families = placement.families_of(pattern, convention)
    title = _family(families[0], convention) if len(families) == 1 else pattern.title
    return title + (f", {others}" if others else "")


def _family_order(family: terms.Family, convention: Convention) -> int:
    known = placement.families(convention)
    return known.index(family) if family in known else len(known)


def _family(family: terms.Family, convention: Convention) -> str:
    return "Of no family" if None in family else placement.family_title(family, convention) or "All runs"


# --- runs and files ---------------------------------------------------------------------------------------------------


def _runs(cells: _Cells, source: Curves | None, room: Room, left_out: list[str]) -> dict[str, Any]:
    rows = [(index, row) for index, cell in enumerate(cells.cells) for row in cell.rows]
    rows += [(-1, row) for row in cells.unreadable]
    runs = [row for _, row in rows]
    place: dict[str, list[Any]] = {
        "cell": [index for index, _ in rows],
        "state": [row.state for row in runs],
        "folder": [row.folder for row in runs],
        "seed": [row.seed for row in runs],
    }
    for key in _DETAILS:
        place[key] = [row.more.get(key) for row in runs]
    document: dict[str, Any] = {"count": len(runs), "place": table(place)}
    room.takes(document)
    files, short = _files(runs, room)
    document["config"], no_config = fitting(_configurations(runs), room)
    document["metrics"], no_metrics = fitting(_metrics(runs, cells.convention), room)
    left_out += [f"configuration key {key}" for key in no_config] + [f"metric {key}" for key in no_metrics]
    folders = [PurePosixPath(row.folder) if row.has_curve else None for row in runs]
    drawn, no_curves = ({}, []) if source is None else curves(source, folders, cells.convention, room)
    left_out += [f"learning curve {name}" for name in no_curves]
    if short:
        left_out.insert(0, f"all but the first {_DIGITS} digits of each SHA-256")
    return {"runs": document, "files": files, "curves": drawn, "left_out": left_out}


def _files(runs: Sequence[_Row], room: Room) -> tuple[dict[str, Any], bool]:
    """The files by their columns, and whether their checksums had to be cut."""
    pairs = [(index, file) for index, row in enumerate(runs) for file in row.files]
    if not pairs:
        return {"count": 0, "columns": {}}, False
    columns: dict[str, list[Any]] = {"run": [index for index, _ in pairs]}
    for key in ("name", "kind", "step", "size", "there", "sha256"):
        columns[key] = [file[key] for _, file in pairs]
    sums = columns.pop("sha256")
    short = 40 * len(pairs) > room.left // 4  # 32 bytes that nothing makes smaller, in 64 letters
    content = table(columns | {"sha256": [value and value[:_DIGITS] for value in sums] if short else sums})
    room.takes(content)
    return {"count": len(pairs), "columns": content}, short


def _configurations(runs: Sequence[_Row]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The columns of the configurations, in the order in which their keys occur."""
    keys = dict.fromkeys(key for row in {id(row.config): row for row in runs}.values() for key in row.config)
    for key in keys:
        yield key, column([_setting(row.config, key) for row in runs])


def _setting(config: Mapping[str, Any], key: str) -> Any:
    value = json_text.jsonable(config.get(key))
    if isinstance(value, list | dict):  # as one text, so that it can be compared and stand in a pool
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _metrics(runs: Sequence[_Row], convention: Convention) -> Iterator[tuple[str, dict[str, Any]]]:
    """The columns of the metrics that are numbers: those that generalization is made of first, W&B's own last."""
    counts = Counter(key for row in runs for key in row.metrics)
    first = {key for row in runs[:1] for key in convention.metric.keys(row.config)}
    for key in sorted(counts, key=lambda key: (key not in first, key.startswith("_"), wording.natural_key(key))):
        values = [brief(row.metrics.get(key)) for row in runs]
        if any(value is not None for value in values):
            yield key, column(values)
