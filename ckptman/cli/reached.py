"""What the configurations of a tree reached, as rows for `ckptman results`, and what is told beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptman.cli.app import warn
from ckptman.cli.rows import Rows
from ckptman.cli.text import console, count_text, plain
from ckptman.queries import Results, over_seeds
from ckptman.rules import Convention, terms
from ckptman.text import wording


def rows_of(found: Results, *, whole: bool) -> Rows:
    """A row for each configuration; without `whole`, one run has no deviation, which is 0 in a population of one."""

    def reached(row: over_seeds.Result) -> list[Any]:
        return [row.mean, row.deviation if whole or row.runs > 1 else None, row.runs]

    head = [*found.by, "mean", "deviation", "n"]
    rows = [[*row.settings.values(), *reached(row)] for row in found.rows]
    if any(row.logged for row in found.rows):
        head += ["mean (all)", "dev. (all)", "n (all)"]
        rows = [[*row, *reached(of.over_all)] for row, of in zip(rows, found.rows, strict=True)]
    return [head, *rows]


def said_twice(found: Results, convention: Convention) -> list[str]:
    """What gives way in a narrow table: a group's name says its facets and K, and a task's number its axes."""
    if not {"group", "task"} <= set(found.by):
        return []
    of_groups = [*(facet.name for facet in convention.told_facets), *filter(None, [convention.k_key])]
    tasks: dict[tuple[str, str], set[str]] = {}
    for row in found.rows:
        for key, value in row.settings.items():
            tasks.setdefault((key, f"{row.settings['group']} {row.settings['task']}"), set()).add(repr(value))
    apart = {key for (key, _), values in tasks.items() if len(values) > 1}  # what a task's number does not say
    of_tasks = [key for key in reversed(found.by) if key not in (*of_groups, *apart, "group", "task")]
    return [*(f"-{key}" for key in of_groups), "group", *(f"-{key}" for key in of_tasks)]


def threshold_rows(found: Results, least: float, convention: Convention) -> Rows:
    """A row for each configuration but for K: the smallest K whose mean reaches `least`."""
    rows = over_seeds.thresholds(found, least, convention)
    keys = list(rows[0].settings) if rows else []
    measured = [[*row.settings.values(), row.smallest, " ".join(map(str, row.measured))] for row in rows]
    return [[*keys, f"smallest K with mean ≥ {least:g}", "K measured"], *measured]


def versus_rows(found: Results, key: str, convention: Convention, *, whole: bool) -> Rows:
    """Means side by side, and the difference; with `whole`, deviation and n of each mean too."""
    rows = over_seeds.differences(found, key, convention)
    if not rows:
        return [[key]]
    values = sorted({value for row in rows for value in row.means}, key=str)
    columns = [f"{key} {wording.value_text(value)}" for value in values]
    more = [f"{column} {name}" for column in columns for name in ("deviation", "n")] if whole else []
    table = []
    for row in rows:
        each = [row.means.get(value) for value in values]
        rest = [part for one in each for part in ((one.deviation, one.runs) if one else (None, 0))] if whole else []
        table.append([*row.settings.values(), *(one.mean if one else None for one in each), row.difference, *rest])
    return [[*rows[0].settings, *columns, "difference", *more], *table]


def summary_rows(found: Results) -> Rows:
    """The rows of the lab's summary.csv."""
    head = [*found.by, "mean_gen_em", "std_gen_em", "n_runs"]
    return [head, *([*row.settings.values(), row.mean, row.deviation, row.runs] for row in found.rows)]


def tell(found: Results, convention: Convention, *, is_spread_shown: bool) -> None:
    """Say on stderr over how many runs the rows are, what their deviation is, and what they leave out."""
    talk = console(stderr=True)
    for item in found.listing.not_listed[:3]:
        warn(f"not counted: {item.path}: {item.message}")
    if len(found.listing.not_listed) > 3:
        warn(f"and {len(found.listing.not_listed) - 3:,} more: ckptman validate --root {found.root}")
    measured = sum(row.runs for row in found.rows)
    unmeasured = sum(row.unmeasured for row in found.rows)
    kind = "population" if found.population else "sample"
    pooled = sorted({key for row in found.rows for key in row.pooled})
    if pooled:
        warn(f"rows are over configurations that differ in what is no column: {', '.join(pooled)}")
    if logged := [run for row in found.rows for run in row.logged]:
        _tell_of_all(logged)
    rest = f"; in {count_text(unmeasured, 'further run')} it was not measured" if unmeasured else ""
    numbers = sorted({row.runs for row in found.rows if row.runs})
    each = f"{numbers[0]:,} to {numbers[-1]:,}" if len(numbers) > 1 else f"{numbers[0]:,}" if numbers else "none"
    said = f"deviation of the {kind}" if is_spread_shown else f"{each} for each mean"
    is_other = found.metric == terms.DEFAULT_METRIC and not convention.metric.is_exact_match
    metric = convention.metric.title if is_other else found.metric
    talk.print(plain(f"{metric} over {count_text(measured, 'run')}, {said}{rest}", "dim"))


def _tell_of_all(logged: Sequence[over_seeds.LoggedRun]) -> None:
    """Say on stderr how many W&B runs there are, and of which of them no checkpoint is here."""
    gone = [run.run_id or "" for run in logged if not run.has_files]
    named = f" ({', '.join(gone[:_MOST_RUNS])}{', …' if len(gone) > _MOST_RUNS else ''})" if gone else ""
    of_all = f"all: {count_text(sum(run.value is not None for run in logged), 'W&B run')} by what they logged"
    console(stderr=True).print(plain(f"{of_all}; of {len(gone):,} no checkpoint is here{named}", "dim"))


_MOST_RUNS = 8
