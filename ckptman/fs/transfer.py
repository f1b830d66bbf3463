"""Getting bytes to their place: never over something that is there, and never as half a file.

The promise, for every moment at which the program may be killed, a call may fail or the power may go:

- a final name is either absent or holds all of the file, with the hash that is reported, safely on the disk;
- nothing that has a name is ever overwritten (`write_atomically(replace=True)` swaps a whole file for a whole file);
- the source is only ever read; `remove_source`, called once the rest is durable, is the one exception;
- what an interrupted run leaves are temporary files, known by their names (`is_partial`, `remove_partials`).

A file is placed in two steps. It is *staged*: copied or linked under a temporary name in its destination folder, and
hashed on the way. It is *published*: once it is on the disk, `link(2)`, which fails if the name is taken, gives it its
final name. `place_file` does both for one file. `Batch` stages many and then publishes them together, which waits for
the disk for all of them at once instead of twice for each.

All that touches the disk goes through `os` and `fcntl`, so that a test can fail each of these calls in turn.
"""

# One kind of call throughout: most of these, with descriptors, dir_fd and flags, have no counterpart in pathlib.
# ruff: noqa: PTH108, PTH116, PTH208

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

from ckptman.text import CkptmanError, MachineError, RefusedError, UsageError

BATCH_SIZE = 64
"""Files at which a `Batch` is full: with up to three descriptors for each, it stays below a usual limit of 256."""

_CHUNK = 1 << 20
"""Bytes read at a time: hashing gets no faster above 64 KiB, and 1 MiB keeps the progress smooth."""

_SYNC_THREADS = 8

_FICLONE = 0x40049409
"""`FICLONE`, `_IOW(0x94, 9, int)` in linux/fs.h as x86, ARM and RISC-V encode it; elsewhere it fails, and we copy."""

