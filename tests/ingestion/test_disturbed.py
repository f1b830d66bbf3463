"""Every call of an ingest is disturbed in turn: killed, failed, cut short. Nothing is lost, the next one finishes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.disturbed import FAULTS, signals_all_the_time
from tests.helpers.faulty_ingests import CONTROLS, IngestTrial, in_memory
from tests.helpers.promises import caught, tried
from tests.helpers.slices import SLICES

PROMISE = "An ingest disturbed at any call: all at a final name is whole, nothing is lost, the next one finishes"


def sweep(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.helpers.faulty_ingests", *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


ALL = SLICES >= 10


@pytest.mark.slow
@pytest.mark.parametrize("wandb", ["with W&B", "without W&B"] if ALL else ["with W&B"])
@pytest.mark.parametrize("mode", ["copy", "hardlink", "symlink", "move"] if ALL else ["copy", "move"])
@pytest.mark.parametrize("fault", FAULTS if ALL else ["EIO", "SIGKILL before"])
def test_an_ingest_that_is_disturbed_at_any_call(mode: str, wandb: str, fault: str) -> None:
    with tried(PROMISE) as trial:
        done = sweep("ingest", mode, wandb, fault, "3" if ALL else "41")
        assert done.returncode == 0, done.stderr[-3000:]
        trial.cases = int(done.stdout)
        assert trial.cases > 0


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
def test_what_breaks_the_promise_is_found(control: str) -> None:
    with caught(PROMISE):
        done = sweep("control", control)
        assert done.returncode == 1
        assert "AssertionError" in done.stderr, done.stderr[-1000:]


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_an_ingest_whose_calls_are_interrupted_by_signals(mode: str) -> None:
    with tried(PROMISE) as trial, in_memory() as home:
        one = IngestTrial(home, mode, with_wandb=True)
        for _ in range(10 * SLICES):
            trial.cases += 1
            one.furnish()
            with signals_all_the_time():
                assert one.act()
            one.check(done=True)
