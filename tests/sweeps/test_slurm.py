"""Sweeps on a real SLURM: see tests/helpers/slurm.py for how it is started."""

from __future__ import annotations

import contextlib
import math
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import submitit
import torch

from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import built_in
from ckptman.rules.selection import Selection
from ckptman.sweeps.executors.slurm import SlurmOptions
from ckptman.sweeps.grid_status import COMPLETE, FAILED, PARTIAL, status
from ckptman.sweeps.sweeping import (
    QUEUED,
    SUBMITTED,
    How,
    SweepPlan,
    SweepResult,
    SweptRun,
    plan_sweep,
    submit_sweep,
    sweep,
)
from ckptman.training.loading import load
from tests.helpers import slurm

pytestmark = pytest.mark.slow

RECIPE = {
    "max_iters": 300, "effective_batch_size": 128, "micro_batch_size": 128, "warmup_iters": 5, "ckpt_interval": 50,
    "eval_interval": 100, "eval_samples_per_length": 2, "curriculum_span_iters": 100,
}  # fmt: skip
SIX = Selection(k=(4,), tasks=(2,), facets={"layernorm": (True,)})
"""A task of each regime, three seeds."""
FOUR = Selection(k=(4,), tasks=(6,), seeds=(1, 2, 3, 4), facets={"regime": ("dynamic",), "layernorm": (True,)})
ONE_CORE = How(device="cpu", threads=1, wandb="offline")
OPTIONS = SlurmOptions(minutes=30, cores=1)


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[slurm.Cluster]:
    """A running cluster, and this process set up to talk to it."""
    need_slurm(request)
    with slurm.cluster() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", running.environment["SLURM_CONF"])
        yield running


def need_slurm(request: pytest.FixtureRequest) -> None:
    """Skip, loudly, where there is no SLURM."""
    if reason := slurm.missing():
        reporter, capture = (
            cast(Any, request.config.pluginmanager.get_plugin(name)) for name in ("terminalreporter", "capturemanager")
        )
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"\nNO SLURM HERE, so this is NOT tested: {reason}", red=True, bold=True)
        pytest.skip(f"no SLURM: {reason}")


def plan(out: Path, selection: Selection) -> SweepPlan:
    return plan_sweep(out, selection=selection, recipe=RECIPE, convention=built_in())


def submit(out: Path, selection: Selection) -> SweepResult:
    return submit_sweep(plan(out, selection), OPTIONS, how=ONE_CORE)


def trained(result: SweepResult) -> dict[str, int]:
    """How often the jobs of a submission trained each run from its beginning, by their logs."""
    return {
        run.run.raw.label: sum(" 2 of 300 iterations" in line for line in Path(run.log).read_text().splitlines())
        for run in result.runs
    }


