"""What is in a tree: its checkpoint files, put together into runs. The only reader of a tree.

A folder with a `run.json` holds the run that it records. Checkpoints in any other folder, such as those of a tree that
was sorted by hand, are runs by the configuration inside them: one for each configuration in a folder.
"""

from __future__ import annotations

import marshal
import os
import re
import stat
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from ckptman.fs import files as fs_files
from ckptman.rules import Convention, Place, comparing, grids, naming, placement, terms
from ckptman.text import RefusedError
from ckptman.tree.metrics import Measured, measured
from ckptman.tree.records import (
    OVERWRITTEN_FILE,
    RUN_FILE,
    CheckpointEntry,
    Entry,
    RunFolder,
    RunRecord,
    ScannedFolder,
    TreeScan,
    is_signed,
    scan_of,
    scan_tree,
)
from ckptman.tree.standing import Standing, compare

if TYPE_CHECKING:  # imported where it is used: a tree is often known by its records alone
    from ckptman.formats import CheckpointInfo

_T = TypeVar("_T")

FROM_CHECKPOINT = "checkpoint"
FROM_NAME = "name"
"""`RunRecord.config_source` where the configuration is the one inside the file, and where the name decided."""

Progress = Callable[[str, int, int], None]
"""Called with a stage, the amount done and the amount in all: files while `reading`, bytes while `hashing`."""

CellKey = tuple[str, tuple[terms.Scalar, ...]]
"""A cell of a grid: the group, and the value on each axis of its regime."""

_AT_ONCE = 256
"""Files that are handed to threads at a time."""
_VERSION_CONTROL = ".git"
_SYSTEM_NAMES = re.compile(
    r"\.DS_Store|\._.*|\.AppleDouble|\.Spotlight-V100|\.Trashes|\.fseventsd|\.TemporaryItems|__MACOSX|\.localized"
    r"|Thumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information"
    r"|\.nfs[0-9A-Fa-f]{8,}|\.fuse_hidden.*|\.directory|\.Trash-.*|\.~lock\..*|lost\+found|@eaDir|\.snapshot"
    r"|__pycache__|\.ipynb_checkpoints",
    re.DOTALL,
)


class Depth(IntEnum):
    """How much is read of the checkpoints."""

    NAMES = 0
    """Nothing: what no run.json tells of is known by its name alone."""
    UNRECORDED = 1
    """The headers of those that no run.json lists."""
    HEADERS = 2
    BYTES = 3
    """Every byte: their SHA-256, and the checksums of their archives."""


class Origin(Enum):
    """How a run came to be one."""

    RECORDED = "recorded"
    """By the run.json of its folder."""
    LOOSE = "loose"
    """By the configuration in files that no run.json lists, in a folder without one."""
    EXTRA = "extra"
    """As loose, but in the folder of another run."""


@dataclass(frozen=True)
class CheckpointFile:
    """One file with a checkpoint's suffix."""

    path: PurePosixPath
    """Relative to the root."""
    size: int
    """Bytes; of the target, where it is a link."""
    entry: CheckpointEntry | None
    """What the folder's run.json says of it."""
    info: CheckpointInfo | None = None
    """What its header says; None where that was not read, or cannot be."""
    refusal: RefusedError | None = None
    """Why it cannot be."""
    name: naming.CheckpointName | None = None
    """What its name says; None where it follows no convention, or was not asked for, since run.json tells."""
    name_problem: str = ""
    """Why the name could not be parsed."""
    sha256: str | None = None
    """Of its bytes as they are now; None if they were not read."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of each file of a folder, as they are now, where they were read."""
    damage: RefusedError | None = None
    """Why its bytes are not sound, as far as they were read."""

    @cached_property
    def folder(self) -> PurePosixPath:
        """That it lies in."""
        return self.path.parent

    @property
    def is_of_listed_size(self) -> bool:
        """Whether it can be the file that run.json lists; True for one that is not listed."""
        return self.entry is None or self.size == self.entry.size

    @property
    def is_listed(self) -> bool:
        """Whether it is, by its name and size, one that run.json lists."""
        return self.entry is not None and self.size == self.entry.size

    @property
    def kind(self) -> str | None:
        """The prefix of its name, as run.json or the name says."""
        if self.entry is not None:
            return self.entry.kind
        return None if self.name is None else self.name.kind

    @property
    def step(self) -> int | None:
        """Iterations done: as the file says, else as its name or run.json says."""
        if self.info is not None and self.info.iters_done is not None:
            return self.info.iters_done
        if self.name is not None and self.name.step is not None:
            return self.name.step
        return None if self.entry is None else self.entry.step


