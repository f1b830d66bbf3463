"""`migrate`: a tree moves to what the convention says now, and back; nothing changes but paths and records."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ckptman.checks.validation import validate
from ckptman.documents.reporting import report
from ckptman.fs import moving
from ckptman.ingestion.assigning import assign
from ckptman.ingestion.ingesting import ingest
from ckptman.ingestion.migrating import MigrateResult, migrate
from ckptman.rules import Convention
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.text import RefusedError
from ckptman.tree.records import MIGRATIONS, read_record, read_refused, write_record
from tests.helpers import trees
from tests.helpers.raw import START, config, write_run

CONFIGS = [
    config(4, n_layers=layers, use_mlp=mlp, seed=seed, train_min_k=2, wandb_group="len_gen_k4")
    for layers in (2, 1)
    for mlp in (True, False)
    for seed in (1337, 2337)
]
Held = dict[str, tuple[bytes, int, int]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    trees.make_tree(folder, CONFIGS)
    return folder


@pytest.fixture
def tree(made: Path, tmp_path: Path) -> Path:
    root = tmp_path / "checkpoints"
    shutil.copytree(made / "checkpoints", root)
    return root


def rules(tmp_path: Path, text: str) -> Convention:
    file = tmp_path / "rules" / "ckptman.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return load_convention(file)


def held(root: Path) -> Held:
    """Bytes, time and inode of every file of the tree."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(root.rglob("*"))
        if path.is_file() and MIGRATIONS not in path.parts
    }


def weights(root: Path) -> set[tuple[bytes, int, int]]:
    return {value for name, value in held(root).items() if name.endswith(".pt")}


def found(root: Path, convention: Convention) -> set[str]:
    return {item.code for item in validate(root, convention=convention, deep=True).findings}


