"""What is in a tree, counted: its files, runs and configurations, and the cells of the grid that they fill.

`run.json` says what a file is; whether it is there, and how large it is, the disk says. A file that no `run.json` names
(in an unfinished run, or in a tree sorted by hand) is told by its own header.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import merge
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.rules import Convention, GroupPattern, comparing, grids, placement, terms
from ckptman.text import wording
from ckptman.tree import counting
from ckptman.tree.contents import (
    CellKey,
    CheckpointFile,
    Depth,
    Inventory,
    Passed,
    cell_of,
    inventory_of,
    take_inventory,
)
from ckptman.tree.counting import CountedFile as CountedFile
from ckptman.tree.counting import CountedRun as CountedRun
from ckptman.tree.counting import SharedConfig as SharedConfig
from ckptman.tree.counting import Sharing as Sharing
from ckptman.tree.metrics import Generalization, from_metrics, over_runs, wilson_interval
from ckptman.tree.numbering import numbering_of
from ckptman.tree.records import REPORT, RUN_FILE, OverwrittenRun, RefusedFile
from ckptman.tree.standing import Extent


@dataclass(frozen=True)
class Lost:
    """A W&B run without checkpoints: most often they were overwritten."""

    folder: PurePosixPath
    """The task folder that remembers it."""
    run: OverwrittenRun
    cell: CellKey | None


@dataclass(frozen=True)
class Refused:
    """A file that ingest refused."""

    file: RefusedFile
    cell: CellKey | None
    """That of the run which it seems to be of."""


@dataclass(frozen=True)
class Configuration:
    """Runs of one task that differ in nothing but their seed, and in where and how they were computed."""

    folder: PurePosixPath
    """Their task folder."""
    runs: tuple[CountedRun, ...]
    """At least one."""
    lost: tuple[Lost, ...]
    """Those of it whose checkpoints were overwritten."""
    without_files: tuple[Lost, ...]
    """Its other W&B runs of which no file is known to be."""
    convention: Convention

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of the first run."""
        return self.runs[0].config

    @property
    def family(self) -> terms.Family:
        """Its value of each facet that is a level of the tree."""
        family = self.runs[0].family
        assert family is not None  # a run without one is not counted
        return family

    @cached_property
    def generalization(self) -> Generalization | None:
        """Mean and standard deviation over its measured runs; None where none is measured."""
        return over_runs((run.measured.value for run in self.runs if run.measured is not None), self.convention)

    @cached_property
    def logged(self) -> Generalization | None:
        """The same over all its W&B runs, with files or without, by what they logged; None where none did."""
        found: dict[object, float | None] = {}  # one in several folders is one
        for run in self.runs:
            if run.is_recorded:
                found.setdefault(run.folder if run.run_id is None else (run.run_id, run.seed), run.logged)
        for item in (*self.lost, *self.without_files):
            key = item.run.run_id, item.run.seed
            if key not in found:
                found[key] = from_metrics(item.run.metrics, item.run.config, self.convention)
        return over_runs((value for value in found.values() if value is not None), self.convention)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean over its measured runs, each counted alike, from their lists; None without one."""
        known = [run.measured for run in self.runs if run.measured is not None and run.measured.is_share]
        if not known:
            return None
        # As many lists tell as much of that mean, if each run had an equal part of them.
        lists = round(len(known) ** 2 / sum(1 / item.lists for item in known))
        share = sum(min(max(item.value, 0.0), 1.0) for item in known) / len(known)
        return wilson_interval(round(share * lists), lists)

    @property
    def overlaps(self) -> bool:
        """Whether it was trained on lengths that generalization is measured on."""
        keys = self.convention.trained_keys
        longest = None if keys is None else comparing.whole(self.config.get(keys[1]))
        bounds = self.convention.metric.bounds(self.config)
        return longest is not None and bounds is not None and longest >= bounds[0]


@dataclass(frozen=True)
class GridGroup:
    """A group that a grid expects."""

    name: str
    held: Mapping[str, terms.Scalar]
    """What its name holds."""
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
    """Files of a run; 0 where no recipe says them."""
    complete: int
    """Runs with a file of each kind; with those of the next fields they add up to the runs that are expected."""
    partial: int
    refused: int
    """Runs of which ingest refused a file, and that are not complete without it."""
    overwritten: int
    missing: int
    files: int
    """Files found, of a run that is expected: all, or at most one of each kind where a recipe says which."""

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

    inventory: Inventory
    """The tree, but for the runs that are `counted`."""
    convention: Convention
    counted: Sequence[CountedRun] = ()

    @property
    def files(self) -> Iterator[CountedFile]:
        """Every checkpoint file that exists, wherever it lies; files in kept W&B folders are none."""
        for run in self.counted:
            yield from run.files
        for file in self.inventory.files:
            is_folder = file.entry is not None and bool(file.entry.parts)
            yield CountedFile(
                file.path.parent, file.path.name, file.kind, file.step, is_folder, file.is_of_listed_size, file.size
            )

    @cached_property
    def file_count(self) -> int:
        """How many they are."""
        return sum(len(run.sizes) for run in self.counted) + len(self.inventory.files)

    @cached_property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(sum(run.sizes) for run in self.counted) + sum(file.size for file in self.inventory.files)

    @cached_property
    def runs(self) -> tuple[CountedRun, ...]:
        """Those whose family and group are known: finished ones, and those that only their files' headers tell of."""
        known = (run for run in self.inventory.runs if run.family is not None and run.group)
        sharing = Sharing(self.convention)
        others = sorted((sharing.counted(counting.told(run), run) for run in known), key=_run_order)
        return tuple(merge(self.counted, others, key=_run_order) if others else self.counted)

    @cached_property
    def filling(self) -> tuple[CountedRun, ...]:
        """Those that count to the grid: files in the folder of another run are missed at their own."""
        return tuple(run for run in self.runs if run.fills)

    @cached_property
    def unknown(self) -> tuple[PurePosixPath, ...]:
        """Checkpoint files of which neither a `run.json` nor their header says what they are."""
        runs = (run for run in self.inventory.runs if run.family is not None and run.group)
        known = {file.path for run in runs for file in run.files}
        return _natural(file.path for file in self.inventory.files if file.path not in known)

    @property
    def unfinished(self) -> tuple[PurePosixPath, ...]:
        """Run folders without a `run.json` that can be used."""
        return _natural(run.path for run in self.inventory.scan.runs if run.record is None)

    @cached_property
    def absent(self) -> tuple[PurePosixPath, ...]:
        """Checkpoints that a `run.json` names and that are not there."""
        here = {file.path for file in self.inventory.files}
        named = (folder / entry.file for folder, record in self.inventory.scan.records for entry in record.checkpoints)
        return _natural(path for path in named if path not in here)

    @cached_property
    def lost(self) -> tuple[Lost, ...]:
        """The runs whose checkpoints were overwritten."""
        return self._listed(self.inventory.scan.overwritten)

    @cached_property
    def without_files(self) -> tuple[Lost, ...]:
        """The other W&B runs of which no file is known to be, whatever became of it."""
        return self._listed(self.inventory.scan.without_files)

    @cached_property
    def refused(self) -> tuple[Refused, ...]:
        """What ingest refused, as far as it is still there."""
        files = self.inventory.scan.refused
        return tuple(Refused(file, cell_of(file.group or "", file.config, self.convention)) for file in files)

    @cached_property
    def refused_slots(self) -> Mapping[tuple[CellKey, int | None], Sequence[Refused]]:
        """The same by the cell and the seed of the runs they seem to be of; where nobody knows the seed, by each one of
        the cell of which the end is not here."""
        found: dict[tuple[CellKey, int | None], list[Refused]] = defaultdict(list)
        of_any = {item.cell for item in self.refused if item.file.seed is None}
        ended = {(run.cell, run.seed) for run in self.filling if run.cell in of_any and run.standing.has_final}
        for item in self.refused:
            if item.cell is not None:
                for seed in self._seeds_of(item.cell) if item.file.seed is None else (item.file.seed,):
                    if item.file.seed is not None or (item.cell, seed) not in ended:
                        found[item.cell, seed].append(item)
        return found

    def _seeds_of(self, cell: CellKey) -> Sequence[int]:
        pattern = placement.group_pattern(cell[0], self.convention)
        return () if pattern is None else self.convention.grids[pattern.grid].seeds

    def _listed(self, by_folder: Mapping[PurePosixPath, Iterable[OverwrittenRun]]) -> tuple[Lost, ...]:
        found = (
            Lost(folder=folder, run=run, cell=cell_of(run.group, run.config, self.convention))
            for folder, runs in by_folder.items()
            for run in runs
        )
        return tuple(sorted(found, key=self._lost_order))

    def _lost_order(self, lost: Lost) -> tuple[Any, ...]:
        cell = cell_order(lost.cell, self.convention)
        return wording.path_key(lost.folder), cell, seed_order(lost.run.seed), lost.run.run_id

    @property
    def folders(self) -> tuple[PurePosixPath, ...]:
        """Every folder of the tree, but for those of `counted` runs, in kept W&B folders, and what `report` draws."""
        scan = self.inventory.scan
        folders = (item.path for item in scan.entries if item.kind == "folder" and not scan.is_kept(item.path))
        return _natural(path for path in folders if path.parts[0] != REPORT)

    @property
    def top_files(self) -> frozenset[str]:
        """Names of the files directly in the root."""
        return frozenset(
            entry.path.name
            for entry in self.inventory.scan.entries
            if entry.kind == "file" and len(entry.path.parts) == 1
        )

    @property
    def unreadable(self) -> tuple[PurePosixPath, ...]:
        """Folders that could not be listed, and records that could not be read."""
        scan = self.inventory.scan
        unread = (run.path / RUN_FILE for run in scan.runs if run.is_unread)
        return _natural([*(path for path, _ in scan.unreadable if not scan.is_kept(path)), *unread])

    @property
    def finished(self) -> tuple[CountedRun, ...]:
        """The runs that have a `run.json`."""
        return tuple(run for run in self.runs if run.is_recorded)

    @property
    def loose(self) -> tuple[CheckpointFile, ...]:
        """Files that no `run.json` names."""
        loose = (file for file in self.inventory.files if file.entry is None)
        return tuple(sorted(loose, key=lambda file: wording.path_key(file.path)))

    @cached_property
    def configurations(self) -> tuple[Configuration, ...]:
        """The runs, those of one configuration together."""
        ignored = {*self.convention.ignored_keys, self.convention.seed_key}
        by_folder: dict[tuple[PurePosixPath, str], list[CountedRun]] = defaultdict(list)
        for run in self.runs:
            folder = placement.task_folder_of(run.folder, self.convention) or placement.above_run(
                run.folder, self.convention
            )
            by_folder[folder, run.group].append(run)
        lost, without_files = _by_folder(self.lost), _by_folder(self.without_files)
        found = []
        for (folder, group), held in by_folder.items():
            overwritten = [item for item in lost[folder] if item.run.group == group]
            gone = [*overwritten, *(item for item in without_files[folder] if item.run.group == group)]
            pools = pooled([run.config for run in held], [item.run.config for item in gone], ignored)
            for here, others in pools:
                found.append(
                    Configuration(
                        folder,
                        tuple(held[index] for index in here),
                        tuple(gone[index] for index in others if index < len(overwritten)),
                        tuple(gone[index] for index in others if index >= len(overwritten)),
                        self.convention,
                    )
                )
        return tuple(found)

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
        """Whether the runs of a grid are expected here: some of it is."""
        patterns = [pattern for pattern in self.convention.groups if pattern.grid == grid]
        return any(pattern.parse(group) is not None for group in self._groups - {""} for pattern in patterns)

    @cached_property
    def _groups(self) -> frozenset[str]:
        """The groups that cells are filled of; an empty one for what fills none."""
        cells = {run.cell for run in self.runs} | {item.cell for item in self.refused}
        cells |= {item.cell for item in (*self.lost, *self.without_files)}
        return frozenset("" if cell is None else cell[0] for cell in cells)

    @property
    def outside_grid(self) -> Iterator[CountedFile]:
        """Files that no grid expects: other K or seeds, second runs of a seed, those in another run's folder, groups of
        no known pattern."""
        unknown = set(self.unknown)
        yield from (file for file in self.files if unknown and file.path in unknown)
        yield from (file for _, file, is_expected in self._of_runs if not is_expected)

    @cached_property
    def grid_files(self) -> Counter[str]:
        """How many files of each group the grids expect."""
        return Counter(run.group for run, _, is_expected in self._of_runs if is_expected)

    @property
    def _of_runs(self) -> Iterator[tuple[CountedRun, CountedFile, bool]]:
        """The files of each run, and whether a grid expects them."""
        expected = {group.name: group for group in self.grid_groups}
        kinds, are_told = _kinds(self.convention)
        filled = dict[Any, Any]()
        for run in self.runs:
            group = expected.get(run.group)
            seeds = self.convention.grids[group.pattern.grid].seeds if group is not None else ()
            is_expected = run.cell is not None and run.seed in seeds and run.fills
            for file in run.files:
                slot, owner = (run.cell, run.seed, file.kind), file.path if are_told else run.folder
                fits = is_expected and file.kind in kinds and filled.setdefault(slot, owner) == owner
                yield run, file, fits