@dataclass(frozen=True)
class Run:
    """Checkpoints of one configuration in one folder."""

    folder: PurePosixPath
    origin: Origin
    record: RunRecord | None
    config: Mapping[str, Any]
    """The configuration in force: the one inside the files, unless run.json says that another one decided."""
    files: tuple[CheckpointFile, ...]
    """Those that are there; none for a recorded run all of whose files are gone."""
    convention: Convention
    """The rules it is seen by."""

    @cached_property
    def _known(self) -> dict[object, Any]:
        return _known_of(self.config, self.convention)

    def once(self, what: object, find: Callable[[], _T]) -> _T:
        """What `find` gives, which hangs on the configuration and on `what` alone: worked out once for all runs that
        differ in their seeds, as far as the convention keeps these apart."""
        found: _T
        if what in self._known:
            found = self._known[what]
        else:
            found = self._known[what] = find()
        return found

    @property
    def run_id(self) -> str | None:
        """The W&B run, if it is known."""
        return self.record.run_id if self.record is not None else None

    @cached_property
    def family(self) -> terms.Family | None:
        """Its value of each facet; None where neither run.json nor the configuration tells."""
        levels = self.convention.family_facets
        if self.record is not None and all(facet.name in self.record.family for facet in levels):
            said = tuple(self.record.family[facet.name] for facet in levels)
            if all(facet.knows(value) for facet, value in zip(levels, said, strict=True)):
                return said
        try:
            return placement.family_of(self.config, self.convention)
        except RefusedError:
            return None

    @cached_property
    def group(self) -> str:
        """As run.json says, else the folder of a group that it lies in, else the configuration; empty if none does."""
        if self.record is not None:
            return self.record.group
        layout = self.convention.folders
        levels = layout.parse(PurePosixPath(*self.folder.parts[: layout.depth - 1]))
        if levels is not None and levels.group is not None and (levels.task is not None or not layout.has_tasks):
            return levels.group
        said = self.config.get(self.convention.group_key)
        try:
            return placement.group_of(self.config, said if isinstance(said, str) else None, self.convention)[0]
        except RefusedError:
            return ""

    @property
    def seed(self) -> int | None:
        """As run.json says, else the configuration."""
        seed = self.record.seed if self.record is not None else self.config.get(self.convention.seed_key)
        return placement.seed_of(seed)

    @cached_property
    def cell(self) -> CellKey | None:
        """Its cell of a grid; None in a group of no known pattern, or off its grid's axes."""
        group = self.group
        return self.once(("cell", group), lambda: cell_of(group, self.config, self.convention))

    @property
    def is_in_place_of_another(self) -> bool:
        """Whether it is nothing but files of another configuration than that of the run.json that lists them: by their
        places, they are that run's, and only who reads them knows better."""
        return self.origin is Origin.EXTRA and all(file.entry is not None for file in self.files)

    @property
    def fills(self) -> bool:
        """Whether its configuration and seed are there; what lies in the folder of another run is missed at its own."""
        return self.origin is not Origin.EXTRA or self.is_in_place

    @cached_property
    def measured(self) -> Measured | None:
        """Its generalization, where run.json tells and a file of it is here: of no other are figures shown."""
        is_here = any(file.is_listed for file in self.files)
        return measured(self.record, self.convention) if self.record is not None and is_here else None

    @cached_property
    def standing(self) -> Standing:
        """Which of its checkpoints are here."""
        spoilt = tuple(file.kind for file in self.files if not file.is_of_listed_size)
        return self.compared(((file.kind, file.step) for file in self.files if file.is_of_listed_size), spoilt)

    def compared(
        self, checkpoints: Iterable[tuple[str | None, int | None]], spoilt: tuple[str | None, ...] = ()
    ) -> Standing:
        """As `standing.compare`, of these checkpoints."""
        found = tuple(checkpoints)
        return self.once(("standing", found, spoilt), lambda: compare(self.config, found, self.convention, spoilt))

    @property
    def place(self) -> Place | None:
        """Where it belongs."""
        return self._placed[0]

    @property
    def place_problem(self) -> RefusedError | None:
        """Why it belongs nowhere."""
        return self._placed[1]

    @cached_property
    def _placed(self) -> tuple[Place | None, RefusedError | None]:
        """By its configuration; in a group of no known pattern, by the source's task."""
        group: str | None = None
        task: int | None = None
        if self.record is not None:
            group, task = self.record.source.group, self.record.source.task
        else:
            group, task, _ = placement.named_by_folders(self.folder / "file", self.convention)
        said = self.config.get(self.convention.group_key)
        if isinstance(said, str) and said:
            group = said

        def find() -> tuple[Place | None, RefusedError | None]:
            try:
                return placement.place_of(self.config, self.convention, source_group=group, source_task=task), None
            except RefusedError as error:
                return None, error

        place, problem = self.once(("place", group, task), find)
        seed = placement.seed_of(self.config.get(self.convention.seed_key))
        return None if place is None else place.with_seed(seed), problem

    @property
    def is_in_place(self) -> bool:
        """Whether it lies in the task folder that its configuration gives; where it belongs nowhere, it does not.

        Files that no run.json tells of may also lie in that folder itself, or anywhere below it.
        """
        if self.place is None:
            return False
        if self.origin is Origin.LOOSE:
            return self.place.folder == self.folder or self.place.folder in self.folder.parents
        return self.place.folder == self.folder.parent


