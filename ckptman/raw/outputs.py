"""What is in raw outputs, without a tree: checkpoints, the W&B run that wrote each, and the runs that lost theirs.

Every checkpoint is read: its configuration, and where its bytes are wanted, each of them once. One that the caller
knows already is left to it.
"""

from __future__ import annotations

import os
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ckptman.fs import FileState, files
from ckptman.raw.attribution import AMBIGUOUS, NONE, STORED, Attribution
from ckptman.raw.beside import Beside, Evidence, Problem
from ckptman.raw.examination import Examined, Examiner, Read, group_said
from ckptman.raw.overwritten import LostFiles, Owner, find_lost_files, owner_of_refused, saved_names
from ckptman.raw.scanning import Refusal, SourceCheckpoint, checkpoint_name, original_name, scan_source, wandb_home
from ckptman.raw.wandb_index import Claim, WandbIndex
from ckptman.raw.wandb_runs import WandbRun, last_iter, merge_requeued, read_run_folder
from ckptman.rules import Convention, comparing, placement
from ckptman.rules import naming as naming_rules
from ckptman.text import RefusedError
from ckptman.tree import contents, history, records

CUT_CODES = frozenset({"cut", "empty", "incomplete-folder"})
"""Refusals that a file still being written would meet."""

PASSED_OVER = "passed-over"
"""Code of a file that is called like a checkpoint of the convention, but for its suffix."""

_NOT_SEEN = ("unreadable-folder", "symlink")
"""Codes of folders of which it is not known what is in them."""

SETTLE_SECONDS = 600.0
"""A cut file younger than this may still be being written."""


_MOST_TRAINED = 4096
"""Folders of which it is held what training left in them."""
_HOMELESS = frozenset({"no-group", "no-task", "unknown-name"})
"""Refusals of files whose folders do not say where they belong."""


class Home(NamedTuple):
    """The group and the task that the folders of a source say, and what a file in them is called."""

    group: str | None
    task: int | None
    name: str


class Known(NamedTuple):
    """What a tree says of a file."""

    run_id: str | None
    content: str
    """As `wandb_index.Claim` has it."""


def _nobody(place: int) -> Owner:
    raise KeyError(place)


class Metrics(NamedTuple):
    """The last metrics of a run, and where they are from, as `records.RunRecord.metrics_source`."""

    values: Mapping[str, Any]
    source: str | None

    def rank(self, other: Metrics) -> tuple[bool, int, bool]:
        """What counts more than others: a file beside the checkpoints, then what is of a later iteration, then W&B."""
        mine, theirs = last_iter(self.values), last_iter(other.values)
        is_beside = self.source is not None and self.source != records.FROM_TRAINING
        return is_beside, 0 if mine is None or theirs is None else mine, self.source is None


_NO_METRICS = Metrics({}, None)


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A checkpoint, and the run that wrote it."""

    file: Examined
    attribution: Attribution
    metrics: Metrics
    evaluations: tuple[Mapping[str, Any], ...] = ()
    """What a tree that is the source knows of the run besides."""

    @property
    def owner(self) -> Owner:
        """Who wrote the file."""
        found, file = self.attribution, self.file
        candidates = found.candidates if found.run_id is None else ()
        return Owner(found.run_id, file.place.seed, file.config, file.content, candidates=candidates)


@dataclass(frozen=True)
class WandbProblem:
    """Something of a W&B run that could not be read; the rest of its records is used."""

    source: str
    """The W&B folder, relative to the source."""
    message: str


@dataclass(frozen=True)
class LostRuns:
    """W&B runs whose checkpoints are not there."""

    overwritten: tuple[records.OverwrittenRun, ...]
    partly_overwritten: tuple[records.OverwrittenRun, ...]
    without_files: tuple[LostFiles, ...]
    """Those of which nothing was saved, or nothing is left, and no other run's file is in the way."""
    logged: tuple[records.OverwrittenRun, ...]
    """What a tree keeps of these, and of the runs that may have written a file of which it is not known which did."""


