"""Carrying out the plan of an ingest: files are staged, published and recorded, in turns."""

from __future__ import annotations

import copy
import hashlib
import mmap
import os
import shutil
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ckptman.formats import folder_bytes
from ckptman.fs import (
    Batch,
    FileState,
    Mode,
    files,
    folders,
    make_folders,
    moving,
    placing,
    probing,
    write_atomically,
)
from ckptman.ingestion.planning import IngestOptions, Plan, PlannedFolder, PlannedFolders, Removal
from ckptman.ingestion.run_folders import FilePlacement
from ckptman.raw import histories, scanning
from ckptman.rules import Convention
from ckptman.text import CkptmanError, MachineError, RefusedError, UsageError, wording
from ckptman.tree import contents, history, records


@dataclass(frozen=True)
class Space:
    """Bytes that an ingest writes, and that there are on the disk of its tree."""

    needed: int
    """Of the files that are copied; links need none. Copies that share blocks need none either."""
    free: int


def refusal_of(plan: Plan, path: Path, error: RefusedError) -> scanning.Refusal:
    """What is told of a file that was not handled."""
    message = error.message.removeprefix(f"{path} ")  # `source` names it already
    return scanning.Refusal(source=_relative(plan, path), code=error.code, message=message, fix=error.fix)


def _relative(plan: Plan, path: Path) -> str:
    return str(path.relative_to(plan.source)) if path.is_relative_to(plan.source) else str(path)


class _Written(Mapping[str, str]):
    """What was written, relative to the root, with its SHA-256; of records, only the sums are held."""

    def __init__(self, runs: PlannedFolders) -> None:
        self._runs = runs
        self._sums = bytearray(_SUM * len(runs))
        """In the order of the runs; zeros where none was written."""
        self._others: dict[str, str] = {}

    def note(self, path: str, sha256: str) -> None:
        """Take note of a file."""
        if (at := self._at(path)) is None:
            self._others[path] = sha256
        else:
            self._sums[at : at + _SUM] = bytes.fromhex(sha256)

    def _at(self, path: str) -> int | None:
        """Where the sum of a record is; None of another file."""
        folder, _, name = path.rpartition("/")
        place = self._runs.place_of(folder or ".") if name == records.RUN_FILE else None
        return None if place is None else _SUM * place

    def __getitem__(self, path: str) -> str:
        if (at := self._at(path)) is None:
            return self._others[path]
        if not any(found := self._sums[at : at + _SUM]):
            raise KeyError(path)
        return found.hex()

    def __iter__(self) -> Iterator[str]:
        paths = (str(folder / records.RUN_FILE) for folder in self._runs.folders)
        return chain((path for path in paths if path in self), self._others)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass
class _RunAtWork:
    """A run whose files are being placed."""

    run: PlannedFolder
    placed: list[tuple[FilePlacement, placing.Placement]] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    """Names of checkpoints that could not be placed."""
    wandb: list[str] = field(default_factory=list)
    """Kept W&B folders, relative to the run folder."""


@dataclass
class _Turn:
    """Some runs, whose files are staged, published and recorded together."""

    works: list[_RunAtWork]
    batch: Batch
    staged: list[tuple[_RunAtWork, FilePlacement]] = field(default_factory=list)
    """What is in the batch."""


class _Came(NamedTuple):
    """What came of a turn that a copy of this process did."""

    refused: list[tuple[str, ...]]
    deferred: list[tuple[str, ...]]
    failed: list[str]
    histories: list[str]
    written: list[tuple[str, str]]
    files: int
    bytes: int
    errors: list[tuple[str, str, str, str]]
    """Why it ended early: kind, message, code and fix; of what is no error of ckptman's, its traceback alone."""


