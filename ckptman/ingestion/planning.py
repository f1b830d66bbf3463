"""What an ingest will do, worked out before anything is written: the plan that `--dry-run` prints and `ingest` applies.

Every new file is read once here, in full: its configuration, its archive checksums and its SHA-256. A file whose state
(size, modification time, inode) is the one that some `run.json` remembers is not read again.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import overload

from ckptman.formats import folder_bytes
from ckptman.fs import FileState, Mode, files
from ckptman.ingestion.assigning import PROOF
from ckptman.ingestion.run_folders import (
    TREE_FILE_CHANGED,
    Duplicate,
    FilePlacement,
    Rows,
    RunFolders,
    Slot,
    by_parts,
    note_of,
)
from ckptman.raw import attribution as attributing
from ckptman.raw import beside, examination, outputs, scanning, wandb_index, wandb_runs
from ckptman.raw import overwritten as lost_files
from ckptman.rules import Convention, naming, placement
from ckptman.text import RefusedError, wording
from ckptman.tree import contents
from ckptman.tree import records as tree_records


@dataclass(frozen=True, slots=True)
class Renumbered:
    """A file whose task id differs from the one its source folder had."""

    source: str
    task: int
    source_task: int


@dataclass(frozen=True, slots=True)
class Regrouped:
    """A file whose group differs from the one its source folder had."""

    source: str
    group: str
    source_group: str


@dataclass(frozen=True, slots=True)
class Removal:
    """A source file that a move lets go without placing it, since the tree has its bytes."""

    source: str
    same_as: str
    """Relative to the tree's root."""
    path: Path
    state: FileState
    sha256: str
    """Of the source file, and of the tree's; both were read."""


@dataclass(frozen=True, slots=True)
class PlannedFolder:
    """A run folder as it will be."""

    folder: PurePosixPath
    record: tree_records.RunRecord
    placements: tuple[FilePlacement, ...]
    wandb_folders: tuple[Path, ...] = ()
    """The run's W&B folders at the source."""
    curve_sources: tuple[tree_records.SourceFile, ...] = ()
    """The files from which its learning curve is read, where it has to be written."""
    found: tuple[str, ...] = ()
    """The checkpoints that were in the tree, and in no record."""
    known: tree_records.RunRecord | None = None
    """Its record as the tree has it."""


