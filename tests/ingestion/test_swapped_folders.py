"""A folder of the tree that becomes a symbolic link while an ingest works: nothing is written where the link leads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import folders
from ckptman.ingestion.ingesting import ingest
from ckptman.text.errors import CkptmanError
from tests.helpers.disturbed import Disturbance, between
from tests.helpers.ingested import RUN, task
from tests.helpers.promises import Trial, caught, tried
from tests.helpers.raw import config, write_run
from tests.helpers.slices import SLICES

PROMISE = "A link swapped in for a folder of the tree: nothing is written outside"


class Swap:
    """Puts a link in the place of a folder of the tree; what it leads to has the same folders."""

    def __init__(self, root: Path, folder: Path, outside: Path) -> None:
        self.root, self.folder, self.outside = root, folder, outside
        self.aside = root.parent / "aside"

    def __call__(self, name: str, function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if self.folder.is_dir():
            os.rename(self.folder, self.aside)  # noqa: PTH104
            self.folder.symlink_to(self.outside / self.folder.relative_to(self.root))
        return function(*arguments, **options)

    def undo(self) -> None:
        if self.folder.is_symlink():
            self.folder.unlink()
            self.aside.rename(self.folder)


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is one: an fsync takes no time there."""
    home = Path("/dev/shm", f"ckptman-{os.getpid()}-{tmp_path.name}") if os.access("/dev/shm", os.W_OK) else tmp_path
    home.mkdir(exist_ok=True)
    yield home
    shutil.rmtree(home, ignore_errors=True)


def checkpoints(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*.pt"))}


def swap_at_calls(home: Path, mode: str, *, every: int, trial: Any) -> int:
    """Ingest again and again, swapping each folder on the way to a run at each call; returns the writes outside."""
    template = home / "template"
    write_run(task(template), config(), run_id="abcd1234")
    ingest(template, home / "whole")
    source, root, outside = home / "source", home / "tree", home / "outside"
    written = 0
    for depth in range(1, len(Path(RUN).parts) + 1):
        nth, calls = 1 + depth % every, 10**9
        while nth <= calls:
            for folder in (source, root, outside):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(template, source, symlinks=True)
            (outside / RUN).mkdir(parents=True)
            (root / RUN).mkdir(parents=True)
            before = sorted(outside.rglob("*"))
            swap = Swap(root, root.joinpath(*Path(RUN).parts[:depth]), outside)
            disturbance = Disturbance(nth, swap)
            try:
                with between(disturbance):
                    ingest(source, root, mode=mode, settle=0, with_wandb=True)
            except CkptmanError:
                pass
            written += sorted(outside.rglob("*")) != before
            calls, nth = len(disturbance.calls), nth + every
            trial.cases += 1
            swap.undo()
            ingest(source, root, mode=mode, settle=0, with_wandb=True)
            assert checkpoints(root) == checkpoints(home / "whole")
    return written


@pytest.mark.parametrize("mode", ["copy", "hardlink", "symlink", "move"])
def test_nothing_is_written_where_a_swapped_link_leads(mode: str, fast: Path) -> None:
    with tried(PROMISE) as trial:
        assert swap_at_calls(fast, mode, every=max(1, 35 // SLICES), trial=trial) == 0
        assert trial.cases >= 20


def test_opening_folders_by_path_would_be_found(fast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_path(way: folders.Way, path: Path, *, make: bool = False, **_: Any) -> int:
        path.mkdir(parents=True, exist_ok=make) if make else None
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    monkeypatch.setattr(folders.Way, "to", by_path)
    with caught(PROMISE):
        assert swap_at_calls(fast, "copy", every=25, trial=Trial()) > 0
