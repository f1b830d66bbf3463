"""TASK_MAPPING.md: what each task id stands for, how the ids are made, and where in a tree each configuration lies."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from ckptman.documents import document_text as say
from ckptman.documents import grid_text
from ckptman.rules import Convention, GroupPattern, comparing, convention_file, grids, placement, terms
from ckptman.text import markdown, wording
from ckptman.tree import metrics, records, standing
from ckptman.tree import statistics as tree_statistics

GENERATED = "<!-- ckptman:generated"
"""How the line begins that says that ckptman wrote a file."""

_BEST = 5
"""Configurations of a family that the quick reference shows."""

_MOST_REFUSED = 50
"""Files that were not taken, as many as are listed."""
_MOST_LISTED = 10
"""Folders listed in a note."""

_MARKS = standing.MARKS
_COMPLETE, _ONLY_FINAL, _NO_FINAL, _NOTHING = (_MARKS[extent] for extent in standing.Extent)

_LEGEND = (
    f"{_COMPLETE} all its checkpoints are here, {_NO_FINAL} the final one is missing, {_ONLY_FINAL} only others are "
    f"missing, {standing.REFUSED} a file of it was refused, {standing.OVERWRITTEN} overwritten by a later run, "
    f"{_NOTHING} nothing"
)


def task_mapping_text(convention: Convention, statistics: tree_statistics.TreeStatistics | None = None) -> str:
    """The whole document.

    Args:
        convention: The rules that make the ids.
        statistics: What is in a tree; without it, the document tells of the convention alone.
    """
    note = f"{GENERATED}: `ckptman report` writes this whole file, so what is changed here is lost. -->"
    return markdown.join("# Task mapping", note, _introduction(convention, statistics),
                _best(statistics) if statistics is not None else "",
                _families(convention, statistics),
                _where(statistics) if statistics is not None else "",
                *_grid(convention, statistics),
                _overwritten(statistics) if statistics is not None else "",
                _without_files(statistics) if statistics is not None else "",
                _refused(statistics) if statistics is not None else "") + "\n"  # fmt: skip


def _introduction(convention: Convention, statistics: tree_statistics.TreeStatistics | None) -> str:
    folder = markdown.code(convention.folders.task(0))
    if statistics is not None and not convention.folders.task_pattern:
        return markdown.paragraph(
            "What is in the groups of this tree, counted from its files, and how well it generalizes."
        )
    if statistics is None:
        return markdown.paragraph(
            f"What the task folders ({folder} and so on) of the grid stand for. In a tree of checkpoints,",
            "`ckptman report` writes this document together with what lies there, where, and how well it generalizes.",
        )
    return markdown.paragraph(
        f"What the task folders ({folder} and so on) of this tree stand for, what is in them, and how well it",
        "generalizes. What the ids of a known group mean comes from the naming convention; all else is counted from",
        "the files.",
    )


def _grid(convention: Convention, statistics: tree_statistics.TreeStatistics | None) -> list[str]:
    """How the ids of the grids are made that are expected here; of no other, whose ids would mean something else."""
    expected = {name: g for name, g in convention.grids.items() if statistics is None or statistics.expects(name)}
    if not expected:
        return []
    groups = tuple(group for group in convention.groups if group.grid in expected)
    rules = replace(convention, grids=expected, groups=groups)
    decoding = [grid_text.decoding(rules)] if convention.folders.has_tasks else []  # of the names of task folders
    return [grid_text.construction(rules), grid_text.numberings(rules), *decoding]


# --- the best configurations ------------------------------------------------------------------------------------------


def _best(statistics: tree_statistics.TreeStatistics) -> str:
    convention = statistics.convention
    ranking = say.ranked(statistics)
    if not any(ranking.values()):
        return markdown.join("## Best configurations", markdown.paragraph(*say.nothing_ranked(statistics)))
    explanation = markdown.paragraph(
        f"By measured generalization: the {say.exact_match(convention)}, as mean ± {convention.statistics} standard",
        "deviation over the measured runs of a configuration that are here, and over all its W&B runs, overwritten and",
        "repeated ones included; the interval is that of the lists that were tested.",
        "The trained lengths are a part of a configuration, the seed is not.",
        f"{say.STAR} is the best of several of its family that were tested alike, where it is above chance;",
        f"{say.OVERLAP} was trained on lengths that it is tested on, and stands last. {say.MEASURED_BY}",
    )
    parts = ["## Best configurations", explanation]
    for family, ranked in ranking.items():
        if ranked:
            among = f", the best {_BEST} of {len(ranked):,}" if len(ranked) > _BEST else ""
            title = f"**{say.family_title(family, convention)}**{among}:"
            parts += [title, best_table(ranked[:_BEST], statistics, [say.starred(ranked)])]
    return markdown.join(*parts)


def best_table(
    ranked: list[tree_statistics.Configuration],
    statistics: tree_statistics.TreeStatistics,
    starred: Sequence[tree_statistics.Configuration | None],
    *,
    family: bool = False,
) -> str:
    """A table of measured configurations.

    Args:
        ranked: The configurations, in the order of the table.
        statistics: The tree's.
        starred: Those of them that get a star.
        family: Whether there is a column for the family.
    """
    convention = statistics.convention
    axes = [axis for axis in say.all_axes(convention) if _tells_apart(axis, ranked, convention)]
    told_apart = [say.particulars(configuration, statistics) for configuration in ranked]
    headers = ["", *([say.FAMILY] if family else []), say.TRAINED, *(say.axis_title(axis, convention) for axis in axes),
               say.generalization_title(convention), "Runs", "Figures from", "95 % interval", "All W&B runs",
               "Folder"]  # fmt: skip
    rows = []
    for configuration in ranked:
        value, logged = configuration.generalization, configuration.logged
        assert value is not None  # it is ranked
        rows.append([
            say.OVERLAP if configuration.overlaps
            else say.STAR if any(configuration is star for star in starred) else "",
                *([say.family_title(configuration.family, convention)] if family else []),
            say.trained(configuration.config, convention),
            *(say.axis_word(axis, configuration.config.get(axis), convention) for axis in axes),
            say.generalization(value, convention),
            " of ".join(map(str, sorted({value.runs, len(configuration.runs)}))),
            " and ".join(_measured_by(configuration)),
            say.interval(configuration),
            say.NOTHING if logged is None else f"{say.generalization(logged, convention)} (n = {logged.runs})",
            markdown.link(markdown.code(say.tail(configuration.folder)), configuration.folder, folder=True),
        ])  # fmt: skip
    if any(told_apart):
        headers.append("Told apart by")
        rows = [[*row, markdown.text(particulars)] for row, particulars in zip(rows, told_apart, strict=True)]
    return say.table(headers, rows, convention)


def _tells_apart(axis: str, configurations: list[tree_statistics.Configuration], convention: Convention) -> bool:
    """Whether an axis has a part in a family's task ids, or anyhow different values in its configurations."""
    numbered = {a for c in configurations for p in say.patterns_of(c.family, convention)
                for a in say.pattern_axes(p, convention)}  # fmt: skip
    return axis in numbered or len({repr(c.config.get(axis)) for c in configurations}) > 1


