"""Giving each new file the folder of its run: the one that the tree has, or a new one."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.formats import folder_bytes
from ckptman.fs import FileState
from ckptman.raw import attribution as attributing
from ckptman.raw import examination, outputs, scanning
from ckptman.rules import Convention, comparing, naming, placement
from ckptman.text import RefusedError
from ckptman.tree import history, records


@dataclass(frozen=True)
class Duplicate:
    """A source file whose bytes are in the tree already, or come there from another source file."""

    source: str
    same_as: str
    """Relative to the tree's root."""


@dataclass(frozen=True)
class FilePlacement:
    """One file to bring to its place."""

    source: Path
    state: FileState
    sha256: str
    destination: PurePosixPath
    """Relative to the root."""
    parts: tuple[folder_bytes.HashedFile, ...] = ()
    """The files of a folder."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.state.size for part in self.parts) if self.parts else self.state.size


@dataclass
class Slot:
    """A run folder while the plan is made."""

    folder: PurePosixPath
    record: records.RunRecord | None
    old: records.RunRecord | None
    files: dict[str, str | None]
    """File name → sha256; None for a file whose run.json is not written yet."""
    placements: list[FilePlacement] = field(default_factory=list)
    origins: set[Path] = field(default_factory=set)
    """Source folders of its files and their copies, for runs whose id is not known."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """File name → bytes, of the files that are in the tree."""
    learnt: dict[str, attributing.Attribution] = field(default_factory=dict)
    """File name → what this ingest knows of the run that wrote a file that was there."""
    curve_size: int | None = None
    """Bytes of the learning curve that is in the tree."""
    curve_sources: tuple[records.SourceFile, ...] = ()
    """The files from which its learning curve is to be read."""
    problem: RefusedError | None = None
    """Why its run.json, which is there, cannot be used: then nothing may be written here."""

    def called(self, content: str, kind: str) -> str | None:
        """The name under which it has these bytes as a checkpoint of this kind: the last one may be the end, too."""
        entries = () if self.record is None else self.record.checkpoints
        return next((e.file for e in entries if (e.kind, self.files.get(e.file)) == (kind, content)), None)

    @property
    def is_completed(self) -> bool:
        """Whether its files were in the tree without a run.json, which it gets now."""
        return self.old is None and self.record is not None and bool(self.sizes)


class RunFolders:
    """The run folders of a tree while files are added to them."""

    def __init__(self, tree: records.TreeScan, convention: Convention, source_root: Path, *, read_kept: bool) -> None:
        """`read_kept`: compare the bytes of a file that the tree has with run.json, not its size alone."""
        self._tree = tree
        self._convention = convention
        self._source_root = str(source_root)
        self._read_kept = read_kept
        self._kept: set[PurePosixPath] = set()
        """Files of the tree that were read, and found as run.json says."""
        links = (e.path for e in tree.entries if e.kind == "symlink" and len(e.path.parts) <= convention.folders.depth)
        self._unknown = [*tree.unreadable, *((path, "it is a symbolic link, and none is followed") for path in links)]
        """Where runs may be that are not known."""
        self._no_files = {e.path for e in tree.entries if e.path.name == records.RUN_FILE and e.kind != "file"}
        self.slots: dict[PurePosixPath, Slot] = {}
        self._by_base: dict[tuple[PurePosixPath, str], list[Slot]] = defaultdict(list)
        for run in tree.runs:
            self._enter(self._slot(run))
        self._of_said_seed = [slot for slot in self if slot.record and slot.record.config_source == records.ASSIGNED]
        self.duplicates: list[Duplicate] = []
        self.moved: list[tuple[PurePosixPath, records.CheckpointEntry, scanning.SourceCheckpoint]] = []
        """Files that were placed from a source of another root, at the same place in it."""
        self._telling: dict[tuple[PurePosixPath, int | None], set[str]] = {}
        """By task folder and seed, the keys in which the configurations of its runs differ."""
        self.new: list[tuple[PurePosixPath, records.CheckpointEntry]] = []
        """The files that were added, and their folders."""

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots.values())

    def _enter(self, slot: Slot) -> None:
        """Let the folder be found by its own name and by each name that it only adds notes to."""
        self.slots[slot.folder] = slot
        parts = slot.folder.name.split("-")
        for count in range(1, len(parts) + 1):
            self._by_base[slot.folder.parent, "-".join(parts[:count])].append(slot)

    def _slot(self, run: records.RunFolder) -> Slot:
        hashes = {entry.file: entry.sha256 for entry in run.record.checkpoints} if run.record else {}
        sizes = {n: size for n, size in run.files.items() if n.endswith(self._convention.checkpoint.suffix)}
        problem = "it is not a regular file" if run.path / records.RUN_FILE in self._no_files else run.problem
        return Slot(
            folder=run.path,
            record=run.record,
            old=run.record,
            files={name: hashes.get(name) for name in sizes},
            sizes=sizes,
            curve_size=run.files.get(history.HISTORY_FILE),
            problem=None
            if problem is None
            else records.bad_record(run.path / records.RUN_FILE, problem, is_newer=run.is_newer),
        )

    def tell_apart(self, files: Iterable[examination.Examined]) -> None:
        """Learn which keys differ among the runs of each task and seed: the folders of new ones are named by them."""
        configs: dict[tuple[PurePosixPath, int | None], list[Mapping[str, Any]]] = defaultdict(list)
        for slot in self:
            if slot.record is not None:
                configs[slot.folder.parent, slot.record.seed].append(slot.record.config)
        for file in files:
            configs[file.place.folder, file.place.seed].append(file.config)
        ignored = self._convention.ignored_keys
        for where, (first, *others) in configs.items():
            self._telling[where] = {key for other in others for key in comparing.differing_keys(first, other, ignored)}

    def holds(self, file: examination.Examined) -> bool:
        """Whether the tree has the file's bytes, in a folder of its run."""
        slots = self._slots_of(file)
        return any(
            slot.files.get(file.name) == file.content or slot.called(file.content, file.kind) is not None
            for slot in slots
        )

    def take(self, new: outputs.SavedFile) -> None:
        """Give a new file its run folder: the one of its run if there is one, else a new one.

        Raises:
            RefusedError: `taken`, if no folder name is free; `bad-record`, if it may be of a run whose run.json cannot
                be used; `unreadable-tree`, if of a run whose folder cannot be read; `tree-file-changed`, if it is in
                the tree, but not as it was placed.
        """
        file = new.file
        base = file.place.run_folder(self._convention)
        self.require_readable(base.parent, base.name)
        slots = self._slots_of(file)
        for slot in slots:
            if slot.problem is not None:
                continue
            held = slot.files.get(file.name, "")
            if held == "" and (name := slot.called(file.content, file.kind)) is not None and self._is_run_of(slot, new):
                self.check_kept(slot.folder, name)
                self._add_duplicate(slot, file, name)
                return
            if held is None:  # placed by an ingest that did not get to its run.json
                held = folder_bytes.hash_any(self._tree.root / slot.folder / file.name)
                slot.files[file.name] = held
                if held == file.content:
                    self._add(slot, new)
                    return
            if held == file.content:
                self.check_kept(slot.folder, file.name)
                self._add_duplicate(slot, file, file.name)
                slot.learnt[file.name] = new.attribution
                return
            if held == "" and self._is_run_of(slot, new):
                slot.placements.append(
                    FilePlacement(
                        source=file.source.path,
                        state=file.state,
                        sha256=file.content,
                        destination=slot.folder / file.name,
                        parts=file.parts,
                    )
                )
                self._add(slot, new)
                return
        if problem := next((slot.problem for slot in slots if slot.problem is not None), None):
            raise problem
        self._enter(
            Slot(
                folder=self._free_folder(new), record=None, old=None, files={}, origins=_origins(file, self._convention)
            )
        )
        self.take(new)

    def require_readable(self, task_folder: PurePosixPath, run: str | None = None) -> None:
        """See to it that what cannot be read is not taken for absent: a run's folder, or any of its task.

        Raises:
            RefusedError: `unreadable-tree`, if a folder above cannot be read, or something in a folder that may be of
                the run (of any run, if there is none).
        """
        for path, reason in self._unknown:
            is_above = task_folder.is_relative_to(path)
            child = "" if is_above or task_folder not in path.parents else path.relative_to(task_folder).parts[0]
            of_run = run is None or f"{child}-".startswith(f"{run}-")
            if is_above or (child and child != records.OVERWRITTEN_FILE and of_run):
                raise RefusedError(
                    f"{path} in the tree cannot be read, so what is in it is not known: {reason}",
                    code="unreadable-tree",
                    fix="See to it that you may read it and that its disk is well, and ingest again.",
                )

    def check_kept(self, folder: PurePosixPath, name: str) -> None:
        """See to it that a file which the tree has is as its run.json says.

        Raises:
            RefusedError: `tree-file-changed`, if it is not.
        """
        slot, path = self.slots[folder], folder / name
        entries = slot.old.checkpoints if slot.old is not None else ()
        entry = next((entry for entry in entries if entry.file == name), None)
        if entry is None or name not in slot.sizes or path in self._kept:
            return  # it comes to the tree only now, or its run.json does
        if slot.sizes[name] != entry.size:
            raise _tree_file_changed(path, f"it has {slot.sizes[name]:,} bytes, and {entry.size:,} by run.json")
        if self._read_kept:
            if folder_bytes.hash_any(self._tree.root / path) != entry.sha256:
                raise _tree_file_changed(path, "its SHA-256 is not the one in run.json")
            self._kept.add(path)

    def _slots_of(self, file: examination.Examined) -> list[Slot]:
        """The folders of runs that have the file's task, seed and notes; and one with its bytes, whose seed is said."""
        base = file.place.run_folder(self._convention)
        slots = {slot.folder: slot for slot in self._by_base.get((base.parent, base.name), ())}
        slots |= {slot.folder: slot for slot in self._of_said_seed if slot.files.get(file.name) == file.content}
        return [slot for _, slot in sorted(slots.items())]

    def _is_run_of(self, slot: Slot, new: outputs.SavedFile) -> bool:
        """Whether a file belongs to the run in a folder."""
        file, run_id = new.file, new.attribution.run_id
        record = slot.record
        if record is None:
            return not slot.origins or not slot.origins.isdisjoint(_origins(file, self._convention))
        if record.run_id is None and run_id is not None:  # unless its own files are learnt to be of that run
            learnt = (slot.learnt.get(entry.file) for entry in slot.old.checkpoints) if slot.old is not None else ()
            return slot.old is not None and all(note is not None and note.run_id == run_id for note in learnt)
        if record.run_id is not None:
            return record.run_id == run_id
        origins = slot.origins | {
            placement.folder_at_source(Path(path), self._convention) for path, _, _ in record.source_paths
        }
        ignored = self._convention.ignored_keys
        is_near = not origins.isdisjoint(_origins(file, self._convention))
        return is_near and comparing.same_configuration(record.config, file.config, ignored)

    def _free_folder(self, new: outputs.SavedFile) -> PurePosixPath:
        """A folder that no run has: by the seed alone, else with what tells this run apart."""
        file, run_id = new.file, new.attribution.run_id
        telling = self._telling.get((file.place.folder, file.place.seed), set())
        by_keys = naming.naming_of(self._convention).telling(telling, file.config)
        notes = [note for note in by_keys if note not in file.place.notes]
        for more in ((), (run_id or file.content[:8],), (file.content[:8],), (file.content,)):
            folder = file.place.run_folder(self._convention, *notes, *more)
            if folder not in self.slots and not (self._tree.root / folder).exists():
                return folder
        raise RefusedError(
            f"the folder {folder} is taken by something else", code="taken", fix="Look at it with: ckptman validate"
        )

    def _source_file(self, file: examination.Examined, record: records.RunRecord | None) -> records.SourceFile:
        root = self._source_root
        return records.SourceFile(
            path=file.source.relative,
            size=file.state.size,
            mtime_ns=file.state.mtime_ns,
            inode=file.state.inode,
            root=None if record is None or record.source.root == root else root,
        )

    def _add(self, slot: Slot, new: outputs.SavedFile) -> None:
        """Enter a file into the record of its run folder."""
        file = new.file
        entry = records.CheckpointEntry(
            file=file.name,
            kind=file.kind,
            step=file.step,
            size=file.state.size,
            sha256=file.content,
            source=self._source_file(file, slot.record),
            parts=tuple(records.PartEntry(part.name, part.state.size, part.sha256) for part in file.parts),
        )
        slot.files[file.name] = file.content
        if slot.record is None:
            slot.origins |= _origins(file, self._convention)
            slot.record = records.RunRecord(
                run_id=new.attribution.run_id,
                group=file.place.group,
                family=file.place.family,
                task=file.place.task,
                seed=file.place.seed,
                config=file.config,
                config_source=file.config_source,
                opaque=file.opaque,
                metrics=new.metrics.values,
                metrics_source=new.metrics.source,
                evaluations=new.evaluations,
                source=records.RunSource(
                    root=self._source_root, group=file.source.group, task=file.source.task, beside=file.beside
                ),
                attribution=note_of(new.attribution),
                checkpoints=(entry,),
            )
        else:
            kept = [other for other in slot.record.checkpoints if other.file != entry.file]
            ordered = sorted((*kept, entry), key=lambda item: (item.step is None, item.step or 0, item.file))
            source = slot.record.source
            if source.root == self._source_root:
                told = {note.path: note for note in (*file.beside, *source.beside)}
                source = replace(source, beside=tuple(note for _, note in sorted(told.items())))
            slot.record = replace(slot.record, checkpoints=tuple(ordered), source=source)
        self.new.append((slot.folder, entry))

    def _is_anywhere(self, record: records.RunRecord, entry: records.CheckpointEntry) -> bool:
        """Whether a file that run.json names as the source of a checkpoint is there; else the source lies elsewhere."""
        paths = (Path(path) for path, _, of in record.source_paths if of is entry)
        return any(os.path.lexists(path) for path in paths)

    def _add_duplicate(self, slot: Slot, file: examination.Examined, name: str) -> None:
        """Remember a second source of bytes that are there already, under this name."""
        record = slot.record
        assert record is not None  # the file is in it
        source = self._source_file(file, record)
        known = next(entry for entry in record.checkpoints if entry.file == name)
        same_place = any(source.path == other.path for other in (known.source, *known.duplicates))
        if same_place and source.root is not None and not self._is_anywhere(record, known):
            self.moved.append((slot.folder, known, file.source))
            return
        self.duplicates.append(Duplicate(source=file.source.relative, same_as=str(slot.folder / name)))
        entries = []
        for entry in record.checkpoints:
            if entry.file == name:
                if (entry.source.root, entry.source.path) == (source.root, source.path):
                    entry = replace(entry, source=source)  # the same file, touched
                else:
                    kept = tuple(s for s in entry.duplicates if (s.root, s.path) != (source.root, source.path))
                    entry = replace(entry, duplicates=(*kept, source))
            entries.append(entry)
        slot.record = replace(record, checkpoints=tuple(entries))


def _origins(file: examination.Examined, convention: Convention) -> set[Path]:
    """The folders that only one run saves into; a checkpoint that is a folder may hold earlier ones of its run."""
    return {
        placement.folder_at_source(file.source.path, convention),
        *([file.source.path] if file.source.is_folder else []),
    }


def note_of(attribution: attributing.Attribution) -> records.AttributionNote:
    """An attribution as `run.json` holds it."""
    return records.AttributionNote(
        code=attribution.code, evidence=attribution.evidence, candidates=tuple(attribution.candidates)
    )


def _tree_file_changed(path: PurePosixPath, how: str) -> RefusedError:
    return RefusedError(
        f"{path} in the tree was changed after it was placed: {how}",
        code="tree-file-changed",
        fix="Move the damaged file out of the tree and ingest again: it is then placed anew.",
    )
