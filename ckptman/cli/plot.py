"""`ckptman plot`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ckptman.cli.app import app, convention_for
from ckptman.cli.options import (
    Conditions,
    Fixed,
    GroupText,
    KText,
    Layernorm,
    Layers,
    Mlp,
    Mode,
    Root,
    SeedText,
    TaskText,
    conditions_of,
    tree_of,
)
from ckptman.cli.text import console, count_text, plain
from ckptman.documents import data, drawing
from ckptman.fs import write_atomically
from ckptman.queries import list_checkpoints
from ckptman.text import UsageError, wording
from ckptman.tree import statistics


class What(StrEnum):
    """The figures."""

    GENERALIZATION = "generalization"
    LAYERNORM = "layernorm"
    DISTRIBUTION = "distribution"
    LENGTHS = "lengths"
    TOKENS = "tokens"
    CURVES = "curves"


@app.command("plot")
def _plot(
    context: typer.Context,
    what: Annotated[
        What,
        typer.Argument(metavar="WHAT", help="generalization, layernorm, distribution, lengths, tokens or curves."),
    ],
    root: Root = None,
    n_layers: Layers = None,
    use_mlp: Mlp = None,
    longest: KText = None,
    length_mode: Mode = None,
    fixed: Fixed = None,
    layernorm: Layernorm = None,
    seed: SeedText = None,
    group: GroupText = None,
    task: TaskText = None,
    where: Conditions = None,
    metric: Annotated[
        str, typer.Option("--metric", metavar="KEY", help="Another metric; with *, the mean of all that match.")
    ] = data.GENERALIZATION,
    out: Annotated[
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
    file = Path(f"{what}.svg") if out is None else out
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
    conditions = conditions_of(
        convention, where, longest=longest, task=task, seed=seed, group=group,
        n_layers=n_layers, use_mlp=use_mlp, length_mode=length_mode, fixed=fixed, layernorm=layernorm,
    )  # fmt: skip
    listed = list_checkpoints(tree, convention=convention, where=conditions)
    chosen = {item.row.path.rpartition("/")[0] for item in listed.checkpoints}
    found = statistics.count_tree(tree.absolute(), convention)
    runs = [run for run in found.inventory.runs if str(run.folder) in chosen]
    figure = data.FIGURES[what](data.Selection.of(runs, found.convention, tree.absolute(), metric))
    if figure is None:
        raise UsageError(
            f"there is nothing to draw: in {count_text(len(runs), 'run')}, nothing of {what} is measured",
            code="nothing-measured",
            fix="Choose other runs, or another --metric; ckptman ls lists the runs, ckptman eval measures them.",
        )
    write_atomically(file, drawing.draw(figure, form), replace=False)
    table = file.with_suffix(".csv")
    write_atomically(table, figure.csv(), replace=False)
    drawn = len({row["run"] for row in figure.rows if "run" in row}) or len(runs)
    console().print(plain(f"{wording.shell_word(file)}: {figure.title}, {count_text(drawn, 'run')}"))
    console(stderr=True).print(plain(f"its table is in {wording.shell_word(table)}", "dim"))
