"""`learn` and what follows it, on what the programs of others leave: DeepSpeed, Megatron-LM, fairseq, accelerate …"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckptman.checks import validate
from ckptman.ingestion import IngestResult, ingest, learning
from ckptman.rules import convention_file


def weights(number: float) -> dict[str, torch.Tensor]:
    """Of one layer, others for each number."""
    return {"fc.weight": torch.full((4, 4), float(number)), "fc.bias": torch.full((4,), number + 0.5)}


def save(path: Path, document: Any) -> None:
    """Write a file as its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(document))
    elif path.suffix == ".safetensors":
        save_file(document, path)
    else:
        torch.save(document, path)


def sorted_by_proposal(out: Path, tree: Path) -> tuple[learning.Learnt, IngestResult]:
    """What is proposed for outputs, and what an ingest that follows it does; the proposal lies in the tree then."""
    found = learning.learn(out)
    result = ingest(out, tree, convention=convention_file.convention_of(found.text, "the proposal"), settle=0)
    (tree / "ckptman.yaml").write_text(found.text)
    return found, result


def runs_of(tree: Path) -> dict[str, dict[str, Any]]:
    """Each run.json, by its folder."""
    return {str(path.parent.relative_to(tree)): json.loads(path.read_text()) for path in tree.rglob("run.json")}


def steps_of(record: Mapping[str, Any]) -> dict[str, int | None]:
    """The step of each file of a run."""
    return {entry["file"]: entry["step"] for entry in record["checkpoints"]}


def test_names_that_count_epochs_beside_steps_are_of_the_run_of_these(tmp_path: Path) -> None:
    for number, run in enumerate(("bert_a", "bert_b")):
        for at, name in enumerate(("step_3", "step_6", "epoch_0", "step_9", "step_12", "epoch_1")):
            save(tmp_path / "out" / run / name / "model.safetensors", weights(10 * number + at))
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    runs = runs_of(tmp_path / "tree")
    assert {run: len(record["checkpoints"]) for run, record in runs.items()} == {
        "bert_a/seed_unknown": 6, "bert_b/seed_unknown": 6,
    }  # fmt: skip
    assert steps_of(runs["bert_a/seed_unknown"]) == {
        "step_3.pt": 3, "step_6.pt": 6, "step_9.pt": 9, "step_12.pt": 12, "epoch_0.pt": None, "epoch_1.pt": None,
    }  # fmt: skip


def test_epochs_of_one_run_and_steps_of_another_are_the_steps_of_both(tmp_path: Path) -> None:
    for number, run in enumerate(("epoch_1", "epoch_2", "step_30", "step_60")):
        save(tmp_path / "out" / f"by_{run[:4]}" / run / "model.safetensors", weights(number))
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    assert sorted(step or -1 for record in runs_of(tmp_path / "tree").values() for step in steps_of(record).values()) \
        == [1, 2, 30, 60]  # fmt: skip


@pytest.mark.parametrize("says_seed", [True, False])
def test_seeds_that_only_folders_say_are_those_of_the_configurations_beside(tmp_path: Path, says_seed: bool) -> None:
    word = "seed" if says_seed else "trial"
    for lr in (0.1, 0.01):
        for seed in (1, 2):
            run = tmp_path / "out" / f"mlp_lr{lr}_{word}{seed}"
            save(run / "config.json", {"lr": lr, "hidden": 8})
            save(run / "model.pt", weights(100 * lr + seed))
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    runs = runs_of(tmp_path / "tree")
    assert {record["seed"] for record in runs.values()} == ({1, 2} if says_seed else {None})
    if says_seed:
        assert runs.keys() == {f"mlp_lr{lr}/seed_{seed}" for lr in (0.1, 0.01) for seed in (1, 2)}
        assert {(record["config"]["lr"], record["config"]["hidden"]) for record in runs.values()} == {
            (0.1, 8), (0.01, 8),
        }  # fmt: skip
        assert validate(tmp_path / "tree").findings == ()


def test_a_name_that_two_runs_have_is_no_odd_one(tmp_path: Path) -> None:
    for number, run in enumerate(("puffy-daks", "wonky-kiss")):
        save(tmp_path / "out" / run / "model.pt", weights(number))
    found, result = sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    assert (found.parsed, found.placed, len(result.placed)) == (2, 2, 2)


@pytest.mark.parametrize("has_config", [True, False])
def test_learn_tells_of_the_parts_that_files_have(tmp_path: Path, has_config: bool) -> None:
    for step in (100, 200):
        said = {"hparams": {"lr": 0.1}} if has_config else {}
        save(tmp_path / f"state_step{step}.pt", {"net": weights(step), "step": step, **said})
    form = next(line for line in learning.learn(tmp_path).findings if line.startswith("form "))
    assert form == f"form learnt: weights under net,{' configuration under hparams,' * has_config} step under step"


