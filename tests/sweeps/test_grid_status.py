"""Where the grid stands, from raw outputs, the tree, and what runs say of themselves."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from ckptman.checks import validate
from ckptman.documents.task_mapping import task_mapping_text
from ckptman.fs import write_atomically
from ckptman.ingestion.ingesting import ingest
from ckptman.queries import list_checkpoints
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.rules.recipe import TrainConfig
from ckptman.rules.selection import Selection
from ckptman.sweeps.executors import submissions
from ckptman.sweeps.executors.job import JobOutcome
from ckptman.sweeps.executors.submissions import SubmittedRun, new_folder, write_record
from ckptman.sweeps.grid_status import GridStatus, RunStanding, status
from ckptman.sweeps.sweeping import plan_sweep
from ckptman.text.errors import UsageError
from ckptman.text.json_text import dump_json
from ckptman.training.progress import FAILED, INTERRUPTED, RUNNING
from ckptman.training.run_folder import RawRun
from ckptman.tree.statistics import count_tree
from tests.helpers.raw import START, write_run
from tests.helpers.trees import RUN, TASK, edit_json, make_tree, small_config, write_source

SMALL = Selection(k=(4,), tasks=(3,), seeds=(1337, 2337, 3337), facets={"regime": ("fixed",), "layernorm": (True,)})
"""One configuration, three seeds: that of `small_config`."""


def of(found: GridStatus, seed: int = 1337) -> RunStanding:
    (item,) = [item for item in found.runs if item.run.seed == seed]
    return item


def look(out: Path | None, root: Path | None = None, selection: Selection = SMALL) -> GridStatus:
    return status(out, root, selection=selection, convention=built_in())


def raw(out: Path, seed: int = 1337, **values: Any) -> RawRun:
    """Where ckptman trains the run of `small_config`, with its folder made."""
    run = RawRun.of(small_config(seed=seed, **values), out, built_in())
    run.saved_models.mkdir(parents=True)
    return run


# --- from files -------------------------------------------------------------------------------------------------------


def test_an_empty_grid_is_all_missing(tmp_path: Path) -> None:
    for found in (look(tmp_path), look(None), status(tmp_path, selection=SMALL)):
        assert found.counts == {
            "complete": 0, "running": 0, "refused": 0, "failed": 0, "partial": 0, "overwritten": 0, "missing": 3,
        }  # fmt: skip
        assert len(found.gaps) == 3


def test_raw_outputs_and_the_tree_say_the_same(tmp_path: Path) -> None:
    out = write_source(tmp_path / "raw", [small_config(seed=1337), small_config(seed=2337)])
    root = tmp_path / "checkpoints"
    ingest(out, root, settle=0)
    for found in (look(out), look(None, root), look(out, root)):
        assert [item.state for item in found.runs] == ["complete", "complete", "missing"]
        assert of(found).run_id == "run00000"
        assert of(found).iters_done == of(found).max_iters == 40_000
    assert of(look(out)).path == str(min(out.rglob("Final_*")).parent)
    assert Path(of(look(out, root)).path) == root / "with_layernorm/fixed/len_gen_single_k4/task_0003/seed_1337"


@pytest.mark.parametrize("raw_too", [True, False])
def test_a_configuration_that_was_edited_in_a_record_is_not_believed(tmp_path: Path, raw_too: bool) -> None:
    """Its digest says that it was; the file says what it is."""
    out = write_source(tmp_path / "raw", [small_config(seed=1337)])
    root = tmp_path / "checkpoints"
    ingest(out, root, settle=0)
    shutil.rmtree(out / "len_gen_single_k4")
    [file] = root.rglob("run.json")
    file.write_bytes(
        file.read_bytes().replace(b'"n_layers": 1', b'"n_layers": 2').replace(b'"seed": 1337', b'"seed": 5')
    )
    found = of(look(out if raw_too else None, root))
    assert (found.state, found.run_id) == ("complete", "run00000")
    edit_json(file, lambda _: None)  # the control: without its digest, it is meant
    assert of(look(out if raw_too else None, root)).state == "missing"


@pytest.mark.parametrize("record", ["none", "unusable", "another run's"])
def test_a_run_of_the_tree_of_which_no_run_json_tells_is_not_missing(tmp_path: Path, record: str) -> None:
    other = small_config(seed=1337, n_layers=2)
    out = write_source(tmp_path / "raw", [small_config(seed=1337), small_config(seed=2337), other])
    root = tmp_path / "checkpoints"
    ingest(out, root, settle=0)
    file = root / RUN / "run.json"
    if record == "none":
        file.unlink()
    elif record == "unusable":
        file.write_text("{")
    else:
        shutil.copy2(root / RUN.replace("task_0003", "task_0001") / "run.json", file)
    for found in (look(None, root), look(tmp_path, root)):
        assert [item.state for item in found.runs] == ["complete", "complete", "missing"]
        assert Path(of(found).path) == file.parent
        assert of(found).iters_done == 40_000
    lacking = [item for item in validate(root).findings if item.code == "missing-seed" and RUN.startswith(item.path)]
    assert [item.message.partition(" lacks ")[2] for item in lacking] == ["seed 3337 (there: 1337, 2337)"]
    next(file.parent.glob("Final_*")).unlink()
    assert of(look(None, root)).state == "partial"
    for left in file.parent.iterdir():
        left.unlink()
    assert of(look(None, root)).state == "missing"


def test_a_file_of_a_run_that_its_run_json_does_not_list_counts(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    ingest(write_source(tmp_path / "raw", [small_config(seed=1337)]), root, settle=0)
    record = root / RUN / "run.json"
    edit_json(record, lambda doc: doc.update(checkpoints=[c for c in doc["checkpoints"] if c["kind"] != "Final"]))
    assert (of(look(None, root)).state, of(look(None, root)).run_id) == ("complete", "run00000")
    next(record.parent.glob("Final_*")).unlink()
    assert of(look(None, root)).state == "partial", "the control"


@pytest.mark.parametrize("cut", [0, 100])
def test_a_run_whose_final_checkpoint_was_cut_is_not_complete(tmp_path: Path, cut: int) -> None:
    root, out = tmp_path / "checkpoints", write_source(tmp_path / "raw", [small_config(seed=1337)])
    ingest(out, root, settle=0)
    final = next((root / RUN).glob("Final_*"))
    final.write_bytes(final.read_bytes()[:cut])
    found = of(look(None, root))
    assert (found.state, found.run_id) == ("partial", "run00000")
    assert found.reason == f"it has no final checkpoint; {final.name} has another size than run.json says"
    assert of(look(out, root)).state == "complete", "it is among the raw outputs"
    listing = list_checkpoints(root)
    assert [item.row.kind for item in listing.checkpoints] == ["Checkpoint"]
    assert [(item.code, item.path) for item in listing.not_listed] == [("wrong-size", f"{RUN}/{final.name}")]


@pytest.mark.parametrize("ends", [True, False])
def test_a_run_of_which_the_tree_has_nothing_but_run_json_is_missing(tmp_path: Path, ends: bool) -> None:
    root = tmp_path / "checkpoints"
    ingest(write_source(tmp_path / "raw", [small_config(seed=1337)]), root, settle=0)
    rules = built_in()
    if not ends:
        never = tuple(dataclasses.replace(prefix, final=False) for prefix in rules.prefixes)
        rules = dataclasses.replace(rules, prefixes=never)
    assert of(status(None, root, selection=SMALL, convention=rules)).state == "complete"
    for file in (root / RUN).glob("*.pt"):
        file.unlink()
    found = of(status(None, root, selection=SMALL, convention=rules))
    assert (found.state, found.reason, found.path) == ("missing", "none of its checkpoints is there", str(root / RUN))


def test_each_place_adds_what_the_other_lacks(tmp_path: Path) -> None:
    first = write_source(tmp_path / "first", [small_config(seed=1337)])
    second = write_source(tmp_path / "second", [small_config(seed=2337)])
    root = tmp_path / "checkpoints"
    ingest(first, root, settle=0)
    assert [item.state for item in look(second, root).runs] == ["complete", "complete", "missing"]
    assert [item.state for item in look(second).runs] == ["missing", "complete", "missing"]


def test_a_run_without_its_end_is_partial(tmp_path: Path) -> None:
    task = tmp_path / "len_gen_single_k4" / "task_0003"
    write_run(task, small_config(), run_id="cutshort", started=START, files=("Checkpoint",), last_iter=30_000)
    found = look(tmp_path)
    assert of(found).state == "partial"
    assert (of(found).iters_done, of(found).max_iters) == (20_001, 40_000)
    assert of(found) in found.gaps


def test_a_run_whose_files_another_wrote_over_is_overwritten(tmp_path: Path) -> None:
    task = tmp_path / "len_gen_single_k4" / "task_0003"
    write_run(task, small_config(seed=1337), run_id="firstrun", started=START)
    write_run(task, small_config(seed=2337), run_id="nextrunx", started=START + 1000)
    root = tmp_path / "checkpoints"
    for found in (look(tmp_path), (ingest(tmp_path, root, settle=0), look(None, root))[1]):
        assert [item.state for item in found.runs] == ["overwritten", "complete", "missing"]
        assert "nextrunx" in of(found).reason
        assert of(found).run_id == "firstrun"


def test_a_run_that_saved_nothing_is_partial(tmp_path: Path) -> None:
    task = tmp_path / "len_gen_single_k4" / "task_0003"
    write_run(task, small_config(), run_id="nosaving", started=START, save=False, last_iter=1234)
    found = look(tmp_path)
    assert of(found).state == "partial"
    assert "at iteration 1,234" in of(found).reason


def test_a_run_off_the_grid_is_told_of(tmp_path: Path) -> None:
    write_source(tmp_path, [small_config(seed=7), small_config(seed=1337)])
    found = look(tmp_path)
    assert found.counts["complete"] == 1
    assert len(found.outside) == 1
    with_it = look(tmp_path, selection=dataclasses.replace(SMALL, seeds=(7,)))
    assert with_it.counts["complete"] == 1


def test_a_run_of_another_part_of_the_grid_is_not_outside(tmp_path: Path) -> None:
    write_source(tmp_path, [small_config(n_layers=2)])
    assert look(tmp_path).outside == ()


def test_files_that_cannot_be_used_are_told_of(tmp_path: Path) -> None:
    out = write_source(tmp_path, [small_config()])
    assert look(out).refused == ()
    final = next(out.rglob("Final_*"))
    final.write_bytes(final.read_bytes()[:500])
    os.utime(final, (START, START))
    found = look(out)
    assert [item.code for item in found.refused] == ["cut"]
    assert of(found).state == "refused"


@pytest.mark.parametrize("there", ["nothing", "a file"])
def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, there: str) -> None:
    path = tmp_path / "grid_outputs"
    if there == "a file":
        path.write_text("")
    for out, root, code in ((path, None, "no-source"), (None, path, "no-tree")):
        with pytest.raises(UsageError) as caught:
            look(out, root)
        assert caught.value.code == code


@pytest.mark.parametrize("is_moved", [True, False])
def test_documents_and_status_miss_a_file_that_lies_in_the_folder_of_another_run(
    tmp_path: Path, is_moved: bool
) -> None:
    root = make_tree(tmp_path, [small_config(), small_config(n_layers=2)])
    (final,) = (root / RUN).glob("Final*")
    (other,) = (root / TASK).parent.glob("task_0001/seed_1337")
    if is_moved:
        final.rename(other / final.name)
    found, counts = count_tree(root, built_in()), status(None, root).counts
    expected = (1, 1) if is_moved else (2, 0)
    assert (counts["complete"], counts["partial"]) == expected
    assert (
        tuple(sum(getattr(each, state) for each in found.grid_counts) for state in ("complete", "partial")) == expected
    )
    assert sum(each.files for each in found.grid_counts) + len(list(found.outside_grid)) == found.file_count == 4
    assert re.findall("^.*task_0003.* ([●◑◐·]{3}) ", task_mapping_text(built_in(), found), re.MULTILINE) == [
        "◐··" if is_moved else "●··"
    ]


# --- what runs say of themselves --------------------------------------------------------------------------------------


def test_a_run_that_is_being_trained_is_running(tmp_path: Path) -> None:
    run = raw(tmp_path)
    with run.lock():
        run.write_status(RUNNING, "abcd1234", 500, log="/logs/1.out", iterations_per_second=12.5)
        item = of(look(tmp_path))
    assert (item.state, item.run_id, item.iters_done, item.log) == ("running", "abcd1234", 500, "/logs/1.out")
    assert item.iterations_per_second == 12.5
    assert not item.is_gap
    # The same without the lock: its process is gone.
    item = of(look(tmp_path))
    assert item.state == "partial"
    assert "without a word" in item.reason
    assert "the disk was full" in item.reason, "its last word did not get there either"
    assert item.is_gap


def test_an_interrupted_run_is_partial_and_a_failed_one_says_why(tmp_path: Path) -> None:
    raw(tmp_path, 1337).write_status(INTERRUPTED, "abcd1234", 500)
    raw(tmp_path, 2337).write_status(FAILED, "abcd1235", 700, reason="the disk is full", log="/logs/2.out")
    found = look(tmp_path)
    assert (of(found).state, of(found).reason) == ("partial", "interrupted")
    failed = of(found, 2337)
    assert (failed.state, failed.reason, failed.log) == ("failed", "the disk is full", "/logs/2.out")


def test_the_runs_own_word_counts_more_than_its_wandb_record(tmp_path: Path) -> None:
    run = raw(tmp_path)
    write_run(run.folder, small_config(), run_id="abcd1234", started=START, save=False, last_iter=400)
    assert "W&B" in of(look(tmp_path)).reason
    run.write_status(INTERRUPTED, "abcd1234", 500)
    item = of(look(tmp_path))
    assert (item.state, item.reason, item.iters_done) == ("partial", "interrupted", 500)


def test_a_complete_run_needs_its_final_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "grid_outputs"
    run = raw(out)
    write_run(run.folder, small_config(), run_id="abcd1234", started=START)
    run.write_status("complete", "abcd1234", 40_000)
    assert of(look(out)).state == "complete"
    root = tmp_path / "checkpoints"
    ingest(out, root, settle=0)
    next(run.saved_models.glob("Final_*")).unlink()
    assert of(look(out)).state == "partial"
    assert "name that with --root; to train it again, move its status.json away" in of(look(out)).reason, (
        "there may be no tree to name"
    )
    assert of(look(out, root)).state == "complete", "the tree has it"
    assert "name that with --root" in of(look(out, tmp_path / "not there yet")).reason
    empty = tmp_path / "another"
    empty.mkdir()
    item = of(look(out, empty))
    assert item.reason.startswith(
        "it was complete, but its final checkpoint is no longer there (to train it again, move"
    )
    assert not item.is_gap, "as long as it says so, nothing trains it"
    found = plan_sweep(out, selection=SMALL, recipe={"n_embd": 8}, root=empty, convention=built_in()).runs[0]
    assert (str(found.todo), "no longer there" in found.note) == ("complete", True)
    run.status_file.rename(run.folder / "moved.json")
    assert of(look(out, empty)).is_gap
    found = plan_sweep(out, selection=SMALL, recipe={"n_embd": 8}, root=root, convention=built_in()).runs[0]
    assert (str(found.todo), found.note) == ("complete", "")


def test_the_word_of_another_run_whose_folder_was_copied_does_not_count(tmp_path: Path) -> None:
    run = raw(tmp_path)
    write_run(run.folder, small_config(), run_id="abcd1234", started=START)
    run.write_status("complete", "abcd1234", 40_000)
    shutil.copytree(run.folder, run.folder.with_name("seed_2337"))
    assert [item.state for item in look(tmp_path).runs] == ["complete", "missing", "missing"]
    raw(tmp_path / "control", 2337).write_status(INTERRUPTED, "abcd1234", 500)
    assert of(look(tmp_path / "control"), 2337).state == "partial"


# --- sweeps -----------------------------------------------------------------------------------------------------------


def submitted(out: Path, *, job: str = "", log: str = "", outcome: JobOutcome | None = None) -> Path:
    """A sweep of the run of `small_config`; returns the run's log."""
    folder = new_folder(out)
    file = folder / "0.log"
    file.write_text(log)
    if outcome is not None:
        write_atomically(folder / "0.json", dump_json(dataclasses.asdict(outcome)), replace=True)
    run = RawRun.of(small_config(), out, built_in())
    relative = run.folder.relative_to(out).as_posix()
    write_record(folder, "slurm", [SubmittedRun(relative, str(file), str(folder / "0.json"), job)])
    return file


