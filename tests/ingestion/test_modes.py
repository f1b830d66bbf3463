"""Copies, links and moves; a source is removed only once the tree has it whole."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ckptman.fs import Mode, moving
from ckptman.ingestion.ingesting import ingest
from ckptman.tree.records import RUN_FILE, read_record
from tests.helpers.failing_calls import replace_os
from tests.helpers.ingested import RUN, codes, damage, opened_checkpoints, task
from tests.helpers.raw import START, config, snapshot, write_checkpoint, write_run

# --- modes ------------------------------------------------------------------------------------------------------------


def test_hard_links_warn(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    result = ingest(source, root, mode="hardlink")
    assert (root / RUN / files[0].name).samefile(files[0])
    assert "source" in result.warnings[0]
    assert ingest(source, root, mode="hardlink").placed == ()
    assert opened_checkpoints(lambda: ingest(source, root)) == set()


def test_symbolic_links(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root, mode="symlink")
    assert (root / RUN / files[0].name).readlink() == files[0]
    assert opened_checkpoints(lambda: ingest(source, root)) == set()


def test_move_takes_the_source_away_once_it_is_in_the_tree(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    bytes_before = [file.read_bytes() for file in files]
    ingest(source, root, mode=Mode.MOVE)
    assert [file.exists() for file in files] == [False, False]
    assert [(root / RUN / file.name).read_bytes() for file in files] == bytes_before
    again = ingest(source, root, mode=Mode.MOVE)
    assert again.placed == ()
    assert (again.plan.without_files, again.plan.overwritten) == ((), ())


@pytest.mark.parametrize("placed_as", [Mode.COPY, Mode.HARDLINK])
@pytest.mark.parametrize("known_by", ["its state", "another copy", "no run.json"])
def test_move_takes_away_what_is_in_the_tree_already(
    source: Path, root: Path, tmp_path: Path, placed_as: Mode, known_by: str
) -> None:
    """As after a copy, or a move that was killed before it took the sources away."""
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root, mode=placed_as)
    if known_by == "another copy":
        other = Path(shutil.copytree(source, tmp_path / "copy", symlinks=True))
        files, source = [other / file.relative_to(source) for file in files], other
    elif known_by == "no run.json":
        (root / RUN / RUN_FILE).unlink()
    tree = snapshot(root)
    dry = ingest(source, root, mode=Mode.MOVE, dry_run=True)
    assert all(file.exists() for file in files)
    result = ingest(source, root, mode=Mode.MOVE)
    assert not any(file.exists() for file in files)
    said = [{**one.to_json(), "dry_run": False, "space": None} for one in (dry, result)]  # free space changes by itself
    assert said[0] == said[1]
    assert result.to_json()["removed"] == [
        {"source": str(file.relative_to(source)), "same_as": f"{RUN}/{file.name}"} for file in files
    ]
    assert (result.placed, result.refused) == ((), ())
    assert {path: data for path, data in snapshot(root).items() if path.endswith(".pt")} == {
        path: data for path, data in tree.items() if path.endswith(".pt")
    }
    assert (root / RUN / RUN_FILE).is_file()


def unsynced_at_removal(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[set[Path]]:
    """Move, and return for each source that went what of the tree's path to it was not on the disk for sure."""
    synced: set[int] = set()
    missing: list[set[Path]] = []
    tree_has = {file.name: file for file in root.rglob("*.pt")}

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        os.fsync(descriptor)

    def unlink(path: Any, **options: Any) -> None:
        if (file := tree_has.get(Path(path).name)) is not None:  # no temporary one
            way = {file, *(above for above in file.parents if above.is_relative_to(root))}
            missing.append({part for part in way if part.stat().st_ino not in synced})
        os.unlink(path, **options)

    with monkeypatch.context() as patch:
        replace_os(patch, fsync=fsync, unlink=unlink)
        ingest(source, root, mode=Mode.MOVE)
    return missing


@pytest.mark.parametrize("with_record", [True, False])
def test_before_a_source_goes_what_the_tree_had_already_is_on_the_disk(
    source: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_record: bool
) -> None:
    """As after `cp -r` of a tree, which waits for no disk."""
    write_run(task(source), config(), run_id="abcd1234")
    ingest(source, tmp_path / "first")
    copy = Path(shutil.copytree(tmp_path / "first", root))
    if not with_record:
        (copy / RUN / RUN_FILE).unlink()
    assert unsynced_at_removal(source, root, monkeypatch) == [set(), set()]
    assert not list(source.rglob("*.pt"))


