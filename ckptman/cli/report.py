"""`ckptman report`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ckptman.cli.app import app, convention_for
from ckptman.cli.options import Json, Numbering, Root, Tree, tree_of
from ckptman.cli.remembering import Remembered
from ckptman.text import UsageError


@app.command("report")
def _report(
    context: typer.Context,
    directory: Tree = None,
    root: Root = None,
    project: Annotated[
        Path | None,
        typer.Option(
            "--project", metavar="FILE", help="Write the task mapping of the rules alone, without a tree, to FILE."
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 where a document is stale.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show what changes, as a unified diff.")] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Also write the explorer: the whole tree in one file for a browser.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--html-file", metavar="FILE", help="Write the explorer there, and not in the tree.")
    ] = None,
    figures: Annotated[
        bool | None,
        typer.Option(
            "--figures/--no-figures",
            envvar="CKPTMAN_FIGURES",
            help="Draw the figures into the tree's folder report. [default: where matplotlib is installed]",
            show_default=False,
        ),
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Draw each figure as PNG too, besides SVG.")] = False,
    numbering: Numbering = None,
    as_json: Json = False,
) -> None:
    """Write TASK_MAPPING.md and README.md of a tree, and with --html a page to look at all of it.

    TASK_MAPPING.md is written whole. In README.md only what stands between its ckptman:begin and ckptman:end comments
    is written; where there is no README, a whole one is made. Every figure is counted from the files. The page needs no
    network; once it is there, each report brings it up to date. Beside each figure lies its
    table, as CSV.

    Example: ckptman report --html
    """
    root = tree_of(context, root, directory)
    if (html or file is not None) and project is not None:
        raise UsageError("--html and --project are two reports", code="bad-usage", fix="Give one of them.")
    rules = convention_for(context, root if project is None else project.absolute().parent, numbering)
    if project is not None:
        from ckptman.cli import written
        from ckptman.documents import report_convention

        result = report_convention(project, convention=rules, check=check)
        written.answer(context, result, None, ["--project", str(project)], as_json, diff, numbering, None)
    where = ["--root", str(root), *(["--html"] if html else []), *(["--html-file", str(file)] if file else [])]
    with Remembered(context, root, rules) if file is None else nullcontext() as answer:
        from ckptman.checks import validate
        from ckptman.cli import written
        from ckptman.documents import State, drawing, report

        result = report(
            root, convention=rules, check=check, html=file or ("" if html else None),
            find=lambda tree: validate(tree, convention=rules).findings,
            figures=drawing.is_possible() if figures is None else figures, png=png,
        )  # fmt: skip
        if answer is not None:
            answer.may_be_kept = all(document.state is not State.WRITTEN for document in result.documents)
        written.answer(context, result, root, where, as_json, diff, numbering, figures)
