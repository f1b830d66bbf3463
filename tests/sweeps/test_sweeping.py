"""Sweeps on this machine: what is planned, what is trained, and what happens when something goes wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.rules.selection import Selection, grid_runs
from ckptman.sweeps.executors import submissions
from ckptman.sweeps.executors.local import JobUpdate
from ckptman.sweeps.grid_status import RunStanding, status
from ckptman.sweeps.sweeping import (
    NOT_STARTED,
    How,
    Speeds,
    SweepPlan,
    SweepResult,
    SweepRun,
    Todo,
    plan_sweep,
    share,
    sweep,
)
from ckptman.text.errors import UsageError
from ckptman.training.loading import load
from ckptman.training.planning import plan_run
from ckptman.training.progress import COMPLETE, FAILED, INTERRUPTED, RUNNING
from ckptman.training.run_folder import RawRun
from ckptman.training.stopping import Stop
from tests.helpers.raw import START, write_run
from tests.helpers.sweeps import HOW, LONG, ONE, RECIPE, THREE, plan, states, todo, trained_here

# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_of_the_whole_grid_has_504_new_runs(tmp_path: Path) -> None:
    found = plan_sweep(tmp_path / "grid_outputs", convention=built_in())
    assert found.counts == {"new": 504, "resume": 0, "complete": 0, "running": 0, "queued": 0, "refused": 0}
    assert not (tmp_path / "grid_outputs").exists(), "a plan writes nothing"
    assert len({run.raw.folder for run in found.runs}) == 504
    assert found.run_seconds is None, "nothing was measured"
    config = found.runs[0].raw.config
    assert (config.max_iters, config.effective_batch_size) == (40_000, 4_096)


def test_a_plan_tells_what_is_there(tmp_path: Path) -> None:
    first = plan(tmp_path)
    assert todo(first) == ["new"] * 3
    first.runs[0].raw.make_folders()
    with first.runs[0].raw.lock():
        first.runs[0].raw.write_status(RUNNING, "abcd1234", 3)
        assert todo(plan(tmp_path)) == ["running", "new", "new"]
    assert todo(plan(tmp_path)) == ["new"] * 3


@pytest.mark.slow
def test_a_run_that_is_complete_in_the_tree_is_not_trained_again(tmp_path: Path) -> None:
    out, root = tmp_path / "grid_outputs", tmp_path / "checkpoints"
    sweep(plan(out, ONE), how=HOW)
    ingest(out, root, settle=0)
    assert todo(plan(tmp_path / "elsewhere", ONE, root=root)) == ["complete"]
    assert todo(plan(tmp_path / "elsewhere", ONE)) == ["new"]
    other = {**RECIPE, "max_iters": 13}
    anew = plan(tmp_path / "elsewhere", ONE, other, root=root)
    assert todo(anew) == ["new"], "another recipe is another run"
    assert anew.runs[0].note.endswith("seed_1337 is of another recipe: it differs in max_iters")
    sweep(plan(tmp_path / "second", ONE, other), how=HOW)
    ingest(tmp_path / "second", root, settle=0)
    for recipe in (RECIPE, other):  # the tree has both
        (run,) = plan(tmp_path / "elsewhere", ONE, recipe, root=root).runs
        assert (str(run.todo), run.note) == ("complete", "")
    assert todo(plan(tmp_path / "elsewhere", ONE, {**RECIPE, "max_iters": 14}, root=root)) == ["new"]


def test_a_run_of_another_trainers_raw_outputs_counts(tmp_path: Path) -> None:
    found = plan(tmp_path, ONE)
    (run,) = found.runs
    write_run(tmp_path / run.grid.group / "task_0003", run.raw.config, run_id="labsrun1", started=START)
    assert todo(plan(tmp_path, ONE)) == ["complete"]


def test_a_run_that_waits_in_the_queue_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = plan(tmp_path, ONE).runs
    folder = submissions.new_folder(tmp_path)
    relative = run.raw.folder.relative_to(tmp_path).as_posix()
    submissions.write_record(folder, "slurm", [submissions.SubmittedRun(relative, "log", "outcome", "7_0")])
    monkeypatch.setattr(submissions, "slurm_queue", lambda _: {"7_0": "PENDING"})
    assert todo(plan(tmp_path, ONE)) == ["queued"]
    monkeypatch.setattr(submissions, "slurm_queue", lambda _: {})
    assert todo(plan(tmp_path, ONE)) == ["new"]


@pytest.mark.slow
def test_a_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    sweep(plan(tmp_path, ONE), how=HOW)
    found = plan(tmp_path, ONE, {**RECIPE, "learning_rate": 0.5})
    assert todo(found) == ["refused"]
    assert found.runs[0].error is not None
    assert "learning_rate" in found.runs[0].error.message
    result = sweep(found, how=HOW)
    assert states(result) == ["refused"]
    assert result.wrong == result.runs


@pytest.mark.parametrize(
    ("selection", "recipe", "code"),
    [
        (ONE, {"n_layers": 2}, "set-by-the-task"),
        (ONE, {"wandb_group": "mine"}, "set-by-the-task"),
        (ONE, {"iterations": 5}, "bad-config"),
        (ONE, {"max_iters": 0}, "bad-config"),
        (dataclasses.replace(ONE, k=(200,)), {}, "bad-config"),
        (Selection(k=(2,), facets={"regime": ("dynamic",)}), {}, "bad-config"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(
    tmp_path: Path, selection: Selection, recipe: dict[str, Any], code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plan(tmp_path, selection, recipe)
    assert caught.value.code == code


def standing(speed: float | None, **config: Any) -> RunStanding:
    (run,) = grid_runs(built_in(), ONE)
    values = {"train_min_k": 4, "train_max_k": 4, "n_layers": 1, "use_mlp": False, **config}
    return RunStanding(run=run, state=COMPLETE, iterations_per_second=speed, config=values)


def test_the_estimate_is_from_measured_speeds() -> None:
    (run,) = plan_sweep("nowhere", selection=ONE, convention=built_in()).runs
    config = run.raw.config
    assert Speeds.of([standing(None)]).of_config(config) is None
    assert Speeds.of([standing(8.0)]).of_config(config) == pytest.approx(8.0)
    assert Speeds.of([standing(8.0), standing(10.0), standing(100.0)]).of_config(config) == pytest.approx(10.0)
    assert Speeds.of([standing(8.0, n_layers=2)]).of_config(config) is None, "another kind of model"
    assert Speeds.of([standing(8.0, n_embd=512)]).of_config(config) is None, "wider"
    half = Speeds.of([standing(8.0, effective_batch_size=2_048, micro_batch_size=2_048)])
    assert half.of_config(config) == pytest.approx(4.0)
    longer = Speeds.of([standing(8.0, train_min_k=13, train_max_k=13)])
    assert longer.of_config(config) == pytest.approx(8.0 * 27 / 9)


@pytest.mark.slow
def test_the_estimate_of_a_plan(tmp_path: Path) -> None:
    result = sweep(plan(tmp_path, ONE), how=HOW)
    speed = result.runs[0].outcome and result.runs[0].outcome.iterations_per_second
    assert speed
    found = plan(tmp_path)
    assert found.measured_runs == 1
    assert found.run_seconds == pytest.approx(2 * 12 / speed, rel=0.5)
    assert found.wall_seconds(2) == pytest.approx((found.run_seconds or 0) / 2)
    assert found.wall_seconds(100) == found.runs[1].seconds, "a run is not divided"


@pytest.mark.parametrize(
    ("runs", "processes", "threads", "expected"),
    [(12, None, None, (4, 1)), (12, 2, None, (2, 2)), (12, 1, None, (1, 4)), (12, 8, None, (8, 1)),
     (2, None, None, (2, 2)), (1, 5, None, (1, 4)), (12, None, 2, (2, 2)), (12, None, 8, (1, 8)), (12, 3, 2, (3, 2))],
)  # fmt: skip
def test_the_cores_are_shared(
    monkeypatch: pytest.MonkeyPatch, runs: int, processes: int | None, threads: int | None, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    how = How(device="cpu", threads=threads)
    assert share(runs, processes, how) == (*expected, [])
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert share(runs, processes, how) == (*expected, [])


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    gpus = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "2"}]
    assert share(12, None, How()) == (2, 4, gpus)
    assert share(12, None, How(device="cpu"))[2] == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert share(12, None, How()) == (8, 1, [])


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_trains_every_run_once(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []

    def update(run: SweepRun, news: JobUpdate) -> None:
        heard.append((run.raw.label, news.state))

    result = sweep(plan(tmp_path), processes=2, how=HOW, update=update)
    assert states(result) == [COMPLETE] * 3
    assert len(trained_here(result)) == 3
    assert result.wrong == ()
    for run in result.runs:
        assert run.run.raw.final.exists()
        assert [state for label, state in heard if label == run.run.raw.label and state != "training"] == [
            "starting", "complete",
        ]  # fmt: skip
        assert "complete after 12 iterations" in Path(run.log).read_text()
    assert status(tmp_path, selection=THREE, convention=built_in()).counts["complete"] == 3
    # Again: nothing is left to do, and nothing is written.
    again = plan(tmp_path)
    assert todo(again) == ["complete"] * 3
    result = sweep(again, how=HOW)
    assert (states(result), result.folder) == ([COMPLETE] * 3, None)


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_others(tmp_path: Path) -> None:
    found = plan(tmp_path)
    bad = found.runs[1].raw
    bad.folder.parent.mkdir(parents=True)
    bad.folder.write_text("a file is in the way")
    result = sweep(found, processes=1, how=HOW)
    assert states(result) == [COMPLETE, FAILED, COMPLETE]
    (wrong,) = result.wrong
    assert wrong.run.raw == bad
    assert wrong.reason
    assert "failed" in Path(wrong.log).read_text()
    failed = status(tmp_path, selection=THREE, convention=built_in()).runs[1]
    assert (failed.state, failed.reason, failed.log) == ("failed", wrong.reason, wrong.log)
    bad.folder.unlink()
    result = sweep(plan(tmp_path), how=HOW)
    assert states(result) == [COMPLETE] * 3
    assert trained_here(result) == [bad.label]


class Watch:
    """Does something once, when so many runs have trained for a while."""

    def __init__(self, act: Any, runs: int = 1) -> None:
        self.act, self.runs, self.done = act, runs, False
        self.seen: set[str] = set()

    def __call__(self, run: SweepRun, news: JobUpdate) -> None:
        if news.progress is not None and (news.progress.iters_done or 0) > 20:
            self.seen.add(run.raw.label)
        if len(self.seen) == self.runs and not self.done:
            self.done = True
            self.act(run)


def process_of(run: SweepRun) -> int:
    said = run.raw.read_status()
    assert said is not None
    return said.pid


def with_a_signal_to_the_first(out: Path, number: signal.Signals) -> SweepResult:
    """A sweep of a long run and two short ones; the process of the long one gets a signal."""
    long, short = plan(out, ONE, LONG), plan(out, dataclasses.replace(ONE, seeds=(2337, 3337)))
    both = SweepPlan(out=out, runs=(*long.runs, *short.runs))
    watch = Watch(lambda run: os.kill(process_of(run), number))
    return sweep(both, processes=1, how=HOW, update=watch)


@pytest.mark.slow
def test_a_process_that_is_killed_takes_down_no_other_run(tmp_path: Path) -> None:
    result = with_a_signal_to_the_first(tmp_path, signal.SIGKILL)
    assert states(result) == [FAILED, COMPLETE, COMPLETE]
    assert result.runs[0].reason == "its process was killed by SIGKILL"
    assert Path(result.runs[0].log).is_file()
    assert [run.action for run in plan_again(tmp_path)] == ["resume"], "it goes on from its newest state"


@pytest.mark.slow
def test_a_process_that_is_told_to_end_saves_its_run_and_the_others_are_trained(tmp_path: Path) -> None:
    result = with_a_signal_to_the_first(tmp_path, signal.SIGTERM)
    assert states(result) == [INTERRUPTED, COMPLETE, COMPLETE]
    assert (result.interrupted, result.wrong) == (True, ())
    assert [run.action for run in plan_again(tmp_path)] == ["resume"]


def plan_again(out: Path) -> list[Any]:
    return [plan_run(run.raw) for run in plan(out, ONE, LONG).runs]


@pytest.mark.slow
def test_a_sweep_that_is_ended_saves_every_run(tmp_path: Path) -> None:
    stop = Stop()
    watch = Watch(lambda _: stop.request(), runs=2)
    result = sweep(plan(tmp_path, THREE, LONG), processes=2, how=HOW, stop=stop, update=watch)
    assert result.interrupted
    assert Counter(states(result)) == {INTERRUPTED: 2, NOT_STARTED: 1}
    assert not result.wrong
    again = plan(tmp_path, THREE, LONG)
    assert Counter(todo(again)) == {"resume": 2, "new": 1}
    saved = {run.raw.folder: run.iters_done for run in again.runs}
    for run in result.runs:
        done = run.outcome.iters_done if run.outcome is not None else None
        assert saved[run.run.raw.folder] == (done or 0)
    found = status(tmp_path, selection=THREE, convention=built_in())
    assert Counter(item.state for item in found.runs) == {"partial": 2, "missing": 1}


@pytest.mark.slow
def test_a_sweep_that_is_ended_before_a_run_has_begun_has_no_failed_run(tmp_path: Path) -> None:
    stop = Stop()

    def update(run: SweepRun, news: JobUpdate) -> None:
        stop.request()  # the processes are still starting

    result = sweep(plan(tmp_path, THREE, LONG), processes=2, how=HOW, stop=stop, update=update)
    assert states(result) == [NOT_STARTED] * 3


@pytest.mark.slow
def test_a_sweep_that_was_ended_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    recipe = {**RECIPE, "max_iters": 400}
    stop = Stop()
    first = plan(tmp_path / "ended", ONE, recipe)
    sweep(first, how=HOW, stop=stop, update=Watch(lambda _: stop.request()))
    assert 0 < plan(tmp_path / "ended", ONE, recipe).runs[0].iters_done < 400, "it was ended in the middle"
    second, whole = (sweep(plan(tmp_path / name, ONE, recipe), how=HOW) for name in ("ended", "whole"))
    assert states(second) == states(whole) == [COMPLETE]
    assert second.runs[0].outcome is not None
    assert second.runs[0].outcome.resumed_from
    one, other = (load(result.runs[0].run.raw.final)[0].state_dict() for result in (second, whole))
    assert all(torch.equal(one[key], other[key]) for key in other)


SWEEP = """
import json, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.helpers.sweeps import HOW, THREE, plan, trained_here, states
from ckptman.sweeps.sweeping import sweep
found = plan(Path({out!r}), THREE, {recipe!r})
print("planned", flush=True)
sys.stdin.readline()
result = sweep(found, processes={processes}, how=HOW)
print(json.dumps([trained_here(result), states(result), result.interrupted]))
"""


def start(out: Path, recipe: dict[str, Any], processes: int = 2) -> subprocess.Popen[str]:
    """A sweep in a process of its own, which has planned and waits for a line."""
    code = SWEEP.format(root=str(Path(__file__).parents[2]), out=str(out), recipe=recipe, processes=processes)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "planned\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.slow
def test_two_sweeps_at_once_train_each_run_once(tmp_path: Path) -> None:
    recipe = {**RECIPE, "max_iters": 300}
    sweeps = [start(tmp_path, recipe) for _ in range(2)]  # both have planned all runs
    for process in sweeps:
        go(process)
    said = [json.loads(process.communicate(timeout=120)[0]) for process in sweeps]
    every = Counter(label for trained, _, _ in said for label in trained)
    assert every == {run.raw.label: 1 for run in plan(tmp_path, THREE, recipe).runs}
    assert all(set(found) <= {COMPLETE, RUNNING} for _, found, _ in said)
    assert todo(plan(tmp_path, THREE, recipe)) == ["complete"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_sweep_with_every_run_saved(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, LONG)
    go(process)
    wait_for(lambda: len({path.parent for path in tmp_path.rglob("*.pt")}) == 2)
    process.send_signal(number)
    _, found, interrupted = json.loads(process.communicate(timeout=60)[0])
    assert interrupted
    assert Counter(found) == {INTERRUPTED: 2, NOT_STARTED: 1}
    assert Counter(todo(plan(tmp_path, THREE, LONG))) == {"resume": 2, "new": 1}


@pytest.mark.slow
def test_the_processes_of_a_sweep_that_is_killed_save_and_end(tmp_path: Path) -> None:
    process = start(tmp_path, LONG)
    go(process)
    wait_for(lambda: len({path.parent for path in tmp_path.rglob("*.pt")}) == 2)
    found = [run for run in plan(tmp_path, THREE, LONG).runs if run.todo is Todo.RUNNING]
    assert len(found) == 2
    process.kill()
    process.communicate()
    wait_for(lambda: not any(run.raw.is_locked() for run in found))
    assert Counter(todo(plan(tmp_path, THREE, LONG))) == {"resume": 2, "new": 1}


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_no_process_is_left_behind_when_the_sweep_itself_fails(tmp_path: Path) -> None:
    found = plan(tmp_path, ONE, LONG)

    def fail(run: SweepRun) -> None:
        pids.append(process_of(run))
        raise ZeroDivisionError

    pids: list[int] = []
    with pytest.raises(ZeroDivisionError):
        sweep(found, how=HOW, update=Watch(fail))
    wait_for(lambda: not Path(f"/proc/{pids[0]}").exists())
    assert not found.runs[0].raw.is_locked()


@pytest.mark.slow
def test_signals_are_left_alone_outside_the_main_thread(tmp_path: Path) -> None:
    results: list[SweepResult] = []
    thread = threading.Thread(target=lambda: results.append(sweep(plan(tmp_path, ONE), how=HOW)))
    thread.start()
    thread.join()
    assert states(results[0]) == [COMPLETE]


@pytest.mark.slow
def test_json_of_plan_and_result(tmp_path: Path) -> None:
    found = plan(tmp_path, ONE)
    document = json.loads(json.dumps(found.to_json()))
    assert (document["schema_version"], document["counts"]["new"], document["estimated_run_seconds"]) == (1, 1, None)
    assert {key: document["runs"][0][key] for key in ("group", "task", "seed", "action", "max_iters")} == {
        "group": "len_gen_single_k4", "task": 3, "seed": 1337, "action": "new", "max_iters": 12,
    }  # fmt: skip
    result = json.loads(json.dumps(sweep(found, how=HOW).to_json()))
    assert (result["executor"], result["counts"], result["interrupted"]) == ("local", {"complete": 1}, False)
    assert result["runs"][0]["iters_done"] == 12


@pytest.mark.slow
def test_jobs_carry_the_labs_rules(tmp_path: Path) -> None:
    rules = tmp_path / "ckptman.yaml"
    rules.write_text("title: ours\nnumbering: merged\nfolders: {task: {digits: 2}}\n")
    found = plan_sweep(
        tmp_path / "out",
        selection=Selection(k=(4,), tasks=(2,), seeds=(1337,), facets={"regime": ("dynamic",), "layernorm": (True,)}),
        recipe=RECIPE,
        convention=load_convention(rules),
    )
    assert {run.raw.folder.name for run in found.runs} == {"seed_1337-mlp0", "seed_1337-mlp1"}
    result = sweep(found, processes=2, how=HOW)
    assert states(result) == [COMPLETE] * 2
    assert (tmp_path / "out" / "len_gen_k4" / "task_02" / "seed_1337-mlp0").is_dir()


@pytest.mark.slow
def test_raw_outputs_of_a_sweep_are_ingested_whole(tmp_path: Path) -> None:
    out, root = tmp_path / "grid_outputs", tmp_path / "checkpoints"
    sweep(plan(out), processes=2, how=HOW)
    result = ingest(out, root, settle=0)
    assert not result.refused
    assert len(result.placed) == 9  # two on the way and the end, of three runs
    assert status(root=root, selection=THREE, convention=built_in()).counts["complete"] == 3
    assert RawRun.of(plan(out, ONE).runs[0].raw.config, out, built_in()).final.exists()
