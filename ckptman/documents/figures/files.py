"""The figures of a tree as files: `report/NAME.svg`, with the table that it is drawn from as `report/NAME.csv`."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ckptman.documents.explorer import EXPLORER
from ckptman.documents.figures import data, drawing
from ckptman.documents.learning_curves import Curves
from ckptman.fs import files
from ckptman.rules import Convention
from ckptman.text import RefusedError, markdown, wording
from ckptman.tree import records
from ckptman.tree import statistics as tree_statistics

_TITLES: Mapping[str, str] = {
    "generalization": "",  # as the metric is called
    "distribution": "In distribution and out of it",
    "lengths": "Exact match by test length",
    "tokens": "Token accuracy",
    "curves": "Learning curves",
}


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
    """Whether the files of a figure are missing, or drawn from another table or in another way."""
    note = _note(figure).encode()
    images = [_read(root / records.REPORT / f"{name}.{form}") for form in _forms(root, name, png=png)]
    return _read(root / records.REPORT / f"{name}.csv") != figure.csv() or not all(
        image is not None and note in image for image in images
    )


def draw(root: Path, name: str, figure: data.Figure, *, png: bool) -> list[Drawn]:
    """The files of a figure, in the order in which they are written: the SVG last, as it says that all is there.

    Raises:
        MachineError: (`no-matplotlib`).
    """
    note = _note(figure)
    images = [Drawn(f"{records.REPORT}/{name}.{form}", drawing.draw(figure, form, note=note))
              for form in _forms(root, name, png=png)]  # fmt: skip
    return [Drawn(f"{records.REPORT}/{name}.csv", figure.csv()), *images]


def _forms(root: Path, name: str, *, png: bool) -> tuple[str, ...]:
    """The forms of a figure's images: a PNG that is there is kept up to date, as all that is generated."""
    return ("png", "svg") if png or (root / records.REPORT / f"{name}.png").is_file() else ("svg",)


def _note(figure: data.Figure) -> str:
    """What an image tells of what it was drawn from: its table; and its titles, and how it is drawn."""
    look = repr(replace(figure, rows=())).encode() + _drawing_source()
    return f"data sha256:{hashlib.sha256(figure.csv()).hexdigest()} drawing sha256:{hashlib.sha256(look).hexdigest()}"


@cache
def _drawing_source() -> bytes:
    return inspect.getsource(drawing).encode()


def text(statistics: tree_statistics.TreeStatistics) -> str:
    """What the README shows of the figures that are there."""
    root = statistics.inventory.scan.root
    gone = _of_no_run(statistics)
    there = [name for name in names(statistics.convention)
             if _read(root / records.REPORT / f"{name}.svg") is not None]  # fmt: skip
    here = [name for name in there if name not in gone]
    left = ", ".join(markdown.code(f"{records.REPORT}/{name}.svg") for name in there if name in gone)
    left = left and markdown.paragraph(f"Of runs that are gone, and not drawn any more (they can be removed): {left}.")
    page = f"All runs, to sort, search and compare: [the explorer]({EXPLORER}), which a browser opens from the disk."
    page = page if (root / EXPLORER).is_file() else ""
    if not here:
        none = "There is no figure: `ckptman report` draws the convention's metric, where matplotlib is installed."
        return markdown.join(page, none, left)
    facet = data.sided(statistics.convention)
    best = {"generalization", "" if facet is None else facet.name}
    shown = [name for name in here if name.partition("-")[0] in best]
    images = [f"![{_title(name, statistics.convention)}]({records.REPORT}/{name}.svg)" for name in shown]
    more = ", ".join(
        f"[{_title(name, statistics.convention)}]({records.REPORT}/{name}.svg)" for name in here if name not in shown
    )
    return markdown.join(*images, page, f"Further figures: {more}." if more else "",
                         "The table behind each figure lies beside it as CSV.", left)  # fmt: skip


def _of_no_run(statistics: tree_statistics.TreeStatistics) -> set[str]:
    """The figures that may lie there still, and of whose side no run is left."""
    convention = statistics.convention
    facet = data.sided(convention)
    if facet is None:
        return set()
    here = {data.side_of(each.family, each.config, convention) for each in statistics.configurations}
    gone = [value.folder for value in facet.values if value.value not in here]
    return {name for name in names(convention) if name.partition("-")[2] in gone or (gone and name == facet.name)}


def _title(name: str, convention: Convention) -> str:
    kind, _, folder = name.partition("-")
    facet = data.sided(convention)
    titles = dict(_TITLES)
    titles["generalization"] = f"{convention.metric.short} against the longest trained K"
    if facet is None:
        return markdown.text(titles[kind])
    side = next((wording.lowered(value.title) for value in facet.values if value.folder == folder), "")
    if kind == facet.name:
        first, second = (value.title for value in facet.values)
        return markdown.text(f"{first} and {wording.lowered(second)}, and the difference")
    return markdown.text(", ".join(filter(None, (titles[kind], side))))


def _read(path: Path) -> bytes | None:
    """A file's bytes; None where there is none that can be read."""
    try:
        return files.read_bytes(path) if path.is_file() else None
    except (OSError, RefusedError):
        return None
