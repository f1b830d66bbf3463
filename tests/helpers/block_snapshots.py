"""A small ext4 on a loop device, whose image is copied while an ingest works: what a power cut leaves, by the kernel.

Whatever the kernel has not written to the device is not in the image. Before each copy the journal is committed, as any
other program's fsync does: names are on the disk then, and the bytes of files that nobody synced are not.
"""

from __future__ import annotations

import posix
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ckptman.tree import records
from tests.helpers.disturbed import Call, Disturbance, between
from tests.helpers.faulty_ingests import IngestTrial
from tests.helpers.raw import snapshot

_MOMENTS = frozenset({"unlink", "rename", "renameat2", "link", "fsync", "rmdir"})


@contextmanager
def mounted(image: Path, place: Path, *, make: bool = False, inodes: int | None = None) -> Iterator[Path]:
    """An image as a file system; its journal is played first, as after a power cut."""
    place.mkdir(exist_ok=True)
    if make:
        with image.open("wb") as file:
            file.truncate(8 << 20)
        few = () if inodes is None else ("-N", str(inodes))
        _call("mkfs.ext4", "-q", "-F", "-b", "1024", "-m", "0", *few, image)
    _call("mount", "-t", "ext4", "-o", "loop,commit=300,noauto_da_alloc", image, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], capture_output=True, check=False)


def _call(*words: object) -> None:
    try:
        subprocess.run(list(map(str, words)), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system may be mounted here (root, mkfs.ext4 and a loop device do it): {error}")


class Snapshots(Disturbance):
    """Copies an image after calls that change the disk: after each `unlink`, and every `every`th of the others."""

    def __init__(self, image: Path, disk: Path, every: int) -> None:
        super().__init__()
        self.image, self.disk, self.every = image, disk, every
        self.taken: list[Path] = []
        self._lock, self._count = threading.Lock(), 0

    def wrap(self, name: str, function: Call) -> Call:
        def call(*arguments: Any, **options: Any) -> Any:
            done = function(*arguments, **options)
            if name in _MOMENTS:
                with self._lock:
                    self._count += 1
                    if name == "unlink" or self._count % self.every == 0:
                        self._take()
            return done

        return call

    def _take(self) -> None:
        probe = posix.open(self.disk / "probe", posix.O_RDWR | posix.O_CREAT)
        posix.write(probe, b"x")
        posix.fsync(probe)
        posix.close(probe)
        copy = self.image.with_name(f"copy{len(self.taken)}")
        shutil.copyfile(self.image, copy)
        self.taken.append(copy)


def cut_at_every_moment(home: Path, mode: str, there: str, every: int = 2) -> int:
    """Copy the image while an ingest works; see to it that every promise holds in each copy. How many there were.

    `there`: what another program has put into the tree a moment before: nothing, files, files that it synced, or all.
    """
    image = home / "image"
    with mounted(image, home / "disk", make=True) as disk:
        trial = IngestTrial(disk / "home", mode, with_wandb=False)
        placed = home / "placed"
        shutil.copytree(trial.root, placed)
        trial.furnish()
        subprocess.run(["sync", "-f", disk], check=True)
        others: set[str] = set()
        if there != "nothing":
            new = snapshot(placed).keys() - trial.before.keys()
            others = {name for name in new if there == "all" or name.endswith(".pt")}
            for name in others:
                (trial.root / name).parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", placed / name, trial.root / name], check=True)
                if there == "synced files":
                    subprocess.run(["sync", trial.root / name], check=True)
        snapshots = Snapshots(image, disk, every)
        with between(snapshots):
            assert trial.act()
        trial.check(done=True)
        source, root = trial.source.relative_to(disk), trial.root.relative_to(disk)
    for copy in snapshots.taken:
        with mounted(copy, home / "disk") as disk:
            trial.source, trial.root = disk / source, disk / root
            _check(trial, others)
        copy.unlink()
    return len(snapshots.taken)


def _check(trial: IngestTrial, others: set[str]) -> None:
    if not others:
        return trial.check(done=False)
    tree = snapshot(trial.root)
    for name, data in trial.before.items():
        assert tree.get(name) == data, f"{name}, which was there, was changed"
    trial._check_source(tree)
    is_begun = not all((trial.source / name).exists() for name in trial.sources)
    for record in trial.root.rglob(records.RUN_FILE):
        if str(record.relative_to(trial.root)) not in others:
            trial._check_record(record.parent)
        elif is_begun:
            assert records.is_as_written(record), "a source is gone before the record of it is on the disk"
    return None
