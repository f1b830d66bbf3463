"""Every call of an ingest is disturbed in turn: killed, failed, cut short. Nothing is lost, the next one finishes."""

from __future__ import annotations

import pytest

from tests.helpers.disturbed import FAULTS, signals_all_the_time
from tests.helpers.faulty_ingests import CONTROLS, SOURCES, IngestTrial, in_memory
from tests.helpers.promises import caught, tried
from tests.helpers.slices import SLICES
from tests.helpers.zygote import Zygote

PROMISE = "An ingest disturbed at any call: all at a final name is whole, nothing is lost, the next one finishes"


HELPERS = "tests.helpers.faulty_ingests"
ALL = SLICES >= 10


KINDS = [
    (mode, source)
    for mode in (["copy", "hardlink", "symlink", "move"] if ALL else ["copy", "move"])
    for source in (SOURCES if ALL else ["with W&B", "a tree", "shared out"])
    if (mode, source) != ("move", "shared out")  # one process moves
]


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "source"), KINDS)
@pytest.mark.parametrize("fault", FAULTS if ALL else ["EIO", "SIGKILL before"])
def test_an_ingest_that_is_disturbed_at_any_call(mode: str, source: str, fault: str, zygote: Zygote) -> None:
    with tried(PROMISE) as trial:
        done = zygote.call(f"{HELPERS}:sweep", mode, source, fault, 1 if ALL else 41)
        assert done.status == 0, done.err[-3000:]
        trial.cases = int(done.out)
        assert trial.cases > 0


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
def test_what_breaks_the_promise_is_found(control: str, zygote: Zygote) -> None:
    with caught(PROMISE):
        done = zygote.call(f"{HELPERS}:sweep_of_control", control)
        assert done.status == 1
        assert "AssertionError" in done.err, done.err[-1000:]


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
