"""Which numbering of the tasks a tree is sorted by: told by where its runs lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, TypeVar

from ckptman.rules import Convention, Place, placement
from ckptman.rules import naming as naming_rules
from ckptman.text import RefusedError, UsageError, wording
from ckptman.tree.records import TreeScan

OTHER_NUMBERING = "other-numbering"

_T = TypeVar("_T")

_Run = tuple[PurePosixPath, str]
"""A folder; and, where no run.json tells of its run, what the names of the files say of it."""


def numbering_of_tree(scan: TreeScan, convention: Convention) -> Convention:
    """The rules that a tree is sorted by, told by its `run.json` files and, where there is none, by the names of files.

    No checkpoint is read. See `fitting_numbering`.
    """
    return fitting_numbering(lambda rules: _misplaced(scan, rules), convention)


def require_numbering(scan: TreeScan, convention: Convention) -> None:
    """See to it that a tree is not sorted by another numbering than the one in force.

    Raises:
        UsageError: (`other-numbering`) if it is.
    """
    fitting = numbering_of_tree(scan, convention)
    if fitting.numbering != convention.numbering:
        moved = _misplaced(scan, convention) - _misplaced(scan, fitting)
        message, fix = other_numbering(len(moved), convention, fitting)
        raise UsageError(
            f"the tree {scan.root} is sorted by another numbering: {message}", code=OTHER_NUMBERING, fix=fix
        )


def fitting_numbering(misplaced: Callable[[Convention], Set[_T]], convention: Convention) -> Convention:
    """The rules given, or with another numbering where that one fits the tree.

    Another numbering fits if by it some runs are in their place that otherwise are not, and none the other way round.

    Args:
        misplaced: The runs that by these rules lie outside of their task folder.
        convention: The rules in force.
    """
    wrong = misplaced(convention)
    for name in numberings(convention) if wrong else ():
        other = replace(convention, numbering=name)
        if misplaced(other) < wrong:
            return other
    return convention


def numberings(convention: Convention) -> Iterator[str]:
    """The numberings that every grid has."""
    grids = convention.grids.values()
    for name in dict.fromkeys(name for grid in grids for name in grid.numberings):
        if all(name in grid.numberings for grid in grids):
            yield name


def other_numbering(count: int, given: Convention, fitting: Convention) -> tuple[str, str]:
    """What to say of `count` runs that are in their places by the `fitting` numbering alone, and what to do."""
    return (
        f"{wording.count_text(count, 'run')} would be misplaced by the {given.numbering!r} numbering, which is in "
        f"force; by the {fitting.numbering!r} numbering they are in their places",
        f"Pass --numbering {fitting.numbering}, or write `numbering: {fitting.numbering}` into the tree's "
        "ckptman.yaml.",
    )


def _misplaced(scan: TreeScan, convention: Convention) -> set[_Run]:
    """The runs that lie outside of their task folder."""
    found: set[_Run] = set()
    for folder, record in scan.records:
        said = record.config.get(convention.group_key)
        group = said if isinstance(said, str) and said else record.source.group
        place = _place(record.config, convention, group, record.source.task)
        if place is not None and place.folder != folder.parent:
            found.add((folder, ""))
    for path, values in _unrecorded(scan, convention):
        place = _place(values, convention, *placement.named_by_folders(path, convention)[:2])
        if place is not None and place.folder not in path.parents:
            found.add((path.parent, str(sorted(values.items()))))
    return found


def _unrecorded(scan: TreeScan, convention: Convention) -> Iterator[tuple[PurePosixPath, Mapping[str, Any]]]:
    """Checkpoints in folders without a run.json, and what their names say."""
    recorded = {folder for folder, _ in scan.records}
    naming = naming_rules.naming_of(convention)
    for entry in scan.entries:
        if entry.path.name.endswith(convention.checkpoint.suffix) and entry.path.parent not in recorded:
            with suppress(RefusedError):  # a name of another kind
                yield entry.path, naming.parse(entry.path.name).values


def _place(config: Mapping[str, Any], convention: Convention, group: str | None, task: int | None) -> Place | None:
    try:
        return placement.place_of(config, convention, source_group=group, source_task=task)
    except RefusedError:
        return None  # it belongs nowhere, by any numbering
