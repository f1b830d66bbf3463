"""`validate` with a witness: what weights deny is found, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ckptman.checks.validation import validate
from ckptman.rules.recipe import TrainConfig
from ckptman.training import witnessing
from ckptman.training.loop import initial_model
from ckptman.tree.findings import Finding
from tests.helpers import trees
from tests.helpers.trees import TASK, make_tree, record_again, small_config

WIDE = 40
"""So that matrices are large enough to deny that they are of one run by what they have not in common."""
RUNS = {seed: small_config(n_layers=1, use_mlp=False, n_embd=WIDE, seed=seed) for seed in (1337, 2337, 3337)}
CHECKPOINT, FINAL = (name.replace("_d8_", f"_d{WIDE}_") for name in (trees.CHECKPOINT, trees.FINAL))


def put(file: Path, config: TrainConfig, *, seed: int | None = None, gain: float = 2) -> None:
    """Give a file weights that a seed drew, by default its run's, and that training has changed."""
    model = initial_model(config if seed is None else replace(config, seed=seed))
    with torch.no_grad():
        model.ln_f.weight.fill_(gain)  # type: ignore[operator]  # a layer norm
    torch.save(torch.load(file, weights_only=True) | {"model": model.state_dict()}, file)
    record_again(file.parent)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One task, three seeds, with weights that their seeds drew."""
    root = make_tree(tmp_path, RUNS.values())
    for seed, config in RUNS.items():
        for file in (CHECKPOINT, FINAL):
            put(root / TASK / f"seed_{seed}" / file, config)
    return root


def ask(files: Sequence[Path], seeds: Iterable[int]) -> Iterable[witnessing.Testimony]:
    return witnessing.witness(files, seeds=seeds).files


def found(root: Path) -> list[Finding]:
    """What the weights add to what is found without them."""
    return sorted(set(validate(root, witness=ask).findings) - set(validate(root).findings), key=lambda item: item.path)


def test_weights_that_their_seed_drew_are_no_finding(root: Path) -> None:
    assert found(root) == []


def test_a_seed_that_all_files_deny_is_one_finding(root: Path) -> None:
    for file in (CHECKPOINT, FINAL):
        put(root / TASK / "seed_2337" / file, RUNS[2337], seed=3337)
    (item,) = found(root)
    assert (item.code, item.path) == ("disproved-seed", f"{TASK}/seed_2337")
    assert item.message.startswith("it says seed 2337, but seed 3337 drew its weights")


def test_a_file_of_another_run_is_named_and_its_neighbour_is_not(root: Path) -> None:
    put(root / TASK / "seed_2337" / FINAL, RUNS[2337], seed=1337)
    (item,) = found(root)
    assert (item.code, item.path) == ("other-run", f"{TASK}/seed_2337/{FINAL}")
    assert item.message == "seed 1337 drew its weights, but the run has seed 2337"


def test_an_average_of_runs_and_seeds_of_the_same_bits(root: Path) -> None:
    file = root / TASK / "seed_2337" / FINAL
    models = [initial_model(RUNS[seed]).state_dict() for seed in (1337, 2337)]
    mixed = {name: (weight + models[1][name]) / 2 for name, weight in models[0].items()}
    mixed["transformer.ln_f.weight"] = torch.full((WIDE,), 2.0)
    torch.save(torch.load(file, weights_only=True) | {"model": mixed}, file)
    record_again(file.parent)
    (item,) = found(root)
    assert (item.code, item.path) == ("other-run", f"{TASK}/seed_2337/{FINAL}")
    assert item.message == "seeds 1337 and 2337 have a part in its weights: it is an average of runs"
    put(file, RUNS[2337], seed=2337 + 2**32)  # which draws what 2337 draws
    assert found(root) == []


def test_a_file_of_another_run_is_known_though_its_seed_is_not(root: Path) -> None:
    put(root / TASK / "seed_2337" / FINAL, RUNS[2337], seed=99)
    (item,) = found(root)
    assert (item.code, item.path) == ("other-run", f"{TASK}/seed_2337/{FINAL}")
    assert item.message == f"its weights are of another run than those of {CHECKPOINT}"


@pytest.mark.parametrize(("gain", "code"), [(math.nan, "broken-weights"), (1, "untrained-weights")])
def test_weights_that_are_no_result_of_training_are_found(root: Path, gain: float, code: str) -> None:
    put(root / TASK / "seed_2337" / FINAL, RUNS[2337], gain=gain)
    (item,) = found(root)
    assert (item.code, item.path) == (code, f"{TASK}/seed_2337/{FINAL}")


def test_the_command_asks_the_weights_where_it_is_told_to(
    root: Path, run_command: Callable[..., tuple[int, str]]
) -> None:
    put(root / TASK / "seed_2337" / FINAL, RUNS[2337], seed=1337)
    assert "other-run" not in run_command("validate", "--root", root)[1]
    status, out = run_command("validate", "--root", root, "--witness", "--select", "other-run")
    assert "headers and weights read; --deep reads every byte" in " ".join(out.split())
    assert status == 1
    assert "seed 1337 drew its weights" in out


@pytest.fixture
def run_command(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    from ckptman.cli.app import run

    def call(*arguments: str | Path) -> tuple[int, str]:
        status = run(list(map(str, arguments)))
        return status, capfd.readouterr().out

    return call