_KNOWN: OrderedDict[tuple[Convention, bytes], dict[object, Any]] = OrderedDict()
_MOST_KNOWN = 32
"""Configurations: runs of one come one after the other."""


def _known_of(config: Mapping[str, Any], convention: Convention) -> dict[object, Any]:
    """What is known of all runs of a configuration, whatever their seeds; something of its own for one that has no
    plain seed, or values that are not plain."""
    seed = config.get(convention.seed_key)
    if type(seed) is not int or not convention.has_seed_apart:
        return {}
    try:
        text = marshal.dumps({**config, convention.seed_key: bool(seed)}, 2)
    except ValueError:
        return {}
    known = _KNOWN.setdefault((convention, text), {})
    if len(_KNOWN) > _MOST_KNOWN:
        _KNOWN.popitem(last=False)
    return known


@dataclass
class Passed:
    """Runs that were read and are not held, since nothing is wrong with them: what checks of several runs ask for."""

    runs: int = 0
    files: int = 0
    size: int = 0
    folders: set[PurePosixPath] = field(default_factory=set)
    """Those above them."""
    run_ids: set[str | None] = field(default_factory=set)
    seeds: dict[tuple[str, CellKey | None], set[int]] = field(default_factory=lambda: defaultdict(set))
    """Of each group and cell of its grid."""
    tests: Counter[tuple[object, ...]] = field(default_factory=Counter)
    """What checks count of tested lengths."""