def _measured_by(configuration: tree_statistics.Configuration) -> list[str]:
    return sorted({markdown.text(run.measured.source) for run in configuration.runs if run.measured is not None})


# --- tasks by family --------------------------------------------------------------------------------------------------


def _families(convention: Convention, statistics: tree_statistics.TreeStatistics | None) -> str:
    parts = ["## Tasks by family"]
    if statistics is not None and _grid(convention, statistics):
        parts.append(markdown.paragraph(
            f"A column for each {'K' if say.group_axis(convention) == 'K' else 'group'}, and in it a mark for each",
            f"seed: {_LEGEND}. Below it, where anything was measured,",
            f"the mean ± {convention.statistics} standard deviation of the runs that are here of each configuration."
        ))  # fmt: skip
    elif statistics is not None and statistics.runs:
        parts.append(markdown.paragraph(f"After each seed is a mark: {_LEGEND}."))
    for family in say.families(convention) if statistics is None else say.families_of(statistics):
        folder = placement.family_folder(family, convention)
        patterns = say.patterns_of(family, convention)
        if statistics is not None and not any(statistics.expects(pattern.grid) for pattern in patterns):
            continue
        parts.append(f"### {say.family_title(family, convention)}")
        if not patterns:
            parts.append(f"In {markdown.code(f'{folder}/')}. The convention has no group pattern for this family.")
        for pattern in patterns if statistics is None else [p for p in patterns if statistics.expects(p.grid)]:
            parts += _family_table(pattern, family, statistics, convention)
    if statistics is not None:
        parts.append(_other_groups(statistics))
    return markdown.join(*parts) if any(parts[1:]) else ""


