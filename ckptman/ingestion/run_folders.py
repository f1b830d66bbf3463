"""Giving each new file the folder of its run: the one that the tree has, or a new one."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import eq
from pathlib import Path, PurePosixPath
from typing import Any, overload

from ckptman.formats import folder_bytes
from ckptman.fs import FileState
from ckptman.raw import attribution as attributing
from ckptman.raw import examination, outputs, scanning
from ckptman.rules import Convention, comparing, naming, placement
from ckptman.text import RefusedError
from ckptman.tree import history, records


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A source file whose bytes are in the tree already, or come there from another source file."""

    source: str
    same_as: str
    """Relative to the tree's root."""


@dataclass(frozen=True, slots=True)
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


_NOTHING: Mapping[str, Any] = {}
"""What most slots have: held once."""


@dataclass(slots=True)
class Slot:
    """A run folder while the plan is made.

    There may be hundreds of thousands. So the record of a new run is made of its files whenever it is asked for.
    """

    name: str
    """The folder, relative to the root."""
    old: records.RunRecord | None = None
    """Its record as the tree has it."""
    files: Mapping[str, str | None] = field(default_factory=lambda: _NOTHING)
    """Of the files that were there: name → sha256; None for a file whose run.json is not written yet."""
    new: list[outputs.SavedFile] = field(default_factory=list)
    """Its files that no record has yet, in the order in which they came."""
    changed: records.RunRecord | None = None
    """Its record, where it does not follow from the new files."""
    refreshed: tuple[Mapping[str, Any], str | None, records.RunSource] | None = None
    """Its metrics, where they are from, and its source, where these do not follow from the new files."""
    sizes: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """File name → bytes, of the files that are in the tree."""
    learnt: Mapping[str, attributing.Attribution] = field(default_factory=lambda: _NOTHING)
    """File name → what this ingest knows of the run that wrote a file that was there."""
    curve_size: int | None = None
    """Bytes of the learning curve that is in the tree."""
    curve_sources: tuple[records.SourceFile, ...] = ()
    """The files from which its learning curve is to be read."""
    problem: RefusedError | None = None
    """Why its run.json, which is there, cannot be used: then nothing may be written here."""

    @property
    def folder(self) -> PurePosixPath:
        """Relative to the root."""
        return PurePosixPath(self.name)

    @property
    def has_record(self) -> bool:
        """Whether anything is known of its run."""
        return self.changed is not None or bool(self.new)

    @property
    def record(self) -> records.RunRecord | None:
        """What is known of its run."""
        if self.changed is not None or not self.new:
            return self.changed
        first, *others = self.new
        record = _first_record(first)
        for saved in others:
            record = _with_file(record, saved)
        if self.refreshed is not None:
            metrics, metrics_source, source = self.refreshed
            record = replace(record, metrics=metrics, metrics_source=metrics_source, source=source)
        return record

    def refresh(self, record: records.RunRecord) -> None:
        """Take over what is known of its run by now."""
        if self.changed is None:
            self.refreshed = record.metrics, record.metrics_source, record.source
        else:
            self.changed = record

    def add(self, saved: outputs.SavedFile) -> None:
        """Enter a file into its record."""
        self.new.append(saved)
        if self.changed is not None:
            self.changed = _with_file(self.changed, saved)

    # What is asked of all runs, without making their records:

    @property
    def run_id(self) -> str | None:
        """As its record has it."""
        if self.changed is not None:
            return self.changed.run_id
        return self.new[0].attribution.run_id if self.new else None

    @property
    def is_ambiguous(self) -> bool:
        """Whether several runs can have written its files."""
        noted = self.new[0].attribution if self.changed is None else self.changed.attribution
        return self.run_id is None and bool(noted.candidates)

    @property
    def group(self) -> str:
        """As its record has it."""
        return self.new[0].file.place.group if self.changed is None else self.changed.group

    @property
    def task(self) -> int | None:
        """As its record has it."""
        return self.new[0].file.place.task if self.changed is None else self.changed.task

    @property
    def seed(self) -> int | None:
        """As its record has it."""
        return self.new[0].file.place.seed if self.changed is None else self.changed.seed

    @property
    def source_group(self) -> str | None:
        """The group that the source's folders say."""
        return self.new[0].file.source.group if self.changed is None else self.changed.source.group

    @property
    def source_task(self) -> int | None:
        """The task id that they say."""
        return self.new[0].file.source.task if self.changed is None else self.changed.source.task

    @property
    def kinds(self) -> Iterator[tuple[str, str]]:
        """The name and the kind of each checkpoint, in their order."""
        if self.changed is not None:
            return ((entry.file, entry.kind) for entry in self.changed.checkpoints)
        return ((saved.file.name, saved.file.kind) for saved in sorted(self.new, key=_order_of_new))

    def row(self, saved: outputs.SavedFile) -> records.CheckpointRow:
        """The row of one of its new files."""
        file = saved.file
        return records.CheckpointRow(
            source=file.source.relative,
            path=f"{self.name}/{file.name}",
            sha256=file.content,
            size=file.state.size,
            run_id=self.run_id,
            group=self.group,
            family=file.place.family if self.changed is None else self.changed.family,
            task=self.task,
            source_task=self.source_task,
            seed=self.seed,
            step=file.step,
            kind=file.kind,
        )

    @property
    def to_place(self) -> Iterator[outputs.SavedFile]:
        """The new files that are not in the tree."""
        return (saved for saved in self.new if saved.file.name not in self.sizes)

    @property
    def placements(self) -> tuple[FilePlacement, ...]:
        """How they come to their places."""
        folder = self.folder
        return tuple(
            FilePlacement(
                source=saved.file.source.path,
                state=saved.file.state,
                sha256=saved.file.content,
                destination=folder / saved.file.name,
                parts=saved.file.parts,
            )
            for saved in self.to_place
        )

    def content_of(self, name: str) -> str | None:
        """The sha256 of the file of a name; None where it is not known, empty where there is no such file."""
        for saved in self.new:
            if saved.file.name == name:
                return saved.file.content
        return self.files.get(name, "")

    def has(self, name: str) -> bool:
        """Whether it has a file of a name."""
        return self.content_of(name) != ""

    def called(self, content: str, kind: str) -> str | None:
        """The name under which it has these bytes as a checkpoint of this kind: the last one may be the end, too."""
        return next((name for name, its in self.kinds if its == kind and self.content_of(name) == content), None)

    @property
    def is_completed(self) -> bool:
        """Whether its files were in the tree without a run.json, which it gets now."""
        return self.old is None and self.has_record and bool(self.sizes)


