"""A tree read folder by folder, of which only those runs are held that something may be wrong with.

A run passes if the checks find nothing in its folder, as if that were all of the tree, and if no other run has its id,
its place or one of its files. Of those that pass, what checks of several runs ask for is kept in a few numbers
(`contents.Passed`): so a tree takes as much memory as is wrong with it, and some hundred bytes a run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ckptman.checks.files import check_files
from ckptman.checks.grid import check_settings
from ckptman.checks.records import check_records
from ckptman.checks.runs import check_each_run, repeatable, tests_of
from ckptman.rules import Convention
from ckptman.tree import Finding, Inventory, contents, history, records

_HELD = -1
_AT_ONCE = 64
"""Folders of which every byte is read by several threads at a time."""


def take_inventory(
    root: Path, convention: Convention, depth: contents.Depth, *, progress: contents.Progress | None = None
) -> Inventory:
    """Read a tree, and hold of it what does not pass.

    Raises:
        UsageError: (`no-tree`) where there is no folder `root`.
    """
    return _Sieve(root, convention, depth, progress).inventory()


@dataclass
class _Sieve:
    root: Path
    convention: Convention
    depth: contents.Depth
    progress: contents.Progress | None
    passed: contents.Passed = field(default_factory=contents.Passed)
    held: dict[PurePosixPath, records.ScannedFolder] = field(default_factory=dict)
    files: list[contents.CheckpointFile] = field(default_factory=list)
    """Those of the folders that are held."""
    names: list[str] = field(default_factory=list)
    """The folders of the runs that passed."""
    seen: dict[int, int] = field(default_factory=dict)
    """The hash of whatever only one run may have: which of `names` has it, or `_HELD`. Runs that
    share a hash by chance are held for nothing."""
    passed_in: dict[PurePosixPath, set[PurePosixPath]] = field(default_factory=lambda: defaultdict(set))
    """The same by the folder that they lie in, as long as that is read."""
    shared: set[int] = field(default_factory=set)
    """Which of `names` have something that a later run has too."""

    def inventory(self) -> Inventory:
        total = 0 if self.progress is None else contents.amount(self.root, self.convention, self.depth)
        reader = contents.Reader(self.root, self.convention, self.depth, self.progress, total)
        folders = self._not_told(reader)
        above: list[records.ScannedFolder] = []
        at_once = _AT_ONCE if self.depth is contents.Depth.BYTES else 1
        while batch := list(islice(folders, at_once)):
            for folder, found in self._read(batch, reader):
                while above and above[-1].path != folder.path.parent:
                    self._hold(above.pop())
                if not self._passes(folder, found):
                    above.append(folder)
                    self.files += found.files
        for folder in above:
            self._hold(folder)
        self._take_back(replace(reader, progress=None))
        scan = replace(
            records.scan_of(self.root, self.held.values(), self.convention), passed=frozenset(self.passed.run_ids)
        )
        files = sorted(self.files, key=lambda file: file.path)
        return replace(contents.inventory_of_files(scan, files, self.convention), passed=self.passed)

    def _not_told(self, reader: contents.Reader) -> Iterator[records.ScannedFolder]:
        """The folders of the tree but for those of which another process has told that they pass."""
        alone = replace(reader, progress=None, threads=1)

        def tell(folder: records.ScannedFolder) -> tuple[Any, ...] | None:
            [(_, found)] = self._read([folder], alone)
            return tuple(self._told(folder, found)) if self._is_good(folder, found) else None

        for item in records.share_folders(self.root, self.convention, tell, natural=False, verify=True):
            if isinstance(item, records.ScannedFolder):
                yield item
            elif not self._let_go(told := _Told(*item)):
                yield records.scan_folder(self.root, PurePosixPath(told.path), self.convention)
            else:
                reader.count(told.size if self.depth is contents.Depth.BYTES else told.files)

    def _read(
        self, folders: Sequence[records.ScannedFolder], reader: contents.Reader
    ) -> Iterator[tuple[records.ScannedFolder, Inventory]]:
        """The folders, each with what it is as a tree of its own."""
        scans = [records.scan_of(self.root, [folder], self.convention) for folder in folders]
        unread = [
            [] if folder.is_kept else contents.unread_files(scan, self.convention)
            for folder, scan in zip(folders, scans, strict=True)
        ]
        read = iter(reader.read([file for files in unread for file in files]))
        for folder, scan, files in zip(folders, scans, unread, strict=True):
            yield folder, contents.inventory_of_files(scan, list(islice(read, len(files))), self.convention)

    def _hold(self, folder: records.ScannedFolder) -> None:
        """Hold a folder, all below which was read, without the folders of the runs in it that passed."""
        passed = self.passed_in.pop(folder.path, set())
        if passed:
            self.passed.folders.update((folder.path, *folder.path.parents))
        if passed and not _are_apart(folder):  # what may be one name with another is looked at
            self.passed.folders |= passed
        elif passed:
            folder = replace(folder, entries=tuple(entry for entry in folder.entries if entry.path not in passed))
        self.held[folder.path] = folder

    def _take_back(self, reader: contents.Reader) -> None:
        """Hold the runs that passed before another one came that has something of theirs."""
        folders = [records.scan_folder(self.root, PurePosixPath(self.names[index]), self.convention)
                   for index in sorted(self.shared)]  # fmt: skip
        for folder, found in self._read(folders, reader):
            self._count(self._told(folder, found), -1)
            above = self.held[folder.path.parent]
            entry = records.Entry(folder.path, "folder")
            if entry not in above.entries:
                self.held[above.path] = replace(above, entries=(*above.entries, entry))
            self.held[folder.path] = folder
            self.files += found.files

    def _passes(self, folder: records.ScannedFolder, found: Inventory) -> bool:
        """Whether a folder need not be held."""
        if self._is_good(folder, found) and self._let_go(self._told(folder, found)):
            return True
        keys = _keys(found, self.convention)
        self.shared |= {self.seen[key] for key in keys if key in self.seen} - {_HELD}
        self.seen.update({key: _HELD for key in keys if key not in self.seen})
        return False

    def _is_good(self, folder: records.ScannedFolder, found: Inventory) -> bool:
        """Whether nothing is wrong with a folder by itself."""
        return _is_whole(folder, found) and not any(True for _ in self._findings(found))

    def _let_go(self, told: _Told) -> bool:
        """Take note of a folder with which nothing is wrong, if it has nothing that another one has."""
        if any(key in self.seen for key in told.keys):
            return False
        self.seen.update(dict.fromkeys(told.keys, len(self.names)))
        self.names.append(told.path)
        path = PurePosixPath(told.path)
        self.passed_in[path.parent].add(path)
        self.passed.run_ids.add(told.run_id)
        self._count(told, 1)
        return True

    def _told(self, folder: records.ScannedFolder, found: Inventory) -> _Told:
        runs = found.runs[:1]  # of what was one and is changed meanwhile, there may be none
        return _Told(
            path=str(folder.path),
            keys=_keys(found, self.convention),
            run_id=next((run.run_id for run in runs), None),
            files=len(found.files),
            size=sum(file.size for file in found.files),
            place=next(((place.group, run.cell, place.seed) for run in runs if (place := run.place) is not None), None),
            tests=tuple(((str(group), *rest), n) for (group, *rest), n in tests_of(runs, self.convention).items()),
        )

    def _findings(self, found: Inventory) -> Iterator[Finding]:
        """What is wrong with a folder by itself."""
        yield from check_records(found, self.convention)
        yield from check_files(found, self.convention)
        yield from check_each_run(found, self.convention)
        for run in found.runs:
            yield from check_settings(run, self.convention)

    def _count(self, told: _Told, sign: int) -> None:
        """Count in a run that passes, or out."""
        passed = self.passed
        passed.runs += sign
        passed.files += sign * told.files
        passed.size += sign * told.size
        if told.place is not None:
            group, cell, seed = told.place
            passed.seeds[group, cell].update(() if seed is None else (seed,))  # one that is taken back has it too
        for (folder, *rest), count in told.tests:
            passed.tests[PurePosixPath(folder), *rest] += sign * count


class _Told(NamedTuple):
    """What is kept of a run that passes: plain values, for another process may tell it."""

    path: str
    keys: tuple[int, ...]
    """The hash of whatever only one run may have. Processes have one way of hashing, as copies of one."""
    run_id: str | None
    files: int
    size: int
    place: tuple[str, contents.CellKey | None, int | None] | None
    """Group, cell and seed."""
    tests: tuple[tuple[tuple[Any, ...], int], ...]
    """As `tests_of`."""


def _keys(found: Inventory, convention: Convention) -> tuple[int, ...]:
    return tuple(hash(key) for run in found.runs for key in _unique(run, convention))


def _unique(run: contents.Run, convention: Convention) -> Iterator[tuple[object, ...]]:
    """What no other run has."""
    if run.run_id is not None:
        yield "id", run.run_id
    if (key := repeatable(run, convention)) is not None:
        yield "run", *key
    for sha256 in {sha for file in run.files for sha in (file.sha256, file.entry and file.entry.sha256) if sha}:
        yield "sha256", sha256


def _is_whole(folder: records.ScannedFolder, found: Inventory) -> bool:
    """Whether a folder is that of one run, with its files, and nothing else."""
    if folder.run is None or folder.run.record is None or folder.unreadable or folder.is_kept or len(found.runs) != 1:
        return False
    known = {records.RUN_FILE, history.HISTORY_FILE, *(entry.file for entry in folder.run.record.checkpoints)}
    return (
        all(entry.kind == "file" and entry.path.name in known for entry in folder.entries)
        and len(found.files) == len(found.runs[0].files) == len(folder.run.record.checkpoints)
        and _are_apart(folder)
        and not contents.is_not_ours(folder.path)
    )


def _are_apart(folder: records.ScannedFolder) -> bool:
    """Whether the names in a folder are plain, and differ where case makes no difference too."""
    names = [entry.path.name for entry in folder.entries]
    return all(map(str.isascii, names)) and len({name.lower() for name in names}) == len(names)
