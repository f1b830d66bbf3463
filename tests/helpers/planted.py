"""Faults to plant in the good tree, at least one for each code of `validate` but those of the weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch

from ckptman.documents.reporting import report
from ckptman.fs import files
from ckptman.rules.convention_file import load_convention
from ckptman.tree.records import read_record, write_record
from tests.helpers import contents
from tests.helpers.raw import write_checkpoint
from tests.helpers.trees import (
    CHECKPOINT,
    CHECKPOINTS,
    DYNAMIC_RUN,
    FINAL,
    FIXED,
    RULES,
    RUN,
    TASK,
    drop,
    edit_entry,
    edit_json,
    edit_record,
    record_again,
    rename,
    small_config,
)
from tests.helpers.validated import flip_a_weight

MonkeyPatch = pytest.MonkeyPatch


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


@fault(
    "foreign-object", f"{RUN}/{FINAL}", says="trainer.state.Meter (in meters[0], meters[1], best); trainer.state.Log"
)
def objects_of_the_trainers_classes(root: Path, _: MonkeyPatch) -> None:
    meter, log = (contents.plain_class(f"trainer.state.{name}") for name in ("Meter", "Log"))
    with contents.modules(meter, log):
        write_checkpoint(
            root / RUN / FINAL, small_config(), meters=[meter(), meter()], best=meter(), log=contents.instance(log, a=1)
        )
    record_again(root / RUN)


@fault("odd-field", f"{RUN}/{FINAL}", says="its iters_done is -1, not a number of iterations")
def a_number_of_iterations_below_0(root: Path, _: MonkeyPatch) -> None:
    write_checkpoint(root / RUN / FINAL, small_config(), step=-1)
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


@fault("unreadable", f"{RUN}/{FINAL}", says="permission denied")
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
    file, original, access = root / RUN / "run.json", files.read_bytes, os.access

    def deny(path: Path, *more: Any) -> bytes:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return original(path, *more)

    patch.setattr(files, "read_bytes", deny)
    patch.setattr(os, "access", lambda path, mode: path != file and access(path, mode))


@fault("bad-crc", f"{RUN}/{FINAL}")
def a_byte_changed_before_it_was_hashed(root: Path, _: MonkeyPatch) -> None:
    flip_a_weight(root / RUN / FINAL)
    record_again(root / RUN)


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
    edit_record(root / RUN, metrics={})


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


@fault("no-place", RUN, also=("missing-seed",), says="the configuration has no use_layernorm")
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


@fault("record-changed", f"{RUN}/run.json", says="changed since ckptman wrote it")
def a_record_that_lost_a_bit(root: Path, _: MonkeyPatch) -> None:
    file = root / RUN / "run.json"
    write_record(file.parent, replace(read_record(file.parent), run_id="abcd1234"))
    file.write_bytes(file.read_bytes().replace(b"abcd1234", b"abcd1235"))


@fault("bad-record", f"{TASK}/overwritten.json")
def a_broken_list_of_overwritten_runs(root: Path, _: MonkeyPatch) -> None:
    (root / TASK / "overwritten.json").write_text("[]")


@fault("record-disagrees", f"{RUN}/run.json", says="its task is 1, and 3 by the configuration")
def a_record_of_another_task(root: Path, _: MonkeyPatch) -> None:
    edit_record(root / RUN, task=1)


@fault("record-disagrees", f"{RUN}/{FINAL}", says="run.json calls it a Checkpoint at step 40000")
def a_record_of_another_kind(root: Path, _: MonkeyPatch) -> None:
    edit_entry(root / RUN, FINAL, kind="Checkpoint")


@fault("config-disagrees", f"{RUN}/run.json", says="learning_rate is 0.5 in run.json and 0.0001 in the file")
def a_record_of_another_configuration(root: Path, _: MonkeyPatch) -> None:
    edit_record(root / RUN, config={"learning_rate": 0.5})


@fault("config-disagrees", f"{RUN}/run.json", says="learning_rate is in the file only")
def a_record_that_lacks_a_key(root: Path, _: MonkeyPatch) -> None:
    edit_json(root / RUN / "run.json", lambda document: document["config"].pop("learning_rate"))


@fault("config-disagrees", f"{RUN}/{FINAL}", says="seed is 1337 in run.json and 2337")
def a_file_of_another_seed_in_a_run(root: Path, _: MonkeyPatch) -> None:
    write_checkpoint(root / RUN / FINAL, small_config(seed=2337), salt=1)
    record_again(root / RUN)


@fault("missing-file", f"{RUN}/{FINAL}")
def a_checkpoint_that_was_deleted(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / FINAL).unlink()


@fault("missing-file", f"{RUN}/wandb/run-20260310_000000-run00018")
def a_kept_wandb_folder_that_was_deleted(root: Path, _: MonkeyPatch) -> None:
    edit_record(root / RUN, wandb=["wandb/run-20260310_000000-run00018"])


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


@fault("bad-history", f"{RUN}/history.csv.gz", says="does not list")
def a_learning_curve_that_no_run_json_lists(root: Path, _: MonkeyPatch) -> None:
    (root / RUN / "history.csv.gz").write_bytes(b"1")


@fault("bad-history", f"{RUN}/history.csv.gz", says="is not there")
def a_learning_curve_that_is_gone(root: Path, _: MonkeyPatch) -> None:
    edit_record(root / RUN, history={"size": 1, "sha256": "0" * 64, "steps": 1, "metrics": 1, "sources": []})


@fault("bad-history", f"{RUN}/history.csv.gz", says="by run.json")
def a_learning_curve_of_other_bytes(root: Path, _: MonkeyPatch) -> None:
    a_learning_curve_that_is_gone(root, _)
    (root / RUN / "history.csv.gz").write_bytes(b"1")


@fault("ambiguous-run", RUN, says="two runs: abc, def")
def a_run_that_could_be_another(root: Path, _: MonkeyPatch) -> None:
    note = {"code": "ambiguous", "evidence": "two runs", "candidates": ["abc", "def"]}
    edit_record(root / RUN, run_id=None, attribution=note)


@fault("sources-disagree", f"{RUN}/run.json", says="hparams.yaml: n_layers is 2, and 1 in force")
def a_file_beside_it_that_says_otherwise(root: Path, _: MonkeyPatch) -> None:
    def add(document: dict[str, Any]) -> None:
        document["source"]["beside"] = [
            {"path": "hparams.yaml", "gave": [], "differs": ["n_layers is 2, and 1 in force"]}
        ]

    edit_json(root / RUN / "run.json", add)


@fault("unfinished-migration", ".", says="two conventions")
def a_migration_that_was_interrupted(root: Path, _: MonkeyPatch) -> None:
    journal = root / ".ckptman-migrations" / "0001" / "journal.json"
    journal.parent.mkdir(parents=True)
    journal.write_text(json.dumps({"schema_version": 1, "state": "begun", "date": "", "runs": [], "steps": []}))


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


@fault("split-run", f"{TASK}/seed_1337-run00018", says=f"run run00018 lies here and in {RUN}")
def a_run_in_two_folders(root: Path, _: MonkeyPatch) -> None:
    shutil.copytree(root / RUN, root / TASK / "seed_1337-run00018")
    drop(root / RUN, FINAL)
    drop(root / TASK / "seed_1337-run00018", CHECKPOINT)


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
