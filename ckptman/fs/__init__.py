"""Bytes on a disk: opened safely, placed without ever overwriting, written whole or not at all.

Promises: no file at a final name is half a file, nothing that is there is replaced, a source is never changed unless
it is to be moved. May not be done here: knowing what a file means. Nowhere else is fsync, flock, link or unlink called.
"""

from __future__ import annotations

from ckptman.fs.files import FileState
from ckptman.fs.folders import make_folders
from ckptman.fs.placing import Batch, Mode
from ckptman.fs.writing import write_atomically

__all__ = [
    "Batch",
    "FileState",
    "Mode",
    "cache",
    "files",
    "folders",
    "locks",
    "make_folders",
    "moving",
    "placing",
    "probing",
    "write_atomically",
]
