"""The task: K random numbers, the separator, the same numbers sorted. What each iteration of training reads.

    tokens = draw_batch(config, iteration)  # (B, 2K + 1)

A batch depends on the configuration and the iteration alone: not on the batches before it, any global random state, the
device or the number of threads. So a run that is resumed reads what it would have read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ckptman.rules import TrainConfig
from ckptman.text import UsageError


def draw_batch(config: TrainConfig, iteration: int, *, device: torch.device | str = "cpu") -> Tensor:
    """The batch of an iteration, all of one K, drawn on the CPU whatever the device.

    Args:
        config: Gives the seed, the batch size, the numbers and the lengths to draw from.
        iteration: Index of the iteration, from 0.
        device: Where the batch is put.

    Returns:
        Tokens, (`effective_batch_size`, 2K + 1): K numbers, the separator, the numbers sorted.
    """
    generator = np.random.default_rng([config.seed, iteration])
    if config.train_k_choices is not None:
        k = config.train_k_choices[int(generator.integers(len(config.train_k_choices)))]
    else:
        k = int(generator.integers(config.train_min_k, current_max_k(config, iteration), endpoint=True))
    tokens = draw_sequences(
        config.effective_batch_size, k, config.vocab_n, generator, allow_duplicates=config.allow_duplicates
    )
    return tokens.to(device)


def current_max_k(config: TrainConfig, iteration: int) -> int:
    """The longest list that an iteration may draw.

    In `mix` it is `train_max_k` throughout. In `curriculum` it is `train_min_k` for `curriculum_warmup_iters`
    iterations, then grows linearly over `curriculum_span_iters`, rounded to the nearest whole number and halves to
    even, as the published trainer does.
    """
    if config.length_mode != "curriculum":
        return config.train_max_k
    past_warmup = max(0, iteration - config.curriculum_warmup_iters)
    progress = min(1.0, past_warmup / max(1, config.curriculum_span_iters))
    return config.train_min_k + round(progress * (config.train_max_k - config.train_min_k))


def draw_sequences(
    samples: int, k: int, numbers: int, generator: np.random.Generator, *, allow_duplicates: bool = False
) -> Tensor:
    """Random lists with their solutions.

    Args:
        samples: Lists to draw, B.
        k: Numbers in a list.
        numbers: They are drawn from 0..`numbers` - 1, and token `numbers` is the separator.
        generator: Source of randomness. NumPy's, for its seeds may be sequences of any numbers, where PyTorch's
            generator for the CPU reads 32 bits of one.
        allow_duplicates: Draw with replacement.

    Returns:
        Tokens on the CPU, (B, 2K + 1): the K numbers, the separator, the numbers sorted.

    Raises:
        UsageError: (`k-too-large`) where there are not K distinct numbers.
    """
    tokens = np.empty((samples, 2 * k + 1), dtype=np.int64)
    if allow_duplicates:
        tokens[:, :k] = generator.integers(numbers, size=(samples, k))
    else:
        _draw_distinct(tokens[:, :k], numbers, generator)
    tokens[:, k] = numbers
    tokens[:, k + 1 :] = tokens[:, :k]
    tokens[:, k + 1 :].sort(axis=1)
    return torch.from_numpy(tokens)


def _draw_distinct(into: np.ndarray[Any, np.dtype[np.int64]], numbers: int, generator: np.random.Generator) -> None:
    """Lists of K distinct numbers in random order, each as likely as any other, into an array of (B, K).

    A Fisher-Yates shuffle of all samples at once, stopped after K steps. Sorting random keys for whole rows would take
    ten times as long or more, a good part of the training step of a small model.
    """
    samples, k = into.shape
    if k > numbers:
        raise UsageError(f"lists of {k} distinct numbers cannot be drawn from {numbers} numbers", code="k-too-large")
    # From entry i · B on not yet drawn, (numbers · B), in the smallest type: the caches hold the more of it.
    left = np.repeat(np.arange(numbers, dtype=np.min_scalar_type(numbers)), samples)
    every = np.arange(samples)
    for i in range(k):
        chosen = generator.integers(i, numbers, size=samples)
        chosen *= samples
        chosen += every
        into[:, i] = left[chosen]
        left[chosen] = left[i * samples : (i + 1) * samples]
