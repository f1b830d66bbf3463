"""Files that others wrote: opened safely, and known to be the same from the first byte to the last."""

# One kind of call throughout: most of these, with descriptors, dir_fd and flags, have no counterpart in pathlib.
# ruff: noqa: PTH108

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Self, TypeVar

from ckptman.fs import faults
from ckptman.fs.processes import copies_for as copies_for
from ckptman.fs.processes import cores as cores
from ckptman.fs.processes import in_processes as in_processes

if TYPE_CHECKING:  # imported where it is used, for a known answer needs no thread
    from concurrent.futures import Future

CHANGED = faults.CHANGED
"""Code of the refusal of a file that was written to while it was read."""
_CHUNK = 1 << 17
"""Bytes read at a time: what is hashed next is in the cache of the core still, which saves a sixth of the time."""


SYNC_THREADS = 8
"""Requests to a disk at once."""

_SLOW = 0.0001
"""Seconds that a request is waited for from which on more threads pay, which have to be started and to take turns."""

CORES = min(4, cores())
"""Threads that copy or hash: more would wait for the disk, or for each other."""

AT_ONCE = min(64, max(4, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] % (1 << 31) - 24) // 8))
"""Files that are written before the disk is waited for. With up to three descriptors for each, and as many for those of
which it is waited for meanwhile, they stay below what the process may have open (unlimited is -1)."""

_T = TypeVar("_T")
_R = TypeVar("_R")


_PACKED = struct.Struct("<QQqqIqI")
PACKED_SIZE = _PACKED.size
"""Bytes of `FileState.packed`."""
_NS = 10**9


@dataclass(frozen=True, slots=True)
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
    def of(cls, path: Path, *, follow_symlinks: bool = False, folder: int | None = None) -> Self:
        """State of what is at `path`; or has its name in an open `folder`.

        Raises:
            RefusedError: `unreadable`, if there is nothing or it cannot be reached.
        """
        with faults.reading(path):
            name = path if folder is None else path.name
            return cls.from_stat(os.stat(name, dir_fd=folder, follow_symlinks=follow_symlinks))

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
        mine, theirs = (self.device, self.inode), (other.device, other.inode)
        return mine == theirs and (self.size, self.mtime_ns) == (other.size, other.mtime_ns)

    @property
    def packed(self) -> bytes:
        """What takes a third of the memory, where many are held."""
        times = (*divmod(self.mtime_ns, _NS), *divmod(self.ctime_ns, _NS))  # nanoseconds alone end in 2262
        return _PACKED.pack(self.device, self.inode, self.size, *times)

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """The inverse of `packed`."""
        device, inode, size, seconds, ns, changed, changed_ns = _PACKED.unpack(packed)
        return cls(device, inode, size, seconds * _NS + ns, changed * _NS + changed_ns)


def hash_file(
    path: Path,
    *,
    on_bytes: Callable[[int], None] | None = None,
    on_chunk: Callable[[memoryview], None] | None = None,
    follow_symlinks: bool = False,
    folder: int | None = None,
) -> tuple[str, FileState]:
    """SHA-256 of a regular file, and the state that it kept from the first byte to the last.

    Args:
        path: The file.
        on_bytes: Called with the number of bytes of each piece that was read.
        on_chunk: Called with each piece, whose buffer is used again after that: what else is to be known of the bytes.
        follow_symlinks: Read what a symbolic link leads to.
        folder: The descriptor of the file's folder, if that is open: the file is that of its name in there.

    Raises:
        RefusedError: `unreadable`, `not-a-file` (a named pipe, say: never waited for), `symbolic-link` unless
            `follow_symlinks`, or `changed-while-read`.
    """
    with opened(path, follow_symlinks=follow_symlinks, folder=folder) as source:
        digest = digest_of(source.chunks(), on_bytes or ignore, on_chunk)
        source.check_unchanged()
        return digest, source.state


@dataclass(eq=False)
class Source:
    """A regular file that is read, and the state in which it has to stay meanwhile."""

    path: Path
    follow_symlinks: bool
    folder: int | None = None
    """The descriptor of its folder, where it is to be the file of its name in there."""
    fd: int = -1
    state: FileState = field(init=False)

    def open(self) -> None:
        """Open it, if it is a regular file."""
        with faults.reading(self.path):
            name = self.path if self.folder is None else self.path.name
            found = os.stat(name, dir_fd=self.folder, follow_symlinks=self.follow_symlinks)
            faults.check_regular(self.path, found)
            # What was a file a moment ago may be a pipe or a link now: neither wait for the one nor follow the other.
            flags = os.O_RDONLY | os.O_NONBLOCK | (0 if self.follow_symlinks else os.O_NOFOLLOW)
            self.fd = os.open(name, flags, dir_fd=self.folder)
            opened = os.fstat(self.fd)
            faults.check_regular(self.path, opened)
            self.state = FileState.from_stat(opened)

    def close(self) -> None:
        """Close it, if it is open."""
        descriptor, self.fd = self.fd, -1
        if descriptor >= 0:
            close(descriptor)

    def chunks(self) -> Iterator[memoryview]:
        """Its bytes, piece by piece; more of them than when it was opened are a change."""
        left = self.state.size
        for chunk in chunks_of(self.fd, left, faults.reading, self.path):
            left -= len(chunk)
            if left < 0:
                raise faults.changed(self.path)  # at once: what is being written to may grow for ever
            yield chunk

    def check_unchanged(self, *, ctime: bool = True) -> None:
        """Refuse it if it was written to, or if its name leads to another file by now.

        Without `ctime`, other hard links to the same file may have been made or removed meanwhile.
        """
        now = FileState.of(self.path, follow_symlinks=self.follow_symlinks, folder=self.folder)
        if not (now == self.state or (not ctime and now.same_but_ctime(self.state))):
            raise faults.changed(self.path)


