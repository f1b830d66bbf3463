"""Folders of a tree: made durably, never through a link, and rid of what an interrupted run left."""

# One kind of call throughout: most of these, with descriptors, dir_fd and flags, have no counterpart in pathlib.
# ruff: noqa: PTH116, PTH208

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from ckptman.fs import faults, files
from ckptman.fs.faults import shown
from ckptman.text import RefusedError, UsageError


def check_root(root: Path, fix: str) -> None:
    """See to it that a root is a folder, or has a folder above it in which it can be made. Nothing is written.

    Raises:
        UsageError: `not-a-folder`, with this fix.
    """
    # os.path's tests are False below a folder that may not be entered, where pathlib's raise.
    above = Path(os.getcwd(), root).parents  # noqa: PTH109
    there = next(path for path in (root, *above) if os.path.lexists(path))
    if not os.path.isdir(there):  # noqa: PTH112
        what = "not a folder" if os.access(there, os.F_OK) else "a symbolic link that leads nowhere"
        raise UsageError(f"{there} is {what}", code="not-a-folder", fix=fix)


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
    _check_below(path, root)
    _make_root(root)
    with faults.writing(path):
        files.close(descend(path, root, make=True))


def check_writable(folder: Path) -> None:
    """Check that a file can be written there.

    Raises:
        MachineError: it cannot (`permission-denied`, `disk-full` …).
    """
    import tempfile  # which few need, and which imports much

    with faults.writing(folder), tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"0")


def make_all(paths: Iterable[Path], root: Path) -> None:
    """As `make_folders`, of many: the disk is waited for once for each folder in which some are made.

    Raises:
        UsageError, RefusedError, MachineError: as `make_folders`.
    """
    made: dict[Path, int] = {}
    _make_root(root)
    try:
        with Way(root) as way:
            for path in paths:
                _check_below(path, root)
                with faults.writing(path):
                    files.close(way.to(path, make=True, made=made))
        files.in_parallel(sync_folder, list(made.items()))
    finally:
        for descriptor in made.values():
            files.close(descriptor)


def _check_below(path: Path, root: Path) -> None:
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
        raise UsageError(f"{shown(path)} is not below {shown(root)}", code="outside-root", fix="Name a folder in it.")


def is_partial(name: str) -> bool:
    """Whether a file or folder of this name is one of ckptman's own temporary ones."""
    return _PARTIAL.fullmatch(name) is not None


