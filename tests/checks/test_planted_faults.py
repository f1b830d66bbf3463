"""`validate`: each fault, planted in a good tree, is found and nothing else; the good tree is clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptman.tree.findings import KINDS
from tests.helpers.planted import PLANTS, Plant
from tests.helpers.trees import CHECKPOINTS, RUNS
from tests.helpers.validated import check, codes


def test_every_code_is_planted() -> None:
    weights = {"broken-weights", "untrained-weights", "disproved-seed", "other-run"}  # test_weights.py plants these
    assert {plant.code for plant in PLANTS} == set(KINDS) - weights


def test_the_good_tree_is_clean(good_tree: Path) -> None:
    result = check(good_tree)
    assert result.findings == ()
    assert (result.exit_status, result.checked, result.runs) == (0, CHECKPOINTS, RUNS)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_fault_is_found_and_nothing_else(plant: Plant, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.plant(root, monkeypatch)
    result = check(root)
    expected = {plant.code, *plant.also}
    assert codes(result) == expected, [item.to_json() for item in result.findings]
    own = [item for item in result.findings if item.code == plant.code and item.path == plant.path]
    assert own, [(item.code, item.path) for item in result.findings]
    assert any(plant.says in item.message for item in own), own
    assert all(item.fix for item in result.findings)
    assert result.exit_status == 1
