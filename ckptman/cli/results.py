"""`ckptman results`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from ckptman.cli import completing
from ckptman.cli.app import app, convention_for, print_json, warn
from ckptman.cli.options import (
    Conditions,
    GroupText,
    Json,
    KText,
    Metric,
    Root,
    SeedText,
    TaskText,
    Tree,
    WithAxes,
    conditions_of,
    tree_of,
)
from ckptman.cli.remembering import Remembered
from ckptman.cli.rows import FORMATS, Format, Rows, print_rows
from ckptman.cli.text import console, count_text, plain
from ckptman.queries import Results, listing, over_seeds, results
from ckptman.rules import Convention
from ckptman.text import UsageError, wording


@app.command("results", cls=WithAxes)
def _results(
    context: typer.Context,
    directory: Tree = None,
    root: Root = None,
    longest: KText = None,
    seed: SeedText = None,
    group: GroupText = None,
    task: TaskText = None,
    where: Conditions = None,
    metric: Metric = listing.DEFAULT_METRIC,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="KEY,…",
            help="Group the runs by these keys instead of by configuration.",
            autocompletion=completing.keys,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="VALUE", help="The smallest K whose mean reaches this value."),
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option(
            "--versus",
            metavar="KEY",
            help="Rows that differ in this key alone, side by side.",
            autocompletion=completing.keys,
        ),
    ] = None,
    population: Annotated[
        bool | None,
        typer.Option(
            "--population/--sample",
            help="The population's standard deviation, or the sample's; by default as ckptman.yaml says.",
            show_default=False,
        ),
    ] = None,
    all_runs: Annotated[
        bool,
        typer.Option(
            "--all-runs",
            help="Over all W&B runs too, by what each logged: those that were overwritten, repeated, or left no file.",
        ),
    ] = False,
    output: Annotated[Format, typer.Option("--format", metavar="FORMAT", help=FORMATS)] = (Format.TABLE),
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="The lab's summary.csv: the convention's `summary`, deviation of the population.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what each configuration reached: mean and deviation over its seeds.

    Each run of the tree counts once. Conditions and keys are those of ckptman ls. With --all-runs, the other tables
    (--threshold, --versus, --csv) are over all W&B runs.

    Example: ckptman results --no-mlp --layers 1

    Example: ckptman results --metric gen/K32/exact_match_acc --by n_layers,use_mlp

    Example: ckptman results --threshold 0.95

    Example: ckptman results --versus use_mlp

    Example: ckptman results --all-runs --population
    """
    if sum((threshold is not None, versus is not None, as_csv)) > 1 or (as_csv and (as_json or by)):
        raise UsageError(
            "--threshold, --versus and --csv are different tables", code="bad-usage", fix="Give one of them."
        )
    root = tree_of(context, root, directory)
    convention = convention_for(context, root)
    conditions = conditions_of(convention, context, where)
    with Remembered(context, root, convention):
        keys = [key for text in by or () for key in text.split(",")]
        if threshold is not None and keys and not {"k", convention.k_key} & set(keys):
            keys.append("k")  # of which the smallest is looked for
        found = results(
            root,
            convention=convention,
            where=conditions,
            metric=metric,
            by=keys,
            summary=as_csv,
            population=as_csv or (convention.statistics == "population" if population is None else population),
            all_runs=all_runs,
        )
        over = replace(found, rows=tuple(row.over_all for row in found.rows)) if all_runs else found
        output = Format.JSON if as_json else Format.CSV if as_csv else output
        if output is Format.JSON and threshold is None and versus is None:
            print_json(found.to_json())
        elif as_csv:
            print_rows(_summary_rows(over), Format.CSV)
        elif threshold is not None:
            print_rows(_threshold_rows(over, threshold, convention), output)
            if threshold > 1 and all(0 <= value <= 1 for row in over.rows for _, value in row.values):
                warn(f"values are from 0 to 1, and none can reach {threshold:g}: 95 % is --threshold 0.95")
        elif versus is not None:
            rows = _versus_rows(over, versus, convention, whole=output not in (Format.TABLE, Format.MD))
            print_rows(rows, output, over=versus)
            if len(rows) == 1:
                warn(f"no two rows differ in {versus} alone")
        else:
            print_rows(_rows(found), output, give=() if keys else _said_twice(found, convention))
        _tell(found, is_spread_shown=threshold is None and versus is None)
        raise typer.Exit(0 if found.listing.complete else 1)


def _rows(found: Results) -> Rows:
    head = [*found.by, "mean", "deviation", "n"]
    rows = [[*row.settings.values(), row.mean, row.deviation, row.runs] for row in found.rows]
    if any(row.logged for row in found.rows):
        head += ["mean (all)", "dev. (all)", "n (all)"]
        over = (row.over_all for row in found.rows)
        rows = [[*row, all_.mean, all_.deviation, all_.runs] for row, all_ in zip(rows, over, strict=True)]
    return [head, *rows]


