"""Text on a terminal: consoles, and strings from the outside world made safe to print."""

from __future__ import annotations

import os
import sys
import unicodedata

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

_PIPED_WIDTH = 200
"""Columns where the output is no terminal: wide, so that a path in a pipe is not cut."""


def console(*, stderr: bool = False) -> Console:
    """A console for the result (stdout) or for talk (stderr). NO_COLOR and COLUMNS are respected."""
    stream = sys.stderr if stderr else sys.stdout
    fixed = None if stream.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=fixed)


def clean(text: object) -> str:
    """`text` on one line, with control characters, bidirectional marks and undecodable bytes spelled out.

    A file name can hold anything; printed as it is, it could move the cursor, recolour the screen or forge a line.
    """
    return "".join(_spelled(c) if _is_unsafe(c) else c for c in str(text))


def plain(text: object, style: str = "") -> Text:
    """`text` made safe, and never read as rich markup."""
    return Text(clean(text), style=style)


def size_text(count: int) -> str:
    """Bytes for people, in decimal units: `1.05 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{count} B" if unit == "B" else f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def count_text(count: int, noun: str, plural: str | None = None) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


class ByteProgress:
    """A progress bar over bytes on stderr, with rate and time left; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> ByteProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes of a stage are done."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)  # type: ignore[arg-type]


def _is_unsafe(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _spelled(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
