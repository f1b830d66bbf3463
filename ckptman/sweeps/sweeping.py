"""Sweeps: many runs of the grid, planned together, and trained here or on a cluster.

    plan = ckptman.plan_sweep("grid_outputs", selection=selecting.Selection(k=(8,)))
    result = ckptman.sweep(plan, processes=4)

A run that is complete is left as it is, one that was interrupted goes on from its newest state, and one that another
process trains, or that waits in SLURM's queue, is left to that. So a sweep can be started again at any time, by several
people at once: each run is trained once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ckptman.fs import files, folders, make_folders
from ckptman.rules import Convention, TrainConfig, convention_file
from ckptman.rules import selection as selecting
from ckptman.sweeps.executors.job import JobOutcome, RunJob
from ckptman.sweeps.executors.local import JobUpdate, LocalPool
from ckptman.sweeps.executors.slurm import SlurmOptions, SubmittedJob, submit
from ckptman.sweeps.executors.submissions import SubmittedRun, new_folder, write_record
from ckptman.sweeps.grid_status import COMPLETE as STANDS_COMPLETE
from ckptman.sweeps.grid_status import REFUSED as STANDS_REFUSED
from ckptman.sweeps.grid_status import RunStanding, standings
from ckptman.text import CkptmanError, RefusedError, UsageError, given_path
from ckptman.training import planning, progress, run_folder, stopping
from ckptman.training import wandb as wandb_logging
from ckptman.tree import records

QUEUED = "queued"
SUBMITTED = "submitted"
NOT_STARTED = "not started"


class Todo(StrEnum):
    """What a sweep does about a run."""

    NEW = "new"
    RESUME = "resume"
    COMPLETE = "complete"
    """Nothing: it is complete, in the raw outputs or in the tree."""
    RUNNING = "running"
    """Nothing: another process is training it."""
    QUEUED = "queued"
    """Nothing: a SLURM job waits to train it."""
    REFUSED = "refused"
    """Nothing: `error` says why."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, and what is to be done about it."""

    grid: selecting.GridRun
    raw: run_folder.RawRun
    todo: Todo
    iters_done: int = 0
    where: str = ""
    """Where it is complete, or which job has it."""
    seconds: float | None = None
    """About how long it takes, by the speed of runs that were trained before; None where there are none."""
    error: CkptmanError | None = None
    note: str = ""
    """What is worth knowing about that."""

    @property
    def wanted(self) -> bool:
        """Whether there is anything to train."""
        return self.todo in (Todo.NEW, Todo.RESUME)

    def to_json(self) -> dict[str, Any]:
        """The run as a JSON object."""
        return {
            "group": self.grid.group,
            **self.grid.family,
            "k": self.grid.k,
            "task": self.grid.cell.task,
            "values": dict(self.grid.cell.values),
            "seed": self.grid.seed,
            "action": str(self.todo),
            "folder": str(self.raw.folder),
            "iters_done": self.iters_done,
            "max_iters": self.raw.config.max_iters,
            "where": self.where,
            "estimated_seconds": None if self.seconds is None else round(self.seconds, 1),
            "error": None if self.error is None else planning.error_json(self.error),
            "note": self.note,
        }


@dataclass(frozen=True)
class SweepPlan:
    """All runs of a sweep."""

    out: Path
    runs: tuple[SweepRun, ...]
    measured_runs: int = 0
    """How many earlier runs the estimate is from."""
    timed_kinds: int = 0
    """For how many kinds of model a few iterations were timed, since no run of theirs was measured."""

    @property
    def wanted(self) -> tuple[SweepRun, ...]:
        """The runs that are to be trained."""
        return tuple(run for run in self.runs if run.wanted)

    @property
    def counts(self) -> dict[str, int]:
        """How many runs there are of each kind."""
        found = Counter(run.todo for run in self.runs)
        return {str(todo): found[todo] for todo in Todo}

    @property
    def run_seconds(self) -> float | None:
        """About how long all wanted runs take, one after the other; None where it is not known of all."""
        known = [run.seconds for run in self.wanted if run.seconds is not None]
        return sum(known) if len(known) == len(self.wanted) else None

    def wall_seconds(self, parallel: int) -> float | None:
        """About how long the sweep takes with so many runs at a time; None where it is not known."""
        if self.run_seconds is None:
            return None
        longest = max((run.seconds or 0.0 for run in self.wanted), default=0.0)
        return max(longest, self.run_seconds / max(1, parallel))

    def to_json(self) -> dict[str, Any]:
        """The document of `sweep --dry-run --json`."""
        seconds = self.run_seconds
        return {
            "schema_version": records.SCHEMA_VERSION,
            "out": str(self.out),
            "counts": self.counts,
            "estimated_run_seconds": None if seconds is None else round(seconds, 1),
            "measured_runs": self.measured_runs,
            "timed_kinds": self.timed_kinds,
            "runs": [run.to_json() for run in self.runs],
        }


