"""The figures of a tree as files: `report/NAME.svg`, with the table that it is drawn from as `report/NAME.csv`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ckptman.documents.figures import data, drawing
from ckptman.documents.learning_curves import Curves
from ckptman.fs import files
from ckptman.rules import Convention
from ckptman.text import RefusedError, markdown
from ckptman.tree import records
from ckptman.tree import statistics as tree_statistics

_TITLES: Mapping[str, str] = {
    "generalization": "",  # as the metric is called
    "distribution": "In distribution and out of it",
    "lengths": "Exact match by test length",
    "tokens": "Token accuracy",
    "curves": "Learning curves",
}
_DIGEST = re.compile(r"data sha256:([0-9a-f]{64})")


class Drawn(NamedTuple):
    """A file of a figure, as it should be."""

    name: str
    """Relative to the root of the tree."""
    content: bytes


def names(convention: Convention) -> list[str]:
    """The names of all figures that a tree can have, the best first; of each side of a facet, with its folder's."""
    facet = data.sided(convention)
    sides = [f"-{value.folder}" for value in facet.values] if facet is not None else [""]
    return [
        f"{kind}{side}" for kind in data.figures_of(convention) for side in (sides if kind in data.BY_SIDE else [""])
    ]


def figures(statistics: tree_statistics.TreeStatistics, curves: Curves) -> dict[str, data.Figure]:
    """By name, the figures of a tree: those of which anything was measured."""
    convention = statistics.convention
    everything = data.Selection.of(statistics.inventory.runs, convention, curves)
    facet = data.sided(convention)
    found: dict[str, data.Figure | None] = {}
    for kind, make in data.figures_of(convention).items():
        if kind in data.BY_SIDE and facet is not None:
            for side in facet.values:
                found[f"{kind}-{side.folder}"] = make(everything.of_side(side.value))
        else:
            found[kind] = make(everything)
    return {name: figure for name in names(convention) if (figure := found.get(name)) is not None}


def stale(root: Path, name: str, figure: data.Figure, *, png: bool) -> bool:
    """Whether the files of a figure are missing, or drawn from another table."""
    table = figure.csv()
    digest = hashlib.sha256(table).hexdigest()
    there = _read(root / records.REPORT / f"{name}.svg")
    match = None if there is None else _DIGEST.search(there.decode("utf-8", "replace"))
    if match is None or match[1] != digest or _read(root / records.REPORT / f"{name}.csv") != table:
        return True
    return png and _read(root / records.REPORT / f"{name}.png") is None


def draw(name: str, figure: data.Figure, *, png: bool) -> list[Drawn]:
    """The files of a figure, in the order in which they are written: the SVG last, as it says that all is there.

    Raises:
        MachineError: (`no-matplotlib`).
    """
    table = figure.csv()
    note = f"data sha256:{hashlib.sha256(table).hexdigest()}"
    forms = ("png", "svg") if png else ("svg",)
    images = [Drawn(f"{records.REPORT}/{name}.{form}", drawing.draw(figure, form, note=note)) for form in forms]
    return [Drawn(f"{records.REPORT}/{name}.csv", table), *images]


def text(statistics: tree_statistics.TreeStatistics) -> str:
    """What the README shows of the figures that are there."""
    root = statistics.inventory.scan.root
    here = [name for name in names(statistics.convention) if _read(root / records.REPORT / f"{name}.svg") is not None]
    if not here:
        return "No figures are drawn yet: `ckptman report` draws what is measured, where matplotlib is installed."
    facet = data.sided(statistics.convention)
    best = {"generalization", "" if facet is None else facet.name}
    shown = [name for name in here if name.partition("-")[0] in best]
    images = [f"![{_title(name, statistics.convention)}]({records.REPORT}/{name}.svg)" for name in shown]
    more = ", ".join(
        f"[{_title(name, statistics.convention)}]({records.REPORT}/{name}.svg)" for name in here if name not in shown
    )
    return markdown.join(*images, f"Further figures: {more}." if more else "",
                         "The table behind each figure lies beside it as CSV.")  # fmt: skip


def _title(name: str, convention: Convention) -> str:
    kind, _, folder = name.partition("-")
    facet = data.sided(convention)
    titles = dict(_TITLES)
    titles["generalization"] = f"{convention.metric.short} against the longest trained K"
    if facet is None:
        return markdown.text(titles[kind])
    side = next((data.lower(value.title) for value in facet.values if value.folder == folder), "")
    if kind == facet.name:
        first, second = (value.title for value in facet.values)
        return markdown.text(f"{first} and {data.lower(second)}, and the difference")
    return markdown.text(", ".join(filter(None, (titles[kind], side))))


def _read(path: Path) -> bytes | None:
    """A file's bytes; None where there is none that can be read."""
    try:
        return files.read_bytes(path) if path.is_file() else None
    except (OSError, RefusedError):
        return None
