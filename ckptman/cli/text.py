"""Text on a terminal: consoles, and strings from the outside world made safe to print."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from ckptman.text import wording

if TYPE_CHECKING:  # imported where they are used: --help needs none of them
    from rich.console import Console
    from rich.text import Text

clean, count_text, size_text = wording.one_line, wording.count_text, wording.size_text

__all__ = [
    "be_quiet", "clean", "console", "count_text", "fits", "folded", "plain", "prose", "say_refused", "size_text",
]  # fmt: skip

_PIPED_WIDTH = 200
"""Columns where the output is no terminal: wide, so that a path in a pipe is not cut."""


_NARROWEST = 40
"""Columns that a folded text has at least."""

_MOST_REFUSED = 12
"""Refused files of a kind that are named."""

_quiet = False


def be_quiet(asked: bool) -> None:
    """Leave out from now on what is neither a result nor a warning or an error, or print it again."""
    global _quiet
    _quiet = asked


def fits(stream: IO[str]) -> bool:
    """Whether what is printed there is to fit a width: that of a terminal, or the one that COLUMNS says."""
    return stream.isatty() or "COLUMNS" in os.environ


def console(*, stderr: bool = False, urgent: bool = False) -> Console:
    """A console for the result (stdout) or for talk (stderr). NO_COLOR and COLUMNS are respected.

    Args:
        urgent: For a warning or an error, which --quiet does not leave out.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    fixed = None if fits(stream) else _PIPED_WIDTH
    silent = stderr and _quiet and not urgent
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=fixed, quiet=silent)


def plain(text: object, style: str = "") -> Text:
    """`text` made safe, and never read as rich markup."""
    from rich.text import Text

    return Text.assemble((wording.one_line(text), style))  # so that what is added to it does not take over its style


def folded(text: str, out: Console, indent: int) -> list[str]:
    """A text in lines that fit beside an indent, where there is somebody to read them: a pipe gets one long line.

    Paths are not cut, so that they can be copied.
    """
    if not fits(out.file):
        return [text]
    width = max(out.width - indent, _NARROWEST)
    return textwrap.wrap(wording.one_line(text), width, break_long_words=False, break_on_hyphens=False) or [""]


def prose(out: Console, text: object, style: str = "") -> None:
    """Print a sentence, folded between its words where the terminal is narrow; not for commands that are pasted."""
    out.print(plain(text, style), soft_wrap=False)


def say_refused(items: Iterable[tuple[str, str, str]], *, verbose: bool = False) -> None:
    """Tell on stderr what was refused, why, and, once for all that are alike, what to do.

    Args:
        items: The message, the code and the fix of each.
        verbose: Tell all; else as many of each kind as one reads.
    """
    talk = console(stderr=True)
    kinds: dict[tuple[str, str], list[str]] = {}
    for message, code, fix in items:
        kinds.setdefault((code, fix), []).append(message)
    for (code, fix), messages in kinds.items():
        shown = messages if verbose else messages[:_MOST_REFUSED]
        for message in shown:
            talk.print(plain("REFUSED ", "bold red") + plain(f"{message} [{code}]"))
        if len(shown) < len(messages):
            talk.print(plain(f"  … and {len(messages) - len(shown):,} more {code} (--json names all)"))
        if fix:
            talk.print(plain(f"  {fix}"))
