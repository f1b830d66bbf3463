"""Getting bytes to their place: never over something that is there, and never as half a file.

The promise, for every moment at which the program may be killed, a call may fail or the power may go:

- a final name is either absent or holds all of the file, with the hash that is reported, safely on the disk;
- nothing that has a name is ever overwritten (`write_atomically(replace=True)` swaps a whole file for a whole file);
- the source is only ever read; `moving.remove_source`, called once the rest is durable, is the one exception;
- what an interrupted run leaves are temporary files, known by their names (`is_partial`, `remove_partials`).

A file is placed in two steps. It is *staged*: copied or linked under a temporary name in its destination folder, and
hashed on the way. It is *published*: once it is on the disk, `link(2)`, which fails if the name is taken, gives it its
final name. `Batch` stages many files and then publishes them together, which waits for the disk for all of them at once
instead of twice for each. `place_folder` places the files of a folder in a
temporary one, which then gets the final name, so that it appears whole.

All that touches the disk goes through `os` and `fcntl`, so that a test can fail each of these calls in turn.
"""

# One kind of call throughout: most of these, with descriptors, dir_fd and flags, have no counterpart in pathlib.
# ruff: noqa: PTH116

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

from ckptman.fs import faults, files, folders, writing
from ckptman.fs.faults import TakenError as TakenError
from ckptman.fs.faults import shown
from ckptman.fs.writing import write_together as write_together
from ckptman.text import CkptmanError, MachineError, RefusedError

BATCH_SIZE = files.AT_ONCE
"""Files at which a `Batch` is full."""

_MUCH = 1 << 22
"""Bytes that are read by several threads from the first on."""

_FICLONE = 0x40049409
"""`FICLONE`, `_IOW(0x94, 9, int)` in linux/fs.h as x86, ARM and RISC-V encode it; elsewhere it fails, and we copy."""

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
    """A hard link, or a copy across file systems; `moving.remove_source` takes the source away afterwards."""


@dataclass(frozen=True)
class Placement:
    """What was placed."""

    sha256: str
    """In lower-case hexadecimal, 64 characters."""
    size: int
    """Bytes."""
    source: files.FileState
    """The source when all was done: a hard link has changed its ctime."""
    how: How


class Part(NamedTuple):
    """One file of a folder that is placed whole."""

    name: str
    """Relative to the folder."""
    state: files.FileState
    """When it was planned; whatever else is there now is refused."""
    sha256: str


class Wanted(NamedTuple):
    """A file that is to be placed, as `Batch.stage` takes it."""

    source: Path
    destination: Path
    expected: files.FileState | None = None
    sha256_known: str | None = None
    follow_symlinks: bool = False


