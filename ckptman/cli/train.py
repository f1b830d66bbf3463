"""`ckptman train`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ckptman.cli import asking, completing
from ckptman.cli.app import INTERRUPTED, app, convention_for, next_step, print_json, warn
from ckptman.cli.options import (
    DEFAULT_OUT,
    GroupText,
    Json,
    KText,
    Numbering,
    Out,
    Set,
    TaskText,
    Texts,
    WithFacets,
    check_group_alone,
    check_k,
    chosen_facets,
    named_groups,
    numbers_of,
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
from ckptman.cli.tables import NOTHING, print_table, shortened_label
from ckptman.cli.text import clean, console, count_text, plain
from ckptman.rules import Convention, TrainConfig, comparing, grids, placement, terms
from ckptman.text import CkptmanError, UsageError, wording
from ckptman.training import planning, stopping
from ckptman.training import wandb as wandb_logging
from ckptman.tree import metrics

if TYPE_CHECKING:  # these import torch
    from ckptman.training import progress as run_progress
    from ckptman.training import runs

_TRAINED, _TESTED = "trained", "tested"
_LINE_SECONDS = 30.0
"""Time between two lines of progress where stderr is no terminal, as in the log of a job."""


@app.command("train", cls=WithFacets)
def _train(
    context: typer.Context,
    *,
    k: KText = None,
    task: TaskText,
    group: GroupText = None,
    seed: Annotated[
        list[str] | None,
        typer.Option(
            "--seed",
            metavar="LIST",
            help="Seeds, written likewise. [default: the grid's first; 1337 in the built-in one]",
            rich_help_panel="Which runs",
            autocompletion=completing.seeds,
        ),
    ] = None,
    numbering: Numbering = None,
    out: Out = Path(DEFAULT_OUT),
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
    device: Annotated[
        str, typer.Option(envvar="CKPTMAN_DEVICE", metavar="NAME", help="auto, cpu, cuda, cuda:1 …")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(envvar="CKPTMAN_THREADS", min=1, metavar="N", help="CPU threads; by default torch's choice."),
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
            help="auto (online with an API key and a connection, otherwise offline), online, offline or disabled.",
        ),
    ] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from what an interrupted run left, or refuse to.")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and write nothing.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help=f"Do not ask, also for more than {asking.UNASKED} runs.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show each K, and every path.")] = False,
    as_json: Json = False,
) -> None:
    """Train the runs of one or more tasks: one for each group or K, task and seed.

    The published recipe is the default: 40,000 iterations of 4,096 samples. Dynamic training on lists of 2 to K numbers
    with LayerNorm is meant unless something else is asked for. Checkpoints, W&B logs and status go to
    DIR/GROUP/TASK/RUN, for ckptman ingest to sort.

    A run that is complete is not trained again, and no file is overwritten. An interrupted run goes on from its newest
    state: one is saved every minute, and at SIGINT (Ctrl-C) and SIGTERM, which end with exit status 130. On one machine
    and number of threads, a run that was killed and resumed ends with the very weights of an uninterrupted one.

    Example: ckptman train --k 8 --task 6 --seed 1337 --seed 2337

    Example: ckptman train --k 8,16 --task 0-3 --dry-run

    Example: ckptman train --k 4 --task 3 --fixed --quick --wandb disabled
    """
    mode = wandb_logging.check_mode(wandb)
    planning.check_device(device)
    convention = convention_for(context, out, numbering)
    placement.check_grid(convention)
    check_k(k, convention)
    check_group_alone(group, context, convention, k)
    recipe = recipe_of(context.params, quick=quick, compiled=compiled)
    recipe |= set_values(settings)
    chosen = {name: values[0] for name, values in chosen_facets(context, convention).items()}
    asked = _asked(convention, k, task, seed, group, chosen)
    configs = [
        config for one in asked for config in planning.training_configs(convention, **one.options, recipe=recipe)
    ]
    plan = planning.plan_training(configs, out, convention=convention, resume=resume)
    talk = console(stderr=True)
    if dry_run:
        if as_json:
            print_json(plan.to_json())
        else:
            show_plan(plan, console(), dry_run=True)
        _print_errors([run.error for run in plan.runs if run.error is not None], talk)
        raise typer.Exit(max((run.error.exit_status for run in plan.runs if run.error is not None), default=0))
    show_plan(plan, talk)
    if plan.wanted:
        off = asking.off_grid((one.grid, one.k, each) for one in asked for each in one.seeds)
        asking.ask(len(plan.wanted), off, yes=yes)
        mode, note = wandb_logging.settle(mode)
        if note:
            warn(note)
        if mode is wandb_logging.WandbMode.OFFLINE:
            wandb_logging.keep_offline()

    stop = stopping.Stop()
    with stop.on_signals():
        # Torch takes its time to import, and everything up to here may have ended it.
        from ckptman.training import runs

        with RunProgress() as progress:
            result = runs.run_plan(
                plan,
                device=device,
                threads=threads,
                compiled=compiled,
                wandb=mode,
                resume=resume,
                stop=stop,
                log=_log_file(),
                progress=progress,
            )
    for run in result.runs:
        for note in run.trained.notes if run.trained is not None else ():
            warn(f"{run.run.label}: {note}")
    if as_json:
        print_json(result.to_json())
    else:
        show(result, console(), verbose=verbose)
    _print_errors(list(result.errors), talk)
    if any(run.checkpoints for run in result.runs):
        next_step(f"ckptman ingest {wording.shell_word(out)}")
    status = max((error.exit_status for error in result.errors), default=0)
    raise typer.Exit(status or (INTERRUPTED if result.interrupted else 0))


@dataclass(frozen=True)
class _Asked:
    """A group and a task of it that are asked for."""

    grid: terms.Grid
    k: int | None
    seeds: tuple[int, ...]
    options: dict[str, Any]
    """For `planning.training_configs`."""


def _asked(
    convention: Convention, k: Texts, task: Texts, seed: Texts, group: Texts, chosen: Mapping[str, terms.Scalar]
) -> list[_Asked]:
    """Every group, or every K of the family, with every task and all seeds that are asked for."""
    found = []
    for name in named_groups(convention, group):
        if name is None:
            pattern = placement.default_pattern(convention, chosen)
            lengths: tuple[int | None, ...] | None = numbers_of(k, "--k", least=1)
            if lengths is None and k is None:
                raise UsageError(
                    "K is not given",
                    code="bad-usage",
                    fix="Give --k, the longest trained list, or a --group whose name has it.",
                )
        else:
            pattern, held = placement.parse_group(name, convention)
            lengths = (comparing.whole(held.get(terms.K)),)
        grid = convention.grids[pattern.grid]
        tasks = numbers_of(task, "--task")
        if tasks is None:
            tasks = tuple(range(grids.task_count(grid, pattern.regime, convention.numbering)))
        seeds = numbers_of(seed, "--seed") or (grid.seeds if seed else grid.seeds[:1])
        for length in lengths or grid.k:
            family = {"k": length, "facets": chosen} if name is None else {"group": name}
            found += [_Asked(grid, length, seeds, {"task": one, "seeds": seeds, **family}) for one in tasks]
    return found


def show_plan(plan: planning.TrainPlan, out: Console, *, dry_run: bool = False) -> None:
    """Print what will be trained, and where it goes."""
    if plan.runs:
        out.print(plain(_recipe_text([run.run.config for run in plan.runs])))
        out.print(plain(f"outputs go to {plan.out}"))
    rows = [(run.run.label, _action_text(run), str(run.run.folder.relative_to(plan.out))) for run in plan.runs]
    print_table(out, [("Run", "Training" if not dry_run else "Would be", "Folder"), *rows], give=("-Folder",))


def show(result: runs.TrainResult, out: Console, *, verbose: bool = False) -> None:
    """Print what was trained: a row for each seed, their mean, and where the checkpoints are."""
    rows, measured = [], []
    for run in result.runs:
        found = _exact_match(run.trained.metrics if run.trained is not None else {}, run.run.config)
        means = [_mean([value for _, kind, value in found if kind == wanted]) for wanted in (_TRAINED, _TESTED)]
        measured.append(means)
        rows.append([run.run.label, _state_text(run), *map(_percent, means)])
    if len(rows) > 1 and any(value is not None for means in measured for value in means):
        rules = result.runs[0].run.convention
        columns = ([value for value in column if value is not None] for column in zip(*measured, strict=True))
        over = [metrics.over_runs(column, rules) for column in columns]
        rows.append([f"mean ± deviation ({rules.statistics})", "", *map(_spread, over)])
    if rows:
        config = result.runs[0].run.config
        trained, tested = _span(*config.trained_span), _span(config.test_min_k, config.test_max_k)
        print_table(out, [("Exact match", "", trained, tested), *rows], right=(2, 3), give=("Exact match",))
    for run in result.runs:
        if verbose:
            _show_details(run, out)
        if run.checkpoints:
            folder = wording.shell_word(run.checkpoints[0].parent)
            out.print(plain(f"{count_text(len(run.checkpoints), 'checkpoint')} in {folder}"))


def _show_details(run: runs.RunResult, out: Console) -> None:
    """Print what is known of one run: its speed and loss, the exact match by K, the paths."""
    out.print(plain(run.run.label, "bold") + plain(f": {_result_text(run)}"))
    by_k = _exact_match(run.trained.metrics if run.trained is not None else {}, run.run.config)
    if by_k:
        samples = run.run.config.eval_samples_per_length
        rows = [(str(k), kind, wording.percent(value)) for k, kind, value in by_k]
        print_table(out, [("K", "", f"Exact match of {count_text(samples, 'list')}"), *rows], right=(0, 2), indent="  ")
    for path in run.checkpoints:
        out.print(plain(f"  {path}"))


class RunProgress:
    """How far the training is, on stderr: a progress bar on a terminal, otherwise a line every half minute."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._console = console(stderr=True)
        width = self._console.width
        bar = (BarColumn(bar_width=min(24, width - 71)),) if width >= 80 else ()
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            *bar,
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            transient=True,  # the table of results says it all at the end
            disable=not self._terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._line_at = time.monotonic()

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            self._bar.stop()

    def __call__(self, progress: run_progress.BatchProgress) -> None:
        """Show how far a run is."""
        label, total = progress.label, progress.max_iters
        measured = NOTHING if progress.gen_em is None else wording.percent(progress.gen_em)
        figures = [
            f"gen. {measured}",
            f"{progress.iterations_per_second:.1f} it/s",
            f"loss {progress.loss:.4f}",
            f"K {progress.k}",
            f"lr {progress.learning_rate:.2e}",
        ]
        if self._terminal:
            task = self._tasks.get(label)
            if task is None:
                task = self._tasks[label] = self._bar.add_task("", total=total, figures="")
            name, shown = progress_texts(clean(label), figures, total, self._console.width)
            self._bar.update(task, completed=progress.iters_done, description=name, figures=shown)
        elif time.monotonic() - self._line_at >= _LINE_SECONDS:
            self._line_at = time.monotonic()
            left = (total - progress.iters_done) / max(1e-9, progress.iterations_per_second)
            self._console.print(
                plain(f"{label}: {progress.iters_done:,}/{total:,}  {_time_text(left)} left  {'  '.join(figures)}"),
                soft_wrap=True,  # a line of a log is one line
            )


