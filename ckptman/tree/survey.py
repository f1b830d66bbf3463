"""What there is to check in a tree: every checkpoint's header, put together into runs.

A folder with a `run.json` holds the run that it records. Checkpoints in any other folder, such as those of a tree that
was sorted by hand, are runs by the configuration inside them: one for each configuration in a folder.
"""

from __future__ import annotations

import re
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ckptman.formats import CheckpointInfo, read_checkpoint, verify_crcs
from ckptman.fs import hash_file
from ckptman.rules import Convention, Place, comparing, naming, placement
from ckptman.text import RefusedError
from ckptman.tree.records import CheckpointEntry, Entry, RunFolder, RunRecord, TreeScan, scan_tree

FROM_CHECKPOINT = "checkpoint"
FROM_NAME = "name"
"""`RunRecord.config_source` where the configuration is the one inside the file, and where the name decided."""

Progress = Callable[[str, int, int], None]
"""Called with a stage, the amount done and the amount in all: files while `reading`, bytes while `hashing`."""

_VERSION_CONTROL = ".git"
_SYSTEM_NAMES = re.compile(
    r"\.DS_Store|\._.*|\.AppleDouble|\.Spotlight-V100|\.Trashes|\.fseventsd|\.TemporaryItems|__MACOSX|\.localized"
    r"|Thumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information"
    r"|\.nfs[0-9A-Fa-f]{8,}|\.fuse_hidden.*|\.directory|\.Trash-.*|\.~lock\..*|lost\+found|@eaDir|\.snapshot"
    r"|__pycache__|\.ipynb_checkpoints",
    re.DOTALL,
)


class Standing(Enum):
    """How a run came to be one."""

    RECORDED = "recorded"
    """By the run.json of its folder."""
    LOOSE = "loose"
    """By the configuration in files that no run.json lists, in a folder without one."""
    EXTRA = "extra"
    """As loose, but in the folder of another run."""


@dataclass(frozen=True)
class CheckedFile:
    """One file with a checkpoint's suffix, read."""

    path: PurePosixPath
    """Relative to the root."""
    size: int
    """Bytes; of the target, where it is a link."""
    entry: CheckpointEntry | None
    """What the folder's run.json says of it."""
    info: CheckpointInfo | None
    refusal: RefusedError | None
    """Why there is no info."""
    name: naming.CheckpointName | None
    name_problem: str = ""
    """Why the name could not be parsed."""
    sha256: str | None = None
    """Of its bytes as they are now; None if they were not read."""
    damage: RefusedError | None = None
    """Why its bytes are not sound, as far as they were read."""

    @property
    def step(self) -> int | None:
        """Iterations done: as the file says, else as its name says."""
        if self.info is not None and self.info.iters_done is not None:
            return self.info.iters_done
        return None if self.name is None else self.name.step


@dataclass(frozen=True)
class CheckedRun:
    """Checkpoints of one configuration in one folder."""

    folder: PurePosixPath
    standing: Standing
    record: RunRecord | None
    config: Mapping[str, Any]
    """The configuration in force: the one inside the files, unless run.json says that another one decided."""
    files: tuple[CheckedFile, ...]
    """Those that are there; none for a recorded run all of whose files are gone."""
    place: Place | None = None
    """Where it belongs."""
    place_problem: RefusedError | None = None
    """Why it belongs nowhere."""

    @property
    def run_id(self) -> str | None:
        """The W&B run, if it is known."""
        return self.record.run_id if self.record is not None else None

    @property
    def is_in_place(self) -> bool:
        """Whether it lies in the task folder that its configuration gives; where it belongs nowhere, it does not.

        Files that no run.json tells of may also lie in that folder itself, or anywhere below it.
        """
        if self.place is None:
            return False
        if self.standing is Standing.LOOSE:
            return self.place.folder == self.folder or self.place.folder in self.folder.parents
        return self.place.folder == self.folder.parent


