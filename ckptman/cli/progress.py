"""Progress bars on stderr: silent where stderr is no terminal, and gone when the work is done."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from typing import Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ckptman.cli.text import clean, console, size_text

_EVERY = 0.05
"""Seconds between two states of a bar: a file is read and written in more pieces than can be seen."""


class _Bars:
    """A bar for each stage, with the columns that the subclass chooses between the name and the time left."""

    columns: tuple[ProgressColumn, ...] = ()

    def __init__(self) -> None:
        talk = console(stderr=True)
        talk.file = getattr(sys.stderr, "stream", sys.stderr)  # a bar is no part of an answer that is remembered
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=max(4, min(40, talk.width - 52))),
            *self.columns,
            TimeRemainingColumn(),
            console=talk,
            transient=True,
            auto_refresh=False,  # by a thread, with which no process can be copied
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}
        self._shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tasks:  # before rich 14.3, one that was never begun writes an empty line
            self._progress.stop()

    def _show(self, stage: str, done: int, total: int, *, description: str | None = None, amount: str = "") -> None:
        now = monotonic()
        if self._progress.disable or (stage in self._tasks and done < total and now < self._shown + _EVERY):
            return
        self._shown = now
        if not self._tasks:
            self._progress.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, amount=amount)
        told = stage if description is None else description
        self._progress.update(
            self._tasks[stage], description=told, completed=done, total=total, amount=amount, refresh=True
        )


class ByteProgress(_Bars):
    """Bytes, with rate and time left: a bar for what an ingest reads, places, syncs and records."""

    columns = (DownloadColumn(), TransferSpeedColumn())

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes of a stage are done."""
        self._show(stage, done, total)


class SampleProgress(_Bars):
    """Samples, with the run at work and the time left."""

    columns = (TaskProgressColumn(),)

    def __call__(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` samples are done."""
        self._show("", done, total, description=clean(Path(name).parent.name or name))


class DrawProgress(_Bars):
    """Initializations drawn, with the time left."""

    columns = (TaskProgressColumn(),)

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are drawn."""
        self._show("seeds", done, total)


class StageProgress(_Bars):
    """What each stage counts: bytes while hashing, files in any other stage."""

    columns = (TextColumn("{task.fields[amount]}"),)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        amount = f"{size_text(done)} of {size_text(total)}" if stage == "hashing" else f"{done:,} of {total:,} files"
        self._show(stage, done, total, amount=amount)
