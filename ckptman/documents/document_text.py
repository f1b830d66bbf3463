"""How the generated documents say things: families, configurations, measurements, ids. All of it is Markdown."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ckptman.rules import Convention, GroupPattern, comparing, grids, placement, terms
from ckptman.text import markdown, wording
from ckptman.tree import metrics, records
from ckptman.tree import statistics as tree_statistics

NOTHING = "–"
STAR = "⭐"
OVERLAP = "⚠"
_CHANCE = 0.005
"""Exact match up to which a model has learned nothing that matters: by chance alone, less than one list in 10^27."""
_NUMBER = re.compile(r"(?<=K)\d+")
_MOST_TOLD = 6
"""Particulars that tell two configurations apart."""
_MOST_METRICS = 12
"""Metrics that are listed."""
MEASURED_BY = "Figures from W&B are the last that training logged, those from evaluation what `ckptman eval` found."


def family_title(family: terms.Family, convention: Convention) -> str:
    """A family for a heading: `With LayerNorm, fixed single-K training`."""
    return markdown.text(placement.family_title(family, convention) or "All runs")


def regime_title(regime: str, convention: Convention) -> str:
    """A part of a grid for a heading: `Dynamic training`."""
    values = (value for facet in convention.facets.values() for value in facet.values)
    title = next((value.title for value in values if value.word == regime), regime or "All tasks")
    return markdown.text(title[:1].upper() + title[1:])


def families(convention: Convention, found: Iterable[terms.Family] = ()) -> list[terms.Family]:
    """All families that the convention knows, in its order, then those that were found."""
    return list(dict.fromkeys((*placement.families(convention), *found)))


def families_of(statistics: tree_statistics.TreeStatistics) -> list[terms.Family]:
    """All families of a tree, those without a run too."""
    return families(statistics.convention, (configuration.family for configuration in statistics.configurations))


def patterns_of(family: terms.Family, convention: Convention) -> list[GroupPattern]:
    """The group patterns that may have groups of a family."""
    return [p for p in convention.groups if cells_of(p, family, convention)]


def cells_of(pattern: GroupPattern, family: terms.Family, convention: Convention) -> list[grids.Cell]:
    """The cells of a pattern's grid that are of a family."""
    named, grid = convention.folders.named(family), convention.grids[pattern.grid]
    held = next(iter(grids.group_values(pattern, grid)), pattern.parse(pattern.example) or {})
    return [
        cell
        for cell in grids.cells(grid, pattern.regime, convention.numbering)
        if placement.family_of_values(
            pattern, grids.config_values(pattern, grid, held, cell, convention), convention
        ).items()
        <= named.items()
    ]


def pattern_axes(pattern: GroupPattern, convention: Convention) -> tuple[str, ...]:
    """The axes of a group pattern's tasks."""
    return convention.grids[pattern.grid].regimes[pattern.regime].axes


def all_axes(convention: Convention) -> list[str]:
    """Every axis of every grid, in the convention's order."""
    return list(dict.fromkeys(axis for grid in convention.grids.values() for axis in grid.axes))


def each_group(convention: Convention) -> str:
    """What tells the groups of the grids apart: `one K`, or `one combination of vocab_n, n_embd and K`."""
    holes = list(dict.fromkeys(hole for pattern in convention.groups for hole in pattern.holes))
    if not holes:
        return "one name"
    if len(holes) == 1:
        return "one K, the longest trained list" if holes[0] == convention.k_hole else markdown.text(f"one {holes[0]}")
    return markdown.text(f"one combination of {', '.join(holes[:-1])} and {holes[-1]}")


def every_group(convention: Convention) -> str:
    """What there is a group for: `each K`."""
    return each_group(convention).replace(", the longest trained list", "").replace("one", "each", 1)


def group_axis(convention: Convention) -> str:
    """What the groups of the grids go over, for the head of a table: `K`, or `groups`."""
    holes = {hole for pattern in convention.groups for hole in pattern.holes}
    return "K" if holes == {convention.k_hole} else "groups"


FAMILY, TASK, TASKS, TRAINED = "Family", "Task", "Tasks", "Trained K"


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], rules: Convention, *, right: Iterable[int] = ()
) -> str:
    """As `markdown.table`, without the columns that a convention has nothing for; empty where none is left."""
    absent = set() if rules.family_facets else {FAMILY}
    absent |= set() if rules.trained_keys else {TRAINED}
    absent |= {TASKS} if not rules.folders.has_tasks else set()  # of folders, of which the tree has none
    absent |= {TASK} if not rules.folders.task_pattern else set()
    kept = [index for index, header in enumerate(headers) if header not in absent]
    to_right = [place for place, index in enumerate(kept) if index in set(right)]
    body = [[row[index] for index in kept] for row in rows]
    return markdown.table([headers[index] for index in kept], body, right=to_right) if kept else ""


