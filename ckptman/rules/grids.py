"""The grid: task ids and what they stand for, in every numbering.

A task id is the index of a combination of axis values in their cross product, the last axis varying fastest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptman.rules import comparing
from ckptman.rules.facets import Scalar
from ckptman.rules.terms import Convention, Grid, GroupPattern
from ckptman.text import RefusedError, UsageError


@dataclass(frozen=True)
class Cell:
    """One configuration of a regime: its task id, and its value on each axis."""

    task: int
    values: Mapping[str, Scalar]


def group_values(
    pattern: GroupPattern, grid: Grid, more: Mapping[str, Scalar] | None = None
) -> tuple[dict[str, Scalar], ...]:
    """What the names of a pattern's groups hold, for each group of the grid; none where the grid does not say it.

    Args:
        pattern: The pattern.
        grid: Its grid.
        more: Values of what the grid does not say.
    """
    found: dict[str, dict[str, Scalar]] = {}
    fixed = {key: (value,) for key, value in (more or {}).items()}
    for known in grid.across or ({},):
        product = {**fixed, **known}
        if all(hole in product for hole in pattern.holes):
            for values in itertools.product(*(product[hole] for hole in pattern.holes)):
                held = dict(zip(pattern.holes, values, strict=True))
                found.setdefault(pattern.format(held), held)
    return tuple(found.values())


def group_names(convention: Convention) -> tuple[str, ...]:
    """The groups of all grids."""
    return tuple(
        pattern.format(values)
        for pattern in convention.groups
        for values in group_values(pattern, convention.grids[pattern.grid])
    )


def cells(grid: Grid, regime: str, numbering: str) -> tuple[Cell, ...]:
    """All configurations of a regime, by task id; several share an id where the numbering leaves an axis outside."""
    axes = grid.regimes[regime].axes
    inside = _inside(grid, regime, numbering)
    ids = {combination: task for task, combination in enumerate(itertools.product(*(grid.axes[a] for a in inside)))}
    found = []
    for combination in itertools.product(*(grid.axes[axis] for axis in axes)):
        values = dict(zip(axes, combination, strict=True))
        found.append(Cell(task=ids[tuple(values[axis] for axis in inside)], values=values))
    return tuple(sorted(found, key=lambda cell: cell.task))


def task_count(grid: Grid, regime: str, numbering: str) -> int:
    """Number of task ids of a regime."""
    return len({cell.task for cell in cells(grid, regime, numbering)})


def task_of(grid: Grid, regime: str, numbering: str, config: Mapping[str, Any]) -> int:
    """The task id of a configuration.

    Raises:
        RefusedError: (`off-grid`) if a value of the configuration is not one of its axis.
    """
    task = 0
    for axis in _inside(grid, regime, numbering):
        task = task * len(grid.axes[axis]) + _index(grid, axis, config)
    for axis in outside(grid, regime, numbering):
        _index(grid, axis, config)
    return task


def outside(grid: Grid, regime: str, numbering: str) -> tuple[str, ...]:
    """The axes that have no part in the task id, so that their values share a task folder."""
    return grid.numberings.get(numbering, {}).get(regime, ())


def regime_label(regime: str) -> str:
    """A part of a grid in front of `task`, for people, such as `fixed `; empty for the only one."""
    return f"{regime} " if regime else ""


def cells_of_task(grid: Grid, regime: str, numbering: str, task: int) -> tuple[Cell, ...]:
    """The configurations with this task id.

    Raises:
        UsageError: (`no-such-task`) naming the ids there are.
    """
    found = tuple(cell for cell in cells(grid, regime, numbering) if cell.task == task)
    if not found:
        last = task_count(grid, regime, numbering) - 1
        raise UsageError(
            f"there is no {regime_label(regime)}task {task} in the {numbering!r} numbering: its ids are 0 to {last}",
            code="no-such-task",
            fix="See all of them with: ckptman task",
        )
    return found


def config_values(
    group: GroupPattern, grid: Grid, held: Mapping[str, Scalar], cell: Cell, convention: Convention
) -> dict[str, Scalar]:
    """The configuration values that a group, what its name holds, and a cell decide.

    Args:
        group: The pattern of the group.
        grid: Its grid.
        held: What the group's name holds.
        cell: The task, and the values of its axes.
        convention: Says which configuration keys are meant.
    """
    values: dict[str, Scalar] = {}
    for name, value in {**group.facets, **held}.items():
        if (key := convention.key_of(name)) is not None:
            values[key] = value
    values.update(cell.values)
    for key, value in grid.regimes[group.regime].set.items():
        values[key] = held.get(value, value) if isinstance(value, str) else value
    return values


def _inside(grid: Grid, regime: str, numbering: str) -> tuple[str, ...]:
    left_out = outside(grid, regime, numbering)
    return tuple(axis for axis in grid.regimes[regime].axes if axis not in left_out)


def _index(grid: Grid, axis: str, config: Mapping[str, Any]) -> int:
    value = config.get(axis)
    for index, known in enumerate(grid.axes[axis]):
        if comparing.same_value(value, known):
            return index
    if axis not in config:
        raise RefusedError(
            f"the configuration has no {axis} where the grid {grid.name!r} needs one",
            code="off-grid",
            fix="If the file's name says it, pass --trust name.",
        )
    listed = ", ".join(str(known) for known in grid.axes[axis])
    raise RefusedError(
        f"{axis} = {value!r} is not on the grid {grid.name!r}, which has {axis} in {listed}",
        code="off-grid",
        fix=f"Add the value to grids.{grid.name}.axes.{axis} in ckptman.yaml, or give its group a grid of its own.",
    )
