"""The organized tree, read once: records, what it contains, its numbering, its metrics, and findings about it.

Promises: `run.json` is the truth about its run, and is written last and atomically.
May not be done here: reading raw outputs, or placing checkpoints.
"""

from __future__ import annotations

from ckptman.tree.contents import Inventory
from ckptman.tree.findings import Finding, finding

__all__ = [
    "Finding",
    "Inventory",
    "contents",
    "finding",
    "findings",
    "history",
    "metrics",
    "numbering",
    "records",
    "roots",
    "standing",
    "statistics",
]