_RENAME_NOREPLACE = 1
"""`RENAME_NOREPLACE` in linux/fs.h."""

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""What link(2) answers where a file system has no hard links (EPERM also where the file is another user's)."""

_T = TypeVar("_T")

How = Literal["copied", "reflinked", "hard link", "symbolic link"]


class Mode(StrEnum):
    """How a file gets to its place."""

    COPY = "copy"
    """Its own bytes; where the file system has reflinks, one that shares them until either side is written to."""
    HARDLINK = "hardlink"
    """A second name for the source: a later write to the source changes this file too."""
    SYMLINK = "symlink"
    """A symbolic link with an absolute target."""
    MOVE = "move"
    """A hard link, or a copy across file systems; `remove_source` takes the source away afterwards."""


@dataclass(frozen=True)
class FileState:
    """What tells that a file is still the one that was read: a write to it, or another file in its place, shows."""

    device: int
    inode: int
    size: int
    """Bytes."""
    mtime_ns: int
    """Last change of the content, in nanoseconds since the epoch; whoever may write can set it."""
    ctime_ns: int
    """Last change of content or metadata (link count, mode, owner); only the kernel sets it."""

    @classmethod
    def of(cls, path: Path, *, follow_symlinks: bool = False) -> Self:
        """State of what is at `path`.

        Raises:
            RefusedError: `unreadable`, if there is nothing or it cannot be reached.
        """
        with _reading(path):
            return cls.from_stat(os.stat(path, follow_symlinks=follow_symlinks))

    @classmethod
    def of_fd(cls, descriptor: int) -> Self:
        """State of an open file.

        Raises:
            OSError: as fstat(2).
        """
        return cls.from_stat(os.fstat(descriptor))

    @classmethod
    def from_stat(cls, found: os.stat_result) -> Self:
        """The part of a stat(2) result that matters, such as that of a folder scan."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def same_but_ctime(self, other: FileState) -> bool:
        """Whether they agree but for `ctime_ns`, which a new or a removed hard link changes without touching a byte."""
        return replace(self, ctime_ns=0) == replace(other, ctime_ns=0)


@dataclass(frozen=True)
class Placement:
    """What was placed."""

    sha256: str
    """In lower-case hexadecimal, 64 characters."""
    size: int
    """Bytes."""
    source: FileState
    """The source when all was done: a hard link has changed its ctime."""
    how: How


class TakenError(RefusedError):
    """The destination has something already, and nothing is ever overwritten."""

    def __init__(self, destination: Path) -> None:
        super().__init__(
            f"{_shown(destination)} is already there, and was left as it is",
            code="taken",
            fix="Compare the two files, and move the one at the destination away if it is not wanted.",
        )


def place_file(
    source: Path,
    destination: Path,
    mode: Mode,
    *,
    expected: FileState | None = None,
    on_bytes: Callable[[int], None] | None = None,
    sha256_known: str | None = None,
    follow_symlinks: bool = False,
) -> Placement:
    """Place one file, and return once it is safely on the disk under its final name.

    A copy keeps the source's modification time, and gets the permissions of any new file (0666 without the umask). The
    source of a `move` stays until `remove_source` is called.

    Args:
        source: A regular file.
        destination: Where it goes; its folder exists (`make_folders`), its name does not.
        mode: Copy, hard link, symbolic link or move.
        expected: The source's state when it was planned; whatever else is there now is refused. A hard link and a move
            let another ctime pass, since placing or removing another name of the same file changes it.
        on_bytes: Called with the number of bytes after each piece that is done.
        sha256_known: The hash of the source as of `expected`. If the source is still in exactly that state, links and
            reflinks are not read again. Bytes that are read must have this hash.
        follow_symlinks: Let `source` be a symbolic link, and place what it points to.

    Raises:
        TakenError: something is at the destination.
        RefusedError: `changed-while-read`, `unreadable`, `not-a-file`, `symbolic-link`, `too-many-links` or
            `name-too-long`: about this file, where the next may well work.
        MachineError: the destination cannot be written: `disk-full`, `quota-exceeded`, `read-only`,
            `permission-denied`, `folder-missing`, `not-a-folder`, `file-too-large`, `other-file-system`,
            `no-hard-links`, `cannot-place-safely`, `too-many-open-files`, `tree-busy` or `io-error`.
    """
    with Batch() as batch:
        batch.stage(
            source,
            destination,
            mode,
            expected=expected,
            on_bytes=on_bytes,
            sha256_known=sha256_known,
            follow_symlinks=follow_symlinks,
        )
        [outcome] = batch.publish()
    if isinstance(outcome, RefusedError):
        raise outcome
    return outcome


class Batch:
    """Places files many at a time: the disk is waited for once for all of them, in parallel, not file by file.

    A file gets its final name only when its bytes are on the disk, exactly as with `place_file`. Leaving the `with`
    statement discards what was staged and not published.

        with Batch() as batch:
            for source, destination in planned:
                batch.stage(source, destination, Mode.COPY)  # a RefusedError here is about this one file
            outcomes = batch.publish()  # in the order in which they were staged

    Publish when the batch `is_full`, and go on with the same batch, which is empty then.
    """

    def __init__(self) -> None:
        self._staged: list[_Staged] = []
        self._folders: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()

    def __len__(self) -> int:
        return len(self._staged)

    @property
    def is_full(self) -> bool:
        """Whether it is time to `publish`, before descriptors run out."""
        return len(self._staged) >= BATCH_SIZE

    def stage(
        self,
        source: Path,
        destination: Path,
        mode: Mode,
        *,
        expected: FileState | None = None,
        on_bytes: Callable[[int], None] | None = None,
        sha256_known: str | None = None,
        follow_symlinks: bool = False,
    ) -> None:
        """Bring a file's bytes under a temporary name in its destination folder, and hash them.

        Arguments and errors are those of `place_file`. When it raises, this file is not in the batch and has left
        nothing behind; the others are as they were.
        """
        staged = _Staged(destination, self._folder(destination.parent), _Source(source, follow_symlinks))
        self._staged.append(staged)  # first, so that an interrupt at any later moment cleans it up
        try:
            staged.prepare(Mode(mode), expected, sha256_known, on_bytes or _ignore)
        except BaseException:
            staged.close()
            self._staged.remove(staged)
            raise

    def publish(self) -> list[Placement | RefusedError]:
        """Give all staged files their final names, durably, and empty the batch.

        Returns:
            For each file, in the order of `stage`: its placement, or why it alone could not be placed (`taken`,
            `changed-while-read`).

        Raises:
            MachineError: as `place_file`. Each file of the batch is then complete under its final name, or not there.
        """
        try:
            staged = self._staged
            _in_parallel(_Staged.sync, staged)
            refusals = [each.publish() for each in staged]
            _in_parallel(_sync_folder, list(self._folders.items()))
            for each in staged:
                each.remove_temporary()
            # Only now, after the last change to a link count: these states are those that stay.
            return [refusal or each.placement() for each, refusal in zip(staged, refusals, strict=True)]
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what is staged and not published, without a trace."""
        with ExitStack() as cleanup:  # which does all of it, even if one step is interrupted
            for descriptor in self._folders.values():
                cleanup.callback(_close, descriptor)
            for staged in self._staged:
                cleanup.callback(staged.close)
            self._staged, self._folders = [], {}

    def _folder(self, path: Path) -> int:
        if path not in self._folders:
            self._folders[path] = _open_folder(path)
        return self._folders[path]


def remove_source(source: Path, placement: Placement, destination: Path, *, follow_symlinks: bool = False) -> None:
    """Remove the source of a `move`, once what says that the file is placed (`run.json`) is durable too.

    It goes only if it still is what was placed, and a file of that size is at `destination`. A source that is gone
    already is no error. Of a followed symbolic link the link goes, and what it points to stays.

    Raises:
        RefusedError: `source-kept`, with the reason; `unreadable`.
    """
    try:
        found = os.stat(source, follow_symlinks=follow_symlinks)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _source_error(error, source) from error
    _check_destination_keeps(source, found, placement, destination)
    state = FileState.from_stat(found)
    if state != placement.source:
        # Removing another name of the same file changes its ctime and nothing else: then the bytes decide.
        unchanged = state.same_but_ctime(placement.source) and (
            hash_file(source, follow_symlinks=follow_symlinks) == (placement.sha256, state)
        )
        if not unchanged:
            raise _source_kept(source, "it was changed after it was placed")
    try:
        os.unlink(source)
    except OSError as error:
        raise _source_kept(source, f"it cannot be removed: {_reason(error)}") from error


def hash_file(
    path: Path, *, on_bytes: Callable[[int], None] | None = None, follow_symlinks: bool = False
) -> tuple[str, FileState]:
    """SHA-256 of a regular file, and the state that it kept from the first byte to the last.

    Raises:
        RefusedError: `unreadable`, `not-a-file` (a named pipe, say: never waited for), `symbolic-link` unless
            `follow_symlinks`, or `changed-while-read`.
    """
    source = _Source(path, follow_symlinks)
    try:
        source.open()
        digest = _digest(source.chunks(), on_bytes or _ignore)
        source.check_unchanged()
        return digest, source.state
    finally:
        source.close()


def write_atomically(path: Path, data: bytes, *, replace: bool) -> bool:
    """Write a whole file, durably, so that whoever reads `path` sees all of the old bytes or all of the new.

    A replaced file keeps its permission bits. A file that has these bytes already is not touched.

    Args:
        path: The file; its folder exists.
        data: All of its bytes.
        replace: Whether a file that is there gives way; otherwise other bytes there are a `TakenError`.

    Returns:
        Whether anything was written.

    Raises:
        TakenError: other bytes are there and `replace` is off, or the file appeared meanwhile.
        RefusedError: `not-a-file` or `symbolic-link`, where `path` is no regular file; `changed-while-read`, where
            somebody else wrote to it meanwhile; `unreadable`; `name-too-long`.
        MachineError: as `place_file`.
    """
    with ExitStack() as cleanup:
        folder = _open_folder(path.parent)
        cleanup.callback(_close, folder)
        existing = _stat_name(folder, path)
        if existing is not None:
            _check_regular(path, existing)
            if existing.st_size == len(data) and hash_file(path)[0] == hashlib.sha256(data).hexdigest():
                return False
            if not replace:
                raise TakenError(path)
        temporary = _temporary_name()
        cleanup.callback(_discard, folder, temporary)  # before it exists, so that no interrupt can come between
        with _writing(path):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
            cleanup.callback(_close, descriptor)
            if existing is not None:
                os.fchmod(descriptor, existing.st_mode & 0o777)
            _write_all(descriptor, memoryview(data))
            os.fsync(descriptor)
            if existing is None:
                _give_name(folder, temporary, path)
            else:
                _replace(folder, temporary, path, FileState.from_stat(existing))
        _sync_folder((path.parent, folder))
    return True


def make_folders(path: Path, root: Path) -> None:
    """Make `path` and its missing parents, durably, without ever leaving `root`.

    Args:
        path: `root` itself, or a folder below it.
        root: Made too where it is missing. It may be reached through symbolic links; below it they are refused.

    Raises:
        UsageError: `outside-root`, if `path` is not below `root`.
        RefusedError: `symbolic-link` or `not-a-folder`, for what stands in the way; `name-too-long`.
        MachineError: as `place_file`.
    """
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
        raise UsageError(f"{_shown(path)} is not below {_shown(root)}", code="outside-root", fix="Name a folder in it.")
    _make_root(root)
    at, descriptor = root, _open_folder(root)
    try:
        for part in path.relative_to(root).parts:
            at = at / part
            below = _enter_folder(descriptor, at)
            _close(descriptor)
            descriptor = below
    finally:
        _close(descriptor)


def is_partial(name: str) -> bool:
    """Whether a file of this name is one of ckptman's own temporary files."""
    return _PARTIAL.fullmatch(name) is not None


def remove_partials(folder: Path) -> list[str]:
    """Remove the temporary files that an interrupted run left directly in a folder.

    Call it under `lock_tree`: those of a run that is at work look the same.

    Returns:
        Their names, sorted; none for a folder that does not exist.

    Raises:
        MachineError: as `place_file`.
    """
    if _stat_path(folder) is None:
        return []
    removed = []
    descriptor = _open_folder(folder)
    try:
        with _writing(folder):
            names = sorted(filter(is_partial, os.listdir(descriptor)))
        for name in names:
            found = _stat_name(descriptor, folder / name)
            if found is not None and stat.S_ISREG(found.st_mode):
                with _writing(folder / name):
                    os.unlink(name, dir_fd=descriptor)
                removed.append(name)
    finally:
        _close(descriptor)
    return removed


@contextmanager
def lock_tree(root: Path) -> Iterator[bool]:
    """Keep other ckptman processes from writing to the tree until the `with` statement ends.

    The lock is flock(2) on the root folder: it leaves no file behind, and the kernel drops it with the process, however
    that ends. Reading needs no lock.

    Yields:
        Whether the tree is locked: some network file systems cannot lock a folder, and then the work goes on without.

    Raises:
        MachineError: `tree-busy`, at once, if another process holds the lock; others as `place_file`.
    """
    descriptor = _open_folder(root)
    try:
        yield _lock(descriptor, root)
    finally:
        _close(descriptor)


# The two ends of a placement ------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Source:
    """A regular file that is read, and the state in which it has to stay meanwhile."""

    path: Path
    follow_symlinks: bool
    fd: int = -1
    state: FileState = field(init=False)

    def open(self) -> None:
        with _reading(self.path):
            _check_regular(self.path, os.stat(self.path, follow_symlinks=self.follow_symlinks))
            # What was a file a moment ago may be a pipe or a link now: neither wait for the one nor follow the other.
            flags = os.O_RDONLY | os.O_NONBLOCK | (0 if self.follow_symlinks else os.O_NOFOLLOW)
            self.fd = os.open(self.path, flags)
            opened = os.fstat(self.fd)
            _check_regular(self.path, opened)
            self.state = FileState.from_stat(opened)

    def close(self) -> None:
        descriptor, self.fd = self.fd, -1
        if descriptor >= 0:
            _close(descriptor)

    def chunks(self) -> Iterator[memoryview]:
        """Its bytes, piece by piece; more of them than when it was opened are a change."""
        left = self.state.size
        for chunk in _chunks(self.fd, left, _reading, self.path):
            left -= len(chunk)
            if left < 0:
                raise _changed(self.path)  # at once: what is being written to may grow for ever
            yield chunk

    def check_unchanged(self, *, ctime: bool = True) -> None:
        """Refuse it if it was written to, or if its name leads to another file by now.

        Without `ctime`, other hard links to the same file may have been made or removed meanwhile.
        """
        now = FileState.of(self.path, follow_symlinks=self.follow_symlinks)
        if not (now == self.state or (not ctime and now.same_but_ctime(self.state))):
            raise _changed(self.path)


@dataclass(eq=False)
class _Staged:
    """A file on its way: under a temporary name, or, if it is to be a symbolic link, only hashed."""

    destination: Path
    folder: int
    """Descriptor of the destination folder: what happens there, happens in that very folder."""
    source: _Source
    temporary: str = field(default_factory=lambda: _temporary_name())
    fd: int = -1
    """Descriptor of the copy, if there is one."""
    sha256: str = ""
    how: How = "copied"

    def prepare(
        self, mode: Mode, expected: FileState | None, sha256_known: str | None, on_bytes: Callable[[int], None]
    ) -> None:
        if _stat_name(self.folder, self.destination) is not None:
            raise TakenError(self.destination)  # before gigabytes are read in vain; publishing has the last word
        self.source.open()
        self._check_expected(mode, expected)
        trusted = sha256_known if self.source.state == expected else None
        self._transfer(mode, trusted, on_bytes)
        self.source.check_unchanged()
        if sha256_known is not None and self.sha256 != sha256_known:
            raise _changed(self.source.path)
        self._check_copy()

    def _check_expected(self, mode: Mode, expected: FileState | None) -> None:
        state = self.source.state
        links = mode in (Mode.HARDLINK, Mode.MOVE)
        if expected is not None and state != expected and not (links and state.same_but_ctime(expected)):
            raise _changed(self.source.path)

    def _transfer(self, mode: Mode, trusted: str | None, on_bytes: Callable[[int], None]) -> None:
        if mode is Mode.COPY or (mode is Mode.MOVE and not self._linked_for_move()):
            self._copy(trusted, on_bytes)
            return
        if mode is Mode.HARDLINK:
            self._link()
        elif mode is Mode.SYMLINK:
            self.how = "symbolic link"
        self._hash_unless(trusted, self.source.chunks(), on_bytes)

    def _copy(self, trusted: str | None, on_bytes: Callable[[int], None]) -> None:
        with _writing(self.destination):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            self.fd = os.open(self.temporary, flags, 0o666, dir_fd=self.folder)  # the kernel applies the umask
            reflinked = _reflink(self.source.fd, self.fd)
        if reflinked:
            self.how = "reflinked"
            clone = _chunks(self.fd, self.source.state.size, _writing, self.destination)
            self._hash_unless(trusted, clone, on_bytes)
        else:
            self.sha256 = _digest(self._written(self.source.chunks()), on_bytes)
        with _writing(self.destination):
            os.utime(self.fd, ns=(self.source.state.mtime_ns, self.source.state.mtime_ns))

    def _written(self, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
        for chunk in chunks:
            with _writing(self.destination):
                _write_all(self.fd, chunk)
            yield chunk

    def _hash_unless(self, trusted: str | None, chunks: Iterator[memoryview], on_bytes: Callable[[int], None]) -> None:
        if trusted is None:
            self.sha256 = _digest(chunks, on_bytes)
        else:
            self.sha256 = trusted
            on_bytes(self.source.state.size)

    def _check_copy(self) -> None:
        if self.fd < 0:
            return
        with _writing(self.destination):
            written = os.fstat(self.fd).st_size
        if written != self.source.state.size:
            raise MachineError(
                f"{_shown(self.destination)} came out with {written} of {self.source.state.size} bytes",
                code="io-error",
                fix="The file system did not keep what was written: check it, and the network it is on.",
            )

    def _link(self) -> None:
        """Link first, hash then: the temporary name holds the very file that is read, whatever its path becomes."""
        try:
            self._link_source()
        except OSError as error:
            raise _link_error(error, self.source.path, self.destination) from error

    def _linked_for_move(self) -> bool:
        """Link as `_link` does; False where only a copy will do."""
        source = self.source.path
        with _reading(source):
            if stat.S_ISLNK(os.stat(source, follow_symlinks=False).st_mode):
                return False  # what it points to stays where it is, so the tree needs bytes of its own
        try:
            self._link_source()
        except OSError as error:
            if error.errno in _NO_HARD_LINKS or error.errno in (errno.EXDEV, errno.EMLINK):
                return False
            raise _link_error(error, source, self.destination) from error
        return True

    def _link_source(self) -> None:
        source = self.source
        os.link(source.path, self.temporary, dst_dir_fd=self.folder, follow_symlinks=source.follow_symlinks)
        self.how = "hard link"
        linked = FileState.from_stat(os.stat(self.temporary, dir_fd=self.folder, follow_symlinks=False))
        if not linked.same_but_ctime(source.state):
            raise _changed(source.path)
        source.state = linked  # the new link has changed the ctime

    def sync(self) -> None:
        """Wait until the bytes are on the disk."""
        if self.how != "symbolic link":
            with _writing(self.destination):
                os.fsync(self.fd if self.fd >= 0 else self.source.fd)

    def publish(self) -> RefusedError | None:
        """Give it its final name; return why it cannot have it, if that is about this file alone."""
        try:
            with _writing(self.destination):
                if self.how == "symbolic link":
                    self._make_symlink()
                    return None
                if self.how == "hard link":
                    self.source.check_unchanged(ctime=False)  # it shares its bytes, and they were read a while ago
                _give_name(self.folder, self.temporary, self.destination)
        except RefusedError as refusal:
            return refusal
        return None

    def _make_symlink(self) -> None:
        target = Path(os.path.realpath(self.source.path))
        if FileState.of(target) != self.source.state:
            raise _changed(self.source.path)
        try:
            os.symlink(target, self.destination.name, dir_fd=self.folder)
        except FileExistsError as error:
            raise TakenError(self.destination) from error

    def remove_temporary(self) -> None:
        _discard(self.folder, self.temporary)

    def placement(self) -> Placement:
        state = self.source.state
        if self.how == "hard link":  # making names and removing the temporary one has changed the ctime
            with _reading(self.source.path):
                state = FileState.of_fd(self.source.fd)
        return Placement(self.sha256, state.size, state, self.how)

    def close(self) -> None:
        with ExitStack() as cleanup:
            cleanup.callback(self.source.close)
            descriptor, self.fd = self.fd, -1
            if descriptor >= 0:
                cleanup.callback(_close, descriptor)
            cleanup.callback(self.remove_temporary)


# Single steps ---------------------------------------------------------------------------------------------------------


def _temporary_name() -> str:
    """33 bytes, however long the final name is: it fits wherever the final name fits."""
    return f".ckptman-{secrets.token_hex(8)}.partial"


_PARTIAL = re.compile(r"\.ckptman-[0-9a-f]{16}\.partial")


def _chunks(
    descriptor: int, size: int, errors_about: Callable[[Path], AbstractContextManager[None]], path: Path
) -> Iterator[memoryview]:
    """All bytes from the start of an open file of about `size` bytes, in one buffer that is used again and again."""
    buffer = memoryview(bytearray(min(size + 1, _CHUNK)))  # one more than there is: a file that has grown shows
    at = 0
    while True:
        with errors_about(path):
            count = os.preadv(descriptor, [buffer], at)
        if count == 0:
            return
        at += count
        yield buffer[:count]


def _digest(chunks: Iterator[memoryview], on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        on_bytes(len(chunk))
    return digest.hexdigest()


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _reflink(source: int, copy: int) -> bool:
    """Let `copy` share the blocks of `source`; False where that cannot be done, and `copy` is empty as before."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(copy, _FICLONE, source)
    except OSError:  # whatever the reason is, a plain copy either works or names it
        os.ftruncate(copy, 0)
        return False
    return True


def _give_name(folder: int, temporary: str, destination: Path) -> None:
    """Give a temporary file its final name, which must be free.

    Raises:
        TakenError: it is not.
        MachineError: `cannot-place-safely`, where the file system has neither hard links nor renameat2(2).
        OSError: anything else.
    """
    name = destination.name
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError as error:
        if not _one_file(folder, temporary, name):  # over NFS, a link that was made may be reported as failed
            raise TakenError(destination) from error
    except FileNotFoundError as error:
        raise MachineError(
            f"the temporary file for {_shown(destination)} has vanished",
            code="tree-busy",
            fix="Let no other ckptman work on this tree at the same time, then do it again.",
        ) from error
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_to_free_name(folder, temporary, destination)


def _one_file(folder: int, one: str, other: str) -> bool:
    first = os.stat(one, dir_fd=folder, follow_symlinks=False)
    return os.path.samestat(first, os.stat(other, dir_fd=folder, follow_symlinks=False))


def _rename_to_free_name(folder: int, temporary: str, destination: Path) -> None:
    try:
        _rename_noreplace(folder, temporary, destination.name)
    except FileExistsError as error:
        raise TakenError(destination) from error
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        raise MachineError(
            f"{_shown(destination)} cannot be placed: its file system has neither hard links nor a rename that never "
            "overwrites",
            code="cannot-place-safely",
            fix="Choose a root on another file system.",
        ) from error


def _rename_noreplace(folder: int, old: str, new: str) -> None:
    """renameat2(2) with RENAME_NOREPLACE, which Python does not offer."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # glibc before 2.28, or not Linux
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), new) from None
    if renameat2(folder, os.fsencode(old), folder, os.fsencode(new), _RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), new)


