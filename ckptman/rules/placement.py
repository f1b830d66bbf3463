"""Where a checkpoint belongs in the tree: decided by the configuration inside the file, by the convention's levels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from sys import intern
from typing import Any, TypeVar

from ckptman.rules import comparing
from ckptman.rules.facets import Family, Scalar
from ckptman.rules.grids import cells, config_values, group_names, group_values, outside, task_of
from ckptman.rules.naming import naming_of
from ckptman.rules.recipe import SEED_END
from ckptman.rules.terms import Convention, GroupPattern
from ckptman.text import CkptmanError, ConfigurationError, RefusedError, UsageError, wording

REFUSED_FILE = "refused.json"
"""At the root of a tree: what of its sources was not taken. It alone tells of files elsewhere."""

_Path = TypeVar("_Path", bound=PurePath)
_MOST_BELOW_STEP = 3
"""Folders between a checkpoint's file and the folder that says its step, that one included."""


Shelves = dict[tuple[str, str, int | None], tuple[Mapping[str, Scalar], PurePosixPath]]
"""By family, group and task, what all places of a task have: the family's values by name, and the task folder."""


@dataclass(frozen=True, slots=True)
class Place:
    """The task folder a run belongs to, and what tells it apart from other runs of the same seed there."""

    family: Mapping[str, Scalar]
    """The values of the facets that are levels of the tree, by name."""
    group: str
    task: int | None
    """None for a run of a group of no known pattern, where the source says none and the tree needs none."""
    seed: int | None
    notes: tuple[str, ...]
    """Values of axes outside the numbering, such as `mlp0`, for the run folder's name."""
    folder: PurePosixPath
    """The task folder, relative to the root: all levels but the run's."""

    def with_seed(self, seed: int | None) -> Place:
        """The same, of another seed."""
        return Place(self.family, self.group, self.task, seed, self.notes, self.folder)

    def run_folder(self, convention: Convention, *more: str) -> PurePosixPath:
        """The run's folder, relative to the root; `more` tells apart a second run of the same seed."""
        return self.folder / convention.folders.run(self.seed, *self.notes, *more, family=self.family)

    def is_at(self, folder: PurePosixPath, convention: Convention) -> bool:
        """Whether a run folder is the one of this place, or one beside it that tells apart a second run."""
        name = convention.folders.run(self.seed, *self.notes, family=self.family)
        return folder.parent == self.folder and f"{folder.name}-".startswith(f"{name}-")

    def root_of(self, folder: Path) -> Path | None:
        """The root of the tree in which `folder` is this task folder; None where it is another one."""
        wanted = self.folder.parts
        end = len(folder.parts) - len(wanted)
        return Path(*folder.parts[:end]) if folder.parts[end:] == wanted and end >= 0 else None


def seed_of(said: object) -> int | None:
    """The seed, as a configuration says it; None where that is none, or no seed."""
    seed = comparing.whole(said)
    return seed if seed is not None and 0 <= seed < SEED_END else None


def family_of(config: Mapping[str, Any], convention: Convention) -> Family:
    """The family of a configuration: its value of each facet that is a level of the tree.

    Raises:
        RefusedError: (`no-family`) if the configuration lacks a key that decides it.
    """
    known = convention.lifted(config)
    return tuple(facet.of(known) for facet in convention.family_facets)


def families(convention: Convention) -> tuple[Family, ...]:
    """All families of the convention's values, in its order; those of facets that may have any value are left out."""
    known = (tuple(value.value for value in facet.values) for facet in convention.family_facets)
    return tuple(itertools.product(*known))


def families_of(pattern: GroupPattern, convention: Convention) -> tuple[Family, ...]:
    """The families that the groups of a pattern are of, as far as its facets and its grid tell, in their order."""
    grid = convention.grids[pattern.grid]
    found: dict[Family, None] = {}
    for held in group_values(pattern, grid) or ({},):
        for cell in cells(grid, pattern.regime, convention.numbering):
            values = config_values(pattern, grid, held, cell, convention)
            family = family_of_values(pattern, values, convention)
            if len(family) == len(convention.family_facets):
                found[tuple(family.values())] = None
    known = families(convention)
    return tuple(sorted(found, key=lambda family: known.index(family) if family in known else len(known)))


