"""Removing the source of a move."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import FileState, Mode, moving
from ckptman.fs.placing import Placement
from ckptman.text.errors import RefusedError
from tests.helpers.failing_calls import CONTENT, SHA256, World, failing, replace_os
from tests.helpers.meddling import cut, exchange, grow, lose, rewrite, rewrite_secretly
from tests.helpers.placing import place_file


@pytest.mark.parametrize("mode", [Mode.MOVE, Mode.COPY])
def test_a_source_is_removed_when_its_bytes_are_placed(mode: Mode, world: World) -> None:
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, mode)
    moving.remove_source(source, placement, destination)
    assert not source.exists()
    assert destination.read_bytes() == CONTENT
    moving.remove_source(source, placement, destination)  # it is gone already


def replace_by_link(destination: Path) -> None:
    destination.unlink()
    destination.with_name("twin.pt").write_bytes(CONTENT)
    destination.symlink_to("twin.pt")


@pytest.mark.parametrize("mode", [Mode.MOVE, Mode.COPY])
@pytest.mark.parametrize("change", [cut, lose, replace_by_link])
def test_a_source_stays_when_the_destination_does_not_hold_it(
    change: Callable[[Path], None], mode: Mode, world: World
) -> None:
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, mode)
    change(destination)
    with pytest.raises(RefusedError) as caught:
        moving.remove_source(source, placement, destination)
    assert caught.value.code == "source-kept"
    assert source.exists()


@pytest.mark.parametrize("change", [grow, rewrite, rewrite_secretly, exchange])
def test_a_source_stays_when_it_was_changed(change: Callable[[Path], None], world: World) -> None:
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, Mode.COPY)
    change(source)
    with pytest.raises(RefusedError, match="changed after it was placed"):
        moving.remove_source(source, placement, destination)
    assert source.exists()
    assert destination.read_bytes() == CONTENT


def test_a_change_of_metadata_alone_does_not_keep_the_source(world: World) -> None:
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, Mode.COPY)
    time.sleep(0.02)
    source.chmod(0o600)
    assert FileState.of(source) != placement.source
    moving.remove_source(source, placement, destination)
    assert not source.exists()


def test_a_source_that_is_its_own_destination_stays(world: World) -> None:
    source = world.source()
    placement = Placement(SHA256, len(CONTENT), FileState.of(source), "hard link")
    alias = world.tree / "alias"
    alias.symlink_to(world.sources)
    for destination in (source, alias / "a.pt"):
        with pytest.raises(RefusedError, match="that very file"):
            moving.remove_source(source, placement, destination)
    (world.tree / "third.pt").hardlink_to(source)  # then the number of links no longer tells
    placement = Placement(SHA256, len(CONTENT), FileState.of(source), "hard link")
    with pytest.raises(RefusedError, match="that very file"):
        moving.remove_source(source, placement, alias / "a.pt")
    assert source.read_bytes() == CONTENT


def test_two_names_for_one_entry_are_seen_by_the_link_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where names differ in case only and the file system does not tell them apart."""
    source, destination = world.source("a.pt"), world.sources / "A.pt"
    placement = Placement(SHA256, len(CONTENT), FileState.of(source), "hard link")

    def stat(path: Any, **options: Any) -> os.stat_result:
        return os.stat("a.pt" if path == "A.pt" else path, **options)  # noqa: PTH116

    replace_os(monkeypatch, stat=stat)
    with pytest.raises(RefusedError, match="that very file"):
        moving.remove_source(source, placement, destination)
    assert source.read_bytes() == CONTENT


def test_a_source_that_may_not_be_removed_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, Mode.MOVE)
    replace_os(monkeypatch, unlink=failing(errno.EROFS))
    with pytest.raises(RefusedError, match="read-only") as caught:
        moving.remove_source(source, placement, destination)
    assert caught.value.code == "source-kept"