def _family_table(
    pattern: GroupPattern,
    family: terms.Family,
    statistics: tree_statistics.TreeStatistics | None,
    convention: Convention,
) -> list[str]:
    folder = placement.family_folder(family, convention)
    presence = _Presence(statistics, pattern, family) if statistics is not None else None
    groups = presence.groups if presence is not None else []
    axes = say.pattern_axes(pattern, convention)
    rows = []
    for cell in say.cells_of(pattern, family, convention):
        row = [markdown.code(convention.folders.task(cell.task))]
        row += [say.axis_word(axis, cell.values[axis], convention) for axis in axes]
        row += [presence.marks(group, cell) for group in groups] if presence is not None else []
        rows.append(row)
    headers = [say.TASK, *(say.axis_title(axis, convention) for axis in axes),
               *(_group_title(pattern, group) for group in groups)]  # fmt: skip
    lengths = say.trained_by(pattern, convention)
    more = f"; trained lengths: {lengths}" if convention.trained_keys else ""
    where = f"Groups {markdown.code(pattern.pattern)} in {markdown.code(f'{folder}/')}{more}."
    tables = [presence.notes(), presence.results()] if presence is not None else []
    return [where, say.table(headers, rows, convention), *tables]


class _Presence:
    """What is there of the groups of one pattern."""

    def __init__(self, statistics: tree_statistics.TreeStatistics, pattern: GroupPattern, family: terms.Family) -> None:
        self.statistics = statistics
        self.convention = statistics.convention
        self.pattern, self.family = pattern, family
        self.axes = say.pattern_axes(pattern, self.convention)
        self.runs = [run for run in statistics.filling if self._is_mine(run.group, run.cell)]
        self.lost = [item for item in statistics.lost if self._is_mine(item.run.group, item.cell)]
        self.groups = say.natural([run.group for run in self.runs] + [item.run.group for item in self.lost])
        expected = [group.name for group in statistics.grid_groups if group.pattern is pattern]
        self.absent = [group for group in say.natural(expected) if group not in self.groups]
        found = {run.seed for run in self.runs} | {item.run.seed for item in self.lost}
        self.seeds = sorted(found | set(self.convention.grids[pattern.grid].seeds), key=tree_statistics.seed_order)
        self.by_slot: dict[Any, list[tree_statistics.CountedRun]] = defaultdict(list)
        for run in self.runs:
            self.by_slot[run.cell, run.seed].append(run)
        self.lost_slots = {(item.cell, item.run.seed) for item in self.lost}

    def _is_mine(self, group: str, cell: object) -> bool:
        return cell is not None and placement.group_pattern(group, self.convention) is self.pattern

    def marks(self, group: str, cell: grids.Cell) -> str:
        """A mark for each seed."""
        key = group, tuple(cell.values[axis] for axis in self.axes)
        return "".join(self._mark((key, seed)) for seed in self.seeds)

    def _mark(self, slot: Any) -> str:
        marks = {_mark(run) for run in self.by_slot.get(slot, ())} - {_NOTHING}
        if slot in self.statistics.refused_slots and _COMPLETE not in marks:
            return standing.REFUSED
        for mark in (_COMPLETE, _ONLY_FINAL, _NO_FINAL):
            if mark in marks:
                return mark
        return standing.OVERWRITTEN if slot in self.lost_slots else _NOTHING

    def results(self) -> str:
        """What each configuration reached: the table of marks with values in their place; empty where there is none."""
        found: dict[Any, list[str]] = defaultdict(list)
        for configuration in self.statistics.configurations:
            first, value = configuration.runs[0], configuration.generalization
            if value is not None and self._is_mine(first.group, first.cell):
                found[first.cell].append(f"{say.generalization(value, self.convention)} ({value.runs})")
        groups = [group for group in self.groups if any(key[0] == group for key in found)]
        rows = []
        for cell in say.cells_of(self.pattern, self.family, self.convention) if groups else ():
            values = tuple(cell.values[axis] for axis in self.axes)
            rows.append([
                markdown.code(self.convention.folders.task(cell.task)),
                *(say.axis_word(axis, cell.values[axis], self.convention) for axis in self.axes),
                *("; ".join(found.get((group, values), ())) or _NOTHING for group in groups),
            ])  # fmt: skip
        headers = [say.TASK, *(say.axis_title(axis, self.convention) for axis in self.axes),
                   *(_group_title(self.pattern, group) for group in groups)]  # fmt: skip
        return markdown.join(f"{say.generalization_title(self.convention)}, and of how many runs:",
                             say.table(headers, rows, self.convention)) if rows else ""  # fmt: skip

    def notes(self) -> str:
        """Which seeds the marks stand for, and what the table does not show."""
        if not self.groups:
            return "No such group is here."
        notes = [f"Seeds, in this order: {say.seeds_text(self.seeds, self.convention)}."]
        if self.absent:
            by_k = [str(k) for group in self.absent if (k := _only_k(self.pattern, group)) is not None]
            others = [markdown.code(group) for group in self.absent if _only_k(self.pattern, group) is None]
            missing = [f"K = {', '.join(by_k)}"] if by_k else []
            notes.append(f"Not here: {', '.join(missing + others)}.")
        second = [markdown.link(markdown.code(str(run.folder)), run.folder, folder=True)
                  for runs in self.by_slot.values()
                  for run in sorted(runs, key=lambda run: not run.is_recorded)[1:]]  # fmt: skip
        if second:
            notes.append(f"Second runs of a seed: {', '.join(second)}.")
        return markdown.paragraph(*notes)


