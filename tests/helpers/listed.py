"""A tree of runs that differ in everything that they can be chosen by."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.raw import config, gen_metrics
from tests.helpers.trees import edit_record, make_tree

K8 = "with_layernorm/dynamic/len_gen_k8"
BEST = f"{K8}/task_0006/seed_1337"
SECOND = f"{K8}/task_0006/seed_2337"
LARGE = f"{K8}/task_0001/seed_1337"
FIXED = "with_layernorm/fixed/len_gen_single_k4/task_0003/seed_1337"
NO_LN = "without_layernorm/dynamic/len_gen_no_ln_k12/task_0007/seed_3337"
RUNS = {BEST: 0.98, SECOND: 0.95, LARGE: 0.6, FIXED: 0.97, NO_LN: None}
"""The runs of the tree and their generalization."""


def make_listed_tree(folder: Path) -> Path:
    """A tree of runs that differ in everything that they can be chosen by."""
    root = make_tree(
        folder,
        [
            config(8),
            config(8, seed=2337),
            config(8, n_layers=2, use_mlp=True, length_mode="curriculum"),
            config(4, train_min_k=4, wandb_group="len_gen_single_k4"),
            config(12, use_layernorm=False, length_mode="curriculum", seed=3337, wandb_group="len_gen_no_ln_k12"),
        ],
    )
    for index, (run, value) in enumerate(RUNS.items()):
        metrics = {"lr": "NaN", "train/loss": 0.1} if value is None else gen_metrics(value) | {"train/loss": 1.5}
        edit_record(root / run, metrics=metrics, run_id=f"run{index}")
    return root
