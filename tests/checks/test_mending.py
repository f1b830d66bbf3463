"""`validate --fix`: whoever follows it ends with fewer findings, and with every byte he began with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ckptman.checks.mending import mend, plan_mending
from ckptman.checks.validation import validate
from ckptman.cli.app import run
from ckptman.documents import report
from ckptman.ingestion import ingest
from ckptman.tree import records
from tests.helpers.raw import START, config, write_checkpoint, write_run
from tests.helpers.trees import CHECKPOINT, DYNAMIC, DYNAMIC_RUN, FINAL, FIXED, RUN, TASK, copy, small_config

SECOND = f"{TASK}/seed_2337"
SECOND_TASK = f"{FIXED}/task_0002/seed_1337"
OTHER_FINAL = FINAL.replace("K4to4", "K2to4")


def swap_seeds(root: Path) -> None:
    (root / RUN).rename(root / "aside")
    (root / SECOND).rename(root / RUN)
    (root / "aside").rename(root / SECOND)


def turn_three(root: Path) -> None:
    """Three runs of two tasks, each in the place of the next."""
    third = f"{FIXED}/task_0002/seed_1337"
    (root / RUN).rename(root / "aside")
    (root / SECOND).rename(root / RUN)
    (root / third).rename(root / SECOND)
    (root / "aside").rename(root / third)


def swap_and_copy(root: Path) -> None:
    swap_seeds(root)
    shutil.copytree(root / DYNAMIC_RUN, root / "again")


def exchange(root: Path, *paths: str) -> None:
    """Files, each in the place of the next."""
    first, *others = [root / path for path in paths]
    first.rename(root / "aside")
    for place, file in pairwise((first, *others)):
        file.rename(place)
    (root / "aside").rename(root / paths[-1])


def file_elsewhere(root: Path) -> None:
    (root / "old").mkdir()
    (root / RUN / FINAL).rename(root / "old" / FINAL)


def copy_beside(root: Path) -> None:
    shutil.copy(root / RUN / FINAL, root / RUN / "copy of the best.pt")


def rename_file(root: Path) -> None:
    (root / RUN / FINAL).rename(root / RUN / "best.pt")


def rename_to_another_step(root: Path) -> None:
    (root / RUN / FINAL).rename(root / RUN / FINAL.replace("iters40000", "iters30000"))


def link_to_another_name(root: Path, *, to: str = f"{RUN}/best.pt") -> None:
    (root / RUN / FINAL).rename(root / to)
    (root / RUN / FINAL).symlink_to(root / to)


def rename_run(root: Path, folder: str = "", file: str = "", *, of: str = RUN, beside: str = "") -> None:
    """A run, or its task, by another name, with a folder or a file in it, or a folder `beside` it."""
    moved = (root / of).rename((root / of).with_name("task_0009" if of == TASK else "seed_9"))
    if folder:
        (moved / folder).mkdir(parents=True)
    if beside:
        (root / beside).mkdir(parents=True)
    if file:
        (moved / file).write_bytes(b"x")


def copy_of_a_run(root: Path) -> None:
    again = Path(shutil.copytree(root / RUN, root / TASK / "seed_9"))
    (again / "new").mkdir()
    (again / ".DS_Store").write_bytes(b"x")


def copy_of_a_run_that_lost_its_record(root: Path) -> None:
    (root / RUN).rename(root / TASK / "aside")
    shutil.copytree(root / TASK / "aside", root / RUN)
    (root / TASK / "aside" / "run.json").unlink()
    (root / TASK / "aside" / "run.json").mkdir()


def swap_records_and_rename_a_file(root: Path) -> None:
    (root / DYNAMIC_RUN / OTHER_FINAL).rename(root / DYNAMIC_RUN / "best.pt")
    (root / RUN / "run.json").rename(root / "aside")
    (root / SECOND_TASK / "run.json").rename(root / RUN / "run.json")
    (root / "aside").rename(root / SECOND_TASK / "run.json")


def file_of_a_renamed_run_in_a_renamed_run(root: Path) -> None:
    (root / RUN / FINAL).rename(root / SECOND_TASK / FINAL)
    (root / RUN).rename(root / TASK / "seed_9")
    (root / SECOND_TASK).rename((root / SECOND_TASK).with_name("seed_9"))


def copy_of_a_run_with_a_copy_of_a_file(root: Path) -> None:
    again = Path(shutil.copytree(root / RUN, root / TASK / "seed_9"))
    (again / "old").mkdir()
    for name in ("copy.pt", "old/copy.pt"):
        shutil.copy(again / FINAL, again / name)


def copy_of_a_run_in_a_copy_of_it(root: Path) -> None:
    for name in ("seed_9", "seed_9/again"):
        shutil.copytree(root / RUN, root / TASK / name)


FAULTS: dict[str, Callable[[Path], object]] = {
    "swapped seeds": swap_seeds,
    "three runs turned": turn_three,
    "files of two seeds exchanged": lambda root: exchange(root, f"{RUN}/{FINAL}", f"{SECOND}/{FINAL}"),
    "files of two families exchanged": lambda root: exchange(
        root, f"{RUN}/{FINAL}", f"{DYNAMIC_RUN}/{FINAL.replace('K4to4', 'K2to4')}"
    ),
    "two files of a run exchanged": lambda root: exchange(root, f"{RUN}/{FINAL}", f"{RUN}/{CHECKPOINT}"),
    "three files turned": lambda root: exchange(root, f"{RUN}/{FINAL}", f"{RUN}/{CHECKPOINT}", f"{SECOND}/{FINAL}"),
    "a renamed run": lambda root: (root / RUN).rename(root / TASK / "seed_9"),
    "a renamed task": lambda root: (root / TASK).rename(root / FIXED / "task_0009"),
    "a renamed group": lambda root: (root / FIXED).rename(root / "with_layernorm/fixed/len_gen_single_k6"),
    "a run in another family": lambda root: (root / DYNAMIC_RUN).rename(root / TASK / "seed_3337"),
    "a renamed file": rename_file,
    "a file of another step's name": rename_to_another_step,
    "a file in another run": lambda root: (root / RUN / FINAL).rename(root / SECOND / "moved.pt"),
    "a file at the root": lambda root: (root / RUN / FINAL).rename(root / FINAL),
    "a file in a folder that does not belong": file_elsewhere,
    "a copy beside the original": copy_beside,
    "a copy at the root": lambda root: shutil.copy(root / RUN / FINAL, root / FINAL),
    "a copy of a run": lambda root: shutil.copytree(root / RUN, root / TASK / "seed_1337-copy"),
    "a copy of a group": lambda root: shutil.copytree(root / DYNAMIC, root / "backup"),
    "a copy of a run in the place of none": lambda root: shutil.copytree(root / RUN, root / FIXED / "task_0001/seed_9"),
    "an empty folder": lambda root: (root / FIXED / "task_0007" / "seed_1").mkdir(parents=True),
    "a system's file": lambda root: (root / RUN / ".DS_Store").write_bytes(b"x"),
    "a system's file like a checkpoint": lambda root: (root / RUN / f"._{FINAL}").write_bytes(b"y"),
    "swapped and copied": swap_and_copy,
    "a renamed run with an empty folder": lambda root: rename_run(root, "new/er"),
    "a renamed run with a system's file": lambda root: rename_run(root, file=".DS_Store"),
    "a copy of a run with an empty folder and a system's file": copy_of_a_run,
    "a copy of a run, with an empty folder for a record": copy_of_a_run_that_lost_its_record,
    "records of two tasks swapped, and a renamed file": swap_records_and_rename_a_file,
    "a file of a renamed run in another": file_of_a_renamed_run_in_a_renamed_run,
    "a copy of a run with copies of a file": copy_of_a_run_with_a_copy_of_a_file,
    "a copy of a run in a copy of it": copy_of_a_run_in_a_copy_of_it,
    "a renamed run, and an empty folder in its place": lambda root: rename_run(root, beside=RUN),
    "a renamed task, and an empty one in its place": lambda root: rename_run(root, of=TASK, beside=RUN),
    "a file under another name, and a link to it": link_to_another_name,
    "a file at the root, and a link to it": lambda root: link_to_another_name(root, to=FINAL),
    "a link to a file": lambda root: (root / RUN / "best.pt").symlink_to(root / RUN / FINAL),
}
"""Ways to break a tree that can be put right with what is in it."""


def contents(root: Path) -> Counter[str]:
    """How often each content is there, wherever it lies."""
    return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(root))


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_and_put_right_and_no_byte_is_lost(root: Path, fault: str) -> None:
    FAULTS[fault](root)
    before = contents(root)
    found = validate(root, deep=True)
    assert found.findings
    steps = plan_mending(found)
    assert contents(root) == before, "a plan changes nothing"
    done = mend(root, steps)
    assert [step.problem for step in done] == [None] * len(steps)
    assert validate(root, deep=True).findings == ()
    assert contents(root) == before
    assert plan_mending(validate(root, deep=True)) == ()


EXCHANGES = [fault for fault in FAULTS if fault.startswith("three files") or fault.endswith("exchanged")]


@pytest.mark.parametrize("fault", EXCHANGES)
def test_an_exchange_that_was_interrupted_is_finished_the_next_times(root: Path, fault: str) -> None:
    whole = contents(root)
    FAULTS[fault](root)
    steps = plan_mending(validate(root, deep=True))
    assert len(steps) >= 3
    for count in range(1, len(steps)):
        begun = copy(root, root.with_name(str(count)))
        mend(begun, steps[:count])
        assert validate(begun, deep=True).findings, "the control"
        for _ in steps:
            done = mend(begun, plan_mending(validate(begun, deep=True)))
            assert [step.problem for step in done] == [None] * len(done)
        assert validate(begun, deep=True).findings == ()
        assert contents(begun) == whole


def test_files_that_are_not_told_of_stay(root: Path) -> None:
    """Where two run.json are exchanged, files are in their places, by which validate knows it; and what is ignored."""
    exchange(root, f"{RUN}/{FINAL}", f"{SECOND}/{FINAL}")
    assert len(plan_mending(validate(root, deep=True))) == 3  # the control
    assert plan_mending(validate(root, deep=True, ignore=["wrong-hash"])) == ()
    exchange(root, f"{RUN}/{FINAL}", f"{SECOND}/{FINAL}")
    exchange(root, f"{RUN}/run.json", f"{SECOND}/run.json")
    found = validate(root, deep=True)
    assert found.inventory.exchanged
    assert "config-disagrees" in {item.code for item in found.findings}
    assert plan_mending(found) == ()


def test_files_that_lie_in_places_of_others_with_one_of_them_lost_stay(root: Path) -> None:
    exchange(root, f"{RUN}/{FINAL}", f"{SECOND}/{FINAL}")
    data = bytearray((root / RUN / FINAL).read_bytes())
    data[-200] ^= 1
    (root / RUN / FINAL).write_bytes(data)
    found = validate(root, deep=True)
    assert {item.code for item in found.findings} == {"bad-checkpoint", "wrong-hash"}
    assert plan_mending(found) == ()


def test_a_copy_of_a_file_that_is_a_link_is_put_away(root: Path) -> None:
    """As after an ingest with symbolic links."""
    (root / RUN / FINAL).rename(root.with_name("source.pt"))
    (root / RUN / FINAL).symlink_to(root.with_name("source.pt"))
    shutil.copy(root / RUN / FINAL, root / RUN / "copy.pt")
    assert [step.problem for step in mend(root, plan_mending(validate(root, deep=True)))] == [None]
    assert [item.code for item in validate(root, deep=True).findings] == ["linked-checkpoint"]


def test_a_run_folder_goes_to_its_place_before_its_files_are_back(root: Path) -> None:
    (root / RUN).rename(root / TASK / "seed_9")
    moved = [file.rename(root.with_name(file.name)) for file in (root / TASK / "seed_9").glob("*.pt")]
    found = validate(root, deep=True)
    [wrong] = (item for item in found.findings if item.code == "wrong-run-folder")
    assert wrong.message.startswith("by its configuration, the run belongs in ")
    mend(root, plan_mending(found))
    assert {item.code for item in validate(root, deep=True).findings} == {"missing-file"}
    for file in moved:
        file.rename(root / RUN / file.name)
    assert validate(root, deep=True).findings == ()  # the control


@pytest.mark.parametrize("folder", ["task_0009/seed_1337", "task_0003/seed_9"])
def test_a_copy_of_a_record_alone_is_one_finding_and_moves_nowhere(root: Path, folder: str) -> None:
    """As is left of a copy of a run once its files are put away; in the run's place it would be a second one."""
    (root / FIXED / folder).mkdir(parents=True)
    shutil.copy(root / RUN / "run.json", root / FIXED / folder)
    found = validate(root, deep=True)
    assert [(item.code, item.path) for item in found.findings] == [("duplicate", f"{FIXED}/{folder}/run.json")]
    assert plan_mending(found) == ()
    # The control: it is no copy where another one has not all of the files.
    (root / RUN / FINAL).rename(root.with_name(FINAL))
    assert "missing-file" in {item.code for item in validate(root, deep=True).findings}


