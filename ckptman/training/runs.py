"""Training runs: plan, check the machine, then train one after the other, or on a GPU several at once.

result = ckptman.train(ckptman.training_configs(convention, k=8, task=6), "grid_outputs")
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ckptman.fs import folders, make_folders
from ckptman.rules import Convention, TrainConfig, convention_file
from ckptman.text import CkptmanError, MachineError, given_path, wording
from ckptman.training.loading import pick_device
from ckptman.training.loop import Computing, check_can_compile, initial_model, training
from ckptman.training.planning import Action, PlannedRun, TrainPlan, error_json, plan_run, plan_training
from ckptman.training.progress import COMPLETE, INTERRUPTED, BatchProgress, Progress, TrainedRun
from ckptman.training.run_folder import RawRun
from ckptman.training.stopping import Stop
from ckptman.training.train_step import limited_threads
from ckptman.training.turns import Turns, in_turns
from ckptman.training.wandb import WandbMode, check_can_start, check_mode, settle
from ckptman.tree import records

_SPARE_BYTES = 20_000_000
"""Free space that is asked for beside what the runs will write: for wandb's own logs, and others who write there."""

_SEEDS_AT_ONCE = 4
"""Runs that a GPU trains at once: with more, they would wait for each other, and each needs memory of its own."""


@dataclass(frozen=True)
class RunResult:
    """What became of one run."""

    planned: PlannedRun
    trained: TrainedRun | None = None
    """What this process did of it; None where nothing."""
    error: CkptmanError | None = None
    """Why it is not complete, unless it was interrupted."""

    @property
    def state(self) -> str:
        """`complete`, `interrupted`, `running` (elsewhere), `refused`, `failed`, or `not started`."""
        if self.trained is not None:
            return self.trained.state
        if self.planned.action in (Action.COMPLETE, Action.RUNNING, Action.REFUSED):
            return str(self.planned.action)
        return "failed" if self.error is not None else "not started"

    @property
    def run(self) -> RawRun:
        """The run."""
        return self.planned.run

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """Its checkpoints that are there now, in order of their steps."""
        if self.trained is None:
            return tuple(path for path in self.planned.checkpoints if path.exists())
        steps = sorted({step for due in self.run.saved.values() for step in due if step <= self.trained.iters_done})
        due = [self.run.checkpoint_at(step) for step in steps]
        if self.trained.state == COMPLETE:
            due.append(self.run.final)
        return tuple(path for path in due if path is not None and path.exists())

    @property
    def progress(self) -> Progress:
        """How far it is now. The speed is of this process, so there is none where it did nothing."""
        if self.trained is not None:
            return self.trained
        status = self.run.read_status() if self.planned.action is Action.COMPLETE else None
        known = Progress() if status is None else status
        return Progress(
            run_id=self.planned.run_id, iters_done=self.planned.iters_done, loss=known.loss, gen_em=known.gen_em
        )

    def to_json(self) -> dict[str, Any]:
        """The run as `train --json` prints it."""
        place, known = self.run.place, self.progress
        return {
            "run_id": known.run_id,
            "group": place.group,
            "task": place.task,
            "seed": place.seed,
            "checkpoints": [str(path) for path in self.checkpoints],
            "iterations_per_second": known.iterations_per_second,
            "loss": known.loss,
            "gen_em": known.gen_em,
            "resumed_from": self.trained.resumed_from if self.trained is not None else None,
            "state": self.state,
            "iters_done": known.iters_done,
            "error": None if self.error is None else error_json(self.error),
        }


