"""A run's measured generalization: the mean exact match over the tested lengths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ckptman.rules import Convention, TrainConfig, terms
from ckptman.text import wording
from ckptman.tree.records import RunRecord

TEACHER_FORCED = "teacher-forced"
"""The evaluation mode of the published metric: each sorted position is predicted from the correct ones before it."""

_LOGGED_SAMPLES = "eval_samples_per_length"
"""The configuration key of how many lists of each length training tests on."""

_MOST_SAMPLES = 1 << 40
"""More than anybody has tested on."""

_LARGEST = 1e100
"""What is further from zero was not measured: half floats, whole floats and their sums end long before. Its square is a
number still."""

CONFIDENCE = 0.95
"""Confidence level of every interval."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A run's generalization and where the number is from."""

    value: float
    """Mean exact match, 0 to 1."""
    source: str
    """`evaluation` (ckptman's own, recorded in `run.json`); or the final metrics: from `W&B`, or as `training` left
    them in the run's own folder."""
    samples: int
    """Lists of each length."""
    lists: int
    """Lists of all lengths together."""
    is_share: bool
    """Whether it is one of these lists."""

    @property
    def known_lists(self) -> int | None:
        """`lists`; None for what is no share of any, such as a loss."""
        return self.lists if self.is_share else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % Wilson score interval, from the lists of all lengths together; None for what is no share."""
        if not self.is_share:
            return None
        return wilson_interval(round(min(max(self.value, 0.0), 1.0) * self.lists), self.lists)


@dataclass(frozen=True)
class Generalization:
    """A configuration's generalization: over its runs."""

    mean: float
    deviation: float | None
    """Standard deviation, as the convention's `statistics` says; None for a single run."""
    runs: int


def measured(record: RunRecord, convention: Convention) -> Measured | None:
    """A run's generalization; None where it was not measured on every tested length.

    Of the teacher-forced evaluations of the final checkpoint, where they measure the metric, and the metrics that
    training logged last, the one with the most samples counts; of several, the newest.
    """
    finals = [entry.file for entry in record.checkpoints if entry.kind in convention.final_kinds]
    found = [
        (_samples(item.get("samples")), value, "evaluation")
        for item in record.evaluations
        if convention.metric.is_exact_match
        and item.get("mode") == TEACHER_FORCED
        and item.get("file") in finals
        and (value := _evaluated(item, record.config, convention)) is not None
    ]
    logged = from_metrics(record.metrics, record.config, convention)
    if logged is not None:
        default = TrainConfig.__dataclass_fields__[_LOGGED_SAMPLES].default
        found.insert(0, (_samples(record.config.get(_LOGGED_SAMPLES, default)), logged, record.metrics_source or "W&B"))
    if not found:
        return None
    samples, value, source = max(reversed(found), key=lambda item: item[0])
    lists = samples * max(1, len(convention.metric.keys(record.config)))
    return Measured(value, source, samples, lists, convention.metric.is_of_lists)


def _evaluated(item: Mapping[str, Any], config: Mapping[str, Any], convention: Convention) -> float | None:
    """What an evaluation found on the metric's lengths, which may not be those of the time when it was made."""
    tested, by_k = item.get("k"), item.get("by_k")
    if not isinstance(tested, list) or not isinstance(by_k, dict):
        return finite(item.get("gen_em"))
    low, high = convention.metric.bounds(config) or (min(tested, default=0), max(tested, default=-1))
    found = [by_k.get(str(k)) for k in range(low, high + 1)]
    values = [finite(one.get("exact_match")) for one in found if isinstance(one, dict)]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(found) else None


def from_metrics(
    metrics: Mapping[str, Any], config: Mapping[str, Any], convention: Convention, metric: terms.Metric | None = None
) -> float | None:
    """Mean over the tested lengths of a metric; None where one is missing or not a finite number.

    Args:
        metrics: What was logged.
        config: The configuration, which may say the lengths.
        convention: Has the metrics.
        metric: By default, that of the convention by which runs are ranked.
    """
    values = numbers(metrics, (metric or convention.metric).keys(config))
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def numbers(metrics: Mapping[str, Any], keys: Sequence[str]) -> list[float | None]:
    """The numbers under keys, None where there is none.

    What was logged in sections, as `{"gen": {"K17": …}}`, has dots in its key where `gen/K17/…` has slashes.
    """
    found = [finite(metrics.get(key)) for key in keys]
    if None in found and any("." in key for key in metrics):
        slashed = {key.replace(".", "/"): value for key, value in metrics.items() if "." in key}
        pairs = zip(keys, found, strict=True)
        found = [finite(slashed.get(key)) if number is None else number for key, number in pairs]
    return found


def mean(values: Sequence[float]) -> float:
    """As `statistics.fmean`, whose module takes longer to import than all the means of a small tree."""
    return math.fsum(values) / len(values)


def finite(value: object) -> float | None:
    """A value that can be reckoned with, as a number; None for any other: a flag, NaN, an integer beyond all floats."""
    if type(value) is float:
        return value if -_LARGEST <= value <= _LARGEST else None  # NaN is neither
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
    return float(value) if good and isinstance(value, int | float) else None


def value_text(value: float, convention: Convention) -> str:
    """A value of the metric that runs are ranked by, for people: a share as `97.9 %`, anything else as a number."""
    return wording.percent(value) if convention.metric.share else f"{value:.4g}"


def over_runs(values: Iterable[float], convention: Convention) -> Generalization | None:
    """Mean and standard deviation over a configuration's runs; None without runs."""
    known = list(values)
    if not known:
        return None
    from statistics import pstdev, stdev

    deviation = pstdev if convention.statistics == "population" else stdev
    return Generalization(mean=mean(known), deviation=deviation(known) if len(known) > 1 else None, runs=len(known))


def wilson_interval(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson score interval of a binomial proportion (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927).

    With p = successes / trials and z the normal quantile of (1 + confidence) / 2, it is

        (p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n).

    Unlike p ± z √(p (1 − p)/n) it never leaves [0, 1], and says something where p is 0 or 1.

    Raises:
        ValueError: unless 0 ≤ successes ≤ trials, trials ≥ 1 and 0 < confidence < 1.
    """
    if trials < 1 or not 0 <= successes <= trials or not 0 < confidence < 1:
        raise ValueError(f"no interval for {successes} of {trials} at a confidence of {confidence}")
    z = _quantile((1 + confidence) / 2)
    p = successes / trials
    center = p + z * z / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    low = (center - half) / scale if successes else 0.0  # exact at the ends, free of rounding
    high = (center + half) / scale if successes < trials else 1.0
    return low, high


@lru_cache(maxsize=8)
def _quantile(probability: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)


def _samples(value: object) -> int:
    number = isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST_SAMPLES
    return value if number and isinstance(value, int) else 1
