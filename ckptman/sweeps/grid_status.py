"""Where the whole grid stands: each run of it is complete, running, refused, failed, partial, overwritten or missing.

What is known of a run comes from three places: the tree's `run.json` files, the checkpoints and W&B folders of raw
outputs (read as `ingest` reads them, but for their headers alone, so that a checkpoint counts for the configuration
inside it), and what the run's own status file and lock say, or the sweep that it was a part of.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.formats import whole
from ckptman.raw import outputs, overwritten, scanning
from ckptman.rules import Convention, TrainConfig, comparing, convention_file, naming, placement
from ckptman.rules import selection as selecting
from ckptman.sweeps.executors.submissions import Submission, read_submissions
from ckptman.text import RefusedError, UsageError, given_path
from ckptman.training import progress, run_folder
from ckptman.tree import contents, standing
from ckptman.tree import records as tree_records

COMPLETE, RUNNING, REFUSED, FAILED, PARTIAL, OVERWRITTEN, MISSING = STATES = (
    "complete", "running", "refused", "failed", "partial", "overwritten", "missing",
)  # fmt: skip
"""Every state of a run. `partial`: there is something of it, but not its end. `refused`: a file is there that may be
its end, and could not be used, so that nobody knows whether it has to be trained."""

_ROUNDING = 0.1
"""Seconds by which a status's time may lie after the moment that it was written in."""

_DAMAGED = ("bad-crc", "broken-archive")
"""Codes of refusals that a header may say nothing of."""

_TRAINED_WITH = frozenset(field.name for field in fields(TrainConfig))

_Key = tuple[str, tuple[tuple[str, Any], ...], Any]


@dataclass(frozen=True)
class RunStanding:
    """How one run of the grid stands."""

    run: selecting.GridRun
    state: str
    """One of `STATES`."""
    path: str = ""
    """The run's folder, in the tree or in the raw outputs; empty where there is none."""
    run_id: str | None = None
    iters_done: int | None = None
    max_iters: int | None = None
    reason: str = ""
    """Why the run failed, by whom it was overwritten, or what else there is to say."""
    log: str = ""
    """The file with the output of the process that trained it, or trains it."""
    job: str = ""
    """The SLURM job that waits to train it, or does so."""
    iterations_per_second: float | None = None
    config: Mapping[str, Any] | None = None
    """Its whole configuration, where a checkpoint or a record tells."""
    is_end: bool = True
    """Whether what was refused would be its end."""
    of_unknown_seed: frozenset[str] = frozenset()
    """The refused files that may be of this run or of another seed of its cell."""

    ends: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """The folder and the configuration of each run of it that is complete: there can be several, each of a recipe."""
    is_unasked: bool = False
    """Whether a job was submitted to train it, and SLURM does not answer whether that is in the queue."""
    said_complete: bool = False
    """Whether it says that it is complete, though its end is not there: training leaves it as it is."""

    @property
    def is_gap(self) -> bool:
        """Whether somebody has to train it: it is neither complete, by its own word too, nor being trained, waits for
        that in a queue, nor has a file that was refused."""
        return self.state not in (COMPLETE, RUNNING, REFUSED) and not self.job and not self.said_complete

    def to_json(self) -> dict[str, Any]:
        """The standing as a JSON object."""
        run = self.run
        return {
            "group": run.group, **run.family, "k": run.k,
            "task": run.cell.task, "values": dict(run.cell.values), "seed": run.seed,
            "state": self.state, "reason": self.reason, "log": self.log, "job": self.job, "run_id": self.run_id,
            "iters_done": self.iters_done, "max_iters": self.max_iters,
            "iterations_per_second": self.iterations_per_second, "path": self.path,
        }  # fmt: skip