def test_a_run_that_waits_in_the_queue_is_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(tmp_path, job="7_0")
    monkeypatch.setattr(submissions, "slurm_queue", lambda _: {"7_0": "PENDING"})
    item = of(look(tmp_path))
    assert (item.state, item.job) == ("missing", "SLURM job 7_0 (pending)")
    assert not item.is_gap
    monkeypatch.setattr(submissions, "slurm_queue", lambda _: {"7_1": "PENDING"})
    assert of(look(tmp_path)).is_gap


def test_a_job_in_the_queue_counts_more_than_a_newer_one_that_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job in ("7_0", "8_0"):  # two sweeps at once: the second one's job left the run to the first's, and ended
        (submitted(tmp_path, job=job, outcome=JobOutcome(state=RUNNING))).parent.rename(tmp_path / ".sweeps" / job)
        time.sleep(0.2)
    monkeypatch.setattr(submissions, "slurm_queue", lambda _: {"7_0": "PENDING"})
    assert (of(look(tmp_path)).job, of(look(tmp_path)).is_gap) == ("SLURM job 7_0 (pending)", False)
    monkeypatch.setattr(submissions, "slurm_queue", lambda _: {"8_0": "PENDING", "7_0": "RUNNING"})
    assert of(look(tmp_path)).job == "SLURM job 8_0 (pending)", "of several, the newest"


