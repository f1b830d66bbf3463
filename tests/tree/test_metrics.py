"""A run's generalization, from what W&B holds of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ckptman.rules.convention_file import built_in, load_convention
from ckptman.text.errors import ConfigurationError
from ckptman.tree.metrics import from_metrics
from tests.helpers.raw import gen_metrics


def test_generalization_is_the_mean_over_the_tested_lengths() -> None:
    summary = {f"gen/K{k}/exact_match_acc": k / 100 for k in range(16, 40)}
    assert from_metrics(summary, {}, built_in()) == pytest.approx(sum(range(17, 33)) / 1600)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "NaN", "0.5", True, [0.5], 10**400])
def test_generalization_is_unknown_where_a_length_is(value: object) -> None:
    assert from_metrics(gen_metrics(0.5), {}, built_in()) == 0.5
    assert from_metrics(gen_metrics(0.5) | {"gen/K20/exact_match_acc": value}, {}, built_in()) is None
    assert from_metrics({f"gen/K{k}/exact_match_acc": 0.5 for k in range(17, 32)}, {}, built_in()) is None


@pytest.mark.parametrize("key", ["gen.K{}.exact_match_acc", "gen/K{}.exact_match_acc", "gen.K{}/exact_match_acc"])
def test_what_was_logged_in_sections_is_found(key: str) -> None:
    assert from_metrics({key.format(k): 0.5 for k in range(17, 33)}, {}, built_in()) == 0.5
    assert from_metrics({key.format(k): 0.5 for k in range(17, 32)}, {}, built_in()) is None
    assert from_metrics({key.format(k): 0.1 for k in range(17, 33)} | gen_metrics(0.5), {}, built_in()) == 0.5


OWN = """\
metrics:
  generalization: null
  trained: {pattern: "test/K{k}/acc", k: [test_min_k, test_max_k], default: true, buckets: {low: [2, 3]}}
  loss: {pattern: val/loss, share: false, lower_is_better: true}
"""


def test_the_lengths_of_a_metric_may_be_the_configurations(tmp_path: Path) -> None:
    (tmp_path / "ckptman.yaml").write_text(OWN)
    rules = load_convention(tmp_path / "ckptman.yaml")
    summary = {"test/K2/acc": 0.2, "test/K3/acc": 0.4, "test/K4/acc": 0.9, "val/loss": 1.5}
    assert from_metrics(summary, {"test_min_k": 3, "test_max_k": 4}, rules) == pytest.approx(0.65)
    assert from_metrics(summary, {"test_min_k": 4, "test_max_k": 5}, rules) is None, "one length was not measured"
    assert from_metrics(summary, {}, rules) is None, "the lengths are not known"
    assert from_metrics(summary, {"test_min_k": 2, "test_max_k": 10**9}, rules) is None
    assert from_metrics(summary, {}, rules, rules.metrics["trained.low"]) == pytest.approx(0.3)
    assert from_metrics(summary, {}, rules, rules.metrics["loss"]) == 1.5


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("metrics: {loss: {pattern: val/loss, k: [1, 2]}}\n", "holds {k}"),
        ('metrics: {loss: {pattern: "K{k}/loss"}}\n', "holds {k}"),
        ("metrics: {loss: {pattern: val/loss, default: true}}\n", "several say default"),
        ("metrics: {generalization: null}\n", "there must be one"),
        ("metrics: {loss: {patern: val/loss}}\n", "'pattern' is missing"),
    ],
)
def test_a_wrong_metric_is_named(rules: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "ckptman.yaml").write_text(rules)
    with pytest.raises(ConfigurationError) as caught:
        load_convention(tmp_path / "ckptman.yaml")
    assert told in caught.value.message
