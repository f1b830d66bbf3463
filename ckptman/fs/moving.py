"""Moving: within a tree, never to the name of something that is there; and the sources of what was moved into it."""

# One kind of call throughout: most of these, with descriptors, dir_fd and flags, have no counterpart in pathlib.
# ruff: noqa: PTH208

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from ckptman.fs import faults, files, folders, writing
from ckptman.fs.faults import shown
from ckptman.fs.placing import Placement
from ckptman.text import CkptmanError, MachineError, RefusedError


def move_within(root: Path, old: PurePosixPath, new: PurePosixPath) -> None:
    """Rename `old` to `new`, both relative to `root`, durably; folders above `new` are made.

    Raises:
        faults.TakenError: something has the new name.
        RefusedError: (`changed`) there is nothing of the old one; as `folders.make_folders`.
        MachineError: the file system has no rename that never overwrites, or refuses it.
    """
    source, target = root / old, root / new
    folders.make_folders(target.parent, root)
    with ExitStack() as opened:
        try:
            above, below = (_opened(path.parent, root, opened) for path in (source, target))
            writing.rename_noreplace(above, source.name, below, target.name)
        except FileExistsError as error:
            raise faults.TakenError(target) from error
        except FileNotFoundError as error:
            raise RefusedError(
                f"{shown(source)} is not moved: it is no longer there", code="changed", fix="Validate the tree again."
            ) from error
        except OSError as error:
            raise MachineError(
                f"{shown(source)} cannot be moved to {shown(target)}: {faults.reason_of(error)}",
                code="cannot-move",
                fix="Nothing was changed by this step; mend what the message says, and do it again.",
            ) from error
        folders.sync_folder((target.parent, below))
        folders.sync_folder((source.parent, above))


def free_name(root: Path, path: PurePosixPath) -> PurePosixPath:
    """`path`, or where something has that name already, the first `path.N` that nothing has; relative to `root`."""
    names = (path.with_name(f"{path.name}.{count}") if count else path for count in range(1000))
    return next((name for name in names if not os.path.lexists(root / name)), path)


def remove_emptied(root: Path, path: PurePosixPath) -> None:
    """Remove the folders above `path` that a move out of them has left empty, up to the root."""
    for folder in path.parents:
        if not folder.parts:
            return
        with ExitStack() as opened:
            try:
                above = _opened((root / folder).parent, root, opened)
                os.rmdir(folder.name, dir_fd=above)
            except (OSError, CkptmanError):
                return  # something is in it, or it may not be removed: an empty folder loses nothing
            folders.sync_folder(((root / folder).parent, above))


def remove_empty_folder(root: Path, folder: PurePosixPath) -> None:
    """Remove a folder without anything in it, and the empty ones below it.

    Raises:
        RefusedError: (`taken`) where there is a file in it.
    """
    with ExitStack() as opened:
        try:
            above = _opened((root / folder).parent, root, opened)
            folders.remove_empty(above, folder.name)
        except OSError as error:
            raise RefusedError(
                f"{shown(root / folder)} is not removed: {faults.reason_of(error)}",
                code="taken",
                fix="Look at what is in it.",
            ) from error
        folders.sync_folder(((root / folder).parent, above))


def remove_source(
    source: Path, placement: Placement, destination: Path, *, root: Path | None = None, follow_symlinks: bool = False
) -> None:
    """Remove the source of a `move`, once what says that the file is placed (`run.json`) is durable too.

    It goes only if it still is what was placed, and a file of that size is at `destination`, safely on the disk with
    the folders above it up to `root`: another program may have put it there a moment ago. A source that is gone
    already is no error. Of a followed symbolic link the link goes, and what it points to stays.

    Raises:
        RefusedError: `source-kept`, with the reason; `unreadable`.
        MachineError: the disk does not keep `destination`.
    """
    root = destination.parent if root is None else root
    with ExitStack() as opened:
        try:
            # What is looked at and what is removed are of one folder, whatever its path leads to meanwhile.
            above = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY)
            opened.callback(files.close, above)
            found = os.stat(source.name, dir_fd=above, follow_symlinks=follow_symlinks)
        except FileNotFoundError:
            return
        except OSError as error:
            raise faults.source_error(error, source) from error
        folder = folders.open_folder(destination.parent, root)
        opened.callback(files.close, folder)
        _remove_kept((source, above), found, placement, (destination, folder), root, follow_symlinks=follow_symlinks)


