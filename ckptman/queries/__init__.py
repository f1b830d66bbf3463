"""ls, show, results and what is here: questions about a folder, a tree or one file, answered without reading weights.

Promises: nothing is written. May not be done here: defining a check.
"""

from __future__ import annotations

from ckptman.queries.inspection import ShownCheckpoint, name_json, show
from ckptman.queries.listing import list_checkpoints
from ckptman.queries.over_seeds import Results, results

__all__ = [
    "Results",
    "ShownCheckpoint",
    "conditions",
    "list_checkpoints",
    "listing",
    "name_json",
    "over_seeds",
    "results",
    "run_inspection",
    "show",
    "surroundings",
]
