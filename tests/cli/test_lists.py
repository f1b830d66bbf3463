"""--k, --task, --seed and --group: lists that mean the same in every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli import app as program
from ckptman.cli.app import run
from tests.helpers.raw import config
from tests.helpers.trees import make_tree

Capture = pytest.CaptureFixture[str]

SINGLE = {("eval", "--seed"), ("assign", "--seed")}
"""Options of these names that are about one thing: the drawing of lists, one run's seed."""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    configs = [
        config(k, n_layers=layers, use_mlp=False, length_mode="mix", seed=seed, wandb_group=f"len_gen_k{k}")
        for k in (6, 8, 10) for layers in (1, 2) for seed in (1337, 2337)
    ]  # fmt: skip
    root = make_tree(tmp_path / "lab", configs)
    monkeypatch.setenv("CKPTMAN_ROOT", str(root))
    return root


def runs_of(document: Any, part: str) -> set[tuple[str, int, int]]:
    return {(item["group"], item["task"], item["seed"]) for item in document[part]}


def asked(capsys: Capture, command: list[str], part: str, options: list[str]) -> set[tuple[str, int, int]]:
    capsys.readouterr()
    assert run([*command, *options, "--json"]) == 0
    return runs_of(json.loads(capsys.readouterr().out), part)


@pytest.mark.parametrize(
    ("options", "groups", "tasks"),
    [
        (["--k", "6", "--k", "8", "--task", "6"], (6, 8), (6,)),
        (["--k", "6,8", "--task", "2,6"], (6, 8), (2, 6)),
        (["--k", "6-9:2", "--task", "2", "--task", "6"], (6, 8), (2, 6)),
        (["--group", "len_gen_k[68]", "--task", "2-6:4"], (6, 8), (2, 6)),
        (["--group", "len_gen_k6,len_gen_k8", "--task", "6"], (6, 8), (6,)),
        (["--group", "len_gen_k6", "--group", "len_gen_k1*0", "--task", "6"], (6, 10), (6,)),
    ],
)
def test_the_same_lists_mean_the_same_runs_in_every_command(
    tree: Path, capsys: Capture, options: list[str], groups: tuple[int, ...], tasks: tuple[int, ...]
) -> None:
    wanted = {(f"len_gen_k{k}", task, seed) for k in groups for task in tasks for seed in (1337, 2337)}
    grid = [*options, "--seed", "1337,2337"]
    family = ["--regime", "dynamic", "--layernorm", "on"]
    assert asked(capsys, ["ls"], "checkpoints", grid) == wanted
    assert asked(capsys, ["status"], "runs", [*grid, *family]) == wanted
    assert asked(capsys, ["sweep", "--dry-run"], "runs", [*grid, *family]) == wanted
    assert asked(capsys, ["train", "--dry-run"], "runs", grid) == wanted
    capsys.readouterr()
    assert run(["results", *grid, "--by", "train_max_k", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert {row["settings"]["train_max_k"] for row in rows} == set(groups)


def test_every_command_takes_them_as_lists(capsys: Capture) -> None:
    command = program._command()
    context = command.make_context("ckptman", ["ls"], resilient_parsing=True)
    found = {}
    for name in command.list_commands(context):
        for param in command.get_command(context, name).params:
            for flag in {"--k", "--task", "--seed", "--group"} & set(param.opts):
                found[name, flag] = param.multiple
    assert {key for key, several in found.items() if not several} == SINGLE
    assert {("train", "--task"), ("task", "--k"), ("eval", "--k"), ("ls", "--group")} <= set(found)


def test_task_shows_each_k_that_is_asked_for(capsys: Capture) -> None:
    assert run(["task", "6", "--k", "4", "--k", "8-10:2", "--json"]) == 0
    assert [item["group"] for item in json.loads(capsys.readouterr().out)["tasks"]] == [
        "len_gen_k4", "len_gen_k8", "len_gen_k10",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "command", [["train", "--task", "6", "--dry-run"], ["sweep", "--dry-run"], ["status"], ["task", "6"]]
)
def test_the_nearest_group_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*command, "--group", "len_gne_k8"]) == 2
    assert "did you mean 'len_gen_k8'?" in capsys.readouterr().err
    assert run([*command, "--group", "len_gen_k8"]) == 0


def test_train_asks_before_what_is_not_on_the_grid_or_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--k", "4-16:2", "--task", "all", "--wandb", "disabled"]) == 2
    assert "these are 56 runs, more than 20" in capsys.readouterr().err
    assert not (tmp_path / "grid_outputs").exists()


@pytest.mark.parametrize("command", [["train", "--task", "6", "--k", "8"], ["sweep", "--k", "8", "--task", "6"]])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_cuda_where_there_is_none_fails_in_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, command: list[str], more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run([*command, *more, "--device", "cuda"]) == 3
    assert capsys.readouterr().err.count("the device cuda cannot be used") == 1
    assert list(tmp_path.iterdir()) == []
    assert run([*command, "--dry-run", "--device", "cpu"]) == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # it may be there
    assert run([*command, "--dry-run", "--device", "cuda"]) == 0
