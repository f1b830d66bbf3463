"""Every command of the guides does what it says, in their order, in a folder where a reader could stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import ckptman.cli.commands  # noqa: F401  # registers the commands
from ckptman.cli.app import run
from tests.helpers.raw import START, config, gen_metrics, write_run

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = ("inheriting.md", "finding.md", "training.md")


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
        capsys.readouterr()
        status = run(expanded(words))
        said = capsys.readouterr()
        assert status in (0, 1), f"{words}: {said.err}"
        assert "ERROR" not in said.err, words
        assert said.out, words


def test_an_example_that_is_wrong_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["ls", "--layer", "1"]) == 2
