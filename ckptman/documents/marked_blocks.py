"""Marked blocks: the parts of a Markdown file that a program writes, between two comments, in a file that people write.

    <!-- ckptman:begin NAME -->
    …
    <!-- ckptman:end NAME -->

A marker stands on a line of its own. In a fenced code block it is an example, not a marker. Everything outside the
blocks is kept to the byte: line endings, a byte order mark, a missing newline at the end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NoReturn

from ckptman.text import RefusedError

_MARKER = re.compile(r" {0,3}<!--[ \t]*ckptman:(begin|end)[ \t]+([A-Za-z0-9_-]+)[ \t]*-->[ \t]*")
_LIKE_MARKER = re.compile(r"\s*<!--\s*ckptman:")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")
_LINE = re.compile(r"([^\r\n]*)(\r\n|\n|\r|\Z)")


@dataclass(frozen=True)
class Block:
    """A marked block of a text."""

    name: str
    line: int
    """Line number of its begin marker, from 1."""
    start: int
    """Where its content begins and ends: offsets into the text, between the two marker lines."""
    end: int
    newline: str
    """How its begin marker's line ends."""


@dataclass(frozen=True)
class _Line:
    number: int
    text: str
    start: int
    newline: str

    @property
    def end(self) -> int:
        return self.start + len(self.text) + len(self.newline)


def decode(data: bytes, document: str) -> str:
    """The text of a document; a byte order mark stays its first character.

    Raises:
        RefusedError: (`not-utf8`) naming the first line that is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RefusedError(
            f"{document} is not UTF-8 (line {line}: {error.reason})",
            code="not-utf8",
            fix=f"Convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 {document} > new.md && mv new.md {document}",
        ) from None


def find_blocks(text: str, document: str, known: Collection[str]) -> tuple[Block, ...]:
    """The marked blocks of a text, in their order.

    Args:
        text: The document.
        document: Its name, for messages.
        known: The names that a block may have.

    Raises:
        RefusedError: (`bad-markers`) for markers that are unbalanced, nested, doubled, misspelt or of an unknown name,
            with line numbers.
    """
    found: dict[str, Block] = {}
    begun: tuple[str, _Line] | None = None
    fence = ""
    for line in _lines(text):
        if begun is None and (fence := _fence_after(line.text, fence)):
            continue
        match = _MARKER.fullmatch(line.text)
        if match is None:
            if begun is None and _LIKE_MARKER.match(line.text):
                form = "A marker is a line of its own: <!-- ckptman:begin NAME --> or <!-- ckptman:end NAME -->"
                _refuse(document, f"line {line.number} is no marker: {line.text.strip()!r}", form)
            continue
        kind, name = match.groups()
        if kind == "begin":
            if begun is not None:
                _refuse(document, f"block {name!r} begins at line {line.number} inside block {begun[0]!r}, "
                        f"which began at line {begun[1].number}")  # fmt: skip
            if name in found:
                _refuse(document, f"block {name!r} stands there twice, at lines {found[name].line} and {line.number}")
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
                _refuse(document, f"line {line.number}: there is no block {name!r}; {hint}")
            begun = name, line
        else:
            if begun is None:
                _refuse(document, f"block {name!r} ends at line {line.number}, but has not begun")
            if name != begun[0]:
                _refuse(document, f"line {line.number} ends block {name!r}, but block {begun[0]!r} began at line "
                        f"{begun[1].number}")  # fmt: skip
            opening = begun[1]
            found[name] = Block(name, opening.number, opening.end, line.start, opening.newline)
            begun = None
    if begun is not None:
        _refuse(document, f"block {begun[0]!r} begins at line {begun[1].number} and never ends")
    return tuple(found.values())


def fill_blocks(text: str, contents: Mapping[str, str], document: str) -> str:
    """The text with the content of each of its blocks replaced.

    Args:
        text: The document.
        contents: What stands in each block, by name, with `\\n` line endings; there may be more than the text has.
        document: Its name, for messages.

    Raises:
        RefusedError: as `find_blocks`.
    """
    parts, done = [], 0
    for block in find_blocks(text, document, contents):
        parts += [text[done : block.start], _content(contents[block.name], block.newline)]
        done = block.end
    return "".join(parts) + text[done:]


def append_blocks(text: str, section: str, document: str, contents: Mapping[str, str]) -> str:
    """The text with a section after it, a blank line between them.

    Args:
        text: The document; it is kept to the byte, and gets a newline at its end if it lacks one.
        section: What is appended, with `\\n` line endings: headings and empty blocks.
        document: Its name, for messages.
        contents: As for `fill_blocks`.

    Raises:
        RefusedError: (`unclosed-fence`) where the section would become part of a code block; as `find_blocks`.
    """
    first = re.search(r"\r\n|\n|\r", text)
    newline = first[0] if first else "\n"
    fence, opened = "", 0
    for line in _lines(text):
        before, fence = fence, _fence_after(line.text, fence)
        opened = line.number if fence and not before else opened
    if fence:
        raise RefusedError(
            f"{document}: the code block that begins at line {opened} never ends, so nothing can be added after it",
            code="unclosed-fence",
            fix="Close the code block.",
        )
    gap = "" if not text.strip("\ufeff") else newline if text.endswith(("\n", "\r")) else newline * 2
    return fill_blocks(text + gap + section.replace("\n", newline), contents, document)


def empty_block(name: str) -> str:
    """The two markers of a block."""
    return f"<!-- ckptman:begin {name} -->\n<!-- ckptman:end {name} -->"


def _content(content: str, newline: str) -> str:
    """A block's content as it stands between its markers, in blank lines, which some Markdown readers need."""
    if any(_MARKER.fullmatch(line.text) for line in _lines(content)):
        raise ValueError("the content of a block holds a marker")
    body = content.strip("\n")
    return f"\n{body}\n\n".replace("\n", newline) if body else ""


def _lines(text: str) -> Iterator[_Line]:
    start = 0
    for number, match in enumerate(_LINE.finditer(text), start=1):
        if match.end() > match.start():
            yield _Line(number=number, text=match[1].removeprefix("\ufeff") if number == 1 else match[1],
                        start=start + (number == 1 and text.startswith("\ufeff")), newline=match[2])  # fmt: skip
        start = match.end()


def _fence_after(line: str, fence: str) -> str:
    """The open fence after a line, if any: a line that is in a fence, or opens or closes one, is no marker anyway."""
    match = _FENCE.fullmatch(line)
    if match is None:
        return fence
    marks, rest = match.groups()
    if not fence:
        return str(marks)
    closes = marks[0] == fence[0] and len(marks) >= len(fence) and not rest.strip()
    return "" if closes else fence


def _refuse(document: str, message: str, fix: str = "Correct the marker lines, or delete the block.") -> NoReturn:
    raise RefusedError(f"{document}: {message}", code="bad-markers", fix=fix)