def pooled(
    here: Sequence[Mapping[str, Any]], gone: Sequence[Mapping[str, Any]], ignored: Collection[str]
) -> list[tuple[list[int], list[int]]]:
    """Which runs of one place are of one configuration, and so count to one mean: for each configuration with files,
    the indices of its runs in `here`, and of its runs without files in `gone`.

    A run with files is of the configuration that has its keys and values: a trainer that knew a key may have done
    otherwise than one that did not. A run without files that is of none of these counts to the one with which it agrees
    on every key that both have, if there is one only: the published numbers count it so.
    """
    found: dict[str, tuple[list[int], list[int]]] = {}
    for index, config in enumerate(here):
        found.setdefault(comparing.fingerprint(config, ignored), ([], []))[0].append(index)
    firsts = comparing.ByConfiguration((bare(here[own[0]], ignored), key) for key, (own, _) in found.items())
    for index, config in enumerate(gone):
        key = comparing.fingerprint(config, ignored)
        agreeing = [key] if key in found else list(firsts.agreeing(bare(config, ignored)))
        if len(agreeing) == 1:
            found[agreeing[0]][1].append(index)
    return list(found.values())


def bare(config: Mapping[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """A configuration without the keys that are not compared."""
    return {key: value for key, value in config.items() if key not in ignored}


def _by_folder(items: Iterable[Lost]) -> Mapping[PurePosixPath, Sequence[Lost]]:
    found: dict[PurePosixPath, list[Lost]] = defaultdict(list)
    for item in items:
        found[item.folder].append(item)
    return found


def count_tree(root: Path, convention: Convention, *, whole: bool = False) -> TreeStatistics:
    """Count what is in a tree.

    Args:
        root: The tree.
        convention: Its rules.
        whole: Hold all that is known of each run, for the sake of those who ask for more than is counted.

    Raises:
        UsageError: (`no-tree`) where there is no folder `root`.
    """
    if not whole:
        scan, counted = counting.count_runs(root, convention)
        inventory = inventory_of(scan, convention, Depth.UNRECORDED)
        if not counted or numbering_of(inventory, convention) is convention:  # by which those were in their places
            return TreeStatistics(replace(inventory, passed=Passed(runs=len(counted))), convention, counted)
    return TreeStatistics(take_inventory(root, convention, Depth.UNRECORDED), convention)


def expected_groups(convention: Convention, found: Iterable[str] = ()) -> tuple[GridGroup, ...]:
    """The groups that the convention's grids expect.

    A pattern whose names hold more than the grid says expects its grid for those values of it that occur in `found`.
    """
    names = sorted(found, key=wording.natural_key)
    expected = {}
    for pattern in convention.groups:
        grid = convention.grids[pattern.grid]
        said = {key for product in grid.across for key in product}
        others: dict[tuple[tuple[str, terms.Scalar], ...], None] = {}
        if set(pattern.holes) <= said:
            others[()] = None
        for name in names:
            if (values := pattern.parse(name)) is not None:
                others[tuple((key, value) for key, value in values.items() if key not in said)] = None
        for more in others:
            for held in grids.group_values(pattern, grid, dict(more)):
                name = pattern.format(held)
                expected[name] = GridGroup(name=name, held=held, pattern=pattern)
    return tuple(expected.values())


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
    groups = {group.name: None for group in statistics.grid_groups if group.pattern is pattern}
    axes = grid.regimes[pattern.regime].axes
    combinations = [
        tuple(c.values[axis] for axis in axes) for c in grids.cells(grid, pattern.regime, convention.numbering)
    ]
    kinds, are_told = _kinds(convention)
    begun: set[tuple[CellKey | None, int | None]] = set()
    whole: set[tuple[CellKey | None, int | None]] = set()
    for run in statistics.filling:
        if run.group not in groups or run.seed not in grid.seeds:
            continue
        if any(file.kind in kinds for file in run.files):
            begun.add((run.cell, run.seed))
        if run.standing.extent is Extent.COMPLETE:
            whole.add((run.cell, run.seed))
    lost = {(item.cell, item.run.seed) for item in statistics.lost}
    states: Counter[str] = Counter()
    for slot in (((group, values), seed) for group in groups for values in combinations for seed in grid.seeds):
        if slot in whole:
            states["complete"] += 1
        elif slot in statistics.refused_slots:
            states["refused"] += 1
        elif slot in begun:
            states["partial"] += 1
        else:
            states["overwritten" if slot in lost else "missing"] += 1
    return GridCount(
        pattern=pattern,
        groups=len(groups),
        configurations=len(combinations),
        seeds=len(grid.seeds),
        kinds=len(kinds) if are_told else 0,
        complete=states["complete"],
        partial=states["partial"],
        refused=states["refused"],
        overwritten=states["overwritten"],
        missing=states["missing"],
        files=sum(statistics.grid_files[group] for group in groups),
    )


def _kinds(convention: Convention) -> tuple[set[str], bool]:
    """The kinds of checkpoints, and whether a recipe says when each is saved."""
    return {prefix.name for prefix in convention.prefixes}, all(prefix.step_config for prefix in convention.prefixes)


def _natural(paths: Iterable[PurePosixPath]) -> tuple[PurePosixPath, ...]:
    return tuple(sorted(paths, key=wording.path_key))


def _run_order(run: CountedRun) -> tuple[Any, ...]:
    return wording.path_key(run.folder), seed_order(run.seed), [wording.path_key(file.path) for file in run.files]