def described(
    config: Mapping[str, Any], axes: Iterable[str], family: terms.Family, convention: Convention
) -> list[str]:
    """A configuration in phrases: its family, its lengths, and its values of axes, as far as there are any."""
    lengths = f"K = {trained(config, convention)}" if convention.trained_keys else ""
    settings = markdown.text(brief(config, axes, convention))
    title = family_title(family, convention) if convention.family_facets else ""
    return list(filter(None, (title, lengths, settings)))


def axis_title(axis: str, convention: Convention) -> str:
    """An axis for the head of a table."""
    return markdown.text(convention.axis(axis).title)


def axis_word(axis: str, value: Any, convention: Convention) -> str:
    """A value of an axis for a table."""
    return NOTHING if value is None else markdown.text(convention.axis(axis).word(value))


def brief(values: Mapping[str, Any], axes: Iterable[str], convention: Convention) -> str:
    """The values of some axes in short: `L1, MLP off, mix`."""
    return ", ".join(convention.axis(axis).brief(values[axis]) for axis in axes if values.get(axis) is not None)


def trained(config: Mapping[str, Any], convention: Convention) -> str:
    """The lengths that a configuration trains on: `2–8`, or `4`."""
    if convention.trained_keys is None:
        return NOTHING
    low, high = (config.get(key) for key in convention.trained_keys)
    return markdown.text(low if low == high else f"{low}–{high}")


def trained_by(pattern: GroupPattern, convention: Convention) -> str:
    """The lengths that the groups of a pattern train on, in terms of K."""
    if convention.trained_keys is None:
        return NOTHING
    low_key = convention.trained_keys[0]
    low = convention.grids[pattern.grid].regimes[pattern.regime].set.get(low_key)
    return "K only" if low == "K" else "up to K" if low is None else markdown.text(f"{low} to K")


def generalization(value: metrics.Generalization, convention: Convention) -> str:
    """A configuration's generalization: `97.9 % ± 2.4`."""
    if not convention.metric.share:
        return f"{value.mean:.4g}" + ("" if value.deviation is None else f" ± {value.deviation:.2g}")
    mean = wording.percent(value.mean)
    if value.deviation is None:
        return mean
    places = len(mean.removesuffix(" %").partition(".")[2])
    return f"{mean} ± {100 * value.deviation:.{places}f}"


def interval(configuration: tree_statistics.Configuration) -> str:
    """Its 95 % interval: `97.3–97.8 %`."""
    if configuration.interval is None:
        return NOTHING
    low, high = map(wording.percent, configuration.interval)
    return f"{low.removesuffix(' %')}–{high}"


def no_run_text(statistics: tree_statistics.TreeStatistics) -> str:
    """That no run is counted: there is none, as far as everything could be read."""
    return "No run of this tree can be read." if statistics.unreadable else "There is no run in this tree yet."


def nothing_ranked(statistics: tree_statistics.TreeStatistics) -> tuple[str, str]:
    """Why no configuration can be ranked, and which metrics there are instead."""
    if not statistics.runs:
        return no_run_text(statistics), ""
    metric = statistics.convention.metric
    each = f" for each K from {metric.low} to {metric.high}" if metric.span else ""
    why = f"No run here has a finite value of {markdown.code(metric.pattern)}{each}, logged or evaluated."
    if metric.fixed is not None and metric.is_exact_match:
        why += " `ckptman eval` measures it, where a model can read such lengths."
    return why, other_metrics(statistics)


