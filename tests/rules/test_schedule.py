"""The published learning rates."""

from __future__ import annotations

import pytest

from ckptman.rules.recipe import TrainConfig, learning_rate


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [(0, 1e-4 / 401), (399, 1e-4 * 400 / 401), (400, 1e-4), (20_200, 5.05e-5), (40_000, 1e-6), (50_000, 1e-6)],
)
def test_the_published_schedule(iteration: int, expected: float) -> None:
    assert learning_rate(TrainConfig(), iteration) == pytest.approx(expected, rel=1e-12)


def test_it_grows_and_then_falls() -> None:
    config = TrainConfig(max_iters=50, warmup_iters=10)
    rates = [learning_rate(config, iteration) for iteration in range(51)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert len(set(rates)) == 51


def test_a_warm_up_longer_than_the_run() -> None:
    config = TrainConfig(max_iters=5, warmup_iters=10)
    assert learning_rate(config, 4) == pytest.approx(1e-4 * 5 / 11)