@dataclass(frozen=True)
class Inventory:
    """A tree, read."""

    scan: TreeScan
    files: tuple[CheckpointFile, ...]
    """Every checkpoint, wherever it lies, in path order; none of those in kept W&B folders."""
    runs: tuple[Run, ...]
    """By folder; in one folder, the recorded one first."""
    passed: Passed = field(default_factory=Passed, compare=False)
    """What is besides in the tree; nothing, where all of it is held."""

    @property
    def has_records(self) -> bool:
        """Whether ckptman sorted anything of it."""
        return self.passed.runs > 0 or any(True for _ in self.scan.records)

    def placed_by(self, convention: Convention) -> Inventory:
        """The same, with each run's place worked out by these rules."""
        if all(run.convention is convention for run in self.runs):
            return self
        return replace(self, runs=tuple(replace(run, convention=convention) for run in self.runs))

    @cached_property
    def astray(self) -> Mapping[PurePosixPath, PurePosixPath]:
        """Files that were moved or renamed: where each lies now, and where a run.json misses it.

        It has to be of the size, the step and the configuration that run.json says, and where its bytes were read, of
        the same SHA-256. One that lost its suffix has to be of the size, and to begin with the name of a file of which
        no other is found.
        """
        missed: dict[tuple[int, int | None, str], list[tuple[PurePosixPath, str]]] = defaultdict(list)
        by_size: dict[int, list[PurePosixPath]] = defaultdict(list)
        for folder in self.scan.runs:
            if folder.record is not None:
                lacking = [entry for entry in folder.record.checkpoints if entry.file not in folder.files]
                config = comparing.fingerprint(folder.record.config, ()) if lacking else ""
                for entry in lacking:
                    missed[entry.size, entry.step, config].append((folder.path / entry.file, entry.sha256))
                    by_size[entry.size].append(folder.path / entry.file)
        recorded = (run for run in self.runs if missed and run.origin is Origin.RECORDED)
        right = {run.folder for run in recorded if run.is_in_place}
        found = {}
        for file in self.files if missed else ():
            is_candidate = file.entry is None or file.path in self.replaced
            if is_candidate and file.info is not None and file.step is not None:
                key = file.size, file.info.iters_done or file.step, comparing.fingerprint(file.info.config or {}, ())
                homes = [path for path, sha256 in missed[key] if file.sha256 in (None, sha256)]
                if homes:
                    # In a wrong folder lies a copy of a run.json, say.
                    found[file.path] = min(
                        homes, key=lambda path: (path.parent not in right, path.name != file.path.name, path)
                    )
        read, known = {file.path for file in self.files}, set(found.values())
        for item in self.scan.entries if missed else ():
            if item.kind == "file" and item.path not in read and not is_not_ours(item.path):
                homes = [home for home in by_size[item.size] if home not in known and _is_name_of(item.path.name, home)]
                if homes:
                    found[item.path] = min(homes, key=lambda home: (home.parent != item.path.parent, home))
        return found

    @cached_property
    def replaced(self) -> frozenset[PurePosixPath]:
        """Files that are not those that run.json lists under their names, by their size or, if it is known, SHA-256."""
        listed = ((file, file.entry) for file in self.files if file.entry is not None)
        return frozenset(
            file.path
            for file, entry in listed
            if not file.is_of_listed_size or (file.sha256 is not None and file.sha256 != entry.sha256)
        )

    @cached_property
    def exchanged(self) -> Mapping[PurePosixPath, PurePosixPath]:
        """Files that lie in each other's places, by their bytes: where each lies, and where a run.json lists it.

        Those that would all be in their places if each went to the next one's: of two files, or of more in a circle.
        """
        if not self.replaced:  # mostly
            return {}
        listed = {file.path: file.entry for file in self.files if file.path in self.replaced and file.entry is not None}
        homes = {(entry.size, entry.sha256): path for path, entry in listed.items()}
        read = ((file.path, (file.size, file.sha256)) for file in self.files if file.path in listed)
        going = {path: homes[content] for path, content in read if content in homes}
        found: dict[PurePosixPath, PurePosixPath] = {}
        seen: set[PurePosixPath] = set()
        for path in going:
            way: dict[PurePosixPath, PurePosixPath] = {}
            while path in going and path not in seen:
                seen.add(path)
                way[path] = path = going[path]
            while path in way:
                found[path] = way.pop(path)
                path = found[path]
        return found

    @cached_property
    def record_copies(self) -> Mapping[PurePosixPath, PurePosixPath]:
        """Folders with a run.json and none of the files that it lists, where another folder has all of them, by its
        own: each, and that one."""
        here: dict[frozenset[str], PurePosixPath] = {}
        gone: list[tuple[PurePosixPath, frozenset[str]]] = []
        for folder in self.scan.runs:
            entries = () if folder.record is None else folder.record.checkpoints
            content = frozenset(entry.sha256 for entry in entries)
            there = [entry.file in folder.files for entry in entries]
            if content and all(there):
                here[content] = folder.path
            elif content and not any(there):
                gone.append((folder.path, content))
        return {path: here[content] for path, content in gone if content in here}

    def strayed_lists(self, convention: Convention) -> Mapping[PurePosixPath, PurePosixPath]:
        """Folders with a list of runs without checkpoints all of which belong in one other folder: each, and that one.

        As ckptman wrote the list: of one that was changed, nothing says where it belongs.
        """
        found: dict[PurePosixPath, PurePosixPath] = {}
        for folder, listed in self.scan.lists.items():
            homes = {run.task_folder(convention) for run in (*listed.runs, *listed.without_files)}
            home = homes.pop() if len(homes) == 1 else None
            if home not in (None, folder) and is_signed(self.scan.root / folder / OVERWRITTEN_FILE):
                found[folder] = home
        return found

    @cached_property
    def told(self) -> frozenset[PurePosixPath]:
        """Files of which one finding tells all there is: that they are missed elsewhere, copies, other files than
        run.json lists, or not listed in the folder of a run."""
        recorded = {path for path, _ in self.scan.records}
        unlisted = (file.path for file in self.files if file.entry is None and file.folder in recorded)
        return frozenset({*self.astray, *self.copies, *self.replaced, *unlisted})

    @cached_property
    def copies(self) -> Mapping[PurePosixPath, PurePosixPath]:
        """Files whose bytes are in the tree twice: each copy, and the one that it is a copy of.

        That is one that a run.json lists, in the place that its configuration gives it, or else the first by path. A
        run whose last checkpoint on the way is of its very end has two files of the same bytes, neither a copy; nor is
        its best or its newest one, whose name says no step.
        """
        places: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in self.files:
            if file.path in self.replaced:
                continue
            recorded = file.entry.sha256 if file.entry is not None else None
            sha256 = file.sha256 or recorded
            if sha256 is not None:
                places[sha256].append(file.path)
        if all(len(paths) == 1 for paths in places.values()):  # mostly
            return {}
        kinds = {file.path: (file.folder, file.entry.step, file.entry.kind) for file in self.files if file.entry}
        right = {file.path for run in self.runs if run.is_in_place for file in run.files}
        found = {}
        for paths in places.values():
            original, *others = sorted(paths, key=lambda path: (path not in kinds, path not in right, path))
            for other in others:
                one, two = kinds.get(original), kinds.get(other)
                if one is None or two is None or one[0] != two[0] or one[2] == two[2] or (
                    one[1] != two[1] and None not in (one[1], two[1])):  # fmt: skip
                    found[other] = original
        return found


