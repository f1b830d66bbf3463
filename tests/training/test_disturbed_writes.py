"""Every call of a report, an evaluation's record, a training's save, a migration and a mending is disturbed in turn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import faulty_moves
from tests.helpers.disturbed import FAULTS
from tests.helpers.faulty_writes import TRIALS
from tests.helpers.promises import caught, tried
from tests.helpers.slices import SLICES

PROMISE = "report, eval and a training's save, disturbed at any call: each file as it was, or as it will be"


MOVING = "migrate, its undo and validate --fix, disturbed at any call: every checkpoint is there, the next one finishes"


def sweep(*words: str, module: str = "faulty_writes") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"tests.helpers.{module}", *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS)
@pytest.mark.parametrize("fault", FAULTS if SLICES >= 10 else ["EIO", "SIGKILL before"])
def test_each_file_is_as_it_was_or_as_it_will_be(trial: str, fault: str) -> None:
    with tried(PROMISE) as counted:
        done = sweep(trial, fault, "1" if SLICES >= 10 else "3")
        assert done.returncode == 0, done.stderr[-3000:]
        counted.cases = int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["report", "eval"] if SLICES >= 10 else ["report"])
def test_writing_over_what_is_there_would_be_found(trial: str) -> None:
    with caught(PROMISE):
        done = sweep(trial, "SIGKILL before", "1", "control")
        assert "AssertionError" in done.stderr, done.stderr[-1000:]


@pytest.mark.slow
@pytest.mark.parametrize("trial", faulty_moves.TRIALS)
@pytest.mark.parametrize("fault", FAULTS if SLICES >= 10 else ["EIO", "SIGKILL before"])
def test_no_checkpoint_is_lost_where_files_are_moved(trial: str, fault: str) -> None:
    with tried(MOVING) as counted:
        done = sweep(trial, fault, "2" if SLICES >= 10 else "11", module="faulty_moves")
        assert done.returncode == 0, done.stderr[-3000:]
        counted.cases = int(done.stdout)


@pytest.mark.slow
def test_a_rename_in_pieces_would_be_found() -> None:
    with caught(MOVING):
        done = sweep("migrate", "SIGKILL before", "1", "control", module="faulty_moves")
        assert "AssertionError" in done.stderr, done.stderr[-1000:]
