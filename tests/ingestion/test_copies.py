"""Copies of checkpoints beside the originals: what says which run wrote them, whatever the folders are called."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptman.ingestion import IngestResult, ingest
from tests.helpers.raw import START, config, write_checkpoint, write_run

NOW = START + 9_000_000
NAMES = ("backup", "len_gen_k8", "zz_backup")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def permuted(source: Path) -> Iterator[tuple[Path, Path, Path]]:
    """The source's three folders under every permutation of their names, one after the other."""
    for order in itertools.permutations(NAMES):
        shutil.rmtree(source, ignore_errors=True)
        yield tuple(source / name for name in order)  # type: ignore[misc]


def copy(file: Path, folder: Path, *, at: float = NOW) -> Path:
    """A copy with another time, as `cp -r` makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(shutil.copy(file, folder))
    os.utime(made, (at, at))
    return made


def told(source: Path, root: Path) -> tuple[set[tuple[str | None, str, str]], IngestResult]:
    shutil.rmtree(root, ignore_errors=True)
    result = ingest(source, root)
    assert not result.refused
    return {(row.run_id, row.kind, Path(row.path).parent.name) for row in result.placed}, result


def test_a_backup_takes_nothing_from_the_run(source: Path, tmp_path: Path) -> None:
    for group, backup, _ in permuted(source):
        files = write_run(group / "task_0006", config(), run_id="abcd1234")
        copies = [copy(file, backup / "saved_models") for file in files[1:]]
        placed, result = told(source, tmp_path / "tree")
        assert placed == {("abcd1234", "Checkpoint", "seed_1337"), ("abcd1234", "Final", "seed_1337")}
        assert [item.source for item in result.plan.duplicates] == [str(copies[0].relative_to(source))]
        assert {row.source for row in result.placed} == {str(file.relative_to(source)) for file in files}


@pytest.mark.parametrize("at", [NOW, START + 1_100.0], ids=["time lost", "copied while the rerun ran"])
def test_a_rerun_and_what_it_overwrote(source: Path, tmp_path: Path, at: float) -> None:
    for group, old, new in permuted(source):
        first = write_run(group / "task_0006", config(), run_id="first111")
        copy(first[1], old, at=at)
        rerun = write_run(group / "task_0006", config(), run_id="rerun222", started=START + 1_000, salt=1)
        for file in rerun:
            copy(file, new)
        placed, result = told(source, tmp_path / "tree")
        assert placed == {
            ("first111", "Final", "seed_1337"),
            ("rerun222", "Checkpoint", "seed_1337-rerun222"),
            ("rerun222", "Final", "seed_1337-rerun222"),
        }
        assert len(result.plan.duplicates) == 2
        assert not result.plan.ambiguous


def test_of_copies_in_two_runs_folders_the_earliest_that_fits_tells(source: Path, tmp_path: Path) -> None:
    for one, other, _ in permuted(source):
        first = write_run(one / "task_0006", config(), run_id="first111", files=("Final",))
        write_run(
            other / "task_0006", config(), run_id="rerun222", started=START + 1_000, files=("Checkpoint",), salt=1
        )
        copy(first[0], other / "task_0006" / "saved_models", at=START + 1_200)
        placed, _ = told(source, tmp_path / "tree")
        assert {(run, kind) for run, kind, _ in placed} == {("first111", "Final"), ("rerun222", "Checkpoint")}
        # The control: with the times lost, both folders speak for their own run.
        for file in source.rglob("*.pt"):
            os.utime(file, (NOW, NOW))
        placed, result = told(source, tmp_path / "tree")
        assert (None, "Final") in {(run, kind) for run, kind, _ in placed}
        assert [row.kind for row in result.plan.ambiguous] == ["Final"]


def test_a_run_without_wandb_is_not_split_by_a_backup(source: Path, tmp_path: Path) -> None:
    for group, backup, _ in permuted(source):
        files = [
            write_checkpoint(group / "task_0006" / "saved_models" / name, config(), step=step, saved_at=START + step)
            for name, step in (
                ("Checkpoint_N128_d8_H1_L1_npos1_mlp0_ln1_lenmix_trainK2to8_testK17to32_nodup1_iters20001.pt", 20001),
                ("Final_N128_d8_H1_L1_npos1_mlp0_ln1_lenmix_trainK2to8_testK17to32_nodup1_iters40000.pt", 40000),
            )
        ]
        copy(files[1], backup, at=START)
        placed, _ = told(source, tmp_path / "tree")
        assert placed == {(None, "Checkpoint", "seed_1337"), (None, "Final", "seed_1337")}


def test_of_files_that_no_time_tells_apart_the_folders_names_decide_nothing(source: Path, tmp_path: Path) -> None:
    found = set()
    for one, other, _ in permuted(source):
        for number, (folder, run_id) in enumerate(((one, "first111"), (other, "rerun222"))):
            files = write_run(folder / "task_0006", config(), run_id=run_id, started=START + 1_000 * number,
                              salt=number, wandb_home=source / "wandb_of_all")  # fmt: skip
            for file in files:
                os.utime(file, (NOW, NOW))
        root = tmp_path / "tree"
        _, result = told(source, root)
        assert len(result.plan.ambiguous) == 4
        found.add(tuple((row.path, row.sha256) for row in result.placed))
    assert len(found) == 1


def test_a_copy_outside_of_any_task_is_one_and_is_not_refused(source: Path, tmp_path: Path) -> None:
    """A group of no known pattern takes its tasks from folders: those of a backup say none, or others."""
    for folders, where in ((f, w) for f in permuted(source) for w in ("", "kept", "task_0001/saved_models")):
        shutil.rmtree(source, ignore_errors=True)
        group, backup, _ = folders
        files = write_run(group / "task_0006", config(wandb_group="mine"), run_id="abcd1234")
        copy(files[1], backup / where)
        placed, result = told(source, tmp_path / "tree")
        assert placed == {("abcd1234", "Checkpoint", "seed_1337"), ("abcd1234", "Final", "seed_1337")}
        assert len(result.plan.duplicates) == 1
        assert {row.task for row in result.placed} == {6}
        shutil.rmtree(group)
        assert not ingest(source, tmp_path / "tree").refused  # of what the tree has
    alone = ingest(source, tmp_path / "other").refused  # the control: here nothing says the task
    assert [item.code for item in alone] == []


OTHER_NAMES = (
    "best.pt", "Copy of {}.pt", "{} (1).pt", "{} - Copy.pt", "{}.sync-conflict-20260310-120000-ABCDEFG.pt", "a\nb.pt",
)  # fmt: skip


def test_a_copy_of_another_name_is_one_and_is_not_refused(source: Path, tmp_path: Path) -> None:
    files = write_run(source / "len_gen_k8" / "task_0006", config(), run_id="abcd1234")
    copies = [files[1].with_name(name.format(files[1].stem)) for name in OTHER_NAMES]
    for path in copies:
        shutil.copy2(files[1], path)
    other = write_checkpoint(files[1].with_name("best_of_all.pt"), config(), salt=1)  # the control: bytes of its own
    root = tmp_path / "tree"
    result = ingest(source, root)
    assert [item.source for item in result.refused] == [str(other.relative_to(source))]
    assert [row.source for row in result.placed] == [str(file.relative_to(source)) for file in files]
    assert {item.source for item in result.plan.duplicates} == {str(path.relative_to(source)) for path in copies}
    again = ingest(source, root)
    assert (len(again.placed), len(again.refused), len(again.plan.duplicates)) == (0, 1, len(copies))
    for path in (*files, other):
        path.unlink()
    left = ingest(source, root, mode="move")  # what the tree has is known by its bytes
    assert (left.refused, left.placed) == ((), ())
    assert not any(path.exists() for path in copies)
    shutil.rmtree(root)
    assert [item.code for item in ingest(source, root).refused] == []


def test_what_the_tree_knows_of_the_same_bytes_tells_who_lost_files_in_a_copy(source: Path, tmp_path: Path) -> None:
    """A git clone's times tell nothing, and the tree has read the files with their own."""
    for number, run_id in enumerate(("first111", "rerun222")):
        write_run(source / "len_gen_k8/task_0006", config(), run_id=run_id, started=START + 1_000 * number, salt=number)
    root, clone = tmp_path / "tree", tmp_path / "clone"
    first = ingest(source, root)
    shutil.copytree(source, clone)
    for file in clone.rglob("*.pt"):
        os.utime(file, (NOW, NOW))
    for result in (first, ingest(clone, root)):
        assert [(run.run_id, run.overwritten_by) for run in result.plan.overwritten] == [("first111", ("rerun222",))]
    # The control: to a tree that knows nothing, either may have written them.
    alone = ingest(clone, tmp_path / "other").plan
    assert (alone.overwritten, len(alone.ambiguous)) == ((), 2)


