"""Raw outputs, what training left, read once: files, W&B runs, which run wrote a file, which runs were overwritten.

Promises: attribution never guesses; what cannot be decided is said to be undecided.
May not be done here: writing anything, anywhere.
"""

from __future__ import annotations

__all__ = [
    "attribution",
    "beside",
    "documents",
    "examination",
    "histories",
    "outputs",
    "overwritten",
    "scanning",
    "wandb_index",
    "wandb_runs",
]
