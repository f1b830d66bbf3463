"""`ckptman migrate`: the plan is shown before anything moves, and nobody is taken by surprise."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from ckptman.cli.app import run
from tests.helpers.raw import config, snapshot
from tests.helpers.trees import edit_record, make_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = make_tree(tmp_path, [config(4, use_mlp=mlp, wandb_group="len_gen_k4") for mlp in (True, False)])
    (root / "ckptman.yaml").write_text("numbering: merged\n")
    return root


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run([*map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_nothing_moves_unless_somebody_says_yes(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(tree)
    status, out, err = call(capsys, "migrate", tree)
    assert status == 2
    assert "2 runs to migrate" in out
    assert "--yes" in err
    assert snapshot(tree) == before
    assert call(capsys, "migrate", tree, "--dry-run")[0] == 0
    assert snapshot(tree) == before
    status, out, err = call(capsys, "migrate", tree, "--yes")
    assert status == 0
    assert "2 runs migrated: 2 to another folder, 0 files renamed" in out
    assert "task_0004/seed_1337 → task_0002/seed_1337-mlp1" in out
    assert "ckptman report" in err
    assert call(capsys, "migrate", tree)[:2] == (0, "2 runs: all as the convention says\n")
    assert call(capsys, "migrate", tree, "--undo", "--yes")[0] == 0
    assert snapshot(tree) == before


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_it_asks(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    before, asked = snapshot(tree), []

    def confirm(text: str, **options: Any) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(typer, "confirm", confirm)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, err = call(capsys, "migrate", tree)
    assert ("nothing is moved" in err) is not answer
    assert asked == ["2 runs. Migrate them?"]
    assert (status == 0, snapshot(tree) != before) == (answer, answer)
    assert out.count("task_0004/seed_1337") == 1


def test_a_run_without_a_place_is_named_with_what_to_do(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_record(next(tree.rglob("seed_1337")), config={"n_layers": 9})
    before = snapshot(tree)
    status, out, _ = call(capsys, "migrate", tree, "--yes")
    assert status == 1
    assert "nothing is moved" in out
    assert "n_layers" in out
    assert "Fix:" in out
    status, out, _ = call(capsys, "migrate", tree, "--json")
    document = json.loads(out)
    assert (status, document["moves"], len(document["problems"])) == (1, [], 1)
    assert snapshot(tree) == before


def test_undo_without_a_migration_is_refused(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "migrate", tree, "--undo", "--yes")
    assert status == 1
    assert "no migration" in err


def test_of_a_folder_without_a_sorted_run_it_is_not_said_that_all_is_right(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    told = f"no sorted run is in {tmp_path / 'empty'}: there is nothing to migrate"
    status, out, _ = call(capsys, "migrate", tmp_path / "empty")
    assert (status, " ".join(out.split())) == (0, told)
    assert "2 runs to migrate" in call(capsys, "migrate", tree, "--dry-run")[1], "the control"
    status, _, err = call(capsys, "migrate", tmp_path / "empty", "--undo")
    assert (status, f"ckptman migrate {tmp_path / 'empty'} --dry-run" in " ".join(err.split())) == (1, True)
