"""One answer to: are the checkpoints of this run here?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ckptman.checks.validation import validate
from ckptman.documents.reporting import report
from ckptman.rules.convention_file import built_in
from ckptman.rules.recipe import saved_by
from ckptman.sweeps.grid_status import status
from ckptman.tree.standing import Extent, compare
from tests.helpers.raw import name_of, write_checkpoint
from tests.helpers.trees import make_tree, small_config

SHORT = {"max_iters": 300}


def test_what_a_recipe_saves() -> None:
    of = {name: small_config(**values) for name, values in {"usual": {}, "short": SHORT}.items()}
    assert saved_by(of["usual"].to_dict(), built_in()) == {"Checkpoint": range(20_001, 40_001, 20_000),
                                                           "Final": range(40_000, 40_001)}  # fmt: skip
    saved = saved_by(of["short"].to_dict(), built_in())
    assert [list(steps or ()) for steps in saved.values()] == [[], [300]]
    assert saved_by({}, built_in()) == {"Checkpoint": None, "Final": None}
    assert saved_by({"ckpt_interval": 0, "max_iters": 9}, built_in())["Checkpoint"] == range(0)
    for no_end in (0, -1):
        assert saved_by({"ckpt_interval": 5, "max_iters": no_end}, built_in()) == {"Checkpoint": None, "Final": None}


@pytest.mark.parametrize(
    ("here", "extent"),
    [
        ([("Final", 30), ("Checkpoint", 11), ("Checkpoint", 21)], Extent.COMPLETE),
        ([("Final", 30), ("Checkpoint", 21)], Extent.FINAL),
        ([("Final", 30)], Extent.FINAL),
        ([("Checkpoint", 11), ("Checkpoint", 21)], Extent.ON_THE_WAY),
        ([("Checkpoint", 11), ("Checkpoint", 21), ("Checkpoint", 30)], Extent.COMPLETE),
        ([(None, 30)], Extent.NOTHING),
        ([], Extent.NOTHING),
    ],
)
def test_how_much_of_a_run_is_here(here: list[tuple[str | None, int | None]], extent: Extent) -> None:
    assert compare({"ckpt_interval": 10, "max_iters": 30}, here, built_in()).extent is extent


def test_nothing_is_missing_of_a_recipe_that_does_not_say() -> None:
    assert compare({}, [("Final", 30)], built_in()).extent is Extent.COMPLETE


@pytest.mark.parametrize(("values", "is_complete"), [(SHORT, True), ({}, False)])
def test_readme_mapping_status_and_validate_say_the_same_of_a_run_with_only_its_final(
    tmp_path: Path, values: dict[str, int], is_complete: bool
) -> None:
    run = small_config(**values)
    source = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003"
    write_checkpoint(source / name_of(run), run, step=run.max_iters)
    root = make_tree(tmp_path, [])
    result = report(root)
    assert result.to_json()["statistics"]["complete_runs"] == is_complete
    readme, mapping = ((root / name).read_text() for name in ("README.md", "TASK_MAPPING.md"))
    assert ("1 is here with all checkpoints" in readme) is is_complete
    assert ("●·" in mapping, "◑·" in mapping) == (is_complete, not is_complete)
    found = validate(root, select=["missing-checkpoint", "missing-final"])
    assert (found.findings == ()) is is_complete
    (one,) = [item for item in status(root=root).runs if item.path]
    assert one.state == "complete"  # its end is here: it need not be trained again


@pytest.mark.parametrize("is_told", [True, False])
def test_where_no_rule_tells_when_a_kind_is_saved_not_all_of_a_run_is_said_to_be_here(
    tmp_path: Path, is_told: bool
) -> None:
    run = small_config(**SHORT)
    source = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003"
    write_checkpoint(source / name_of(run), run, step=run.max_iters)
    root = make_tree(tmp_path, [])
    on_the_way, end = built_in().prefixes
    rules = built_in() if is_told else replace(built_in(), prefixes=(replace(on_the_way, step_config=""), end))
    report(root, convention=rules)
    readme = (root / "README.md").read_text()
    assert ("1 is here with all checkpoints." in readme) is is_told
    assert ("1 is here with all checkpoints of which a rule tells when they are saved." in readme) is not is_told