def test_runs_of_a_folder_that_was_renamed_keep_their_names(root: Path) -> None:
    (root / RUN).rename(root / TASK / "seed_1337-again")  # as a second run of a seed has
    names = sorted(folder.name for folder in (root / TASK).iterdir())
    assert "wrong-run-folder" not in {item.code for item in validate(root).findings}  # the control
    (root / TASK).rename(root / FIXED / "task_0009")
    mend(root, plan_mending(validate(root, deep=True)))
    assert sorted(folder.name for folder in (root / TASK).iterdir()) == names


def test_the_counting_of_bytes_can_fail(root: Path) -> None:
    before = contents(root)
    shutil.copy(root / SECOND / FINAL, root / RUN / FINAL)  # what following the old advice word for word did
    assert contents(root) != before


def test_a_run_keeps_its_place_when_another_claims_it(root: Path) -> None:
    """A second run of a seed in a wrong folder gets a name of its own beside the first."""
    shutil.copytree(root / RUN, root / TASK / "seed_5")
    record = json.loads((root / TASK / "seed_5" / "run.json").read_text())
    record["run_id"] = "other001"
    (root / TASK / "seed_5" / "run.json").write_text(json.dumps(record))
    before = contents(root)
    mend(root, plan_mending(validate(root, deep=True)))
    assert contents(root) == before
    assert (root / RUN / FINAL).is_file()


