"""Texts that try to be more than text, and what of them must not reach a terminal, a document or a page."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from markdown_it import MarkdownIt

UNSEEN = "\u202e\u2066\u200b\u00ad\ufeff\u115f\u3164\u034f\ufe0f\u00a0\U000e0041"
"""Right-to-left marks, and characters that take no room or are blank: fillers, joiners, selectors, spaces, tags."""
NAME = (
    "\x1b]8;;evil\x07\x1b[31;5mA\x9b2J[bold red]B[link=evil]C|`q` **d** _u_ ~~s~~ [l](evil.html) ![i](evil.png) "
    f"<img src=x onerror=evil()><!-- ckptman:end structure --> &lt; {UNSEEN}\r\n# H\n\n- x"
)
"""Fit for a file's name, in UTF-8."""
BYTES = f"{NAME[:120]}\udcff\udc80"
"""With bytes that are no UTF-8, as a file's name may have them."""
VALUE = f"{NAME}\u2028\x7f\t http://evil.example/x www.evil.example </script><script>evil()</script> $(rm x) =1+1"
"""Fit for a text in JSON."""

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_MADE_OF_NAMES = re.compile(
    r"<strong>d</strong>|<em>u</em>|<s>s</s>|<h1>H</h1>|<code>q</code>|<li>x</li>|(?:href|src)=\"[^\"]*evil|"
    r"<(?:img|script)\b[^>]*(?:>evil|onerror)"
)
"""What Markdown makes of `NAME` where nobody prevents it."""


def unsafe(text: str, *, styled: bool = False) -> list[str]:
    """Characters of printed text that are none to read: controls, marks that turn or join text, what is not seen."""
    text = _STYLE.sub("", text) if styled else text
    return sorted({f"U+{ord(char):04X}" for char in text if char != "\n" and _is_hidden(char)})


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") or char in UNSEEN


def markdown_problems(text: str) -> list[str]:
    """What names in a Markdown document became that is no text; and tables whose rows are not alike."""
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    outside_code = re.sub(r"`[^`]*`", "", re.sub(r"(?ms)^(`{3,}).*?^\1", "", text))
    return [
        *unsafe(text),
        *(found[0] for found in _MADE_OF_NAMES.finditer(html)),
        *re.findall(r"https?://evil\S*|www\.evil\S*", outside_code),  # GitHub makes links of these
        *_ragged(text),
    ]


def _ragged(text: str) -> Iterator[str]:
    """Rows of tables that have another number of cells than their heading."""
    cells = 0
    for line in text.splitlines():
        count = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if cells and count and count != cells:
            yield f"a row of {count - 1} cells in a table of {cells - 1}: {line[:80]}"
        cells = count and (cells or count)


def holds(document: str, text: str) -> bool:
    """Whether a JSON document has a text, as it is, in one of its own."""
    return any(text in each for each in _texts_of(json.loads(document)))


def _texts_of(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        yield from document
        document = list(document.values())
    if isinstance(document, list):
        for value in document:
            yield from _texts_of(value)
    elif isinstance(document, str):
        yield document