class PlannedFolders(Sequence[PlannedFolder]):
    """Run folders in the order of their paths; each is made when it is asked for."""

    def __init__(self, slots: Iterable[Slot] = (), wandb: Mapping[str, wandb_runs.WandbRun] | None = None) -> None:
        self._slots = [slot for slot in slots if slot.has_record]
        self._wandb = wandb or {}

    def __len__(self) -> int:
        return len(self._slots)

    @overload
    def __getitem__(self, index: int) -> PlannedFolder: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[PlannedFolder, ...]: ...

    def __getitem__(self, index: int | slice) -> PlannedFolder | tuple[PlannedFolder, ...]:
        found = self._slots[index]
        return tuple(map(self._made, found)) if isinstance(found, list) else self._made(found)

    def place_of(self, folder: str) -> int | None:
        """Where the one of a path stands; None where there is none."""
        place = bisect_left(self._slots, folder.replace("/", "\0"), key=by_parts)
        return place if place < len(self) and self._slots[place].name == folder else None

    def _made(self, slot: Slot) -> PlannedFolder:
        record, old = slot.record, slot.old
        assert record is not None  # those without are left out
        run = self._wandb.get(record.run_id or "")
        placements = slot.placements
        known = {entry.file for entry in old.checkpoints} if old is not None else set()
        known |= {placement.destination.name for placement in placements}
        return PlannedFolder(
            folder=slot.folder,
            record=record,
            placements=placements,
            wandb_folders=run.folders if run is not None else (),
            curve_sources=slot.curve_sources,
            found=tuple(entry.file for entry in record.checkpoints if entry.file not in known),
            known=old,
        )

    def turns(self, most: int, *, with_wandb: bool) -> list[tuple[int, int]]:
        """Stretches of those in which something is to be placed or written; `with_wandb`, those of W&B runs too.

        Args:
            most: How many of them, and of their new files, are in one; more files where one run has more.
        """
        turns: list[tuple[int, int]] = []
        runs = files = 0
        for at, slot in enumerate(self._slots):
            if not self._is_to_do(slot, with_wandb):
                continue
            count = sum(1 for _ in slot.to_place)
            if not turns or runs == most or files + count > most:
                turns.append((at, at))
                runs = files = 0
            turns[-1] = turns[-1][0], at + 1
            runs, files = runs + 1, files + count
        return turns

    def to_do(self, turn: tuple[int, int], *, with_wandb: bool) -> list[PlannedFolder]:
        """Those of a turn."""
        return [self._made(slot) for slot in self._slots[slice(*turn)] if self._is_to_do(slot, with_wandb)]

    def _is_to_do(self, slot: Slot, with_wandb: bool) -> bool:
        return not slot.is_as_it_was or (with_wandb and (slot.run_id or "") in self._wandb)

    # What is asked of all, without making them:

    def recorded(self, *, with_wandb: bool) -> Iterator[PurePosixPath]:
        """Those of `to_do` that have a run.json."""
        return (slot.folder for slot in self._slots if slot.kept is not None and self._is_to_do(slot, with_wandb))

    @property
    def to_place(self) -> Iterator[examination.Examined]:
        """The files that come to their places."""
        return (saved.file for slot in self._slots for saved in slot.to_place)

    @property
    def above(self) -> list[PurePosixPath]:
        """The folders of those that get files, relative to the root."""
        return [PurePosixPath(path) for path in sorted({slot.above for slot in self._slots if any(slot.to_place)})]

    @property
    def folders(self) -> Iterator[PurePosixPath]:
        """Relative to the root."""
        return (slot.folder for slot in self._slots)

    @property
    def are_all_known(self) -> bool:
        """Whether it is known of each which W&B run it is."""
        return all(slot.run_id is not None for slot in self._slots)

    @property
    def with_curves(self) -> tuple[PurePosixPath, ...]:
        """Those whose learning curve has to be read."""
        return tuple(slot.folder for slot in self._slots if slot.curve_sources)


@dataclass(frozen=True)
class UnusedConfigs:
    """A file with what looks like configurations and was not used."""

    source: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """All that an ingest will do, and all that it found."""

    source: Path
    root: Path
    runs: PlannedFolders
    """Runs with something to place or to write down."""
    placed: Sequence[tree_records.CheckpointRow]
    unchanged: Sequence[tree_records.CheckpointRow]
    duplicates: tuple[Duplicate, ...]
    refused: tuple[scanning.Refusal, ...]
    deferred: tuple[scanning.Refusal, ...]
    renumbered: tuple[Renumbered, ...]
    regrouped: tuple[Regrouped, ...]
    completed: tuple[PurePosixPath, ...]
    """Run folders whose files were in the tree without a run.json, which they get."""
    removals: tuple[Removal, ...]
    overwritten: tuple[tree_records.OverwrittenRun, ...]
    partly_overwritten: tuple[tree_records.OverwrittenRun, ...]
    without_files: tuple[lost_files.LostFiles, ...]
    """W&B runs of which nothing was saved, or nothing is left, and no other run's file is in the way."""
    wandb_problems: tuple[outputs.WandbProblem, ...]
    """What could not be read of the W&B folders, such as the end of a killed run's log."""
    beside_problems: tuple[beside.Problem, ...]
    """What of the files beside checkpoints is not used, or says otherwise than something that counts more."""
    ambiguous: tuple[tree_records.CheckpointRow, ...]
    """Checkpoints that more than one W&B run could have written."""
    overwritten_lists: Mapping[PurePosixPath, tree_records.OverwrittenList]
    """By task folder, what its list of runs without checkpoints will hold, where that changes."""
    passed_over: tuple[str, ...]
    """Other files and folders of the source that look like checkpoints, by their names."""
    resolved: tuple[PurePosixPath, ...]
    """Run folders of the tree whose W&B run was not known, and is now."""
    not_taken: tuple[tree_records.RefusedFile, ...] | None
    """What the tree's list of refused files will hold: those of this source, and what it has of others; None where its
    list cannot be used, which then stays."""
    contradicted: tuple[str, ...]
    """What a person said of a run, and this ingest learnt otherwise, as sentences; what was said stays."""
    system_files: tuple[str, ...]
    """Files with a checkpoint's suffix that an operating system left at the source."""
    archives: tuple[str, ...]
    """Archives at the source, in which checkpoints may be."""
    unused_configs: tuple[UnusedConfigs, ...]
    leftovers: tuple[PurePosixPath, ...]
    """Folders of the tree in which something lies that an interrupted run left."""


