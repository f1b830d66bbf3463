"""Raw outputs for tests: small runs as training leaves them, by the facts of the published format."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from ckptman.rules.convention_file import built_in
from ckptman.rules.naming import naming_of
from ckptman.rules.recipe import TrainConfig
from ckptman.training.model import GPT, GPTConfig

START = 1_773_169_407.0
"""Epoch second at which the first run of a test starts."""


def config(k: int = 8, **values: Any) -> TrainConfig:
    """A small configuration: 8 wide, otherwise the published recipe."""
    return TrainConfig(**{"n_embd": 8, "train_max_k": k, "wandb_group": f"len_gen_k{k}", **values})


def name_of(config: TrainConfig, prefix: str = "Final") -> str:
    """The file name by the built-in convention."""
    rules = built_in()
    kind = rules.prefix(prefix)
    assert kind is not None
    step = kind.expected_step(config.to_dict())
    assert step is not None
    return naming_of(rules).name_for(config.to_dict(), kind, step)


def write_checkpoint(
    path: Path, config: TrainConfig, *, step: int = 40000, saved_at: float | None = None, salt: int = 0, **more: Any
) -> Path:
    """Write a form-A checkpoint with random weights; `salt` makes other bytes of the same configuration."""
    torch.manual_seed(config.seed * 1000 + salt)
    weights = GPT(GPTConfig.from_train_config(config)).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"iters_done": step, "train_config": config.to_dict(), "model_config": {}, "model": weights, **more}, path
    )
    when = START if saved_at is None else saved_at
    os.utime(path, (when, when))
    return path


def write_run(
    task_folder: Path,
    config: TrainConfig,
    *,
    run_id: str,
    started: float = START,
    salt: int = 0,
    metrics: dict[str, Any] | None = None,
    files: tuple[str, ...] = ("Checkpoint", "Final"),
    saved_models: str = "saved_models",
    last_iter: int = 39751,
    save: bool = True,
    wandb_home: Path | None = None,
    more: dict[str, Any] | None = None,
    curve: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Write one run of 300 seconds: its checkpoints (over what lies there) and its online W&B folder.

    That lies in the task folder, or in `wandb_home` if one is given. `more` are configuration values that `TrainConfig`
    does not know. `curve` is what its log holds, by step.
    """
    end = started + 300
    values = {**config.to_dict(), **(more or {})}
    written = []
    for prefix in files if save else ():
        kind = built_in().prefix(prefix)
        assert kind is not None
        step = kind.expected_step(config.to_dict())
        assert step is not None
        path = task_folder / saved_models / name_of(config, prefix)
        saved_at = started + 300 * step / config.max_iters
        written.append(write_checkpoint(path, config, step=step, saved_at=saved_at, salt=salt, train_config=values))
    folder = (wandb_home or task_folder) / "wandb" / "wandb" / f"run-20260310_000000-{run_id}"
    (folder / "files").mkdir(parents=True)
    document: dict[str, Any] = {key: {"value": value} for key, value in values.items()}
    (folder / "files" / "config.yaml").write_text(yaml.safe_dump(document))
    summary = {"iter": last_iter, "_timestamp": end, "_runtime": 300.0, **(metrics or gen_metrics(0.5))}
    (folder / "files" / "wandb-summary.json").write_text(json.dumps(summary))
    (folder / "files" / "wandb-metadata.json").write_text(json.dumps({"startedAt": _utc(started)}))
    (folder / f"run-{run_id}.wandb").write_bytes(log_of(run_id, curve or {}))
    latest = folder.parent / "latest-run"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    for file in (folder, *folder.rglob("*")):
        os.utime(file, (end, end))
    return written


def log_of(run_id: str, curve: Mapping[int, Mapping[str, Any]]) -> bytes:
    """The log that W&B writes of a run; without a curve, one that holds nothing."""
    if not curve:
        return b":W&B\xe1\xbe\x00"
    from tests.helpers import hostile_wandb  # which imports wandb

    rows = (hostile_wandb.history({**values, "_step": step}, step) for step, values in curve.items())
    return hostile_wandb.log_bytes(hostile_wandb.run(run_id), *rows)


def gen_metrics(value: float) -> dict[str, float]:
    """The metrics of a run that generalizes with this exact match on every tested length."""
    return {f"gen/K{k}/exact_match_acc": value for k in range(17, 33)}


def snapshot(root: Path) -> dict[str, Any]:
    """Every file and link below a folder: its bytes, or its target."""
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def _utc(epoch: float) -> str:
    return datetime.datetime.fromtimestamp(epoch, tz=datetime.UTC).isoformat().replace("+00:00", "Z")