def _replace(folder: int, temporary: str, destination: Path, read: FileState) -> None:
    """Put a temporary file in the place of one that is as it was `read`."""
    now = _stat_name(folder, destination)
    if now is None or FileState.from_stat(now) != read:
        raise _changed(destination)
    os.rename(temporary, destination.name, src_dir_fd=folder, dst_dir_fd=folder)


def _in_parallel(work: Callable[[_T], None], items: list[_T]) -> None:
    """Wait for many things at once: disks and servers answer several requests in about the time of one."""
    if len(items) <= 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(min(len(items), _SYNC_THREADS)) as pool:
        for _ in pool.map(work, items):
            pass


def _sync_folder(folder: tuple[Path, int]) -> None:
    path, descriptor = folder
    with _writing(path):
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems have no fsync for folders
                raise


def _open_folder(path: Path) -> int:
    with _writing(path):
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def _make_root(root: Path) -> None:
    missing = []
    while root != root.parent and _stat_path(root) is None:
        missing.append(root)
        root = root.parent
    for folder in reversed(missing):
        above = _open_folder(folder.parent)
        try:
            _make_folder(above, folder)
        finally:
            _close(above)


def _enter_folder(above: int, path: Path) -> int:
    """Open the folder `path`, which is directly in `above`, and make it where it is missing."""
    found = _stat_name(above, path)
    if found is None:
        _make_folder(above, path)
        found = _stat_name(above, path)
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise _not_a_folder(path, found)
    with _writing(path):
        return os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)