def remove_partials(folder: Path, root: Path | None = None) -> list[str]:
    """Remove the temporary files and folders that an interrupted run left directly in a folder, below `root`.

    Call it under `locks.lock_tree`: those of a run that is at work look the same.

    Returns:
        Their names, sorted; none for a folder that does not exist.

    Raises:
        MachineError: as `placing.Batch.stage`.
    """
    if _stat_path(folder) is None:
        return []
    removed = []
    descriptor = open_folder(folder, root)
    try:
        with faults.writing(folder):
            names = sorted({*filter(is_partial, os.listdir(descriptor))} - {OWNER_FILE})
        for name in names:
            found = stat_name(descriptor, folder / name)
            if found is not None and (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                with faults.writing(folder / name), suppress(FileNotFoundError):  # its process may be removing it too
                    if stat.S_ISDIR(found.st_mode):
                        _remove_tree(descriptor, name)
                    else:
                        os.unlink(name, dir_fd=descriptor)
                removed.append(name)
    finally:
        files.close(descriptor)
    return removed


def temporary_name() -> str:
    """33 bytes, however long the final name is: it fits wherever the final name fits."""
    return f".ckptman-{secrets.token_hex(8)}.partial"


OWNER_FILE = f".ckptman-{'0' * 16}.partial"
"""In a root, where flock does nothing: who is writing to the tree (`locks.lock_tree`)."""

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


def sync_path(folder: tuple[Path, int], root: Path) -> None:
    """Wait until the names in an open folder, and those that lead to it from `root`, are on the disk."""
    sync_folder(folder)
    path, descriptor = folder
    with ExitStack() as opened:
        for above in path.parents:
            if not above.is_relative_to(root):
                return
            with faults.writing(above):
                descriptor = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
            opened.callback(files.close, descriptor)
            sync_folder((above, descriptor))


def open_folder(path: Path, root: Path | None = None, *, way: Way | None = None) -> int:
    """A descriptor of a folder.

    Below `root` no symbolic link is followed, in whichever part of the path one stands, or is put meanwhile: what is
    done by the descriptor is done in a folder of the tree. `root` itself, and `path` without one, may be reached
    through links: these are the user's. `way`: the way from such a root to the last folder that was opened.

    Raises:
        RefusedError: `symbolic-link` or `not-a-folder`, for what stands on the way.
        MachineError: as `placing.Batch.stage`.
    """
    with faults.writing(path):
        return way.to(path) if way is not None else descend(path, path if root is None else root)


def descend(path: Path, root: Path, *, make: bool = False, made: dict[Path, int] | None = None) -> int:
    """As `open_folder`: open `root`, and from there each folder on the way in the one before, made where it is missing.

    A folder in which one is made is synced, or entered into `made` with a descriptor, for the caller to do so.

    Raises:
        OSError: as open(2).
        RefusedError, MachineError: as `make_folders`.
    """
    with Way(root) as way:
        return way.to(path, make=make, made=made)


class Way:
    """The folders from a root to one below it, kept open: what is opened next is mostly near, and few are entered."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: list[tuple[Path, int]] = []
        """Each lies in the one before."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def to(self, path: Path, *, make: bool = False, made: dict[Path, int] | None = None) -> int:
        """As `descend`; from the nearest folder on the way that is open."""
        flags = os.O_RDONLY | os.O_DIRECTORY
        if path == self._root:
            return os.open(path, flags)
        names = path.parts[:-1]
        while self._open and names[: len(self._open[-1][0].parts)] != self._open[-1][0].parts:
            files.close(self._open.pop()[1])
        if not self._open:
            path.relative_to(self._root)  # or it is refused
            self._open.append((self._root, os.open(self._root, flags)))
        at, above = self._open[-1]
        for part in names[len(at.parts) :]:
            at = at / part
            above = _enter_folder(above, at, make=make, made=made)
            self._open.append((at, above))
        return _enter_folder(above, path, make=make, made=made)

    def close(self) -> None:
        """Close them."""
        while self._open:
            files.close(self._open.pop()[1])


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


def _enter_folder(above: int, path: Path, *, make: bool, made: dict[Path, int] | None = None) -> int:
    """Open the folder `path`, which is directly in `above`; where it is missing, make it if that is wanted."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    if make and stat_name(above, path) is None:
        _make_folder(above, path, made)
    try:
        return os.open(path.name, flags, dir_fd=above)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        if (found := stat_name(above, path)) is not None and not stat.S_ISDIR(found.st_mode):
            raise faults.not_a_folder(path, found) from error
        return os.open(path.name, flags, dir_fd=above)  # a link was there for a moment


def _make_folder(above: int, path: Path, made: dict[Path, int] | None = None) -> None:
    with faults.writing(path), suppress(FileExistsError):
        os.mkdir(path.name, dir_fd=above)
    if made is None:
        sync_folder((path.parent, above))
    elif path.parent not in made:
        with faults.writing(path.parent):
            made[path.parent] = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=above)


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


def discard(folder: int, name: str) -> bool:
    """Remove a temporary file, if it is there; whether that was done."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:  # there is none, or it stays, and the next run removes it
        return False
    return True


def discard_tree(folder: int, name: str) -> None:
    """Remove a temporary folder and what is in it, if it is there."""
    with suppress(OSError, RefusedError):  # as above
        _remove_tree(folder, name)


_DEEPEST = 100
"""Folders in one another that are removed: ckptman makes none as deep, and each is a descriptor."""


def _remove_tree(above: int, name: str, *, only_folders: bool = False, way: tuple[str, ...] = ()) -> None:
    way = (*way, name)
    if len(way) > _DEEPEST:
        raise RefusedError(
            f"{shown(Path(way[0]))} stays: more than {_DEEPEST} folders lie in it, one in another",
            code="too-deep",
            fix="Look at what they are, and remove them by hand.",
        )
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    try:
        for below in os.listdir(descriptor):
            if stat.S_ISDIR(os.stat(below, dir_fd=descriptor, follow_symlinks=False).st_mode):
                _remove_tree(descriptor, below, only_folders=only_folders, way=way)
            elif not only_folders:
                os.unlink(below, dir_fd=descriptor)
    finally:
        files.close(descriptor)
    os.rmdir(name, dir_fd=above)


def remove_empty(folder: int, name: str) -> None:
    """Remove a folder without anything in it, and the empty ones below it.

    Raises:
        OSError: ENOTEMPTY where there is a file in it; as rmdir(2).
        RefusedError: (`too-deep`) there are too many in one another.
    """
    _remove_tree(folder, name, only_folders=True)
