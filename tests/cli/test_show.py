"""`ckptman show`: what people see, the JSON, refusals, and the exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ckptman.cli.app import run
from tests.helpers.raw import config, name_of, write_checkpoint
from tests.helpers.trees import CHECKPOINT, FINAL, FIXED, RUN, TASK, copy, edit_json, make_tree, small_config


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("show"), [small_config()])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    settings = config(8, n_layers=2)
    return write_checkpoint(tmp_path / name_of(settings), settings)


def words(text: str) -> list[str]:
    """The lines of a text with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_people_see_what_it_is_and_where_it_belongs(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(tree / RUN / FINAL)]) == 0
    out, err = capsys.readouterr()
    lines = words(out)
    assert lines[0] == FINAL
    assert any(line.startswith("what Final (end of training), 40,000 iterations done, form A, ") for line in lines)
    assert f"tree {tree}" in lines
    assert f"belongs at {RUN}" in lines
    assert "run run00000, seed 1337" in lines
    assert "generalization 50.0 % (W&B, 100 lists of each length, 95 % interval 47.6 % to 52.4 %)" in lines
    assert any(line.startswith("attribution only-match: ") for line in lines)
    assert any(line.startswith("source ") and line.endswith(FINAL) for line in lines)
    assert "optimizer none saved" in lines
    assert "transformer.wte.weight 129 × 8 float32" in lines
    assert "1 problem" not in lines
    assert err == ""


def test_values_that_differ_from_the_published_recipe_are_marked(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["show", str(file)]) == 0
    lines = words(capsys.readouterr().out)
    assert "* n_layers 2 (recipe: 1)" in lines
    assert "* n_embd 8 (recipe: 128)" in lines
    assert "* train_max_k 8 (recipe: 16)" in lines
    assert "length_mode mix" in lines  # as in the recipe
    assert {line.split()[1] for line in lines if line.startswith("*")} == {
        "n_layers", "n_embd", "train_max_k", "wandb_group",
    }  # fmt: skip


def test_an_optimizer_is_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(8)
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.25)
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    path = write_checkpoint(tmp_path / name_of(settings), settings, optimizer=optimizer.state_dict())
    assert run(["show", str(path)]) == 0
    size, line = [line for line in words(capsys.readouterr().out) if line.startswith("optimizer ")]
    assert size == "optimizer 3 tensors, float32, 28 B"
    assert line.startswith("optimizer 1 parameter with state (3 tensors); 1 parameter: lr 0.25, betas [0.9, 0.999]")


def test_one_file_is_one_document_and_several_are_a_list(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tree / RUN / FINAL), str(tree / RUN / CHECKPOINT)]
    singles = []
    for name in files:
        assert run(["show", name, "--json"]) == 0
        singles.append(json.loads(capsys.readouterr().out))
    assert [single["path"] for single in singles] == files
    assert [single["name"]["parsed"]["step"] for single in singles] == [40000, 20001]
    assert run(["show", *files, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"schema_version", "files"}
    assert document["files"] == singles


def test_a_problem_is_shown_and_gives_status_1(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copy(tree, tmp_path)
    assert run(["show", str(root / RUN / FINAL)]) == 0
    assert "1 problem\n" not in capsys.readouterr().out
    (root / TASK).rename(root / FIXED / "task_0000")
    moved = root / FIXED / "task_0000" / "seed_1337" / FINAL
    assert run(["show", str(moved)]) == 1
    out = capsys.readouterr().out
    assert "1 problem\n" in out
    assert "[misplaced]" in out
    assert f"belongs in {TASK}" in out
    assert run(["show", str(moved), "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["code"] == "misplaced"
    assert problem["message"]


def test_a_name_outside_of_the_convention_is_a_problem(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = file.rename(file.with_name("best.pt"))
    assert run(["show", str(other), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["name"] is None
    assert document["config"]["n_layers"] == 2
    assert [problem["code"] for problem in document["problems"]] == ["unknown-name"]
    assert "it should begin with" in document["problems"][0]["message"]


def test_a_refused_file_does_not_stop_the_others(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_text("text")
    assert run(["show", str(bad), str(file)]) == 1
    out, err = capsys.readouterr()
    assert file.name in out
    assert "REFUSED" in err
    assert f"REFUSED {bad}: not a checkpoint, but a text file [not-a-checkpoint]" in err  # its path stands there once
    assert "Traceback" not in err
    assert run(["show", str(file)]) == 0  # the control
    assert capsys.readouterr().err == ""


def test_a_refused_file_has_a_document_of_the_same_keys(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["show", str(tmp_path / "nowhere.pt"), str(file), "--json"]) == 1
    refused, shown = json.loads(capsys.readouterr().out)["files"]
    promised = {
        "path", "form", "iters_done", "config", "tensors", "parameters", "optimizer", "name", "problems",
    }  # fmt: skip
    assert promised <= set(refused)
    assert promised <= set(shown)
    assert refused["form"] is None
    assert [problem["code"] for problem in refused["problems"]] == ["unreadable"]
    assert refused["problems"][0]["fix"]


def test_hostile_names_and_values_are_spelled_out_and_exact_in_json(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "[red]\x1b[31m\nx" + os.fsdecode(b"\xff")
    folder = tmp_path / odd
    folder.mkdir()
    path = write_checkpoint(folder / f"{odd}.pt", small_config())
    assert run(["show", str(path)]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.startswith("[red]\\x1b[31m\\nx\\xff.pt\n")
    assert run(["show", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["path"] == str(path)

    root = copy(tree, tmp_path)
    edit_json(root / RUN / "run.json", lambda doc: doc.update(run_id=odd))
    assert run(["show", str(root / RUN / FINAL)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "run             [red]\\x1b[31m\\nx\\xff, seed 1337" in out


def test_a_hostile_configuration_is_spelled_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(8)
    hostile = settings.to_dict() | {"save_dir": "[red]\x1b[2J\n" + "x" * 5000, "k\x1b": "v"}
    path = write_checkpoint(tmp_path / name_of(settings), settings, train_config=hostile)
    assert run(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[red]\\x1b[2J\\nxxx" in out
    assert "k\\x1b" in out
    assert "(5,010 characters)" in out
    assert max(map(len, out.splitlines())) < 500
    assert run(["show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["save_dir"] == hostile["save_dir"]


def test_the_numbering_says_where_it_belongs(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = []
    for numbering in ("full", "merged"):
        assert run(["show", str(file), "--json", "--numbering", numbering]) == 0
        places.append(json.loads(capsys.readouterr().out)["belongs_at"].partition("len_gen_k8/")[2])
    assert places == ["task_0002/seed_1337", "task_0000/seed_1337-mlp0"]
    assert run(["show", str(file), "--numbering", "ful"]) == 2
    assert "did you mean 'full'" in capsys.readouterr().err


def test_no_file_is_a_wrong_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show"]) == 2
    assert "FILE" in capsys.readouterr().err


def test_showing_imports_no_heavy_module(tree: Path) -> None:
    code = (
        "import sys\nfrom ckptman.cli.app import run\nstatus = run(['show', *sys.argv[1:]])\n"
        "heavy = {'torch', 'wandb', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'HEAVY {heavy}' if heavy else status)\n"
    )
    command = [sys.executable, "-c", code, str(tree / RUN / FINAL)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    command[2] = code.replace("import sys\n", "import sys, numpy\n", 1)  # the control
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1