@pytest.mark.parametrize("seed", ["", "_seed1"])
def test_tables_have_no_column_of_what_no_ingest_knows(tmp_path: Path, seed: str) -> None:
    for lr in (0.1, 0.01):
        save(tmp_path / "out" / f"ddpm_lr{lr}{seed}" / "model.pt", weights(lr))
    found, _ = sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    told = {record["config"].get("lr") for record in runs_of(tmp_path / "tree").values()}
    assert told == ({None} if not seed else {0.1, 0.01})
    assert ("summary: {lr: lr}" if seed else "summary: {}") in found.text


@pytest.mark.parametrize("at", [2, 3])
def test_the_best_and_the_newest_checkpoint_of_a_run_are_no_copies(tmp_path: Path, at: int) -> None:
    run = tmp_path / "out" / "run"
    for epoch in (1, 2, 3):
        save(run / f"checkpoint{epoch}.pt", {"model": weights(epoch), "cfg": {"seed": 1}})
    shutil.copy(run / f"checkpoint{at}.pt", run / "checkpoint_best.pt")
    shutil.copy(run / "checkpoint3.pt", run / "checkpoint_last.pt")
    _, result = sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    assert len(result.placed) == 5
    assert [item.code for item in validate(tmp_path / "tree").findings if item.code == "duplicate"] == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_a_configuration_says_of_one_checkpoint_does_not_tell_runs_apart(tmp_path: Path, ranks: int) -> None:
    for lr in (0.001, 0.0003):
        for step in (1000, 2000):
            for rank in range(ranks):
                args = {"lr": lr, "seed": 1, "train_iters": 2000, "iteration": step, "consumed_train_samples": 8 * step}
                path = (
                    tmp_path / "out" / f"gpt_lr{lr}" / f"iter_{step:07d}" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
                )
                document = {"args": {**args, "rank": rank}, "iteration": step, "model": weights(lr * step + rank)}
                save(path, document)
    found, _ = sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    own = "consumed_train_samples, iteration" + (", rank" if ranks > 1 else "")
    assert f"keys that are of one checkpoint, not of its run: {own}" in found.findings
    runs = runs_of(tmp_path / "tree")
    assert {run: len(record["checkpoints"]) for run, record in runs.items()} == {
        f"gpt_lr{lr}/seed_1": 2 * ranks for lr in (0.001, 0.0003)
    }
    assert validate(tmp_path / "tree").findings == ()


@pytest.mark.parametrize("key", ["epoch", "lr", "rank"])
def test_what_may_tell_runs_apart_is_not_taken_for_what_is_of_one_checkpoint(tmp_path: Path, key: str) -> None:
    for at in (1, 2):
        config = {"seed": 1, "epoch": 10, "lr": 0.1, "rank": 4}
        save(
            tmp_path / "out" / f"net_{10 * at}.pt",
            {"model": weights(at), "config": {**config, key: 10 * at}, "step": 10 * at},
        )
    assert "attribution" not in learning.learn(tmp_path / "out").text


def test_the_folder_of_the_end_is_of_the_run_whose_steps_have_folders(tmp_path: Path) -> None:
    for run in ("one", "two"):
        for step, folder in ((4000, "step-00001000"), (8000, "step-00002000"), (9000, "final")):
            home = tmp_path / "out" / run / folder
            save(home / "lit_model.pth", {"model": weights(step + len(run)), "iter_num": step})
            save(home / "hyperparameters.json", {"seed": 42, "data": run})
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    assert {
        run: sorted((entry["file"], entry["kind"], entry["step"]) for entry in record["checkpoints"])
        for run, record in runs_of(tmp_path / "tree").items()
    } == {
        f"{run}/seed_42": [
            ("final_lit_model.pth", "Final", 9000),
            ("step-00001000_lit_model.pth", "Checkpoint", 4000),
            ("step-00002000_lit_model.pth", "Checkpoint", 8000),
        ]
        for run in ("one", "two")
    }  # fmt: skip


def test_folders_of_steps_are_found_beside_what_training_leaves_at_its_end(tmp_path: Path) -> None:
    for number, run in enumerate(("pokemon", "naruto")):
        for part in ("unet", "vae", "text_encoder", "safety_checker"):
            save(tmp_path / "out" / run / part / "config.json", {"model_type": part})
            save(tmp_path / "out" / run / part / "model.safetensors", weights(number + len(part)))
        for step in (500, 1000):
            save(tmp_path / "out" / run / f"checkpoint-{step}" / "unet" / "config.json", {"model_type": "unet"})
            save(tmp_path / "out" / run / f"checkpoint-{step}" / "unet" / "model.safetensors", weights(number + step))
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    runs = runs_of(tmp_path / "tree")
    assert {record["group"] for record in runs.values()} == {"pokemon", "naruto"}
    steps = {name: step for record in runs.values() for name, step in steps_of(record).items() if step is not None}
    assert steps == {"checkpoint-500_unet.pt": 500, "checkpoint-1000_unet.pt": 1000}


