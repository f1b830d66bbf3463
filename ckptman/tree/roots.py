"""Whether a folder is the root of a tree; and where it is not, which tree is meant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ckptman.rules import Convention, Place, placement
from ckptman.text import wording
from ckptman.tree import records
from ckptman.tree.contents import Inventory, Origin, Run
from ckptman.tree.numbering import numberings

_MOST_TREES = 3
"""Roots of trees that one message names."""


@dataclass(frozen=True)
class WrongRoot:
    """Why a folder is not the root of a tree."""

    message: str
    trees: tuple[Path, ...]
    """The roots of the trees that are meant; none where the folder holds raw outputs."""


def is_tree_root(folder: Path, convention: Convention) -> bool:
    """Whether a folder looks like the root of a tree: it has the folder of a family, or what an ingest that could place
    nothing says of it. Nothing below is read."""
    # os.path's tests are False in a folder that may not be entered, where pathlib's raise.
    if os.path.isfile(folder / records.REFUSED_FILE):  # noqa: PTH113
        return True
    if (homes := placement.family_folders(convention)) is not None:
        return any(os.path.isdir(folder / home) for home in homes)  # noqa: PTH112
    return any(os.path.isfile(run / records.RUN_FILE) for run in _some_runs(folder, convention))  # noqa: PTH113


def _some_runs(folder: Path, convention: Convention) -> Iterator[Path]:
    """Folders where runs would lie, as far as folders are called as their levels."""
    depth = convention.folders.depth
    pending = [folder]
    while pending:
        here = pending.pop()
        if len(here.parts) - len(folder.parts) == depth:
            yield here
            continue
        with suppress(OSError), os.scandir(here) as items:
            below = (here / item.name for item in items if item.is_dir(follow_symlinks=False))
            pending += [each for each in below if convention.folders.parse(each.relative_to(folder)) is not None]


def find_tree(folder: Path, convention: Convention) -> Path | None:
    """The root of the tree that a folder is or lies in; None where it lies in none."""
    folder = folder.absolute()
    return next((above for above in (folder, *folder.parents) if is_tree_root(above, convention)), None)


def tree_around(folder: Path, convention: Convention) -> Path | None:
    """The root of the tree that a folder is or lies in, where the folders of families tell and a run.json proves it.

    Where any name may be a group's, the folders above would have to be looked through.
    """
    found = find_tree(folder, convention) if placement.family_folders(convention) is not None else None
    if found is None or not any(os.path.isfile(run / records.RUN_FILE) for run in _some_runs(found, convention)):  # noqa: PTH113
        return None
    return found


def wrong_root(inventory: Inventory, convention: Convention) -> WrongRoot | None:
    """Why the root is not one: it lies within a tree, above one, or is what training leaves; None if it may be one."""
    root = inventory.scan.root.resolve()
    if trees := _trees_elsewhere(inventory, convention):
        if all(root.is_relative_to(tree) for tree in trees):
            what = "lies in a tree, whose root is"
        else:
            what = (
                f"lies above the {'root' if len(trees) == 1 else 'roots'} of {wording.count_text(len(trees), 'tree')}:"
            )
        more = ", …" if len(trees) > _MOST_TREES else ""
        return WrongRoot(f"this folder {what} {', '.join(map(str, trees[:_MOST_TREES]))}{more}", trees)
    if _is_raw(inventory, convention):
        count = wording.count_text(len(inventory.files), "checkpoint")
        return WrongRoot(f"this folder holds raw outputs: {count}, none of them sorted", ())
    return None


def _trees_elsewhere(inventory: Inventory, convention: Convention) -> tuple[Path, ...]:
    """The roots of the trees that the runs are sorted into, where the root that was given is none of them.

    It lies in a tree, such as one of its families, or above one. Nothing is returned where a run lies in no tree.
    """
    if inventory.passed.runs:  # which lie in their places
        return ()
    root = inventory.scan.root.resolve()
    for name in dict.fromkeys((convention.numbering, *numberings(convention))):
        placed = inventory.placed_by(replace(convention, numbering=name)).runs
        homes = {_tree_of(run, run.place, root) for run in placed if run.place and run.origin is not Origin.EXTRA}
        if root in homes:
            return ()
        if homes and None not in homes:
            return tuple(sorted(home for home in homes if home is not None))
    return ()


def _is_raw(inventory: Inventory, convention: Convention) -> bool:
    """Whether nothing is sorted, and every checkpoint lies where training saves it."""
    return (
        not inventory.has_records
        and not any(run.is_in_place for run in inventory.runs)
        and bool(inventory.files)
        and all(convention.raw.saved_models in file.path.parent.parts for file in inventory.files)
    )


def _tree_of(run: Run, place: Place, root: Path) -> Path | None:
    """The root of the tree in which a run lies in its place; None if it does not lie so in any."""
    home = root / run.folder
    folders = (home, *home.parents) if run.origin is Origin.LOOSE else (home.parent,)
    return next((found for folder in folders if (found := place.root_of(folder)) is not None), None)
