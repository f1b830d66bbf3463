"""Which runs of the grid are meant."""

from __future__ import annotations

import pytest

from ckptman.rules.convention_file import built_in, load_convention
from ckptman.rules.selection import Selection, grid_runs, parse_choices, parse_numbers
from ckptman.text.errors import UsageError


def test_the_whole_grid_is_504_runs() -> None:
    runs = grid_runs(built_in())
    assert len(runs) == 504
    assert len({run.key for run in runs}) == 504
    configurations = {(run.group, run.cell.task) for run in runs}
    assert len(configurations) == 2 * 84


def test_every_numbering_has_the_same_runs() -> None:
    merged = load_convention(None, numbering="merged")
    ours, theirs = ({run.key for run in grid_runs(rules)} for rules in (built_in(), merged))
    assert ours == theirs
    assert {run.cell.task for run in grid_runs(merged)} == {0, 1, 2, 3}


@pytest.mark.parametrize("numbering", ["full", "merged"])
def test_no_two_runs_are_called_the_same(numbering: str) -> None:
    runs = grid_runs(load_convention(numbering=numbering))
    assert len({run.label for run in runs}) == len(runs)


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        (Selection(k=(8,)), 72),
        (Selection(k=(5,)), 72),  # not on the grid
        (Selection(facets={"regime": ("fixed",)}), 7 * 4 * 3 * 2),
        (Selection(facets={"layernorm": (True,)}), 252),
        (Selection(seeds=(1, 2)), 336),
        (Selection(k=(8,), tasks=(6,)), 6),  # the fixed regime has no task 6
        (Selection(k=(8,), tasks=(3,)), 12),
        (Selection(groups=("len_gen_k8",)), 24),
        (Selection(groups=("len_gen_k8", "len_gen_single_*"), k=(4, 8)), 24 + 2 * 2 * 12),
        (Selection(k=(4, 8), tasks=(6,), seeds=(1337,), facets={"regime": ("dynamic",), "layernorm": (False,)}), 2),
    ],
)
def test_a_part_of_the_grid(selection: Selection, count: int) -> None:
    assert len(grid_runs(built_in(), selection)) == count


def test_a_run_says_what_the_grid_decides() -> None:
    (run,) = grid_runs(
        built_in(), Selection(k=(8,), tasks=(6,), seeds=(2337,), facets={"regime": ("dynamic",), "layernorm": (True,)})
    )
    assert (run.group, run.cell.task, run.seed) == ("len_gen_k8", 6, 2337)
    assert run.values == {
        "use_layernorm": True, "train_max_k": 8, "train_min_k": 2, "n_layers": 1, "use_mlp": False,
        "length_mode": "mix", "seed": 2337,
    }  # fmt: skip
    assert run.label == "len_gen_k8 task 6 seed 2337"


def test_a_task_that_no_regime_has_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no task 8 .*dynamic: 0 to 7; fixed: 0 to 3") as caught:
        grid_runs(built_in(), Selection(tasks=(8,)))
    assert caught.value.code == "no-such-task"
    with pytest.raises(UsageError, match="no task 6"):
        grid_runs(built_in(), Selection(tasks=(6,), facets={"regime": ("fixed",)}))


def test_a_family_that_the_convention_lacks_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        grid_runs(built_in(), Selection(facets={"regime": ()}))
    assert caught.value.code == "nothing-selected"


def test_a_group_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"there is no group len_gen_k99; did you mean 'len_gen_k8'") as caught:
        grid_runs(built_in(), Selection(groups=("len_gen_k99", "x*")))
    assert caught.value.code == "nothing-selected"
    assert len(grid_runs(built_in(), Selection(groups=("len_gen_k99",), k=(99,)))) == 24
    with pytest.raises(UsageError, match="in a group called len_gen_single_k8") as caught:
        grid_runs(built_in(), Selection(groups=("len_gen_single_k8",), tasks=(6,)))  # a task of the other regime
    assert "Not each has every task" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("all", None),
        ("8", (8,)),
        ("4-16:2", (4, 6, 8, 10, 12, 14, 16)),
        ("4-7", (4, 5, 6, 7)),
        ("4, 8,4", (4, 8)),
        ("0-3,6", (0, 1, 2, 3, 6)),
        ("5-5", (5,)),
    ],
)
def test_numbers(text: str, numbers: tuple[int, ...] | None) -> None:
    assert parse_numbers(text, "--k") == numbers


@pytest.mark.parametrize("text", ["", "x", "4-", "-4", "8-4", "4-8:0", "4:2", "4;8", "1-999999999", "1.5", "4--8", "٤"])
def test_what_are_no_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="--k") as caught:
        parse_numbers(text, "--k")
    assert caught.value.code == "bad-range"


def test_choices() -> None:
    known = {"on": True, "off": False}
    assert parse_choices("on", known, "--layernorm") == (True,)
    assert parse_choices("off, on,off", known, "--layernorm") == (False, True)
    assert parse_choices("all", known, "--layernorm") is None
    with pytest.raises(UsageError, match="'maybe'"):
        parse_choices("on,maybe", known, "--layernorm")