@dataclass(frozen=True)
class How:
    """How runs are computed; none of it changes what is computed, but for rounding."""

    device: str = "auto"
    threads: int | None = None
    """CPU threads of each run; by default as many as there are cores for it."""
    compiled: bool = False
    wandb: str = "auto"


@dataclass(frozen=True)
class SweptRun:
    """What became of one run of a sweep."""

    run: SweepRun
    state: str
    """`complete`, `failed`, `interrupted`, `not started`, `running` (elsewhere), `queued`, `refused` or `submitted`."""
    reason: str = ""
    log: str = ""
    job: str = ""
    outcome: JobOutcome | None = None

    @property
    def went_wrong(self) -> bool:
        """Whether it will not become complete by itself."""
        return self.state in (progress.FAILED, str(Todo.REFUSED))

    def to_json(self) -> dict[str, Any]:
        """The run as a JSON object."""
        outcome = self.outcome
        return {
            "group": self.run.grid.group,
            "task": self.run.grid.cell.task,
            "seed": self.run.grid.seed,
            "folder": str(self.run.raw.folder),
            "action": str(self.run.todo),
            "state": self.state,
            "reason": self.reason,
            "log": self.log,
            "job": self.job,
            "run_id": None if outcome is None else outcome.run_id,
            "iters_done": self.run.iters_done if outcome is None else outcome.iters_done,
            "resumed_from": None if outcome is None else outcome.resumed_from,
            "iterations_per_second": None if outcome is None else outcome.iterations_per_second,
            "loss": None if outcome is None else outcome.loss,
            "gen_em": None if outcome is None else outcome.gen_em,
        }


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did."""

    out: Path
    executor: str
    """`local` or `slurm`."""
    runs: tuple[SweptRun, ...]
    """In the order of the plan."""
    folder: Path | None = None
    """Where its logs are; None where there was nothing to do."""
    interrupted: bool = False
    """Whether it, or the process of one of its runs, was asked to end before its end."""
    notes: tuple[str, ...] = ()
    """What is worth knowing about all of them, in sentences."""

    @property
    def wrong(self) -> tuple[SweptRun, ...]:
        """The runs that failed, or were refused."""
        return tuple(run for run in self.runs if run.went_wrong)

    @property
    def counts(self) -> dict[str, int]:
        """How many runs are in each state."""
        return dict(Counter(run.state for run in self.runs))

    def to_json(self) -> dict[str, Any]:
        """The document of `sweep --json`."""
        return {
            "schema_version": records.SCHEMA_VERSION,
            "out": str(self.out),
            "executor": self.executor,
            "folder": None if self.folder is None else str(self.folder),
            "interrupted": self.interrupted,
            "counts": self.counts,
            "runs": [run.to_json() for run in self.runs],
        }


# --- planning ---------------------------------------------------------------------------------------------------------


def plan_sweep(
    out: str | os.PathLike[str] = "grid_outputs",
    *,
    selection: selecting.Selection | None = None,
    recipe: Mapping[str, Any] | None = None,
    root: str | os.PathLike[str] | None = None,
    convention: Convention | None = None,
) -> SweepPlan:
    """Work out what a sweep would do. Nothing is written.

    Args:
        out: The root of the raw outputs; it need not exist yet.
        selection: The part of the grid to train; by default all of it.
        recipe: Other values of the configuration than the published recipe's, by the names of `TrainConfig`.
        root: A tree, which need not exist yet: a run that is complete there is not trained again, also where its raw
            outputs are gone.
        convention: The rules; by default those of the nearest ckptman.yaml.

    Raises:
        UsageError: for a selection that the grid does not have, or values that do not fit together; (`not-a-folder`)
            `out` is none, and cannot be made.
        RefusedError: a configuration is off the grid of its group.
    """
    raw_root = given_path(out, "the path of the raw outputs")
    folders.check_root(raw_root, planning.NO_FOLDER)
    rules = convention_file.rules_for(convention, raw_root)
    asked = selecting.grid_runs(rules, selection)
    listed = {run.key: run for run in (*asked, *selecting.grid_runs(rules))}  # the others tell how fast runs are here
    tree = None if root is None else given_path(root, "the path of the tree")
    tree = tree if tree is not None and os.path.lexists(tree) else None
    found = standings(list(listed.values()), raw_root if raw_root.is_dir() else None, tree, rules)
    by_key = {item.run.key: item for item in found.runs}
    speeds = Speeds.of(found.runs)
    runs = tuple(_planned(run, by_key[run.key], raw_root, recipe or {}, rules, speeds) for run in asked)
    return SweepPlan(out=raw_root, runs=runs, measured_runs=speeds.measured)


def _planned(
    run: selecting.GridRun,
    standing: RunStanding,
    out: Path,
    recipe: Mapping[str, Any],
    convention: Convention,
    speeds: Speeds,
) -> SweepRun:
    raw = run_folder.RawRun.of(_config(run, recipe, convention), out, convention)
    if raw.place.group != run.group:
        raise UsageError(
            f"{run.label} would be trained as {raw.place.group}: K = {run.k} leaves the {run.pattern.regime} regime "
            "no more than one length",
            code="bad-config",
            fix="Choose a larger K with --k, or the fixed regime with --regime fixed.",
        )
    planned = planning.plan_run(raw)
    todo = Todo(str(planned.action))
    made = SweepRun(run, raw, todo, iters_done=planned.iters_done, error=planned.error)
    if todo is Todo.COMPLETE:
        gone = planned.moved_away and standing.state != STANDS_COMPLETE
        note = "its final checkpoint is no longer there; ckptman status tells what to do" if gone else ""
        return replace(made, where=str(raw.folder), note=note)
    if todo is Todo.RUNNING:
        return replace(made, where=standing.reason, error=None)
    if not made.wanted:
        return made
    if standing.job:
        return replace(made, todo=Todo.QUEUED, where=standing.job)
    if standing.state == STANDS_REFUSED:
        error = RefusedError(
            f"{run.label} may be there already: {standing.reason}",
            code="file-refused",
            fix="Mend that file and ingest it; or take it away, and ingest its source again: then the run is missing.",
        )
        return replace(made, todo=Todo.REFUSED, error=error)
    for path, config in standing.ends:
        if not (keys := raw.differing_from(config)):
            return replace(made, todo=Todo.COMPLETE, where=path, note="")
        made = replace(made, note=f"{path} is of another recipe: it differs in {', '.join(keys)}")
    if standing.is_unasked:
        unknown = "SLURM does not answer: a job that waits may train it"
        made = replace(made, note="; ".join(filter(None, (made.note, unknown))))
    return replace(made, seconds=_seconds(made, speeds))


def _config(run: selecting.GridRun, recipe: Mapping[str, Any], convention: Convention) -> TrainConfig:
    if clash := sorted({*run.values, convention.group_key} & recipe.keys()):
        raise UsageError(
            f"{', '.join(clash)} cannot be set for a sweep: the grid decides it",
            code="set-by-the-task",
            fix="Choose the runs with --k, --task, --seed, --group and the options for facets.",
        )
    values = {**run.values, **recipe, convention.group_key: run.group}
    return TrainConfig.from_dict(values, strict=True)


def time_kinds(plan: SweepPlan, *, processes: int | None = None, how: How | None = None) -> SweepPlan:
    """Estimate the runs of whose kind none was measured here, by a few iterations of one of each: about a second each.

    Args:
        plan: From `plan_sweep`.
        processes: As for `sweep`.
        how: As for `sweep`.
    """
    asked = how or How()
    unknown = [run for run in plan.wanted if run.seconds is None]
    if not unknown:
        return plan
    from ckptman.training import timing

    threads = share(len(plan.wanted), processes, asked)[1]
    rates: dict[tuple[Any, ...], float] = {}
    for run in unknown:
        config = run.raw.config
        if (kind := _kind(config)) not in rates:
            rates[kind] = timing.positions_per_second(
                config, device=asked.device, threads=threads, compiled=asked.compiled
            )
    speeds = Speeds(rates)
    runs = tuple(
        replace(run, seconds=_seconds(run, speeds)) if run.wanted and run.seconds is None else run for run in plan.runs
    )
    return replace(plan, runs=runs, timed_kinds=len(rates))


def _seconds(run: SweepRun, speeds: Speeds) -> float | None:
    speed = speeds.of_config(run.raw.config)
    return None if speed is None else (run.raw.config.max_iters - run.iters_done) / speed


@dataclass(frozen=True)
class Speeds:
    """How fast runs were: mean samples times positions a second, for each kind of model."""

    rates: Mapping[tuple[Any, ...], float] = field(default_factory=dict)
    """By `_kind`: iterations a second × batch size × mean sequence length, the median over runs."""
    measured: int = 0

    @classmethod
    def of(cls, runs: Iterable[RunStanding]) -> Speeds:
        """The speeds of runs whose configuration and speed are known."""
        found: dict[tuple[Any, ...], list[float]] = {}
        for item in runs:
            if item.iterations_per_second and item.config is not None:
                try:
                    config = TrainConfig.from_dict(item.config)
                except UsageError:  # of a status that somebody changed, say
                    continue
                work = item.iterations_per_second * _work(config)
                found.setdefault(_kind(config), []).append(work)
        return cls({kind: median(rates) for kind, rates in found.items()}, sum(map(len, found.values())))

    def of_config(self, config: TrainConfig) -> float | None:
        """About how many iterations a second such a run does; None where no run of its kind was measured."""
        rate = self.rates.get(_kind(config))
        return None if rate is None else rate / _work(config)


def _kind(config: TrainConfig) -> tuple[Any, ...]:
    """What decides how fast a position is; norms and gates add little to it."""
    return config.n_layers, config.use_mlp, config.n_embd, config.n_heads, config.vocab_n


def _work(config: TrainConfig) -> float:
    """Positions in an iteration: K numbers, the separator and K sorted numbers for each sample, for the mean K."""
    return config.effective_batch_size * (2 * fmean(config.trained_lengths) + 1)


# --- training ---------------------------------------------------------------------------------------------------------


def sweep(
    plan: SweepPlan,
    *,
    processes: int | None = None,
    how: How | None = None,
    stop: stopping.Stop | None = None,
    update: Callable[[SweepRun, JobUpdate], None] | None = None,
) -> SweepResult:
    """Train the wanted runs of a plan in processes of this machine, and wait for them.

    SIGINT and SIGTERM let every run save its state and end. A run that fails does not stop the others.

    Args:
        plan: From `plan_sweep`.
        processes: How many runs at a time; by default as many as there are GPUs, or cores.
        how: The device, and so on. The cores are shared among the processes, unless it says how many threads.
        stop: Another way to end it.
        update: Called with each thing that becomes known of a run.

    Raises:
        MachineError, RefusedError: the outputs' folder cannot be written to, or wandb cannot start.
    """
    wanted = plan.wanted
    if not wanted:
        return _result(plan, "local", {}, None)
    how, notes = _settled(how or How(), len(wanted))
    count, threads, environments = share(len(wanted), processes, how)
    make_folders(plan.out, plan.out)
    folder = new_folder(plan.out)
    runs = [_submitted(run, folder, index) for index, run in enumerate(wanted)]
    jobs = [_job(run, submitted, replace(how, threads=threads)) for run, submitted in zip(wanted, runs, strict=True)]
    write_record(folder, "local", runs)
    ending = stop or stopping.Stop()

    def told(news: JobUpdate) -> None:
        if update is not None:
            update(wanted[news.index], news)

    pool = LocalPool(jobs, processes=count, folder=folder, update=told, environments=environments)
    with ending.on_signals():
        outcomes = pool.run(stopped=lambda: ending.wanted)
    swept = {run.raw.folder: _swept(run, outcome) for run, outcome in zip(wanted, outcomes, strict=True)}
    interrupted = ending.wanted or any(outcome.state == progress.INTERRUPTED for outcome in outcomes)
    return replace(_result(plan, "local", swept, folder), interrupted=interrupted, notes=notes)


def submit_sweep(plan: SweepPlan, options: SlurmOptions, *, how: How | None = None) -> SweepResult:
    """Put the wanted runs of a plan into SLURM's queue, and return at once.

    Args:
        plan: From `plan_sweep`; its folder has to be on a disk that all nodes share.
        options: What each job asks of SLURM.
        how: The device, and so on. By default each run has as many threads as its job has cores.

    Raises:
        MachineError: nothing can be submitted from here, SLURM refuses the jobs, or wandb cannot start.
    """
    wanted = plan.wanted
    if not wanted:
        return _result(plan, "slurm", {}, None)
    how, notes = _settled(how or How(), len(wanted))
    make_folders(plan.out, plan.out)
    folder = new_folder(plan.out)
    runs = [_submitted(run, folder, index) for index, run in enumerate(wanted)]
    how = replace(how, threads=how.threads or options.cores)

    def taken(found: list[SubmittedJob]) -> None:
        pairs = zip(runs, found, strict=False)  # those that come later are not in the queue yet
        write_record(folder, "slurm", [replace(run, job=job.id, log=job.log) for run, job in pairs])

    jobs = submit(
        [_job(run, submitted, how) for run, submitted in zip(wanted, runs, strict=True)], folder, options, taken=taken
    )
    swept = {
        run.raw.folder: SweptRun(run=run, state=SUBMITTED, job=job.id, log=job.log)
        for run, job in zip(wanted, jobs, strict=True)
    }
    return replace(_result(plan, "slurm", swept, folder), notes=notes)


def share(runs: int, processes: int | None, how: How) -> tuple[int, int | None, Sequence[Mapping[str, str]]]:
    """How to share the machine: processes, CPU threads of each, and what else each has in its environment.

    On GPUs it is a process for each of them, unless more are asked for; on the CPU, one for each core, since a run
    scales worse over threads than runs do over cores.
    """
    cores = files.cores()
    gpus = _gpus(how.device)
    # Where it is not known how many GPUs there are, `cuda` means the one.
    usual = len(gpus) or (1 if how.device == "cuda" else max(1, cores // (how.threads or 1)))
    count = min(runs, processes or usual)
    threads = how.threads or max(1, cores // count)
    return count, threads, [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]


def _gpus(device: str) -> list[str]:
    """The GPUs that processes are spread over; none where one device was chosen, or there is none."""
    if device not in ("auto", "cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index, _ in enumerate(sorted(Path("/proc/driver/nvidia/gpus").glob("*")))]


def _settled(how: How, runs: int) -> tuple[How, tuple[str, ...]]:
    """With the W&B mode that `auto` means here, since the runs are trained elsewhere; checked before they are."""
    mode, note = wandb_logging.settle(wandb_logging.WandbMode(how.wandb))
    wandb_logging.check_can_start(mode, runs=runs)
    return replace(how, wandb=str(mode)), (note,) if note else ()


def _submitted(run: SweepRun, folder: Path, index: int) -> SubmittedRun:
    convention = run.raw.convention
    name = f"{index:04d}-{run.grid.group}-{convention.folders.task(run.grid.cell.task)}-{run.raw.folder.name}"
    return SubmittedRun(
        folder=run.raw.folder.relative_to(run.raw.out).as_posix(),
        log=str(folder / f"{name}.log"),
        outcome_file=str(folder / f"{name}.json"),
    )


def _job(run: SweepRun, submitted: SubmittedRun, how: How) -> RunJob:
    return RunJob.of(run.raw, **asdict(how), log=submitted.log, outcome_file=submitted.outcome_file)


def _swept(run: SweepRun, outcome: JobOutcome) -> SweptRun:
    begun = outcome.iterations_per_second is not None or outcome.state != progress.INTERRUPTED
    return SweptRun(
        run=run,
        state=outcome.state if begun else NOT_STARTED,
        reason=outcome.reason,
        log=outcome.log,
        outcome=outcome,
    )


def _result(plan: SweepPlan, executor: str, swept: Mapping[Path, SweptRun], folder: Path | None) -> SweepResult:
    """What became of every run of the plan: those that were trained, and those that were left as they are."""
    runs = []
    for run in plan.runs:
        reason = run.error.message if run.error is not None else run.where
        runs.append(swept.get(run.raw.folder) or SweptRun(run=run, state=str(run.todo), reason=reason))
    return SweepResult(out=plan.out, executor=executor, runs=tuple(runs), folder=folder)
