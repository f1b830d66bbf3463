"""`ckptman task`: from a task id to its configuration, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from ckptman.cli.app import app, convention_for, print_json, warn
from ckptman.cli.options import (
    GroupText,
    Json,
    KText,
    Numbering,
    Root,
    Set,
    Texts,
    WithAxes,
    check_group_alone,
    check_k,
    chosen_axes,
    chosen_facets,
    named_groups,
    numbers_of,
    settings_of,
    tree_of,
)
from ckptman.cli.tables import print_table
from ckptman.cli.text import console, plain
from ckptman.rules import Convention, GroupPattern, comparing, placement, terms
from ckptman.rules import grids as grid_rules
from ckptman.text import UsageError, wording
from ckptman.tree import records


@dataclass(frozen=True)
class _Grid:
    """One regime of a grid, whose tasks are asked for."""

    grid: terms.Grid
    regime: str
    convention: Convention

    @property
    def axes(self) -> tuple[str, ...]:
        return self.grid.regimes[self.regime].axes

    @property
    def cells(self) -> tuple[grid_rules.Cell, ...]:
        return grid_rules.cells(self.grid, self.regime, self.convention.numbering)

    def ids(self, cell: grid_rules.Cell) -> dict[str, int]:
        """The cell's id in every numbering."""
        return {name: grid_rules.task_of(self.grid, self.regime, name, cell.values) for name in self.grid.numberings}

    @property
    def differing(self) -> tuple[str, ...]:
        """The numberings that are not in force and give another id to some cell."""
        ids = [self.ids(cell) for cell in self.cells]
        return tuple(name for name in self.grid.numberings if any(i[name] != i[self.convention.numbering] for i in ids))


@dataclass(frozen=True)
class _Family:
    """What is asked for beside the task: a group, or the pattern of one where K is not given."""

    of: _Grid
    pattern: GroupPattern
    held: Mapping[str, terms.Scalar]
    """What the group's name holds, as far as it is given."""
    name: str
    """The group's name; with `{K}` in it where K is not given."""

    @property
    def k(self) -> terms.Scalar:
        return self.held.get(terms.K)

    def config(self, cell: grid_rules.Cell) -> dict[str, terms.Scalar]:
        """Everything that the group and the cell decide; what follows from what is not given is left out."""
        open_holes = set(self.pattern.holes) - self.held.keys()
        by_hole = {key for key, value in self.of.grid.regimes[self.of.regime].set.items() if value in open_holes}
        values = grid_rules.config_values(self.pattern, self.of.grid, self.held, cell, self.of.convention)
        return {key: value for key, value in values.items() if key not in by_hole}

    def folder(self, cell: grid_rules.Cell) -> str:
        """The task folder, relative to the root."""
        convention = self.of.convention
        values = grid_rules.config_values(self.pattern, self.of.grid, self.held, cell, convention)
        family = placement.family_of_values(self.pattern, values, convention)
        if len(family) < len(convention.family_facets):
            return self.name
        return str(convention.folders.folder(tuple(family.values()), self.name, cell.task))


