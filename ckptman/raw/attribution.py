"""Which run wrote a checkpoint.

Runs of one task share a folder, so neither the folder nor the file's name tells. What tells is the config inside the
file, with its seed: the run is the one that was configured so. Where several were (a rerun), the set of keys tells (the
config in a checkpoint is the very dictionary that went to W&B, and trainers change), or the file's save time lies
within the span of one of them, or it stays open and is said to be: a guess is never given as a fact.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from ckptman.rules import comparing

END_TOLERANCE_SECONDS = 120.0
END_TOLERANCE_SHARE = 0.01
"""A final checkpoint is written after the last metrics, by the iterations since and the time it takes to write: within
two minutes, or 1 % of the span where that is longer (metrics come every 250 of 40,000 iterations)."""

STORED, ONLY_MATCH, KEY_SET, TIME_SPAN = "stored", "only-match", "key-set", "time-span"
AMBIGUOUS, NONE = "ambiguous", "none"
"""Stable codes of an `Attribution`."""


class Span(NamedTuple):
    """When one process of a run ran: in seconds since 1970 (UTC), None where it is not known."""

    start: float | None
    end: float | None
    """Time of its last metrics."""
    over: bool = True
    """Whether `end` is where it ended. A killed run's record stops before the run did: it went on for longer."""


class Candidate(Protocol):
    """What is needed of a W&B run; `raw.wandb_runs.WandbRun` is one."""

    @property
    def run_id(self) -> str:
        """W&B's id of the run."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What the run was configured with."""

    @property
    def spans(self) -> Sequence[Span]:
        """When it ran, each of its processes apart."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """The run that wrote a checkpoint, and how that is known."""

    run_id: str | None
    """None where no run, or more than one, can have written it."""
    code: str
    """`stored`, `only-match`, `key-set`, `time-span`, `ambiguous` or `none`."""
    evidence: str
    """The reason, as a sentence."""
    candidates: tuple[str, ...]
    """Ids of all runs with the checkpoint's config, sorted; for `stored`, the stored id."""
    in_span: bool | None = None
    """Whether the file's save time lies within the run's span; None without a run, or where a time is not known."""
    is_copy: bool = False
    """Whether the evidence is that of the same bytes in another place."""


def attribute(
    config: Mapping[str, Any],
    saved_at: float | None,
    candidates: Iterable[Candidate],
    *,
    ignored_keys: Collection[str],
    seed_key: str = "seed",
    run_id: str | None = None,
    others: int = 0,
    opaque: Collection[str] = (),
    is_end: bool = False,
) -> Attribution:
    """Find the run that wrote a checkpoint.

    A candidate matches when all keys that both configs have, but for the ignored ones, have the same value, the seed
    among them, and these are at least half of the keys of either. Of several matches, those are taken whose set of keys
    is nearest to the checkpoint's, and of these the one that ran when the file was saved. A single match is taken
    whatever the time, since copying (a git clone, for one) can lose it, and the evidence says so.

    Args:
        config: The configuration inside the checkpoint.
        saved_at: Modification time of the file, in seconds since 1970; None where it means nothing.
        candidates: The W&B runs that may have written it; several records of one run id count as one run.
        ignored_keys: Keys that tell where and how a run was computed, not what.
        seed_key: The key of the seed: a run without one is not compared with a checkpoint that has one.
        run_id: The run id that the checkpoint itself holds, which decides.
        others: Runs that were left out since they are configured otherwise, for the evidence.
        opaque: Keys of the configuration of which W&B may have made what the checkpoint does not tell.
        is_end: Whether the checkpoint is of the end of its run.
    """
    candidates = list(candidates)
    if run_id is not None:
        return _stored(
            config, saved_at, [run for run in candidates if run.run_id == run_id], ignored_keys, run_id, opaque
        )
    spans: dict[str, list[Span]] = {}
    one_sided: dict[str, frozenset[str]] = {}
    for run in candidates:
        if _matches(config, run.config, ignored_keys, seed_key, opaque):
            spans.setdefault(run.run_id, []).extend(run.spans)
            one_sided[run.run_id] = frozenset(config.keys() ^ run.config.keys()) - frozenset(ignored_keys)
    what = "this config and seed" if seed_key in config else "this config (the checkpoint tells no seed)"
    if not spans:
        return _undecided(NONE, f"none of {len(candidates) + others} W&B runs has {what}")
    fits = {name: in_spans(saved_at, own, _starts(spans), is_end=is_end) for name, own in spans.items()}
    if len(spans) == 1:
        name, fit = next(iter(fits.items()))
        return Attribution(name, ONLY_MATCH, f"only run on record with {what}{_ONLY_MATCH_TIME[fit]}", (name,), fit)
    return _of_several(fits, one_sided, what, saved_at)


