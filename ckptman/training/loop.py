"""The training loop: from a run's newest state to its end, exact to resume.

What an iteration computes depends on the weights, the optimizer's state, the configuration and the iteration's index
alone, and all of that is in the state. So a run that was killed at any moment and resumed computes what an
uninterrupted one does: bit for bit on the CPU of one machine with one number of threads. A GPU sums gradients in no
fixed order, and there two runs are equal to rounding only, resumed or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ckptman.fs import files, write_atomically
from ckptman.rules import TrainConfig, recipe
from ckptman.text import CkptmanError, MachineError, RefusedError
from ckptman.training import gpu_step
from ckptman.training.learning_curve import evaluate_lengths, train_metrics
from ckptman.training.model import GPT, GPTConfig
from ckptman.training.progress import COMPLETE, FAILED, INTERRUPTED, RUNNING, BatchProgress, TrainedRun
from ckptman.training.run_folder import RawRun, differing
from ckptman.training.run_state import RunState, load_state, new_run_id, save_checkpoint, save_state
from ckptman.training.stopping import Stop
from ckptman.training.train_step import (
    StepResult,
    keep_freed_memory,
    loss_and_backward,
    make_optimizer,
    plain_loss_and_backward,
    why_plain,
)
from ckptman.training.turns import Turns, in_turns
from ckptman.training.updating import Batches, Update
from ckptman.training.wandb import WandbLogger, WandbMode
from ckptman.tree import history, records
from ckptman.tree import metrics as tree_metrics

STATE_SECONDS = 60.0
"""Time between two states: as much work as a run that is killed loses at most."""

STATUS_SECONDS = 15.0
"""Time between two renewals of the status file."""

PROGRESS_SECONDS = 0.25

_MOST_COMPILED = 128
"""Programs that `torch.compile` makes of our step in a process; beyond, it would go on uncompiled."""


@dataclass(frozen=True)
class Computing:
    """How a run is computed; none of it changes what is computed, but for rounding."""

    device: torch.device
    compiled: bool = False
    """Train through `torch.compile`: on a GPU ckptman's own step, elsewhere the plain model instead of it."""
    wandb: WandbMode = WandbMode.DISABLED
    log: str = ""
    """Where the process's output goes, for the status file; empty for a terminal."""

    def amp_dtype(self, config: TrainConfig) -> str | None:
        """The type of a run's matrix products: what it says, or bfloat16 on CUDA, otherwise that of the weights."""
        return config.amp_dtype or (recipe.PRECISIONS["bf16"] if self.device.type == "cuda" else None)

    def autocast(self, config: TrainConfig) -> Any:
        """The context in which a batch is computed in that type."""
        if self.amp_dtype(config) != recipe.PRECISIONS["bf16"]:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @property
    def captured(self) -> bool:
        """Whether iterations are captured as CUDA graphs: on such a device."""
        return self.device.type == "cuda"

    def described(self) -> dict[str, str]:
        """What decides how sums are rounded."""
        cpu = {"threads": str(torch.get_num_threads())} if self.device.type == "cpu" else {}
        step = {"step": "torch.compile"} if self.compiled else {}
        return {"torch": str(torch.__version__), "device": self.device.type, **cpu, **step}


def initial_model(config: TrainConfig) -> GPT:
    """The untrained model of a run: its weights depend on the configuration's seed alone."""
    with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw weights as they are made; these are replaced
        return GPT(GPTConfig.from_train_config(config), generator=torch.Generator().manual_seed(config.seed))


