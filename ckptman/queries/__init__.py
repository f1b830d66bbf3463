"""ls, show, results and what is here: questions about a folder, a tree or one file, answered without reading weights.

Promises: nothing is written. May not be done here: defining a check.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # each question imports what answers it: `ls` needs no checks
    from ckptman.queries.inspection import ShownCheckpoint, name_json, show
    from ckptman.queries.listing import list_checkpoints
    from ckptman.queries.over_seeds import Results, results

_HOMES = {
    "Results": "over_seeds",
    "ShownCheckpoint": "inspection",
    "list_checkpoints": "listing",
    "name_json": "inspection",
    "results": "over_seeds",
    "show": "inspection",
}

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

if not TYPE_CHECKING:  # to a type checker, any name would be one of these

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
