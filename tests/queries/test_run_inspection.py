"""`show` of a run: by its folder, its id, or group, task and seed; what means several runs, or none, is told so."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptman.queries.run_inspection import show_run
from ckptman.text.errors import UsageError
from tests.helpers.recorded import add_overwritten
from tests.helpers.trees import RUN, make_tree, small_config


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_tree(tmp_path_factory.mktemp("runs"), [small_config(), small_config(seed=2337)])
    other = root / RUN.replace("seed_1337", "seed_2337")
    for more in ("a", "b"):  # as two runs of one seed lie there whose configurations differ
        copied = other.with_name(f"seed_3337-{more}")
        copied.mkdir()
        for file in other.iterdir():
            (copied / file.name).write_bytes(file.read_bytes())
    return root


def test_a_run_is_found_by_folder_id_and_group_task_seed(root: Path) -> None:
    shown = show_run(str(root / RUN), root)
    _, _, group, task, seed = RUN.split("/")
    number = int(task.removeprefix("task_"))
    names = [f"{group}/{task}/{seed}", f"{group}/{number}/1337", f"{number}/1337", RUN]
    assert [show_run(name, root).folder for name in names] == [shown.folder] * 4
    assert str(shown.folder) == RUN
    assert len(shown.here) == 2


def test_a_checkpoint_that_is_a_link_is_there_where_its_target_is(root: Path) -> None:
    file = next((root / RUN).glob("Final*"))
    moved = file.rename(root.parent / "moved.pt")
    file.symlink_to(moved)
    assert file.name in show_run(RUN, root).here
    moved.rename(away := root.parent / "away.pt")
    assert file.name not in show_run(RUN, root).here
    assert len(show_run(RUN, root).here) == 1
    file.unlink()
    away.rename(file)


def test_several_runs_of_a_seed_are_named(root: Path) -> None:
    task = RUN.rpartition("/")[0]
    for name in (f"{task}/3337", f"{task}/seed_3337"):
        with pytest.raises(UsageError, match="may be each of 2 runs") as error:
            show_run(name, root)
        assert error.value.code == "several-runs"
        assert "seed_3337-a" in error.value.message
        assert "seed_3337-b" in error.value.message
    assert show_run(f"{task}/seed_3337-a", root).folder.name == "seed_3337-a"


@pytest.mark.parametrize("name", ["7/333", "len_gen_k8/seed_9", "nothing", "a/b/c/d/e/f/g/h"])
def test_no_run_is_told_so(root: Path, name: str) -> None:
    with pytest.raises(UsageError) as error:
        show_run(name, root)
    assert error.value.code == "no-run"


def test_a_run_that_was_overwritten_is_told_so(root: Path) -> None:
    add_overwritten(root, small_config(seed=42), by="later000")
    _, _, group, task, _ = RUN.split("/")
    for name in ("lost42", f"{group}/{task}/seed_42", f"{group}/{int(task.removeprefix('task_'))}/42"):
        with pytest.raises(UsageError, match="checkpoints here: later000 wrote over them") as error:
            show_run(name, root)
        assert "overwritten.json" in error.value.fix
    with pytest.raises(UsageError, match="is no file, and no run") as error:  # the control
        show_run(f"{group}/{task}/seed_43", root)
    assert error.value.fix.endswith(f": ckptman ls {root}"), "the tree need not be where the command finds one"
