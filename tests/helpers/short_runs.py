"""Runs of a fraction of a second, and processes that are killed in the middle of one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ckptman.rules.convention_file import built_in
from ckptman.rules.recipe import TrainConfig
from ckptman.training.run_folder import RawRun


def short_config(**values: Any) -> TrainConfig:
    """12 iterations of a tiny model: checkpoints after 6 and 11 of them, evaluations after 1, 5, 9 and at the end."""
    return TrainConfig(
        **{
            "vocab_n": 16,
            "n_embd": 8,
            "train_min_k": 4,
            "train_max_k": 4,
            "test_min_k": 5,
            "test_max_k": 6,
            "effective_batch_size": 16,
            "micro_batch_size": 16,
            "max_iters": 12,
            "warmup_iters": 2,
            "ckpt_interval": 5,
            "eval_interval": 4,
            "log_interval": 3,
            "eval_samples_per_length": 10,
            "learning_rate": 1e-2,
            "wandb_group": "len_gen_single_k4",
            **values,
        }
    )


def raw_run(out: Path, **values: Any) -> RawRun:
    """A short run, with its folders."""
    run = RawRun.of(short_config(**values), out, built_in())
    run.make_folders()
    return run


def in_child(work: Callable[[], object]) -> int:
    """Do something in a forked process; its exit status, or minus the signal that ended it."""
    return in_children([work])[0]


def in_children(works: Sequence[Callable[[], object]]) -> list[int]:
    """The same of several at once."""
    children = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside idle threads
        for work in works:
            children.append(os.fork())
            if children[-1] == 0:
                status = 1
                try:
                    torch.set_num_threads(1)
                    work()
                    status = 0
                finally:
                    os._exit(status)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def documents(run: RawRun) -> dict[str, dict[str, Any]]:
    """All checkpoints of a run, by name."""
    return {path.name: torch.load(path, weights_only=True) for path in sorted(run.saved_models.glob("*.pt"))}


def same(one: Any, other: Any) -> bool:
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def without_run_id(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Checkpoints but for what differs between two runs of one configuration: the run id."""
    return {name: {key: value for key, value in item.items() if key != "run_id"} for name, item in found.items()}
