"""Checks of what lies in a tree beside its runs: strays, leftovers, links, and names that clash."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ckptman.fs import folders
from ckptman.rules import Convention, convention_file, placement
from ckptman.text import wording
from ckptman.tree import Finding, Inventory, contents, finding, history, records

_DOCUMENT = re.compile(r"(?:README|TASK_MAPPING(?:\.previous(?:-[0-9]+)?)?)\.md", re.IGNORECASE)
"""What `report` generates at the root of a tree, and what it keeps of a document that gives way."""
_AT_THE_ROOT = frozenset(
    {
        convention_file.FILE_NAME,
        records.REFUSED_FILE,
        ".gitattributes",
        ".gitignore",
        "LICENSE",
        "LICENSE.md",
        "LICENSE.txt",
        "CITATION.cff",
    }
)
"""How many folders lead from the root to a group's."""
_OF_A_RUN = frozenset({records.RUN_FILE, history.HISTORY_FILE})
_MOST_STRAYS = 8
"""Strays of one folder, and system files of a tree, that are told of each by itself."""
_MOST_NAMED = 200
"""Strays that one message names."""


def check_folders(inventory: Inventory, convention: Convention) -> Iterator[Finding]:
    """Look at every entry of the tree that is not a checkpoint or a run.json."""
    walk = _Walk(inventory, convention)
    yield from walk.folder(PurePosixPath())
    yield from _check_system_files(walk.system_files)
    yield from _check_links(inventory, walk.links, convention.folders.group_level)
    yield from _check_twins(inventory)


class _Walk:
    """Goes through a tree from the top, no deeper than into the first folder that does not belong to it."""

    def __init__(self, inventory: Inventory, convention: Convention) -> None:
        self.convention = convention
        self.records = {run.path: run.record for run in inventory.scan.runs}
        self.kept = inventory.scan.kept_wandb
        self.checkpoints = {file.path for file in inventory.files}
        self.astray = inventory.astray
        self.strayed_lists = inventory.strayed_lists(convention)
        self.children: dict[PurePosixPath, list[records.Entry]] = defaultdict(list)
        for entry in inventory.scan.entries:
            self.children[entry.path.parent].append(entry)
        self.unreadable = {path for path, _ in inventory.scan.unreadable}
        with_run_file = (
            path for path in self.records if any(c.path.name == records.RUN_FILE for c in self.children[path])
        )
        self.bearing = {
            folder
            for path in (*self.checkpoints, *(path / records.RUN_FILE for path in with_run_file))
            for folder in path.parents
        } | inventory.passed.folders
        """Folders with a checkpoint or a run.json somewhere below them."""
        self.above_passed = inventory.passed.folders
        self.links: list[PurePosixPath] = []
        self.system_files: list[PurePosixPath] = []

    def folder(self, folder: PurePosixPath) -> Iterator[Finding]:
        """Check what lies in a folder that belongs to the tree, or leads to something that does."""
        strays = []
        for entry in self.children[folder]:
            if contents.is_not_ours(entry.path):
                if contents.is_system_name(entry.path.name):
                    self.system_files.append(entry.path)
            elif entry.kind == "folder" and not folders.is_partial(entry.path.name):
                yield from self._subfolder(entry.path)
            elif entry.kind == "file" and not folders.is_partial(entry.path.name):
                if not self._belongs(entry.path):
                    strays.append(entry.path)
            else:
                yield from self._leftover(entry)
        if len(strays) > _MOST_STRAYS:
            names = ", ".join(path.name for path in strays[:_MOST_NAMED])
            more = ", and others" if len(strays) > _MOST_NAMED else ""
            message = f"{wording.count_text(len(strays), 'file')} in it do not belong to the tree: {names}{more}"
            yield finding("stray-file", folder, message, "Move these files, and nothing else, out of the tree.")
        else:
            for path in strays:
                yield finding("stray-file", path, "this file does not belong to the tree")

    def _subfolder(self, path: PurePosixPath) -> Iterator[Finding]:
        below = list(self._below(path))
        if path in self.unreadable:
            return
        if path.parts == (records.REPORT,) and path not in self.bearing:
            for entry in below:
                yield from self._leftover(entry)
            return
        if path not in self.above_passed and all(e.kind == "folder" and e.path not in self.unreadable for e in below):
            yield finding("empty-folder", path, "there is no file in this folder")
        elif path in self.kept:
            yield from self._kept_wandb(path)
        elif path in self.bearing or self._is_structural(path):
            yield from self.folder(path)
        else:
            count = sum(entry.kind != "folder" for entry in below)
            message = f"this folder ({wording.count_text(count, 'file')}) does not belong to the tree"
            yield finding("stray-folder", path, message)

    def _kept_wandb(self, home: PurePosixPath) -> Iterator[Finding]:
        """The W&B folders that are kept beside a run's checkpoints: those that run.json lists, with all they hold."""
        record = self.records[home.parent]
        for entry in self.children[home]:
            listed = record is None or str(entry.path.relative_to(home.parent)) in record.wandb
            if contents.is_system_name(entry.path.name):
                self.system_files.append(entry.path)
            elif entry.kind == "folder" and listed:
                for kept in self._below(entry.path):
                    yield from self._leftover(kept)
            elif entry.kind == "folder":
                yield finding("stray-folder", entry.path, "run.json does not list this W&B folder")
            elif entry.kind == "file" and not folders.is_partial(entry.path.name):
                yield finding("stray-file", entry.path, "this file is of no W&B folder that run.json lists")
            else:
                yield from self._leftover(entry)

    def _leftover(self, entry: records.Entry) -> Iterator[Finding]:
        """What is wrong wherever it lies."""
        if entry.kind == "symlink":
            self.links.append(entry.path)
        elif entry.kind == "other":
            yield finding("special-file", entry.path, "this is a pipe, a socket or a device")
        elif folders.is_partial(entry.path.name):
            yield finding("unfinished-file", entry.path, "an interrupted ingest left it, or one is at work")

    def _below(self, folder: PurePosixPath) -> Iterator[records.Entry]:
        pending = [folder]
        while pending:
            for entry in self.children.get(pending.pop(), ()):
                yield entry
                if entry.kind == "folder":
                    pending.append(entry.path)

    def _belongs(self, path: PurePosixPath) -> bool:
        """Whether a file is one that ckptman knows at this place."""
        folder, name = path.parent, path.name
        if path in self.checkpoints or path in self.astray or (name in _OF_A_RUN and folder in self.records):
            return True
        if name == records.OVERWRITTEN_FILE:
            if folder in self.strayed_lists:
                return True  # told of as that
            is_task = len(folder.parts) == self.convention.folders.depth - 1
            return is_task and self._is_structural(folder)
        return not folder.parts and (name in _AT_THE_ROOT or _DOCUMENT.fullmatch(name) is not None)

    def _is_structural(self, path: PurePosixPath) -> bool:
        """Whether a folder's name is one that the convention has at this level."""
        levels = self.convention.folders.parse(path)
        if levels is None or levels.group is None:
            return levels is not None
        group = PurePosixPath(*path.parts[: self.convention.folders.group_level])
        return placement.group_pattern(levels.group, self.convention) is not None or group in self.bearing


