"""Tables on a terminal, and how they write a value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console

from ckptman.cli.text import clean

NOTHING = "–"
"""What a table shows where there is no value."""


def aligned(rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows as lines, their cells made safe and padded to columns; those in `right` stand at the right of theirs."""
    cells = [[cell if cell.isascii() and cell.isprintable() else clean(cell) for cell in row] for row in rows]
    lengths = [[cell_len(cell) for cell in row] for row in cells]
    widths = [max(column) for column in zip(*lengths, strict=True)]
    to_right = frozenset(right)
    lines = []
    for row, taken in zip(cells, lengths, strict=True):
        padded = [
            " " * (width - length) + cell if index in to_right else cell + " " * (width - length)
            for index, (cell, length, width) in enumerate(zip(row, taken, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def print_table(out: Console, rows: Sequence[Sequence[str]], right: Iterable[int] = (), *, indent: str = "") -> None:
    """Print rows as a table; the first one is its heading. Lines are never cut or folded."""
    head, *lines = aligned(rows, right)
    out.out(indent + head, style="bold", highlight=False)
    if lines:  # at once, since a call for each line would take a second for ten thousand
        out.out("\n".join(indent + line for line in lines), highlight=False)


def value_text(value: object) -> str:
    """A configuration value as tables write it."""
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else str(value)
