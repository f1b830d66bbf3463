"""Documents, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptman.fs import FileState, folders, write_atomically
from ckptman.fs.placing import TakenError, write_together
from ckptman.text.errors import RefusedError
from tests.helpers.failing_calls import CONTENT, OTHER, World, order_of, replace_os
from tests.helpers.meddling import exchange, grow, in_time, lose, make_link, make_pipe, nothing


def test_a_new_document(world: World) -> None:
    path = world.tree / "run.json"
    before = os.umask(0o027)
    try:
        assert write_atomically(path, CONTENT, replace=False)
    finally:
        os.umask(before)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_replaced_document_keeps_its_permissions(world: World) -> None:
    path = world.bystander("README.md")
    path.chmod(0o664)
    before = os.umask(0o077)
    try:
        assert write_atomically(path, CONTENT, replace=True)
    finally:
        os.umask(before)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o664
    assert [each.name for each in world.tree.iterdir()] == ["README.md"]


@pytest.mark.parametrize("replace", [True, False])
def test_the_same_bytes_are_not_written_again(replace: bool, world: World) -> None:
    path = world.bystander("README.md")
    before = FileState.of(path)
    assert not write_atomically(path, OTHER, replace=replace)
    assert FileState.of(path) == before
    same_size = OTHER[::-1]
    if replace:
        assert write_atomically(path, same_size, replace=True)
        assert path.read_bytes() == same_size


def test_a_document_is_not_replaced_unasked(world: World) -> None:
    path = world.bystander("run.json")
    with pytest.raises(TakenError):
        write_atomically(path, CONTENT, replace=False)
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize("make", [make_pipe, make_link, Path.mkdir])
def test_only_a_file_is_replaced(make: Callable[[Path], None], world: World) -> None:
    path = world.tree / "README.md"
    make(path)
    before = path.lstat()
    with in_time(), pytest.raises(RefusedError):
        write_atomically(path, OTHER, replace=True)
    assert path.lstat() == before


@pytest.mark.parametrize("change", [nothing, grow, exchange, lose])
def test_a_document_somebody_else_edits_meanwhile_is_left_to_them(
    change: Callable[[Path], None], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.bystander("README.md")
    todo = [change]

    def fsync(descriptor: int) -> None:
        os.fsync(descriptor)
        if todo:
            todo.pop()(path)

    replace_os(monkeypatch, fsync=fsync)
    if change is nothing:
        assert write_atomically(path, CONTENT, replace=True)
        return
    with pytest.raises(RefusedError, match="changed"):
        write_atomically(path, CONTENT, replace=True)
    assert not path.exists() or path.read_bytes() != CONTENT
    assert not any(folders.is_partial(each.name) for each in world.tree.iterdir())


def test_a_document_that_appears_meanwhile_is_not_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.tree / "README.md"

    def fsync(descriptor: int) -> None:
        path.write_bytes(OTHER)

    replace_os(monkeypatch, fsync=fsync)
    with pytest.raises(TakenError):
        write_atomically(path, CONTENT, replace=True)
    assert path.read_bytes() == OTHER


def test_many_files_are_written_together_and_one_that_cannot_be_keeps_no_other_from_it(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) / "run.json" for number in range(70)]
    for path in paths:
        path.parent.mkdir()
    paths[0].write_bytes(CONTENT)
    paths[1].write_bytes(OTHER)
    paths[2].mkdir()
    outcomes: list[bool | RefusedError] = []

    def write() -> None:
        outcomes.extend(write_together([(path, CONTENT) for path in paths], replace=True))

    steps = order_of(write, of={"fsync", "link", "rename"})
    assert outcomes[:2] == [False, True]
    assert getattr(outcomes[2], "code", None) == "not-a-file"
    assert outcomes[3:] == [True] * 67
    assert {path.read_bytes() for path in paths if path.is_file()} == {CONTENT}
    assert [path for path in tmp_path.rglob("*") if folders.is_partial(path.name)] == []
    first = steps.index("rename")  # of the first 64, each is on the disk before any has a name
    assert steps[:first].count("fsync") == 62
    assert steps.count("fsync") == 2 * 68