def progress_texts(label: str, figures: Sequence[str], total: int, width: int) -> tuple[str, str]:
    """A run's name and its figures, as many as the line has room for beside the count and the time left.

    Args:
        label: The run.
        figures: What there is to say, the most important first: that is always said.
        total: Iterations in all.
        width: Columns of the terminal.
    """
    bar = min(24, width - 71) + 1 if width >= 80 else 0
    room = width - bar - (2 * len(f"{total:,}") + 2) - len("00:00:00 ") - len("gen. 100.0 %")
    name = shortened_label(label, min(room, len(label)))
    room -= len(name) + 1
    shown = [figures[0]]
    for figure in figures[1:]:
        room -= 2 + max(len(figure), 9)  # as wide in a moment, so that nothing jumps
        if room < 0:
            break
        shown.append(figure)
    return name, "  ".join(shown)


def _recipe_text(configs: Sequence[TrainConfig]) -> str:
    lengths = set(map(_lengths_text, configs))
    return recipe_text(configs[0]) + (f", {lengths.pop()}" if len(lengths) == 1 else "")


def _lengths_text(config: TrainConfig) -> str:
    low, high = config.trained_span
    if config.train_k_choices is not None:
        return f"K in {', '.join(map(str, config.train_k_choices))}"
    return f"K = {high}" if low == high else f"K = {low}..{high}, {config.length_mode}"