@dataclass(frozen=True)
class Inventory:
    """A tree, read."""

    scan: TreeScan
    files: tuple[CheckedFile, ...]
    runs: tuple[CheckedRun, ...]

    def placed_by(self, convention: Convention) -> Inventory:
        """The same, with each run's place worked out by these rules."""
        return replace(self, runs=tuple(_placed(run, convention) for run in self.runs))

    @cached_property
    def astray(self) -> Mapping[PurePosixPath, PurePosixPath]:
        """Files that were moved or renamed: where each lies now, and where a run.json misses it.

        It has to be of the size, the step and the configuration that run.json says, and where its bytes were read, of
        the same SHA-256.
        """
        missed: dict[tuple[int, int, str], list[tuple[PurePosixPath, str]]] = defaultdict(list)
        for folder in self.scan.runs:
            if folder.record is not None:
                config = comparing.fingerprint(folder.record.config, ())
                for entry in folder.record.checkpoints:
                    if entry.file not in folder.files:
                        missed[entry.size, entry.step, config].append((folder.path / entry.file, entry.sha256))
        found = {}
        for file in self.files if missed else ():
            if file.entry is None and file.info is not None and file.step is not None:
                key = file.size, file.info.iters_done or file.step, comparing.fingerprint(file.info.config or {}, ())
                homes = [path for path, sha256 in missed[key] if file.sha256 in (None, sha256)]
                if homes:
                    found[file.path] = min(homes, key=lambda path: (path.name != file.path.name, path))
        return found

    @cached_property
    def copies(self) -> Mapping[PurePosixPath, PurePosixPath]:
        """Files whose bytes are in the tree twice: each copy, and the one that it is a copy of.

        That is the one in the place that its configuration gives it, or else the first by path. A run whose last
        checkpoint on the way is of its very end has two files of the same bytes, neither of which is a copy.
        """
        kinds = {file.path: (file.path.parent, file.entry.step, file.entry.kind) for file in self.files if file.entry}
        right = {file.path for run in self.runs if run.is_in_place for file in run.files}
        places: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in self.files:
            recorded = file.entry.sha256 if file.entry is not None and file.entry.size == file.size else None
            sha256 = file.sha256 or recorded
            if sha256 is not None:
                places[sha256].append(file.path)
        found = {}
        for paths in places.values():
            original, *others = sorted(paths, key=lambda path: (path not in right, path))
            for other in others:
                one, two = kinds.get(original), kinds.get(other)
                if one is None or two is None or one[:2] != two[:2] or one == two:
                    found[other] = original
        return found


def take_inventory(
    root: Path, convention: Convention, *, deep: bool = False, progress: Progress | None = None
) -> Inventory:
    """Read a tree: its folders, each run.json, and each checkpoint's header.

    Args:
        deep: Also read all bytes of each checkpoint: its SHA-256 and its archive's checksums.

    Raises:
        UsageError: (`no-tree`) where there is no folder `root`.
    """
    scan = scan_tree(root, convention)
    folders = {run.path: run for run in scan.runs}
    entries = _checkpoint_entries(scan, convention)
    files = []
    for done, entry in enumerate(entries, start=1):
        files.append(_read(scan.root, entry, folders.get(entry.path.parent), convention))
        if progress is not None:
            progress("reading", done, len(entries))
    if deep:
        files = _read_bytes(scan.root, files, progress)
    return Inventory(scan=scan, files=tuple(files), runs=tuple(_runs(scan, files, convention.ignored_keys))).placed_by(
        convention
    )


def way_back(path: PurePosixPath, home: PurePosixPath) -> str:
    """What to do about a file of `Inventory.astray`."""
    if path.parent == home.parent:
        return f"Rename it to {home.name}"
    return f"Move it back to {home.parent}" + ("" if path.name == home.name else f", as {home.name}")


def is_not_ours(path: PurePosixPath) -> bool:
    """Whether a path is outside of what is checked: left by the system, or part of a version control at the root."""
    return path.parts[:1] == (_VERSION_CONTROL,) or any(map(is_system_name, path.parts))


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name is something that an operating system or a file manager leaves."""
    return _SYSTEM_NAMES.fullmatch(name) is not None


def kept_wandb_parts(path: PurePosixPath, runs: Collection[PurePosixPath], convention: Convention) -> tuple[str, ...]:
    """The parts of a path below the folder of kept W&B folders of a run; none for a path that is not in one."""
    for depth in range(1, len(path.parts) - 1):
        if path.parts[depth] == convention.folders.saved_wandb and PurePosixPath(*path.parts[:depth]) in runs:
            return path.parts[depth + 1 :]
    return ()


def _checkpoint_entries(scan: TreeScan, convention: Convention) -> list[Entry]:
    """Files and links to files with a checkpoint's suffix, but for those in kept W&B folders."""
    runs = {run.path for run in scan.runs}
    return [
        entry
        for entry in scan.entries
        if entry.kind in ("file", "symlink")
        and entry.path.name.endswith(convention.checkpoint.suffix)
        and not is_not_ours(entry.path)
        and not kept_wandb_parts(entry.path, runs, convention)
        and (entry.kind == "file" or _leads_to_a_file(scan.root / entry.path))
    ]


