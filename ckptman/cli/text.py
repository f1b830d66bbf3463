"""Text on a terminal: consoles, and strings from the outside world made safe to print."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, TypeVar

from ckptman.text import wording

if TYPE_CHECKING:  # imported where they are used: --help needs none of them
    from rich.console import Console
    from rich.text import Text

clean, count_text, size_text = wording.one_line, wording.count_text, wording.size_text

__all__ = [
    "be_quiet", "be_verbose", "clean", "console", "count_text", "fits", "named", "plain", "say_refused", "size_text",
]  # fmt: skip

_PIPED_WIDTH = 200
"""Columns where the output is no terminal: wide, so that a path in a pipe is not cut."""


_MOST_REFUSED = 12
"""Refused files of a kind that are named."""

_quiet = False
_verbose = False

_Item = TypeVar("_Item")


def be_quiet(asked: bool) -> None:
    """Leave out from now on what is neither a result nor a warning or an error, or print it again."""
    global _quiet
    _quiet = asked


def be_verbose(asked: bool) -> bool:
    """Name from now on all things of a kind, or the first ones alone; the answer is what was asked."""
    global _verbose
    _verbose = asked
    return asked


def named(items: Sequence[_Item], most: int) -> Sequence[_Item]:
    """As many of the items as are named: all of them, where that was asked for."""
    return items if _verbose else items[:most]


def fits(stream: IO[str]) -> bool:
    """Whether what is printed there is to fit a width: that of a terminal, or the one that COLUMNS says."""
    return stream.isatty() or _is_width(os.environ.get("COLUMNS", ""))


def _is_width(columns: str) -> bool:
    """Whether COLUMNS says one: where there is no terminal, some programs set it to 0, and nothing fits that."""
    return columns.isdecimal() and int(columns) > 0


def console(*, stderr: bool = False, urgent: bool = False) -> Console:
    """A console for the result (stdout) or for talk (stderr). NO_COLOR and COLUMNS are respected.

    Sentences fold between their words where there is somebody to read them: a pipe gets one long line. What is pasted,
    such as a command, is printed with `soft_wrap=True`.

    Args:
        urgent: For a warning or an error, which --quiet does not leave out.
    """
    from ckptman.cli.folding import FoldingConsole

    folds = fits(sys.stderr if stderr else sys.stdout)
    silent = stderr and _quiet and not urgent
    width = None if folds else _PIPED_WIDTH
    if folds and not _is_width(os.environ.get("COLUMNS", "1")):
        width = shutil.get_terminal_size().columns
    return FoldingConsole(folds=folds, stderr=stderr, width=width, quiet=silent)


def plain(text: object, style: str = "") -> Text:
    """`text` made safe, and never read as rich markup."""
    from rich.text import Text

    return Text.assemble((wording.one_line(text), style))  # so that what is added to it does not take over its style


def say_refused(items: Iterable[tuple[str, str, str]]) -> None:
    """Tell on stderr what was refused, why, and, once for all that are alike, what to do.

    Args:
        items: The message, the code and the fix of each.
    """
    talk, urgent = console(stderr=True), console(stderr=True, urgent=True)  # what to do is advice, what failed is not
    kinds: dict[tuple[str, str], list[str]] = {}
    for message, code, fix in items:
        kinds.setdefault((code, fix), []).append(message)
    for (code, fix), messages in kinds.items():
        shown = named(messages, _MOST_REFUSED)
        for message in shown:
            urgent.print(plain("REFUSED ", "bold red") + plain(f"{message} [{code}]"))
        if len(shown) < len(messages):
            urgent.print(plain(f"  … and {len(messages) - len(shown):,} more {code} (--verbose names all, --json too)"))
        if fix:
            talk.print(plain(f"  {fix}"))
