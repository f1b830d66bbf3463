"""`validate` holds what may be wrong alone, and finds what it finds when it holds all of a tree."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from ckptman.checks import passing
from ckptman.checks.validation import ValidationResult, validate
from ckptman.fs import files as fs_files
from ckptman.fs import processes
from ckptman.rules.convention_file import built_in
from ckptman.tree import contents
from tests.helpers.sharing import shared_out
from tests.helpers.trees import CHECKPOINTS, DYNAMIC_RUN, FINAL, RUN, RUNS, edit_record, good_configs, make_tree

MonkeyPatch = pytest.MonkeyPatch


def held(root: Path, monkeypatch: MonkeyPatch, *, deep: bool = False) -> ValidationResult:
    """The same by all of the tree at once."""
    with monkeypatch.context() as patch:
        patch.setattr(passing, "take_inventory", contents.take_inventory)
        return validate(root, deep=deep)


def same(root: Path, monkeypatch: MonkeyPatch, *, deep: bool = False) -> ValidationResult:
    found, other = validate(root, deep=deep), held(root, monkeypatch, deep=deep)
    with shared_out() as told:
        shared = validate(root, deep=deep)
    assert told
    for each in (other, shared):
        assert found.findings == each.findings
        for name in ("checked", "runs", "size", "numbering"):
            assert getattr(found, name) == getattr(each, name), name
    assert [run.folder for run in found.inventory.runs] == [run.folder for run in shared.inventory.runs]
    assert found.inventory.passed == shared.inventory.passed
    return found


@pytest.mark.parametrize("deep", [False, True])
def test_of_a_good_tree_no_run_is_held(good_tree: Path, deep: bool, monkeypatch: MonkeyPatch) -> None:
    found = same(good_tree, monkeypatch, deep=deep)
    assert (found.findings, found.checked, found.runs) == ((), CHECKPOINTS, RUNS)
    assert (found.inventory.files, found.inventory.runs) == ((), ())
    assert found.inventory.passed.runs == RUNS
    assert len(held(good_tree, monkeypatch).inventory.runs) == RUNS


def test_a_run_that_passed_is_held_where_a_later_one_has_its_files(root: Path, monkeypatch: MonkeyPatch) -> None:
    later = root / RUN.replace(RUN.rpartition("/")[2], "seed_9999")
    shutil.copytree(root / RUN, later)
    found = same(root, monkeypatch)
    assert {str(run.folder) for run in found.inventory.runs} >= {RUN, str(later.relative_to(root))}
    assert "duplicate" in {item.code for item in found.findings}
    assert found.inventory.passed.runs == RUNS - 1


def test_a_run_with_the_id_of_another_is_held_with_it(root: Path, monkeypatch: MonkeyPatch) -> None:
    edit_record(root / RUN, run_id="one")
    edit_record(root / DYNAMIC_RUN, run_id="one")
    assert {str(run.folder) for run in same(root, monkeypatch).inventory.runs} == {RUN, DYNAMIC_RUN}


@pytest.mark.parametrize("name", [FINAL.upper(), "Ünbekannt.txt", "notes.txt"])
def test_a_folder_with_anything_else_in_it_is_held(root: Path, name: str, monkeypatch: MonkeyPatch) -> None:
    (root / RUN / name).touch()
    assert [str(run.folder) for run in same(root, monkeypatch).inventory.runs] == [RUN]


def test_names_that_are_one_without_case_are_found_beside_runs_that_passed(
    root: Path, monkeypatch: MonkeyPatch
) -> None:
    (root / RUN).with_name(RUN.rpartition("/")[2].upper()).mkdir()
    assert "case-twins" in {item.code for item in same(root, monkeypatch).findings}


def test_a_tree_of_another_numbering_is_read_again_where_some_runs_passed(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    merged = make_tree(tmp_path, good_configs(), replace(built_in(), numbering="merged"))
    found = same(merged, monkeypatch)
    assert "other-numbering" in {item.code for item in found.findings}
    assert (found.numbering, found.inventory.passed.runs) == ("merged", 0)


@pytest.mark.parametrize("shares", [False, True])
def test_a_record_is_read_once(good_tree: Path, shares: bool, monkeypatch: MonkeyPatch) -> None:
    read: list[str] = []
    real = fs_files.read_bytes

    def counted(path: Path | str, most: int | None = None) -> bytes:
        read.append(str(path))
        return real(path, most)

    monkeypatch.setattr(fs_files, "read_bytes", counted)
    monkeypatch.setattr(processes, "cores", lambda: 1)
    with shared_out() if shares else nullcontext():
        assert validate(good_tree).findings == ()
    assert sorted(read) == sorted(map(str, good_tree.rglob("run.json")))
    # The control: where all is held, each is read to be checked.
    read.clear()
    held(good_tree, monkeypatch)
    assert len(read) == 2 * RUNS
