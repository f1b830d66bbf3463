"""The convention, compiled: names, grid, selection, placement, recipe, and the comparison of two configurations.

Promises: what `convention.yaml` and `ckptman.yaml` say is checked when it loads, and `format(parse(name)) == name`.
May not be done here: reading anything but the convention file.
"""

from __future__ import annotations

from ckptman.rules.placement import Place
from ckptman.rules.recipe import TrainConfig
from ckptman.rules.terms import Convention, GroupPattern

__all__ = [
    "Convention",
    "GroupPattern",
    "Place",
    "TrainConfig",
    "comparing",
    "convention_file",
    "grids",
    "naming",
    "placement",
    "recipe",
    "selection",
    "terms",
]
