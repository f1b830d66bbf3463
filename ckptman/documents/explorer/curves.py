"""Learning curves for the page: of each run what is worth looking at, in a hundred points or so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from ckptman.documents.explorer.columns import Room
from ckptman.documents.learning_curves import Curves
from ckptman.rules import Convention

ROOM = 1_900_000
"""Bytes that the curves may take of the page, compressed."""
MOST_RUNS = 5000
"""Runs whose curves are read at all."""


def curves(
    source: Curves, folders: Sequence[PurePosixPath | None], convention: Convention, room: Room
) -> tuple[dict[str, Any], list[str]]:
    """The curves of runs, and the metrics for whose curves there is no room.

    Args:
        source: The curves of the tree.
        folders: The folder of each run; None for one that has no curve.
        convention: The tree's rules.
        room: What is left of the page's.
    """
    if sum(folder is not None for folder in folders) > MOST_RUNS:
        return {}, ["all"]
    steps: dict[tuple[int, ...], int] = {}
    at: list[int | None] = []
    values: dict[str, list[Any]] = {}
    for index, folder in enumerate(folders):
        curve = None if folder is None else source.thinned(folder)
        if curve is None:
            at.append(None)
            continue
        at.append(steps.setdefault(curve.steps, len(steps)))
        for name, column in curve.columns.items():
            values.setdefault(name, [None] * len(folders))[index] = column
    own = Room(min(ROOM, room.left))
    found: dict[str, Any] = {"steps": list(steps), "at": at, "values": {}}
    own.takes(found)
    left_out = []
    for name in sorted(values, key=lambda name: _rank(name, convention)):
        if own.takes(values[name]):
            found["values"][name] = values[name]
        else:
            left_out.append(name)
    return (found if found["values"] else {}), left_out


def _rank(name: str, convention: Convention) -> tuple[Any, ...]:
    """Generalization first, then what else is measured so, then losses, then the rest."""
    wanted = convention.metric.pattern.replace("{k}", "*")
    return name != wanted, not name.endswith(wanted.rpartition("/")[2]), "loss" not in name, name
