"""`ckptman validate`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptman.cli import completing
from ckptman.cli.app import app, convention_for, next_step, print_json
from ckptman.cli.options import Json, Numbering, Root, Tree, Verbose, tree_of
from ckptman.cli.remembering import Remembered
from ckptman.cli.text import console
from ckptman.text import UsageError, wording

if TYPE_CHECKING:  # imported where they are used: an answer that is known needs none of them
    from ckptman.checks import Testimony, ValidationResult
    from ckptman.cli.progress import StageProgress


class Format(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    """As annotations of a GitHub Actions workflow."""


@app.command("validate")
def _validate(
    context: typer.Context,
    directory: Tree = None,
    root: Root = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, and compare it with run.json.")] = False,
    witness: Annotated[
        bool, typer.Option("--witness", help="Ask the weights for their seed and run: see ckptman witness.")
    ] = False,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select",
            envvar="CKPTMAN_SELECT",
            metavar="CODE",
            help="Report only this code, or codes that begin so; all, default; may be repeated.",
            autocompletion=completing.codes,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            envvar="CKPTMAN_IGNORE",
            metavar="CODE",
            help="Leave out this code, or codes that begin so; may be repeated.",
            autocompletion=completing.codes,
        ),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="CODE",
            help="Tell what a code means, and exit; list names all.",
            autocompletion=completing.explained,
        ),
    ] = None,
    output_format: Annotated[
        Format, typer.Option("--format", help="text, json, or github for annotations in a workflow.")
    ] = Format.TEXT,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Put right what is known and safe: names, places, copies."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --fix: only print what it would do.")] = False,
    numbering: Numbering = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Check a tree: names, places, run.json, shapes, steps, seeds, strays.

    Of each checkpoint only the header is read; --deep and --witness read every byte. Nothing is changed, but by --fix,
    which deletes no byte and replaces nothing: files and folders are renamed, moved, or, where they are copies, put
    into the folder .ckptman-trash of the tree; then all is checked again. Trees that ckptman did not sort can be
    checked as well. The exit status is 0 for a clean tree, and 1 where anything is found.

    Example: ckptman validate --root checkpoints --ignore missing-seed
    """
    if as_json and output_format is Format.GITHUB:
        raise UsageError("--json and --format github exclude each other", code="two-formats", fix="Give one of them.")
    as_json = as_json or output_format is Format.JSON
    if explain is not None:
        from ckptman.cli import found

        raise typer.Exit(found.explain(explain, as_json=as_json))
    root = tree_of(context, root, directory)
    convention = convention_for(context, root, numbering)

    def stale_documents(tree: Path) -> Iterable[str]:
        from ckptman.documents import stale

        return stale(tree, convention)

    def asked_weights(files: Sequence[Path], seeds: Iterable[int]) -> Iterable[Testimony]:
        from ckptman.training import witnessing

        return witnessing.witness(files, seeds=seeds, convention=convention).files

    def check() -> ValidationResult:
        from ckptman.checks import validate

        with _progress() as progress:
            return validate(
                root,
                convention=convention,
                deep=deep or fix,  # what is moved or put away is known by its bytes
                select=_codes(select),
                ignore=_codes(ignore),
                progress=progress,
                stale_documents=stale_documents,
                witness=asked_weights if witness else None,
            )

    if dry_run and not fix:
        raise UsageError("--dry-run goes with --fix", code="bad-usage", fix="Validate alone changes nothing.")
    reads_headers = not (deep or fix or witness)
    with Remembered(context, root, convention) if reads_headers else nullcontext():
        from ckptman.cli import found
        from ckptman.fs import locks
        from ckptman.tree import records

        # What is mended is what was found: no other ckptman writes in between.
        with locks.lock_tree(root) if fix and root.is_dir() else nullcontext():
            result, steps = check(), None
            if fix:
                from ckptman.checks import mending

                records.require_no_migration(root)
                steps = mending.plan_mending(result)
                if steps and not dry_run:
                    steps = mending.mend(root, steps)
                    result = check()
        if as_json:
            done = {} if steps is None else {"fixes": [step.to_json() for step in steps], "dry_run": dry_run}
            print_json({**result.to_json(), **done})
        elif output_format is Format.GITHUB:
            found.show_annotations(result, root, console())
        else:
            if steps is not None:
                found.show_steps(steps, console(), dry_run=dry_run)
            found.show(result, console(), limited=bool(_codes(select) or _codes(ignore)))
            if not result.findings:
                next_step(f"ckptman report {wording.shell_word(root)}")
        raise typer.Exit(result.exit_status)


def _progress() -> AbstractContextManager[StageProgress | None]:
    """Bars, where somebody can see them."""
    if not sys.stderr.isatty():
        return nullcontext()
    from ckptman.cli.progress import StageProgress

    return StageProgress()


def _codes(values: Iterable[str] | None) -> tuple[str, ...]:
    """Codes as options give them, where one value may also hold several, with commas between them."""
    parts = (part.strip() for value in values or () for part in value.split(","))
    return tuple(part for part in parts if part)
