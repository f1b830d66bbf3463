"""What is in a tree, counted from the disk: checkpoint files, runs, configurations, and the grid cells they fill.

`run.json` says what a file is; whether it is there, and how large it is, the disk says. A file that no `run.json` names
(in an unfinished run, or in a tree sorted by hand) is told by its own header.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.formats import read_checkpoint
from ckptman.rules import Convention, GroupPattern, comparing, grids, naming, placement, terms
from ckptman.text import RefusedError, wording
from ckptman.tree.metrics import Generalization, Measured, from_metrics, measured, over_runs, wilson_interval
from ckptman.tree.records import OverwrittenRun, RunFolder, RunRecord, TreeScan, scan_tree
from ckptman.tree.standing import Extent, Standing, compare

CellKey = tuple[str, tuple[terms.Scalar, ...]]
"""A cell of a grid: the group, and the value on each axis of its regime."""


@dataclass(frozen=True)
class CheckpointFile:
    """One checkpoint file that exists."""

    path: PurePosixPath
    """Relative to the root."""
    size: int
    """Bytes; of the target, for a symbolic link."""
    kind: str | None
    """The prefix of its name; None where the name does not follow the convention."""
    step: int | None


@dataclass(frozen=True)
class Run:
    """The files of one configuration and seed in one folder.

    `record` is None where no `run.json` tells of them: what is known then is what the files' own headers say.
    """

    folder: PurePosixPath
    group: str
    layernorm: bool
    regime: str
    seed: int | None
    config: Mapping[str, Any]
    files: tuple[CheckpointFile, ...]
    record: RunRecord | None
    cell: CellKey | None
    """Its cell of a grid; None in a group of no known pattern, or off its grid's axes."""
    measured: Measured | None

    def standing(self, convention: Convention) -> Standing:
        """Which of its checkpoints are here."""
        return compare(self.config, ((file.kind, file.step) for file in self.files), convention)


@dataclass(frozen=True)
class Lost:
    """A run whose checkpoints were overwritten."""

    folder: PurePosixPath
    """The task folder that remembers it."""
    run: OverwrittenRun
    cell: CellKey | None


@dataclass(frozen=True)
class Configuration:
    """Runs of one task that differ in nothing but their seed, and in where and how they were computed."""

    folder: PurePosixPath
    """Their task folder."""
    runs: tuple[Run, ...]
    """At least one."""
    lost: tuple[Lost, ...]
    """Those of it whose checkpoints were overwritten."""
    convention: Convention

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of the first run."""
        return self.runs[0].config

    @property
    def family(self) -> tuple[bool, str]:
        """With LayerNorm or not, and the regime."""
        return self.runs[0].layernorm, self.runs[0].regime

    @cached_property
    def generalization(self) -> Generalization | None:
        """Mean and standard deviation over its measured runs; None where none is measured."""
        return over_runs((run.measured.value for run in self.runs if run.measured is not None), self.convention)

    @cached_property
    def logged(self) -> Generalization | None:
        """The same over all its W&B runs, overwritten ones included, by what they logged; None where none did."""
        found = [run.record.metrics for run in self.runs if run.record is not None]
        found += [item.run.metrics for item in self.lost]
        values = (from_metrics(item, self.convention) for item in found)
        return over_runs((value for value in values if value is not None), self.convention)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the exact match, from the lists of all measured runs together; None where none is."""
        low, high = self.convention.generalization_k
        known = [run.measured for run in self.runs if run.measured is not None]
        lists = [item.samples * (high + 1 - low) for item in known]
        right = sum(round(min(max(item.value, 0.0), 1.0) * n) for item, n in zip(known, lists, strict=True))
        return wilson_interval(right, sum(lists)) if known else None

    @property
    def overlaps(self) -> bool:
        """Whether it was trained on lengths that generalization is measured on."""
        longest = self.config.get(self.convention.families.k_config)
        return isinstance(longest, int) and longest >= self.convention.generalization_k[0]


@dataclass(frozen=True)
class GridGroup:
    """A group that a grid expects: one K of one pattern."""

    name: str
    k: int
    pattern: GroupPattern


