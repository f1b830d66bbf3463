"""Which run wrote a checkpoint.

Runs of one task share a folder, so neither the folder nor the file's name tells. What tells is the config inside the
file, with its seed: the run is the one that was configured so. Where several were (a rerun), the file's save time lies
within the span of one of them, or it stays open and is said to be: a guess is never given as a fact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ckptman.rules import comparing

SEED = "seed"
REQUIRED_KEYS = (SEED, "n_layers", "train_min_k", "train_max_k", "max_iters")
"""Keys of `TrainConfig` that both configs must hold to be compared at all: no trainer leaves them out."""

END_TOLERANCE_SECONDS = 120.0
END_TOLERANCE_SHARE = 0.01
"""A final checkpoint is written after the last metrics, by the iterations since and the time it takes to write: within
two minutes, or 1 % of the span where that is longer (metrics come every 250 of 40,000 iterations)."""

STORED, ONLY_MATCH, TIME_SPAN, AMBIGUOUS, NONE = "stored", "only-match", "time-span", "ambiguous", "none"
"""Stable codes of an `Attribution`."""


class Span(NamedTuple):
    """When one process of a run ran: in seconds since 1970 (UTC), None where it is not known."""

    start: float | None
    end: float | None
    """Time of its last metrics."""
    over: bool = True
    """Whether `end` is where it ended. A killed run's record stops before the run did: it went on for longer."""


class Candidate(Protocol):
    """What is needed of a W&B run; `ckptman.wandb_runs.WandbRun` is one."""

    @property
    def run_id(self) -> str:
        """W&B's id of the run."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What the run was configured with."""

    @property
    def spans(self) -> Sequence[Span]:
        """When it ran, each of its processes apart."""


@dataclass(frozen=True)
class Attribution:
    """The run that wrote a checkpoint, and how that is known."""

    run_id: str | None
    """None where no run, or more than one, can have written it."""
    code: str
    """`stored`, `only-match`, `time-span`, `ambiguous` or `none`."""
    evidence: str
    """The reason, as a sentence."""
    candidates: tuple[str, ...]
    """Ids of all runs with the checkpoint's config, sorted; for `stored`, the stored id."""
    in_span: bool | None = None
    """Whether the file's save time lies within the run's span; None without a run, or where a time is not known."""


def attribute(
    config: Mapping[str, Any],
    saved_at: float | None,
    candidates: Iterable[Candidate],
    *,
    ignored_keys: Collection[str],
    run_id: str | None = None,
    required_keys: Collection[str] = REQUIRED_KEYS,
) -> Attribution:
    """Find the run that wrote a checkpoint.

    A candidate matches when all keys that both configs have, but for the ignored ones, have the same value, and none of
    the required ones is missing. Of several matches, the one that ran when the file was saved is taken; a single match
    is taken whatever the time, since copying (a git clone, for one) can lose it, and the evidence says so.

    Args:
        config: The configuration inside the checkpoint.
        saved_at: Modification time of the file, in seconds since 1970; None where it means nothing.
        candidates: The W&B runs that may have written it; several records of one run id count as one run.
        ignored_keys: Keys that tell where and how a run was computed, not what.
        run_id: The run id that the checkpoint itself holds, which decides.
        required_keys: Keys that both configs must have.
    """
    candidates = list(candidates)
    if run_id is not None:
        return _stored(config, saved_at, [run for run in candidates if run.run_id == run_id], ignored_keys, run_id)
    if missing := sorted(set(required_keys) - config.keys()):
        return _undecided(NONE, f"the checkpoint holds no {', '.join(missing)}, so no run can be compared with it")
    spans: dict[str, list[Span]] = {}
    for run in candidates:
        if _matches(config, run.config, ignored_keys, required_keys):
            spans.setdefault(run.run_id, []).extend(run.spans)
    what = "this config and seed" if SEED in required_keys else "this config (the seed is not known)"
    if not spans:
        return _undecided(NONE, f"none of {len(candidates)} W&B runs has {what}")
    fits = {name: in_spans(saved_at, own, _starts(spans)) for name, own in spans.items()}
    if len(spans) == 1:
        name, fit = next(iter(fits.items()))
        return Attribution(name, ONLY_MATCH, f"only run with {what}{_ONLY_MATCH_TIME[fit]}", (name,), fit)
    return _by_time(fits, what, saved_at)