def other_metrics(statistics: tree_statistics.TreeStatistics) -> str:
    """The metrics that runs have, in a sentence, those that differ in a number alone as one; empty for none."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for run in statistics.finished:
        for key in run.alike.metric_names:
            if not key.startswith("_"):  # W&B's own
                pattern, *_ = _NUMBER.subn("{k}", key, count=1)
                numbers[pattern].update(int(number) for number in _NUMBER.findall(key)[:1])
    if not numbers:
        return ""
    tested = sorted(numbers, key=lambda pattern: (not numbers[pattern], wording.natural_key(pattern)))
    more = f" and {len(tested) - _MOST_METRICS:,} more" if len(tested) > _MOST_METRICS else ""
    listed = "; ".join(
        markdown.code(pattern) + (f" for K {ids_text(numbers[pattern])}" if numbers[pattern] else "")
        for pattern in tested[:_MOST_METRICS]
    )
    return f"Training logged other metrics: {listed}{more}; `ckptman results --metric` shows any of them."


def refused_text(refused: Iterable[records.RefusedFile]) -> str:
    """How many files and folders were refused: `2 files and 1 folder`; a folder once, whatever may be in it."""
    counts = Counter(what for what, *_ in {(file.what or "file", file.root, file.path) for file in refused})
    return " and ".join(wording.count_text(count, what) for what, count in sorted(counts.items()))


def generalization_title(convention: Convention) -> str:
    """What generalization is measured by, for the head of a table."""
    return markdown.text(convention.metric.heading)


def exact_match(convention: Convention) -> str:
    """What generalization is measured by, in a sentence."""
    metric = convention.metric
    if metric.fixed is None or not metric.is_exact_match:
        title = markdown.text(wording.lowered(metric.title))
        return f"{'mean ' if metric.span else ''}{title} ({markdown.code(metric.pattern)})"
    low, high = metric.fixed
    return (f"mean exact match on lists of {low} to {high} numbers (the share of lists with each number predicted "
            "right from the correct ones before it)")  # fmt: skip


def placeholders(pattern: str) -> str:
    """A pattern of folder names as a path for people: `task_<task>` for `task_{task}`."""
    return re.sub(r"\{(\w+)\}", r"<\1>", pattern)


def ranked(statistics: tree_statistics.TreeStatistics) -> dict[terms.Family, list[tree_statistics.Configuration]]:
    """The measured configurations of each family, the best first, and last those trained on lengths of the test.

    Of two with one mean, the one with more runs comes first, then the one whose runs differ less, then path order.
    """
    found: dict[terms.Family, list[tree_statistics.Configuration]] = {family: [] for family in families_of(statistics)}
    for configuration in statistics.configurations:
        if configuration.generalization is not None:
            found[configuration.family].append(configuration)
    return {family: sorted(configurations, key=_rank) for family, configurations in found.items()}


def starred(ranked: Sequence[tree_statistics.Configuration]) -> tree_statistics.Configuration | None:
    """The best of a family where being that means something, of its configurations as `ranked` has them.

    There are others that were tested as it was, on lengths that none of them was trained on; and it is above chance,
    or, where nobody knows what that is, measured more than once.
    """
    rivals = [configuration for configuration in ranked if not configuration.overlaps]
    if len(rivals) < 2 or len({_tested_on(configuration) for configuration in rivals}) > 1:
        return None
    best, (low, _) = rivals[0], rivals[0].interval or (0.0, 1.0)
    if best.convention.metric.is_exact_match:
        return best if low > _CHANCE else None
    return best if best.generalization is not None and best.generalization.runs > 1 else None


def _tested_on(configuration: tree_statistics.Configuration) -> tuple[object, ...]:
    """What decides which lists a model was tested on."""
    config = configuration.convention.lifted(configuration.config)
    drawn_from = (comparing.key_of(config.get(key)) for key in ("vocab_n", "allow_duplicates"))
    return configuration.convention.metric.bounds(config), *drawn_from


def _rank(configuration: tree_statistics.Configuration) -> tuple[Any, ...]:
    value = configuration.generalization
    assert value is not None  # only measured ones are ranked
    return (
        configuration.overlaps,
        value.mean if configuration.convention.metric.lower_is_better else -value.mean,
        -value.runs,
        value.deviation or 0.0,
        wording.path_key(configuration.folder),
    )


def particulars(configuration: tree_statistics.Configuration, statistics: tree_statistics.TreeStatistics) -> str:
    """What tells a configuration apart from the others of its task folder, beyond the axes; empty for an only one."""
    others = [c.config for c in statistics.by_task_folder[configuration.folder] if c is not configuration]
    return telling(configuration.config, others, statistics.convention)


def telling(mine: Mapping[str, Any], others: Sequence[Mapping[str, Any]], convention: Convention) -> str:
    """What tells a configuration apart from others, beyond the axes: values, and keys that only one of two has."""
    ignored = {*convention.ignored_keys, convention.seed_key, *all_axes(convention)}
    keys = {key for other in others for key in comparing.differing_keys(mine, other, ignored)}
    alone = {key for other in others for key in mine.keys() ^ other.keys()} - ignored - keys
    told = [f"{key} = {mine[key]}" if key in mine else f"no {key}" for key in (*sorted(keys), *sorted(alone))]
    more = f", and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    return ", ".join(told[:_MOST_TOLD]) + more


def seeds_text(seeds: Iterable[int | None], convention: Convention) -> str:
    """Seeds in order, an unknown one last."""
    ordered = sorted(set(seeds), key=tree_statistics.seed_order)
    return ", ".join(convention.folders.unknown_seed if seed is None else str(seed) for seed in ordered)


def ids_text(ids: Iterable[int]) -> str:
    """Numbers with runs of them drawn together: `0–3, 6`."""
    parts: list[list[int]] = []
    for number in sorted(set(ids)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("–".join(map(str, part)) for part in parts)


def values_text(values: Sequence[terms.Scalar], axis: str, convention: Convention) -> str:
    """The values of an axis, in their order."""
    return ", ".join(axis_word(axis, value, convention) for value in values)


def natural(names: Iterable[str]) -> list[str]:
    """Names in natural order, each once."""
    return sorted(set(names), key=wording.natural_key)


def tail(folder: PurePosixPath) -> str:
    """The end of a folder's path, enough to know it by: `len_gen_k8/task_0006`."""
    return "/".join(folder.parts[-2:]) or "."