def _mark(run: tree_statistics.CountedRun) -> str:
    return _MARKS[run.standing.extent]


def _group_title(pattern: GroupPattern, group: str) -> str:
    k = _only_k(pattern, group)
    return markdown.code(group) if k is None else f"K = {k}"


def _only_k(pattern: GroupPattern, group: str) -> terms.Scalar:
    """K, where the pattern holds nothing else."""
    values = pattern.parse(group) or {}
    return values[terms.K] if set(values) == {terms.K} else None


def _other_groups(statistics: tree_statistics.TreeStatistics) -> str:
    """Runs that fill no cell of a grid."""
    convention = statistics.convention
    others = [c for c in statistics.configurations if c.runs[0].cell is None]
    if not others:
        return ""
    rows = []
    for configuration in others:
        first = configuration.runs[0]
        seeds = ", ".join(f"{say.seeds_text([run.seed], convention)} {_mark(run)}"
                          for run in configuration.runs)  # fmt: skip
        settings = [say.brief(first.config, say.all_axes(convention), convention)]
        settings.append(say.particulars(configuration, statistics))
        rows.append([
            markdown.link(markdown.code(say.tail(configuration.folder)), configuration.folder, folder=True),
            say.family_title(configuration.family, convention),
            say.trained(first.config, convention),
            markdown.text(", ".join(filter(None, settings))),
            seeds,
        ])  # fmt: skip
    return markdown.join(
        "### Other groups",
        markdown.paragraph(
            "Groups of no known pattern keep the task ids of their source, which say nothing by themselves; the",
            "configurations are those inside the checkpoints.",
        ),
        say.table(["Folder", say.FAMILY, say.TRAINED, "Configuration", "Seeds"], rows, convention),
    )


