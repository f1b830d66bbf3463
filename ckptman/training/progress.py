"""How far a run is: one record, in its status file, in what a job tells on its way, and in what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RUNNING, INTERRUPTED, FAILED, COMPLETE = "running", "interrupted", "failed", "complete"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, as far as it is known."""

    run_id: str | None = None
    iters_done: int | None = None
    loss: float | None = None
    """Mean loss of the newest batch that was looked at."""
    gen_em: float | None = None
    """Newest generalization, 0 to 1."""
    iterations_per_second: float | None = None
    """Since its process began with the run; None where that did no iteration."""


@dataclass(frozen=True, kw_only=True)
class RunStatus(Progress):
    """What a run says of itself in its status file."""

    state: str
    """`running`, `interrupted`, `failed` or `complete`. A process that was killed leaves `running` behind:
    `RawRun.is_locked` tells whether it is."""
    run_id: str | None
    """W&B's; None where nothing is logged there."""
    iters_done: int
    max_iters: int
    reason: str
    """Why the run failed; empty otherwise."""
    log: str
    """Where its output went; empty for a terminal."""
    host: str
    pid: int
    updated: float
    """Epoch second of this status."""
    config: Mapping[str, Any] | None = None
    """The run's configuration; None in a status of a version that did not record it."""


@dataclass(frozen=True, kw_only=True)
class BatchProgress(Progress):
    """How far a run is that is being trained, with what its newest batch was like."""

    label: str
    """The run, for people."""
    max_iters: int
    iters_done: int
    loss: float
    iterations_per_second: float
    learning_rate: float
    k: int
    """K of the newest batch."""


@dataclass(frozen=True, kw_only=True)
class TrainedRun(Progress):
    """What a process did of a run."""

    state: str
    """`complete` or `interrupted`."""
    iters_done: int
    resumed_from: int | None
    """Iterations that were done already; None for a new run."""
    metrics: Mapping[str, float]
    """Of the newest evaluation, under their published names; empty without one."""
    notes: tuple[str, ...] = ()
    """What is worth knowing about it, in sentences."""