def _said_twice(found: Results, convention: Convention) -> list[str]:
    """What gives way in a narrow table: a group's name says its facets and K, and a task's number its axes."""
    if not {"group", "task"} <= set(found.by):
        return []
    of_groups = [*(facet.name for facet in convention.told_facets), *filter(None, [convention.k_key])]
    tasks: dict[tuple[str, str], set[str]] = {}
    for row in found.rows:
        for key, value in row.settings.items():
            tasks.setdefault((key, f"{row.settings['group']} {row.settings['task']}"), set()).add(repr(value))
    apart = {key for (key, _), values in tasks.items() if len(values) > 1}  # what a task's number does not say
    of_tasks = [key for key in reversed(found.by) if key not in (*of_groups, *apart, "group", "task")]
    return [*(f"-{key}" for key in of_groups), "group", *(f"-{key}" for key in of_tasks)]


def _threshold_rows(found: Results, least: float, convention: Convention) -> Rows:
    rows = over_seeds.thresholds(found, least, convention)
    keys = list(rows[0].settings) if rows else []
    measured = [[*row.settings.values(), row.smallest, " ".join(map(str, row.measured))] for row in rows]
    return [[*keys, f"smallest K with mean ≥ {least:g}", "K measured"], *measured]


def _versus_rows(found: Results, key: str, convention: Convention, *, whole: bool) -> Rows:
    """Means side by side, and the difference; with `whole`, deviation and n of each mean too."""
    rows = over_seeds.differences(found, key, convention)
    if not rows:
        return [[key]]
    values = sorted({value for row in rows for value in row.means}, key=str)
    columns = [f"{key} {wording.value_text(value)}" for value in values]
    more = [f"{column} {name}" for column in columns for name in ("deviation", "n")] if whole else []
    table = []
    for row in rows:
        each = [row.means.get(value) for value in values]
        rest = [part for one in each for part in ((one.deviation, one.runs) if one else (None, 0))] if whole else []
        table.append([*row.settings.values(), *(one.mean if one else None for one in each), row.difference, *rest])
    return [[*rows[0].settings, *columns, "difference", *more], *table]


def _summary_rows(found: Results) -> Rows:
    """The rows of the lab's summary.csv."""
    head = [*found.by, "mean_gen_em", "std_gen_em", "n_runs"]
    return [head, *([*row.settings.values(), row.mean, row.deviation, row.runs] for row in found.rows)]


def _tell(found: Results, *, is_spread_shown: bool) -> None:
    """Say on stderr over how many runs the rows are, what their deviation is, and what they leave out."""
    talk = console(stderr=True)
    for item in found.listing.not_listed[:3]:
        warn(f"not counted: {item.path}: {item.message}")
    if len(found.listing.not_listed) > 3:
        warn(f"and {len(found.listing.not_listed) - 3:,} more: ckptman validate --root {found.root}")
    measured = sum(row.runs for row in found.rows)
    unmeasured = sum(row.unmeasured for row in found.rows)
    kind = "population" if found.population else "sample"
    pooled = sorted({key for row in found.rows for key in row.pooled})
    if pooled:
        warn(f"rows are over configurations that differ in what is no column: {', '.join(pooled)}")
    if logged := [run for row in found.rows for run in row.logged]:
        _tell_of_all(logged)
    rest = f"; in {count_text(unmeasured, 'further run')} it was not measured" if unmeasured else ""
    numbers = sorted({row.runs for row in found.rows if row.runs})
    each = f"{numbers[0]:,} to {numbers[-1]:,}" if len(numbers) > 1 else f"{numbers[0]:,}" if numbers else "none"
    said = f"deviation of the {kind}" if is_spread_shown else f"{each} for each mean"
    talk.print(plain(f"{found.metric} over {count_text(measured, 'run')}, {said}{rest}", "dim"))


def _tell_of_all(logged: Sequence[over_seeds.LoggedRun]) -> None:
    """Say on stderr how many W&B runs there are, and which of them left no file."""
    gone = [run.run_id or "" for run in logged if not run.has_files]
    named = f" ({', '.join(gone[:_MOST_RUNS])}{', …' if len(gone) > _MOST_RUNS else ''})" if gone else ""
    of_all = f"all: {count_text(sum(run.value is not None for run in logged), 'W&B run')} by what they logged"
    console(stderr=True).print(plain(f"{of_all}; of {len(gone):,} no file is here{named}", "dim"))


_MOST_RUNS = 8