def test_the_job_of_another_user_is_asked_for_and_never_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[int]] = []

    def queue(users: set[int]) -> dict[str, str]:
        asked.append(users)
        return answer

    answer = {"7_0": "PENDING"}
    submitted(tmp_path, job="7_0", log="it begins\n")
    me = os.getuid()
    monkeypatch.setattr(submissions, "slurm_queue", queue)
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    assert of(look(tmp_path)).job == "SLURM job 7_0 (pending)"
    assert asked == [{me}]
    answer = {}  # a cluster can hide the jobs of others
    assert of(look(tmp_path)).state == "missing"
    monkeypatch.setattr(os, "getuid", lambda: me)
    assert of(look(tmp_path)).state == "failed"


def test_the_logs_and_outcomes_of_outputs_that_were_moved_are_found(tmp_path: Path) -> None:
    log = submitted(tmp_path / "before", log="…", outcome=JobOutcome(state=FAILED, reason="there is no GPU"))
    raw(tmp_path / "before").write_status(FAILED, None, 0, reason="there is no GPU", log=str(log))
    (tmp_path / "before").rename(tmp_path / "after")
    item = of(look(tmp_path / "after"))
    assert (item.state, item.reason) == ("failed", "there is no GPU")
    assert item.log == str(tmp_path / "after" / log.relative_to(tmp_path / "before"))