def notes_of(pattern: GroupPattern, config: Mapping[str, Any], convention: Convention) -> tuple[str, ...]:
    """What tells a configuration from others of its task, as names of files have it: `mlp0` where ids leave it open."""
    grid = convention.grids[pattern.grid]
    apart = outside(grid, pattern.regime, convention.numbering)
    if not convention.folders.has_tasks:
        apart = grid.regimes[pattern.regime].axes
    naming = naming_of(convention)
    return tuple(naming.short(axis, config) for axis in apart)


def family_of_values(pattern: GroupPattern, values: Mapping[str, Any], convention: Convention) -> dict[str, Scalar]:
    """The family of a cell of the grid, by facet: what its pattern fixes, else what its values say, if they do."""
    found: dict[str, Scalar] = {}
    for facet in convention.family_facets:
        if facet.name in pattern.facets:
            found[facet.name] = pattern.facets[facet.name]
        else:
            with suppress(RefusedError):
                found[facet.name] = facet.of(values)
    return found


def family_folder(family: Family, convention: Convention) -> PurePosixPath:
    """The folder above the groups of a family, relative to the root."""
    return convention.folders.family_folder(family)


def family_folders(convention: Convention) -> tuple[PurePosixPath, ...] | None:
    """Every folder that groups may lie in, relative to the root; None where any name may be one, or none is."""
    layout = convention.folders
    above = [facet for level in range(layout.group_level - 1) for facet in layout.facets_of(level)]
    if not above or any(not facet.values for facet in above):
        return None
    known = {facet.name: [value.value for value in facet.values] for facet in above}
    any_of = [known.get(facet.name, [None]) for facet in convention.family_facets]
    return tuple(dict.fromkeys(family_folder(family, convention) for family in itertools.product(*any_of)))


def family_title(family: Family, convention: Convention) -> str:
    """A family for people: `With LayerNorm, fixed single-K training`."""
    return ", ".join(facet.heading(value) for facet, value in zip(convention.family_facets, family, strict=True))


def fits(pattern: GroupPattern, family: Mapping[str, Scalar]) -> bool:
    """Whether a pattern's facets do not contradict these values."""
    return all(comparing.same_value(family[name], value) for name, value in pattern.facets.items() if name in family)


@lru_cache(maxsize=256)
def group_pattern(name: str, convention: Convention) -> GroupPattern | None:
    """The known pattern that a group's name follows."""
    return next((group for group in convention.groups if group.parse(name) is not None), None)


def said_by_group(name: str | None, convention: Convention) -> dict[str, Any]:
    """The configuration values that a group's name says; none where it is of no known pattern."""
    found = ((group, said) for group in convention.groups if name and (said := group.said_by(name)) is not None)
    group, said = next(found, (None, {}))
    keys = {hole: convention.key_of(hole) for hole in said}
    told = {*(() if group is None else group.holes)}  # of what only a former name said, the seed alone
    return {
        key: value
        for hole, value in said.items()
        if (key := keys[hole]) is not None and (hole in told or key == convention.seed_key)
    }


def parse_group(name: str, convention: Convention) -> tuple[GroupPattern, dict[str, Any]]:
    """The pattern that a group's name follows, and what the name holds.

    Raises:
        UsageError: (`unknown-group`) for a name of no known pattern; (`no-grid`).
    """
    check_grid(convention)
    pattern = group_pattern(name, convention)
    parsed = None if pattern is None else pattern.parse(name)
    if pattern is None or parsed is None:
        raise UsageError(
            f"{name!r} is of no known group pattern, so its task ids mean what its source says"
            + wording.did_you_mean(name, group_names(convention)),
            code="unknown-group",
            fix=f"Known are: {', '.join(pattern.pattern for pattern in convention.groups)}",
        )
    return pattern, parsed


