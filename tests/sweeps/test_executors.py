"""A sweep's jobs: processes of this machine, and what of SLURM can be tested without one."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from ckptman.rules.convention_file import built_in
from ckptman.sweeps.executors import slurm, submissions
from ckptman.sweeps.executors.job import JobOutcome, RunJob, read_outcome, train_job
from ckptman.sweeps.executors.local import JobUpdate, LocalPool
from ckptman.sweeps.executors.slurm import SlurmOptions, TrainingJob, parse_minutes, parse_option
from ckptman.sweeps.sweeping import (
    plan_sweep,
    submit_sweep,
    sweep,
)
from ckptman.text.errors import MachineError, UsageError
from ckptman.training.progress import COMPLETE, FAILED, RUNNING
from ckptman.training.stopping import Stop
from tests.helpers.sweeps import HOW, ONE, fake_slurm, plan, todo


@pytest.mark.slow
def test_a_process_that_cannot_start_fails_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = plan(tmp_path, ONE).runs
    job = RunJob.of(run.raw, log=str(tmp_path / "run.log"))
    monkeypatch.setattr("ckptman.sweeps.executors.local._WORKER", "ckptman.no_such_module")
    (outcome,) = LocalPool([job], processes=1, folder=tmp_path).run()
    assert outcome.state == FAILED
    assert "exit status 1" in outcome.reason
    assert "no_such_module" in Path(outcome.log).read_text()


@pytest.mark.slow
def test_a_process_that_ends_without_a_word_is_not_started_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = plan(tmp_path, ONE).runs
    job = RunJob.of(run.raw, log=str(tmp_path / "run.log"))
    monkeypatch.setattr("ckptman.sweeps.executors.local._WORKER", "keyword")  # a module that does nothing
    pool = LocalPool([job], processes=1, folder=tmp_path)
    (outcome,) = pool.run(stopped=lambda: pool._started > 3)
    assert (outcome.state, outcome.reason) == (FAILED, "its process ended with exit status 0")


@pytest.mark.slow
def test_a_process_that_said_nothing_has_no_log(tmp_path: Path) -> None:
    (run,) = plan(tmp_path, ONE).runs
    job = RunJob.of(run.raw, log=str(tmp_path / "run.log"))

    def kill(_: JobUpdate) -> None:
        for worker in pool._workers:
            worker.process.kill()

    pool = LocalPool([job], processes=1, folder=tmp_path, update=kill)
    (outcome,) = pool.run()
    assert (outcome.state, outcome.reason, outcome.log) == (FAILED, "its process was killed by SIGKILL", "")


@pytest.mark.slow
def test_an_outcome_is_written_and_read(tmp_path: Path) -> None:
    result = sweep(plan(tmp_path, ONE), how=HOW)
    (file,) = (tmp_path / ".sweeps").glob("*/0000-*.json")
    assert read_outcome(file) == result.runs[0].outcome
    for text in ("", "[]", "{}", '{"state": 1, "unknown": 2', "null"):
        file.write_text(text)
        assert read_outcome(file) is None


# --- SLURM: what can be tested without one ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:00", 90), ("1:30:00", 90), ("0:00:30", 1), ("1-12", 2160), ("1-12:30", 2190), ("1-0:0:30", 1441),
     ("4:00:00", 240)],
)  # fmt: skip
def test_a_time_limit(text: str, minutes: int) -> None:
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "x", "1h", "-5", "1:2:3:4", "1-", "0:00:00"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_minutes(text)
    assert caught.value.code == "bad-time"


def test_an_option_of_sbatch() -> None:
    assert parse_option("account=lab") == ("account", "lab")
    assert parse_option("--mail-type=END") == ("mail_type", "END")
    assert parse_option("comment=a=b") == ("comment", "a=b")
    assert parse_option("exclusive") == ("exclusive", True)
    for bad in ("", "=x", "a b=1", "x=1\n#SBATCH --y", "-=1"):
        with pytest.raises(UsageError) as caught:
            parse_option(bad)
        assert caught.value.code == "bad-slurm-option"


def test_options_reach_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fake_slurm(tmp_path, monkeypatch)
    options = SlurmOptions(
        partition="gpu", minutes=90, gpus=1, memory="8G", cores=2, array_parallelism=5, more={"account": "lab"}
    )
    result = submit_sweep(plan(tmp_path / "with space", dataclasses.replace(ONE, seeds=(1, 2))), options, how=HOW)
    assert [run.job for run in result.runs] == ["7_0", "7_1"]
    (script,) = kept.iterdir()
    lines = script.read_text().splitlines()
    for line in ("--partition=gpu", "--time=90", "--gpus-per-node=1", "--mem=8G", "--cpus-per-task=2", "--array=0-1%2",
                 "--account=lab", "--requeue", "--open-mode=append"):  # fmt: skip
        assert f"#SBATCH {line}" in lines
    folder = result.folder
    assert folder is not None
    assert not [path for path in folder.rglob("*") if path.is_symlink()], "nothing is in the way of ingest"
    found = submissions.read_submissions(tmp_path / "with space")
    assert {item.run.job for item in found.values()} == {"7_0", "7_1"}


def test_a_sweep_larger_than_an_array_is_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fake_slurm(tmp_path, monkeypatch)
    result = submit_sweep(plan(tmp_path / "out"), SlurmOptions(), how=HOW)  # three runs, and arrays of two
    assert len(list(kept.iterdir())) == 2
    assert [run.job for run in result.runs] == ["7_0", "7_1", "7"]


def test_what_slurm_took_before_it_refused_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = "test -e $(dirname $0)/../one && exit 1; touch $(dirname $0)/../one; echo Submitted batch job 7"
    fake_slurm(tmp_path, monkeypatch, once)
    with pytest.raises(MachineError, match=r"2 of 3 were taken before"):
        submit_sweep(plan(tmp_path / "out"), SlurmOptions(), how=HOW)
    monkeypatch.setattr(submissions, "slurm_queue", lambda _: {"7_0": "PENDING", "7_1": "RUNNING"})
    assert todo(plan(tmp_path / "out")) == ["queued", "queued", "new"]


@pytest.mark.slow
def test_a_job_that_slurm_starts_again_waits_for_its_last_turn_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = plan(tmp_path, ONE).runs
    run.raw.make_folders()
    job = RunJob.of(run.raw, device="cpu", threads=1, wandb="disabled")
    monkeypatch.setattr(slurm, "_WAIT_SECONDS", 0.2)
    with run.raw.lock():
        assert slurm._train_when_free(job, Stop(), restarted=False).state == RUNNING
        monkeypatch.setattr("ckptman.training.run_folder.STALE_SECONDS", 0.5)
        assert slurm._train_when_free(job, Stop(), restarted=True).state == RUNNING
    monkeypatch.setattr("ckptman.training.run_folder.STALE_SECONDS", 60)
    release = threading.Event()

    def hold() -> None:
        with run.raw.lock():
            release.set()
            time.sleep(2)

    thread = threading.Thread(target=hold)
    thread.start()
    release.wait()
    assert slurm._train_when_free(job, Stop(), restarted=True).state == COMPLETE
    thread.join()


def test_the_job_does_what_it_is_told_when_it_is_requeued() -> None:
    (run,) = plan_sweep("nowhere", selection=ONE, convention=built_in()).runs
    job = TrainingJob(RunJob.of(run.raw))
    assert job.checkpoint().function is job


def test_what_sbatch_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm(tmp_path, monkeypatch, "echo 'sbatch: error: invalid partition specified: gpux' >&2; exit 1")
    with pytest.raises(MachineError, match="invalid partition specified: gpux") as caught:
        submit_sweep(plan(tmp_path / "out"), SlurmOptions(partition="gpux"), how=HOW)
    assert caught.value.code == "submission-failed"


def test_a_machine_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError) as caught:
        submit_sweep(plan(tmp_path / "out"), SlurmOptions(), how=HOW)
    assert caught.value.code == "no-slurm"
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MachineError, match="submitit") as caught:
        submit_sweep(plan(tmp_path / "out"), SlurmOptions(), how=HOW)
    assert caught.value.code == "no-submitit"


def test_the_queue_is_asked_without_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho $* > $0.asked\nprintf '12_0 RUNNING\\n12_1 PENDING\\n15 COMPLETING\\n'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert submissions.slurm_queue([7, 8]) == {"12_0": "RUNNING", "12_1": "PENDING", "15": "COMPLETING"}
    assert "--user=7,8" in (tmp_path / "squeue.asked").read_text()
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert submissions.slurm_queue([7]) is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert submissions.slurm_queue([7]) is None
    assert slurm._is_running("12_0") is False


@pytest.mark.slow
def test_a_job_outcome_of_a_refused_run(tmp_path: Path) -> None:
    (run,) = plan(tmp_path, ONE).runs
    outcome = train_job(RunJob.of(run.raw, device="nonsense", wandb="disabled"))
    assert outcome.state == FAILED
    assert "nonsense" in outcome.reason
    run.raw.make_folders()
    with run.raw.lock():
        busy = train_job(RunJob.of(run.raw, device="cpu", wandb="disabled"))
    assert isinstance(busy, JobOutcome)
    assert busy.state == RUNNING
