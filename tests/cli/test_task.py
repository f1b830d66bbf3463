"""`ckptman task`: ids and configurations, both ways, in both numberings."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckptman.cli.app import run
from ckptman.rules.convention_file import load_convention
from ckptman.rules.placement import place_of
from ckptman.rules.recipe import TrainConfig

DYNAMIC = [(layers, mlp, mode) for layers, mlp, mode in itertools.product((2, 1), (True, False), ("mix", "curriculum"))]
"""The published table of the 8 dynamic tasks, by id."""
MERGED = [(2, "mix"), (2, "curriculum"), (1, "mix"), (1, "curriculum")]
"""That of the 4 ids."""
FIXED = [(2, True), (2, False), (1, True), (1, False)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def output(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert run(["task", *arguments]) == status
    return capsys.readouterr().out


def tasks(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(output(capsys, *arguments, "--json"))["tasks"]
    return found


def flags(layers: int, mlp: bool, mode: str | None = None) -> list[str]:
    return ["--layers", str(layers), "--mlp" if mlp else "--no-mlp", *(["--mode", mode] if mode else [])]


# --- all of them ------------------------------------------------------------------------------------------------------


def test_all_ids_of_both_regimes(capsys: pytest.CaptureFixture[str]) -> None:
    found = tasks(capsys)
    dynamic = [item for item in found if item["regime"] == "dynamic"]
    assert [item["task"] for item in dynamic] == list(range(8))
    assert [tuple(item["config"].values()) for item in dynamic] == DYNAMIC
    assert [item["numberings"] for item in dynamic] == [
        {"full": task, "merged": MERGED.index((layers, mode))} for task, (layers, _, mode) in enumerate(DYNAMIC)
    ]
    fixed = [item for item in found if item["regime"] == "fixed"]
    assert [tuple(item["config"].values()) for item in fixed] == FIXED
    assert all(item["numberings"] == {"full": item["task"], "merged": item["task"]} for item in fixed)


def test_the_table_shows_the_other_numbering_where_it_differs(capsys: pytest.CaptureFixture[str]) -> None:
    dynamic, fixed = output(capsys).split("\n\n")
    assert dynamic.splitlines()[1].split("  ")[-1] == "Task (merged numbering)"
    assert [line.split() for line in dynamic.splitlines()[2:]] == [
        [str(task), str(layers), "On" if mlp else "Off", mode, str(MERGED.index((layers, mode)))]
        for task, (layers, mlp, mode) in enumerate(DYNAMIC)
    ]
    assert "merged" not in fixed
    assert [line.split() for line in fixed.splitlines()[2:]] == [
        [str(task), str(layers), "On" if mlp else "Off"] for task, (layers, mlp) in enumerate(FIXED)
    ]


def test_the_merged_numbering_shows_the_full_one(capsys: pytest.CaptureFixture[str]) -> None:
    dynamic, _ = output(capsys, "--numbering", "merged").split("\n\n")
    assert "Task (full numbering)" in dynamic
    rows = [line.split() for line in dynamic.splitlines()[2:]]
    assert [row[0] for row in rows] == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert {row[-1] for row in rows} == set("01234567")


@pytest.mark.parametrize(("flag", "regimes"), [("--fixed", {"fixed"}), ("--dynamic", {"dynamic"})])
def test_one_regime(capsys: pytest.CaptureFixture[str], flag: str, regimes: set[str]) -> None:
    assert {item["regime"] for item in tasks(capsys)} == {"dynamic", "fixed"}
    assert {item["regime"] for item in tasks(capsys, flag)} == regimes


def test_the_numbering_in_force_is_that_of_the_tree(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckptman.yaml").write_text("numbering: merged\n")
    document = json.loads(output(capsys, "--json"))
    assert document["numbering"] == "merged"
    assert json.loads(output(capsys, "--json", "--root", "elsewhere"))["numbering"] == "full"  # the control


# --- from an id -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", range(8))
def test_a_task_id_stands_for_its_configuration(capsys: pytest.CaptureFixture[str], task: int) -> None:
    (found,) = tasks(capsys, str(task), "--k", "8")
    layers, mlp, mode = DYNAMIC[task]
    assert found["config"] == {
        "use_layernorm": True, "train_max_k": 8, "train_min_k": 2,
        "n_layers": layers, "use_mlp": mlp, "length_mode": mode,
    }  # fmt: skip
    assert found["group"] == "len_gen_k8"
    assert found["folder"] == f"with_layernorm/dynamic/len_gen_k8/task_{task:04d}"


@pytest.mark.parametrize("numbering", ["full", "merged"])
@pytest.mark.parametrize("more", [[], ["--fixed"], ["--no-layernorm"], ["--fixed", "--no-layernorm"]])
def test_the_folder_is_where_the_configuration_is_placed(
    capsys: pytest.CaptureFixture[str], more: list[str], numbering: str
) -> None:
    convention = load_convention(numbering=numbering)
    for task in range(4):
        for found in tasks(capsys, str(task), "--k", "12", *more, "--numbering", numbering):
            config = TrainConfig.from_dict(found["config"], strict=True).to_dict()
            assert str(place_of(config, convention).folder) == found["folder"]
            assert found["task"] == task


def test_a_merged_id_has_two_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    found = tasks(capsys, "2", "--k", "8", "--numbering", "merged")
    assert [item["config"]["use_mlp"] for item in found] == [True, False]
    assert {item["numberings"]["full"] for item in found} == {4, 6}
    out = output(capsys, "2", "--k", "8", "--numbering", "merged")
    assert "L1, MLP on, mix  L1, MLP off, mix" in out
    assert "full numbering  tasks 4 and 6" in out
    assert [item["numberings"]["merged"] for item in tasks(capsys, "6", "--k", "8")] == [2]


@pytest.mark.parametrize("group", ["len_gen_k8", "len_gen_single_k8", "len_gen_no_ln_k8", "len_gen_single_no_ln_k8"])
def test_a_group_says_the_family_and_k(capsys: pytest.CaptureFixture[str], group: str) -> None:
    more = (["--fixed"] if "single" in group else []) + (["--no-layernorm"] if "no_ln" in group else [])
    found = tasks(capsys, "3", "--group", group)
    assert found[0]["group"] == group
    assert found == tasks(capsys, "3", "--k", "8", *more)


def test_without_k_the_group_is_a_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = tasks(capsys, "3", "--fixed")
    assert (found["group"], found["k"]) == ("len_gen_single_k{K}", None)
    assert set(found["config"]) == {"use_layernorm", "n_layers", "use_mlp", "length_mode"}
    (found,) = tasks(capsys, "3", "--fixed", "--k", "8")
    assert found["config"]["train_min_k"] == found["config"]["train_max_k"] == 8


def test_a_task_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in output(capsys, "6", "--k", "8").splitlines()]
    assert lines[:4] == [
        "task 6, dynamic with LayerNorm, K = 8 (full numbering)",
        "group len_gen_k8",
        "folder with_layernorm/dynamic/len_gen_k8/task_0006",
        "merged numbering task 2",
    ]
    assert {"n_layers 1", "use_mlp false", "length_mode mix", "train_max_k 8"} <= set(lines)


# --- from a configuration ---------------------------------------------------------------------------------------------


def test_a_configuration_gives_its_id_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    for task, (layers, mlp, mode) in enumerate(DYNAMIC):
        assert output(capsys, *flags(layers, mlp, mode)) == f"{task}\n"
        assert output(capsys, *flags(layers, mlp, mode), "--numbering", "merged") == f"{MERGED.index((layers, mode))}\n"
    for task, (layers, mlp) in enumerate(FIXED):
        assert output(capsys, *flags(layers, mlp), "--fixed") == f"{task}\n"
        assert output(capsys, *flags(layers, mlp, "mix"), "--group", "len_gen_single_no_ln_k4") == f"{task}\n"


def test_what_the_id_stands_for_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["task", "--layers", "1", "--no-mlp", "--mode", "mix"]) == 0
    assert capsys.readouterr().err == "dynamic task 6 (full numbering): L1, MLP off, mix\n"


def test_part_of_a_configuration_gives_every_id_that_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "--layers", "1").split() == ["4", "5", "6", "7"]
    assert output(capsys, "--mode", "curriculum").split() == ["1", "3", "5", "7"]
    assert output(capsys, "--no-mlp", "--numbering", "merged").split() == ["0", "1", "2", "3"]
    assert output(capsys, "--set", "n_layers=1", "--set", "use_mlp=false").split() == ["6", "7"]


def test_both_ways_agree(capsys: pytest.CaptureFixture[str]) -> None:
    for task in range(8):
        (there,) = tasks(capsys, str(task), "--k", "8")
        config = there["config"]
        (back,) = tasks(capsys, *flags(config["n_layers"], config["use_mlp"], config["length_mode"]), "--k", "8")
        assert back == there


# --- a lab's own grid -------------------------------------------------------------------------------------------------


def test_another_grid_needs_no_python(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "ckptman.yaml").write_text(
        """\