def check_grid(convention: Convention) -> None:
    """See to it that the convention describes groups and grids.

    Raises:
        UsageError: (`no-grid`) it describes none.
    """
    if not convention.groups:
        raise UsageError(
            f"the convention ({convention.title}) describes no grid: nothing is known of runs that are not there, and "
            "none can be trained by it",
            code="no-grid",
            fix="See what is there with: ckptman ls. Or describe groups and grids in ckptman.yaml.",
        )


def default_pattern(convention: Convention, asked: Mapping[str, Scalar]) -> GroupPattern:
    """The first group pattern that does not contradict the facets asked for; it is meant where no group is named.

    Raises:
        ConfigurationError: (`no-group`) if there is none.
        UsageError: (`no-grid`).
    """
    check_grid(convention)
    found = next((pattern for pattern in convention.groups if fits(pattern, asked)), None)
    if found is None:
        raise _no_group(ConfigurationError, asked, convention)
    return found


def check_facets(names: Iterable[str], convention: Convention) -> None:
    """See to it that the convention has these facets.

    Raises:
        UsageError: (`unknown-facet`) naming the nearest known one.
    """
    if unknown := next((name for name in names if name not in convention.facets), None):
        raise UsageError(
            f"there is no facet {unknown!r}{wording.did_you_mean(unknown, convention.facets)}",
            code="unknown-facet",
            fix=f"There are: {', '.join(convention.facets) or 'none'}.",
        )


def facets_of(config: Mapping[str, Any], convention: Convention) -> dict[str, Scalar]:
    """The value of every facet that a configuration has one of."""
    return _facets_of(convention.lifted(config), {}, convention)


def _facets_of(config: Mapping[str, Any], family: Mapping[str, Scalar], convention: Convention) -> dict[str, Scalar]:
    """As `facets_of`, of a lifted configuration, whose family may be known."""
    found = {}
    for facet in convention.facets.values():
        with suppress(RefusedError):
            found[facet.name] = family[facet.name] if facet.name in family else facet.of(config)
    return found


def other_facets(config: Mapping[str, Any], convention: Convention) -> dict[str, Scalar]:
    """The value of each facet that commands tell and that is no level of the tree, where a configuration has one."""
    told = convention.told_facets[len(convention.family_facets) :]
    known = facets_of(config, convention) if told else {}
    return {facet.name: known[facet.name] for facet in told if facet.name in known}


def group_of(config: Mapping[str, Any], said: str | None, convention: Convention) -> tuple[str, GroupPattern | None]:
    """The group a configuration belongs to, and its pattern (None for a group that is not of a known pattern).

    A name of a pattern of the configuration's family is kept only if it says what the configuration says; otherwise
    family and K give the name. Any other name is kept as it is: an experiment called like a group of another family is
    one of its own. A name that groups of a pattern had before (`was`) is one of that pattern.

    Args:
        said: The group that the configuration or the source folder names, if any.
    """
    family = convention.folders.named(family_of(config, convention))
    return _group_of(convention.lifted(config), family, said, convention)


def _group_of(
    config: Mapping[str, Any], family: Mapping[str, Scalar], said: str | None, convention: Convention
) -> tuple[str, GroupPattern | None]:
    """As `group_of`, of a lifted configuration whose family is known."""
    facets = _facets_of(config, family, convention)
    mine = [pattern for pattern in convention.groups if fits(pattern, facets)]
    values = {**config, **facets}
    for group in mine:
        parsed = group.parse(said or "")
        if parsed is not None and all(comparing.same_value(values.get(key), value) for key, value in parsed.items()):
            return str(said), group
    renamed = [group for group in mine if said is not None and group.was_called(said)]
    if said is not None and not renamed and group_pattern(said, convention) not in mine:
        return _safe_folder(said), None
    mine = renamed or mine
    if not mine:
        raise _no_group(RefusedError, facets, convention)
    named = next((group for group in mine if all(hole in values for hole in group.holes)), mine[0])
    if lacking := [hole for hole in named.holes if hole not in values]:
        raise RefusedError(
            f"the configuration has no {' and no '.join(lacking)}, which its group's name holds: {named.pattern}",
            code="no-group",
            fix="If the file's name says it, pass --trust name.",
        )
    return named.format({key: comparing.canonical(values[key]) for key in named.holes}), named


