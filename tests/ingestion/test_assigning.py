"""What a person says of a run: kept with who said it, and refused where the files or W&B deny it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch

from ckptman.checks import validate
from ckptman.ingestion import assign, ingest
from ckptman.queries import results
from ckptman.rules.convention_file import built_in
from ckptman.text import RefusedError, UsageError
from ckptman.tree.records import TRASH, read_record, scan_tree
from tests.helpers.ingested import RUN, task
from tests.helpers.raw import START, config, gen_metrics, name_of, snapshot, write_checkpoint, write_run
from tests.helpers.trees import edit_json
from tests.helpers.validated import codes


def forgotten(files: list[Path]) -> None:
    """As after a git clone."""
    for file in files:
        os.utime(file, (START + 1e7, START + 1e7))


@pytest.fixture
def open_run(source: Path, root: Path) -> Path:
    """A tree with two files of which two runs can have written either."""
    write_run(task(source), config(), run_id="first111", metrics=gen_metrics(0.25))
    forgotten(write_run(task(source), config(), run_id="rerun222", started=START + 5000, salt=1))
    ingest(source, root)
    return root / RUN


def weights(root: Path) -> list[bytes]:
    return sorted(data for path, data in snapshot(root).items() if path.endswith(".pt"))


def test_what_a_person_says_is_kept_with_who_said_it_and_not_asked_again(
    source: Path, root: Path, open_run: Path
) -> None:
    assert "ambiguous-run" in codes(validate(root, deep=True))  # the control
    before = snapshot(root)
    planned = assign(open_run, "first111", dry_run=True)
    assert (snapshot(root), planned.has_wandb, planned.moves) == (before, True, ())
    assert replace(assign(open_run, "first111"), dry_run=True, at=planned.at) == planned
    record = read_record(open_run)
    assert (record.run_id, record.attribution.code, record.metrics["gen/K17/exact_match_acc"]) == (
        "first111", "assigned", 0.25,
    )  # fmt: skip
    assert record.attribution.assigned_by == planned.by
    assert record.attribution.evidence.startswith(f"{planned.by} said so; known before: 2 runs have this config")
    assert record.attribution.candidates == ("first111", "rerun222")
    assert "ambiguous-run" not in codes(validate(root, deep=True))
    again = ingest(source, root)
    assert (again.placed, again.plan.ambiguous, read_record(open_run).run_id) == ((), (), "first111")
    # Which is settled by that, too: it began after the first had ended, so that one cannot have written over its files.
    assert [item.run.run_id for item in again.plan.without_files] == ["rerun222"]


def test_a_file_of_the_run_that_its_folder_is_of_stays_with_the_others(root: Path, open_run: Path) -> None:
    assign(open_run, "first111")
    measured = {"file": name_of(config()), "mode": "teacher-forced", "samples": 1, "seed": 0, "k": []}
    edit_json(open_run / "run.json", lambda doc: doc.update(evaluations=[measured]))
    before = read_record(open_run)
    told = assign(open_run / name_of(config()), "first111")
    assert (told.folder, told.moves) == (PurePosixPath(RUN), ())
    after = read_record(open_run)
    assert (after.checkpoints, after.evaluations, after.run_id) == (before.checkpoints, before.evaluations, "first111")
    assert after.attribution.evidence.endswith(f"said that {name_of(config())} is of it")
    assert not list(root.rglob("*first111"))


def test_one_file_of_several_goes_to_a_folder_of_its_own(source: Path, root: Path, open_run: Path) -> None:
    held = weights(root)
    final = open_run / name_of(config())
    told = assign(final, "rerun222")
    assert told.moves == ((PurePosixPath(RUN, final.name), PurePosixPath(f"{RUN}-rerun222", final.name)),)
    assert [entry.kind for entry in read_record(root / f"{RUN}-rerun222").checkpoints] == ["Final"]
    assert [entry.kind for entry in read_record(open_run).checkpoints] == ["Checkpoint"]
    # The other of the run joins it, and the folder that is left goes into the trash.
    told = assign(open_run, "rerun222")
    assert len(read_record(root / told.folder).checkpoints) == 2
    assert not open_run.exists()
    assert (root / TRASH / RUN / "run.json").is_file()
    assert weights(root) == held
    assert "missing-final" not in codes(validate(root, deep=True))
    assert ingest(source, root).placed == ()


@pytest.mark.parametrize("proof", ["time-span", "key-set", "stored"])
def test_what_is_proved_is_not_talked_away(source: Path, root: Path, proof: str) -> None:
    write_run(task(source), config(), run_id="first111")
    files = write_run(task(source), config(), run_id="rerun222", started=START + 5000, salt=1, files=("Final",))
    if proof == "key-set":
        forgotten(files)
        yaml = next(source.rglob("run-*-first111")) / "files" / "config.yaml"
        yaml.write_text(yaml.read_text() + "use_xavier_init: {value: true}\n")
    if proof == "stored":
        write_checkpoint(files[0], config(), salt=1, run_id="rerun222")
    ingest(source, root)
    [folder] = [path.parent for path in root.rglob(files[0].name)]
    assert read_record(folder).attribution.code == proof
    before = snapshot(root)
    with pytest.raises(RefusedError, match=r"cannot be of run first111: .*rerun222") as refused:
        assign(folder / files[0].name, "first111")
    assert (refused.value.code, snapshot(root)) == ("contradicted", before)
    assign(folder / files[0].name, "rerun222")  # the control: what agrees is taken


def test_a_run_that_was_configured_otherwise_is_refused(source: Path, root: Path, open_run: Path) -> None:
    write_run(task(source), config(seed=2337), run_id="seed2337", started=START + 9000, save=False)
    with pytest.raises(RefusedError, match=r"run seed2337 was configured with seed 2337, not 1337"):
        assign(open_run, "seed2337")
    assert assign(open_run, "unseen99").has_wandb is False  # the control: of this one nothing is known
    with pytest.raises(RefusedError, match="the configuration has seed 1337, not 5"):
        assign(open_run, "first111", seed=5)


@pytest.mark.parametrize("is_source_there", [True, False])
def test_what_a_run_logged_is_not_lost_to_a_wrong_word(
    source: Path, root: Path, tmp_path: Path, is_source_there: bool
) -> None:
    write_run(task(source), config(), run_id="first111", metrics=gen_metrics(0.25))
    ingest(source, root)
    before, found = read_record(root / RUN), codes(validate(root, deep=True))
    assert before.metrics  # the control
    if not is_source_there:
        source.rename(tmp_path / "away")
    assign(root / RUN, "typo9999")
    assert read_record(root / RUN).metrics == {}
    [listed] = scan_tree(root, built_in()).without_files.values()
    assert [(run.run_id, run.metrics) for run in listed] == [("first111", before.metrics)]
    [row] = results(root, all_runs=True).rows
    assert row.logged is not None
    assert {(run.run_id, run.has_files) for run in row.logged} == {("first111", False), ("typo9999", True)}
    assign(root / RUN, "another8")  # what nothing is known of is not listed
    assign(root / RUN, "first111")
    assert read_record(root / RUN).metrics == before.metrics
    assert codes(validate(root, deep=True)) == found
    if is_source_there:
        ingest(source, root)
        assert scan_tree(root, built_in()).without_files == {}


@pytest.mark.parametrize("seed", ["5", 5.0, True, -1])
def test_a_seed_that_is_none_is_refused(root: Path, open_run: Path, seed: Any) -> None:
    before = snapshot(root)
    with pytest.raises(UsageError, match="is no seed"):
        assign(open_run, "first111", seed=seed)
    assert snapshot(root) == before


def test_a_file_does_not_go_over_another_of_its_name(source: Path, root: Path, open_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "scratch"
    write_run(task(other), config(), run_id="third333", salt=7)
    ingest(other, root)
    before = snapshot(root)
    with pytest.raises(RefusedError, match="with other bytes") as refused:
        assign(open_run, "third333")
    assert (refused.value.code, snapshot(root)) == ("taken", before)


def test_a_seed_that_no_file_says(source: Path, root: Path, tmp_path: Path) -> None:
    path = task(source) / "saved_models" / name_of(config())
    write_checkpoint(path, config())
    document = torch.load(path)
    del document["train_config"]["seed"]
    torch.save(document, path)
    [row] = ingest(source, root).placed
    folder = (root / row.path).parent
    assert "unknown-seed" in codes(validate(root, deep=True))  # the control
    told = assign(folder, "old00001", seed=1337)
    assert (str(told.folder), folder.exists()) == (RUN, False)
    record = read_record(root / RUN)
    assert (record.seed, record.config["seed"], record.config_source) == (1337, 1337, "assigned")
    found = codes(validate(root, deep=True))
    assert not found & {"unknown-seed", "wrong-run-folder", "record-disagrees", "config-disagrees", "duplicate"}
    clone = shutil.copytree(source, tmp_path / "clone")
    assert (ingest(source, root).placed, ingest(clone, root).placed) == ((), ())
    assert len(weights(root)) == 1


@pytest.mark.parametrize("right", [False, True])
def test_what_is_learnt_later_against_a_person_is_told(source: Path, root: Path, open_run: Path, right: bool) -> None:
    assign(open_run, "rerun222" if right else "first111")
    for file in open_run.glob("*.pt"):
        when = START + 5000 + (300 if file.name.startswith("Final") else 150)
        os.utime(next(source.rglob(file.name)), (when, when))
    told = ingest(source, root).warnings
    assert len(told) == (0 if right else 1)  # the folder's two files are of one run
    for text in told:
        assert "said that it is of run first111; but it is of run rerun222: 2 runs have this config" in text
        command = text.rpartition("If that is right: ")[2].split()
        assert command == ["ckptman", "assign", str(open_run), "--run", "rerun222"]
        assign(command[2], command[4])
        assert ingest(source, root).warnings == ()


def test_what_is_no_run_of_a_tree_is_refused_by_name(source: Path, root: Path, open_run: Path) -> None:
    for path, run_id, code in (
        (open_run / "nothing.pt", "first111", "no-such-path"),
        (open_run.parent, "first111", "not-a-run"),
        (next(source.rglob("*.pt")), "first111", "no-tree"),
        (open_run, "a/b", "bad-run-id"),
    ):
        with pytest.raises(UsageError) as refused:
            assign(path, run_id)
        assert refused.value.code == code