@dataclass(frozen=True)
class IngestOptions:
    """How a source is read, and brought into the tree."""

    mode: Mode = Mode.COPY
    """A move reads again what is in the tree already, there and at the source: only what is the same may go."""
    trust: naming.Trust = naming.Trust.NEITHER
    settle: float = outputs.SETTLE_SECONDS
    """A cut file younger than this many seconds may still be being written: it is deferred, not refused."""
    checksum: bool = False
    """Read files again whose state is unchanged, and the tree's files."""
    follow_symlinks: bool = False


def make_plan(
    source: Path,
    root: Path,
    convention: Convention,
    options: IngestOptions,
    *,
    progress: contents.Progress | None = None,
) -> Plan:
    """Work out what an ingest of `source` into the tree `root` will do. Nothing is written.

    Raises:
        UsageError: if the source does not exist, or the tree is sorted by another numbering (`other-numbering`).
    """
    tree_records.require_no_migration(root)
    raw = outputs.RawOutputs(
        source,
        convention,
        leave_out=root,
        trust=options.trust,
        settle=options.settle,
        follow_symlinks=options.follow_symlinks,
    )
    planner = _Planner(raw, root, options)
    planner.place_all(progress)
    return planner.plan()


class _Planner:
    def __init__(self, raw: outputs.RawOutputs, root: Path, options: IngestOptions) -> None:
        self.raw = raw
        self.options = options
        self.convention = raw.convention
        self.checksum = options.checksum or options.mode is Mode.MOVE
        self.folders = RunFolders(root, raw.convention, raw.scan, read_kept=self.checksum)
        self.tree = self.folders.rest
        self.unchanged = array("q")
        """The places of the files that the tree has as they are, among those of the source."""
        self.unreadable = {path for path, _ in self.tree.unreadable}
        self.repeated: list[Duplicate] = []
        """Duplicates that are known from an earlier ingest."""
        self.read: dict[str, tuple[Path, FileState, str]] = {}
        """Source file, relative → its path, and the state and SHA-256 with which it was read; for a move alone."""
        self.unused_configs: list[UnusedConfigs] = []

    def place_all(self, progress: contents.Progress | None) -> None:
        """Read every file that is not known, and give each its run folder."""
        read = self.raw.read(self._known, owner_of=self._owner_of_known, home_of=self._home_of, progress=progress)
        self.folders.tell_apart([saved.file for saved in read])
        if any(self.folders):
            # Copies of what is there first: they may tell of which run that is, and so where its other files belong.
            read = sorted(read, key=lambda saved: not self.folders.holds(saved.file))
        for saved in read:
            file = saved.file
            if self.options.mode is Mode.MOVE:
                self.read[file.source.relative] = file.source.path, file.state, file.content
            if file.unused_configs:
                self.unused_configs.append(UnusedConfigs(file.source.relative, file.unused_configs))
            try:
                self.folders.take(saved)
            except RefusedError as error:
                self.raw.refuse(file.source.relative, error)

    def _home_of(self, content: str) -> outputs.Home | None:
        """The group and the task of a run that the tree has these bytes of, and what they are called there."""
        return self._homes.get(content)

    @cached_property
    def _homes(self) -> Mapping[str, outputs.Home]:
        return {
            sha256: outputs.Home(slot.kept.common.group, slot.kept.common.task, name)
            for slot in self.folders
            if slot.kept is not None
            for name, sha256 in slot.kept.hashes.items()
        }

    def _known(self, place: int) -> outputs.Known | None:
        """What the tree says of a file that it has already, and that is as it was then; None for any other."""
        file, found = self.raw.scan.checkpoints[place], self.folders.known.at(place)
        if found is None or not found.is_as_it_was or found.name not in found.slot.sizes:
            return None
        slot, name, kept = found.slot, found.name, found.slot.kept
        assert kept is not None  # which names the file
        content = kept.hashes[name]
        if self.checksum:
            if file.is_folder:
                read = folder_bytes.hash_folder(file.path)
                sha256, state = read.sha256, read.state
            else:
                sha256, state = files.hash_file(file.path, follow_symlinks=self.options.follow_symlinks)
            if sha256 != content or not state.same_but_ctime(file.state):
                return None
            self.read[file.relative] = file.path, state, sha256
        self.folders.check_kept(slot, name)
        if found.is_copy:
            self.repeated.append(Duplicate(source=file.relative, same_as=str(slot.folder / name)))
        else:
            self.unchanged.append(place)
        return outputs.Known(kept.run_id, content)

    def _owner_of_known(self, place: int) -> lost_files.Owner:
        """Who wrote such a file."""
        found = self.folders.known.at(place)
        record = None if found is None else found.slot.old
        assert found is not None  # it is known
        assert record is not None
        return lost_files.Owner.recorded(record, next(e for e in record.checkpoints if e.file == found.name))

    # --- the plan -----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Put everything together."""
        refreshed = self._refreshed()
        lost = self.raw.lost(refreshed)
        deque(refreshed, maxlen=0)  # where no run can be lost, none was asked for
        placed, unchanged = self._rows()
        duplicates = tuple(sorted((*self.folders.duplicates, *self.repeated), key=lambda item: item.source))
        overwritten_lists = self._overwritten_lists(lost, {slot.run_id for slot in self.folders if slot.has_record})
        removals = self._removals(unchanged, duplicates) if self.options.mode is Mode.MOVE else ()
        return Plan(
            source=self.raw.root,
            root=self.folders.root,
            runs=PlannedFolders(self.folders.in_order, self.raw.wandb.by_id),
            placed=placed,
            unchanged=unchanged,
            duplicates=duplicates,
            refused=tuple(sorted(self.raw.refused, key=lambda item: (item.source, item.code))),
            deferred=tuple(sorted(self.raw.deferred, key=lambda item: item.source)),
            renumbered=self._renumbered(placed, unchanged),
            regrouped=self._regrouped(placed, unchanged),
            completed=tuple(sorted(slot.folder for slot in self.folders if slot.is_completed)),
            removals=removals,
            overwritten=lost.overwritten,
            partly_overwritten=lost.partly_overwritten,
            without_files=lost.without_files,
            wandb_problems=self.raw.wandb_problems,
            beside_problems=self.raw.beside_problems,
            ambiguous=tuple(row for _, row in self._rows_of(lambda slot: slot.is_ambiguous, placed, unchanged)),
            overwritten_lists=overwritten_lists,
            passed_over=self.raw.scan.passed_over,
            resolved=tuple(sorted(slot.folder for slot in self.folders if _is_resolved(slot))),
            not_taken=self._not_taken(),
            contradicted=tuple(text for slot in self.folders for text in _contradicting(slot, self.folders.root)),
            system_files=self.raw.scan.system_files,
            archives=self.raw.scan.archives,
            unused_configs=tuple(self.unused_configs),
            leftovers=tuple(sorted(self.folders.leftovers)),
        )

    def _rows(self) -> tuple[Rows, Rows]:
        """The checkpoints that come to the tree, and those that are there as they are at the source."""
        with_new = [slot for slot in self.folders if slot.new]
        placed = Rows.of_new((slot, saved) for slot in with_new for saved in slot.to_place)
        completed = [(slot, new.file.name, new) for slot in with_new for new in slot.new if new.file.name in slot.sizes]
        return placed, self.folders.known.rows(self.unchanged, [*completed, *self.folders.moved])

    def _rows_of(
        self, is_wanted: Callable[[Slot], bool], placed: Rows, unchanged: Rows
    ) -> Iterator[tuple[Slot, tree_records.CheckpointRow]]:
        """Those of the folders that are wanted."""
        return chain(placed.of(is_wanted), unchanged.of(is_wanted))

    def _renumbered(self, placed: Rows, unchanged: Rows) -> tuple[Renumbered, ...]:
        found = [
            Renumbered(source=row.source, task=row.task, source_task=row.source_task)
            for _, row in self._rows_of(_is_renumbered, placed, unchanged)
            if row.task is not None and row.source_task is not None
        ]
        return tuple(sorted(found, key=lambda item: item.source))

    def _regrouped(self, placed: Rows, unchanged: Rows) -> tuple[Regrouped, ...]:
        found = [
            Regrouped(source=row.source, group=row.group, source_group=group)
            for slot, row in self._rows_of(lambda slot: slot.source_group not in (None, slot.group), placed, unchanged)
            if (group := self._other_group(row, slot.source_group)) is not None
        ]
        return tuple(sorted(found, key=lambda item: item.source))

    def _removals(
        self, unchanged: Iterable[tree_records.CheckpointRow], duplicates: Iterable[Duplicate]
    ) -> tuple[Removal, ...]:
        """The source files that a move lets go since the tree has their bytes, as regular files of its own."""
        known = [(row.source, row.path) for row in unchanged] + [(item.source, item.same_as) for item in duplicates]
        removals = []
        for source, same_as in sorted(known):
            if (self.folders.root / same_as).is_symlink():
                self.raw.refused.append(
                    scanning.Refusal(
                        source=source,
                        code="source-kept",
                        message=f"it was kept: {same_as} in the tree is a symbolic link, not a file of its own",
                        fix="Replace the link by a copy of the file, and ingest again.",
                    )
                )
            else:
                path, state, sha256 = self.read[source]
                removals.append(Removal(source=source, same_as=same_as, path=path, state=state, sha256=sha256))
        return tuple(removals)

    def _other_group(self, row: tree_records.CheckpointRow, said: str | None) -> str | None:
        """The group that the source folder `said`, where the configuration says another one of a known pattern.

        A folder around the task folders is a group's if it is called like one, or lies within the source; those of
        the families in a tree are none.
        """
        rules = self.convention
        if said is None or said == row.group or placement.group_pattern(row.group, rules) is None:
            return None
        families = {value.folder for facet in rules.family_facets for value in facet.values}
        is_group = placement.group_pattern(said, rules) is not None or said in PurePosixPath(row.source).parts
        return said if is_group and said not in families else None

    def _refreshed(self) -> Iterator[tuple[tree_records.RunRecord, tree_records.RunRecord]]:
        """Bring the record of each run up to date: as the tree has it, and as it will be."""
        taken = {slot.run_id for slot in self.folders if slot.has_record}
        for slot in self.folders:
            if (record := slot.record) is not None:
                record = self._refresh(slot, record, taken) if record.checkpoints else record
                yield slot.old or record, record

    def _refresh(self, slot: Slot, before: tree_records.RunRecord, taken: set[str | None]) -> tree_records.RunRecord:
        """The record of a run, brought up to date with what W&B says now; what W&B no longer says is kept.

        `taken` are the ids of the runs that have a folder.
        """
        record = before
        if record.run_id is None and slot.kept is not None:
            record = self._resolve(record, slot.learnt, taken)
            taken.add(record.run_id)
        run = self.raw.wandb.by_id.get(record.run_id or "")
        if run is not None:
            wandb = self.raw.wandb_folders(run)
            same_root = record.source.root == str(self.raw.root)
            source = replace(record.source, wandb=wandb) if wandb and same_root else record.source
            record = replace(record, source=source)
        record, curves = self.raw.refreshed(record)
        if record is not before:
            slot.refresh(before, record)
        slot.is_unsigned = not self.folders.is_signed(slot)
        logs = (*self.raw.curves_of(record), *(run.history if run is not None else ()), *curves)
        self._note_curve(slot, record, logs)
        return record

    def _note_curve(self, slot: Slot, record: tree_records.RunRecord, logs: Iterable[Path]) -> None:
        """Note the files to read the run's learning curve from, unless it was read from them as they are."""
        known, root = record.history, str(self.raw.root)
        sources = []
        for file in logs:
            try:
                state = FileState.of(file, follow_symlinks=self.options.follow_symlinks)
            except RefusedError as error:
                if not isinstance(error.__cause__, FileNotFoundError):  # it has gone meanwhile
                    self.raw.refuse(self.raw.relative(file), error)
            else:
                sources.append(
                    tree_records.SourceFile(
                        root=None if record.source.root == root else root,
                        path=self.raw.relative(file),
                        size=state.size,
                        mtime_ns=state.mtime_ns,
                        inode=state.inode,
                    )
                )
        if known is None or known.sources != tuple(sources) or slot.curve_size != known.size:
            slot.curve_sources = tuple(sources)

    def _resolve(
        self,
        record: tree_records.RunRecord,
        learnt: Mapping[str, attributing.Attribution],
        taken: Collection[str | None],
    ) -> tree_records.RunRecord:
        """Try again to tell which run wrote the files of a record, by what this ingest learnt: other W&B records may be
        there, or the files with their right times."""
        known = {file: note for file, note in learnt.items() if note.run_id is not None}
        claims = {}
        for entry in record.checkpoints:
            path = Path(entry.source.root or record.source.root, entry.source.path)
            if entry.file not in known:
                if record.config_source != "checkpoint" or not path.is_relative_to(self.raw.root):
                    return record
                name = placement.name_at_source(path, self.raw.convention)
                claims[entry.file] = wandb_index.RecordedClaim(
                    path, record.config, entry.source.mtime_ns / 1e9, entry.sha256, name, None, record.opaque
                )
        found = {**known, **dict(zip(claims, self.raw.attribute(list(claims.values())), strict=True))}
        notes = [found[entry.file] for entry in record.checkpoints]
        ids = {note.run_id for note in notes}
        if len(ids) != 1:
            return record
        if notes[0].run_id is not None and notes[0].run_id in taken:
            return record
        note = note_of(notes[0])
        if notes[0].run_id is not None:
            note = replace(note, evidence=f"{note.evidence}; a later ingest learnt it")
        return replace(record, run_id=notes[0].run_id, attribution=note)

    def _not_taken(self) -> tuple[tree_records.RefusedFile, ...] | None:
        """The files of this source that were not taken, and those of other sources that no ingest has taken since."""

        def is_taken(file: tree_records.RefusedFile) -> bool:
            return any(
                (slot.has(file.file) if file.what is None else file.seed is not None and self._has_end(slot))
                and file.may_be_of(slot.run_id, slot.group, slot.task, slot.seed)
                for slot in self.folders
                if slot.has_record
            )

        if PurePosixPath(tree_records.REFUSED_FILE) in self.unreadable:
            return None
        mine = self.raw.refused_files()
        seen = {(file.root, file.path) for file in mine}
        # A copy of the source is refused for the same file in the tree, which the message names.
        unsound = {file.message for file in mine if file.code == TREE_FILE_CHANGED}
        others = [f for f in self.tree.refused if (f.root, f.path) not in seen and not self._is_read(f)]
        found = [
            file
            for file in (*others, *mine)
            if not is_taken(file) or file.message in unsound or (file in mine and file.code != outputs.PASSED_OVER)
        ]
        return tuple(sorted(found, key=lambda file: (file.root, file.path, file.code)))

    def _has_end(self, slot: Slot) -> bool:
        return any(kind in self.convention.final_kinds for _, kind in slot.kinds)

    def _is_read(self, file: tree_records.RefusedFile) -> bool:
        """Whether this ingest has read a file that was refused before, if it is there, so that it is no longer."""
        path = Path(file.root, file.path)
        return path.is_relative_to(self.raw.root) and (file.is_gone or path.exists())

    def _overwritten_lists(
        self, lost: outputs.LostRuns, present: Collection[str | None]
    ) -> dict[PurePosixPath, tree_records.OverwrittenList]:
        """What the lists of runs without checkpoints will hold, where that changes; `present` are in the tree."""
        found: dict[PurePosixPath, dict[str, tree_records.OverwrittenRun]] = defaultdict(dict)
        logged: dict[PurePosixPath, dict[str, tree_records.OverwrittenRun]] = defaultdict(dict)
        for runs, by_folder in ((lost.overwritten, found), (lost.logged, logged)):
            for run in runs:
                with suppress(RefusedError):  # its group's name cannot be a folder's
                    where = placement.place_of(
                        run.config, self.convention, source_group=run.group, source_task=run.task
                    )
                    by_folder[where.folder][run.run_id] = run
        listed = {folder for folder, known in self.tree.lists.items() if known.without_files}
        lists = {}
        for folder in sorted({*found, *logged, *listed}):
            try:
                self.folders.require_readable(folder)
                known = self._list_of(folder)
            except RefusedError as error:
                self.raw.refuse(str(folder / tree_records.OVERWRITTEN_FILE), error)
                continue
            overwritten = _added({run.run_id: run for run in known.runs}, found[folder])
            others = _added({run.run_id: run for run in known.without_files}, logged[folder])
            others = {name: run for name, run in others.items() if name not in present and name not in overwritten}
            merged = replace(known, runs=_by_id(overwritten), without_files=_by_id(others))
            if merged != replace(known, runs=_by_id({run.run_id: run for run in known.runs})):
                lists[folder] = merged
        return lists

    def _list_of(self, folder: PurePosixPath) -> tree_records.OverwrittenList:
        """What the tree says of a task's runs without checkpoints; RefusedError if its list cannot be used."""
        if folder / tree_records.OVERWRITTEN_FILE in self.unreadable:
            return tree_records.read_overwritten(self.folders.root / folder)  # which says why
        return self.tree.lists.get(folder, tree_records.OverwrittenList())


