"""Task ids of both numberings, against the seed document's tables."""

from __future__ import annotations

import pytest

from ckptman.rules.convention_file import built_in
from ckptman.rules.grids import cells, cells_of_task, task_count, task_of
from ckptman.text.errors import RefusedError, UsageError

GRID = built_in().grids["main"]


def test_the_eight_ids_of_the_published_table() -> None:
    table = [
        (c.task, c.values["n_layers"], c.values["use_mlp"], c.values["length_mode"])
        for c in cells(GRID, "dynamic", "full")
    ]
    assert table == [
        (0, 2, True, "mix"), (1, 2, True, "curriculum"), (2, 2, False, "mix"), (3, 2, False, "curriculum"),
        (4, 1, True, "mix"), (5, 1, True, "curriculum"), (6, 1, False, "mix"), (7, 1, False, "curriculum"),
    ]  # fmt: skip


def test_the_four_ids_of_the_fixed_table_are_the_same_in_both_numberings() -> None:
    expected = [(0, 2, True), (1, 2, False), (2, 1, True), (3, 1, False)]
    for numbering in ("full", "merged"):
        found = [(c.task, c.values["n_layers"], c.values["use_mlp"]) for c in cells(GRID, "fixed", numbering)]
        assert found == expected


def test_the_merged_numbering_puts_mlp_on_and_off_side_by_side() -> None:
    assert task_count(GRID, "dynamic", "merged") == 4
    both = cells_of_task(GRID, "dynamic", "merged", 2)
    assert [(c.values["n_layers"], c.values["use_mlp"], c.values["length_mode"]) for c in both] == [
        (1, True, "mix"),
        (1, False, "mix"),
    ]


@pytest.mark.parametrize("numbering", ["full", "merged"])
@pytest.mark.parametrize("regime", ["dynamic", "fixed"])
def test_an_id_and_its_configuration_are_inverse(regime: str, numbering: str) -> None:
    for cell in cells(GRID, regime, numbering):
        assert task_of(GRID, regime, numbering, cell.values) == cell.task


@pytest.mark.parametrize("value", [3, False, "2", None, 2.5])
def test_a_value_off_the_grid_is_refused(value: object) -> None:
    config = {"n_layers": 2, "use_mlp": True, "length_mode": "mix"}
    assert task_of(GRID, "dynamic", "full", config) == 0
    with pytest.raises(RefusedError, match="n_layers"):
        task_of(GRID, "dynamic", "full", {**config, "n_layers": value})


def test_an_id_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="0 to 7"):
        cells_of_task(GRID, "dynamic", "full", 8)