def _remove_kept(
    named: tuple[Path, int],
    found: os.stat_result,
    placement: Placement,
    kept: tuple[Path, int],
    root: Path,
    *,
    follow_symlinks: bool,
) -> None:
    """Remove a source from an open folder, of which stat(2) `found` that, if it is `kept` under a name in another."""
    source, above = named
    _check_destination_keeps(named, found, placement, *kept)
    state = files.FileState.from_stat(found)
    if state != placement.source:
        # Removing another name of the same file changes its ctime and nothing else: then the bytes decide.
        unchanged = state.same_but_ctime(placement.source) and (
            files.hash_file(source, follow_symlinks=follow_symlinks, folder=above) == (placement.sha256, state)
        )
        if not unchanged:
            raise _source_kept(source, "it was changed after it was placed")
    _sync_kept(source, *kept, root)
    try:
        now = os.stat(source.name, dir_fd=above, follow_symlinks=follow_symlinks)  # the disk took its time
        if files.FileState.from_stat(now) != state:
            raise _source_kept(source, "it was changed while the disk was waited for")
        os.unlink(source.name, dir_fd=above)
    except OSError as error:
        raise _source_kept(source, f"it cannot be removed: {faults.reason_of(error)}") from error


def sync_there(path: Path, root: Path) -> None:
    """Wait until a file of a tree, or all in a folder, and the names that lead to it are on the disk, whoever wrote it.

    What is a link, or is not there, is passed over.

    Raises:
        RefusedError: as `folders.open_folder`.
        MachineError: the disk does not keep it.
    """
    with ExitStack() as opened:
        folder = folders.open_folder(path.parent, root)
        opened.callback(files.close, folder)
        found = folders.stat_name(folder, path)
        if found is None or not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return
        with faults.writing(path):
            descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            opened.callback(files.close, descriptor)
            if stat.S_ISDIR(found.st_mode):
                for name in sorted(os.listdir(descriptor)):
                    sync_there(path / name, root)
                return
            os.fsync(descriptor)
        folders.sync_path((path.parent, folder), root)


def _opened(folder: Path, root: Path, opened: ExitStack) -> int:
    """A folder below `root`; OSError where it cannot be opened."""
    descriptor = folders.descend(folder, root)
    opened.callback(files.close, descriptor)
    return descriptor


def _check_destination_keeps(
    named: tuple[Path, int], found: os.stat_result, placement: Placement, destination: Path, folder: int
) -> None:
    """Refuse unless a whole file stays at `destination`, in an open folder, when the source goes from its own."""
    source, above = named
    try:
        kept = os.stat(destination.name, dir_fd=folder, follow_symlinks=False)
        one_folder = os.path.samestat(os.fstat(above), os.fstat(folder))
    except OSError as error:
        raise _source_kept(source, f"{shown(destination)} cannot be reached: {faults.reason_of(error)}") from error
    if not stat.S_ISREG(kept.st_mode) or kept.st_size != placement.size:
        raise _source_kept(source, f"{shown(destination)} is not the file that was placed")
    if os.path.samestat(found, kept) and (found.st_nlink < 2 or (one_folder and source.name == destination.name)):
        raise _source_kept(source, f"{shown(destination)} is that very file")


def _sync_kept(source: Path, destination: Path, folder: int, root: Path) -> None:
    """Wait until a file of the tree, and the names that lead to it from the root, are on the disk."""
    try:
        descriptor = os.open(destination.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        raise _source_kept(source, f"{shown(destination)} cannot be reached: {faults.reason_of(error)}") from error
    try:
        with faults.writing(destination):
            os.fsync(descriptor)
    finally:
        files.close(descriptor)
    folders.sync_path((destination.parent, folder), root)


def _source_kept(source: Path, reason: str) -> RefusedError:
    return RefusedError(
        f"{shown(source)} was kept: {reason}",
        code="source-kept",
        fix="Compare it with the placed file, then remove it by hand, or ingest again.",
    )
