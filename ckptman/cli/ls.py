"""`ckptman ls`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer

from ckptman.cli import completing
from ckptman.cli.app import app, convention_for, print_json
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
from ckptman.cli.text import console
from ckptman.rules import terms
from ckptman.text import UsageError


@app.command("ls", cls=WithAxes)
def _ls(
    context: typer.Context,
    directory: Tree = None,
    root: Root = None,
    longest: KText = None,
    seed: SeedText = None,
    group: GroupText = None,
    task: TaskText = None,
    final: Annotated[
        bool | None,
        typer.Option(
            "--final/--not-final", help="Of the end of training, or on the way.", rich_help_panel="Which runs"
        ),
    ] = None,
    where: Conditions = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            metavar="KEY",
            help="Sort by a key; -KEY puts the largest first.",
            autocompletion=completing.keys,
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns", metavar="KEY,…", help="Show these keys, as they are.", autocompletion=completing.keys
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="List the first N of them alone.")
    ] = None,
    metric: Metric = terms.DEFAULT_METRIC,
    output: Annotated[Format, typer.Option("--format", metavar="FORMAT", help=FORMATS)] = Format.TABLE,
    paths: Annotated[bool, typer.Option("--paths", help="Print bare paths, one a line.")] = False,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Print bare paths, each ended by a zero byte, as for xargs -0.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the checkpoints of a tree.

    A condition compares a key with a value by ==, !=, <, <=, >, >=; conditions are joined by and, or, not, and
    parentheses. Keys are those of the configuration (n_layers), of the run's metrics (gen/K17/exact_match_acc), and of
    a checkpoint itself: path, size, group, task, source_task, seed, run_id, kind, step, final, k, each facet of the
    convention (regime), gen_em, the run's generalization from 0 to 1, and gen_em_lists, on how many lists it is
    measured. A value that was not measured fulfils no comparison; KEY is missing asks for it.

    Example: ckptman ls --columns n_layers,seed,gen_em --format csv

    Example: ckptman ls --final --where "gen_em >= 0.95 and n_layers == 1" --sort -gen_em
    """
    output = Format.JSON if as_json and output is Format.TABLE else output
    if sum((as_json or output is not Format.TABLE, paths or null)) > 1 or (as_json and output is not Format.JSON):
        raise UsageError("--json, --format and --paths ask for two outputs", code="bad-usage", fix="Give one of them.")
    if (paths or null) and columns:
        raise UsageError("--paths has no columns", code="bad-usage", fix="Leave out --columns, or --paths.")
    keys = [key for text in columns or () for key in text.split(",")]
    root = tree_of(context, root, directory)
    convention = convention_for(context, root)
    with Remembered(context, root, convention):
        from ckptman.cli import listed
        from ckptman.cli.rows import print_rows
        from ckptman.queries import conditions as where_conditions
        from ckptman.queries import list_checkpoints
        from ckptman.queries import listing as listing_of

        conditions = conditions_of(convention, context, where)
        as_json = output is Format.JSON and not keys
        named = metric != terms.DEFAULT_METRIC
        if as_json and not conditions and sort is None and limit is None and not named:
            found = listing_of.Summary(root)
            for line in listing_of.json_lines(root, convention, found):
                sys.stdout.write(line.decode("ascii"))
            listed.tell(found, ())
            raise typer.Exit(0 if found.complete else 1)
        listing = list_checkpoints(
            root, convention=convention, where=conditions, sort=sort, metrics=[metric] if named else []
        )
        for key in keys:
            where_conditions.check_key(
                key, (item.values for item in listing.checkpoints), listing_of.known_keys(convention)
            )
        listing = replace(listing, checkpoints=listing.checkpoints[:limit])
        if as_json:
            print_json(listing.to_json())
        elif paths or null:
            listed.print_paths(listing, end=b"\0" if null else b"\n")
        elif output is not Format.TABLE or keys:
            keys = keys or listed.keys_of(convention, metric)
            print_rows([keys, *([item.values.get(key) for key in keys] for item in listing.checkpoints)], output)
        elif listing.checkpoints:
            listed.show(listing, convention, metric, console())
        is_shown = output is Format.TABLE and not (keys or paths or null or named)
        listed.tell(listing.summary, conditions, listing.unmatched, listed.common_lists(listing) if is_shown else None)
        raise typer.Exit(0 if listing.complete else 1)