# --- where to find ----------------------------------------------------------------------------------------------------


def _where(statistics: tree_statistics.TreeStatistics) -> str:
    convention = statistics.convention
    by_group: dict[PurePosixPath, list[tree_statistics.Configuration]] = defaultdict(list)
    for configuration in statistics.configurations:
        by_group[placement.group_folder_of(configuration.folder, convention)].append(configuration)
    if not by_group:
        return markdown.join("## Where to find a configuration", say.no_run_text(statistics))
    rows = []
    for folder, configurations in sorted(by_group.items(), key=lambda item: wording.path_key(item[0])):
        trained = say.natural(say.trained(c.config, convention) for c in configurations)
        tasks = [convention.folders.parse_task(c.folder.name) for c in configurations]
        ids = say.ids_text(task for task in tasks if task is not None) or say.NOTHING
        files = sum(len(run.files) for c in configurations for run in c.runs)
        runs = sum(run.is_recorded for c in configurations for run in c.runs)
        rows.append([markdown.link(markdown.code(f"{folder}/"), folder, folder=True), ", ".join(trained), ids,
                     str(len(configurations)), str(runs), str(files)])  # fmt: skip
    run_folder = (convention.folders.run_pattern,) if statistics.finished else ()
    above = "{family}" if convention.family_facets else ""
    task = convention.folders.task_pattern if convention.folders.has_tasks else ""
    levels = filter(None, (above, "{group}", task, *run_folder))
    shape = say.placeholders("/".join((*levels, "")))
    return markdown.join(
        "## Where to find a configuration",
        markdown.paragraph(
            "Its task is in a table above." if convention.folders.has_tasks else "",
            f"It lies in {markdown.code(shape)}, with more at the end of the last name where several runs of a",
            f"{'task' if convention.folders.has_tasks else 'group'} have one seed.",
        ),
        say.table(
            ["Group", say.TRAINED, say.TASKS, "Configurations", "Runs", "Files"], rows, convention, right=(3, 4, 5)
        ),
        _misnumbered(statistics),
        _example(statistics),
    )


def _misnumbered(statistics: tree_statistics.TreeStatistics) -> str:
    """Configurations whose folder has another number than the tables say, as in a tree that was numbered otherwise."""
    convention = statistics.convention
    found = [(c, task) for c in statistics.configurations if (task := _other_id(c, convention.numbering, convention))]
    if not found:
        return ""
    listed = [f"{markdown.link(markdown.code(say.tail(c.folder)), c.folder, folder=True)} holds {markdown.code(task)}"
              for c, task in found[:_MOST_LISTED]]  # fmt: skip
    more = f" and {len(found) - _MOST_LISTED:,} more" if len(found) > _MOST_LISTED else ""
    known = dict.fromkeys(name for grid in convention.grids.values() for name in grid.numberings)
    fitting = [name for name in known if not any(_other_id(c, name, convention) for c in statistics.configurations)]
    advice = ""
    if fitting:
        line = markdown.code(f"numbering: {fitting[0]}")
        file = markdown.code(convention_file.FILE_NAME)
        advice = f"All numbers fit the numbering {markdown.code(fitting[0])}: to use it, put {line} into a {file} here."
    count = wording.count_text(len(found), "configuration")
    return markdown.paragraph(f"{count} in a folder of another number: {', '.join(listed)}{more}.", advice)


