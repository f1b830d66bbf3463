"""`ckptman ls`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ckptman.cli import completing
from ckptman.cli.app import app, convention_for, print_json, warn
from ckptman.cli.options import (
    Conditions,
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
from ckptman.cli.rows import FORMATS, Format, print_rows
from ckptman.cli.tables import FOLD, NOTHING, print_table
from ckptman.cli.text import clean, console, count_text, plain, size_text
from ckptman.queries import conditions as where_conditions
from ckptman.queries import list_checkpoints
from ckptman.queries import listing as listing_of
from ckptman.rules import Convention, terms
from ckptman.text import UsageError, wording
from ckptman.tree import metrics


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
    metric: Metric = listing_of.DEFAULT_METRIC,
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
    conditions = conditions_of(convention, context, where)
    with Remembered(context, root, convention):
        as_json = output is Format.JSON and not keys
        named = metric != listing_of.DEFAULT_METRIC
        if as_json and not conditions and sort is None and limit is None and not named:
            found = listing_of.Summary(root)
            for line in listing_of.json_lines(root, convention, found):
                sys.stdout.write(line.decode("ascii"))
            _tell(found, ())
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
            _print_paths(listing, end=b"\0" if null else b"\n")
        elif output is not Format.TABLE or keys:
            keys = keys or _keys(convention, metric)
            print_rows([keys, *([item.values.get(key) for key in keys] for item in listing.checkpoints)], output)
        elif listing.checkpoints:
            _print_table(listing, convention, metric, console())
        is_shown = output is Format.TABLE and not (keys or paths or null or named)
        _tell(listing.summary, conditions, listing.unmatched, _common_lists(listing) if is_shown else None)
        raise typer.Exit(0 if listing.complete else 1)


def _keys(convention: Convention, metric: str) -> list[str]:
    """The columns of a file: what the table shows, and where the file lies."""
    facets = (facet.name for facet in convention.told_facets)
    lengths = () if convention.k_key is None else ("k",)
    measured = ("gen_em", "gen_em_lists") if metric == listing_of.DEFAULT_METRIC else (metric,)
    own = ("seed", "kind", "step", "size", *measured, "run_id")
    return list(dict.fromkeys(("path", *facets, "group", "task", *lengths, *convention.axis_titles, *own)))


def _print_table(listing: listing_of.Listing, convention: Convention, metric: str, out: Console) -> None:
    axes = tuple(convention.axis_titles)
    facets = tuple(facet for facet in convention.told_facets if any(facet.name in item.facets for item in
                                                                   listing.checkpoints))  # fmt: skip
    titles = [*(facet.title for facet in facets), *(convention.axis(axis).title for axis in axes)]
    measured = ["Gen. (run)", "Lists"] if convention.metric.share else [f"{convention.metric.title} (run)"]
    if metric != listing_of.DEFAULT_METRIC:
        measured = [metric]
    head = ["Group", "Task", *titles, "Seed", "Kind", "Step", "Size", *measured, "Run"]
    numbers = {"Task", "Seed", "Step", "Size", *measured}
    rows = [head, *(_cells(item, facets, axes, metric, convention) for item in listing.checkpoints)]
    alike = ["-Lists"] if _common_lists(listing) is not None else []  # which is told below
    alike += ["-Kind"] if len({item.row.kind for item in listing.checkpoints}) == 1 else []
    said = [f"-{convention.axis(axis).title}" for axis in reversed(axes) if _is_said_by_task(axis, listing)]
    give = ("-Run", "-Size", "-Step", FOLD, *alike, "Group", *said, "-Kind", "-Lists")
    print_table(out, rows, [index for index, title in enumerate(head) if title in numbers], give=give)


def _is_said_by_task(axis: str, listing: listing_of.Listing) -> bool:
    """Whether the number of a task tells the value of an axis."""
    tasks: dict[tuple[str, int | None], set[str]] = {}
    for item in listing.checkpoints:
        tasks.setdefault((item.row.group, item.row.task), set()).add(repr(item.config.get(axis)))
    return all(len(values) == 1 and task is not None for (_, task), values in tasks.items())


def _common_lists(listing: listing_of.Listing) -> int | None:
    """On how many lists each generalization is measured; None where they differ, or nothing is measured."""
    found = {item.generalization.known_lists for item in listing.checkpoints if item.generalization is not None}
    return found.pop() if len(found) == 1 else None


def _cells(
    item: listing_of.ListedCheckpoint,
    facets: Sequence[terms.Facet],
    axes: Sequence[str],
    metric: str,
    convention: Convention,
) -> list[str]:
    row = item.row
    values = (item.config.get(axis) for axis in axes)
    return [
        row.group,
        NOTHING if row.task is None else str(row.task),
        *(wording.value_text(item.facets[facet.name]) if facet.name in item.facets else NOTHING for facet in facets),
        *(
            NOTHING if value is None else convention.axis(axis).word(value)
            for axis, value in zip(axes, values, strict=True)
        ),
        NOTHING if row.seed is None else str(row.seed),
        row.kind,
        NOTHING if row.step is None else str(row.step),
        size_text(row.size),
        *_measured(item, metric, convention),
        row.run_id or NOTHING,
    ]


def _measured(item: listing_of.ListedCheckpoint, metric: str, convention: Convention) -> list[str]:
    if metric != listing_of.DEFAULT_METRIC:
        value = item.measures[metric]
        return [NOTHING if value is None else f"{value:.4g}"]
    found = item.generalization
    lists = [] if not convention.metric.share else [NOTHING if found is None else f"{found.lists:,}"]
    return [NOTHING if found is None else metrics.value_text(found.value, convention), *lists]


def _print_paths(listing: listing_of.Listing, *, end: bytes) -> None:
    here = Path.cwd()
    found = []
    for item in listing.checkpoints:
        path = listing.root / item.row.path
        found.append(str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path))
    if end == b"\n" and any("\n" in path for path in found):
        warn("a path holds a line break: with --null, each path ends in a zero byte instead")
    if end == b"\n" and sys.stdout.isatty():
        found = [clean(path) for path in found]
    # As bytes, since a path can hold what is no text.
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(os.fsencode(path) + end for path in found))


def _tell(
    listing: listing_of.Summary,
    conditions: Sequence[where_conditions.Where],
    unmatched: Sequence[listing_of.Unmatched] = (),
    lists: int | None = None,
) -> None:
    """Say on stderr how much that is, on how many lists each run was measured, what is left out, or why it is empty."""
    talk = console(stderr=True)
    for code, count in Counter(item.code for item in listing.not_listed).items():
        first = next(item for item in listing.not_listed if item.code == code)
        more = f" (and {count - 1:,} more like it)" if count > 1 else ""
        warn(f"not listed: {first.path}: {first.message}{more}")
    if listing.not_listed:
        talk.print(plain(f"  See: ckptman validate --root {listing.root}"))
    if listing.checkpoints:
        shown = count_text(listing.checkpoints, "checkpoint")
        if conditions or listing.checkpoints < listing.total:
            shown = f"{listing.checkpoints:,} of {count_text(listing.total, 'checkpoint')}"
        measured = f"; measured on {count_text(lists, 'list')} each" if lists is not None else ""
        talk.print(plain(f"{shown}, {count_text(listing.runs, 'run')}, {size_text(listing.size)}{measured}", "dim"))
        return
    if not listing.total:
        if any(item.code == "no-record" for item in listing.not_listed):
            command = f"ckptman ingest {wording.shell_word(listing.root)} --root NEW"
            talk.print(plain(f"nothing in {listing.root} is sorted yet; to sort it: {command}"))
        else:
            talk.print(plain(f"there is no checkpoint in {listing.root}"))
        return
    talk.print(plain(f"none of {count_text(listing.total, 'checkpoint')} fulfils every condition"))
    for item in unmatched:
        talk.print(plain(f"  none has {item.where.text}; {'; '.join(item.there_are)}"))
