"""ckptman: sort, check and document the model checkpoints of a training grid.

Each command that reads or writes checkpoints is one call:

    import ckptman

    result = ckptman.ingest("grid_outputs", "checkpoints")
    findings = ckptman.validate("checkpoints").findings
    model, info = ckptman.load("checkpoints/…/Final_….pt")

Names are imported when they are first used, so that `import ckptman` needs neither torch nor wandb. With it, and torch
imported before or after, `torch.load(weights_only=True)` reads the files that ckptman writes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ckptman.checks.validation import ValidationResult as ValidationResult
    from ckptman.checks.validation import validate as validate
    from ckptman.documents.reporting import ReportResult as ReportResult
    from ckptman.documents.reporting import report as report
    from ckptman.formats.checkpoint import CheckpointInfo as CheckpointInfo
    from ckptman.formats.checkpoint import read_checkpoint as read_checkpoint
    from ckptman.ingestion.assigning import AssignResult as AssignResult
    from ckptman.ingestion.assigning import assign as assign
    from ckptman.ingestion.ingesting import IngestResult as IngestResult
    from ckptman.ingestion.ingesting import ingest as ingest
    from ckptman.ingestion.learning import Learnt as Learnt
    from ckptman.ingestion.learning import learn as learn
    from ckptman.ingestion.migrating import MigrateResult as MigrateResult
    from ckptman.ingestion.migrating import migrate as migrate
    from ckptman.queries.inspection import ShownCheckpoint as ShownCheckpoint
    from ckptman.queries.inspection import show as show
    from ckptman.queries.listing import Listing as Listing
    from ckptman.queries.listing import list_checkpoints as list_checkpoints
    from ckptman.queries.over_seeds import Results as Results
    from ckptman.queries.over_seeds import results as results
    from ckptman.rules.convention_file import load_convention as load_convention
    from ckptman.rules.recipe import TrainConfig as TrainConfig
    from ckptman.rules.selection import Selection as Selection
    from ckptman.sweeps.executors.slurm import SlurmOptions as SlurmOptions
    from ckptman.sweeps.grid_status import GridStatus as GridStatus
    from ckptman.sweeps.grid_status import status as status
    from ckptman.sweeps.sweeping import How as How
    from ckptman.sweeps.sweeping import SweepPlan as SweepPlan
    from ckptman.sweeps.sweeping import SweepResult as SweepResult
    from ckptman.sweeps.sweeping import plan_sweep as plan_sweep
    from ckptman.sweeps.sweeping import submit_sweep as submit_sweep
    from ckptman.sweeps.sweeping import sweep as sweep
    from ckptman.text.errors import CkptmanError as CkptmanError
    from ckptman.text.errors import ConfigurationError as ConfigurationError
    from ckptman.text.errors import MachineError as MachineError
    from ckptman.text.errors import RefusedError as RefusedError
    from ckptman.text.errors import UsageError as UsageError
    from ckptman.training.evaluation import Evaluation as Evaluation
    from ckptman.training.evaluation import EvaluationResult as EvaluationResult
    from ckptman.training.evaluation import evaluate as evaluate
    from ckptman.training.exporting import ExportResult as ExportResult
    from ckptman.training.exporting import export as export
    from ckptman.training.loading import GPT as GPT
    from ckptman.training.loading import GPTConfig as GPTConfig
    from ckptman.training.loading import load as load
    from ckptman.training.loading import load_weights as load_weights
    from ckptman.training.marking import mark_safe as mark_safe
    from ckptman.training.planning import training_configs as training_configs
    from ckptman.training.runs import TrainResult as TrainResult
    from ckptman.training.runs import train as train
    from ckptman.training.witnessing import Testimony as Testimony
    from ckptman.training.witnessing import WitnessResult as WitnessResult
    from ckptman.training.witnessing import witness as witness
    from ckptman.tree.findings import Finding as Finding
    from ckptman.tree.records import RunRecord as RunRecord
    from ckptman.tree.records import TreeScan as TreeScan
    from ckptman.tree.records import scan_tree as scan_tree

_HOMES = {
    "AssignResult": "ingestion.assigning",
    "CheckpointInfo": "formats.checkpoint",
    "CkptmanError": "text.errors",
    "ConfigurationError": "text.errors",
    "Evaluation": "training.evaluation",
    "EvaluationResult": "training.evaluation",
    "ExportResult": "training.exporting",
    "Finding": "tree.findings",
    "GPT": "training.loading",
    "GPTConfig": "training.loading",
    "GridStatus": "sweeps.grid_status",
    "How": "sweeps.sweeping",
    "IngestResult": "ingestion.ingesting",
    "Learnt": "ingestion.learning",
    "Listing": "queries.listing",
    "MachineError": "text.errors",
    "MigrateResult": "ingestion.migrating",
    "RefusedError": "text.errors",
    "ReportResult": "documents.reporting",
    "Results": "queries.over_seeds",
    "RunRecord": "tree.records",
    "Selection": "rules.selection",
    "ShownCheckpoint": "queries.inspection",
    "SlurmOptions": "sweeps.executors.slurm",
    "SweepPlan": "sweeps.sweeping",
    "SweepResult": "sweeps.sweeping",
    "Testimony": "training.witnessing",
    "TrainConfig": "rules.recipe",
    "TrainResult": "training.runs",
    "TreeScan": "tree.records",
    "UsageError": "text.errors",
    "ValidationResult": "checks.validation",
    "WitnessResult": "training.witnessing",
    "assign": "ingestion.assigning",
    "evaluate": "training.evaluation",
    "export": "training.exporting",
    "ingest": "ingestion.ingesting",
    "learn": "ingestion.learning",
    "list_checkpoints": "queries.listing",
    "load": "training.loading",
    "load_convention": "rules.convention_file",
    "load_weights": "training.loading",
    "mark_safe": "training.marking",
    "migrate": "ingestion.migrating",
    "plan_sweep": "sweeps.sweeping",
    "read_checkpoint": "formats.checkpoint",
    "report": "documents.reporting",
    "results": "queries.over_seeds",
    "scan_tree": "tree.records",
    "show": "queries.inspection",
    "status": "sweeps.grid_status",
    "submit_sweep": "sweeps.sweeping",
    "sweep": "sweeps.sweeping",
    "train": "training.runs",
    "training_configs": "training.planning",
    "validate": "checks.validation",
    "witness": "training.witnessing",
}

__all__ = ["__version__", *_HOMES]

if not TYPE_CHECKING:  # to a type checker, any name would be one of these

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'ckptman' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"ckptman.{home}"), name)
        globals()[name] = value  # the function, where a module has the same name
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _mark_safe() -> None:
    from ckptman.training.marking import mark_safe_with_torch

    mark_safe_with_torch()


_mark_safe()
