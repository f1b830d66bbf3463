"""Sources that change while they are placed, and what is no source."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import Batch, FileState, Mode, moving
from ckptman.fs.files import hash_file
from ckptman.fs.placing import Placement
from ckptman.text.errors import RefusedError
from tests.helpers.failing_calls import (
    CHUNK,
    CONTENT,
    SHA256,
    World,
    is_there,
    machine,
    order_of,
    replace_everywhere,
    replace_os,
)
from tests.helpers.meddling import (
    as_working_folder,
    cut,
    exchange,
    grow,
    in_time,
    make_link,
    make_loop,
    make_pipe,
    nothing,
    once,
    rewrite,
    rewrite_secretly,
)
from tests.helpers.placing import place_file


def exchange_for_link(path: Path) -> None:
    twin = path.with_name("twin.pt")
    path.rename(twin)
    path.symlink_to(twin)


CHANGES = [nothing, grow, cut, rewrite, rewrite_secretly, exchange, exchange_for_link]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", [*Mode, "hash", "reflink"])
def test_a_source_that_changes_meanwhile_is_refused(
    way: str, change: Callable[[Path], None], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_everywhere(monkeypatch, "_CHUNK", CHUNK)
    source, destination = world.source(), world.destination()
    on_bytes = once(change, source)

    def act() -> object:
        if way == "hash":
            return hash_file(source, on_bytes=on_bytes)
        with machine("reflinks" if way == "reflink" else "plain"):
            return place_file(source, destination, Mode(way) if way in list(Mode) else Mode.COPY, on_bytes=on_bytes)

    if change is nothing:
        act()
        return
    with pytest.raises(RefusedError) as caught:
        act()
    assert caught.value.code == "changed-while-read"
    assert list(world.tree.iterdir()) == []


def test_a_file_that_grows_for_ever_is_given_up_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_everywhere(monkeypatch, "_CHUNK", CHUNK)
    source = world.source()
    reports: list[int] = []

    def grow_for_ever(count: int) -> None:
        reports.append(count)
        assert len(reports) < 10
        with source.open("ab") as file:
            file.write(bytes(2 * CHUNK))

    with pytest.raises(RefusedError, match="changed"):
        place_file(source, world.destination(), Mode.COPY, on_bytes=grow_for_ever)


@pytest.mark.parametrize("mode", [Mode.HARDLINK, Mode.MOVE])
@pytest.mark.parametrize("change", [nothing, rewrite, exchange])
def test_what_is_linked_is_the_file_that_was_opened(
    mode: Mode, change: Callable[[Path], None], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = world.source(), world.destination()

    def link(*args: Any, **kwargs: Any) -> None:
        if args[0] == source:
            change(source)
        os.link(*args, **kwargs)

    replace_os(monkeypatch, link=link)
    if change is nothing:
        place_file(source, destination, mode)
        return
    reports: list[int] = []
    with pytest.raises(RefusedError, match="changed"):
        place_file(source, destination, mode, on_bytes=reports.append)
    assert reports == []  # found before anything was read in vain
    assert list(world.tree.iterdir()) == []


@pytest.mark.parametrize("mode", [Mode.HARDLINK, Mode.SYMLINK, Mode.MOVE])
@pytest.mark.parametrize("change", [nothing, grow, rewrite, exchange])
def test_a_link_is_checked_again_when_it_is_published(mode: Mode, change: Callable[[Path], None], world: World) -> None:
    source, destination = world.source(), world.destination()
    with Batch() as batch:
        batch.stage(source, destination, mode)
        change(source)
        [outcome] = batch.publish()
    if change is nothing:
        assert isinstance(outcome, Placement)
        return
    assert isinstance(outcome, RefusedError)
    assert outcome.code == "changed-while-read"
    assert list(world.tree.iterdir()) == []


def test_a_copy_is_not_touched_by_what_becomes_of_the_source(world: World) -> None:
    source, destination = world.source(), world.destination()
    with Batch() as batch:
        batch.stage(source, destination, Mode.COPY)
        source.unlink()
        [outcome] = batch.publish()
    assert isinstance(outcome, Placement)
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize("mode", Mode)
def test_the_source_must_be_what_was_planned(mode: Mode, world: World) -> None:
    source, destination = world.source(), world.destination()
    planned = FileState.of(source)
    rewrite(source)
    with pytest.raises(RefusedError, match="changed"):
        place_file(source, destination, mode, expected=planned)
    assert list(world.tree.iterdir()) == []
    os.utime(source)
    source.write_bytes(CONTENT)
    place_file(source, destination, mode, expected=FileState.of(source))
    world.check(done=True)


@pytest.mark.parametrize("mode", [Mode.HARDLINK, Mode.MOVE])
def test_two_names_of_one_file_can_both_be_linked(mode: Mode, world: World) -> None:
    first, second = world.source("a.pt"), world.sources / "b.pt"
    second.hardlink_to(first)
    plan = {path: FileState.of(path) for path in (first, second)}
    with Batch() as batch:
        for source, expected in plan.items():
            batch.stage(source, world.destination(source.name), mode, expected=expected)
        outcomes = batch.publish()
    placements = [outcome for outcome in outcomes if isinstance(outcome, Placement)]
    assert [placement.source for placement in placements] == [FileState.of(first), FileState.of(second)]
    for source, placement in zip(plan, placements, strict=True):  # the first removal changes the other's ctime
        moving.remove_source(source, placement, world.tree / source.name)
    assert list(world.sources.iterdir()) == []
    assert all((world.tree / name).read_bytes() == CONTENT for name in ("a.pt", "b.pt"))


@pytest.mark.parametrize("mode", [Mode.HARDLINK, Mode.SYMLINK, Mode.MOVE])
def test_a_known_hash_spares_the_reading(mode: Mode, world: World) -> None:
    source, destination = world.source(), world.destination()
    sha256, state = hash_file(source)
    reading = {"preadv"}
    assert (
        order_of(lambda: place_file(source, destination, mode, expected=state, sha256_known=sha256), of=reading) == []
    )
    destination.unlink()
    source.touch()  # no longer in the state in which it was hashed
    again = order_of(lambda: place_file(source, destination, mode, sha256_known=sha256), of=reading)
    assert again == ["preadv"] * 5


@pytest.mark.parametrize("mode", Mode)
def test_bytes_that_do_not_have_the_known_hash_are_refused(mode: Mode, world: World) -> None:
    with pytest.raises(RefusedError, match="changed"):
        place_file(world.source(), world.destination(), mode, sha256_known="0" * 64)
    assert list(world.tree.iterdir()) == []


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, as_working_folder(path.parent):
        listener.bind(path.name)


NOT_SOURCES: list[tuple[Callable[[Path], None], str, str]] = [
    (make_pipe, "not-a-file", "a named pipe"),
    (make_socket, "not-a-file", "a socket"),
    (Path.mkdir, "not-a-file", "a folder"),
    (make_link, "symbolic-link", "a symbolic link"),
    (make_loop, "symbolic-link", "a symbolic link"),
    (nothing, "unreadable", "no such file"),
]


@pytest.mark.parametrize(("make", "code", "words"), NOT_SOURCES)
@pytest.mark.parametrize("way", [*Mode, "hash"])
def test_what_is_not_a_regular_file_is_refused(
    way: str, make: Callable[[Path], None], code: str, words: str, world: World
) -> None:
    source = world.sources / "a.pt"
    make(source)
    with in_time(), pytest.raises(RefusedError, match=words) as caught:  # noqa: PT012
        if way == "hash":
            hash_file(source)
        else:
            place_file(source, world.tree / "a.pt", Mode(way))
    assert caught.value.code == code
    assert list(world.tree.iterdir()) == []


def test_a_device_is_refused(world: World) -> None:
    with in_time(), pytest.raises(RefusedError, match="a device"):
        hash_file(Path("/dev/zero"))


@pytest.mark.parametrize(("make", "code"), [(make_pipe, "not-a-file"), (make_link, "unreadable")])
def test_a_file_that_becomes_something_else_before_it_is_opened(
    make: Callable[[Path], None], code: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = world.source()

    def open_late(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == source:
            source.unlink()
            make(source)
        return os.open(path, flags, *args, **kwargs)

    replace_os(monkeypatch, open=open_late)
    with in_time(), pytest.raises(RefusedError) as caught:
        hash_file(source)
    assert caught.value.code == code


@pytest.mark.parametrize("mode", Mode)
def test_links_are_followed_when_asked(mode: Mode, world: World) -> None:
    source, real = world.sources / "a.pt", world.sources / "real.pt"
    make_link(source)
    destination = world.destination()
    placement = place_file(source, destination, mode, follow_symlinks=True)
    assert placement.sha256 == SHA256
    assert destination.read_bytes() == CONTENT
    assert destination.is_symlink() == (mode is Mode.SYMLINK)
    if mode is Mode.SYMLINK:
        assert destination.readlink() == real  # absolute, and past links that may lead elsewhere tomorrow
    if mode is Mode.MOVE:
        assert placement.how == "copied"  # the tree shares no bytes with what stays outside
        moving.remove_source(source, placement, destination, follow_symlinks=True)
        assert not is_there(source)
        assert real.read_bytes() == CONTENT
    else:
        assert source.is_symlink()


def test_a_loop_that_is_followed_is_refused(world: World) -> None:
    make_loop(world.sources / "a.pt")
    with pytest.raises(RefusedError, match="symbolic links"):
        hash_file(world.sources / "a.pt", follow_symlinks=True)
