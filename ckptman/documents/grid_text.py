"""How a convention's grids make task ids, in words and tables: construction, numberings, decoding. All Markdown."""

from __future__ import annotations

import json
import re
import shlex
from math import prod

from ckptman.documents import document_text as say
from ckptman.rules import Convention, grids, naming, placement
from ckptman.rules import terms as convention_terms
from ckptman.text import markdown, wording


def construction(convention: Convention) -> str:
    """How the ids come about: axes, their order, the cross product; and what the whole grid holds."""
    parts = [
        "## How the grid is built",
        markdown.paragraph(
            "A task id is the index, from 0, of a combination of values in the cross product of the axes; the last",
            f"axis varies fastest. There is a group for {say.every_group(convention)}, a task for each combination, a "
            "run for each seed.",
        ),
    ]
    for grid in convention.grids.values():
        parts += _grid_construction(grid, convention)
    return markdown.join(*parts)


def _grid_construction(grid: convention_terms.Grid, convention: Convention) -> list[str]:
    regimes = []
    for name, regime in grid.regimes.items():
        axes = [f"{say.axis_title(axis, convention)} ({say.values_text(grid.axes[axis], axis, convention)})"
                for axis in regime.axes]  # fmt: skip
        fixed = ", ".join(f"{key} = {value}" for key, value in regime.set.items())
        count = len(grids.cells(grid, name, convention.numbering))
        regimes.append(
            [
                say.regime_title(name, convention),
                " × ".join(axes) or say.NOTHING,
                str(count),
                markdown.text(fixed) or say.NOTHING,
            ]
        )
    groups, runs_in_all = [], 0
    for group in (group for group in convention.groups if group.grid == grid.name):
        combinations = len(grids.cells(grid, group.regime, convention.numbering))
        names = len(grids.group_values(group, grid))
        runs = names * combinations * len(grid.seeds)
        runs_in_all += runs
        families = placement.families_of(group, convention)
        groups.append([
            markdown.code(group.pattern),
            "; ".join(say.family_title(family, convention) for family in families) or say.NOTHING,
            ", ".join(markdown.code(f"{placement.family_folder(family, convention)}/") for family in families),
            say.trained_by(group, convention),
            f"{names} × {combinations} × {len(grid.seeds)} = {runs:,}",
        ])  # fmt: skip
    kinds = len(convention.prefixes)
    are_told = all(prefix.step_config for prefix in convention.prefixes)
    files = wording.count_text(kinds, "file") if are_told else "files of these kinds"
    all_files = f", {wording.count_text(runs_in_all * kinds, 'file')}" if are_told else ""
    steps = " and ".join(
        f"{markdown.code(prefix.name)} ({markdown.text(prefix.title)})" for prefix in convention.prefixes
    )
    return [
        f"### Grid {markdown.code(grid.name)}" if len(convention.grids) > 1 else "",
        markdown.table(["Regime", "Axes, in order", "Combinations", "Set besides"], regimes, right=(2,)),
        *(_formulas(grid, convention) if any(_inside(grid, regime, convention) for regime in grid.regimes) else ()),
        markdown.paragraph(
            f"{_across(grid)}; seeds are {', '.join(map(str, grid.seeds))}; each run leaves {files}: {steps}."
        ),
        say.table(
            ["Group", say.FAMILY, "Folder", say.TRAINED, f"{say.group_axis(convention)} × combinations × seeds = runs"],
            groups,
            convention,
            right=(4,),
        ),
        f"In all {wording.count_text(runs_in_all, 'run')}{all_files}.",
    ]


def _across(grid: convention_terms.Grid) -> str:
    """What the names of a grid's groups go over: `K is 4, 6, 8`."""
    return (
        " or ".join(
            ", ".join(f"{key} is {', '.join(map(str, values))}" for key, values in product.items())
            for product in grid.across
        )
        or "the names of groups hold nothing"
    )


def _formulas(grid: convention_terms.Grid, convention: Convention) -> list[str]:
    """How each regime's ids are reckoned."""
    lead = f"In the numbering {markdown.code(convention.numbering)}, with each value counted from 0 in the order above:"
    return [markdown.paragraph(lead), "\n".join(f"- {_formula(grid, name, convention)}" for name in grid.regimes)]