@dataclass(frozen=True)
class TrainResult:
    """What a training did."""

    runs: tuple[RunResult, ...]
    """In the order of the plan."""
    notes: tuple[str, ...] = ()
    """What is worth knowing about all of them, in sentences."""

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to end before its end."""
        return any(run.state == INTERRUPTED for run in self.runs) or (
            any(run.state == "not started" for run in self.runs) and not any(run.state == "failed" for run in self.runs)
        )

    @property
    def errors(self) -> tuple[CkptmanError, ...]:
        """Why runs are not complete."""
        return tuple(run.error for run in self.runs if run.error is not None)

    def to_json(self) -> dict[str, Any]:
        """The document of `train --json`."""
        return {"schema_version": records.SCHEMA_VERSION, "runs": [run.to_json() for run in self.runs]}


def train(
    configs: TrainConfig | Iterable[TrainConfig],
    out: str | os.PathLike[str] = "grid_outputs",
    *,
    device: str | torch.device = "auto",
    threads: int | None = None,
    compiled: bool = False,
    wandb: WandbMode | str = WandbMode.AUTO,
    resume: bool = True,
    convention: Convention | None = None,
    stop: Stop | None = None,
    log: str = "",
    progress: Callable[[BatchProgress], None] | None = None,
) -> TrainResult:
    """Train runs, one after the other, into `<out>/<group>/<task>/<run>/`.

    On a GPU the seeds of a configuration of several layers are trained at once.

    A run that is complete is not trained again, one that was interrupted goes on from its newest state, and one that
    another process is training is left to it. No file is overwritten. On one machine and number of CPU threads, a run
    that was killed and resumed ends with the very weights of an uninterrupted one, and has one W&B run id.

    SIGINT and SIGTERM end it after the iteration at work, with the state saved (where it is called from the main
    thread). A run that cannot be trained does not keep the others from it, unless it is the machine's fault.

    Args:
        configs: The runs.
        out: The root of the raw outputs.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` … On CUDA matrix products are in bfloat16,
            unless a configuration's `amp_dtype` says otherwise.
        threads: CPU threads; PyTorch's choice by default.
        compiled: Train through `torch.compile`: on a GPU ckptman's own step, elsewhere the plain model instead of it.
        wandb: `auto` (online where an API key is set up and the server answers), `online`, `offline` or `disabled`.
        resume: Go on from what an interrupted process left; without, such a run is refused.
        convention: The rules for names and folders; by default those of the nearest ckptman.yaml.
        stop: Another way to end it.
        log: Where this process's output goes, for the runs' status files.
        progress: Called several times a second.

    Returns:
        What became of each run; a failure is in its `error`, and is not raised.

    Raises:
        RefusedError: a configuration is off the grid of its group.
        UsageError: one of `configs` is no TrainConfig (`bad-config`), there is no such kind of device (`bad-device`),
            no such W&B mode (`bad-wandb`), or no such number of threads (`bad-threads`).
        MachineError: the machine has no such device (`no-device`), `out` cannot be written to, the disk has too little
            free space (`disk-full`), wandb cannot start (`wandb-failed`), or there is no compiler for `compiled`
            (`no-compiler`); before anything is trained.
    """
    root = given_path(out, "the path of the raw outputs")
    rules = convention_file.rules_for(convention, root)
    listed = [configs] if isinstance(configs, TrainConfig) else configs
    plan = plan_training(listed, root, convention=rules, resume=resume)
    return run_plan(
        plan,
        device=device,
        threads=threads,
        compiled=compiled,
        wandb=wandb,
        resume=resume,
        stop=stop,
        log=log,
        progress=progress,
    )


def run_plan(
    plan: TrainPlan,
    *,
    device: str | torch.device = "auto",
    threads: int | None = None,
    compiled: bool = False,
    wandb: WandbMode | str = WandbMode.AUTO,
    resume: bool = True,
    stop: Stop | None = None,
    log: str = "",
    progress: Callable[[BatchProgress], None] | None = None,
) -> TrainResult:
    """Train the runs of a plan; arguments, result and errors are those of `train`."""
    stop = stop or Stop()
    results: dict[Path, RunResult] = {
        planned.run.folder: RunResult(planned, error=planned.error) for planned in plan.runs
    }
    note = ""
    if plan.wanted:
        target = pick_device(device)
        mode, note = settle(check_mode(wandb))
        check_can_start(mode, runs=len(plan.wanted))
        if compiled:
            check_can_compile(target)
        make_folders(plan.out, plan.out)
        folders.check_writable(plan.out)
        check_space(plan)
        computing = Computing(device=target, compiled=compiled, wandb=mode, log=log)
        with stop.on_signals(), limited_threads(threads):
            how = partial(_train_one, computing=computing, resume=resume, stop=stop, progress=progress)
            for several in _at_once(plan.wanted, target):
                if stop.wanted:
                    break
                for result in _train_several(several, how, target):
                    results[result.run.folder] = result
                if any(isinstance(results[planned.run.folder].error, MachineError) for planned in several):
                    break  # the next run would meet the same
    return TrainResult(tuple(results.values()), notes=(note,) if note else ())


def check_space(plan: TrainPlan) -> None:
    """Check that the disk has room for what the runs will write.

    Raises:
        MachineError: (`disk-full`) it has not.
    """
    needed = sum(_bytes_to_write(planned) for planned in plan.wanted) + _SPARE_BYTES
    free = shutil.disk_usage(plan.out).free
    if free < needed:
        raise MachineError(
            f"{plan.out} has {wording.size_text(free)} free, and the runs will write about {wording.size_text(needed)}",
            code="disk-full",
            fix="Free space there, or choose another folder with --out.",
        )


def _at_once(wanted: Sequence[PlannedRun], device: torch.device) -> list[list[PlannedRun]]:
    """The runs in the order in which they are trained; on a GPU, the seeds of a configuration at once.

    A step of a small model leaves most of a GPU idle. On a CPU it does not, and there each run has all of it. Nor does
    a model of one layer gain by it: its step takes no longer than to draw its batches on the CPU.
    """
    by_configuration: dict[str, list[PlannedRun]] = {}
    for planned in wanted:
        config = planned.run.config
        at_once = device.type == "cuda" and config.n_layers > 1
        key = repr(replace(config, seed=0)) if at_once else str(planned.run.folder)
        by_configuration.setdefault(key, []).append(planned)
    return [
        seeds[start : start + _SEEDS_AT_ONCE]
        for seeds in by_configuration.values()
        for start in range(0, len(seeds), _SEEDS_AT_ONCE)
    ]


def _train_several(
    several: Sequence[PlannedRun], train: Callable[[PlannedRun], Turns[RunResult]], device: torch.device
) -> list[RunResult]:
    """Train runs at once; those for which the memory is too small then, one after the other."""
    results = in_turns([train(planned) for planned in several], device)
    if len(several) > 1:
        for index, result in enumerate(results):
            if result.error is not None and result.error.code == "out-of-memory":
                (results[index],) = in_turns([train(several[index])], device)
    return results


def _train_one(
    planned: PlannedRun,
    *,
    computing: Computing,
    resume: bool,
    stop: Stop,
    progress: Callable[[BatchProgress], None] | None,
) -> Turns[RunResult]:
    run = planned.run
    try:
        run.make_folders()
        with run.lock():
            now = plan_run(run, resume=resume, locked=True)  # another process may have been at it since the plan
            if not now.wanted:
                return RunResult(now, error=now.error)
            for folder in (run.folder, run.saved_models):
                folders.remove_partials(folder)
            return RunResult(now, trained=(yield from training(run, computing, stop=stop, progress=progress)))
    except CkptmanError as error:
        if error.code == "running":
            return RunResult(PlannedRun(run, Action.RUNNING), error=error)
        return RunResult(planned, error=error)


def _bytes_to_write(planned: PlannedRun) -> int:
    """About what a run has still to write: weights and two moments of each for every checkpoint, and the metrics."""
    config, run = planned.run.config, planned.run
    weights = sum(parameter.numel() * parameter.element_size() for parameter in initial_model(config).parameters())
    files = max(0, sum(map(len, run.saved.values())) - len(planned.checkpoints)) + 2  # + the state and its successor
    lengths = len(config.trained_lengths) + config.test_max_k - config.test_min_k + 1
    evaluations = config.max_iters // config.eval_interval + 2 if config.eval_interval else 0
    metrics = evaluations * lengths * 5 * 50 + config.max_iters // config.log_interval * 500  # bytes, as measured
    return 3 * weights * files + metrics
