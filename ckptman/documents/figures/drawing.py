"""Drawing a figure's table, with matplotlib: the only place that imports it, when a figure is drawn.

matplotlib draws on a server without a display, in vectors, in the same bytes each time, and in one process; it is what
the field prints. Libraries that draw in the browser need one for a still picture, or a network.

Colours are those of Okabe and Ito, which the colour-blind tell apart; each series has its own marker and line besides.
"""

from __future__ import annotations

import importlib
import io
import logging
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from ckptman.documents.figures.data import Figure, Row
from ckptman.text import MachineError, wording

FORMATS = ("svg", "png", "pdf")
DOTS_PER_INCH = 200

_STYLES = (
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
    ("#E69F00", "v", (0, (5, 1))), ("#56B4E9", "P", (0, (3, 1, 1, 1))), ("#000000", "X", (0, (1, 1))),
)  # fmt: skip
"""Colour, marker and line of each series."""

_LOOK: Any = {
    "font.family": "DejaVu Sans", "font.size": 11, "axes.titlesize": 11, "axes.labelsize": 11, "legend.fontsize": 11,
    "figure.titlesize": 13, "xtick.labelsize": 10, "ytick.labelsize": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#DDDDDD", "grid.linewidth": 0.6,
    "axes.axisbelow": True, "lines.linewidth": 1.6, "lines.markersize": 6, "legend.frameon": False,
    "svg.hashsalt": "ckptman", "svg.fonttype": "path", "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a `$` in a name is one
}  # fmt: skip
_INK, _FAINT = "#333333", "#777777"
_AROUND, _BELOW = 1.4, 0.85
"""Inches above and below the panels together, for the title and the legend; and below alone."""
_LEAST_HEIGHT = 2.4
"""Inches of all panels together: of a single one, its axis has a title."""
_LETTER = 0.085
"""Inches of a letter of the legend and of titles of axes, on an average."""
_TITLE_LETTER, _TITLE_LINE = 0.115, 0.22
"""Inches of a letter of the figure's title, and of a line of it."""


