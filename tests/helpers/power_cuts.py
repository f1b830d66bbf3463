"""A disk that keeps what was synced, and nothing else: what a power cut at any call of an ingest may leave.

Each call is watched. Bytes are on the disk once their file was synced, names once their folder was; a source that is
removed is gone at once, which is the worst order. After each call that changes the disk, two things that a cut may
leave are looked at: the synced names, and all names of now, each with the bytes that were synced.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import folders, moving, placing, writing
from ckptman.ingestion.ingesting import ingest
from ckptman.tree import records
from tests.helpers.disturbed import WRITING, Call, Disturbance, between
from tests.helpers.faulty_ingests import IngestTrial, InTurnsTrial, in_memory

Inode = int
Names = dict[str, tuple[Inode, bool]]
"""What is in a folder: inodes, and whether each is a folder."""


class Disk(Disturbance):
    """Watches every call, and remembers what is synced."""

    def __init__(self, root: Path, look: Callable[[Disk], None]) -> None:
        super().__init__()
        self.root, self.look, self.looks = root, look, 0
        self.bytes: dict[Inode, bytes] = {}
        self.names: dict[Inode, Names] = {}
        self._held: list[int] = []  # so that no inode is given to another file
        self._one_at_a_time, self._busy = threading.RLock(), False

    def wrap(self, name: str, function: Call) -> Call:
        def call(*arguments: Any, **options: Any) -> Any:
            with self._one_at_a_time:
                done = function(*arguments, **options)
                if not self._busy and name in WRITING:
                    self._busy = True
                    try:
                        if name == "fsync":
                            self.sync(arguments[0])
                        self.looks += 1
                        self.look(self)
                    finally:
                        self._busy = False
                return done

        return call

    def sync(self, descriptor: int) -> None:
        """What is behind an open descriptor is on the disk."""
        inode = os.fstat(descriptor).st_ino
        self._held.append(os.dup(descriptor))
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            self.names[inode] = names_of(f"/proc/self/fd/{descriptor}")
        else:
            self.bytes[inode] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def settle(self, folder: Path) -> None:
        """All below a folder has long been on the disk."""
        for path in (folder, *folder.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            self.sync(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)

    def left(self, *, synced_names: bool) -> dict[str, bytes]:
        """The tree after a power cut now."""
        found: dict[str, bytes] = {}
        pending = [("", self.root.stat().st_ino)] if self.root.exists() else []
        while pending:
            at, inode = pending.pop()
            names = self.names.get(inode, {}) if synced_names else names_of(self.root / at)
            for name, (below, is_folder) in names.items():
                if is_folder:
                    pending.append((f"{at}{name}/", below))
                else:
                    found[f"{at}{name}"] = self.bytes.get(below, b"")
        return found


def names_of(folder: Path | str) -> Names:
    with os.scandir(folder) as listing:
        return {item.name: (item.inode(), item.is_dir(follow_symlinks=False)) for item in listing}


class Cuts:
    """An ingest during which the power may go at any time."""

    def __init__(self, home: Path, mode: str, there: str) -> None:
        """`there`: what another program has put into the tree a moment ago: nothing, files, or all.

        Of nothing, three runs are copied in turns.
        """
        kind = InTurnsTrial if (mode, there) == ("copy", "nothing") else IngestTrial
        self.trial = kind(home, mode, with_wandb=mode == "move")
        self.there = there

    def run(self) -> int:
        """Returns after how many calls was looked at what a cut would leave."""
        trial = self.trial
        trial.furnish()
        disk = Disk(trial.root, self.look)
        disk.settle(trial.root)
        if self.there != "nothing":
            ingest(trial.source, trial.root, settle=0, with_wandb=trial.with_wandb)
        for record in trial.root.rglob(records.RUN_FILE) if self.there == "files" else ():
            if str(record.relative_to(trial.root)) not in trial.before:
                record.unlink()
        self.others = names_below(trial.root)
        try:
            with between(disk):
                assert trial.act()
            self.look(disk)
            trial.check(done=True)
            if self.there == "nothing":
                left = {name for name in disk.left(synced_names=True) if not _is_partial(name)}
                assert left == names_below(trial.root), "names are not on the disk"
        finally:
            disk.close()
        return disk.looks

    def look(self, disk: Disk) -> None:
        """See to it that all promises hold after a cut now."""
        sources = names_below(self.trial.source)
        for synced_names in (True, False):
            left = disk.left(synced_names=synced_names)
            kept = {hashlib.sha256(data).hexdigest() for name, data in left.items() if not _is_partial(name)}
            for name, data in left.items():
                if _is_partial(name) or name in self.others:
                    continue
                now = self.trial.root / name
                assert not now.exists() or data == now.read_bytes(), f"{name} has its name before its bytes"
                if name.endswith(records.RUN_FILE):
                    self._check_listed(name, json.loads(data), left)
            for name, source in self.trial.sources.items():
                if name not in sources and isinstance(source, bytes):
                    assert hashlib.sha256(source).hexdigest() in kept, f"{name} is removed before the tree has it"
                    if name.endswith(".pt"):
                        assert self._is_listed(source, left), f"{name} is removed before a record of it is on the disk"

    def _check_listed(self, name: str, record: dict[str, Any], left: dict[str, bytes]) -> None:
        for entry in record["checkpoints"]:
            file = name.replace(records.RUN_FILE, entry["file"])
            data = left.get(file, b"")
            assert hashlib.sha256(data).hexdigest() == entry["sha256"], f"{file} is recorded before it is on the disk"

    def _is_listed(self, source: bytes, left: dict[str, bytes]) -> bool:
        sha256 = hashlib.sha256(source).hexdigest()
        listed = (json.loads(data) for name, data in left.items() if name.endswith(records.RUN_FILE) and data)
        return any(entry["sha256"] == sha256 for record in listed for entry in record["checkpoints"])


def _is_partial(name: str) -> bool:
    return any(map(folders.is_partial, Path(name).parts))


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


def forget_the_kept_file(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(moving, "_sync_kept", lambda *_: None)


def forget_the_copy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(placing._Staged, "sync", lambda _: None)


def forget_the_record(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writing._Write, "sync", lambda _: None)


def forget_the_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folders, "sync_folder", lambda _: None)


CONTROLS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = {
    "a move that does not sync what was there": (forget_the_kept_file, "move", "all"),
    "a copy that is not synced": (forget_the_copy, "copy", "nothing"),
    "a record that is not synced": (forget_the_record, "copy", "nothing"),
    "folders that are not synced": (forget_the_names, "copy", "nothing"),
}

if __name__ == "__main__":  # by hand: MODE THERE
    with in_memory() as home:
        print(Cuts(home, *sys.argv[1:]).run())
