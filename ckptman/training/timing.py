"""How fast runs of a kind are trained on this machine, found out by a few iterations of one."""

from __future__ import annotations

import time
from collections import Counter

import torch

from ckptman.rules import TrainConfig
from ckptman.training.loading import pick_device
from ckptman.training.loop import Computing, initial_model, step_of
from ckptman.training.train_step import limited_threads, make_optimizer
from ckptman.training.updating import Batches, Update

_FEWEST = 3
"""Iterations that are timed at least, after one that is not: it also pays for memory and kernels."""


def gpus() -> list[str]:
    """The names of the GPUs that torch can use."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(index) for index in range(count)]


def positions_per_second(
    config: TrainConfig,
    *,
    device: str = "auto",
    threads: int | None = None,
    compiled: bool = False,
    seconds: float = 1.0,
) -> float:
    """Sequence positions (samples × tokens of each) that training such a run gets through in a second.

    Nothing is written, and no random number that a run would draw is used up.

    Args:
        config: The run. Its lengths of the end of training are used, where a curriculum grows to them.
        device: As for training.
        threads: CPU threads; PyTorch's choice by default.
        compiled: Through `torch.compile`.
        seconds: About how long to measure.

    Raises:
        MachineError: the machine has no such device (`no-device`), or its compiler fails (`compile-failed`).
    """
    computing = Computing(device=pick_device(device), compiled=compiled)
    with limited_threads(threads):
        return _measure(config, computing, seconds)


def _measure(config: TrainConfig, computing: Computing, seconds: float) -> float:
    model = initial_model(config).to(computing.device)
    optimizer = make_optimizer(model, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    update = Update.of(model, optimizer, step_of(model, config, computing), captured=computing.captured)
    seen: Counter[int] = Counter()
    done, counted, took = 0, 0, 0.0
    with Batches.of(config, computing.device) as batches:
        for index in range(config.max_iters, config.max_iters + 1_000_000):
            began = time.perf_counter()
            batch = batches.of_iteration(index)
            update(batch, learning_rate=config.learning_rate)
            if computing.device.type == "cuda":
                torch.cuda.synchronize(computing.device)
            seen[batch.shape[1]] += 1
            # The first iteration pays for memory and kernels; captured, the first two of each length do.
            if seen[batch.shape[1]] <= 2 if computing.captured else index == config.max_iters:
                continue
            took += time.perf_counter() - began
            done += batch.numel()
            counted += 1
            if counted >= _FEWEST and took >= seconds:
                break
    return done / took
