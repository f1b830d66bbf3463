"""The learning rate of each iteration."""

from __future__ import annotations

import math

from ckptman.config import TrainConfig


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """Learning rate of an iteration: linear warm-up, then a cosine from `learning_rate` to `min_lr`.

    Warm-up goes by (i + 1) / (warmup_iters + 1), as the published trainer does.

    Args:
        config: Gives `learning_rate`, `min_lr`, `warmup_iters` and `max_iters`.
        iteration: Index of the iteration, from 0.
    """
    if iteration < config.warmup_iters:
        return config.learning_rate * (iteration + 1) / (config.warmup_iters + 1)
    length = max(1, config.max_iters - config.warmup_iters)
    progress = min(1.0, (iteration - config.warmup_iters) / length)
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (config.learning_rate - config.min_lr)
