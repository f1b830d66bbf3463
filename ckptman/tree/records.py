"""The organized tree on disk: its run folders, and `run.json`, the truth about each run."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ckptman.fs import FileState, placing, write_atomically
from ckptman.fs import files as fs_files
from ckptman.fs import folders as fs_folders
from ckptman.rules import Convention, placement
from ckptman.text import RefusedError, UsageError, given_path, json_text, wording

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
TRASH = ".ckptman-trash"
"""Folder at the root for what `validate --fix` took out of the tree; nothing in it belongs to the tree."""
ASSIGNED = "assigned"
"""`AttributionNote.code` where a person said which run it is, and `RunRecord.config_source` where the seed too."""
MIGRATIONS = ".ckptman-migrations"
"""Folder at the root for what `migrate` writes down, and keeps; nothing in it belongs to the tree."""
JOURNAL, MIGRATION_DONE = "journal.json", "done"
"""What each migration keeps, and its state when nothing is left to do."""
REFUSED_FILE = placement.REFUSED_FILE
"""At the root: the files that the last ingest of each source did not take, and what is known of their runs."""
FROM_BESIDE = "beside"
"""`RunRecord.config_source` and `metrics_source` where they are from files that lay beside the checkpoints."""
FROM_TRAINING = "training"
"""`RunRecord.metrics_source` where they are from the file that training left in the run's own folder, not from W&B."""
REPORT = "report"
"""Folder at the root for what `report` draws of the tree; whatever lies in it, nothing in it is a run's."""
OVERWRITTEN_FILE = "overwritten.json"
"""Beside a task's run folders: the runs of the task whose checkpoints no longer exist."""

_MOST_BYTES = 16 << 20  # far above any run.json; a larger one is not ours


_T = TypeVar("_T")