MERGED = load_convention(numbering="merged")
TAGS = """
name:
  fields:
    d: null
    width: {config: n_embd, type: int, title: Width, after: N}
  examples:
    - Final_N128_width128_H1_L1_npos1_mlp0_ln1_lenmix_trainK4to4_testK17to32_nodup1_iters40000.pt
"""
LEVELS = """
facets: {depth: {config: n_layers, title: Layers}}
tree: ["{group}", "L{depth}", "{regime}", "task_{task:04d}", "run_{seed}"]
"""
RENAMED = """
groups:
  "len_gen_k{K}": null
  "dynamic_k{K}": {layernorm: true, regime: dynamic, grid: main, example: dynamic_k8, was: "len_gen_k{K}"}
"""
SPLIT = """
facets: {depth: {config: n_layers, title: Layers, values: {one: {is: 1}, two: {is: 2}}}}
groups:
  "len_gen_k{K}": null
  "one_k{K}": {depth: one, layernorm: true, regime: dynamic, grid: main, example: one_k8, was: "len_gen_k{K}"}
  "two_k{K}": {depth: two, layernorm: true, regime: dynamic, grid: main, example: two_k8, was: ["len_gen_k{K}"]}
"""
CONVENTIONS: dict[str, Callable[[Path], Convention]] = {
    "numbering": lambda folder: MERGED,
    "a field of names": lambda folder: rules(folder, TAGS),
    "levels": lambda folder: rules(folder, LEVELS),
    "a group renamed": lambda folder: rules(folder, RENAMED),
    "a group split": lambda folder: rules(folder, SPLIT),
    "fewer levels": lambda folder: rules(folder, "tree: ['{group}', 'task_{task:04d}', 'seed_{seed}']"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVENTIONS)
def test_there_and_back_is_the_identity(tree: Path, tmp_path: Path, name: str) -> None:
    other, before = CONVENTIONS[name](tmp_path), held(tree)
    usual = found(tree, built_in())
    there = migrate(tree, convention=other)
    assert there.problems == ()
    assert len(there.runs) > 0
    after = held(tree)
    assert after.keys() != before.keys()
    assert weights(tree) == {value for key, value in before.items() if key.endswith(".pt")}
    assert found(tree, other) - {"missing-configuration"} <= usual
    for run in tree.rglob("run.json"):
        for entry in read_record(run.parent).checkpoints:
            assert (run.parent / entry.file).is_file()
    back = migrate(tree, convention=built_in())
    assert back.problems == ()
    assert held(tree) == before
    assert found(tree, built_in()) == usual
    again = migrate(tree, convention=other)  # and there again
    assert again.problems == ()
    assert held(tree) == after
    assert migrate(tree, convention=other).runs == ()  # where nothing is to be done
    assert held(tree) == after


@pytest.mark.parametrize("name", sorted(CONVENTIONS.keys() - {"a field of names"}))
def test_a_migrated_tree_is_what_ingest_makes_of_the_source(tree: Path, made: Path, tmp_path: Path, name: str) -> None:
    other = CONVENTIONS[name](tmp_path)
    migrate(tree, convention=other)
    fresh = tmp_path / "fresh"
    assert ingest(made / "grid_outputs", fresh, convention=other, settle=0).refused == ()
    assert held(tree).keys() == held(fresh).keys()
    for run in fresh.rglob("run.json"):
        mine, its = read_record(tree / run.relative_to(fresh).parent), read_record(run.parent)
        assert (mine.group, mine.family, mine.task, mine.seed) == (its.group, its.family, its.task, its.seed)
    again = ingest(made / "grid_outputs", tree, convention=other, settle=0)
    assert (again.placed, again.refused, len(again.plan.unchanged)) == ((), (), 2 * len(CONFIGS))


@pytest.mark.parametrize("name", CONVENTIONS)
def test_undo_is_the_identity_and_leaves_nothing(tree: Path, tmp_path: Path, name: str) -> None:
    before = held(tree)
    migrate(tree, convention=CONVENTIONS[name](tmp_path))
    assert held(tree) != before
    result = migrate(tree, convention=CONVENTIONS[name](tmp_path), undo=True)
    assert held(tree) == before
    assert not (tree / MIGRATIONS).exists()
    assert {moved.new for moved in result.moves} <= {str(path.relative_to(tree)) for path in tree.rglob("seed_*")}
    with pytest.raises(RefusedError, match="no migration"):
        migrate(tree, undo=True)


def test_a_dry_run_says_what_is_done_and_does_nothing(tree: Path) -> None:
    before = held(tree)
    planned = migrate(tree, convention=MERGED, dry_run=True)
    assert held(tree) == before
    assert not (tree / MIGRATIONS).exists()
    done = migrate(tree, convention=MERGED)
    assert (planned.moves, planned.renamed) == (done.moves, done.renamed)
    assert [(run.old, run.new, run.files) for run in planned.runs] == [
        (run.old, run.new, run.files) for run in done.runs
    ]
    assert all(not (tree / moved.old).exists() and (tree / moved.new).exists() for moved in done.moves)


def test_the_map_is_kept_in_the_tree(tree: Path) -> None:
    before = {path.relative_to(tree) for path in tree.rglob("*.pt")}
    result = migrate(tree, convention=MERGED)
    assert result.map is not None
    document = json.loads((tree / result.map).read_text())
    files = {item["old"]: item["new"] for run in document["runs"] for item in run["files"]}
    assert {str(path) for path in before} == set(files)
    assert all((tree / path).is_file() for path in files.values())


def test_runs_of_one_place_are_told_apart_as_ingest_does(tmp_path: Path, made: Path) -> None:
    """Without MLP in the numbering or the notes, two runs of a seed would have one folder."""
    text = "grids: {main: {regimes: {dynamic: {axes: [n_layers, length_mode]}}, numberings: {full: {}, merged: null}}}"
    other = rules(tmp_path, text)
    root = tmp_path / "migrated"
    shutil.copytree(made / "checkpoints", root)
    result = migrate(root, convention=other)
    assert result.problems == ()
    fresh = tmp_path / "fresh"
    ingest(made / "grid_outputs", fresh, convention=other, settle=0)
    assert {moved.new for moved in result.moves} <= {
        str(path.parent.relative_to(fresh)) for path in fresh.rglob("*.pt")
    }
    assert "with_layernorm/dynamic/len_gen_k4/task_0000/seed_1337-mlp0" in {moved.new for moved in result.moves}
    assert found(root, other) == found(fresh, other)
    migrate(root, undo=True)
    assert migrate(root, convention=built_in()).runs == ()


# --- what cannot be migrated ------------------------------------------------------------------------------------------


def refused(result: MigrateResult) -> list[str]:
    return sorted({item.code for item in result.problems})


def test_a_run_without_a_place_keeps_all_runs_where_they_are(tree: Path, tmp_path: Path) -> None:
    run = next(tree.rglob("seed_1337"))
    trees.edit_record(run, config={"n_layers": 7})
    before = held(tree)
    result = migrate(tree, convention=MERGED)
    assert [item.path for item in result.problems] == [str(run.relative_to(tree))]
    assert "n_layers" in result.problems[0].message
    assert held(tree) == before
    trees.edit_record(run, config={"n_layers": 2})
    assert migrate(tree, convention=MERGED).problems == ()


def test_a_broken_record_keeps_all_runs_where_they_are(tree: Path) -> None:
    run = next(tree.rglob("seed_1337"))
    text = (run / "run.json").read_text()
    (run / "run.json").write_text("{")
    assert refused(migrate(tree, convention=MERGED)) == ["bad-record"]
    (run / "run.json").write_text(text)
    assert migrate(tree, convention=MERGED).problems == ()


def test_a_name_that_says_less_than_two_files_need_is_refused(tree: Path, tmp_path: Path) -> None:
    text = TAGS + "  prefixes: {Checkpoint: null}\n  # \n"
    other = rules(tmp_path, text)
    run = next(tree.rglob("seed_1337"))
    trees.edit_json(run / "run.json", lambda doc: [entry.update(step=40000) for entry in doc["checkpoints"]])
    assert refused(migrate(tree, convention=other, dry_run=True)) == ["taken"]


def test_what_stands_in_the_way_is_not_replaced(tree: Path) -> None:
    target = migrate(tree, convention=MERGED, dry_run=True).moves[0].new
    (tree / target).mkdir(parents=True)
    (tree / target / "notes.txt").write_text("mine")
    before = held(tree)
    result = migrate(tree, convention=MERGED)
    assert (refused(result), "something else is there" in result.problems[0].message) == (["taken"], True)
    assert held(tree) == before
    shutil.rmtree(tree / target)
    assert migrate(tree, convention=MERGED).problems == ()


def test_files_of_no_run_stay_and_files_in_a_run_go_with_it(tree: Path) -> None:
    move = migrate(tree, convention=MERGED, dry_run=True).moves[0]
    (tree / move.old / "notes.txt").write_text("of this run")
    (tree / move.old).parent.joinpath("stray.txt").write_text("of no run")
    (tree / "README.md").write_text("of the tree")
    result = migrate(tree, convention=MERGED)
    assert result.left == (str(Path(move.old).parent / "stray.txt"),)
    assert (tree / move.new / "notes.txt").read_text() == "of this run"
    assert (Path(tree / move.old).parent / "stray.txt").exists()
    migrate(tree, convention=MERGED, undo=True)
    assert (tree / move.old / "notes.txt").exists()


def test_what_was_written_since_is_not_undone_but_goes_back(tree: Path) -> None:
    before = held(tree)
    moved = migrate(tree, convention=MERGED).moves[0]
    note: dict[str, Any] = {"file": next((tree / moved.new).glob("Final*")).name, "mode": "teacher-forced"}
    trees.edit_record(tree / moved.new, evaluations=[note])
    with pytest.raises(RefusedError) as caught:
        migrate(tree, undo=True)
    assert caught.value.code == "changed"
    assert migrate(tree, convention=built_in()).problems == ()
    assert held(tree).keys() == before.keys()
    assert read_record(tree / moved.old).evaluations == (note,)


def test_a_name_that_changes_is_changed_in_evaluations_too(tree: Path, tmp_path: Path) -> None:
    run = next(tree.rglob("seed_1337"))
    note = {"file": next(run.glob("Final*")).name, "mode": "teacher-forced"}
    trees.edit_record(run, evaluations=[note])
    migrate(tree, convention=rules(tmp_path, TAGS))
    assert [item["file"] for item in read_record(run).evaluations] == [next(run.glob("Final*")).name]
    assert "_width8_" in next(run.glob("Final*")).name


def test_undo_does_not_replace_what_came_meanwhile(tree: Path) -> None:
    moved = next(item for item in migrate(tree, convention=MERGED).moves if not (tree / item.old).exists())
    (tree / moved.old).mkdir(parents=True)
    (tree / moved.old / "mine").write_text("x")
    after = held(tree)
    with pytest.raises(RefusedError) as caught:
        migrate(tree, undo=True)
    assert caught.value.code == "taken"
    assert held(tree) == after
    shutil.rmtree(tree / moved.old)
    migrate(tree, undo=True)


def test_lists_of_overwritten_runs_go_along(tmp_path: Path) -> None:
    source, root = tmp_path / "grid_outputs", tmp_path / "checkpoints"
    for index, seed in enumerate((1337, 2337)):
        write_run(
            source / "len_gen_k4" / "task_0006", config(4, seed=seed), run_id=f"run{seed}", started=START + 999 * index
        )
    ingest(source, root, settle=0)
    before = held(root)
    assert migrate(root, convention=MERGED).problems == ()
    (listed,) = root.rglob("overwritten.json")
    assert listed.parent.name == "task_0002"
    assert json.loads(listed.read_text())["runs"][0]["task"] == 2
    migrate(root, convention=built_in())
    assert {name: value[0] for name, value in held(root).items()} == {name: value[0] for name, value in before.items()}
    migrate(root, undo=True)
    migrate(root, undo=True)
    assert held(root) == before


# --- interrupted at every step ----------------------------------------------------------------------------------------


class _Killed(BaseException):
    pass


@contextmanager
def killed_after(count: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the process end after this many renames."""
    rename, done = moving.move_within, 0

    def counted(*arguments: Any) -> None:
        nonlocal done
        if done == count:
            raise _Killed
        rename(*arguments)
        done += 1

    with patch.context() as own:
        own.setattr(moving, "move_within", counted)
        yield


@pytest.mark.parametrize("name", ["numbering", "levels", "a field of names"])
def test_interrupted_anywhere_it_goes_on_or_back(
    made: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CONVENTIONS[name](tmp_path)
    whole = tmp_path / "whole"
    shutil.copytree(made / "checkpoints", whole)
    result = migrate(whole, convention=other)
    assert result.map is not None
    steps = len(json.loads((whole / result.map).read_text())["steps"])
    goal = {key: value[0] for key, value in held(whole).items()}
    assert steps > 8
    for count in sorted({0, 1, 2, 3, steps // 3, steps // 2, steps - 2, steps - 1}):
        for undo in (False, True):
            root = tmp_path / f"{count}{undo}"
            shutil.copytree(made / "checkpoints", root)
            before = held(root)
            with killed_after(count, monkeypatch), pytest.raises(_Killed):
                migrate(root, convention=other)
            assert [item.code for item in validate(root, convention=other).findings] == ["unfinished-migration"]
            with pytest.raises(RefusedError, match="was interrupted"):
                ingest(made / "grid_outputs", root, convention=other)
            if undo:
                with killed_after(count // 2, monkeypatch), suppress(_Killed):
                    migrate(root, undo=True)
                if (root / MIGRATIONS).exists():  # the undo was killed, too
                    migrate(root, undo=True)
                assert held(root) == before
            else:
                assert migrate(root, convention=other).resumed
                assert {key: value[0] for key, value in held(root).items()} == goal
                migrate(root, undo=True)
                assert held(root) == before
            shutil.rmtree(root)


_KILLED_AFTER = """
import os, signal, sys
from ckptman.fs import moving
from ckptman.ingestion import migrate
from ckptman.rules.convention_file import load_convention
left, rename = int(sys.argv[2]), moving.move_within
def counted(*arguments):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*arguments)
    left -= 1
moving.move_within = counted
migrate(sys.argv[1], convention=load_convention(numbering="merged"))
"""


@pytest.mark.parametrize("count", [0, 5, 14])
def test_a_process_that_is_killed_loses_nothing(tree: Path, count: int) -> None:
    before = held(tree)
    killed = subprocess.run([sys.executable, "-c", _KILLED_AFTER, tree, str(count)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (held(tree) != before) == (count > 0)
    assert migrate(tree, convention=MERGED).resumed
    assert found(tree, MERGED) == {"missing-seed", "missing-task"}
    migrate(tree, undo=True)
    assert held(tree) == before
    whole = subprocess.run([sys.executable, "-c", _KILLED_AFTER, tree, "999"], check=False)
    assert whole.returncode == 0
    assert migrate(tree, convention=MERGED).runs == ()


def test_nothing_writes_into_a_tree_between_two_conventions(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(tree.rglob("seed_1337"))
    with killed_after(9, monkeypatch), pytest.raises(_Killed):
        migrate(tree, convention=MERGED)
    before = held(tree)
    record = read_record(next(tree.rglob("seed_*")))
    for write in (
        lambda: write_record(run, record, root=tree),
        lambda: write_record(run, record, root=run),  # as eval does where it does not know the tree
        lambda: report(tree),
        lambda: assign(next(tree.rglob("seed_*")), "abc", root=tree),
    ):
        with pytest.raises(RefusedError) as caught:
            write()
        assert caught.value.code == "unfinished-migration"
        assert caught.value.fix.endswith(f": ckptman migrate {tree}")
    assert held(tree) == before
    migrate(tree, convention=MERGED)
    assert report(tree, convention=MERGED) is not None


def test_copies_of_a_run_that_nothing_tells_apart_are_refused(tree: Path) -> None:
    run = next(tree.rglob("seed_1337"))
    for count in range(5):
        shutil.copytree(run, run.with_name(f"seed_1337-copy{count}"))
    result = migrate(tree, convention=MERGED)
    assert refused(result) == ["taken"]
    assert "nothing tells them apart" in result.problems[0].message
    for copy in run.parent.glob("*-copy*"):
        shutil.rmtree(copy)
    assert migrate(tree, convention=MERGED).problems == ()


def test_refused_files_are_remembered_under_their_new_group(tmp_path: Path) -> None:
    source, root = tmp_path / "grid_outputs", tmp_path / "checkpoints"
    files = write_run(source / "len_gen_k4" / "task_0006", config(4, use_mlp=True), run_id="abc")
    files[-1].write_bytes(b"damaged")
    os.utime(files[-1], (START, START))
    ingest(source, root, settle=0)
    before = held(root)
    assert migrate(root, convention=MERGED).problems == ()
    (file,) = read_refused(root)
    assert (file.group, file.task) == ("len_gen_k4", 2)
    migrate(root, undo=True)
    assert held(root) == before


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "a/../../outside"])
def test_a_journal_that_leads_out_of_the_tree_is_refused(tree: Path, path: str) -> None:
    outside = tree.parent / "outside"
    outside.write_text("mine")
    journal = migrate(tree, convention=MERGED).map
    assert journal is not None
    document = json.loads((tree / journal).read_text())
    good = json.dumps(document)
    document["steps"][0]["new"] = path
    (tree / journal).write_text(json.dumps(document))
    with pytest.raises(RefusedError, match="no path in the tree"):
        migrate(tree, undo=True)
    assert outside.read_text() == "mine"
    (tree / journal).write_text(good)
    migrate(tree, undo=True)


def test_a_copy_of_a_tree_can_be_taken_back(tree: Path, tmp_path: Path) -> None:
    """Where inodes are others, the paths tell."""
    before = {key: value[:2] for key, value in held(tree).items()}
    migrate(tree, convention=MERGED)
    copied = tmp_path / "copied"
    shutil.copytree(tree, copied)
    for path in tree.rglob("*"):
        if path.is_file():
            os.utime(copied / path.relative_to(tree), ns=(0, path.stat().st_mtime_ns))
    migrate(copied, undo=True)
    assert {key: value[:2] for key, value in held(copied).items()} == before
