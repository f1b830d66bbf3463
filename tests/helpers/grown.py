"""Trees and raw outputs of any number of runs, on the disk: small files of real form, each with bytes of its own."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ckptman.rules.recipe import TrainConfig
from ckptman.tree.contents import Run
from ckptman.tree.records import SourceFile, signed
from tests.helpers.many_runs import METRICS, runs_of_grid
from tests.helpers.raw import START, write_checkpoint

_STAND_INS = {2: 0xA5C3, 4: 0x5AC3A53C}
"""By the bytes that a pickle takes for it, a seed that stands for any other."""


def grow_tree(root: Path, runs: int, *, width: int = 8) -> Path:
    """A tree of so many runs, of two files each, as `ingest` would have left it."""
    make = _files(root.with_name(f"{root.name}.pt"), width)
    for run in islice(runs_of_grid(max(3, runs // 512), METRICS, width=width), runs):
        assert run.record is not None
        folder = root / run.folder
        folder.mkdir(parents=True)
        entries = []
        for entry in run.record.checkpoints:
            data = make(run, entry.kind, entry.step or 0)
            (folder / entry.file).write_bytes(data)
            state = (folder / entry.file).stat()
            source = SourceFile(path=f"{run.folder.name}/{entry.file}", size=len(data), mtime_ns=state.st_mtime_ns,
                                inode=state.st_ino)  # fmt: skip
            digest = hashlib.sha256(data).hexdigest()
            entries.append(replace(entry, size=len(data), sha256=digest, source=source))
        record = replace(run.record, checkpoints=tuple(entries))
        (folder / "run.json").write_bytes(signed(record))
    return root


def grow_source(source: Path, runs: int, *, width: int = 8) -> Path:
    """Raw outputs of so many runs, of two files each: a folder for each seed, without W&B."""
    make = _files(source.with_name(f"{source.name}.pt"), width)
    for run in islice(runs_of_grid(max(3, runs // 512), METRICS, width=width), runs):
        assert run.record is not None
        folder = source / run.folder.name / run.record.group / run.folder.parent.name / "saved_models"
        folder.mkdir(parents=True)
        for number, entry in enumerate(run.record.checkpoints):
            (folder / entry.file).write_bytes(make(run, entry.kind, entry.step or 0))
            os.utime(folder / entry.file, (START + number, START + number))
    return source


def _files(scratch: Path, width: int) -> Callable[[Run, str, int], bytes]:
    """Makes a run's file: that of another run of its cell, with its own seed."""
    made: dict[tuple[object, ...], _Template] = {}

    def make(run: Run, kind: str, step: int) -> bytes:
        seed = run.config["seed"]
        size = 2 if seed < 1 << 16 else 4
        key = (run.folder.parent, kind, size)
        if key not in made:
            values = {**run.config, "seed": _STAND_INS[size]}
            path = write_checkpoint(scratch, TrainConfig.from_dict(values), step=step)
            made[key] = _Template(path, size)
            path.unlink()
        return made[key].file(seed)

    return make


class _Template:
    def __init__(self, path: Path, size: int) -> None:
        self.data = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            [pickle] = [item for item in archive.infolist() if item.filename.endswith("data.pkl")]
            content = archive.read(pickle)
        self.pickle = self.data.index(content)
        self.end = self.pickle + len(content)
        stand_in = _STAND_INS[size].to_bytes(size, "little")
        [self.seed] = [at for at in _places(self.data, stand_in) if b"X\x04\0\0\0seed" in self.data[at - 14 : at]]
        self.size = size
        self.crcs = _places(self.data, pickle.CRC.to_bytes(4, "little"))

    def file(self, seed: int) -> bytes:
        made = bytearray(self.data)
        made[self.seed : self.seed + self.size] = seed.to_bytes(self.size, "little")
        crc = zlib.crc32(made[self.pickle : self.end]).to_bytes(4, "little")
        for place in self.crcs:
            made[place : place + 4] = crc
        return bytes(made)


def _places(data: bytes, piece: bytes) -> list[int]:
    return [found.start() for found in re.finditer(re.escape(piece), data)]