_KINDS = {kind.__name__: kind for kind in (MachineError, RefusedError, UsageError)}
"""Of errors that end an ingest."""
_SUM = 32
"""Bytes of a SHA-256."""
_MANY = 16
"""Files in a batch from which on there are descriptors for two."""
_MUCH = 1 << 22
"""Bytes of a turn from which on the next one is staged meanwhile: little files keep to Python, which one thread has."""


class Work:
    """Carries a plan out, and holds what came of it."""

    def __init__(
        self, plan: Plan, convention: Convention, options: IngestOptions, progress: contents.Progress | None
    ) -> None:
        self.plan = plan
        self.convention = convention
        self.options = options
        self.mode = options.mode
        self.progress = progress
        self.refused: list[scanning.Refusal] = []
        self.deferred: list[scanning.Refusal] = []
        """What the plan has not refused or deferred yet."""
        self.failed: set[str] = set()
        self.wandb_placed: list[str] = []
        self.removed: list[Removal] = []
        self.wandb_moved: list[tuple[FilePlacement, placing.Placement]] = []
        """W&B files that were placed."""
        self.wandb_kept: list[tuple[Path, Path]] = []
        """W&B files that the tree had, and where."""
        self.histories: list[str] = []
        self.written = _Written(plan.runs)
        self.note = self.written.note
        self.on_disk: set[Path] = set()
        """Records of which that is known."""
        self.done_bytes = 0
        self.telling = threading.RLock()
        self.synced_bytes = self.recorded_bytes = 0
        self.total_bytes = sum(file.size for file in plan.runs.to_place)
        self.space = Space(0, 0)
        self.publishing: Future[None] | None = None
        """What another thread does meanwhile; there is one turn at most that it has to do."""
        self.finished_files = 0
        self.is_count_exact = True

    def run(self, *, with_wandb: bool) -> None:
        """Place everything. A run's `run.json` is written once its files are durable."""
        self._remove_leftovers()
        self.space = space_of(self.plan, self.mode, self.convention.folders.saved_wandb if with_wandb else None)
        _check_space(self.space, self.plan, self.mode)
        try:
            self._place_all(with_wandb=with_wandb)
            for folder, listed in self.plan.overwritten_lists.items():
                self._write_overwritten(self.plan.root / folder, listed)
            self._write_refused()
            for removal in self.plan.removals:
                self._remove_known(removal)
            self._let_go_of_wandb()
        except MachineError as error:
            count = sum(1 for _ in self.plan.runs.to_place)
            raise MachineError(
                f"{error.message} ({'' if self.is_count_exact else 'at least '}{self.finished_files} of {count} files "
                "are in place)",
                code=error.code,
                fix=f"{error.fix} The next ingest goes on where this one stopped.".strip(),
            ) from error

    def _let_go_of_wandb(self) -> None:
        """Take the W&B files away that a move placed, once no file is left at the source of which they may tell."""
        if self.mode is not Mode.MOVE or any((self.refused, self.deferred, self.plan.refused, self.plan.deferred)):
            return
        for planned, placement in self.wandb_moved:
            self._remove_placed(planned, placement)
        for path, kept in self.wandb_kept:
            sha256, state = files.hash_file(path)
            if files.hash_file(kept)[0] == sha256:
                planned = FilePlacement(path, state, sha256, PurePosixPath(kept.relative_to(self.plan.root)))
                self._remove_placed(planned, placing.Placement(sha256, state.size, state, "copied"))

    def _remove_leftovers(self) -> None:
        """Remove what an ingest that was killed has left in the folders of the plan."""
        root = self.plan.root
        if not self.plan.leftovers:
            return
        runs = set(self.plan.runs.folders)
        above = {parent for folder in runs for parent in folder.parents}
        for folder in self.plan.leftovers:
            if folder not in above and runs.isdisjoint((folder, *folder.parents)):
                continue
            with suppress(RefusedError):  # something is in its place by now: what is written there says so
                folders.remove_partials(root / folder, root)

    def _place_all(self, *, with_wandb: bool) -> None:
        """Place the files of all runs: many small ones by several processes."""
        turns = self.plan.runs.turns(placing.BATCH_SIZE, with_wandb=with_wandb)
        if with_wandb or self.mode is Mode.MOVE or not files.copies_for(len(turns)) or self._are_large():
            self._place_turns(turns, with_wandb=with_wandb)
        else:
            self._share_out(turns)

    def _are_large(self) -> bool:
        """Whether the files are so large that one wants to hear of each piece, and Python is the least of it."""
        return self.total_bytes > _MUCH * sum(1 for _ in self.plan.runs.to_place)

    def _share_out(self, turns: Sequence[tuple[int, int]]) -> None:
        """Have copies of this process place the files, a turn at a time."""
        folders.make_all(map(self.plan.root.joinpath, self.plan.runs.above), self.plan.root)  # several may need one
        stop = mmap.mmap(-1, 1)  # which all of them see
        errors = []
        for found in files.in_processes(partial(self._place_apart, stop), turns, lost=self._lost):
            came = _Came(*found)
            self.refused += (scanning.Refusal(*item) for item in came.refused)
            self.deferred += (scanning.Refusal(*item) for item in came.deferred)
            self.failed.update(came.failed)
            self.histories += came.histories
            for path, sha256 in came.written:
                self.note(path, sha256)
            self.finished_files += came.files
            self.recorded_bytes += came.bytes
            for stage in ("placing", "syncing", "recording"):
                self._tell(stage, self.recorded_bytes)
            errors += came.errors
        for kind, message, code, fix in errors:
            raise _KINDS[kind](message, code=code, fix=fix) if kind else RuntimeError(message)

    def _place_apart(self, stop: mmap.mmap, turn: tuple[int, int]) -> tuple[Any, ...]:
        """Place the files of a turn; what came of it, in plain values (`_Came`)."""
        part, written = copy.copy(self), list[tuple[str, str]]()
        part.refused, part.deferred, part.failed, part.histories = [], [], set(), []
        part.note = lambda path, sha256: written.append((path, sha256))
        part.progress, part.finished_files, part.recorded_bytes = None, 0, 0
        errors: list[tuple[str, str, str, str]] = []
        try:
            if not stop[0]:  # the disk is full, say: nobody goes on
                with files.calls_of("the ingest ended early"):
                    part._place_turns([turn], with_wandb=False)
        except CkptmanError as error:
            stop[0] = 1
            kind = next(name for name, kind in _KINDS.items() if isinstance(error, kind))
            errors.append((kind, error.message, error.code, error.fix))
        except Exception:  # of which only the copy knows where it was raised
            stop[0] = 1
            errors.append(("", traceback.format_exc(), "", ""))
        return (
            [astuple(item) for item in part.refused],
            [astuple(item) for item in part.deferred],
            list(part.failed),
            part.histories,
            written,
            part.finished_files,
            part.recorded_bytes,
            errors,
        )

    def _lost(self, _: tuple[int, int]) -> tuple[Any, ...]:
        self.is_count_exact = False
        raise MachineError(
            "a process of this ingest was killed while it placed files",
            code="process-killed",
            fix="See whether memory was short.",
        )

    def _place_turns(self, turns: Iterable[tuple[int, int]], *, with_wandb: bool) -> None:
        """Place the files of some runs. While the disk is waited for, for copies, the next ones are made."""
        with ThreadPoolExecutor(1) as other:
            for stretch in turns:
                runs = self.plan.runs.to_do(stretch, with_wandb=with_wandb)
                turn = _Turn([_RunAtWork(run) for run in runs], Batch(self.plan.root))
                with ExitStack() as cleanup:
                    cleanup.callback(turn.batch.discard)
                    self._stage_turn(turn, with_wandb=with_wandb)
                    if self._pays(turn):
                        cleanup.pop_all()  # before the other thread has it: nothing that it has open is closed here
                        self.publishing = other.submit(self._finish, turn)
                    else:
                        self._finish(turn)
            self._settle()

    def _pays(self, turn: _Turn) -> bool:
        """Whether files are so large that their copying leaves Python to another thread, and descriptors not few."""
        size = sum(placement.size for _, placement in turn.staged)
        return self.mode is Mode.COPY and size >= _MUCH and placing.BATCH_SIZE >= _MANY

    def _settle(self) -> None:
        """Wait for what the other thread does."""
        publishing, self.publishing = self.publishing, None
        if publishing is not None:
            publishing.result()

    def _stage_turn(self, turn: _Turn, *, with_wandb: bool) -> None:
        """Stage the files of a turn, until those of the one before are in their places."""
        try:
            self._stage_all(turn, with_wandb=with_wandb)
            self._settle()
        except MachineError:
            for step in (self._settle, partial(self._publish, turn)):
                with suppress(CkptmanError):
                    step()  # what was staged before the disk was full, say, is whole
            raise

    def _stage_all(self, turn: _Turn, *, with_wandb: bool) -> None:
        made = [self.plan.root / work.run.folder for work in turn.works if work.run.placements]
        folders.make_all(made, self.plan.root)
        wanted = [(work, item) for work in turn.works for item in work.run.placements if not item.parts]
        for at in range(0, len(wanted), placing.BATCH_SIZE):
            self._stage(turn, wanted[at : at + placing.BATCH_SIZE], follow_symlinks=self.options.follow_symlinks)
        for work in turn.works:
            for item in work.run.placements:
                if item.parts:
                    self._place_folder(work, item)
            for wandb_folder in work.run.wandb_folders if with_wandb else ():
                self._stage_wandb(turn, work, wandb_folder)

    def _place_folder(self, work: _RunAtWork, planned: FilePlacement) -> None:
        """Place a checkpoint that is a folder, before the next file is staged."""
        self._settle()  # it takes a batch of its own
        parts = [placing.Part(part.name, part.state, part.sha256) for part in planned.parts]
        at = self.plan.root / planned.destination
        try:
            placed = placing.place_folder(
                planned.source, parts, at, self.mode, root=self.plan.root, on_bytes=self._count
            )
        except RefusedError as error:
            self._fail(work, planned, error)
            return
        self._synced(planned.size)
        for part, outcome in zip(planned.parts, placed, strict=True):
            file = FilePlacement(planned.source / part.name, part.state, part.sha256, planned.destination / part.name)
            work.placed.append((file, outcome))
        self.finished_files += 1

    def _stage(self, turn: _Turn, files: Sequence[tuple[_RunAtWork, FilePlacement]], *, follow_symlinks: bool) -> None:
        if len(turn.batch) + len(files) > placing.BATCH_SIZE:
            self._settle()
            self._publish(turn)
        wanted = [
            placing.Wanted(item.source, self.plan.root / item.destination, item.state, item.sha256, follow_symlinks)
            for _, item in files
        ]
        outcomes = turn.batch.stage_all(wanted, self.mode, on_bytes=self._count)
        for (work, placement), error in zip(files, outcomes, strict=True):
            if error is None:
                turn.staged.append((work, placement))
            elif isinstance(error, RefusedError):
                self._fail(work, placement, error)
        for error in outcomes:
            if isinstance(error, MachineError):
                raise error

    def _stage_wandb(self, turn: _Turn, work: _RunAtWork, source: Path) -> None:
        """Bring a W&B folder's files beside the checkpoints; files that are there already stay."""
        kept = PurePosixPath(self.convention.folders.saved_wandb, source.name)
        target = work.run.folder / kept
        try:
            files = list(_regular_files(source))
            written = [path.stat().st_mtime for path in files]
        except OSError as error:
            message = f"{_relative(self.plan, source)} cannot be read: {error.strerror}"
            fix = "See to it that you may read it and that its disk is well, and ingest again."
            self._refuse(source, RefusedError(message, code="unreadable", fix=fix))
            return
        now = time.time()
        if any(abs(now - mtime) < self.options.settle for mtime in written):
            self.deferred.append(
                scanning.Refusal(
                    source=_relative(self.plan, source),
                    code="wandb-changing",
                    message="the W&B folder was written to a moment ago",
                    fix="Ingest again later. --settle sets how long to wait.",
                    what="W&B folder",
                )
            )
            return
        for path in files:
            relative = target / path.relative_to(source)
            try:
                placement = self._wandb_placement(path, relative)
                if placement is None:
                    self.wandb_kept.append((path, self.plan.root / relative))
                else:
                    make_folders((self.plan.root / relative).parent, self.plan.root)
                    self.wandb_placed.append(str(relative))
                    self._stage(turn, [(work, placement)], follow_symlinks=False)
            except RefusedError as error:
                self._refuse(path, error)
        work.wandb.append(str(kept))

    def _wandb_placement(self, path: Path, relative: PurePosixPath) -> FilePlacement | None:
        """How to place a W&B file; None where the tree has it."""
        there = self.plan.root / relative
        if there.exists():
            source, held = FileState.of(path), FileState.of(there, follow_symlinks=True)
            if (source.size, source.mtime_ns) == (held.size, held.mtime_ns):
                return None
            if files.hash_file(path)[0] == files.hash_file(there, follow_symlinks=True)[0]:
                return None
            raise RefusedError(
                f"{relative} is in the tree with other bytes",
                code="wandb-changed",
                fix="The run's W&B folder changed after it was kept: move the kept file away to take the new one.",
            )
        sha256, state = files.hash_file(path)
        return FilePlacement(source=path, state=state, sha256=sha256, destination=relative)

    def _publish(self, turn: _Turn) -> None:
        staged, turn.staged = turn.staged, []
        self._synced(0)
        for (work, placement), outcome in zip(staged, turn.batch.publish(), strict=True):
            if isinstance(outcome, RefusedError):
                self._fail(work, placement, outcome)
            else:
                work.placed.append((placement, outcome))
                self.finished_files += not self._is_wandb(work, placement)
        self._synced(sum(placement.size for _, placement in staged))

    def _finish(self, turn: _Turn) -> None:
        """Publish what is staged, and record the runs."""
        try:
            self._publish(turn)
        finally:
            turn.batch.discard()
        self._record(turn.works)

    def _record(self, works: Sequence[_RunAtWork]) -> None:
        """Write the `run.json` of each run, whose files are all in place; for a move, let go of the sources."""
        root = self.plan.root
        recorded = [
            (work, record)
            for work in works
            if (record := self._record_of(work)) is not None
            and not (record == work.run.known and records.is_signed(root / work.run.folder / records.RUN_FILE))
        ]
        for work, _ in recorded:
            for name in work.run.found:  # another program may have put them there a moment ago
                moving.sync_there(root / work.run.folder / name, root)
        outcomes = records.write_records([(root / work.run.folder, record) for work, record in recorded], root=root)
        for (work, record), outcome in zip(recorded, outcomes, strict=True):
            folder = work.run.folder
            if isinstance(outcome, RefusedError):
                self.failed.update(str(folder / entry.file) for entry in record.checkpoints)
                self._refuse(root / folder / records.RUN_FILE, outcome)
                continue
            self.note(str(folder / records.RUN_FILE), outcome)
            self.recorded_bytes += sum(item.size for item in work.run.placements)
            self._tell("recording", self.recorded_bytes)
            if self.mode is Mode.MOVE:
                for planned, placement in work.placed:
                    if self._is_wandb(work, planned):
                        self.wandb_moved.append((planned, placement))
                    else:
                        self._remove_placed(planned, placement)
                for source in (item.source for item in work.run.placements if item.parts):
                    with suppress(RefusedError):  # something else is in it
                        moving.remove_empty_folder(source.parent, PurePosixPath(source.name))

    def _record_of(self, work: _RunAtWork) -> records.RunRecord | None:
        """The record of a run whose files are in place; None where none of them is."""
        kept = tuple(e for e in work.run.record.checkpoints if e.file not in work.failed)
        if not kept:
            return None
        wandb = tuple(dict.fromkeys((*work.run.record.wandb, *work.wandb)))
        return replace(work.run.record, checkpoints=kept, wandb=wandb, history=self._keep_curve(work.run))

    def _keep_curve(self, run: PlannedFolder) -> records.HistoryEntry | None:
        """Write a run's learning curve, where there is anything new of it."""
        known, folder = run.record.history, self.plan.root / run.folder
        paths = [Path(source.root or run.record.source.root, source.path) for source in run.curve_sources]
        found, refused = histories.read(paths, self.convention)
        for path, error in refused:
            self._refuse(path, error)
        if not found.steps:
            return known
        try:
            held = history.read(folder)
            curve = found if held is None else history.merged([held, found])
            data = history.dump(curve)
            if known is not None and held is not None and data == history.dump(held):
                same_root = all(source.root is None for source in run.curve_sources)
                return replace(known, sources=run.curve_sources) if same_root else known
            write_atomically(folder / history.HISTORY_FILE, data, replace=True, root=self.plan.root)
        except RefusedError as error:
            self._refuse(folder / history.HISTORY_FILE, error)
            return known
        written, sha256 = str(run.folder / history.HISTORY_FILE), hashlib.sha256(data).hexdigest()
        self.histories.append(written)
        self.note(written, sha256)
        return records.HistoryEntry(
            size=len(data),
            sha256=sha256,
            steps=len(curve.steps),
            metrics=len(curve.columns),
            sources=run.curve_sources,
        )

    def _remove_placed(self, planned: FilePlacement, placement: placing.Placement) -> None:
        self._remove_source(planned.source, placement, planned.destination)

    def _remove_source(self, path: Path, placement: placing.Placement, kept: PurePosixPath | str) -> bool:
        """Take a source file away whose bytes the tree has; whether it is gone."""
        root, follow = self.plan.root, self.options.follow_symlinks
        try:
            self._see_recorded(root / kept)
            moving.remove_source(path, placement, root / kept, root=root, follow_symlinks=follow)
        except RefusedError as error:
            self._refuse(path, error)
            return False
        return True

    def _see_recorded(self, kept: Path) -> None:
        """Wait until the record of what is kept is on the disk, whoever wrote it: without, its run would be unknown."""
        for folder in kept.parents:
            record = folder / records.RUN_FILE
            if folder == self.plan.root or record in self.on_disk:
                return
            if os.path.lexists(record):
                moving.sync_there(record, self.plan.root)
                self.on_disk.add(record)
                return

    def _remove_known(self, removal: Removal) -> None:
        """Take away a source file whose bytes the tree had already, or got from another source file."""
        if removal.same_as in self.failed:
            return
        if removal.path.is_dir():
            self._remove_known_folder(removal)
            return
        placement = placing.Placement(removal.sha256, removal.state.size, removal.state, "copied")
        if self._remove_source(removal.path, placement, removal.same_as):
            self.removed.append(removal)

    def _remove_known_folder(self, removal: Removal) -> None:
        kept = self.plan.root / removal.same_as
        try:
            read = folder_bytes.hash_folder(removal.path)
            if not read.sha256 == removal.sha256 == folder_bytes.hash_any(kept):
                message = f"{removal.path} was kept: it was changed after it was read"
                raise RefusedError(message, code="source-kept", fix="Ingest again.")
            self._see_recorded(kept)
            for part in read.files:
                placement = placing.Placement(part.sha256, part.state.size, part.state, "copied")
                moving.remove_source(removal.path / part.name, placement, kept / part.name, root=self.plan.root)
        except RefusedError as error:
            self._refuse(removal.path, error)
        else:
            self.removed.append(removal)

    def _write_overwritten(self, folder: Path, listed: records.OverwrittenList) -> None:
        try:
            make_folders(folder, root=self.plan.root)
            records.write_overwritten(folder, listed, root=self.plan.root)
            path = str((folder / records.OVERWRITTEN_FILE).relative_to(self.plan.root))
            self.note(path, hashlib.sha256(records.signed(listed)).hexdigest())
        except RefusedError as error:
            self._refuse(folder / records.OVERWRITTEN_FILE, error)

    def _write_refused(self) -> None:
        if self.plan.not_taken is None:
            return
        try:
            records.write_refused(self.plan.root, self.plan.not_taken)
        except RefusedError as error:
            self._refuse(self.plan.root / records.REFUSED_FILE, error)

    def _is_wandb(self, work: _RunAtWork, placement: FilePlacement) -> bool:
        below = placement.destination.parts[len(work.run.folder.parts) :]
        return below[0] == self.convention.folders.saved_wandb

    def _fail(self, work: _RunAtWork, placement: FilePlacement, error: RefusedError) -> None:
        if not self._is_wandb(work, placement):
            work.failed.add(placement.destination.name)
        self.failed.add(str(placement.destination))
        self._refuse(placement.source, error)

    def _refuse(self, path: Path, error: RefusedError) -> None:
        (self.deferred if error.code == files.CHANGED else self.refused).append(refusal_of(self.plan, path, error))

    def _count(self, count: int) -> None:
        with self.telling:  # files are copied several at a time
            self.done_bytes += count
            self._tell("placing", self.done_bytes)

    def _synced(self, count: int) -> None:
        self.synced_bytes += count
        self._tell("syncing", self.synced_bytes)

    def _tell(self, stage: str, done: int) -> None:
        if self.progress is not None and self.total_bytes:
            with self.telling:
                self.progress(stage, min(done, self.total_bytes), self.total_bytes)


