"""How much of what is tried at random is tried: a slice in every run of the tests, all of it with `make faults`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

SLICES = int(os.environ.get("CKPTMAN_SLICES", "1"))
"""How many slices; `make faults` asks for ten."""

SLICE = 10_000 if SLICES >= 10 else 2_000
"""Cases of a slice."""

_T = TypeVar("_T")


def few(cases: Sequence[_T]) -> list[_T]:
    """Every third of many cases of one kind, of a grid three wide one in each row; with `make faults` all."""
    return [case for at, case in enumerate(cases) if SLICES >= 10 or (at + at // 3) % 3 == 0]