class _Sizes(Mapping[str, int]):
    """The sizes of the new files of some folders, by their paths; none of which is held."""

    def __init__(self, rows: NewRows, slots: Iterable[Slot]) -> None:
        self._rows = rows
        self._slots = {slot.name: slot for slot in slots}

    def __getitem__(self, path: str) -> int:
        folder, _, name = path.rpartition("/")
        for saved in self._slots[folder].to_place:
            if saved.file.name == name:
                return saved.file.size
        raise KeyError(path)

    def __iter__(self) -> Iterator[str]:
        return (row.path for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class NewRows(Sequence[records.CheckpointRow]):
    """The rows of the new files of some folders, by path; each is made when it is asked for."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._slots: list[Slot] = []
        self._files: list[outputs.SavedFile] = []
        for slot in sorted(slots, key=lambda slot: f"{slot.name}/"):
            for saved in sorted(slot.to_place, key=lambda saved: saved.file.name):
                self._slots.append(slot)
                self._files.append(saved)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> records.CheckpointRow: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[records.CheckpointRow, ...]: ...

    def __getitem__(self, index: int | slice) -> records.CheckpointRow | tuple[records.CheckpointRow, ...]:
        if isinstance(index, slice):
            return tuple(map(Slot.row, self._slots[index], self._files[index]))
        return self._slots[index].row(self._files[index])

    def __iter__(self) -> Iterator[records.CheckpointRow]:
        return map(Slot.row, self._slots, self._files)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Path → bytes."""
        return _Sizes(self, self._slots)

    def of(self, is_wanted: Callable[[Slot], bool]) -> Iterator[records.CheckpointRow]:
        """Those of the folders that are wanted."""
        return (slot.row(saved) for slot, saved in zip(self._slots, self._files, strict=True) if is_wanted(slot))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NewRows | tuple) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(tuple(self))


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
        self.slots: dict[str, Slot] = {}
        """By their folders, relative to the root."""
        self._by_base: dict[str, dict[str, tuple[Slot, ...]]] = defaultdict(dict)
        """By task folder, and by what the names of run folders begin with."""
        for run in tree.runs:
            self._enter(self._slot(run))
        self._of_said_seed = [slot for slot in self if slot.old and slot.old.config_source == records.ASSIGNED]
        self.duplicates: list[Duplicate] = []
        self.moved: list[tuple[PurePosixPath, records.CheckpointEntry, scanning.SourceCheckpoint]] = []
        """Files that were placed from a source of another root, at the same place in it."""
        self._telling: dict[tuple[str, int | None], set[str]] = {}
        """By task folder and seed, the keys in which the configurations of its runs differ, where any does."""

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots.values())

    def _enter(self, slot: Slot) -> None:
        """Let the folder be found by its own name and by each name that it only adds notes to."""
        self.slots[slot.name] = slot
        above, _, name = slot.name.rpartition("/")
        known, parts = self._by_base[above], name.split("-")
        for count in range(1, len(parts) + 1):
            base = "-".join(parts[:count])
            known[base] = (*known.get(base, ()), slot)

    def _slot(self, run: records.RunFolder) -> Slot:
        hashes = {entry.file: entry.sha256 for entry in run.record.checkpoints} if run.record else {}
        sizes = {n: size for n, size in run.files.items() if n.endswith(self._convention.checkpoint.suffix)}
        problem = "it is not a regular file" if run.path / records.RUN_FILE in self._no_files else run.problem
        return Slot(
            name=str(run.path),
            old=run.record,
            changed=run.record,
            files={name: hashes.get(name) for name in sizes},
            sizes=sizes,
            curve_size=run.files.get(history.HISTORY_FILE),
            problem=None
            if problem is None
            else records.bad_record(run.path / records.RUN_FILE, problem, is_newer=run.is_newer),
        )

    def tell_apart(self, files: Iterable[examination.Examined]) -> None:
        """Learn which keys differ among the runs of each task and seed: the folders of new ones are named by them."""
        first: dict[tuple[str, int | None], Mapping[str, Any] | examination.Examined] = {}
        for slot in self:
            if slot.old is not None:
                self._tell_apart(first, (slot.name.rpartition("/")[0], slot.old.seed), slot.old.config)
        for file in files:
            self._tell_apart(first, (str(file.place.folder), file.place.seed), file)

    def _tell_apart(
        self,
        first: dict[tuple[str, int | None], Mapping[str, Any] | examination.Examined],
        where: tuple[str, int | None],
        one: Mapping[str, Any] | examination.Examined,
    ) -> None:
        known = first.setdefault(where, one)
        if (
            isinstance(known, examination.Examined)
            and isinstance(one, examination.Examined)
            and known.has_configuration_of(one)
        ):
            return
        mine, theirs = (each.config if isinstance(each, examination.Examined) else each for each in (known, one))
        if differing := comparing.differing_keys(mine, theirs, self._convention.ignored_keys):
            self._telling.setdefault(where, set()).update(differing)

    def holds(self, file: examination.Examined) -> bool:
        """Whether the tree has the file's bytes, in a folder of its run."""
        slots = self._slots_of(file)
        return any(
            slot.content_of(file.name) == file.content or slot.called(file.content, file.kind) is not None
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
        base = self._base_of(file)
        self.require_readable(file.place.folder, base)
        slots = self._slots_of(file)
        for slot in slots:
            if slot.problem is not None:
                continue
            held = slot.content_of(file.name)
            if held == "" and (name := slot.called(file.content, file.kind)) is not None and self._is_run_of(slot, new):
                self.check_kept(slot, name)
                self._add_duplicate(slot, file, name)
                return
            if held is None:  # placed by an ingest that did not get to its run.json
                held = folder_bytes.hash_any(self._tree.root / slot.folder / file.name)
                slot.files = {**slot.files, file.name: held}
                if held == file.content:
                    slot.add(new)
                    return
            if held == file.content:
                self.check_kept(slot, file.name)
                self._add_duplicate(slot, file, file.name)
                slot.learnt = {**slot.learnt, file.name: new.attribution}
                return
            if held == "" and self._is_run_of(slot, new):
                slot.add(new)
                return
        if problem := next((slot.problem for slot in slots if slot.problem is not None), None):
            raise problem
        self._enter(Slot(str(self._free_folder(new)), new=[new]))

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

    def check_kept(self, slot: Slot, name: str) -> None:
        """See to it that a file which the tree has is as its run.json says.

        Raises:
            RefusedError: `tree-file-changed`, if it is not.
        """
        if not slot.sizes:
            return
        path = slot.folder / name
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

    def _base_of(self, file: examination.Examined) -> str:
        """What the name of the folder of its run begins with."""
        place = file.place
        return self._convention.folders.run(place.seed, *place.notes, family=place.family)

    def _slots_of(self, file: examination.Examined) -> list[Slot]:
        """The folders of runs that have the file's task, seed and notes; and one with its bytes, whose seed is said."""
        slots = list(self._by_base.get(str(file.place.folder), _NOTHING).get(self._base_of(file), ()))
        slots += [
            slot for slot in self._of_said_seed if slot.files.get(file.name) == file.content and slot not in slots
        ]
        return sorted(slots, key=lambda slot: slot.name.split("/")) if len(slots) > 1 else slots

    def _is_run_of(self, slot: Slot, new: outputs.SavedFile) -> bool:
        """Whether a file belongs to the run in a folder."""
        if not slot.has_record:
            return True
        file, run_id = new.file, new.attribution.run_id
        if slot.run_id is None and run_id is not None:  # unless its own files are learnt to be of that run
            learnt = (slot.learnt.get(entry.file) for entry in slot.old.checkpoints) if slot.old is not None else ()
            return slot.old is not None and all(note is not None and note.run_id == run_id for note in learnt)
        if slot.run_id is not None:
            return slot.run_id == run_id
        beside = slot.changed is None and any(saved.file.source.around is file.source.around for saved in slot.new)
        if not beside and self._origins_of(slot).isdisjoint(_origins(file, self._convention)):
            return False
        if slot.changed is None and slot.new[0].file.has_configuration_of(file):
            return True
        record = slot.record
        assert record is not None  # something is known of its run
        return comparing.same_configuration(record.config, file.config, self._convention.ignored_keys)

    def _origins_of(self, slot: Slot) -> set[Path]:
        """The source folders of its files and their copies."""
        found = _origins(slot.new[0].file, self._convention) if slot.old is None and slot.new else set()
        if slot.changed is None:
            paths: Iterable[Path] = (saved.file.source.path for saved in slot.new)
        else:
            paths = (Path(path) for path, _, _ in slot.changed.source_paths)
        return found | {placement.folder_at_source(path, self._convention) for path in paths}

    def _free_folder(self, new: outputs.SavedFile) -> PurePosixPath:
        """A folder that no run has: by the seed alone, else with what tells this run apart."""
        file, run_id = new.file, new.attribution.run_id
        telling = self._telling.get((str(file.place.folder), file.place.seed), set())
        by_keys = naming.naming_of(self._convention).telling(telling, file.config)
        notes = [note for note in by_keys if note not in file.place.notes]
        for more in ((), (run_id or file.content[:8],), (file.content[:8],), (file.content,)):
            folder = file.place.run_folder(self._convention, *notes, *more)
            if str(folder) not in self.slots and not (self._tree.root / folder).exists():
                return folder
        raise RefusedError(
            f"the folder {folder} is taken by something else", code="taken", fix="Look at it with: ckptman validate"
        )

    def _is_anywhere(self, record: records.RunRecord, entry: records.CheckpointEntry) -> bool:
        """Whether a file that run.json names as the source of a checkpoint is there; else the source lies elsewhere."""
        paths = (Path(path) for path, _, of in record.source_paths if of is entry)
        return any(os.path.lexists(path) for path in paths)

    def _add_duplicate(self, slot: Slot, file: examination.Examined, name: str) -> None:
        """Remember a second source of bytes that are there already, under this name."""
        record = slot.record
        assert record is not None  # the file is in it
        source = _source_file(file, record)
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
        slot.changed = replace(record, checkpoints=tuple(entries))


def _source_file(file: examination.Examined, record: records.RunRecord | None) -> records.SourceFile:
    root, state = file.source.around.root, file.state
    return records.SourceFile(
        path=file.source.relative,
        size=state.size,
        mtime_ns=state.mtime_ns,
        inode=state.inode,
        root=None if record is None or record.source.root == root else root,
    )


def _entry_of(file: examination.Examined, record: records.RunRecord | None) -> records.CheckpointEntry:
    return records.CheckpointEntry(
        file=file.name,
        kind=file.kind,
        step=file.step,
        size=file.state.size,
        sha256=file.content,
        source=_source_file(file, record),
        parts=tuple(records.PartEntry(part.name, part.state.size, part.sha256) for part in file.parts),
    )


def _first_record(new: outputs.SavedFile) -> records.RunRecord:
    """The record of a run of one file."""
    file = new.file
    return records.RunRecord(
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
            root=file.source.around.root, group=file.source.group, task=file.source.task, beside=file.beside
        ),
        attribution=note_of(new.attribution),
        checkpoints=(_entry_of(file, None),),
    )


def _with_file(record: records.RunRecord, new: outputs.SavedFile) -> records.RunRecord:
    """A record with one more file."""
    file, source = new.file, record.source
    kept = (other for other in record.checkpoints if other.file != file.name)
    ordered = sorted((*kept, _entry_of(file, record)), key=lambda item: (item.step is None, item.step or 0, item.file))
    if source.root == file.source.around.root:
        told = {note.path: note for note in (*file.beside, *source.beside)}
        source = replace(source, beside=tuple(note for _, note in sorted(told.items()))) if told else source
    return replace(record, checkpoints=tuple(ordered), source=source)


def _order_of_new(saved: outputs.SavedFile) -> tuple[bool, int, str]:
    step = saved.file.step
    return step is None, step or 0, saved.file.name


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
