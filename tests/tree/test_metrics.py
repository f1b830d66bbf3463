"""A run's generalization, from what W&B holds of it."""

from __future__ import annotations

import math

import pytest

from ckptman.rules.convention_file import built_in
from ckptman.tree.metrics import from_metrics
from tests.helpers.raw import gen_metrics


def test_generalization_is_the_mean_over_the_tested_lengths() -> None:
    summary = {f"gen/K{k}/exact_match_acc": k / 100 for k in range(16, 40)}
    assert from_metrics(summary, built_in()) == pytest.approx(sum(range(17, 33)) / 1600)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "NaN", "0.5", True, [0.5], 10**400])
def test_generalization_is_unknown_where_a_length_is(value: object) -> None:
    assert from_metrics(gen_metrics(0.5), built_in()) == 0.5
    assert from_metrics(gen_metrics(0.5) | {"gen/K20/exact_match_acc": value}, built_in()) is None
    assert from_metrics({f"gen/K{k}/exact_match_acc": 0.5 for k in range(17, 32)}, built_in()) is None
