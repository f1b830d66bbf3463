"""Small files, written whole or not at all; and final names, given only where they are free."""

# One kind of call throughout: most of these, with descriptors, dir_fd and flags, have no counterpart in pathlib.

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from ckptman.fs import faults, files, folders
from ckptman.fs.faults import shown
from ckptman.text import MachineError, RefusedError

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
    [outcome] = write_together([(path, data)], replace=replace, root=root, check=check)
    if isinstance(outcome, RefusedError):
        raise outcome
    return outcome


def write_together(
    items: Sequence[tuple[Path, bytes]],
    *,
    replace: bool,
    root: Path | None = None,
    check: Callable[[Path], object] | None = None,
    all_or_none: bool = False,
) -> list[bool | RefusedError]:
    """As `write_atomically`, of many files: the disk is waited for once for `files.AT_ONCE` of them.

    Args:
        items: Paths, and all bytes of each.
        replace: As there.
        root: As there.
        check: As there.
        all_or_none: Where one of up to `files.AT_ONCE` files cannot be written, raise why and write none.

    Returns:
        For each file whether anything was written, or why it alone could not be.

    Raises:
        RefusedError: with `all_or_none`, the first of them.
        MachineError: as `placing.Batch.stage`. Each file is then as it was, or all of the new one.
    """
    found: list[bool | RefusedError] = []
    for at in range(0, len(items), files.AT_ONCE):
        found += _write_some(items[at : at + files.AT_ONCE], replace, root, check, all_or_none)
    return found


def _write_some(
    items: Sequence[tuple[Path, bytes]],
    replace: bool,
    root: Path | None,
    check: Callable[[Path], object] | None,
    all_or_none: bool,
) -> list[bool | RefusedError]:
    with ExitStack() as cleanup:
        way = None if root is None else cleanup.enter_context(folders.Way(root))
        writes = [_Write(path, data, replace, way, check, cleanup) for path, data in items]
        for write in writes:
            write.take(write.prepare)
            if all_or_none and write.refusal is not None:
                raise write.refusal
        files.in_parallel(lambda write: write.take(write.sync), writes)
        for write in writes:
            write.take(write.name)
        files.in_parallel(lambda write: write.take(write.sync_folder), writes)
        return [write.refusal or write.is_written for write in writes]


class _Write:
    """A file that is being written."""

    def __init__(
        self,
        path: Path,
        data: bytes,
        replace: bool,
        way: folders.Way | None,
        check: Callable[[Path], object] | None,
        cleanup: ExitStack,
    ) -> None:
        self._path, self._data, self._replace, self._way = path, data, replace, way
        self._check, self._cleanup = check, cleanup
        self.is_at_work, self.is_written = True, False
        self.refusal: RefusedError | None = None
        self._temporary = folders.temporary_name()
        self._existing: os.stat_result | None = None
        self._folder = self._fd = -1

    def take(self, step: Callable[[], None]) -> None:
        """Take the next step, unless the file is done, or could not take the one before."""
        if self.is_at_work:
            try:
                step()
            except RefusedError as error:
                self.refusal, self.is_at_work = error, False

    def prepare(self) -> None:
        """Write all bytes under a temporary name, unless they are there."""
        path, cleanup = self._path, self._cleanup
        self._folder = folder = folders.open_folder(path.parent, way=self._way)
        cleanup.callback(files.close, folder)
        self._existing = existing = folders.stat_name(folder, path)
        if existing is not None:
            faults.check_regular(path, existing)
            same = existing.st_size == len(self._data) and files.hash_file(path, folder=folder)[0]
            if same == hashlib.sha256(self._data).hexdigest():
                self.is_at_work = False
                return
            if not self._replace:
                raise faults.TakenError(path)
        cleanup.callback(folders.discard, folder, self._temporary)  # before it exists: no interrupt can come between
        with faults.writing(path):
            self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
            cleanup.callback(files.close, self._fd)
            if existing is not None:
                os.fchmod(self._fd, existing.st_mode & 0o777)
            write_all(self._fd, memoryview(self._data))
            begin_sync(self._fd)

    def sync(self) -> None:
        """Wait until the bytes are on the disk."""
        with faults.writing(self._path):
            os.fsync(self._fd)

    def name(self) -> None:
        """Give the file its name."""
        if self._check is not None:
            self._check(self._path.with_name(self._temporary))
        with faults.writing(self._path):
            if self._existing is None:
                give_name(self._folder, self._temporary, self._path)
            else:
                _replace(self._folder, self._temporary, self._path, files.FileState.from_stat(self._existing))
        self.is_written = True

    def sync_folder(self) -> None:
        """Wait until the name is on the disk."""
        folders.sync_folder((self._path.parent, self._folder))


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


def begin_sync(descriptor: int) -> None:
    """Let the disk begin to write a file, while others are written; `fsync` then waits less. Advice, and no promise."""
    if sys.platform == "linux":
        with suppress(OSError):  # what is not on the disk yet is written, and none of it dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


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
    try:
        first, second = (os.stat(name, dir_fd=folder, follow_symlinks=False) for name in (one, other))
    except FileNotFoundError:  # one has gone since
        return False
    return os.path.samestat(first, second)


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