def in_spans(
    saved_at: float | None, spans: Sequence[Span], starts: Sequence[float] = (), *, is_end: bool = False
) -> bool | None:
    """Whether a file was saved while a run ran, or soon enough after; None where that cannot be told.

    Args:
        saved_at: Modification time of the file, in seconds since 1970.
        spans: When the run ran.
        starts: When the runs began that write the same files; each ends what has no known end.
        is_end: Whether the file is of the end of the run: a run of one process does not save it in its first half. That
            is the time of a copy, made to keep an older run's file from a rerun.
    """
    if saved_at is None or not spans:
        return None
    if is_end and len(spans) == 1 and saved_at < _half(spans[0]):
        return False
    fits = [_fits_one(saved_at, span, starts) for span in spans]
    if any(fits):
        return True
    return None if None in fits else False


def doubted(found: Attribution) -> Attribution:
    """An attribution of a file that was saved while its run did not run, where the files of most runs beside it have
    kept their times: then it may be of a run of which there is no record."""
    if found.in_span is not False or found.code not in (ONLY_MATCH, KEY_SET) or found.run_id is None:
        return found
    known = found.evidence.partition("; the file")[0]
    evidence = f"{known}, but it did not run when the file was saved, and files beside it have kept their times"
    return replace(found, run_id=None, code=AMBIGUOUS, evidence=evidence, candidates=(found.run_id,), in_span=None)


_ONLY_MATCH_TIME = {
    True: "",
    False: "; the file's time lies outside the run's span (copying may not keep it)",
    None: "; its span or the file's time is not known",
}


def _matches(
    config: Mapping[str, Any],
    other: Mapping[str, Any],
    ignored: Collection[str],
    seed_key: str,
    opaque: Collection[str],
) -> bool:
    """Whether a run was configured as a checkpoint says."""
    # The seed first: it rules most runs out, and to compare the rest takes most of the time.
    if (seed_key in config) != (seed_key in other) or not comparing.same_value(
        config.get(seed_key), other.get(seed_key)
    ):
        return False
    mine, theirs = config.keys() - set(ignored), other.keys() - set(ignored)
    shared = len(mine & theirs)
    return 0 < max(len(mine), len(theirs)) <= 2 * shared and not comparing.differing_keys(
        config, other, ignored, opaque
    )


def _of_several(
    fits: Mapping[str, bool | None], one_sided: Mapping[str, frozenset[str]], what: str, saved_at: float | None
) -> Attribution:
    """Decide between several runs with the checkpoint's config: by the set of keys, then by the file's time.

    A run is out if another one lacks or adds, against the checkpoint, only some of the keys that it lacks or adds.
    Keys that no run has, or only the runs have, so weigh nothing.
    """
    near = {name: fit for name, fit in fits.items() if not any(one_sided[name] > keys for keys in one_sided.values())}
    if len(near) == len(fits):
        return _by_time(fits, what, saved_at)
    telling = sorted({key for keys in one_sided.values() for key in keys} - frozenset.intersection(*one_sided.values()))
    by_keys = f"the keys of the config ({', '.join(telling)[:200]}) are those of"
    if any(fits[name] for name in fits.keys() - near.keys()) and all(fit is False for fit in near.values()):
        evidence = f"{len(fits)} runs have {what}, and {by_keys} another one than the file's time says"
        return _undecided(AMBIGUOUS, evidence, fits)
    if len(near) == 1:
        name, fit = next(iter(near.items()))
        evidence = f"{len(fits)} runs have {what}; {by_keys} this one only"
        return Attribution(name, KEY_SET, evidence, tuple(sorted(fits)), fit)
    found = _by_time(near, what, saved_at)
    return replace(found, evidence=f"{found.evidence}; {by_keys} these only", candidates=tuple(sorted(near)))


def _stored(
    config: Mapping[str, Any],
    saved_at: float | None,
    own: Sequence[Candidate],
    ignored: Collection[str],
    run_id: str,
    opaque: Collection[str],
) -> Attribution:
    """The run that the checkpoint names; the W&B records can only agree or disagree."""
    evidence = "the checkpoint holds this run id"
    if not own:
        evidence += "; no W&B folder of the run was found"
    different = sorted({key for run in own for key in comparing.differing_keys(config, run.config, ignored, opaque)})
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


def _half(span: Span) -> float:
    """When half of what is known of a span was over."""
    return (span.start + span.end) / 2 if span.start is not None and span.end is not None else -math.inf


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
