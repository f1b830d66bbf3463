"""Which of the checkpoints that its recipe saves a run has: one answer for documents, checks and the grid's status."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Any

from ckptman.rules import Convention, recipe


class Extent(Enum):
    """How much of a run is here."""

    COMPLETE = "complete"
    """The final checkpoint, and every other that the recipe is known to save."""
    FINAL = "final"
    """The final checkpoint, but not every other."""
    ON_THE_WAY = "on the way"
    """No final checkpoint."""
    NOTHING = "nothing"


MARKS = {Extent.COMPLETE: "●", Extent.FINAL: "◑", Extent.ON_THE_WAY: "◐", Extent.NOTHING: "·"}
OVERWRITTEN, REFUSED = "⊘", "!"
"""The marks of documents and terminals alike; a run that others overwrote, or of which ingest refused a file, has one
of its own."""


@dataclass(frozen=True)
class Missing:
    """Checkpoints of one kind that a run saved, or must have, and that are not here."""

    kind: str
    count: int
    due: range
    here: frozenset[int]

    def steps(self) -> Iterator[int]:
        """After how many iterations each of them was saved."""
        return (step for step in self.due if step not in self.here)


@dataclass(frozen=True)
class Standing:
    """What is here of the checkpoints of one run."""

    kinds: frozenset[str]
    """Those of which there is a checkpoint."""
    has_final: bool
    missing: tuple[Missing, ...]
    """By kinds that are saved on the way; of a run that was stopped, those before the last that it got to."""

    @property
    def extent(self) -> Extent:
        """All of it in one word."""
        if not self.kinds:
            return Extent.NOTHING
        if not self.has_final:
            return Extent.ON_THE_WAY
        return Extent.FINAL if self.missing else Extent.COMPLETE


def compare(
    config: Mapping[str, Any],
    checkpoints: Iterable[tuple[str | None, int | None]],
    convention: Convention,
    spoilt: Iterable[str | None] = (),
) -> Standing:
    """Compare what is here of a run with what its recipe saves.

    Args:
        checkpoints: The kind and the iterations of each that is here, where they are known.
        config: Its configuration.
        convention: The rules.
        spoilt: The kinds of those of which a file is here, but not the one that was placed.
    """
    here: dict[str, set[int]] = defaultdict(set)
    for kind, step in checkpoints:
        if kind is not None and convention.prefix(kind) is not None:
            here[kind].update(() if step is None else (step,))
    has_final = not convention.final_kinds or not convention.final_kinds.isdisjoint(here)
    if not has_final:  # one of the end is that, whatever it is called
        lifted, reached = convention.lifted(config), set(chain.from_iterable(here.values()))
        has_final = any(prefix.final and prefix.expected_step(lifted) in reached for prefix in convention.prefixes)
    missing = []
    for kind, due in recipe.saved_by(config, convention).items():
        if due is None or kind in convention.final_kinds:
            continue
        steps = frozenset(here.get(kind, ()))
        if not has_final:
            due = range(due.start, min(max(steps, default=0) + 1, due.stop), due.step)
        saved = max(0, -((due.start - due.stop) // due.step))  # len() holds no number above 2^63
        if count := saved - sum(step in due for step in steps):
            missing.append(Missing(kind, count, due, steps))
    kinds = frozenset((*here, *(kind for kind in spoilt if kind is not None and convention.prefix(kind) is not None)))
    return Standing(kinds, has_final, tuple(missing))
