"""What somebody else does to files meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.failing_calls import CONTENT


def nothing(path: Path) -> None:
    """The control: a source that stays."""


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, 10)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"same size, other bytes")


def rewrite_secretly(path: Path) -> None:
    before = path.stat()
    time.sleep(0.02)  # a tick of the kernel's clock
    rewrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(path: Path) -> None:
    twin = path.with_name("twin.pt")
    twin.write_bytes(path.read_bytes())
    os.utime(twin, ns=(10**18, 10**18))
    twin.replace(path)


def once(change: Callable[[Path], None], path: Path) -> Callable[[int], None]:
    todo = [change]
    return lambda _: todo.pop()(path) if todo else None


@contextmanager
def in_time(seconds: int = 5) -> Iterator[None]:
    """Fail rather than wait for ever."""

    def give_up(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.with_name("real.pt").write_bytes(CONTENT)
    path.symlink_to("real.pt")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


@contextmanager
def as_working_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def lose(destination: Path) -> None:
    destination.unlink()


@contextmanager
def unlistable(folder: Path, error: int) -> Iterator[None]:
    """A folder that cannot be listed: modes do not stop root, so the call is made to fail."""
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(os.fsdecode(path)) == folder:
            raise OSError(error, os.strerror(error))
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        yield