groups:
  "heads_k{K}": {layernorm: true, regime: dynamic, grid: heads, example: heads_k8, title: heads}
grids:
  heads:
    k: [8]
    seeds: [1]
    axes: {n_heads: [1, 2, 4], n_layers: [2, 1]}
    regimes: {dynamic: {axes: [n_heads, n_layers], set: {train_min_k: 2}}}
    numberings: {full: {}, merged: {dynamic: {outside: [n_layers]}}}
"""
    )
    (found,) = tasks(capsys, "3", "--group", "heads_k8")
    assert (found["config"]["n_heads"], found["config"]["n_layers"]) == (2, 1)
    assert output(capsys, "--group", "heads_k8", "--set", "n_heads=4", "--layers", "2") == "4\n"
    assert [item["grid"] for item in tasks(capsys)].count("heads") == 6
    assert "heads_k{K}" in output(capsys)


# --- wrong requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said", "table"),
    [
        (["8"], "there is no dynamic task 8 in the 'full' numbering: its ids are 0 to 7", True),
        (["4", "--fixed"], "there is no fixed task 4", True),
        (["4", "--numbering", "merged"], "its ids are 0 to 3", True),
        (["--layers", "3"], "no dynamic task of the grid 'main' has n_layers = 3", True),
        (["--fixed", "--mode", "curriculum"], "no fixed task of the grid 'main' has length_mode = curriculum", True),
        (["-1"], "-1", False),
        (["6", "--layers", "1"], "not both", False),
        (["6", "--set", "n_layers=1"], "not both", False),
        (["6", "--group", "len_gen_k8", "--k", "8"], "--group says K", False),
        (["6", "--group", "other"], "'other' is of no known group pattern", False),
        (["--set", "n_layer=1"], "did you mean 'n_layers'?", False),
        (["--set", "n_layers"], "has no '='", False),
        (["6", "--numbering", "ful"], "did you mean 'full'", False),
        (["6", "--k", "0"], "--k", False),
        (["--layers", "0"], "--layers", False),
    ],
)
def test_a_wrong_request_has_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str, table: bool
) -> None:
    assert run(["task", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert ("Task  Layers  MLP" in err) is table
    assert "Traceback" not in err


def test_a_k_that_the_grid_lacks_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["task", "6", "--k", "5"]) == 0
    assert "K = 5 is not on the grid" in capsys.readouterr().err
    assert run(["task", "6", "--k", "8"]) == 0
    assert capsys.readouterr().err == ""


def test_it_imports_no_heavy_module() -> None:
    code = (
        "import sys\nfrom ckptman.cli.app import run\nstatus = run(['task', '6', '--k', '8'])\n"
        "heavy = {'torch', 'wandb', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'HEAVY {heavy}' if heavy else status)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    control = code.replace("import sys\n", "import sys, numpy\n", 1)
    assert subprocess.run([sys.executable, "-c", control], check=False, capture_output=True).returncode == 1
