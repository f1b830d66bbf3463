"""Text on a terminal: consoles, and strings from the outside world made safe to print."""

from __future__ import annotations

import os
import sys

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

from ckptman.text import wording

clean, count_text, size_text = wording.one_line, wording.count_text, wording.size_text

__all__ = ["ByteProgress", "clean", "console", "count_text", "plain", "size_text"]

_PIPED_WIDTH = 200
"""Columns where the output is no terminal: wide, so that a path in a pipe is not cut."""


def console(*, stderr: bool = False) -> Console:
    """A console for the result (stdout) or for talk (stderr). NO_COLOR and COLUMNS are respected."""
    stream = sys.stderr if stderr else sys.stdout
    fixed = None if stream.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=fixed)


def plain(text: object, style: str = "") -> Text:
    """`text` made safe, and never read as rich markup."""
    return Text.assemble((wording.one_line(text), style))  # so that what is added to it does not take over its style


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
