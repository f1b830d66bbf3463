"""Outputs as widespread programs leave them: from `learn` through every verb; nothing untrue is said of any file."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run
from ckptman.rules import comparing
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
    assert run(["report", "--html"]) == 0
    assert run(["report", "--html", "--check"]) == 0
    results = answer("results")["results"]
    assert sum(row["n"] + row["unmeasured"] for row in results) == len(folders)
    assert len(answer("ls")["checkpoints"]) == len(out.said)
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
    for wrong in ("[global_step]", '["*"]', '["a/*"]', '["a*b*"]'):
        Path("ckptman.yaml").write_text(rules.replace('["global_step*"]', wrong))
        capsys.readouterr()
        assert run(["ingest", "raw"]) == 2
        assert "step_folders" in capsys.readouterr().err
