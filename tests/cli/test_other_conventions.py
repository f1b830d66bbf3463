"""Conventions of other shapes: each goes from training to the explorer, through every verb, with its own levels."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run
from ckptman.rules.convention_file import load_convention, shipped

SHORT = [
    "--iters", "12", "--batch-size", "16", "--warmup-iters", "2", "--checkpoint-every", "5", "--eval-every", "0",
    "--wandb", "disabled", "--device", "cpu", "--threads", "1",
]  # fmt: skip
SMALL = ["--set", "n_embd=8", "--set", "test_max_k=18"]
NO_K = """\
replaces: [facets, groups, grids, tree]
facets: {}
tree: ["{group}", "seed_{seed}"]
groups:
  "width_{n_embd}": {grid: width, example: width_8}
grids:
  width:
    across: [{n_embd: [8, 16]}]
    seeds: [1, 2]
    axes: {n_layers: [1], use_mlp: [true, false]}
    set: {train_min_k: 3, train_max_k: 4, vocab_n: 32, test_min_k: 17, test_max_k: 18}
"""
NO_LAYERNORM = """\
replaces: [facets, groups, grids, tree]
facets:
  size: {title: Width, config: n_embd, values: {small: {is: 8}, large: {is: 16}}}
  K: {config: train_max_k}
tree: ["{size}", "{group}", "t{task:02d}", "s{seed}"]
raw: {task: "t{task:02d}"}
groups:
  "{n_embd}_by_{K}": {grid: width, example: 8_by_4}
grids:
  width:
    across: [{n_embd: [8, 16], K: [4]}]
    seeds: [1, 2]
    axes: {use_layernorm: [true, false], n_layers: [1]}
    set: {train_min_k: K, vocab_n: 32, test_min_k: 17, test_max_k: 18}
"""
SIX = """\
facets:
  depth: {title: Depth, config: n_layers}
  mode: {title: Length mode, config: length_mode, values: {mix: {}, curriculum: {}}}
tree: ["{layernorm}", "{regime}", "{mode}", "{group}", "L{depth}", "task_{task:04d}", "seed_{seed}"]
"""


class Shape(NamedTuple):
    rules: str
    group: str
    more: list[str]
    places: list[str]
    """Of task 1's two runs."""
    filter: list[str]
    """Options of which the tree has nothing."""
    fits: list[str]
    """Options that all of it fits."""
    has_k: bool = True
    task: int | None = 1
    """The task that the tree's folders tell."""


SHAPES = {
    "three levels": Shape(
        'tree: ["{group}", "task_{task:04d}", "seed_{seed}"]\n', "len_gen_single_k4", SMALL,
        ["len_gen_single_k4/task_0001/seed_1", "len_gen_single_k4/task_0001/seed_2"], ["--dynamic"],
        ["--fixed"],
    ),
    "a number behind the task's": Shape(
        'tree: ["{group}", "t{task:02d}of08", "seed_{seed}"]\n', "len_gen_single_k4", SMALL,
        ["len_gen_single_k4/t01of08/seed_1", "len_gen_single_k4/t01of08/seed_2"], ["--dynamic"], ["--fixed"],
    ),
    "seven levels": Shape(
        SIX, "len_gen_single_k4", SMALL,
        [f"with_layernorm/fixed/mix/len_gen_single_k4/L2/task_0001/seed_{seed}" for seed in (1, 2)],
        ["--mode", "curriculum", "--dynamic"], ["--mode", "mix", "--fixed", "--layernorm"],
    ),
    "without K and tasks": Shape(
        NO_K, "width_8", [], ["width_8/seed_1-L1-mlp0", "width_8/seed_2-L1-mlp0"], ["--where", "n_embd == 16"],
        ["--where", "n_embd == 8", "--no-mlp"], has_k=False, task=None,
    ),
    "without LayerNorm": Shape(
        NO_LAYERNORM, "8_by_4", [], ["small/8_by_4/t01/s1", "small/8_by_4/t01/s2"], ["--size", "large"],
        ["--size", "small"],
    ),
}  # fmt: skip


def explored(page: Path) -> str:
    """The data of an explorer, as JSON."""
    (packed,) = re.findall(r'id="data">([^<]*)<', page.read_text())
    return zlib.decompress(base64.b64decode(packed)).decode()


def told(column: dict[str, Any], row: int) -> Any:
    """What a column of the explorer's tables has in a row."""
    if "all" in column:
        return column["all"]
    return column["each"][row] if "each" in column else column["pool"][column["at"][row]]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", SHAPES)