def _leads_to_a_file(link: Path) -> bool:
    try:
        return stat.S_ISREG(link.stat().st_mode)
    except OSError:
        return False


def _read(root: Path, entry: Entry, folder: RunFolder | None, convention: Convention) -> CheckedFile:
    listed = folder.record.checkpoints if folder is not None and folder.record is not None else ()
    info = refusal = name = None
    name_problem = ""
    try:
        info = read_checkpoint(root / entry.path, convention.checkpoint)
    except RefusedError as error:
        refusal = error
    try:
        name = naming.naming_of(convention).parse(entry.path.name)
    except RefusedError as error:
        name_problem = error.message
    return CheckedFile(
        path=entry.path,
        size=entry.size,
        entry=next((item for item in listed if item.file == entry.path.name), None),
        info=info,
        refusal=refusal,
        name=name,
        name_problem=name_problem,
    )


def _read_bytes(root: Path, files: Iterable[CheckedFile], progress: Progress | None) -> list[CheckedFile]:
    """Hash every file, and check the checksums of those that can be read as archives."""
    files = list(files)
    total = sum(file.size for file in files)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress("hashing", done, total)

    read = []
    for file in files:
        sha256 = damage = None
        try:
            sha256, _ = hash_file(root / file.path, on_bytes=count, follow_symlinks=True)
            if file.info is not None:
                verify_crcs(root / file.path)
        except RefusedError as error:
            damage = error
        read.append(replace(file, sha256=sha256, damage=damage))
    return read


# --- runs -------------------------------------------------------------------------------------------------------------


def _runs(scan: TreeScan, files: Iterable[CheckedFile], ignored: Collection[str]) -> list[CheckedRun]:
    by_folder: dict[PurePosixPath, list[CheckedFile]] = defaultdict(list)
    for file in files:
        by_folder[file.path.parent].append(file)
    records = dict(scan.records)
    found = []
    for folder in sorted(by_folder.keys() | records.keys()):
        found.extend(_runs_of_folder(folder, by_folder[folder], records.get(folder), ignored))
    return found


def _runs_of_folder(
    folder: PurePosixPath, files: list[CheckedFile], record: RunRecord | None, ignored: Collection[str]
) -> list[CheckedRun]:
    configs: dict[str, Mapping[str, Any]] = {}
    members: dict[str, list[CheckedFile]] = defaultdict(list)
    for file in files:
        config = _config_in_force(file, record)
        if config is not None:
            key = comparing.fingerprint(config, ignored)
            configs.setdefault(key, config)
            members[key].append(file)
    own = None
    if record is not None:
        own = comparing.fingerprint(record.config, ignored)
        if own not in members:  # the files have another configuration than run.json says, or there are none
            own = next((key for key, held in members.items() if any(file.entry for file in held)), own)
            configs.setdefault(own, record.config)
    other = Standing.LOOSE if record is None else Standing.EXTRA
    keys = dict.fromkeys(([own] if own is not None else []) + list(configs))
    return [
        CheckedRun(
            folder=folder,
            standing=Standing.RECORDED if key == own else other,
            record=record if key == own else None,
            config=configs[key],
            files=tuple(members.get(key, ())),
        )
        for key in keys
    ]


def _config_in_force(file: CheckedFile, record: RunRecord | None) -> Mapping[str, Any] | None:
    """The configuration a file counts by: the one inside it, unless run.json or the name has to stand in for it."""
    if record is not None and file.entry is not None and record.config_source != FROM_CHECKPOINT:
        return record.config
    if file.info is not None and file.info.config:
        return file.info.config
    if record is not None and file.entry is not None:
        return record.config
    return file.name.values if file.info is not None and file.name is not None else None


def _placed(run: CheckedRun, convention: Convention) -> CheckedRun:
    """The run with the place that its configuration gives it; in a group of no known pattern, the source's task."""
    group: str | None = None
    task: int | None = None
    if run.record is not None:
        group, task = run.record.source.group, run.record.source.task
    else:
        group, task, _ = placement.named_by_folders(run.folder / "file", convention)
    said_group = run.config.get(convention.group_key)
    if isinstance(said_group, str) and said_group:
        group = said_group
    try:
        place = placement.place_of(run.config, convention, source_group=group, source_task=task)
    except RefusedError as error:
        return replace(run, place=None, place_problem=error)
    return replace(run, place=place, place_problem=None)
