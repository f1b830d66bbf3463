"""Options for the axes of a convention's grids, and for K: each convention has its own, and says which it has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run
from tests.helpers.other_labs import OUTPUTS

VERBS = {
    "ls": ["ls"],
    "results": ["results"],
    "plot": ["plot", "curves"],
    "status": ["status"],
    "sweep": ["sweep", "--dry-run"],
    "train": ["train", "--task", "0", "--dry-run"],
    "task": ["task", "0"],
}
WITHOUT_GRID = ("train", "task")
"""They say first that there is none."""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    OUTPUTS["nanogpt"](tmp_path / "raw")
    assert run(["--convention", "nanogpt", "ingest", str(tmp_path / "raw"), "--root", str(tmp_path / "tree")]) == 0
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Any]:
    capsys.readouterr()
    assert run(["ls", "--json", *arguments]) == 0
    found: list[Any] = json.loads(capsys.readouterr().out)["checkpoints"]
    return found


def test_a_convention_has_options_for_its_own_axes_and_no_others(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = listed(capsys)
    rates = {str(item["config"]["learning_rate"]) for item in everything}
    assert len(rates) == 2
    for rate in rates:
        assert [str(item["config"]["learning_rate"]) for item in listed(capsys, "--learning-rate", rate)] == [rate]
    assert run(["ls", "--layers", "1"]) == 2
    assert "No such option" in capsys.readouterr().err
    rules = Path("ckptman.yaml").read_text()
    Path("ckptman.yaml").write_text(rules + "axes: {learning_rate: {option: --lr}}\n")
    assert len(listed(capsys, "--lr", rates.pop())) == 1
    assert run(["ls", "--learning-rate", "1"]) == 2


def test_an_axis_of_two_switches_is_an_option_with_a_no(
    tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ckptman.yaml").write_text("axes: {use_mlp: {option: --feed-forward}, n_layers: {option: --depth}}\n")
    capsys.readouterr()
    assert run(["task", "--no-feed-forward", "--depth", "1"]) == 0
    assert capsys.readouterr().out.split() == ["6", "7"]
    assert run(["name", "--format", "--no-feed-forward", "--depth", "1", "--k", "8"]) == 0
    assert "_L1_npos1_mlp0_" in capsys.readouterr().out
    assert run(["task", "--depth", "0"]) == 2
    assert run(["task", "--no-mlp"]) == 2


def test_an_axis_that_is_a_facet_has_the_option_of_the_facet_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for option, known in (("--use-layernorm", False), ("--no-use-layernorm", False), ("--no-layernorm", True)):
        capsys.readouterr()
        status = run(["--convention", "lab-later", "task", "--layers", "1", "--mode", "mix", "--no-mlp", option])
        assert ("No such option" in capsys.readouterr().err) is not known
        assert (status == 0) is known
    capsys.readouterr()
    assert run(["--convention", "lab-later", "ls", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--layernorm" in told
    assert "use-layernorm" not in told


@pytest.mark.parametrize("verb", VERBS)
def test_without_k_each_command_says_so(verb: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run([*VERBS[verb], "--k", "8"]) == 2
    told = capsys.readouterr().err
    assert ("describes no grid" if verb in WITHOUT_GRID else "this convention has no K (nanoGPT runs)") in told


def test_with_a_k_it_is_a_filter(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ckptman.yaml").write_text("extends: nanogpt\nfacets: {K: {config: n_layer}}\n")
    there = {item["config"]["n_layer"] for item in listed(capsys)}
    assert len(listed(capsys, "--k", str(there.pop()))) == len(listed(capsys))
    assert listed(capsys, "--k", "77") == []
