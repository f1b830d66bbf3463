"""What the shell completes: names, numbers, codes and keys of the tree that the current folder lies in.

Quick, since somebody waits for it, and without a word where something goes wrong: it is no place for an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ckptman.text import wording

if TYPE_CHECKING:
    from ckptman.rules import terms

_MOST_RUNS = 2_000
"""Runs that are looked at."""

_MOST_RECORDS = 3
"""Records that are read for the names of metrics."""

_Completion = Callable[[typer.Context, str], list[str]]


def _last_of_list(known: Callable[[typer.Context], Iterable[str]]) -> _Completion:
    """Complete the last part of a list with commas."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        head, comma, last = incomplete.rpartition(",")
        minus = "-" if last.startswith("-") else ""  # of a key to sort by
        try:
            names = [name for name in dict.fromkeys(known(ctx)) if name.startswith(last.removeprefix("-"))]
        except Exception:
            return []
        return [head + comma + minus + name for name in sorted(names, key=wording.natural_key)]

    complete.__doc__ = known.__doc__
    return complete


@_last_of_list
def groups(ctx: typer.Context) -> Iterator[str]:
    """Groups of the grid and of the tree."""
    from ckptman.cli.app import convention_for
    from ckptman.rules import grids

    root = _tree(ctx)
    yield from grids.group_names(convention_for(ctx, root))
    yield from (levels.group for levels in _levels(ctx, root) if levels.group)


@_last_of_list
def tasks(ctx: typer.Context) -> Iterator[str]:
    """Task ids of the grid and of the tree."""
    from ckptman.cli.app import convention_for
    from ckptman.rules import grids

    root = _tree(ctx)
    rules = convention_for(ctx, root)
    for pattern in rules.groups:
        yield from map(str, range(grids.task_count(rules.grids[pattern.grid], pattern.regime, rules.numbering)))
    yield from (str(levels.task) for levels in _levels(ctx, root) if levels.task is not None)


@_last_of_list
def seeds(ctx: typer.Context) -> Iterator[str]:
    """Seeds of the grid and of the tree."""
    from ckptman.cli.app import convention_for

    root = _tree(ctx)
    for grid in convention_for(ctx, root).grids.values():
        yield from map(str, grid.seeds)
    yield from (found[0] for run in _runs(root) if (found := re.search(r"[0-9]+", run.name)))


@_last_of_list
def lengths(ctx: typer.Context) -> Iterator[str]:
    """K's of the grid."""
    from ckptman.cli.app import convention_for

    for grid in convention_for(ctx, _tree(ctx)).grids.values():
        yield from map(str, grid.k)


@_last_of_list
def codes(ctx: typer.Context) -> Iterator[str]:
    """Codes of findings."""
    from ckptman.tree import findings

    yield from findings.KINDS


@_last_of_list
def explained(ctx: typer.Context) -> Iterator[str]:
    """Codes of findings and of refusals."""
    from ckptman.formats import refusals
    from ckptman.tree import findings

    yield from (*findings.KINDS, *refusals.REFUSALS, "list")


@_last_of_list
def figures(ctx: typer.Context) -> Iterator[str]:
    """Figures that can be drawn."""
    from ckptman.cli.app import convention_for
    from ckptman.documents import data

    yield from data.figures_of(convention_for(ctx, _tree(ctx)))


@_last_of_list
def keys(ctx: typer.Context) -> Iterator[str]:
    """Keys of the configuration, of a checkpoint, and of the metrics that the first runs of the tree have."""
    from ckptman.cli.app import convention_for
    from ckptman.rules import TrainConfig
    from ckptman.tree import records

    row = (name for name in records.CheckpointRow.__dataclass_fields__ if name != "family")
    facets = (facet.name for facet in convention_for(ctx, _tree(ctx)).told_facets)
    yield from (*TrainConfig.__dataclass_fields__, *row, *facets, "final", "k", "gen_em")
    for run in islice(_runs(_tree(ctx)), _MOST_RECORDS):
        yield from records.read_record(run).metrics


@_last_of_list
def conventions(ctx: typer.Context) -> Iterator[str]:
    """Conventions that come with ckptman."""
    from ckptman.rules import convention_file

    yield from convention_file.shipped()


@_last_of_list
def settings(ctx: typer.Context) -> Iterator[str]:
    """Keys of the configuration that a command can set."""
    from ckptman.cli.recipe import NOT_SET
    from ckptman.rules import TrainConfig

    yield from (f"{key}=" for key in TrainConfig.__dataclass_fields__ if key not in NOT_SET)


def _tree(ctx: typer.Context) -> Path:
    from ckptman.cli.options import tree_of

    return tree_of(ctx, ctx.params.get("root"))


def _runs(root: Path) -> Iterator[Path]:
    """Run folders of the tree."""
    from ckptman.tree import records

    return (Path(folder) for folder, _, names in islice(os.walk(root), _MOST_RUNS) if records.RUN_FILE in names)


def _levels(ctx: typer.Context, root: Path) -> Iterator[terms.Levels]:
    """What the paths of the tree's run folders say."""
    from ckptman.cli.app import convention_for

    layout = convention_for(ctx, root).folders
    return (levels for run in _runs(root) if (levels := layout.parse(run.relative_to(root))) is not None)
