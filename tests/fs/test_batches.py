"""Many files at once."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptman.fs import Batch, Mode, placing
from ckptman.fs.placing import Placement, TakenError
from ckptman.text.errors import RefusedError
from tests.helpers.failing_calls import CONTENT, OTHER, World
from tests.helpers.placing import place_file


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_batch_places_many_and_can_go_on(world: World) -> None:
    before = open_descriptors()
    placed = 0
    with Batch() as batch:
        for number in range(150):
            content = CONTENT if number == 0 else str(number).encode()
            batch.stage(world.source(f"{number}.pt", content), world.destination(f"{number}.pt", content), Mode.COPY)
            if batch.is_full:
                outcomes = batch.publish()
                assert len(outcomes) == placing.BATCH_SIZE
                assert len(batch) == 0
                placed += len(outcomes)
        assert open_descriptors() <= before + 3 * placing.BATCH_SIZE
        outcomes = batch.publish()
    assert placed + len(outcomes) == 150
    last = outcomes[-1]
    assert isinstance(last, Placement)
    assert last.sha256 == hashlib.sha256(b"149").hexdigest()
    world.check(done=True)
    assert open_descriptors() == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such advice")
@pytest.mark.parametrize("error", [None, errno.EINVAL])
def test_the_disk_begins_with_each_copy_and_is_waited_for_all_the_same(
    error: int | None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync = os.fsync

    def advise(descriptor: int, start: int, length: int, advice: int) -> None:
        calls.append("begin")
        if error is not None:
            raise OSError(error, os.strerror(error))

    def wait(descriptor: int) -> None:
        calls.append("wait")
        fsync(descriptor)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(os, "fsync", wait)
    with Batch() as batch:
        for name in ("a.pt", "b.pt"):
            batch.stage(world.source(name), world.destination(name), Mode.COPY)
        batch.publish()
    assert calls == ["begin", "begin", "wait", "wait", "wait"]  # of the files, and of their folder
    world.check(done=True)


def test_one_refusal_does_not_hold_up_a_batch(world: World) -> None:
    first, second, third = (world.source(name) for name in ("a.pt", "b.pt", "c.pt"))
    late = world.bystander("late.pt")
    late.unlink()
    with Batch() as batch:
        batch.stage(first, world.destination("a.pt"), Mode.COPY)
        with pytest.raises(RefusedError):
            batch.stage(world.sources / "missing.pt", world.tree / "missing.pt", Mode.COPY)
        batch.stage(second, world.tree / "a.pt", Mode.COPY)  # the same place twice
        batch.stage(third, late, Mode.COPY)
        late.write_bytes(OTHER)
        batch.stage(third, world.destination("c.pt"), Mode.COPY)
        outcomes = batch.publish()
    assert [type(outcome) for outcome in outcomes] == [Placement, TakenError, TakenError, Placement]
    world.check(done=True)


def test_leaving_a_batch_discards_it(world: World) -> None:
    source, destination = world.source(), world.destination()
    before = open_descriptors()
    with pytest.raises(ZeroDivisionError), Batch() as batch:  # noqa: PT012
        batch.stage(source, destination, Mode.COPY)
        assert len(list(world.tree.iterdir())) == 1
        raise ZeroDivisionError
    assert list(world.tree.iterdir()) == []
    assert open_descriptors() == before


def test_an_interrupted_stage_leaves_nothing_even_if_the_batch_goes_on(world: World) -> None:
    source, destination = world.source(), world.destination()

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with Batch() as batch:
        with pytest.raises(KeyboardInterrupt):
            batch.stage(source, destination, Mode.COPY, on_bytes=interrupt)
        assert list(world.tree.iterdir()) == []
        assert len(batch) == 0
        batch.stage(source, destination, Mode.COPY)
        batch.publish()
    world.check(done=True)


def test_an_empty_batch_publishes_nothing() -> None:
    with Batch() as batch:
        assert batch.publish() == []


@pytest.mark.parametrize("mode", [Mode.COPY, Mode.HARDLINK, Mode.SYMLINK])
def test_of_two_who_race_for_a_name_one_gets_it(mode: Mode, world: World) -> None:
    contents = [CONTENT, OTHER * 5000]
    sources = [world.source(f"{number}.pt", content) for number, content in enumerate(contents)]

    def place(job: tuple[Path, Path]) -> bool:
        barrier.wait()
        try:
            place_file(*job, mode)
        except TakenError:
            return False
        return True

    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for number in range(20):
            destination = world.tree / f"{number}.pt"
            won = list(pool.map(place, [(source, destination) for source in sources]))
            assert sorted(won) == [False, True]
            assert destination.read_bytes() == contents[won.index(True)]
    assert len(list(world.tree.iterdir())) == 20