@dataclass(frozen=True)
class GridCount:
    """Runs and files that the groups of one pattern are expected to have, and what is there of them."""

    pattern: GroupPattern
    groups: int
    configurations: int
    """In each group."""
    seeds: int
    kinds: int
    """Files of a run."""
    complete: int
    """Runs with a file of each kind; with `partial`, `overwritten` and `missing` they add up to those expected."""
    partial: int
    overwritten: int
    missing: int
    files: int
    """Files found, at most one of each kind for each run that is expected."""

    @property
    def runs_expected(self) -> int:
        """Runs of all these groups."""
        return self.groups * self.configurations * self.seeds

    @property
    def files_expected(self) -> int:
        """Files of all these groups."""
        return self.runs_expected * self.kinds


@dataclass(frozen=True)
class TreeStatistics:
    """All that the documents tell of a tree. Sequences are in natural path order."""

    convention: Convention
    files: tuple[CheckpointFile, ...]
    """Every checkpoint file that exists, wherever it lies; files in kept W&B folders are none."""
    runs: tuple[Run, ...]
    """Finished ones, and those that only their files' headers tell of."""
    unknown: tuple[PurePosixPath, ...]
    """Checkpoint files of which neither a `run.json` nor their header says what they are."""
    unfinished: tuple[PurePosixPath, ...]
    """Run folders without a `run.json` that can be used."""
    absent: tuple[PurePosixPath, ...]
    """Checkpoints that a `run.json` names and that are not there."""
    lost: tuple[Lost, ...]
    folders: tuple[PurePosixPath, ...]
    """Every folder of the tree, but for those inside kept W&B folders."""
    top_files: frozenset[str]
    """Names of the files directly in the root."""
    unreadable: tuple[PurePosixPath, ...] = ()
    """Folders that could not be listed, and lists of overwritten runs that could not be read."""

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have a `run.json`."""
        return tuple(run for run in self.runs if run.record is not None)

    @property
    def loose(self) -> tuple[CheckpointFile, ...]:
        """Files that no `run.json` names."""
        told = {file.path for run in self.finished for file in run.files}
        return tuple(file for file in self.files if file.path not in told)

    @cached_property
    def configurations(self) -> tuple[Configuration, ...]:
        """The runs, those of one configuration together."""
        ignored = {*self.convention.ignored_keys, self.convention.seed_key}
        by_folder: dict[PurePosixPath, list[list[Run]]] = defaultdict(list)
        for run in self.runs:
            alike = by_folder[task_folder(run.folder, self.convention)]
            for runs in alike:
                if runs[0].group == run.group and not comparing.differing_keys(runs[0].config, run.config, ignored):
                    runs.append(run)
                    break
            else:
                alike.append([run])
        lost: dict[PurePosixPath, list[Lost]] = defaultdict(list)
        for item in self.lost:
            lost[item.folder].append(item)

        def agrees(item: Lost, run: Run) -> bool:  # an older trainer did not know every key
            shared = (item.run.config.keys() & run.config.keys()) - ignored
            return all(comparing.same_value(item.run.config[key], run.config[key]) for key in shared)

        return tuple(
            Configuration(folder, tuple(runs), tuple(x for x in lost[folder] if agrees(x, runs[0])), self.convention)
            for folder, alike in by_folder.items()
            for runs in alike
        )

    @cached_property
    def by_task_folder(self) -> Mapping[PurePosixPath, Sequence[Configuration]]:
        """The configurations of each task folder."""
        found: dict[PurePosixPath, list[Configuration]] = defaultdict(list)
        for configuration in self.configurations:
            found[configuration.folder].append(configuration)
        return found

    @cached_property
    def grid_groups(self) -> tuple[GridGroup, ...]:
        """The groups that the grids expect."""
        return expected_groups(self.convention, {run.group for run in self.runs} | {x.run.group for x in self.lost})

    @cached_property
    def grid_counts(self) -> tuple[GridCount, ...]:
        """What the grids expect of each group pattern, and what is there of it."""
        return tuple(_count_grid(self, pattern) for pattern in self.convention.groups)

    def expects(self, grid: str) -> bool:
        """Whether the runs of a grid are expected here: some of it is here, or nothing at all."""
        there = [run.cell for run in self.runs] + [item.cell for item in self.lost]
        patterns = [pattern for pattern in self.convention.groups if pattern.grid == grid]
        return not there or any(cell and pattern.parse(cell[0]) is not None for cell in there for pattern in patterns)

    @cached_property
    def outside_grid(self) -> tuple[CheckpointFile, ...]:
        """Files that no grid expects: other K or seeds, second runs of a seed, groups of no known pattern."""
        expected = {group.name: group for group in self.grid_groups}
        kinds = {prefix.name for prefix in self.convention.prefixes}
        unknown, filled = set(self.unknown), set()
        outside = [file for file in self.files if file.path in unknown]
        for run in self.runs:
            group = expected.get(run.group)
            seeds = self.convention.grids[group.pattern.grid].seeds if group is not None else ()
            for file in run.files:
                slot = (run.cell, run.seed, file.kind)
                if run.cell is None or run.seed not in seeds or file.kind not in kinds or slot in filled:
                    outside.append(file)
                filled.add(slot)
        return tuple(sorted(outside, key=lambda file: wording.path_key(file.path)))


def count_tree(root: Path, convention: Convention, scan: TreeScan | None = None) -> TreeStatistics:
    """Count what is in a tree.

    Args:
        root: The tree.
        convention: Its rules.
        scan: The tree's scan, if it has been made already.

    Raises:
        UsageError: (`no-tree`) where there is no folder `root`.
    """
    return _Counting(scan or scan_tree(root, convention), convention).statistics()


def task_folder(folder: PurePosixPath, convention: Convention) -> PurePosixPath:
    """The task folder of a run's folder. In a tree sorted by hand it may be the folder itself, for want of another."""
    is_below_task = convention.folders.parse_task(folder.parent.name) is not None
    return folder.parent if is_below_task else folder


