"""What an ingest will do, worked out before anything is written: the plan that `--dry-run` prints and `ingest` applies.

Every new file is read once here, in full: its configuration, its archive checksums and its SHA-256. A file whose state
(size, modification time, inode) is the one that some `run.json` remembers is not read again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.archive import verify_crcs
from ckptman.attribution import Attribution, attribute
from ckptman.checkpoint import CheckpointInfo, read_checkpoint
from ckptman.convention import Convention
from ckptman.errors import RefusedError
from ckptman.naming import CheckpointName, naming_of
from ckptman.overwritten import LostFiles, Owner, find_lost_files
from ckptman.placement import Place, place_of
from ckptman.rows import CheckpointRow, row_of
from ckptman.sources import Refusal, SourceCheckpoint, SourceScan, scan_source, wandb_home
from ckptman.transfer import FileState, hash_file
from ckptman.tree import (
    AttributionNote,
    CheckpointEntry,
    OverwrittenRun,
    RunFolder,
    RunRecord,
    RunSource,
    SourceFile,
    TreeScan,
    scan_tree,
)
from ckptman.wandb_runs import WandbRun, merge_requeued, read_run_folder

CHANGING = "changed-while-read"
CUT_CODES = frozenset({"cut", "empty"})
"""Refusals that a file still being written would meet."""


class Trust(StrEnum):
    """What decides where a file's name and the configuration inside it disagree."""

    NEITHER = "neither"
    CONFIG = "config"
    NAME = "name"


@dataclass(frozen=True)
class Duplicate:
    """A source file whose bytes are in the tree already, or come there from another source file."""

    source: str
    same_as: str
    """Relative to the tree's root."""


@dataclass(frozen=True)
class Renumbered:
    """A file whose task id differs from the one its source folder had."""

    source: str
    task: int
    source_task: int


@dataclass(frozen=True)
class FilePlacement:
    """One file to bring to its place."""

    source: Path
    state: FileState
    sha256: str
    destination: PurePosixPath
    """Relative to the root."""


@dataclass(frozen=True)
class PlannedRun:
    """A run folder as it will be."""

    folder: PurePosixPath
    record: RunRecord
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
    placed: tuple[CheckpointRow, ...]
    unchanged: tuple[CheckpointRow, ...]
    duplicates: tuple[Duplicate, ...]
    refused: tuple[Refusal, ...]
    deferred: tuple[Refusal, ...]
    renumbered: tuple[Renumbered, ...]
    overwritten: tuple[OverwrittenRun, ...]
    partly_overwritten: tuple[OverwrittenRun, ...]
    without_files: tuple[LostFiles, ...]
    """W&B runs of which nothing was saved, or nothing is left, and no other run's file is in the way."""
    ambiguous: tuple[CheckpointRow, ...]
    """Checkpoints that more than one W&B run could have written."""
    overwritten_lists: Mapping[PurePosixPath, tuple[OverwrittenRun, ...]]
    """By task folder, what its list of overwritten runs will hold, where that changes."""


@dataclass(frozen=True)
class _Examined:
    """A new file, read."""

    source: SourceCheckpoint
    state: FileState
    sha256: str
    name: str
    kind: str
    step: int
    config: Mapping[str, Any]
    config_source: str
    place: Place
    attribution: Attribution
    metrics: Mapping[str, Any]


@dataclass
class _Slot:
    """A run folder while the plan is made."""

    folder: PurePosixPath
    record: RunRecord | None
    old: RunRecord | None
    files: dict[str, str | None]
    """File name → sha256; None for a file whose run.json is not written yet."""
    placements: list[FilePlacement] = field(default_factory=list)
    origin: Path | None = None
    """Source folder of the first file, for runs whose id is not known."""


Progress = Callable[[str, int, int], None]
"""Called with a stage, the bytes done and the bytes in all."""


