"""`ckptman report`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from ckptman.checks import validate
from ckptman.cli.app import app, convention_for, next_step, print_json, warn
from ckptman.cli.options import Json, Numbering, Root, Tree, tree_of
from ckptman.cli.remembering import Remembered
from ckptman.cli.text import clean, console, count_text, plain
from ckptman.documents import ReportResult, State, drawing, report, report_convention
from ckptman.text import UsageError, wording

_STYLES = {State.WRITTEN: "green", State.UNCHANGED: "", State.STALE: "yellow", State.REFUSED: "bold red"}


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
        result = report_convention(project, convention=rules, check=check)
        _answer(context, result, None, ["--project", str(project)], as_json, diff, numbering, None)
    possible = drawing.is_possible()
    where = ["--root", str(root), *(["--html"] if html else []), *(["--html-file", str(file)] if file else [])]
    with Remembered(context, root, rules, possible) if file is None else nullcontext() as answer:
        result = report(
            root, convention=rules, check=check, html=file or ("" if html else None),
            find=lambda tree: validate(tree, convention=rules).findings,
            figures=possible if figures is None else figures, png=png,
        )  # fmt: skip
        if answer is not None:
            answer.may_be_kept = all(document.state is not State.WRITTEN for document in result.documents)
        _answer(context, result, root, where, as_json, diff, numbering, figures)


def _answer(
    context: typer.Context,
    result: ReportResult,
    root: Path | None,
    where: list[str],
    as_json: bool,
    diff: bool,
    numbering: str | None,
    figures: bool | None,
) -> NoReturn:
    """Tell what was written, and end the command."""
    if as_json:
        print_json(result.to_json())
    else:
        _show(result, console(), diff=diff)
    if result.check and any(document.state is State.STALE for document in result.documents):
        options = where + (["--numbering", numbering] if numbering else [])
        config = ["--config", str(context.obj)] if context.obj else []
        talk = plain("Bring it up to date with: ") + plain(
            wording.shell_command(["ckptman", *config, "report", *options]), "bold"
        )
        console(stderr=True).print(talk)
    elif root is not None and not result.check and not as_json:
        if page := _page(result, root, asked="--html" in where or "--html-file" in where):
            next_step(f"open {wording.shell_word(page)} in a browser")
        next_step(f"ckptman results {wording.shell_word(root)}")
    if root is not None and figures is None and not drawing.is_possible() and not as_json:
        said = plain("No figures are drawn: install matplotlib for them (pip install matplotlib).", "dim")
        console(stderr=True).print(said)
    unread = result.statistics.unreadable if result.statistics is not None else ()
    if unread and root is not None:
        more = f" and {len(unread) - 1:,} more" if len(unread) > 1 else ""
        warn(
            f"what is in {result.root / unread[0]}{more} is not counted: it cannot be read. ckptman validate says why."
        )
    raise typer.Exit(1 if result.stale or unread else 0)


def _page(result: ReportResult, root: Path, *, asked: bool) -> Path | None:
    """The explorer that was asked for, if it is there."""
    pages = [
        item.name
        for item in result.documents
        if item.is_page and not item.name.endswith(".svg") and item.state is not State.REFUSED
    ]
    return root / pages[0] if asked and pages else None


def _show(result: ReportResult, out: Console, *, diff: bool) -> None:
    for document in result.documents:
        out.print(plain(document.state.value, _STYLES[document.state]) + plain(f"  {result.root / document.name}"))
        if document.kept_as is not None:
            out.print(plain(f"  the file that was there was not written by ckptman: it is kept as {document.kept_as}"))
        if document.refusal is not None:
            out.print(plain(f"  {document.refusal.message} [{document.refusal.code}] {document.refusal.fix}"))
        if diff:
            for line in document.diff().splitlines():
                out.print(plain(clean(line), _diff_style(line)), soft_wrap=True)
    if any(document.name.endswith(".svg") for document in result.documents) and not result.check:
        out.print(plain("Beside each .svg lies its table as .csv, and with --png the same image as .png.", "dim"))
    found = result.statistics
    if found is not None:
        out.print(
            plain(f"{count_text(found.file_count, 'checkpoint')}, {count_text(len(found.finished), 'run')}, ")
            + plain(f"{count_text(len(found.configurations), 'configuration')}, ")
            + plain(f"{count_text(len(found.lost), 'overwritten run')}")
        )


def _diff_style(line: str) -> str:
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