def _make_folder(above: int, path: Path) -> None:
    with _writing(path), suppress(FileExistsError):
        os.mkdir(path.name, dir_fd=above)
    _sync_folder((path.parent, above))


def _stat_name(folder: int, path: Path) -> os.stat_result | None:
    """What has the name of `path` in an open folder, or None. A symbolic link is not followed."""
    with _writing(path):
        try:
            return os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None


def _stat_path(path: Path) -> os.stat_result | None:
    with _writing(path):
        try:
            return os.stat(path)
        except FileNotFoundError:
            return None


def _lock(descriptor: int, root: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise MachineError(
            f"another ckptman is writing to {_shown(root)}",
            code="tree-busy",
            fix="Wait until it is done, then do it again.",
        ) from error
    except OSError:  # no locks on folders there
        return False
    return True


def _discard(folder: int, name: str) -> None:
    with suppress(OSError):  # there is none, or it stays, and the next run removes it
        os.unlink(name, dir_fd=folder)


def _close(descriptor: int) -> None:
    with suppress(OSError):  # what had to be on the disk was synced before, and its errors were heard
        os.close(descriptor)


def _ignore(count: int) -> None:
    """Report progress to nobody."""


# Refusals and errors --------------------------------------------------------------------------------------------------

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _check_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise RefusedError(
            f"{_shown(path)} is a symbolic link",
            code="symbolic-link",
            fix="Put a real file there, or have links followed (--follow-symlinks) where it is a source.",
        )
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "not a file")
        raise RefusedError(f"{_shown(path)} is {kind}", code="not-a-file", fix="Only regular files are handled.")


