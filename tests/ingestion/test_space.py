"""What an ingest needs on the disk, and what its progress says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from ckptman.fs import probing
from ckptman.ingestion import ingest
from ckptman.text import MachineError
from tests.helpers.raw import config, write_run


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


@pytest.fixture
def size(source: Path) -> int:
    """A source, and the bytes of its checkpoints."""
    write_run(source / "len_gen_k8" / "task_0006", config(8), run_id="one")
    return sum(path.stat().st_size for path in source.rglob("*.pt"))


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, count))


def files_in(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_what_the_disk_has_no_room_for_is_refused_before_anything_is_written(
    source: Path, root: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, size - 1)
    monkeypatch.setattr("ckptman.fs.placing.reflink", lambda *_: False)
    with pytest.raises(MachineError, match="nothing was written") as caught:
        ingest(source, root)
    assert caught.value.code == "disk-full"
    assert files_in(root) == []
    free(monkeypatch, size)  # the control
    assert len(ingest(source, root).placed) == 2


@pytest.mark.parametrize("mode", ["hardlink", "symlink", "move"])
def test_links_need_no_room(source: Path, root: Path, size: int, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    free(monkeypatch, 0)
    result = ingest(source, root, mode=mode)
    assert len(result.placed) == 2
    assert result.space.needed == 0


def test_copies_that_share_blocks_need_no_room(
    source: Path, root: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 0)
    sharing = probing.Abilities(free=0, writable=True, reflinks=True)
    monkeypatch.setattr(probing, "probe", lambda _: sharing)
    assert len(ingest(source, root).placed) == 2


def test_a_dry_run_says_what_is_needed_and_free(
    source: Path, root: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 5)
    result = ingest(source, root, dry_run=True)
    assert (result.space.needed, result.space.free) == (size, 5)
    assert result.to_json()["space"] == {"needed": size, "free": 5}
    assert not root.exists()


def test_the_stages_of_the_progress_each_come_to_their_end(source: Path, root: Path, size: int) -> None:
    last: dict[str, tuple[int, int]] = {}
    ingest(source, root, progress=lambda stage, done, total: last.update({stage: (done, total)}))
    assert list(last) == ["reading", "placing", "syncing", "recording"]
    assert {done for done, _ in last.values()} == {size} == {total for _, total in last.values()}
