"""`ckptman sweep`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live

from ckptman.cli import asking
from ckptman.cli.app import INTERRUPTED, app, convention_for, next_step, print_json, warn
from ckptman.cli.options import (
    DEFAULT_OUT,
    GroupText,
    Json,
    KText,
    Numbering,
    Out,
    Root,
    SeedText,
    Set,
    TaskText,
    WithFacetLists,
    selection_of,
    tree_there,
    warn_of_no_tree,
)
from ckptman.cli.recipe import (
    Batch,
    CheckpointEvery,
    CurriculumSpan,
    CurriculumWarmup,
    EvalEvery,
    EvalSamples,
    Iterations,
    LearningRate,
    LogEvery,
    MinLearningRate,
    Precision,
    Quick,
    WarmupIterations,
    WeightDecay,
    recipe_of,
    recipe_text,
    set_values,
)
from ckptman.cli.tables import NOTHING, print_table, table_lines
from ckptman.cli.text import console, count_text, plain
from ckptman.rules import recipe as recipe_rules
from ckptman.rules import terms
from ckptman.sweeps import How, SlurmOptions, SweepPlan, SweepResult, sweeping
from ckptman.sweeps.executors import local
from ckptman.sweeps.executors import slurm as slurm_executor
from ckptman.text import wording
from ckptman.training import planning, stopping
from ckptman.training import progress as run_progress
from ckptman.training import wandb as wandb_logging

_MOST_LINES = 12
"""Runs that the plan shows; --verbose shows all."""

_SLURM = "On SLURM"


class Executor(StrEnum):
    """Where the runs are trained."""

    LOCAL = "local"
    SLURM = "slurm"


@app.command("sweep", cls=WithFacetLists)
def _sweep(
    context: typer.Context,
    k: KText = None,
    task: TaskText = None,
    seed: SeedText = None,
    group: GroupText = None,
    numbering: Numbering = None,
    out: Out = Path(DEFAULT_OUT),
    root: Root = None,
    executor: Annotated[
        Executor, typer.Option(envvar="CKPTMAN_EXECUTOR", help="Train on this machine, or as jobs of SLURM.")
    ] = Executor.LOCAL,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            envvar="CKPTMAN_JOBS",
            min=1,
            metavar="N",
            help="Runs at a time on this machine. [default: one a GPU, or one a core]",
        ),
    ] = None,
    max_iters: Iterations = None,
    batch: Batch = None,
    learning_rate: LearningRate = None,
    min_lr: MinLearningRate = None,
    warmup_iters: WarmupIterations = None,
    weight_decay: WeightDecay = None,
    curriculum_warmup: CurriculumWarmup = None,
    curriculum_span: CurriculumSpan = None,
    checkpoint_every: CheckpointEvery = None,
    eval_every: EvalEvery = None,
    eval_samples: EvalSamples = None,
    log_every: LogEvery = None,
    precision: Precision = "auto",
    settings: Set = None,
    quick: Quick = False,
    device: Annotated[str, typer.Option(envvar="CKPTMAN_DEVICE", metavar="NAME", help="auto, cpu, cuda …")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            envvar="CKPTMAN_THREADS",
            min=1,
            metavar="N",
            help="CPU threads a run; on SLURM also the cores of its job. [default: the cores shared out; on SLURM 1]",
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Train through torch.compile: on a CPU the plain step, on a GPU our own."),
    ] = False,
    wandb: Annotated[
        str,
        typer.Option(
            envvar="CKPTMAN_WANDB",
            metavar="MODE",
            help="auto (online where an API key is set up, otherwise offline), online, offline or disabled.",
        ),
    ] = "auto",
    partition: Annotated[
        str | None,
        typer.Option(envvar="CKPTMAN_PARTITION", metavar="NAME", help="Partition.", rich_help_panel=_SLURM),
    ] = None,
    time_limit: Annotated[
        str,
        typer.Option(
            "--time",
            metavar="LIMIT",
            rich_help_panel=_SLURM,
            help="Time limit of a job: minutes, h:mm:ss or d-hh. A longer run goes on in the job's next turn.",
        ),
    ] = "4:00:00",
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, metavar="N", help="GPUs of a job.", rich_help_panel=_SLURM)
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--mem", metavar="SIZE", help="Memory of a job: 8G.", rich_help_panel=_SLURM)
    ] = None,
    parallelism: Annotated[
        int,
        typer.Option(
            "--array-parallelism", min=1, metavar="N", help="The most jobs at a time.", rich_help_panel=_SLURM
        ),
    ] = 256,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="KEY=VALUE",
            rich_help_panel=_SLURM,
            help="Another option of sbatch, without its dashes; may be repeated: --slurm account=lab.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and train nothing.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help=f"Do not ask, also for more than {asking.UNASKED} runs.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every run.")] = False,
    as_json: Json = False,
) -> None:
    """Train many runs of the grid: by default all of it, by the published recipe.

    A run that is complete is left as it is, an interrupted one goes on, and one that another process trains or that
    waits in SLURM's queue is left to that: a sweep can be started again at any time. Ctrl-C saves every run and ends. A
    run that fails does not stop the others; it is named at the end, and the exit status is 1.

    With --executor slurm each run is a job of an array; the command ends once they are submitted. A job whose time is
    up, or that has to make room for another, saves its run and goes into the queue again. ckptman status shows where
    they stand.

    Example: ckptman sweep --k 4-16:2 --regime fixed --dry-run

    Example: ckptman sweep --k 8 --executor slurm --gpus 1 --time 1:00:00 --dry-run
    """
    convention = convention_for(context, out, numbering)
    options = SlurmOptions(
        partition=partition,
        minutes=slurm_executor.parse_minutes(time_limit),
        gpus=gpus,
        memory=memory,
        cores=threads or 1,
        array_parallelism=parallelism,
        more=dict(slurm_executor.parse_option(text) for text in slurm or ()),
    )
    mode = wandb_logging.check_mode(wandb)
    if executor is Executor.LOCAL:
        planning.check_device(device)
    recipe_rules.check_device_name(device)
    how = How(device=device, threads=threads, compiled=compiled, wandb=wandb)
    recipe = recipe_of(context.params, quick=quick, compiled=compiled)
    recipe |= set_values(settings)
    tree = tree_there(context, root)
    warn_of_no_tree(tree)
    plan = sweeping.plan_sweep(
        out,
        selection=selection_of(convention, context, k=k, task=task, seed=seed, group=group),
        recipe=recipe,
        root=tree,  # what is complete there is not trained again
        convention=convention,
    )
    parallel = parallelism if executor is Executor.SLURM else sweeping.share(max(1, len(plan.wanted)), jobs, how)[0]
    if dry_run:
        if as_json:
            print_json({**plan.to_json(), "estimated_seconds": _rounded(plan.wall_seconds(parallel))})
        else:
            show_plan(plan, console(), parallel=parallel, verbose=verbose)
        refused = [run for run in plan.runs if run.todo is sweeping.Todo.REFUSED]
        raise typer.Exit(1 if refused else 0)
    talk = console(stderr=True)
    if executor is Executor.LOCAL:
        plan = sweeping.time_kinds(plan, processes=jobs, how=how)
    show_plan(plan, talk, parallel=parallel, verbose=verbose)
    if plan.wanted:
        asking.ask(len(plan.wanted), asking.off_grid(map(_asked, plan.wanted)), yes=yes)
        mode, note = wandb_logging.settle(mode)
        how = replace(how, wandb=str(mode))
        if note:
            warn(note)
    if executor is Executor.SLURM:
        result = sweeping.submit_sweep(plan, options, how=how)
    else:
        stop = stopping.Stop()
        with SweepTable(plan, stop) as table:
            result = sweeping.sweep(plan, processes=jobs, how=how, stop=stop, update=table.update)
    if as_json:
        print_json(result.to_json())
    else:
        show(result, console())
    _tell(result, talk)
    raise typer.Exit(1 if result.wrong else INTERRUPTED if result.interrupted else 0)


def _asked(run: sweeping.SweepRun) -> tuple[terms.Grid, int | None, int]:
    return run.raw.convention.grids[run.grid.pattern.grid], run.grid.k, run.grid.seed


def show_plan(plan: SweepPlan, out: Console, *, parallel: int, verbose: bool = False) -> None:
    """Print what a sweep will do, and about how long it takes."""
    counts = ", ".join(f"{count:,} {_WORDS[todo]}" for todo, count in plan.counts.items() if count)
    out.print(plain(f"{count_text(len(plan.runs), 'run')}: ", "bold") + plain(counts))
    if plan.wanted:
        out.print(plain(recipe_text(plan.wanted[0].raw.config)))
        out.print(plain(_estimate_text(plan, parallel)))
        out.print(plain(f"outputs go to {plan.out}"))
    told = [run for run in plan.runs if run.todo is not sweeping.Todo.COMPLETE or run.note or verbose]
    told.sort(key=lambda run: run.todo is not sweeping.Todo.REFUSED)  # what is wrong first, else in the grid's order
    rows = [(run.raw.label, _todo_text(run) + (f"; {run.note}" if run.note else "")) for run in told]
    shown = rows if verbose else rows[:_MOST_LINES]
    if shown:
        print_table(out, [("Run", "Plan"), *shown], indent="  ")
    if len(shown) < len(rows):
        out.print(plain(f"  … and {len(rows) - len(shown):,} more (--verbose names all, --json too)"))


def show(result: SweepResult, out: Console) -> None:
    """Print what a sweep did, with every run that went wrong."""
    counts = ", ".join(f"{count:,} {state}" for state, count in sorted(result.counts.items()))
    out.print(plain(f"{count_text(len(result.runs), 'run')}: ", "bold") + plain(counts or "nothing to do"))
    submitted = [run for run in result.runs if run.job]
    if result.executor == Executor.SLURM and submitted:
        first, last = submitted[0].job, submitted[-1].job
        out.print(plain(f"SLURM jobs {first} to {last}" if first != last else f"SLURM job {first}"))
    for run in result.wrong:
        out.print(plain("failed " if run.state == "failed" else "refused ", "bold red")
                  + plain(f"{run.run.raw.label}: {run.reason}"))  # fmt: skip
        if run.log:
            out.print(plain(f"  log: {run.log}"))


class SweepTable:
    """How a sweep on this machine goes, on stderr: a live table on a terminal, otherwise a line for each change."""

    def __init__(self, plan: SweepPlan, stop: stopping.Stop) -> None:
        self._rows: dict[Path, _Row] = {run.raw.folder: _Row(run) for run in plan.wanted}
        self._stop = stop
        self._console = console(stderr=True)
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._trained: tuple[float, int] | None = None
        """When iterations were first heard of, and how many."""
        self._screen = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        if sys.stderr.isatty() and self._rows:
            self._live = Live(console=self._screen, get_renderable=self.render, refresh_per_second=4)

    def __enter__(self) -> SweepTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, run: sweeping.SweepRun, news: local.JobUpdate) -> None:
        """Take note of something that became known of a run."""
        with self._lock:
            row = self._rows[run.raw.folder]
            changed = row.state != news.state
            row.state = news.state
            row.last = news if news.progress is not None or news.outcome is not None else row.last
        if self._live is None and changed and news.state != local.TRAINING:
            self._console.print(plain(f"{self._counts()} {run.raw.label}: {row.text()}"))

    def render(self) -> Group:
        """The table as it is now: all runs, or as many as the terminal has lines for, those at work first."""
        with self._lock:
            rows = list(self._rows.values())
        height = max(3, self._screen.height - 5)
        shown = rows if len(rows) <= height else sorted(rows, key=_Row.rank)[:height]
        head, *lines = table_lines(
            [_HEAD, *(row.cells() for row in shown)],
            right=range(4, len(_HEAD)),
            room=self._screen.width,
            give=("-Loss", "-it/s", "Group", "-Iterations"),
        )
        parts: list[Any] = [plain(head, "bold")]
        for row, line in zip(shown, lines, strict=True):
            parts.append(plain(line))
            parts[-1].highlight_words([f" {row.state}"], _STYLES.get(row.state, ""))
        if len(shown) < len(rows):
            parts.append(plain(f"… and {len(rows) - len(shown):,} more", "dim"))
        parts.append(plain(self._footer()))
        if self._stop.wanted:
            parts.append(plain("ending: every run saves its state (Ctrl-C again ends at once)", "bold yellow"))
        return Group(*parts)

    def _counts(self) -> str:
        ended = sum(row.is_done for row in self._rows.values())
        return f"[{ended}/{len(self._rows)}]"

    def _footer(self) -> str:
        with self._lock:
            rows = list(self._rows.values())
        over = sum(row.is_done for row in rows)
        interrupted = sum(row.is_over and not row.is_done for row in rows)
        failed = sum(row.state == "failed" for row in rows)
        text = f"{over} of {count_text(len(rows), 'run')}" + (f", {failed} failed" if failed else "")
        text += f", {interrupted} interrupted" if interrupted else ""
        left = self._left(rows)
        took = time.monotonic() - self._began
        return f"{text}; {duration_text(took)}" + (f", about {duration_text(left)} left" if left is not None else "")

    def _left(self, rows: Sequence[_Row]) -> float | None:
        """About how long the rest takes: the iterations left, at the speed of all runs since the first ones came."""
        done = sum(row.iterations_done() for row in rows)
        left = sum(row.iterations_left() for row in rows)
        if done and self._trained is None:
            self._trained = time.monotonic(), done
        if self._trained is None:
            return None
        took, done = time.monotonic() - self._trained[0], done - self._trained[1]
        return left * took / done if done and took > 10 else None


class _Row:
    """A run in the table."""

    def __init__(self, run: sweeping.SweepRun) -> None:
        self.run = run
        self.state = "waiting"
        self.last: local.JobUpdate | None = None

    @property
    def is_over(self) -> bool:
        return self.last is not None and self.last.outcome is not None

    @property
    def is_done(self) -> bool:
        """Whether it came to its end, good or bad: an interrupted run has not."""
        return self.is_over and self.state != "interrupted"

    def rank(self) -> int:
        """Rows that are worth seeing first: at work, then failed, then waiting, then done."""
        if self.state in (local.STARTING, local.TRAINING):
            return 0
        return {"failed": 1, "waiting": 2}.get(self.state, 3)

    def iterations_done(self) -> int:
        """Iterations that this sweep did of it."""
        return max(0, self._iterations() - self.run.iters_done)

    def iterations_left(self) -> int:
        """Iterations that are still to be done; none for a run that is over."""
        return 0 if self.is_over else max(0, self.run.raw.config.max_iters - self._iterations())

    def cells(self) -> list[str]:
        """The row's cells."""
        progress = None if self.last is None else self.last.progress
        outcome = None if self.last is None else self.last.outcome
        known = outcome or progress
        speed = None if known is None else known.iterations_per_second
        loss = None if known is None else known.loss
        gen_em = None if known is None else known.gen_em
        total = self.run.raw.config.max_iters
        left = self.iterations_left() / speed if speed and not self.is_over else None
        run = self.run.raw
        return [
            run.place.group,
            " ".join((str(run.place.task), *run.place.notes)),
            str(run.place.seed),
            self.state,
            f"{self._iterations():,}/{total:,}",
            NOTHING if not speed else f"{speed:.1f}",
            NOTHING if left is None else duration_text(left),
            NOTHING if loss is None else f"{loss:.4f}",
            NOTHING if gen_em is None else wording.percent(gen_em),
        ]

    def text(self) -> str:
        """The row as part of a line."""
        outcome = None if self.last is None else self.last.outcome
        if outcome is None:
            return self.state
        speed = "" if outcome.iterations_per_second is None else f", {outcome.iterations_per_second:.1f} it/s"
        loss = "" if outcome.loss is None else f", loss {outcome.loss:.4f}"
        return f"{outcome.state}{speed}{loss}" + (f": {outcome.reason}" if outcome.reason else "")

    def _iterations(self) -> int:
        if self.last is not None and self.last.outcome is not None:
            return self.last.outcome.iters_done or self.run.iters_done
        if self.last is not None and self.last.progress is not None:
            return self.last.progress.iters_done or self.run.iters_done
        return self.run.iters_done


