"""Giving each new file the folder of its run: the one that the tree has, or a new one."""

from __future__ import annotations

import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from heapq import merge
from itertools import groupby, islice
from operator import eq
from pathlib import Path, PurePosixPath
from sys import intern
from typing import Any, NamedTuple, overload

from ckptman.formats import folder_bytes
from ckptman.fs import FileState
from ckptman.fs import folders as fs_folders
from ckptman.raw import attribution as attributing
from ckptman.raw import examination, outputs, scanning
from ckptman.rules import Convention, comparing, naming, placement
from ckptman.text import MachineError, RefusedError, wording
from ckptman.tree import contents, history, numbering, records


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
TREE_FILE_CHANGED = "tree-file-changed"
"""The code of a file that the tree has, but not as it was placed."""
_LEARNT = ("run_id", "metrics", "metrics_source", "source", "attribution")
"""The fields of a record that an ingest learns without a new file."""


class KeptFile(NamedTuple):
    """A checkpoint that a record of the tree lists."""

    name: str
    kind: str
    step: int | None
    size: int


class Common(NamedTuple):
    """What the records of the seeds of a task mostly have in common: held once."""

    group: str
    family: Mapping[str, Any]
    task: int | None
    source_group: str | None
    source_task: int | None
    is_ambiguous: bool
    """Whether several runs can have written its files."""
    is_of_said_seed: bool
    """Whether a person said its seed."""
    files: tuple[KeptFile, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is held of a record that the tree has. There may be a hundred thousand: all else is read again, where it is
    asked for."""

    common: Common
    run_id: str | None
    seed: int | None
    sums: bytes | tuple[str, ...]
    """The SHA-256 of each of the files."""

    @property
    def hashes(self) -> dict[str, str]:
        """Of its files: name → sha256."""
        texts = _texts(self.sums) if isinstance(self.sums, bytes) else self.sums
        return dict(zip((file.name for file in self.common.files), texts, strict=True))


class KeptRecords:
    """The records of a tree, of which only the last that was asked for is held."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._common: dict[str, Common] = {}
        self._last: tuple[str, records.RunRecord, bool] | None = None

    def kept(self, record: records.RunRecord) -> Kept:
        """What is held of a record."""
        found = _kept(record)
        # By what it looks like: 1, 1.0 and True are equal.
        return replace(found, common=self._common.setdefault(repr(found.common), found.common))

    def read(self, name: str, kept: Kept) -> tuple[records.RunRecord, bool]:
        """The record of a run folder, and whether it has its digest.

        Raises:
            MachineError: (`tree-changing`) it is not the one of which this is held.
        """
        if self._last is not None and self._last[0] == name:
            return self._last[1:]
        try:
            record, is_signed = records.read_signed(self._root / name)
        except RefusedError as error:
            raise _changing(error.message) from error
        if _kept(record) != kept:
            raise _changing(f"{self._root / name / records.RUN_FILE} was changed meanwhile")
        self._last = name, record, is_signed
        return record, is_signed


def _kept(record: records.RunRecord) -> Kept:
    common = Common(
        group=record.group,
        family=record.family,
        task=record.task,
        source_group=record.source.group,
        source_task=record.source.task,
        is_ambiguous=record.run_id is None and bool(record.attribution.candidates),
        is_of_said_seed=record.config_source == records.ASSIGNED,
        files=tuple(KeptFile(entry.file, entry.kind, entry.step, entry.size) for entry in record.checkpoints),
    )
    texts = tuple(entry.sha256 for entry in record.checkpoints)
    sums: bytes | tuple[str, ...] = texts
    with suppress(ValueError):  # somebody wrote something else there
        packed = b"".join(map(bytes.fromhex, texts))
        sums = packed if _texts(packed) == texts else texts
    return Kept(common, record.run_id, record.seed, sums)


def _texts(sums: bytes) -> tuple[str, ...]:
    return tuple(sums[at : at + 32].hex() for at in range(0, len(sums), 32))


@dataclass(slots=True)
class Slot:
    """A run folder while the plan is made.

    There may be hundreds of thousands. So its record is made of what the tree has and of what is new, whenever it is
    asked for.
    """

    above: str
    """The folder that it lies in, relative to the root."""
    base: str
    """What it is called there."""
    kept: Kept | None = None
    """What is held of its record as the tree has it."""
    tree: KeptRecords | None = None
    """Which has that record."""
    there: Mapping[str, int] | None = None
    """File name → bytes, of the files that are in the tree; None where these are as its record says."""
    new: tuple[outputs.SavedFile, ...] = ()
    """Its files that no record has yet, in the order in which they came."""
    copies: tuple[tuple[str, records.SourceFile], ...] = ()
    """Other sources of its files, by their names, that no record has yet."""
    refreshed: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """The fields of its record that are otherwise than these tell."""
    learnt: Mapping[str, attributing.Attribution] = field(default_factory=lambda: _NOTHING)
    """File name → what this ingest knows of the run that wrote a file that was there."""
    curve_size: int | None = None
    """Bytes of the learning curve that is in the tree."""
    curve_sources: tuple[records.SourceFile, ...] = ()
    """The files from which its learning curve is to be read."""
    is_unsigned: bool = False
    """Whether its run.json lacks its digest: then it is written anew."""
    problem: RefusedError | None = None
    """Why its run.json, which is there, cannot be used: then nothing may be written here."""

    @classmethod
    def at(cls, folder: PurePosixPath, **more: Any) -> Slot:
        """The one of a folder."""
        above, _, base = str(folder).rpartition("/")
        return cls(intern(above), intern(base), **more)

    @property
    def name(self) -> str:
        """The folder, relative to the root."""
        return f"{self.above}/{self.base}" if self.above else self.base

    @property
    def folder(self) -> PurePosixPath:
        """Relative to the root."""
        return PurePosixPath(self.name)

    @property
    def has_record(self) -> bool:
        """Whether anything is known of its run."""
        return self.kept is not None or bool(self.new)

    @property
    def is_as_it_was(self) -> bool:
        """Whether there is nothing to place here, and nothing to write down."""
        return not (self.new or self.copies or self.refreshed or self.curve_sources or self.is_unsigned)

    @property
    def old(self) -> records.RunRecord | None:
        """Its record as the tree has it, read again."""
        return None if self.kept is None or self.tree is None else self.tree.read(self.name, self.kept)[0]

    @property
    def record(self) -> records.RunRecord | None:
        """What is known of its run."""
        record, others = self.old, self.new
        if record is None and others:
            record, others = _first_record(others[0]), others[1:]
        if record is None:
            return None
        for saved in others:
            record = _with_file(record, saved)
        for name, source in self.copies:
            record = _with_copy(record, name, source)
        return replace(record, **self.refreshed) if self.refreshed else record

    def refresh(self, before: records.RunRecord, record: records.RunRecord) -> None:
        """Take over what is known of its run by now."""
        differing = {name: value for name in _LEARNT if (value := getattr(record, name)) != getattr(before, name)}
        if differing:
            self.refreshed = {**self.refreshed, **differing}

    def add(self, saved: outputs.SavedFile) -> None:
        """Enter a file into its record."""
        self.new = (*self.new, saved)

    # What is asked of all runs, without making their records:

    @property
    def run_id(self) -> str | None:
        """As its record has it."""
        if "run_id" in self.refreshed:
            return self.refreshed["run_id"]  # type: ignore[no-any-return]
        if self.kept is not None:
            return self.kept.run_id
        return self.new[0].attribution.run_id if self.new else None

    @property
    def is_ambiguous(self) -> bool:
        """Whether several runs can have written its files."""
        if "attribution" in self.refreshed:
            return self.run_id is None and bool(self.refreshed["attribution"].candidates)
        if self.kept is not None:
            return self.kept.common.is_ambiguous
        return self.run_id is None and bool(self.new[0].attribution.candidates)

    @property
    def group(self) -> str:
        """As its record has it."""
        return self.new[0].file.common.place.group if self.kept is None else self.kept.common.group

    @property
    def family(self) -> Mapping[str, Any]:
        """As its record has it."""
        return self.new[0].file.common.place.family if self.kept is None else self.kept.common.family

    @property
    def task(self) -> int | None:
        """As its record has it."""
        return self.new[0].file.common.place.task if self.kept is None else self.kept.common.task

    @property
    def seed(self) -> int | None:
        """As its record has it."""
        return self.new[0].file.seed if self.kept is None else self.kept.seed

    @property
    def source_group(self) -> str | None:
        """The group that the source's folders say."""
        return self.new[0].file.source.group if self.kept is None else self.kept.common.source_group

    @property
    def source_task(self) -> int | None:
        """The task id that they say."""
        return self.new[0].file.source.task if self.kept is None else self.kept.common.source_task

    @property
    def kinds(self) -> Iterator[tuple[str, str]]:
        """The name and the kind of each checkpoint, in their order."""
        found = [(file.step, file.name, file.kind) for file in self.kept.common.files] if self.kept is not None else []
        if self.new:
            names = {saved.file.name for saved in self.new}
            found = [file for file in found if file[1] not in names]
            found += [(saved.file.step, saved.file.name, saved.file.kind) for saved in self.new]
            found.sort(key=lambda file: _order(file[0], file[1]))
        return ((name, kind) for _, name, kind in found)

    def row(self, name: str, file: _File) -> records.CheckpointRow:
        """The row of one of its new files; or of one that the tree has, with the source file that is that."""
        if isinstance(file, outputs.SavedFile):
            source, size, step, kind = file.file.source, file.file.state.size, file.file.step, file.file.kind
            sha256 = file.file.content
        else:
            assert self.kept is not None  # it came from the record
            source, sha256 = file, self.kept.hashes[name]
            _, kind, step, size = next(each for each in self.kept.common.files if each.name == name)
        return records.CheckpointRow(
            source=source.relative,
            path=name if self.base == "." else f"{self.name}/{name}",  # the root may be a run's folder
            sha256=sha256,
            size=size,
            run_id=self.run_id,
            group=self.group,
            family=self.family,
            task=self.task,
            source_task=self.source_task,
            seed=self.seed,
            step=step,
            kind=kind,
        )

    @property
    def sizes(self) -> Mapping[str, int]:
        """File name → bytes, of the files that are in the tree."""
        if self.there is not None:
            return self.there
        return _NOTHING if self.kept is None else {file.name: file.size for file in self.kept.common.files}

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
        if name not in self.sizes:
            return ""
        return self.kept.hashes.get(name) if self.kept is not None else None

    def has(self, name: str) -> bool:
        """Whether it has a file of a name."""
        return self.content_of(name) != ""

    def called(self, content: str, kind: str) -> str | None:
        """The name under which it has these bytes as a checkpoint of this kind: the last one may be the end, too."""
        return next((name for name, its in self.kinds if its == kind and self.content_of(name) == content), None)

    @property
    def is_completed(self) -> bool:
        """Whether its files were in the tree without a run.json, which it gets now."""
        return self.kept is None and self.has_record and bool(self.sizes)


_File = outputs.SavedFile | scanning.SourceCheckpoint


class _Sizes(Mapping[str, int]):
    """The sizes of the new files of some folders, by their paths; none of which is held."""

    def __init__(self, rows: Rows, slots: Iterable[Slot]) -> None:
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


class Rows(Sequence[records.CheckpointRow]):
    """The rows of files of some folders, by path; each is made when it is asked for."""

    def __init__(self, slots: Sequence[Slot], names: Sequence[str], file_at: Callable[[int], _File]) -> None:
        """`slots` and `names`: the folder of each file, and its name in there; `file_at`: the file: see `Slot.row`."""
        self._slots = slots
        self._names = names
        self._file_at = file_at
        self._places = array("q", self._order())
        """In the order of the paths."""

    @classmethod
    def of_new(cls, found: Iterable[tuple[Slot, outputs.SavedFile]]) -> Rows:
        """Those of new files."""
        slots, files = [], []
        for slot, saved in found:
            slots.append(slot)
            files.append(saved)
        return cls(slots, [saved.file.name for saved in files], files.__getitem__)

    def _order(self) -> list[int]:
        """The places of the rows in the order of their paths, which are made for one task folder after the other."""
        begins = {slot.above: f"{slot.above}/" if slot.above else "" for slot in self._slots}
        ranks: dict[str, int] = {}
        rank, outer = -1, None
        for above, begin in sorted(begins.items(), key=lambda item: item[1]):
            if outer is None or not begin.startswith(outer):  # else it lies in the one before
                rank, outer = rank + 1, begin
            ranks[above] = rank

        def rank_of(at: int) -> int:
            return ranks[self._slots[at].above]

        def path_of(at: int) -> str:
            return f"{self._slots[at].name}/{self._names[at]}"

        order = sorted(range(len(self._slots)), key=rank_of)
        return [at for _, together in groupby(order, rank_of) for at in sorted(together, key=path_of)]

    def _row(self, at: int) -> records.CheckpointRow:
        return self._slots[at].row(self._names[at], self._file_at(at))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> records.CheckpointRow: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[records.CheckpointRow, ...]: ...

    def __getitem__(self, index: int | slice) -> records.CheckpointRow | tuple[records.CheckpointRow, ...]:
        if isinstance(index, slice):
            return tuple(map(self._row, self._places[index]))
        return self._row(self._places[index])

    def __iter__(self) -> Iterator[records.CheckpointRow]:
        return map(self._row, self._places)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Path → bytes, of new files."""
        return _Sizes(self, self._slots)

    def of(self, is_wanted: Callable[[Slot], bool]) -> Iterator[tuple[Slot, records.CheckpointRow]]:
        """Those of the folders that are wanted."""
        return ((slot, self._row(at)) for at in self._places if is_wanted(slot := self._slots[at]))

    def __reduce__(self) -> tuple[Any, ...]:  # what they are made of stays in this process
        return tuple, (tuple(self),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows | tuple) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(tuple(self))


class KnownFile(NamedTuple):
    """A file of the source that the tree has, by a record."""

    slot: Slot
    name: str
    """In the tree."""
    is_as_it_was: bool
    """Whether it is as it was then, by all that can be told without reading it."""
    is_copy: bool
    """Whether another source file was placed."""


class KnownFiles:
    """Which files of a source the records of the tree name: by the place of each among the files of the source."""

    def __init__(self, source: scanning.SourceScan) -> None:
        self._files = source.checkpoints
        self._below = str(source.root / "x")[:-1]
        self._slots: list[Slot | None] = []
        """As long as the files, once there is any."""
        self._names: list[str] = []
        self._how = bytearray()

    def note(self, slot: Slot, record: records.RunRecord) -> None:
        """Take note of the sources of a run."""
        names = {file.name: file.name for file in slot.kept.common.files} if slot.kept is not None else {}
        if not self._slots:
            self._slots, self._names = [None] * len(self._files), [""] * len(self._files)
            self._how = bytearray(len(self._files))
        for path, remembered, entry in record.source_paths:
            if not path.startswith(self._below):
                continue
            if (at := self._files.place_of(path[len(self._below) :])) is not None:
                self._slots[at], self._names[at] = slot, names[entry.file]  # which is held once
                self._how[at] = 2 * remembered.is_in_state(self._files[at].state) + (remembered != entry.source)

    def rows(self, places: Sequence[int], others: Sequence[tuple[Slot, str, _File]]) -> Rows:
        """The rows of those in some places, and of others: (folder, name, file)."""

        def file_at(at: int) -> _File:
            return others[at][2] if at < len(others) else self._files[places[at - len(others)]]

        slots = [slot for slot, _, _ in others] + [s for place in places if (s := self._slots[place]) is not None]
        return Rows(slots, [name for _, name, _ in others] + [self._names[place] for place in places], file_at)

    def at(self, place: int) -> KnownFile | None:
        """The one in a place; None where no record names it."""
        slot = self._slots[place] if self._slots else None
        how = 0 if slot is None else self._how[place]
        return None if slot is None else KnownFile(slot, self._names[place], how >= 2, how % 2 == 1)


class RunFolders:
    """The run folders of a tree while files are added to them."""

    def __init__(self, root: Path, convention: Convention, source: scanning.SourceScan, *, read_kept: bool) -> None:
        """Read the tree, of which no record is held.

        Args:
            read_kept: Compare the bytes of a file that the tree has with run.json, not its size alone.

        Raises:
            UsageError: (`other-numbering`) the tree is sorted by another numbering than the one in force.
        """
        self.root = root
        self._convention = convention
        self._read_kept = read_kept
        self._kept: set[tuple[str, str]] = set()
        """Folders and files of the tree that were read, and found as run.json says."""
        self._slots: list[Slot] = []
        self._by_base: dict[str, dict[str, tuple[Slot, ...]]] = defaultdict(dict)
        """By task folder, and by what the names of run folders begin with."""
        self.known = KnownFiles(source)
        self.leftovers: set[PurePosixPath] = set()
        """Folders in which something lies that an interrupted run left."""
        self.duplicates: list[Duplicate] = []
        self.moved: list[tuple[Slot, str, scanning.SourceCheckpoint]] = []
        """Files that were placed from a source of another root, at the same place in it."""
        self._telling: dict[tuple[str, int | None], set[str]] = {}
        """By task folder and seed, the keys in which the configurations of its runs differ, where any does."""
        self._records = KeptRecords(root)
        links: list[PurePosixPath] = []
        folders = records.FoldersInTurn(root, convention, missing_ok=True)
        is_in_order = True
        for folder in folders:
            if folder.run is not None:
                self._enter(self._slot(folder, folder.run))
            links += [e.path for e in folder.entries if e.kind == "symlink" and self._may_hide_runs(e.path)]
            self.leftovers.update(folder.path for e in folder.entries if fs_folders.is_partial(e.path.name))
            is_in_order = is_in_order and not numbering.misplaced(contents.runs_of(root, folder, convention))
        if not is_in_order:
            numbering.require_numbering(records.scan_tree(root, convention), convention)
        self.rest = folders.rest()
        """What else the tree has."""
        hidden = ((path, "it is a symbolic link, and none is followed") for path in sorted(links))
        self._unknown = [*self.rest.unreadable, *hidden]
        """Where runs may be that are not known."""
        self._were_there = len(self._slots)
        self._of_said_seed = [slot for slot in self if slot.kept is not None and slot.kept.common.is_of_said_seed]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    @property
    def in_order(self) -> Iterator[Slot]:
        """In the order of their paths."""
        new = self._slots[self._were_there :]
        new.sort(key=by_parts)
        return merge(islice(self._slots, self._were_there), new, key=by_parts)

    def _may_hide_runs(self, path: PurePosixPath) -> bool:
        return len(path.parts) <= self._convention.folders.depth

    def _enter(self, slot: Slot) -> None:
        """Let the folder be found by its own name and by each name that it only adds notes to."""
        self._slots.append(slot)
        known, parts = self._by_base[slot.above], slot.base.split("-")
        for count in range(1, len(parts) + 1):
            base = intern("-".join(parts[:count]))
            known[base] = (*known.get(base, ()), slot)

    def _slot(self, folder: records.ScannedFolder, run: records.RunFolder) -> Slot:
        sizes = {n: size for n, size in run.files.items() if n.endswith(self._convention.checkpoint.suffix)}
        file = run.path / records.RUN_FILE
        is_other = any(entry.path == file and entry.kind != "file" for entry in folder.entries)
        problem = "it is not a regular file" if is_other else run.problem
        kept = None if run.record is None else self._records.kept(run.record)
        slot = Slot.at(
            run.path,
            kept=kept,
            tree=self._records,
            there=sizes,
            curve_size=run.files.get(history.HISTORY_FILE),
            problem=None if problem is None else records.bad_record(file, problem, is_newer=run.is_newer),
        )
        if kept is not None and sizes == {file.name: file.size for file in kept.common.files}:
            slot.there = None
        if run.record is not None:
            self.known.note(slot, run.record)
        return slot

    def is_signed(self, slot: Slot) -> bool:
        """Whether the run.json of a folder, where there is one that can be used, has its digest."""
        return slot.kept is None or self._records.read(slot.name, slot.kept)[1]

    def tell_apart(self, files: Sequence[examination.Examined]) -> None:
        """Learn which keys differ among the runs of each task and seed: the folders of new ones are named by them."""
        first: dict[tuple[str, int | None], Mapping[str, Any] | examination.Examined] = {}
        places = {(str(file.common.place.folder), file.seed) for file in files}
        for slot in self if places else ():
            where = (slot.above, None if slot.kept is None else slot.kept.seed)
            if where in places and (record := slot.old) is not None:
                self._tell_apart(first, where, record.config)
        for file in files:
            self._tell_apart(first, (str(file.common.place.folder), file.seed), file)

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
        self.require_readable(file.common.place.folder, base)
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
                if not self._is_run_of(slot, new):  # the file, or the run.json, lies in a wrong folder
                    continue
                held = folder_bytes.hash_any(self.root / slot.folder / file.name)
                if held == file.content:
                    slot.add(new)
                    return
                continue
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
        self._enter(Slot.at(self._free_folder(new), new=(new,)))

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
        entry = None
        if slot.kept is not None and name in slot.sizes and (slot.name, name) not in self._kept:
            entry = next((entry for entry in slot.kept.common.files if entry.name == name), None)
        if entry is None or slot.kept is None:
            return  # it comes to the tree only now, or its run.json does
        if slot.sizes[name] != entry.size:
            how = f"it has {slot.sizes[name]:,} bytes, and {entry.size:,} by run.json"
            raise _tree_file_changed(slot.folder / name, how)
        if self._read_kept:
            if folder_bytes.hash_any(self.root / slot.folder / name) != slot.kept.hashes[name]:
                raise _tree_file_changed(slot.folder / name, "its SHA-256 is not the one in run.json")
            self._kept.add((slot.name, name))

    def _base_of(self, file: examination.Examined) -> str:
        """What the name of the folder of its run begins with."""
        place = file.common.place
        return self._convention.folders.run(file.seed, *place.notes, family=place.family)

    def _slots_of(self, file: examination.Examined) -> list[Slot]:
        """The folders of runs that have the file's task, seed and notes; and one with its bytes, whose seed is said."""
        slots = list(self._by_base.get(str(file.common.place.folder), _NOTHING).get(self._base_of(file), ()))
        slots += [
            slot
            for slot in self._of_said_seed
            if file.name in slot.sizes and slot.content_of(file.name) == file.content and slot not in slots
        ]
        return sorted(slots, key=by_parts) if len(slots) > 1 else slots

    def _is_run_of(self, slot: Slot, new: outputs.SavedFile) -> bool:
        """Whether a file belongs to the run in a folder."""
        if not slot.has_record:
            return True
        file, run_id = new.file, new.attribution.run_id
        if slot.run_id is None and run_id is not None:  # unless its own files are learnt to be of that run
            learnt = (slot.learnt.get(entry.name) for entry in slot.kept.common.files) if slot.kept is not None else ()
            return slot.kept is not None and all(note is not None and note.run_id == run_id for note in learnt)
        if slot.run_id is not None:
            return slot.run_id == run_id
        is_new = slot.kept is None and not slot.copies
        beside = is_new and any(saved.file.source.around is file.source.around for saved in slot.new)
        if not beside and self._origins_of(slot).isdisjoint(_origins(file, self._convention)):
            return False
        if is_new and slot.new[0].file.has_configuration_of(file):
            return True
        record = slot.record
        assert record is not None  # something is known of its run
        return comparing.same_configuration(record.config, file.config, self._convention.ignored_keys)

    def _origins_of(self, slot: Slot) -> set[Path]:
        """The source folders of its files and their copies."""
        found = _origins(slot.new[0].file, self._convention) if slot.kept is None and slot.new else set()
        if slot.kept is None and not slot.copies:
            paths: Iterable[Path] = (saved.file.source.path for saved in slot.new)
        else:
            record = slot.record
            assert record is not None  # something is known of its run
            paths = (Path(path) for path, _, _ in record.source_paths)
        return found | {placement.run_at_source(path, self._convention) for path in paths}

    def _free_folder(self, new: outputs.SavedFile) -> PurePosixPath:
        """A folder that no run has: by the seed alone, else with what tells this run apart."""
        file, run_id = new.file, new.attribution.run_id
        telling = self._telling.get((str(file.common.place.folder), file.seed), set())
        by_keys = naming.naming_of(self._convention).telling(telling, file.config)
        notes = [note for note in by_keys if note not in file.common.place.notes]
        for more in ((), (run_id or file.content[:8],), (file.content[:8],), (file.content,)):
            folder = file.place.run_folder(self._convention, *notes, *more)
            taken = self._by_base.get(str(folder.parent), _NOTHING).get(folder.name, ())
            if all(slot.name != str(folder) for slot in taken) and not (self.root / folder).exists():
                return folder
        raise RefusedError(
            f"the folder {folder} is taken by something else",
            code="taken",
            fix=f"Look at it with: ckptman validate --root {wording.shell_word(self.root)}",
        )

    def _is_anywhere(self, record: records.RunRecord, entry: records.CheckpointEntry, place: str) -> bool:
        """Whether a file at this place of a source that run.json names for a checkpoint is there; else the source lies
        elsewhere."""
        paths = (Path(path) for path, source, of in record.source_paths if of is entry and source.path == place)
        return any(os.path.lexists(path) for path in paths)

    def _add_duplicate(self, slot: Slot, file: examination.Examined, name: str) -> None:
        """Remember a second source of bytes that are there already, under this name."""
        record = slot.record
        assert record is not None  # the file is in it
        source = _source_file(file, record)
        known = next(entry for entry in record.checkpoints if entry.file == name)
        same_place = any(source.path == other.path for other in (known.source, *known.duplicates))
        if same_place and source.root is not None and not self._is_anywhere(record, known, source.path):
            self.moved.append((slot, name, file.source))
            return
        self.duplicates.append(Duplicate(source=file.source.relative, same_as=str(slot.folder / name)))
        slot.copies = (*slot.copies, (name, source))


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
        group=file.common.place.group,
        family=file.common.place.family,
        task=file.common.place.task,
        seed=file.seed,
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
    ordered = sorted((*kept, _entry_of(file, record)), key=lambda item: _order(item.step, item.file))
    if source.root == file.source.around.root:
        told = {note.path: note for note in (*file.beside, *source.beside)}
        source = replace(source, beside=tuple(note for _, note in sorted(told.items()))) if told else source
    return replace(record, checkpoints=tuple(ordered), source=source)


def _with_copy(record: records.RunRecord, name: str, source: records.SourceFile) -> records.RunRecord:
    """A record with one more source of the bytes of one of its files."""
    entries = []
    for entry in record.checkpoints:
        if entry.file == name:
            if (entry.source.root, entry.source.path) == (source.root, source.path):
                entry = replace(entry, source=source)  # the same file, touched
            else:
                kept = tuple(s for s in entry.duplicates if (s.root, s.path) != (source.root, source.path))
                entry = replace(entry, duplicates=(*kept, source))
        entries.append(entry)
    return replace(record, checkpoints=tuple(entries))


def by_parts(slot: Slot) -> str:
    """What folders are sorted by as their paths are: part by part."""
    return slot.name.replace("/", "\0")


def _order(step: int | None, name: str) -> tuple[bool, int, str]:
    """What the checkpoints of a run are sorted by."""
    return step is None, step or 0, name


def _origins(file: examination.Examined, convention: Convention) -> set[Path]:
    """The folders that only one run saves into; a checkpoint that is a folder may hold earlier ones of its run."""
    path = file.source.path
    around = set() if file.source.is_run_folder else {placement.run_at_source(path, convention)}
    return around | ({path} if file.source.is_folder else set())


def note_of(attribution: attributing.Attribution) -> records.AttributionNote:
    """An attribution as `run.json` holds it."""
    return records.AttributionNote(
        code=attribution.code, evidence=attribution.evidence, candidates=tuple(attribution.candidates)
    )


def _changing(what: str) -> MachineError:
    fix = "Wait until nothing else writes to the tree, and ingest again."
    return MachineError(what, code="tree-changing", fix=fix)


def _tree_file_changed(path: PurePosixPath, how: str) -> RefusedError:
    return RefusedError(
        f"{path} in the tree was changed after it was placed: {how}",
        code=TREE_FILE_CHANGED,
        fix="Move the damaged file out of the tree and ingest again: it is then placed anew.",
    )
