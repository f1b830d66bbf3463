"""Bytes on a disk: opened safely, placed without ever overwriting, written whole or not at all.

Promises: no file at a final name is half a file, nothing that is there is replaced, a source is never changed unless
it is to be moved. May not be done here: knowing what a file means. Nowhere else is fsync, flock, link or unlink called.
"""

from __future__ import annotations

from ckptman.fs.transfer import (
    Batch,
    FileState,
    Mode,
    Placement,
    TakenError,
    hash_file,
    is_partial,
    lock_tree,
    make_folders,
    remove_partials,
    remove_source,
    write_atomically,
)

__all__ = [
    "Batch",
    "FileState",
    "Mode",
    "Placement",
    "TakenError",
    "hash_file",
    "is_partial",
    "lock_tree",
    "make_folders",
    "remove_partials",
    "remove_source",
    "write_atomically",
]