def train_run(
    run: RawRun,
    computing: Computing,
    *,
    stop: Stop | None = None,
    progress: Callable[[BatchProgress], None] | None = None,
) -> TrainedRun:
    """Train a run from its newest state, or from the beginning, to its end, or until `stop` wishes otherwise.

    Call it with `RawRun.lock` held and the run's folders made. The state is saved every `STATE_SECONDS`, at each
    checkpoint, and before it ends for whatever reason but a failed write; once the run is complete there is none.

    Raises:
        RefusedError: as `RawRun.find`; (`taken`) a checkpoint's name is another file's; (`diverged`) the loss, a weight
            or a moment of the optimizer is infinite or no number.
        MachineError: a file cannot be written (`disk-full` …), wandb cannot start (`wandb-failed`), `torch.compile`
            fails (`compile-failed`), or the device's memory is too small (`out-of-memory`). What was saved before
            stays, and the run can go on from there.
    """
    return in_turns([training(run, computing, stop=stop, progress=progress)], computing.device)[0]


def training(
    run: RawRun,
    computing: Computing,
    *,
    stop: Stop | None = None,
    progress: Callable[[BatchProgress], None] | None = None,
) -> Turns[TrainedRun]:
    """`train_run`, an iteration at a turn, so that several runs can be trained by turns."""
    found = run.find()
    state = load_state(run, found.newest) if found.newest is not None else None
    amp_dtype = computing.amp_dtype(run.config) if state is None else run.config.amp_dtype or state.amp_dtype
    run = replace(run, config=replace(run.config, amp_dtype=amp_dtype))  # it is of the run, and kept with it
    run_id = state.run_id if state is not None else None
    if run_id is None and computing.wandb is not WandbMode.DISABLED:
        run_id = new_run_id()
    training = None
    try:
        training = _Training(run, computing, state, run_id, stop or Stop(), progress)
        return (yield from training.run())
    except BaseException as error:
        with suppress(CkptmanError):  # whatever happened matters more
            known, done = (training.run_id, training.iters_done) if training else (run_id, found.iters_done)
            _say_how_it_ended(run, known, done, computing, error)
        if isinstance(error, torch.OutOfMemoryError):
            raise MachineError(
                f"{run.label}: the memory of {computing.device} is too small: {str(error).splitlines()[0]}",
                code="out-of-memory",
                fix="Train on another device, or with a smaller --batch-size, which makes it another recipe.",
            ) from error
        raise


