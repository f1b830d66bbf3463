"""`ckptman results`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from ckptman.cli import completing
from ckptman.cli.app import app, convention_for, print_json, warn
from ckptman.cli.options import (
    FORMATS,
    Conditions,
    Format,
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
from ckptman.rules import terms
from ckptman.text import UsageError


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
    metric: Metric = terms.DEFAULT_METRIC,
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
    if sum((threshold is not None, versus is not None, as_csv)) > 1:
        raise UsageError(
            "--threshold, --versus and --csv are different tables", code="bad-usage", fix="Give one of them."
        )
    if as_csv and (as_json or output not in (Format.TABLE, Format.CSV)):
        raise UsageError("--csv, --json and --format ask for two outputs", code="bad-usage", fix="Give one of them.")
    if as_csv and by:
        raise UsageError("--csv has the rows of the convention's `summary`", code="bad-usage", fix="Leave out --by.")
    root = tree_of(context, root, directory)
    convention = convention_for(context, root)
    with Remembered(context, root, convention):
        from ckptman.cli import reached
        from ckptman.cli.rows import print_rows
        from ckptman.queries import results

        conditions = conditions_of(convention, context, where)
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
        whole = output not in (Format.TABLE, Format.MD)
        if output is Format.JSON and threshold is None and versus is None:
            print_json(found.to_json())
        elif as_csv:
            print_rows(reached.summary_rows(over), Format.CSV)
        elif threshold is not None:
            print_rows(reached.threshold_rows(over, threshold, convention), output)
            if threshold > 1 and all(0 <= value <= 1 for row in over.rows for _, value in row.values):
                warn(f"values are from 0 to 1, and none can reach {threshold:g}: 95 % is --threshold 0.95")
        elif versus is not None:
            rows = reached.versus_rows(over, versus, convention, whole=whole)
            print_rows(rows, output, over=versus)
            if len(rows) == 1 and found.rows:
                warn(f"no two rows differ in {versus} alone")
        else:
            give = () if keys else reached.said_twice(found, convention)
            print_rows(reached.rows_of(found, whole=whole), output, give=give)
        if found.rows:
            reached.tell(found, convention, is_spread_shown=threshold is None and versus is None)
        else:
            from ckptman.cli import listed

            listed.tell(found.listing.summary, conditions, found.listing.unmatched)
        raise typer.Exit(0 if found.listing.complete else 1)