def place_of(
    config: Mapping[str, Any],
    convention: Convention,
    *,
    source_group: str | None = None,
    source_task: int | None = None,
    shelves: Shelves | None = None,
) -> Place:
    """Where a run with this configuration belongs.

    Args:
        config: The training configuration.
        source_group: The group that the source says, for a configuration of no known group.
        source_task: The task id at the source, which stays the task id in a group of no known pattern.
        shelves: What places of before have in common with this one; it is added to.

    Raises:
        RefusedError: if the configuration does not say, or says something outside the grid.
    """
    config = convention.lifted(config)
    family = family_of(config, convention)
    by_name = convention.folders.named(family)
    group, pattern = _group_of(config, by_name, source_group, convention)
    notes: tuple[str, ...] = ()
    task: int | None = None
    if pattern is None:
        task = source_task
        if task is None and convention.folders.has_tasks:
            raise RefusedError(
                f"the group {group!r} is of no known pattern, and the source folder has no task id",
                code="no-task",
                fix="Put the file into a task folder, or add a pattern for the group to ckptman.yaml.",
            )
    else:
        task = task_of(convention.grids[pattern.grid], pattern.regime, convention.numbering, config)
        notes = notes_of(pattern, config, convention)
    key = repr(family), group, task  # in which 1 is not true
    shelf = None if shelves is None else shelves.get(key)
    if shelf is None:
        shelf = by_name, convention.folders.folder(family, group, task)
        if shelves is not None:
            shelves[key] = shelf
    named, folder = shelf
    return Place(named, intern(group), task, seed_of(config.get(convention.seed_key)), notes, folder)


def root_above(folder: Path, convention: Convention) -> Path | None:
    """The root of the innermost tree that an absolute folder lies in, told by its family's folders; None outside."""
    parts = folder.parts
    depth = _telling_depth(convention)
    return next(
        (
            Path(*parts[:index])
            for index in range(len(parts) - depth, 0, -1)
            if convention.folders.parse(PurePath(*parts[index : index + depth])) is not None
        ),
        None,
    )


def _telling_depth(convention: Convention) -> int:
    """How many levels tell a tree: those of its families, or, where a group may come first, all."""
    above = convention.folders.group_level - 1
    return above or convention.folders.depth


def group_around(path: PurePosixPath, convention: Convention) -> PurePosixPath | None:
    """The group's folder in which a path of a tree, relative to its root, lies; None outside of any family."""
    level = convention.folders.group_level
    folder = PurePosixPath(*path.parts[:level])
    known = len(path.parts) > level and convention.folders.parse(folder) is not None
    return folder if known else None


def group_folder_of(task_folder: _Path, convention: Convention) -> _Path:
    """The group's folder of a task folder; a folder that is no task folder stands for itself."""
    return task_folder if convention.folders.parse_task(task_folder.name) is None else task_folder.parent


def above_run(folder: PurePosixPath, convention: Convention) -> PurePosixPath:
    """The folder in which a run's lies; a folder that is no run's stands for itself."""
    levels = convention.folders.parse(folder)
    return folder.parent if levels is not None and levels.run is not None else folder


def task_folder_of(path: _Path, convention: Convention) -> _Path | None:
    """The innermost task folder around a file, or that a folder itself is; None where there is none."""
    return next((p for p in (path, *path.parents) if convention.folders.parse_task(p.name) is not None), None)


def named_by_folders(path: PurePath, convention: Convention) -> tuple[str | None, int | None, int | None]:
    """The group, task id and seed that the names of the folders around a file say; None for what none says."""
    group, task = _group_and_task(path, convention)
    runs = (convention.folders.parse_run(folder.name) for folder in path.parents)
    seed = next((seed for seed in runs if seed is not None), None)
    if seed is None and any(pattern.was for pattern in convention.groups):  # which say the seed, too
        seed = comparing.whole(said_by_group(group, convention).get(convention.seed_key))
    return group, task, seed


