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
    from ckptman.checkpoint import CheckpointInfo as CheckpointInfo
    from ckptman.checkpoint import read_checkpoint as read_checkpoint
    from ckptman.config import TrainConfig as TrainConfig
    from ckptman.convention_file import load_convention as load_convention
    from ckptman.errors import CkptmanError as CkptmanError
    from ckptman.errors import ConfigurationError as ConfigurationError
    from ckptman.errors import MachineError as MachineError
    from ckptman.errors import RefusedError as RefusedError
    from ckptman.errors import UsageError as UsageError
    from ckptman.evaluate import Evaluation as Evaluation
    from ckptman.evaluate import EvaluationResult as EvaluationResult
    from ckptman.evaluate import evaluate as evaluate
    from ckptman.executors.slurm import SlurmOptions as SlurmOptions
    from ckptman.findings import Finding as Finding
    from ckptman.ingest import IngestResult as IngestResult
    from ckptman.ingest import ingest as ingest
    from ckptman.listing import Listing as Listing
    from ckptman.listing import list_checkpoints as list_checkpoints
    from ckptman.loading import GPT as GPT
    from ckptman.loading import GPTConfig as GPTConfig
    from ckptman.loading import load as load
    from ckptman.report import ReportResult as ReportResult
    from ckptman.report import report as report
    from ckptman.selection import Selection as Selection
    from ckptman.show import ShownCheckpoint as ShownCheckpoint
    from ckptman.show import show as show
    from ckptman.status import GridStatus as GridStatus
    from ckptman.status import status as status
    from ckptman.sweep import How as How
    from ckptman.sweep import SweepPlan as SweepPlan
    from ckptman.sweep import SweepResult as SweepResult
    from ckptman.sweep import plan_sweep as plan_sweep
    from ckptman.sweep import submit_sweep as submit_sweep
    from ckptman.sweep import sweep as sweep
    from ckptman.train import TrainResult as TrainResult
    from ckptman.train import train as train
    from ckptman.train_plan import training_configs as training_configs
    from ckptman.tree import RunRecord as RunRecord
    from ckptman.tree import TreeScan as TreeScan
    from ckptman.tree import scan_tree as scan_tree
    from ckptman.validate import ValidationResult as ValidationResult
    from ckptman.validate import validate as validate

_HOMES = {
    "CheckpointInfo": "checkpoint",
    "CkptmanError": "errors",
    "ConfigurationError": "errors",
    "Evaluation": "evaluate",
    "EvaluationResult": "evaluate",
    "Finding": "findings",
    "GPT": "loading",
    "GPTConfig": "loading",
    "GridStatus": "status",
    "How": "sweep",
    "IngestResult": "ingest",
    "Listing": "listing",
    "MachineError": "errors",
    "RefusedError": "errors",
    "ReportResult": "report",
    "RunRecord": "tree",
    "Selection": "selection",
    "ShownCheckpoint": "show",
    "SlurmOptions": "executors.slurm",
    "SweepPlan": "sweep",
    "SweepResult": "sweep",
    "TrainConfig": "config",
    "TrainResult": "train",
    "TreeScan": "tree",
    "UsageError": "errors",
    "ValidationResult": "validate",
    "evaluate": "evaluate",
    "ingest": "ingest",
    "list_checkpoints": "listing",
    "load": "loading",
    "load_convention": "convention_file",
    "plan_sweep": "sweep",
    "read_checkpoint": "checkpoint",
    "report": "report",
    "scan_tree": "tree",
    "show": "show",
    "status": "status",
    "submit_sweep": "sweep",
    "sweep": "sweep",
    "train": "train",
    "training_configs": "train_plan",
    "validate": "validate",
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
