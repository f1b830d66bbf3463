"""A console whose sentences fold between their words, and under the column that they began in."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ckptman.cli import starting

_WORD = re.compile(
    r"(?<=: )(?:ckptman|python|pip|wandb|sbatch|mv|cp|rm) (?:(?![,;.] ).)*$"  # a command, which is pasted as a whole
    r"|(?:± )?\S+(?: (?:%|[kMGT]?B)(?!\w))?(?: ± \S+(?: %)?)?"  # a figure keeps its unit, and a mean its deviation
)
_DEEPEST = 30
"""Columns beyond which no column of a text is taken for the one to fold under."""

_WORTH_ENDING = 16
"""Columns that a line has before a word that is wider than any goes to the next one."""


class FoldingConsole(Console):
    """Prints a text that is too long for the terminal in several lines; with `soft_wrap`, as it is."""

    def __init__(self, *, folds: bool, **more: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, **more)
        self._folds = folds

    def print(self, *objects: Any, soft_wrap: bool | None = None, **more: Any) -> None:
        """Print, each text folded unless `soft_wrap` is given."""
        if self._folds and soft_wrap is None:
            objects = tuple(fold(each, self.width) if isinstance(each, Text) else each for each in objects)
        super().print(*objects, soft_wrap=True, **more)

    def on_broken_pipe(self) -> None:
        """End the program where nobody reads its result; where nobody hears its talk any more, the work goes on."""
        if not self.stderr:
            super().on_broken_pipe()
        starting.silence(sys.stderr.fileno())


def fold(text: Text, width: int) -> Text:
    """A text in lines of a width. A word that is wider, such as a path, is left whole, so that it can be copied."""
    plain = text.plain
    if cell_len(plain) <= width or "\n" in plain:
        return text
    hang = _column(plain, width)
    lines = text.divide(_breaks(plain, width, hang))
    for line in lines[:-1]:
        line.rstrip()
    return Text("\n" + " " * hang).join(lines)


def folded(plain: str, width: int, hang: int) -> str:
    """The same for a bare string, whose further lines begin at a column."""
    places = [0, *_breaks(plain, width, hang), len(plain)]
    return ("\n" + " " * hang).join(plain[a:b].rstrip() for a, b in pairwise(places))


def _breaks(plain: str, width: int, hang: int) -> list[int]:
    """Where the lines after the first begin."""
    breaks, at, used = [], 0, 0
    for word in _WORD.finditer(plain):
        length = cell_len(word[0])
        used += cell_len(plain[at : word.start()]) + length
        before = used - length
        if used > width and word.start() > hang and (hang + length <= width or before >= _WORTH_ENDING):
            breaks.append(word.start())
            used = hang + length
        at = word.end()
    return breaks


def _column(plain: str, width: int) -> int:
    """Where the lines after the first begin: under the last column of a label, or a little further in."""
    columns = [
        found.end() for found in re.finditer(r"\S {2,}(?=\S)", plain) if found.end() <= min(_DEEPEST, width // 2)
    ]
    return max(columns, default=min(len(plain) - len(plain.lstrip()) + 2, width // 2))
