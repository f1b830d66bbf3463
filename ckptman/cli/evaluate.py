"""`ckptman eval`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ckptman.cli.app import app, convention_for, print_json, warn
from ckptman.cli.options import Json, Verbose, numbers_of
from ckptman.cli.progress import SampleProgress
from ckptman.cli.tables import NOTHING, print_table
from ckptman.cli.text import console, count_text, plain, say_refused
from ckptman.rules import Convention
from ckptman.text import UsageError, wording
from ckptman.tree import records

if TYPE_CHECKING:  # these import torch
    from ckptman.training import evaluation as evaluating

_LONGEST = 10_000
_MEANING = {
    "teacher-forced": "each number is predicted from the correct ones before it (the published metric)",
    "autoregressive": "the model reads its own output",
}


@app.command("eval")
def _eval(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH…", help="Checkpoints, run folders or whole trees (their Final checkpoints)."),
    ],
    lengths: Annotated[
        list[str] | None,
        typer.Option(
            "--k", metavar="LIST", help="The lengths: 17-32, or 4,8,17-32:5; may be repeated. [default: the metric's]"
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Lists of each length.")] = 1000,
    autoregressive: Annotated[
        bool,
        typer.Option(
            "--autoregressive", help="Let the model read its own output, instead of the correct numbers before each."
        ),
    ] = False,
    sample_seed: Annotated[int, typer.Option("--seed", metavar="SEED", help="Chooses the lists.")] = 0,
    all_checkpoints: Annotated[
        bool, typer.Option("--all", help="Of a folder, take every checkpoint, not only the Final ones.")
    ] = False,
    device: Annotated[
        str, typer.Option(envvar="CKPTMAN_DEVICE", metavar="NAME", help="auto, cpu, cuda, cuda:1 …")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(envvar="CKPTMAN_THREADS", min=1, metavar="N", help="CPU threads; by default torch's choice."),
    ] = None,
    no_record: Annotated[
        bool, typer.Option("--no-record", help="Leave run.json alone; otherwise a run's result is recorded there.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Take back what was recorded with these options, and measure nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be measured, or forgotten, and change nothing.")
    ] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Measure how well checkpoints sort lists of random numbers.

    For each length K: the exact match (lists sorted right at all K positions) with its 95 % Wilson score interval, and
    the token accuracy (positions that are right). The mean exact match over K = 17..32 is a run's generalization; in a
    tree it is recorded in run.json, beside those of other modes, lengths, seeds and numbers of samples; ls, report and
    the stars use the one with the most samples. What is recorded already is not measured again, so an evaluation that
    was interrupted goes on with the file that it was at; --forget takes a recorded one back.

    Teacher-forced, each number is predicted from the correct ones before it: the metric that training logs. With
    --autoregressive the model reads its own output, as it does in use. The exact match is the same both ways, since the
    most probable number is taken, and as long as all are right there is no difference; the token accuracy is not.

    The same file, seed and number of samples give the same figures.

    Example: ckptman eval checkpoints --k 17-32 --samples 2000
    """
    groups = _by_convention(context, paths)  # first, since it may end here, and torch takes its time to import
    ks = parse_lengths(lengths)

    from ckptman.training import evaluation as evaluating

    modes = evaluating.EvaluationMode
    mode = modes.AUTOREGRESSIVE if autoregressive else modes.TEACHER_FORCED
    if forget:
        gone = [
            item
            for convention, members in groups
            for item in evaluating.forget(members, k=ks, samples=samples, seed=sample_seed, mode=mode,
                                          all_checkpoints=all_checkpoints, dry_run=dry_run, convention=convention)
        ]  # fmt: skip
        show_forgotten(gone, console(), dry_run=dry_run, as_json=as_json)
        if not gone:
            lengths_text = f", K {','.join(lengths)}" if lengths else ""
            warn(f"nothing is recorded of {mode}, {count_text(samples, 'list')} of each length, seed {sample_seed}"
                 f"{lengths_text}: ckptman show RUN lists what is")  # fmt: skip
        return
    work = partial(
        evaluating.evaluate, k=ks, samples=samples, seed=sample_seed, mode=mode, all_checkpoints=all_checkpoints,
        device=device, threads=threads, record=not no_record,
    )  # fmt: skip
    results = []
    with SampleProgress() as progress:
        try:
            for convention, members in groups:
                results.append(work(members, dry_run=dry_run, convention=convention, progress=progress))
        except KeyboardInterrupt:
            looked = [work(members, dry_run=True, convention=convention) for convention, members in groups]
            _tell_standing(evaluating.EvaluationResult.joined(looked))
            raise
    result = evaluating.EvaluationResult.joined(results)
    for message in result.warnings:
        warn(message)
    if as_json:
        print_json(result.to_json())
    else:
        show(result, console())
    say_refused((item.message, item.code, item.fix) for item in result.refused)
    raise typer.Exit(1 if result.refused or result.warnings else 0)  # a warning: what was measured is not recorded