def _other_id(configuration: tree_statistics.Configuration, numbering: str, convention: Convention) -> str | None:
    """The task folder that a configuration should lie in by a numbering, where it lies in another one."""
    run = configuration.runs[0]
    pattern = placement.group_pattern(run.group, convention) if run.cell is not None else None
    number = convention.folders.parse_task(configuration.folder.name)
    if pattern is None or number is None:
        return None
    grid = convention.grids[pattern.grid]
    if numbering not in grid.numberings:
        return None
    task = grids.task_of(grid, pattern.regime, numbering, run.config)
    return None if number == task else convention.folders.task(task)


def _example(statistics: tree_statistics.TreeStatistics) -> str:
    """One configuration that is here, and the command that finds it."""
    convention = statistics.convention
    ranking = [ranked[0] for ranked in say.ranked(statistics).values() if ranked]
    candidates = [*ranking, *(c for c in statistics.configurations if c.runs[0].cell is not None)]
    fitting = ((c, r) for c in candidates for r in c.runs if r.files and r.is_recorded and r.cell is not None)
    configuration, run = next(fitting, (None, None))
    if configuration is None or run is None:
        return ""
    pattern = placement.group_pattern(run.group, convention)
    assert pattern is not None  # it has a cell
    axes = say.pattern_axes(pattern, convention)
    keys = [
        *axes,
        *(facet.config for facet in convention.family_facets if facet.config),
        *(convention.trained_keys or ()),
    ]
    keys = list(dict.fromkeys(keys))
    keys = keys or [key for hole in pattern.holes if (key := convention.key_of(hole))]
    config = convention.lifted(run.config)
    condition = " and ".join(f"{key} == {grid_text.bare(config.get(key))}" for key in keys)
    phrases = map(wording.lowered, say.described(run.config, axes, configuration.family, convention))
    return markdown.join(
        markdown.paragraph(
            f"For example, {', '.join((*phrases, 'seed'))} {say.seeds_text([run.seed], convention)},",
            "lies in",
            f"{markdown.link(markdown.code(f'{run.folder}/'), run.folder, folder=True)}.",
            "`ckptman ls` finds checkpoints by their configuration; in the folder of this file:",
        ),
        markdown.fenced("bash", "ckptman ls --root . --paths" + (f" --where {shlex.quote(condition)}" if keys else "")),
    )


# --- overwritten runs -------------------------------------------------------------------------------------------------


def _overwritten(statistics: tree_statistics.TreeStatistics) -> str:
    if not statistics.lost:
        return ""
    count = len(statistics.lost)
    return markdown.join(
        "## Overwritten runs",
        markdown.paragraph(
            f"Of {wording.count_text(count, 'run')} no checkpoint was at the source any more: later runs of the same",
            "tasks wrote files of the same names over them. What is here of them are their W&B records.",
            _counted(statistics.lost, statistics.convention),
        ),
        markdown.table(
            ["Folder", "Configuration", _seeds_title(statistics.lost, statistics.convention), "Overwritten by"],
            _lost_rows(statistics.lost, statistics),
        ),
    )


def _without_files(statistics: tree_statistics.TreeStatistics) -> str:
    """The W&B runs of which no file is known to be, though none was written over theirs."""
    if not statistics.without_files:
        return ""
    count = len(statistics.without_files)
    return markdown.join(
        "## W&B runs without a checkpoint",
        markdown.paragraph(
            f"Of {wording.count_text(count, 'further W&B run')} no file here is known to be: it left none, or none was",
            "taken, or it is not known which of several runs wrote one.",
            _counted(statistics.without_files, statistics.convention),
        ),
        markdown.table(
            ["Folder", "Configuration", _seeds_title(statistics.without_files, statistics.convention)],
            [row[:-1] for row in _lost_rows(statistics.without_files, statistics)],
        ),
    )


