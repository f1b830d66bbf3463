"""Rot and tampering: whatever happens to a file of a tree, `validate --deep` finds it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptman.checks import records as record_checks
from ckptman.checks.validation import validate
from ckptman.ingestion.ingesting import ingest
from tests.helpers.ingested import task
from tests.helpers.promises import caught, tried
from tests.helpers.raw import config, write_run
from tests.helpers.recorded import add_overwritten
from tests.helpers.slices import SLICES

PROMISE = "validate --deep finds every bit that flipped, and every file swapped, renamed, cut, zeroed, added or gone"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    source, root = tmp_path / "grid_outputs", tmp_path / "checkpoints"
    curve = {step: {"loss": 1 / (step + 1)} for step in range(5)}
    write_run(task(source), config(), run_id="abcd1234", curve=curve)
    write_run(task(source, group="len_gen_k16"), config(16), run_id="bbbb2222", curve={**curve, 9: {"loss": 2.0}})
    (task(source) / "saved_models" / "broken.pt").write_text("no checkpoint")  # for a refused.json
    ingest(source, root, settle=0)
    add_overwritten(root, config(seed=2337))
    return root


def files_of(root: Path) -> list[Path]:
    found = sorted(file for file in root.rglob("*") if file.is_file())
    assert {file.suffixes[-1] for file in found} == {".pt", ".json", ".gz"}
    return found


def findings(root: Path) -> set[tuple[str, str, str]]:
    return {(item.code, item.path, item.message) for item in validate(root, deep=True).findings}


def flipped(root: Path, count: int, seed: int) -> int:
    """Flip bits, one at a time; how many of them are not found."""
    draw, clean, missed = random.Random(seed), findings(root), 0
    files = files_of(root)
    for _ in range(count):
        # As often in the small files as in the large ones.
        file = draw.choice(files)
        data = file.read_bytes()
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
        missed += findings(root) == clean
        file.write_bytes(data)
    assert findings(root) == clean
    return missed


def test_every_single_bit_that_flips_is_found(root: Path) -> None:
    with tried(PROMISE) as trial:
        trial.cases = 100 * SLICES
        assert flipped(root, trial.cases, seed=SLICES) == 0


def test_a_record_without_a_digest_would_be_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_checks, "_is_changed", lambda _: False)
    with caught(PROMISE):
        assert flipped(root, 100, seed=1) > 5


def swap(file: Path) -> None:
    other = next(f for f in sorted(file.parents[5].rglob(f"*{file.suffix}")) if f.read_bytes() != file.read_bytes())
    mine, theirs = file.read_bytes(), other.read_bytes()
    file.write_bytes(theirs)
    other.write_bytes(mine)


def add(file: Path) -> None:
    shutil.copy2(file, file.with_name(f"added{file.name}"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def rename(file: Path) -> None:
    file.rename(file.with_name(f"renamed{file.name}"))


@pytest.mark.parametrize("change", [swap, rename, Path.unlink, cut, zero, add], ids=lambda change: change.__name__)
def test_every_file_that_is_not_as_it_was_is_found(root: Path, change: Callable[[Path], None]) -> None:
    clean, aside = findings(root), root.with_name("aside")
    shutil.copytree(root, aside)
    with tried(PROMISE) as trial:
        for file in files_of(root):
            lists = file.name in ("refused.json", "overwritten.json")
            if lists and change in (swap, rename, Path.unlink, add):
                continue  # what these lists say is of files elsewhere: that one is gone shows in nothing else
            trial.cases += 1
            change(file)
            assert findings(root) != clean, file.name
            shutil.rmtree(root)
            shutil.copytree(aside, root)