def group_folder(folder: PurePosixPath, convention: Convention) -> PurePosixPath:
    """The group's folder of a task folder; a folder that is no task folder stands for itself."""
    return folder.parent if convention.folders.parse_task(folder.name) is not None else folder


def expected_groups(convention: Convention, found: Iterable[str] = ()) -> tuple[GridGroup, ...]:
    """The groups that the convention's grids expect: for each pattern, one for each K.

    A pattern that holds more than K expects its grid for those values of the others that occur in `found`.
    """
    names = sorted(found, key=wording.natural_key)
    expected = {}
    for pattern in convention.groups:
        others: dict[tuple[tuple[str, int], ...], None] = {}
        if set(pattern.parse(pattern.example) or ()) == {"K"}:
            others[()] = None
        for name in names:
            if (values := pattern.parse(name)) is not None:
                others[tuple((key, value) for key, value in values.items() if key != "K")] = None
        for k in convention.grids[pattern.grid].k:
            for without_k in others:
                name = pattern.format({**dict(without_k), "K": k})
                expected[name] = GridGroup(name=name, k=k, pattern=pattern)
    return tuple(expected.values())


def cell_of(group: str, config: Mapping[str, Any], convention: Convention) -> CellKey | None:
    """The cell of a grid that a configuration fills; None for one that fills none."""
    pattern = placement.group_pattern(group, convention)
    if pattern is None:
        return None
    grid = convention.grids[pattern.grid]
    try:
        if placement.family_of(config, convention) != (pattern.layernorm, pattern.regime):
            return None
        grids.task_of(grid, pattern.regime, convention.numbering, config)
    except RefusedError:
        return None
    return group, tuple(config[axis] for axis in grid.regimes[pattern.regime].axes)