def test_a_run_that_is_no_candidate_has_lost_its_files_whoever_wrote_them(source: Path, tmp_path: Path) -> None:
    """The set of keys rules the first out; which of the reruns it was, no time tells."""
    folder = source / "len_gen_k8/task_0006"
    for number, more in enumerate(({}, {"use_xavier_init": True}, {"use_xavier_init": True})):
        files = write_run(
            folder, config(), run_id=f"run{number}", started=START + 1_000 * number, salt=number, more=more
        )
    for file in files:
        os.utime(file, (NOW, NOW))
    plan = ingest(source, tmp_path / "tree").plan
    assert ([run.run_id for run in plan.overwritten], plan.without_files) == (["run0"], ())
    assert {row.path: row.run_id for row in plan.ambiguous}.keys() == {row.path for row in plan.placed}


@pytest.mark.parametrize(("late", "told"), [(100, None), (299, "rerun222")])
def test_a_final_file_that_was_kept_from_a_rerun_as_it_began_is_not_said_to_be_the_reruns(
    source: Path, tmp_path: Path, late: float, told: str | None
) -> None:
    """A copy has the time at which it was made; that of a run's end lies near its end."""
    folder, kept = source / "len_gen_k8/task_0006", source / "kept"
    files = write_run(folder, config(), run_id="first111")
    copy(files[1], kept, at=START + 1_000 + late)
    write_run(folder, config(), run_id="rerun222", started=START + 1_000, salt=1)
    write_run(folder, config(seed=7), run_id="later333", started=START + 2_000)  # which wrote over its files
    found = {row.source: row.run_id for row in ingest(source, tmp_path / "tree").placed}
    assert found[str((kept / files[1].name).relative_to(source))] == told
