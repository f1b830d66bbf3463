"""What is in the tree already: files and records that are damaged, unusable or there in part."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptman.ingestion.ingesting import IngestResult, ingest
from ckptman.tree.records import OVERWRITTEN_FILE, RUN_FILE, read_overwritten, read_record
from tests.helpers.ingested import RUN, codes, damage, opened_checkpoints, task
from tests.helpers.raw import START, config, snapshot, write_run


@pytest.mark.parametrize("same_size", [False, True])
@pytest.mark.parametrize("known_by", ["its state", "its bytes", "another copy"])
def test_a_damaged_file_of_the_tree_is_not_called_unchanged(
    source: Path, root: Path, tmp_path: Path, known_by: str, same_size: bool
) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    whole = snapshot(root)
    if known_by == "its bytes":
        os.utime(files[0], (START + 1, START + 1))
    elif known_by == "another copy":
        source = Path(shutil.copytree(source, tmp_path / "copy", symlinks=True))
    control = ingest(source, root, checksum=same_size, dry_run=True)
    assert (control.placed, control.refused) == ((), ())
    damage(root / RUN / files[0].name, same_size=same_size)
    damaged = snapshot(root)
    write_run(task(source, 4), config(use_mlp=True), run_id="more")
    result = ingest(source, root, checksum=same_size)
    assert codes(result) == ["tree-file-changed"]
    assert Path(result.refused[0].source).name == files[0].name
    assert {row.task for row in result.placed} == {4}  # the rest goes on
    found = snapshot(root)
    unasked = {path for path in damaged if not path.endswith(RUN_FILE) and found[path] != damaged[path]}
    assert unasked == set()
    (root / RUN / files[0].name).unlink()  # as the fix says
    assert [row.path for row in ingest(source, root).placed] == [f"{RUN}/{files[0].name}"]
    assert snapshot(root)[f"{RUN}/{files[0].name}"] == whole[f"{RUN}/{files[0].name}"]


def test_the_size_of_the_trees_files_is_compared_without_reading_them(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    damage(root / RUN / files[0].name, same_size=False)
    results: list[IngestResult] = []
    assert opened_checkpoints(lambda: results.append(ingest(source, root))) == set()
    assert codes(results[0]) == ["tree-file-changed"]


def cut_json(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def from_the_future(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "schema_version": 2, "more": "that is not known yet"}))


def not_a_file(file: Path) -> None:
    file.rename(file.with_suffix(".kept"))
    file.symlink_to(file.with_suffix(".kept"))


@pytest.mark.parametrize(
    ("change", "fix"), [(cut_json, "move it away"), (from_the_future, "Update ckptman"), (not_a_file, "move it away")]
)
@pytest.mark.parametrize("part", ["whole", "one file is missing"])
def test_an_unusable_record_is_not_replaced(
    source: Path, root: Path, change: Callable[[Path], None], fix: str, part: str
) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    if part != "whole":
        (root / RUN / files[0].name).unlink()
    kept = (root / RUN / RUN_FILE).read_bytes()
    change(root / RUN / RUN_FILE)
    before = snapshot(root)
    write_run(task(source, 4), config(use_mlp=True), run_id="more")
    result = ingest(source, root)
    assert codes(result) == ["bad-record", "bad-record"]
    assert all(fix in item.fix and "elete" not in item.fix for item in result.refused)
    assert ("newer ckptman" in result.refused[0].message) == (change is from_the_future)
    assert {row.task for row in result.placed} == {4}
    assert {path: data for path, data in snapshot(root).items() if path.startswith(RUN)} == before
    assert result.plan.completed == ()
    # Repaired, and moved away, it is none of these.
    (root / RUN / RUN_FILE).unlink()
    assert [str(folder) for folder in ingest(source, root, dry_run=True).plan.completed] == [RUN]
    (root / RUN / RUN_FILE).write_bytes(kept)
    assert codes(ingest(source, root)) == []


def test_completed_runs_are_told(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    assert ingest(source, root).plan.completed == ()
    (root / RUN / RUN_FILE).unlink()
    for dry_run in (True, False):
        result = ingest(source, root, dry_run=dry_run)
        assert result.to_json()["completed"] == [RUN]
    assert (root / RUN / RUN_FILE).is_file()
    assert ingest(source, root).to_json()["completed"] == []


@pytest.mark.parametrize("change", [cut_json, from_the_future, not_a_file])
def test_an_unusable_list_of_overwritten_runs_is_not_replaced(
    source: Path, root: Path, change: Callable[[Path], None]
) -> None:
    for index, seed in enumerate((1337, 2337)):
        write_run(task(source), config(seed=seed), run_id=f"run{seed}", started=START + 1000 * index)
    ingest(source, root)
    file = (root / RUN).with_name(OVERWRITTEN_FILE)
    change(file)
    before = snapshot(root)
    write_run(task(source), config(seed=3337), run_id="run3337", started=START + 3000)
    result = ingest(source, root)
    assert [(Path(item.source).name, item.code != "") for item in result.refused] == [(OVERWRITTEN_FILE, True)]
    assert {path: snapshot(root)[path] for path in before} == before
    assert {row.seed for row in result.placed} == {3337}
    file.unlink()
    assert codes(ingest(source, root)) == []
    assert {run.run_id for run in read_overwritten(file.parent).runs} >= {"run1337"}


def another_runs_record(root: Path, other: str) -> None:
    shutil.copy2(root / other / RUN_FILE, root / RUN / RUN_FILE)


def a_file_of_the_other_run(root: Path, other: str) -> None:
    for file in (root / other).glob("Final_*"):
        file.rename(root / RUN / file.name)


@pytest.mark.parametrize(
    ("change", "values", "number"), [(another_runs_record, {"use_mlp": True}, 4), (a_file_of_the_other_run, {}, 6)]
)
def test_what_lies_in_the_folder_of_another_run_is_not_written_into_its_record(
    source: Path, root: Path, change: Callable[[Path, str], None], values: dict[str, bool], number: int
) -> None:
    first = write_run(task(source) / "a", config(), run_id="first111", files=("Final",) if values else ("Checkpoint",))
    write_run(task(source, number) / "b", config(**values), run_id="second22", started=START + 1000, salt=1)
    ingest(source, root)
    other = "with_layernorm/dynamic/len_gen_k8/task_0004/seed_1337" if values else f"{RUN}-second22"
    change(root, other)
    for file in source.rglob("*.pt"):  # a second source of the same bytes
        shutil.copy2(file, source / f"copy {file.parent.parent.name}{file.name}")
    for folder in list(source.rglob("saved_models")):
        shutil.copytree(folder, folder.parent / "again")
    held = {entry.file for entry in read_record(root / RUN).checkpoints}
    for _ in range(2):
        result = ingest(source, root)
        assert (result.refused, result.plan.overwritten) == ((), ())  # whose files are here is not overwritten
        records = {file.parent: read_record(file.parent) for file in root.rglob(RUN_FILE)}
        assert {entry.file for entry in records[root / RUN].checkpoints} == held
        for folder, record in records.items():
            assert folder == root / RUN or all((folder / entry.file).is_file() for entry in record.checkpoints)
        placed = {entry.sha256 for folder, record in records.items() for entry in record.checkpoints}
        assert {hashlib.sha256(file.read_bytes()).hexdigest() for file in first} <= placed
    assert result.placed == ()
