"""Faults of the machine while files are placed."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import Batch, Mode, folders, locks, make_folders, write_atomically
from ckptman.fs.files import hash_file
from ckptman.text.errors import MachineError, RefusedError
from tests.helpers.failing_calls import CONTENT, NOBODY, World, failing, new_world, replace_os
from tests.helpers.placing import place_file


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errno.ENOSPC, "disk-full"),
        (errno.EDQUOT, "quota-exceeded"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission-denied"),
        (errno.EIO, "io-error"),
        (errno.ESTALE, "io-error"),
        (errno.EMFILE, "too-many-open-files"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_what_is_wrong_with_the_destination_is_said(
    call: str, error: int, code: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = world.source(), world.destination()
    with monkeypatch.context() as broken:
        replace_os(broken, **{call: failing(error)})
        with pytest.raises(MachineError) as caught:
            place_file(source, destination, Mode.COPY)
    assert caught.value.code == code
    assert str(destination) in caught.value.message
    assert caught.value.fix
    world.check(done=False)
    assert list(world.tree.iterdir()) == []
    place_file(source, destination, Mode.COPY)


@pytest.mark.parametrize("call", ["open", "fstat", "preadv"])
@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_an_unreadable_source_is_refused(call: str, error: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source = world.source()

    def fail(*args: Any, **kwargs: Any) -> Any:
        if call == "open" and args[0] != source:
            return os.open(*args, **kwargs)
        return failing(error)()

    replace_os(monkeypatch, **{call: fail})
    with pytest.raises(RefusedError) as caught:
        place_file(source, world.destination(), Mode.COPY)
    assert caught.value.code == "unreadable"
    assert str(source) in caught.value.message
    assert list(world.tree.iterdir()) == []


def test_too_many_open_files_is_no_fault_of_the_source(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_os(monkeypatch, open=failing(errno.EMFILE))
    with pytest.raises(MachineError) as caught:
        hash_file(world.source())
    assert caught.value.code == "too-many-open-files"


@pytest.fixture
def open_world() -> Iterator[World]:
    """A world whose folders any user may reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield new_world(Path(folder))


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Permissions do not bind root, so be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_permissions_of_the_source(open_world: World) -> None:
    source, destination = open_world.source(), open_world.destination()
    open_world.tree.chmod(0o777)
    source.chmod(0)
    with as_ordinary_user(), pytest.raises(RefusedError) as caught:
        place_file(source, destination, Mode.COPY)
    assert caught.value.code == "unreadable"
    source.chmod(0o644)
    with as_ordinary_user():
        place_file(source, destination, Mode.COPY)


def test_permissions_of_the_destination(open_world: World) -> None:
    source, destination = open_world.source(), open_world.destination()
    open_world.tree.chmod(0o555)
    with as_ordinary_user(), pytest.raises(MachineError) as caught:
        place_file(source, destination, Mode.COPY)
    assert caught.value.code == "permission-denied"
    with as_ordinary_user(), pytest.raises(MachineError):
        make_folders(open_world.tree / "below", open_world.tree)
    open_world.tree.chmod(0o777)
    with as_ordinary_user():
        place_file(source, destination, Mode.COPY)


def test_a_limit_of_the_kernel_in_the_middle_of_a_copy(world: World) -> None:
    source, destination = world.source(), world.destination()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, limits[1]))
    try:
        with pytest.raises(MachineError) as caught:
            place_file(source, destination, Mode.COPY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "file-too-large"
    assert list(world.tree.iterdir()) == []


def test_a_folder_that_is_missing(world: World) -> None:
    source = world.source()
    for act in (
        lambda: place_file(source, world.tree / "no" / "a.pt", Mode.COPY),
        lambda: write_atomically(world.tree / "no" / "run.json", b"", replace=True),
        lambda: locks.lock_tree(world.tree / "no").__enter__(),
    ):
        with pytest.raises(MachineError) as caught:
            act()
        assert caught.value.code == "folder-missing"


def test_a_temporary_file_that_another_process_removes(world: World) -> None:
    with Batch() as batch:
        batch.stage(world.source(), world.destination(), Mode.COPY)
        assert len(folders.remove_partials(world.tree)) == 1
        with pytest.raises(MachineError) as caught:
            batch.publish()
    assert caught.value.code == "tree-busy"
