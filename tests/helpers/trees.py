"""Trees for tests: a good one, made once, and ways to plant a fault in a copy of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ckptman.ingestion.ingesting import ingest
from ckptman.rules.recipe import TrainConfig
from ckptman.rules.terms import Convention
from tests.helpers.raw import START, config, write_run

RULES = """\
title: two small groups
groups:
  "len_gen_no_ln_k{K}": null
  "len_gen_single_no_ln_k{K}": null
grids:
  main:
    k: [4]
    seeds: [1337, 2337]
"""
"""The ckptman.yaml of the good tree: a grid of two groups and two seeds, all of which it has."""

FIXED = "with_layernorm/fixed/len_gen_single_k4"
DYNAMIC = "with_layernorm/dynamic/len_gen_k4"
TASK = f"{FIXED}/task_0003"
RUN = f"{TASK}/seed_1337"
"""One layer, no MLP, trained on K = 4."""
DYNAMIC_RUN = f"{DYNAMIC}/task_0006/seed_1337"
"""One layer, no MLP, trained on K = 2..4, mix."""
RUNS = 24
CHECKPOINTS = 48

FINAL = "Final_N128_d8_H1_L1_npos1_mlp0_ln1_lenmix_trainK4to4_testK17to32_nodup1_iters40000.pt"
CHECKPOINT = "Checkpoint_N128_d8_H1_L1_npos1_mlp0_ln1_lenmix_trainK4to4_testK17to32_nodup1_iters20001.pt"


def small_config(**values: Any) -> TrainConfig:
    """The configuration of `RUN`, but for `values`."""
    group = "len_gen_single_k4" if values.get("train_min_k", 4) == 4 else "len_gen_k4"
    return config(4, **{"train_min_k": 4, "wandb_group": group, **values})


def write_source(source: Path, configs: Iterable[TrainConfig]) -> Path:
    """Raw outputs of these runs, each with a folder of its own, so that nothing is overwritten."""
    for index, item in enumerate(configs):
        write_run(
            source / str(item.wandb_group) / "task_0000",
            item,
            run_id=f"run{index:05d}",
            started=START + 1000 * index,
            saved_models=f"saved_models/{index}",
        )
    return source


def make_tree(folder: Path, configs: Iterable[TrainConfig], convention: Convention | None = None) -> Path:
    """A tree of these runs, sorted by `ingest`."""
    root = folder / "checkpoints"
    ingest(write_source(folder / "grid_outputs", configs), root, convention=convention, settle=0)
    return root


def good_configs(k: int = 4) -> list[TrainConfig]:
    """Every run of the groups of `RULES` for one K."""
    return [
        config(k, n_layers=layers, use_mlp=mlp, seed=seed, train_min_k=low, length_mode=mode,
               wandb_group=f"len_gen_single_k{k}" if low == k else f"len_gen_k{k}")
        for layers in (2, 1)
        for mlp in (True, False)
        for low, mode in ((k, "mix"), (2, "mix"), (2, "curriculum"))
        for seed in (1337, 2337)
    ]  # fmt: skip


def make_good_tree(folder: Path) -> Path:
    """The good tree: every run of `RULES`."""
    root = make_tree(folder, good_configs())
    (root / "ckptman.yaml").write_text(RULES)
    return root


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Let `change` work on the document in a JSON file, which has no digest then: it is meant."""
    document = json.loads(file.read_bytes())
    document.pop("digest", None)
    change(document)
    file.write_text(json.dumps(document))


def edit_record(run: Path, **values: Any) -> None:
    """Set top-level values in a run.json; those of `config` one by one."""

    def change(document: dict[str, Any]) -> None:
        document["config"] |= values.pop("config", {})
        document.update(values)

    edit_json(run / "run.json", change)


def edit_entry(run: Path, file: str, /, **values: Any) -> None:
    """Set values in what run.json says of one checkpoint."""
    edit_json(run / "run.json", lambda doc: next(e for e in doc["checkpoints"] if e["file"] == file).update(values))


def record_again(run: Path) -> None:
    """Bring the sizes and hashes in run.json up to date with the files, as if they had been ingested as they are."""
    for entry in json.loads((run / "run.json").read_bytes())["checkpoints"]:
        data = (run / entry["file"]).read_bytes()
        edit_entry(run, entry["file"], size=len(data), sha256=hashlib.sha256(data).hexdigest())


def rename(run: Path, old: str, new: str, **entry: Any) -> Path:
    """Rename a checkpoint, in run.json too, where `entry` is changed as well."""
    edit_entry(run, old, file=new, **entry)
    return (run / old).rename(run / new)


def drop(run: Path, file: str) -> None:
    """Delete a checkpoint, and its entry in run.json."""
    (run / file).unlink()
    edit_json(
        run / "run.json", lambda doc: doc.update(checkpoints=[e for e in doc["checkpoints"] if e["file"] != file])
    )


def copy(tree: Path, to: Path) -> Path:
    """A copy of a tree to plant a fault in."""
    return Path(shutil.copytree(tree, to / "checkpoints", symlinks=True))
