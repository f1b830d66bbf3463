"""Fixtures for the tests of `ckptman.fs`."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.failing_calls import (
    Stand,
    World,
    failing,
    new_world,
    other_file_system,
    replace_everywhere,
    replace_os,
)


@pytest.fixture(autouse=True)
def no_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are the same on every file system; what reflinks do is tested where they are asked for."""
    replace_everywhere(monkeypatch, "fcntl", Stand(fcntl, {"ioctl": failing(errno.EOPNOTSUPP)}))


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder where fsync takes no time, if there is one: the sweeps call it thousands of times."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return new_world(tmp_path)


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Sources and tree on two file systems: really so where there are two, else by link(2) saying so."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        world = World(Path(folder), tmp_path / "tree")
        world.tree.mkdir()
        if world.sources.stat().st_dev == tmp_path.stat().st_dev:
            replace_os(monkeypatch, link=other_file_system)
        yield world
