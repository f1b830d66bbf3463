"""Which numbering of the tasks a tree is sorted by: told by where its runs lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from ckptman.rules import Convention, comparing
from ckptman.text import UsageError, wording
from ckptman.tree.contents import Depth, Inventory, Run, inventory_of
from ckptman.tree.records import TreeScan

OTHER_NUMBERING = "other-numbering"


def numbering_of(inventory: Inventory, convention: Convention) -> Convention:
    """The rules that a tree is sorted by, told by its runs: another numbering, where that one fits the tree.

    It fits if by it some runs are in their place that otherwise are not, and none the other way round.

    Args:
        inventory: The tree, in any depth.
        convention: The rules in force.
    """
    wrong = misplaced(inventory.placed_by(convention).runs)
    for name in numberings(convention) if wrong else ():
        other = replace(convention, numbering=name)
        if misplaced(inventory.placed_by(other).runs) < wrong:
            return other
    return convention


def require_numbering(scan: TreeScan, convention: Convention) -> None:
    """See to it that a tree is not sorted by another numbering than the one in force. No checkpoint is read.

    Raises:
        UsageError: (`other-numbering`) if it is.
    """
    inventory = inventory_of(scan, convention, Depth.NAMES)
    fitting = numbering_of(inventory, convention)
    if fitting.numbering != convention.numbering:
        moved = misplaced(inventory.runs) - misplaced(inventory.placed_by(fitting).runs)
        message, fix = other_numbering(len(moved), convention, fitting)
        raise UsageError(
            f"the tree {scan.root} is sorted by another numbering: {message}", code=OTHER_NUMBERING, fix=fix
        )


def misplaced(runs: Iterable[Run]) -> set[tuple[PurePosixPath, str]]:
    """Those that lie outside of their task folder; what was moved since has a run.json that says the right task."""
    return {
        (run.folder, comparing.fingerprint(run.config, ()))
        for run in runs
        if run.place is not None and not run.is_in_place and (run.record is None or run.record.task != run.place.task)
    }


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