def place_folder(
    source: Path,
    parts: Iterable[Part],
    destination: Path,
    mode: Mode,
    *,
    root: Path | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> list[Placement]:
    """Place a folder, and return once all of it is safely on the disk under its final name.

    Its files are placed in a temporary folder beside it, which then gets the name: it is there whole, or not at all.

    Args:
        source: The folder.
        parts: Its files, but for those that stay behind. None is a link.
        destination: As for `Batch.stage`.
        mode: Copy, hard link or move, of each file. The sources of a move stay until `moving.remove_source` is called.
        root: As for `Batch`.
        on_bytes: Called with the number of bytes after each piece that is done.

    Raises:
        RefusedError: as `Batch.stage`; `no-link-to-a-folder` for symbolic links.
        MachineError: as `Batch.stage`.
    """
    if mode is Mode.SYMLINK:
        raise RefusedError(
            f"{shown(source)} is a folder, which is placed file by file, not as a link",
            code="no-link-to-a-folder",
            fix="Use --mode copy or hardlink.",
        )
    temporary, root = destination.with_name(folders.temporary_name()), root or destination.parent
    with ExitStack() as cleanup:
        above = folders.open_folder(destination.parent, root)
        cleanup.callback(files.close, above)
        if folders.stat_name(above, destination) is not None:
            raise faults.TakenError(destination)
        # Before it exists, so that no interrupt can come between.
        cleanup.callback(folders.discard_tree, above, temporary.name)
        folders.make_folders(temporary, root)
        outcomes: list[Placement | RefusedError] = []
        with Batch(root) as batch:
            for name, state, sha256 in parts:
                folders.make_folders((temporary / name).parent, root)
                batch.stage(
                    source / name, temporary / name, mode, expected=state, sha256_known=sha256, on_bytes=on_bytes
                )
                if batch.is_full:
                    outcomes += batch.publish()
            outcomes += batch.publish()
        placed = [outcome for outcome in outcomes if isinstance(outcome, Placement)]
        for outcome in outcomes:
            if isinstance(outcome, RefusedError):
                raise outcome
        with faults.writing(destination):
            writing.give_folder_name(above, temporary.name, destination)
        folders.sync_folder((destination.parent, above))
    return placed


class Batch:
    """Places files many at a time: the disk is waited for once for all of them, in parallel, not file by file.

    A file gets its final name only when its bytes are on the disk. Leaving the `with`
    statement discards what was staged and not published.

        with Batch() as batch:
            for source, destination in planned:
                batch.stage(source, destination, Mode.COPY)  # a RefusedError here is about this one file
            outcomes = batch.publish()  # in the order in which they were staged

    Publish when the batch `is_full`, and go on with the same batch, which is empty then.
    """

    def __init__(self, root: Path | None = None) -> None:
        """`root`: the tree that the files are for; below it no symbolic link is followed."""
        self._way = None if root is None else folders.Way(root)
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
        expected: files.FileState | None = None,
        on_bytes: Callable[[int], None] | None = None,
        sha256_known: str | None = None,
        follow_symlinks: bool = False,
    ) -> None:
        """Bring a file's bytes under a temporary name in its destination folder, and hash them.

        When it raises, this file is not in the batch and has left nothing behind; the others are as they were.

        A copy keeps the source's modification time, and gets the permissions of any new file (0666 without the umask).
        The source of a `move` stays until `moving.remove_source` is called.

        Args:
            source: A regular file.
            destination: Where it goes; its folder exists (`folders.make_folders`), its name does not.
            mode: Copy, hard link, symbolic link or move.
            expected: The source's state when it was planned; whatever else is there now is refused. A hard link and a
                move let another ctime pass, since placing or removing another name of the same file changes it.
            on_bytes: Called with the number of bytes after each piece that is done.
            sha256_known: The hash of the source as of `expected`. If the source is still in exactly that state, links
                and reflinks are not read again. Bytes that are read must have this hash.
            follow_symlinks: Let `source` be a symbolic link, and place what it points to.

        Raises:
            faults.TakenError: something is at the destination.
            RefusedError: `changed-while-read`, `unreadable`, `not-a-file`, `symbolic-link` (also of a folder of the
                tree), `too-many-links` or `name-too-long`: about this file, where the next may well work.
            MachineError: the destination cannot be written: `disk-full`, `quota-exceeded`, `read-only`,
                `permission-denied`, `folder-missing`, `not-a-folder`, `file-too-large`, `other-file-system`,
                `no-hard-links`, `cannot-place-safely`, `too-many-open-files`, `tree-busy` or `io-error`.
        """
        wanted = Wanted(source, destination, expected, sha256_known, follow_symlinks)
        staged = self._begin(wanted)
        try:
            staged.prepare(Mode(mode), wanted, on_bytes or files.ignore)
        except BaseException:
            self._drop(staged)
            raise

    def stage_all(
        self, wanted: Sequence[Wanted], mode: Mode, *, on_bytes: Callable[[int], None] | None = None
    ) -> list[CkptmanError | None]:
        """As `stage`, of some files, several at a time: hashing and writing leave other cores free.

        Args:
            wanted: As many as the batch has room for.
            mode: As for `stage`.
            on_bytes: As for `stage`; called by several threads.

        Returns:
            For each, why it is not in the batch, which a `MachineError` tells of no file alone; None where it is.
        """
        begun: list[_Staged | CkptmanError] = []
        for each in wanted:
            try:
                begun.append(self._begin(each))
            except CkptmanError as error:
                begun.append(error)

        def prepare(one: tuple[Wanted, _Staged | CkptmanError]) -> CkptmanError | None:
            each, staged = one
            if isinstance(staged, CkptmanError):
                return staged
            try:
                staged.prepare(mode, each, on_bytes or files.ignore)
            except BaseException as error:
                self._drop(staged)
                if isinstance(error, CkptmanError):
                    return error
                raise
            return None

        size = sum(each.expected.size for each in wanted if each.expected is not None)
        is_read = mode is Mode.COPY or any(each.sha256_known is None for each in wanted)
        return files.in_parallel(
            prepare, list(zip(wanted, begun, strict=True)), files.CORES, are_large=is_read and size > _MUCH
        )

    def publish(self) -> list[Placement | RefusedError]:
        """Give all staged files their final names, durably, and empty the batch.

        Returns:
            For each file, in the order of `stage`: its placement, or why it alone could not be placed (`taken`,
            `changed-while-read`).

        Raises:
            MachineError: as `stage`. Each file of the batch is then complete under its final name, or not there.
        """
        try:
            staged = self._staged
            files.in_parallel(_Staged.sync, staged)
            refusals = [each.publish() for each in staged]
            files.in_parallel(folders.sync_folder, list(self._folders.items()))
            for each in staged:
                each.remove_temporary()
            # Only now, after the last change to a link count: these states are those that stay.
            return [refusal or each.placement() for each, refusal in zip(staged, refusals, strict=True)]
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what is staged and not published, without a trace."""
        with ExitStack() as cleanup:  # which does all of it, even if one step is interrupted
            if self._way is not None:
                cleanup.callback(self._way.close)
            for descriptor in self._folders.values():
                cleanup.callback(files.close, descriptor)
            for staged in self._staged:
                cleanup.callback(staged.close)
            self._staged, self._folders = [], {}

    def _begin(self, wanted: Wanted) -> _Staged:
        folder = self._folder(wanted.destination.parent)
        staged = _Staged(wanted.destination, folder, files.Source(wanted.source, wanted.follow_symlinks))
        self._staged.append(staged)  # first, so that an interrupt at any later moment cleans it up
        return staged

    def _drop(self, staged: _Staged) -> None:
        staged.close()
        self._staged.remove(staged)

    def _folder(self, path: Path) -> int:
        if path not in self._folders:
            self._folders[path] = folders.open_folder(path, way=self._way)
        return self._folders[path]


@dataclass(eq=False)
class _Staged:
    """A file on its way: under a temporary name, or, if it is to be a symbolic link, only hashed."""

    destination: Path
    folder: int
    """Descriptor of the destination folder: what happens there, happens in that very folder."""
    source: files.Source
    temporary: str = field(default_factory=lambda: folders.temporary_name())
    has_temporary: bool = False
    """Whether something may have the temporary name."""
    fd: int = -1
    """Descriptor of the copy, if there is one."""
    sha256: str = ""
    how: How = "copied"

    def prepare(self, mode: Mode, wanted: Wanted, on_bytes: Callable[[int], None]) -> None:
        expected, sha256_known = wanted.expected, wanted.sha256_known
        if folders.stat_name(self.folder, self.destination) is not None:
            raise faults.TakenError(self.destination)  # before gigabytes are read in vain; publishing has the last word
        self.source.open()
        self._check_expected(mode, expected)
        trusted = sha256_known if self.source.state == expected else None
        self._transfer(mode, trusted, on_bytes)
        self.source.check_unchanged()
        if sha256_known is not None and self.sha256 != sha256_known:
            raise faults.changed(self.source.path)
        self._check_copy()

    def _check_expected(self, mode: Mode, expected: files.FileState | None) -> None:
        state = self.source.state
        links = mode in (Mode.HARDLINK, Mode.MOVE)
        if expected is not None and state != expected and not (links and state.same_but_ctime(expected)):
            raise faults.changed(self.source.path)

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
        with faults.writing(self.destination):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            self.has_temporary = True  # before there is: no interrupt can come between
            self.fd = os.open(self.temporary, flags, 0o666, dir_fd=self.folder)  # the kernel applies the umask
            reflinked = reflink(self.source.fd, self.fd)
        if reflinked:
            self.how = "reflinked"
            clone = files.chunks_of(self.fd, self.source.state.size, faults.writing, self.destination)
            self._hash_unless(trusted, clone, on_bytes)
        else:
            self.sha256 = files.digest_of(self._written(self.source.chunks()), on_bytes)
            writing.begin_sync(self.fd)
        with faults.writing(self.destination):
            os.utime(self.fd, ns=(self.source.state.mtime_ns, self.source.state.mtime_ns))

    def _written(self, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
        for chunk in chunks:
            with faults.writing(self.destination):
                writing.write_all(self.fd, chunk)
            yield chunk

    def _hash_unless(self, trusted: str | None, chunks: Iterator[memoryview], on_bytes: Callable[[int], None]) -> None:
        if trusted is None:
            self.sha256 = files.digest_of(chunks, on_bytes)
        else:
            self.sha256 = trusted
            on_bytes(self.source.state.size)

    def _check_copy(self) -> None:
        if self.fd < 0:
            return
        with faults.writing(self.destination):
            written = os.fstat(self.fd).st_size
        if written != self.source.state.size:
            raise MachineError(
                f"{shown(self.destination)} came out with {written} of {self.source.state.size} bytes",
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
        with faults.reading(source):
            if stat.S_ISLNK(os.stat(source, follow_symlinks=False).st_mode):
                return False  # what it points to stays where it is, so the tree needs bytes of its own
        try:
            self._link_source()
        except OSError as error:
            if error.errno in writing.NO_HARD_LINKS or error.errno in (errno.EXDEV, errno.EMLINK):
                return False
            raise _link_error(error, source, self.destination) from error
        return True

    def _link_source(self) -> None:
        source = self.source
        self.has_temporary = True  # as above
        os.link(source.path, self.temporary, dst_dir_fd=self.folder, follow_symlinks=source.follow_symlinks)
        self.how = "hard link"
        linked = files.FileState.from_stat(os.stat(self.temporary, dir_fd=self.folder, follow_symlinks=False))
        if not linked.same_but_ctime(source.state):
            raise faults.changed(source.path)
        source.state = linked  # the new link has changed the ctime

    def sync(self) -> None:
        """Wait until the bytes are on the disk."""
        if self.how != "symbolic link":
            with faults.writing(self.destination):
                os.fsync(self.fd if self.fd >= 0 else self.source.fd)

    def publish(self) -> RefusedError | None:
        """Give it its final name; return why it cannot have it, if that is about this file alone."""
        try:
            with faults.writing(self.destination):
                if self.how == "symbolic link":
                    self._make_symlink()
                    return None
                if self.how == "hard link":
                    self.source.check_unchanged(ctime=False)  # it shares its bytes, and they were read a while ago
                writing.give_name(self.folder, self.temporary, self.destination)
        except RefusedError as refusal:
            return refusal
        return None

    def _make_symlink(self) -> None:
        target = Path(os.path.realpath(self.source.path))
        if files.FileState.of(target) != self.source.state:
            raise faults.changed(self.source.path)
        try:
            os.symlink(target, self.destination.name, dir_fd=self.folder)
        except FileExistsError as error:
            raise faults.TakenError(self.destination) from error

    def remove_temporary(self) -> None:
        if self.has_temporary:
            self.has_temporary = not folders.discard(self.folder, self.temporary)

    def placement(self) -> Placement:
        state = self.source.state
        if self.how == "hard link":  # making names and removing the temporary one has changed the ctime
            with faults.reading(self.source.path):
                state = files.FileState.of_fd(self.source.fd)
        return Placement(self.sha256, state.size, state, self.how)

    def close(self) -> None:
        try:
            self.source.close()
        finally:
            try:
                descriptor, self.fd = self.fd, -1
                if descriptor >= 0:
                    files.close(descriptor)
            finally:
                self.remove_temporary()


def reflink(source: int, copy: int) -> bool:
    """Let `copy` share the blocks of `source`; False where that cannot be done, and `copy` is empty as before."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(copy, _FICLONE, source)
    except OSError:  # whatever the reason is, a plain copy either works or names it
        os.ftruncate(copy, 0)
        return False
    return True


def _link_error(error: OSError, source: Path, destination: Path) -> CkptmanError:
    use_copy = "Use --mode copy."
    if error.errno == errno.EXDEV:
        return MachineError(
            f"{shown(source)} and {shown(destination)} are on different file systems, which no hard link can span",
            code="other-file-system",
            fix=use_copy,
        )
    if error.errno in writing.NO_HARD_LINKS:
        return MachineError(
            f"{shown(destination)} cannot be a hard link to {shown(source)}: the file system has none, or does not "
            "allow them to another user's file",
            code="no-hard-links",
            fix=use_copy,
        )
    if error.errno == errno.EMLINK:
        return RefusedError(
            f"{shown(source)} has as many hard links as its file system allows",
            code="too-many-links",
            fix=use_copy,
        )
    if error.errno == errno.ENOENT:
        return faults.changed(source)
    return faults.destination_error(error, destination)
