"""How much of what is tried at random is tried: a slice in every run of the tests, all of it with `make faults`."""

from __future__ import annotations

import os

SLICES = int(os.environ.get("CKPTMAN_SLICES", "1"))
"""Slices of 10,000; `make faults` asks for ten."""
