"""Folders of a tree: made durably, never through a link, and rid of what an interrupted run left."""

# One kind of call throughout: most of these, with descriptors, dir_fd and flags, have no counterpart in pathlib.
# ruff: noqa: PTH106, PTH116, PTH208

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from ckptman.fs import faults, files
from ckptman.fs.faults import shown
from ckptman.text import UsageError


def make_folders(path: Path, root: Path) -> None:
    """Make `path` and its missing parents, durably, without ever leaving `root`.

    Args:
        path: `root` itself, or a folder below it.
        root: Made too where it is missing. It may be reached through symbolic links; below it they are refused.

    Raises:
        UsageError: `outside-root`, if `path` is not below `root`.
        RefusedError: `symbolic-link` or `not-a-folder`, for what stands in the way; `name-too-long`.
        MachineError: as `placing.Batch.stage`.
    """
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
        raise UsageError(f"{shown(path)} is not below {shown(root)}", code="outside-root", fix="Name a folder in it.")
    _make_root(root)
    at, descriptor = root, open_folder(root)
    try:
        for part in path.relative_to(root).parts:
            at = at / part
            below = _enter_folder(descriptor, at)
            files.close(descriptor)
            descriptor = below
    finally:
        files.close(descriptor)


def is_partial(name: str) -> bool:
    """Whether a file or folder of this name is one of ckptman's own temporary ones."""
    return _PARTIAL.fullmatch(name) is not None


def remove_partials(folder: Path) -> list[str]:
    """Remove the temporary files and folders that an interrupted run left directly in a folder.

    Call it under `locks.lock_tree`: those of a run that is at work look the same.

    Returns:
        Their names, sorted; none for a folder that does not exist.

    Raises:
        MachineError: as `placing.Batch.stage`.
    """
    if _stat_path(folder) is None:
        return []
    removed = []
    descriptor = open_folder(folder)
    try:
        with faults.writing(folder):
            names = sorted(filter(is_partial, os.listdir(descriptor)))
        for name in names:
            found = stat_name(descriptor, folder / name)
            if found is not None and (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                with faults.writing(folder / name):
                    if stat.S_ISDIR(found.st_mode):
                        _remove_tree(folder / name)
                    else:
                        os.unlink(name, dir_fd=descriptor)
                removed.append(name)
    finally:
        files.close(descriptor)
    return removed


def temporary_name() -> str:
    """33 bytes, however long the final name is: it fits wherever the final name fits."""
    return f".ckptman-{secrets.token_hex(8)}.partial"


_PARTIAL = re.compile(r"\.ckptman-[0-9a-f]{16}\.partial")


def sync_folder(folder: tuple[Path, int]) -> None:
    """Wait until the names in an open folder are on the disk."""
    path, descriptor = folder
    with faults.writing(path):
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems have no fsync for folders
                raise


def open_folder(path: Path) -> int:
    """A descriptor of a folder."""
    with faults.writing(path):
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def _make_root(root: Path) -> None:
    missing = []
    while root != root.parent and _stat_path(root) is None:
        missing.append(root)
        root = root.parent
    for folder in reversed(missing):
        above = open_folder(folder.parent)
        try:
            _make_folder(above, folder)
        finally:
            files.close(above)


def _enter_folder(above: int, path: Path) -> int:
    """Open the folder `path`, which is directly in `above`, and make it where it is missing."""
    found = stat_name(above, path)
    if found is None:
        _make_folder(above, path)
        found = stat_name(above, path)
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise faults.not_a_folder(path, found)
    with faults.writing(path):
        return os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)


def _make_folder(above: int, path: Path) -> None:
    with faults.writing(path), suppress(FileExistsError):
        os.mkdir(path.name, dir_fd=above)
    sync_folder((path.parent, above))


def stat_name(folder: int, path: Path) -> os.stat_result | None:
    """What has the name of `path` in an open folder, or None. A symbolic link is not followed."""
    with faults.writing(path):
        try:
            return os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None


def _stat_path(path: Path) -> os.stat_result | None:
    with faults.writing(path):
        try:
            return os.stat(path)
        except FileNotFoundError:
            return None


def discard(folder: int, name: str) -> None:
    """Remove a temporary file, if it is there."""
    with suppress(OSError):  # there is none, or it stays, and the next run removes it
        os.unlink(name, dir_fd=folder)


def discard_tree(path: Path) -> None:
    """Remove a temporary folder and what is in it, if it is there."""
    with suppress(OSError):  # as above
        _remove_tree(path)


def _remove_tree(path: Path) -> None:
    for at, below, names in os.walk(path, topdown=False):
        descriptor = os.open(at, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for name in names:
                os.unlink(name, dir_fd=descriptor)
            for name in below:
                os.rmdir(name, dir_fd=descriptor)
        finally:
            files.close(descriptor)
    os.rmdir(path)
