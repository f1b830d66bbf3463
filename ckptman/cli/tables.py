"""Tables on a terminal, and how they write a value."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from ckptman.cli import folding
from ckptman.cli.text import clean, fits

NOTHING = "–"
"""What a table shows where there is no value."""


_TEXT = 22
"""Columns that are left at least for a last column whose cells are folded."""

_SHORTEST = 10
"""Columns that a shortened cell keeps."""

FOLD = "/"
"""Among what gives way: headings of several words are folded."""

_BETWEEN_WORDS, _WITHIN_WORDS = "[^ ]+", "[^ _/]+[_/]?|[_/]"

_MANY = 2000
"""Texts that it is not worth while to compare."""


def print_table(
    out: Console,
    rows: Sequence[Sequence[str]],
    right: Iterable[int] = (),
    *,
    indent: str = "",
    give: Sequence[str] = (),
    over: str = "",
) -> None:
    """Print rows as a table; the first one is its heading. A pipe gets each row in a line.

    On a terminal columns give way, then headings are folded; what still has no room goes onto further lines: the texts
    of the last column under themselves, or else whole columns.

    Args:
        out: Where to.
        rows: The cells.
        right: See `table_lines`.
        indent: What each line begins with.
        give: See `table_lines`.
        over: What the headings of neighbouring columns begin with: where there is too little room, it stands once,
            above them.
    """
    room = out.width - len(indent) if fits(out.file) else None
    heads, lines = _laid_out(rows, right, room, give, spread=True, over=over)
    for head in heads:
        out.out(indent + head, style="bold", highlight=False)
    if lines:  # at once, since a call for each line would take a second for ten thousand
        out.out(indent + "\n".join(lines).replace("\n", f"\n{indent}"), highlight=False)


def table_lines(
    rows: Sequence[Sequence[str]], right: Iterable[int] = (), *, room: int | None = None, give: Sequence[str] = ()
) -> list[str]:
    """Rows as lines, their cells made safe and padded to columns; the first one is the heading. No line is folded.

    Args:
        rows: The cells.
        right: Columns whose cells stand at their right.
        room: Columns of the screen that a line may take; None for any.
        give: What gives way where that is too little, the first one first: the heading of a column whose cells are
            shortened in their middle, or, after a minus, of one that is left out; or `FOLD`. All others are never
            cut.
    """
    heads, lines = _laid_out(rows, right, room, give, spread=False)
    return heads + lines


def _laid_out(
    rows: Sequence[Sequence[str]], right: Iterable[int], room: int | None, give: Sequence[str], *, spread: bool,
    over: str = "",
) -> tuple[list[str], list[str]]:  # fmt: skip
    """The lines of the heading and of the rows; with `spread`, what has no room yet goes onto further lines."""
    cells = [[cell if cell.isascii() and cell.isprintable() else clean(cell) for cell in row] for row in rows]
    lengths = [[cell_len(cell) for cell in row] for row in cells]
    widths = [max(column) for column in zip(*lengths, strict=True)]
    shown = list(range(len(widths)))
    heads = [[cell] for cell in cells[0]]
    parts = [shown]
    under: list[int] = []
    if room is not None:
        _fit(widths, shown, heads, cells, lengths, room, give)
        if over and _taken(widths, shown) > room:
            under = [index for index in shown if cells[0][index].startswith(f"{over} ")]
            _put_above(over, under, widths, heads, lengths)
    to_right = frozenset(right)
    hang = 0
    if room is not None and spread and not _fold_heads(heads, widths, shown, lengths, room):
        hang = _taken(widths, shown[:-1]) + 2
        wide = sum(any(cell_len(word) > room - hang for word in row[shown[-1]].split()) for row in cells[1:])
        if shown[-1] in to_right or room - hang < _TEXT or wide * 10 > len(cells):
            hang, parts = 0, _bands(widths, shown, room)
            if under and not any(set(under) <= set(part) for part in parts):
                for index in under:
                    heads[index], widths[index] = [cells[0][index]], max(row[index] for row in lengths)
                under, parts = [], _bands(widths, shown, room)

    def line(part: Sequence[int], row: Sequence[str]) -> str:
        padded = []
        for index in part:
            cell = row[index]
            length = len(cell) if cell.isascii() else cell_len(cell)
            if length > widths[index]:
                cell = shortened(cell, widths[index])
                length = cell_len(cell)
            fill = " " * (widths[index] - length)
            padded.append(fill + cell if index in to_right else cell + fill)
        return ("" if part is parts[0] else "    ") + "  ".join(padded).rstrip()

    above = []
    for part in parts:
        most = max((len(heads[index]) for index in part), default=1)
        for number in range(most):
            above.append(
                line(part, ["" if number < most - len(head) else head[number - most + len(head)] for head in heads])
            )
        if under and under[0] in part:
            if most == 1:
                above.insert(-1, "")
            start = _taken(widths, part[: part.index(under[0])]) + 2 + (0 if part is parts[0] else 4)
            left, right_of = above[-2].ljust(start)[:start], above[-2][start + _taken(widths, under) :]
            above[-2] = (left + over.center(_taken(widths, under)) + right_of).rstrip()
    below = [line(part, row) for row in cells[1:] for part in parts]
    if room is not None and (hang or len(parts) > 1):
        below = [folding.folded(text, room, hang or 6) for text in below]
    return above, below


def _put_above(
    over: str, under: Sequence[int], widths: list[int], heads: list[list[str]], lengths: Sequence[Sequence[int]]
) -> None:
    """Take out of headings what will stand above them, and leave the columns as wide as that is."""
    for index in under:
        heads[index] = [" ".join(heads[index]).removeprefix(f"{over} ")]
        widths[index] = max((cell_len(heads[index][0]), *(row[index] for row in lengths[1:])))
    if under:
        widths[under[0]] += max(0, cell_len(over) - _taken(widths, under))


def _taken(widths: Sequence[int], shown: Sequence[int]) -> int:
    """Columns of the screen that a line takes."""
    return sum(widths[index] for index in shown) + 2 * (len(shown) - 1)


def _fit(
    widths: list[int],
    shown: list[int],
    heads: list[list[str]],
    cells: Sequence[Sequence[str]],
    lengths: Sequence[Sequence[int]],
    room: int,
    give: Sequence[str],
) -> None:
    """Take from `widths` and leave columns out of `shown` until a line has room, or nothing more can give way."""
    head, *body = cells
    whole = list(widths)
    for item in give:
        if item == FOLD:
            _fold(heads, widths, shown, lengths, room, _BETWEEN_WORDS)
            continue
        title = item.removeprefix("-")
        over = _taken(widths, shown) - room
        if over <= 0 or title not in head or (index := head.index(title)) not in shown:
            continue
        if item != title:
            shown.remove(index)
        else:
            least = max(min(widths[index], max(_SHORTEST, cell_len(title))), widths[index] - over)
            widths[index] = _telling({row[index] for row in body}, least, widths[index])
    for index in sorted(shown, key=lambda index: len(heads[index])):  # what was left out later leaves room over
        free, wanting = max(0, room - _taken(widths, shown)), whole[index] - widths[index]
        if len(heads[index]) == 1:
            widths[index] += min(free, wanting)
        elif wanting <= free:
            widths[index], heads[index] = whole[index], [head[index]]


def _telling(texts: Collection[str], least: int, most: int) -> int:
    """The first width from `least` on at which shortened texts still differ; of very many, `least`."""
    if len(texts) > _MANY:
        return least
    return next(
        (width for width in range(least, most) if len({shortened(text, width) for text in texts}) == len(texts)), most
    )


def _fold_heads(
    heads: list[list[str]], widths: list[int], shown: Sequence[int], lengths: Sequence[Sequence[int]], room: int
) -> bool:
    """Whether a line has room, once headings that are wider than what is below them are folded, the widest first.

    They fold between words, and where that is too little, at underscores and slashes; where even that is, not at all.
    """
    for pattern in (_BETWEEN_WORDS, _WITHIN_WORDS):
        folded, narrower = list(heads), list(widths)
        _fold(folded, narrower, shown, lengths, room, pattern)
        if _taken(narrower, shown) <= room:
            heads[:], widths[:] = folded, narrower
            return True
    return False


def _fold(
    heads: list[list[str]],
    widths: list[int],
    shown: Sequence[int],
    lengths: Sequence[Sequence[int]],
    room: int,
    pattern: str,
) -> None:
    """Fold headings that are wider than what is below them, the widest first, until a line has room."""
    words = {index: re.findall(pattern, " ".join(heads[index])) for index in shown}
    least = {index: max((1, *(row[index] for row in lengths[1:]), *map(cell_len, words[index]))) for index in shown}
    for index in sorted(shown, key=lambda index: least[index] - widths[index]):
        if _taken(widths, shown) <= room:
            return
        if least[index] < widths[index]:
            widths[index] = least[index]
            heads[index] = _lines_of(words[index], least[index])


def _lines_of(words: Iterable[str], width: int) -> list[str]:
    lines = [""]
    for word in words:
        joined = lines[-1] + ("" if not lines[-1] or lines[-1].endswith(("_", "/")) else " ") + word
        if lines[-1] and cell_len(joined) > width:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def _bands(widths: Sequence[int], shown: Sequence[int], room: int) -> list[list[int]]:
    """The columns, in as many lines as they need, those after the first one indented."""
    parts: list[list[int]] = [[]]
    for index in shown:
        if parts[-1] and _taken(widths, [*parts[-1], index]) > room - (4 if len(parts) > 1 else 0):
            parts.append([])
        parts[-1].append(index)
    return parts


def shortened(text: str, width: int) -> str:
    """A text cut in its middle to `width` columns: what things are told apart by stands at their ends.

    Of a run's label only the group is cut, where that is enough.
    """
    if cell_len(text) <= width:
        return text
    if " task " in text and cell_len(label := shortened_label(text, width)) <= width:
        return label
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