def take_inventory(
    root: Path, convention: Convention, depth: Depth = Depth.HEADERS, *, progress: Progress | None = None
) -> Inventory:
    """Read a tree: its folders, each run.json, and so much of each checkpoint.

    Raises:
        UsageError: (`no-tree`) where there is no folder `root`.
    """
    return inventory_of(scan_tree(root, convention), convention, depth, progress=progress)


def inventory_of(
    scan: TreeScan, convention: Convention, depth: Depth, *, progress: Progress | None = None
) -> Inventory:
    """Read so much of each checkpoint of a tree that has been scanned."""
    files = unread_files(scan, convention)
    total = sum(file.size for file in files) if depth is Depth.BYTES else len(files)
    return inventory_of_files(scan, Reader(scan.root, convention, depth, progress, total).read(files), convention)


def amount(root: Path, convention: Convention, depth: Depth) -> int:
    """How many checkpoints there are, or bytes of them, as a `Reader` counts them; by their names alone."""
    found = 0
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(convention.checkpoint.suffix):
                with suppress(OSError):  # a link that leads nowhere is no checkpoint
                    found += os.stat(os.path.join(folder, name)).st_size if depth is Depth.BYTES else 1  # noqa: PTH116, PTH118
    return found


def unread_files(scan: TreeScan, convention: Convention) -> list[CheckpointFile]:
    """The checkpoints of a tree, with what its records say of them."""
    listed = {folder / entry.file: entry for folder, record in scan.records for entry in reversed(record.checkpoints)}
    entries = _checkpoint_entries(scan, convention)
    return [CheckpointFile(path=entry.path, size=entry.size, entry=listed.get(entry.path)) for entry in entries]


