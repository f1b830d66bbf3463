"""An ingest of which every call is disturbed in turn, and what must be so afterwards."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ckptman.fs import folders, placing
from ckptman.ingestion import applying
from ckptman.ingestion.ingesting import ingest
from ckptman.raw import scanning
from ckptman.rules.convention_file import built_in
from ckptman.tree import contents, history, records
from tests.helpers.disturbed import FAULTS, disturb_each_call, slice_of
from tests.helpers.raw import config, snapshot, write_run
from tests.helpers.recorded import add_overwritten
from tests.helpers.sharing import shared_out

CURVE = {step: {"loss": 1 / (step + 1)} for step in range(0, 1000, 250)}


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder where an fsync takes no time, if there is one."""
    home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=home, prefix="ckptman-faults-") as folder:
        yield Path(folder)


@dataclass
class IngestTrial:
    """A source and a tree that has a run already; ingesting the source adds another."""

    home: Path
    mode: str
    with_wandb: bool

    def __post_init__(self) -> None:
        self.template, self.place = self.home / "template", self.home / "place"
        self.source, self.root = self.place / "grid_outputs", self.place / "checkpoints"
        self.template.mkdir(parents=True)
        write_run(self.template / "earlier/len_gen_k16/task_0006", config(16), run_id="bbbb2222", curve=CURVE)
        self.make_source(self.template / "grid_outputs")
        ingest(self.template / "earlier", self.template / "checkpoints", settle=0)
        self.sources = snapshot(self.template / "grid_outputs")
        self.before = snapshot(self.template / "checkpoints")
        self.furnish()
        assert self.act()
        self.reference = scrubbed(self.root)
        assert len(self.reference) > len(self.before)

    def make_source(self, source: Path) -> None:
        write_run(source / "len_gen_k8/task_0006", config(), run_id="abcd1234", curve=CURVE)

    def furnish(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.template, self.place, symlinks=True)

    def act(self, progress: contents.Progress | None = None) -> bool:
        """Ingest; whether it says that all is done."""
        result = ingest(
            self.source, self.root, convention=built_in(), mode=self.mode, with_wandb=self.with_wandb, settle=0,
            progress=progress,
        )  # fmt: skip
        return not (result.refused or result.deferred)

    def check(self, *, done: bool) -> None:
        """What must be so whatever happened; and if all is done, that it is."""
        tree = snapshot(self.root)
        for name, data in self.before.items():
            assert tree.get(name) == data, f"{name}, which was there, was changed"
        self._check_source(tree)
        for name, data in tree.items():
            path = self.root / name
            if any(folders.is_partial(part) for part in Path(name).parts) or name in self.before:
                continue
            if name.endswith(records.RUN_FILE):
                self._check_record(path.parent)
            elif name.endswith(history.HISTORY_FILE):
                assert history.read(path.parent) is not None
            elif not name.endswith(".json") or "/wandb/" in name:
                assert name in self.reference, f"{name} is no name of this run"
                assert _same(data, self.reference[name]), f"{name} is there and not whole"
        if done:
            tree = {name: data for name, data in scrubbed(self.root).items() if not folders.is_partial(Path(name).name)}
            assert tree == self.reference, "it says that it is done, and it is not"

    def _check_source(self, tree: dict[str, Any]) -> None:
        there = snapshot(self.source)
        if self.mode != "move":
            assert there == self.sources, "the source was changed"
            return
        placed = {data for name, data in tree.items() if not folders.is_partial(Path(name).name)}
        for name, data in self.sources.items():
            assert name in there or data in placed, f"{name} is lost"
            assert there.get(name, data) == data, f"{name} was changed"

    def _check_record(self, folder: Path) -> None:
        assert records.is_as_written(folder / records.RUN_FILE)
        for entry in records.read_record(folder).checkpoints:
            file = folder / entry.file
            assert file.exists(), f"run.json lists {entry.file}, which is not there"
            assert hashlib.sha256(file.read_bytes()).hexdigest() == entry.sha256

    def check_again(self) -> None:
        """The next ingest finishes, and leaves nothing of this one."""
        assert self.act(), "the next ingest does not finish"
        assert scrubbed(self.root) == self.reference, "the next ingest gives another tree"
        self.check(done=True)


def _same(data: Any, reference: Any) -> bool:
    return bool(data == reference)