def _not_a_folder(path: Path, found: os.stat_result) -> RefusedError:
    if stat.S_ISLNK(found.st_mode):
        return RefusedError(
            f"{_shown(path)} is a symbolic link, which may lead out of the tree",
            code="symbolic-link",
            fix="Put a real folder in its place.",
        )
    return RefusedError(
        f"{_shown(path)} is not a folder, but a folder has to be there", code="not-a-folder", fix="Move it away."
    )


def _check_destination_keeps(source: Path, found: os.stat_result, placement: Placement, destination: Path) -> None:
    """Refuse unless a whole file stays at `destination` when the name `source` goes."""
    try:
        kept = os.stat(destination, follow_symlinks=False)
        one_folder = os.path.samestat(os.stat(source.parent), os.stat(destination.parent))
    except OSError as error:
        raise _source_kept(source, f"{_shown(destination)} cannot be reached: {_reason(error)}") from error
    if not stat.S_ISREG(kept.st_mode) or kept.st_size != placement.size:
        raise _source_kept(source, f"{_shown(destination)} is not the file that was placed")
    if os.path.samestat(found, kept) and (found.st_nlink < 2 or (one_folder and source.name == destination.name)):
        raise _source_kept(source, f"{_shown(destination)} is that very file")


def _source_kept(source: Path, reason: str) -> RefusedError:
    return RefusedError(
        f"{_shown(source)} was kept: {reason}",
        code="source-kept",
        fix="Compare it with the placed file, then remove it by hand, or ingest again.",
    )