@dataclass(frozen=True)
class GridStatus:
    """How every run of the grid, or of a part of it, stands."""

    out: Path | None
    """The raw outputs that were looked at."""
    root: Path | None
    """The tree that was looked at."""
    convention: Convention
    runs: tuple[RunStanding, ...]
    """By family, K, task and seed."""
    outside: tuple[str, ...]
    """Runs that are there, but not in the grid: their folders, or their W&B ids."""
    refused: tuple[scanning.Refusal, ...]
    """Raw files that cannot be used, or not yet."""

    @property
    def counts(self) -> dict[str, int]:
        """How many runs are in each state."""
        found = Counter(item.state for item in self.runs)
        return {state: found[state] for state in STATES}

    @property
    def surely_missing(self) -> tuple[tuple[str, int, int], ...]:
        """Cells with refused files of unknown seed: which, how many files, and how many runs may be one of them.

        Each file is of one run at most, so where there are more runs than files, the rest is missing.
        """
        cells: dict[str, tuple[frozenset[str], int]] = {}
        for item in self.runs:
            if item.state == REFUSED and item.of_unknown_seed:
                brief = ", ".join(self.convention.axis(axis).brief(v) for axis, v in item.run.cell.values.items())
                files, runs = cells.get(
                    name := f"{item.run.group} task {item.run.cell.task} ({brief})", (frozenset(), 0)
                )
                cells[name] = files | item.of_unknown_seed, runs + 1
        return tuple((name, len(files), runs) for name, (files, runs) in cells.items() if runs > len(files))

    @property
    def gaps(self) -> tuple[RunStanding, ...]:
        """The runs that somebody has to train."""
        return tuple(item for item in self.runs if item.is_gap)

    @property
    def to_train(self) -> tuple[RunStanding, ...]:
        """Those of them that ckptman can train."""
        return tuple(item for item in self.gaps if is_trainable(item.run))

    def to_json(self) -> dict[str, Any]:
        """The document that `ckptman status --json` prints."""
        return {
            "schema_version": tree_records.SCHEMA_VERSION,
            "out": None if self.out is None else str(self.out),
            "root": None if self.root is None else str(self.root),
            "numbering": self.convention.numbering,
            "counts": self.counts,
            "runs": [item.to_json() for item in self.runs],
            "outside": list(self.outside),
            "refused": [asdict(item) for item in self.refused],
        }


def is_trainable(run: selecting.GridRun) -> bool:
    """Whether ckptman's own training knows each key that the grid decides: in other experiments, others train."""
    return run.values.keys() <= _TRAINED_WITH


def status(
    out: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    *,
    selection: selecting.Selection | None = None,
    convention: Convention | None = None,
) -> GridStatus:
    """Tell how each run of the grid stands. Nothing is written.

    Args:
        out: Raw outputs, of ckptman's own training or of any other; None to leave them out.
        root: The organized tree; None to leave it out.
        selection: A part of the grid; by default all of it.
        convention: The rules; by default those of the nearest ckptman.yaml.

    Raises:
        UsageError: (`no-source`) `out` does not exist; (`no-tree`) `root` does not, and no `out` is given: beside one
            a tree may be still to come; (`no-such-task` …) the grid does not have what is selected.
    """
    raw = None if out is None else given_path(out, "the path of the raw outputs")
    tree = None if root is None else given_path(root, "the path of the tree")
    rules = convention_file.rules_for(convention, tree or raw or Path.cwd())
    return standings(selecting.grid_runs(rules, selection), raw, tree, rules)


def standings(
    runs: Sequence[selecting.GridRun], out: Path | None, root: Path | None, convention: Convention
) -> GridStatus:
    """How these runs stand: `status` for runs that were worked out already."""
    # Beside raw outputs, the tree is asked again and again; alone, its runs can pass one after the other.
    scan = None if root is None or out is None else tree_records.scan_tree(root, convention, missing_ok=True)
    in_turn = None if root is None or out is not None else tree_records.FoldersInTurn(root, convention)
    raw_outputs = None if out is None else _read(_existing(out), scan, convention)
    expected = {run.key: run for run in runs}
    known = expected.keys() | {run.key for run in selecting.grid_runs(convention)}
    told: dict[_Key, list[RunStanding]] = defaultdict(list)
    outside: set[str] = set()
    for fact in _facts(raw_outputs, in_turn if scan is None else scan, convention):
        key = _key(fact, convention)
        if fact.state == REFUSED and key[-1] is None:  # nobody knows which of the seeds it is
            maybe = replace(fact, reason=f"it may be {fact.reason}; of which seed that is, nothing says")
            for other in [other for other in expected if other[:-1] == key[:-1]]:
                told[other].append(replace(maybe.standing(expected[other]), of_unknown_seed=frozenset({fact.reason})))
        elif key in expected:
            told[key].append(fact.standing(expected[key]))
        elif key not in known and fact.state != REFUSED:  # of a refused file, not all may be known
            outside.add(fact.path or str(fact.run_id))
    own: dict[_Key, RunStanding] = {}
    unasked: set[_Key] = set()
    if out is not None:
        submissions = read_submissions(out)
        for run in filter(is_trainable, runs):
            config = TrainConfig.from_dict({**run.values, convention.group_key: run.group})
            raw = run_folder.RawRun.of(config, out, convention)
            submission = submissions.get(raw.folder.relative_to(out).as_posix())
            said = _said(run, raw, submission, in_tree=scan is not None and scan.root.is_dir())
            if said is not None:
                own[run.key] = said
            if submission is not None and submission.unasked and submission.outcome is None:
                unasked.add(run.key)
    tree = scan if in_turn is None else in_turn.rest()
    return GridStatus(
        out=out,
        root=root,
        convention=convention,
        runs=tuple(
            replace(_together(run, own.get(run.key), told[run.key]), is_unasked=run.key in unasked) for run in runs
        ),
        outside=tuple(sorted(outside)),
        refused=(
            *(() if raw_outputs is None else _refusals(raw_outputs)),
            *(() if tree is None else _remembered(raw_outputs, tree)),
        ),
    )