def scrubbed(root: Path) -> dict[str, Any]:
    """A tree without what differs from place to place: inodes, digests."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(item) for key, item in value.items() if key not in ("inode", "digest")}
        return [without(item) for item in value] if isinstance(value, list) else value

    return {
        name: without(json.loads(data)) if name.endswith(records.RUN_FILE) else data
        for name, data in snapshot(root).items()
    }


class OfTreeTrial(IngestTrial):
    """The source is a tree itself, whose records tell of the runs."""

    def make_source(self, source: Path) -> None:
        super().make_source(self.home / "raw")
        ingest(self.home / "raw", source, settle=0)
        add_overwritten(source, config(seed=2337))


class InTurnsTrial(IngestTrial):
    """Each run is a turn of its own, which another thread publishes while the next one is staged."""

    def make_source(self, source: Path) -> None:
        super().make_source(source)
        for number in (2337, 3337):
            write_run(source / f"seed_{number}/len_gen_k8/task_0006", config(seed=number), run_id=f"seed{number}")

    def act(self, progress: contents.Progress | None = None) -> bool:
        with mock.patch.multiple(applying, _MUCH=1, _MANY=1), mock.patch.object(placing, "BATCH_SIZE", 2):
            return super().act(progress)


class SharedOutTrial(InTurnsTrial):
    """Each run is a turn of its own, which one of two copies of the process takes.

    A copy counts on from the calls that were before it, so that the nth is disturbed in each.
    """

    is_shared_out = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.is_shared_out = True

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Do all in this process."""
        self.is_shared_out = False
        yield
        self.is_shared_out = True

    def act(self, progress: contents.Progress | None = None) -> bool:
        if not self.is_shared_out:
            return super().act(progress)
        with shared_out():
            return super().act(progress)

    def check(self, *, done: bool) -> None:
        self._wait()
        super().check(done=done)

    def _wait(self) -> None:
        """Until no copy is at work any more, of a process that was killed."""
        if self.root.exists():
            descriptor = os.open(self.root, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.close(descriptor)


SOURCES: dict[str, Callable[[Path, str], IngestTrial]] = {
    "with W&B": lambda home, mode: IngestTrial(home, mode, with_wandb=True),
    "without W&B": lambda home, mode: IngestTrial(home, mode, with_wandb=False),
    "a tree": lambda home, mode: OfTreeTrial(home, mode, with_wandb=False),
    "in turns": lambda home, mode: InTurnsTrial(home, mode, with_wandb=False),
    "shared out": lambda home, mode: SharedOutTrial(home, mode, with_wandb=False),
}


def sweep(mode: str, source: str, fault: str, every: int) -> int:
    """Disturb every so many of the calls; how many cases there were. It forks: not where there are threads."""
    with in_memory() as home:
        trial = SOURCES[source](home, mode)
        traced = trial.traced if isinstance(trial, SharedOutTrial) else nullcontext
        return disturb_each_call(trial, FAULTS[fault], first=slice_of(mode, fault), every=every, traced=traced)


# --- controls ---------------------------------------------------------------------------------------------------------


def copy_onto_the_final_name(patch: pytest.MonkeyPatch) -> None:
    real = placing._Staged.prepare

    def prepare(self: Any, *arguments: Any, **options: Any) -> None:
        self.temporary = self.destination.name
        real(self, *arguments, **options)

    patch.setattr(placing._Staged, "prepare", prepare)
    patch.setattr(placing._Staged, "remove_temporary", lambda self: None)


def write_the_record_first(patch: pytest.MonkeyPatch) -> None:
    real = applying.Work._place_all

    def place(self: Any, **options: Any) -> None:
        for run in self.plan.runs:
            folders.make_folders(self.plan.root / run.folder, self.plan.root)
            records.write_record(self.plan.root / run.folder, run.record)
        real(self, **options)

    patch.setattr(applying.Work, "_place_all", place)


def unlink_before_the_record(patch: pytest.MonkeyPatch) -> None:
    real = applying.Work._record

    def record(self: Any, works: Any) -> None:
        for work in works:
            for planned, _ in work.placed:
                os.unlink(planned.source)  # noqa: PTH108
        real(self, works)

    patch.setattr(applying.Work, "_record", record)


def swallow_the_error(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scanning._Walk, "_refuse", lambda *_: None)


CONTROLS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = {
    "a plain copy onto the final name": (copy_onto_the_final_name, "copy", "SIGKILL before"),
    "a record written first": (write_the_record_first, "copy", "SIGKILL before"),
    "an unlink before the record": (unlink_before_the_record, "move", "SIGKILL after"),
    "a swallowed error": (swallow_the_error, "copy", "EIO"),
}


def sweep_of_control(name: str) -> None:
    """Raises AssertionError, since the sweep finds it."""
    control, mode, fault = CONTROLS[name]
    with in_memory() as home, pytest.MonkeyPatch.context() as patch:
        trial = IngestTrial(home, mode, with_wandb=False)
        control(patch)
        disturb_each_call(trial, FAULTS[fault])
