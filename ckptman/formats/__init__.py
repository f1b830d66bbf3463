"""A checkpoint, read and never run: its container, its pickle, its form, its shapes, and why one is refused.

Promises: nothing in a file is executed, imported or looked up; time and memory are bounded by the file's size.
May not be done here: importing torch, or judging whether a file lies in the right place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # most of them read pickles, which is not asked of every tree
    from ckptman.formats.archive import show_path
    from ckptman.formats.checkpoint import CheckpointInfo, meant, read_checkpoint
    from ckptman.formats.weight_shapes import expected_weights

_HOMES = {
    "CheckpointInfo": "checkpoint",
    "expected_weights": "weight_shapes",
    "meant": "checkpoint",
    "read_checkpoint": "checkpoint",
    "show_path": "archive",
}

__all__ = [
    "CheckpointInfo",
    "architecture",
    "containers",
    "expected_weights",
    "folder_bytes",
    "mapping",
    "meant",
    "pickled",
    "read_checkpoint",
    "refusals",
    "show_path",
    "whole",
]

if not TYPE_CHECKING:  # to a type checker, any name would be one of these

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
