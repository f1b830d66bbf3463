"""`ckptman status`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ckptman.cli.app import app, convention_for
from ckptman.cli.options import (
    DEFAULT_OUT,
    GroupText,
    Json,
    KText,
    Numbering,
    Root,
    SeedText,
    TaskText,
    WithFacetLists,
    raw_folder,
    selection_of,
    tree_of,
    tree_there,
    warn_of_no_tree,
)
from ckptman.cli.remembering import Remembered
from ckptman.rules import selection
from ckptman.text import UsageError


@app.command("status", cls=WithFacetLists)
def _status(
    context: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="A tree, as with --root, or raw outputs, as with --out.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            envvar="CKPTMAN_OUT",
            metavar="DIR",
            parser=raw_folder,
            help=f"Raw outputs. [default: {DEFAULT_OUT}, if it is there]",
        ),
    ] = None,
    root: Root = None,
    k: KText = None,
    task: TaskText = None,
    seed: SeedText = None,
    group: GroupText = None,
    numbering: Numbering = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Print the commands that train what is missing, and nothing else.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Renew the map on the terminal, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often --watch does.")] = 5.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every run that is not complete.")] = False,
    as_json: Json = False,
) -> None:
    """Show where the whole grid stands.

    Each cell of the map is a configuration, with a sign for each of its seeds: complete, running, refused (a file of it
    is there, and cannot be used), failed, partial (it has no end yet), overwritten or missing. What is known comes from
    the raw outputs, the tree, or both. Exit status 1 means that runs have failed, or that files could not be used.

    Example: ckptman status --k 8 --regime fixed

    Example: ckptman status --k 8 --missing
    """
    if missing and as_json:
        raise UsageError("--json and --missing are two outputs", code="bad-usage", fix="Give one of them.")
    if watch and (missing or as_json):
        raise UsageError("--watch is for the map", code="bad-usage", fix="Leave out --missing and --json.")
    if watch and not sys.stdout.isatty():
        raise UsageError(
            "--watch renews a terminal, and the output is none",
            code="not-a-terminal",
            fix="Leave it out, or repeat ckptman status --json.",
        )
    raw, tree = _places(context, directory, out, root)
    if missing and raw is None and tree is None:
        raise UsageError(
            f"there is neither {DEFAULT_OUT} nor a tree here, so nothing is known of any run",
            code="nothing-here",
            fix="Name them with --out and --root; ckptman sweep --dry-run plans a grid of which nothing is trained.",
        )
    if raw is not None:  # of a tree alone it is an error
        warn_of_no_tree(tree)
    convention = convention_for(context, tree or raw or Path.cwd(), numbering)
    asked = selection_of(convention, context, k=k, task=task, seed=seed, group=group)
    with (
        Remembered(context, tree, convention, absent=[DEFAULT_OUT])
        if raw is None and tree is not None and not watch
        else nullcontext()
    ):
        from ckptman.cli import grid_map
        from ckptman.sweeps import grid_status

        look = partial(grid_status.status, raw, tree, selection=asked, convention=convention)
        if watch:
            grid_map.watch(look, every, verbose)
            raise typer.Exit
        found = look()
        flags = grid_map.where_flags(out, numbering, context.obj) if missing else []
        is_part = asked != selection.Selection()
        grid_map.answer(found, as_json=as_json, missing=missing, verbose=verbose, flags=flags, is_part=is_part)


def _places(
    context: typer.Context, directory: Path | None, out: Path | None, root: Path | None
) -> tuple[Path | None, Path | None]:
    """The raw outputs and the tree that are meant: those named, or else those that are here; None for what is not."""
    if directory is not None:
        from ckptman.tree import roots

        if roots.is_tree_root(directory, convention_for(context, directory)):
            return out, tree_of(context, root, directory)
        if out not in (None, directory):
            raise UsageError(
                f"two folders of raw outputs are named, {directory} and {out}",
                code="bad-usage",
                fix="Name one of them.",
            )
        return directory, root
    raw = Path(DEFAULT_OUT) if out is None and Path(DEFAULT_OUT).is_dir() else out
    return raw, tree_there(context, root)
