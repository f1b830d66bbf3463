"""The grid: task ids and what they stand for, in every numbering.

A task id is the index of a combination of axis values in their cross product, the last axis varying fastest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptman.rules import comparing
from ckptman.rules.terms import Convention, Grid, GroupPattern, Scalar
from ckptman.text import RefusedError, UsageError


@dataclass(frozen=True)
class Cell:
    """One configuration of a regime: its task id, and its value on each axis."""

    task: int
    values: Mapping[str, Scalar]


def group_names(convention: Convention) -> tuple[str, ...]:
    """The groups of all grids, of those whose names hold nothing but K."""
    there = [pattern for pattern in convention.groups if set(pattern.parse(pattern.example) or ()) == {"K"}]
    return tuple(pattern.format({"K": k}) for pattern in there for k in convention.grids[pattern.grid].k)


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
    return grid.numberings[numbering].get(regime, ())


def cells_of_task(grid: Grid, regime: str, numbering: str, task: int) -> tuple[Cell, ...]:
    """The configurations with this task id.

    Raises:
        UsageError: (`no-such-task`) naming the ids there are.
    """
    found = tuple(cell for cell in cells(grid, regime, numbering) if cell.task == task)
    if not found:
        last = task_count(grid, regime, numbering) - 1
        raise UsageError(
            f"there is no {regime} task {task} in the {numbering!r} numbering: its ids are 0 to {last}",
            code="no-such-task",
            fix="See all of them with: ckptman task",
        )
    return found


def config_values(group: GroupPattern, grid: Grid, k: int, cell: Cell, convention: Convention) -> dict[str, Scalar]:
    """The configuration values that a group, K and a cell decide: axes, LayerNorm, and the trained lengths."""
    families = convention.families
    values: dict[str, Scalar] = {families.layernorm_config: group.layernorm, families.k_config: k, **cell.values}
    for key, value in grid.regimes[group.regime].set.items():
        values[key] = k if value == "K" else value
    return values


def _inside(grid: Grid, regime: str, numbering: str) -> tuple[str, ...]:
    left_out = outside(grid, regime, numbering)
    return tuple(axis for axis in grid.regimes[regime].axes if axis not in left_out)


def _index(grid: Grid, axis: str, config: Mapping[str, Any]) -> int:
    value = config.get(axis)
    for index, known in enumerate(grid.axes[axis]):
        if comparing.same_value(value, known):
            return index
    listed = ", ".join(str(known) for known in grid.axes[axis])
    raise RefusedError(
        f"{axis} = {value!r} is not on the grid {grid.name!r}, which has {axis} in {listed}",
        code="off-grid",
        fix=f"Add the value to grids.{grid.name}.axes.{axis} in ckptman.yaml, or give its group a grid of its own.",
    )
