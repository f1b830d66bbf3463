"""The folder levels of a tree: templates over facets, the group, the task id and the seed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath, PurePosixPath
from typing import Any

from ckptman.rules.facets import Facet, Family, Scalar

HOLE = re.compile(r"\{([A-Za-z]\w*)(?::0?([1-9])d)?\}", re.ASCII)
"""A facet, `group`, `task` or `seed` in a level; of a task, `{task:04d}` with its digits."""
GROUP, TASK, SEED = "group", "task", "seed"
_MOST_DIGITS = 9


@dataclass(frozen=True)
class Levels:
    """What the path of a folder of a tree says; None for the levels that it does not reach."""

    facets: Mapping[str, Scalar]
    group: str | None = None
    task: int | None = None
    run: str | None = None
    """The name of the run's folder."""


@dataclass(frozen=True)
class Layout:
    """The levels of the tree's folders, the last of which is a run's."""

    levels: tuple[str, ...]
    facets: tuple[Facet, ...]
    """Those that are a part of a level, in the order of the levels."""
    unknown_seed: str
    saved_wandb: str
    raw_task: str
    """The template of the task folders of raw outputs; empty where they have none."""

    @cached_property
    def depth(self) -> int:
        """The number of levels."""
        return len(self.levels)

    @cached_property
    def group_level(self) -> int:
        """How many levels a group's folder has above it and itself."""
        return self._level_of(GROUP)

    @cached_property
    def has_tasks(self) -> bool:
        """Whether the tasks have folders."""
        return any(TASK in holes_of(level) for level in self.levels)

    def facets_of(self, level: int) -> tuple[Facet, ...]:
        """The facets that the level with this index is made of."""
        return tuple(facet for facet in self.facets if facet.name in holes_of(self.levels[level]))

    def _level_of(self, hole: str) -> int:
        return next(index for index, level in enumerate(self.levels, 1) if hole in holes_of(level))

    @property
    def task_pattern(self) -> str:
        """A task folder's name, with `{task}` for the id."""
        return HOLE.sub(lambda m: "{" + m[1] + "}", self._task_level)

    @property
    def run_pattern(self) -> str:
        """A run folder's name, with `{seed}` for the seed."""
        return self.levels[-1]

    @cached_property
    def _task_level(self) -> str:
        return next((level for level in self.levels if TASK in holes_of(level)), self.raw_task)

    def task(self, task: int | None) -> str:
        """The folder of a task id."""
        return self._format(self._task_level, {TASK: task})

    def run(self, seed: int | None, *notes: str, family: Mapping[str, Scalar] | None = None) -> str:
        """The folder of a run; `notes` tell apart several runs of one task and seed."""
        return "-".join((self._format(self.levels[-1], {SEED: seed, **(family or {})}), *notes))

    def folder(self, family: Family, group: str, task: int | None) -> PurePosixPath:
        """The folder in which a run's lies, relative to the root."""
        values = {**self.named(family), GROUP: group, TASK: task}
        return PurePosixPath(*(self._format(level, values) for level in self.levels[:-1]))

    def family_folder(self, family: Family) -> PurePosixPath:
        """The folder above the groups of a family, relative to the root."""
        values = self.named(family)
        return PurePosixPath(*(self._format(level, values) for level in self.levels[: self.group_level - 1]))

    def named(self, family: Family) -> dict[str, Scalar]:
        """The family's values, by facet."""
        return {facet.name: value for facet, value in zip(self.facets, family, strict=True)}

    def _format(self, level: str, values: Mapping[str, Any]) -> str:
        def filled(match: re.Match[str]) -> str:
            name, digits = match.groups()
            value = values[name]
            if name == SEED:
                return self.unknown_seed if value is None else str(value)
            if name == TASK:
                return f"{value:0{digits or 1}d}"
            return str(value) if name == GROUP else self._by_name[name].folder(value)

        return HOLE.sub(filled, level)

    @cached_property
    def _by_name(self) -> Mapping[str, Facet]:
        return {facet.name: facet for facet in self.facets}

    def parse_task(self, name: str) -> int | None:
        """The task id that the name of a task folder holds, in a tree or in raw outputs; None for another folder."""
        for regex in self._task_regexes:
            if match := regex.fullmatch(name):
                return int(match[TASK])
        return None

    def parse_run(self, name: str) -> int | None:
        """The seed that a run folder's name holds, or None for another folder or an unknown seed."""
        match = self._regexes[-1].fullmatch(name)
        return int(match[SEED]) if match and match[SEED] != self.unknown_seed else None

    def is_run(self, name: str) -> bool:
        """Whether a folder's name is that of a run."""
        return self._regexes[-1].fullmatch(name) is not None

    def parse(self, folder: PurePath) -> Levels | None:
        """What a folder's path, relative to the root of a tree, says; None where a name is not one of its level."""
        if len(folder.parts) > self.depth:
            return None
        said: dict[str, Any] = {}
        for regex, name in zip(self._regexes, folder.parts, strict=False):
            match = regex.fullmatch(name)
            if match is None:
                return None
            said.update(match.groupdict())
        facets = {facet.name: facet.parse(said[facet.name]) for facet in self.facets if facet.name in said}
        return Levels(
            facets=facets,
            group=said.get(GROUP),
            task=int(said[TASK]) if TASK in said else None,
            run=folder.parts[-1] if len(folder.parts) == self.depth else None,
        )

    @cached_property
    def _regexes(self) -> tuple[re.Pattern[str], ...]:
        *above, last = (self._regex(level) for level in self.levels)
        return *map(re.compile, above), re.compile(f"{last}(?:-[A-Za-z0-9_.-]+)?", re.ASCII)

    @cached_property
    def _task_regexes(self) -> tuple[re.Pattern[str], ...]:
        return tuple(
            re.compile(self._regex(level)) for level in dict.fromkeys((self._task_level, self.raw_task)) if level
        )

    def _regex(self, level: str) -> str:
        kinds = {facet.name: facet.pattern for facet in self.facets}
        pieces, end = [], 0
        for match in HOLE.finditer(level):
            name, digits = match.groups()
            kinds[GROUP] = ".+"
            kinds[TASK] = f"[0-9]{{{digits or 1},{_MOST_DIGITS}}}"
            kinds[SEED] = f"[0-9]{{1,18}}|{re.escape(self.unknown_seed)}"
            pieces += [re.escape(level[end : match.start()]), f"(?P<{name}>{kinds[name]})"]
            end = match.end()
        return "".join((*pieces, re.escape(level[end:])))


def holes_of(level: str) -> list[str]:
    """The names in a level's braces."""
    return [match[1] for match in HOLE.finditer(level)]
