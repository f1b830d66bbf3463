"""Small files, written whole or not at all; and final names, given only where they are free."""

# One kind of call throughout: most of these, with descriptors, dir_fd and flags, have no counterpart in pathlib.

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ckptman.fs import faults, files, folders
from ckptman.fs.faults import shown
from ckptman.text import MachineError

_RENAME_NOREPLACE = 1
"""`RENAME_NOREPLACE` in linux/fs.h."""

NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""What link(2) answers where a file system has no hard links (EPERM also where the file is another user's)."""


def write_atomically(
    path: Path,
    data: bytes,
    *,
    replace: bool,
    root: Path | None = None,
    check: Callable[[Path], object] | None = None,
) -> bool:
    """Write a whole file, durably, so that whoever reads `path` sees all of the old bytes or all of the new.

    A replaced file keeps its permission bits. A file that has these bytes already is not touched.

    Args:
        path: The file; its folder exists.
        data: All of its bytes.
        replace: Whether a file that is there gives way; otherwise other bytes there are a `faults.TakenError`.
        root: The tree that the file is of: below it no symbolic link is followed.
        check: Called with the path of the whole temporary file; if it raises, the file never gets its name.

    Returns:
        Whether anything was written.

    Raises:
        faults.TakenError: other bytes are there and `replace` is off, or the file appeared meanwhile.
        RefusedError: `not-a-file` or `symbolic-link`, where `path` is no regular file; `symbolic-link` or
            `not-a-folder`, where a folder above it is none; `changed-while-read`, where somebody else wrote to it
            meanwhile; `unreadable`; `name-too-long`.
        MachineError: as `placing.Batch.stage`.
    """
    with ExitStack() as cleanup:
        folder = folders.open_folder(path.parent, root)
        cleanup.callback(files.close, folder)
        existing = folders.stat_name(folder, path)
        if existing is not None:
            faults.check_regular(path, existing)
            same = existing.st_size == len(data) and files.hash_file(path, folder=folder)[0]
            if same == hashlib.sha256(data).hexdigest():
                return False
            if not replace:
                raise faults.TakenError(path)
        temporary = folders.temporary_name()
        cleanup.callback(folders.discard, folder, temporary)  # before it exists, so that no interrupt can come between
        with faults.writing(path):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
            cleanup.callback(files.close, descriptor)
            if existing is not None:
                os.fchmod(descriptor, existing.st_mode & 0o777)
            write_all(descriptor, memoryview(data))
            os.fsync(descriptor)
        if check is not None:
            check(path.with_name(temporary))
        with faults.writing(path):
            if existing is None:
                give_name(folder, temporary, path)
            else:
                _replace(folder, temporary, path, files.FileState.from_stat(existing))
        folders.sync_folder((path.parent, folder))
    return True


def make_file(folder: int, path: Path, text: str) -> None:
    """Make a small file in an open folder, whole and at once, for as long as this process lives: nothing is synced.

    Raises:
        faults.TakenError: something has the name.
        MachineError: as `placing.Batch.stage`.
    """
    temporary = folders.temporary_name()
    with ExitStack() as cleanup, faults.writing(path):
        cleanup.callback(folders.discard, folder, temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        cleanup.callback(files.close, descriptor)
        write_all(descriptor, memoryview(text.encode()))
        give_name(folder, temporary, path)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of the bytes."""
    while data:
        data = data[os.write(descriptor, data) :]


def give_name(folder: int, temporary: str, destination: Path) -> None:
    """Give a temporary file its final name, which must be free.

    Raises:
        faults.TakenError: it is not.
        MachineError: `cannot-place-safely`, where the file system has neither hard links nor renameat2(2).
        OSError: anything else.
    """
    name = destination.name
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError as error:
        if not _one_file(folder, temporary, name):  # over NFS, a link that was made may be reported as failed
            raise faults.TakenError(destination) from error
    except FileNotFoundError as error:
        raise MachineError(
            f"the temporary file for {shown(destination)} has vanished",
            code="tree-busy",
            fix="Let no other ckptman work on this tree at the same time, then do it again.",
        ) from error
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        _rename_to_free_name(folder, temporary, destination)


def _one_file(folder: int, one: str, other: str) -> bool:
    first = os.stat(one, dir_fd=folder, follow_symlinks=False)
    try:
        return os.path.samestat(first, os.stat(other, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:  # it has gone since
        return False


def _rename_to_free_name(folder: int, temporary: str, destination: Path) -> None:
    try:
        rename_noreplace(folder, temporary, folder, destination.name)
    except FileExistsError as error:
        raise faults.TakenError(destination) from error
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        raise MachineError(
            f"{shown(destination)} cannot be placed: its file system has neither hard links nor a rename that never "
            "overwrites",
            code="cannot-place-safely",
            fix="Choose a root on another file system.",
        ) from error


def give_folder_name(above: int, temporary: str, destination: Path) -> None:
    """Give a temporary folder its final name, which must be free.

    Raises:
        faults.TakenError: it is not.
        OSError: anything else.
    """
    try:
        rename_noreplace(above, temporary, above, destination.name)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise faults.TakenError(destination) from error
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        try:  # the plain rename of a folder replaces nothing but an empty folder
            os.rename(temporary, destination.name, src_dir_fd=above, dst_dir_fd=above)
        except OSError as plain:
            if plain.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise faults.TakenError(destination) from plain
            raise


def rename_noreplace(above: int, old: str, below: int, new: str) -> None:
    """renameat2(2) with RENAME_NOREPLACE, which Python does not offer."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # glibc before 2.28, or not Linux
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), new) from None
    if renameat2(above, os.fsencode(old), below, os.fsencode(new), _RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), new)


def _replace(folder: int, temporary: str, destination: Path, read: files.FileState) -> None:
    """Put a temporary file in the place of one that is as it was `read`."""
    now = folders.stat_name(folder, destination)
    if now is None or files.FileState.from_stat(now) != read:
        raise faults.changed(destination)
    os.rename(temporary, destination.name, src_dir_fd=folder, dst_dir_fd=folder)