def in_spans(saved_at: float | None, spans: Sequence[Span], starts: Sequence[float] = ()) -> bool | None:
    """Whether a file was saved while a run ran, or soon enough after; None where that cannot be told.

    Args:
        saved_at: Modification time of the file, in seconds since 1970.
        spans: When the run ran.
        starts: When the runs began that write the same files; each ends what has no known end.
    """
    if saved_at is None or not spans:
        return None
    fits = [_fits_one(saved_at, span, starts) for span in spans]
    if any(fits):
        return True
    return None if None in fits else False


_ONLY_MATCH_TIME = {
    True: "",
    False: "; the file's time lies outside the run's span (copying may not keep it)",
    None: "; its span or the file's time is not known",
}


def _matches(
    config: Mapping[str, Any], other: Mapping[str, Any], ignored: Collection[str], required: Collection[str]
) -> bool:
    """Whether a run was configured as a checkpoint says."""
    # The required keys first: few runs share them all, and to compare the rest takes most of the time.
    return all(
        key in other and (key in ignored or comparing.same_value(config[key], other[key])) for key in required
    ) and not comparing.differing_keys(config, other, ignored)


def _stored(
    config: Mapping[str, Any], saved_at: float | None, own: Sequence[Candidate], ignored: Collection[str], run_id: str
) -> Attribution:
    """The run that the checkpoint names; the W&B records can only agree or disagree."""
    evidence = "the checkpoint holds this run id"
    if not own:
        evidence += "; no W&B folder of the run was found"
    different = sorted({key for run in own for key in comparing.differing_keys(config, run.config, ignored)})
    if different:
        evidence += f"; the run's W&B config differs in {', '.join(different)[:200]}"
    spans = [span for run in own for span in run.spans]
    return Attribution(run_id, STORED, evidence, (run_id,), in_spans(saved_at, spans, _starts({run_id: spans})))


def _by_time(fits: Mapping[str, bool | None], what: str, saved_at: float | None) -> Attribution:
    """Decide between several runs with the checkpoint's config, by the file's time if that is possible."""
    inside = [name for name, fit in fits.items() if fit]
    unknown = [name for name, fit in fits.items() if fit is None]
    count = f"{len(fits)} runs have {what}"
    if saved_at is None:
        return _undecided(AMBIGUOUS, f"{count}, and the file's time is not known", fits)
    if len(inside) == 1 and not unknown:
        evidence = f"{count}; the file was saved in the time span of this one only"
        return Attribution(inside[0], TIME_SPAN, evidence, tuple(sorted(fits)), True)
    if unknown:
        return _undecided(AMBIGUOUS, f"{count}, and the time span of {len(unknown)} of them is not known", fits)
    where = f"the time spans of {len(inside)} of them" if inside else "none of their time spans"
    return _undecided(AMBIGUOUS, f"{count}, and the file's time lies in {where}", fits)


def _undecided(code: str, evidence: str, candidates: Iterable[str] = ()) -> Attribution:
    return Attribution(None, code, evidence, tuple(sorted(candidates)), None)


def _starts(spans: Mapping[str, Sequence[Span]]) -> list[float]:
    return [span.start for own in spans.values() for span in own if span.start is not None]


def _fits_one(saved_at: float, span: Span, starts: Sequence[float]) -> bool | None:
    """Whether a file of this time was saved in one span; None where that cannot be told.

    A run that was killed ran for longer than its record tells, and was over when the next of `starts` came, of a run
    with the same config. In between nothing is known of it.
    """
    start, end, over = span
    if start is not None and saved_at < start:
        return False
    if end is not None:
        length = end - start if start is not None else 0.0
        late = saved_at > end + max(END_TOLERANCE_SECONDS, END_TOLERANCE_SHARE * length)
        if not late:
            return True if start is not None else None
        if over:
            return False
    if start is not None and any(start < other <= saved_at for other in starts):
        return False
    return None