def _group_and_task(path: PurePath, convention: Convention) -> tuple[str | None, int | None]:
    folder = task_folder_of(path.parent, convention)
    if folder is not None:
        names = (above.name for above in (folder.parent, *folder.parent.parents))
        return _joined(names, convention), convention.folders.parse_task(folder.name)
    if not convention.folders.raw_task:  # the folder that a run has for itself, whatever it is called
        ignored = {convention.raw.saved_models, *convention.raw.inner}
        home = folder_at_source(path, convention)
        around = itertools.chain([home], home.parents)
        inner = (p.name for p in around if p.name not in ignored and not convention.folders.is_run(p.name))
        return _joined(inner, convention), None
    return next((p.name for p in path.parents if group_pattern(p.name, convention) is not None), None), None


def configs_of(group: str | None, task: int | None, convention: Convention) -> list[dict[str, Any]]:
    """The configurations that the folders of a group and a task may be of, by any numbering, as far as these decide."""
    pattern = group_pattern(group or "", convention)
    if group is None or pattern is None:
        return []
    grid, held = convention.grids[pattern.grid], pattern.parse(group) or {}
    found = {
        tuple(cell.values.items()): cell
        for numbering in grid.numberings
        for cell in cells(grid, pattern.regime, numbering)
        if task in (None, cell.task)
    }
    return [dict(config_values(pattern, grid, held, cell, convention)) for cell in found.values()]


def folder_at_source(path: _Path, convention: Convention) -> _Path:
    """The folder around a checkpoint at its source; of one below a folder that says its step, the one around that."""
    if not convention.raw.step_folders:
        return path.parent
    near = itertools.islice(path.parents, _MOST_BELOW_STEP)
    return next((folder.parent for folder in near if convention.raw.is_step_folder(folder.name)), path.parent)


def run_at_source(path: _Path, convention: Convention) -> _Path:
    """The folder that the run of a checkpoint has at its source: around those that every run has in its own."""
    folder = folder_at_source(path, convention)
    while folder.name in (convention.raw.saved_models, *convention.raw.inner):
        folder = folder.parent
    return folder


def name_at_source(path: PurePath, convention: Convention) -> str:
    """What a checkpoint is called at its source: by its own name, below a folder that says its step by both."""
    if not convention.raw.step_folders:
        return path.name
    return "_".join(path.relative_to(folder_at_source(path, convention)).parts)


def _joined(names: Iterable[str], convention: Convention) -> str | None:
    """The group that folders name together, the innermost of them first; that of a tree is called so already."""
    inner = list(itertools.islice(names, convention.raw.group_levels))
    if inner and group_pattern(inner[0], convention) is not None:
        return inner[0]
    return "_".join(filter(None, reversed(inner))) or None


def _no_group(kind: type[CkptmanError], facets: Mapping[str, Scalar], convention: Convention) -> CkptmanError:
    said = ", ".join(
        convention.facets[name].heading(value) for name, value in facets.items() if convention.facets[name].values
    )
    return kind(
        f"no group pattern of the convention is for {said or 'such a configuration'}",
        code="no-group",
        fix="Add a group pattern for this family to ckptman.yaml.",
    )


def _safe_folder(name: str) -> str:
    """A group's name, if it can be a folder's."""
    if (
        name in ("", ".", "..")
        or name.startswith(".")
        or name != name.strip()
        or re.search(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udc7f\udd00-\udfff]", name)  # of surrogates, those of other bytes
        or len(name.encode("utf-8", "surrogateescape")) > 200
    ):
        raise RefusedError(
            f"the group name {name!r} cannot be a folder's name",
            code="unsafe-group",
            fix="Rename the group: a name may hold neither slashes nor control characters, nor begin with a dot, nor "
            "begin or end with white space.",
        )
    return name