def space_of(plan: Plan, mode: Mode, saved_wandb: str | None) -> Space:
    """What the plan needs, and what is there: of the root, or the folder in which it will be made.

    Args:
        saved_wandb: The folder in which W&B folders are kept; None where they are not.
    """
    there = next(path for path in (plan.root, *plan.root.parents) if path.is_dir())
    device = FileState.of(there, follow_symlinks=True).device
    links = mode in (Mode.HARDLINK, Mode.SYMLINK)
    sizes = [
        file.size
        for file in (() if links else plan.runs.to_place)
        if not (mode is Mode.MOVE and file.state.device == device)
    ]
    if saved_wandb is not None and not links:
        for run in plan.runs:
            for folder in run.wandb_folders:
                kept = plan.root / run.folder / saved_wandb / folder.name
                paths = _regular_files(folder)
                sizes += [path.stat().st_size for path in paths if not (kept / path.relative_to(folder)).exists()]
    return Space(needed=sum(sizes), free=shutil.disk_usage(there).free)


def _check_space(space: Space, plan: Plan, mode: Mode) -> None:
    """Refuse what the disk has no room for, unless copies share the blocks of their sources.

    Raises:
        MachineError: (`disk-full`).
    """
    if space.needed <= space.free or (mode is Mode.COPY and probing.probe(plan.root).reflinks):
        return
    raise MachineError(
        f"{plan.root} has {wording.size_text(space.free)} free, and the files need {wording.size_text(space.needed)}; "
        "nothing was written",
        code="disk-full",
        fix="Free space there, name a tree on another disk with --root, or use --mode hardlink or symlink.",
    )


def _regular_files(folder: Path) -> list[Path]:
    """The regular files below a folder, links not followed."""
    found: list[Path] = []
    for parent, _, names in os.walk(folder, onerror=files.fail):
        paths = (Path(parent, name) for name in names)
        found.extend(path for path in paths if path.is_file() and not path.is_symlink())
    return sorted(found)