def is_possible() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def check_possible() -> None:
    """See to it that figures can be drawn.

    Raises:
        MachineError: (`no-matplotlib`) it is not installed, or cannot be imported.
    """
    wrong = "is not installed"
    if is_possible():
        try:
            with _silent():
                importlib.import_module("matplotlib.figure")
        except Exception as error:  # of a broken installation, any: of numpy's, of a shared library's
            wrong = f"cannot be imported: {type(error).__name__}: {error}"
        else:
            return
    raise MachineError(
        f"figures are drawn by matplotlib, which {wrong}",
        code="no-matplotlib",
        fix="Install it with: python -m pip install --force-reinstall matplotlib. Without figures: report --no-figures",
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Without what matplotlib tells of where it keeps its caches if it cannot below the home folder."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def draw(figure: Figure, form: str = "svg", *, note: str = "") -> bytes:
    """A figure as a file of one of `FORMATS`; the same figure gives the same bytes.

    Args:
        figure: What to draw.
        form: The format.
        note: Kept in the file's metadata.

    Raises:
        MachineError: (`no-matplotlib`).
    """
    check_possible()
    with _look(), warnings.catch_warnings():
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas()
        _DRAWING[figure.kind](canvas, figure)
        labels: list[Any] = canvas.findobj(lambda artist: hasattr(artist, "set_text"))
        for label in labels:
            label.set_text("\n".join(map(wording.one_line, label.get_text().split("\n"))))
        data = io.BytesIO()
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # which the font lacks, and shows as a box
        canvas.savefig(data, format=form, dpi=DOTS_PER_INCH, metadata=_metadata(figure, form, note))
    return data.getvalue()


def _metadata(figure: Figure, form: str, note: str) -> dict[str, Any]:
    title = wording.one_line(figure.title)
    if form == "svg":
        return {"Date": None, "Title": title, "Description": wording.one_line(f"{figure.caption} {note}".strip())}
    if form == "pdf":
        return {"CreationDate": None, "Title": title, "Subject": note}
    return {"Title": title, "Description": note}


@contextmanager
def _look() -> Iterator[None]:
    """Draw by our settings alone, whatever the user's are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(dict(_LOOK))
        yield


# --- panels -----------------------------------------------------------------------------------------------------------


def _panels(
    canvas: Any, figure: Figure, *, size: tuple[float, float], parts: int = 1, titles: bool = True
) -> dict[tuple[str, str], list[Any]]:
    """A panel for each row and column that has something, and none else; `parts` axes one above another in each.

    Only the outer axes have numbers. `titles` says whether each panel has its own, and then they close up where they
    would leave a row's room empty; otherwise the first of each column and of each row have.
    """
    rows, columns = (_ordered((row[key] for row in figure.rows), order)
                     for key, order in zip(("row", "column"), figure.order, strict=True))  # fmt: skip
    filled = {(row["row"], row["column"]) for row in figure.rows}
    titles = titles or len(filled) == 1
    across, down = len(columns), len(rows)
    places = {(row, column): divmod(i * across + j, across) for i, row in enumerate(rows)
              for j, column in enumerate(columns) if (row, column) in filled}  # fmt: skip
    if titles and len(filled) <= across * (down - 1):
        places = {panel: divmod(number, across) for number, panel in enumerate(places)}
        down = -(-len(filled) // across)
    wide, high = size
    if not titles:  # room for the longest line of them
        wide = max(wide, _LETTER * 1.1 * max(len(line) for title in columns for line in title.split(", ")))
        high = max(high, _LETTER * 1.2 * max(len(line) for title in rows for line in title.split(", ")))
    height = max(_LEAST_HEIGHT, high * down * parts)
    width = max(6.4, 1.0 + wide * across)
    title = _folded(figure.title, width / _TITLE_LETTER)
    above = {(row, column): _folded(", ".join(filter(None, (row, column))), (width - 1.0) / across / _LETTER)
             for row, column in places if titles}  # fmt: skip
    more = len(title) - 1 + sum(max([len(above[panel]) for panel in above if places[panel][0] == line], default=1) - 1
                                for line in range(down))  # fmt: skip
    canvas.set_size_inches(width, _AROUND + height + _TITLE_LINE * more)
    heights = [(1.0, 0.75)[part] for _ in range(down) for part in range(parts)]
    axes = canvas.subplots(down * parts, across, squeeze=False, gridspec_kw={"height_ratios": heights})
    taken = set(places.values())
    found = {}
    for (row, column), (i, j) in places.items():
        found[row, column] = mine = [axes[i * parts + part][j] for part in range(parts)]
        first = j == min(y for x, y in taken if x == i)
        top = i == min(x for x, y in taken if y == j)
        last = i == max(x for x, y in taken if y == j)
        for part, one in enumerate(mine):
            one.tick_params(labelleft=first, labelbottom=last and part == parts - 1)
        if titles:
            mine[0].set_title("\n".join(above[row, column]), loc="left", color=_INK)
        elif top:
            mine[0].set_title(column.replace(", ", "\n"), loc="left", color=_INK)
        if first and not titles:
            mine[0].set_ylabel(row.replace(", ", "\n"), color=_INK)
    for i, j in {(i, j) for i in range(down) for j in range(across)} - taken:
        for part in range(parts):
            axes[i * parts + part][j].remove()
    canvas.suptitle("\n".join(title), x=0.01, ha="left", fontweight="bold", color=_INK)
    return found


def _ordered(titles: Iterable[str], order: Sequence[str]) -> list[str]:
    found = list(dict.fromkeys(titles))
    return sorted(found, key=lambda title: order.index(title) if title in order else len(order))


def _title_rows(canvas: Any, title: str) -> None:
    """The title of all vertical axes: beside the panels, folded where it is longer than they are."""
    height = canvas.get_figheight()
    letters = 0.9 * (height - _AROUND) / _LETTER
    middle = (_BELOW + (height - _AROUND) / 2) / height
    parts = title.replace(" on ", "\non ", 1).split("\n") if len(title) > letters else [title]
    canvas.supylabel("\n".join(line for part in parts for line in _folded(part, letters)), fontsize=11, y=middle)


def _folded(text: str, letters: float) -> list[str]:
    """A text in lines of so many letters, as it is drawn."""
    return textwrap.wrap(wording.one_line(text), max(1, int(letters)))


def _of_panel(figure: Figure, key: tuple[str, str]) -> list[Row]:
    return [row for row in figure.rows if (row["row"], row["column"]) == key]


def _styles(figure: Figure) -> dict[str, tuple[str, str, Any]]:
    return {name: _STYLES[index % len(_STYLES)] for index, name in enumerate(figure.series)}


def _legend(
    canvas: Any,
    figure: Figure,
    more: Sequence[tuple[str, Mapping[str, Any]]] = (),
    *,
    drawn: Sequence[Any] = (),
    series: bool = True,
    markers: bool = True,
    lines: bool = True,
) -> None:
    """One legend for all panels, below them; the title of their horizontal axis stands over it.

    `markers` and `lines` say which of these tell the series apart; `drawn` are further parts, that have their labels.
    """
    from matplotlib.container import ErrorbarContainer
    from matplotlib.legend_handler import HandlerErrorbar
    from matplotlib.lines import Line2D

    present = {row["series"] for row in figure.rows} if series else ()
    handles = (
        [
            Line2D([], [], color=color, marker=marker if markers else "", linestyle=line if lines else "", label=name)
            for name, (color, marker, line) in _styles(figure).items()
            if name in present
        ]
        + [Line2D([], [], label=label, **style) for label, style in more]
        + list(drawn)
    )
    if handles:
        number = next(number for number in range(len(handles), 0, -1) if number == 1 or _width_of(
            _in_lines(handles, number, last=bool(drawn)), number) <= canvas.get_figwidth())  # fmt: skip
        columns = -(-len(handles) // -(-len(handles) // number))  # as few as give no more lines
        handles = _in_lines(handles, columns, last=bool(drawn))
        canvas.legend(
            handles=[handle for column in range(columns) for handle in handles[column::columns]],  # read in lines
            loc="outside lower center", ncol=columns, handlelength=3, title=figure.x, title_fontsize=11,
            handler_map={ErrorbarContainer: HandlerErrorbar(yerr_size=0.7)},
        )  # fmt: skip
    else:
        canvas.supxlabel(figure.x, fontsize=11)


def _in_lines(handles: Sequence[Any], columns: int, *, last: bool) -> list[Any]:
    """Parts of a legend; with `last`, the longest stands last, in the last column, where it parts no others."""
    from matplotlib.lines import Line2D

    if not last or len(handles) <= columns:
        return list(handles)
    return [*handles[:-1], *[Line2D([], [], linestyle="none", label="")] * (-len(handles) % columns), handles[-1]]


def _width_of(handles: Sequence[Any], columns: int) -> float:
    """Inches that a legend takes."""
    widths = [0.8 + _LETTER * len(str(handle.get_label())) for handle in handles]
    return sum(max(widths[at::columns]) for at in range(columns))


def _k_axis(axes: Any, ks: Sequence[int]) -> None:
    """Ticks at the K that there are, as many as fit."""
    every = -(-len(ks) // 8)
    axes.set_xticks(ks[::every])
    room = 0.6 if len(ks) == 1 else 0.35 * min(b - a for a, b in pairwise(ks))
    axes.set_xlim(ks[0] - room, ks[-1] + room)


def _same_scale(panels: Sequence[Any], *, percent: bool = False) -> None:
    """One vertical scale for all of these, so that they can be compared."""
    limits = [axes.get_ylim() for axes in panels]
    for axes in panels:
        if percent:
            axes.set_ylim(-4, 104)
            axes.set_yticks([0, 25, 50, 75, 100])
        else:
            low, high = min(low for low, _ in limits), max(high for _, high in limits)
            room = 0.06 * (high - low)  # for whole markers at the ends
            axes.set_ylim(low - room, high + room)


def _dodge(figure: Figure, rows: Sequence[Row], ks: Sequence[int]) -> dict[str, float]:
    """How far each series of a panel stands beside its K, so that none hides another."""
    present = [name for name in figure.series if any(row["series"] == name for row in rows)]
    gap = min((b - a for a, b in pairwise(ks)), default=1)
    step = 0.3 * gap / max(3, len(present))
    return {name: (index - (len(present) - 1) / 2) * step for index, name in enumerate(present)}


# --- the kinds of figure ----------------------------------------------------------------------------------------------


def _lines(canvas: Any, figure: Figure) -> None:
    panels = _panels(canvas, figure, size=(3.3, 2.3))
    ks = sorted({row["k"] for row in figure.rows})
    for key, (axes,) in panels.items():
        rows = _of_panel(figure, key)
        dodge = _dodge(figure, rows, ks)
        if figure.threshold is not None:
            axes.axhline(figure.threshold, color=_FAINT, linestyle=(0, (4, 3)), linewidth=1.0, zorder=1)
        for name, (color, marker, line) in _styles(figure).items():
            if name not in dodge:
                continue
            mine = [row for row in rows if row["series"] == name]
            means = {row["k"]: row for row in sorted(mine, key=lambda row: row["k"])}
            axes.plot(
                [row["k"] + dodge[name] for row in mine], [row["value"] for row in mine], marker, color=color,
                alpha=0.35, markersize=4, markeredgewidth=0, zorder=2,
            )  # fmt: skip
            axes.errorbar(
                [k + dodge[name] for k in means], [row["mean"] for row in means.values()],
                yerr=[float("nan") if (of := row["deviation"]) is None else of for row in means.values()],
                color=color, marker=marker, linestyle=line, elinewidth=1.0, capsize=2, zorder=3,
                markeredgecolor="white", markeredgewidth=0.6,
            )  # fmt: skip
        _k_axis(axes, ks)
    _same_scale([axes for (axes,) in panels.values()], percent=figure.percent)
    _title_rows(canvas, figure.y)
    more: list[tuple[str, Mapping[str, Any]]] = []
    if figure.threshold is not None:
        more.append((f"{figure.threshold:g} %", {"color": _FAINT, "linestyle": (0, (4, 3)), "linewidth": 1.0}))
    drawn = []
    if any(row["deviation"] is not None for row in figure.rows):
        more.append(("a run", {"color": _INK, "alpha": 0.35, "marker": "o", "markersize": 4, "markeredgewidth": 0,
                               "linestyle": "none"}))  # fmt: skip
        above = next(iter(panels.values()))[0]
        drawn.append(above.errorbar([], [], yerr=[], color=_INK, marker="o", linestyle="none", elinewidth=1.0,
                                    capsize=2, markersize=4, label=figure.spread))  # fmt: skip
    _legend(canvas, figure, more, drawn=drawn)


def _versus(canvas: Any, figure: Figure) -> None:
    from matplotlib.ticker import MaxNLocator

    panels = _panels(canvas, figure, size=(3.3, 1.75), parts=2)
    ks = sorted({row["k"] for row in figure.rows})
    for key, (above, below) in panels.items():
        dodge = _dodge(figure, _of_panel(figure, key), ks)
        below.axhline(0, color=_FAINT, linewidth=1.0, zorder=1)
        for name, (color, marker, _) in _styles(figure).items():  # a line's dots say which side it is, and no series
            mine = sorted((row for row in _of_panel(figure, key) if row["series"] == name), key=lambda row: row["k"])
            for side, filled in zip((value.word for value in figure.sides), (True, False), strict=True):
                there = [row for row in mine if row[side] is not None]
                above.plot(
                    [row["k"] + dodge[name] for row in there], [row[side] for row in there], color=color,
                    marker=marker, linestyle="-" if filled else ":", markerfacecolor=color if filled else "white",
                    markeredgecolor=color, markersize=5,
                )  # fmt: skip
            both = [row for row in mine if row["difference"] is not None]
            below.plot(
                [row["k"] + dodge[name] for row in both], [row["difference"] for row in both],
                color=color, marker=marker, linestyle="-", markersize=5,
            )  # fmt: skip
        for axes in (above, below):
            _k_axis(axes, ks)
        for axes, title in zip((above, below), figure.y.rsplit("|", 1), strict=True):
            if axes.yaxis.get_tick_params()["labelleft"]:
                axes.set_ylabel(title)
    _same_scale([above for above, _ in panels.values()], percent=figure.percent)
    _same_scale([below for _, below in panels.values()])
    for _, below in panels.values():
        below.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    on, off = (wording.lowered(value.title) for value in figure.sides)
    grey = {"color": _INK, "marker": "o", "markersize": 5}
    more = [(on, {**grey, "linestyle": "-"}), (off, {**grey, "linestyle": ":", "markerfacecolor": "white"})]
    _legend(canvas, figure, more, lines=False)


def _scatter(canvas: Any, figure: Figure) -> None:
    from matplotlib.ticker import MaxNLocator

    panels = _panels(canvas, figure, size=(2.5, 2.6))
    styles = _styles(figure)
    least = min(row["trained"] for row in figure.rows)
    for key, (axes,) in panels.items():
        axes.plot([0, 100], [0, 100], color=_FAINT, linestyle=(0, (4, 3)), linewidth=1.0, zorder=1)
        for row in _of_panel(figure, key):
            color, marker, _ = styles[row["series"]]
            filled = not figure.sides or row[figure.side] == figure.sides[0].value
            axes.plot(
                row["trained"], row["value"], marker, markeredgecolor=color, markersize=5, alpha=0.6,
                markerfacecolor=color if filled else "none", markeredgewidth=1.0, clip_on=False,
            )  # fmt: skip
        room = max(100 - least, 5) * 0.08
        axes.set_xlim(min(least, 95) - room, 100 + room)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    _same_scale([axes for (axes,) in panels.values()], percent=True)
    _title_rows(canvas, figure.y)
    grey = {"color": _INK, "marker": "o", "linestyle": "none"}
    more: list[tuple[str, Mapping[str, Any]]] = []
    if figure.sides and len({row[figure.side] for row in figure.rows}) == 2:
        on, off = (wording.lowered(value.title) for value in figure.sides)
        more = [(on, grey), (off, {**grey, "markerfacecolor": "none"})]
    more.append(("both equal", {"color": _FAINT, "linestyle": (0, (4, 3)), "linewidth": 1.0}))
    _legend(canvas, figure, more, series=False)


def _heat(canvas: Any, figure: Figure) -> None:
    import matplotlib
    import numpy as np
    from matplotlib.transforms import ScaledTranslation

    measured = {row["test_k"] for row in figure.rows}
    tested = list(range(min(measured), max(measured) + 1))  # lengths in between that nobody measured stay white
    ks = sorted({row["k"] for row in figure.rows})
    panels = _panels(canvas, figure, size=(1.75, max(1.3, 0.6 + 0.17 * len(ks))), titles=False)
    colors = matplotlib.colormaps["cividis"].with_extremes(bad="white")
    image = None
    is_marked = False
    for key, (axes,) in panels.items():
        grid = np.full((len(ks), len(tested)), np.nan)
        for row in _of_panel(figure, key):
            grid[ks.index(row["k"]), tested.index(row["test_k"])] = row["mean"]
        image = axes.imshow(grid, cmap=colors, vmin=0, vmax=100, aspect="auto", interpolation="nearest")
        for k in {row["k"] for row in _of_panel(figure, key)} & set(tested):  # the end of the trained lengths
            across, down = tested.index(k), ks.index(k)
            is_free = across + 1 == len(tested) or bool(np.isnan(grid[down, across + 1]))
            at = axes.transData + ScaledTranslation(1.5 / 72 if is_free else 0, 0, canvas.dpi_scale_trans)
            for color, width in (
                ("white", 3.0),
                (_INK, 1.6),
            ):  # dark on a light rim: it is seen on any cell, in grey too
                axes.plot(
                    [across + 0.5] * 2, [down - 0.5, down + 0.5], color=color, linewidth=width, transform=at,
                    solid_capstyle="butt", clip_on=False,
                )  # fmt: skip
            is_marked = True
        axes.grid(visible=False)
        axes.set_yticks(range(len(ks)), [str(k) for k in ks])
        shown = sorted({0, len(tested) // 2, len(tested) - 1})
        axes.set_xticks(shown, [str(tested[index]) for index in shown])
    _title_rows(canvas, figure.y)
    every = [axes for (axes,) in panels.values()]
    canvas.colorbar(image, ax=every, label="Exact match (%)", ticks=[0, 25, 50, 75, 100], aspect=30)
    mark = ("end of the trained lengths", {"color": _INK, "linewidth": 1.6})
    _legend(canvas, figure, [mark] if is_marked else [], series=False)


def _curve_lines(canvas: Any, figure: Figure) -> None:
    """Seeds are told apart where there is but one series of them: else a colour is a series."""
    from matplotlib.ticker import MaxNLocator

    seeds = list(
        dict.fromkeys(
            row["seed"] for row in sorted(figure.rows, key=lambda row: (row["seed"] is None, row["seed"] or 0))
        )
    )
    by_seed = len({row["series"] for row in figure.rows}) == 1 and 1 < len(seeds) <= len(_STYLES)
    styles = dict(zip(seeds, _STYLES, strict=False)) if by_seed else _styles(figure)
    panels = _panels(canvas, figure, size=(1.3, 1.45), titles=False)
    most = max(row["step"] for row in figure.rows)
    ticks = MaxNLocator(2, steps=[1, 2, 4, 5, 6, 8, 10]).tick_values(0, most)
    for key, (axes,) in panels.items():
        rows = _of_panel(figure, key)
        for name, (color, _, line) in styles.items():
            for run in dict.fromkeys(row["run"] for row in rows if row["seed" if by_seed else "series"] == name):
                mine = [row for row in rows if row["run"] == run]
                axes.plot(
                    [row["step"] for row in mine], [row["value"] for row in mine],
                    color=color, linestyle=line, linewidth=1.1, alpha=0.85,
                )  # fmt: skip
        axes.set_xlim(0, ticks[-1])
        axes.set_xticks(ticks, [f"{tick / 1000:g}k" if most > 2000 and tick else f"{tick:g}" for tick in ticks])
        for label in axes.get_xticklabels()[-1:]:
            label.set_horizontalalignment("right")  # away from the next panel
    _same_scale([axes for (axes,) in panels.values()], percent=figure.percent)
    _title_rows(canvas, figure.y)
    series = figure.rows[0]["series"]
    more = [(f"{series}, seed {'unknown' if seed is None else seed}", {"color": color, "linestyle": line})
            for seed, (color, _, line) in styles.items()] if by_seed else []  # fmt: skip
    _legend(canvas, figure, more, series=not by_seed, markers=False)


_DRAWING = {"lines": _lines, "versus": _versus, "scatter": _scatter, "heat": _heat, "curves": _curve_lines}
