"""What an ingest will do, worked out before anything is written: the plan that `--dry-run` prints and `ingest` applies.

Every new file is read once here, in full: its configuration, its archive checksums and its SHA-256. A file whose state
(size, modification time, inode) is the one that some `run.json` remembers is not read again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.fs import FileState, Mode, hash_file
from ckptman.ingestion.run_folders import Duplicate, FilePlacement, NewFile, RunFolders, Slot, note_of
from ckptman.raw import attribution as attributing
from ckptman.raw import examination, scanning, wandb_index, wandb_runs
from ckptman.raw import overwritten as lost_files
from ckptman.rules import Convention, placement
from ckptman.text import RefusedError
from ckptman.tree import numbering
from ckptman.tree import records as tree_records

CUT_CODES = frozenset({"cut", "empty"})
"""Refusals that a file still being written would meet."""


@dataclass(frozen=True)
class Renumbered:
    """A file whose task id differs from the one its source folder had."""

    source: str
    task: int
    source_task: int


@dataclass(frozen=True)
class Regrouped:
    """A file whose group differs from the one its source folder had."""

    source: str
    group: str
    source_group: str


@dataclass(frozen=True)
class Removal:
    """A source file that a move lets go without placing it, since the tree has its bytes."""

    source: str
    same_as: str
    """Relative to the tree's root."""
    path: Path
    state: FileState
    sha256: str
    """Of the source file, and of the tree's; both were read."""


@dataclass(frozen=True)
class WandbProblem:
    """Something of a W&B run that could not be read; the rest of its records is used."""

    source: str
    """The W&B folder, relative to the source."""
    message: str


@dataclass(frozen=True)
class PlannedRun:
    """A run folder as it will be."""

    folder: PurePosixPath
    record: tree_records.RunRecord
    placements: tuple[FilePlacement, ...]
    wandb_folders: tuple[Path, ...] = ()
    """The run's W&B folders at the source."""


@dataclass(frozen=True)
class Plan:
    """All that an ingest will do, and all that it found."""

    source: Path
    root: Path
    runs: tuple[PlannedRun, ...]
    """Runs with something to place or to write down."""
    placed: tuple[tree_records.CheckpointRow, ...]
    unchanged: tuple[tree_records.CheckpointRow, ...]
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
    wandb_problems: tuple[WandbProblem, ...]
    """What could not be read of the W&B folders, such as the end of a killed run's log."""
    ambiguous: tuple[tree_records.CheckpointRow, ...]
    """Checkpoints that more than one W&B run could have written."""
    overwritten_lists: Mapping[PurePosixPath, tuple[tree_records.OverwrittenRun, ...]]
    """By task folder, what its list of overwritten runs will hold, where that changes."""
    system_files: tuple[str, ...]
    """Files with a checkpoint's suffix that an operating system left at the source."""


Progress = Callable[[str, int, int], None]
"""Called with a stage, the bytes done and the bytes in all."""