def _tell_standing(result: evaluating.EvaluationResult) -> None:
    """Say on stderr from where the same command would go on."""
    done, left = len(result.evaluations), len(result.planned)
    goes_on = "the same command goes on with the next one" if done else "the same command starts over"
    warn(f"{done:,} of {count_text(done + left, 'checkpoint')} measured and recorded: {goes_on}")


def show_forgotten(
    items: Sequence[evaluating.Forgotten], out: Console, *, dry_run: bool = False, as_json: bool = False
) -> None:
    """Print which evaluations were taken back, or would be."""
    if as_json:
        forgotten = [item.to_json() for item in items]
        print_json({"schema_version": records.SCHEMA_VERSION, "dry_run": dry_run, "forgotten": forgotten})
        return
    for item in items:
        value = item.entry.get("gen_em")
        rate = NOTHING if not isinstance(value, float) else wording.percent(value)
        out.print(plain(f"{rate} of {item.entry.get('date') or 'unknown date'}: {item.path}"))
    what = "would be forgotten" if dry_run else "forgotten"
    out.print(plain(f"{count_text(len(items), 'evaluation')} {what}", "bold"))


def parse_lengths(texts: Sequence[str] | None) -> list[int] | None:
    """The lengths that `--k` names: `17-32`, or `4,8,17-32`; None for those of the metric.

    Raises:
        UsageError: (`bad-range`) for anything else.
    """
    found = numbers_of(texts, "--k", least=1)
    if found is not None and max(found) > _LONGEST:
        raise UsageError(
            f"--k: lengths go from 1 to {_LONGEST:,}", code="bad-range", fix="Write --k 17-32, or --k 4,8,17-32."
        )
    return None if found is None else sorted(found)


def show(result: evaluating.EvaluationResult, out: Console) -> None:
    """Print what was measured: a table for each file, and one for all of them if there are several."""
    for path in result.planned:
        out.print(plain(f"would be measured: {path}"))
    for number, evaluation in enumerate(result.evaluations):
        if number:
            out.print()
        _show_one(evaluation, out)
    if len(result.evaluations) > 1:
        out.print()
        out.print(plain(f"{count_text(len(result.evaluations), 'checkpoint')}, {_mode_text(result.evaluations[0])}"))
        rows = [(_mean_text(evaluation), evaluation.path) for evaluation in result.evaluations]
        print_table(out, [("Mean exact match", "Checkpoint"), *rows])


def _show_one(evaluation: evaluating.Evaluation, out: Console) -> None:
    out.print(plain(evaluation.path, "bold"))
    out.print(
        plain(
            f"{_mode_text(evaluation)}; {count_text(evaluation.samples, 'list')} of each length, seed {evaluation.seed}"
        )
    )
    rows = [
        (
            str(k),
            wording.percent(accuracy.exact_match),
            _interval_text(accuracy.interval),
            wording.percent(accuracy.token_accuracy, digits=2),  # one error in a thousand positions is not nothing
        )
        for k, accuracy in evaluation.by_k.items()
    ]
    print_table(out, [("K", "Exact match", "95 % interval", "Token accuracy"), *rows], right=range(4), indent="  ")
    low, high = evaluation.generalization_k
    where = ", recorded in run.json" if evaluation.recorded else ""
    if evaluation.gen_em is None:
        out.print(plain(f"  no mean: not every length of K = {low}..{high} was evaluated{where}"))
    else:
        out.print(plain(f"  mean over K = {low}..{high}: ") + plain(_mean_text(evaluation), "bold") + plain(where))


def _mode_text(evaluation: evaluating.Evaluation) -> str:
    return f"{evaluation.mode}: {_MEANING[evaluation.mode]}"


def _mean_text(evaluation: evaluating.Evaluation) -> str:
    if evaluation.gen_em is None or evaluation.gen_interval is None:
        return NOTHING
    return f"{wording.percent(evaluation.gen_em)} ({_interval_text(evaluation.gen_interval)})"


def _interval_text(interval: tuple[float, float]) -> str:
    low, high = map(wording.percent, interval)
    return f"{low.removesuffix(' %')}–{high}"


def _by_convention(context: typer.Context, paths: list[Path]) -> list[tuple[Convention, list[Path]]]:
    """The paths with the rules of the tree that each lies in."""
    groups: dict[Path | None, tuple[Convention, list[Path]]] = {}
    for path in paths:
        convention = convention_for(context, path if path.is_dir() else path.absolute().parent)
        groups.setdefault(convention.source, (convention, []))[1].append(path)
    return list(groups.values())