def _added(known: _Listed, found: _Listed) -> _Listed:
    """Runs that are listed, and those that were found now; what a copy of the same W&B folders says again stays as the
    first one said it, while that is there."""

    def is_known(run: tree_records.OverwrittenRun) -> bool:
        listed = known.get(run.run_id)
        if listed is None or replace(run, source=listed.source) != listed:
            return False
        return all(os.path.isdir(Path(listed.source.root, folder)) for folder in listed.source.wandb)  # noqa: PTH112

    return known | {run_id: run for run_id, run in found.items() if not is_known(run)}


_Listed = dict[str, tree_records.OverwrittenRun]


def _by_id(runs: Mapping[str, tree_records.OverwrittenRun]) -> tuple[tree_records.OverwrittenRun, ...]:
    return tuple(runs[run_id] for run_id in sorted(runs))


def _is_renumbered(slot: Slot) -> bool:
    return None not in (slot.task, slot.source_task) and slot.task != slot.source_task


def _is_resolved(slot: Slot) -> bool:
    return slot.kept is not None and slot.kept.run_id is None is not slot.run_id


def _contradicting(slot: Slot, root: Path) -> Iterator[str]:
    """What this ingest learnt of the run of a folder against what a person said of it: once for each run."""
    record = slot.record if slot.learnt else None
    if record is None or record.attribution.code != tree_records.ASSIGNED:
        return
    runs: dict[str | None, dict[str, str]] = defaultdict(dict)
    for file, note in sorted(slot.learnt.items()):
        if note.code in PROOF and note.run_id != record.run_id:
            runs[note.run_id][file] = note.evidence
    by = record.attribution.assigned_by
    for run_id, told in runs.items():
        is_whole = told.keys() >= {entry.file for entry in record.checkpoints}
        paths = [slot.folder] if is_whole else [slot.folder / file for file in told]
        commands = "; ".join(f"ckptman assign {wording.shell_word(root / path)} --run {run_id}" for path in paths)
        yield (
            f"{', '.join(map(str, paths))}: {by} said that it is of run {record.run_id}; but it is of run {run_id}: "
            f"{next(iter(told.values()))}. If that is right: {commands}"
        )