@pytest.mark.parametrize("folder", ["", "old"])
@pytest.mark.parametrize("is_copy", [False, True])
def test_a_copy_of_a_run_with_a_checkpoint_that_is_nowhere_else_stays(root: Path, folder: str, is_copy: bool) -> None:
    again = Path(shutil.copytree(root / RUN, root / TASK / "seed_9"))
    (again / folder).mkdir(exist_ok=True)
    write_checkpoint(again / folder / "best.pt", small_config(), saved_at=START, salt=7)
    if is_copy:  # the control
        shutil.copy(root / RUN / FINAL, again / folder / "best.pt")
    mend(root, plan_mending(validate(root, deep=True)))
    assert (again / folder / "best.pt").is_file() is not is_copy


def test_a_file_with_other_bytes_is_not_taken_for_the_missing_one(root: Path) -> None:
    rename_file(root)
    steps = plan_mending(validate(root, deep=True))
    data = bytearray((root / RUN / "best.pt").read_bytes())
    data[-200] ^= 1
    (root / RUN / "best.pt").write_bytes(data)
    [step] = mend(root, steps)
    assert step.problem is not None
    assert (root / RUN / "best.pt").read_bytes() == data


def test_what_came_in_between_is_left_alone(root: Path) -> None:
    (root / RUN).rename(root / TASK / "seed_9")
    steps = plan_mending(validate(root, deep=True))
    (root / RUN).mkdir()
    (root / RUN / "note.txt").write_text("mine")
    [step] = mend(root, steps)
    assert step.problem is not None
    assert "already there" in step.problem
    assert (root / RUN / "note.txt").read_text() == "mine"


