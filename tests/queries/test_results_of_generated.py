"""`results` of a generated grid is what ten lines of Python over `ls --json` say."""

from __future__ import annotations

import csv
import io
import json
import random
from collections import defaultdict
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest

from ckptman.cli.app import run
from tests.helpers.raw import config, gen_metrics
from tests.helpers.recorded import add_run

Capture = pytest.CaptureFixture[str]
KEYS = ["n_layers", "use_mlp", "use_layernorm", "length_mode", "training", "train_max_k"]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every configuration of three K, of two or three seeds, each run with a value of its own or none."""
    root, chance = tmp_path_factory.mktemp("generated"), random.Random(1)
    grid = product((4, 8, 16), (1, 2), (True, False), (True, False), ("mix", "curriculum", "fixed"), (1337, 2337, 3337))
    for number, (k, layers, mlp, norm, mode, seed) in enumerate(grid):
        group = f"len_gen{'_single' if mode == 'fixed' else ''}{'' if norm else '_no_ln'}_k{k}"
        lengths = {"length_mode": "mix", "train_min_k": k} if mode == "fixed" else {"length_mode": mode}
        made = config(k, n_layers=layers, use_mlp=mlp, use_layernorm=norm, seed=seed, wandb_group=group, **lengths)
        if chance.random() < 0.9:
            value = min(1.0, k / 16 * chance.uniform(0.8, 1.1))
            metrics = gen_metrics(value) if chance.random() < 0.9 else {"train/loss": 1.0}
            add_run(root, made, run_id=f"{number:08d}", metrics=metrics, kinds=("Final",))
    return root


def by_hand(root: Path, capsys: Capture) -> dict[tuple[Any, ...], list[float]]:
    """By configuration, the values of the runs that have one."""
    capsys.readouterr()
    assert run(["ls", "--final", "--json", "--root", str(root)]) == 0
    found = defaultdict(list)
    for row in json.loads(capsys.readouterr().out)["checkpoints"]:
        said = row["config"]
        is_fixed = said["train_min_k"] == said["train_max_k"]
        mode, training = ("fixed", "fixed") if is_fixed else (said["length_mode"], "dynamic")
        key = (said["n_layers"], said["use_mlp"], said["use_layernorm"], mode, training, said["train_max_k"])
        found[tuple(map(str, key))].extend([row["gen_em"]] if row["gen_em"] is not None else [])
    return found


def table(root: Path, capsys: Capture, *arguments: str) -> list[dict[str, str]]:
    capsys.readouterr()
    assert run(["results", *arguments, "--root", str(root)]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def agrees(expected: dict[tuple[Any, ...], list[float]], rows: list[dict[str, str]]) -> bool:
    shown = {tuple(row[key] for key in KEYS): [row["mean_gen_em"], row["std_gen_em"], row["n_runs"]] for row in rows}
    known = {key: [fmean(values), pstdev(values), len(values)] if values else [None, None, 0]
             for key, values in expected.items()}  # fmt: skip
    return shown.keys() == known.keys() and all(
        [float(text) if text else None for text in shown[key]] == pytest.approx(values, abs=1e-12)
        for key, values in known.items()
    )


def test_the_labs_table(generated: Path, capsys: Capture) -> None:
    expected, rows = by_hand(generated, capsys), table(generated, capsys, "--csv")
    assert list(rows[0]) == [*KEYS, "mean_gen_em", "std_gen_em", "n_runs"]
    assert len(rows) == 72
    assert agrees(expected, rows)
    other = next(key for key, values in expected.items() if len(values) > 1)
    assert not agrees({**expected, other: expected[other][:-1]}, rows), "the control: a run less is another table"


@pytest.mark.parametrize("least", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_smallest_k_that_reaches_a_value(generated: Path, capsys: Capture, least: float) -> None:
    expected: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    for (*settings, k), values in by_hand(generated, capsys).items():
        expected[tuple(settings)] |= {int(k): fmean(values)} if values else {}
    smallest = {
        settings: str(min((k for k, mean in means.items() if mean >= least), default=""))
        for settings, means in expected.items()
    }
    shown = {}
    for row in table(generated, capsys, "--threshold", str(least), "--format", "csv"):
        mode = "fixed" if row["regime"] == "fixed" else row["length_mode"]
        shown[row["n_layers"], row["use_mlp"], row["layernorm"], mode, row["regime"]] = row[
            f"smallest K with mean ≥ {least:g}"
        ]
    assert shown == smallest
    assert least not in (0.25, 0.9) or len(set(smallest.values())) == 2, "the control: not all are alike"


def test_the_smallest_k_is_found_whatever_rows_are_grouped_by(generated: Path, capsys: Capture) -> None:
    tables = [table(generated, capsys, "--threshold", "0.5", "--format", "csv", "--by", by)
              for by in ("use_mlp", "use_mlp,k", "use_mlp,train_max_k")]  # fmt: skip
    assert tables[0] == tables[1] == tables[2]
    assert [row["K measured"] for row in tables[0]] == ["4 8 16"] * 2
    for least, is_told in (("95", True), ("0.95", False)):
        assert run(["results", "--threshold", least, "--root", str(generated)]) == 0
        assert ("95 % is --threshold 0.95" in capsys.readouterr().err) is is_told


def test_groups_come_by_their_numbers(generated: Path, capsys: Capture) -> None:
    groups = list(dict.fromkeys(row["group"] for row in table(generated, capsys, "--format", "csv")))
    assert [group for group in groups if group.startswith("len_gen_k")] == ["len_gen_k4", "len_gen_k8", "len_gen_k16"]
