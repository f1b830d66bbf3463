"""Many who ingest overlapping sources into one tree at the same time, also where a lock on it does nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptman.checks.validation import validate
from ckptman.ingestion.ingesting import ingest
from tests.helpers.crowd import crowd, grid, told
from tests.helpers.ingested import task
from tests.helpers.promises import caught, tried
from tests.helpers.slices import SLICES
from tests.helpers.zygote import Zygote

PROMISE = "Many ingests at once, and flock does nothing: the tree of a single ingest"


def overlapping(source: Path) -> list[Path]:
    return [source, source / "len_gen_k8", task(source), source / "len_gen_k16", source] * 2


def is_as_of_one(zygote: Zygote, home: Path, mode: str, flock: str, seed: int) -> bool:
    source, root = home / "grid", home / "tree"
    shutil.rmtree(home, ignore_errors=True)
    grid(source)
    ingest(source, home / "one")
    errors = crowd(zygote, overlapping(source), root, mode, flock, seed)
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
def test_the_tree_is_that_of_one_ingest(mode: str, flock: str, home: Path, zygote: Zygote) -> None:
    with tried(PROMISE) as trial:
        for seed in range(SLICES):
            trial.cases += 1
            assert is_as_of_one(zygote, home, mode, flock, seed)


@pytest.mark.slow
def test_no_lock_at_all_would_be_found(home: Path, zygote: Zygote) -> None:
    with caught(PROMISE):
        assert not all(is_as_of_one(zygote, home, "copy", "none at all", seed) for seed in range(6))