class NewerRecordError(ValueError):
    """A record of a schema version above `SCHEMA_VERSION`."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """Where a file came from, and its state there, by which an unchanged source is known without reading it."""

    root: str | None = field(default=None, metadata=json_text.OMIT_NONE)
    """The source root, absolute; None for the one that the run names."""
    path: str
    """Relative to `root`, with `/` between its parts."""
    size: int
    mtime_ns: int
    inode: int
    more: Mapping[str, Any] = field(default_factory=dict)
    """Here and below: what a newer ckptman wrote; it is kept."""

    def is_in_state(self, state: FileState) -> bool:
        """Whether the file is as it was, by all that can be told without reading it."""
        return (self.size, self.mtime_ns, self.inode) == (state.size, state.mtime_ns, state.inode)


@dataclass(frozen=True)
class PartEntry:
    """One file of a checkpoint that is a folder."""

    name: str
    """Relative to the folder, with `/` between its parts."""
    size: int
    sha256: str
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or self.name.startswith("/") or ".." in self.name.split("/"):
            raise ValueError(f"{self.name!r} is not the name of a file in a folder")


@dataclass(frozen=True)
class CheckpointEntry:
    """One checkpoint of a run."""

    file: str
    """The name of the file, or of the folder."""
    kind: str
    """The name's prefix: `Checkpoint` or `Final`."""
    step: int | None
    size: int
    sha256: str
    """Of a folder, that of the lines `<SHA-256>  <name>` of its files, by name."""
    source: SourceFile
    duplicates: tuple[SourceFile, ...] = ()
    """Other source files with the same bytes."""
    parts: tuple[PartEntry, ...] = field(default=(), metadata=json_text.OMIT_NONE)
    """The files of a checkpoint that is a folder, by name."""
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "/" in self.file or self.file in (".", ".."):
            raise ValueError(f"{self.file!r} is not a file name")


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """The run's learning curve, which lies beside `run.json` (`history.HISTORY_FILE`)."""

    size: int
    sha256: str
    steps: int
    """How many steps it has."""
    metrics: int
    """How many metrics it has."""
    sources: tuple[SourceFile, ...]
    """The files that it was read from."""
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BesideFile:
    """A file that lay beside the checkpoints, and what it gave."""

    path: str
    """Relative to the source root."""
    gave: tuple[str, ...] = ()
    """Of `config`, `step`, `metrics` and `history`, what was used."""
    keys: tuple[str, ...] = field(default=(), metadata=json_text.OMIT_NONE)
    """Configuration keys, such as the seed's, that were added to the configuration from elsewhere."""
    differs: tuple[str, ...] = field(default=(), metadata=json_text.OMIT_NONE)
    """What it says otherwise than a source that counts more, in words."""
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSource:
    """Where a run came from."""

    root: str
    """The folder that was ingested, absolute."""
    group: str | None = None
    """The group and the task id that the source folders said."""
    task: int | None = None
    wandb: tuple[str, ...] = ()
    """The run's W&B folders, relative to `root`."""
    beside: tuple[BesideFile, ...] = field(default=(), metadata=json_text.OMIT_NONE)
    """What lay beside its checkpoints."""
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AttributionNote:
    """How it is known which W&B run wrote the checkpoints."""

    code: str
    evidence: str
    candidates: tuple[str, ...] = ()
    """Run ids, where more than one could be meant."""
    assigned_by: str | None = field(default=None, metadata=json_text.OMIT_NONE)
    """The user and the machine that said it (`ckptman assign`), and when, in UTC."""
    assigned_at: str | None = field(default=None, metadata=json_text.OMIT_NONE)
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `run.json` holds, in the order in which it stands there."""

    schema_version: int = SCHEMA_VERSION
    run_id: str | None = None
    group: str
    family: Mapping[str, Any]
    """Its value of each facet that is a level of the tree."""
    task: int | None
    """None where neither a grid nor the source says one."""
    seed: int | None = None
    config_source: str
    """`checkpoint`, `beside`, `W&B files`, `.wandb log`, `name`, or `assigned` where a person added the seed."""
    config: Mapping[str, Any]
    opaque: tuple[str, ...] = field(default=(), metadata=json_text.OMIT_NONE)
    """Keys of the configuration of which W&B may have made what the file does not tell."""
    metrics: Mapping[str, Any]
    metrics_source: str | None = field(default=None, metadata=json_text.OMIT_NONE)
    evaluations: tuple[Mapping[str, Any], ...] = ()
    source: RunSource
    attribution: AttributionNote
    checkpoints: tuple[CheckpointEntry, ...]
    wandb: tuple[str, ...] = ()
    """W&B folders that are kept beside the checkpoints, relative to the run folder."""
    history: HistoryEntry | None = field(default=None, metadata=json_text.OMIT_NONE)
    """None where nothing was logged on the way, or an older ckptman ingested the run."""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def added_keys(self) -> frozenset[str]:
        """The keys of its configuration that files beside the checkpoints added."""
        return frozenset(key for file in self.source.beside for key in file.keys)

    @property
    def source_paths(self) -> Iterator[tuple[str, SourceFile, CheckpointEntry]]:
        """Every source file of the run: (absolute path, its state when it was placed, the checkpoint it is)."""
        for entry in self.checkpoints:
            for source in (entry.source, *entry.duplicates):
                yield os.path.join(source.root or self.source.root, source.path), source, entry  # noqa: PTH118


@dataclass(frozen=True)
class LostSource:
    """Where the records of an overwritten run are."""

    root: str
    wandb: tuple[str, ...] = ()
    """Its W&B folders, relative to `root`."""
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OverwrittenRun:
    """A W&B run without checkpoints: most often since another run wrote files of the same names over them."""

    run_id: str
    group: str
    task: int | None
    seed: int | None = None
    source_task: int | None = None
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    files: tuple[str, ...] = ()
    """Names of the files that it must have saved and that are not there."""
    overwritten_by: tuple[str, ...] = ()
    """Ids of the runs whose files have those names now, as far as they are known."""
    source: LostSource
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int | None, int | None]:
        """What tells it from others: `wandb agent` gives several runs one id."""
        return self.run_id, self.group, self.task, self.seed

    def task_folder(self, convention: Convention) -> PurePosixPath | None:
        """The folder whose list it belongs in; None where it has no place."""
        with suppress(RefusedError):
            return placement.place_of(self.config, convention, source_group=self.group, source_task=self.task).folder
        return None


@dataclass(frozen=True, kw_only=True)
class OverwrittenList:
    """What `overwritten.json` holds."""

    schema_version: int = SCHEMA_VERSION
    runs: tuple[OverwrittenRun, ...] = ()
    without_files: tuple[OverwrittenRun, ...] = field(default=(), metadata=json_text.OMIT_NONE)
    """Other W&B runs of which no file is known to be, whatever became of it: they are here for what they logged."""
    more: Mapping[str, Any] = field(default_factory=dict)

    def says_no_more(self, other: OverwrittenList) -> bool:
        """Whether the other one says of each run here the same, but for where the run's records are."""
        told = {run.key: replace(run, source=_NOWHERE) for run in (*other.runs, *other.without_files)}
        return all(told.get(run.key) == replace(run, source=_NOWHERE) for run in (*self.runs, *self.without_files))


_NOWHERE = LostSource("")


