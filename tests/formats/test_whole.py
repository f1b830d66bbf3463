"""A checkpoint is read in full in one pass, and no byte of it twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from ckptman.checks.validation import validate
from ckptman.formats import folder_bytes
from ckptman.formats.archive import Checksums, open_archive, verify_crcs
from ckptman.formats.checkpoint import read_checkpoint
from ckptman.formats.whole import read_header, read_whole
from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import RefusedError
from tests.helpers import model_folders
from tests.helpers.raw import config, name_of, write_checkpoint

RULES = built_in().checkpoint


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The bytes that were read from files by position, as all checkpoints are, since this was asked last."""
    read = 0
    preadv, pread, lock = os.preadv, os.pread, threading.Lock()

    def counting_preadv(fd: int, buffers: Sequence[memoryview], at: int) -> int:
        nonlocal read
        got = preadv(fd, buffers, at)
        with lock:  # several files are read at a time
            read += got
        return got

    def counting_pread(fd: int, size: int, at: int) -> bytes:
        nonlocal read
        got = pread(fd, size, at)
        with lock:
            read += len(got)
        return got

    monkeypatch.setattr(os, "preadv", counting_preadv)
    monkeypatch.setattr(os, "pread", counting_pread)

    def counted() -> int:
        nonlocal read
        found, read = read, 0
        return found

    return counted


def write(path: Path) -> Path:
    """A checkpoint of 1.5 MB, of which the header is a small part."""
    return write_checkpoint(path, config(n_embd=192))


def test_one_pass_gives_header_checksums_and_hash(tmp_path: Path, count: Callable[[], int]) -> None:
    path = write(tmp_path / "x.pt")
    size = path.stat().st_size
    whole = read_whole(path, RULES)
    assert size <= count() < 1.1 * size
    assert whole.info == read_checkpoint(path, RULES)
    assert count() < 0.1 * size
    assert whole.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (whole.damage, whole.state.size) == (None, size)


def test_damage_is_found_anywhere_and_the_hash_is_that_of_the_bytes_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pt")
    content = path.read_bytes()
    with open_archive(path) as archive:
        data = {name: (archive.data_start(name), entry.size) for name, entry in archive.entries.items()}
    large = [name for name, (_, size) in data.items() if name.startswith("data/") and size > 100]
    assert len(large) > 5
    for name in large[::3]:
        start, size = data[name]
        for at in (start, start + size - 1):
            changed = bytearray(content)
            changed[at] ^= 1
            path.write_bytes(changed)
            whole = read_whole(path, RULES)
            assert whole.damage is not None
            assert whole.damage.code == "bad-crc"
            assert repr(name) in whole.damage.message or name in whole.damage.message
            assert whole.sha256 == hashlib.sha256(changed).hexdigest()
            with pytest.raises(RefusedError) as caught:
                verify_crcs(path)
            assert (caught.value.code, caught.value.message) == (whole.damage.code, whole.damage.message)


def test_what_is_refused_by_its_header_is_not_read_on(tmp_path: Path, count: Callable[[], int]) -> None:
    path = write(tmp_path / "x.pt")
    path.write_bytes(path.read_bytes()[:-9])
    size = path.stat().st_size
    with pytest.raises(RefusedError):
        read_whole(path, RULES)
    assert count() < 0.1 * size


def test_ingest_and_validate_read_each_byte_once(tmp_path: Path, count: Callable[[], int]) -> None:
    for seed in (1337, 2337):
        settings = config(n_embd=192, seed=seed)
        write_checkpoint(tmp_path / "raw/len_gen_k8" / f"task_{seed}" / name_of(settings), settings)
    source, root = tmp_path / "raw", tmp_path / "tree"
    size = sum(path.stat().st_size for path in source.rglob("*.pt"))
    ingest(source, root, settle=0, dry_run=True)
    assert size <= count() < 1.1 * size
    ingest(source, root, settle=0, mode="hardlink")
    assert size <= count() < 1.1 * size
    ingest(source, root, settle=0)
    assert count() < 0.01 * size, "what is known is not read again"
    assert validate(root, deep=True, ignore=["missing", "stale-document", "linked-checkpoint"]).errors == 0
    assert size <= count() < 1.1 * size
    validate(root)
    assert count() < 0.1 * size


