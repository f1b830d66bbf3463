"""`ckptman results`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from ckptman.cli import completing
from ckptman.cli.app import app, convention_for, print_json, warn
from ckptman.cli.options import (
    Conditions,
    GroupText,
    Json,
    KText,
    Layers,
    Mlp,
    Mode,
    Root,
    SeedText,
    TaskText,
    Tree,
    WithFacets,
    conditions_of,
    tree_of,
)
from ckptman.cli.remembering import Remembered
from ckptman.cli.tables import NOTHING, print_table, value_text
from ckptman.cli.text import console, count_text, plain
from ckptman.queries import Results, over_seeds, results
from ckptman.rules import Convention
from ckptman.text import UsageError, json_text, markdown
from ckptman.tree import records


class Format(StrEnum):
    """How the rows are written."""

    TABLE = "table"
    CSV = "csv"
    TSV = "tsv"
    MD = "md"
    JSON = "json"


Rows = list[list[Any]]
"""A head, and a row for each configuration; figures as numbers, None where there is none."""


@app.command("results", cls=WithFacets)
def _results(
    context: typer.Context,
    directory: Tree = None,
    root: Root = None,
    n_layers: Layers = None,
    use_mlp: Mlp = None,
    longest: KText = None,
    length_mode: Mode = None,
    seed: SeedText = None,
    group: GroupText = None,
    task: TaskText = None,
    where: Conditions = None,
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            metavar="KEY",
            help="A metric of the runs; with *, the mean of all that match.",
            autocompletion=completing.keys,
        ),
    ] = over_seeds.DEFAULT_METRIC,
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
    output: Annotated[Format, typer.Option("--format", metavar="FORMAT", help="table, csv, tsv, md or json.")] = (
        Format.TABLE
    ),
    as_csv: Annotated[
        bool,
        typer.Option("--csv", help="The lab's summary.csv: its columns, its deviation (of the population)."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what each configuration reached: mean and deviation over its seeds.

    Each run of the tree counts once. Conditions and keys are those of ckptman ls.

    Example: ckptman results --no-mlp --layers 1

    Example: ckptman results --metric gen/K32/exact_match_acc --by n_layers,use_mlp

    Example: ckptman results --threshold 0.95

    Example: ckptman results --versus use_mlp
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
        found = results(
            root,
            convention=convention,
            where=conditions,
            metric=metric,
            by=keys,
            population=as_csv or (convention.statistics == "population" if population is None else population),
        )
        output = Format.JSON if as_json else Format.CSV if as_csv else output
        if output is Format.JSON and threshold is None and versus is None:
            print_json(found.to_json())
        elif as_csv:
            _print(_lab_rows(found), Format.CSV)
        elif threshold is not None:
            _print(_threshold_rows(found, threshold, convention), output)
        elif versus is not None:
            _print(_versus_rows(found, versus, convention), output)
        else:
            _print(_rows(found), output)
        _tell(found)
        raise typer.Exit(0 if found.listing.complete else 1)


def _rows(found: Results) -> Rows:
    head = [*found.by, "mean", "deviation", "n"]
    return [head, *([*row.settings.values(), row.mean, row.deviation, row.runs] for row in found.rows)]


def _threshold_rows(found: Results, least: float, convention: Convention) -> Rows:
    rows = over_seeds.thresholds(found, least, convention)
    keys = list(rows[0].settings) if rows else []
    measured = [[*row.settings.values(), row.smallest, " ".join(map(str, row.measured))] for row in rows]
    return [[*keys, f"smallest K with mean ≥ {least:g}", "K measured"], *measured]


def _versus_rows(found: Results, key: str, convention: Convention) -> Rows:
    rows = over_seeds.differences(found, key, convention)
    if not rows:
        return [[key]]
    values = sorted({value for row in rows for value in row.means}, key=str)
    head = [*rows[0].settings, *(f"{key} {value_text(value)}" for value in values), "difference"]
    means = [[row.means[value].mean if value in row.means else None for value in values] for row in rows]
    return [head, *([*row.settings.values(), *mean, row.difference] for row, mean in zip(rows, means, strict=True))]


def _lab_rows(found: Results) -> Rows:
    """The rows of the lab's summary.csv."""
    head = ["n_layers", "use_mlp", "use_layernorm", "length_mode", "training", "train_max_k",
            "mean_gen_em", "std_gen_em", "n_runs"]  # fmt: skip
    rows = []
    for row in found.rows:
        said: Mapping[str, Any] = row.settings
        regime = said.get("regime")
        mode = "fixed" if regime == "fixed" else said.get("length_mode")
        rows.append([said.get("n_layers"), said.get("use_mlp"), said.get("layernorm"), mode, regime,
                     said.get("train_max_k"), row.mean, row.deviation, row.runs])  # fmt: skip
    return [head, *rows]


def _print(rows: Rows, output: Format) -> None:
    head, *body = rows
    if output is Format.JSON:
        print_json(
            {
                "schema_version": records.SCHEMA_VERSION,
                "rows": [json_text.jsonable(dict(zip(head, row, strict=True))) for row in body],
            }
        )
    elif output in (Format.CSV, Format.TSV):
        text = io.StringIO()
        writer = csv.writer(text, delimiter="," if output is Format.CSV else "\t", lineterminator="\n")
        writer.writerows([head, *body])
        sys.stdout.write(text.getvalue())
    elif output is Format.MD:
        sys.stdout.write(markdown.table(head, [[markdown.text(_cell(cell)) for cell in row] for row in body]) + "\n")
    elif body:
        numbers = [index for index in range(len(head)) if any(_is_number(row[index]) for row in body)]
        print_table(console(), [_shown(head), *([_cell(cell) for cell in row] for row in body)], numbers)


def _shown(head: Sequence[str]) -> list[str]:
    return [str(cell) for cell in head]


def _cell(value: Any) -> str:
    return NOTHING if value is None else f"{value:.4f}" if isinstance(value, float) else value_text(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tell(found: Results) -> None:
    """Say on stderr over how many runs the rows are, and what they leave out."""
    talk = console(stderr=True)
    for item in found.listing.not_listed[:3]:
        warn(f"not counted: {item.path}: {item.message}")
    if len(found.listing.not_listed) > 3:
        warn(f"and {len(found.listing.not_listed) - 3:,} more: ckptman validate --root {found.root}")
    measured = sum(row.runs for row in found.rows)
    unmeasured = sum(row.unmeasured for row in found.rows)
    kind = "population" if found.population else "sample"
    rest = f"; in {count_text(unmeasured, 'further run')} it was not measured" if unmeasured else ""
    talk.print(plain(f"{found.metric} over {count_text(measured, 'run')}, deviation of the {kind}{rest}", "dim"))