# --- what checkpoints and W&B records tell ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fact:
    """Something that is known of a run, whatever run it is."""

    group: str
    config: Mapping[str, Any]
    state: str
    path: str = ""
    run_id: str | None = None
    iters_done: int | None = None
    reason: str = ""
    is_end: bool = True

    def standing(self, run: selecting.GridRun) -> RunStanding:
        """The fact, told of a run of the grid."""
        max_iters = self.config.get("max_iters")
        return RunStanding(
            run=run,
            state=self.state,
            path=self.path,
            run_id=self.run_id,
            iters_done=self.iters_done,
            max_iters=max_iters if isinstance(max_iters, int) else None,
            reason=self.reason,
            config=self.config,
            is_end=self.is_end,
        )


def _read(out: Path, tree: tree_records.TreeScan | None, convention: Convention) -> outputs.RawOutputs:
    """The raw outputs, but for the files that the tree has and that are as they were."""
    found = outputs.RawOutputs(out, convention, leave_out=None if tree is None else tree.root, whole=False)
    known = {
        path: (remembered, overwritten.Owner.recorded(run.record, entry))
        for run in (() if tree is None else tree.runs)
        if run.record is not None
        for path, remembered, entry in run.record.source_paths
        if run.files.get(entry.file) == entry.size
    }

    # Damage behind a header, which is not looked for here, was found by the ingest.
    damaged = {str(Path(f.root, f.path)): f for f in (() if tree is None else tree.refused) if f.code in _DAMAGED}

    def known_as(place: int) -> outputs.Known | None:
        file = found.scan.checkpoints[place]
        bad = damaged.get(str(file.path))
        if bad is not None and bad.is_in_state(file.state):
            raise RefusedError(bad.message, code=bad.code, fix=bad.fix)
        remembered, owner = known.get(str(file.path), (None, None))
        if remembered is None or owner is None or not remembered.is_in_state(file.state):
            return None
        return outputs.Known(owner.run_id, owner.content)

    found.read(known_as, owner_of=lambda place: known[str(found.scan.checkpoints[place].path)][1])
    return found


def _refusals(raw: outputs.RawOutputs) -> tuple[scanning.Refusal, ...]:
    return (
        *sorted(raw.refused, key=lambda item: (item.source, item.code)),
        *sorted(raw.deferred, key=lambda item: item.source),
    )


def _remembered(raw: outputs.RawOutputs | None, scan: tree_records.TreeScan) -> Iterator[scanning.Refusal]:
    """What the tree remembers of sources other than these raw outputs."""
    for file in scan.refused:
        path = Path(file.root, file.path)
        if raw is None or not path.is_relative_to(raw.root):
            yield scanning.Refusal(str(path), file.code, file.message, file.fix)