def test_the_search_for_what_is_not_on_the_disk_can_find_it(
    source: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    ingest(source, tmp_path / "first")
    shutil.copytree(tmp_path / "first", root)
    monkeypatch.setattr(moving, "_sync_kept", lambda *_: None)
    found = unsynced_at_removal(source, root, monkeypatch)
    assert [len([part for part in missing if part.suffix == ".pt"]) for missing in found] == [1, 1]


def test_only_a_move_takes_away(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    for mode in (Mode.COPY, Mode.COPY, Mode.HARDLINK, Mode.SYMLINK):
        assert ingest(source, root, mode=mode).removed == ()
    assert all(file.exists() for file in files)


def test_a_move_takes_away_a_second_copy_of_what_it_places(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    (task(source) / "backup").mkdir()
    copies = [Path(shutil.copy2(file, task(source) / "backup")) for file in files]
    copies.append(task(source) / "backup" / "more" / files[1].name)
    copies[-1].parent.mkdir()
    copies[-1].hardlink_to(files[1])
    result = ingest(source, root, mode=Mode.MOVE)
    assert (len(result.placed), len(result.removed), result.refused) == (2, 3, ())
    assert not any(file.exists() for file in (*files, *copies))
    assert ingest(root, root.with_name("second"), dry_run=True, checksum=True).refused == ()


@pytest.mark.parametrize("changes", [False, True])
def test_a_move_keeps_the_second_copy_of_what_it_could_not_place(source: Path, root: Path, changes: bool) -> None:
    write_run(task(source, 4), config(use_mlp=True), run_id="first")
    [file] = write_run(task(source), config(), run_id="abcd1234", files=("Final",))
    (task(source) / "a_copy").mkdir()
    copy = Path(shutil.copy2(file, task(source) / "a_copy"))  # the first by path, but not in the run's own folder

    def write(stage: str, done: int, total: int) -> None:
        if changes and stage == "placing" and copy.stat().st_mtime == file.stat().st_mtime:
            write_checkpoint(file, config(), salt=1, saved_at=START + 1)

    result = ingest(source, root, mode=Mode.MOVE, progress=write)
    assert [item.code for item in result.deferred] == ["changed-while-read"] * changes
    assert (file.exists(), copy.exists()) == (changes, changes)
    assert (len(result.removed), result.refused) == (0 if changes else 1, ())


def test_move_keeps_a_source_that_the_tree_has_not_got_whole(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    damage(root / RUN / files[0].name, same_size=True)
    result = ingest(source, root, mode=Mode.MOVE)
    assert codes(result) == ["tree-file-changed"]
    assert [file.exists() for file in files] == [True, False]


def test_move_keeps_a_source_that_the_tree_only_links_to(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root, mode=Mode.SYMLINK)
    for dry_run in (True, False):
        result = ingest(source, root, mode=Mode.MOVE, dry_run=dry_run)
        assert codes(result) == ["source-kept", "source-kept"]
        assert result.removed == ()
    assert all(file.exists() for file in files)


def test_move_keeps_a_source_that_changes_meanwhile(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    module = importlib.import_module("ckptman.ingestion.ingesting")
    plan = module.make_plan

    def slow_plan(*arguments: Any, **options: Any) -> Any:
        made = plan(*arguments, **options)
        write_checkpoint(files[0], config(), salt=5, saved_at=START + 1)
        return made

    monkeypatch.setattr(module, "make_plan", slow_plan)
    result = ingest(source, root, mode=Mode.MOVE)
    assert codes(result) == ["source-kept"]
    assert [file.exists() for file in files] == [True, False]


def test_with_wandb_keeps_the_runs_folder(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    assert not (root / RUN / "wandb").exists()
    result = ingest(source, root, with_wandb=True)
    kept = root / RUN / "wandb" / "run-20260310_000000-abcd1234"
    there = source / "len_gen_k8/task_0006/wandb/wandb/run-20260310_000000-abcd1234"
    assert snapshot(kept) == snapshot(there)
    assert len(result.wandb_placed) == 4
    assert read_record(root / RUN).wandb == ("wandb/run-20260310_000000-abcd1234",)
    assert ingest(source, root, with_wandb=True).wandb_placed == ()
    # A W&B file that changed is named, and the kept one stays.
    (there / "files" / "wandb-summary.json").write_text("{}")
    os.utime(there / "files" / "wandb-summary.json", (START, START))
    before = snapshot(kept)
    assert codes(ingest(source, root, with_wandb=True)) == ["wandb-changed"]
    assert snapshot(kept) == before
