"""One run: the model, its step, its data, the loop, its folder and state, W&B, evaluation, testimony of weights.

Promises: resume is exact, a checkpoint is saved whole or not at all. Only this package imports torch, and only
`wandb.py` imports wandb; its modules are imported by name, so that nothing heavy loads before it is needed.
May not be done here: reading raw outputs of others, or planning several runs.
"""

from __future__ import annotations

__all__ = [
    "evaluation",
    "exporting",
    "learning_curve",
    "planning",
    "progress",
    "run_folder",
    "runs",
    "stopping",
    "timing",
    "wandb",
    "witnessing",
]