def _counted(items: Sequence[tree_statistics.Lost], convention: Convention) -> str:
    """In which figures runs without files are."""
    if not _is_measured(items, convention):
        return ""
    return "The generalization that these logged is in the means over all W&B runs, and in no other."


def _seeds_title(items: Sequence[tree_statistics.Lost], convention: Convention) -> str:
    return f"Seed (W&B run{', generalization' if _is_measured(items, convention) else ''})"


def _is_measured(items: Sequence[tree_statistics.Lost], convention: Convention) -> bool:
    values = (metrics.from_metrics(item.run.metrics, item.run.config, convention) for item in items)
    return any(value is not None for value in values)


def _lost_rows(items: Sequence[tree_statistics.Lost], statistics: tree_statistics.TreeStatistics) -> list[list[str]]:
    """A row for each configuration of each task."""
    by_task: dict[tuple[PurePosixPath, object], list[tree_statistics.Lost]] = defaultdict(list)
    for item in items:
        by_task[item.folder, _lost_configuration(item, statistics.convention)].append(item)
    briefs = {key: say.brief(held[0].run.config, say.all_axes(statistics.convention), statistics.convention)
              for key, held in by_task.items()}  # fmt: skip
    rows = []
    for key, held in by_task.items():
        alike = [by_task[other][0].run.config for other, brief in briefs.items()
                 if other != key and (other[0], brief) == (key[0], briefs[key])]  # fmt: skip
        told = say.telling(held[0].run.config, alike, statistics.convention)
        title = ", ".join(filter(None, (briefs[key], told)))
        rows.append(_lost_row(key[0], held, title, statistics.convention))
    return rows


def _refused(statistics: tree_statistics.TreeStatistics) -> str:
    """The files that ingest did not take: what they may be is neither missing nor lost."""
    refused = statistics.inventory.scan.refused
    if not refused:
        return ""
    rows = [
        [
            markdown.code(str(PurePosixPath(file.root, file.path))),
            markdown.text(file.group or say.NOTHING),
            say.NOTHING if file.task is None else str(file.task),
            say.seeds_text([file.seed], statistics.convention),
            f"{markdown.text(file.message)} [{markdown.code(file.code)}]",
        ]
        for file in refused[:_MOST_REFUSED]
    ]
    more = f"{len(refused) - _MOST_REFUSED:,} more are in {markdown.code(records.REFUSED_FILE)}."
    return markdown.join(
        "## Files that were not taken",
        markdown.paragraph(
            f"{say.refused_text(refused)} that ingest did not take, as far as it is known of which run.",
            "No run that one of them may be is marked as missing or overwritten above; `ckptman ingest` takes a file",
            "once it is mended.",
        ),
        markdown.table(["File", "Group", "Task", "Seed", "Why"], rows),
        more if len(refused) > _MOST_REFUSED else "",
    )


def _lost_configuration(item: tree_statistics.Lost, convention: Convention) -> object:
    """What a row of the table stands for: a cell of a grid, or one configuration whatever the seed."""
    ignored = {*convention.ignored_keys, convention.seed_key}
    return item.cell or comparing.fingerprint(item.run.config, ignored)


def _lost_row(
    folder: PurePosixPath, items: Sequence[tree_statistics.Lost], title: str, convention: Convention
) -> list[str]:
    told: list[str] = []
    by: list[str] = []
    for item in items:
        value = metrics.from_metrics(item.run.metrics, item.run.config, convention)
        seed = say.seeds_text([item.run.seed], convention)
        reached = "" if value is None else f", {metrics.value_text(value, convention)}"
        told.append(f"{seed} ({markdown.code(item.run.run_id)}{reached})")
        by += item.run.overwritten_by
    names = ", ".join(map(markdown.code, dict.fromkeys(by))) or "an unknown run"
    where = markdown.link(markdown.code(say.tail(folder)), folder, folder=True)
    return [where, markdown.text(title), ", ".join(told), names]
