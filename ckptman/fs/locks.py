"""Locks that the kernel drops with their process, however that ends."""

# ruff: noqa: PTH108, PTH116

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptman.fs import files, folders
from ckptman.fs.faults import shown
from ckptman.text import MachineError


@contextmanager
def lock_tree(root: Path) -> Iterator[bool]:
    """Keep other ckptman processes from writing to the tree until the `with` statement ends.

    The lock is flock(2) on the root folder: it leaves no file behind, and the kernel drops it with the process, however
    that ends. Reading needs no lock.

    Yields:
        Whether the tree is locked: some network file systems cannot lock a folder, and then the work goes on without.

    Raises:
        MachineError: `tree-busy`, at once, if another process holds the lock; others as `placing.Batch.stage`.
    """
    descriptor = folders.open_folder(root)
    try:
        yield _lock(descriptor, root)
    finally:
        files.close(descriptor)


def _lock(descriptor: int, root: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise MachineError(
            f"another ckptman is writing to {shown(root)}",
            code="tree-busy",
            fix="Wait until it is done, then do it again.",
        ) from error
    except OSError:  # no locks on folders there
        return False
    return True


# A lock on a file of its own ------------------------------------------------------------------------------------------

_TRIES, _WAIT = 5, 0.1  # another process may be looking, which takes the lock for an instant

_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
"""How flock says that another has the lock, the second on some NFS servers."""

_LOCAL_LOCKS = {"nfs": {"nolock", "local_lock=all", "local_lock=flock"}, "nfs4": {"local_lock=all", "local_lock=flock"}}
"""Mount options by which flock on a network file system is kept to the machine."""


def take_file(path: Path) -> tuple[int, bool] | None:
    """Lock a file, which is made where it is missing, until `release_file`, or the end of the process.

    Returns:
        Its descriptor, and whether it is locked: the file system may have no locks. None where another process has it.

    Raises:
        OSError: as open(2).
    """
    for left in reversed(range(_TRIES)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _BUSY:
                return descriptor, False
            files.close(descriptor)
            if left:
                time.sleep(_WAIT)
            continue
        if _is_file_at(descriptor, path):
            return descriptor, True
        files.close(descriptor)  # its last owner has just removed it
    return None


def release_file(path: Path, descriptor: int, *, locked: bool) -> None:
    """Let go of what `take_file` gave; a locked file is removed."""
    if locked:
        with suppress(OSError):
            os.unlink(path)
    files.close(descriptor)


def is_taken(path: Path) -> bool | None:
    """Whether another process has the lock on a file; None where the locks there do not tell. Nothing is written."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # whoever has the lock has the file
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in _BUSY else None
    else:
        return False if reach_other_machines(descriptor) else None
    finally:
        files.close(descriptor)


def reach_other_machines(descriptor: int) -> bool:
    """Whether flock on an open file is seen by every machine that has the file. A local disk is on one machine."""
    kind, options = _mount_of(descriptor)
    if kind == "lustre":
        return "flock" in options
    if kind in ("beegfs", "fuse.sshfs", "9p"):
        return False
    return options.isdisjoint(_LOCAL_LOCKS.get(kind, set()))


def _mount_of(descriptor: int) -> tuple[str, set[str]]:
    """Type and options of the file system that an open file is on; empty where the system does not tell."""
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with os.fdopen(os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC), errors="replace") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return "", set()
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) > 5 and len(kinds) > 2 and fields[2] == number:
            return kinds[0], {*fields[5].split(","), *kinds[2].split(",")}
    return "", set()


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
