"""Many who ingest overlapping sources into one tree at the same time, also where a lock on it does nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ckptman.checks.validation import validate
from ckptman.ingestion.ingesting import ingest
from ckptman.tree.records import read_record
from tests.helpers.crowd import crowd
from tests.helpers.ingested import task
from tests.helpers.promises import caught, tried
from tests.helpers.raw import START, config, write_run
from tests.helpers.slices import SLICES

PROMISE = "Many ingests at once, and flock does nothing: the tree of a single ingest"


def grid(source: Path) -> None:
    """Two tasks with two seeds each, a rerun of one, and a copy."""
    for index, seed in enumerate((1337, 2337)):
        files = write_run(task(source), config(seed=seed), run_id=f"six{seed}", started=START + 1000 * index,
                          saved_models=f"saved_models_{seed}")  # fmt: skip
        write_run(task(source, 4, "len_gen_k16"), config(16, seed=seed, use_mlp=True), run_id=f"four{seed}",
                  started=START + 1000 * index, saved_models=f"saved_models_{seed}")  # fmt: skip
    write_run(task(source), config(), run_id="again", started=START + 9000, salt=1, saved_models="again")
    (source / "copies").mkdir()
    shutil.copy2(files[0], source / "copies" / files[0].name)


def overlapping(source: Path) -> list[Path]:
    return [source, source / "len_gen_k8", task(source), source / "len_gen_k16", source] * 2


def told(root: Path) -> dict[str, Any]:
    """Every run's folder, id and files; and whatever else there is."""
    records = {folder.parent: read_record(folder.parent) for folder in root.rglob("run.json")}
    listed = {folder / entry.file: entry.sha256 for folder, record in records.items() for entry in record.checkpoints}
    known = {*listed, *(folder / "run.json" for folder in records)}
    return {
        "runs": {str(folder.relative_to(root)): record.run_id for folder, record in records.items()},
        "files": {str(path.relative_to(root)): sha256 for path, sha256 in listed.items()},
        "rest": sorted(str(path.relative_to(root)) for path in {*root.rglob("*")} - known),
    }


def is_as_of_one(home: Path, mode: str, flock: str, seed: int) -> bool:
    source, root = home / "grid", home / "tree"
    shutil.rmtree(home, ignore_errors=True)
    grid(source)
    ingest(source, home / "one")
    errors = crowd(overlapping(source), root, mode, flock, seed)
    if errors and flock == "none at all":
        return False  # one took a folder from below another
    assert errors == []
    if mode == "move":
        assert not list(source.rglob("*.pt"))
    same = told(root) == told(home / "one")
    return same and not [
        f for f in validate(root, deep=True).findings if f.code in ("corrupt", "changed", "missing-file")
    ]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["copy", "move"])
@pytest.mark.parametrize("flock", ["useless", "as it is"])
def test_the_tree_is_that_of_one_ingest(mode: str, flock: str, home: Path) -> None:
    with tried(PROMISE) as trial:
        for seed in range(SLICES):
            trial.cases += 1
            assert is_as_of_one(home, mode, flock, seed)


@pytest.mark.slow
def test_no_lock_at_all_would_be_found(home: Path) -> None:
    with caught(PROMISE):
        assert not all(is_as_of_one(home, "copy", "none at all", seed) for seed in range(6))