def inventory_of_files(scan: TreeScan, files: Sequence[CheckpointFile], convention: Convention) -> Inventory:
    """A tree whose checkpoints were read."""
    return Inventory(scan=scan, files=tuple(files), runs=tuple(_runs(scan, files, convention)))


@dataclass
class Reader:
    """Reads so much of checkpoints, and tells how far it is."""

    root: Path
    convention: Convention
    depth: Depth
    progress: Progress | None
    total: int
    """Bytes or files of all that it is to read, as it counts them."""
    done: int = 0
    threads: int = fs_files.CORES
    """Where every byte is read, how many do so: hashing leaves other cores free."""
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def read(self, files: Sequence[CheckpointFile]) -> list[CheckpointFile]:
        """Read some."""
        if self.depth is not Depth.BYTES:
            return [self._read(file) for file in files]
        found: list[CheckpointFile] = []
        for at in range(0, len(files), _AT_ONCE):
            found += fs_files.in_parallel(self._read_bytes, files[at : at + _AT_ONCE], self.threads, are_large=True)
        return found

    def _read(self, file: CheckpointFile) -> CheckpointFile:
        found = _read(self.root, file, self.convention, self.depth)
        self.count(1)
        return found

    def _read_bytes(self, file: CheckpointFile) -> CheckpointFile:
        return _read_bytes(self.root, file, self.convention, self.count)

    def count(self, amount: int) -> None:
        """Tell of so many files or bytes that were read."""
        with self._counting:
            self.done += amount
            if self.progress is not None:
                self.progress("hashing" if self.depth is Depth.BYTES else "reading", self.done, self.total)


def run_of(folder: ScannedFolder, convention: Convention) -> Run | None:
    """The run of a folder with exactly the files that its run.json lists, by their names and sizes, as most are; None
    for any other folder."""
    if folder.run is None or folder.run.record is None or folder.unreadable:
        return None
    record, suffix = folder.run.record, convention.checkpoint.suffix
    listed = {entry.file: entry for entry in record.checkpoints}
    here = {entry.path.name: entry for entry in folder.entries if entry.path.name.endswith(suffix)}
    if listed.keys() != here.keys() or any(entry.kind != "file" or is_not_ours(entry.path) for entry in here.values()):
        return None
    files = tuple(CheckpointFile(here[name].path, here[name].size, entry) for name, entry in listed.items())
    if not all(file.is_of_listed_size for file in files):
        return None
    return Run(folder.path, Origin.RECORDED, record, convention.lifted(record.config), files, convention)


def runs_of(root: Path, folder: ScannedFolder, convention: Convention, depth: Depth = Depth.NAMES) -> tuple[Run, ...]:
    """The runs of a folder of a tree, as an inventory has them."""
    if folder.is_kept:
        return ()
    run = run_of(folder, convention)
    return inventory_of(scan_of(root, [folder], convention), convention, depth).runs if run is None else (run,)


