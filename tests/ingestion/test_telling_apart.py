"""The run folders of a task: what differs between two runs of a seed names them, and is no rerun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptman.checks import validate
from ckptman.ingestion import ingest
from tests.helpers.raw import START, config, name_of, write_checkpoint, write_run

LAB: dict[str, Any] = {"train_min_k": 8, "wandb_group": "len_gen_v128_e128_k8"}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / str(LAB["wandb_group"]) / "task_0003"


def folders(task: Path, root: Path) -> set[str]:
    return {Path(row.path).parent.name for row in ingest(task.parent, root).placed}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"use_mlp": True}, {"seed_1337-mlp0", "seed_1337-mlp1"}),
        ({"learning_rate": 1e-3}, {"seed_1337-learning_rate0.0001", "seed_1337-learning_rate0.001"}),
        ({"save_dir": "elsewhere"}, {"seed_1337", "seed_1337-other222"}),  # the control: nothing that counts
    ],
)
def test_what_differs_names_the_folders(task: Path, tmp_path: Path, values: dict[str, Any], names: set[str]) -> None:
    write_run(task / "a", config(**LAB), run_id="first111")
    write_run(task / "b", config(**LAB, **values), run_id="other222", started=START + 1_000, salt=1)
    root = tmp_path / "tree"
    assert folders(task, root) == names
    repeated = [finding.code for finding in validate(root).findings if finding.code == "repeated-run"]
    assert repeated == ["repeated-run"] * ("save_dir" in values)


def test_a_run_that_comes_later_is_named_by_what_differs(task: Path, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    write_run(task, config(**LAB), run_id="first111")
    assert folders(task, root) == {"seed_1337"}
    write_run(task, config(**LAB, use_mlp=True), run_id="other222", started=START + 1_000)
    assert folders(task, root) == {"seed_1337-mlp1"}


def test_a_file_without_a_group_is_filed_under_no_other_group(tmp_path: Path) -> None:
    plain = config(8, wandb_group="")
    file = write_checkpoint(tmp_path / "outputs" / "run" / name_of(plain), plain)
    result = ingest(tmp_path / "outputs", tmp_path / "tree")
    assert ([item.code for item in result.refused], result.placed) == (["no-group"], ())
    folder = tmp_path / "outputs" / "mine" / "task_0002"
    folder.mkdir(parents=True)
    file.rename(folder / file.name)
    [row] = ingest(tmp_path / "outputs", tmp_path / "tree").placed
    assert row.path.startswith("with_layernorm/dynamic/mine/task_0002/seed_1337/")