@dataclass(frozen=True, kw_only=True)
class RefusedFile:
    """A file that an ingest did not take, and of which run it seems to be."""

    root: str
    """The folder that was ingested, absolute."""
    path: str
    """Relative to `root`."""
    file: str
    """The checkpoint's name: that of the file, with a checkpoint's suffix."""
    code: str
    message: str
    fix: str
    run_id: str | None = None
    """W&B's id of the one run that can have written it."""
    group: str | None = None
    task: int | None = None
    seed: int | None = None
    config: Mapping[str, Any]
    """What is known of its configuration: by W&B, or by its name."""
    what: str | None = field(default=None, metadata=json_text.OMIT_NONE)
    """`folder` for one that could not be looked into, so that nobody knows what is in it; None for a file."""
    how: str | None = field(default=None, metadata=json_text.OMIT_NONE)
    """`deferred` where it may still have been being written, `passed over` for its name; None where it was refused."""
    size: int | None = field(default=None, metadata=json_text.OMIT_NONE)
    """Here and below: the file's state then, which any write to it changes; None where it is not known."""
    mtime_ns: int | None = field(default=None, metadata=json_text.OMIT_NONE)
    ctime_ns: int | None = field(default=None, metadata=json_text.OMIT_NONE)
    more: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """What became of it, in words: `ingest refused /…/Final_….pt: the file is empty`."""
        return f"ingest {self.how or 'refused'} {Path(self.root, self.path)}: {self.message}"

    @property
    def advice(self) -> str:
        """What to do about it."""
        return self.fix if "ingest" in self.fix else f"{self.fix} Then ingest the source again."

    def is_in_state(self, state: FileState) -> bool:
        """Whether the file is as it was, by all that can be told without reading it."""
        return (self.size, self.mtime_ns, self.ctime_ns) == (state.size, state.mtime_ns, state.ctime_ns)

    @property
    def is_gone(self) -> bool:
        """Whether the source is there, and the file no longer: then nothing stands for the run.

        An empty folder above the one that held it may be a place where nothing is mounted, and says nothing.
        """
        file = Path(self.root, self.path)
        if os.path.lexists(file):
            return False
        above = next((folder for folder in file.parents if os.path.isdir(folder)), None)  # noqa: PTH112
        if above is None or not above.is_relative_to(self.root):
            return False
        try:
            return above == file.parent or bool(os.listdir(above))  # noqa: PTH208
        except OSError:
            return False

    def may_be_of(self, run_id: str | None, group: str, task: int | None, seed: int | None) -> bool:
        """Whether the file may be of a run."""
        if None not in (self.run_id, run_id):
            return self.run_id == run_id
        return (self.group, self.task) == (group, task) and self.seed in (None, seed)


@dataclass(frozen=True, kw_only=True)
class RefusedList:
    """What `refused.json` holds."""

    schema_version: int = SCHEMA_VERSION
    files: tuple[RefusedFile, ...]
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingMetrics:
    """What training leaves in the run's own folder: the last value of each metric, whether W&B was logged to or not."""

    schema_version: int = SCHEMA_VERSION
    iters_done: int
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """A folder of the tree that holds a run, or should."""

    path: PurePosixPath
    """Relative to the root."""
    record: RunRecord | None
    """None where `run.json` is missing or cannot be read."""
    problem: str | None
    """Why there is no record, where `run.json` exists."""
    files: Mapping[str, int]
    """The regular files directly in the folder and their sizes in bytes."""
    is_newer: bool = False
    """Whether `run.json` cannot be used since a newer ckptman wrote it."""
    is_unread: bool = False
    """Whether `run.json` is there and could not be read, so that nothing is known of what it says."""
    is_as_written: bool | None = None
    """As `is_as_written` says of `run.json`, where that was asked for as it was read."""


@dataclass(frozen=True)
class Entry:
    """Anything found in the tree: its path relative to the root, and its type."""

    path: PurePosixPath
    kind: str
    """`file`, `folder`, `symlink` or `other`."""
    size: int = 0


@dataclass(frozen=True)
class TreeScan:
    """Everything in a tree, in path order."""

    root: Path
    convention: Convention
    """The rules that it was read by."""
    runs: tuple[RunFolder, ...]
    lists: Mapping[PurePosixPath, OverwrittenList]
    """By task folder, as they stand."""
    entries: tuple[Entry, ...]
    unreadable: tuple[tuple[PurePosixPath, str], ...] = field(default=())
    """Folders and files that could not be read, and why."""
    refused: tuple[RefusedFile, ...] = ()
    """What ingests did not take, and is still there as far as can be seen."""
    kept_wandb: frozenset[PurePosixPath] = frozenset()
    """The folders of the W&B folders that are kept with runs; they may hold anything, a run.json too."""
    passed: frozenset[str | None] = frozenset()
    """The ids of runs that the tree has besides: see `FoldersInTurn`."""

    def is_kept(self, path: PurePosixPath) -> bool:
        """Whether a path is the folder of a run's kept W&B folders, or lies in it."""
        kept = self.kept_wandb
        return bool(kept) and (path in kept or not kept.isdisjoint(path.parents))

    @cached_property
    def overwritten(self) -> Mapping[PurePosixPath, tuple[OverwrittenRun, ...]]:
        """By task folder; runs that are in the tree after all are left out, and one that several lists tell of is in
        the folder where it belongs."""
        present = {record.run_id for _, record in self.records} | self.passed
        return self._but({folder: listed.runs for folder, listed in self.lists.items()}, present)

    @cached_property
    def without_files(self) -> Mapping[PurePosixPath, tuple[OverwrittenRun, ...]]:
        """By task folder: W&B runs that left no file, or none that is known to be theirs."""
        present = {record.run_id for _, record in self.records} | self.passed
        present |= {run.run_id for lost in self.overwritten.values() for run in lost}
        return self._but({folder: listed.without_files for folder, listed in self.lists.items()}, present)

    def _but(
        self, runs: Mapping[PurePosixPath, tuple[OverwrittenRun, ...]], present: Collection[str | None]
    ) -> dict[PurePosixPath, tuple[OverwrittenRun, ...]]:
        """Each once, and without those that are somewhere else."""
        told: dict[tuple[object, ...], list[PurePosixPath]] = defaultdict(list)
        for folder, listed in runs.items():
            for run in listed:
                told[run.key].append(folder)

        def is_told_here(run: OverwrittenRun, folder: PurePosixPath) -> bool:
            if len(folders := told[run.key]) == 1:
                return True
            home = run.task_folder(self.convention)
            return folder == (home if home in folders else folders[0])

        left = {
            folder: tuple(run for run in listed if run.run_id not in present and is_told_here(run, folder))
            for folder, listed in runs.items()
        }
        return {folder: listed for folder, listed in left.items() if listed}

    @property
    def records(self) -> Iterator[tuple[PurePosixPath, RunRecord]]:
        """The finished runs: (run folder, record)."""
        return ((run.path, run.record) for run in self.runs if run.record is not None)


