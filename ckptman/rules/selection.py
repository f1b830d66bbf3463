"""Which runs are meant: the convention's grid, or the part of it that a user asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from ckptman.rules import comparing, placement
from ckptman.rules.facets import Scalar
from ckptman.rules.grids import Cell, cells, config_values, group_names, group_values, task_count
from ckptman.rules.terms import Convention, Grid, GroupPattern, K
from ckptman.text import UsageError, wording

_MOST_NUMBERS = 100_000
"""A range of more numbers than this is a slip of the keyboard."""


@dataclass(frozen=True)
class Selection:
    """A part of the grid. None means all that the grid has."""

    groups: tuple[str, ...] | None = None
    """Names of groups, in which `*` and `?` stand for any letters."""
    k: tuple[int, ...] | None = None
    """The longest trained lists; any, also such as are not on the grid."""
    tasks: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None
    """Any, also such as are not on the grid."""
    facets: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    """Values of facets, by name; a facet that is not there may have any."""


@dataclass(frozen=True)
class GridRun:
    """A run that the grid has, whether it was trained or not."""

    pattern: GroupPattern
    group: str
    held: Mapping[str, Scalar]
    """What the group's name holds."""
    family: Mapping[str, Scalar]
    """The values of the facets that are levels of the tree, by name."""
    cell: Cell
    seed: int
    values: Mapping[str, Scalar]
    """The configuration values that the grid decides, the seed included."""
    notes: tuple[str, ...]
    """What tells it from other configurations of its task."""

    @property
    def k(self) -> int | None:
        """The longest trained list; None in a grid that is not about it."""
        return comparing.whole(self.held.get(K))

    @property
    def key(self) -> tuple[str, tuple[tuple[str, Scalar], ...], int]:
        """What no other run of the grid has: the group, the value on each axis, the seed."""
        return self.group, tuple(sorted(self.cell.values.items())), self.seed

    @property
    def label(self) -> str:
        """The run for people: group, task, seed."""
        return f"{self.group} task {' '.join((str(self.cell.task), *self.notes))} seed {self.seed}"


def grid_runs(convention: Convention, selection: Selection | None = None) -> tuple[GridRun, ...]:
    """The runs of the grid, by family, K, task and seed.

    Raises:
        UsageError: (`no-such-task`, `no-such-regime`, `nothing-selected`) if the grid has nothing that is asked for.
    """
    asked = selection or Selection()
    patterns = _patterns(convention, asked)
    _check_tasks(patterns, asked, convention)
    found = tuple(run for pattern in patterns for run in _runs_of(pattern, asked, convention))
    for name in asked.groups or ():
        _check_group(name, patterns, asked, convention)
    if not found and asked.groups is not None:
        raise UsageError(
            f"nothing of what is asked for is in a group called {' or '.join(asked.groups)}",
            code="nothing-selected",
            fix=f"The groups are: {', '.join(pattern.pattern for pattern in patterns)}. Not each has every task; a K "
            "that is not on a group's grid is asked for with --k.",
        )
    return found


def parse_numbers(text: str, what: str) -> tuple[int, ...] | None:
    """Whole numbers as `4-16:2,20`: ranges with both ends, a step after a colon, commas; None for `all`.

    Args:
        what: What the numbers are, for the error message.

    Raises:
        UsageError: (`bad-range`) for any other text.
    """
    if text.strip() == "all":
        return None
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,19})(?:-([0-9]{1,19})(?::([0-9]{1,9}))?)?\s*", part)
        low, high, step = (int(group) if group else None for group in match.groups()) if match else (None, None, None)
        if low is None or step == 0 or (high is not None and high < low):
            raise _bad_range(what, text)
        if high is None:
            high = low
        if (high - low) // (step or 1) >= _MOST_NUMBERS:
            raise _bad_range(what, text)
        found.extend(range(low, high + 1, step or 1))
    return tuple(dict.fromkeys(found))


def parse_choices(text: str, known: Mapping[str, Any], what: str) -> tuple[Any, ...] | None:
    """The values of words joined by commas; None for `all`.

    Args:
        known: The value of each word.
        what: What the words say, for the error message.

    Raises:
        UsageError: (`bad-choice`) for an unknown word.
    """
    if text.strip() == "all":
        return None
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in known:
            raise UsageError(
                f"{what}: there is no {word!r}",
                code="bad-choice",
                fix=f"Give one or more of {', '.join(known)}, joined by commas, or all.",
            )
    return tuple(dict.fromkeys(known[word] for word in words))