@app.command("task", cls=WithAxes)
def _task(
    context: typer.Context,
    number: Annotated[int | None, typer.Argument(metavar="[ID]", help="A task id.", min=0)] = None,
    root: Root = None,
    longest: KText = None,
    group: GroupText = None,
    settings: Set = None,
    numbering: Numbering = None,
    as_json: Json = False,
) -> None:
    """Tell what a task id stands for, or which id a configuration has.

    Without arguments: all task ids of the numbering in force. With an ID: its configuration. With a configuration, or
    part of one: the ids that it has, one a line. Dynamic training with LayerNorm is meant unless something else is
    asked for.

    Example: ckptman task 6 --k 8

    Example: ckptman task --layers 1 --no-mlp --mode mix
    """
    convention = convention_for(context, tree_of(context, root), numbering)
    check_group_alone(group, context, convention, longest)
    chosen = {name: values[0] for name, values in chosen_facets(context, convention).items()}
    placement.check_grid(convention)
    check_k(longest, convention)
    asked = chosen_axes(context, convention)
    if number is not None and (asked or settings):
        raise _bad_usage("give a task id or a configuration, not both", "See: ckptman task --help")
    if (number, group, longest) == (None, None, None) and not asked and not settings:
        _show_all(_grids(convention, chosen), convention, as_json=as_json)
        return
    families = _families(convention, group, longest, chosen)
    asked |= settings_of(settings or (), families[0].of.axes)
    found = [
        (family, _cells_of_id(family, number) if number is not None else _cells_of_config(family, asked))
        for family in families
    ]
    for family in families:
        if family.k is not None and family.k not in family.of.grid.k:
            known = ", ".join(map(str, family.of.grid.k))
            warn(f"K = {family.k} is not on the grid {family.of.grid.name!r}, which has K = {known}")
    if as_json:
        tasks = [_cell_json(family.of, cell) | _family_json(family, cell) for family, cells in found for cell in cells]
        print_json(_document(convention, tasks))
        return
    regimes = {
        (family.of.grid.name, family.of.regime): (family, cells) for family, cells in found
    }  # K has no part in it
    for index, (family, cells) in enumerate(found if number is not None else regimes.values()):
        if number is not None:
            if index:
                console().print()
            _show_task(family, cells, console())
        elif asked:
            _print_ids(family.of, cells)
        else:
            _print_grid(family.of, console())


def _bad_usage(message: str, fix: str) -> UsageError:
    return UsageError(message, code="bad-usage", fix=fix)


def _families(
    convention: Convention, group: Texts, longest: Texts, chosen: Mapping[str, terms.Scalar]
) -> list[_Family]:
    """The groups that are meant, by their names or by what they are made of."""
    families = []
    for name in named_groups(convention, group):
        if name is not None:
            pattern, held = placement.parse_group(name, convention)
            of = _Grid(convention.grids[pattern.grid], pattern.regime, convention)
            families.append(_Family(of, pattern, held, name))
            continue
        pattern = placement.default_pattern(convention, chosen)
        of = _Grid(convention.grids[pattern.grid], pattern.regime, convention)
        lengths = numbers_of(longest, "--k", least=1) or (of.grid.k if longest else (None,))
        for each in lengths:
            known = {} if each is None else {terms.K: each}
            values = {hole: f"{{{hole}}}" for hole in pattern.holes} | known
            families.append(_Family(of, pattern, known, pattern.format(values)))
    return families


def _grids(convention: Convention, chosen: Mapping[str, terms.Scalar]) -> list[_Grid]:
    """The regimes of grids that some group has, each once."""
    wanted = [pattern for pattern in convention.groups if placement.fits(pattern, chosen)]
    keys = dict.fromkeys((pattern.grid, pattern.regime) for pattern in wanted)
    return [_Grid(convention.grids[name], regime, convention) for name, regime in keys]


def _cells_of_id(family: _Family, number: int) -> tuple[grid_rules.Cell, ...]:
    of = family.of
    try:
        return grid_rules.cells_of_task(of.grid, of.regime, of.convention.numbering, number)
    except UsageError:
        _print_grid(of, console(stderr=True))
        raise


def _cells_of_config(family: _Family, asked: Mapping[str, Any]) -> tuple[grid_rules.Cell, ...]:
    of = family.of
    constants = {k: v for k, v in of.grid.regimes[of.regime].set.items() if v not in family.pattern.holes}
    found = tuple(cell for cell in of.cells if _fits({**constants, **cell.values}, asked))
    if not found:
        _print_grid(of, console(stderr=True))
        text = ", ".join(f"{key} = {wording.value_text(value)}" for key, value in asked.items())
        raise UsageError(
            f"no {grid_rules.regime_label(of.regime)}task of the grid {of.grid.name!r} has {text}",
            code="no-such-task",
            fix="See all of them with: ckptman task",
        )
    return found


def _fits(values: Mapping[str, terms.Scalar], asked: Mapping[str, Any]) -> bool:
    return all(comparing.same_value(values.get(key), value) for key, value in asked.items())


# --- showing ----------------------------------------------------------------------------------------------------------