def make_plan(
    source: Path,
    root: Path,
    convention: Convention,
    *,
    mode: Mode = Mode.COPY,
    trust: examination.Trust = examination.Trust.NEITHER,
    settle: float = 600.0,
    checksum: bool = False,
    follow_symlinks: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Work out what an ingest of `source` into the tree `root` will do. Nothing is written.

    Args:
        mode: A move reads again what is in the tree already, there and at the source: only what is the same may go.
        settle: A cut file younger than this many seconds may still be being written: it is deferred, not refused.
        checksum: Read files again whose state is unchanged, and the tree's files.

    Raises:
        UsageError: if the source does not exist, or the tree is sorted by another numbering (`other-numbering`).
    """
    tree = tree_records.scan_tree(root, convention, missing_ok=True)
    numbering.require_numbering(tree, convention)
    scan = scanning.scan_source(source, convention, leave_out=root, follow_symlinks=follow_symlinks)
    planner = _Planner(
        scan,
        tree,
        convention,
        move=mode is Mode.MOVE,
        trust=trust,
        settle=settle,
        checksum=checksum,
        follow_symlinks=follow_symlinks,
    )
    planner.examine_all(progress=progress)
    return planner.plan()


class _Planner:
    def __init__(
        self,
        scan: scanning.SourceScan,
        tree: tree_records.TreeScan,
        convention: Convention,
        *,
        move: bool,
        trust: examination.Trust,
        settle: float,
        checksum: bool,
        follow_symlinks: bool,
    ) -> None:
        self.scan = scan
        self.tree = tree
        self.convention = convention
        self.move = move
        self.settle = settle
        self.checksum = checksum or move
        self.follow_symlinks = follow_symlinks
        self.refused = list(scan.refusals)
        self.deferred: list[scanning.Refusal] = []
        self.unchanged: list[tuple[PurePosixPath, tree_records.CheckpointEntry, scanning.SourceCheckpoint]] = []
        self.repeated: list[Duplicate] = []
        """Duplicates that are known from an earlier ingest."""
        self.owners: dict[Path, lost_files.Owner] = {}
        """Source file → the run that wrote it, as far as that is known."""
        self.read: dict[str, tuple[Path, FileState, str]] = {}
        """Source file, relative → its path, and the state and SHA-256 with which it was read."""
        self.undecided: set[str] = set()
        """Ids of W&B runs that are candidates of an ambiguous checkpoint."""
        self.wandb = wandb_index.WandbIndex(self._read_wandb(), convention)
        self.examiner = examination.Examiner(convention, self.wandb, trust=trust, follow_symlinks=follow_symlinks)
        self.folders = RunFolders(tree, convention, scan.root, read_kept=self.checksum)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read_wandb(self) -> list[wandb_runs.WandbRun]:
        runs = []
        for folder in self.scan.wandb_folders:
            try:
                runs.append(wandb_runs.read_run_folder(folder))
            except RefusedError as error:
                self._refuse(self._relative(folder), error, what="W&B folder")
        return wandb_runs.merge_requeued(runs)

    def examine_all(self, *, progress: Progress | None) -> None:
        """Read every file that is not known, and give each its run folder."""
        known = {
            path: (folder, remembered, entry)
            for folder, record in self.tree.records
            for path, remembered, entry in record.source_paths
        }
        to_read = []
        for file in self.scan.checkpoints:
            hit = known.get(str(file.path))
            try:
                if hit is None or not self._is_unchanged(file, *hit):
                    to_read.append(file)
            except RefusedError as error:
                self._refuse(file.relative, error, path=file.path, state=file.state)
        total = sum(file.state.size for file in to_read)
        done = 0
        examined: list[examination.Examined] = []
        for file in to_read:
            try:
                examined.append(self.examiner.examine(file))
            except RefusedError as error:
                self._refuse(file.relative, error, path=file.path, state=file.state)
            done += file.state.size
            if progress is not None:
                progress("reading", done, total)
        for new in sorted(self._attributed(examined), key=self._order):
            self.read[new.file.source.relative] = new.file.source.path, new.file.state, new.file.sha256
            self.owners[new.file.source.path] = lost_files.Owner(
                new.attribution.run_id, new.file.place.seed, new.file.config, new.file.sha256
            )
            try:
                self.folders.take(new)
            except RefusedError as error:
                self._refuse(new.file.source.relative, error)

    def _is_unchanged(
        self,
        file: scanning.SourceCheckpoint,
        folder: PurePosixPath,
        remembered: tree_records.SourceFile,
        entry: tree_records.CheckpointEntry,
    ) -> bool:
        state = file.state
        slot = self.folders.slots[folder]
        if entry.file not in slot.files or (remembered.size, remembered.mtime_ns, remembered.inode) != (
            state.size, state.mtime_ns, state.inode,
        ):  # fmt: skip
            return False
        if self.checksum:
            sha256, state = hash_file(file.path, follow_symlinks=self.follow_symlinks)
            if sha256 != entry.sha256 or not state.same_but_ctime(file.state):
                return False
            self.read[file.relative] = file.path, state, sha256
        record = slot.record
        assert record is not None  # it came from the records
        self.owners[file.path] = lost_files.Owner(record.run_id, record.seed, record.config, entry.sha256)
        self.folders.check_kept(folder, entry.file)
        if remembered == entry.source:
            self.unchanged.append((folder, entry, file))
        else:
            self.repeated.append(Duplicate(source=file.relative, same_as=str(folder / entry.file)))
        return True

    def _attributed(self, files: Sequence[examination.Examined]) -> list[NewFile]:
        """Find the run of each new file; one that lies in a tree already has it in its `run.json`."""
        recorded = {file.source.path: self._recorded(file) for file in files}
        sought = [file for file in files if recorded[file.source.path] is None]
        found = {
            file.source.path: NewFile(file, attribution, self._metrics(attribution.run_id))
            for file, attribution in zip(sought, self._attribute([file.claim for file in sought]), strict=True)
        }
        return [recorded[file.source.path] or found[file.source.path] for file in files]

    def _order(self, new: NewFile) -> tuple[bool, float, float, str]:
        """In which order files get their places: the copies last, and the runs as they were begun, whatever the names
        of their folders."""
        run = self.wandb.by_id.get(new.attribution.run_id or "")
        saved_at = new.file.claim.saved_at
        started = saved_at if run is None or run.started is None else run.started
        return new.attribution.is_copy, started, saved_at, new.file.source.relative

    def _recorded(self, file: examination.Examined) -> NewFile | None:
        record = self.scan.records.get(file.source.path.parent)
        if record is None or all(entry.sha256 != file.sha256 for entry in record.checkpoints):
            return None
        note = record.attribution
        attribution = attributing.Attribution(record.run_id, note.code, note.evidence, note.candidates)
        return NewFile(file, attribution, record.metrics, record.evaluations)

    def _attribute(self, claims: Sequence[wandb_index.Claim]) -> list[attributing.Attribution]:
        found = self.wandb.attribute(claims, self.owners)
        for attribution in found:
            self.undecided.update(attribution.candidates if attribution.run_id is None else ())
        return found

    def _metrics(self, run_id: str | None) -> Mapping[str, Any]:
        run = self.wandb.by_id.get(run_id or "")
        return run.summary if run is not None else {}

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.scan.root)) if path.is_relative_to(self.scan.root) else str(path)

    def _refuse(
        self,
        source: str,
        error: RefusedError,
        *,
        path: Path | None = None,
        state: FileState | None = None,
        what: str = "file",
    ) -> None:
        message = error.message.removeprefix(f"{path}: ")  # `source` names it already
        refusal = scanning.Refusal(source=source, code=error.code, message=message, fix=error.fix, what=what)
        young = state is not None and abs(time.time() - state.mtime_ns / 1e9) < self.settle
        if error.code == examination.CHANGING or (error.code in CUT_CODES and young):
            fix = "It was written a moment ago: ingest again later. --settle sets how long to wait."
            self.deferred.append(replace(refusal, fix=fix))
        else:
            self.refused.append(refusal)

    # --- the plan -----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Put everything together."""
        for slot in self.folders:
            self._refresh(slot)
        records = {slot.folder: slot.record for slot in self.folders if slot.record is not None}
        to_place = {(slot.folder, p.destination.name) for slot in self.folders for p in slot.placements}
        new = [
            (tree_records.row_of(f, records[f], entry), (f, entry.file) in to_place) for f, entry in self.folders.new
        ]
        placed = [row for row, is_placed in new if is_placed]
        unchanged = [row for row, is_placed in new if not is_placed] + [
            replace(tree_records.row_of(folder, records[folder], entry), source=file.relative)
            for folder, entry, file in self.unchanged
        ]
        here = [*placed, *unchanged]
        duplicates = tuple(sorted((*self.folders.duplicates, *self.repeated), key=lambda item: item.source))
        present = {record.run_id for record in records.values() if record.run_id is not None}
        lost = lost_files.find_lost_files(
            [run for run in self.wandb.runs if run.run_id not in self.undecided],
            self._owned_files(),
            present,
            self.convention,
        )
        overwritten = [self._overwritten(item) for item in lost if item.overwritten and not item.survives]
        overwritten += self._told_overwritten(present | {run.run_id for run in overwritten if run is not None})
        partly = [self._overwritten(item) for item in lost if item.overwritten and item.survives]
        overwritten_lists = self._overwritten_lists(_in_order(overwritten))
        removals = self._removals(unchanged, duplicates) if self.move else ()
        return Plan(
            source=self.scan.root,
            root=self.tree.root,
            runs=tuple(
                PlannedRun(
                    folder=slot.folder,
                    record=slot.record,
                    placements=tuple(slot.placements),
                    wandb_folders=self._wandb_folders(slot.record),
                )
                for _, slot in sorted(self.folders.slots.items())
                if slot.record is not None
            ),
            placed=tuple(sorted(placed, key=lambda row: row.path)),
            unchanged=tuple(sorted(unchanged, key=lambda row: row.path)),
            duplicates=duplicates,
            refused=tuple(sorted(self.refused, key=lambda item: (item.source, item.code))),
            deferred=tuple(sorted(self.deferred, key=lambda item: item.source)),
            renumbered=tuple(
                Renumbered(source=row.source, task=row.task, source_task=row.source_task)
                for row in sorted(here, key=lambda row: row.source)
                if row.source_task is not None and row.source_task != row.task
            ),
            regrouped=tuple(
                Regrouped(source=row.source, group=row.group, source_group=said)
                for row in sorted(here, key=lambda row: row.source)
                if (said := self._other_group(row, records[PurePosixPath(row.path).parent])) is not None
            ),
            completed=tuple(sorted(slot.folder for slot in self.folders if slot.is_completed)),
            removals=removals,
            overwritten=_in_order(overwritten),
            partly_overwritten=_in_order(partly),
            without_files=tuple(item for item in lost if not item.overwritten and not item.survives),
            wandb_problems=tuple(
                WandbProblem(self._relative(run.folders[0]), problem)
                for run in self.wandb.runs
                for problem in run.problems
            ),
            ambiguous=tuple(row for row in here if self._is_ambiguous(records, row)),
            overwritten_lists=overwritten_lists,
            system_files=self.scan.system_files,
        )

    def _removals(
        self, unchanged: Iterable[tree_records.CheckpointRow], duplicates: Iterable[Duplicate]
    ) -> tuple[Removal, ...]:
        """The source files that a move lets go since the tree has their bytes, as regular files of its own."""
        known = [(row.source, row.path) for row in unchanged] + [(item.source, item.same_as) for item in duplicates]
        removals = []
        for source, same_as in sorted(known):
            if (self.tree.root / same_as).is_symlink():
                self.refused.append(
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

    def _other_group(self, row: tree_records.CheckpointRow, record: tree_records.RunRecord) -> str | None:
        """The group that the source folder says, where the configuration says another one of a known pattern.

        A folder around the task folders is a group's if it is called like one, or lies within the source; those of
        the families in a tree are none.
        """
        rules, said = self.convention, record.source.group
        if said is None or said == row.group or placement.group_pattern(row.group, rules) is None:
            return None
        families = {*rules.families.layernorm_folders.values(), *rules.families.regime_folders.values()}
        is_group = placement.group_pattern(said, rules) is not None or said in PurePosixPath(row.source).parts
        return said if is_group and said not in families else None

    def _is_ambiguous(
        self, records: Mapping[PurePosixPath, tree_records.RunRecord], row: tree_records.CheckpointRow
    ) -> bool:
        record = records[PurePosixPath(row.path).parent]
        return record.run_id is None and len(record.attribution.candidates) > 1

    def _refresh(self, slot: Slot) -> None:
        """Bring a run's record up to date with what W&B says now; what W&B no longer says is kept."""
        record = slot.record
        if record is None or not record.checkpoints:
            return
        if record.run_id is None and record is slot.old and record.config_source == "checkpoint":
            record = self._resolve(record)
        run = self.wandb.by_id.get(record.run_id or "")
        if run is not None:
            relative = tuple(
                str(f.relative_to(self.scan.root)) for f in run.folders if f.is_relative_to(self.scan.root)
            )
            same_root = record.source.root == str(self.scan.root)
            source = replace(record.source, wandb=relative) if relative and same_root else record.source
            record = replace(record, metrics=run.summary or record.metrics, source=source)
        slot.record = record

    def _resolve(self, record: tree_records.RunRecord) -> tree_records.RunRecord:
        """Try again to tell which run wrote the files of a record, now that more W&B records may be there."""
        claims = []
        for entry in record.checkpoints:
            path = Path(entry.source.root or record.source.root, entry.source.path)
            if not path.is_relative_to(self.scan.root):
                return record
            claims.append(wandb_index.Claim(path, record.config, entry.source.mtime_ns / 1e9, entry.sha256))
        notes = self._attribute(claims)
        ids = {note.run_id for note in notes}
        if len(ids) != 1:
            return record
        taken = {other.record.run_id for other in self.folders if other.record is not None}
        if notes[0].run_id is not None and notes[0].run_id in taken:
            return record
        return replace(record, run_id=notes[0].run_id, attribution=note_of(notes[0]))

    def _wandb_folders(self, record: tree_records.RunRecord) -> tuple[Path, ...]:
        run = self.wandb.by_id.get(record.run_id or "")
        return run.folders if run is not None else ()

    def _owned_files(self) -> dict[Path, lost_files.Owner]:
        """Every source file and the run that wrote it, those that were moved away from the source included."""
        owned = dict(self.owners)
        for slot in self.folders:
            if slot.record is not None:
                record = slot.record
                for path, _, entry in record.source_paths:
                    owner = lost_files.Owner(record.run_id, record.seed, record.config, entry.sha256)
                    owned.setdefault(Path(path), owner)
        return owned

    def _overwritten(self, lost: lost_files.LostFiles) -> tree_records.OverwrittenRun | None:
        run = lost.run
        config = run.config
        group_said = config.get(self.convention.group_key)
        folder_group, source_task, _ = scanning.said_by_folders(lost.folder / lost.overwritten[0], self.convention)
        try:
            place = placement.place_of(
                config,
                self.convention,
                source_group=group_said if isinstance(group_said, str) and group_said else folder_group,
                source_task=source_task,
            )
        except RefusedError as error:
            self._refuse(self._relative(run.folders[0]), error, what="W&B folder")
            return None
        return tree_records.OverwrittenRun(
            run_id=run.run_id,
            group=place.group,
            task=place.task,
            seed=place.seed,
            source_task=source_task,
            config=config,
            metrics=run.summary,
            files=lost.overwritten,
            overwritten_by=lost.overwritten_by,
            source_root=str(self.scan.root),
            wandb=tuple(str(f.relative_to(self.scan.root)) for f in run.folders if f.is_relative_to(self.scan.root)),
        )

    def _told_overwritten(self, known: Collection[str]) -> list[tree_records.OverwrittenRun]:
        """What a tree that is the source says of overwritten runs, with the task ids of this tree."""
        told = {}
        for run in self.scan.overwritten:
            if run.run_id not in known:
                with suppress(RefusedError):  # a group that this convention does not place
                    place = placement.place_of(
                        run.config, self.convention, source_group=run.group, source_task=run.task
                    )
                    told[run.run_id] = replace(run, group=place.group, task=place.task)
        return list(told.values())

    def _overwritten_lists(
        self, found: Iterable[tree_records.OverwrittenRun]
    ) -> dict[PurePosixPath, tuple[tree_records.OverwrittenRun, ...]]:
        by_folder: dict[PurePosixPath, dict[str, tree_records.OverwrittenRun]] = defaultdict(dict)
        for run in found:
            place = placement.place_of(run.config, self.convention, source_group=run.group, source_task=run.task)
            by_folder[place.folder][run.run_id] = run
        lists = {}
        for folder, runs in sorted(by_folder.items()):
            try:
                known = {run.run_id: run for run in self._listed(folder)}
            except RefusedError as error:
                self._refuse(str(folder / tree_records.OVERWRITTEN_FILE), error)
                continue
            merged = {**known, **runs}
            if merged != known:
                lists[folder] = tuple(merged[run_id] for run_id in sorted(merged))
        return lists

    def _listed(self, folder: PurePosixPath) -> tuple[tree_records.OverwrittenRun, ...]:
        """The overwritten runs that the tree lists for a task folder; RefusedError if its list cannot be used."""
        if any(path == folder / tree_records.OVERWRITTEN_FILE for path, _ in self.tree.unreadable):
            return tree_records.read_overwritten(self.tree.root / folder)  # which says why
        return self.tree.overwritten.get(folder, ())


def _in_order(runs: Iterable[tree_records.OverwrittenRun | None]) -> tuple[tree_records.OverwrittenRun, ...]:
    return tuple(
        sorted(
            (run for run in runs if run is not None),
            key=lambda run: (run.group, run.task, -1 if run.seed is None else run.seed, run.run_id),
        )
    )
