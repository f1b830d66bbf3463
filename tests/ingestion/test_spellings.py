"""One configuration in the spellings of Python, W&B and JSON is one for every command that compares configurations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ckptman.checks.validation import validate
from ckptman.documents.reporting import report
from ckptman.ingestion.ingesting import ingest
from ckptman.queries.over_seeds import results
from ckptman.rules.convention_file import built_in
from ckptman.training.run_folder import differing
from tests.helpers.raw import START, config, write_run
from tests.helpers.trees import edit_json

PYTHON: dict[str, Any] = {"best": math.inf, "worst": math.nan, "choices": (1, 2), "rate": 1.0, "mode": True}
WANDB: dict[str, Any] = {"best": "Infinity", "worst": None, "choices": [1, 2], "rate": 1, "mode": 1}
OTHER = {"best": "-Infinity", "worst": 0.5, "choices": [1, 3], "rate": 2, "mode": 0}
"""For each key, the control: another value."""


def add_run(task: Path, seed: int, in_file: dict[str, Any], in_wandb: dict[str, Any], *, at: int = 0) -> None:
    """A run of whose configuration its checkpoints and W&B have these spellings."""
    settings = config(seed=seed)
    for path in write_run(task / f"s{seed}", settings, run_id=f"run{seed}", started=START + at):
        saved = torch.load(path, weights_only=False)
        torch.save({**saved, "train_config": {**settings.to_dict(), **in_file}}, path)
    (recorded,) = (task / f"s{seed}").rglob("config.yaml")
    document = yaml.safe_load(recorded.read_text())
    recorded.write_text(yaml.safe_dump(document | {key: {"value": value} for key, value in in_wandb.items()}))


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "len_gen_k8" / "task_0006"


@pytest.mark.parametrize("key", [None, *OTHER])
def test_files_are_of_the_run_that_wandb_spells_otherwise(task: Path, tmp_path: Path, key: str | None) -> None:
    add_run(task, 1337, PYTHON, WANDB if key is None else {**WANDB, key: OTHER[key]})
    placed = ingest(tmp_path / "raw", tmp_path / "tree", settle=0).placed
    assert [row.run_id for row in placed] == ["run1337" if key is None else None] * 2


@pytest.mark.parametrize("key", [None, *OTHER])
def test_seeds_of_a_configuration_are_counted_and_compared_as_one(task: Path, tmp_path: Path, key: str | None) -> None:
    other = WANDB if key is None else {**WANDB, key: OTHER[key]}
    add_run(task, 1337, PYTHON, PYTHON | {"worst": None})
    add_run(task, 2337, other, other, at=1000)
    root = tmp_path / "tree"
    ingest(tmp_path / "raw", root, settle=0)
    count = 1 if key is None else 2
    statistics = report(root).statistics
    assert statistics is not None
    assert len(statistics.configurations) == count
    assert len(results(root).rows) == count
    ours, theirs = {**config().to_dict(), **PYTHON}, {**config().to_dict(), **other}
    assert differing(ours, theirs, built_in()) == ([] if key is None else [key])


@pytest.mark.parametrize("key", [None, *OTHER])
def test_a_record_that_spells_the_configuration_otherwise_agrees_with_its_files(
    task: Path, tmp_path: Path, key: str | None
) -> None:
    add_run(task, 1337, PYTHON, WANDB)
    root = tmp_path / "tree"
    ingest(tmp_path / "raw", root, settle=0)
    (record,) = root.rglob("run.json")
    edit_json(record, lambda doc: doc["config"].update(WANDB if key is None else {**WANDB, key: OTHER[key]}))
    assert ("config-disagrees" in validate(root).by_code) == (key is not None)
    assert validate(root).runs == 1
