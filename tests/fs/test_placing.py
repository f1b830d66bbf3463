"""Placing files: the ordinary ways, across file systems, and names."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
from typing import Any

import pytest

from ckptman.fs import FileState, Mode, folders, moving, write_atomically
from ckptman.fs.placing import Placement, TakenError
from ckptman.text.errors import MachineError, RefusedError
from tests.helpers.failing_calls import (
    CHUNK,
    CONTENT,
    SHA256,
    Stand,
    World,
    failing,
    machine,
    order_of,
    replace_everywhere,
    replace_os,
)
from tests.helpers.meddling import rewrite
from tests.helpers.placing import place_file

HOW = {Mode.COPY: "copied", Mode.HARDLINK: "hard link", Mode.SYMLINK: "symbolic link", Mode.MOVE: "hard link"}


@pytest.mark.parametrize("mode", Mode)
def test_a_file_is_placed(mode: Mode, world: World) -> None:
    source, destination = world.source(), world.destination()
    world.bystander()
    pieces: list[int] = []
    placement = place_file(source, destination, mode, on_bytes=pieces.append)
    assert placement == Placement(SHA256, len(CONTENT), FileState.of(source), HOW[mode])  # type: ignore[arg-type]
    assert sum(pieces) == len(CONTENT)
    assert destination.is_symlink() == (mode is Mode.SYMLINK)
    assert source.samefile(destination) == (mode is not Mode.COPY)
    assert destination.stat().st_mtime_ns == 10**18
    world.check(done=True)


def test_a_copy_has_the_permissions_of_any_new_file(world: World) -> None:
    source, destination = world.source(), world.destination()
    source.chmod(0o4751)
    before = os.umask(0o007)
    try:
        place_file(source, destination, Mode.COPY)
    finally:
        os.umask(before)
    assert destination.stat().st_mode & 0o7777 == 0o660


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
@pytest.mark.parametrize("mode", [Mode.COPY, Mode.HARDLINK])
def test_sizes_around_the_buffer(size: int, mode: Mode, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_everywhere(monkeypatch, "_CHUNK", CHUNK)
    content = os.urandom(size)
    source, destination = world.source(content=content), world.destination(content=content)
    world.source("unused.pt")
    assert place_file(source, destination, mode).sha256 == hashlib.sha256(content).hexdigest()
    world.check(done=True)


def test_short_reads_and_writes_are_completed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_os(
        monkeypatch,
        write=lambda descriptor, data: os.write(descriptor, data[:1000]),
        preadv=lambda descriptor, buffers, at: os.preadv(descriptor, [buffers[0][:777]], at),
    )
    assert place_file(world.source(), world.destination(), Mode.COPY).sha256 == SHA256
    world.check(done=True)


def test_a_reflink_is_hashed_from_the_clone(world: World) -> None:
    source, destination = world.source(), world.destination()
    with machine("reflinks"):
        assert place_file(source, destination, Mode.COPY) == Placement(
            SHA256, len(CONTENT), FileState.of(source), "reflinked"
        )
    world.check(done=True)


def test_a_copy_on_this_very_file_system(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_everywhere(monkeypatch, "fcntl", fcntl)
    source, destination = world.source(), world.destination()
    placement = place_file(source, destination, Mode.COPY)
    assert placement.how in ("copied", "reflinked")
    world.check(done=True)
    again = place_file(source, world.destination("b.pt"), Mode.COPY, expected=placement.source, sha256_known=SHA256)
    assert again == placement
    world.check(done=True)
    rewrite(source)
    assert destination.read_bytes() == CONTENT


def test_a_clone_that_is_not_whole_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_everywhere(
        monkeypatch, "fcntl", Stand(fcntl, {"ioctl": lambda copy, request, source: os.write(copy, b"x")})
    )
    with pytest.raises(MachineError, match="came out with 1 of 102400 bytes"):
        place_file(world.source(), world.destination(), Mode.COPY)
    world.check(done=False)


def test_a_clone_that_fails_half_way_is_copied_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(copy: int, request: int, source: int) -> int:
        os.pwrite(copy, b"x" * (2 * len(CONTENT)), 0)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    replace_everywhere(monkeypatch, "fcntl", Stand(fcntl, {"ioctl": ioctl}))
    assert place_file(world.source(), world.destination(), Mode.COPY).how == "copied"
    world.check(done=True)


@pytest.mark.parametrize("mode", Mode)
def test_nothing_is_overwritten(mode: Mode, world: World) -> None:
    source, destination = world.source(), world.bystander("a.pt")
    with pytest.raises(TakenError) as caught:
        place_file(source, destination, mode)
    assert (caught.value.code, caught.value.exit_status) == ("taken", 1)
    world.check(done=True)


def test_a_dangling_link_is_not_written_through(world: World) -> None:
    source, destination = world.source(), world.tree / "a.pt"
    destination.symlink_to(world.tree / "elsewhere")
    with pytest.raises(TakenError):
        place_file(source, destination, Mode.COPY)
    assert sorted(path.name for path in world.tree.iterdir()) == ["a.pt"]


def test_without_hard_links_a_rename_that_never_overwrites_does_it(world: World) -> None:
    source, destination = world.source(), world.destination()
    with machine("no hard links"):
        place_file(source, destination, Mode.COPY)
        world.check(done=True)
        assert order_of(lambda: write_atomically(world.destination("run.json"), CONTENT, replace=False),
                        of={"link", "rename", "renameat2"}) == ["link", "renameat2"]  # fmt: skip
        with pytest.raises(MachineError, match="hard link") as caught:
            place_file(source, world.tree / "c.pt", Mode.HARDLINK)
    assert (caught.value.code, caught.value.fix) == ("no-hard-links", "Use --mode copy.")


def test_without_any_safe_way_nothing_is_placed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_everywhere(monkeypatch, "rename_noreplace", failing(errno.EINVAL))
    with machine("no hard links"), pytest.raises(MachineError) as caught:
        place_file(world.source(), world.destination(), Mode.COPY)
    assert caught.value.code == "cannot-place-safely"
    world.check(done=False)
    assert not (world.tree / "a.pt").exists()


def test_an_old_c_library_has_no_renameat2(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())
    with machine("no hard links"), pytest.raises(MachineError) as caught:
        place_file(world.source(), world.destination(), Mode.COPY)
    assert caught.value.code == "cannot-place-safely"


def test_a_link_that_was_made_but_reported_as_failed_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any, **kwargs: Any) -> None:
        os.link(*args, **kwargs)
        raise FileExistsError(errno.EEXIST, "an answer lost by the network, and the request repeated")

    replace_os(monkeypatch, link=link)
    place_file(world.source(), world.destination(), Mode.COPY)
    world.check(done=True)


def test_a_hard_link_cannot_span_file_systems(apart: World) -> None:
    with pytest.raises(MachineError) as caught:
        place_file(apart.source(), apart.destination(), Mode.HARDLINK)
    assert (caught.value.code, caught.value.fix) == ("other-file-system", "Use --mode copy.")
    apart.check(done=False)


@pytest.mark.parametrize("mode", [Mode.COPY, Mode.SYMLINK])
def test_copies_and_symbolic_links_span_file_systems(mode: Mode, apart: World) -> None:
    assert place_file(apart.source(), apart.destination(), mode).sha256 == SHA256
    apart.check(done=True)


def test_a_move_spans_file_systems(apart: World) -> None:
    source, destination = apart.source(), apart.destination()
    placement = place_file(source, destination, Mode.MOVE)
    assert placement.how == "copied"
    apart.check(done=True)
    moving.remove_source(source, placement, destination)
    assert not source.exists()
    assert destination.read_bytes() == CONTENT


def test_a_hard_link_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any, **kwargs: Any) -> None:
        if "src_dir_fd" not in kwargs:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        os.link(*args, **kwargs)

    replace_os(monkeypatch, link=link)
    source = world.source()
    with pytest.raises(RefusedError) as caught:
        place_file(source, world.tree / "b.pt", Mode.HARDLINK)
    assert caught.value.code == "too-many-links"
    assert place_file(source, world.destination(), Mode.MOVE).how == "copied"
    world.check(done=True)


NAMES = [
    b"two\nlines.pt",
    b"\x1b[31mred\x1b[0m.pt",
    b"[red]markup[bold].pt",
    b"not utf-8 \xff\xfe.pt",
    "Lernkurve-äöü-模型-🤖.pt".encode(),
    b"-rf",
    b" ",
    b"'quotes' \"and\" \\.pt",
    b"n" * 255,
    "ü".encode() * 127,
]


@pytest.mark.parametrize("raw", NAMES)
@pytest.mark.parametrize("mode", Mode)
def test_any_name_is_placed(raw: bytes, mode: Mode, world: World) -> None:
    name = os.fsdecode(raw)
    source, destination = world.source(name), world.destination(name)
    place_file(source, destination, mode)
    world.check(done=True)
    assert [os.fsencode(path.name) for path in world.tree.iterdir()] == [raw]
    with pytest.raises(TakenError) as caught:
        place_file(source, destination, mode)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("mode", Mode)
def test_a_name_too_long_is_refused(mode: Mode, world: World) -> None:
    with pytest.raises(RefusedError) as caught:
        place_file(world.source(), world.tree / ("n" * 256), mode)
    assert caught.value.code == "name-too-long"
    assert list(world.tree.iterdir()) == []


def test_names_of_temporary_files() -> None:
    name = folders.temporary_name()
    assert folders.is_partial(name)
    assert len(name) <= 33
    assert name != folders.temporary_name()
    for other in ("a.pt", ".ckptman-notes.partial", name + ".pt", "x" + name, name.upper(), name + "\n"):
        assert not folders.is_partial(other)


def test_only_temporary_files_are_removed(world: World) -> None:
    partial = folders.temporary_name()
    (world.tree / partial).write_bytes(b"half")
    folder, link = world.tree / folders.temporary_name(), world.tree / folders.temporary_name()
    folder.mkdir()
    link.symlink_to(world.bystander())
    below = world.tree / "below"
    below.mkdir()
    (below / folders.temporary_name()).touch()
    assert folders.remove_partials(world.tree) == sorted([partial, folder.name])
    assert sorted(world.tree.iterdir()) == sorted([link, below, world.tree / "b.pt"])
    assert len(list(below.iterdir())) == 1
    assert folders.remove_partials(world.tree / "no such folder") == []