def test_headers_tell_copies_from_other_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pt")
    copy = Path(shutil.copy(path, tmp_path / "y.pt"))
    other = write_checkpoint(tmp_path / "other" / "x.pt", config(n_embd=192), salt=1)
    contents = [read_header(file, RULES).content for file in (path, copy, other)]
    assert contents[0] == contents[1] != contents[2]
    assert read_header(path, RULES).info == read_checkpoint(path, RULES)


def test_without_checksums_a_file_is_like_itself_alone(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = write_checkpoint(tmp_path / "x.pt", config())
    finally:
        torch.serialization.set_crc32_options(True)
    contents = [read_header(file, RULES).content for file in (path, path, Path(shutil.copy(path, tmp_path / "y.pt")))]
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize("change", ["grown", "cut", "left alone"])
def test_a_file_that_changes_meanwhile_is_refused(change: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.pt")
    size = path.stat().st_size

    def meddle(_: int) -> None:
        if change == "grown":
            path.write_bytes(path.read_bytes() + b"more")
        elif change == "cut":
            path.write_bytes(path.read_bytes()[: size // 2])

    if change == "left alone":
        assert read_whole(path, RULES, on_bytes=meddle).damage is None
        return
    with pytest.raises(RefusedError) as caught:
        read_whole(path, RULES, on_bytes=meddle)
    assert caught.value.code == "changed-while-read"


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_the_pieces_in_which_bytes_come_make_no_difference(size: int, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.pt", config())
    content = path.read_bytes()
    with open_archive(path) as archive:
        start = archive.data_start("data/0")
        header = archive.entries["data/0"].header
        after = start + archive.entries["data/0"].size
        for place, code in ((None, None), (start, "bad-crc"), (header, "broken-archive"), (after, "unsafe-archive")):
            changed = bytearray(content)
            if place is not None:
                changed[place] ^= 1
            checksums = Checksums(archive)
            for at in range(0, len(content), size):
                checksums.take(memoryview(changed)[at : at + size])
            problem = checksums.problem()
            assert (problem and problem.code) == code
        checksums = Checksums(archive)
        checksums.take(memoryview(content)[: after - 1])
        problem = checksums.problem()
        assert problem is not None
        assert problem.code == "cut"


def test_checksums_are_not_worked_out_of_bytes_that_are_known_to_be_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[[], int]
) -> None:
    path = write(tmp_path / name_of(config()))
    known = read_whole(path, RULES)
    once = count()
    taken: list[int] = []
    real = Checksums.take

    def take(self: Checksums, chunk: memoryview) -> None:
        taken.append(len(chunk))
        real(self, chunk)

    monkeypatch.setattr(Checksums, "take", take)
    assert read_whole(path, RULES, sound=known.sha256) == known
    assert (taken, count()) == ([], once)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    changed = read_whole(path, RULES, sound=known.sha256)
    assert changed.damage is not None
    assert changed.damage.code == "bad-crc"
    assert changed.sha256 == hashlib.sha256(data).hexdigest()
    assert sum(taken) == len(data)
    assert count() == once + len(data)


def test_a_folder_of_known_bytes_is_read_once(tmp_path: Path) -> None:
    folder = model_folders.trainer(tmp_path / "checkpoint-40000.pt")
    known = read_whole(folder, RULES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_bytes, "verify", lambda *_: pytest.fail("it is read once more"))
        assert read_whole(folder, RULES, sound=known.sha256).sha256 == known.sha256
        with pytest.raises(pytest.fail.Exception):
            read_whole(folder, RULES, sound="0" * 64)
