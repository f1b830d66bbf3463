"""Markdown: tables, code and links that stay what they are, whatever the names in them hold.

What comes from outside (names of groups, folders, runs) goes through `text`, `code` or `link`; afterwards it can
neither break a table nor become markup.
"""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from ckptman.text.wording import one_line

_WIDEST_PADDING = 100
"""Columns up to this width are padded to line up when the file is read as plain text."""

_PARAGRAPH = 110
"""Columns of a paragraph's lines."""

_MARKUP = re.compile(r"[\\`*\[\]#|~<>$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")  # `_` between letters is no markup
_AUTOLINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)  # GitHub makes links of addresses
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_CODE_SPAN = re.compile(r"`[^`]*`")
_LIKE_BLOCK = re.compile(r"([-+*#>]|[0-9]+[.)]|~~~|```|=+$)")  # at a line's start, more than a paragraph's text


def text(value: object) -> str:
    """Text without markup: shown letter for letter."""
    marked = _MARKUP.sub(lambda match: _ENTITIES.get(match[0]) or "\\" + match[0], one_line(value))
    return _AUTOLINK.sub(lambda match: "\\" + match[0], marked)


def code(value: object) -> str:
    """A code span, also in a table."""
    line = one_line(value)
    if line == line.strip() and line and not re.search(r"[`|]", line):
        return f"`{line}`"
    # In backticks, these characters mean different things to different readers; as entities they mean themselves.
    entities = (char if char.isalnum() or char in " ./-=:" else f"&#{ord(char)};" for char in line)
    spelled = _AUTOLINK.sub(lambda match: f"&#{ord(match[0])};", "".join(entities))
    return f"<code>{spelled}</code>"


def link(label: str, path: PurePosixPath, *, folder: bool = False) -> str:
    """A link to a path relative to the document; `label` is Markdown already."""
    return f"[{label}]({quote(os.fsencode(str(path)))}{'/' if folder else ''})"


def fenced(language: str, body: str) -> str:
    """A code block, in a fence longer than any in its body."""
    longest = max((len(run) for run in re.findall(r"`{3,}", body)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{body.rstrip()}\n{fence}"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """A table. Cells are Markdown already.

    Args:
        headers: One for each column.
        rows: Cells, as many as there are headers.
        right: Indices of the columns that are aligned to the right, as numbers are.
    """
    to_right = set(right)
    body = [list(row) for row in rows]
    columns = list(zip(headers, *body, strict=True))
    widths = [max(3, *(w for cell in column if (w := _width(cell)) <= _WIDEST_PADDING or cell == column[0]))
              for column in columns]  # fmt: skip
    rule = [f"{'-' * (width - 1)}:" if i in to_right else "-" * width for i, width in enumerate(widths)]
    lines = [list(headers), rule, *body]
    return "\n".join(_line(cells, widths, to_right) for cells in lines)


def paragraph(*sentences: str) -> str:
    """Markdown text in lines of a width that is good to read; empty sentences are left out.

    No line ends in a code span: a command can be found by searching for it.
    """
    whole = " ".join(filter(None, sentences))
    kept = _CODE_SPAN.sub(lambda match: match[0].replace(" ", "\0"), whole)  # `code` and `text` leave no other \0
    lines = textwrap.wrap(kept, _PARAGRAPH, break_long_words=False, break_on_hyphens=False)
    lines = [line.replace("\0", " ") for line in lines]
    return whole if any(map(_LIKE_BLOCK.match, lines[1:])) else "\n".join(lines)


def join(*parts: str) -> str:
    """Paragraphs, headings and tables with a blank line between them; empty ones are left out."""
    return "\n\n".join(part for part in parts if part)


def _line(cells: Sequence[str], widths: Sequence[int], to_right: set[int]) -> str:
    padded = []
    for i, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - _width(cell))
        padded.append(space + cell if i in to_right else cell + space)
    return f"| {' | '.join(padded)} |"


def _width(cell: str) -> int:
    """Columns that a cell takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in cell)
