"""The least of a job, in Python: the same files read, hashed, written and synced on all cores, and nothing checked.

    python -m benchmarks.bare copy SOURCE DESTINATION
    python -m benchmarks.bare link SOURCE DESTINATION
    python -m benchmarks.bare read TREE
    python -m benchmarks.bare hash TREE
    python -m benchmarks.bare list TREE

What takes longer than a target allows is out of reach of any program in Python that keeps the same promises; what lies
between this and ckptman is what ckptman does besides: its start, plans, checks, and what it says.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

PIECE: Final = 1 << 20
WAITING: Final = 8
"""Threads of a process that wait for the disk: a sync sets free the interpreter."""


def folders(top: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder with checkpoints, and their names."""
    inner = [top]
    while inner:
        at = inner.pop()
        names = []
        with os.scandir(at) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    inner.append(entry.path)
                elif entry.name.endswith(".pt"):
                    names.append(entry.name)
        if names:
            yield at, names


def synced(path: str, flags: int, content: bytes = b"") -> None:
    """Open a file or a folder, write what is given, and wait until it is on the disk."""
    descriptor = os.open(path, flags, 0o666)
    try:
        if content:
            os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hashed(path: str, into: str | None = None) -> str:
    """The SHA-256 of a file, copied and synced in the same pass where it is to be."""
    digest, buffer = hashlib.sha256(), bytearray(PIECE)
    view = memoryview(buffer)
    source = os.open(path, os.O_RDONLY)
    target = None if into is None else os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        while count := os.readv(source, [buffer]):
            digest.update(view[:count])
            if target is not None:
                os.write(target, view[:count])
        if target is not None:
            os.fsync(target)
    finally:
        os.close(source)
        if target is not None:
            os.close(target)
    return digest.hexdigest()


def placed(top: str, into: str, *, copied: bool) -> Callable[[str, list[str]], None]:
    """Bring a run's files to their folder, with a record of them: under its name is what is on the disk."""

    def place(folder: str, names: list[str]) -> None:
        target = into + folder.removeprefix(top)
        os.makedirs(target)
        record = {}
        for name in names:
            source, final = f"{folder}/{name}", f"{target}/{name}"
            if copied:
                record[name] = hashed(source, f"{final}.new")
                os.rename(f"{final}.new", final)
            else:
                record[name] = hashed(source)
                os.link(source, final)
        synced(f"{target}/run.json.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, json.dumps(record).encode())
        os.rename(f"{target}/run.json.new", f"{target}/run.json")
        synced(target, os.O_RDONLY)

    return place


def read(folder: str, names: list[str]) -> None:
    """Read a run's small files and the record beside them: what each header and run.json is judged by."""
    for name in names:
        with open(f"{folder}/{name}", "rb") as file:
            zlib.crc32(file.read())
    with open(f"{folder}/run.json", "rb") as file:
        content = file.read()
    hashlib.sha256(content).hexdigest()
    json.loads(content)


def hash_all(folder: str, names: list[str]) -> None:
    """Hash all files of a run."""
    for name in names:
        hashed(f"{folder}/{name}")


def line(folder: str, names: list[str]) -> None:
    """Write the record of a run as one line."""
    with open(f"{folder}/run.json", "rb") as file:
        record = json.loads(file.read())
    sys.stdout.write(f"{json.dumps({'folder': folder, 'files': names, 'record': record})}\n")


JOBS: Final[dict[str, Callable[..., Callable[[str, list[str]], None]]]] = {
    "copy": lambda top, into: placed(top, into, copied=True),
    "link": lambda top, into: placed(top, into, copied=False),
    "read": lambda _top: read,
    "hash": lambda _top: hash_all,
    "list": lambda _top: line,
}


def share(job: Callable[[str, list[str]], None], top: str, first: int, step: int, threads: int) -> None:
    """Do every so many-th run."""
    mine = [found for index, found in enumerate(folders(top)) if index % step == first]
    if threads == 1:
        for found in mine:
            job(*found)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda found: job(*found), mine):
            pass


def main() -> int:
    """Do a job by as many processes as there are cores."""
    name, top, *rest = sys.argv[1:]
    job, cores = JOBS[name](top, *rest), os.cpu_count() or 1
    threads = WAITING if rest else 1
    children = []
    for first in range(1, cores):
        if child := os.fork():
            children.append(child)
            continue
        share(job, top, first, cores, threads)
        sys.stdout.flush()
        os._exit(0)
    share(job, top, 0, cores, threads)
    return max([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], default=0)


if __name__ == "__main__":
    sys.exit(main())
