"""A run's measured generalization: the mean exact match over the tested lengths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ckptman.rules import Convention
from ckptman.tree.records import RunRecord

TEACHER_FORCED = "teacher-forced"
"""The evaluation mode of the published metric: each sorted position is predicted from the correct ones before it."""


@dataclass(frozen=True)
class Measured:
    """A run's generalization and where the number is from."""

    value: float
    """Mean exact match, 0 to 1."""
    source: str
    """`evaluation` (ckptman's own, recorded in `run.json`) or `W&B` (the run's final metrics)."""


@dataclass(frozen=True)
class Generalization:
    """A configuration's generalization: over its runs."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None for a single run."""
    runs: int


def measured(record: RunRecord, convention: Convention) -> Measured | None:
    """A run's generalization; None where it was not measured on every tested length.

    A teacher-forced evaluation of the final checkpoint counts, if there is one: that with the most samples, and of
    several the newest. Otherwise it is the metrics that training logged last.
    """
    finals = {entry.file for entry in record.checkpoints if entry.kind in convention.final_kinds}
    usable = [(_samples(evaluation), index, float(evaluation["gen_em"]))
              for index, evaluation in enumerate(record.evaluations)
              if evaluation.get("mode") == TEACHER_FORCED and evaluation.get("file") in finals
              and _is_number(evaluation.get("gen_em"))]  # fmt: skip
    if usable:
        return Measured(value=max(usable)[-1], source="evaluation")
    value = from_metrics(record.metrics, convention)
    return None if value is None else Measured(value=value, source="W&B")


def from_metrics(metrics: Mapping[str, Any], convention: Convention) -> float | None:
    """Mean over the tested lengths of the convention's metric; None where one is missing or not a finite number."""
    low, high = convention.generalization_k
    values: list[Any] = [metrics.get(convention.generalization_pattern.replace("{k}", str(k)))
                         for k in range(low, high + 1)]  # fmt: skip
    return fmean(values) if all(map(_is_number, values)) else None


def over_runs(values: Iterable[float]) -> Generalization | None:
    """Mean and sample standard deviation over a configuration's runs; None without runs."""
    known = list(values)
    if not known:
        return None
    return Generalization(mean=fmean(known), deviation=stdev(known) if len(known) > 1 else None, runs=len(known))


def _samples(evaluation: Mapping[str, Any]) -> float:
    samples = evaluation.get("samples")
    return float(samples) if samples is not None and _is_number(samples) else 0.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