@dataclass(frozen=True)
class ScannedFolder:
    """What one folder of a tree holds."""

    path: PurePosixPath
    entries: tuple[Entry, ...]
    """By name."""
    run: RunFolder | None
    overwritten: OverwrittenList
    refused: tuple[RefusedFile, ...]
    unreadable: tuple[tuple[PurePosixPath, str], ...]
    kept_wandb: PurePosixPath | None
    is_kept: bool
    """Whether it is, or lies in, a folder of kept W&B folders."""


def scan_tree(root: str | Path, convention: Convention, *, missing_ok: bool = False) -> TreeScan:
    """Read a tree: every entry, every `run.json`, no checkpoint.

    A folder with a checkpoint's suffix is one that is a checkpoint: it counts as a file, of the size of all in it.
    Symbolic links are listed, never followed, except that a checkpoint placed as a link counts with its target's size.

    Raises:
        UsageError: (`no-tree`) where there is no folder `root`.
    """
    root = given_path(root, "the path of the tree")
    return scan_of(root, scan_folders(root, convention, missing_ok=missing_ok), convention)


def scan_of(root: Path, folders: Iterable[ScannedFolder], convention: Convention) -> TreeScan:
    """These folders of a tree, together."""
    if type(folders) is list and len(folders) == 1:  # as below, in less time
        folder = folders[0]
        return TreeScan(
            root=root,
            convention=convention,
            runs=() if folder.run is None else (folder.run,),
            lists={} if folder.overwritten == _NO_RUNS else {folder.path: folder.overwritten},
            entries=folder.entries,
            unreadable=tuple(sorted(folder.unreadable)),
            refused=tuple(file for file in folder.refused if not file.is_gone),
            kept_wandb=frozenset(() if folder.kept_wandb is None else (folder.kept_wandb,)),
        )
    entries: list[Entry] = []
    unreadable: list[tuple[PurePosixPath, str]] = []
    runs: list[RunFolder] = []
    lists: list[tuple[PurePosixPath, OverwrittenList]] = []
    refused: tuple[RefusedFile, ...] = ()
    kept_wandb: list[PurePosixPath] = []
    for folder in folders:
        entries += folder.entries
        unreadable += folder.unreadable
        runs += [folder.run] if folder.run is not None else ()
        lists += [(folder.path, folder.overwritten)] if folder.overwritten != _NO_RUNS else ()
        refused += folder.refused
        kept_wandb += [folder.kept_wandb] if folder.kept_wandb is not None else ()
    return TreeScan(
        root=root,
        convention=convention,
        runs=tuple(sorted(runs, key=lambda run: run.path)),
        lists=dict(sorted(lists, key=lambda item: item[0])),
        entries=tuple(sorted(entries, key=lambda entry: entry.path)),
        unreadable=tuple(sorted(unreadable)),
        refused=tuple(file for file in refused if not file.is_gone),
        kept_wandb=frozenset(kept_wandb),
    )


_NO_RUNS = OverwrittenList()


@dataclass
class FoldersInTurn:
    """The folders of a tree in path order, none of which is held; and what else a scan of the tree has."""

    root: Path
    convention: Convention
    natural: bool = False
    missing_ok: bool = False
    _rest: list[ScannedFolder] = field(default_factory=list)
    _run_ids: set[str | None] = field(default_factory=set)

    def __iter__(self) -> Iterator[ScannedFolder]:
        """Read them.

        Raises:
            UsageError: as `scan_tree`.
        """
        self._rest, self._run_ids = [], set()
        for folder in scan_folders(self.root, self.convention, missing_ok=self.missing_ok, natural=self.natural):
            if folder.run is not None and folder.run.record is not None:
                self._run_ids.add(folder.run.record.run_id)
            if folder.overwritten != _NO_RUNS or folder.refused or folder.unreadable or folder.kept_wandb is not None:
                self._rest.append(replace(folder, entries=(), run=None))
            yield folder

    def rest(self) -> TreeScan:
        """The scan of the folders that were read, without their entries and runs."""
        return replace(scan_of(self.root, self._rest, self.convention), passed=frozenset(self._run_ids))


def scan_folders(
    root: Path, convention: Convention, *, missing_ok: bool = False, natural: bool = True
) -> Iterator[ScannedFolder]:
    """As `scan_tree`, one folder after the other, none of which is held.

    They come in path order; if `natural`, numbers in their names by size.

    Raises:
        UsageError: as `scan_tree`.
    """

    def nothing(_: PurePosixPath) -> ScannedFolder | None:
        return None

    return _in_turn(root, convention, nothing, missing_ok=missing_ok, natural=natural)


