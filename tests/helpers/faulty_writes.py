"""A report, an evaluation and a training's save, of which every call is disturbed, and what must be so afterwards."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.documents.reporting import State, report
from ckptman.fs import folders, writing
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import MachineError
from ckptman.training.evaluation import Evaluation, EvaluationMode, record_evaluation
from ckptman.training.loading import load_weights
from ckptman.tree import records
from tests.helpers.disturbed import FAULTS, disturb_each_call, slice_of
from tests.helpers.faulty_ingests import in_memory
from tests.helpers.raw import config, snapshot
from tests.helpers.recorded import add_run


class WriteTrial(ABC):
    """A tree in which one thing is written."""

    def __init__(self, home: Path) -> None:
        self.template, self.place = home / "template", home / "place"
        self.root = self.place / "checkpoints"
        self.make(self.template / "checkpoints")
        self.before = snapshot(self.template / "checkpoints")
        self.furnish()
        assert self.act()
        self.reference = snapshot(self.root)
        assert self.reference != self.before

    def make(self, root: Path) -> None:
        self.folder = add_run(root, config(), evaluations=()).relative_to(root)
        add_run(root, config(16), run_id="bbbb2222")

    def furnish(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.template, self.place)

    @abstractmethod
    def act(self) -> bool:
        """Write; whether it was done."""

    def check(self, *, done: bool) -> None:
        """Every file is as it was, or as it will be; temporary ones are known as such."""
        found = snapshot(self.root)
        for name in found.keys() | self.before.keys():
            if not folders.is_partial(Path(name).name):
                allowed = (self.before.get(name), self.reference.get(name))
                assert found.get(name) in allowed, f"{name} is neither as it was nor as it will be"
        if done:
            whole = {name: data for name, data in found.items() if not folders.is_partial(Path(name).name)}
            assert whole == self.reference, "it says that it is done, and it is not"

    def check_again(self) -> None:
        assert self.act(), "it does not end the next time"
        self.check(done=True)


class ReportTrial(WriteTrial):
    """README.md, with what people wrote in it, and TASK_MAPPING.md."""

    def make(self, root: Path) -> None:
        super().make(root)
        (root / "README.md").write_text("# Ours\n\nWhat we wrote.\n")

    def act(self) -> bool:
        result = report(self.root, convention=built_in())
        unread = result.statistics.unreadable if result.statistics is not None else ()
        return not unread and all(document.state is not State.REFUSED for document in result.documents)

    def check(self, *, done: bool) -> None:
        """As of any other; but of a tree of which a part could not be read, what it says is of the rest, and whole."""
        if not done:
            for file in (self.root / "README.md", self.root / "TASK_MAPPING.md"):
                known = (self.before.get(file.name), self.reference[file.name])
                held = file.read_bytes() if file.exists() else None
                if held not in known and held is not None:
                    ends = (self.reference[file.name][-40:], b"\nNo run of this tree can be read.\n")
                    assert held.endswith(ends), f"{file.name} is not whole"
                    assert b"There is no run" not in held, f"{file.name} says that there is none, and there are"
                    file.write_bytes(self.reference[file.name])
        super().check(done=done)


class EvaluationTrial(WriteTrial):
    """A measured result, recorded in run.json."""

    def act(self) -> bool:
        file = next((self.root / self.folder).glob("Final*.pt"))
        measured = Evaluation(str(file), EvaluationMode.TEACHER_FORCED, 10, 0, {}, (17, 32))
        return record_evaluation(measured, built_in())

    def check(self, *, done: bool) -> None:
        super().check(done=done)
        assert records.is_as_written(self.root / self.folder / records.RUN_FILE)


class SaveTrial(WriteTrial):
    """A checkpoint that training saves."""

    def make(self, root: Path) -> None:
        super().make(root)
        self.data = _saved(root.parent / "saved.pt")

    def act(self) -> bool:
        path = self.root / "saved.pt"
        writing.write_atomically(path, self.data, replace=False, check=load_weights)
        return True


def _saved(file: Path) -> bytes:
    torch.save({"model": {"weight": torch.arange(4096.0)}}, file)
    data = file.read_bytes()
    file.unlink()
    return data


TRIALS: dict[str, Callable[[Path], WriteTrial]] = {
    "report": ReportTrial,
    "eval": EvaluationTrial,
    "save": SaveTrial,
}


def write_in_place(patch: pytest.MonkeyPatch) -> None:
    """The control: what is there is opened and written over."""

    def write(path: Path, data: bytes, **_: Any) -> bool:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for at in range(0, len(data), 500):
                os.write(descriptor, data[at : at + 500])
        except OSError as error:
            raise MachineError("it cannot be written", code="io-error", fix="Do it again.") from error
        finally:
            os.close(descriptor)
        return True

    for module in ("ckptman.documents.reporting", "ckptman.tree.records", "ckptman.fs.writing"):
        patch.setattr(f"{module}.write_atomically", write)


def sweep(name: str, fault: str, every: int, with_control: bool = False) -> int:
    """Disturb every so many of the calls; how many cases there were. It forks: not where there are threads."""
    with in_memory() as home, pytest.MonkeyPatch.context() as patch:
        trial = TRIALS[name](home)
        if with_control:
            write_in_place(patch)
        return disturb_each_call(trial, FAULTS[fault], first=slice_of(name, fault), every=every)