def make_plan(
    source: Path,
    root: Path,
    convention: Convention,
    *,
    trust: Trust = Trust.NEITHER,
    settle: float = 600.0,
    checksum: bool = False,
    follow_symlinks: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Work out what an ingest of `source` into the tree `root` will do. Nothing is written.

    Args:
        settle: A cut file younger than this many seconds may still be being written: it is deferred, not refused.
        checksum: Read files again whose state is unchanged.

    Raises:
        UsageError: if the source does not exist.
    """
    tree = scan_tree(root, convention, missing_ok=True)
    scan = scan_source(source, convention, leave_out=root, follow_symlinks=follow_symlinks)
    planner = _Planner(scan, tree, convention, trust=trust, settle=settle, follow_symlinks=follow_symlinks)
    planner.examine_all(checksum=checksum, progress=progress)
    return planner.plan()


class _Planner:
    def __init__(
        self,
        scan: SourceScan,
        tree: TreeScan,
        convention: Convention,
        *,
        trust: Trust,
        settle: float,
        follow_symlinks: bool,
    ) -> None:
        self.scan = scan
        self.tree = tree
        self.convention = convention
        self.naming = naming_of(convention)
        self.trust = trust
        self.settle = settle
        self.follow_symlinks = follow_symlinks
        self.refused = list(scan.refusals)
        self.deferred: list[Refusal] = []
        self.duplicates: list[Duplicate] = []
        self.unchanged: list[tuple[PurePosixPath, CheckpointEntry, SourceCheckpoint]] = []
        self.new: list[tuple[PurePosixPath, CheckpointEntry]] = []
        self.owners: dict[Path, Owner] = {}
        """Source file → the run that wrote it, as far as that is known."""
        self.undecided: set[str] = set()
        """Ids of W&B runs that are candidates of an ambiguous checkpoint."""
        self.wandb = _WandbIndex(self._read_wandb(), convention)
        self.slots: dict[PurePosixPath, _Slot] = {run.path: self._slot(run) for run in tree.runs}

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read_wandb(self) -> list[WandbRun]:
        runs = []
        for folder in self.scan.wandb_folders:
            try:
                runs.append(read_run_folder(folder))
            except RefusedError as error:
                self._refuse(str(folder.relative_to(self.scan.root)) if folder.is_relative_to(self.scan.root) else
                             str(folder), error)  # fmt: skip
        return merge_requeued(runs)

    def _slot(self, run: RunFolder) -> _Slot:
        hashes = {entry.file: entry.sha256 for entry in run.record.checkpoints} if run.record else {}
        files = {name: hashes.get(name) for name in run.files if name.endswith(self.convention.checkpoint.suffix)}
        return _Slot(folder=run.path, record=run.record, old=run.record, files=files)

    def examine_all(self, *, checksum: bool, progress: Progress | None) -> None:
        """Read every file that is not known, and give each its run folder."""
        known = {
            path: (folder, remembered, entry)
            for folder, record in self.tree.records
            for path, remembered, entry in record.source_paths
        }
        to_read = []
        for file in self.scan.checkpoints:
            hit = known.get(str(file.path))
            if hit is None or not self._is_unchanged(file, *hit, checksum=checksum):
                to_read.append(file)
        total = sum(file.state.size for file in to_read)
        done = 0
        for file in to_read:
            try:
                self._take(self._examine(file))
            except RefusedError as error:
                self._refuse(file.relative, error, state=file.state)
            done += file.state.size
            if progress is not None:
                progress("reading", done, total)

    def _is_unchanged(
        self,
        file: SourceCheckpoint,
        folder: PurePosixPath,
        remembered: SourceFile,
        entry: CheckpointEntry,
        *,
        checksum: bool,
    ) -> bool:
        state = file.state
        slot = self.slots[folder]
        if entry.file not in slot.files or (remembered.size, remembered.mtime_ns, remembered.inode) != (
            state.size, state.mtime_ns, state.inode,
        ):  # fmt: skip
            return False
        if checksum and hash_file(file.path, follow_symlinks=self.follow_symlinks)[0] != entry.sha256:
            return False
        record = slot.record
        assert record is not None  # it came from the records
        self.owners[file.path] = Owner(record.run_id, record.seed)
        if remembered == entry.source:
            self.unchanged.append((folder, entry, file))
        else:
            self.duplicates.append(Duplicate(source=file.relative, same_as=str(folder / entry.file)))
        return True

    def _examine(self, file: SourceCheckpoint) -> _Examined:
        info = read_checkpoint(file.path, self.convention.checkpoint)
        verify_crcs(file.path)
        sha256, state = hash_file(file.path, follow_symlinks=self.follow_symlinks)
        if not state.same_but_ctime(file.state):
            raise RefusedError("it changed while it was looked at", code=CHANGING)
        config, config_source = self._config_of(file, info)
        name, parsed, config, config_source = self._name_of(file, info, config, config_source)
        place = place_of(
            config,
            self.convention,
            source_group=self._said_group(config, file),
            source_task=file.task,
        )
        attribution, metrics = self._attribution_of(file, info, config, sha256)
        return _Examined(
            source=file,
            state=state,
            sha256=sha256,
            name=name,
            kind=parsed.prefix.name,
            step=parsed.step,
            config=config,
            config_source=config_source,
            place=place,
            attribution=attribution,
            metrics=metrics,
        )

    def _said_group(self, config: Mapping[str, Any], file: SourceCheckpoint) -> str | None:
        said = config.get(self.convention.group_key)
        return said if isinstance(said, str) and said else file.group

    def _config_of(self, file: SourceCheckpoint, info: CheckpointInfo) -> tuple[Mapping[str, Any], str]:
        """The configuration, and where it is from: the file, else a W&B record, else the file's name."""
        if info.config:
            return info.config, "checkpoint"
        name = self.naming.parse(file.path.name)
        fitting = [
            run
            for run in self.wandb.nearest(file.path)
            if run.config
            and not self.naming.disagreements(name, run.config)
            and (file.seed is None or run.config.get(self.convention.seed_key) == file.seed)
        ]
        spans = [run for run in fitting if run.covers(file.state.mtime_ns / 1e9)]
        for runs in (fitting, spans):
            if len(runs) == 1:
                return runs[0].config, runs[0].config_source
        seed = {} if file.seed is None else {self.convention.seed_key: file.seed}
        return {**name.values, **seed}, "name"

    def _name_of(
        self, file: SourceCheckpoint, info: CheckpointInfo, config: Mapping[str, Any], config_source: str
    ) -> tuple[str, CheckpointName, Mapping[str, Any], str]:
        """The file's name in the tree, what it says, and the configuration after a disagreement is settled."""
        try:
            parsed = self.naming.parse(file.path.name)
        except RefusedError as error:
            if self.trust is Trust.CONFIG:
                return *self._name_from_config(info, config), config, config_source
            raise RefusedError(
                error.message, code=error.code, fix="Rename it, or let the configuration inside name it: --trust config"
            ) from None
        differences = [str(difference) for difference in self.naming.disagreements(parsed, config)]
        if info.iters_done is not None and parsed.step != info.iters_done:
            tag = self.convention.step_tag
            differences.append(f"{parsed.step} iterations in the name ({tag}) and {info.iters_done} in the file")
        if not differences:
            return file.path.name, parsed, config, config_source
        if self.trust is Trust.CONFIG:
            return *self._name_from_config(info, config), config, config_source
        if self.trust is Trust.NAME:
            return file.path.name, parsed, {**config, **parsed.values}, "name"
        raise RefusedError(
            f"the name disagrees with the configuration inside: {'; '.join(differences)}",
            code="name-disagrees",
            fix="Say which is right: --trust config (the file gets the name its configuration gives) or --trust name.",
        )

    def _name_from_config(self, info: CheckpointInfo, config: Mapping[str, Any]) -> tuple[str, CheckpointName]:
        if info.iters_done is None:
            raise RefusedError(
                "the file does not say how many iterations it holds, so its configuration cannot name it",
                code="no-name",
                fix="Rename it by the convention.",
            )
        final = [p for p in self.convention.prefixes if p.final and p.expected_step(config) == info.iters_done]
        prefix = (final or [p for p in self.convention.prefixes if not p.final])[0]
        name = self.naming.name_for(config, prefix, info.iters_done)
        return name, self.naming.parse(name)

    def _attribution_of(
        self, file: SourceCheckpoint, info: CheckpointInfo, config: Mapping[str, Any], sha256: str
    ) -> tuple[Attribution, Mapping[str, Any]]:
        """Which W&B run wrote a file, and that run's metrics."""
        recorded = self.scan.records.get(file.path.parent)
        if recorded is not None and any(entry.sha256 == sha256 for entry in recorded.checkpoints):
            note = recorded.attribution
            attribution = Attribution(
                run_id=recorded.run_id, code=note.code, evidence=note.evidence, candidates=note.candidates
            )
            return attribution, recorded.metrics
        return self._attribute(file.path, config, file.state.mtime_ns / 1e9, info.run_id)

    def _attribute(
        self, path: Path, config: Mapping[str, Any], saved_at: float, run_id: str | None
    ) -> tuple[Attribution, Mapping[str, Any]]:
        attribution = attribute(
            config, saved_at, self.wandb.nearest(path),
            ignored_keys=self.convention.ignored_keys, run_id=run_id,
        )  # fmt: skip
        self.undecided.update(attribution.candidates if attribution.run_id is None else ())
        run = self.wandb.by_id.get(attribution.run_id or "")
        return attribution, run.summary if run is not None else {}

    def _refuse(self, source: str, error: RefusedError, *, state: FileState | None = None) -> None:
        refusal = Refusal(source=source, code=error.code, message=error.message, fix=error.fix)
        young = state is not None and abs(time.time() - state.mtime_ns / 1e9) < self.settle
        if error.code == CHANGING or (error.code in CUT_CODES and young):
            fix = "It was written a moment ago: ingest again later. --settle sets how long to wait."
            self.deferred.append(replace(refusal, fix=fix))
        else:
            self.refused.append(refusal)

    # --- run folders --------------------------------------------------------------------------------------------------

    def _take(self, file: _Examined) -> None:
        """Give a new file its run folder: the one of its run if there is one, else a new one."""
        self.owners[file.source.path] = Owner(file.attribution.run_id, file.place.seed)
        for slot in self._slots_of(file):
            held = slot.files.get(file.name, "")
            if held is None:  # placed by an ingest that did not get to its run.json
                held = hash_file(self.tree.root / slot.folder / file.name, follow_symlinks=True)[0]
                slot.files[file.name] = held
                if held == file.sha256:
                    self._add(slot, file)
                    return
            if held == file.sha256:
                self._add_duplicate(slot, file)
                return
            if held == "" and self._is_run_of(slot, file):
                slot.placements.append(
                    FilePlacement(
                        source=file.source.path,
                        state=file.state,
                        sha256=file.sha256,
                        destination=slot.folder / file.name,
                    )
                )
                self._add(slot, file)
                return
        slot = _Slot(folder=self._free_folder(file), record=None, old=None, files={}, origin=file.source.path.parent)
        self.slots[slot.folder] = slot
        self._take(file)

    def _slots_of(self, file: _Examined) -> list[_Slot]:
        """The folders of runs that have the file's task, seed and notes."""
        base = file.place.run_folder(self.convention)
        return [
            slot
            for path, slot in sorted(self.slots.items())
            if path.parent == base.parent and (path.name == base.name or path.name.startswith(f"{base.name}-"))
        ]

    def _is_run_of(self, slot: _Slot, file: _Examined) -> bool:
        """Whether a file belongs to the run in a folder."""
        record = slot.record
        if record is None:
            return slot.origin == file.source.path.parent or slot.origin is None
        if record.run_id is not None or file.attribution.run_id is not None:
            return record.run_id == file.attribution.run_id
        origin = slot.origin or Path(record.source.root, record.checkpoints[0].source.path).parent
        return origin == file.source.path.parent and self._same_configuration(record.config, file.config)

    def _same_configuration(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        ignored = self.convention.ignored_keys
        return all(one.get(key) == other.get(key) for key in (one.keys() | other.keys()) - ignored)

    def _free_folder(self, file: _Examined) -> PurePosixPath:
        """A folder that no run has: by the seed alone, else with what tells this run apart."""
        for more in ((), (file.attribution.run_id or file.sha256[:8],), (file.sha256[:8],), (file.sha256,)):
            folder = file.place.run_folder(self.convention, *more)
            if folder not in self.slots and not (self.tree.root / folder).exists():
                return folder
        raise RefusedError(
            f"the folder {folder} is taken by something else", code="taken", fix="Look at it with: ckptman validate"
        )

    def _source_file(self, file: _Examined, record: RunRecord | None) -> SourceFile:
        root = str(self.scan.root)
        return SourceFile(
            path=file.source.relative,
            size=file.state.size,
            mtime_ns=file.state.mtime_ns,
            inode=file.state.inode,
            root=None if record is None or record.source.root == root else root,
        )

    def _add(self, slot: _Slot, file: _Examined) -> None:
        """Enter a file into the record of its run folder."""
        entry = CheckpointEntry(
            file=file.name,
            kind=file.kind,
            step=file.step,
            size=file.state.size,
            sha256=file.sha256,
            source=self._source_file(file, slot.record),
        )
        slot.files[file.name] = file.sha256
        if slot.record is None:
            slot.origin = slot.origin or file.source.path.parent
            slot.record = RunRecord(
                run_id=file.attribution.run_id,
                group=file.place.group,
                layernorm=file.place.layernorm,
                regime=file.place.regime,
                task=file.place.task,
                seed=file.place.seed,
                config=file.config,
                config_source=file.config_source,
                metrics=file.metrics,
                source=RunSource(root=str(self.scan.root), group=file.source.group, task=file.source.task),
                attribution=_note(file.attribution),
                checkpoints=(entry,),
            )
        else:
            kept = [other for other in slot.record.checkpoints if other.file != entry.file]
            ordered = sorted((*kept, entry), key=lambda item: (item.step, item.file))
            slot.record = replace(slot.record, checkpoints=tuple(ordered))
        self.new.append((slot.folder, entry))

    def _add_duplicate(self, slot: _Slot, file: _Examined) -> None:
        """Remember a second source of bytes that are there already."""
        record = slot.record
        assert record is not None  # the file is in it
        self.duplicates.append(Duplicate(source=file.source.relative, same_as=str(slot.folder / file.name)))
        source = self._source_file(file, record)
        entries = []
        for entry in record.checkpoints:
            if entry.file == file.name:
                if (entry.source.root, entry.source.path) == (source.root, source.path):
                    entry = replace(entry, source=source)  # the same file, touched
                else:
                    kept = tuple(s for s in entry.duplicates if (s.root, s.path) != (source.root, source.path))
                    entry = replace(entry, duplicates=(*kept, source))
            entries.append(entry)
        slot.record = replace(record, checkpoints=tuple(entries))

    # --- the plan -----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Put everything together."""
        for slot in self.slots.values():
            self._refresh(slot)
        records = {slot.folder: slot.record for slot in self.slots.values() if slot.record is not None}
        to_place = {(slot.folder, p.destination.name) for slot in self.slots.values() for p in slot.placements}
        new = [(row_of(f, records[f], entry), (f, entry.file) in to_place) for f, entry in self.new]
        placed = [row for row, is_placed in new if is_placed]
        unchanged = [row for row, is_placed in new if not is_placed] + [
            replace(row_of(folder, records[folder], entry), source=file.relative)
            for folder, entry, file in self.unchanged
        ]
        here = [*placed, *unchanged]
        lost = find_lost_files(
            [run for run in self.wandb.runs if run.run_id not in self.undecided],
            self._owned_files(),
            {record.run_id for record in records.values() if record.run_id is not None},
            self.convention,
        )
        overwritten = [self._overwritten(item) for item in lost if item.overwritten and not item.survives]
        partly = [self._overwritten(item) for item in lost if item.overwritten and item.survives]
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
                for _, slot in sorted(self.slots.items())
                if slot.record is not None
            ),
            placed=tuple(sorted(placed, key=lambda row: row.path)),
            unchanged=tuple(sorted(unchanged, key=lambda row: row.path)),
            duplicates=tuple(sorted(self.duplicates, key=lambda item: item.source)),
            refused=tuple(sorted(self.refused, key=lambda item: (item.source, item.code))),
            deferred=tuple(sorted(self.deferred, key=lambda item: item.source)),
            renumbered=tuple(
                Renumbered(source=row.source, task=row.task, source_task=row.source_task)
                for row in sorted(here, key=lambda row: row.source)
                if row.source_task is not None and row.source_task != row.task
            ),
            overwritten=_in_order(overwritten),
            partly_overwritten=_in_order(partly),
            without_files=tuple(item for item in lost if not item.overwritten and not item.survives),
            ambiguous=tuple(row for row in here if self._is_ambiguous(records, row)),
            overwritten_lists=self._overwritten_lists(_in_order(overwritten)),
        )

    def _is_ambiguous(self, records: Mapping[PurePosixPath, RunRecord], row: CheckpointRow) -> bool:
        record = records[PurePosixPath(row.path).parent]
        return record.run_id is None and len(record.attribution.candidates) > 1

    def _refresh(self, slot: _Slot) -> None:
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

    def _resolve(self, record: RunRecord) -> RunRecord:
        """Try again to tell which run wrote the files of a record, now that more W&B records may be there."""
        notes = []
        for entry in record.checkpoints:
            path = Path(entry.source.root or record.source.root, entry.source.path)
            if not path.is_relative_to(self.scan.root):
                return record
            notes.append(self._attribute(path, record.config, entry.source.mtime_ns / 1e9, None)[0])
        ids = {note.run_id for note in notes}
        if len(ids) != 1:
            return record
        taken = {other.record.run_id for other in self.slots.values() if other.record is not None}
        if notes[0].run_id is not None and notes[0].run_id in taken:
            return record
        return replace(record, run_id=notes[0].run_id, attribution=_note(notes[0]))

    def _wandb_folders(self, record: RunRecord) -> tuple[Path, ...]:
        run = self.wandb.by_id.get(record.run_id or "")
        return run.folders if run is not None else ()

    def _owned_files(self) -> dict[Path, Owner]:
        """Every source file and the run that wrote it, those that were moved away from the source included."""
        owned = dict(self.owners)
        for slot in self.slots.values():
            if slot.record is not None:
                for path, _, _ in slot.record.source_paths:
                    owned.setdefault(Path(path), Owner(slot.record.run_id, slot.record.seed))
        return owned

    def _overwritten(self, lost: LostFiles) -> OverwrittenRun | None:
        run = lost.run
        config = run.config
        group_said = config.get(self.convention.group_key)
        home = wandb_home(run.folders[0], self.convention)
        source_task = self.convention.folders.parse_task(home.name)
        try:
            place = place_of(
                config,
                self.convention,
                source_group=group_said if isinstance(group_said, str) and group_said else home.parent.name,
                source_task=source_task,
            )
        except RefusedError as error:
            self._refuse(str(home), error)
            return None
        return OverwrittenRun(
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

    def _overwritten_lists(self, found: Iterable[OverwrittenRun]) -> dict[PurePosixPath, tuple[OverwrittenRun, ...]]:
        by_folder: dict[PurePosixPath, dict[str, OverwrittenRun]] = defaultdict(dict)
        for run in found:
            place = place_of(run.config, self.convention, source_group=run.group, source_task=run.task)
            by_folder[place.folder][run.run_id] = run
        lists = {}
        for folder, runs in sorted(by_folder.items()):
            known = {run.run_id: run for run in self.tree.overwritten.get(folder, ())}
            merged = {**known, **runs}
            if merged != known:
                lists[folder] = tuple(merged[run_id] for run_id in sorted(merged))
        return lists


class _WandbIndex:
    """W&B runs by id, and by how near to a file their folders lie."""

    def __init__(self, runs: list[WandbRun], convention: Convention) -> None:
        self.runs = runs
        self.by_id = {run.run_id: run for run in runs}
        self._under: dict[Path, list[WandbRun]] = defaultdict(list)
        for run in runs:
            homes = {wandb_home(folder, convention) for folder in run.folders}
            for folder in {parent for home in homes for parent in (home, *home.parents)}:
                self._under[folder].append(run)

    def nearest(self, file: Path) -> list[WandbRun]:
        """The runs recorded below the nearest folder around a file that has any."""
        return next((self._under[folder] for folder in file.parents if folder in self._under), [])


def _in_order(runs: Iterable[OverwrittenRun | None]) -> tuple[OverwrittenRun, ...]:
    return tuple(
        sorted(
            (run for run in runs if run is not None),
            key=lambda run: (run.group, run.task, -1 if run.seed is None else run.seed, run.run_id),
        )
    )


def _note(attribution: Attribution) -> AttributionNote:
    return AttributionNote(
        code=attribution.code, evidence=attribution.evidence, candidates=tuple(attribution.candidates)
    )