class RawOutputs:
    """Raw outputs: looked through when this is made, read by `read`."""

    def __init__(
        self,
        source: Path,
        convention: Convention,
        *,
        leave_out: Path | None = None,
        trust: naming_rules.Trust = naming_rules.Trust.NEITHER,
        settle: float = SETTLE_SECONDS,
        follow_symlinks: bool = False,
        whole: bool = True,
    ) -> None:
        """Look through a source, and read its W&B folders.

        Args:
            leave_out: A folder that is not part of the source even if it lies below it.
            trust: Which decides where a file's name and its configuration disagree.
            settle: A cut file younger than this many seconds is deferred, not refused.
            follow_symlinks: Follow symbolic links.
            whole: Read every byte of a checkpoint. By its header alone, its SHA-256 and damage inside are not known.

        Raises:
            UsageError: if the source does not exist.
        """
        self.convention = convention
        self.scan = scan_source(source, convention, leave_out=leave_out, follow_symlinks=follow_symlinks)
        self.refused = list(self.scan.refusals)
        self.deferred: list[Refusal] = []
        self._known = array("q")
        """The places of the files that were not read."""
        self._known_runs: list[str | None] = []
        """The run of each of them, where W&B recorded any."""
        self._owner_of: Callable[[int], Owner] = _nobody
        self._owners: dict[Path, Owner] | None = None
        self._held: dict[tuple[str, str], set[str]] = defaultdict(set)
        """The files whose run is known, as `wandb_index.Holders`."""
        self.files: list[SavedFile] = []
        """Copies last, and the runs as they were begun, whatever the names of their folders."""
        self._trained: dict[str, records.TrainingMetrics | None] = {}
        """By folder, of those that were looked into last, what training left in it."""
        self._settle = settle
        self._whole = whole
        self._unread_wandb = dict(self.scan.unread_wandb)
        self.wandb = WandbIndex(self._read_wandb(), convention)
        self._beside = Beside(self.root, self.scan.checkpoints, self.wandb, convention)
        self._examiner = Examiner(
            convention, self.wandb, self._beside, trust=trust, follow_symlinks=follow_symlinks, whole=whole
        )

    @property
    def root(self) -> Path:
        """The source folder, absolute."""
        return self.scan.root

    @property
    def owners(self) -> Mapping[Path, Owner]:
        """Source file → the run that wrote it, as far as that is known; made when it is asked for, which is seldom."""
        if self._owners is None:
            known = {self.scan.checkpoints[at].path: self._owner_of(at) for at in self._known}
            self._owners = {**known, **{saved.file.source.path: saved.owner for saved in self.files}}
        return self._owners

    @property
    def wandb_problems(self) -> tuple[WandbProblem, ...]:
        """What could not be read of the W&B folders, such as the end of a killed run's log."""
        return tuple(WandbProblem(self.relative(run.folders[0]), p) for run in self.wandb.runs for p in run.problems)

    @property
    def beside_problems(self) -> tuple[Problem, ...]:
        """What of the files beside checkpoints is not used, or says otherwise than something that counts more."""
        return tuple(sorted(self._beside.problems))

    def read(
        self,
        known: Callable[[int], Known | None] = lambda place: None,
        *,
        owner_of: Callable[[int], Owner] = _nobody,
        home_of: Callable[[str], Home | None] = lambda content: None,
        progress: contents.Progress | None = None,
    ) -> Sequence[SavedFile]:
        """Read every checkpoint, and find the run of each.

        Args:
            known: Tells of a file, by its place in the scan, that need not be read. It may refuse one.
            owner_of: Tells who wrote such a file; it is asked where that matters.
            home_of: Tells the group and the task that a source said of the same bytes before.
            progress: Called with `reading`, and the bytes.
        """
        to_read = []
        self._owner_of = owner_of
        for place, file in enumerate(self.scan.checkpoints):
            with self._refusing(file):
                if (told := known(place)) is not None:
                    self._own(file, told)
                    self._known.append(place)
                    if self.wandb.runs:
                        self._known_runs.append(told.run_id)
                else:
                    to_read.append(file)
        total, done = sum(file.state.size for file in to_read), 0
        examined: list[Examined] = []
        homeless: list[tuple[SourceCheckpoint, Read]] = []
        for file, reading in self._examiner.read_all(to_read):
            with self._refusing(file):
                read = reading()
                try:
                    examined.append(self._examiner.examine(file, read))
                except RefusedError as error:
                    if error.code not in _HOMELESS:
                        raise
                    homeless.append((file, read))
            done += file.state.size
            if progress is not None:
                progress("reading", done, total)
        if homeless:
            examined += list(self._of_copies(homeless, {one.content: one for one in examined}, home_of))
        examined.sort(key=lambda file: file.at)  # by path, that is
        examined.sort(key=lambda file: file.common.name != file.source.name)  # copies by other names last
        found = _with_originals(self._attributed(examined))
        del examined
        self._put_in_order(found)
        self.files = [saved for saved in found if not self._is_undecided(saved)]
        self._owners = None
        for saved in self.files if self.wandb.runs else ():
            self._own(saved.file.source, Known(saved.attribution.run_id, saved.file.content))
        return self.files

    def _of_copies(
        self,
        homeless: Iterable[tuple[SourceCheckpoint, Read]],
        originals: Mapping[str, Examined],
        home_of: Callable[[str], Home | None],
    ) -> Iterator[Examined]:
        """Files whose own folders do not say where they belong, or whose names do not say what they are, as copies of
        files of which that is known."""
        for file, read in homeless:
            original = originals.get(read.content)
            if original is None:
                home = home_of(read.content)
            else:
                home = Home(original.source.group, original.source.task, original.common.name)
            with self._refusing(file):
                if home is None:
                    yield self._examiner.examine(file, read)
                else:
                    yield self._examiner.examine(file.of_home(home.group, home.task), read, called=home.name)

    def _folder_of(self, saved: SavedFile) -> str:
        source = saved.file.source
        if not self.convention.raw.step_folders:
            return source.around.relative
        return str(placement.folder_at_source(source.path, self.convention))

    def attribute(self, claims: Sequence[Claim]) -> list[Attribution]:
        """Find the runs that wrote checkpoints."""
        return self.wandb.attribute(claims, self._held, self._timely)

    @cached_property
    def _timely(self) -> Mapping[Path, Collection[str]]:
        """By folder, the runs of the files in it whose run is known already, and ran when they were saved."""
        found: dict[Path, set[str]] = defaultdict(set)
        known = zip(map(self.scan.checkpoints.__getitem__, self._known), self._known_runs, strict=True)
        read = ((saved.file.source, saved.attribution.run_id) for saved in self.files)
        for file, run_id in chain(known, read) if self.wandb.runs else ():
            run = self.wandb.by_id.get(run_id or "")
            if run is not None and run.covers(file.state.mtime_ns / 1e9):
                found[file.folder].add(run.run_id)
        return found

    def lost(self, known: Iterable[tuple[records.RunRecord, records.RunRecord]] = ()) -> LostRuns:
        """Find the runs whose checkpoints are not there, once all are read.

        Args:
            known: Runs of a tree: what it knows of the same bytes counts; its files may have been moved away from here.
                Each as it was when `read` was told of its files, and as it is by now. None is held.
        """
        present: set[str | None] = {saved.attribution.run_id for saved in self.files}
        lists = self.scan.lists
        if not (self.wandb.runs or lists):
            return LostRuns((), (), (), ())
        if not self.wandb.runs:
            present.update(record.run_id for _, record in known)
            listed = self._listed((run for each in lists for run in each.runs), present)
            present.update(run.run_id for run in listed)
            others = self._listed((run for each in lists for run in each.without_files), present)
            return LostRuns(_in_order(listed), (), (), _in_order(others))
        not_read = {self.scan.checkpoints[place].path for place in self._known}
        owned = {saved.file.source.path: saved.owner for saved in self.files}
        told: dict[str, Owner] = {}
        kept: defaultdict[str | None, set[str]] = defaultdict(set)
        of_opaque_keys = []
        by_folder = {str(folder): run.run_id for run in self.wandb.runs for folder in run.folders}
        renamed: set[str] = set()
        for before, record in known:
            if record.opaque:
                of_opaque_keys.append(record)
            if record.run_id not in self.wandb.by_id and record.attribution.code != records.ASSIGNED:
                # Its own W&B folders say another id: that was edited, and nobody's files are gone for it.
                at = (str(Path(record.source.root, folder)) for folder in record.source.wandb)
                renamed.update(by_folder[folder] for folder in at if folder in by_folder)
            present.add(record.run_id)
            kept[record.run_id].update(entry.file for entry in record.checkpoints)
            for name, _, entry in record.source_paths:
                if (path := Path(name)) in not_read:
                    owned[path] = Owner.recorded(before, entry)
                else:
                    owned.setdefault(path, Owner.recorded(record, entry))
                if record.run_id is not None:
                    told[entry.sha256] = Owner.recorded(record, entry)
        owned = {path: owner if owner.run_id else told.get(owner.content, owner) for path, owner in owned.items()}
        undecided = {name for owner in owned.values() for name in owner.candidates}
        spellings = self._spellings(of_opaque_keys)
        for file, _ in self._not_taken():
            owned.setdefault(file, self._owner_of_refused(file))
        for folder, _ in self._not_seen():
            seed = placement.named_by_folders(folder / folder.name, self.convention)[2]
            for name in {name for run in self.wandb.runs for name in saved_names(run, self.convention)}:
                owned.setdefault(folder / name, Owner(None, seed, is_refused=True))
        as_in_files = [_spelled(run, spellings) for run in self.wandb.runs]
        present |= renamed
        runs = [run for run in as_in_files if run.run_id not in undecided | renamed]
        lost = find_lost_files(runs, owned, {run_id for run_id in present if run_id is not None}, self.convention)
        overwritten = [self._overwritten(item) for item in lost if item.overwritten and not item.survives]
        present |= {run.run_id for run in overwritten if run is not None}
        overwritten += self._listed((run for listed in self.scan.lists for run in listed.runs), present)
        # What was written over after the tree had got it is not lost.
        in_part = ((item, tuple(n for n in item.overwritten if n not in kept[item.run.run_id])) for item in lost)
        partly = [self._overwritten(replace(item, overwritten=n)) for item, n in in_part if n and item.survives]
        gone = tuple(item for item in lost if not item.overwritten and not item.survives)
        open_runs = [run for run in as_in_files if run.run_id in undecided - present]
        logged = [self._logged(item.run, item.folder, item.missing) for item in gone]
        logged += [self._logged(run, wandb_home(run.folders[0], self.convention), ()) for run in open_runs]
        present |= {run.run_id for run in (*overwritten, *logged) if run is not None}
        logged += self._listed((run for listed in self.scan.lists for run in listed.without_files), present)
        # Of a run that W&B recorded elsewhere, as where one run's folder was named, the files may lie there too.
        missing = tuple(item for item in gone if any(at.is_relative_to(self.root) for at in item.run.folders))
        return LostRuns(_in_order(overwritten), _in_order(partly), missing, _in_order(logged))

    def refused_files(self) -> tuple[records.RefusedFile, ...]:
        """Each file that was refused, deferred or passed over and may be a checkpoint, and what is known of it."""
        found = []
        naming = naming_rules.naming_of(self.convention)
        not_taken = list(self._not_taken())
        owners = self.owners if not_taken else {}
        for path, refusal in not_taken:
            owner = owners.get(path) or self._owner_of_refused(path)
            group, task, seed = placement.named_by_folders(path, self.convention)
            config = {**owner.config}
            with suppress(RefusedError):  # a name of no convention says nothing
                named = naming.parse(placement.name_at_source(path, self.convention)).values
                config = config or {**placement.said_by_group(group, self.convention), **named}
            said_seed = placement.seed_of(config.get(self.convention.seed_key))
            if (seed := seed if said_seed is None else said_seed) is not None:
                config[self.convention.seed_key] = seed
            with suppress(RefusedError):  # it has no place that is known
                said = group_said(config, group, self.convention)
                place = placement.place_of(config, self.convention, source_group=said, source_task=task)
                group, task, seed = place.group, place.task, place.seed
            found.append(self._refused(refusal, path.name, config, (group, task, seed), owner.run_id))
        for folder, refusal in self._not_seen():
            found += self._refused_folder(folder, refusal)
        return tuple(sorted(found, key=lambda file: file.path))

    def _refused(
        self,
        refusal: Refusal,
        name: str,
        config: Mapping[str, Any],
        place: tuple[str | None, int | None, object],
        run_id: str | None,
    ) -> records.RefusedFile:
        group, task, seed = place
        state = None
        with suppress(RefusedError):
            state = FileState.of(self.root / refusal.source) if refusal.what == "file" else None
        return records.RefusedFile(
            root=str(self.root),
            path=refusal.source,
            file=name,
            code=refusal.code,
            message=refusal.message,
            fix=refusal.fix,
            run_id=run_id,
            group=group,
            task=task,
            seed=seed if isinstance(seed, int) else None,
            config=config,
            what=None if refusal.what == "file" else refusal.what,
            how="deferred" if refusal in self.deferred else "passed over" if refusal.code == PASSED_OVER else None,
            size=None if state is None else state.size,
            mtime_ns=None if state is None else state.mtime_ns,
            ctime_ns=None if state is None else state.ctime_ns,
        )

    def _refused_folder(self, folder: Path, refusal: Refusal) -> Iterator[records.RefusedFile]:
        """Of a folder that could not be looked into, each run that may have files in it: those that W&B recorded around
        it, or else those that the names of folders say."""
        inside = folder / folder.name
        group, task, seed = placement.named_by_folders(inside, self.convention)
        key = self.convention.seed_key
        runs = [run for run in next(iter(self.wandb.beside(inside)), ()) if seed in (None, run.config.get(key))]
        configs = [{**config, key: seed} for config in placement.configs_of(group, task, self.convention)]
        known: list[tuple[str | None, Mapping[str, Any]]] = [(run.run_id, run.config) for run in runs]
        for run_id, config in known or [(None, config) for config in configs] or [(None, {key: seed})]:
            where: tuple[str | None, int | None, object] = (group, task, config.get(key))
            with suppress(RefusedError):  # it has no place that is known
                said = group_said(config, group, self.convention)
                place = placement.place_of(config, self.convention, source_group=said, source_task=task)
                where = place.group, place.task, place.seed
            yield self._refused(refusal, folder.name, config, where, run_id)

    def _not_seen(self) -> Iterator[tuple[Path, Refusal]]:
        """The folders that could not be looked into, and may hold checkpoints."""
        for refusal in self.refused:
            parts, rules = Path(refusal.source).parts, self.convention
            of_wandb = any(p == rules.folders.saved_wandb or p.startswith(rules.raw.wandb_runs) for p in parts)
            if refusal.what == "folder" and refusal.code in _NOT_SEEN and not of_wandb:
                yield self.root / refusal.source, refusal

    def _not_taken(self) -> Iterator[tuple[Path, Refusal]]:
        """What was not taken: each with the path that it would have as a checkpoint, and why."""
        suffix = self.convention.checkpoint.suffix
        naming = naming_rules.naming_of(self.convention)
        for refusal in (*self.refused, *self.deferred):
            path = self.root / refusal.source
            may_be_one = refusal.what == "file" or refusal.code == "incomplete-folder"
            if may_be_one and path.name.endswith(suffix) and os.path.lexists(path):
                original = path.with_name(original_name(path, self.convention))
                if not naming.knows(path.name) and naming.knows(original.name) and not os.path.lexists(original):
                    path = original  # a copy stands for what is not there
                yield path, refusal
        owners = self.owners if self.scan.passed_over else {}
        for source in self.scan.passed_over:
            path = self.root / source
            path = path.with_name(checkpoint_name(path, self.convention) or path.with_suffix(suffix).name)
            if naming.knows(path.name) and path not in owners:
                fix = "See what is in it, with ckptman show."
                if checkpoint_name(self.root / source, self.convention):
                    fix = f"Wait until it is copied, or unpack it, or, where it is whole, call it {path.name}."
                if source.endswith(".dvc"):  # which says only where DVC keeps it
                    fix = "Fetch the file itself: dvc pull."
                yield path, Refusal(source, PASSED_OVER, f"it is not named *{suffix}", fix)

    def _owner_of_refused(self, path: Path) -> Owner:
        try:
            saved_at = path.stat().st_mtime
        except OSError:
            saved_at = None
        others = [
            run
            for run in self.wandb.runs
            if not self._held.get((placement.name_at_source(path, self.convention), run.run_id))
        ]
        near: list[Iterable[WandbRun]] = [*self.wandb.beside(path), others]
        return owner_of_refused(path, saved_at, near, self.convention)

    def relative(self, path: Path) -> str:
        """A path as messages name it: relative to the source, if it lies there."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def wandb_folders(self, run: WandbRun) -> tuple[str, ...]:
        """A run's W&B folders, relative to the source."""
        return tuple(str(folder.relative_to(self.root)) for folder in run.folders if folder.is_relative_to(self.root))

    def refuse(
        self, source: str, error: RefusedError, *, file: SourceCheckpoint | None = None, what: str = "file"
    ) -> None:
        """Take note of something that cannot be handled; a file that may still be being written is deferred."""
        path = None if file is None else file.path
        message = error.message.removeprefix(f"{path}: ")  # `source` names it already
        refusal = Refusal(source=source, code=error.code, message=message, fix=error.fix, what=what)
        young = file is not None and abs(time.time() - file.state.mtime_ns / 1e9) < self._settle
        if error.code == files.CHANGED or (error.code in CUT_CODES and young):
            fix = "It was written a moment ago: ingest again later. --settle sets how long to wait."
            self.deferred.append(replace(refusal, fix=fix))
        else:
            self.refused.append(refusal)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read_wandb(self) -> list[WandbRun]:
        runs = []
        for folder in self.scan.wandb_folders:
            try:
                runs.append(read_run_folder(folder))
            except RefusedError as error:
                self.refuse(self.relative(folder), error, what="W&B folder")
                if error.code == "unreadable":
                    self._unread_wandb[folder] = wandb_home(folder, self.convention)
        return merge_requeued(runs)

    def _is_undecided(self, saved: SavedFile) -> bool:
        """Refuse a file that a W&B run may have written whose folder could not be read: then it is not known which; and
        one beside a `run.json` that could not be read, which says so."""
        file, found = saved.file, saved.attribution
        if not (self.scan.unread_records or self._unread_wandb):
            return False
        if file.source.folder in self.scan.unread_records:
            error = RefusedError(
                "what is known of its run is not: the run.json beside it cannot be read",
                code="unreadable-record",
                fix="See to it that you may read it and that its disk is well, and ingest again.",
            )
            self.refuse(file.source.relative, error)
            return True
        if file.source.folder in self.scan.records:
            return False
        for folder, home in self._unread_wandb.items():
            is_near = file.source.path.is_relative_to(home) and found.code != STORED
            if is_near or found.code in (NONE, AMBIGUOUS):
                error = RefusedError(
                    f"which run wrote it is not known: the W&B folder {self.relative(folder)} cannot be read",
                    code="unreadable-wandb",
                    fix="See to it that you may read that folder and that its disk is well, and ingest again.",
                )
                self.refuse(file.source.relative, error)
                return True
        return False

    def _own(self, file: SourceCheckpoint, found: Known) -> None:
        vars(self).pop("_timely", None)  # it is worked out anew
        if found.run_id is not None and self.wandb.runs:
            self._held[file.name, found.run_id].add(found.content)

    @contextmanager
    def _refusing(self, file: SourceCheckpoint) -> Iterator[None]:
        try:
            yield
        except RefusedError as error:
            self.refuse(file.relative, error, file=file, what="folder" if file.is_folder else "file")

    def _attributed(self, files: Sequence[Examined]) -> list[SavedFile]:
        """Find the run of each file; one that lies in a tree already has it in its `run.json`."""
        recorded = [self._recorded(file) for file in files] if self.scan.records else [None] * len(files)
        sought = [file for file, known in zip(files, recorded, strict=True) if known is None]
        attributions = iter(self.attribute([file.claim for file in sought]))
        return [known or self._saved(file, next(attributions)) for file, known in zip(files, recorded, strict=True)]

    def _saved(self, file: Examined, attribution: Attribution) -> SavedFile:
        metrics = self.metrics(attribution.run_id, file.config, [str(file.source.path)], file.opaque)
        return SavedFile(file, attribution, metrics if metrics.values or metrics.source else _NO_METRICS)

    def _recorded(self, file: Examined) -> SavedFile | None:
        record = self.scan.records.get(file.source.folder)
        if record is None or not any(self._is_of(file, entry) for entry in record.checkpoints):
            return None
        note = record.attribution
        attribution = Attribution(record.run_id, note.code, note.evidence, note.candidates)
        measured = Metrics(record.metrics, record.metrics_source)
        return SavedFile(file, attribution, measured, record.evaluations)

    def _is_of(self, file: Examined, entry: records.CheckpointEntry) -> bool:
        if self._whole:
            return entry.sha256 == file.content
        return (entry.file, entry.size) == (file.source.file, file.state.size)

    def metrics(
        self, run_id: str | None, config: Mapping[str, Any], files: Iterable[str], opaque: Collection[str] = ()
    ) -> Metrics:
        """The last metrics of a run: by W&B, else those that training left in the run's own folder; by these, where the
        run went on after the last that W&B has of it.

        A record of another configuration has none of this run's, whatever its id: `wandb agent` can give one id to
        several runs.
        """
        ignored = self.convention.ignored_keys
        run = self.wandb.by_id.get(run_id or "")
        is_its = run is not None and not comparing.differing_keys(config, run.config, ignored, opaque)
        by_wandb = Metrics(run.summary if run is not None and is_its else {}, None)
        left = next((left for _, left in self._left_by_training(config, files)), None)
        own = Metrics({} if left is None else left.metrics, None if left is None else records.FROM_TRAINING)
        return by_wandb if by_wandb.values and by_wandb.rank(own) >= own.rank(by_wandb) else own

    def beside(self, checkpoint: Path) -> Evidence:
        """What lies beside a checkpoint, histories too."""
        return self._beside.of(checkpoint, tables=True)

    def curves_of(self, record: records.RunRecord) -> list[Path]:
        """The learning curves of a tree that is the source, and those that training left in the run's own folder."""
        kept = dict.fromkeys(
            path.with_name(history.HISTORY_FILE)
            for path, entry in ((Path(path), entry) for path, _, entry in record.source_paths if self.scan.records)
            if self._has_curve(path, entry)
        )
        left = self._left_by_training(record.config, (path for path, _, _ in record.source_paths))
        curves = (folder / history.HISTORY_FILE for folder, _ in left)
        return [*kept, *(curve for curve in curves if curve.is_file())]

    def _has_curve(self, path: Path, entry: records.CheckpointEntry) -> bool:
        """Whether a file was in a tree, with others of a run whose learning curve was kept."""
        record = self.scan.records.get(path.parent)
        return (
            record is not None
            and record.history is not None
            and any((other.file, other.sha256) == (path.name, entry.sha256) for other in record.checkpoints)
        )

    def _left_by_training(
        self, config: Mapping[str, Any], files: Iterable[str]
    ) -> Iterator[tuple[Path, records.TrainingMetrics]]:
        """The own folders of the run of these checkpoints, with the metrics in them."""
        for folder in dict.fromkeys(os.path.dirname(os.path.dirname(path)) for path in files):  # noqa: PTH120
            if len(self._trained) > _MOST_TRAINED:
                self._trained.clear()
            if folder not in self._trained:
                self._trained[folder] = records.read_training_metrics(Path(folder, self.convention.raw.metrics))
            left = self._trained[folder]
            if left is not None and comparing.same_configuration(left.config, config, self.convention.ignored_keys):
                yield Path(folder), left

    def refreshed(self, record: records.RunRecord) -> tuple[records.RunRecord, tuple[Path, ...]]:
        """A run with the metrics that are here now, once all files are read; and the files beside its checkpoints that
        hold its learning curve, those that count more last. What is here no longer is kept.

        Metrics beside the checkpoints are laid over those of W&B.
        """
        found = self.metrics(record.run_id, record.config, (path for path, _, _ in record.source_paths), record.opaque)
        beside = self._beside.of_run(record, lambda: self.owners, found.values)
        if beside.metrics:
            others = () if found.values.keys() <= beside.metrics.keys() else (found.source or "W&B",)
            source = ", ".join((records.FROM_BESIDE, *others))
            found = Metrics({**found.values, **beside.metrics}, source)
        known = Metrics(record.metrics, record.metrics_source)
        if found.values and (not known.values or found.rank(known) >= known.rank(found)):
            record = replace(record, metrics=found.values, metrics_source=found.source)
        if beside.notes != record.source.beside:
            record = replace(record, source=replace(record.source, beside=beside.notes))
        return record, beside.curves

    def _put_in_order(self, found: list[SavedFile]) -> None:
        """Sort files that are in order of their paths. Where no time tells them apart, what lies in their folder does,
        not its name."""
        content: dict[str, str] = {}
        for saved in found:
            folder = self._folder_of(saved)
            content[folder] = min(saved.file.content, content.get(folder, saved.file.content))
        # One after the other, those that count more last: all of them at once would take more memory than the files.
        for key in (lambda saved: content[self._folder_of(saved)], _saved_at, self._started_at, _is_copy):
            found.sort(key=key)

    def _started_at(self, saved: SavedFile) -> float:
        """When the run of a file was begun; where that is not known, when it was saved."""
        run = self.wandb.by_id.get(saved.attribution.run_id or "")
        return saved.file.saved_at if run is None or run.started is None else run.started

    # --- lost runs ----------------------------------------------------------------------------------------------------

    def _spellings(self, known: Iterable[records.RunRecord]) -> _Spellings:
        """What W&B made of values that only the program knows how to spell, as the runs tell that left files."""
        files = [(s.file.opaque, s.file.config, (s.attribution.run_id, *s.attribution.candidates)) for s in self.files]
        files += [(r.opaque, r.config, (r.run_id, *r.attribution.candidates)) for r in known]
        found: _Spellings = defaultdict(lambda: defaultdict(list))
        for opaque, config, (run_id, *candidates) in files:
            for key in opaque:
                ids = candidates if run_id is None else [run_id]
                said = [
                    run.config[key] for name in ids if (run := self.wandb.by_id.get(name or "")) and key in run.config
                ]
                if key in config and len({comparing.key_of(value) for value in said}) == 1:
                    found[key][comparing.key_of(said[0])].append(config[key])
        return found

    def _overwritten(self, lost: LostFiles) -> records.OverwrittenRun | None:
        try:
            return self._record(lost.run, lost.folder, lost.overwritten, lost.overwritten_by)
        except RefusedError as error:
            self.refuse(self.relative(lost.run.folders[0]), error, what="W&B folder")
            return None

    def _logged(self, run: WandbRun, folder: Path, files: tuple[str, ...]) -> records.OverwrittenRun | None:
        """What is kept of a run for its metrics; None where it cannot be told which configuration's they are."""
        with suppress(RefusedError):
            return self._record(run, folder, files)
        return None

    def _record(
        self, run: WandbRun, folder: Path, files: tuple[str, ...], by: tuple[str, ...] = ()
    ) -> records.OverwrittenRun:
        """What is kept of a run without checkpoints; `files` are missing in `folder`."""
        folder_group, source_task, _ = placement.named_by_folders(folder / "file", self.convention)
        group = group_said(run.config, folder_group, self.convention)
        place = placement.place_of(run.config, self.convention, source_group=group, source_task=source_task)
        return records.OverwrittenRun(
            run_id=run.run_id,
            group=place.group,
            task=place.task,
            seed=place.seed,
            source_task=source_task,
            config=run.config,
            metrics=run.summary,
            files=files,
            overwritten_by=by,
            source=records.LostSource(str(self.root), self.wandb_folders(run)),
        )

    def _listed(
        self, runs: Iterable[records.OverwrittenRun], known: Collection[str | None]
    ) -> list[records.OverwrittenRun]:
        """What a tree that is the source says of runs without checkpoints, with the task ids of this convention."""
        listed = {}
        for run in runs:
            if run.run_id not in known:
                with suppress(RefusedError):  # a group that this convention does not place
                    place = placement.place_of(
                        run.config, self.convention, source_group=run.group, source_task=run.task
                    )
                    listed[run.run_id] = replace(run, group=place.group, task=place.task)
        return list(listed.values())