def inventory_of_one(root: Path, folder: RunFolder, file: CheckpointFile, convention: Convention) -> Inventory:
    """One file of a tree, as if it were the only one that its run.json lists."""
    record = folder.record
    if record is not None:
        entries = () if file.entry is None else (file.entry,)
        folder = replace(folder, record=replace(record, checkpoints=entries, wandb=()))
    scan = TreeScan(root=root, convention=convention, runs=(folder,), lists={}, entries=())
    return Inventory(scan=scan, files=(file,), runs=tuple(_runs(scan, [file], convention)))


def way_back(path: PurePosixPath, home: PurePosixPath) -> str:
    """What to do about a file of `Inventory.astray`."""
    if path.parent == home.parent:
        return f"Rename it to {home.name}"
    return f"Move it back to {home.parent}" + ("" if path.name == home.name else f", as {home.name}")


def is_not_ours(path: PurePosixPath) -> bool:
    """Whether a path is outside of what is checked: left by the system, or part of a version control at the root."""
    return path.parts[:1] == (_VERSION_CONTROL,) or any(map(is_system_name, path.parts))


@lru_cache(maxsize=1024)
def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name is something that an operating system or a file manager leaves."""
    return _SYSTEM_NAMES.fullmatch(name) is not None


def cell_of(group: str, config: Mapping[str, Any], convention: Convention) -> CellKey | None:
    """The cell of a grid that a configuration fills; None for one that fills none."""
    pattern = placement.group_pattern(group, convention)
    if pattern is None:
        return None
    grid = convention.grids[pattern.grid]
    try:
        if not placement.fits(pattern, convention.folders.named(placement.family_of(config, convention))):
            return None
        grids.task_of(grid, pattern.regime, convention.numbering, config)
    except RefusedError:
        return None
    return group, tuple(config[axis] for axis in grid.regimes[pattern.regime].axes)


def _is_name_of(name: str, path: PurePosixPath) -> bool:
    """Whether a name is that of a file with something put after it (`.bak`), or without its suffix."""
    return name == path.stem or (name.startswith(path.name) and name != path.name)


def _checkpoint_entries(scan: TreeScan, convention: Convention) -> list[Entry]:
    """Files and links to files with a checkpoint's suffix, but for those in kept W&B folders."""
    return [
        entry
        for entry in scan.entries
        if entry.kind in ("file", "symlink")
        and entry.path.name.endswith(convention.checkpoint.suffix)
        and not is_not_ours(entry.path)
        and not scan.is_kept(entry.path)
        and (entry.kind == "file" or _leads_to_a_file(scan.root / entry.path))
    ]


def _leads_to_a_file(link: Path) -> bool:
    try:
        return stat.S_ISREG(link.stat().st_mode)
    except OSError:
        return False


def _read(root: Path, file: CheckpointFile, convention: Convention, depth: Depth) -> CheckpointFile:
    if file.entry is not None and depth < Depth.HEADERS:
        return file
    info = refusal = None
    if depth >= Depth.UNRECORDED:
        from ckptman.formats import containers

        try:
            info = containers.read(root / file.path, convention.checkpoint)
        except RefusedError as error:
            refusal = error
    return with_name(file, convention, info=info, refusal=refusal)


def with_name(file: CheckpointFile, convention: Convention, **more: Any) -> CheckpointFile:
    """The file with what its name says, and with `more` of its fields."""
    said: dict[str, Any]
    try:
        said = {"name": _name_of(file.path.name, convention)}
    except RefusedError as error:
        said = {"name_problem": error.message}
    # As `replace` does, in a third of the time.
    held = vars(file).copy()
    held.pop("folder", None)  # which may be worked out
    return CheckpointFile(**{**held, **said, **more})


@lru_cache(maxsize=1024)
def _name_of(name: str, convention: Convention) -> naming.CheckpointName:
    """What a name says; that of a run's file is the same for each of its seeds."""
    return naming.naming_of(convention).parse(name)


