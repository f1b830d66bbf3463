"""`ckptman show` of a run, and what it says of loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ckptman.cli.app import run
from tests.helpers.model_folders import SHARDS, trainer
from tests.helpers.raw import config, name_of, write_checkpoint
from tests.helpers.trees import FINAL, RUN, make_tree, small_config

RUN_ID = "run00000"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("show"), [small_config()])


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("how", ["folder", "id", "end", "short", "number"])
def test_a_run_is_found_by_folder_id_and_group_task_seed(
    how: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group, task, seed = RUN.split("/")[-3:]
    number = str(int(task.removeprefix("task_")))
    names = {"folder": str(tree / RUN), "id": RUN_ID, "end": f"{group}/{task}/{seed}", "short": f"{task}/{seed}",
             "number": f"{group}/{number}/{seed.removeprefix('seed_')}"}  # fmt: skip
    assert run(["show", names[how], "--root", str(tree)]) == 0
    found = lines(capsys)
    assert found[0] == f"{group}/{task}/{seed}"
    assert f"run {RUN_ID}, seed 1337" in found
    assert any(line.startswith("Final 40,000 ") and " yes file " in line for line in found)
    assert "17 50.0 %" in found
    assert "no evaluations" in found


def test_its_document_has_the_record_the_files_that_are_there_and_the_metrics(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["show", RUN_ID, "--root", str(tree), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    kept = json.loads((tree / RUN / "run.json").read_text())
    assert document["record"] == {key: value for key, value in kept.items() if key != "digest"}
    assert (document["path"], FINAL in document["here"], document["by_k"]["17"]) == (RUN, True, 0.5)


def test_no_run_and_a_file_that_is_not_there_are_told_apart(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "nobody", "--root", str(tree)]) == 2
    assert "no run of the tree" in " ".join(capsys.readouterr().err.split())
    assert run(["show", "nobody.pt", "--root", str(tree)]) == 1
    assert "[unreadable]" in capsys.readouterr().err


def test_a_name_of_several_runs_is_refused_with_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = {"n_layers": 2, "use_mlp": True}
    tree = make_tree(tmp_path, [small_config(**both), small_config(train_min_k=2, **both)])
    runs = sorted({path.parent for path in tree.rglob("run.json")})
    task, seed = runs[0].parts[-2:]
    assert run(["show", f"{task}/{seed}", "--root", str(tree)]) == 2
    text = "".join(capsys.readouterr().err.split())
    assert all(str(path.relative_to(tree)) in text for path in runs)


def test_it_says_whether_a_file_loads_and_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_checkpoint(tmp_path / name_of(config(8)), config(8))
    other = tmp_path / "other.pt"
    torch.save({"model": {"encoder.weight": torch.ones(2, dtype=torch.float16)}, "unknown": 1}, other)
    folder = trainer(tmp_path / "checkpoint-40000")
    (folder / SHARDS[0]).unlink()
    said = {}
    for path in (file, other, folder):
        run(["show", str(path)])
        said[path] = lines(capsys)
    assert "loads yes: ckptman.load, ckptman eval" in said[file]
    assert any(line.startswith("loads its weights alone") and "wte.weight is missing" in line for line in said[other])
    assert "weights 2 parameters, float16, 4 B" in said[other]
    assert "not read unknown" in said[other]
    assert f"loads no: not there, or not whole: {SHARDS[0]}" in said[folder]
    assert f"missing {SHARDS[0]}" in said[folder]
