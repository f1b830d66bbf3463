"""One reader tells every command what a tree holds."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch

from ckptman.checks.validation import validate
from ckptman.documents.reporting import report
from ckptman.queries.listing import list_checkpoints
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.sweeps.grid_status import status
from ckptman.tree.contents import Depth, Origin, Run, take_inventory
from tests.helpers.raw import config, name_of, write_checkpoint
from tests.helpers.trees import CHECKPOINT, FINAL, RUN, make_tree, small_config


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of two runs of two checkpoints."""
    return make_tree(tmp_path, [small_config(use_mlp=False), small_config(use_mlp=False, seed=2337)])


def counted(root: Path) -> tuple[int, int, int]:
    """How many checkpoints there are by validate, report and ls."""
    written = report(root).statistics
    listed = list_checkpoints(root)
    unlisted = sum(item.code in ("no-record", "unrecorded-file") for item in listed.not_listed)
    assert written is not None
    return validate(root).checked, written.file_count, listed.total + unlisted


@pytest.mark.parametrize(
    ("path", "count"),
    [
        (f"{RUN}/._{FINAL}", 4),
        ("__pycache__/x.pt", 4),
        (".git/x.pt", 4),
        (f"{RUN}/wandb/run-1/files/media/x.pt", 4),
        (f"{RUN}/other.pt", 5),
        (f"{RUN}/below/x.pt", 5),
        ("wandb/x.pt", 5),
    ],
)
def test_every_command_counts_the_same_checkpoints(root: Path, path: str, count: int) -> None:
    assert counted(root) == (4, 4, 4)
    write_checkpoint(root / path, config())
    assert counted(root) == (count,) * 3


def test_what_is_kept_of_wandb_is_no_run_for_any_command(root: Path) -> None:
    before = validate(root, ignore=["stray-folder", "stale-document"])
    kept = root / RUN / "wandb" / "run-1" / "files"
    kept.mkdir(parents=True)
    (kept / "run.json").write_text("{}")
    (kept / "overwritten.json").write_text("{}")
    assert validate(root, ignore=["stray-folder", "stale-document"]).findings == before.findings
    assert list_checkpoints(root).not_listed == ()
    elsewhere = root / "wandb"
    elsewhere.mkdir()
    (elsewhere / "run.json").write_text("{}")
    assert "bad-record" in validate(root).by_code
    assert [item.code for item in list_checkpoints(root).not_listed] == ["bad-record"]


def test_a_checkpoint_that_is_gone_is_gone_for_status_too(root: Path) -> None:
    def state() -> str:
        (run,) = [item for item in status(root=root).runs if item.path == str(root / RUN)]
        return run.state

    assert state() == "complete"
    (root / RUN / FINAL).unlink()
    assert state() == "partial"
    assert list_checkpoints(root).total == 3


def test_files_of_a_run_may_differ_in_keys_that_an_older_trainer_did_not_know(tmp_path: Path) -> None:
    settings = config()
    write_checkpoint(tmp_path / name_of(settings), settings)
    older = {key: value for key, value in settings.to_dict().items() if key != "weight_decay"}
    path = tmp_path / name_of(settings, "Checkpoint")
    torch.save({**torch.load(write_checkpoint(path, settings), weights_only=False), "train_config": older}, path)
    assert [len(run.files) for run in take_inventory(tmp_path, built_in()).runs] == [2]
    changed: dict[str, Any] = {**older, "learning_rate": 0.5}
    torch.save({**torch.load(path, weights_only=False), "train_config": changed}, path)
    assert [len(run.files) for run in take_inventory(tmp_path, built_in()).runs] == [1, 1]


@pytest.mark.parametrize(
    ("depth", "read"),
    [(Depth.NAMES, 0), (Depth.UNRECORDED, 1), (Depth.HEADERS, 5), (Depth.BYTES, 5)],
)
def test_only_so_much_is_read_as_is_asked_for(
    root: Path, depth: Depth, read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(root / RUN / "other.pt", config())
    seen: set[Path] = set()
    opening = os.open

    def counting(path: str | os.PathLike[str], *arguments: Any, **more: Any) -> int:
        seen.update([Path(path)] if Path(path).suffix == ".pt" else [])
        return opening(path, *arguments, **more)

    monkeypatch.setattr(os, "open", counting)
    inventory = take_inventory(root, built_in(), depth)
    assert len(seen) == read
    assert len(inventory.files) == 5
    assert all((file.sha256 is not None) == (depth is Depth.BYTES) for file in inventory.files)
    runs = [(run.folder, run.origin, len(run.files)) for run in inventory.runs if run.origin is not Origin.EXTRA]
    assert runs == [
        (PurePosixPath(RUN), Origin.RECORDED, 2),
        (PurePosixPath(RUN).with_name("seed_2337"), Origin.RECORDED, 2),
    ]


def test_the_files_of_a_run_stand_in_the_order_of_its_record(root: Path) -> None:
    run = take_inventory(root, built_in()).runs[0]
    assert [file.path.name for file in run.files] == [CHECKPOINT, FINAL]
    assert [file.kind for file in run.files] == ["Checkpoint", "Final"]


PLAIN = {"seed": 1, "use_mlp": True, "min_lr": -0.0}


def run_of(**values: Any) -> Run:
    folder = PurePosixPath("with_layernorm/dynamic/len_gen_k8/task_0000/seed_1")
    return Run(folder, Origin.LOOSE, None, {**config().to_dict(), **PLAIN, **values}, (), built_in())


def test_runs_that_differ_in_their_seeds_know_what_one_of_them_found() -> None:
    one, other = run_of(seed=1), run_of(seed=2)
    assert one.once("asked", lambda: 5) == 5
    assert other.once("asked", lambda: 6) == 5
    assert one.place is not None
    assert other.place is not None
    assert (one.place.seed, other.place.seed) == (1, 2)
    assert one.place.folder is other.place.folder


@pytest.mark.parametrize(
    "values", [{"use_mlp": 1}, {"min_lr": 0.0}, {"more": [1]}, {"seed": "1"}, {"seed": 0}, {"seed": True}], ids=repr
)
def test_runs_that_differ_in_anything_else_do_not(values: dict[str, Any]) -> None:
    """Flags and numbers that Python holds for equal are spelled differently in messages; a key that is 0 is off."""
    asked = f"asked of {values}"
    assert [run.once(asked, lambda at=at: at) for at, run in enumerate((run_of(), run_of(seed=5)))] == [0, 0]  # type: ignore[misc]
    assert run_of(**values).once(asked, lambda: 2) == 2


def test_where_more_hangs_on_the_seed_than_the_run_nothing_is_known_by_another_one(tmp_path: Path) -> None:
    path = tmp_path / "ckptman.yaml"
    path.write_text("run: {seed: test_max_k}\n")
    rules = load_convention(path)
    assert built_in().has_seed_apart
    assert not rules.has_seed_apart
    runs = [replace(run_of(test_max_k=longest), convention=rules) for longest in (32, 33)]
    assert [run.once("asked of lengths", lambda at=at: at) for at, run in enumerate(runs)] == [0, 1]  # type: ignore[misc]