def final_weights(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of every final checkpoint, by the run's folder."""
    return {
        str(file.parents[1].relative_to(out)): load(file)[0].state_dict()
        for file in sorted(out.glob("*/*/*/saved_models/Final_*.pt"))
    }


def has_checkpoint(run: SweptRun) -> bool:
    """Whether a run is in the middle of its training."""
    return any(run.run.raw.saved_models.glob("*.pt"))


def signal_job(cluster: slurm.Cluster, job: str, name: str) -> None:
    """Send a job a signal, once: `scancel` would send it again to a job that has just gone back into the queue."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", f"--signal={name}", job], env=cluster.environment, timeout=3, check=False)


def test_an_array_runs(cluster: slurm.Cluster, tmp_path: Path) -> None:
    executor = submitit.SlurmExecutor(tmp_path / "logs")
    executor.update_parameters(time=5, cpus_per_task=1, array_parallelism=2)
    jobs = executor.map_array(math.factorial, [3, 4, 5])
    assert set(cluster.jobs()) <= {f"{jobs[0].job_id.split('_')[0]}_{index}" for index in range(3)}
    cluster.wait_until_idle(60)
    assert [job.result() for job in jobs] == [6, 24, 120]


def test_no_process_of_a_cluster_outlives_it(request: pytest.FixtureRequest) -> None:
    need_slurm(request)

    def fail() -> Path:
        with slurm.cluster() as running:
            folders.append(running.folder)
            running.run("sbatch", f"--output={running.folder}/out", "--wrap=trap '' TERM; sleep 600")
            slurm.wait_for(lambda: "RUNNING" in running.jobs().values(), 30, "the job")
            # Three daemons, the job's keeper, and the job, which a busy machine begins later than it says.
            slurm.wait_for(lambda: len(slurm.processes_of(running.folder)) >= 5, 30, "its processes")
            raise ZeroDivisionError

    folders: list[Path] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert slurm.processes_of(folders[0]) == []
    assert not folders[0].exists()


def test_a_sweep_survives_a_killed_and_a_requeued_job(cluster: slurm.Cluster, tmp_path: Path) -> None:
    out = tmp_path / "grid_outputs"
    first = submit(out, SIX)
    assert first.counts == {SUBMITTED: 6}
    array = {run.job.split("_")[0] for run in first.runs}
    assert len(array) == 1, "the runs are one array"
    assert [run.job.split("_")[1] for run in first.runs] == [str(index) for index in range(6)]

    # Whoever sweeps again meanwhile leaves the queue's jobs alone.
    assert plan(out, SIX).counts[QUEUED] + plan(out, SIX).counts["running"] == 6

    killed, requeued = first.runs[0], first.runs[1]
    for victim in (killed, requeued):
        slurm.wait_for(partial(has_checkpoint, victim), 120, "a checkpoint")
    signal_job(cluster, killed.job, "KILL")
    cluster.run("scontrol", "requeue", requeued.job)
    assert not killed.run.raw.final.exists(), "it was killed in the middle"
    assert not requeued.run.raw.final.exists(), "it was requeued in the middle"
    cluster.wait_until_idle(600)

    found = status(out, selection=SIX, convention=built_in())
    states = [item.state for item in found.runs]
    assert states.count(COMPLETE) == 5
    # Killed in the middle, it may have lived to see W&B go first, and called that a failure.
    (left,) = [item for item in found.runs if item.run.key == killed.run.grid.key]
    assert left.state in (PARTIAL, FAILED)
    assert left.is_gap
    assert all(Path(item.log).is_file() for item in found.runs), "status knows each run's log"

    second = submit(out, SIX)
    assert second.counts == {COMPLETE: 5, SUBMITTED: 1}
    cluster.wait_until_idle(300)
    assert status(out, selection=SIX, convention=built_in()).counts[COMPLETE] == 6

    undisturbed = tmp_path / "undisturbed"
    here = sweep(plan(undisturbed, SIX), processes=2, how=How(device="cpu", threads=1, wandb="disabled"))
    assert here.counts == {COMPLETE: 6}
    ours, theirs = final_weights(out), final_weights(undisturbed)
    assert len(ours) == 6
    assert ours.keys() == theirs.keys()
    for name, weights in ours.items():
        assert weights.keys() == theirs[name].keys()
        assert all(torch.equal(value, theirs[name][key]) for key, value in weights.items()), name
    assert not torch.equal(*(weights["lm_head.weight"] for weights in list(ours.values())[:2])), "runs differ"

    root = tmp_path / "checkpoints"
    result = ingest(out, root, convention=built_in(), settle=0)
    assert not result.refused
    assert status(root=root, selection=SIX, convention=built_in()).counts[COMPLETE] == 6


def test_two_sweeps_at_once_train_each_run_once(cluster: slurm.Cluster, tmp_path: Path) -> None:
    out = tmp_path / "grid_outputs"
    plans = [plan(out, FOUR), plan(out, FOUR)]  # both before anything is submitted: neither knows of the other
    results = [submit_sweep(each, OPTIONS, how=ONE_CORE) for each in plans]
    assert [result.counts for result in results] == [{SUBMITTED: 4}, {SUBMITTED: 4}]
    cluster.wait_until_idle(300)
    counts = [trained(result) for result in results]
    assert {label: counts[0][label] + counts[1][label] for label in counts[0]} == dict.fromkeys(counts[0], 1)
    assert status(out, selection=FOUR, convention=built_in()).counts[COMPLETE] == 4


def test_a_job_whose_time_is_up_saves_and_goes_on(cluster: slurm.Cluster, tmp_path: Path) -> None:
    out = tmp_path / "grid_outputs"
    selection = Selection(k=(4,), tasks=(6,), seeds=(1,), facets={"regime": ("dynamic",), "layernorm": (True,)})
    result = submit(out, selection)
    run = result.runs[0]
    slurm.wait_for(partial(has_checkpoint, run), 120, "a checkpoint")
    signal_job(cluster, run.job, "USR2")  # what SLURM sends a while before the time limit
    slurm.wait_for(lambda: "Requeued job" in Path(run.log).read_text(), 60, "the job to go into the queue again")
    assert not run.run.raw.final.exists()
    cluster.wait_until_idle(300)
    assert status(out, selection=selection, convention=built_in()).counts[COMPLETE] == 1
    assert trained(result) == {run.run.raw.label: 1}, "it went on from its state"


def test_a_job_that_makes_room_for_another_saves_and_goes_on(cluster: slurm.Cluster, tmp_path: Path) -> None:
    out = tmp_path / "grid_outputs"
    selection = Selection(k=(4,), tasks=(6,), seeds=(1,), facets={"regime": ("dynamic",), "layernorm": (True,)})
    result = submit(out, selection)
    run = result.runs[0]
    slurm.wait_for(partial(has_checkpoint, run), 120, "a checkpoint")
    cluster.run("sbatch", "--partition=urgent", "--ntasks=2", f"--output={tmp_path}/urgent", "--wrap=sleep 3")
    cluster.wait_until_idle(300)
    assert "  interrupted" in Path(run.log).read_text(), "it was told to end, and saved"
    assert trained(result) == {run.run.raw.label: 1}, "it went on from its state"
    assert status(out, selection=selection, convention=built_in()).counts[COMPLETE] == 1


def test_a_cancelled_job_stays_cancelled(cluster: slurm.Cluster, tmp_path: Path) -> None:
    out = tmp_path / "grid_outputs"
    selection = Selection(k=(4,), tasks=(6,), seeds=(1,), facets={"regime": ("dynamic",), "layernorm": (True,)})
    result = submit(out, selection)
    run = result.runs[0]
    slurm.wait_for(partial(has_checkpoint, run), 120, "a checkpoint")
    cluster.run("scancel", run.job)
    cluster.wait_until_idle(60)
    found = status(out, selection=selection, convention=built_in())
    assert found.counts[PARTIAL] == 1
    assert found.runs[0].job == ""
    assert found.gaps == found.runs
