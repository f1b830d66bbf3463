"""Every call of a report, an evaluation's record, a training's save, a migration and a mending is disturbed in turn."""

from __future__ import annotations

import pytest

from tests.helpers import faulty_moves
from tests.helpers.disturbed import FAULTS
from tests.helpers.faulty_writes import TRIALS
from tests.helpers.promises import caught, tried
from tests.helpers.slices import SLICES
from tests.helpers.zygote import Zygote

PROMISE = "report, eval and a training's save, disturbed at any call: each file as it was, or as it will be"


MOVING = "migrate, its undo and validate --fix, disturbed at any call: every checkpoint is there, the next one finishes"


WRITES, MOVES = "tests.helpers.faulty_writes:sweep", "tests.helpers.faulty_moves:sweep"


@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS)
@pytest.mark.parametrize("fault", FAULTS if SLICES >= 10 else ["EIO", "SIGKILL before"])
def test_each_file_is_as_it_was_or_as_it_will_be(trial: str, fault: str, zygote: Zygote) -> None:
    with tried(PROMISE) as counted:
        done = zygote.call(WRITES, trial, fault, 1 if SLICES >= 10 else 3)
        assert done.status == 0, done.err[-3000:]
        counted.cases = int(done.out)


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["report", "eval"] if SLICES >= 10 else ["report"])
def test_writing_over_what_is_there_would_be_found(trial: str, zygote: Zygote) -> None:
    with caught(PROMISE):
        done = zygote.call(WRITES, trial, "SIGKILL before", 1, True)
        assert "AssertionError" in done.err, done.err[-1000:]


@pytest.mark.slow
@pytest.mark.parametrize("trial", faulty_moves.TRIALS)
@pytest.mark.parametrize("fault", FAULTS if SLICES >= 10 else ["EIO", "SIGKILL before"])
def test_no_checkpoint_is_lost_where_files_are_moved(trial: str, fault: str, zygote: Zygote) -> None:
    with tried(MOVING) as counted:
        done = zygote.call(MOVES, trial, fault, 2 if SLICES >= 10 else 11)
        assert done.status == 0, done.err[-3000:]
        counted.cases = int(done.out)


@pytest.mark.slow
def test_a_rename_in_pieces_would_be_found(zygote: Zygote) -> None:
    with caught(MOVING):
        done = zygote.call(MOVES, "migrate", "SIGKILL before", 1, True)
        assert "AssertionError" in done.err, done.err[-1000:]