def _saved_at(saved: SavedFile) -> float:
    return saved.file.saved_at


def _is_copy(saved: SavedFile) -> bool:
    return saved.attribution.is_copy


def _with_originals(files: Sequence[SavedFile]) -> list[SavedFile]:
    """The files, each copy in the place of the file that it is a copy of, whatever task its own folder says."""
    originals = {saved.file.sum: saved.file for saved in files if not saved.attribution.is_copy}
    found = []
    for saved in files:
        original = originals.get(saved.file.sum, saved.file)
        if original is not saved.file and original.place != saved.file.place and original.config == saved.file.config:
            saved = replace(saved, file=saved.file.at_place_of(original))
        found.append(saved)
    return found


_Spellings = dict[str, dict[Hashable, list[Any]]]
"""By key and W&B's value, the values of files of which W&B has that."""


def _spelled(run: WandbRun, spellings: _Spellings) -> WandbRun:
    """A run with its configuration as the files of its trainer spell it, as far as that is known."""
    said = {key: values.get(comparing.key_of(run.config[key]), []) for key, values in spellings.items()
            if key in run.config}  # fmt: skip
    known = {key: values[0] for key, values in said.items() if len(set(map(comparing.key_of, values))) == 1}
    return replace(run, config={**run.config, **known}) if known else run


def _in_order(runs: Iterable[records.OverwrittenRun | None]) -> tuple[records.OverwrittenRun, ...]:
    return tuple(
        sorted(
            (run for run in runs if run is not None),
            key=lambda run: (
                run.group,
                -1 if run.task is None else run.task,
                -1 if run.seed is None else run.seed,
                run.run_id,
            ),
        )
    )