class _Training:
    """One run in one process."""

    def __init__(
        self,
        run: RawRun,
        computing: Computing,
        state: RunState | None,
        run_id: str | None,
        stop: Stop,
        progress: Callable[[BatchProgress], None] | None,
    ) -> None:
        config = run.config
        keep_freed_memory()
        self._run, self._config, self._computing = run, config, computing
        self._stop, self._progress = stop, progress
        self.run_id = run_id
        self._resumed_from = state.iters_done if state is not None and state.iters_done else None
        self.iters_done = state.iters_done if state is not None else 0
        self._model = initial_model(config)
        if state is not None:
            self._model.load_state_dict(dict(state.model))
        self._model.to(computing.device)
        self._optimizer = make_optimizer(
            self._model, learning_rate=config.learning_rate, weight_decay=config.weight_decay
        )
        if state is not None:
            self._optimizer.load_state_dict(_on_this_machine(state.optimizer, self._optimizer))
        self._update = Update.of(
            self._model,
            self._optimizer,
            step_of(self._model, config, computing),
            captured=computing.captured,
        )
        self._notes = _notes(state, computing) if self._resumed_from else ()
        self._logger: WandbLogger | None = None
        self._last: StepResult | None = None
        self._metrics: dict[str, float] = {}
        self._logged, self._rows = self._logged_before()
        self._began = self._saved_at = self._told_at = self._shown_at = time.monotonic()
        self._began_with = self.iters_done
        self._warm_at: float | None = None  # when the first iteration was done

    def run(self) -> Turns[TrainedRun]:
        """Train."""
        self._save_state()  # before W&B learns of the run, so that its id is kept whatever happens
        self._logger = _start_wandb(self._run, self._computing, self.run_id)
        if self._logger.run_id not in (None, self.run_id):  # W&B began another run, as under `wandb agent`
            self.run_id = self._logger.run_id
            self._save_state()
        try:
            self._began = time.monotonic()
            self._write_status(RUNNING)
            with Batches.of(self._config, self._computing.device) as batches:
                while self.iters_done < self._config.max_iters:
                    if self._stop.wanted:
                        return self._interrupted()
                    self._iterate(batches)
                    yield
            self._finish()
        except BaseException:
            self._logger.finish(failed=True)
            raise
        return self._outcome(COMPLETE)

    def _iterate(self, batches: Batches) -> None:
        """One iteration, and what is due after it."""
        config, index = self._config, self.iters_done
        rate = recipe.learning_rate(config, index)
        self._last = self._update(batches.of_iteration(index), learning_rate=rate)
        self.iters_done += 1
        if self._warm_at is None:
            self._warm_at = time.monotonic()
        last = self.iters_done == config.max_iters
        logged: dict[str, float] = {}
        if index % config.log_interval == 0 or last:
            logged |= train_metrics(self._last, learning_rate=rate, iters_done=self.iters_done)
            self._check_loss()
        if config.eval_interval and index % config.eval_interval == 0 and not last:
            logged |= self._evaluate()
        self._log(logged)
        checkpoint = self._run.checkpoint_at(self.iters_done)
        if checkpoint is not None:
            self._save_checkpoint(checkpoint)
        self._keep_up(rate, checkpoint is not None)

    def _keep_up(self, rate: float, checkpoint_saved: bool) -> None:
        """Save the state, renew the status and show the progress, each when its time has come."""
        now = time.monotonic()
        if checkpoint_saved or now - self._saved_at >= STATE_SECONDS:
            self._save_state()
        if now - self._told_at >= STATUS_SECONDS:
            self._write_status(RUNNING)
        is_warm = self.iters_done > self._began_with + 1  # else its speed would be that of a first iteration
        if (
            self._progress is not None
            and self._last is not None
            and is_warm
            and now - self._shown_at >= PROGRESS_SECONDS
        ):
            self._shown_at = now
            known = BatchProgress(
                label=self._run.label,
                max_iters=self._config.max_iters,
                run_id=self.run_id,
                iters_done=self.iters_done,
                loss=float(self._last.loss),
                gen_em=self._gen_em,
                iterations_per_second=self._speed or 0.0,
                learning_rate=rate,
                k=self._last.k,
            )
            self._progress(known)

    def _finish(self) -> None:
        """The end of the run. The state goes last: as long as it is there, an end cut short is made again."""
        self._save_state()
        if self._config.eval_interval:
            self._log({**self._evaluate(), "iter": self.iters_done})
        self._write_metrics()
        self._save_checkpoint(self._run.final)
        assert self._logger is not None
        self._logger.finish()
        self._write_status(COMPLETE)
        with suppress(FileNotFoundError):
            files.remove(self._run.state)

    def _interrupted(self) -> TrainedRun:
        assert self._logger is not None
        self._save_state()
        self._write_status(INTERRUPTED)
        self._logger.finish(failed=True)
        return self._outcome(INTERRUPTED)

    def _outcome(self, state: str) -> TrainedRun:
        return TrainedRun(
            run_id=self.run_id,
            state=state,
            iters_done=self.iters_done,
            resumed_from=self._resumed_from,
            iterations_per_second=self._speed,
            loss=self._loss,
            metrics=self._metrics,
            gen_em=self._gen_em,
            notes=self._notes,
        )

    def _evaluate(self) -> dict[str, float]:
        self._metrics = evaluate_lengths(self._model, self._config, iters_done=self.iters_done)
        return self._metrics

    def _logged_before(self) -> tuple[dict[str, Any], dict[int, dict[str, history.Number]]]:
        """What the processes before this one logged up to here: the last value of each metric, and all by step."""
        before = records.read_training_metrics(self._run.metrics_file)
        config = self._config.to_dict()
        if before is None or differing(before.config, config, self._run.convention):
            return {}, {}
        curve = history.usable(self._run.folder)
        rows = {} if curve is None else {step: row for step, row in curve.rows().items() if step <= self.iters_done}
        return dict(before.metrics) if before.iters_done <= self.iters_done else {}, rows

    def _log(self, metrics: Mapping[str, float]) -> None:
        self._logged |= metrics
        if metrics:
            self._rows.setdefault(self.iters_done, {}).update(metrics)
        if metrics and self._logger is not None:
            try:
                self._logger.log(metrics, step=self.iters_done)
            except Exception:
                if not self._stop.wanted:  # the signal that wishes for the end has ended wandb's service too
                    raise

    def _save_state(self) -> None:
        self._check_finite()
        if self._logged:
            self._write_metrics()
        save_state(self._run, self._state())
        self._saved_at = time.monotonic()

    def _write_metrics(self) -> None:
        left = records.TrainingMetrics(iters_done=self.iters_done, config=self._config.to_dict(), metrics=self._logged)
        records.write_training_metrics(self._run.metrics_file, left)
        try:
            curve = history.of_rows(self._rows)
        except RefusedError:  # it is longer than any that is kept: what is written by now stays
            return
        write_atomically(self._run.history_file, history.dump(curve), replace=True)

    def _save_checkpoint(self, path: Path) -> None:
        self._check_finite()
        save_checkpoint(self._run, path, self._state())

    def _state(self) -> RunState:
        return RunState(
            run_id=self.run_id,
            iters_done=self.iters_done,
            model=self._model.state_dict(),
            optimizer=self._optimizer.state_dict(),
            computed_with=self._computing.described(),
            amp_dtype=self._config.amp_dtype,
        )

    def _check_finite(self) -> None:
        """Stop before what is no number replaces a good state. The loss is of the weights before the newest update."""
        self._check_loss()
        for name, weight in self._model.named_parameters():
            if not _is_finite(weight):
                raise self._diverged(f"{name} is not finite")
        for moments in self._optimizer.state.values():
            if not all(map(_is_finite, moments.values())):
                raise self._diverged("the optimizer's moments are not finite")

    def _check_loss(self) -> None:
        if self._last is not None and not _is_finite(self._last.loss):
            raise self._diverged(f"the loss is {float(self._last.loss)}")

    def _diverged(self, reason: str) -> RefusedError:
        return RefusedError(
            f"{self._run.label} has diverged: {reason} after {self.iters_done} iterations",
            code="diverged",
            fix="Train with a smaller --lr, or a longer --warmup-iters, into another folder.",
        )

    def _write_status(self, state: str) -> None:
        self._check_loss()  # a status has no words for what is no number
        self._run.write_status(
            state,
            self.run_id,
            self.iters_done,
            log=self._computing.log,
            loss=self._loss,
            gen_em=self._gen_em,
            iterations_per_second=self._speed,
        )
        self._told_at = time.monotonic()

    @property
    def _loss(self) -> float | None:
        return float(self._last.loss) if self._last is not None else None

    @property
    def _gen_em(self) -> float | None:
        return tree_metrics.from_metrics(self._metrics, self._run.config.to_dict(), self._run.convention)

    @property
    def _speed(self) -> float | None:
        done = self.iters_done - self._began_with
        if done > 1 and self._warm_at is not None:  # the first one takes far longer than any other
            return (done - 1) / max(1e-9, time.monotonic() - self._warm_at)
        return done / max(1e-9, time.monotonic() - self._began) if done else None


