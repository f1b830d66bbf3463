"""Checks of the tree against the grid: which of its groups, configurations and seeds are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ckptman.rules import Convention, GroupPattern, comparing, grids, placement, terms
from ckptman.tree import Finding, Inventory, contents, finding, records

_SEPARATELY = "Train the missing {}, each into a folder of its own, so that none overwrites another, and ingest {}."


_MOST_LISTED = 8
"""Configurations that one finding names."""


@dataclass
class _Present:
    """A configuration of a group, and what the tree has of it."""

    cell: grids.Cell
    runs: list[contents.Run] = field(default_factory=list)
    passed: set[int] = field(default_factory=set)
    """The seeds of the runs that passed and fill the cell."""
    overwritten: list[records.OverwrittenRun] = field(default_factory=list)
    without_files: list[records.OverwrittenRun] = field(default_factory=list)
    refused: list[records.RefusedFile] = field(default_factory=list)

    @property
    def seeds(self) -> set[int]:
        """Those of the runs that fill the cell."""
        filling = (run.place for run in self.runs if run.cell is not None)
        return self.passed | {place.seed for place in filling if place is not None and place.seed is not None}

    @property
    def is_filled(self) -> bool:
        """Whether a run fills the cell; of others, the group alone is called so, and the family is another one."""
        return bool(self.passed) or any(run.cell is not None for run in self.runs)


@dataclass(frozen=True)
class _Group:
    """A group that is in the tree, of a known pattern."""

    name: str
    pattern: GroupPattern
    grid: terms.Grid
    held: Mapping[str, terms.Scalar]
    """What its name holds."""
    present: tuple[_Present, ...]

    def of(self, config: Mapping[str, object]) -> _Present | None:
        """The part of the grid that a configuration is of."""
        fitting = (
            item
            for item in self.present
            if all(
                key in config and comparing.same_value(config[key], value) for key, value in item.cell.values.items()
            )
        )
        return next(fitting, None)

    def values(self, cell: contents.CellKey) -> dict[str, terms.Scalar]:
        """The value of each axis in a cell."""
        return dict(zip(self.grid.regimes[self.pattern.regime].axes, cell[1], strict=True))


def check_grid(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Look for what the grid has and the tree has not, and for what no run of the grid has."""
    groups = _groups(inventory, convention)
    unread = [
        path
        for path, _ in inventory.scan.unreadable
        if path.name not in (records.OVERWRITTEN_FILE, records.REFUSED_FILE)
    ]
    for group in groups:
        absent: dict[PurePosixPath, list[_Present]] = defaultdict(list)
        is_filled = any(item.is_filled for item in group.present)
        for item in group.present:
            for run in item.runs:
                yield from _check_settings(run, group, item, convention)
            if is_filled:
                yield from _check_seeds(group, item, unread, absent, convention)
        yield from _check_absent(group, absent, convention)
    yield from _check_groups({group.name for group in groups}, convention)


def _groups(inventory: Inventory, convention: Convention) -> list[_Group]:
    """The groups of known pattern that have at least one run, by name, with their runs and overwritten runs."""
    runs: dict[str, list[contents.Run]] = defaultdict(list)
    for run in inventory.runs:
        if run.place is not None and run.fills:
            runs[run.place.group].append(run)
    lost = _by_group(inventory.scan.overwritten.values())
    without_files = _by_group(inventory.scan.without_files.values())
    groups = []
    for name in sorted(runs.keys() | {name for name, _ in inventory.passed.seeds}):
        group = _group(name, convention)
        if group is not None:
            for run in runs[name]:
                if (present := group.of(run.config)) is not None:
                    present.runs.append(run)
            for item in lost[name]:
                if (present := group.of(item.config)) is not None:
                    present.overwritten.append(item)
            for item in without_files[name]:
                if (present := group.of(item.config)) is not None:
                    present.without_files.append(item)
            for file in inventory.scan.refused:
                if file.group == name and (present := group.of(file.config)) is not None:
                    present.refused.append(file)
            for (of, cell), seeds in inventory.passed.seeds.items():
                if of == name and cell is not None and (present := group.of(group.values(cell))) is not None:
                    present.passed |= seeds
            groups.append(group)
    return groups


def _by_group(lists: Iterable[Iterable[records.OverwrittenRun]]) -> dict[str, list[records.OverwrittenRun]]:
    found: dict[str, list[records.OverwrittenRun]] = defaultdict(list)
    for runs in lists:
        for run in runs:
            found[run.group].append(run)
    return found


def _group(name: str, convention: Convention) -> _Group | None:
    pattern = placement.group_pattern(name, convention)
    if pattern is None:
        return None
    grid = convention.grids[pattern.grid]
    return _Group(
        name=name,
        pattern=pattern,
        grid=grid,
        held=pattern.parse(name) or {},
        present=tuple(_Present(cell) for cell in grids.cells(grid, pattern.regime, convention.numbering)),
    )


def check_settings(run: contents.Run, convention: Convention) -> Iterator[Finding]:
    """As `check_grid`, what is about one run alone."""
    if run.place is not None:
        name = run.place.group
        for message in run.once(("settings", name, convention), lambda: _other_settings(run, name, convention)):
            yield finding("off-grid", run.folder, message)


def _other_settings(run: contents.Run, name: str, convention: Convention) -> list[str]:
    group = _known_group(name, convention)
    item = None if group is None else group.of(run.config)
    if group is None or item is None:
        return []
    return [found.message for found in _check_settings(run, group, item, convention)]


