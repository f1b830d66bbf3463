"""`ckptman plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptman.cli import completing
from ckptman.cli.app import app, convention_for
from ckptman.cli.options import (
    Conditions,
    GroupText,
    KText,
    Metric,
    Root,
    SeedText,
    TaskText,
    WithAxes,
    conditions_of,
    tree_of,
)
from ckptman.cli.text import console, count_text, plain
from ckptman.documents import Curves, data, drawing
from ckptman.fs import placing
from ckptman.queries import list_checkpoints, listing
from ckptman.rules import terms
from ckptman.text import UsageError, wording
from ckptman.tree import statistics


@app.command("plot", cls=WithAxes)
def _plot(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="generalization, distribution, lengths, tokens, curves; or the facet whose two values figures show.",
            autocompletion=completing.figures,
        ),
    ],
    root: Root = None,
    longest: KText = None,
    seed: SeedText = None,
    group: GroupText = None,
    task: TaskText = None,
    where: Conditions = None,
    metric: Metric = terms.DEFAULT_METRIC,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="An .svg, .png or .pdf. [default: WHAT.svg]"),
    ] = None,
) -> None:
    """Draw one figure of any selection of a tree's runs.

    Conditions and keys are those of ckptman ls. The table that is drawn is written beside the figure, as CSV. No file
    is written over.

    Example: ckptman plot generalization --no-mlp

    Example: ckptman plot curves --k 8 -o curves.png
    """
    file = Path(f"{what}.svg") if output is None else output
    form = file.suffix.removeprefix(".").lower()
    if form not in drawing.FORMATS:
        raise UsageError(
            f"{file} is of no kind that figures are drawn as",
            code="bad-format",
            fix=f"End its name in {', '.join(f'.{name}' for name in drawing.FORMATS)}.",
        )
    drawing.check_possible()
    tree = tree_of(context, root)
    convention = convention_for(context, tree)
    known = data.figures_of(convention)
    if what not in known:
        raise UsageError(
            f"there is no figure {what!r}{wording.did_you_mean(what, known)}",
            code="no-figure",
            fix=f"Figures are: {', '.join(known)}.",
        )
    said = context.get_parameter_source("metric")
    if (
        what in data.OF_ONE_METRIC
        and metric != terms.DEFAULT_METRIC
        and said is not None
        and said.name == "COMMANDLINE"
    ):
        raise UsageError(
            f"{what} shows a metric of its own, and not {metric}",
            code="bad-usage",
            fix=f"Leave out --metric, or draw another figure: {', '.join(sorted(known.keys() - data.OF_ONE_METRIC))}.",
        )
    conditions = conditions_of(convention, context, where)
    listed = list_checkpoints(tree, convention=convention, where=conditions)
    chosen = {item.row.path.rpartition("/")[0] for item in listed.checkpoints}
    found = statistics.count_tree(tree.absolute(), convention, whole=True)
    runs = [run for run in found.inventory.runs if str(run.folder) in chosen]
    curves = Curves(tree.absolute(), found.convention)
    figure = known[what](data.Selection.of(runs, found.convention, curves, metric))
    if not runs:
        raise UsageError(
            f"there is nothing to draw: no run of {tree} was chosen",
            code="nothing-measured",
            fix="Choose other runs; ckptman ls lists those that there are.",
        )
    if figure is None:
        listing.check_metrics([metric], listed.checkpoints, found.convention)
        raise UsageError(
            f"there is nothing to draw: in {count_text(len(runs), 'run')}, nothing is measured that {what} shows",
            code="nothing-measured",
            fix="Choose other runs, or another --metric; ckptman ls lists the runs, ckptman eval measures them.",
        )
    table = file.with_suffix(".csv")
    placing.write_together([(table, figure.csv()), (file, drawing.draw(figure, form))], replace=False, all_or_none=True)
    drawn = len({row["run"] for row in figure.rows if "run" in row}) or len(runs)
    console().print(plain(f"{wording.shell_word(file)}: {figure.title}, {count_text(drawn, 'run')}"))
    console(stderr=True).print(plain(f"its table is in {wording.shell_word(table)}", "dim"))
