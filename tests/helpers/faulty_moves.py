"""A migration, its undo and a mending, of which every call is disturbed, and what must be so afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptman.checks.mending import mend, plan_mending
from ckptman.checks.validation import validate
from ckptman.fs import folders, writing
from ckptman.ingestion.ingesting import ingest
from ckptman.ingestion.migrating import migrate
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.text.errors import RefusedError
from ckptman.tree import records
from tests.helpers.disturbed import FAULTS, disturb_each_call, slice_of
from tests.helpers.faulty_ingests import in_memory, scrubbed
from tests.helpers.raw import config, snapshot, write_run


class MoveTrial(ABC):
    """A tree of two runs in which files and folders are moved."""

    def __init__(self, home: Path) -> None:
        self.home, self.template, self.root = home, home / "template", home / "checkpoints"
        for seed in (1337, 2337):
            write_run(home / f"raw/len_gen_k8/task_000{seed // 1000}", config(seed=seed), run_id=f"run{seed}")
        ingest(home / "raw", self.template, settle=0)
        self.make()
        self.before = {hashlib.sha256(data).hexdigest() for data in snapshot(self.template).values()}
        self.furnish()
        assert self.act()
        self.reference = told(self.root)
        assert self.reference != told(self.template)

    @abstractmethod
    def make(self) -> None:
        """What is to be moved."""

    def furnish(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.template, self.root)

    @abstractmethod
    def act(self) -> bool:
        """Move; whether all is done."""

    def check(self, *, done: bool) -> None:
        """Every checkpoint is there, whole; and if it is said to be done, each has its place."""
        found = snapshot(self.root)
        sums = {hashlib.sha256(data).hexdigest() for data in found.values()}
        for name, data in snapshot(self.template).items():
            if name.endswith(".pt"):
                assert hashlib.sha256(data).hexdigest() in sums, f"{name} is lost"
        for name, data in found.items():
            if name.endswith(".pt") and not folders.is_partial(Path(name).name):
                assert hashlib.sha256(data).hexdigest() in self.before, f"{name} was changed"
        if done:
            there, goal = told(self.root), self.reference
            wrong = sorted(name for name in there.keys() | goal.keys() if there.get(name) != goal.get(name))
            assert not wrong, f"it says that it is done, and it is not: {wrong}"

    def check_again(self) -> None:
        assert self.act(), "it does not end the next time"
        self.check(done=True)


def told(root: Path) -> dict[str, object]:
    """A tree without the journals of its migrations, which hold times and inodes, and its trash, where a copy has the
    name that it had when it was found. A run that was put aside has a folder's name by the rules: with its id."""
    return {
        re.sub(r"(seed_\d+)-run\d+", r"\1", name): data
        for name, data in scrubbed(root).items()
        if Path(name).parts[0] not in (records.MIGRATIONS, ".ckptman-trash") and not folders.is_partial(Path(name).name)
    }


class MigrateTrial(MoveTrial):
    """To another numbering."""

    def make(self) -> None:
        self.rules = load_convention(None, numbering="merged")

    def act(self) -> bool:
        return not migrate(self.root, convention=self.rules).problems


class UndoTrial(MigrateTrial):
    """And back."""

    def make(self) -> None:
        self.rules = load_convention(None, numbering="merged")
        shutil.copytree(self.template, self.home / "sorted")
        migrate(self.template, convention=self.rules)

    def furnish(self) -> None:
        """The journal knows files by their inodes: the very tree has to be migrated."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.home / "sorted", self.root)
        migrate(self.root, convention=self.rules)

    def act(self) -> bool:
        try:
            migrate(self.root, convention=self.rules, undo=True)
        except RefusedError as error:
            if error.code != "nothing-to-undo":  # as all of it was undone
                raise
        return True


class MendTrial(MoveTrial):
    """Two runs in each other's place, a file elsewhere, and a copy."""

    def make(self) -> None:
        one, other = sorted(folder.parent for folder in self.template.rglob("run.json"))
        for old, new in ((one, self.template / "aside"), (other, one), (self.template / "aside", other)):
            old.rename(new)
        (self.template / "old").mkdir()
        final = next(one.glob("Final*"))
        final.rename(self.template / "old" / final.name)
        shutil.copy2(next(other.glob("Checkpoint*")), other / "copy.pt")

    def act(self) -> bool:
        result = validate(self.root, deep=True, convention=built_in())
        done = not any(step.problem for step in mend(self.root, plan_mending(result)))
        left = validate(self.root, deep=True, convention=built_in()).findings
        return done and {item.code for item in left} <= {"missing-task", "missing-seed", "empty-folder"}


TRIALS: dict[str, Callable[[Path], MoveTrial]] = {
    "migrate": MigrateTrial,
    "undo": UndoTrial,
    "validate --fix": MendTrial,
}


def remove_and_write(patch: pytest.MonkeyPatch) -> None:
    """The control: what is moved is read, removed, and written at its new place."""

    def rename(above: int, old: str, below: int, new: str) -> None:
        source, target = (Path(f"/proc/self/fd/{folder}/{name}") for folder, name in ((above, old), (below, new)))
        held = snapshot(source) if source.is_dir() else {"": source.read_bytes()}
        for name in held:
            os.unlink(source / name)  # noqa: PTH108
        if source.is_dir():
            os.rename(source, target)  # noqa: PTH104
        for name, data in held.items():
            descriptor = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            os.write(descriptor, data)
            os.close(descriptor)

    patch.setattr(writing, "rename_noreplace", rename)


def sweep(name: str, fault: str, every: int, with_control: bool = False) -> int:
    """Disturb every so many of the calls; how many cases there were. It forks: not where there are threads."""
    with in_memory() as home, pytest.MonkeyPatch.context() as patch:
        trial = TRIALS[name](home)
        if with_control:
            remove_and_write(patch)
        return disturb_each_call(trial, FAULTS[fault], first=slice_of(name, fault), every=every)
