"""`ingest`: every file at the place its configuration says, and doing it again changes nothing."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest

from ckptman.checks.validation import validate
from ckptman.ingestion.ingesting import IngestResult, ingest
from ckptman.rules.convention_file import load_convention
from ckptman.text.errors import MachineError, UsageError
from ckptman.tree.records import read_record
from tests.helpers.ingested import RUN, codes, opened_checkpoints, task
from tests.helpers.raw import START, config, gen_metrics, name_of, snapshot, write_checkpoint, write_run

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


def test_a_run_that_began_after_a_file_was_written_did_not_lose_it_to_that(source: Path, root: Path) -> None:
    write_run(task(source), config(seed=1337), run_id="first")
    write_run(task(source), config(seed=2337), run_id="later", started=START + 1000, save=False)
    result = ingest(source, root)
    assert result.plan.overwritten == ()
    assert [(item.run.run_id, len(item.missing)) for item in result.plan.without_files] == [("later", 2)]
    write_run(task(source), config(seed=3337), run_id="last", started=START + 2000)  # the control
    assert {run.run_id for run in ingest(source, root.with_name("other")).plan.overwritten} == {"first", "later"}


def test_a_final_that_survives_a_killed_later_seed_is_overwritten_in_part(source: Path, root: Path) -> None:
    write_run(task(source), config(seed=1337), run_id="first")
    write_run(
        task(source), config(seed=2337), run_id="killed", started=START + 1000, files=("Checkpoint",), last_iter=25000
    )
    result = ingest(source, root)
    assert {(row.seed, row.kind) for row in result.placed} == {(1337, "Final"), (2337, "Checkpoint")}
    [partly] = result.plan.partly_overwritten
    assert (partly.run_id, partly.files) == ("first", (name_of(config(), "Checkpoint"),))


def test_what_was_written_over_after_an_ingest_is_not_lost(source: Path, root: Path) -> None:
    write_run(task(source), config(seed=1337), run_id="first")
    ingest(source, root)
    write_run(task(source), config(seed=2337), run_id="later", started=START + 1000)
    result = ingest(source, root)
    assert (len(result.placed), result.plan.overwritten, result.plan.partly_overwritten) == (2, (), ())


def test_the_merged_numbering(source: Path, root: Path) -> None:
    for mlp in (False, True):
        write_run(task(source, 2), config(use_mlp=mlp), run_id=f"mlp{int(mlp)}")
    result = ingest(source, root, convention=load_convention(numbering="merged"))
    folders = sorted({row.path.rpartition("/")[0].rpartition("/")[2] for row in result.placed})
    assert folders == ["seed_1337-mlp0", "seed_1337-mlp1"]
    assert result.plan.renumbered == ()


def test_a_tree_is_sorted_by_its_own_rules(source: Path, root: Path) -> None:
    root.mkdir()
    (root / "ckptman.yaml").write_text("numbering: merged\n")
    write_run(task(source, 2), config(use_mlp=True), run_id="mlp1")
    assert {Path(row.path).parent.name for row in ingest(source, root).placed} == {"seed_1337-mlp1"}
    assert validate(root, ignore="missing").findings == ()
    with pytest.raises(UsageError, match=r"'ckptman\.yaml' is no convention"):
        ingest(source, root, convention="ckptman.yaml")  # type: ignore[arg-type]


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_result_goes_to_another_process(source: Path, root: Path, dry_run: bool) -> None:
    write_run(task(source), config(), run_id="one")
    ingest(source, root)
    more = write_run(task(source), config(seed=2337), run_id="two", started=START + 9000, salt=1)
    result = ingest(source, root, dry_run=dry_run)
    other = pickle.loads(pickle.dumps(result))
    assert other.to_json() == copy.deepcopy(result).to_json() == result.to_json()
    assert len(other.placed) == len(more)


@pytest.mark.parametrize("option", ["mode", "trust"])
def test_an_unknown_choice_is_wrong_usage(source: Path, root: Path, option: str) -> None:
    write_run(task(source), config(), run_id="one")
    with pytest.raises(UsageError, match=f"{option} is 'hardlinks', which is none") as caught:
        ingest(source, root, **{option: "hardlinks"})  # type: ignore[arg-type]
    assert ("hardlink" in caught.value.fix) == (option == "mode")
    assert not root.exists()


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
    assert dry.space.needed == real.space.needed
    assert {**dry.to_json(), "dry_run": False, "space": 0} == {**real.to_json(), "space": 0}
    assert real.placed
