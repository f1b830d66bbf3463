"""Every command of the guides does what it says, in their order, in a folder where a reader could stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run
from tests.helpers.raw import START, config, gen_metrics, write_run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = ("inheriting.md", "finding.md", "training.md", "grid_on_a_cluster.md")


def commands(guide: str) -> list[list[str]]:
    """The ckptman commands in the console blocks of a guide."""
    blocks = re.findall(r"^```console\n(.*?)^```$", (DOCS / guide).read_text(), flags=re.M | re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line)[1:] for line in lines if line.startswith("ckptman ")]


def expanded(words: list[str]) -> list[str]:
    """Words with paths of `*` filled in, as a shell does."""
    return [path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guides_commands_work(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, seed in enumerate(() if guide == "training.md" else (2337, 1337)):  # the later one is left
        for group, mlp in ((6, False), (4, True)):
            folder = tmp_path / "grid_outputs" / "len_gen_k8" / f"task_{group:04d}"
            started, run_id = START + number * 1_000, f"run{group}{seed}"
            values = config(seed=seed, use_mlp=mlp)
            write_run(folder, values, run_id=run_id, started=started, metrics=gen_metrics(0.9))
    if guide == "finding.md":
        assert run(["ingest", "grid_outputs", "--root", "checkpoints"]) == 0
    found = commands(guide)
    assert len(found) > 8
    for words in found:
        if "slurm" in words and "--dry-run" not in words:
            words.append("--dry-run")  # the tests of sweeps submit to a cluster
        capsys.readouterr()
        status = run(expanded(words))
        said = capsys.readouterr()
        assert status in (0, 1), f"{words}: {said.err}"
        assert "ERROR" not in said.err, words
        assert said.out, words


def test_an_example_that_is_wrong_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["ls", "--layer", "1"]) == 2


# --- what a shell runs ------------------------------------------------------------------------------------------------


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of a document that are in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), flags=re.M | re.S)


def in_shell(script: str, here: Path) -> str:
    """What a script prints in a shell, on a terminal of 80 columns, where every line of it succeeds."""
    done = subprocess.run(
        ["bash", "-euc", script], cwd=here, capture_output=True, text=True, check=False,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "COLUMNS": "80", "HOME": str(here),
             "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "CKPTMAN_CACHE": "off"},
    )  # fmt: skip
    assert done.returncode == 0, f"{script}: {done.stderr}"
    return done.stdout + done.stderr


def some_runs(place: Path) -> None:
    for number, seed in enumerate((1337, 2337)):
        write_run(place / f"seed_{seed}", config(seed=seed), run_id=f"run{seed}", started=START + number * 1_000)


def test_the_commands_for_an_experiment_of_ones_own(tmp_path: Path) -> None:
    some_runs(tmp_path / "outputs" / "len_gen_k8" / "task_0006")
    learn, rest = blocks(DOCS / "your_own_experiment.md", "bash")
    assert "placed in the tree (4 of 4)" in in_shell(learn, tmp_path)
    assert "placed 4 checkpoints of 2 runs" in in_shell(rest, tmp_path)
    assert "4 checkpoints, 2 runs" in in_shell("ckptman ls", tmp_path)


def test_the_plan_of_a_cluster_is_as_shown(tmp_path: Path) -> None:
    text = blocks(DOCS / "grid_on_a_cluster.md", "console")[1]
    command, *shown = text.splitlines()
    printed = in_shell(command.removeprefix("$ "), tmp_path).splitlines()
    assert len(shown) > 3
    assert [line for line in shown if line != "…" and line not in printed] == []


def test_the_code_for_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    some_runs(tmp_path / "grid_outputs" / "len_gen_k8" / "task_0006")
    assert run(["ingest", "grid_outputs"]) == 0
    path = str(next(tmp_path.glob("checkpoints/**/Final_*.pt")).relative_to(tmp_path))
    code = "".join(blocks(DOCS / "finding.md", "python") + blocks(ROOT / "README.md", "python"))
    for shown in ("checkpoints/with_layernorm/…/Final_….pt", "anything.pt"):
        assert shown in code
        code = code.replace(shown, path)
    names: dict[str, Any] = {"path": path}
    exec(code, names)
    assert len(names["weights"]) > 5
    assert not names["result"].placed
    assert {error.code for error in names["errors"]} == {"missing-seed", "missing-task"}


@pytest.mark.slow
def test_the_two_commands_and_the_picture_of_the_readme(tmp_path: Path) -> None:
    (picture,) = blocks(DOCS / "training.md", "sh")
    assert picture.startswith('RECIPE="--iters 400 --batch-size 128 ')
    less = picture.replace("--iters 400 --batch-size 128", "--iters 4 --batch-size 8 --warmup-iters 1", 1)
    less = (
        less.replace("--k 4-16:4", "--k 8")
        .replace("--warmup-iters 30 ", "")
        .replace("--curriculum-span 200", "--curriculum-span 2")
    )
    printed = in_shell(less, tmp_path)
    assert "placed 9 checkpoints of 9 runs" in printed
    assert (tmp_path / "checkpoints" / "report" / "generalization-with_layernorm.svg").exists()
    (two,) = (block for block in blocks(ROOT / "README.md", "sh") if "ckptman ingest" in block)
    printed = in_shell(two.replace("/scratch/me/grid_outputs", "grid_outputs"), tmp_path)
    assert "nothing to place" in printed
    assert "explorer.html" in printed


def test_a_line_that_fails_would_be_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No such option"):
        in_shell("ckptman ls --layer 1\nckptman task", tmp_path)
