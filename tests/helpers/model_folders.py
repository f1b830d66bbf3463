"""Checkpoints that are folders, as other programs write them."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ckptman.rules.recipe import TrainConfig
from ckptman.training.model import GPT, GPTConfig
from tests.helpers.raw import config

CONFIG = config(n_layers=1, use_mlp=False)
OLD = 1_700_000_000
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def weights_of(of: TrainConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(of.seed)
    return {name: tensor.clone() for name, tensor in GPT(GPTConfig.from_train_config(of)).state_dict().items()}


def trainer(folder: Path, of: TrainConfig = CONFIG, step: int = 40000, *, sharded: bool = True) -> Path:
    """A folder as the Trainer of transformers writes it, with a small optimizer's state."""
    folder.mkdir(parents=True)
    weights = weights_of(of)
    if sharded:
        where = {name: SHARDS[index % 2] for index, name in enumerate(weights)}
        for shard in SHARDS:
            save_file({name: weights[name] for name in weights if where[name] == shard}, folder / shard)
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(of.to_dict()))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")
    return aged(folder)


def distributed(folder: Path, of: TrainConfig = CONFIG, **more: Any) -> Path:
    with warnings.catch_warnings(action="ignore"):  # that it is done by a single process
        content = {"model": weights_of(of), "train_config": of.to_dict(), "iters_done": 40000} | more
        save_distributed(content, checkpoint_id=folder)
    return aged(folder)


def aged(folder: Path) -> Path:
    for path in folder.iterdir():
        os.utime(path, (OLD, OLD))
    return folder
