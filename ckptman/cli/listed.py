"""The checkpoints of a tree on a terminal, as `ckptman ls` lists them."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ckptman.cli.app import warn
from ckptman.cli.tables import FOLD, NOTHING, print_table
from ckptman.cli.text import clean, console, count_text, plain, size_text
from ckptman.queries import conditions as where_conditions
from ckptman.queries import listing as listing_of
from ckptman.rules import Convention, terms
from ckptman.text import wording
from ckptman.tree import metrics


def keys_of(convention: Convention, metric: str) -> list[str]:
    """The columns of a file: what the table shows, and where the file lies."""
    facets = (facet.name for facet in convention.told_facets)
    lengths = () if convention.k_key is None else ("k",)
    measured = ("gen_em", "gen_em_lists") if metric == terms.DEFAULT_METRIC else (metric,)
    own = ("seed", "kind", "step", "size", *measured, "run_id")
    return list(dict.fromkeys(("path", *facets, "group", "task", *lengths, *convention.axis_titles, *own)))


def show(listing: listing_of.Listing, convention: Convention, metric: str, out: Console) -> None:
    """Print a table of the checkpoints."""
    axes = tuple(convention.axis_titles)
    facets = tuple(facet for facet in convention.told_facets if any(facet.name in item.facets for item in
                                                                   listing.checkpoints))  # fmt: skip
    titles = [*(facet.title for facet in facets), *(convention.axis(axis).title for axis in axes)]
    measured = ["Gen. (run)", "Lists"] if convention.metric.is_of_lists else [f"{convention.metric.title} (run)"]
    if metric != terms.DEFAULT_METRIC:
        measured = [metric]
    head = ["Group", "Task", *titles, "Seed", "Kind", "Step", "Size", *measured, "Run"]
    numbers = {"Task", "Seed", "Step", "Size", *measured}
    rows = [head, *(_cells(item, facets, axes, metric, convention) for item in listing.checkpoints)]
    alike = ["-Lists"] if common_lists(listing) is not None else []  # which is told below
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


def common_lists(listing: listing_of.Listing) -> int | None:
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
    if metric != terms.DEFAULT_METRIC:
        value = item.measures[metric]
        return [NOTHING if value is None else f"{value:.4g}"]
    found = item.generalization
    lists = [] if not convention.metric.is_of_lists else [NOTHING if found is None else f"{found.lists:,}"]
    return [NOTHING if found is None else metrics.value_text(found.value, convention), *lists]


def print_paths(listing: listing_of.Listing, *, end: bytes) -> None:
    """Print bare paths, each with this end."""
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


_GONE = ("missing-file", "dangling-link")
"""Codes of what is not listed since it is not there."""


def tell(
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
        elif all(item.code in _GONE for item in listing.not_listed):
            talk.print(plain(f"there is no checkpoint in {listing.root}"))
        else:
            talk.print(plain(f"no checkpoint in {listing.root} can be listed"))
        return
    talk.print(plain(f"none of {count_text(listing.total, 'checkpoint')} fulfils every condition"))
    for item in unmatched:
        talk.print(plain(f"  none has {item.where.text}; {'; '.join(item.there_are)}"))