def _changed(path: Path) -> RefusedError:
    return RefusedError(
        f"{_shown(path)} was changed meanwhile",
        code="changed-while-read",
        fix="Do it again once nothing writes to the file any more.",
    )


def _link_error(error: OSError, source: Path, destination: Path) -> CkptmanError:
    use_copy = "Use --mode copy."
    if error.errno == errno.EXDEV:
        return MachineError(
            f"{_shown(source)} and {_shown(destination)} are on different file systems, which no hard link can span",
            code="other-file-system",
            fix=use_copy,
        )
    if error.errno in _NO_HARD_LINKS:
        return MachineError(
            f"{_shown(destination)} cannot be a hard link to {_shown(source)}: the file system has none, or does not "
            "allow them to another user's file",
            code="no-hard-links",
            fix=use_copy,
        )
    if error.errno == errno.EMLINK:
        return RefusedError(
            f"{_shown(source)} has as many hard links as its file system allows", code="too-many-links", fix=use_copy
        )
    if error.errno == errno.ENOENT:
        return _changed(source)
    return _destination_error(error, destination)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors in this block are about reading `path`."""
    try:
        yield
    except OSError as error:
        raise _source_error(error, path) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors in this block are about making or writing `path`."""
    try:
        yield
    except OSError as error:
        raise _destination_error(error, path) from error


