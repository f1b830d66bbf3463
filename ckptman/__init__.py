"""ckptman: sort, check and document the model checkpoints of a training grid.

Each command is one call:

    import ckptman

    result = ckptman.ingest("grid_outputs", "checkpoints")
    findings = ckptman.validate("checkpoints").findings
    model, info = ckptman.load("checkpoints/…/Final_….pt")

Names are imported when they are first used, so that `import ckptman` needs neither torch nor wandb.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ckptman.checkpoint import CheckpointInfo, read_checkpoint
    from ckptman.config import TrainConfig
    from ckptman.convention_file import load_convention
    from ckptman.errors import CkptmanError, ConfigurationError, MachineError, RefusedError, UsageError
    from ckptman.ingest import IngestResult, ingest

_HOMES = {
    "CheckpointInfo": "checkpoint",
    "CkptmanError": "errors",
    "ConfigurationError": "errors",
    "IngestResult": "ingest",
    "MachineError": "errors",
    "RefusedError": "errors",
    "TrainConfig": "config",
    "UsageError": "errors",
    "ingest": "ingest",
    "load_convention": "convention_file",
    "read_checkpoint": "checkpoint",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ckptman' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ckptman.{home}"), name)
    globals()[name] = value  # the function, where a module has the same name
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
