"""Ingesting second runs of a seed, the same bytes again, and a tree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import load_convention
from ckptman.tree.records import read_record, write_record
from tests.helpers.ingested import RUN, opened_checkpoints, task
from tests.helpers.raw import START, config, gen_metrics, name_of, snapshot, write_checkpoint, write_run

# --- the same again ---------------------------------------------------------------------------------------------------


def overwritten(source: Path) -> None:
    for seed in (1337, 2337):
        write_run(task(source, 2), config(seed=seed), run_id=f"run{seed}", started=START + seed)


def without_wandb(source: Path) -> None:
    write_checkpoint(task(source) / "saved_models" / name_of(config()), config())


def repeated(source: Path) -> None:
    shutil.copy2(write_run(task(source), config(), run_id="abcd1234")[1], task(source))


def cut(source: Path) -> None:
    os.truncate(write_run(task(source), config(), run_id="abcd1234")[1], 100)


@pytest.mark.parametrize(
    ("write", "is_known"), [(overwritten, True), (without_wandb, True), (repeated, False), (cut, False)]
)
def test_an_ingest_knows_what_the_next_one_finds(
    source: Path, root: Path, write: Callable[[Path], None], is_known: bool
) -> None:
    write(source)
    first = ingest(source, root)
    before, again, second = snapshot(root), first.again, ingest(source, root)
    assert (again is not None, ingest(source, root, dry_run=True).again) == (is_known, None)
    if again is not None:
        assert again.to_json() | {"space": None} == second.to_json() | {"space": None}
        assert snapshot(root) == before


# --- second runs, duplicates ------------------------------------------------------------------------------------------


def test_a_second_run_of_the_same_seed_gets_a_folder_of_its_own(source: Path, root: Path, tmp_path: Path) -> None:
    write_run(task(source), config(), run_id="firstrun")
    other = tmp_path / "scratch_b"
    write_run(task(other), config(), run_id="otherrun", salt=1)
    ingest(source, root)
    result = ingest(other, root)
    assert {row.path.rpartition("/")[0] for row in result.placed} == {f"{RUN}-otherrun"}
    assert read_record(root / RUN).run_id == "firstrun"
    assert ingest(source, root).placed == ingest(other, root).placed == ()


@pytest.mark.parametrize("with_wandb_first", [False, True])
def test_a_run_of_which_a_part_was_ingested_without_its_wandb_folder_has_one_folder(
    source: Path, root: Path, tmp_path: Path, with_wandb_first: bool
) -> None:
    write_run(task(source), config(), run_id="firstrun")
    part = tmp_path / "part" / "len_gen_k8" / "task_0006" / "saved_models"
    part.mkdir(parents=True)
    shutil.copy2(task(source) / "saved_models" / name_of(config(), "Checkpoint"), part)
    for each in (source, tmp_path / "part") if with_wandb_first else (tmp_path / "part", source):
        ingest(each, root)
    assert [path.parent for path in root.rglob("run.json")] == [root / RUN]
    assert read_record(root / RUN).run_id == "firstrun"
    assert len(read_record(root / RUN).checkpoints) == 2
    other = tmp_path / "other"  # control: a part of another run stays one of its own
    write_run(task(other), config(), run_id="otherrun", salt=1)
    ingest(other, root)
    assert read_record(root / f"{RUN}-otherrun").run_id == "otherrun"


def test_a_rerun_that_overwrote_is_told_apart_by_time(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="firstrun")
    write_run(task(source), config(), run_id="rerun", started=START + 5000, salt=1)
    result = ingest(source, root)
    assert {row.run_id for row in result.placed} == {"rerun"}
    assert [run.run_id for run in result.plan.overwritten] == ["firstrun"]


def test_a_rerun_whose_times_are_lost_stays_open(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="firstrun")
    files = write_run(task(source), config(), run_id="rerun", started=START + 5000, salt=1)
    for file in files:
        os.utime(file, (START - 9e6, START - 9e6))
    result = ingest(source, root)
    record = read_record(root / RUN)
    assert record.run_id is None
    assert record.attribution.candidates == ("firstrun", "rerun")
    assert len(result.plan.ambiguous) == 2
    assert result.plan.overwritten == ()  # one of them was, but which?


def test_the_same_bytes_again_are_one_file(source: Path, root: Path, tmp_path: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    other = tmp_path / "copy"
    shutil.copytree(source, other, symlinks=True)
    ingest(source, root)
    tree = {path for path in snapshot(root) if path.endswith(".pt")}
    result = ingest(other, root)
    assert result.placed == ()
    assert [(item.source.rpartition("/")[2], item.same_as) for item in result.plan.duplicates] == [
        (Path(path).name, path) for path in sorted(tree)
    ]
    assert {path for path in snapshot(root) if path.endswith(".pt")} == tree
    # The copy is remembered: it is named again, and not read again.
    assert len(ingest(other, root).plan.duplicates) == 2
    assert opened_checkpoints(lambda: ingest(other, root)) == set()


def test_duplicates_within_one_source(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    backup = task(source) / "backup"
    backup.mkdir()
    shutil.copy2(files[1], backup)
    result = ingest(source, root)
    assert len(result.placed) == 2
    assert len(result.plan.duplicates) == 1


def test_an_organized_tree_is_a_source(source: Path, root: Path, tmp_path: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234", metrics=gen_metrics(0.25))
    ingest(source, root)
    evaluated = replace(read_record(root / RUN), evaluations=({"gen_em": 0.5},))
    write_record(root / RUN, evaluated)
    second = tmp_path / "second"
    result = ingest(root, second)
    assert {row.run_id for row in result.placed} == {"abcd1234"}
    record = read_record(second / RUN)
    assert (record.metrics["gen/K17/exact_match_acc"], record.evaluations) == (0.25, evaluated.evaluations)
    assert result.refused == ()


def test_a_tree_as_source_tells_what_was_overwritten(source: Path, root: Path, tmp_path: Path) -> None:
    for seed in (1337, 2337):
        write_run(task(source, 2), config(seed=seed), run_id=f"run{seed}", started=START + seed)
    first = ingest(source, root)
    second = tmp_path / "second"
    for _ in range(2):
        told = ingest(root, second, convention=load_convention(numbering="merged")).plan.overwritten
        assert [(run.run_id, run.task, run.source_task) for run in told] == [("run1337", 2, 2)]
    assert told[0].metrics == first.plan.overwritten[0].metrics
    assert (second / "with_layernorm/dynamic/len_gen_k8/task_0002/overwritten.json").is_file()


def test_a_source_is_the_same_by_whatever_way_it_is_reached(
    source: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    assert len(ingest(source, root).placed) == 2
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(task(source))
    for way in (
        tmp_path / "link",
        f"{source}/",
        source / ".." / source.name,
        "../..",
        ".",
        "../task_0006/saved_models",
    ):
        again = ingest(way, root)
        assert (again.placed, again.plan.duplicates, len(again.plan.unchanged)) == ((), (), 2), way


def test_a_tree_sorted_by_hand_is_a_source(source: Path, root: Path) -> None:
    folder = source / "with_layernorm" / "dynamic" / "len_gen_k8" / "task_0002"
    write_checkpoint(folder / name_of(config()), config())
    result = ingest(source, root)
    assert [row.path for row in result.placed] == [f"{RUN}/{name_of(config())}"]
    assert [(item.task, item.source_task) for item in result.plan.renumbered] == [(6, 2)]


def test_a_source_that_was_moved_is_known_again_beside_a_new_copy_in_it(source: Path, root: Path) -> None:
    file = write_run(task(source), config(), run_id="abcd1234")[1]
    ingest(source, root)
    (source / "again").mkdir()
    copied = Path(shutil.copy2(file, source / "again"))
    moved = source.rename(source.with_name("moved"))
    first = ingest(moved, root)
    assert [item.source for item in first.plan.duplicates] == [str(copied.relative_to(source))]
    held = snapshot(root)
    second = ingest(moved, root)
    assert second.plan.duplicates == first.plan.duplicates
    assert snapshot(root) == held
    shutil.copytree(moved, source)  # where the old place is there too, each is a second one
    assert len(ingest(moved, root).plan.duplicates) == 3