def _formula(grid: convention_terms.Grid, regime: str, convention: Convention) -> str:
    """The id as a sum of products, with an example."""
    axes = _inside(grid, regime, convention)
    strides = _strides([len(grid.axes[axis]) for axis in axes])
    terms = [f"{stride} × {say.axis_title(axis, convention)}" if stride > 1 else say.axis_title(axis, convention)
             for axis, stride in zip(axes, strides, strict=True)]  # fmt: skip
    cell = _example_cell(grid, regime, convention)
    places = [str(grid.axes[axis].index(cell.values[axis])) for axis in axes]
    sums = [f"{stride} × {place}" if stride > 1 else place for stride, place in zip(strides, places, strict=True)]
    example = markdown.text(say.brief(cell.values, axes, convention))
    return (f"{say.regime_title(regime, convention)}: task = {' + '.join(terms)}; so {example} is {' + '.join(sums)} = "
            f"{cell.task}.")  # fmt: skip


def _example_cell(grid: convention_terms.Grid, regime: str, convention: Convention) -> grids.Cell:
    """The cell that examples are about: the last but one, whose values are not all the last or the first."""
    return grids.cells(grid, regime, convention.numbering)[-2:][0]


def _strides(sizes: list[int]) -> list[int]:
    return [prod(sizes[i + 1 :]) for i in range(len(sizes))]


# --- numberings -------------------------------------------------------------------------------------------------------


def numberings(convention: Convention) -> str:
    """The ids of every combination in every numbering, side by side."""
    parts = []
    for grid in convention.grids.values():
        parts += _grid_numberings(grid, convention)
    return markdown.join("## Numberings", *parts)


def _grid_numberings(grid: convention_terms.Grid, convention: Convention) -> list[str]:
    names = list(grid.numberings) or [convention.numbering]
    if len(names) == 1:
        return [f"Grid {markdown.code(grid.name)} has one numbering, {markdown.code(names[0])}."]
    listed = " and ".join(markdown.code(name) for name in names)
    parts = [
        markdown.paragraph(
            f"Job scripts of different times numbered different axes: {listed}. So a folder's number alone does not",
            f"say a configuration. This document is about {markdown.code(convention.numbering)}.",
        )
    ]
    for regime, rule in grid.regimes.items():
        tasks = {name: {tuple(c.values.values()): c.task for c in grids.cells(grid, regime, name)} for name in names}
        combinations = [c.values for c in grids.cells(grid, regime, convention.numbering)]
        rows = [
            [*(say.axis_word(axis, values[axis], convention) for axis in rule.axes),
             *(markdown.code(convention.folders.task(tasks[name][tuple(values.values())])) for name in names)]
            for values in combinations
        ]  # fmt: skip
        headers = [*(say.axis_title(axis, convention) for axis in rule.axes), *map(markdown.code, names)]
        parts += [f"### {say.regime_title(regime, convention)}: numberings", markdown.table(headers, rows)]
        parts += _outside_notes(grid, regime, convention)
    return parts


def _outside_notes(grid: convention_terms.Grid, regime: str, convention: Convention) -> list[str]:
    notes = []
    for name in grid.numberings:
        axes = grids.outside(grid, regime, name)
        if not axes:
            continue
        titles = " and ".join(say.axis_title(axis, convention) for axis in axes)
        examples = []
        for cell in (c for c in grids.cells(grid, regime, name) if c.task == 0):
            values = [naming.naming_of(convention).short(axis, cell.values) for axis in axes]
            examples.append(markdown.code(convention.folders.run(grid.seeds[0], *values)))
        notes.append(markdown.paragraph(
            f"In {markdown.code(name)}, {titles} has no part in the id: run folders such as "
                               f"{' and '.join(examples)} lie side by side."))  # fmt: skip
    return notes


# --- decoding ---------------------------------------------------------------------------------------------------------