def step_of(model: GPT, config: TrainConfig, computing: Computing) -> Callable[[Tensor], StepResult]:
    """What computes a batch's loss and gradients, in the precision of a run."""
    compute = _compiled_step(model, computing) if computing.compiled else _own_step(model, computing)

    def step(tokens: Tensor) -> StepResult:
        with computing.autocast(config):
            return compute(tokens)

    return step


def _own_step(model: GPT, computing: Computing) -> Callable[[Tensor], StepResult]:
    if computing.device.type == "cuda":
        return lambda tokens: gpu_step.loss_and_backward(model, tokens)
    return lambda tokens: loss_and_backward(model, tokens)


def _compiled_step(model: GPT, computing: Computing) -> Callable[[Tensor], StepResult]:
    # Only a run that is compiled pays for these.
    import torch._dynamo
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    if computing.device.type == "cuda" and why_plain(model) is None:
        # A process that trains many models compiles as often, and each again for lengths of any size. From the start it
        # could be for any (dynamic=True), had Triton's code of PyTorch 2.11 no fault there.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_COMPILED)
        compute = partial(gpu_step.loss_and_backward, model, compiled=torch.compile(gpu_step.loss_of))
    else:
        module = torch.compile(model, dynamic=True)
        compute = partial(plain_loss_and_backward, module)  # type: ignore[arg-type]  # a module of a module

    def step(tokens: Tensor) -> StepResult:
        try:
            return compute(tokens)
        except (TorchDynamoException, CppCompileError, InvalidCxxCompiler) as error:
            cause = getattr(error, "inner_exception", error)
            raise MachineError(
                f"torch.compile failed: {(str(cause).strip() or type(cause).__name__).splitlines()[0]}",
                code="compile-failed",
                fix="Leave out --compile: ckptman's own step needs no compiler.",
            ) from error

    return step