def _patterns(convention: Convention, asked: Selection) -> list[GroupPattern]:
    """The group patterns that may have what is asked for, of those whose names the grid can write."""
    placement.check_grid(convention)
    placement.check_facets(asked.facets, convention)
    there = [
        pattern
        for pattern in convention.groups
        if all(hole == K or _holds(pattern, hole, convention) for hole in pattern.holes)
    ]
    found = [
        pattern
        for pattern in there
        if all(name not in pattern.facets or pattern.facets[name] in values for name, values in asked.facets.items())
    ]
    if not found:
        raise UsageError(
            "the convention has no group of the families that are asked for",
            code="nothing-selected",
            fix=f"Its groups are: {', '.join(pattern.pattern for pattern in there) or 'none'}.",
        )
    return found


def _holds(pattern: GroupPattern, hole: str, convention: Convention) -> bool:
    """Whether a grid says what stands in a group's name."""
    return any(hole in product for product in convention.grids[pattern.grid].across)


def _held(pattern: GroupPattern, asked: Selection, grid: Grid) -> Iterator[dict[str, Scalar]]:
    """What the names of a pattern's groups hold, with the K that are asked for, on the grid or not."""
    seen = set()
    for held in group_values(pattern, grid if asked.k is None or grid.k else _with_k(grid, asked.k)):
        for k in (held.get(K),) if asked.k is None or K not in pattern.holes else asked.k:
            found = {**held, **({K: k} if K in pattern.holes else {})}
            if (name := pattern.format(found)) not in seen:
                seen.add(name)
                yield found


def _with_k(grid: Grid, lengths: tuple[int, ...]) -> Grid:
    return replace(grid, across=tuple({**product, K: lengths} for product in grid.across or ({},)))


def _check_group(name: str, patterns: list[GroupPattern], asked: Selection, convention: Convention) -> None:
    """A group that is asked for is on the grid, or has a K that is asked for."""
    known = {*group_names(convention)}
    known |= {p.format(held) for p in patterns for held in _held(p, asked, convention.grids[p.grid])}
    if not any(fnmatchcase(group, name) for group in known):
        raise UsageError(
            f"there is no group {name}{wording.did_you_mean(name, known)}",
            code="nothing-selected",
            fix=f"The groups are: {', '.join(pattern.pattern for pattern in patterns)}. A K that is not on a group's "
            "grid is asked for with --k.",
        )


def _check_tasks(patterns: list[GroupPattern], asked: Selection, convention: Convention) -> None:
    """Every task that is asked for is in at least one of the regimes that are asked for."""
    counts = {p.regime: task_count(convention.grids[p.grid], p.regime, convention.numbering) for p in patterns}
    for task in asked.tasks or ():
        if task >= max(counts.values()):
            ids = "; ".join(f"{regime or 'tasks'}: 0 to {count - 1}" for regime, count in counts.items())
            raise UsageError(
                f"there is no task {task} in the {convention.numbering!r} numbering ({ids})",
                code="no-such-task",
                fix="See all of them with: ckptman task",
            )


def _runs_of(pattern: GroupPattern, asked: Selection, convention: Convention) -> Iterator[GridRun]:
    grid: Grid = convention.grids[pattern.grid]
    for held in _held(pattern, asked, grid):
        group = pattern.format(held)
        if asked.groups is not None and not any(fnmatchcase(group, wanted) for wanted in asked.groups):
            continue
        for cell in cells(grid, pattern.regime, convention.numbering):
            if asked.tasks is not None and cell.task not in asked.tasks:
                continue
            values = config_values(pattern, grid, held, cell, convention)
            family = placement.family_of_values(pattern, values, convention)
            if not all(family.get(name) in wanted for name, wanted in asked.facets.items()):
                continue
            notes = placement.notes_of(pattern, values, convention)
            for seed in grid.seeds if asked.seeds is None else asked.seeds:
                yield GridRun(
                    pattern=pattern,
                    group=group,
                    held=held,
                    family=family,
                    cell=cell,
                    seed=seed,
                    values={**values, convention.seed_key: seed},
                    notes=notes,
                )


def _bad_range(what: str, text: str) -> UsageError:
    return UsageError(
        f"{what}: {text!r} is not a list of whole numbers",
        code="bad-range",
        fix="Write numbers and ranges with commas, and a step after a colon: 4-16:2 or 4,8,12; or all.",
    )