_FREE_SPACE = "Free space there, then do it again; what is placed stays."
_OTHER_ROOT = "Choose a root that you may write to, or have this one opened to you."
_TOO_MANY_OPEN = ("too-many-open-files", "too many files are open", "Raise the limit (ulimit -n), then do it again.")

_WRITE_FAULTS = {
    errno.ENOSPC: ("disk-full", "no space is left on the device", _FREE_SPACE),
    errno.EDQUOT: ("quota-exceeded", "the disk quota is used up", _FREE_SPACE),
    errno.EROFS: ("read-only", "the file system is read-only", _OTHER_ROOT),
    errno.EACCES: ("permission-denied", "permission denied", _OTHER_ROOT),
    errno.EPERM: ("permission-denied", "operation not permitted", _OTHER_ROOT),
    errno.ENOENT: ("folder-missing", "its folder does not exist", "Make the folder, then do it again."),
    errno.ENOTDIR: ("not-a-folder", "something on the way is not a folder", "Move that away, or choose another root."),
    errno.EFBIG: ("file-too-large", "files may not get that large there", "Raise the limit (ulimit -f)."),
    errno.EMFILE: _TOO_MANY_OPEN,
    errno.ENFILE: _TOO_MANY_OPEN,
}


def _destination_error(error: OSError, path: Path) -> CkptmanError:
    if error.errno == errno.ENAMETOOLONG:
        return RefusedError(
            f"{_shown(path)} is too long a name for its file system",
            code="name-too-long",
            fix="Rename the source, or choose a root with a shorter path.",
        )
    otherwise = ("io-error", _reason(error), "Check the disk, or the network it is on, then do it again.")
    code, reason, fix = _WRITE_FAULTS.get(error.errno or 0, otherwise)
    return MachineError(f"{_shown(path)} cannot be written: {reason}", code=code, fix=fix)


def _source_error(error: OSError, path: Path) -> CkptmanError:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        code, reason, fix = _TOO_MANY_OPEN
        return MachineError(f"{_shown(path)} cannot be read: {reason}", code=code, fix=fix)
    return RefusedError(
        f"{_shown(path)} cannot be read: {_reason(error)}",
        code="unreadable",
        fix="Check that the file is there, that you may read it, and that its disk is well.",
    )


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _shown(path: Path) -> str:
    """A path fit for a message: in quotes with escapes, where it holds control characters or undecodable bytes."""
    text = str(path)
    return text if text.isprintable() else repr(text)
