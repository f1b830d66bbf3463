"""What was moved, renamed or copied in a tree is known, and records that ckptman never wrote are told of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.checks.validation import validate
from ckptman.ingestion.ingesting import ingest
from tests.helpers.raw import name_of, write_checkpoint
from tests.helpers.trees import (
    CHECKPOINT,
    DYNAMIC,
    DYNAMIC_RUN,
    FINAL,
    FIXED,
    RUN,
    TASK,
    edit_json,
    edit_record,
    small_config,
)
from tests.helpers.validated import codes, flip_a_weight, hand_made, of

# --- moved, renamed, copied -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("to", "fix"),
    [
        (f"{FIXED}/task_0002/seed_1337/{FINAL}", f"Move it back to {RUN}"),
        (f"{TASK}/seed_2337/moved.pt", f"Move it back to {RUN}, as {FINAL}"),
        (f"{TASK}/{FINAL}", f"Move it back to {RUN}"),
        (FINAL, f"Move it back to {RUN}"),
        (f"{RUN}/best.pt", f"Rename it to {FINAL}"),
    ],
)
def test_a_file_that_was_moved_is_one_finding_that_knows_where_it_is_now(
    root: Path, to: str, fix: str, deep: bool
) -> None:
    (root / RUN / FINAL).rename(root / to)
    result = validate(root, deep=deep)
    assert [item.fix for item in result.findings] == [fix]
    [missing] = of(result, "missing-file")
    assert missing.endswith(f"but {to.removeprefix(RUN + '/')} seems to be it")


@pytest.mark.parametrize(("deep", "code"), [(False, "config-disagrees"), (True, "wrong-hash")])
def test_a_file_of_another_run_over_one_of_this_is_one_finding(root: Path, deep: bool, code: str) -> None:
    shutil.copy(root / TASK / "seed_2337" / FINAL, root / RUN / FINAL)
    assert [(item.code, item.path) for item in validate(root, deep=deep).findings] == [(code, f"{RUN}/{FINAL}")]


def test_a_file_of_another_run_beside_those_of_this_is_one_finding(root: Path) -> None:
    other = root / RUN / "other.pt"
    shutil.copy(root / TASK / "seed_2337" / FINAL, other)
    assert [(item.code, item.path) for item in validate(root).findings] == [("unrecorded-file", f"{RUN}/other.pt")]
    assert f"by its configuration one of {TASK}" in of(validate(root), "unrecorded-file")[0]
    assert [(item.code, item.path) for item in validate(root, deep=True).findings] == [("duplicate", f"{RUN}/other.pt")]
    write_checkpoint(other, small_config(seed=5), salt=1)
    assert codes(validate(root, deep=True)) == {"unrecorded-file"}


def test_the_record_of_another_run_is_one_finding_each(root: Path) -> None:
    run, second = root / RUN / "run.json", root / TASK / "seed_2337" / "run.json"
    texts = run.read_text(), second.read_text()
    run.write_text(texts[1])
    second.write_text(texts[0])
    for deep in (False, True):
        assert [(item.code, item.path) for item in validate(root, deep=deep).findings] == [
            ("config-disagrees", f"{RUN}/run.json"), ("config-disagrees", f"{TASK}/seed_2337/run.json"),
        ]  # fmt: skip


def test_a_renamed_run_is_to_be_renamed(root: Path) -> None:
    (root / DYNAMIC_RUN).rename(root / DYNAMIC / "task_0006" / "seed_9")
    found = [item.fix for item in validate(root).findings if item.path.endswith("seed_9")]
    assert found == ["Let ckptman rename the folder to seed_1337: ckptman validate --fix"]


def test_another_file_is_not_taken_for_the_one_that_is_missing(root: Path) -> None:
    (root / RUN / FINAL).unlink()
    other = write_checkpoint(root / TASK / FINAL, small_config(), salt=1)  # of the same size
    assert "seems to be it" in of(validate(root), "missing-file")[0]
    assert "seems to be it" not in of(validate(root, deep=True), "missing-file")[0]
    write_checkpoint(other, small_config(seed=9337), salt=1)
    assert "seems to be it" not in of(validate(root), "missing-file")[0]


@pytest.mark.parametrize("part", [FIXED, "with_layernorm"])
def test_a_copy_of_a_group_or_a_family_is_told_of_once_and_the_original_is_left_alone(root: Path, part: str) -> None:
    shutil.copytree(root / part, root / "backup")
    [found] = validate(root).findings
    assert (found.code, found.path) == ("duplicate", "backup")
    assert found.message.endswith(f"here has the same bytes as one in {part}")


@pytest.mark.parametrize(
    ("old", "new"), [("with_layernorm", "with_ln"), (FIXED, "with_layernorm/fixed/x"), (FIXED, "len_gen_single_k4")]
)
def test_a_renamed_or_moved_folder_is_told_of_once(root: Path, old: str, new: str) -> None:
    (root / old).rename(root / new)
    [found] = [item for item in validate(root).findings if item.code != "empty-folder"]
    assert (found.code, found.path) == ("misplaced", new)
    assert f"belongs in {old}, in folders of the same names" in found.message


def test_the_runs_of_a_renamed_task_folder_are_told_of_together(root: Path) -> None:
    (root / TASK).rename(root / FIXED / "task_0009")
    result = validate(root)
    assert [(item.code, item.path, item.message) for item in result.findings] == [
        ("misplaced", f"{FIXED}/task_0009", f"by its configuration, each of 4 checkpoints here belongs in {TASK}")
    ]
    assert (
        result.findings[0].fix == f"Let ckptman move the runs into {TASK}, beside what is there: ckptman validate --fix"
    )


def test_the_last_checkpoint_and_the_final_one_of_a_run_are_no_copies(tmp_path: Path) -> None:
    run = small_config(max_iters=20_001)
    task = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003"
    final = write_checkpoint(task / "saved_models" / name_of(run), run, step=20_001)
    shutil.copy(final, final.with_name(name_of(run, "Checkpoint")))
    root = tmp_path / "checkpoints"
    ingest(tmp_path / "grid_outputs", root, settle=0)
    assert sorted(path.name[:5] for path in (root / RUN).glob("*.pt")) == ["Check", "Final"]
    assert validate(root, ignore=["missing"], deep=True).findings == ()
    shutil.copytree(root / RUN, root / TASK / "seed_1337-copy")
    assert codes(validate(root, ignore=["missing"], deep=True)) == {"duplicate"}


@pytest.mark.parametrize("part", ["with_layernorm", FIXED, TASK, RUN])
def test_a_root_within_the_tree_is_told_of_once(root: Path, part: str) -> None:
    result = validate(root / part)
    assert [(item.code, item.path) for item in result.findings] == [("wrong-root", ".")]
    assert result.findings[0].message == f"this folder lies in a tree, whose root is {root.resolve()}"
    # What is wrong with the files themselves is told of all the same.
    (root / RUN / FINAL).write_text("no checkpoint")
    assert {"wrong-root", "bad-checkpoint"} == codes(validate(root / part))


def test_a_root_above_several_trees_is_told_of_once(root: Path) -> None:
    shutil.copytree(root, root.parent / "second")
    result = validate(root.parent, ignore=["duplicate"])
    assert [(item.code, item.path) for item in result.findings] == [("wrong-root", ".")]
    assert result.findings[0].message.startswith(f"this folder lies above the roots of 2 trees: {root.resolve()}, ")
    # A tree with a copy of it inside is a tree.
    shutil.rmtree(root.parent / "second")
    shutil.copytree(root / "with_layernorm", root / "copy" / "with_layernorm")
    assert "wrong-root" not in codes(validate(root))


@pytest.mark.parametrize("merged", [False, True])
def test_a_part_of_a_hand_made_tree_is_no_root_either(tmp_path: Path, merged: bool) -> None:
    root = hand_made(tmp_path, merged=merged)
    result = validate(root / "with_layernorm", ignore=["no-record", "missing"])
    assert codes(result) == {"wrong-root"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda document: document["checkpoints"].append(document["checkpoints"][0]), f"it lists {CHECKPOINT} 2 times"),
        (lambda document: document["checkpoints"][0].update(sha256="x"), f"the sha256 of {CHECKPOINT} is 'x'"),
        (lambda document: document.update(wandb=["../.."]), "'../..' does not lie in the run's folder"),
        (lambda document: document.update(wandb=["/etc"]), "'/etc' does not lie in the run's folder"),
    ],
)
def test_a_record_that_ckptman_never_wrote(root: Path, change: Callable[[dict[str, Any]], object], says: str) -> None:
    assert validate(root).findings == ()
    edit_json(root / RUN / "run.json", change)
    result = validate(root)
    assert [(item.code, item.path) for item in result.findings] == [("record-disagrees", f"{RUN}/run.json")]
    assert says in result.findings[0].message


def test_a_record_that_is_no_file(root: Path) -> None:
    file = root / RUN / "run.json"
    file.rename(root.parent / "run.json")
    file.symlink_to(root.parent / "run.json")
    assert codes(validate(root)) == {"bad-record", "outside-link"}
    file.unlink()
    os.mkfifo(file)
    assert codes(validate(root)) == {"bad-record", "special-file"}
    file.unlink()
    file.mkdir()
    assert codes(validate(root)) == {"bad-record", "empty-folder"}


def test_a_link_with_the_suffix_of_a_checkpoint_is_one_only_if_it_leads_to_one(root: Path) -> None:
    (root / RUN / "folder.pt").symlink_to(root.parent, target_is_directory=True)
    assert codes(validate(root)) == {"outside-link"}
    (root.parent / "notes.txt").write_text("no checkpoint")
    (root / RUN / "notes.pt").symlink_to(root.parent / "notes.txt")
    result = validate(root, ignore=["unknown-name", "unrecorded-file"])
    assert {(item.code, item.path) for item in result.findings} == {
        ("outside-link", f"{RUN}/folder.pt"),
        ("outside-link", f"{RUN}/notes.pt"),
        ("bad-checkpoint", f"{RUN}/notes.pt"),
    }


@pytest.mark.parametrize("empty", [True, False])
def test_a_file_that_holds_no_checkpoint_is_one_finding_whatever_it_is_called(root: Path, empty: bool) -> None:
    path = root / RUN / "Final_old.pt"
    if empty:
        path.touch()
    else:  # the control
        write_checkpoint(path, small_config(seed=5))
    found = [item.code for item in validate(root).findings if item.path == f"{RUN}/Final_old.pt"]
    assert found == (["bad-checkpoint"] if empty else ["unrecorded-file"])


def test_no_message_says_a_path_twice(root: Path) -> None:
    (root / RUN / FINAL).write_text("no checkpoint")
    (root / TASK / "overwritten.json").write_text("[]")
    flip_a_weight(root / DYNAMIC_RUN / next(p.name for p in (root / DYNAMIC_RUN).glob("Final*")))
    result = validate(root, deep=True)
    assert codes(result) == {"bad-checkpoint", "bad-record", "bad-crc"}
    assert [item.message for item in result.findings if str(root) in item.message] == []


@pytest.mark.parametrize("in_file", [None, 1337])
def test_a_seed_that_only_the_source_folder_said_is_the_runs(tmp_path: Path, in_file: int | None) -> None:
    settings = small_config(seed=1337, max_iters=100)
    saved = {key: value for key, value in settings.to_dict().items() if key != "seed"}
    saved |= {} if in_file is None else {"seed": in_file}
    folder = tmp_path / "raw" / "len_gen_single_k4" / "task_0006" / "seed_1337" / "saved_models"
    write_checkpoint(folder / name_of(settings), settings, step=100, train_config=saved)
    (row,) = ingest(tmp_path / "raw", tmp_path / "tree", settle=0).placed
    assert row.seed == 1337
    run = (tmp_path / "tree" / row.path).parent
    wrong = {"wrong-run-folder", "config-disagrees", "record-disagrees"}
    assert codes(validate(tmp_path / "tree")) & wrong == set()
    edit_record(run, config=settings.to_dict() | {"seed": 7})  # the control
    assert codes(validate(tmp_path / "tree")) & wrong


@pytest.mark.parametrize("readable", [True, False])
def test_of_a_run_whose_record_cannot_be_read_nothing_is_said_to_be_missing(root: Path, readable: bool) -> None:
    """Also where it is the only one: its record may list what is here under another name."""
    (root / RUN / FINAL).rename(root / RUN / "best.pt")
    for run in [path.parent for path in root.rglob("run.json")]:
        if run != root / RUN:
            shutil.rmtree(run)
    if not readable:
        (root / RUN / "run.json").write_text("{")
    found = codes(validate(root, ignore=["missing-task", "missing-seed", "empty-folder"]))
    assert found == ({"missing-file"} if readable else {"bad-record", "unknown-name"})
