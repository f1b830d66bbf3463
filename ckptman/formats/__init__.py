"""A checkpoint, read and never run: its container, its pickle, its form, its shapes, and why one is refused.

Promises: nothing in a file is executed, imported or looked up; time and memory are bounded by the file's size.
May not be done here: importing torch, or judging whether a file lies in the right place.
"""

from __future__ import annotations

from ckptman.formats import architecture, containers, folder_bytes, mapping, pickled, refusals, whole
from ckptman.formats.archive import show_path
from ckptman.formats.checkpoint import CheckpointInfo, OptimizerInfo, read_checkpoint
from ckptman.formats.weight_shapes import expected_weights

__all__ = [
    "CheckpointInfo",
    "OptimizerInfo",
    "architecture",
    "containers",
    "expected_weights",
    "folder_bytes",
    "mapping",
    "pickled",
    "read_checkpoint",
    "refusals",
    "show_path",
    "whole",
]
