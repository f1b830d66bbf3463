"""A full disk, no inodes, a disk that may not be written, few descriptors, small files: what an ingest says then."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptman.fs import folders
from tests.helpers.ingested import task
from tests.helpers.promises import caught, tried
from tests.helpers.raw import config, snapshot, write_run

PROMISE = "A full disk, few inodes, read-only, small files, few descriptors: said, nothing left, the next one finishes"
SEEDS = range(1, 13)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for seed in SEEDS:
        write_run(task(folder), config(seed=seed), run_id=f"run{seed}", saved_models=f"saved_models_{seed}")
    return folder


def ingest(
    source: Path, root: Path, limit: Callable[[], None] | None = None, control: str = "pass"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"{control}; from ckptman.cli import main; main()",
            "ingest",
            source,
            "--root",
            root,
            "--settle",
            "0",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


def partials(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if folders.is_partial(path.name)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [(resource.RLIMIT_FSIZE, 8_000, "ulimit -f"), (resource.RLIMIT_NOFILE, 12, "ulimit -n")],
    ids=["small files", "few descriptors"],
)
def test_a_limit_of_the_process_is_named(source: Path, tmp_path: Path, kind: int, value: int, says: str) -> None:
    with tried(PROMISE, 1):
        limited(source, tmp_path / "tree", kind, value, says)


def limited(source: Path, root: Path, kind: int, value: int, says: str, control: str = "pass") -> None:
    done = ingest(source, root, lambda: resource.setrlimit(kind, (value, value)), control)
    assert done.returncode in (1, 3), done.stderr
    assert says in done.stderr + done.stdout
    assert "fault in ckptman" not in done.stderr
    assert not partials(root)
    assert ingest(source, root).returncode == 0
    assert len(list(root.rglob("*.pt"))) == 2 * len(SEEDS)


@pytest.mark.slow
def test_temporary_files_that_stay_would_be_found(source: Path, tmp_path: Path) -> None:
    control = (
        "from ckptman.fs import folders, placing; placing._Staged.remove_temporary = folders.discard = lambda *_: 0"
    )
    with caught(PROMISE), pytest.raises(AssertionError):
        limited(source, tmp_path / "tree", resource.RLIMIT_FSIZE, 8_000, "ulimit -f", control)


@pytest.mark.slow
def test_32_descriptors_are_enough(source: Path, tmp_path: Path) -> None:
    with tried(PROMISE, 1):
        done = ingest(source, tmp_path / "tree", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)))
        assert done.returncode == 0, done.stderr


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system of its own, where that is allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("no file system may be mounted here")
        return place / "tree"

    yield mount
    subprocess.run(["umount", "-l", place], capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"), [("size=200k", "200 kB"), ("size=9m,nr_inodes=30", "no space is left")], ids=["full", "inodes"]
)
def test_a_full_disk_is_told_of_and_the_next_ingest_finishes(
    source: Path, mounted: Callable[[str], Path], options: str, says: str
) -> None:
    with tried(PROMISE, 1):
        root = mounted(options)
        done = ingest(source, root)
        assert done.returncode == 3
        assert "Free space there" in done.stderr
        assert not partials(root)
        before = snapshot(root) if root.exists() else {}
        subprocess.run(["mount", "-o", "remount,size=9m,nr_inodes=1000", root.parent], check=True)
        assert ingest(source, root).returncode == 0
        assert {name: data for name, data in snapshot(root).items() if name in before} == before


@pytest.mark.slow
def test_a_read_only_disk_is_told_of(source: Path, mounted: Callable[[str], Path]) -> None:
    with tried(PROMISE, 1):
        root = mounted("size=9m")
        assert ingest(source, root).returncode == 0
        (next(root.rglob("Final*.pt"))).unlink()
        before = snapshot(root)
        subprocess.run(["mount", "-o", "remount,ro", root.parent], check=True)
        done = ingest(source, root)
        assert done.returncode == 3
        assert "read-only" in done.stderr
        assert snapshot(root) == before


@contextmanager
def quota(home: Path) -> Iterator[Callable[[str], Path]]:
    """A btrfs of its own, and in it a folder with a quota of its own; what is called sets it."""
    image, disk = home / "image", home / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(128 << 20)

    def limit(size: str) -> Path:
        subprocess.run(["btrfs", "qgroup", "limit", size, disk / "limited"], check=True, capture_output=True)
        return disk / "limited" / "tree"

    try:
        for words in (
            ["mkfs.btrfs", "-q", image],
            ["mount", "-o", "loop", image, disk],
            ["btrfs", "quota", "enable", disk],
            ["btrfs", "subvolume", "create", disk / "limited"],
        ):
            subprocess.run([*map(str, words)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system with quotas may be made here (root, a loop device and btrfs-progs do it): {error}")
    try:
        yield limit
    finally:
        subprocess.run(["umount", "-l", disk], capture_output=True, check=False)


@pytest.mark.slow
def test_a_quota_that_is_used_up_is_told_of_and_the_next_ingest_finishes(source: Path, tmp_path: Path) -> None:
    with tried(PROMISE, 1), quota(tmp_path) as limit:
        root = limit("300K")
        done = ingest(source, root)
        assert done.returncode == 3
        assert "the disk quota is used up" in done.stderr
        assert not partials(root)
        before = snapshot(root)
        limit("none")
        assert ingest(source, root).returncode == 0
        after = snapshot(root)
        assert {name: data for name, data in after.items() if name in before} == before
        assert len([name for name in after if name.endswith(".pt")]) == 2 * len(SEEDS)
