"""A lab's own grid, added in ckptman.yaml: trained, swept, ingested and shown like the built-in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run
from ckptman.cli.grid_map import commands
from ckptman.rules.convention_file import load_convention
from ckptman.rules.selection import Selection
from ckptman.rules.terms import Convention
from ckptman.sweeps.grid_status import status
from ckptman.sweeps.sweeping import plan_sweep
from ckptman.text.errors import UsageError
from ckptman.training.planning import plan_training, training_configs
from tests.helpers.raw import config
from tests.helpers.recorded import add_run
from tests.helpers.sweeps import QUICKLY
from tests.helpers.worked_example import WORKED_EXAMPLE


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convention:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckptman.yaml").write_text(WORKED_EXAMPLE)
    return load_convention(tmp_path / "ckptman.yaml")


def test_a_group_says_what_is_trained(own: Convention, tmp_path: Path) -> None:
    (config,) = training_configs(own, group="decay_k8", task=3, seeds=(2,))
    assert (config.train_min_k, config.train_max_k, config.n_layers, config.weight_decay) == (2, 8, 2, 0.1)
    (planned,) = plan_training([config], tmp_path, convention=own).runs
    assert planned.run.folder == tmp_path / "decay_k8" / "task_0003" / "seed_2"
    assert [config.seed for config in training_configs(own, group="decay_k8", task=3)] == [1], "the grid's first"
    assert [config.seed for config in training_configs(own, k=8, task=3)] == [1337]
    (other,) = training_configs(own, k=8, task=3, seeds=(2,))
    assert (other.length_mode, other.n_layers, other.weight_decay) == ("curriculum", 2, 0.0), "that of the first group"
    with pytest.raises(UsageError, match="weight_decay cannot be set: --group, --task and --seed"):
        training_configs(own, group="decay_k8", task=3, recipe={"weight_decay": 0.5})
    with pytest.raises(UsageError, match="'decay_8' is of no known group pattern") as caught:
        training_configs(own, group="decay_8", task=3)
    assert "decay_k{K}" in (caught.value.fix or "")
    with pytest.raises(UsageError, match="K is not given"):
        training_configs(own, task=3)


def test_a_sweep_trains_each_group_as_itself(own: Convention, tmp_path: Path) -> None:
    everything = plan_sweep(tmp_path / "grid_outputs", convention=own)
    assert len(everything.runs) == 504 + 2 * 4 * 2
    assert len({item.raw.folder for item in everything.runs}) == len(everything.runs)
    assert {item.raw.place.group for item in everything.runs} >= {"decay_k8", "decay_k16", "len_gen_k8"}


def test_a_missing_run_is_trained_by_the_command_that_status_prints(own: Convention, tmp_path: Path) -> None:
    part = Selection(k=(8,), tasks=(1,), seeds=(2,), facets={"regime": ("dynamic",), "layernorm": (True,)})
    (tmp_path / "grid_outputs").mkdir()
    lines = commands(status("grid_outputs", selection=part, convention=own))
    assert lines == ["ckptman train --k 8 --task 1 --seed 2", "ckptman train --group decay_k8 --task 1 --seed 2"]


def test_the_map_tells_the_seeds_of_the_cells_that_it_shows(
    own: Convention, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert own
    assert run(["status", "--root", "checkpoints", "--out", str(tmp_path)]) == 0
    assert "in each cell" not in capsys.readouterr().out, "none is shown"
    mine = config(k=8, wandb_group="decay_k8", n_layers=2, weight_decay=0.1, seed=2)
    add_run(tmp_path / "checkpoints", mine, run_id="a", convention=own)
    assert run(["status"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "in each cell: seeds 1, 2" in out
    assert "shows them): With LayerNorm, dynamic training len_gen_k{K};" in out, "not the family that is shown"
    assert run(["status", "--verbose"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "len_gen_single_no_ln_k{K}: seeds 1337, 2337, 3337 in each cell of decay_k{K}: seeds 1, 2" in out


@pytest.mark.slow
def test_from_training_to_the_tree(own: Convention, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", "--group", "decay_k8", "--task", "1", "--seed", "1", "-j", "1", *QUICKLY]) == 0
    assert run(["train", "--group", "decay_k8", "--task", "1", "--seed", "2", *QUICKLY]) == 0
    capsys.readouterr()
    assert run(["status", "--group", "decay_k8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["complete"] == 2
    assert run(["ingest", "grid_outputs", "--root", "checkpoints"]) == 0
    folder = tmp_path / "checkpoints" / "with_layernorm" / "dynamic" / "decay_k8" / "task_0001"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["seed_1", "seed_2"]
    assert all("_wd0.1_" in path.name for path in folder.rglob("*.pt"))
    assert len(list(folder.rglob("*.pt"))) == 2 * 3