class _Counting:
    def __init__(self, scan: TreeScan, convention: Convention) -> None:
        self.scan = scan
        self.convention = convention
        # A W&B folder that was kept may hold anything, files called run.json included.
        self.kept = {run.path / convention.folders.saved_wandb for run in scan.runs if run.record is not None}
        self.run_folders = [self._usable(run) for run in scan.runs if not self._is_kept(run.path)]
        self.sizes = dict(self._existing())

    def statistics(self) -> TreeStatistics:
        finished = [self._finished(run.path, run.record) for run in self.run_folders if run.record is not None]
        told = {file.path for run in finished for file in run.files}
        loose, unknown = self._loose_runs(path for path in self.sizes if path not in told)
        runs = sorted([*finished, *loose], key=_run_order)
        files = [file for run in runs for file in run.files]
        files += [CheckpointFile(path, self.sizes[path], *self._kind_and_step(path.name)) for path in unknown]
        return TreeStatistics(
            convention=self.convention,
            files=tuple(sorted(files, key=lambda file: wording.path_key(file.path))),
            runs=tuple(runs),
            unknown=_natural(unknown),
            unfinished=_natural(run.path for run in self.run_folders if run.record is None),
            absent=_natural(path for run in self.run_folders for path in self._named(run) if path not in self.sizes),
            lost=self._lost(),
            folders=_natural(e.path for e in self.scan.entries if e.kind == "folder" and not self._is_kept(e.path)),
            top_files=frozenset(e.path.name for e in self.scan.entries if e.kind == "file" and len(e.path.parts) == 1),
            unreadable=_natural(path for path, _ in self.scan.unreadable if not self._is_kept(path)),
        )

    def _existing(self) -> Iterator[tuple[PurePosixPath, int]]:
        """Every checkpoint file that exists, and its size."""
        for entry in self.scan.entries:
            if not entry.path.name.endswith(self.convention.checkpoint.suffix) or self._is_kept(entry.path):
                continue
            # A link counts where it leads to a file.
            if entry.kind == "file" or (entry.kind == "symlink" and os.path.isfile(self.scan.root / entry.path)):  # noqa: PTH113
                yield entry.path, entry.size

    def _is_kept(self, path: PurePosixPath) -> bool:
        """Whether a path is the folder of a run's kept W&B folders, or lies in it."""
        return path in self.kept or any(parent in self.kept for parent in path.parents)

    def _usable(self, run: RunFolder) -> RunFolder:
        """A run folder, without its record where that names a family which the convention does not have."""
        known = run.record is None or run.record.regime in self.convention.families.regime_folders
        return run if known else replace(run, record=None)

    def _named(self, run: RunFolder) -> list[PurePosixPath]:
        return [run.path / entry.file for entry in run.record.checkpoints] if run.record is not None else []

    def _finished(self, folder: PurePosixPath, record: RunRecord) -> Run:
        entries = {folder / entry.file: entry for entry in record.checkpoints}
        return Run(
            folder=folder,
            group=record.group,
            layernorm=record.layernorm,
            regime=record.regime,
            seed=record.seed,
            config=record.config,
            files=tuple(
                CheckpointFile(path, self.sizes[path], entry.kind, entry.step)
                for path, entry in entries.items()
                if path in self.sizes
            ),
            record=record,
            cell=cell_of(record.group, record.config, self.convention),
            measured=measured(record, self.convention),
        )

    def _loose_runs(self, paths: Iterable[PurePosixPath]) -> tuple[list[Run], list[PurePosixPath]]:
        """Files that no `run.json` names, by what their headers say; and those whose headers say nothing."""
        by_folder: dict[PurePosixPath, list[Run]] = defaultdict(list)
        unknown = []
        for path in sorted(paths, key=wording.path_key):
            run = self._loose_run(path)
            if run is None:
                unknown.append(path)
                continue
            runs = by_folder[run.folder]
            for i, other in enumerate(runs):
                if not comparing.differing_keys(other.config, run.config, self.convention.ignored_keys):
                    runs[i] = replace(other, files=other.files + run.files)
                    break
            else:
                runs.append(run)
        return [run for runs in by_folder.values() for run in runs], unknown

    def _loose_run(self, path: PurePosixPath) -> Run | None:
        try:
            info = read_checkpoint(self.scan.root / path, self.convention.checkpoint)
            config = info.config or naming.naming_of(self.convention).parse(path.name).values
            layernorm, regime = placement.family_of(config, self.convention)
            group = self._group_in_path(path) or self._group_in_config(config)
        except RefusedError:
            return None
        kind, step = self._kind_and_step(path.name)
        seed = config.get(self.convention.seed_key)
        return Run(
            folder=path.parent,
            group=group,
            layernorm=layernorm,
            regime=regime,
            seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
            config=config,
            files=(CheckpointFile(path, self.sizes[path], kind, step if info.iters_done is None else info.iters_done),),
            record=None,
            cell=cell_of(group, config, self.convention),
            measured=None,
        )

    def _group_in_path(self, path: PurePosixPath) -> str | None:
        """The group whose folder a file lies in, where it lies as deep as a checkpoint of a tree does."""
        parts = path.parts
        inside = len(parts) >= 5 and self.convention.folders.parse_task(parts[3]) is not None
        return parts[2] if inside else None

    def _group_in_config(self, config: Mapping[str, Any]) -> str:
        said = config.get(self.convention.group_key)
        return placement.group_of(config, said if isinstance(said, str) else None, self.convention)[0]

    def _kind_and_step(self, name: str) -> tuple[str | None, int | None]:
        try:
            parsed = naming.naming_of(self.convention).parse(name)
        except RefusedError:
            return None, None
        return parsed.prefix.name, parsed.step

    def _lost(self) -> tuple[Lost, ...]:
        lost = [
            Lost(folder=folder, run=run, cell=cell_of(run.group, run.config, self.convention))
            for folder, runs in self.scan.overwritten.items()
            for run in runs
        ]
        return tuple(sorted(lost, key=self._lost_order))

    def _lost_order(self, lost: Lost) -> tuple[Any, ...]:
        cell = cell_order(lost.cell, self.convention)
        return wording.path_key(lost.folder), cell, seed_order(lost.run.seed), lost.run.run_id


