"""Checks of what weights testify, as somebody else has measured it: this package reads no tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ckptman.rules import Convention
from ckptman.tree import Finding, Inventory, contents, finding


class Testimony(Protocol):
    """What the weights of one file say; None where they do not say it."""

    @property
    def path(self) -> str:
        """As it was given."""

    @property
    def seed(self) -> int | None:
        """The seed that drew them."""

    @property
    def p_value(self) -> float | None:
        """How often chance would name one."""

    @property
    def trained(self) -> bool | None:
        """Whether they are other than they were drawn."""

    @property
    def unlike(self) -> tuple[str, ...]:
        """The files that are certainly of other runs."""

    @property
    def mixed(self) -> tuple[int, ...]:
        """Seeds each of which has a part in them."""

    @property
    def problem(self) -> str | None:
        """`not-finite` or `constant`."""

    @property
    def tensor(self) -> str | None:
        """The weight that has the problem."""


Witness = Callable[[Sequence[Path], Iterable[int]], Iterable[Testimony]]
"""Given files and the seeds to try, what each file's weights say."""


def check_weights(inventory: Inventory, convention: Convention, witness: Witness) -> Iterator[Finding]:
    """Check every file's weights, and what they say of its run."""
    root = inventory.scan.root
    seeds = {seed for grid in convention.grids.values() for seed in grid.seeds}
    seeds |= {seed for run in inventory.runs if (seed := _seed_of(run)) is not None}
    files = [root / file.path for file in inventory.files if file.info is not None]
    told = {item.path: item for item in witness(files, sorted(seeds))} if files else {}
    for file in inventory.files:
        item = told.get(str(root / file.path))
        if item is not None and item.problem is not None:
            what = "values that are infinite or no numbers" if item.problem == "not-finite" else "one value throughout"
            yield finding("broken-weights", file.path, f"{item.tensor} has {what}")
        elif item is not None and item.trained is False and file.step != 0:
            yield finding("untrained-weights", file.path, "its biases and gains are those that training begins with")
        elif item is not None and item.mixed:
            parts = " and ".join(map(str, item.mixed[:3])) + (" and others" if len(item.mixed) > 3 else "")
            yield finding("other-run", file.path, f"seeds {parts} have a part in its weights: it is an average of runs")
    for run in inventory.runs:
        mine = [(file, item) for file in run.files if (item := told.get(str(root / file.path))) is not None]
        yield from _check_run(run, mine)


def _check_run(run: contents.Run, files: list[tuple[contents.CheckpointFile, Testimony]]) -> Iterator[Finding]:
    """A seed that all files of a run deny is wrong in its record; a file that alone denies it is not of the run."""
    seed = _seed_of(run)
    denying = [(file, item) for file, item in files if _is_other(seed, item.seed)]
    drawn = sorted({item.seed for _, item in denying if item.seed is not None})
    if denying and len(drawn) == 1 and all(item.seed in (None, *drawn) for _, item in files):
        worst = max(item.p_value or 0.0 for _, item in denying)
        message = f"it says seed {seed}, but seed {drawn[0]} drew its weights (by chance: p < {max(worst, 1e-300):.0e})"
        yield finding("disproved-seed", run.folder, message)
        return
    for file, item in denying:
        yield finding("other-run", file.path, f"seed {item.seed} drew its weights, but the run has seed {seed}")
    told = {item.path for _, item in denying}
    for index, (file, item) in enumerate(files):
        others = [other for other, one in files[:index] if one.path in item.unlike and one.path not in told]
        if item.path not in told and others:
            yield finding("other-run", file.path, f"its weights are of another run than those of {others[0].path.name}")


def _is_other(seed: int | None, drawn: int | None) -> bool:
    """Whether a seed draws other numbers than the one that drew weights; torch takes 32 bits of it."""
    return None not in (seed, drawn) and (seed or 0) % 2**32 != (drawn or 0) % 2**32


def _seed_of(run: contents.Run) -> int | None:
    if run.record is not None and run.record.seed is not None:
        return run.record.seed
    return run.place.seed if run.place is not None else None