def test_a_job_that_died_before_it_trained_is_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = submitted(tmp_path, job="7_0", log="python: command not found\n")
    monkeypatch.setattr(submissions, "slurm_queue", lambda _: {})
    item = of(look(tmp_path))
    assert (item.state, item.log) == ("failed", str(log))
    # Where SLURM does not answer, nobody knows.
    monkeypatch.setattr(submissions, "slurm_queue", lambda _: None)
    assert of(look(tmp_path)).state == "missing"


def test_the_newer_word_counts(tmp_path: Path) -> None:
    run = raw(tmp_path)
    run.write_status(INTERRUPTED, "abcd1234", 500)
    time.sleep(0.2)
    log = submitted(tmp_path, outcome=JobOutcome(state=FAILED, reason="there is no GPU"))
    item = of(look(tmp_path))
    assert (item.state, item.reason, item.log) == ("failed", "there is no GPU", str(log))
    time.sleep(0.2)
    run.write_status(INTERRUPTED, "abcd1234", 600)
    assert of(look(tmp_path)).state == "partial"


def test_the_newest_sweep_counts(tmp_path: Path) -> None:
    submitted(tmp_path, outcome=JobOutcome(state=FAILED, reason="the first"))
    (next((tmp_path / ".sweeps").iterdir())).rename(tmp_path / ".sweeps" / "zzz")
    time.sleep(0.2)
    submitted(tmp_path, outcome=JobOutcome(state=FAILED, reason="the second"))
    assert of(look(tmp_path)).reason == "the second"


