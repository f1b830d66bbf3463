"""What was worked out before, kept in the user's cache folder: derived, never needed, and thrown away at will.

Nothing is kept on the disk of a tree. Whatever is wrong with the cache (unreadable, corrupt, locked, of another
version, in a folder that others may write to, no room), there is none: a look-up finds nothing, and nothing is kept.
A database that is corrupt is removed, so that the next one is whole.
CKPTMAN_CACHE names another folder, or turns it off (`0`, `off`, or empty).
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptman.fs import folders

if TYPE_CHECKING:  # imported where it is used: most commands keep nothing
    import sqlite3

VARIABLE = "CKPTMAN_CACHE"
FILE = "answers-1.sqlite"
MOST_BYTES = 64 << 20
"""Of all values together; the oldest give way."""
LARGEST = 8 << 20
"""Bytes of a value, above which it is not kept."""
SETTLED_NS = 2_000_000_000
"""A file changed no longer ago than this may change again without its times telling."""

_TICK = 0.02
"""Seconds in which the clock of a local file system goes on."""
_SUM = 4
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OFF = frozenset({"", "0", "off", "no", "false"})


@dataclass(frozen=True)
class FolderState:
    """What tells that nothing below a folder has changed: the name and state of every entry, no byte of them."""

    digest: str
    newest_ns: int
    """When the last change was made, as the kernel says."""


def folder_state(
    folder: Path,
    *,
    without: Collection[str] = (),
    leave_out: Collection[str] = (),
    linked: str = "",
    of_folders: bool = False,
    on_file: Callable[[str, str, int], None] | None = None,
) -> FolderState | None:
    """The state of everything below a folder; None where something cannot be looked at, so that nothing is known.

    Args:
        folder: The folder.
        without: Names directly in it that make its state unknown, since what they tell of lies elsewhere.
        leave_out: Names of entries, anywhere, that do not count.
        linked: End of the names of files whose ctime does not count, since further links to them change it.
        of_folders: Whether the last change is of folders too, such as that a file came and went.
        on_file: Called for each entry that is no folder, with its path in the folder, its state, and its size.
    """
    digest, newest = hashlib.blake2b(digest_size=32), 0
    top = os.path.realpath(folder)
    pending = [top]
    try:
        while pending:
            at = pending.pop()
            if of_folders:
                newest = max(newest, os.stat(at).st_ctime_ns)  # noqa: PTH116
            lines, below = [], []
            with os.scandir(at) as listing:
                for item in listing:
                    if at == top and item.name in without:
                        return None
                    if item.name in leave_out:
                        continue
                    if item.is_dir(follow_symlinks=False):
                        below.append(item.name)
                        continue
                    found = item.stat(follow_symlinks=False)
                    newest = max(newest, found.st_ctime_ns)
                    told = _told(found)
                    if on_file is not None:
                        on_file(f"{at}/{item.name}"[len(top) + 1 :], told, found.st_size)
                    if linked and item.name.endswith(linked):
                        told = told.rpartition(",")[0]
                    lines.append(f"{item.name}\0{told}")
                    if stat.S_ISLNK(found.st_mode):
                        lines.append(_target(item.path))
            below.sort()
            pending += [f"{at}/{name}" for name in reversed(below)]
            lines.sort()
            text = "\n".join((at[len(top) :], *lines, "/", *below, "\0\0"))
            digest.update(text.encode("utf-8", "surrogateescape"))
    except OSError:
        return None
    return FolderState(digest.hexdigest(), newest)


def _told(found: os.stat_result) -> str:
    # By value, since the time of a change alone is the kernel's, and the rest may be set.
    return f"{found.st_mode},{found.st_dev},{found.st_ino},{found.st_size},{found.st_mtime_ns},{found.st_ctime_ns}"


def _target(link: str) -> str:
    """What a link leads to."""
    try:
        return _told(os.stat(link))  # noqa: PTH116
    except OSError as error:
        return f"nowhere {error.errno}"


def moment(folder: Path) -> int:
    """The time of a change in a folder now, by the clock of its file system.

    What has an earlier time there, and changes from now on, has another time then.

    Raises:
        OSError: nothing can be made there.
    """
    time.sleep(_TICK)
    name = folder / folders.temporary_name()
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        return os.fstat(descriptor).st_ctime_ns
    finally:
        os.close(descriptor)
        os.unlink(name)  # noqa: PTH108


def recall(key: str, state: FolderState) -> bytes | None:
    """What was kept under a key, of a folder in this state; None where there is nothing of the kind."""
    with _opened() as database:
        if database is not None:
            row = database.execute("SELECT value FROM answers WHERE key = ? AND state = ?", (key, state.digest))
            found = row.fetchone()
            if found is not None and isinstance(found[0], bytes):
                value = found[0][_SUM:]
                if found[0] == _summed(value):  # else the database is torn, or somebody else's
                    return value
    return None


def keep(key: str, state: FolderState, value: bytes, *, since_ns: int) -> None:
    """Keep a value for a folder in this state, unless that changed too short a time before `since_ns`, when the work
    on the value began: then it may have changed meanwhile, with the same times."""
    if state.newest_ns > since_ns - SETTLED_NS or len(value) > LARGEST:
        return
    with _opened() as database:
        if database is not None:
            with database:
                database.execute(
                    "INSERT OR REPLACE INTO answers (key, state, value, kept) VALUES (?, ?, ?, ?)",
                    (key, state.digest, _summed(value), time.time_ns()),
                )
                database.execute(
                    "DELETE FROM answers WHERE key IN (SELECT key FROM (SELECT key, SUM(LENGTH(value)) OVER "
                    "(ORDER BY kept DESC, key) AS together FROM answers) WHERE together > ?)",
                    (MOST_BYTES,),
                )


def _summed(value: bytes) -> bytes:
    return zlib.crc32(value).to_bytes(_SUM, "little") + value


def folder() -> Path | None:
    """The folder of the cache; None where it is turned off, or where there is no home to have one in."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return None if chosen.lower() in _OFF else Path(chosen)
    home = os.path.expanduser("~")  # noqa: PTH111 (which does not raise)
    if not os.path.isabs(home):  # noqa: PTH117
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # noqa: PTH117
        return Path(base, "ckptman")
    return Path(home, "Library/Caches" if sys.platform == "darwin" else ".cache", "ckptman")


@contextmanager
def _opened() -> Iterator[sqlite3.Connection | None]:
    """The database, or None; what fails in the block is as if there were none."""
    at = folder()
    if at is None:
        yield None
        return
    import sqlite3

    database, file = None, at / FILE
    with suppress(OSError, ValueError), _forgiving(file):
        os.makedirs(at, mode=0o700, exist_ok=True)  # noqa: PTH103
        found = os.stat(at)  # noqa: PTH116
        if found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_MAY_WRITE:
            database = sqlite3.connect(file, timeout=0.2)
            database.execute("PRAGMA synchronous = OFF")  # a lost or a torn cache is no cache
            database.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, state TEXT, value BLOB, kept INTEGER)"
            )
    try:
        with _forgiving(file):
            yield database
    finally:
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()


@contextmanager
def _forgiving(file: Path) -> Iterator[None]:
    """What fails is as if there were no database; one that is corrupt goes, so that the next time makes a new one."""
    import sqlite3

    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
            with suppress(OSError):
                os.unlink(file)  # noqa: PTH108