def _check_system_files(paths: list[PurePosixPath]) -> Iterator[Finding]:
    if len(paths) > _MOST_STRAYS:
        examples = ", ".join(str(path) for path in paths[:3])
        message = (
            f"{wording.count_text(len(paths), 'file')} left by an operating system or a file manager: {examples}, …"
        )
        yield finding("system-file", ".", message)
        return
    for path in paths:
        yield finding("system-file", path, "an operating system or a file manager left it")


def _check_links(inventory: Inventory, links: list[PurePosixPath], group_level: int) -> Iterator[Finding]:
    root = inventory.scan.root
    real_root = root.resolve()
    checkpoints = {file.path: file for file in inventory.files}
    placed: dict[PurePosixPath, list[Path]] = defaultdict(list)
    for path in links:
        said = os.readlink(root / path)  # noqa: PTH115  (a Path would rewrite it)
        try:
            target = (root / path).resolve(strict=True)
        except (OSError, RuntimeError):  # a loop is a RuntimeError before Python 3.13
            yield finding("dangling-link", path, f"it leads to {said}, where nothing can be reached")
            continue
        file = checkpoints.get(path)
        if target.is_relative_to(real_root):
            if file is None:
                yield finding("stray-file", path, f"this link to {said} does not belong to the tree")
        elif file is not None and file.info is not None:
            placed[PurePosixPath(*path.parts[: min(group_level, len(path.parts) - 1)])].append(target)
        else:
            yield finding("outside-link", path, f"it leads out of the tree, to {target}")
    for group, targets in sorted(placed.items()):
        where = os.path.commonpath([target.parent for target in targets])
        message = f"{wording.count_text(len(targets), 'checkpoint')} here by symbolic links to files in {where}"
        yield finding("linked-checkpoint", group, message)


def _check_twins(inventory: Inventory) -> Iterator[Finding]:
    """Names of one folder that are one name on a file system that ignores case, or forms of accented letters."""
    names: dict[tuple[PurePosixPath, str], list[str]] = defaultdict(list)
    for entry in inventory.scan.entries:
        if not contents.is_not_ours(entry.path) and entry.path not in inventory.told:  # it goes anyhow
            folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", entry.path.name).casefold())
            names[entry.path.parent, folded].append(entry.path.name)
    for (folder, _), twins in names.items():
        if len(twins) > 1:
            message = f"{' and '.join(twins)} are one name where case makes no difference"
            yield finding("case-twins", folder / twins[0], message)
