from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ckptman.rules.recipe import TrainConfig
from ckptman.text.errors import UsageError
from ckptman.training.sorting import current_max_k, draw_batch, draw_sequences


def config(**values: Any) -> TrainConfig:
    small: dict[str, Any] = {"train_min_k": 2, "train_max_k": 8, "effective_batch_size": 64, "micro_batch_size": 1}
    return TrainConfig(**small | values)


def length(tokens: Tensor) -> int:
    return tokens.shape[1] // 2


def sequences(samples: int, k: int, numbers: int, **options: Any) -> Tensor:
    return draw_sequences(samples, k, numbers, np.random.default_rng(0), **options)


# --- what a batch holds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 4, 16, 32, 128])
def test_a_batch_is_numbers_separator_and_the_numbers_sorted(k: int) -> None:
    tokens = draw_batch(config(train_min_k=k, train_max_k=k, effective_batch_size=4096), 0)
    drawn, separator, solution = tokens[:, :k], tokens[:, k], tokens[:, k + 1 :]
    assert tokens.shape == (4096, 2 * k + 1)
    assert tokens.dtype == torch.int64
    assert bool((separator == 128).all())
    assert torch.equal(drawn.sort(dim=1).values, solution)
    assert bool((solution.diff(dim=1) > 0).all())  # distinct
    assert drawn.min() >= 0
    assert drawn.max() <= 127


def test_with_duplicates_numbers_are_drawn_independently() -> None:
    tokens = draw_batch(config(allow_duplicates=True, train_min_k=8, effective_batch_size=4096), 3)
    drawn, solution = tokens[:, :8], tokens[:, 9:]
    assert torch.equal(drawn.sort(dim=1).values, solution)
    repeated = (solution.diff(dim=1) == 0).any(dim=1).double().mean()
    expected = 1 - float(np.prod([1 - i / 128 for i in range(8)]))  # the birthday problem: 0.198
    assert abs(float(repeated) - expected) < 5 * (expected * (1 - expected) / 4096) ** 0.5


def chi_squared(counts: Counter[Any], cells: int) -> float:
    expected = counts.total() / cells
    return sum((counts[cell] - expected) ** 2 for cell in counts) / expected + (cells - len(counts)) * expected


def is_uniform(counts: Counter[Any], cells: int) -> bool:
    """Within five standard deviations of the χ² distribution's mean."""
    freedom = cells - 1
    return bool(abs(chi_squared(counts, cells) - freedom) < 5 * math.sqrt(2 * freedom))


@pytest.mark.parametrize("k", [1, 3, 4, 5])
def test_every_ordered_list_is_equally_likely(k: int) -> None:
    lists = list(itertools.permutations(range(5), k))
    drawn = Counter(tuple(row) for row in sequences(20_000, k, 5)[:, :k].tolist())
    assert set(drawn) == set(lists)
    assert is_uniform(drawn, len(lists))


def test_the_check_of_uniformity_can_fail() -> None:
    rows = sequences(20_000, 3, 5)[:, :3].tolist()
    assert is_uniform(Counter(map(tuple, rows)), 60)
    for row in rows[::10]:
        row.sort()
    assert not is_uniform(Counter(map(tuple, rows)), 60)


def test_more_distinct_numbers_than_there_are_are_refused() -> None:
    assert sequences(3, 5, 5).shape == (3, 11)
    assert sequences(3, 6, 5, allow_duplicates=True).shape == (3, 13)
    with pytest.raises(UsageError, match="lists of 6 distinct numbers") as caught:
        sequences(3, 6, 5)
    assert caught.value.code == "k-too-large"


# --- what a batch depends on ------------------------------------------------------------------------------------------


def test_a_batch_depends_on_seed_and_iteration_alone() -> None:
    wanted = draw_batch(config(), 7)
    for other in (draw_batch(config(), 8), draw_batch(config(seed=2337), 7)):
        assert other.shape != wanted.shape or not torch.equal(other, wanted)

    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - threads if threads in (1, 2) else 1)
    try:
        states = torch.get_rng_state(), random.getstate()
        for iteration in (0, 100, 3):  # whatever was drawn before
            draw_batch(config(), iteration)
        assert torch.equal(draw_batch(config(), 7), wanted)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
    finally:
        torch.set_num_threads(threads)


