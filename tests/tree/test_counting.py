"""What is counted of a run says the same as all of the run: in every document, and whoever read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.documents.task_mapping import task_mapping_text
from ckptman.documents.tree_readme import block_contents
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.tree import counting
from ckptman.tree.statistics import TreeStatistics, count_tree
from tests.helpers.raw import config
from tests.helpers.recorded import add_overwritten, add_run
from tests.helpers.sharing import shared_out


def said(found: TreeStatistics) -> dict[str, object]:
    """All that documents say, and what they are made of."""
    return {
        **block_contents(found),
        "mapping": task_mapping_text(found.convention, found),
        "files": sorted(found.files),
        "numbers": (found.file_count, found.size, len(found.runs)),
        "runs": [(run.folder, run.seed, run.config, run.cell, run.measured, run.standing) for run in found.runs],
        "outside": sorted(found.outside_grid),
        "unread": (found.unknown, found.absent, found.unfinished, found.unreadable),
        "loose": [file.path for file in found.loose],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    values = {f"gen/K{k}/exact_match_acc": 0.9 + k / 1000 for k in range(17, 33)}
    for seed in (1337, 2337, 3337, 4337):
        add_run(tmp_path, config(seed=seed, save_dir=f"of {seed}"), run_id=f"run{seed}", metrics=values)
    add_run(tmp_path, config(n_layers=2), run_id="b", kinds=("Checkpoint",))
    add_run(tmp_path, config(k=4, train_min_k=4, wandb_group="len_gen_single_k4"), run_id="c", kinds=("Final",))
    add_run(tmp_path, config(wandb_group="my_group"), run_id="f", source_task=12)
    add_run(tmp_path, config(), run_id="again", notes=("again",))
    add_overwritten(tmp_path, config(use_mlp=True), config(use_mlp=True, seed=2337))
    return tmp_path


def beside(root: Path) -> None:
    (run_of(root) / "notes.pt").write_bytes(b"x")


def inside(root: Path) -> None:
    (run_of(root) / "more").mkdir()


def kept(root: Path) -> None:
    media = run_of(root) / "wandb" / "run-1"
    media.mkdir(parents=True)
    (media / "media.pt").write_bytes(b"x")


def gone(root: Path) -> None:
    next(run_of(root).glob("*.pt")).unlink()


def cut(root: Path) -> None:
    next(run_of(root).glob("Final_*.pt")).write_bytes(b"")


def linked(root: Path) -> None:
    file = next(run_of(root).glob("*.pt"))
    file.rename(root / "elsewhere")
    file.symlink_to(root / "elsewhere")


def unfinished(root: Path) -> None:
    (run_of(root) / "run.json").unlink()


def moved(root: Path) -> None:
    shutil.move(run_of(root), root / "with_layernorm" / "dynamic" / "len_gen_k8" / "task_0000" / "seed_1337")


def listed(root: Path) -> None:
    shutil.copy(next(root.rglob("overwritten.json")), run_of(root))


def loose(root: Path) -> None:
    (root / "loose.pt").write_bytes(b"x")


def nothing(root: Path) -> None:
    del root


def run_of(root: Path) -> Path:
    return next(folder for folder in root.rglob("seed_2337") if (folder / "run.json").exists())


CHANGES: list[Callable[[Path], None]] = [
    nothing, beside, inside, kept, gone, cut, linked, unfinished, moved, listed, loose,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_documents_are_those_of_all_that_is_known(change: Callable[[Path], None], root: Path) -> None:
    change(root)
    whole = count_tree(root, built_in(), whole=True)
    found = count_tree(root, built_in())
    with shared_out() as told:
        shared = count_tree(root, built_in())
    assert told
    assert len(found.counted) == len(shared.counted) >= 7 - (change not in (nothing, kept, loose))
    assert whole.counted == ()
    for each in (found, shared):
        assert said(each) == said(whole)


def test_a_run_whose_final_checkpoint_was_cut_is_not_complete(root: Path) -> None:
    before = count_tree(root, built_in()).grid_counts
    cut(root)
    after = count_tree(root, built_in()).grid_counts
    assert [count.complete - now.complete for count, now in zip(before, after, strict=True)].count(1) == 1
    assert sum(now.partial for now in after) == sum(count.partial for count in before) + 1


def test_what_is_not_as_its_record_says_is_held(root: Path) -> None:
    every = len(count_tree(root, built_in()).counted)
    for change in (beside, inside, gone, linked, unfinished, moved, listed):
        tree = root.with_name(change.__name__)
        shutil.copytree(root, tree, symlinks=True)
        change(tree)
        found = count_tree(tree, built_in())
        assert len(found.counted) == every - 1, change.__name__


def test_a_tree_that_is_sorted_by_another_numbering_is_held(tmp_path: Path) -> None:
    merged = load_convention(numbering="merged")
    for layers in (2, 1):
        for mlp in (True, False):
            add_run(tmp_path, config(n_layers=layers, use_mlp=mlp), run_id=f"r{mlp}{layers}", convention=merged)
    assert len(count_tree(tmp_path, merged).counted) == 4
    _, counted = counting.count_runs(tmp_path, built_in())
    assert 0 < len(counted) < 4
    found = count_tree(tmp_path, built_in())
    assert list(found.counted) == []
    assert len(found.inventory.runs) == 4


def test_a_configuration_of_which_most_is_shared_is_the_one_that_was_given() -> None:
    sharing = counting.Sharing(built_in())
    some: dict[str, Any] = {"a": 1, "seed": 3, "b": [1, 2], "save_dir": "x"}
    others: list[dict[str, Any]] = [
        some,
        {**some, "seed": 4},
        {**some, "a": True},
        {"seed": 3, **some},
        {**some, "a": 1.0},
        {"a": 1},
    ]
    for one in others:
        shared, own = sharing.config(one)
        found = counting.SharedConfig(shared, own)
        assert list(found.items()) == list(one.items())
        assert [type(value) for value in found.values()] == [type(value) for value in one.values()]
        assert found == one
        assert "seed" in found or len(one) == 1
        assert found.get("none") is None
    assert sharing.config(some)[0] is sharing.config({**some, "seed": 4, "save_dir": "y"})[0]
    assert sharing.config(some)[0] is not sharing.config({**some, "a": 1.0})[0]
