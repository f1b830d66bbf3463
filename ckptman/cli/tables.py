"""Tables on a terminal, and how they write a value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from ckptman.cli.text import clean, fits

NOTHING = "–"
"""What a table shows where there is no value."""


_SHORTEST = 10
"""Columns that a shortened cell keeps."""


def print_table(
    out: Console,
    rows: Sequence[Sequence[str]],
    right: Iterable[int] = (),
    *,
    indent: str = "",
    give: Sequence[str] = (),
) -> None:
    """Print rows as a table; the first one is its heading. A pipe gets all of it, a terminal what fits.

    Args:
        out: Where to.
        rows: The cells.
        right: See `table_lines`.
        indent: What each line begins with.
        give: See `table_lines`.
    """
    room = out.width - len(indent) if fits(out.file) else None
    head, *lines = table_lines(rows, right, room=room, give=give)
    out.out(indent + head, style="bold", highlight=False)
    if lines:  # at once, since a call for each line would take a second for ten thousand
        out.out("\n".join(indent + line for line in lines), highlight=False)


def table_lines(
    rows: Sequence[Sequence[str]], right: Iterable[int] = (), *, room: int | None = None, give: Sequence[str] = ()
) -> list[str]:
    """Rows as lines, their cells made safe and padded to columns; the first one is the heading. No line is folded.

    Args:
        rows: The cells.
        right: Columns whose cells stand at their right.
        room: Columns of the screen that a line may take; None for any.
        give: What gives way where that is too little, the first one first: the heading of a column whose cells are
            shortened in their middle, or, after a minus, of one that is left out. All others are never cut.
    """
    cells = [[cell if cell.isascii() and cell.isprintable() else clean(cell) for cell in row] for row in rows]
    lengths = [[cell_len(cell) for cell in row] for row in cells]
    widths = [max(column) for column in zip(*lengths, strict=True)]
    shown = list(range(len(widths)))
    if room is not None:
        _fit(widths, shown, cells[0], room, give)
    to_right = frozenset(right)
    lines = []
    for row, taken in zip(cells, lengths, strict=True):
        padded = []
        for index in shown:
            cell, length = row[index], taken[index]
            if length > widths[index]:
                cell = shortened(cell, widths[index])
                length = cell_len(cell)
            fill = " " * (widths[index] - length)
            padded.append(fill + cell if index in to_right else cell + fill)
        lines.append("  ".join(padded).rstrip())
    return lines


def _fit(widths: list[int], shown: list[int], head: Sequence[str], room: int, give: Sequence[str]) -> None:
    """Take from `widths` and leave columns out of `shown` until a line has room, or nothing more can give way."""
    for item in give:
        title = item.removeprefix("-")
        over = sum(widths[index] for index in shown) + 2 * (len(shown) - 1) - room
        if over <= 0 or title not in head or (index := head.index(title)) not in shown:
            continue
        if item != title:
            shown.remove(index)
        else:
            widths[index] = max(min(widths[index], max(_SHORTEST, cell_len(title))), widths[index] - over)


def shortened(text: str, width: int) -> str:
    """A text cut in its middle to `width` columns: what things are told apart by stands at their ends."""
    if cell_len(text) <= width:
        return text
    left, right = (width - 1) // 2, width - 1 - (width - 1) // 2
    return f"{set_cell_size(text, left).rstrip()}…{_last(text, right)}"


def shortened_label(label: str, width: int) -> str:
    """A run's label in `width` columns: only its group is shortened, as task and seed tell runs apart."""
    group, sign, rest = label.partition(" task ")
    return shortened(group, max(3, width - cell_len(sign + rest))) + sign + rest


def _last(text: str, width: int) -> str:
    """The end of a text that takes at most so many columns."""
    while cell_len(text) > width:
        text = text[max(1, (cell_len(text) - width) // 2) :]
    return text
