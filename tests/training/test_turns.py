"""Works that are done by turns, runs of a configuration's seeds among them."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.raw.wandb_log import read_log
from ckptman.rules.recipe import PRECISIONS
from ckptman.text import MachineError
from ckptman.training import runs
from ckptman.training.loop import Computing, train_run, training
from ckptman.training.planning import Action, PlannedRun
from ckptman.training.progress import COMPLETE, INTERRUPTED
from ckptman.training.run_folder import RawRun
from ckptman.training.runs import RunResult, _at_once, _train_several
from ckptman.training.stopping import Stop
from ckptman.training.turns import Turns, in_turns
from tests.helpers.devices import DEVICES, GPU, ROUNDING, furthest, weights
from tests.helpers.short_runs import documents, raw_run, same

CPU = torch.device("cpu")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def seeds(out: Path, *found: int, **values: Any) -> list[RawRun]:
    return [raw_run(out, seed=seed, **values) for seed in found]


def planned(*several: RawRun) -> list[PlannedRun]:
    return [PlannedRun(run, Action.NEW) for run in several]


def test_each_has_its_turn_and_its_result() -> None:
    told: list[str] = []

    def work(name: str, turns: int) -> Turns[str]:
        for turn in range(turns):
            told.append(f"{name}{turn}")
            yield
        return name.upper()

    assert in_turns([work("a", 1), work("b", 3), work("c", 2)], CPU) == ["A", "B", "C"]
    assert told == ["a0", "b0", "c0", "b1", "c1", "b2"]
    assert in_turns([], CPU) == []


def test_what_one_raises_closes_the_others() -> None:
    closed: list[str] = []

    def work(name: str, error: bool) -> Turns[None]:
        try:
            yield
            if error:
                raise ValueError(name)
            yield
        finally:
            closed.append(name)

    with pytest.raises(ValueError, match="b"):
        in_turns([work("a", False), work("b", True), work("c", False)], CPU)
    assert sorted(closed) == ["a", "b", "c"]


def test_runs_that_are_trained_at_once_are_those_that_are_trained_alone(device: torch.device, tmp_path: Path) -> None:
    computing, values = Computing(device), {"amp_dtype": PRECISIONS["fp32"], "train_min_k": 2, "max_iters": 30}
    together, alone = (seeds(tmp_path / name, 1, 2, 3, **values) for name in ("together", "alone"))
    done = in_turns([training(run, computing) for run in together], device)
    assert [outcome.state for outcome in done] == [COMPLETE] * 3
    for one, other in zip(together, alone, strict=True):
        assert train_run(other, computing).state == COMPLETE
        if device == CPU:
            assert same(documents(one), documents(other))
        else:
            assert furthest(weights(one), weights(other)) <= ROUNDING
    assert furthest(weights(together[0]), weights(alone[1])) > 0.01, "another seed's are told apart"


def test_a_run_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    fine, late = seeds(tmp_path, 1, 2)
    bad = raw_run(tmp_path / "too fast", seed=3, learning_rate=1e30)
    results = _train_several(planned(fine, bad, late), trainer(), CPU)
    assert [result.state for result in results] == ["complete", "failed", "complete"]
    assert results[1].error is not None
    assert results[1].error.code == "diverged"
    assert [run.final.exists() for run in (fine, bad, late)] == [True, False, True]


def test_an_interrupt_leaves_all_of_them_to_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptman.training.loop.PROGRESS_SECONDS", 0.0)
    three = seeds(tmp_path, 1, 2, 3)

    def interrupted(progress: Any) -> None:
        if progress.iters_done == 4 and progress.label == three[1].label:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_turns([training(run, Computing(CPU), progress=interrupted) for run in three], CPU)
    assert [status.state for run in three if (status := run.read_status())] == [INTERRUPTED] * 3
    whole = seeds(tmp_path / "whole", 1, 2, 3)
    for run, other in zip(three, whole, strict=True):
        assert train_run(run, Computing(CPU)).state == train_run(other, Computing(CPU)).state == COMPLETE
        assert same(documents(run), documents(other))


W_AND_B = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from ckptman.training.loop import Computing, WandbMode, training
from ckptman.training.turns import in_turns
from tests.helpers.short_runs import raw_run
cpu = torch.device("cpu")
several = [raw_run(Path(sys.argv[1]), seed=seed) for seed in (1, 2, 3)]
in_turns([training(run, Computing(cpu, wandb=WandbMode.OFFLINE)) for run in several], cpu)
"""


@pytest.mark.slow
def test_each_run_of_several_at_once_is_logged_as_its_own_run_of_wandb(tmp_path: Path) -> None:
    command = [sys.executable, "-c", W_AND_B, str(tmp_path), str(Path(__file__).parents[2])]
    status = subprocess.run(command, check=False, capture_output=True, text=True)
    assert status.returncode == 0, status.stderr
    logged = {}
    for run in seeds(tmp_path, 1, 2, 3):
        (path,) = run.wandb.rglob("*.wandb")
        log = read_log(path)
        assert {document["run_id"] for document in documents(run).values()} == {log.run_id}
        assert (log.config["seed"], log.summary["iter"], log.exit_code) == (run.config.seed, 12, 0)
        logged[log.run_id] = log.summary["train/loss"] if "train/loss" in log.summary else log.summary["train"]["loss"]
    assert len(set(logged.values())) == 3, "three runs, each with figures of its own"


def trainer(**how: Any) -> Any:
    def train(one: PlannedRun) -> Turns[RunResult]:
        return runs._train_one(one, computing=Computing(CPU), resume=True, stop=Stop(), progress=None, **how)

    return train


def test_on_a_gpu_the_seeds_of_a_configuration_of_several_layers_are_trained_at_once(tmp_path: Path) -> None:
    wanted = planned(
        *seeds(tmp_path, 1, 2, n_layers=2),
        *seeds(tmp_path, 1, n_layers=2, use_mlp=True),
        *seeds(tmp_path, 3, 4, 5, n_layers=2),
        *seeds(tmp_path, 1, 2),
    )
    found = [[(one.run.config.n_layers, one.run.config.seed) for one in some] for some in _at_once(wanted, GPU)]
    assert found == [[(2, 1), (2, 2), (2, 3), (2, 4)], [(2, 5)], [(2, 1)], [(1, 1)], [(1, 2)]]
    assert [len(some) for some in _at_once(wanted, CPU)] == [1] * 8


def test_where_the_memory_is_too_small_for_all_at_once_they_are_trained_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work: set[Path] = set()
    asked: list[Path] = []

    def training(run: RawRun, *_: object, **__: object) -> Turns[object]:
        asked.append(run.folder)
        at_work.add(run.folder)
        try:
            yield
            if len(at_work) > room:
                raise MachineError("too small", code="out-of-memory")
            yield
            return None
        finally:
            at_work.remove(run.folder)

    monkeypatch.setattr(runs, "training", training)
    monkeypatch.setattr(RawRun, "lock", lambda run: nullcontext())
    several = seeds(tmp_path, 1, 2, 3)
    room = 2
    results = _train_several(planned(*several), trainer(), CPU)
    assert [result.error for result in results] == [None] * 3
    assert asked == [*(run.folder for run in several), several[0].folder], "the first gave way, and was trained again"
    room, asked = 0, []
    results = _train_several(planned(*several), trainer(), CPU)
    assert [result.error.code for result in results if result.error] == ["out-of-memory"] * 3
    assert len(asked) == 6