def share_folders(
    root: Path,
    convention: Convention,
    work: Callable[[ScannedFolder], _T | None],
    *,
    natural: bool,
    verify: bool = False,
) -> Iterator[ScannedFolder | _T]:
    """As `scan_folders`; of a run's folder, where there are many, what the work makes of it, unless that is None.

    Several processes do the work (`fs.files.in_processes`). A folder of which it makes something has none in it. If
    `verify`, it is asked of each `run.json` whether it is as it was written.

    Raises:
        UsageError: as `scan_tree`.
    """
    places = _run_places(root, convention, natural=natural)
    if len(places) < _MANY:
        yield from _in_turn(root, convention, lambda _: None, natural=natural, verify=verify)
        return

    def of_some(some: Sequence[str]) -> list[_T | None]:
        return [work(scan_folder(root, PurePosixPath(path), convention, verify=verify)) for path in some]

    shares: list[list[str]] = []
    size = min(_SHARE, len(places) // _MANY)  # so few that all processes end at about one time
    for _, together in groupby(places, lambda path: path.rpartition("/")[0]):  # seeds are known by each other
        if not shares or len(shares[-1]) >= size:
            shares.append([])
        shares[-1] += together
    found = chain.from_iterable(fs_files.in_processes(of_some, shares))
    known = zip(places, found, strict=True)
    coming: tuple[str, _T | None] | None = None

    def made_of(path: PurePosixPath) -> _T | None:
        nonlocal coming
        if len(path.parts) < convention.folders.depth:
            return None
        coming = coming or next(known, None)
        if coming is None or coming[0] != str(path):
            return None  # it is read as any other, whatever became of the tree meanwhile
        made, coming = coming[1], None
        return made

    yield from _in_turn(root, convention, made_of, natural=natural, verify=verify)


_MANY = 128
"""Runs below which no process is worth its start."""
_SHARE = 24
"""Runs that a process reads before it tells, and the rest of the last one's task folder."""


def _run_places(root: Path, convention: Convention, *, natural: bool) -> list[str]:
    """The folders as deep in a tree as a run's, in the order of `scan_folders`."""
    level = [""]
    for _ in range(convention.folders.depth):
        below = []
        for at in level:
            with suppress(OSError), os.scandir(root / at) as listing:
                names = [item.name for item in listing if item.is_dir(follow_symlinks=False)]
                names = names if at else [name for name in names if name not in (TRASH, MIGRATIONS)]
                below += [f"{at}/{name}" if at else name for name in _in_order(names, natural=natural)]
        level = below
    return level


def _in_order(names: Iterable[str], *, natural: bool) -> list[str]:
    """The folders in one that are gone into, in their order."""
    kept = (name for name in names if not fs_folders.is_partial(name))
    return sorted(kept, key=(lambda name: wording.natural_key(f"{name}/")) if natural else None)


def _in_turn(
    root: Path,
    convention: Convention,
    instead: Callable[[PurePosixPath], _T | None],
    *,
    missing_ok: bool = False,
    natural: bool,
    verify: bool = False,
) -> Iterator[ScannedFolder | _T]:
    """As `scan_folders`; a folder that there is something `instead` of is not read."""
    if not root.is_dir():
        if missing_ok and not root.exists():
            return
        what = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(
            f"there is no tree at {root}: it {what}",
            code="no-tree",
            fix="Name the tree with --root, or make one with: ckptman ingest SRC --root DIR",
        )
    pending = [(PurePosixPath(), False)]
    while pending:
        path, is_kept = pending.pop()
        if (known := None if is_kept else instead(path)) is not None:
            yield known
            continue
        found = scan_folder(root, path, convention, is_kept=is_kept, verify=verify)
        below = {entry.path.name: entry.path for entry in found.entries if entry.kind == "folder"}
        folders = [below[name] for name in _in_order(below, natural=natural)]
        pending += [(folder, is_kept or folder == found.kept_wandb) for folder in reversed(folders)]
        yield found


def scan_folder(
    root: Path, folder: PurePosixPath, convention: Convention, *, is_kept: bool = False, verify: bool = False
) -> ScannedFolder:
    """As `scan_tree`, of one folder alone; as for `share_folders`, if `verify`."""
    at = root / folder
    entries: list[Entry] = []
    unreadable: list[tuple[PurePosixPath, str]] = []
    files: dict[str, int] = {}
    kept_wandb = record = failure = as_written = None
    overwritten = _NO_RUNS
    refused: tuple[RefusedFile, ...] = ()
    suffix, is_root = convention.checkpoint.suffix, not folder.parts
    try:
        with os.scandir(at) as listing:
            found = sorted(listing, key=lambda item: item.name)
    except OSError as error:
        return ScannedFolder(folder, (), None, _NO_RUNS, (), ((folder, error.strerror or str(error)),), None, is_kept)
    beside = folder / RUN_FILE  # a path beside another one is made in a third of the time
    for item in found:
        if is_root and item.name in (TRASH, MIGRATIONS):
            continue
        path = beside.with_name(item.name)
        named = item.name.endswith(suffix)
        try:
            kind, size = _kind_of(item)
            if kind == "folder" and named and not is_kept and (whole := _size_of_folder(root / path)) is not None:
                kind, size = "file", whole  # a checkpoint that is a folder is one thing
        except OSError as error:  # in a folder that may be listed, but not entered
            unreadable.append((path, error.strerror or str(error)))
            continue
        entries.append(Entry(path, kind, size))
        if kind == "file" or (kind == "symlink" and named):
            files[item.name] = size
    is_run = not is_kept and (RUN_FILE in files or _is_run_place(folder, convention))
    if is_run:
        below = [entry.path for entry in entries if entry.kind == "folder"]
        own_wandb = folder / convention.folders.saved_wandb if below else None
        kept_wandb = next((path for path in below if path == own_wandb), None)
        if RUN_FILE in files:
            try:
                data = _read_data(at / RUN_FILE)
                as_written = _is_as_written(data) if verify else None
                record = _record_of(RunRecord, data)
            except (OSError, ValueError) as error:
                failure = error
    if OVERWRITTEN_FILE in files and not is_kept:
        try:
            overwritten = read_overwritten(at)
        except RefusedError as error:
            unreadable.append((folder / OVERWRITTEN_FILE, error.message))
    if REFUSED_FILE in files and not folder.parts:
        try:
            refused = read_refused(root)
        except RefusedError as error:
            unreadable.append((PurePosixPath(REFUSED_FILE), error.message))
    run = RunFolder(
        path=folder,
        record=record,
        problem=None if failure is None else _reason(failure),
        files=files,
        is_newer=isinstance(failure, NewerRecordError),
        is_unread=isinstance(failure, OSError),
        is_as_written=as_written,
    )
    return ScannedFolder(
        folder, tuple(entries), run if is_run else None, overwritten, refused, tuple(unreadable), kept_wandb, is_kept
    )


def write_record(folder: Path, record: RunRecord, *, root: Path | None = None) -> bool:
    """Write the `run.json` of a run of the tree `root` atomically; False where it already says exactly this.

    Raises:
        RefusedError: (`unfinished-migration`) an interrupted migration has the new record of the run already.
    """
    if root is not None:
        require_no_migration(root)
    return _write(folder / RUN_FILE, record, root, is_signed=True)


def write_records(records: Sequence[tuple[Path, RunRecord]], *, root: Path) -> list[str | RefusedError]:
    """Write the `run.json` of many run folders of a tree, each atomically, and wait for the disk once for many.

    Returns:
        For each the SHA-256 of its file, or why it alone could not be written.
    """
    outcomes: list[str | RefusedError] = []
    files = []
    for folder, record in records:
        try:
            files.append((folder / RUN_FILE, _signed_bytes(folder / RUN_FILE, record)))
        except RefusedError as error:
            outcomes.append(error)
        else:
            outcomes.append(hashlib.sha256(files[-1][1]).hexdigest())
    written = iter(placing.write_together(files, replace=True, root=root))
    return [
        problem
        if not isinstance(outcome, RefusedError) and isinstance(problem := next(written), RefusedError)
        else outcome
        for outcome in outcomes
    ]


def write_overwritten(folder: Path, listed: OverwrittenList, *, root: Path | None = None) -> bool:
    """Write a task folder's list of runs without checkpoints atomically; False where it already says exactly this.

    Where there are no such runs, there is no list.
    """
    try:
        more = _read(folder / OVERWRITTEN_FILE, OverwrittenList).more
    except (OSError, ValueError):
        more = {}
    if not (listed.runs or listed.without_files or more):
        _signed_bytes(folder / OVERWRITTEN_FILE, listed)  # one that somebody changed is not removed
        if is_there := (folder / OVERWRITTEN_FILE).exists():
            fs_files.remove(folder / OVERWRITTEN_FILE)
        return is_there
    return _write(folder / OVERWRITTEN_FILE, replace(listed, more=more), root, is_signed=True)


def signed(record: RunRecord | OverwrittenList | RefusedList | TrainingMetrics) -> bytes:
    """A record as its file holds it, with its digest."""
    return _signed(json_text.dump_json(json_text.document_of(record)))


def is_as_written(file: Path) -> bool:
    """Whether a record has the digest of its other lines, or, where an older ckptman wrote it, none.

    Raises:
        OSError: it cannot be read.
    """
    return _is_as_written(fs_files.read_bytes(file, _MOST_BYTES))


def require_as_written(file: Path) -> None:
    """See to it that a record may be written anew, if it is there and can be read.

    Raises:
        RefusedError: (`record-changed`) it was changed, which a new digest would hide.
    """
    with suppress(OSError):
        if not is_as_written(file):
            raise RefusedError(f"{file} {CHANGED}", code="record-changed", fix=CHANGED_FIX)


def _is_as_written(data: bytes) -> bool:
    if (is_signed := _is_signed(data)) is not None:
        return is_signed
    rest, count = _DIGEST_LINE.subn(b"", data)
    if count:
        return data == _signed(rest)
    if _DIGEST_OTHERWISE.search(data) is not None:  # its name has lost a bit
        return False
    try:
        document = json_text.load_json(data)
    except (RecursionError, ValueError):
        return True  # that it cannot be used is another matter
    return not isinstance(document, dict) or _DIGEST not in document  # somebody laid it out anew


def is_signed(file: Path) -> bool:
    """Whether a record is there with the digest of its other lines."""
    try:
        return _is_signed(fs_files.read_bytes(file, _MOST_BYTES)) is True
    except OSError:
        return False


def _is_signed(data: bytes) -> bool | None:
    """Whether a record has the digest of its other lines; None where it has none in its place."""
    if data.count(_DIGEST_BEGIN) == 1 and (found := _DIGEST_LINE.search(data)) is not None:
        return data == _signed(data[: found.start()] + data[found.end() :])
    return None


def read_record(folder: Path, name: str = RUN_FILE) -> RunRecord:
    """Read a run folder's `run.json`, or one that is kept under another name.

    Raises:
        RefusedError: (`bad-record`) if it is missing, unreadable or not a run record.
    """
    record, error = _read_record(folder / name)
    if record is None:
        reason = "is missing" if error is None else _reason(error)
        raise bad_record(folder / name, reason, is_newer=isinstance(error, NewerRecordError)) from error
    return record


def read_signed(folder: Path) -> tuple[RunRecord, bool]:
    """Read a run folder's `run.json`, and tell whether it has its digest, as `is_signed`.

    Raises:
        RefusedError: (`bad-record`) as `read_record`.
    """
    file = folder / RUN_FILE
    try:
        data = fs_files.read_bytes(file, _MOST_BYTES)
        return _record_of(RunRecord, data), _is_signed(data) is True
    except (OSError, ValueError) as error:
        raise bad_record(file, _reason(error), is_newer=isinstance(error, NewerRecordError)) from error


def read_overwritten(folder: Path) -> OverwrittenList:
    """Read a task folder's list of runs without checkpoints.

    Raises:
        RefusedError: (`bad-record`) if it is unreadable or not such a list.
    """
    file = folder / OVERWRITTEN_FILE
    try:
        return _read(file, OverwrittenList)
    except (OSError, ValueError) as error:
        raise bad_record(file, _reason(error), is_newer=isinstance(error, NewerRecordError)) from error


def write_refused(root: Path, files: tuple[RefusedFile, ...]) -> None:
    """Write a tree's list of refused files atomically; where there are none, there is no list."""
    path = root / REFUSED_FILE
    if files:
        _write(path, RefusedList(files=files), root, is_signed=True)
    elif path.exists():
        require_as_written(path)
        fs_files.remove(path)


def read_refused(root: Path) -> tuple[RefusedFile, ...]:
    """Read a tree's list of refused files; none where there is no list.

    Raises:
        RefusedError: (`bad-record`) if it is unreadable or not such a list.
    """
    file = root / REFUSED_FILE
    try:
        return _read(file, RefusedList).files
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise bad_record(file, _reason(error), is_newer=isinstance(error, NewerRecordError)) from error


def write_training_metrics(file: Path, found: TrainingMetrics) -> bool:
    """Write a run's metrics atomically; False where the file says exactly this already."""
    return _write(file, found)


def read_training_metrics(file: Path) -> TrainingMetrics | None:
    """The metrics that training left; None where there are none that can be used."""
    try:
        return _read(file, TrainingMetrics)
    except (OSError, ValueError):
        return None


def bad_record(file: Path | PurePosixPath, problem: str, *, is_newer: bool) -> RefusedError:
    """The error to raise for a `run.json` or `overwritten.json` that is there and cannot be used."""
    return RefusedError(
        f"{file} cannot be used: {problem}",
        code="bad-record",
        fix="Update ckptman."
        if is_newer
        else "Repair it; or move it away and ingest the source again: what is missing is written anew.",
    )


def migrations(root: Path) -> list[PurePosixPath]:
    """The folders of the tree's migrations, relative to the root, in their order.

    Raises:
        RefusedError: (`unreadable`) if they cannot be listed.
    """
    home = root / MIGRATIONS
    try:
        names = sorted(os.listdir(home))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        message = f"{home} cannot be read: {(error.strerror or str(error)).lower()}"
        fix = "See to it that you may read it, and that its disk is well."
        raise RefusedError(message, code="unreadable", fix=fix) from error
    # One without a journal was interrupted before anything was done.
    known = (name for name in names if name.isdecimal() and _may_be_there(home / name / JOURNAL))
    return [PurePosixPath(MIGRATIONS, name) for name in known]


def _may_be_there(path: Path) -> bool:
    """Whether something is there, or it cannot be told: what cannot be read is not absent."""
    try:
        os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def is_migrating(root: Path) -> bool:
    """Whether a migration of the tree was interrupted, so that its runs lie in places of two conventions."""
    try:
        for folder in migrations(root):
            document = json_text.load_json(fs_files.read_bytes(root / folder / JOURNAL))
            if not isinstance(document, dict) or document.get("state") != MIGRATION_DONE:
                return True
    except (OSError, ValueError, RecursionError, RefusedError):
        return True  # what cannot be read does not say that it is done
    return False


def require_no_migration(root: Path) -> None:
    """See to it that no migration was interrupted, of a tree or of one that a folder lies in.

    Raises:
        RefusedError: (`unfinished-migration`) if one was.
    """
    # In a tree of two conventions, where the root is cannot be told by the folders' names.
    if (at := next((above for above in (root, *root.parents) if is_migrating(above)), None)) is not None:
        raise RefusedError(
            f"a migration of {at} was interrupted: its runs lie in places of two conventions",
            code="unfinished-migration",
            fix=f"Let it go on, or with --undo take it back: ckptman migrate {wording.shell_word(at)}",
        )


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One checkpoint as the commands list it: what it is, its place in the tree and where it came from."""

    source: str
    """Relative to the source root."""
    path: str
    """Relative to the tree's root."""
    sha256: str
    size: int
    """Bytes."""
    run_id: str | None
    group: str
    family: Mapping[str, Any]
    """The run's value of each facet that is a level of the tree."""
    task: int | None
    source_task: int | None
    seed: int | None
    step: int | None
    kind: str

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return self.fields

    @property
    def fields(self) -> dict[str, Any]:
        """Its values by name, each facet of the family as one."""
        found: dict[str, Any] = {}
        for name in _ROW_FIELDS:
            value = getattr(self, name)
            if name == "family":
                found.update(value)
            else:
                found[name] = value
        return found


_ROW_FIELDS = tuple(each.name for each in fields(CheckpointRow))


def row_of(folder: PurePosixPath, record: RunRecord, entry: CheckpointEntry) -> CheckpointRow:
    """The row of one checkpoint of the run in `folder` (relative to the root)."""
    return CheckpointRow(
        source=entry.source.path,
        path=str(folder / entry.file),
        sha256=entry.sha256,
        size=entry.size,
        run_id=record.run_id,
        group=record.group,
        family=record.family,
        task=record.task,
        source_task=record.source.task,
        seed=record.seed,
        step=entry.step,
        kind=entry.kind,
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def _write(
    file: Path,
    record: RunRecord | OverwrittenList | RefusedList | TrainingMetrics,
    root: Path | None = None,
    *,
    is_signed: bool = False,
) -> bool:
    data = _signed_bytes(file, record) if is_signed else json_text.dump_json(json_text.document_of(record))
    return write_atomically(file, data, replace=True, root=root)


def _signed_bytes(file: Path, record: RunRecord | OverwrittenList | RefusedList | TrainingMetrics) -> bytes:
    """What to write to the file of a record; RefusedError as `require_as_written`."""
    require_as_written(file)
    return signed(record)


CHANGED = "was changed since ckptman wrote it: it has not the SHA-256 that stands in it"
CHANGED_FIX = (
    "Bring it back from a backup; or move it out of the tree, and ingest the run's source again, which writes it anew "
    'without what eval recorded in it. If it was edited on purpose, take its line with "digest" out.'
)


_DIGEST = "digest"
"""The key of a record's digest, which stands on the line after `schema_version`."""
_DIGEST_BEGIN = b'\n "digest": "'
_DIGEST_LINE = re.compile(rb'^ "digest": "[^"\n]*",\n', re.MULTILINE)
_DIGEST_OTHERWISE = re.compile(rb'^ "[^"\n]*": "[0-9a-f]{64}",?$', re.MULTILINE)


def _signed(data: bytes) -> bytes:
    """A record with the SHA-256 of its lines on a line of its own."""
    opening, version, *rest = data.split(b"\n", 2)
    line = f' "{_DIGEST}": "{hashlib.sha256(data).hexdigest()}",'.encode()
    return b"\n".join((opening, version, line, *rest))


def _read(file: Path, kind: type[_T]) -> _T:
    return _record_of(kind, _read_data(file))


def _read_data(file: Path) -> bytes:
    try:
        return fs_files.read_bytes(file, _MOST_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ValueError("it is too large to be a record") from None
        raise


def _record_of(kind: type[_T], data: bytes) -> _T:
    document = _load_json(data)
    _check_version(document.get("schema_version") if isinstance(document, dict) else None)
    document.pop(_DIGEST, None)
    return json_text.record_of(kind, document)


def _read_record(file: Path) -> tuple[RunRecord | None, OSError | ValueError | None]:
    try:
        return _read(file, RunRecord), None
    except (OSError, ValueError) as error:
        return None, error


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _check_version(version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError("it has no schema_version")
    if version > SCHEMA_VERSION:
        raise NewerRecordError(
            f"it was written by a newer ckptman (schema_version {version}; this one reads {SCHEMA_VERSION})"
        )
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema_version {version} is not one this ckptman reads (it reads {SCHEMA_VERSION})")


def _load_json(data: bytes) -> Any:
    try:
        return json_text.load_json(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it is no JSON") from None


def _size_of_folder(path: Path) -> int | None:
    """Bytes of a folder that is a checkpoint; None for another one."""
    from ckptman.formats import containers, folder_bytes

    return folder_bytes.size_of(path) if containers.is_checkpoint_folder(path) else None


def _kind_of(item: os.DirEntry[str]) -> tuple[str, int]:
    if item.is_symlink():
        try:
            return "symlink", item.stat().st_size
        except OSError:
            return "symlink", 0  # leads nowhere
    state = item.stat(follow_symlinks=False)
    if stat.S_ISDIR(state.st_mode):
        return "folder", 0
    return ("file", state.st_size) if stat.S_ISREG(state.st_mode) else ("other", 0)


def _is_run_place(folder: PurePosixPath, convention: Convention) -> bool:
    """Whether a folder stands where a run's does: below a task folder, with a run's name."""
    levels = convention.folders.parse(folder)
    return levels is not None and levels.run is not None
