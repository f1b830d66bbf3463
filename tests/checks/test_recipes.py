"""Which checkpoints are missing or too many, by the recipe of their run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptman.checks.validation import validate
from ckptman.ingestion.ingesting import ingest
from tests.helpers.raw import START, name_of, write_checkpoint, write_run
from tests.helpers.trees import (
    CHECKPOINT,
    FINAL,
    FIXED,
    RUN,
    make_tree,
    small_config,
)
from tests.helpers.validated import codes, of

# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_iters", "expected"), [(20_000, set()), (20_001, {"missing-checkpoint"})])
def test_a_run_shorter_than_the_checkpoint_interval_has_none_to_miss(
    tmp_path: Path, max_iters: int, expected: set[str]
) -> None:
    short = small_config(max_iters=max_iters)
    write_checkpoint(
        tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003" / name_of(short), short, step=max_iters
    )
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints")
    assert codes(validate(tmp_path / "checkpoints", ignore=["missing-seed", "missing-task"])) == expected


@pytest.mark.parametrize(("step", "expected"), [(30_001, set()), (30_000, {"off-recipe"}), (15_001, {"off-recipe"})])
def test_a_checkpoint_at_a_later_multiple_of_the_interval_is_on_the_recipe(
    tmp_path: Path, step: int, expected: set[str]
) -> None:
    often = small_config(ckpt_interval=10_000)
    task = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003"
    write_checkpoint(task / CHECKPOINT.replace("20001", str(step)), often, step=step)
    write_checkpoint(task / FINAL, often)
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints")
    assert codes(validate(tmp_path / "checkpoints", ignore=["missing"])) == expected


@pytest.mark.parametrize(
    ("interval", "steps", "message"),
    [
        (10_000, [10_001, 20_001, 30_001], None),
        (10_000, [10_001, 30_001], "lacks the Checkpoint after 20001 iterations, which its recipe saves"),
        (10_000, [], "has no Checkpoint, which its recipe saves after 10001, 20001, 30001 iterations"),
        (1_000, [1_001], "after 2001, 3001, 4001, 5001 and 34 more iterations"),
        (13_333, [13_334, 26_667, 40_000], None),  # the last one and the final one are of the same iteration
        (0, [], None),
    ],
)
def test_every_checkpoint_on_the_way_is_asked_for(
    tmp_path: Path, interval: int, steps: list[int], message: str | None
) -> None:
    task = tmp_path / "by hand" / FIXED / "task_0003"
    inside = small_config().to_dict() | {"ckpt_interval": interval}
    for step in steps:
        write_checkpoint(task / CHECKPOINT.replace("20001", str(step)), small_config(), step=step, train_config=inside)
    write_checkpoint(task / FINAL, small_config(), train_config=inside)
    result = validate(tmp_path / "by hand", ignore=["missing-seed", "missing-task", "no-record"])
    assert codes(result) == (set() if message is None else {"missing-checkpoint"})
    assert message is None or message in result.findings[0].message


def test_of_a_run_that_was_stopped_the_checkpoints_up_to_its_last_are_asked_for(tmp_path: Path) -> None:
    task = tmp_path / "by hand" / FIXED / "task_0003"
    often = small_config(ckpt_interval=10_000)
    write_checkpoint(task / CHECKPOINT, often, step=20_001)
    codes_of = ["missing-checkpoint", "missing-final"]
    result = validate(tmp_path / "by hand", select=codes_of)
    assert codes(result) == set(codes_of)
    assert of(result, "missing-checkpoint")[0].endswith(
        "lacks the Checkpoint after 10001 iterations, which its recipe saves"
    )
    write_checkpoint(task / CHECKPOINT.replace("20001", "10001"), often, step=10_001)
    assert codes(validate(tmp_path / "by hand", select=codes_of)) == {"missing-final"}


def test_a_checkpoint_after_the_end_of_training_is_off_the_recipe(tmp_path: Path) -> None:
    short = small_config(max_iters=30_000)
    task = tmp_path / "by hand" / FIXED / "task_0003"
    write_checkpoint(task / CHECKPOINT.replace("20001", "40001"), short, step=40_001)
    result = validate(tmp_path / "by hand", select=["off-recipe"])
    assert "training ends after 30000; this one holds 40001" in of(result, "off-recipe")[0]
    write_checkpoint(task / CHECKPOINT.replace("20001", "40001"), small_config(max_iters=50_000), step=40_001)
    assert codes(validate(tmp_path / "by hand", select=["off-recipe"])) == set()


def test_runs_of_one_cell_whose_recipes_differ_are_told_of_with_what_differs(tmp_path: Path) -> None:
    root = make_tree(tmp_path, [small_config(), small_config(learning_rate=0.01)])
    result = validate(root, ignore=["missing"])
    assert codes(result) == {"repeated-run"}
    assert "their configurations differ in learning_rate" in result.findings[0].message


@pytest.mark.parametrize(("kept", "expected"), [(FINAL, "missing-checkpoint"), (CHECKPOINT, "missing-final")])
def test_of_a_run_that_one_without_its_checkpoint_repeats_the_end_is_not_missed(
    tmp_path: Path, kept: str, expected: str
) -> None:
    source = tmp_path / "raw" / "len_gen_single_k4" / "task_0003"
    write_run(source / "a", small_config(), run_id="killed11", files=("Checkpoint",), last_iter=21_000)
    write_run(source / "b", small_config(), run_id="ended222", started=START + 1000, salt=1, files=("Final",))
    root = tmp_path / "checkpoints"
    ingest(tmp_path / "raw", root)
    result = validate(root, ignore=["missing-seed", "missing-task"])
    assert {item.code: item.path for item in result.findings} == {
        "missing-checkpoint": f"{RUN}-ended222",
        "repeated-run": RUN,
    }
    assert of(result, "repeated-run")[0].endswith("it has only: Checkpoint")
    shutil.rmtree(root / (RUN if kept == FINAL else f"{RUN}-ended222"))  # alone, each lacks what it lacks
    assert codes(validate(root, ignore=["missing-seed", "missing-task"])) == {expected}
