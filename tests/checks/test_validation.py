"""`validate`: each fault, planted in a good tree, is found and nothing else; the good tree is clean."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch

from ckptman.checks.validation import ValidationResult, validate
from ckptman.documents.reporting import report, stale
from ckptman.ingestion.ingesting import ingest
from ckptman.rules.convention_file import load_convention
from ckptman.text.errors import MachineError, UsageError
from ckptman.tree.findings import ALL, KINDS
from tests.helpers.raw import config, name_of, write_checkpoint, write_run
from tests.helpers.trees import (
    CHECKPOINT,
    CHECKPOINTS,
    DYNAMIC,
    DYNAMIC_RUN,
    FINAL,
    FIXED,
    RULES,
    RUN,
    RUNS,
    TASK,
    copy,
    drop,
    edit_entry,
    edit_json,
    edit_record,
    make_good_tree,
    make_tree,
    record_again,
    rename,
    small_config,
)

MonkeyPatch = pytest.MonkeyPatch


@pytest.fixture(scope="session")
def good_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: copy it to change it."""
    return make_good_tree(tmp_path_factory.mktemp("good"))


@pytest.fixture
def root(good_tree: Path, tmp_path: Path) -> Path:
    return copy(good_tree, tmp_path)


def codes(result: ValidationResult) -> set[str]:
    return {item.code for item in result.findings}


def check(root: Path, **options: Any) -> ValidationResult:
    """Look for everything, absent groups and stale documents included."""

    def stale_documents(tree: Path) -> list[str]:
        return stale(tree, load_convention(tree / "ckptman.yaml"))

    return validate(root, **{"select": [ALL], "deep": True, "stale_documents": stale_documents, **options})


# --- one fault each ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plant:
    """A fault: how it is planted, and what has to be found."""

    code: str
    path: str
    """Of the finding."""
    plant: Callable[[Path, MonkeyPatch], object]
    also: frozenset[str] = field(default=frozenset())
    """Other codes that the same fault raises."""
    says: str = ""
    """A part of the message."""

    @property
    def name(self) -> str:
        return f"{self.code}: {getattr(self.plant, '__name__', '')}".removesuffix(": <lambda>")


PLANTS: list[Plant] = []


def fault(
    code: str, path: str | PurePosixPath, *, also: tuple[str, ...] = (), says: str = ""
) -> Callable[[Callable[[Path, MonkeyPatch], object]], Callable[[Path, MonkeyPatch], object]]:
    """Add a function that plants a fault to the table."""

    def add(plant: Callable[[Path, MonkeyPatch], object]) -> Callable[[Path, MonkeyPatch], object]:
        PLANTS.append(Plant(code, str(path), plant, frozenset(also), says))
        return plant

    return add


def save(run: Path, name: str, step: int, *, without: tuple[str, ...] = (), **values: Any) -> None:
    """Write a checkpoint whose configuration has other values (any at all), or lacks some, and let run.json fit it."""
    inside: dict[str, Any] = small_config().to_dict() | values
    inside = {key: value for key, value in inside.items() if key not in without}
    write_checkpoint(run / name, small_config(), step=step, train_config=inside)
    record_again(run)
    edit_json(run / "run.json", lambda document: document.update(config=inside))


def save_both(run: Path, **options: Any) -> None:
    """`save` for both checkpoints of a run."""
    save(run, CHECKPOINT, 20001, **options)
    save(run, FINAL, 40000, **options)


@fault("empty-tree", ".", also=("missing-group",))
def no_checkpoint_at_all(root: Path, _: MonkeyPatch) -> None:
    shutil.rmtree(root / "with_layernorm")


@fault("wrong-root", ".", also=("stale-document",), says="this folder lies above the root of 1 tree: ")
def a_folder_above_the_tree(root: Path, _: MonkeyPatch) -> None:
    report(root, convention=load_convention(root / "ckptman.yaml"))
    (root / "grid").mkdir()
    (root / "with_layernorm").rename(root / "grid" / "with_layernorm")


@fault("other-numbering", ".", says="12 runs would be misplaced by the 'merged' numbering")
def sorted_by_the_other_numbering(root: Path, _: MonkeyPatch) -> None:
    (root / "ckptman.yaml").write_text(RULES + "numbering: merged\n")


@fault("stale-document", "README.md")
def a_document_nobody_brought_up_to_date(root: Path, _: MonkeyPatch) -> None:
    report(root, convention=load_convention(root / "ckptman.yaml"))
    text = (root / "README.md").read_text()
    (root / "README.md").write_text(text.replace(f"{CHECKPOINTS}", "7"))


@fault("unknown-name", f"{RUN}/model.pt", says="does not follow the naming convention")
def a_name_of_no_convention(root: Path, _: MonkeyPatch) -> None:
    rename(root / RUN, FINAL, "model.pt")


@fault("name-disagrees", f"{RUN}/{FINAL.replace('_L1_', '_L2_')}", says="n_layers is 2 in the name (L) and 1 in")
def a_name_of_another_configuration(root: Path, _: MonkeyPatch) -> None:
    rename(root / RUN, FINAL, FINAL.replace("_L1_", "_L2_"))


@fault("step-disagrees", f"{RUN}/{FINAL.replace('40000', '39000')}", says="39000 iterations in the name, and 40000")
def a_name_of_another_step(root: Path, _: MonkeyPatch) -> None:
    rename(root / RUN, FINAL, FINAL.replace("40000", "39000"), step=39000)


@fault("off-recipe", f"{RUN}/{FINAL.replace('40000', '39000')}", says="saved after 40000 iterations, since max_iters")
def a_final_one_before_the_end(root: Path, _: MonkeyPatch) -> None:
    file = rename(root / RUN, FINAL, FINAL.replace("40000", "39000"), step=39000)
    write_checkpoint(file, small_config(), step=39000)
    record_again(root / RUN)


@fault(
    "off-recipe",
    f"{RUN}/{CHECKPOINT.replace('20001', '20000')}",
    also=("missing-checkpoint",),
    says="this one holds 20000",
)
def one_on_the_way_at_another_iteration(root: Path, _: MonkeyPatch) -> None:
    file = rename(root / RUN, CHECKPOINT, CHECKPOINT.replace("20001", "20000"), step=20000)
    write_checkpoint(file, small_config(), step=20000)
    record_again(root / RUN)