@lru_cache(maxsize=256)
def _known_group(name: str, convention: Convention) -> _Group | None:
    """The group without any run."""
    return _group(name, convention)


def _check_settings(run: contents.Run, group: _Group, item: _Present, convention: Convention) -> Iterator[Finding]:
    """Whether a run has what the group's regime fixes, such as the shortest trained list."""
    expected = grids.config_values(group.pattern, group.grid, group.held, item.cell, convention)
    differences = [
        f"{key} is {run.config[key]!r}, where every run of {group.name} has {value!r}"
        for key, value in expected.items()
        if key in run.config and not comparing.same_value(run.config[key], value)
    ]
    if differences:
        yield finding("off-grid", run.folder, "; ".join(differences))


def _check_seeds(
    group: _Group,
    item: _Present,
    unread: Iterable[PurePosixPath],
    absent: dict[PurePosixPath, list[_Present]],
    convention: Convention,
) -> Iterator[Finding]:
    """Look for the seeds of a configuration; one of which nothing is known goes to `absent`."""
    missing = [seed for seed in group.grid.seeds if seed not in item.seeds]
    if not missing:
        return
    path = _folder_of(group, item, convention)
    if any(path.is_relative_to(other) or other.is_relative_to(path) for other in unread):
        return  # what is missing may be there
    what = f"{group.name} task {item.cell.task} ({_brief(item.cell, convention)})"
    lost = _overwritten(item, missing)
    refused = [file for file in item.refused if file.seed is None or file.seed in missing]
    fix = _SEPARATELY.format("seeds", "them") if item.overwritten and lost and item.is_filled else None
    for file in refused:
        whose = "one of them" if file.seed is None else f"seed {file.seed}"
        where = "in " if file.what else ""
        lost += f"; {whose} may be {where}{Path(file.root, file.path)}, which ingest {file.how or 'refused'}: "
        lost += file.message
        fix = file.advice
    if item.is_filled:
        there = ", ".join(map(str, sorted(item.seeds))) or "none"
        yield finding(
            "missing-seed",
            path,
            f"{what} lacks {_seeds(missing)} (there: {there}){lost}",
            fix,
            item.cell.values,
        )
    elif lost:
        yield finding("missing-task", path, f"{what} has no run{lost}", fix, item.cell.values)
    else:
        absent[path].append(item)


def _check_absent(
    group: _Group, absent: Mapping[PurePosixPath, list[_Present]], convention: Convention
) -> Iterator[Finding]:
    """The configurations of which there is nothing: those of one folder are told together."""
    by_parent: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for path in absent:
        by_parent[path.parent].append(path)
    for parent, paths in by_parent.items():
        items = [item for path in paths for item in absent[path]]
        said = [f"task {item.cell.task} ({_brief(item.cell, convention)})" for item in items]
        if len(said) == 1:
            message = f"{group.name} {said[0]} has no run"
            yield finding("missing-task", paths[0], message, values=items[0].cell.values)
        else:
            more = len(said) - _MOST_LISTED
            listed = "; ".join(said[:_MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")
            message = f"{len(said)} configurations of {group.name} have no run: {listed}"
            yield finding("missing-task", parent if len(paths) > 1 else paths[0], message)


def _folder_of(group: _Group, item: _Present, convention: Convention) -> PurePosixPath:
    """The task folder of a cell, as far as its family is known."""
    values = grids.config_values(group.pattern, group.grid, group.held, item.cell, convention)
    family = placement.family_of_values(group.pattern, values, convention)
    if len(family) < len(convention.family_facets):
        return PurePosixPath(group.name)
    return convention.folders.folder(tuple(family.values()), group.name, item.cell.task)


def _overwritten(item: _Present, missing: list[int]) -> str:
    """Which of the missing seeds were overwritten, and by whom; and which W&B knows of that left no file."""
    said = [
        f"seed {run.seed} was overwritten: run {run.run_id}, by {' and '.join(run.overwritten_by) or 'an unknown run'}"
        for run in sorted(item.overwritten, key=lambda run: (str(run.seed), run.run_id))
        if run.seed in missing
    ]
    said += [
        f"seed {run.seed}: W&B has run {run.run_id}, and no file of it is known"
        for run in sorted(item.without_files, key=lambda run: (str(run.seed), run.run_id))
        if run.seed in missing
    ]
    return f"; {'; '.join(said)}" if said else ""


def _seeds(missing: list[int]) -> str:
    return f"{'seed' if len(missing) == 1 else 'seeds'} {', '.join(map(str, missing))}"


def _brief(cell: grids.Cell, convention: Convention) -> str:
    return ", ".join(convention.axis(axis).brief(value) for axis, value in cell.values.items())


def _check_groups(present: set[str], convention: Convention) -> Iterator[Finding]:
    """Groups of the grid of which there is nothing. A pattern whose names hold more than the grid says has no list."""
    for pattern in convention.groups:
        families = placement.families_of(pattern, convention)
        above = convention.folders.family_folder(families[0]) if len(families) == 1 else PurePosixPath()
        for held in grids.group_values(pattern, convention.grids[pattern.grid]):
            name = pattern.format(held)
            if name not in present:
                yield finding("missing-group", above / name, f"no run of {name} ({pattern.title}) is there")