def test_a_batch_does_not_depend_on_the_model_or_the_recipe() -> None:
    other = config(n_layers=2, use_mlp=True, use_layernorm=False, learning_rate=1e-3, max_iters=9, micro_batch_size=32)
    assert torch.equal(draw_batch(other, 7), draw_batch(config(), 7))


def test_large_seeds_differ() -> None:
    fixed = {"train_min_k": 8}
    assert not torch.equal(draw_batch(config(seed=1, **fixed), 0), draw_batch(config(seed=1 + 2**32, **fixed), 0))


def test_batches_of_many_iterations_and_seeds_are_all_different() -> None:
    small = {"train_min_k": 8, "effective_batch_size": 4}
    batches = {
        tuple(draw_batch(config(seed=seed, **small), iteration).flatten().tolist())
        for seed in (0, 1, 1337, 2337)
        for iteration in range(300)
    }
    assert len(batches) == 1200


# --- lengths ----------------------------------------------------------------------------------------------------------


def lengths(iterations: range, **values: Any) -> Counter[int]:
    small = config(effective_batch_size=1, **values)
    return Counter(length(draw_batch(small, iteration)) for iteration in iterations)


def test_mix_draws_every_length_equally_often() -> None:
    counts = lengths(range(7000))
    assert set(counts) == set(range(2, 9))
    assert is_uniform(counts, 7)


def test_fixed_draws_one_length() -> None:
    assert lengths(range(50), train_min_k=4, train_max_k=4) == {4: 50}


def test_curriculum_draws_every_length_up_to_the_current_longest() -> None:
    halfway = range(10_000, 11_000)
    counts = lengths(halfway, length_mode="curriculum")
    assert {current_max_k(config(length_mode="curriculum"), i) for i in halfway} == {5}
    assert set(counts) == {2, 3, 4, 5}
    assert is_uniform(counts, 4)
    assert lengths(range(1000), length_mode="curriculum") == {2: 1000}
    assert set(lengths(range(30_000, 30_300), length_mode="curriculum")) == set(range(2, 9))


@pytest.mark.parametrize(
    ("iteration", "longest"),
    [
        (0, 2), (1_666, 2), (1_667, 3), (4_999, 3), (5_000, 4), (5_001, 4),  # 3.5 goes to 4
        (8_333, 4), (8_334, 5), (11_666, 5), (11_667, 6), (15_000, 6), (15_001, 7),  # 6.5 goes to 6
        (18_333, 7), (18_334, 8), (20_000, 8), (39_999, 8),
    ],
)  # fmt: skip
def test_the_curriculum_grows_linearly(iteration: int, longest: int) -> None:
    assert current_max_k(config(length_mode="curriculum"), iteration) == longest
    assert current_max_k(config(length_mode="curriculum", curriculum_warmup_iters=500), iteration + 500) == longest
    assert current_max_k(config(length_mode="mix"), iteration) == 8


def test_a_curriculum_without_a_span_ends_after_one_iteration() -> None:
    at_once = config(length_mode="curriculum", curriculum_span_iters=0, curriculum_warmup_iters=10)
    assert [current_max_k(at_once, iteration) for iteration in (0, 10, 11, 12)] == [2, 2, 8, 8]


def test_only_the_chosen_lengths_are_drawn() -> None:
    values = {"train_min_k": 2, "train_max_k": 9, "effective_batch_size": 2, "micro_batch_size": 2}
    chosen = TrainConfig(**values, train_k_choices=[9, 2, 5])  # type: ignore[arg-type]
    drawn = [draw_batch(chosen, iteration).shape[1] // 2 for iteration in range(60)]
    assert set(drawn) == {2, 5, 9}
    assert min(drawn.count(k) for k in chosen.trained_lengths) > 8
    every = TrainConfig(**values)  # type: ignore[arg-type]
    assert {draw_batch(every, iteration).shape[1] // 2 for iteration in range(60)} == set(range(2, 10))
