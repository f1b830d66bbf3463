"""What lies around a folder: the tree that it is in or beside, and raw outputs. A look, not a survey."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ckptman.rules import Convention
from ckptman.tree import contents, roots

_MOST_ENTRIES = 20_000
"""Files looked at for raw outputs: `ckptman` alone must answer at once in a home folder too."""


@dataclass(frozen=True)
class Surroundings:
    """What was found."""

    folder: Path
    """The folder that was asked about."""
    tree: Path | None
    """The root of the tree that the folder lies in, or that lies in it under the usual name."""
    runs: int
    """Runs with a run.json in that tree."""
    checkpoints: int
    """Checkpoints that those list, and that are there."""
    raw: Path | None
    """The folder of raw outputs: this one, or the one in it under the usual name."""
    raw_checkpoints: int
    """Checkpoint files below that, as far as was looked."""
    raw_complete: bool
    """Whether all of it was looked at."""


def look_around(folder: Path, convention: Convention, *, trees: str, outputs: str) -> Surroundings:
    """Say what a folder is to ckptman.

    Args:
        folder: The folder.
        convention: Has the names.
        trees: The usual name of a tree in it.
        outputs: The usual name of raw outputs in it.
    """
    tree = roots.find_tree(folder, convention)
    if tree is None and roots.is_tree_root(folder / trees, convention):
        tree = folder / trees
    inventory = None if tree is None else contents.take_inventory(tree, convention, contents.Depth.NAMES)
    raw, count, complete = None, 0, True
    for place in () if tree is not None and folder.is_relative_to(tree) else (folder / outputs, folder):
        count, complete = _checkpoints(place, convention, leave_out=tree)
        if count:
            raw = place
            break
    found = [] if inventory is None else [run for run in inventory.runs if run.record is not None]
    return Surroundings(
        folder=folder,
        tree=tree,
        runs=len(found),
        checkpoints=sum(file.entry is not None for run in found for file in run.files),
        raw=raw,
        raw_checkpoints=count,
        raw_complete=complete,
    )


def _checkpoints(place: Path, convention: Convention, *, leave_out: Path | None) -> tuple[int, bool]:
    """How many checkpoint files lie below a folder, and whether all of it was looked at."""
    looked = list(islice(_names(place, leave_out), _MOST_ENTRIES + 1))
    return sum(name.endswith(convention.checkpoint.suffix) for name in looked), len(looked) <= _MOST_ENTRIES


def _names(place: Path, leave_out: Path | None) -> Iterator[str]:
    """The names of the files below a folder, but for another folder below it."""
    for folder, inner, files in os.walk(place):
        if Path(folder) == leave_out:
            inner.clear()
        else:
            yield from files