_HEAD = ("Group", "Task", "Seed", "State", "Iterations", "it/s", "Left", "Loss", "Gen.")

_STYLES = {
    "complete": "green",
    "failed": "bold red",
    local.TRAINING: "cyan",
    local.STARTING: "cyan",
    "interrupted": "yellow",
}

_WORDS: Mapping[str, str] = {
    sweeping.Todo.NEW: "new",
    sweeping.Todo.RESUME: "to go on with",
    sweeping.Todo.COMPLETE: "complete already",
    sweeping.Todo.RUNNING: "being trained by another process",
    sweeping.Todo.QUEUED: "waiting in SLURM's queue",
    sweeping.Todo.REFUSED: "refused",
}


def duration_text(seconds: float) -> str:
    """A duration for people: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def _estimate_text(plan: SweepPlan, parallel: int) -> str:
    one, wall = plan.run_seconds, plan.wall_seconds(parallel)
    if one is None or wall is None:
        return "estimated time: unknown, since no run like these has been trained here yet"
    bases = []
    if plan.measured_runs:
        verb = "was" if plan.measured_runs == 1 else "were"
        bases.append(f"the speed of {count_text(plan.measured_runs, 'run')} that {verb} trained here")
    if plan.timed_kinds:
        bases.append(f"a few iterations of {count_text(plan.timed_kinds, 'kind')} of model, timed now")
    basis = f"by {' and '.join(bases)}"
    return (
        f"estimated time: {duration_text(wall)} with {parallel} at a time, {duration_text(one)} one after the other, "
        f"and some seconds for each run to start ({basis})"
    )


def _todo_text(run: sweeping.SweepRun) -> str:
    if run.todo is sweeping.Todo.RESUME:
        return f"goes on at {run.iters_done:,} of {run.raw.config.max_iters:,} iterations"
    if run.todo is sweeping.Todo.REFUSED and run.error is not None:
        return f"refused: {run.error.message}"
    where = f": {run.where}" if run.where else ""
    return {
        sweeping.Todo.NEW: "new",
        sweeping.Todo.COMPLETE: f"complete already{where}",
        sweeping.Todo.RUNNING: f"left alone, another process trains it{where}",
        sweeping.Todo.QUEUED: f"left alone{where}",
    }.get(run.todo, str(run.todo))


def _tell(result: SweepResult, talk: Console) -> None:
    """Say on stderr what is worth knowing about the runs, and what to do next."""
    for run in result.runs:
        for note in run.outcome.notes if run.outcome is not None else ():
            warn(f"{run.run.raw.label}: {note}")
    if result.folder is not None:
        talk.print(plain(f"logs are in {result.folder}", "dim"))
    if result.executor == Executor.SLURM and result.folder is not None:
        next_step(f"ckptman status {wording.shell_word(result.out)}")
    elif any(run.state == "complete" for run in result.runs):
        next_step(f"ckptman ingest {wording.shell_word(result.out)}")
    fixes = {run.run.error.fix if run.run.error is not None else run.outcome.fix if run.outcome is not None else ""
             for run in result.wrong}  # fmt: skip
    for fix in sorted(fixes - {""}):
        talk.print(plain(f"  {fix}"))
    if failed := sum(run.state == run_progress.FAILED for run in result.wrong):
        they, were = ("it", "it was") if failed == 1 else ("them", "they were")
        talk.print(plain(f"the same command trains {they} again, from where {were}"))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