def test_a_spoilt_record_of_a_sweep_is_passed_over(tmp_path: Path) -> None:
    submitted(tmp_path, outcome=JobOutcome(state=FAILED, reason="it fell over"))
    assert of(look(tmp_path)).state == "failed"
    record = next((tmp_path / ".sweeps").glob("*/sweep.json"))
    for text in ("", "[]", "{}", '{"started": 1, "runs": [1]}', '{"started": "x", "runs": []}'):
        record.write_text(text)
        assert of(look(tmp_path)).state == "missing"


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_the_document_has_every_run_and_the_counts(tmp_path: Path) -> None:
    write_source(tmp_path, [small_config()])
    document = look(tmp_path).to_json()
    assert document["schema_version"] == 1
    assert document["counts"]["complete"] == 1
    assert sum(document["counts"].values()) == len(document["runs"]) == 3
    first = document["runs"][0]
    assert {key: first[key] for key in ("group", "layernorm", "regime", "k", "task", "seed", "state")} == {
        "group": "len_gen_single_k4", "layernorm": True, "regime": "fixed", "k": 4, "task": 3, "seed": 1337,
        "state": "complete",
    }  # fmt: skip
    assert first["values"] == {"n_layers": 1, "use_mlp": False}


def test_a_tree_in_the_merged_numbering_has_the_same_cells(tmp_path: Path) -> None:
    merged = load_convention(None, numbering="merged")
    config: TrainConfig = small_config(train_min_k=2)
    out, root = write_source(tmp_path / "raw", [config]), tmp_path / "checkpoints"
    ingest(out, root, convention=merged, settle=0)
    found = status(
        root=root, selection=Selection(k=(4,), facets={"regime": ("dynamic",), "layernorm": (True,)}), convention=merged
    )
    (item,) = [item for item in found.runs if item.state == "complete"]
    assert item.run.cell.values == {"n_layers": 1, "use_mlp": False, "length_mode": "mix"}
    assert item.run.cell.task == 2
