"""What is asked for twice, or is not there, is said."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run
from tests.helpers.raw import config, write_run


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "grid_outputs" / "len_gen_k8" / "task_0006", config(), run_id="abcd1234")
    assert run(["ingest", "grid_outputs"]) == 0
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("more", [["--json"], ["--format", "md"], ["--format", "json"]])
def test_the_summary_is_csv_and_no_other_output(
    more: list[str], tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["results", "--csv", *more]) == 2
    assert "ask for two outputs" in capsys.readouterr().err
    assert run(["results", "--csv", "--format", "csv"]) == 0  # the control
    assert run(["results", "--csv"]) == 0


def test_status_says_that_the_tree_that_is_named_is_not_there(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "there is no tree at nope"
    assert run(["status", "--root", "nope", "--json"]) == 0
    assert said in capsys.readouterr().err
    assert run(["status", "--root", "checkpoints", "--json"]) == 0  # the control
    assert run(["status", "--json"]) == 0
    assert said not in capsys.readouterr().err


def test_no_tree_is_made_inside_a_tree(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("checkpoints", "grid_outputs"):
        for more in ([], ["--dry-run"]):
            assert run(["ingest", source, "--root", "checkpoints/x", *more]) == 2
            assert "lies inside the tree" in capsys.readouterr().err
    assert not (tree / "x").exists()
    assert run(["ingest", "checkpoints", "--root", "other"]) == 0  # the control


def test_a_folder_that_is_called_like_a_family_makes_no_tree_of_what_is_around_it(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "with_layernorm" / "dynamic" / "src").mkdir(parents=True)
    assert run(["ingest", "grid_outputs", "--root", "second"]) == 0
    assert len(list((tmp_path / "second").rglob("*.pt"))) == 2