def _show_all(grids: Sequence[_Grid], convention: Convention, *, as_json: bool) -> None:
    if as_json:
        print_json(_document(convention, [_cell_json(of, cell) for of in grids for cell in of.cells]))
        return
    out = console()
    for index, of in enumerate(grids):
        if index:
            out.print()
        _print_grid(of, out)


def _print_grid(of: _Grid, out: Console) -> None:
    patterns = [p for p in of.convention.groups if (p.grid, p.regime) == (of.grid.name, of.regime)]
    out.print(
        plain(of.regime or of.grid.name, "bold")
        + plain(f", {of.convention.numbering} numbering: {', '.join(p.pattern for p in patterns)}")
    )
    titles = [of.convention.axis(axis).title for axis in of.axes]
    head = ["Task", *titles, *(f"Task ({name} numbering)" for name in of.differing)]
    rows = [[str(cell.task), *_words(of, cell), *(str(of.ids(cell)[name]) for name in of.differing)]
            for cell in of.cells]  # fmt: skip
    print_table(out, [head, *rows], right=(0,), indent="  ")


def _words(of: _Grid, cell: grid_rules.Cell) -> list[str]:
    return [of.convention.axis(axis).word(cell.values[axis]) for axis in of.axes]


def _show_task(family: _Family, found: Sequence[grid_rules.Cell], out: Console) -> None:
    of = family.of
    numbering = of.convention.numbering
    k = "" if family.k is None else f", K = {family.k}"
    out.print(plain(f"task {found[0].task}", "bold") + plain(f", {family.pattern.title}{k} ({numbering} numbering)"))
    facts = [("group", family.name), ("folder", family.folder(found[0]))]
    for name in of.differing:
        others = sorted({of.ids(cell)[name] for cell in found})
        noun = "task" if len(others) == 1 else "tasks"
        facts.append((f"{name} numbering", f"{noun} {' and '.join(map(str, others))}"))
    width = max(len(label) for label, _ in facts)
    for label, fact in facts:
        out.print(plain(f"  {label:<{width}}  ", "dim") + plain(fact))
    configs = [family.config(cell) for cell in found]
    columns = [[wording.value_text(config[key]) for config in configs] for key in configs[0]]
    head = ["Key", *(["Value"] if len(found) == 1 else [", ".join(_brief(of, cell)) for cell in found])]
    print_table(out, [head, *([key, *values] for key, values in zip(configs[0], columns, strict=True))], indent="  ")


def _brief(of: _Grid, cell: grid_rules.Cell) -> list[str]:
    return [of.convention.axis(axis).brief(cell.values[axis]) for axis in of.axes]


def _print_ids(of: _Grid, found: Iterable[grid_rules.Cell]) -> None:
    """The ids on stdout, for a shell; what each stands for on stderr."""
    out, talk = console(), console(stderr=True)
    for cell in found:
        talk.print(
            plain(f"{grid_rules.regime_label(of.regime)}task {cell.task} ({of.convention.numbering} numbering): "
                  f"{', '.join(_brief(of, cell))}", "dim")
        )  # fmt: skip
    for task in dict.fromkeys(cell.task for cell in found):
        out.print(plain(task))


def _document(convention: Convention, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema_version": records.SCHEMA_VERSION, "numbering": convention.numbering, "tasks": tasks}


def _cell_json(of: _Grid, cell: grid_rules.Cell) -> dict[str, Any]:
    return {
        "task": cell.task,
        "grid": of.grid.name,
        "regime": of.regime,
        "config": dict(cell.values),
        "numberings": of.ids(cell),
    }


def _family_of(family: _Family, cell: grid_rules.Cell) -> dict[str, terms.Scalar]:
    convention = family.of.convention
    values = grid_rules.config_values(family.pattern, family.of.grid, family.held, cell, convention)
    return placement.family_of_values(family.pattern, values, convention)


def _family_json(family: _Family, cell: grid_rules.Cell) -> dict[str, Any]:
    return {
        "config": family.config(cell),
        **_family_of(family, cell),
        "k": family.k,
        "group": family.name,
        "folder": family.folder(cell),
    }
