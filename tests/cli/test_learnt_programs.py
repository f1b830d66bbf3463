"""Outputs as widespread programs leave them: from `learn` through every verb; nothing untrue is said of any file."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run
from ckptman.rules import comparing
from tests.helpers.other_labs import OUTPUTS
from tests.helpers.programs import PROGRAMS, Output


def _leaves(config: dict[str, Any]) -> dict[str, Any]:
    """Values by the last part of their keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _leaves(value) if isinstance(value, dict) else {key.rpartition(".")[2]: value}
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_file_is_of_its_run_with_its_configuration_and_step(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Output(tmp_path / "raw")
    PROGRAMS[program](out)

    def answer(*arguments: str, status: tuple[int, ...] = (0,)) -> Any:
        capsys.readouterr()
        assert run([*arguments, "--json"]) in status, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    learnt = answer("learn", "raw", "--write", "ckptman.yaml", status=(1,) if program == "logs" else (0,))
    assert learnt["parsed"] == learnt["placed"] == len(out.said)
    assert learnt["attributed"] == (0 if program == "logs" else len(out.said))
    placed = {item["source"]: item for item in answer("ingest", "raw")["placed"]}
    assert placed.keys() == out.said.keys()
    assert answer("ingest", "raw")["placed"] == [], "it is all there"
    found = answer("validate", status=(0, 1))["findings"]
    assert {item["code"] for item in found} <= ({"unknown-seed"} if program == "logs" else set())
    folders: dict[str, set[PurePosixPath]] = defaultdict(set)
    for source, item in placed.items():
        folder = PurePosixPath(item["path"]).parent
        folders[out.runs[source]].add(folder)
        said = _leaves(json.loads(Path("checkpoints", folder, "run.json").read_text())["config"])
        for key, value in out.said[source].items():
            assert comparing.same_value(said[key], value), (source, key)
        if program == "logs":
            assert not said.keys() & {"mode", "lr"}, "what a log says is no configuration"
        assert item["step"] == out.steps[source]
    assert all(len(homes) == 1 for homes in folders.values())
    assert len(set.union(*folders.values())) == len(folders)
    monkeypatch.setenv("COLUMNS", "80")
    for folder in set.union(*folders.values()):
        assert run(["show", str(Path("checkpoints", folder))]) == 0
    assert run(["report", "--html"]) == 0
    assert run(["report", "--html", "--check"]) == 0
    results = answer("results")["results"]
    assert sum(row["n"] + row["unmeasured"] for row in results) == len(folders)
    assert len(answer("ls")["checkpoints"]) == len(out.said)
    if Path("ckptman.yaml").read_text().count("grids: {}") == 0:
        for place in ([], ["--root", "none", "raw"]):
            stands = answer("status", *place)["counts"]
            assert stands["complete"] == len(folders), "in the tree, and in the raw outputs alone"
    for document in ("README.md", "TASK_MAPPING.md"):
        text = Path("checkpoints", document).read_text()
        assert "<code></code>" not in text
        assert "Trained K" not in text
        assert "outside the grid" not in text


def test_files_in_folders_of_steps_are_of_one_run_only_where_the_convention_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    PROGRAMS["deepspeed"](Output(tmp_path / "raw"))
    assert run(["learn", "raw", "--write", "ckptman.yaml"]) == 0
    rules = Path("ckptman.yaml").read_text()
    assert 'step_folders: ["global_step*"]' in rules
    for wrong in ('["*"]', '["a/*"]', '["a*b*"]'):
        Path("ckptman.yaml").write_text(rules.replace('["global_step*"]', wrong))
        capsys.readouterr()
        assert run(["ingest", "raw"]) == 2
        assert "step_folders" in capsys.readouterr().err


@pytest.mark.parametrize("is_learnt", [True, False])
def test_what_a_trainer_leaves_in_the_folder_of_its_run_is_of_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_learnt: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    OUTPUTS["hf-trainer"](tmp_path / "raw")
    runs = sorted(Path("raw").iterdir())
    for number, folder in enumerate(runs):
        shutil.copytree(folder / "checkpoint-1000", folder, dirs_exist_ok=True)
        save_file({"bert.embeddings.weight": torch.full((8, 4), number + 0.5)}, folder / "model.safetensors")
        for home in (folder, *folder.glob("checkpoint-*")):
            (home / "generation_config.json").write_text('{"hidden_size": 5, "eos_token_id": 1}')
            (home / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}}}')
    if is_learnt:
        assert run(["learn", "raw", "--write", "ckptman.yaml"]) == 0
        rules = Path("ckptman.yaml").read_text()
        assert "generation_config" not in rules, "it contradicts all of them"
        assert "tokenizer" not in rules, "it is no configuration of a run"
        assert "mostly says otherwise than the checkpoints" in capsys.readouterr().out
    convention = [] if is_learnt else ["--convention", "hf-trainer"]
    capsys.readouterr()
    assert run([*convention, "ingest", "raw", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    placed = {item["source"]: PurePosixPath(item["path"]).parts[0] for item in result["placed"]}
    ends = ("", "/checkpoint-500", "/checkpoint-1000")
    assert placed == {f"{folder.name}{end}": folder.name for folder in runs for end in ends}
    assert len(list(Path("checkpoints").rglob("run.json"))) == len(runs)


def test_an_accuracy_is_measured_on_no_known_number_of_lists_and_called_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    OUTPUTS["hf-trainer"](tmp_path / "raw")
    Path("ckptman.yaml").write_text("extends: hf-trainer\nmetrics: {loss: null, accuracy: {pattern: eval_loss}}\n")
    assert run(["ingest", "raw"]) == 0
    capsys.readouterr()
    assert run(["ls"]) == 0
    out, said = capsys.readouterr()
    assert "accuracy (run)" in out
    assert "list" not in (out + said).lower()
    assert run(["results"]) == 0
    assert capsys.readouterr().err.startswith("accuracy over 2 runs")
    assert run(["ls", "--json"]) == 0
    assert {item["gen_em_lists"] for item in json.loads(capsys.readouterr().out)["checkpoints"]} == {None}


def test_of_another_experiment_what_was_refused_is_not_missing_and_ckptman_offers_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    PROGRAMS["numbered"](Output(tmp_path / "raw"))
    assert run(["learn", "raw", "--write", "ckptman.yaml"]) == 0
    shutil.rmtree("raw/width8_lr0.1_seed1")
    for file in Path("raw/width8_lr0.1_seed2").rglob("*.pt"):
        file.write_bytes(file.read_bytes()[:900])
        os.utime(file, (1_700_000_000, 1_700_000_000))
    assert run(["ingest", "raw"]) == 1
    for place in ([], ["--root", "none", "raw"]):
        capsys.readouterr()
        assert run(["status", *place, "--json"]) == 1
        counts = json.loads(capsys.readouterr().out)["counts"]
        assert (counts["complete"], counts["refused"], counts["missing"]) == (6, 1, 1)
    for option in ([], ["--missing"]):
        capsys.readouterr()
        run(["status", *option])
        out, said = capsys.readouterr()
        assert "1 run waits for training by the program of this experiment" in " ".join(said.split())
        assert "ckptman train" not in out
        assert "ckptman sweep" not in said
