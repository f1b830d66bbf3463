"""Locks that the kernel drops with their process, however that ends."""

# ruff: noqa: PTH108, PTH115, PTH116

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ckptman.fs import faults, files, folders, writing
from ckptman.fs.faults import shown
from ckptman.text import MachineError


@contextmanager
def lock_tree(root: Path) -> Iterator[bool]:
    """Keep other ckptman processes from writing to the tree until the `with` statement ends.

    The lock is flock(2) on the root folder: it leaves no file behind, and the kernel drops it with the process, however
    that ends. Where it keeps nobody out (some network file systems have none, or grant it to everybody), a file in the
    root, made by link(2), says who is at work; one that a killed process of this machine left is taken over. Reading
    needs no lock.

    Yields:
        Whether it is flock that locks the tree.

    Raises:
        MachineError: `tree-busy`, at once, if another process holds the lock; others as `placing.Batch.stage`.
    """
    with ExitStack() as held:
        descriptor = folders.open_folder(root)
        held.callback(files.close, descriptor)
        is_locked = _lock(descriptor, root)
        if not is_locked:
            held.enter_context(_owner_file(root, descriptor))
        elif owner := _owner_at_work(descriptor):  # on a machine that has the tree without its locks
            raise _busy(root, owner)
        yield is_locked


def _lock(descriptor: int, root: Path) -> bool:
    """Take flock(2) on an open folder; False where that keeps nobody out."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(root) from error
    except OSError:  # no locks on folders there
        return False
    second = folders.open_folder(root)
    try:
        fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _BUSY and reach_other_machines(descriptor)
    else:
        return False
    finally:
        files.close(second)


@contextmanager
def _owner_file(root: Path, folder: int) -> Iterator[None]:
    """Have the file that says who is writing to a tree, which only one process has at a time."""
    path, mine = root / folders.OWNER_FILE, _identity()
    while True:
        try:
            writing.make_file(folder, path, mine)
            break
        except faults.TakenError as error:
            if owner := _owner_at_work(folder):
                raise _busy(root, owner) from error
    try:
        yield
    finally:
        if _read_owner(folder) == mine:
            folders.discard(folder, path.name)


def _busy(root: Path, owner: str | None = None) -> MachineError:
    who = "" if owner is None else f": {owner if owner.isprintable() else repr(owner)}"
    more = "" if owner is None else f" If that process is no more, remove {shown(root / folders.OWNER_FILE)}"
    fix = f"Wait until it is done, then do it again.{more}"
    return MachineError(f"another ckptman is writing to {shown(root)}{who}", code="tree-busy", fix=fix)


def _owner_at_work(folder: int) -> str:
    """Who is writing to a tree by its owner file; empty where there is none, or it was of a process that is no more."""
    owner = _read_owner(folder)
    return "" if not owner or (_is_over(owner) and _take_away(folder, owner)) else owner


def _identity() -> str:
    """This process among all that may reach the tree: machine, since when it is up, name spaces, number, beginning."""
    spaces = _told(lambda: "-".join(os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "net")))
    boot = _told(lambda: files.read_bytes(Path("/proc/sys/kernel/random/boot_id")).decode().strip())
    return f"process {os.getpid()} on {os.uname().nodename} ({boot}, {spaces}, {_began(os.getpid())})"


def _began(process: int) -> str:
    """When a process began, as its kernel counts; empty where there is no such process."""
    return _told(lambda: files.read_bytes(Path(f"/proc/{process}/stat")).rpartition(b")")[2].split()[19].decode())


def _told(question: Callable[[], str]) -> str:
    try:
        return question()
    except (OSError, IndexError):
        return ""


def _is_over(owner: str) -> bool:
    """Whether the process that an owner file names was one of this machine, and is no more."""
    mine, pattern = _identity(), re.compile(r"process (\d+) on (.+ \(.*, )(\d*)\)", re.DOTALL)
    told, own = pattern.fullmatch(owner), pattern.fullmatch(mine)
    if told is None or own is None or told[2] != own[2] or not own[3]:
        return False
    return _began(int(told[1])) != told[3]


def _take_away(folder: int, owner: str) -> bool:
    """Remove the file of an owner that is no more; only one process of this machine does at a time."""
    found = os.fstat(folder)
    try:
        with socket.socket(socket.AF_UNIX) as guard:  # a name without a file, which ends with its process
            guard.bind(f"\0ckptman-{found.st_dev:x}-{found.st_ino:x}")
            if _read_owner(folder) == owner:
                os.unlink(folders.OWNER_FILE, dir_fd=folder)
    except OSError:
        return False
    return True


def _read_owner(folder: int) -> str:
    """What the owner file says; empty where there is none."""
    try:
        descriptor = os.open(folders.OWNER_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"its file cannot be read: {faults.reason_of(error)}"
    try:
        return os.pread(descriptor, 1000, 0).decode(errors="replace") or "its file is empty"
    except OSError as error:
        return f"its file cannot be read: {faults.reason_of(error)}"
    finally:
        files.close(descriptor)


# A lock on a file of its own ------------------------------------------------------------------------------------------

_TRIES, _WAIT = 5, 0.1  # another process may be looking, which takes the lock for an instant

_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
"""How flock says that another has the lock, the second on some NFS servers."""

_LOCAL_LOCKS = {"nfs": {"nolock", "local_lock=all", "local_lock=flock"}, "nfs4": {"local_lock=all", "local_lock=flock"}}
"""Mount options by which flock on a network file system is kept to the machine."""


def take_file(path: Path) -> tuple[int, bool] | None:
    """Lock a file, which is made where it is missing, until `release_file`, or the end of the process.

    Returns:
        Its descriptor, and whether it is locked: the file system may have no locks. None where another process has it.

    Raises:
        MachineError: it cannot be made or opened.
    """
    for left in reversed(range(_TRIES)):
        with faults.writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _BUSY:
                return descriptor, False
            files.close(descriptor)
            if left:
                time.sleep(_WAIT)
            continue
        if _is_file_at(descriptor, path):
            return descriptor, True
        files.close(descriptor)  # its last owner has just removed it
    return None


def release_file(path: Path, descriptor: int, *, locked: bool) -> None:
    """Let go of what `take_file` gave; a locked file is removed."""
    if locked:
        with suppress(OSError):
            os.unlink(path)
    files.close(descriptor)


def is_taken(path: Path) -> bool | None:
    """Whether another process has the lock on a file; None where the locks there do not tell. Nothing is written."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # whoever has the lock has the file
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in _BUSY else None
    else:
        return False if reach_other_machines(descriptor) else None
    finally:
        files.close(descriptor)


def reach_other_machines(descriptor: int) -> bool:
    """Whether flock on an open file is seen by every machine that has the file. A local disk is on one machine."""
    kind, options = _mount_of(descriptor)
    if kind == "lustre":
        return "flock" in options
    if kind in ("beegfs", "fuse.sshfs", "9p"):
        return False
    return options.isdisjoint(_LOCAL_LOCKS.get(kind, set()))


def _mount_of(descriptor: int) -> tuple[str, set[str]]:
    """Type and options of the file system that an open file is on; empty where the system does not tell."""
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with os.fdopen(os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC), errors="replace") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return "", set()
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) > 5 and len(kinds) > 2 and fields[2] == number:
            return kinds[0], {*fields[5].split(","), *kinds[2].split(",")}
    return "", set()


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
