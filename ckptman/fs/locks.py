"""Locks that the kernel drops with their process, however that ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
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
        MachineError: `tree-busy`, at once, if another process holds the lock; others as `placing.place_file`.
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
