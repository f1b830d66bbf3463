"""How much of what is tried at random is tried: a slice in every run of the tests, all of it with `make faults`."""

from __future__ import annotations

import os

SLICES = int(os.environ.get("CKPTMAN_SLICES", "1"))
"""How many slices; `make faults` asks for ten."""

SLICE = 10_000 if SLICES >= 10 else 3_000
"""Cases of a slice."""
