"""Outputs as other labs have them: nanoGPT, Lightning and the Trainer of transformers, in their formats by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch


def nanogpt(out: Path) -> None:
    """Two runs, each with one `ckpt.pt`."""
    for number, rate in enumerate((1e-3, 6e-4), start=1):
        config = {"out_dir": f"out-lr{rate}", "eval_interval": 250, "max_iters": 500, "learning_rate": rate,
                  "n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 16, "dataset": "shakespeare_char",
                  "batch_size": 12, "dtype": "float32", "compile": False}  # fmt: skip
        shape = {key: config[key] for key in ("n_layer", "n_head", "n_embd", "block_size")} | {"vocab_size": 65}
        weights = {"transformer.wte.weight": torch.full((65, 8), rate), "lm_head.weight": torch.full((65, 8), rate)}
        file = out / f"out-lr{rate}" / "ckpt.pt"
        file.parent.mkdir(parents=True)
        torch.save({"model": weights, "optimizer": {"state": {}, "param_groups": []}, "model_args": shape,
                    "iter_num": 250 * number, "best_val_loss": torch.tensor(1.5), "config": config}, file)  # fmt: skip


def lightning(out: Path) -> None:
    """Two versions of one experiment, with two checkpoints each and the newest once more as `last.ckpt`."""
    for version in (0, 1):
        folder = out / "mnist" / f"version_{version}"
        (folder / "checkpoints").mkdir(parents=True)
        hparams = {"batch_size": 32 * (version + 1), "learning_rate": 0.001, "seed": version}
        (folder / "hparams.yaml").write_text("".join(f"{key}: {value}\n" for key, value in hparams.items()))
        (folder / "metrics.csv").write_text("epoch,step,train_loss,val_loss\n0,10,1.0,\n0,10,,0.9\n1,20,,0.6\n")
        for epoch, step in ((0, 10), (1, 20)):
            content = {"epoch": epoch, "global_step": step, "pytorch-lightning_version": "2.4.0",
                       "state_dict": {"layer.weight": torch.full((4, 4), float(step + version))}, "loops": {},
                       "optimizer_states": [], "lr_schedulers": [], "hyper_parameters": hparams}  # fmt: skip
            torch.save(content, folder / "checkpoints" / f"epoch={epoch}-step={step}.ckpt")
        shutil.copy(folder / "checkpoints" / "epoch=1-step=20.ckpt", folder / "checkpoints" / "last.ckpt")


def trainer(out: Path) -> None:
    """Two runs with two checkpoint folders each."""
    for run in ("bert-lr1e-4", "bert-lr3e-4"):
        for step in (500, 1000):
            folder = out / run / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            weights = {"bert.embeddings.weight": torch.full((8, 4), float(step))}
            safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 4, "run": run}))
            log = [{"step": step // 2, "loss": 1.0}, {"step": step, "eval_loss": 0.8}]
            state: dict[str, Any] = {"global_step": step, "max_steps": 1000, "log_history": log}
            (folder / "trainer_state.json").write_text(json.dumps(state))
            torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")


OUTPUTS: Mapping[str, Callable[[Path], None]] = {"nanogpt": nanogpt, "lightning": lightning, "hf-trainer": trainer}
"""By the shipped convention that describes them."""
