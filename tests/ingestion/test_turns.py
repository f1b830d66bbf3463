"""While the files of some runs are published and recorded, by another thread, those of the next ones are copied."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import folders, placing
from ckptman.ingestion import applying
from tests.helpers.disturbed import FAULTS, disturb_each_call
from tests.helpers.faulty_ingests import IngestTrial, InTurnsTrial, in_memory
from tests.helpers.grown import grow_source
from tests.helpers.promises import caught, tried
from tests.helpers.slices import SLICES

PROMISE = "An ingest whose copies are made while others are published: whole or not there, whatever happens to either"


def publishers(trial: IngestTrial, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each turn, whether the main thread published it."""
    found = []
    real = applying.Work._publish

    def publish(self: Any, turn: Any) -> None:
        found.append(threading.current_thread() is threading.main_thread())
        real(self, turn)

    with monkeypatch.context() as patch:
        patch.setattr(applying.Work, "_publish", publish)
        trial.furnish()
        assert trial.act()
    trial.check(done=True)
    return found


def test_copies_are_published_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_memory() as home:
        assert publishers(InTurnsTrial(home / "turns", "copy", with_wandb=False), monkeypatch) == [False] * 3
        assert publishers(InTurnsTrial(home / "links", "hardlink", with_wandb=False), monkeypatch) == [True] * 3
        assert publishers(IngestTrial(home / "little", "copy", with_wandb=False), monkeypatch) == [True]


def test_the_next_ones_are_staged_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    staged, real_stage, real_publish = threading.Semaphore(0), placing.Batch.stage_all, placing.Batch.publish
    waited: list[bool] = []

    def stage_all(self: Any, *arguments: Any, **options: Any) -> Any:
        found = real_stage(self, *arguments, **options)
        staged.release()
        return found

    def publish(self: Any) -> Any:
        staged.acquire()  # those that are published
        if len(waited) < 2:
            waited.append(staged.acquire(timeout=20))  # the next ones
            staged.release()
        return real_publish(self)

    with in_memory() as home:
        trial = InTurnsTrial(home, "copy", with_wandb=False)
        monkeypatch.setattr(placing.Batch, "stage_all", stage_all)
        monkeypatch.setattr(placing.Batch, "publish", publish)
        trial.furnish()
        assert trial.act()
    assert waited == [True, True]


@pytest.mark.parametrize("fault", ["EIO", "SIGKILL before"])
def test_any_call_is_disturbed(fault: str) -> None:
    with tried(PROMISE) as counted, in_memory() as home:
        trial = InTurnsTrial(home, "copy", with_wandb=False)
        counted.cases = disturb_each_call(trial, FAULTS[fault], every=max(1, 20 // SLICES))


def interrupt_at(trial: IngestTrial, nth: int) -> bool:
    """Ctrl-C, or whatever else ends an ingest, as it tells how far it is; whether it came so far."""
    count = 0

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal count
        count += stage != "reading"
        if count == nth:
            count += 1
            raise KeyboardInterrupt

    trial.furnish()
    try:
        assert trial.act(progress)
    except KeyboardInterrupt:
        assert not [path.name for path in trial.root.rglob("*") if folders.is_partial(path.name)]
        trial.check(done=False)
        trial.check_again()
        return True
    return False


def test_an_interrupt_leaves_nothing_half() -> None:
    with tried(PROMISE) as counted, in_memory() as home:
        trial = InTurnsTrial(home, "copy", with_wandb=False)
        while interrupt_at(trial, counted.cases + 1):
            counted.cases += 1
        assert counted.cases >= 3 * 4  # of each run: two files, the wait for them, the record


def test_what_is_left_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with caught(PROMISE), in_memory() as home:
        trial = InTurnsTrial(home, "copy", with_wandb=False)
        monkeypatch.setattr(placing._Staged, "remove_temporary", lambda _: None)
        with pytest.raises(AssertionError):
            interrupt_at(trial, 2)


def ingest_with_few_descriptors(home: Path, limit: int, before: str = "pass") -> bool:
    source = grow_source(home / "source", 60)
    code = (
        f"import sys, ckptman; from ckptman.fs import placing; from ckptman.ingestion import applying; {before}; "
        "applying._MUCH = 1; assert len(ckptman.ingest(*sys.argv[1:]).placed) == 120"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source, home / "tree"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not done.returncode or "too many files are open" in done.stderr, done.stderr
    return not done.returncode


@pytest.mark.parametrize("limit", [160, 256])
def test_descriptors_are_enough_for_both(limit: int, tmp_path: Path) -> None:
    assert ingest_with_few_descriptors(tmp_path, limit)


def test_too_many_files_at_once_would_be_found(tmp_path: Path) -> None:
    assert not ingest_with_few_descriptors(tmp_path, 160, "placing.BATCH_SIZE = 64")
