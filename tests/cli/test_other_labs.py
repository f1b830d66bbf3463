"""The shipped conventions of other labs: their outputs are placed, kept by their names, checked, told and listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman import load_weights
from ckptman.cli.app import run
from tests.helpers.other_labs import OUTPUTS

PLACED = {
    "nanogpt": ["out-lr0.001/seed_unknown/ckpt.pt", "out-lr0.0006/seed_unknown/ckpt.pt"],
    "lightning": [f"mnist/version_{v}/seed_{v}/{name}" for v in (0, 1)
                  for name in ("epoch=0-step=10.ckpt", "epoch=1-step=20.ckpt")],
    "hf-trainer": [f"{name}/seed_unknown/checkpoint-{step}.pt" for name in ("bert-lr1e-4", "bert-lr3e-4")
                   for step in (500, 1000)],
}  # fmt: skip
STEPS = {"nanogpt": [250, 500], "lightning": [10, 20] * 2, "hf-trainer": [500, 1000] * 2}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_outputs_are_sorted_and_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    OUTPUTS[name](tmp_path / "raw")
    assert run(["--convention", name, "ingest", "raw", "--root", "tree"]) == 0
    monkeypatch.chdir(tmp_path / "tree")

    def answer(*arguments: str) -> Any:
        capsys.readouterr()
        assert run([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    listed = answer("ls")["checkpoints"]
    assert [item["path"] for item in listed] == PLACED[name]
    assert [item["step"] for item in listed] == STEPS[name]
    assert all(item["config"] for item in listed)
    assert answer("ingest", "../raw")["placed"] == []
    capsys.readouterr()
    run(["validate", "--json"])
    codes = {item["code"] for item in json.loads(capsys.readouterr().out)["findings"]}
    assert codes <= {"unknown-seed"}, "nothing is said to be missing or wrong"
    assert run(["report", "--html"]) == 0
    assert run(["report", "--html", "--check"]) == 0
    assert Path(PLACED[name][0]).parts[0] in Path("README.md").read_text()
    assert len(answer("results")["results"]) == 2
    weights, info = load_weights(PLACED[name][0])
    assert weights
    assert info.config
    assert run(["show", PLACED[name][0]]) in (0, 1)
    assert "[bad-history]" not in capsys.readouterr().out
    capsys.readouterr()
    assert run(["status"]) == 2
    assert "describes no grid" in capsys.readouterr().err


def test_logs_beside_the_checkpoints_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lightning", "hf-trainer"):
        OUTPUTS[name](tmp_path / name)
        assert run(["--convention", name, "ingest", name, "--root", f"tree-{name}"]) == 0
        assert len(list((tmp_path / f"tree-{name}").rglob("history.csv.gz"))) == 2
        capsys.readouterr()
        assert run(["results", f"tree-{name}", "--json"]) == 0
        means = [row["mean"] for row in json.loads(capsys.readouterr().out)["results"]]
        assert means == ([0.6, 0.6] if name == "lightning" else [0.8, 0.8])
        assert run(["ls", f"tree-{name}"]) == 0
        assert "lists" not in "".join(capsys.readouterr()).lower(), "a loss is measured on none that are known"


def test_without_the_convention_they_are_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OUTPUTS["lightning"](tmp_path / "raw")
    assert run(["ingest", str(tmp_path / "raw"), "--root", str(tmp_path / "tree")]) in (0, 1)
    assert not list((tmp_path / "tree").rglob("run.json"))
