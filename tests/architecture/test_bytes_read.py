"""Each byte of a checkpoint is read as often as is needed: not at all, in its header, or once."""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptman.checks.validation import validate
from ckptman.fs import placing
from ckptman.fs.files import hash_file
from ckptman.ingestion.ingesting import ingest
from ckptman.raw import examination
from ckptman.raw.scanning import SourceCheckpoint
from ckptman.rules.convention_file import built_in
from ckptman.rules.selection import Selection
from ckptman.sweeps.grid_status import status
from ckptman.sweeps.sweeping import plan_sweep
from ckptman.training.run_folder import RawRun
from tests.helpers.bytes_read import passes
from tests.helpers.raw import config, name_of, write_checkpoint, write_run

WIDE = 256
"""1.3 MB a file: beside that, a header is nothing."""


@pytest.fixture(autouse=True)
def no_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "reflink", lambda source, copy: False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "grid_outputs"


@pytest.fixture
def files(source: Path) -> list[Path]:
    return write_run(source / "len_gen_k8" / "task_0006", config(n_embd=WIDE), run_id="abcd1234")


def placed(root: Path, files: list[Path]) -> list[Path]:
    return [next(root.rglob(file.name)) for file in files]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("copy", ["2.0", "2.0"]), ("hardlink", ["1.0", "1.0"]), ("symlink", ["1.0", "1.0"]), ("move", ["1.0", "1.0"])],
)
def test_ingest_reads_once_for_its_plan_and_once_to_copy(
    mode: str, expected: list[str], source: Path, files: list[Path], tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    assert passes(lambda: ingest(source, root, mode=mode, dry_run=True), files) == ["1.0", "1.0"]
    assert passes(lambda: ingest(source, root, mode=mode), files) == expected
    if mode != "move":
        assert passes(lambda: ingest(source, root, mode=mode), files) == ["not", "not"]


def test_validate_reads_headers_and_deep_every_byte_once(source: Path, files: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    ingest(source, root)
    assert passes(lambda: validate(root), placed(root, files)) == ["header", "header"]
    assert passes(lambda: validate(root, deep=True), placed(root, files)) == ["1.0", "1.0"]


def test_status_reads_headers(source: Path, files: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    assert passes(lambda: status(source), files) == ["header", "header"]
    ingest(source, root)
    assert passes(lambda: status(source, root), files) == ["not", "not"]
    other = Path(shutil.copytree(source, tmp_path / "moved", symlinks=True))
    assert passes(lambda: status(other, root), files) == ["header", "header"]


def test_the_plan_of_a_sweep_reads_headers(tmp_path: Path) -> None:
    rules = built_in()
    run = RawRun.of(config(n_embd=WIDE), tmp_path, rules)
    files = [write_checkpoint(run.saved_models / name_of(run.config), run.config)]
    one = Selection(k=(8,), tasks=(6,), seeds=(1337,), facets={"regime": ("dynamic",), "layernorm": (True,)})

    def plan() -> None:
        [planned] = plan_sweep(tmp_path, selection=one, recipe={"n_embd": WIDE}, convention=rules).runs
        assert planned.todo == "complete"

    assert passes(plan, files) == ["header"]


def mapped(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        mmap.mmap(file.fileno(), path.stat().st_size).close()


READS: list[Callable[[Path], object]] = [Path.read_bytes, hash_file, mapped]


@pytest.mark.parametrize("read", READS)
def test_a_second_reading_shows(
    read: Callable[[Path], object],
    source: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once = examination.Examiner.read

    def twice(self: examination.Examiner, file: SourceCheckpoint) -> examination.Read:
        read(file.path)
        return once(self, file)

    monkeypatch.setattr(examination.Examiner, "read", twice)
    assert passes(lambda: ingest(source, tmp_path / "checkpoints", dry_run=True), files) == ["2.0", "2.0"]
    assert passes(lambda: status(source), files) == ["1.0", "1.0"]