def seed_order(seed: int | None) -> tuple[bool, int]:
    """A key that sorts seeds, an unknown one last."""
    return seed is None, seed or 0


def cell_order(cell: CellKey | None, convention: Convention) -> list[int]:
    """A key that sorts the cells of a group as its grid does, what fills none first."""
    pattern = placement.group_pattern(cell[0], convention) if cell is not None else None
    if cell is None or pattern is None:
        return []
    grid = convention.grids[pattern.grid]
    axes = grid.regimes[pattern.regime].axes
    return [grid.axes[axis].index(value) for axis, value in zip(axes, cell[1], strict=True)]


def _count_grid(statistics: TreeStatistics, pattern: GroupPattern) -> GridCount:
    convention = statistics.convention
    grid = convention.grids[pattern.grid]
    groups = [group.name for group in statistics.grid_groups if group.pattern is pattern]
    axes = grid.regimes[pattern.regime].axes
    combinations = [
        tuple(c.values[axis] for axis in axes) for c in grids.cells(grid, pattern.regime, convention.numbering)
    ]
    kinds = {prefix.name for prefix in convention.prefixes}
    held: dict[tuple[CellKey | None, int | None], list[set[str]]] = defaultdict(list)
    whole: set[tuple[CellKey | None, int | None]] = set()
    for run in statistics.runs:
        there = {file.kind for file in run.files if file.kind in kinds}
        held[run.cell, run.seed].append(there)
        if run.standing(convention).extent is Extent.COMPLETE:
            whole.add((run.cell, run.seed))
    lost = {(item.cell, item.run.seed) for item in statistics.lost}
    states: Counter[str] = Counter()
    files = 0
    for slot in (((group, values), seed) for group in groups for values in combinations for seed in grid.seeds):
        found = held.get(slot, [])
        files += len(set().union(*found))
        if slot in whole:
            states["complete"] += 1
        elif any(found):
            states["partial"] += 1
        else:
            states["overwritten" if slot in lost else "missing"] += 1
    return GridCount(
        pattern=pattern,
        groups=len(groups),
        configurations=len(combinations),
        seeds=len(grid.seeds),
        kinds=len(kinds),
        complete=states["complete"],
        partial=states["partial"],
        overwritten=states["overwritten"],
        missing=states["missing"],
        files=files,
    )


def _natural(paths: Iterable[PurePosixPath]) -> tuple[PurePosixPath, ...]:
    return tuple(sorted(paths, key=wording.path_key))


def _run_order(run: Run) -> tuple[Any, ...]:
    return wording.path_key(run.folder), seed_order(run.seed), [wording.path_key(file.path) for file in run.files]