def _facts(
    raw: outputs.RawOutputs | None,
    tree: tree_records.TreeScan | tree_records.FoldersInTurn | None,
    convention: Convention,
) -> Iterator[_Fact]:
    if isinstance(tree, tree_records.FoldersInTurn):
        for folder in tree:
            runs = contents.runs_of(tree.root, folder, convention, contents.Depth.UNRECORDED)
            yield from _of_tree(runs, tree.root, convention)
        tree = tree.rest()
    elif tree is not None:
        found = contents.inventory_of(tree, convention, contents.Depth.UNRECORDED)
        yield from _of_tree(found.runs, tree.root, convention)
    lost = {} if tree is None else {run.key: run for runs in tree.overwritten.values() for run in runs}
    without_files: tuple[overwritten.LostFiles, ...] = ()
    if raw is not None:
        yield from _of_raw(raw, set() if tree is None else _contents(tree, raw))
        missed = raw.lost(() if tree is None else ((record, record) for _, record in tree.records))
        lost |= {run.key: run for run in missed.overwritten}
        without_files = missed.without_files
    for file in _not_taken(raw, tree):
        yield _of_refused(file, convention)
    for lost_run in lost.values():
        yield _of_overwritten(lost_run, convention)
    for item in without_files:
        if (fact := _of_wandb_alone(item, convention)) is not None:
            yield fact


def _of_tree(runs: Iterable[contents.Run], root: Path, convention: Convention) -> Iterator[_Fact]:
    """The tree's runs, by their run.json; without one, or where that was changed since ckptman wrote it, by what is
    inside their files, which are there all the same."""
    for run in runs:
        folder, record = root / run.folder, run.record
        # Those that run.json does not list are there too; one of another size than it lists is not that checkpoint.
        held = [(file.kind or "", file.step) for file in run.files if file.is_of_listed_size]
        spoilt = [file.path.name for file in run.files if not file.is_of_listed_size]
        if (
            record is not None
            and _is_changed(folder)
            and (read := _read_again(run, root, convention)).place is not None
        ):
            group, seed = read.place.group, read.place.seed
            held = [(file.kind or "", file.step) for file in run.files]  # whatever it says of them
            yield _of_files(group, read.config, seed, record.run_id, held, folder, convention)
        elif record is not None:
            said = record.group, record.config, record.seed, record.run_id
            yield _of_files(*said, held, folder, convention, spoilt)
        elif run.fills and run.seed is not None:
            yield _of_files(run.group, run.config, run.seed, None, held, folder, convention)


def _is_changed(folder: Path) -> bool:
    with suppress(OSError):
        return not tree_records.is_as_written(folder / tree_records.RUN_FILE)
    return False


def _read_again(run: contents.Run, root: Path, convention: Convention) -> contents.Run:
    """A run with what is inside its files."""
    scan = tree_records.scan_of(root, [tree_records.scan_folder(root, run.folder, convention)], convention)
    return next(iter(contents.inventory_of(scan, convention, contents.Depth.HEADERS).runs), run)