def test_a_second_trash_keeps_the_first(root: Path) -> None:
    for text in (b"first", b"second"):
        (root / RUN / ".DS_Store").write_bytes(text)
        mend(root, plan_mending(validate(root, deep=True)))
    kept = {path.read_bytes() for path in (root / ".ckptman-trash").rglob("*") if path.is_file()}
    assert kept == {b"first", b"second"}


def test_the_command_shows_the_plan_and_then_does_that(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swap_seeds(root)
    before = contents(root)
    assert run(["validate", "--root", str(root), "--fix", "--dry-run", "--json"]) == 1
    planned = json.loads(capsys.readouterr().out)
    assert {item.code for item in validate(root).findings} == {"wrong-run-folder"}
    assert run(["validate", "--root", str(root), "--fix", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["fixes"] == planned["fixes"]
    assert done["findings"] == []
    assert contents(root) == before
    assert run(["validate", "--root", str(root), "--dry-run"]) == 2


def test_the_command_tells_each_step(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rename_file(root)
    assert run(["validate", "--root", str(root), "--fix"]) == 0
    assert f"move {RUN}/best.pt to {RUN}/{FINAL} [missing-file]" in capsys.readouterr().out


def test_a_file_goes_back_to_the_run_that_lies_in_its_place_not_to_a_copy_of_its_run_json(
    good_tree: Path, tmp_path: Path
) -> None:
    root = copy(good_tree, tmp_path)
    wrong = f"{FIXED}/task_0001/seed_1337"  # which comes first
    shutil.copy2(root / RUN / "run.json", root / wrong / "run.json")
    (root / RUN / FINAL).rename(root / FINAL)
    told = {item.path: item for item in validate(root).findings}
    assert told[f"{RUN}/{FINAL}"].fix == f"Move it back to {RUN}"
    assert "validate --fix" not in "".join(item.fix for path, item in told.items() if path.startswith(wrong))
    steps = mend(root, plan_mending(validate(root, deep=True)))
    assert [(step.path, step.target, step.problem) for step in steps] == [(FINAL, f"{RUN}/{FINAL}", None)]
    assert [item.code for item in validate(root).findings] == ["config-disagrees"]


@pytest.mark.parametrize("how", ["moved", "moved, and ingested again", "moved, and copied", "moved, with all above it"])
def test_a_list_of_overwritten_runs_that_was_moved_goes_back_and_its_runs_count_once(tmp_path: Path, how: str) -> None:
    source, root = tmp_path / "outputs", tmp_path / "tree"
    for index, seed in enumerate((1337, 2337, 3337)):
        write_run(
            source / "len_gen_k8" / "task_0006", config(seed=seed), run_id=f"run{seed}", started=START + 1000 * index
        )
    ingest(source, root)
    before = {path.relative_to(root): path.read_bytes() for path in root.rglob("*.json")}
    task = next(root.rglob("overwritten.json")).parent
    place = root / "without_layernorm" / "dynamic" if how == "moved, with all above it" else task.parent
    place.mkdir(parents=True, exist_ok=True)  # what is left of the old place is empty then, until the list is back
    moved = task.rename(place / "task_0001")
    if how == "moved, and ingested again":
        ingest(source, root)
    elif how == "moved, and copied":
        shutil.copytree(moved, moved.with_name("task_0002"))
    lists = {str(path.relative_to(root)) for path in root.rglob("overwritten.json")}
    assert len(lists) == (2 if how in ("moved, and ingested again", "moved, and copied") else 1)
    assert report(root).to_json()["statistics"]["overwritten_runs"] == 2
    result = validate(root, deep=True)
    strayed = ["put this one away" in item.fix for item in result.findings if item.path in lists]
    assert strayed == {"moved, and ingested again": [True], "moved, and copied": [False, True]}.get(how, [False])
    done = mend(root, plan_mending(result))
    assert [step.problem for step in done] == [None] * len(done)
    assert plan_mending(validate(root, deep=True)) == ()
    assert {path.relative_to(root): path.read_bytes() for path in root.glob("*_layernorm/**/*.json")} == before


def test_a_strayed_list_of_other_runs_than_that_of_its_task_stays(tmp_path: Path) -> None:
    source, root = tmp_path / "outputs", tmp_path / "tree"
    for index, seed in enumerate((1337, 2337, 3337)):
        write_run(
            source / "len_gen_k8" / "task_0006", config(seed=seed), run_id=f"run{seed}", started=START + 1000 * index
        )
    ingest(source, root)
    listed = next(root.rglob("overwritten.json"))
    more = records.read_overwritten(listed.parent)
    (away := listed.parent.with_name("task_0001")).mkdir()
    records.write_overwritten(away, more)
    records.write_overwritten(listed.parent, replace(more, runs=more.runs[:1]))
    result = validate(root, deep=True)
    assert [item.fix[:20] for item in result.findings if item.code == "misplaced"] == ["Move it out of the t"]
    assert plan_mending(result) == ()