def test_it_goes_through_every_verb(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = SHAPES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckptman.yaml").write_text(shape.rules)
    assert run(["train", "--group", shape.group, "--task", "1", "--seed", "1,2", *SHORT, *shape.more]) == 0
    assert run(["ingest", "grid_outputs"]) == 0
    tree = tmp_path / "checkpoints"
    assert sorted(str(file.parent.relative_to(tree)) for file in tree.rglob("run.json")) == shape.places
    assert answer(capsys, "ingest", "grid_outputs")["placed"] == [], "it is all there"
    counts = answer(capsys, "status", "--group", shape.group, "--task", "1", "--seed", "1,2")["counts"]
    assert counts["complete"] == 2
    assert run(["validate", "--ignore", "missing", "--ignore", "other-test-lengths"]) == 0
    assert run(["report", "--html"]) == 0
    assert run(["report", "--html", "--check"]) == 0
    assert "seed" in (tree / "TASK_MAPPING.md").read_text()
    data = json.loads(explored(tree / "report" / "explorer.html"))
    assert shape.group in json.dumps(data)
    columns = data["cells"]["columns"]
    home = str(Path(shape.places[0]).parent)
    at = next(i for i in range(data["cells"]["count"]) if told(columns["folder"], i) == home)
    assert told(columns["task"], at) == shape.task
    mapping = (tree / "TASK_MAPPING.md").read_text()
    (row,) = (line for line in mapping.splitlines() if line.endswith(" 1 |    2 |     6 |"))
    assert ("| 1 " in row) is (shape.task == 1)
    assert ("| Tasks |" in mapping) is (shape.task == 1)
    listed = answer(capsys, "ls", "--final")["checkpoints"]
    assert [Path(item["path"]).parent.as_posix() for item in listed] == shape.places
    assert {item["task"] for item in listed} == {1}
    assert answer(capsys, "ls", *shape.filter)["checkpoints"] == [], "nothing here is so"
    assert len(answer(capsys, "ls", "--final", *shape.fits)["checkpoints"]) == 2, "the control: all is so"
    if shape.has_k:
        assert [len(answer(capsys, "ls", "--final", "--k", k)["checkpoints"]) for k in ("4", "5")] == [2, 0]
    else:
        assert run(["ls", "--k", "4"]) == 2
    assert [row["n"] + row["unmeasured"] for row in answer(capsys, "results")["results"]] == [2]
    assert run(["show", f"checkpoints/{shape.places[0]}"]) == 0
    monkeypatch.chdir(tree / Path(shape.places[0]).parts[0])
    assert len(answer(capsys, "ls")["checkpoints"]) == len(listed) * 3, "the tree is found from within"


def test_a_run_in_a_folder_of_another_facet_is_misplaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = SHAPES["without LayerNorm"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckptman.yaml").write_text(shape.rules)
    assert run(["train", "--group", shape.group, "--task", "1", "--seed", "1", *SHORT]) == 0
    assert run(["ingest", "grid_outputs"]) == 0
    (tmp_path / "checkpoints" / "small").rename(tmp_path / "checkpoints" / "large")
    capsys.readouterr()
    assert run(["validate", "--json"]) == 1
    assert "misplaced" in {item["code"] for item in json.loads(capsys.readouterr().out)["findings"]}
    assert run(["validate", "--fix"]) in (0, 1)
    assert (tmp_path / "checkpoints" / "small" / "8_by_4" / "t01" / "s1" / "run.json").is_file()


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_conventions_are_short_and_pass_the_checks(name: str) -> None:
    file = shipped()[name]
    assert load_convention(file).source == file
    assert len([line for line in file.read_text().splitlines() if line.strip()]) < 40


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("extends: lab-latter\n", "did you mean 'lab-later'"),
        ("replaces: [grups]\n", "did you mean 'groups'"),
        ("replaces: [groups]\n", "groups is not said here"),
    ],
)
def test_what_is_extended_and_replaced_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckptman.yaml").write_text(text)
    assert run(["task"]) == 2
    assert told in capsys.readouterr().err
    (tmp_path / "ckptman.yaml").write_text("extends: lab-later\n")
    assert run(["task"]) == 0


def test_a_named_convention_is_kept_in_the_tree_that_it_sorts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    group = ["--group", "len_gen_v64_e32_k16", "--task", "7", "--seed", "1337"]
    assert run(["--convention", "lab-later", "train", *group, *SHORT]) == 0
    assert run(["--convention", "lab-later", "ingest", "grid_outputs"]) == 0
    assert (tmp_path / "checkpoints" / "ckptman.yaml").read_text() == "extends: lab-later\n"
    found = answer(capsys, "status", "--root", "checkpoints")
    assert found["counts"]["complete"] == 2, "MLP on and off share a task"
    assert len(found["runs"]) == 12 * 16 * 3
    assert run(["--convention", "lab-latter", "status"]) == 2
    assert "did you mean 'lab-later'" in capsys.readouterr().err
