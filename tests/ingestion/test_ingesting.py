"""`ingest`: every file at the place its configuration says, nothing lost, nothing overwritten."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.fs.transfer import Mode, lock_tree
from ckptman.ingestion.ingesting import IngestResult, ingest
from ckptman.rules.convention_file import load_convention
from ckptman.rules.recipe import TrainConfig
from ckptman.text.errors import MachineError, UsageError
from ckptman.tree.records import OVERWRITTEN_FILE, RUN_FILE, read_overwritten, read_record, write_record
from tests.helpers.raw import START, config, gen_metrics, name_of, snapshot, write_checkpoint, write_run

RUN = "with_layernorm/dynamic/len_gen_k8/task_0006/seed_1337"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "grid_outputs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def task(source: Path, number: int = 6, group: str = "len_gen_k8") -> Path:
    return source / group / f"task_{number:04d}"


def codes(result: IngestResult) -> list[str]:
    return [item.code for item in result.refused]


# --- where files go ---------------------------------------------------------------------------------------------------


def test_a_run_is_placed_with_its_provenance(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234", metrics=gen_metrics(0.75))
    before = snapshot(source)
    result = ingest(source, root)
    assert [row.path for row in result.placed] == [f"{RUN}/{file.name}" for file in files]
    for file in files:
        assert (root / RUN / file.name).read_bytes() == file.read_bytes()
    record = read_record(root / RUN)
    assert (record.run_id, record.seed, record.task, record.group) == ("abcd1234", 1337, 6, "len_gen_k8")
    assert record.config == config().to_dict()
    assert record.config_source == "checkpoint"
    assert record.metrics["gen/K17/exact_match_acc"] == 0.75
    assert record.source.root == str(source)
    assert record.source.wandb == ("len_gen_k8/task_0006/wandb/wandb/run-20260310_000000-abcd1234",)
    assert [entry.sha256 for entry in record.checkpoints] == [
        hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    ]
    assert snapshot(source) == before


def test_the_configuration_decides_not_the_folder(source: Path, root: Path) -> None:
    write_run(task(source, 2), config(), run_id="abcd1234")  # the 4-id numbering calls it 2
    result = ingest(source, root)
    assert {row.path.rpartition("/")[0] for row in result.placed} == {RUN}
    assert [(item.task, item.source_task) for item in result.plan.renumbered] == [(6, 2), (6, 2)]
    assert read_record(root / RUN).source.task == 2


def test_seeds_that_overwrote_each_other_are_found(source: Path, root: Path) -> None:
    for index, seed in enumerate((1337, 2337, 3337)):
        write_run(task(source), config(seed=seed), run_id=f"run{seed}", started=START + 1000 * index)
    result = ingest(source, root)
    assert {row.seed for row in result.placed} == {3337}
    lost = [(run.run_id, run.seed, run.overwritten_by) for run in result.plan.overwritten]
    assert lost == [("run1337", 1337, ("run3337",)), ("run2337", 2337, ("run3337",))]
    # The finding stays the same when nothing is left to place, and in the tree.
    again = ingest(source, root)
    assert again.plan.overwritten == result.plan.overwritten
    kept = json.loads((root / RUN).with_name("overwritten.json").read_text())
    assert [run["run_id"] for run in kept["runs"]] == ["run1337", "run2337"]


def test_seeds_in_folders_of_their_own_are_not_overwritten(source: Path, root: Path) -> None:
    for seed in (1337, 2337, 3337):
        write_run(task(source), config(seed=seed), run_id=f"run{seed}", saved_models=f"saved_models/seed_{seed}")
    result = ingest(source, root)
    assert {row.seed for row in result.placed} == {1337, 2337, 3337}
    assert result.plan.overwritten == ()


def test_a_run_that_stopped_before_its_first_checkpoint_is_not_called_overwritten(source: Path, root: Path) -> None:
    write_run(task(source), config(seed=2337), run_id="early", last_iter=5000, save=False)
    write_run(task(source), config(seed=1337), run_id="whole", started=START + 1000)
    result = ingest(source, root)
    assert result.plan.overwritten == ()
    assert [item.run.run_id for item in result.plan.without_files] == ["early"]


def test_a_final_that_survives_a_killed_later_seed_is_overwritten_in_part(source: Path, root: Path) -> None:
    write_run(task(source), config(seed=1337), run_id="first")
    write_run(
        task(source), config(seed=2337), run_id="killed", started=START + 1000, files=("Checkpoint",), last_iter=25000
    )
    result = ingest(source, root)
    assert {(row.seed, row.kind) for row in result.placed} == {(1337, "Final"), (2337, "Checkpoint")}
    [partly] = result.plan.partly_overwritten
    assert (partly.run_id, partly.files) == ("first", (name_of(config(), "Checkpoint"),))


def test_the_merged_numbering(source: Path, root: Path) -> None:
    for mlp in (False, True):
        write_run(task(source, 2), config(use_mlp=mlp), run_id=f"mlp{int(mlp)}")
    result = ingest(source, root, convention=load_convention(numbering="merged"))
    folders = sorted({row.path.rpartition("/")[0].rpartition("/")[2] for row in result.placed})
    assert folders == ["seed_1337-mlp0", "seed_1337-mlp1"]
    assert result.plan.renumbered == ()


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(("first", "then"), [("full", "merged"), ("merged", "full")])
def test_a_tree_keeps_its_numbering(source: Path, root: Path, first: str, then: str, dry_run: bool) -> None:
    for number, mlp in ((4, True), (6, False)):
        write_run(task(source, number), config(use_mlp=mlp), run_id=f"mlp{int(mlp)}")
    ingest(source, root, convention=load_convention(numbering=first))
    before = snapshot(root)
    more = write_run(task(source, 5), config(n_layers=2), run_id="more")
    with pytest.raises(UsageError, match=f"2 runs would be misplaced by the '{then}' numbering") as error:
        ingest(source, root, convention=load_convention(numbering=then), dry_run=dry_run)
    assert error.value.code == "other-numbering"
    assert f"--numbering {first}" in error.value.fix
    assert f"`numbering: {first}`" in error.value.fix
    assert snapshot(root) == before
    again = ingest(source, root, convention=load_convention(numbering=first), dry_run=dry_run)  # the control
    assert len(again.placed) == len(more)


@pytest.mark.parametrize("numbering", ["full", "merged"])
def test_a_tree_without_records_keeps_its_numbering_too(source: Path, root: Path, numbering: str) -> None:
    by_hand = root / "with_layernorm" / "dynamic" / "len_gen_k8" / "task_0002"  # where `merged` has one layer, mix
    write_checkpoint(by_hand / name_of(config()), config())
    write_run(task(source, 0), config(n_layers=2), run_id="more")
    rules = load_convention(numbering=numbering)
    if numbering == "full":
        with pytest.raises(UsageError, match="1 run would be misplaced"):
            ingest(source, root, convention=rules, dry_run=True)
    else:
        assert len(ingest(source, root, convention=rules, dry_run=True).placed) == 2


def test_a_file_of_another_group_than_its_folder_is_told(source: Path, root: Path) -> None:
    write_run(task(source), config(6), run_id="abcd1234")
    result = ingest(source, root)
    assert {(item.group, item.source_group) for item in result.plan.regrouped} == {("len_gen_k6", "len_gen_k8")}
    assert result.to_json()["regrouped"] == [
        {"source": row.source, "group": "len_gen_k6", "source_group": "len_gen_k8"} for row in result.placed
    ]
    assert ingest(source, root).plan.regrouped == result.plan.regrouped


@pytest.mark.parametrize(
    "folder", ["len_gen_k8/task_0006", "task_0006", "with_layernorm/dynamic/task_0006", "saved_models"]
)
def test_a_folder_that_is_no_other_group_regroups_nothing(source: Path, root: Path, folder: str) -> None:
    write_checkpoint(source / folder / name_of(config()), config())
    result = ingest(source, root)
    assert (len(result.placed), result.plan.regrouped) == (1, ())


@pytest.mark.parametrize("group", [" len_gen_x", "len_gen_x ", "len_gen_x\u2003"])
def test_a_group_with_white_space_around_it_is_refused(source: Path, root: Path, group: str) -> None:
    write_run(task(source, 17, "odd"), config(train_min_k=8, wandb_group=group), run_id="abcd1234")
    assert codes(ingest(source, root)) == ["unsafe-group", "unsafe-group"]
    write_run(task(source, 17, "fine"), config(train_min_k=8, wandb_group="len_gen x"), run_id="fine", salt=1)
    assert {row.group for row in ingest(source, root).placed} == {"len_gen x"}  # the control


def test_a_group_of_no_known_pattern_is_placed_as_it_is(source: Path, root: Path) -> None:
    odd = config(8, train_min_k=8, wandb_group="huang_LN_fixed50")
    write_run(task(source, 17, "huang_LN_fixed50"), odd, run_id="abcd1234")
    result = ingest(source, root)
    assert result.placed[0].path.startswith("with_layernorm/fixed/huang_LN_fixed50/task_0017/seed_1337/")


@pytest.mark.parametrize("part", ["", "len_gen_k8", "len_gen_k8/task_0006", "len_gen_k8/task_0006/saved_models"])
def test_the_source_may_be_any_part(source: Path, root: Path, part: str) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    result = ingest(source / part, root)
    assert len(result.placed) == 2
    assert read_record(root / RUN).run_id == "abcd1234"
    # The whole source afterwards finds nothing new.
    assert ingest(source, root).placed == ()


def test_one_file_is_a_source(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    assert [row.path for row in ingest(files[1], root).placed] == [f"{RUN}/{files[1].name}"]


# --- W&B folders that lie elsewhere -----------------------------------------------------------------------------------


def saved_to(source: Path, number: int, **values: Any) -> TrainConfig:
    """A configuration that says where it was told to save, on another machine."""
    return config(save_dir=f"/scratch/lab/{source.name}/len_gen_k8/task_{number:04d}/saved_models", **values)


def run_ids(result: IngestResult) -> dict[str, str | None]:
    return {row.source: row.run_id for row in result.placed}


def test_runs_of_one_process_leave_all_wandb_folders_below_the_first_task(source: Path, root: Path) -> None:
    for number, mlp in ((4, True), (6, False)):
        for index, seed in enumerate((1337, 2337)):
            write_run(
                task(source, number), saved_to(source, number, use_mlp=mlp, seed=seed),
                run_id=f"task{number}seed{seed}", started=START + 1000 * (2 * number + index),
                wandb_home=task(source, 4),
            )  # fmt: skip
    result = ingest(source, root)
    assert {row.task: row.run_id for row in result.placed} == {4: "task4seed2337", 6: "task6seed2337"}
    lost = [(run.run_id, run.task, run.source_task, run.overwritten_by) for run in result.plan.overwritten]
    assert lost == [("task4seed1337", 4, 4, ("task4seed2337",)), ("task6seed1337", 6, 6, ("task6seed2337",))]
    assert result.plan.without_files == ()
    assert "does not lie beside" in read_record(root / RUN.replace("1337", "2337")).attribution.evidence
    assert ingest(source, root).plan.overwritten == result.plan.overwritten


def test_one_wandb_folder_for_the_whole_source(source: Path, root: Path) -> None:
    for index, seed in enumerate((1337, 2337)):
        write_run(task(source), config(seed=seed), run_id=f"run{seed}", started=START + 1000 * index, wandb_home=source)
    result = ingest(source, root)
    assert {row.run_id for row in result.placed} == {"run2337"}
    assert [run.run_id for run in result.plan.overwritten] == ["run1337"]


def test_a_run_recorded_elsewhere_does_not_settle_what_is_open_nearby(source: Path, root: Path) -> None:
    for index in range(2):
        files = write_run(task(source), saved_to(source, 6), run_id=f"near{index}", started=START + 5000 * index)
    far = write_run(task(source, 7), saved_to(source, 6), run_id="far", started=START + 20000, save=False)
    assert far == []
    for file in files:
        os.utime(file, (START + 20100, START + 20100))  # only `far` ran then
    ingest(source, root)
    record = read_record(root / RUN)
    assert (record.run_id, record.attribution.candidates) == (None, ("near0", "near1"))


@pytest.mark.parametrize(("number", "run_id"), [(6, "far"), (5, None)])
def test_a_run_recorded_elsewhere_must_have_saved_here(
    source: Path, root: Path, number: int, run_id: str | None
) -> None:
    for file in write_run(task(source), saved_to(source, 6), run_id="gone"):
        assert file.exists()
    shutil.rmtree(task(source) / "wandb")
    write_run(task(source, 4), saved_to(source, number), run_id="far", save=False)
    assert set(run_ids(ingest(source, root)).values()) == {run_id}


@pytest.mark.parametrize("has_its_own", [False, True])
def test_a_run_recorded_elsewhere_that_has_its_own_file_wrote_no_other(
    source: Path, root: Path, has_its_own: bool
) -> None:
    [backup] = write_run(source / "backup", saved_to(source, 6), run_id="gone", files=("Final",))
    shutil.rmtree(source / "backup" / "wandb")
    write_run(
        task(source), saved_to(source, 6), run_id="rerun", files=("Final",), started=START + 5000, salt=1,
        save=has_its_own,
    )  # fmt: skip
    found = run_ids(ingest(source, root))
    assert found[str(backup.relative_to(source))] == (None if has_its_own else "rerun")
    assert len(found) == 1 + has_its_own


def test_one_run_recorded_elsewhere_did_not_write_two_files_of_one_name(source: Path, root: Path) -> None:
    for salt, folder in enumerate(("one", "two")):
        write_run(source / folder, saved_to(source, 6), run_id="gone", files=("Final",), salt=salt)
        shutil.rmtree(source / folder / "wandb")
    write_run(source / "third", saved_to(source, 6), run_id="far", save=False)
    result = ingest(source, root)
    assert list(run_ids(result).values()) == [None, None]
    assert result.plan.overwritten == ()
    shutil.rmtree(source / "two")
    assert list(run_ids(ingest(source, root.with_name("control"))).values()) == ["far"]


def test_a_seed_whose_own_folder_is_gone_was_not_overwritten(source: Path, root: Path) -> None:
    for seed in (1337, 2337):
        write_run(
            task(source), saved_to(source, 6, seed=seed), run_id=f"run{seed}", saved_models=f"saved_models/seed_{seed}",
            wandb_home=task(source, 4),
        )  # fmt: skip
    shutil.rmtree(task(source) / "saved_models" / "seed_1337")
    result = ingest(source, root)
    assert result.plan.overwritten == ()
    [lost] = result.plan.without_files
    assert (lost.run.run_id, len(lost.missing)) == ("run1337", 2)


def test_a_run_of_another_group_with_the_same_names_is_not_blamed(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="first", wandb_home=source)
    for file in (task(source) / "saved_models").iterdir():
        file.unlink()
    write_run(
        task(source, 6, "other_group"), config(seed=2337, wandb_group="other_group"), run_id="other", wandb_home=source
    )
    result = ingest(source, root)
    assert {row.run_id for row in result.placed} == {"other"}
    assert result.plan.overwritten == ()
    assert [item.run.run_id for item in result.plan.without_files] == ["first"]


def test_wandbs_own_links_are_passed_over(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    wandb = task(source) / "wandb" / "wandb"
    (wandb / "debug.log").symlink_to("run-20260310_000000-abcd1234/logs/debug.log")
    assert ingest(source, root).refused == ()
    (wandb / "other.log").symlink_to("/elsewhere/debug.log")  # the control
    assert codes(ingest(source, root)) == ["symlink"]


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


# --- doing it again ---------------------------------------------------------------------------------------------------

_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_watch)


def opened_checkpoints(action: Callable[[], object]) -> set[str]:
    """Names of the checkpoint files that an action opens."""
    global _opened  # an audit hook cannot be taken away
    _opened = []
    try:
        action()
        return {Path(path).name for path in _opened if path.endswith(".pt")}
    finally:
        _opened = None


def test_doing_it_again_places_nothing_and_reads_no_checkpoint(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    assert opened_checkpoints(lambda: ingest(source, root)) == {file.name for file in files}  # the control
    before = snapshot(root)
    results: list[IngestResult] = []
    assert opened_checkpoints(lambda: results.append(ingest(source, root))) == set()
    assert results[0].placed == ()
    assert len(results[0].plan.unchanged) == 2
    assert snapshot(root) == before


def test_checksum_reads_again(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    assert opened_checkpoints(lambda: ingest(source, root, checksum=True)) >= {file.name for file in files}
    # Bytes that changed behind an unchanged size and time are seen by it alone.
    state = files[1].stat()
    write_checkpoint(files[1], config(), salt=9)
    os.utime(files[1], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert ingest(source, root).placed == ()
    assert len(ingest(source, root, checksum=True).placed) == 1


def test_only_new_runs_are_placed(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="first")
    ingest(source, root)
    before = snapshot(root)
    names = set()
    for index in range(10):
        more = config(6, seed=1337 + index, use_mlp=bool(index % 2))
        names |= {
            file.name
            for file in write_run(
                task(source, index, "len_gen_k6"), more, run_id=f"more{index}", started=START + 1000 * index
            )
        }
    results: list[IngestResult] = []
    assert opened_checkpoints(lambda: results.append(ingest(source, root))) == names
    [result] = results
    assert {(row.group, row.run_id) for row in result.placed} == {("len_gen_k6", f"more{i}") for i in range(10)}
    assert (len(result.placed), len(result.plan.unchanged)) == (20, 2)
    assert {path: data for path, data in snapshot(root).items() if "len_gen_k8" in path} == before


def test_a_file_that_was_taken_from_the_tree_is_placed_again(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    (root / RUN / files[0].name).unlink()
    assert [row.path for row in ingest(source, root).placed] == [f"{RUN}/{files[0].name}"]


def test_an_unfinished_run_folder_is_completed(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    whole = snapshot(root)
    (root / RUN / "run.json").unlink()
    (root / RUN / files[1].name).unlink()
    result = ingest(source, root)
    assert [row.kind for row in result.placed] == ["Final"]
    assert snapshot(root) == whole


def test_what_a_killed_ingest_left_is_removed(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root, with_wandb=True)
    whole = snapshot(root)
    folders = {(root / path).parent for path in whole} | {root, (root / RUN).parent}
    for folder in folders:
        (folder / ".ckptman-0123456789abcdef.partial").write_bytes(b"half a f")
        (folder / ".notes").write_bytes(b"not ckptman's")
    ingest(source, root)
    assert {path for path in snapshot(root) if path.endswith(".partial")} == set()
    assert {path: data for path, data in snapshot(root).items() if not path.endswith(".notes")} == whole
    assert len([path for path in snapshot(root) if path.endswith(".notes")]) == len(folders)


def test_on_a_full_disk_what_is_whole_stays_and_the_next_ingest_goes_on(
    source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, mlp in ((4, True), (6, False)):
        write_run(task(source, number), config(use_mlp=mlp), run_id=f"task{number}", started=START + number * 1000)
    before = snapshot(source)
    real, count = os.write, 0

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal count
        count += 1
        if count > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(MachineError, match=r"no space is left .* \(2 of 4 files are in place\)") as error:
            ingest(source, root)
    assert error.value.code == "disk-full"
    assert len([path for path in snapshot(root) if path.endswith(".pt")]) == 2
    assert snapshot(source) == before
    assert len(ingest(source, root).placed) == 2
    assert {record.run_id for record in map(read_record, [root / RUN, root / RUN.replace("0006", "0004")])} == {
        "task4", "task6",
    }  # fmt: skip


def test_a_dry_run_prints_the_very_plan(source: Path, root: Path) -> None:
    for seed in (1337, 2337):
        write_run(task(source, 2), config(seed=seed), run_id=f"run{seed}", started=START + seed)
    (source / "bad.pt").write_bytes(b"")
    os.utime(source / "bad.pt", (START, START))
    dry = ingest(source, root, dry_run=True)
    assert not root.exists()
    real = ingest(source, root)
    assert {**dry.to_json(), "dry_run": False} == real.to_json()
    assert real.placed


# --- the tree's own files ---------------------------------------------------------------------------------------------


def damage(file: Path, *, same_size: bool) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data) if same_size else bytes(data[:-100]))


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
    assert {run.run_id for run in read_overwritten(file.parent)} >= {"run1337"}


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
    assert {**dry.to_json(), "dry_run": False} == result.to_json()
    assert result.to_json()["removed"] == [
        {"source": str(file.relative_to(source)), "same_as": f"{RUN}/{file.name}"} for file in files
    ]
    assert (result.placed, result.refused) == ((), ())
    assert {path: data for path, data in snapshot(root).items() if path.endswith(".pt")} == {
        path: data for path, data in tree.items() if path.endswith(".pt")
    }
    assert (root / RUN / RUN_FILE).is_file()


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


# --- what is in the way -----------------------------------------------------------------------------------------------


@pytest.fixture
def good(source: Path) -> list[Path]:
    """A good run beside whatever a test breaks: the rest must go on."""
    return write_run(task(source), config(), run_id="abcd1234")


def assert_rest_went_on(result: IngestResult, root: Path) -> None:
    assert [row.path.rpartition("/")[0] for row in result.placed] == [RUN, RUN]
    assert (root / RUN / "run.json").is_file()


def old(path: Path) -> Path:
    os.utime(path, (START, START))
    return path


def test_a_cut_file_is_deferred_while_it_is_young(source: Path, root: Path, good: list[Path]) -> None:
    cut = task(source, 7) / "saved_models" / name_of(config(length_mode="curriculum"))
    write_checkpoint(cut, config(length_mode="curriculum"))
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-100])
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert [item.source for item in result.deferred] == [str(cut.relative_to(source))]
    assert result.refused == ()
    assert codes(ingest(source, root, settle=0)) == ["cut"]
    assert codes(ingest(old(cut).parents[3], root)) == ["cut"]
    cut.write_bytes(whole)
    assert len(ingest(source, root).placed) == 1


def test_a_file_that_is_written_to_between_plan_and_placement_is_deferred(
    source: Path, root: Path, good: list[Path]
) -> None:
    live = write_checkpoint(task(source) / "saved_models" / name_of(config(use_mlp=True)), config(use_mlp=True))

    def write(stage: str, done: int, total: int) -> None:
        if stage == "placing" and live.stat().st_mtime == START:
            write_checkpoint(live, config(use_mlp=True), salt=1, saved_at=START + 1)

    result = ingest(source, root, progress=write)
    assert_rest_went_on(result, root)
    assert [(item.source, item.code) for item in result.deferred] == [
        (str(live.relative_to(source)), "changed-while-read")
    ]
    assert result.refused == ()
    assert not any(path.endswith(live.name) for path in snapshot(root))
    assert [row.source for row in ingest(source, root).placed] == [str(live.relative_to(source))]


def test_a_file_with_flipped_bytes_is_refused_by_its_checksum(source: Path, root: Path, good: list[Path]) -> None:
    bad = write_checkpoint(task(source, 4) / "saved_models" / name_of(config(use_mlp=True)), config(use_mlp=True))
    data = bytearray(bad.read_bytes())
    middle = data.index(b"data/0") + 200
    data[middle] ^= 0xFF
    bad.write_bytes(bytes(data))
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert len(result.refused) == 1
    assert result.refused[0].source == str(bad.relative_to(source))


def test_a_name_that_disagrees_is_refused_until_somebody_decides(source: Path, root: Path, tmp_path: Path) -> None:
    inside = config(use_mlp=True)
    wrong = write_checkpoint(task(source) / "saved_models" / name_of(config()), inside)
    result = ingest(source, root)
    assert codes(result) == ["name-disagrees"]
    assert "use_mlp" in result.refused[0].message
    by_config = ingest(source, tmp_path / "by_config", trust="config")
    assert by_config.placed[0].path.endswith(f"task_0004/seed_1337/{name_of(inside)}")
    by_name = ingest(source, tmp_path / "by_name", trust="name")
    assert by_name.placed[0].path.endswith(f"task_0006/seed_1337/{wrong.name}")
    record = read_record(tmp_path / "by_name" / RUN)
    assert (record.config["use_mlp"], record.config_source) == (False, "name")


def test_an_unknown_name_is_refused_or_given_by_the_configuration(source: Path, root: Path) -> None:
    write_checkpoint(task(source) / "saved_models" / "best.pt", config())
    assert codes(ingest(source, root)) == ["unknown-name"]
    result = ingest(source, root, trust="config")
    assert result.placed[0].path == f"{RUN}/{name_of(config())}"


def test_without_a_configuration_inside_the_wandb_record_gives_it(source: Path, root: Path) -> None:
    files = write_run(task(source), config(seed=2337), run_id="abcd1234")
    for file in files:
        strip_config(file)
    ingest(source, root)
    record = read_record(root / RUN.replace("1337", "2337"))
    assert (record.config_source, record.run_id) == ("W&B files", "abcd1234")


def test_without_any_record_the_name_gives_it(source: Path, root: Path) -> None:
    strip_config(write_checkpoint(task(source) / "saved_models" / name_of(config()), config()))
    result = ingest(source, root)
    assert result.placed[0].path.endswith("task_0006/seed_unknown/" + name_of(config()))
    record = read_record(root / Path(result.placed[0].path).parent)
    assert (record.config_source, record.seed, record.run_id) == ("name", None, None)


def strip_config(file: Path) -> Path:
    state = file.stat()
    document = torch.load(file)
    del document["train_config"]
    torch.save(document, file)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    return file


def test_symbolic_links_in_the_source_are_named_or_followed(
    source: Path, root: Path, good: list[Path], tmp_path: Path
) -> None:
    elsewhere = write_checkpoint(tmp_path / "elsewhere" / name_of(config(use_mlp=True)), config(use_mlp=True))
    (task(source, 4)).mkdir()
    (task(source, 4) / elsewhere.name).symlink_to(elsewhere)
    (task(source, 4) / "loop").symlink_to(source)
    (task(source, 4) / "nowhere.pt").symlink_to(tmp_path / "nothing")
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert codes(result) == ["symlink"] * 3
    followed = ingest(source, root, follow_symlinks=True)
    assert [row.task for row in followed.placed] == [4]
    assert sorted(codes(followed)) == ["symlink-loop", "unreadable"]


def test_a_pipe_does_not_block(source: Path, root: Path, good: list[Path]) -> None:
    os.mkfifo(task(source) / "saved_models" / name_of(config(use_mlp=True)))
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert codes(result) == ["not-a-file"]


def test_a_folder_that_cannot_be_read_is_named(
    source: Path, root: Path, good: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = source / "len_gen_k8" / "secret"
    secret.mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(os.fsdecode(path)) == secret:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # modes do not stop root
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert codes(result) == ["unreadable-folder"]


@pytest.mark.parametrize("name", [b"a\nb.pt", b"\x1b[31mred.pt", b"[red]x.pt", b"\xff\xfe.pt", b"'; rm -rf ~.pt"])
def test_odd_names_are_told_and_the_rest_goes_on(source: Path, root: Path, good: list[Path], name: bytes) -> None:
    odd = task(source) / os.fsdecode(name)
    shutil.copy2(good[1], odd)
    result = ingest(source, root)
    assert_rest_went_on(result, root)
    assert codes(result) == ["unknown-name"]
    document = json.dumps(result.to_json())
    assert json.loads(document)["refused"][0]["source"] == str(odd.relative_to(source))


def test_nan_in_a_summary_is_kept_as_text(source: Path, root: Path) -> None:
    metrics = {**gen_metrics(0.5), "train/loss": float("nan"), "lr": float("inf")}
    write_run(task(source), config(), run_id="abcd1234", metrics=metrics)
    ingest(source, root)
    document = json.loads((root / RUN / "run.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert (document["metrics"]["train/loss"], document["metrics"]["lr"]) == ("NaN", "Infinity")


def test_a_source_inside_the_tree_is_a_usage_error(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    ingest(source, root)
    for inside in (root, root / "with_layernorm"):
        with pytest.raises(UsageError) as error:
            ingest(inside, root)
        assert error.value.code == "source-inside-root"
    with pytest.raises(UsageError, match="does not exist"):
        ingest(source / "nothing", root)


def test_an_empty_path_is_not_the_current_folder(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    monkeypatch.chdir(source)
    for arguments in (("", root), (source, "")):
        with pytest.raises(UsageError) as error:
            ingest(*arguments)
        assert error.value.code == "empty-path"
    assert len(ingest(".", root).placed) == 2  # the control


def test_the_root_must_be_a_folder(source: Path, root: Path, tmp_path: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    root.write_text("a file")
    (tmp_path / "dangling").symlink_to("nothing")
    for bad in (root, root / "below", tmp_path / "dangling"):
        for dry_run in (True, False):
            with pytest.raises(UsageError) as error:
                ingest(source, bad, dry_run=dry_run)
            assert error.value.code == "not-a-folder"
    root.unlink()
    (tmp_path / "nothing").mkdir()
    assert len(ingest(source, tmp_path / "dangling").placed) == 2  # the control: it leads somewhere now


def test_a_tree_inside_the_source_is_left_out(source: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    inside = source / "checkpoints"
    assert len(ingest(source, inside).placed) == 2
    again = ingest(source, inside)
    assert (again.placed, again.plan.duplicates) == ((), ())


def test_nothing_in_the_tree_is_overwritten(source: Path, root: Path) -> None:
    files = write_run(task(source), config(), run_id="abcd1234")
    squatter = root / RUN / files[0].name
    squatter.parent.mkdir(parents=True)
    squatter.write_bytes(b"something of the user's")
    result = ingest(source, root)
    assert squatter.read_bytes() == b"something of the user's"
    assert len(result.placed) == 2  # both found another place
    assert all((root / row.path).stat().st_size == row.size for row in result.placed)


def test_two_ingests_at_once_do_not_mix(source: Path, root: Path) -> None:
    write_run(task(source), config(), run_id="abcd1234")
    root.mkdir()
    with lock_tree(root), pytest.raises(MachineError) as error:
        ingest(source, root)
    assert error.value.code == "tree-busy"
    assert len(ingest(source, root).placed) == 2


def test_a_future_time_does_not_defer_for_ever(source: Path, root: Path) -> None:
    (task(source)).mkdir(parents=True)
    cut = task(source) / name_of(config())
    cut.write_bytes(b"PK\x03\x04cut")
    os.utime(cut, (time.time() + 1e6, time.time() + 1e6))
    assert codes(ingest(source, root)) == ["cut"]