@fault("overruled-config", f"{RUN}/{FINAL.replace('nodup1', 'nodup0')}", says="allow_duplicates is True in the name")
def a_configuration_that_the_name_overruled(root: Path, _: MonkeyPatch) -> None:
    for name in (CHECKPOINT, FINAL):
        rename(root / RUN, name, name.replace("nodup1", "nodup0"))
    edit_record(root / RUN, config_source="name", config={"allow_duplicates": True})


@fault("bad-checkpoint", f"{RUN}/{FINAL}", says="[cut]")
def a_cut_file(root: Path, _: MonkeyPatch) -> None:
    data = (root / RUN / FINAL).read_bytes()
    (root / RUN / FINAL).write_bytes(data[: len(data) // 2])
    record_again(root / RUN)


@fault("bad-checkpoint", f"{RUN}/{FINAL}", says="[not-a-checkpoint]")
def a_text_file(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / FINAL).write_text("no checkpoint")
    record_again(root / RUN)


@fault("bad-checkpoint", f"{RUN}/{FINAL}", says="[unsafe-pickle]")
def a_pickle_that_would_run_code(root: Path, _: MonkeyPatch) -> None:
    torch.save({"model": {}, "train_config": {"path": Bomb()}}, root / RUN / FINAL)
    record_again(root / RUN)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.getpid, ()


@fault("unreadable", f"{RUN}/{FINAL}", says="Permission denied")
def a_file_nobody_may_read(root: Path, patch: MonkeyPatch) -> None:
    original = os.open

    def deny(path: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(path) == str(root / RUN / FINAL):
            raise PermissionError(13, "Permission denied")
        return original(path, *arguments, **options)

    patch.setattr(os, "open", deny)


@fault("unreadable", RUN, says="Permission denied")
def a_folder_nobody_may_look_into(root: Path, patch: MonkeyPatch) -> None:
    original = os.scandir

    def deny(path: Any) -> Any:
        if os.fspath(path) == str(root / RUN):
            raise PermissionError(13, "Permission denied")
        return original(path)

    patch.setattr(os, "scandir", deny)


@fault("unreadable", f"{RUN}/run.json", says="Permission denied")
def a_record_nobody_may_read(root: Path, patch: MonkeyPatch) -> None:
    file, original, access = root / RUN / "run.json", Path.read_bytes, os.access

    def deny(path: Path) -> bytes:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return original(path)

    patch.setattr(Path, "read_bytes", deny)
    patch.setattr(os, "access", lambda path, mode: path != file and access(path, mode))


@fault("bad-crc", f"{RUN}/{FINAL}")
def a_byte_changed_before_it_was_hashed(root: Path, _: MonkeyPatch) -> None:
    flip_a_weight(root / RUN / FINAL)
    record_again(root / RUN)


def flip_a_weight(file: Path) -> None:
    """Change one byte in the content of the first tensor."""
    data = bytearray(file.read_bytes())
    start = data.index(b"data/0") + 200
    data[start] ^= 0xFF
    file.write_bytes(data)


@fault("wrong-shapes", f"{RUN}/{FINAL}", says="transformer.h.0.mlp.fc_1.bias (24) is not expected")
def weights_of_another_model(root: Path, _: MonkeyPatch) -> None:
    other = root / "other.pt"
    write_checkpoint(other, small_config(use_mlp=True))
    weights = torch.load(other)["model"]
    other.unlink()
    write_checkpoint(root / RUN / FINAL, small_config(), model=weights)
    record_again(root / RUN)


@fault("model-config-disagrees", f"{RUN}/{FINAL}", says="n_heads is 2 for the model and 1 for the training")
def a_model_of_other_heads(root: Path, _: MonkeyPatch) -> None:
    write_checkpoint(root / RUN / FINAL, small_config(), model_config={"n_heads": 2, "block_size": 4, "n_embd": 8})
    record_again(root / RUN)


@fault("bad-range", RUN, says="test_min_k is 40, above test_max_k, which is 32")
def a_range_that_ends_before_it_begins(root: Path, _: MonkeyPatch) -> None:
    for name, step in ((CHECKPOINT, 20001), (FINAL, 40000)):
        new = name.replace("testK17to32", "testK40to32")
        rename(root / RUN, name, new)
        save(root / RUN, new, step, test_min_k=40)


@fault("test-overlaps-train", FIXED, says="1 run trained on lengths up to 4, and tested on 4 to 32")
def a_test_on_trained_lengths(root: Path, _: MonkeyPatch) -> None:
    for name, step in ((CHECKPOINT, 20001), (FINAL, 40000)):
        new = name.replace("testK17to32", "testK4to32")
        rename(root / RUN, name, new)
        save(root / RUN, new, step, test_min_k=4)


@fault("other-test-lengths", FIXED, says="1 run tested on lengths 20 to 32, where those of the convention are 17 to 32")
def a_test_on_other_lengths(root: Path, _: MonkeyPatch) -> None:
    for name, step in ((CHECKPOINT, 20001), (FINAL, 40000)):
        new = name.replace("testK17to32", "testK20to32")
        rename(root / RUN, name, new)
        save(root / RUN, new, step, test_min_k=20)


@fault("off-grid", DYNAMIC_RUN, says="train_min_k is 3, where every run of len_gen_k4 has 2")
def a_shortest_list_that_the_regime_does_not_have(root: Path, _: MonkeyPatch) -> None:
    run = root / DYNAMIC_RUN
    for name in (CHECKPOINT, FINAL):
        old, new = (name.replace("trainK4to4", f"trainK{low}to4") for low in (2, 3))
        step = 40000 if name == FINAL else 20001
        rename(run, old, new)
        save(run, new, step, train_min_k=3, wandb_group="len_gen_k4")


@fault("off-grid", RUN, also=("missing-seed",), says="n_layers = 3 is not on the grid 'main'")
def an_axis_value_that_the_grid_does_not_have(root: Path, _: MonkeyPatch) -> None:
    for name, step in ((CHECKPOINT, 20001), (FINAL, 40000)):
        new = name.replace("_L1_", "_L3_")
        rename(root / RUN, name, new)
        write_checkpoint(root / RUN / new, small_config(n_layers=3), step=step)
    record_again(root / RUN)
    edit_record(root / RUN, config={"n_layers": 3})


@fault("no-place", RUN, also=("missing-seed",), says="use_layernorm = None")
def a_configuration_of_no_family(root: Path, _: MonkeyPatch) -> None:
    save_both(root / RUN, without=("use_layernorm",))


@fault("misplaced", f"{FIXED}/task_0002/seed_1337-moved", says=f"belongs in {TASK}")
def a_run_in_another_task_folder(root: Path, _: MonkeyPatch) -> None:
    (root / RUN).rename(root / FIXED / "task_0002" / "seed_1337-moved")


@fault("misplaced", f"without_layernorm/fixed/len_gen_single_k4/{RUN[-19:]}", says=f"belongs in {TASK}")
def a_run_in_another_family(root: Path, _: MonkeyPatch) -> None:
    target = root / "without_layernorm/fixed/len_gen_single_k4/task_0003/seed_1337"
    target.parent.mkdir(parents=True)
    (root / RUN).rename(target)


@fault("wrong-run-folder", f"{TASK}/seed_9", says=f"belongs in {RUN}")
def a_run_folder_of_another_seed(root: Path, _: MonkeyPatch) -> None:
    (root / RUN).rename(root / TASK / "seed_9")


@fault("unknown-seed", f"{TASK}/seed_unknown", also=("missing-seed",))
def a_run_of_no_seed(root: Path, _: MonkeyPatch) -> None:
    save_both(root / RUN, without=("seed",))
    edit_record(root / RUN, seed=None)
    (root / RUN).rename(root / TASK / "seed_unknown")


@fault("no-record", RUN, says="2 checkpoints without a run.json: the run was not placed to its end")
def a_run_that_was_not_placed_to_its_end(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / "run.json").unlink()


@fault("bad-record", f"{RUN}/run.json")
def a_broken_record(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / "run.json").write_text("{")


@fault("bad-record", f"{TASK}/overwritten.json")
def a_broken_list_of_overwritten_runs(root: Path, _: MonkeyPatch) -> None:
    (root / TASK / "overwritten.json").write_text("[]")


@fault("record-disagrees", f"{RUN}/run.json", says="its task is 1, and 3 by the configuration")
def a_record_of_another_task(root: Path, _: MonkeyPatch) -> None:
    edit_record(root / RUN, task=1)


@fault("record-disagrees", f"{RUN}/{FINAL}", says="run.json calls it a Checkpoint at step 40000")
def a_record_of_another_kind(root: Path, _: MonkeyPatch) -> None:
    edit_entry(root / RUN, FINAL, kind="Checkpoint")


@fault("config-disagrees", f"{RUN}/{FINAL}", says="learning_rate is 0.5 in run.json and 0.0001 in the file")
def a_record_of_another_configuration(root: Path, _: MonkeyPatch) -> None:
    edit_record(root / RUN, config={"learning_rate": 0.5})


@fault("config-disagrees", f"{RUN}/{FINAL}", says="learning_rate is in the file only")
def a_record_that_lacks_a_key(root: Path, _: MonkeyPatch) -> None:
    edit_json(root / RUN / "run.json", lambda document: document["config"].pop("learning_rate"))


@fault("config-disagrees", f"{RUN}/{FINAL}", also=("wrong-run-folder",), says="seed is 1337 in run.json and 2337")
def a_file_of_another_seed_in_a_run(root: Path, _: MonkeyPatch) -> None:
    write_checkpoint(root / RUN / FINAL, small_config(seed=2337), salt=1)
    record_again(root / RUN)


@fault("missing-file", f"{RUN}/{FINAL}")
def a_checkpoint_that_was_deleted(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / FINAL).unlink()


@fault("missing-file", f"{RUN}/wandb/run-20260310_000000-run00000")
def a_kept_wandb_folder_that_was_deleted(root: Path, _: MonkeyPatch) -> None:
    edit_record(root / RUN, wandb=["wandb/run-20260310_000000-run00000"])


@fault("unrecorded-file", f"{RUN}/{CHECKPOINT}")
def a_checkpoint_that_was_put_there(root: Path, _: MonkeyPatch) -> None:
    data = (root / RUN / CHECKPOINT).read_bytes()
    drop(root / RUN, CHECKPOINT)
    (root / RUN / CHECKPOINT).write_bytes(data)


@fault("wrong-size", f"{RUN}/{FINAL}", says="7 by run.json")
def a_file_of_another_size(root: Path, _: MonkeyPatch) -> None:
    edit_entry(root / RUN, FINAL, size=7)


@fault("wrong-hash", f"{RUN}/{FINAL}")
def a_file_of_other_bytes(root: Path, _: MonkeyPatch) -> None:
    write_checkpoint(root / RUN / FINAL, small_config(), salt=1)


@fault("ambiguous-run", RUN, says="two runs: abc, def")
def a_run_that_could_be_another(root: Path, _: MonkeyPatch) -> None:
    note = {"code": "ambiguous", "evidence": "two runs", "candidates": ["abc", "def"]}
    edit_record(root / RUN, run_id=None, attribution=note)


@fault("missing-final", RUN, says="has only: Checkpoint")
def a_run_without_its_end(root: Path, _: MonkeyPatch) -> None:
    drop(root / RUN, FINAL)


@fault("missing-checkpoint", RUN, says="has no Checkpoint, which its recipe saves after 20001 iterations")
def a_run_without_its_middle(root: Path, _: MonkeyPatch) -> None:
    drop(root / RUN, CHECKPOINT)


@fault("missing-seed", TASK, says="len_gen_single_k4 task 3 (L1, MLP off) lacks seed 1337 (there: 2337)")
def a_seed_that_is_not_there(root: Path, _: MonkeyPatch) -> None:
    shutil.rmtree(root / RUN)


@fault("missing-task", TASK, says="len_gen_single_k4 task 3 (L1, MLP off) has no run")
def a_configuration_that_is_not_there(root: Path, _: MonkeyPatch) -> None:
    shutil.rmtree(root / TASK)


@fault("missing-group", "with_layernorm/dynamic/len_gen_k6", says="no run of len_gen_k6")
def a_group_that_is_not_there(root: Path, _: MonkeyPatch) -> None:
    (root / "ckptman.yaml").write_text(RULES.replace("k: [4]", "k: [4, 6]"))


@fault("repeated-run", f"{TASK}/seed_1337-again", says=f"run again repeats run run00018 in {RUN}")
def a_second_run_of_a_seed(root: Path, _: MonkeyPatch) -> None:
    again = root / TASK / "seed_1337-again"
    shutil.copytree(root / RUN, again)
    write_checkpoint(again / CHECKPOINT, small_config(), step=20001, salt=1)
    write_checkpoint(again / FINAL, small_config(), salt=1)
    record_again(again)
    edit_record(again, run_id="again")


@fault("duplicate", f"{TASK}/seed_1337-copy", says=f"2 checkpoints here has the same bytes as one in {RUN}")
def a_run_folder_that_was_copied(root: Path, _: MonkeyPatch) -> None:
    shutil.copytree(root / RUN, root / TASK / "seed_1337-copy")


@fault("unfinished-file", f"{RUN}/.ckptman-0123456789abcdef.partial")
def a_temporary_file(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / ".ckptman-0123456789abcdef.partial").touch()


@fault("stray-file", f"{RUN}/notes.txt")
def a_note_in_a_run(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / "notes.txt").touch()


@fault("stray-file", f"{FIXED}/run.json")
def a_record_where_no_run_is(root: Path, _: MonkeyPatch) -> None:
    (root / FIXED / "run.json").symlink_to(root / RUN / "run.json")


@fault("stray-file", f"{TASK}", says="9 files in it do not belong to the tree")
def many_notes_in_a_task(root: Path, _: MonkeyPatch) -> None:
    for number in range(9):
        (root / TASK / f"notes-{number}.txt").touch()


@fault("stray-file", f"{RUN}/overwritten.json")
def a_list_where_none_belongs(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / "overwritten.json").write_text('{"schema_version": 1, "runs": []}')


@fault("stray-file", f"{RUN}/latest")
def a_link_within_the_tree(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / "latest").symlink_to(FINAL)


@fault("stray-folder", "backup", says="this folder (2 files)")
def a_folder_of_something_else(root: Path, _: MonkeyPatch) -> None:
    (root / "backup" / "deeper").mkdir(parents=True)
    (root / "backup" / "a.txt").touch()
    (root / "backup" / "deeper" / "b.txt").touch()


@fault("stray-folder", f"{RUN}/wandb/run-20260310_000000-unlisted")
def a_wandb_folder_that_is_not_listed(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / "wandb/run-20260310_000000-unlisted").mkdir(parents=True)
    (root / RUN / "wandb/run-20260310_000000-unlisted/run-unlisted.wandb").touch()


@fault("empty-folder", f"{FIXED}/task_0004")
def a_folder_of_nothing(root: Path, _: MonkeyPatch) -> None:
    (root / FIXED / "task_0004" / "seed_1337").mkdir(parents=True)


@fault("system-file", f"{RUN}/.DS_Store")
def a_file_of_the_finder(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / ".DS_Store").touch()


@fault("system-file", f"{RUN}/._{FINAL}")
def a_file_with_the_suffix_of_a_checkpoint(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / f"._{FINAL}").write_bytes(b"\x00\x05\x16\x07")


@fault("system-file", ".", says="9 files left by")
def many_files_of_the_finder(root: Path, _: MonkeyPatch) -> None:
    for folder in [path for path in sorted(root.rglob("*")) if path.is_dir()][:9]:
        (folder / ".DS_Store").touch()


@fault("special-file", f"{RUN}/pipe.pt")
def a_pipe(root: Path, _: MonkeyPatch) -> None:
    os.mkfifo(root / RUN / "pipe.pt")


@fault("dangling-link", f"{RUN}/{FINAL}")
def a_checkpoint_whose_source_is_gone(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / FINAL).unlink()
    (root / RUN / FINAL).symlink_to("/nowhere/at/all.pt")


@fault("dangling-link", f"{RUN}/loop")
def a_link_to_itself(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / "loop").symlink_to("loop")


@fault("outside-link", f"{FIXED}/elsewhere")
def a_link_out_of_the_tree(root: Path, _: MonkeyPatch) -> None:
    (root / FIXED / "elsewhere").symlink_to(root.parent)


@fault("linked-checkpoint", FIXED, says="1 checkpoint here by symbolic links to files in")
def a_checkpoint_that_is_a_link(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / FINAL).rename(root.parent / "outside.pt")
    (root / RUN / FINAL).symlink_to(root.parent / "outside.pt")


@fault("case-twins", "README.md", says="README.md and readme.md")
def two_names_that_differ_in_case(root: Path, _: MonkeyPatch) -> None:
    report(root, convention=load_convention(root / "ckptman.yaml"))
    shutil.copy(root / "README.md", root / "readme.md")


def test_every_code_is_planted() -> None:
    assert {plant.code for plant in PLANTS} == set(KINDS)


def test_the_good_tree_is_clean(good_tree: Path) -> None:
    result = check(good_tree)
    assert result.findings == ()
    assert (result.exit_status, result.checked, result.runs) == (0, CHECKPOINTS, RUNS)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_fault_is_found_and_nothing_else(plant: Plant, root: Path, monkeypatch: MonkeyPatch) -> None:
    plant.plant(root, monkeypatch)
    result = check(root)
    expected = {plant.code, *plant.also}
    assert codes(result) == expected, [item.to_json() for item in result.findings]
    own = [item for item in result.findings if item.code == plant.code and item.path == plant.path]
    assert own, [(item.code, item.path) for item in result.findings]
    assert any(plant.says in item.message for item in own), own
    assert all(item.fix for item in result.findings)
    assert result.exit_status == 1


# --- trees as they come -----------------------------------------------------------------------------------------------


def of(result: ValidationResult, code: str) -> list[str]:
    """The messages of the findings of one code."""
    return [item.message for item in result.findings if item.code == code]


def test_overwritten_seeds_are_missing_and_it_is_said_who_overwrote_them(tmp_path: Path) -> None:
    task = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003"
    for index, seed in enumerate((1337, 2337, 3337)):
        write_run(task, small_config(seed=seed), run_id=f"run{seed}", started=1.7e9 + 1000 * index)
    root = tmp_path / "checkpoints"
    ingest(tmp_path / "grid_outputs", root)
    result = validate(root)
    assert codes(result) == {"missing-seed", "missing-task"}
    assert of(result, "missing-seed") == [
        "len_gen_single_k4 task 3 (L1, MLP off) lacks seeds 1337, 2337 (there: 3337); "
        "seed 1337 was overwritten: run run1337, by run3337; seed 2337 was overwritten: run run2337, by run3337"
    ]
    assert len(of(result, "missing-task")) == 3
    [finding] = [item for item in result.findings if item.code == "missing-seed"]
    assert "so that none overwrites another" in finding.fix
    assert finding.path == TASK


def test_a_run_overwritten_in_part_and_the_one_that_did_it_are_both_incomplete(tmp_path: Path) -> None:
    task = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003"
    write_run(task, small_config(), run_id="first")
    write_run(task, small_config(seed=2337), run_id="killed", started=1.9e9, files=("Checkpoint",), last_iter=25_000)
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints")
    result = validate(tmp_path / "checkpoints", select=["missing-final", "missing-checkpoint"])
    assert {(item.code, PurePosixPath(item.path).name) for item in result.findings} == {
        ("missing-checkpoint", "seed_1337"),
        ("missing-final", "seed_2337"),
    }


def hand_made(folder: Path, *, merged: bool) -> Path:
    """A tree in the layout that people make by hand: task folders that hold the files, and nothing else."""
    root = folder / "by hand"
    for layers in (2, 1):
        for mlp in (True, False):
            for mode in ("mix", "curriculum"):
                item = config(8, n_layers=layers, use_mlp=mlp, length_mode=mode)
                task = (2 - layers) * (2 if merged else 4) + (0 if merged else 2 * (not mlp)) + (mode == "curriculum")
                for kind, step in (("Checkpoint", 20001), ("Final", 40000)):
                    home = root / "with_layernorm" / "dynamic" / "len_gen_k8" / f"task_{task:04d}"
                    write_checkpoint(home / name_of(item, kind), item, step=step)
    (root / "README.md").write_text("# Checkpoints\n")
    return root


def test_a_hand_made_tree_is_told_of_once_a_folder(tmp_path: Path) -> None:
    root = hand_made(tmp_path, merged=False)
    result = validate(root, ignore=["missing-seed"])
    assert (result.checked, result.runs) == (16, 8)
    assert [(item.code, item.path[-9:]) for item in result.findings] == [
        ("no-record", f"task_{task:04d}") for task in range(8)
    ]
    assert of(result, "no-record")[0] == "2 checkpoints without a run.json"
    assert result.findings[0].fix == f"Sort it into a new tree: ckptman ingest '{root}' --root NEW"
    # The configurations inside are known all the same.
    assert (
        of(validate(root), "missing-seed")[0]
        == "len_gen_k8 task 0 (L2, MLP on, mix) lacks seeds 2337, 3337 (there: 1337)"
    )


def test_the_fix_for_a_hand_made_tree_works(tmp_path: Path) -> None:
    ingest(hand_made(tmp_path, merged=True), tmp_path / "sorted")
    assert codes(validate(tmp_path / "sorted")) == {"missing-seed"}


def test_a_hand_made_tree_of_the_other_numbering_is_told_so_once(tmp_path: Path) -> None:
    root = hand_made(tmp_path, merged=True)
    result = validate(root, ignore=["missing-seed", "no-record"])
    assert codes(result) == {"other-numbering"}
    assert "Pass --numbering merged" in result.findings[0].fix
    assert result.numbering == "merged"
    merged = validate(root, convention=load_convention(numbering="merged"), ignore=["missing-seed", "no-record"])
    assert merged.findings == ()


def test_one_file_in_a_wrong_folder_of_a_hand_made_tree(tmp_path: Path) -> None:
    root = hand_made(tmp_path, merged=False)
    group = root / "with_layernorm/dynamic/len_gen_k8"
    [name] = [path.name for path in (group / "task_0006").iterdir() if path.name.startswith("Final")]
    (group / "task_0006" / name).rename(group / "task_0000" / name)
    result = validate(root, select=["misplaced", "missing-final", "missing-checkpoint", "other-numbering"])
    assert of(result, "misplaced") == [
        f"by its configuration, {name} belongs in with_layernorm/dynamic/len_gen_k8/task_0006"
    ]
    assert codes(result) == {"misplaced", "missing-final", "missing-checkpoint"}


def test_a_merged_tree_is_clean_by_its_numbering(tmp_path: Path) -> None:
    merged = load_convention(numbering="merged")
    root = make_tree(tmp_path, [config(8, use_mlp=mlp, n_layers=1) for mlp in (True, False)], merged)
    grid = ["missing-seed", "missing-task"]
    assert validate(root, convention=merged, ignore=grid).findings == ()
    assert codes(validate(root, ignore=grid)) == {"other-numbering"}
    # A run folder that does not tell MLP on from off.
    (root / "with_layernorm/dynamic/len_gen_k8/task_0002/seed_1337-mlp0").rename(
        root / "with_layernorm/dynamic/len_gen_k8/task_0002/seed_1337"
    )
    assert codes(validate(root, convention=merged, ignore=grid)) == {"wrong-run-folder"}


def test_raw_outputs_are_no_tree(tmp_path: Path) -> None:
    source = tmp_path / "grid_outputs"
    for kind in ("len_gen_k8", "len_gen_k6"):
        write_run(source / kind / "task_0006", config(int(kind[-1])), run_id=kind)
    result = validate(source)
    assert [(item.code, item.path) for item in result.findings] == [("wrong-root", ".")]
    assert result.findings[0].message == "this folder holds raw outputs: 4 checkpoints, none of them sorted"
    assert result.findings[0].fix == f"Sort it into a new tree: ckptman ingest {source} --root NEW"
    # One checkpoint elsewhere, and it is a folder in disorder.
    home = source / "len_gen_k8" / "task_0006"
    (home / "saved_models" / name_of(config(8))).rename(home / name_of(config(8)))
    assert codes(validate(source, ignore=["missing"])) == {"misplaced", "no-record", "stray-folder"}


def test_a_tree_of_links_is_told_of_once_a_group(tmp_path: Path) -> None:
    write_run(tmp_path / "grid_outputs/len_gen_single_k4/task_0003", small_config(), run_id="abc")
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints", mode="symlink")
    result = validate(tmp_path / "checkpoints", deep=True, ignore=["missing"])
    assert [(item.code, item.path) for item in result.findings] == [("linked-checkpoint", FIXED)]
    assert of(result, "linked-checkpoint")[0].startswith("2 checkpoints here by symbolic links to files in")


def test_kept_wandb_folders_belong_to_the_tree(tmp_path: Path) -> None:
    write_run(tmp_path / "grid_outputs/len_gen_single_k4/task_0003", small_config(), run_id="abc")
    root = tmp_path / "checkpoints"
    ingest(tmp_path / "grid_outputs", root, with_wandb=True, settle=0)
    [kept] = (root / RUN / "wandb").iterdir()
    assert validate(root, ignore=["missing"]).findings == ()
    # In them lie links and leftovers too, and files with a checkpoint's suffix that are none of the tree's.
    (kept / "files" / "model.pt").touch()
    (kept / "files" / "gone").symlink_to("nowhere")
    (kept / "files" / ".ckptman-0123456789abcdef.partial").touch()
    result = validate(root, ignore=["missing"])
    assert codes(result) == {"dangling-link", "unfinished-file"}
    assert result.checked == 2


def test_a_group_of_no_known_pattern_has_no_grid(tmp_path: Path) -> None:
    run = small_config(wandb_group="huang_LN_fixed50", train_min_k=4)
    write_run(tmp_path / "grid_outputs/huang_LN_fixed50/task_0017", run, run_id="abc")
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints")
    root = tmp_path / "checkpoints"
    assert validate(root).findings == ()
    # It has a place all the same.
    home = root / "with_layernorm/fixed/huang_LN_fixed50"
    (home / "task_0017").rename(home / "task_0018")
    assert codes(validate(root)) == {"misplaced"}


def test_a_variant_of_the_model_is_no_error(tmp_path: Path) -> None:
    inside = small_config().to_dict() | {"norm_type": "rmsnorm", "use_qk_norm": True, "wandb_group": "variants"}
    name = FINAL.replace("_ln1_", "_ln1_normrmsnorm_qkn1_")
    weights = {
        "transformer.wte.weight": torch.zeros(129, 8),
        "transformer.h.0.attn.c_attn.weight": torch.zeros(24, 8),
        "transformer.h.0.attn.q_norm.weight": torch.zeros(8),
        "lm_head.weight": torch.zeros(129, 8),
    }
    task = tmp_path / "grid_outputs" / "variants" / "task_0000"
    write_checkpoint(task / name, small_config(), train_config=inside, model=weights)
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints")
    assert validate(tmp_path / "checkpoints", ignore=["missing-checkpoint"]).findings == ()
    # Without the keys of a variant, the same weights are wrong.
    plain = small_config(wandb_group="variants")
    write_checkpoint(tmp_path / "plain" / "variants" / "task_0000" / FINAL, plain, model=weights)
    ingest(tmp_path / "plain", tmp_path / "other")
    assert codes(validate(tmp_path / "other", ignore=["missing-checkpoint"])) == {"wrong-shapes"}


def test_weights_of_a_compiled_model_are_right(tmp_path: Path) -> None:
    file = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003" / FINAL
    write_checkpoint(file, small_config())
    held = torch.load(file)
    held["model"] = {f"_orig_mod.{key}": tensor for key, tensor in held["model"].items()}
    torch.save(held, file)
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints", settle=0)
    assert validate(tmp_path / "checkpoints", ignore=["missing"]).findings == ()


def test_a_name_that_was_trusted_is_told_of_as_that(tmp_path: Path) -> None:
    file = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003" / FINAL.replace("nodup1", "nodup0")
    write_checkpoint(file, small_config())
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints", trust="name")
    assert codes(validate(tmp_path / "checkpoints", ignore=["missing"])) == {"overruled-config"}


# --- moved, renamed, copied -------------------------------------------------------------------------------------------


def fixes(result: ValidationResult) -> dict[str, str]:
    return {item.code: item.fix for item in result.findings}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("to", "expected", "fix"),
    [
        (f"{FIXED}/task_0002/seed_1337/{FINAL}", {"misplaced", "unrecorded-file"}, f"Move it back to {RUN}"),
        (f"{TASK}/seed_2337/moved.pt", {"wrong-run-folder", "unrecorded-file"}, f"Move it back to {RUN}, as {FINAL}"),
        (f"{TASK}/{FINAL}", set(), f"Move it back to {RUN}"),
        (FINAL, {"misplaced"}, f"Move it back to {RUN}"),
        (f"{RUN}/best.pt", {"unrecorded-file"}, f"Rename it to {FINAL}"),
    ],
)
def test_a_file_that_was_moved_is_known_where_it_is_now(
    root: Path, to: str, expected: set[str], fix: str, deep: bool
) -> None:
    (root / RUN / FINAL).rename(root / to)
    result = validate(root, deep=deep, ignore=["unknown-name"])
    assert codes(result) == {"missing-file", *expected}
    assert set(fixes(result).values()) == {fix}
    [missing] = of(result, "missing-file")
    assert missing.endswith(f"but {to.removeprefix(RUN + '/')} seems to be it")


def test_a_file_of_another_seed_in_a_run_is_to_be_moved_and_a_renamed_run_to_be_renamed(root: Path) -> None:
    shutil.copy(root / TASK / "seed_2337" / FINAL, root / RUN / FINAL)
    assert fixes(validate(root))["wrong-run-folder"] == (
        f"Move {FINAL} into {TASK}/seed_2337; what is there already, delete here."
    )
    (root / DYNAMIC_RUN).rename(root / DYNAMIC / "task_0006" / "seed_9")
    found = [item.fix for item in validate(root).findings if item.path.endswith("seed_9")]
    assert found == ["Rename the folder to seed_1337, or ingest the run's source again."]


def test_another_file_is_not_taken_for_the_one_that_is_missing(root: Path) -> None:
    (root / RUN / FINAL).unlink()
    other = write_checkpoint(root / TASK / FINAL, small_config(), salt=1)  # of the same size
    assert "seems to be it" in of(validate(root), "missing-file")[0]
    assert "seems to be it" not in of(validate(root, deep=True), "missing-file")[0]
    write_checkpoint(other, small_config(seed=9337), salt=1)
    assert "seems to be it" not in of(validate(root), "missing-file")[0]


def test_a_copy_of_a_group_is_told_of_once_a_task_and_the_original_is_left_alone(root: Path) -> None:
    shutil.copytree(root / FIXED, root / "backup")
    result = validate(root)
    assert {(item.code, item.path) for item in result.findings} == {
        *(("misplaced", f"backup/task_{task:04d}") for task in range(4)),
        *(("duplicate", f"backup/task_{task:04d}/seed_{seed}") for task in range(4) for seed in (1337, 2337)),
    }
    assert fixes(result)["misplaced"] == f"The same files are in {FIXED}/task_0003: delete these."


def test_the_runs_of_a_renamed_task_folder_are_told_of_together(root: Path) -> None:
    (root / TASK).rename(root / FIXED / "task_0009")
    result = validate(root)
    assert [(item.code, item.path, item.message) for item in result.findings] == [
        ("misplaced", f"{FIXED}/task_0009", f"by its configuration, each of 4 checkpoints here belongs in {TASK}")
    ]
    assert result.findings[0].fix == f"Move the folders of the runs into {TASK}"


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
    assert {"wrong-root", "bad-checkpoint", "wrong-size"} == codes(validate(root / part))


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


def test_no_message_says_a_path_twice(root: Path) -> None:
    (root / RUN / FINAL).write_text("no checkpoint")
    (root / TASK / "overwritten.json").write_text("[]")
    flip_a_weight(root / DYNAMIC_RUN / next(p.name for p in (root / DYNAMIC_RUN).glob("Final*")))
    result = validate(root, deep=True)
    assert codes(result) == {"bad-checkpoint", "wrong-size", "bad-record", "bad-crc", "wrong-hash"}
    assert [item.message for item in result.findings if str(root) in item.message] == []


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_iters", "expected"), [(20_000, set()), (20_001, {"missing-checkpoint"})])
def test_a_run_shorter_than_the_checkpoint_interval_has_none_to_miss(
    tmp_path: Path, max_iters: int, expected: set[str]
) -> None:
    short = small_config(max_iters=max_iters)
    write_checkpoint(
        tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003" / name_of(short), short, step=max_iters
    )
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints")
    assert codes(validate(tmp_path / "checkpoints", ignore=["missing-seed", "missing-task"])) == expected


@pytest.mark.parametrize(("step", "expected"), [(30_001, set()), (30_000, {"off-recipe"}), (15_001, {"off-recipe"})])
def test_a_checkpoint_at_a_later_multiple_of_the_interval_is_on_the_recipe(
    tmp_path: Path, step: int, expected: set[str]
) -> None:
    often = small_config(ckpt_interval=10_000)
    task = tmp_path / "grid_outputs" / "len_gen_single_k4" / "task_0003"
    write_checkpoint(task / CHECKPOINT.replace("20001", str(step)), often, step=step)
    write_checkpoint(task / FINAL, often)
    ingest(tmp_path / "grid_outputs", tmp_path / "checkpoints")
    assert codes(validate(tmp_path / "checkpoints", ignore=["missing"])) == expected


@pytest.mark.parametrize(
    ("interval", "steps", "message"),
    [
        (10_000, [10_001, 20_001, 30_001], None),
        (10_000, [10_001, 30_001], "lacks the Checkpoint after 20001 iterations, which its recipe saves"),
        (10_000, [], "has no Checkpoint, which its recipe saves after 10001, 20001, 30001 iterations"),
        (1_000, [1_001], "after 2001, 3001, 4001, 5001 and 34 more iterations"),
        (13_333, [13_334, 26_667, 40_000], None),  # the last one and the final one are of the same iteration
        (0, [], None),
    ],
)
def test_every_checkpoint_on_the_way_is_asked_for(
    tmp_path: Path, interval: int, steps: list[int], message: str | None
) -> None:
    task = tmp_path / "by hand" / FIXED / "task_0003"
    inside = small_config().to_dict() | {"ckpt_interval": interval}
    for step in steps:
        write_checkpoint(task / CHECKPOINT.replace("20001", str(step)), small_config(), step=step, train_config=inside)
    write_checkpoint(task / FINAL, small_config(), train_config=inside)
    result = validate(tmp_path / "by hand", ignore=["missing-seed", "missing-task", "no-record"])
    assert codes(result) == (set() if message is None else {"missing-checkpoint"})
    assert message is None or message in result.findings[0].message


def test_of_a_run_that_was_stopped_the_checkpoints_up_to_its_last_are_asked_for(tmp_path: Path) -> None:
    task = tmp_path / "by hand" / FIXED / "task_0003"
    often = small_config(ckpt_interval=10_000)
    write_checkpoint(task / CHECKPOINT, often, step=20_001)
    codes_of = ["missing-checkpoint", "missing-final"]
    result = validate(tmp_path / "by hand", select=codes_of)
    assert codes(result) == set(codes_of)
    assert of(result, "missing-checkpoint")[0].endswith(
        "lacks the Checkpoint after 10001 iterations, which its recipe saves"
    )
    write_checkpoint(task / CHECKPOINT.replace("20001", "10001"), often, step=10_001)
    assert codes(validate(tmp_path / "by hand", select=codes_of)) == {"missing-final"}


def test_a_checkpoint_after_the_end_of_training_is_off_the_recipe(tmp_path: Path) -> None:
    short = small_config(max_iters=30_000)
    task = tmp_path / "by hand" / FIXED / "task_0003"
    write_checkpoint(task / CHECKPOINT.replace("20001", "40001"), short, step=40_001)
    result = validate(tmp_path / "by hand", select=["off-recipe"])
    assert "training ends after 30000; this one holds 40001" in of(result, "off-recipe")[0]
    write_checkpoint(task / CHECKPOINT.replace("20001", "40001"), small_config(max_iters=50_000), step=40_001)
    assert codes(validate(tmp_path / "by hand", select=["off-recipe"])) == set()


def test_runs_of_one_cell_whose_recipes_differ_are_told_of_with_what_differs(tmp_path: Path) -> None:
    root = make_tree(tmp_path, [small_config(), small_config(learning_rate=0.01)])
    result = validate(root, ignore=["missing"])
    assert codes(result) == {"repeated-run"}
    assert "their configurations differ in learning_rate" in result.findings[0].message


# --- choosing, depth, shape -------------------------------------------------------------------------------------------


def test_codes_are_selected_and_ignored(root: Path) -> None:
    (root / "notes.txt").touch()
    (root / "empty").mkdir()
    assert codes(validate(root)) == {"stray-file", "empty-folder"}
    assert codes(validate(root, select=["stray"])) == {"stray-file"}
    assert codes(validate(root, ignore=["stray", "empty-folder"])) == set()
    assert validate(root, ignore=["stray", "empty-folder"]).exit_status == 0


def test_absent_groups_are_looked_for_only_if_asked(good_tree: Path) -> None:
    rules = load_convention()  # whose grid has 28 groups
    assert "missing-group" not in codes(validate(good_tree, convention=rules))
    result = validate(good_tree, convention=rules, select=["missing-group"])
    assert len(result.findings) == 26
    assert codes(result) == {"missing-group"}


@pytest.mark.parametrize("option", ["select", "ignore"])
def test_an_unknown_code_is_refused_before_anything_is_read(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate(tmp_path / "no tree", **{option: ["no-such-code"]})  # type: ignore[arg-type]
    assert caught.value.code == "unknown-code"


def test_a_tree_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        validate(tmp_path / "no tree")
    assert caught.value.code == "no-tree"


def test_only_a_deep_validation_reads_the_bytes(root: Path) -> None:
    flip_a_weight(root / RUN / FINAL)
    assert validate(root).findings == ()
    assert codes(validate(root, deep=True)) == {"wrong-hash", "bad-crc"}


def test_documents_are_looked_at_only_if_somebody_tells_which_are_stale(root: Path) -> None:
    asked: list[Path] = []

    def stale_documents(tree: Path) -> Iterator[str]:
        asked.append(tree)
        yield from ("README.md", "TASK_MAPPING.md")

    (root / "README.md").touch()
    assert validate(root).findings == ()
    result = validate(root, stale_documents=stale_documents)
    assert [(item.code, item.path) for item in result.findings] == [("stale-document", "README.md")]  # what is there
    assert asked == [root]
    validate(root, stale_documents=stale_documents, ignore=["stale-document"])
    assert asked == [root]


def test_documents_that_cannot_be_read_do_not_end_the_validation(root: Path) -> None:
    def stale_documents(tree: Path) -> list[str]:
        raise MachineError(f"cannot read {tree / 'README.md'}", code="unreadable")

    (root / "notes.txt").touch()
    assert codes(validate(root, stale_documents=stale_documents)) == {"unreadable", "stray-file"}


def test_progress_is_told_in_files_and_in_bytes(good_tree: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    result = validate(good_tree, deep=True, progress=lambda *args: seen.setdefault(args[0], []).append(args[1:]))
    assert seen["reading"] == [(done, CHECKPOINTS) for done in range(1, CHECKPOINTS + 1)]
    assert seen["hashing"][-1] == (result.size, result.size)
    assert sum(path.stat().st_size for path in good_tree.rglob("*.pt")) == result.size


def test_the_document(root: Path) -> None:
    (root / RUN / "run.json").unlink()
    (root / "notes.txt").touch()
    (root / RUN / "a.txt").touch()
    document = validate(root).to_json()
    assert json.loads(json.dumps(document)) == document
    assert {key: document[key] for key in ("schema_version", "checked", "deep", "numbering")} == {
        "schema_version": 1, "checked": CHECKPOINTS, "deep": False, "numbering": "full",
    }  # fmt: skip
    assert document["counts"]["errors"] == 1
    assert document["counts"]["warnings"] == 2
    assert document["counts"]["by_code"] == {"stray-file": 2, "no-record": 1}
    assert [(item["path"], item["code"]) for item in document["findings"]] == [
        ("notes.txt", "stray-file"),
        (RUN, "no-record"),
        (f"{RUN}/a.txt", "stray-file"),
    ]
    assert set(document["findings"][0]) == {"code", "severity", "path", "message", "fix"}


def test_nothing_is_changed(root: Path) -> None:
    a_temporary_file(root, pytest.MonkeyPatch())
    state = {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in root.rglob("*")}
    check(root)
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in root.rglob("*")} == state


# --- odd names and odd machines ---------------------------------------------------------------------------------------


ODD = ["new\nline", "\x1b[31mred", "[bold red]x", os.fsdecode(b"not utf-8 \xff"), "a:b,c%d", "-rf", " "]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_named_as_they_are(root: Path, name: str) -> None:
    (root / RUN / name).touch()
    (root / DYNAMIC / name).mkdir()
    (root / DYNAMIC / name / f"{name}.pt").touch()
    result = check(root)
    found = {(item.code, item.path) for item in result.findings}
    assert ("stray-file", f"{RUN}/{name}") in found
    assert ("bad-checkpoint", f"{DYNAMIC}/{name}/{name}.pt") in found
    assert ("unknown-name", f"{DYNAMIC}/{name}/{name}.pt") in found


def test_version_control_and_licences_belong(root: Path) -> None:
    (root / ".git" / "objects").mkdir(parents=True)
    (root / ".git" / "HEAD").touch()
    for name in (".gitignore", ".gitattributes", "LICENSE", "README.md", "TASK_MAPPING.previous.md"):
        (root / name).touch()
    assert validate(root).findings == ()
    (root / DYNAMIC / ".git").mkdir()
    (root / DYNAMIC / "LICENSE").touch()
    assert codes(validate(root)) == {"empty-folder", "stray-file"}


def test_a_name_in_two_unicode_forms_is_a_twin(root: Path) -> None:
    (root / "caf\u00e9").mkdir()
    (root / "cafe\u0301").mkdir()
    assert codes(validate(root, ignore=["empty-folder"])) == {"case-twins"}


def test_nothing_is_missing_where_it_could_not_be_looked_for(root: Path, monkeypatch: MonkeyPatch) -> None:
    original = os.scandir

    def deny(path: Any) -> Any:
        if os.fspath(path) == str(root / FIXED):
            raise PermissionError(13, "Permission denied")
        return original(path)

    (root / DYNAMIC / "task_0000" / "overwritten.json").write_text("[]")  # a bad list hides nothing
    shutil.rmtree(root / DYNAMIC / "task_0000" / "seed_1337")
    assert codes(validate(root)) == {"bad-record", "missing-seed"}
    monkeypatch.setattr(os, "scandir", deny)
    result = validate(root)
    assert {(item.code, item.path) for item in result.findings} == {
        ("bad-record", f"{DYNAMIC}/task_0000/overwritten.json"),
        ("missing-seed", f"{DYNAMIC}/task_0000"),
        ("unreadable", FIXED),
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_nobody_may_read_is_named_and_the_rest_goes_on(root: Path) -> None:
    (root / RUN / FINAL).chmod(0)
    (root / DYNAMIC_RUN).chmod(0)
    result = validate(root, ignore=["missing-seed"])
    (root / DYNAMIC_RUN).chmod(0o700)
    assert [(item.code, item.path) for item in result.findings] == [
        ("unreadable", DYNAMIC_RUN),
        ("unreadable", f"{RUN}/{FINAL}"),
    ]


def test_a_file_that_vanishes_meanwhile_is_no_fault_of_the_program(root: Path, monkeypatch: MonkeyPatch) -> None:
    original = os.open

    def vanish(path: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(path) == str(root / RUN / FINAL):
            (root / RUN / FINAL).unlink(missing_ok=True)
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "open", vanish)
    assert codes(validate(root)) == {"unreadable"}


def test_neither_torch_nor_wandb_is_imported() -> None:
    import subprocess

    code = "import sys, ckptman.checks, ckptman.cli.validate; sys.exit(str({'torch', 'wandb'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"
