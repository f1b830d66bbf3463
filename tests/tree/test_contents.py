"""One reader tells every command what a tree holds."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch

from ckptman.checks.validation import validate
from ckptman.documents.reporting import report
from ckptman.queries.listing import list_checkpoints
from ckptman.rules.convention_file import built_in
from ckptman.sweeps.grid_status import status
from ckptman.tree.contents import Depth, Origin, take_inventory
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
