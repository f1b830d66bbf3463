"""What a file system can do, tried out with two small files that are gone afterwards."""

# ruff: noqa: PTH116, PTH123

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ckptman.fs import placing


@dataclass(frozen=True)
class Abilities:
    """What was found out about the file system of a folder."""

    free: int
    """Bytes."""
    writable: bool
    """Whether a file could be made; without, nothing of the rest is known."""
    hard_links: bool = False
    locks: bool = False
    """Whether a lock on a file keeps a second one out; some network file systems grant it to everybody."""
    reflinks: bool = False
    """Whether a copy can share the blocks of its source."""
    tells_case_apart: bool = False


def probe(folder: Path) -> Abilities:
    """Try out the file system of a folder.

    Raises:
        OSError: the folder cannot be reached.
    """
    free = shutil.disk_usage(folder).free
    try:
        made = tempfile.TemporaryDirectory(prefix=".ckptman-probe-", dir=folder)
    except OSError:
        return Abilities(free=free, writable=False)
    with made as name, open(Path(name, "probe"), "w+b") as one, open(Path(name, "copy"), "w+b") as two:
        one.write(b"ckptman" * 1024)
        one.flush()
        return Abilities(
            free=free,
            writable=True,
            hard_links=_links(Path(name)),
            locks=_locks(Path(name, "probe")),
            reflinks=placing.reflink(one.fileno(), two.fileno()),
            tells_case_apart=not os.path.lexists(Path(name, "PROBE")),
        )


def _links(folder: Path) -> bool:
    try:
        os.link(folder / "probe", folder / "link")
    except OSError:
        return False
    return os.stat(folder / "link").st_ino == os.stat(folder / "probe").st_ino


def _locks(path: Path) -> bool:
    """Whether the second of two locks is refused: each is on a descriptor of its own, as two processes have it."""
    with open(path, "rb") as first, open(path, "rb") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False
