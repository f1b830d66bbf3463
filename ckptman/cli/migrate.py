"""`ckptman migrate`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated

import typer
from rich.console import Console

from ckptman.cli import asking
from ckptman.cli.app import app, convention_for, next_step, print_json
from ckptman.cli.options import Json, Numbering, Root, Tree, Verbose, tree_of
from ckptman.cli.progress import StageProgress
from ckptman.cli.text import console, count_text, named, plain
from ckptman.ingestion import MigrateResult, journals, migrate
from ckptman.text import UsageError, wording

_MOST_LINES = 10
"""Moves that are shown, unless all are asked for."""


@app.command("migrate")
def _migrate(
    context: typer.Context,
    directory: Tree = None,
    root: Root = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last migration back.")] = False,
    numbering: Numbering = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Bring a tree to what its convention says now: places, names and run.json.

    For when the convention changed: a level, a group, a name's field, the numbering. Nothing but renames is done, all
    or none: where a run has no place, or two things would have one, nothing moves. An interrupted migration goes on
    when it is called again. Where each file was is kept in the tree; --undo brings it back there, its run.json too.

    Example: ckptman migrate checkpoints --dry-run
    """
    tree = tree_of(context, root, directory)
    rules = convention_for(context, tree, numbering)
    planned = migrate(tree, convention=rules, undo=undo, dry_run=True)
    asks = not (yes or dry_run or planned.problems) and bool(planned.runs)
    if asks:
        if not as_json:
            _show(planned)
        _ask(planned)
    if not (dry_run or planned.problems) and planned.runs:
        with StageProgress() as progress:
            planned = migrate(
                tree, convention=rules, undo=undo, progress=lambda done, total: progress("moving", done, total)
            )
    if as_json:
        print_json(planned.to_json())
    else:
        _show(planned, whole=not asks)
        if planned.runs and not (dry_run or planned.problems):
            next_step(f"ckptman report {wording.shell_word(tree)}")
    raise typer.Exit(1 if planned.problems else 0)


def _ask(planned: MigrateResult) -> None:
    """Ask before anything moves.

    Raises:
        UsageError: (`needs-yes`) where nobody is there to answer.
        Exit: where the answer is no.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"nothing is moved: {count_text(len(planned.runs), 'run')} would be",
            code="needs-yes",
            fix="Look at the plan with --dry-run; then add --yes.",
        )
    what = "Take them back?" if planned.undo else "Migrate them?"
    asking.confirm(f"{count_text(len(planned.runs), 'run')}. {what}", "nothing is moved")


def _show(result: MigrateResult, *, whole: bool = True) -> None:
    """Print a plan or a result; without `whole`, only what the plan did not say."""
    out = console()
    if result.problems:
        out.print(plain("nothing is moved: the convention has no place for all runs", "bold red"))
        shown = named(result.problems, _MOST_LINES)
        for item in shown:
            out.print(plain(f"  {item.code}  {item.path}: {item.message}"))
            out.print(plain(f"    Fix: {item.fix}", "dim"))
        if len(result.problems) > len(shown):
            out.print(
                plain(f"  … and {len(result.problems) - len(shown):,} more (--verbose names all, --json too)", "dim")
            )
        return
    if not result.runs:
        none = f"no sorted run is in {result.root}: there is nothing to migrate"
        out.print(plain(f"{count_text(result.staying, 'run')}: all as the convention says" if result.staying else none))
        return
    would = "to " if result.dry_run else ""
    what = "back" if result.undo else "on, which was interrupted" if result.resumed else ""
    done = " ".join(filter(None, (f"{count_text(len(result.runs), 'run')} {would}migrate{'' if would else 'd'}", what)))
    out.print(plain(f"{done}: {len(result.moves):,} to another folder, {len(result.renamed):,} files renamed", "bold"))
    if whole:
        _moves(out, result.moves)
        renamed = [f"{PurePosixPath(item.old).name} → {PurePosixPath(item.new).name}" for item in result.renamed]
        _lines(out, list(dict.fromkeys(renamed)))
        if result.staying:
            out.print(plain(f"{count_text(result.staying, 'run')} as they are"))
        if result.left:
            out.print(plain(f"{count_text(len(result.left), 'file')} of no run stay where they are", "yellow"))
            _lines(out, list(result.left))
    if result.map is not None:
        out.print(plain(f"Old and new paths: {result.root / result.map}", "dim"))


def _moves(out: Console, moves: Sequence[journals.Moved]) -> None:
    """Where folders go, below the folder that the old and the new place share."""
    above = ""
    shown = named(moves, _MOST_LINES)
    for item in shown:
        shared = os.path.commonpath([os.path.dirname(item.old), os.path.dirname(item.new)])  # noqa: PTH120
        if not f"{shared}/".startswith(f"{above}/"):
            above = shared
            out.print(plain(f"  {above}/"))
        old, new = (os.path.relpath(path, above or ".") for path in (item.old, item.new))
        out.print(plain(f"    {old} → {new}"))
    if len(moves) > len(shown):
        _more(out, len(moves) - len(shown))


def _lines(out: Console, lines: Sequence[str]) -> None:
    shown = named(lines, _MOST_LINES)
    for line in shown:
        out.print(plain(f"  {line}"))
    if len(lines) > len(shown):
        _more(out, len(lines) - len(shown))


def _more(out: Console, count: int) -> None:
    out.print(plain(f"  … and {count:,} more (--verbose names all, --json too)", "dim"))