def _read_bytes(
    root: Path, file: CheckpointFile, convention: Convention, count: Callable[[int], None]
) -> CheckpointFile:
    """Read a file in one pass; of one that is no checkpoint, the SHA-256 alone."""
    from ckptman.formats import folder_bytes, whole

    file = with_name(file, convention)
    # Ingest, which signs its records, worked out all checksums of what it placed.
    is_told = file.entry is not None and is_signed(root / file.path.parent / RUN_FILE)
    sound = file.entry.sha256 if file.entry is not None and is_told else None
    try:
        read = whole.read_whole(
            root / file.path, convention.checkpoint, follow_symlinks=True, on_bytes=count, sound=sound
        )
        parts = {part.name: part.sha256 for part in read.parts}
        return replace(file, info=read.info, sha256=read.sha256, damage=read.damage, parts=parts)
    except RefusedError as error:
        if error.code == fs_files.CHANGED:
            return replace(file, damage=error)
        file = replace(file, refusal=error)
    try:
        return replace(file, sha256=folder_bytes.hash_any(root / file.path, on_bytes=count))
    except RefusedError as error:
        return replace(file, damage=error)


# --- runs -------------------------------------------------------------------------------------------------------------


def _runs(scan: TreeScan, files: Iterable[CheckpointFile], convention: Convention) -> Iterator[Run]:
    by_folder: dict[PurePosixPath, list[CheckpointFile]] = defaultdict(list)
    for file in files:
        by_folder[file.folder].append(file)
    records = dict(scan.records)
    for folder in sorted(by_folder.keys() | records.keys()):
        yield from _runs_of_folder(folder, by_folder[folder], records.get(folder), convention)


def _runs_of_folder(
    folder: PurePosixPath, files: list[CheckpointFile], record: RunRecord | None, convention: Convention
) -> Iterator[Run]:
    known = [
        (file, config) for file in files if (config := _config_in_force(file, record, convention.seed_key)) is not None
    ]
    configs = [config for _, config in known]
    groups = comparing.alike(configs if record is None else [record.config, *configs], convention.ignored_keys)
    if record is not None:
        del groups[0]
        groups = [group - 1 for group in groups]
    members: dict[int, list[CheckpointFile]] = defaultdict(list)  # by the first of them; -1 is that of run.json
    for (file, _), group in zip(known, groups, strict=True):
        members[group].append(file)
    own = -1
    if record is not None and own not in members:  # the files have another configuration, or there are none
        own = next((group for group, held in members.items() if any(file.entry for file in held)), own)
    if record is not None:
        order = {entry.file: at for at, entry in enumerate(record.checkpoints)}
        held = sorted(members.pop(own, ()), key=lambda file: order.get(file.path.name, len(order)))
        config = next((config for file, config in known if held and file is held[0]), record.config)
        yield Run(folder, Origin.RECORDED, record, convention.lifted(config), tuple(held), convention)
    origin = Origin.LOOSE if record is None else Origin.EXTRA
    for group, held in members.items():
        yield Run(folder, origin, None, convention.lifted(configs[group]), tuple(held), convention)


def _config_in_force(file: CheckpointFile, record: RunRecord | None, seed_key: str) -> Mapping[str, Any] | None:
    """The configuration a file counts by: the one inside it, unless run.json or the name has to stand in for it.

    The seed may have been said by the name at the source, or by a folder there, as only run.json still knows.
    """
    if record is not None and file.entry is not None and record.config_source != FROM_CHECKPOINT:
        return record.config
    if file.info is not None and file.info.config:
        lacking = {seed_key} - file.info.config.keys()
        if (
            record is not None
            and file.entry is not None
            and (added := (record.added_keys | lacking) & record.config.keys())
        ):
            return {**file.info.config, **{key: record.config[key] for key in added}}
        return file.info.config
    if record is not None and file.entry is not None:
        return record.config
    return file.name.values if file.refusal is None and file.name is not None else None