def _of_raw(raw: outputs.RawOutputs, in_tree: Collection[str]) -> Iterator[_Fact]:
    """The runs of the raw outputs, by what their files hold; `in_tree` is the content of files told of already."""
    runs: dict[tuple[PurePosixPath, str | None], list[outputs.SavedFile]] = defaultdict(list)
    for saved in raw.files:
        if saved.file.content not in in_tree:
            runs[saved.file.place.run_folder(raw.convention), saved.attribution.run_id].append(saved)
    for (_, run_id), held in sorted(runs.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        first = min(held, key=lambda saved: (saved.file.step or 0, saved.file.name)).file  # of copies, the original
        files = [(saved.file.kind, saved.file.step) for saved in held]
        place, folder = first.place, first.source.path.parent
        yield _of_files(place.group, first.config, place.seed, run_id, files, folder, raw.convention)


def _contents(scan: tree_records.TreeScan, raw: outputs.RawOutputs) -> set[str]:
    """The content of the tree's files that may be copies of raw ones, which their headers tell."""
    wanted = {(saved.file.name, saved.file.state.size) for saved in raw.files}
    found = set()
    for run in scan.runs:
        for entry in () if run.record is None else run.record.checkpoints:
            if (entry.file, entry.size) in wanted and run.files.get(entry.file) == entry.size:
                with suppress(RefusedError):  # which `validate` tells
                    path = scan.root / run.path / entry.file
                    found.add(whole.read_header(path, raw.convention.checkpoint, follow_symlinks=True).content)
    return found


def _of_files(
    group: str,
    config: Mapping[str, Any],
    seed: int | None,
    run_id: str | None,
    files: Sequence[tuple[str, int | None]],
    path: Path,
    convention: Convention,
    spoilt: Sequence[str] = (),
) -> _Fact:
    done = bool(files) and standing.compare(config, files, convention).has_final
    why = "it has no final checkpoint" if files or spoilt else "none of its checkpoints is there"
    if spoilt:
        why += f"; {' and '.join(spoilt)} {'has' if len(spoilt) == 1 else 'have'} another size than run.json says"
    return _Fact(
        group=group,
        config={**config, convention.seed_key: seed},
        state=COMPLETE if done else PARTIAL if files or spoilt else MISSING,
        path=str(path),
        run_id=run_id,
        iters_done=max((step for _, step in files if step is not None), default=None),
        reason="" if done else why,
    )


def _not_taken(
    raw: outputs.RawOutputs | None, scan: tree_records.TreeScan | None
) -> Iterator[tree_records.RefusedFile]:
    """The files that cannot be used, by the raw outputs, and by what the tree remembers of other sources."""
    if raw is not None:
        yield from raw.refused_files()
    remembered = () if scan is None else scan.refused
    yield from (f for f in remembered if raw is None or not Path(f.root, f.path).is_relative_to(raw.root))


def _of_refused(file: tree_records.RefusedFile, convention: Convention) -> _Fact:
    try:
        is_end = file.what is not None or naming.naming_of(convention).parse(file.file).is_final
    except RefusedError:
        is_end = False
    return _Fact(
        group=file.group or "",
        config={**file.config, convention.seed_key: file.seed},
        state=REFUSED,
        path=str(Path(file.root, file.path).parent),
        run_id=file.run_id,
        reason=f"{file.path}: {file.message}",
        is_end=is_end,
    )


def _of_overwritten(run: tree_records.OverwrittenRun, convention: Convention) -> _Fact:
    return _Fact(
        group=run.group,
        config={**run.config, convention.seed_key: run.seed},
        state=OVERWRITTEN,
        run_id=run.run_id,
        reason=f"its checkpoints were overwritten by {' and '.join(run.overwritten_by) or 'an unknown run'}",
    )


def _of_wandb_alone(item: overwritten.LostFiles, convention: Convention) -> _Fact | None:
    """A run that W&B knows, and of which no checkpoint is there."""
    run = item.run
    group = run.config.get(convention.group_key) or run.group
    if not isinstance(group, str) or item.refused:  # what was refused is told of by itself
        return None
    failed = run.exit_code not in (None, 0)
    how = f"it ended with exit code {run.exit_code}" if failed else "it stopped"
    where = f" at iteration {run.last_iter:,}" if run.last_iter is not None else ""
    return _Fact(
        group=group,
        config=run.config,
        state=FAILED if failed else PARTIAL,
        path=str(run.folders[-1]),
        run_id=run.run_id,
        iters_done=run.last_iter,
        reason=f"by its W&B record {how}{where}; no checkpoint of it is there",
    )


def _key(fact: _Fact, convention: Convention) -> _Key:
    """What tells the grid's runs apart, as `selection.GridRun.key`; that of no run where the group is not its own."""
    pattern = placement.group_pattern(fact.group, convention)
    axes = () if pattern is None else convention.grids[pattern.grid].regimes[pattern.regime].axes
    config = convention.lifted(fact.config)
    values = tuple((axis, comparing.key_of(config.get(axis))) for axis in sorted(axes))
    return fact.group, values, comparing.key_of(config.get(convention.seed_key))


# --- what a run says of itself ----------------------------------------------------------------------------------------


def _said(
    run: selecting.GridRun, raw: run_folder.RawRun, submission: Submission | None, *, in_tree: bool
) -> RunStanding | None:
    """How a run stands by its status file, its lock and its newest submission; None where none of them says.

    `in_tree` tells whether a tree is looked at too, which may have the files that were moved away.
    """
    said = raw.read_status()
    if said is not None and comparing.differing_keys(said.config or {}, run.values, ()):
        said = None  # it is of another run, whose folder was copied, or renamed
    waiting = submission is not None and submission.in_queue
    standing = RunStanding(
        run=run,
        state=MISSING,
        log=submission.run.log if submission is not None else "",
        job=submission.text if submission is not None and waiting else "",
    )
    if said is not None:
        standing = replace(
            standing,
            path=str(raw.folder),
            run_id=said.run_id or None,
            iters_done=said.iters_done,
            max_iters=said.max_iters,
            log=said.log if Path(said.log).name != Path(standing.log).name else standing.log,  # where it is now
            iterations_per_second=said.iterations_per_second,
            config=said.config or None,
        )
    if raw.is_locked():
        return replace(standing, state=RUNNING, path=str(raw.folder), reason=f"on {said.host}" if said else "")
    if said is not None and said.state == progress.COMPLETE:
        if _has_final(raw):
            return replace(standing, state=COMPLETE)
        reason = "it was complete, but its final checkpoint is no longer there"
        again = f"to train it again, move its {raw.status_file.name} away"
        look = again if in_tree else f"if it was moved into a tree, name that with --root; {again}"
        return replace(standing, state=PARTIAL, reason=f"{reason} ({look})", said_complete=True)
    newer = None if submission is None or waiting else _said_by_submission(submission, said)
    if newer is not None and submission is not None:
        return replace(standing, state=newer[0], reason=newer[1], log=submission.run.log)
    if said is None:
        return standing if waiting else None
    if said.state == progress.FAILED:
        return replace(standing, state=FAILED, reason=said.reason)
    reason = "interrupted"
    if said.state == progress.RUNNING:
        reason = f"it stopped without a word on {said.host}: it was killed, the disk was full, or the machine went down"
    return replace(standing, state=PARTIAL, reason=reason)


def _has_final(raw: run_folder.RawRun) -> bool:
    suffix = raw.convention.checkpoint.suffix
    return any(any(raw.saved_models.glob(f"{name}*{suffix}")) for name in raw.convention.final_kinds)


def _said_by_submission(submission: Submission, said: progress.RunStatus | None) -> tuple[str, str] | None:
    """The state and the reason by the end of a run's newest process, where that is the newest word on it."""
    outcome = submission.outcome
    if outcome is not None and (said is None or submission.outcome_time + _ROUNDING >= said.updated):
        if outcome.state == progress.FAILED:
            return FAILED, outcome.reason
        if outcome.state == progress.INTERRUPTED and said is not None:
            return PARTIAL, "interrupted"
    if outcome is None and said is None and submission.gone and submission.has_output:
        return FAILED, f"{submission.text} ended before it began to train"
    return None


# --- together ---------------------------------------------------------------------------------------------------------


def _together(run: selecting.GridRun, own: RunStanding | None, told: Iterable[RunStanding]) -> RunStanding:
    """The standing that counts, completed by what the others know.

    An end that is there counts first; then what the run says of itself; then what its files and W&B tell.
    """
    ordered = sorted(told, key=lambda item: STATES.index(item.state))
    if own is not None or (ordered and ordered[-1].state != REFUSED):  # what is no end says nothing where more is known
        ordered = [item for item in ordered if item.state != REFUSED or item.is_end]
    if ordered and ordered[0].state == REFUSED and own is not None and own.state != RUNNING:
        own = replace(own, state=REFUSED, reason=ordered[0].reason)  # it may say that it is complete
    if own is not None:
        done = [item for item in ordered if item.state == COMPLETE]
        first = [*done, own] if own.state in (PARTIAL, MISSING, FAILED) else [own, *done]
        if own.state == MISSING:  # a job waits; what is there of the run counts
            first = [*ordered, own]
        ordered = [*first, *(item for item in ordered if item not in first)]
    if not ordered:
        return RunStanding(run=run, state=MISSING)
    best = ordered[0]
    ends = tuple((item.path, item.config) for item in ordered if item.state == COMPLETE and item.config is not None)
    best = replace(best, ends=ends)
    for other in ordered[1:]:
        best = replace(
            best,
            path=best.path or other.path,
            run_id=best.run_id or other.run_id,
            iters_done=_furthest(best.iters_done, other.iters_done),
            max_iters=best.max_iters or other.max_iters,
            log=best.log or other.log,
            job=best.job or other.job,
            iterations_per_second=best.iterations_per_second or other.iterations_per_second,
            config=best.config or other.config,
            of_unknown_seed=best.of_unknown_seed | other.of_unknown_seed,
        )
    return best


def _furthest(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _existing(out: Path) -> Path:
    if not out.is_dir():
        raise UsageError(
            f"there are no raw outputs at {out}: it {'is not a folder' if out.exists() else 'does not exist'}",
            code="no-source",
            fix="Name the folder with --out, or make one with: ckptman train",
        )
    return out
