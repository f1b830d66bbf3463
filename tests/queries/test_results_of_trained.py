"""`results` of runs that were trained here is what ten lines of Python over `ls --json` say."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from ckptman.cli.app import run
from ckptman.ingestion import ingest

Capture = pytest.CaptureFixture[str]
METRIC = "gen/K17/token_acc"
"""So short a run sorts no list, but some of its positions."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, root = tmp_path_factory.mktemp("trained") / "out", tmp_path_factory.mktemp("trained") / "tree"
    for k, task, seed in ((4, 6, 1337), (4, 6, 2337), (6, 6, 1337), (6, 6, 2337), (6, 7, 1337)):
        assert run(["-q", "train", "--k", str(k), "--task", str(task), "--seed", str(seed), "--iters", "4",
                    "--batch-size", "4", "--lr", "0.01", "--set", "n_embd=8", "--threads", "1", "--wandb", "disabled",
                    "--out", str(out)]) == 0  # fmt: skip
    ingest(out, root, settle=0)
    return root


def by_hand(root: Path, capsys: Capture) -> dict[tuple[str, int], list[float]]:
    """By mode and K, the values of the runs."""
    capsys.readouterr()
    assert run(["ls", "--final", "--json", "--root", str(root)]) == 0
    found: dict[tuple[str, int], list[float]] = {}
    for row in json.loads(capsys.readouterr().out)["checkpoints"]:
        found.setdefault((row["config"]["length_mode"], row["k"]), []).append(row["metrics"][METRIC])
    return found


def test_the_labs_table(trained: Path, capsys: Capture) -> None:
    expected = by_hand(trained, capsys)
    assert run(["results", "--csv", "--metric", METRIC, "--root", str(trained)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(row["length_mode"], int(row["train_max_k"])): int(row["n_runs"]) for row in rows} == {
        key: len(values) for key, values in expected.items()
    }
    for row in rows:
        values = expected[row["length_mode"], int(row["train_max_k"])]
        assert float(row["mean_gen_em"]) == pytest.approx(fmean(values), abs=1e-12)
        assert float(row["std_gen_em"]) == pytest.approx(pstdev(values), abs=1e-12)
    assert len({row["mean_gen_em"] for row in rows}) == 3, "the control: they differ"


def test_the_smallest_k_that_reaches_a_value(trained: Path, capsys: Capture) -> None:
    expected = by_hand(trained, capsys)
    means = {key: fmean(values) for key, values in expected.items()}
    for least in sorted({*means.values(), 0.0, 1.0}):
        command = ["results", "--threshold", repr(least), "--metric", METRIC, "--format", "json"]
        assert run([*command, "--root", str(trained)]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        smallest = {
            mode: min((k for (of, k), mean in means.items() if of == mode and mean >= least), default=None)
            for mode, _ in means
        }
        found = {row["length_mode"]: next(v for name, v in row.items() if "smallest" in name) for row in rows}
        assert found == smallest