def test_what_lies_in_a_runs_folder_is_of_the_files_in_the_folder_that_every_run_has(tmp_path: Path) -> None:
    for number, run in enumerate(("puffy-daks", "wonky-kiss")):
        save(tmp_path / "out" / run / "models" / "model.pt", weights(number))
        save(tmp_path / "out" / run / "params.json", {"train": {"lr": 0.1, "seed": number}})
        (tmp_path / "out" / run / "dvc.yaml").write_text("stages: {train: {cmd: python train.py}}\n")
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    assert {run: record["config"] for run, record in runs_of(tmp_path / "tree").items()} == {
        "puffy-daks/seed_0": {"train": {"lr": 0.1, "seed": 0}}, "wonky-kiss/seed_1": {"train": {"lr": 0.1, "seed": 1}},
    }  # fmt: skip


def test_a_seed_folder_that_all_runs_have_is_no_folder_for_their_files(tmp_path: Path) -> None:
    for number, run in enumerate(("lr0.1", "lr0.01")):
        save(tmp_path / "out" / run / "seed_7" / "model.pt", weights(number))
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    assert {record["seed"] for record in runs_of(tmp_path / "tree").values()} == {7}


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_runs_of_one_configuration_whose_folders_say_their_seeds_are_one_group(tmp_path: Path, where: str) -> None:
    for seed in (1, 2, 3):
        run = tmp_path / "out" / f"bert_seed{seed}"
        config = {"config": {"lr": 0.1, "hidden": 8}} if where == "inside" else {}
        save(run / "model.pt", {"model": weights(seed), **config})
        if where == "beside":
            save(run / "config.json", {"lr": 0.1, "hidden": 8})
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    assert {run: record["seed"] for run, record in runs_of(tmp_path / "tree").items()} == {
        "bert/seed_1": 1, "bert/seed_2": 2, "bert/seed_3": 3,
    }  # fmt: skip
    assert validate(tmp_path / "tree").findings == ()


def test_the_folder_of_one_run_may_be_the_source(tmp_path: Path) -> None:
    for step in (1000, 2000):
        args = {"lr": 0.1, "seed": 1, "train_iters": 2000, "iteration": step}
        path = tmp_path / "gpt" / f"iter_{step:07d}" / "mp_rank_00" / "model_optim_rng.pt"
        save(path, {"args": args, "iteration": step, "model": weights(step)})
    sorted_by_proposal(tmp_path / "gpt", tmp_path / "tree")
    assert {run: len(record["checkpoints"]) for run, record in runs_of(tmp_path / "tree").items()} == {"gpt/seed_1": 2}
    assert validate(tmp_path / "tree").findings == ()


def test_the_one_name_that_is_there_is_no_odd_one(tmp_path: Path) -> None:
    save(tmp_path / "out" / "thing.v2.old.pt", weights(1))
    _, result = sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    assert len(result.placed) == 1


@pytest.mark.parametrize("name", ["best_acc_epoch_2", "odd thing 2"])
def test_a_single_name_is_read_where_it_says_its_kind_and_its_step(tmp_path: Path, name: str) -> None:
    for epoch in (1, 2, 3):
        save(tmp_path / "out" / f"epoch_{epoch}.pt", {"state_dict": weights(epoch), "meta": {"epoch": epoch}})
    save(tmp_path / "out" / f"{name}.pt", {"state_dict": weights(9), "meta": {"epoch": 2}})
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    (record,) = runs_of(tmp_path / "tree").values()
    kinds = {entry["file"]: (entry["kind"], entry["step"]) for entry in record["checkpoints"]}
    assert kinds.get("best_acc_epoch_2.pt") == (("Best", 2) if name.startswith("best") else None)
    assert len(kinds) == (4 if name.startswith("best") else 3)


def test_seeds_in_names_of_files_are_those_of_configurations_without_one(tmp_path: Path) -> None:
    for seed in (1, 2):
        for step in (100, 200):
            document = {"model": weights(seed + step), "config": {"lr": 0.1}, "step": step}
            save(tmp_path / "out" / f"net_seed{seed}_step{step}.pt", document)
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    assert {run: len(record["checkpoints"]) for run, record in runs_of(tmp_path / "tree").items()} == {
        "out/seed_1": 2, "out/seed_2": 2,
    }  # fmt: skip


@pytest.mark.parametrize("lr", [0.0, 0.1])
def test_runs_that_differ_in_more_than_the_seed_of_their_names_are_no_group(tmp_path: Path, lr: float) -> None:
    for seed in (1, 2, 3):
        config = {"lr": 0.1 + lr * seed, "seed": seed, "save_dir": f"run-seed{seed}"}
        save(tmp_path / "out" / f"run-seed{seed}" / "model.pt", {"model": weights(seed), "config": config})
    sorted_by_proposal(tmp_path / "out", tmp_path / "tree")
    groups = {record["group"] for record in runs_of(tmp_path / "tree").values()}
    assert groups == ({"run-seed1", "run-seed2", "run-seed3"} if lr else {"run"})
