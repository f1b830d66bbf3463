"""`ckptman name`: names parsed and formatted, and what does not follow the convention."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckptman.cli.app import run
from ckptman.rules.convention_file import built_in
from ckptman.rules.recipe import TrainConfig
from tests.helpers.slices import few

FINAL = "Final_N128_d128_H1_L1_npos1_mlp0_ln1_lenmix_trainK4to4_testK17to32_nodup1_iters40000.pt"
CHECKPOINT = "Checkpoint_N128_d128_H1_L2_npos1_mlp1_ln1_lencurriculum_trainK2to12_testK17to32_nodup1_iters20001.pt"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def document(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert run(["name", *arguments, "--json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def formatted(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["name", "--format", *arguments]) == 0
    return capsys.readouterr().out.removesuffix("\n")


# --- parsing ----------------------------------------------------------------------------------------------------------


def test_a_name_says_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = document(capsys, CHECKPOINT)["names"]
    assert found == {
        "name": CHECKPOINT,
        "parsed": {
            "kind": "Checkpoint",
            "final": False,
            "step": 20001,
            "config": {
                "vocab_n": 128,
                "n_embd": 128,
                "n_heads": 1,
                "n_layers": 2,
                "without_pos": True,
                "use_mlp": True,
                "use_layernorm": True,
                "length_mode": "curriculum",
                "train_min_k": 2,
                "train_max_k": 12,
                "test_min_k": 17,
                "test_max_k": 32,
                "allow_duplicates": False,
            },
            "scheme": None,
        },
    }


def test_the_last_part_of_a_path_counts(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [f"checkpoints/{CHECKPOINT}", f"/elsewhere/{FINAL}", FINAL]
    found = document(capsys, *paths)["names"]
    assert [item["name"] for item in found] == paths
    assert [item["parsed"]["step"] for item in found] == [20001, 40000, 40000]


def test_the_fields_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["name", FINAL, CHECKPOINT]) == 0
    out, err = capsys.readouterr()
    first, second = ([" ".join(line.split()) for line in part.splitlines()] for part in out.split("\n\n"))
    assert first[0] == FINAL
    assert second[0] == CHECKPOINT
    assert "Final Kind of checkpoint: end of training" in first
    assert "L n_layers = 1 Number of transformer layers" in first
    assert "mlp use_mlp = false MLP enabled" in first
    assert "trainK train_min_k = 4, train_max_k = 4 Training length range" in first
    assert "iters 40000 Training iterations done" in first
    assert not any(line.startswith("qkn ") for line in first)  # an optional field that the name leaves out
    assert err == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("best.pt", "it should begin with Checkpoint or Final"),
        (FINAL.removesuffix(".pt"), "it does not end in .pt"),
        (FINAL.replace("_L1", "_Lx"), "stands where _L{int} should"),
        (FINAL.replace("_mlp0", ""), "stands where _mlp{0|1} should"),
        (FINAL.replace("40000", "040000"), "stands where _iters{step}.pt should"),
        ("", "it does not end in .pt"),
    ],
)
def test_a_name_outside_of_the_convention_gives_the_reason_and_status_1(
    capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    assert run(["name", name, FINAL]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(FINAL)  # the rest goes on
    assert "REFUSED" in err
    assert reason in err
    assert "Names have the form" in err
    found = document(capsys, name, FINAL, status=1)
    assert [item["name"] for item in found["names"]] == [FINAL]
    assert [(item["name"], item["code"]) for item in found["refused"]] == [(name, "unknown-name")]
    assert reason in found["refused"][0]["message"]
    assert document(capsys, FINAL)["refused"] == []  # the control


def test_hostile_names_are_spelled_out_and_exact_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "Final_[red]\x1b[31m\n\u202e" + os.fsdecode(b"\xff") + ".pt"
    assert run(["name", odd]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert "[red]" in err
    assert len(err.splitlines()) == 2
    assert document(capsys, odd, status=1)["refused"][0]["name"] == odd


# --- formatting -------------------------------------------------------------------------------------------------------


def test_without_options_the_name_is_the_published_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    name = formatted(capsys)
    (found,) = document(capsys, name)["names"]
    recipe = TrainConfig().to_dict()
    assert found["parsed"]["config"] == {key: recipe[key] for key in found["parsed"]["config"]}
    assert found["parsed"]["step"] == recipe["max_iters"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--layers", "1", "--no-mlp", "--k", "4", "--mode", "mix", "--fixed"], FINAL),
        (["--k", "4", "--fixed"], FINAL),
        (["--k", "4", "--fixed", "--step", "40000"], FINAL),
        (["--k", "4", "--fixed", "--final"], FINAL),
        (["--layers", "2", "--mlp", "--k", "12", "--mode", "curriculum", "--checkpoint"], CHECKPOINT),
        (["--layers", "2", "--mlp", "--k", "12", "--mode", "curriculum", "--step", "20001"], CHECKPOINT),
        (["--k", "4", "--fixed", "--no-layernorm"], FINAL.replace("ln1", "ln0")),
        (["--k", "4", "--fixed", "--step", "30000", "--final"], FINAL.replace("40000", "30000")),
        (["--k", "4", "--fixed", "--set", "max_iters=30000"], FINAL.replace("40000", "30000")),
        (["--k", "4", "--dynamic"], FINAL.replace("4to4", "2to4")),
        (["--k", "4", "--fixed", "--set", "vocab_n=256"], FINAL.replace("N128", "N256")),
        (["--k", "4", "--fixed", "--set", "allow_duplicates=true"], FINAL.replace("nodup1", "nodup0")),
        (["--k", "4", "--fixed", "--set", "norm_type=rmsnorm"], FINAL.replace("ln1_", "ln1_normrmsnorm_")),
        (["--k", "4", "--fixed", "--set", "train_k_choices=[2, 4]"], FINAL.replace("_tr", "_trainChoices2-4_tr")),
    ],
)  # fmt: skip
def test_a_configuration_gives_its_name(capsys: pytest.CaptureFixture[str], arguments: list[str], name: str) -> None:
    assert formatted(capsys, *arguments) == name
    assert document(capsys, "--format", *arguments)["names"] == document(capsys, name)["names"]


def test_several_k_give_several_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["name", "--format", "--k", "6,8", "--k", "10-14:4"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert [re.findall("trainK2to([0-9]+)_", name) for name in found] == [["6"], ["8"], ["10"], ["14"]]
    assert run(["name", "--format", "--k", "8"]) == 0
    assert capsys.readouterr().out.splitlines() == [found[1]]


def test_format_of_what_parse_says_is_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    names = list(built_in().name_examples)
    of_each = [("1", "2"), ("--mlp", "--no-mlp"), ("mix", "curriculum"), ("--fixed", "--dynamic"),
               ("--final", "--checkpoint")]  # fmt: skip
    every = list(itertools.product(*of_each))
    chosen = few(every)
    for layers, mlp, mode, fixed, step in chosen:
        names.append(formatted(capsys, "--layers", layers, mlp, "--mode", mode, fixed, step, "--k", "8"))
    assert len(set(names)) == len(chosen) + len(built_in().name_examples)
    assert {value for values in chosen for value in values} == {value for values in of_each for value in values}
    for name in names:
        (found,) = document(capsys, name)["names"]
        says = found["parsed"]
        settings = [f"--set={key}={json.dumps(value)}" for key, value in says["config"].items()]
        kind = "--final" if says["final"] else "--checkpoint"
        assert formatted(capsys, kind, "--step", str(says["step"]), *settings) == name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is no name to parse"),
        (["--format", FINAL], "--format takes no file names"),
        ([FINAL, "--k", "8"], "a name cannot be parsed and given a configuration at once"),
        ([FINAL, "--final"], "a name cannot be parsed and given a configuration at once"),
        (["--format", "--k", "1"], "train_min_k = 2 is above train_max_k = 1"),
        (["--format", "--mode", "mixed"], "length_mode = 'mixed' cannot be written as len{mix|curriculum}"),
        (["--format", "--layers", "0"], "--layers"),
        (["--format", "--set", "n_embd=-1"], "n_embd = -1 cannot be written as d{int}"),
        (["--format", "--step", "-1"], "--step"),
        (["--format", "--set", "norm_typ=none"], "did you mean 'norm_type'?"),
        (["--format", "--set", "norm_type=other"], "cannot be written as norm{none|layernorm|rmsnorm}"),
        (["--format", "--set", "use_mlp=maybe"], "cannot be written as mlp{0|1}"),
        (["--format", "--set", "max_iters=none"], "max_iters does not say at which step a Final is saved"),
        (["--format", "--set", "vocab_n"], "has no '='"),
        (["--format", "--set", "vocab_n=[1"], "vocab_n"),
        (["--format", "--set", "vocab_n=!!python/object:os.system x"], "vocab_n"),
    ],
)
def test_a_wrong_request_has_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert run(["name", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


# --- a lab's own convention -------------------------------------------------------------------------------------------


def test_a_new_field_needs_no_python(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["name", "--format", "--set", "dropout=0.1"]) == 2
    capsys.readouterr()
    (tmp_path / "ckptman.yaml").write_text(
        "name: {fields: {drop: {config: dropout, type: float, optional: true, after: mlp}}}\n"
    )
    name = formatted(capsys, "--k", "4", "--fixed", "--set", "dropout=0.1")
    assert name == FINAL.replace("_mlp0_", "_mlp0_drop0.1_")
    (found,) = document(capsys, name)["names"]
    assert found["parsed"]["config"]["dropout"] == 0.1


def test_it_imports_no_heavy_module() -> None:
    code = (
        "import sys\nfrom ckptman.cli.app import run\nstatus = run(['name', sys.argv[1]])\n"
        "heavy = {'torch', 'wandb', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'HEAVY {heavy}' if heavy else status)\n"
    )
    subprocess.run([sys.executable, "-c", code, FINAL], check=True, stdout=subprocess.DEVNULL)
    control = code.replace("import sys\n", "import sys, numpy\n", 1)
    assert subprocess.run([sys.executable, "-c", control, FINAL], check=False, capture_output=True).returncode == 1