def _span(low: int, high: int) -> str:
    return f"K {low}" if low == high else f"K {low}–{high}"


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _spread(found: metrics.Generalization | None) -> str:
    if found is None or found.deviation is None:
        return NOTHING
    return f"{wording.percent(found.mean)} ± {wording.percent(found.deviation)}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else wording.percent(value)


def _state_text(run: runs.RunResult) -> str:
    trained = run.trained
    if trained is None or trained.state == "complete":
        return _complete_text(run.planned) if trained is None and run.state == "complete" else run.state
    return f"{trained.state} at {trained.iters_done:,} of {run.run.config.max_iters:,}"


def _action_text(planned: planning.PlannedRun) -> str:
    if planned.action is planning.Action.RESUME:
        return f"resumed at {planned.iters_done:,} of {planned.run.config.max_iters:,} iterations"
    return {
        planning.Action.NEW: "new",
        planning.Action.COMPLETE: _complete_text(planned),
        planning.Action.RUNNING: "left alone: another process trains it",
        planning.Action.REFUSED: "refused",
    }[planned.action]


def _complete_text(planned: planning.PlannedRun) -> str:
    return "complete already" + (": its final checkpoint is no longer there" if planned.moved_away else "")


def _result_text(run: runs.RunResult) -> str:
    trained = run.trained
    if trained is None:
        return _complete_text(run.planned) if run.state == "complete" else run.state
    speed = f", {trained.iterations_per_second:.1f} it/s" if trained.iterations_per_second is not None else ""
    resumed = f", resumed at {trained.resumed_from:,}" if trained.resumed_from is not None else ""
    loss = f", loss {trained.loss:.4f}" if trained.loss is not None else ""
    run_id = f" (W&B run {trained.run_id})" if trained.run_id is not None else ""
    return f"{trained.state} after {trained.iters_done:,} iterations{resumed}{speed}{loss}{run_id}"