def _on_this_machine(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state, for the kernels that it has here: it names those of the machine that it is from."""
    own = optimizer.param_groups
    groups = [{**saved, "fused": group["fused"]} for saved, group in zip(state["param_groups"], own, strict=False)]
    return {**state, "param_groups": groups}


def check_can_compile(device: torch.device) -> None:
    """Check what `torch.compile` needs and is known before the first step: for the CPU, a C++ compiler.

    Raises:
        MachineError: (`no-compiler`) there is none.
    """
    if device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise MachineError(
            "torch.compile needs a C++ compiler, and finds none",
            code="no-compiler",
            fix="Install g++, set CXX, or leave out --compile.",
        ) from error


def _is_finite(value: Tensor | float) -> bool:
    return bool(torch.isfinite(torch.as_tensor(value)).all())


def _start_wandb(run: RawRun, computing: Computing, run_id: str | None) -> WandbLogger:
    config = run.config
    derived = {
        "total_vocab_size": config.total_vocab_size,
        "sep_id": config.sep_id,
        "max_seq_len": config.max_seq_len,
        "grad_accum_steps": config.grad_accum_steps,
        "amp_dtype": config.amp_dtype,
        "device": str(computing.device),
    }
    return WandbLogger(
        computing.wandb,
        run.wandb,
        {**config.to_dict(), **derived},
        run_id=run_id,
        project=config.wandb_project,
        entity=config.wandb_entity,
        group=config.wandb_group or run.place.group,
    )


def _notes(state: RunState | None, computing: Computing) -> tuple[str, ...]:
    """In what the machine is another one than that which the state is from."""
    before = dict(state.computed_with) if state is not None else {}
    now = computing.described()
    changed = [
        f"{key} {before.get(key, 'none')} before, {now.get(key, 'none')} now"
        for key in sorted(before.keys() | now.keys())
        if before and before.get(key) != now.get(key)
    ]
    if not changed:
        return ()
    return (f"resumed with {'; '.join(changed)}: the weights will equal an uninterrupted run's only to rounding",)


def _say_how_it_ended(
    run: RawRun, run_id: str | None, iters_done: int, computing: Computing, error: BaseException
) -> None:
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        run.write_status(INTERRUPTED, run_id, iters_done, log=computing.log)
        return
    reason = error.message if isinstance(error, CkptmanError) else f"{type(error).__name__}: {error}"
    run.write_status(FAILED, run_id, iters_done, reason=reason, log=computing.log)
