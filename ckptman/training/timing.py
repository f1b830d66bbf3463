"""How fast runs of a kind are trained on this machine, found out by a few iterations of one."""

from __future__ import annotations

import time

import torch

from ckptman.rules import TrainConfig
from ckptman.training.loading import pick_device
from ckptman.training.loop import Computing, initial_model, step_of
from ckptman.training.runs import limited_threads
from ckptman.training.sorting import draw_batch
from ckptman.training.train_step import make_optimizer

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
    step = step_of(model, computing)
    done, began = 0, time.perf_counter()
    for index in range(-1, 1_000_000):
        if index == 0:
            began = time.perf_counter()
        batch = draw_batch(config, config.max_iters + index + 1, device=computing.device)
        optimizer.zero_grad(set_to_none=True)
        with computing.autocast(config):
            step(batch)
        optimizer.step()
        if computing.device.type == "cuda":
            torch.cuda.synchronize(computing.device)
        if index >= 0:
            done += batch.numel()
        took = time.perf_counter() - began
        if index + 1 >= _FEWEST and took >= seconds:
            break
    return done / took