@contextmanager
def opened(path: Path, *, follow_symlinks: bool = False, folder: int | None = None) -> Iterator[Source]:
    """A regular file, open to be read.

    Raises:
        RefusedError: as `hash_file`, but for `changed-while-read`.
    """
    source = Source(path, follow_symlinks, folder)
    try:
        source.open()
        yield source
    finally:
        source.close()


def chunks_of(
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


def digest_of(
    chunks: Iterator[memoryview],
    on_bytes: Callable[[int], None],
    on_chunk: Callable[[memoryview], None] | None = None,
) -> str:
    """SHA-256 of all pieces, in hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        if on_chunk is not None:
            on_chunk(chunk)
        on_bytes(len(chunk))
    return digest.hexdigest()


def open_foreign(path: str | os.PathLike[str], *, follow_symlinks: bool = True) -> int:
    """A descriptor to read what somebody else wrote: a named pipe is not waited for, a terminal not taken over.

    Raises:
        OSError, ValueError: as open(2).
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(path, flags | (0 if follow_symlinks else os.O_NOFOLLOW))


def read_bytes(path: Path | str, most: int | None = None) -> bytes:
    """All bytes of a small file that others may have put there.

    Raises:
        OSError: as open(2) and read(2); EINVAL for what is no regular file, EFBIG for more than `most` bytes.
    """
    descriptor = open_foreign(path)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if most is not None and found.st_size > most:
            raise OSError(errno.EFBIG, "too large", str(path))
        data = os.read(descriptor, found.st_size + 1)
        while more := os.read(descriptor, _CHUNK):  # a read may be short, and a file may grow
            data += more
        return data
    finally:
        close(descriptor)


def remove(path: Path) -> None:
    """Remove a file of ckptman's own, such as a log or a state that is no longer needed.

    Raises:
        OSError: as unlink(2).
    """
    os.unlink(path)


def in_parallel(
    work: Callable[[_T], _R], items: Sequence[_T], threads: int = SYNC_THREADS, *, are_large: bool = False
) -> list[_R]:
    """Do many things at once: disks and servers answer several requests in about the time of one.

    This thread begins, and others join in once it has to wait; where the things `are_large`, at once.

    Raises:
        Exception: what one of them raises; by then, all that was begun has ended, and no other is begun.
    """
    from concurrent.futures import ThreadPoolExecutor

    left = iter(enumerate(items))  # each thread takes the next one from it
    found: dict[int, _R] = {}
    others: list[Future[None]] = []
    most = min(len(items), threads) - 1

    def take_turns(*, is_first: bool = False) -> None:
        try:
            for at, item in left:
                begun = _waited()
                found[at] = work(item)
                if is_first and not others and _waited() - begun > _SLOW:
                    let_join()
        except BaseException:
            deque(left, maxlen=0)
            raise

    def let_join() -> None:
        others.extend(pool.submit(take_turns) for _ in range(most))

    with ThreadPoolExecutor(max(1, most)) as pool:
        if are_large:
            let_join()
        take_turns(is_first=True)
    for other in others:
        other.result()
    return [found[at] for at in range(len(items))]


def _waited() -> float:
    """The seconds in which this thread did nothing, from some time on."""
    return perf_counter() - thread_time()


def in_turn(
    work: Callable[[_T], _R], items: Iterable[_T], *, is_large: Callable[[_T], bool], threads: int = CORES
) -> Iterator[Callable[[], _R]]:
    """For each of the items, in their order, what gives the outcome of the work or raises its error.

    A few large ones are begun beforehand, by other threads: those hash while this one does something else.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        begun = deque[Callable[[], _R]]()
        for item in items:
            begun.append(pool.submit(work, item).result if is_large(item) else partial(work, item))
            if len(begun) > 2 * threads:
                yield begun.popleft()
        yield from begun


def close(descriptor: int) -> None:
    """Close a descriptor, whatever that brings."""
    with suppress(OSError):  # what had to be on the disk was synced before, and its errors were heard
        os.close(descriptor)


@contextmanager
def calls_of(what: str) -> Iterator[None]:
    """Errors of the system in this block that nothing else names end `what`, as faults of the machine.

    Raises:
        MachineError: `io-error`.
    """
    try:
        yield
    except OSError as error:
        raise faults.machine_error(error, what) from error


def fail(error: OSError) -> None:
    """For `os.walk`, which passes over what cannot be listed: that is not to be taken for empty."""
    raise error


def ignore(count: int) -> None:
    """Report progress to nobody."""
