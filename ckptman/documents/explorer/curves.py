"""Learning curves for the page: of each run what is worth looking at, in a hundred points or so."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any

from ckptman.documents.explorer.columns import Room
from ckptman.rules import Convention
from ckptman.text import RefusedError
from ckptman.tree import history

ROOM = 1_900_000
"""Bytes that the curves may take of the page, compressed."""
MOST_RUNS = 5000
"""Runs whose curves are read at all."""
_POINTS = 160
"""Points of a curve: the evaluations of the published recipe."""
_DIGITS = 4


def curves(
    root: Path, folders: Sequence[PurePosixPath | None], convention: Convention, room: Room
) -> tuple[dict[str, Any], list[str]]:
    """The curves of runs, and the metrics for whose curves there is no room.

    Args:
        root: The tree.
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
        curve = None if folder is None else _read(root / folder)
        if curve is None:
            at.append(None)
            continue
        kept = _thinned(curve.steps)
        at.append(steps.setdefault(tuple(curve.steps[place] for place in kept), len(steps)))
        for name, column in _by_length(curve.columns, convention).items():
            if len({value - step for value, step in zip(column, curve.steps, strict=True) if value is not None}) < 2:
                continue  # it counts the steps
            values.setdefault(name, [None] * len(folders))[index] = [_short(column[place]) for place in kept]
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


def _read(folder: Path) -> history.History | None:
    try:
        return history.read(folder)
    except RefusedError:
        return None  # validate tells


def _thinned(steps: Sequence[int]) -> list[int]:
    """The places of so many steps as are drawn, the last one always among them."""
    stride = -(-len(steps) // _POINTS)
    return [*range((len(steps) - 1) % stride, len(steps), stride)] if steps else []


def _by_length(columns: Mapping[str, Sequence[Any]], convention: Convention) -> dict[str, Sequence[Any]]:
    """The columns; of metrics measured at each length their mean, called as `results --metric` calls it."""
    stem = convention.metric.pattern.split("{k}")[0].rpartition("/")[2]
    length = re.compile(rf"(.*?{re.escape(stem)})[0-9]+(/.*|$)")
    found: dict[str, Sequence[Any]] = {}
    alike: dict[str, list[Sequence[Any]]] = defaultdict(list)
    for name, column in columns.items():
        if match := length.fullmatch(name):
            alike[f"{match[1]}*{match[2]}"].append(column)
        elif not name.startswith("_"):
            found[name] = column
    return found | {name: [_mean(row) for row in zip(*several, strict=True)] for name, several in alike.items()}


def _mean(row: Sequence[Any]) -> float | None:
    return None if None in row else fmean(row)


def _short(value: Any) -> float | None:
    """A value to as many digits as can be seen; None for one that cannot be drawn."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    return round(value, _DIGITS) if abs(value) >= 0.1 else float(f"{value:.{_DIGITS - 1}g}")


def _rank(name: str, convention: Convention) -> tuple[Any, ...]:
    """Generalization first, then what else is measured so, then losses, then the rest."""
    wanted = convention.metric.pattern.replace("{k}", "*")
    return name != wanted, not name.endswith(wanted.rpartition("/")[2]), "loss" not in name, name
