"""What can go wrong with a file, as errors: what happened, to which file, and what to do next."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from ckptman.text import CkptmanError, MachineError, RefusedError


class TakenError(RefusedError):
    """The destination has something already, and nothing is ever overwritten."""

    def __init__(self, destination: Path) -> None:
        super().__init__(
            f"{shown(destination)} is already there, and was left as it is",
            code="taken",
            fix="Compare the two files, and move the one at the destination away if it is not wanted.",
        )


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path, found: os.stat_result) -> None:
    """Refuse what is no regular file."""
    if stat.S_ISLNK(found.st_mode):
        raise RefusedError(
            f"{shown(path)} is a symbolic link",
            code="symbolic-link",
            fix="Put a real file there, or have links followed (--follow-symlinks) where it is a source.",
        )
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "not a file")
        raise RefusedError(f"{shown(path)} is {kind}", code="not-a-file", fix="Only regular files are handled.")


def not_a_folder(path: Path, found: os.stat_result) -> RefusedError:
    """The refusal of what stands where a folder has to be."""
    if stat.S_ISLNK(found.st_mode):
        return RefusedError(
            f"{shown(path)} is a symbolic link, which may lead out of the tree",
            code="symbolic-link",
            fix="Put a real folder in its place.",
        )
    return RefusedError(
        f"{shown(path)} is not a folder, but a folder has to be there", code="not-a-folder", fix="Move it away."
    )


CHANGED = "changed-while-read"


def changed(path: Path) -> RefusedError:
    """The refusal of a file that somebody else wrote to."""
    return RefusedError(
        f"{shown(path)} was changed meanwhile",
        code=CHANGED,
        fix="Do it again once nothing writes to the file any more.",
    )


def reading(path: Path) -> AbstractContextManager[None]:
    """Errors in this block are about reading `path`."""
    return _About(source_error, path)


def writing(path: Path) -> AbstractContextManager[None]:
    """Errors in this block are about making or writing `path`."""
    return _About(destination_error, path)


class _About:
    """A block around a call to the system; there are so many that a generator would take a third longer."""

    __slots__ = ("_error_of", "_path")

    def __init__(self, error_of: Callable[[OSError, Path], CkptmanError], path: Path) -> None:
        self._error_of, self._path = error_of, path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise self._error_of(error, self._path) from error


def machine_error(error: OSError, what: str) -> MachineError:
    """The error to raise where a call to the system fails that need not."""
    where = "" if error.filename is None else f" ({shown(Path(os.fsdecode(error.filename)))})"
    return MachineError(
        f"{what}: {reason_of(error)}{where}",
        code="io-error",
        fix="Check the disk, or the network it is on, then do it again.",
    )


_FREE_SPACE = "Free space there, then do it again; what is placed stays."

_OTHER_FOLDER = "Choose a folder that you may write to, or have this one opened to you."

_TOO_MANY_OPEN = ("too-many-open-files", "too many files are open", "Raise the limit (ulimit -n), then do it again.")

_WRITE_FAULTS = {
    errno.ENOSPC: ("disk-full", "no space is left on the device", _FREE_SPACE),
    errno.EDQUOT: ("quota-exceeded", "the disk quota is used up", _FREE_SPACE),
    errno.EROFS: ("read-only", "the file system is read-only", _OTHER_FOLDER),
    errno.EACCES: ("permission-denied", "permission denied", _OTHER_FOLDER),
    errno.EPERM: ("permission-denied", "operation not permitted", _OTHER_FOLDER),
    errno.ENOENT: ("folder-missing", "its folder does not exist", "Make the folder, then do it again."),
    errno.ENOTDIR: (
        "not-a-folder",
        "something on the way is not a folder",
        "Move that away, or choose another folder.",
    ),
    errno.EFBIG: ("file-too-large", "files may not get that large there", "Raise the limit (ulimit -f)."),
    errno.EMFILE: _TOO_MANY_OPEN,
    errno.ENFILE: _TOO_MANY_OPEN,
}


def destination_error(error: OSError, path: Path) -> CkptmanError:
    """The error to raise where `path` cannot be made or written."""
    if error.errno == errno.ENAMETOOLONG:
        return RefusedError(
            f"{shown(path)} is too long a name for its file system",
            code="name-too-long",
            fix="Choose a folder with a shorter path, or rename the source.",
        )
    otherwise = ("io-error", reason_of(error), "Check the disk, or the network it is on, then do it again.")
    code, reason, fix = _WRITE_FAULTS.get(error.errno or 0, otherwise)
    return MachineError(f"{shown(path)} cannot be written: {reason}", code=code, fix=fix)


def source_error(error: OSError, path: Path) -> CkptmanError:
    """The error to raise where `path` cannot be read."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        code, reason, fix = _TOO_MANY_OPEN
        return MachineError(f"{shown(path)} cannot be read: {reason}", code=code, fix=fix)
    return RefusedError(
        f"{shown(path)} cannot be read: {reason_of(error)}",
        code="unreadable",
        fix="Check that the file is there, that you may read it, and that its disk is well.",
    )


def reason_of(error: OSError) -> str:
    """What the system says of a failed call."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def shown(path: Path) -> str:
    """A path fit for a message: in quotes with escapes, where it holds control characters or undecodable bytes."""
    text = str(path)
    return text if text.isprintable() else repr(text)