def decoding(convention: Convention) -> str:
    """How to get from an id to its values, in a shell and in Python, in the numbering in force."""
    parts = [
        "## Decoding an id",
        markdown.paragraph(
            "`ckptman task` prints what an id stands for, or the id of a configuration; without ckptman, some",
            f"arithmetic does. All of this is about the numbering {markdown.code(convention.numbering)}.",
        ),
    ]
    for grid in convention.grids.values():
        for regime in grid.regimes:
            of_grid = f", grid {markdown.code(grid.name)}" if len(convention.grids) > 1 else ""
            note = ""
            if left_out := grids.outside(grid, regime, convention.numbering):
                titles = " and ".join(say.axis_title(axis, convention) for axis in left_out)
                note = f"{titles} is not in the id; the run folder's name says it."
            parts += [f"### {say.regime_title(regime, convention)}{of_grid}: decoding", note,
                      _command(grid, regime, convention),
                      markdown.fenced("bash", _shell(grid, regime, convention)),
                      markdown.fenced("python", _python(grid, regime, convention))]  # fmt: skip
    return markdown.join(*parts)


def _command(grid: convention_terms.Grid, regime: str, convention: Convention) -> str:
    """The command that decodes an id of a group of this regime; empty where there is no such group."""
    example = next((g.example for g in convention.groups if (g.grid, g.regime) == (grid.name, regime)), None)
    if example is None:
        return ""
    task = _example_cell(grid, regime, convention).task
    return markdown.fenced("bash", f"ckptman task {task} --group {example} --numbering {convention.numbering}")


def _shell(grid: convention_terms.Grid, regime: str, convention: Convention) -> str:
    axes = _inside(grid, regime, convention)
    names = _variables(axes)
    sizes = [len(grid.axes[axis]) for axis in axes]
    cell = _example_cell(grid, regime, convention)
    before, after = convention.folders.task_pattern.split("{task}")
    number = [f"number=${{folder#{before}}}"] + ([f"number=${{number%{after}}}"] if after else [])
    arrays = []
    shown = []
    for axis, name, size, stride in zip(axes, names, sizes, _strides(sizes), strict=True):
        arrays.append(f"{name}=({' '.join(shlex.quote(bare(value)) for value in grid.axes[axis])})")
        place = "task" if stride == 1 else f"task / {stride}"
        shown.append(f"{name}=${{{name}[{place} % {size}]}}")
    result = " ".join(f"{name}={bare(cell.values[axis])}" for axis, name in zip(axes, names, strict=True))
    return "\n".join([
        f"folder={convention.folders.task(cell.task)}",
        f"{'; '.join(number)}; task=$((10#$number))  # 10#: leading zeros do not make it octal",
        "; ".join(arrays),
        f'echo "{" ".join(shown)}"  # {result}',
    ])  # fmt: skip


def _python(grid: convention_terms.Grid, regime: str, convention: Convention) -> str:
    axes = _inside(grid, regime, convention)
    cell = _example_cell(grid, regime, convention)
    literal = ", ".join(f"{_literal(axis)}: [{', '.join(map(_literal, grid.axes[axis]))}]" for axis in axes)
    result = {axis: cell.values[axis] for axis in axes}
    return "\n".join([
        "from itertools import product",
        "",
        f"axes = {{{literal}}}",
        f"task = {cell.task}",
        f"print(dict(zip(axes, list(product(*axes.values()))[task])))  # {result}",
    ])  # fmt: skip


def bare(value: object) -> str:
    """A value as a shell would hold it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _literal(value: object) -> str:
    """A Python literal, text in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _inside(grid: convention_terms.Grid, regime: str, convention: Convention) -> list[str]:
    left_out = grids.outside(grid, regime, convention.numbering)
    return [axis for axis in grid.regimes[regime].axes if axis not in left_out]


def _variables(axes: list[str]) -> list[str]:
    """A shell variable for each axis."""
    names = [re.sub(r"[^A-Za-z0-9_]", "_", axis) for axis in axes]
    usable = len(set(names)) == len(names) and not any(name[0].isdigit() for name in names)
    return names if usable else [f"axis_{i}" for i in range(len(axes))]
