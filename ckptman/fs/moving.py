"""Moving within one tree: a file or a folder gets another name, and never that of something that is there."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path, PurePosixPath

from ckptman.text import MachineError, RefusedError

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


def move_within(root: Path, old: PurePosixPath, new: PurePosixPath) -> None:
    """Rename `old` to `new`, both relative to `root`, durably; folders above `new` are made.

    Raises:
        RefusedError: (`taken`) where something has the new name; (`changed`) where there is nothing of the old one.
        MachineError: where the file system has no rename that never overwrites, or refuses it.
    """
    source, target = root / old, root / new
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _rename(source, target)
        for folder in {source.parent, target.parent, *(folder.parent for folder in made)}:
            _sync(folder)
    except FileExistsError as error:
        raise RefusedError(
            f"{source} is not moved: {target} is there already", code="taken", fix=f"Look at both: {source}, {target}"
        ) from error
    except FileNotFoundError as error:
        raise RefusedError(
            f"{source} is not moved: it is no longer there", code="changed", fix="Validate the tree again."
        ) from error
    except OSError as error:
        raise MachineError(
            f"{source} cannot be moved to {target}: {error.strerror}",
            code="cannot-move",
            fix="Nothing was changed by this step; mend what the message says, and do it again.",
        ) from error


def remove_emptied(root: Path, path: PurePosixPath) -> None:
    """Remove the folders above `path` that a move out of them has left empty, up to the root."""
    for folder in path.parents:
        if not folder.parts or any((root / folder).iterdir()):
            return
        try:
            os.rmdir(root / folder)  # noqa: PTH106
        except OSError:  # something has come into it, or it may not be removed: an empty folder loses nothing
            return
        _sync((root / folder).parent)


def remove_empty_folder(root: Path, folder: PurePosixPath) -> None:
    """Remove a folder without anything in it, and the empty ones below it.

    Raises:
        RefusedError: (`taken`) where there is a file in it.
    """
    try:
        for path, _, _ in os.walk(root / folder, topdown=False):
            os.rmdir(path)  # noqa: PTH106
        _sync((root / folder).parent)
    except OSError as error:
        raise RefusedError(
            f"{root / folder} is not removed: {error.strerror}", code="taken", fix="Look at what is in it."
        ) from error


def _rename(old: Path, new: Path) -> None:
    """renameat2(2) with RENAME_NOREPLACE, which Python does not offer."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # glibc before 2.28, or not Linux
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(new)) from None
    if renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(new))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
