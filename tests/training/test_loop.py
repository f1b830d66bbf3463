"""Training is exact to resume, wherever it is killed, and saves what it should."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ckptman.training.loop as trainer
from ckptman.formats import read_checkpoint
from ckptman.fs import writing
from ckptman.raw.wandb_log import read_log
from ckptman.rules import recipe
from ckptman.text.errors import MachineError, RefusedError
from ckptman.training import updating
from ckptman.training.learning_curve import evaluate_lengths
from ckptman.training.loop import Computing, check_can_compile, initial_model, train_run
from ckptman.training.progress import COMPLETE, FAILED, INTERRUPTED, BatchProgress
from ckptman.training.run_folder import RawRun
from ckptman.training.run_state import load_state
from ckptman.training.sorting import draw_batch
from ckptman.training.stopping import Stop
from ckptman.training.train_step import loss_and_backward
from ckptman.training.wandb import WandbMode
from ckptman.tree import history, records
from tests.helpers.short_runs import documents, in_child, raw_run, same, short_config, without_run_id

CPU = Computing(torch.device("cpu"))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the state, and show the progress, after each iteration."""
    monkeypatch.setattr(trainer, "STATE_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "PROGRESS_SECONDS", 0.0)


def uninterrupted(tmp_path: Path) -> RawRun:
    run = raw_run(tmp_path / "uninterrupted")
    train_run(run, CPU)
    return run


def train_and_die_at_write(run: RawRun, at: int, *, half: bool) -> int:
    """Train in another process that is killed at its write of that number, or in the middle of it."""
    write, count = writing.write_all, [0]

    def fatal(descriptor: int, data: memoryview) -> None:
        count[0] += 1
        if count[0] == at:
            if half:
                write(descriptor, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(descriptor, data)

    def work() -> None:
        writing.write_all = fatal  # the parent's stays
        train_run(run, CPU)

    return in_child(work)


def test_the_outputs_of_a_run(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    outcome = train_run(run, CPU)
    assert [path.name.rpartition("_")[2] for path in run.find().checkpoints] == [
        "iters6.pt",
        "iters11.pt",
        "iters12.pt",
    ]
    for document in documents(run).values():
        assert list(document) == ["model_state_dict", "optimizer_state_dict", "config", "iters_done"]  # no W&B, no id
        assert document["config"] == run.config
    assert (outcome.state, outcome.iters_done, outcome.resumed_from) == (COMPLETE, 12, None)
    assert not run.state.exists()
    status = run.read_status()
    assert status is not None
    assert (status.state, status.iters_done, status.run_id, outcome.run_id) == (COMPLETE, 12, None, None)


def test_the_same_configuration_gives_the_same_weights_and_another_seed_does_not(tmp_path: Path) -> None:
    first, again, other = (raw_run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    for run in (first, again, other):
        train_run(run, CPU)
    assert same(without_run_id(documents(first)), without_run_id(documents(again)))
    weights = [torch.load(run.final, weights_only=True)["model_state_dict"] for run in (first, other)]
    assert not same(*weights)


@pytest.mark.parametrize("half", [False, True])
def test_a_run_killed_at_any_write_ends_with_the_same_weights(tmp_path: Path, often: None, half: bool) -> None:
    expected = without_run_id(documents(uninterrupted(tmp_path)))
    killed = 0
    for at in range(1, 100):
        run = raw_run(tmp_path / str(at))
        status = train_and_die_at_write(run, at, half=half)
        if status == 0:
            break  # it has fewer writes than that
        assert status == -signal.SIGKILL
        killed += 1
        outcome = train_run(run, CPU)
        assert outcome.state == COMPLETE
        found = documents(run)
        assert same(without_run_id(found), expected)
    assert killed > 12  # a state for each iteration at least


def test_killed_in_every_iteration_it_still_ends_with_the_same_weights(
    tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = documents(uninterrupted(tmp_path))
    run = raw_run(tmp_path / "killed")
    begun_with: list[int] = []

    def die_after_one(config: Any, iteration: int, **more: Any) -> Tensor:
        if iteration > begun_with[-1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw_batch(config, iteration, **more)

    monkeypatch.setattr(updating, "draw_batch", die_after_one)
    for _ in range(50):
        begun_with.append(run.find().iters_done)
        if in_child(lambda: train_run(run, CPU)) == 0:
            break
    assert begun_with == list(range(12))
    found = documents(run)
    assert same(without_run_id(found), without_run_id(expected))


def test_without_the_state_it_goes_on_from_the_newest_checkpoint(tmp_path: Path, often: None) -> None:
    expected = documents(uninterrupted(tmp_path))
    run, stop = raw_run(tmp_path / "stopped"), Stop()
    train_run(run, CPU, progress=lambda progress: stop.request() if progress.iters_done == 8 else None, stop=stop)
    assert run.find().iters_done == 8
    run.state.unlink()
    assert train_run(run, CPU).resumed_from == 6
    assert same(without_run_id(documents(run)), without_run_id(expected))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    run, stop = raw_run(tmp_path), Stop()

    def signalled(config: Any, iteration: int, **more: Any) -> Tensor:
        if iteration == 6:
            os.kill(os.getpid(), number)
        return draw_batch(config, iteration, **more)

    monkeypatch.setattr(updating, "draw_batch", signalled)
    with stop.on_signals():
        outcome = train_run(run, CPU, stop=stop)
    assert (outcome.state, outcome.iters_done) == (INTERRUPTED, 7)
    assert run.find().iters_done == 7
    status = run.read_status()
    assert status is not None
    assert (status.state, status.iters_done) == (INTERRUPTED, 7)
    assert train_run(run, CPU).resumed_from == 7  # nobody signals it: iteration 6 is behind it


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop().on_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_full_disk_loses_nothing(tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = documents(uninterrupted(tmp_path))
    run = raw_run(tmp_path / "full")
    write, states = writing.write_all, [0]

    def full(descriptor: int, data: memoryview) -> None:
        states[0] += len(data) > 3000  # status files still fit
        if states[0] > 9 and len(data) > 3000:
            write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "write_all", full)
        with pytest.raises(MachineError) as caught:
            train_run(run, CPU)
    assert caught.value.code == "disk-full"
    status = run.read_status()
    assert status is not None
    assert status.state == FAILED
    assert "no space is left" in status.reason
    found = run.find()
    assert found.newest == run.state
    assert found.iters_done > 0
    assert train_run(run, CPU).resumed_from == found.iters_done
    assert same(without_run_id(documents(run)), without_run_id(expected))


def test_a_diverged_run_keeps_its_last_good_state(tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run = raw_run(tmp_path)
    step = loss_and_backward

    def diverging(model: Any, tokens: Tensor) -> Any:
        result = step(model, tokens)
        return replace(result, loss=result.loss * float("nan")) if run.find().iters_done == 5 else result

    monkeypatch.setattr(trainer, "loss_and_backward", diverging)
    with pytest.raises(RefusedError, match="diverged") as caught:
        train_run(run, CPU)
    assert caught.value.code == "diverged"
    assert run.find().iters_done == 5


def test_a_diverged_run_is_told_by_its_status_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "STATUS_SECONDS", 0.0)
    step = loss_and_backward
    factor = 1.0
    monkeypatch.setattr(
        trainer, "loss_and_backward", lambda *given: replace(step(*given), loss=torch.tensor(1.0) * factor)
    )
    assert train_run(raw_run(tmp_path / "a", log_interval=100), CPU).state == COMPLETE
    factor = float("inf")
    with pytest.raises(RefusedError, match="diverged: the loss is inf after 1 "):
        train_run(raw_run(tmp_path / "b", log_interval=100), CPU)


@pytest.mark.parametrize("what", ["weights", "moments"])
@pytest.mark.parametrize("after", [5, 11, 12])  # after a state, before a checkpoint, after the last iteration
def test_weights_that_are_not_finite_are_not_saved(
    tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch, what: str, after: int
) -> None:
    """The loss does not tell: it is of the weights before the newest update."""
    run = raw_run(tmp_path)
    step = torch.optim.AdamW.step
    steps = [0]
    value = float("nan")

    def spoiling(optimizer: torch.optim.AdamW, *given: Any) -> Any:
        result = step(optimizer, *given)
        steps[0] += 1
        if steps[0] == after:
            weight = optimizer.param_groups[0]["params"][0]
            spoiled = weight.data if what == "weights" else optimizer.state[weight]["exp_avg_sq"]
            spoiled.view(-1)[0] = value
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spoiling)
    with pytest.raises(RefusedError, match=f"not finite after {after} iterations") as caught:
        train_run(run, CPU)
    assert caught.value.code == "diverged"
    assert run.find().iters_done == after - 1
    state = load_state(run, run.state)
    assert all(weight.isfinite().all() for weight in state.model.values())
    status = run.read_status()
    assert status is not None
    assert status.state == FAILED
    value, steps[0] = 0.5, after - 1  # the control: a finite value is saved
    assert train_run(run, CPU).state == COMPLETE


def test_without_a_compiler_nothing_is_compiled() -> None:
    from torch._inductor import config

    for device, compiler in (("cpu", sys.executable), ("cuda", "no-such-compiler")):
        with config.patch({"cpp.cxx": (compiler,)}):
            check_can_compile(torch.device(device))
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(MachineError) as caught:
        check_can_compile(torch.device("cpu"))
    assert caught.value.code == "no-compiler"
    assert "--compile" in caught.value.fix


def test_a_compiler_that_fails_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(module: Any, inputs: Any) -> Any:
        raise RuntimeError("the compiler said no\nand much more")

    compile_ = torch.compile
    run = raw_run(tmp_path)
    monkeypatch.setattr(torch, "compile", lambda model, **_: compile_(model, backend=failing))
    with pytest.raises(MachineError) as caught:
        train_run(run, replace(CPU, compiled=True))
    assert caught.value.code == "compile-failed"
    assert caught.value.message == "torch.compile failed: the compiler said no"
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda model, **_: compile_(model, backend="eager"))
    assert train_run(run, replace(CPU, compiled=True)).state == COMPLETE


def test_evaluation_leaves_training_alone(tmp_path: Path) -> None:
    with_it, without = raw_run(tmp_path / "a"), raw_run(tmp_path / "b", eval_interval=0)
    assert train_run(with_it, CPU).metrics
    assert not train_run(without, CPU).metrics
    one, other = (torch.load(run.final, weights_only=True)["model_state_dict"] for run in (with_it, without))
    assert same(one, other)


def test_training_leaves_the_callers_randomness_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_run(raw_run(tmp_path), CPU)
    assert torch.equal(torch.rand(3), expected)


def test_evaluations_are_reproducible_and_of_other_samples_each_time() -> None:
    config = short_config()
    model = initial_model(config)
    once, again, later = (evaluate_lengths(model, config, iters_done=done) for done in (4, 4, 8))
    assert once == again != later


def _stopping(stop: Stop) -> Callable[[BatchProgress], None]:
    return lambda progress: stop.request()


def test_another_number_of_threads_is_told(tmp_path: Path, often: None) -> None:
    notes = []
    for threads in (1, 2):
        run, stop = raw_run(tmp_path / str(threads)), Stop()
        torch.set_num_threads(1)
        train_run(run, CPU, stop=stop, progress=_stopping(stop))
        torch.set_num_threads(threads)
        notes.append(train_run(run, CPU).notes)
    assert notes[0] == ()
    assert "threads 1 before, 2 now" in notes[1][0]


@pytest.mark.parametrize("answered", ["agent001", None])
def test_the_run_id_is_that_of_the_run_that_wandb_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: str | None
) -> None:
    asked: list[str | None] = []

    class Logger:
        def __init__(self, *_: object, run_id: str | None, **__: object) -> None:
            asked.append(run_id)
            self.run_id = answered or run_id

        def log(self, metrics: object, step: int) -> None:
            pass

        def finish(self, *, failed: bool = False) -> None:
            pass

    monkeypatch.setattr(trainer, "WandbLogger", Logger)
    run = raw_run(tmp_path)
    outcome = train_run(run, replace(CPU, wandb=WandbMode.OFFLINE))
    assert asked[0] is not None
    said = answered or asked[0]
    status = run.read_status()
    assert status is not None
    assert (outcome.run_id, status.run_id) == (said, said)
    assert {document["run_id"] for document in documents(run).values()} == {said}


def test_metrics_are_kept_in_the_run_folder_over_resumes(tmp_path: Path, often: None) -> None:
    whole, run, stop = raw_run(tmp_path / "whole"), raw_run(tmp_path / "stopped"), Stop()
    train_run(whole, CPU)
    train_run(run, CPU, progress=lambda progress: stop.request() if progress.iters_done == 8 else None, stop=stop)
    part = records.read_training_metrics(run.metrics_file)
    assert part is not None
    assert (part.iters_done, part.metrics["iter"]) == (8, 7)
    begun = history.read(run.folder)
    assert begun is not None
    assert begun.steps[-1] <= 8
    train_run(run, CPU)
    one, other = (records.read_training_metrics(each.metrics_file) for each in (run, whole))
    assert one == other
    assert one is not None
    assert (one.iters_done, one.metrics["iter"]) == (12, 12)
    assert {"test/K4/exact_match_acc", "gen/K6/exact_match_acc", "train/loss", "lr"} <= one.metrics.keys()
    assert run.history_file.read_bytes() == whole.history_file.read_bytes()
    curve = history.read(run.folder)
    assert curve is not None
    assert curve.rows()[12].items() <= one.metrics.items()
    assert len(curve.curve("gen/K6/exact_match_acc")) > len(begun.curve("gen/K6/exact_match_acc")) > 1


def test_a_run_that_goes_on_from_an_older_state_has_the_curve_of_one_that_never_stopped(
    tmp_path: Path, often: None
) -> None:
    whole, run, stop = raw_run(tmp_path / "whole"), raw_run(tmp_path / "stopped"), Stop()
    train_run(whole, CPU)
    train_run(run, CPU, progress=lambda progress: stop.request() if progress.iters_done == 4 else None, stop=stop)
    state, stop = run.state.read_bytes(), Stop()
    train_run(run, CPU, progress=lambda progress: stop.request() if progress.iters_done == 8 else None, stop=stop)
    run.state.write_bytes(state)
    for file in run.saved_models.iterdir():
        file.unlink()
    rows = history.of_rows({step: {"train/loss": -1.0} for step in (5, 8)})
    run.history_file.write_bytes(history.dump(history.merged([history.read(run.folder) or rows, rows])))
    assert train_run(run, CPU).resumed_from == 4
    assert run.history_file.read_bytes() == whole.history_file.read_bytes()


W_AND_B = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from tests.helpers.short_runs import raw_run
import ckptman.training.loop as trainer
from ckptman.training import updating
trainer.STATE_SECONDS = 0.0
draw = updating.draw_batch
def fatal(config, iteration, **more):
    if iteration == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(config, iteration, **more)
updating.draw_batch = fatal
run = raw_run(Path(sys.argv[1]))
trainer.train_run(run, trainer.Computing(torch.device("cpu"), wandb=trainer.WandbMode.OFFLINE))
"""


@pytest.mark.slow
def test_one_wandb_run_over_resumes(tmp_path: Path) -> None:
    env = {**os.environ, "WANDB_SERVICE": "of an outer process"}  # which would hold a killed run's id
    for end in (5, 9, 99):
        command = [sys.executable, "-c", W_AND_B, str(tmp_path), str(Path(__file__).parents[2]), str(end)]
        status = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
        assert status.returncode == (0 if end == 99 else -signal.SIGKILL), status.stderr
    run = raw_run(tmp_path)
    paths = sorted(run.wandb.rglob("*.wandb"))
    (run_id,) = {document["run_id"] for document in documents(run).values()}
    assert [path.name for path in paths] == [f"run-{run_id}.wandb"] * 3
    (whole,) = [log for log in map(read_log, paths) if log.exit_code == 0]  # of the killed ones little may be there
    assert (whole.run_id, whole.group) == (run_id, "len_gen_single_k4")
    measures = {"loss", "exact_match_acc", "token_acc", "pos_abs_err_sum", "pos_abs_err_mean"}
    assert set(_below(whole.summary, "test/K4")) == measures
    assert set(_below(whole.summary, "gen/K6")) == measures
    assert set(_below(whole.summary, "train")) == {"loss", "token_acc", "exact_match_acc", "K_mean", "K_min", "K_max"}
    assert whole.summary["iter"] == 12
    assert "lr" in whole.summary


def _below(summary: Any, name: str) -> list[str]:
    return [key.removeprefix(f"{name}/") for key in summary if key.startswith(f"{name}/")]


def test_wandb_that_cannot_start_fails_before_the_first_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = raw_run(tmp_path)
    (run.folder / "wandb").write_bytes(b"in the way")
    with pytest.raises(MachineError) as caught:
        train_run(run, replace(CPU, wandb=WandbMode.OFFLINE))
    assert caught.value.code == "wandb-failed"
    assert "--wandb offline" not in caught.value.fix, "it was"
    status = run.read_status()
    assert status is not None
    assert (status.state, status.iters_done) == (FAILED, 0)
    assert train_run(run, CPU).state == COMPLETE  # and without W&B it can be trained


# --- precision --------------------------------------------------------------------------------------------------------


def test_the_precision_is_the_runs_own_and_recorded(tmp_path: Path) -> None:
    """A run that asks for none is in float32 here, and says nothing; one in bfloat16 says so and ends otherwise."""
    weights = {}
    for word, dtype in recipe.PRECISIONS.items():
        run = raw_run(tmp_path / word, amp_dtype=dtype, use_mlp=True)
        train_run(run, CPU)
        said = [
            read_checkpoint(run.final, run.convention.checkpoint).config,
            run.read_status().config,  # type: ignore[union-attr]  # it was written
            records.read_training_metrics(run.metrics_file).config,  # type: ignore[union-attr]  # as before
        ]
        assert [(config or {}).get("amp_dtype") for config in said] == [dtype] * 3
        weights[word] = torch.load(run.final, weights_only=True)["model_state_dict"]
    assert same(weights["auto"], weights["fp32"])
    assert not same(weights["auto"], weights["bf16"])


def test_a_run_goes_on_in_its_own_precision(tmp_path: Path, often: None) -> None:
    whole, resumed = (
        raw_run(tmp_path / name, use_mlp=True, amp_dtype=recipe.PRECISIONS["bf16"]) for name in ("whole", "resumed")
    )
    train_run(whole, CPU)
    stop = Stop()
    train_run(resumed, CPU, stop=stop, progress=lambda _: stop.request())
    assert resumed.state.exists()
    train_run(raw_run(tmp_path / "resumed", use_mlp=True), CPU)  # which asks for none
    assert same(documents(resumed), documents(whole))


@pytest.mark.parametrize(("begun", "asked"), [("auto", "bf16"), ("fp32", "bf16"), ("bf16", "fp32")])
def test_another_precision_than_the_runs_own_is_refused(tmp_path: Path, often: None, begun: str, asked: str) -> None:
    stop = Stop()
    run = raw_run(tmp_path, amp_dtype=recipe.PRECISIONS[begun])
    train_run(run, CPU, stop=stop, progress=lambda _: stop.request())
    with pytest.raises(RefusedError, match="differs in amp_dtype"):
        train_run(raw_run(tmp_path, amp_dtype=recipe.PRECISIONS[asked]), CPU)
    assert train_run(run, CPU).state == COMPLETE  # in its own it goes on


def test_on_cuda_the_precision_that_the_device_chooses_is_recorded() -> None:
    cuda = Computing(torch.device("cuda"))
    chosen = [cuda.amp_dtype(short_config(amp_dtype=dtype)) for dtype in recipe.PRECISIONS.values()]
    assert chosen == ["torch.bfloat16", "torch.float32", "torch.bfloat16"]
    assert CPU.amp_dtype(short_config()) is None