def _exact_match(metrics: Mapping[str, float], config: TrainConfig) -> list[tuple[int, str, float]]:
    """K, whether it was trained, and the exact match of each evaluated length."""
    from ckptman.training import learning_curve

    rows = []
    for name, where, low, high in (
        (learning_curve.TRAINED, _TRAINED, *config.trained_span),
        (learning_curve.TESTED, _TESTED, config.test_min_k, config.test_max_k),
    ):
        for k in range(low, high + 1):
            value = metrics.get(f"{name.replace('{k}', str(k))}/{terms.EXACT_MATCH}")
            if value is not None:
                rows.append((k, where, value))
    return rows


def _print_errors(errors: list[CkptmanError], talk: Console) -> None:
    for error in errors:
        refused = error.exit_status == 1
        talk.print(plain("REFUSED " if refused else "ERROR ", "bold red") + plain(f"{error.message} [{error.code}]"))
        talk.print(plain(f"  {error.fix}"))


def _time_text(seconds: float) -> str:
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _log_file() -> str:
    """The file that stderr goes to; empty for a terminal or a pipe."""
    try:
        target = Path(f"/proc/self/fd/{sys.stderr.fileno()}").readlink()
    except (OSError, ValueError):
        return ""
    return str(target) if target.is_file() else ""
