"""Checkpoints that are folders: placed whole, checked file by file, never in part."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptman.checks.mending import mend, plan_mending
from ckptman.checks.validation import validate
from ckptman.documents.reporting import report
from ckptman.formats import folder_bytes
from ckptman.fs.placing import Mode
from ckptman.ingestion.ingesting import IngestResult, ingest
from ckptman.queries.inspection import show
from ckptman.queries.listing import list_checkpoints
from ckptman.text.errors import MachineError
from ckptman.training.evaluation import evaluate
from ckptman.training.loading import load, load_weights
from ckptman.tree.records import read_record
from tests.helpers.model_folders import SHARDS, distributed, trainer, weights_of
from tests.helpers.raw import config, write_run

CONFIG = config(n_layers=1, use_mlp=False)
PLACE = "with_layernorm/dynamic/len_gen_k8/task_0006/seed_1337"


def codes(result: IngestResult) -> list[tuple[str, str]]:
    return [(item.source, item.code) for item in result.refused]


def findings(tree: Path, *, deep: bool = False) -> list[tuple[str, str]]:
    """The findings about files, with the file of the folder that they name."""
    found = validate(tree, deep=deep, ignore=["missing", "stale"]).findings
    return [(item.code, next((word for word in item.message.split() if "." in word), "")) for item in found]


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "len_gen_k8" / "task_0006"


@pytest.mark.parametrize("make", [trainer, distributed])
def test_a_folder_is_placed_whole_and_each_of_its_files_is_recorded(
    make: Callable[[Path], Path], task: Path, tmp_path: Path
) -> None:
    source = make(task / "saved_models" / "checkpoint-40000")
    tree = tmp_path / "tree"
    result = ingest(tmp_path / "outputs", tree)
    assert (len(result.placed), result.refused, result.deferred) == (1, (), ())
    [entry] = read_record(tree / PLACE).checkpoints
    placed = tree / PLACE / entry.file
    assert content_of(placed) == content_of(source)
    assert (entry.kind, entry.step, entry.size) == ("Final", 40000, sum(map(len, content_of(source).values())))
    assert {part.name: part.size for part in entry.parts} == {n: len(data) for n, data in content_of(source).items()}
    assert entry.sha256 == folder_bytes.digest_of((part.name, part.sha256) for part in entry.parts)
    assert findings(tree, deep=True) == []
    assert [item.row.path for item in list_checkpoints(tree).checkpoints] == [f"{PLACE}/{entry.file}"]
    assert (show(placed).config_source, show(placed).problems) == ("checkpoint", ())
    weights, _ = load_weights(placed)
    assert all(torch.equal(weights[name], tensor) for name, tensor in weights_of(CONFIG).items())
    assert load(placed)[1].iters_done == 40000
    assert len(evaluate(tree, samples=2, k=[17]).evaluations) == 1


def test_the_same_folder_again_is_unchanged_and_a_copy_is_a_duplicate(task: Path, tmp_path: Path) -> None:
    source = trainer(task / "checkpoint-40000")
    tree = tmp_path / "tree"
    ingest(tmp_path / "outputs", tree)
    assert len(ingest(tmp_path / "outputs", tree).plan.unchanged) == 1
    assert len(ingest(tmp_path / "outputs", tree, checksum=True).plan.unchanged) == 1
    shutil.copytree(source, task / "copied")
    again = ingest(tmp_path / "outputs", tree)
    assert ([item.source for item in again.plan.duplicates], again.placed) == (["len_gen_k8/task_0006/copied"], ())


CHANGES: dict[str, tuple[Callable[[Path], object], bool, tuple[str, str]]] = {
    "a byte of a shard": (
        lambda folder: change_a_byte(folder / SHARDS[1]), True, ("wrong-hash", SHARDS[1])),
    "a file that grew": (
        lambda folder: (folder / "trainer_state.json").write_text('{"global_step": 40000, "epoch": 1}'), False,
        ("wrong-size", "trainer_state.json")),
    "a shard that is gone": (lambda folder: (folder / SHARDS[0]).unlink(), False, ("wrong-size", SHARDS[0])),
    "a file more": (lambda folder: (folder / "notes.txt").write_text("x"), False, ("wrong-size", "notes.txt")),
}  # fmt: skip


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", CHANGES)
def test_validate_names_the_file_of_a_folder_that_changed(name: str, task: Path, tmp_path: Path) -> None:
    change, deep, expected = CHANGES[name]
    trainer(task / "checkpoint-40000")
    tree = tmp_path / "tree"
    ingest(tmp_path / "outputs", tree)
    [folder] = (tree / PLACE).glob("*.pt")
    assert findings(tree, deep=deep) == []
    change(folder)
    assert findings(tree, deep=deep) == [expected]


def test_a_folder_that_lacks_a_shard_is_refused_and_deferred_while_it_is_young(task: Path, tmp_path: Path) -> None:
    folder = trainer(task / "checkpoint-40000")
    (folder / SHARDS[0]).unlink()
    result = ingest(tmp_path / "outputs", tmp_path / "tree")
    assert codes(result) == [("len_gen_k8/task_0006/checkpoint-40000", "incomplete-folder")]
    assert SHARDS[0] in result.refused[0].message
    os.utime(folder / "config.json")
    result = ingest(tmp_path / "outputs", tmp_path / "tree")
    assert [item.code for item in result.deferred] == ["incomplete-folder"]
    unfinished = distributed(task / "dcp")
    (unfinished / ".metadata").unlink()
    assert ("len_gen_k8/task_0006/dcp", "incomplete-folder") in codes(ingest(tmp_path / "outputs", tmp_path / "tree"))


def test_what_has_no_configuration_or_no_step_is_refused_for_that(task: Path, tmp_path: Path) -> None:
    (trainer(task / "no-step") / "trainer_state.json").unlink()
    (trainer(task / "no-config") / "config.json").unlink()
    (trainer(task / "other") / "config.json").write_text('{"model_type": "gpt2", "n_layer": 2}')
    reasons = {item.source.rpartition("/")[2]: item for item in ingest(task, tmp_path / "tree").refused}
    assert {source: item.code for source, item in reasons.items()} == {
        "no-step": "no-name", "no-config": "no-config", "other": "no-name"}  # fmt: skip
    assert "how many iterations" in reasons["no-step"].message
    assert "no configuration" in reasons["no-config"].message
    assert "the configuration has no 'vocab_n'" in reasons["other"].message


def test_a_folder_without_a_configuration_is_placed_by_its_name(task: Path, tmp_path: Path) -> None:
    [file] = write_run(task, CONFIG, run_id="abcd1234", files=("Final",))
    folder = trainer(task / "folders" / file.stem)
    (folder / "config.json").unlink()
    file.unlink()
    result = ingest(task, tmp_path / "tree")
    assert [Path(row.path).name for row in result.placed] == [file.name]


def test_weights_beside_checkpoints_do_not_make_a_folder_one_checkpoint(task: Path, tmp_path: Path) -> None:
    files = write_run(task, CONFIG, run_id="abcd1234")
    for folder in (tmp_path / "outputs", task, files[0].parent):
        save_file(weights_of(CONFIG), folder / "model.safetensors")
    result = ingest(tmp_path / "outputs", tmp_path / "tree")
    assert (len(result.placed), result.refused) == (2, ())
    assert len(result.plan.passed_over) == 3


def test_checkpoints_in_a_folder_that_is_one_are_placed_each(task: Path, tmp_path: Path) -> None:
    trainer(task / "output")
    trainer(task / "output" / "checkpoint-20001", step=20001, sharded=False)
    result = ingest(task, tmp_path / "tree")
    assert [(row.kind, row.step) for row in result.placed] == [("Checkpoint", 20001), ("Final", 40000)]
    assert not (tmp_path / "tree" / result.placed[1].path / "checkpoint-20001").exists()
    assert [Path(row.path).parent.name for row in result.placed] == ["seed_1337"] * 2
    assert len(ingest(task / "output", tmp_path / "alone").placed) == 2


def test_a_move_takes_the_whole_folder_and_a_copy_of_it(task: Path, tmp_path: Path) -> None:
    source = trainer(task / "checkpoint-40000")
    held = content_of(source)
    shutil.copytree(source, task / "copied")
    result = ingest(task, tmp_path / "tree", mode=Mode.MOVE)
    assert content_of(tmp_path / "tree" / result.placed[0].path) == held
    assert not source.exists()
    assert content_of(task / "copied") == {}


def test_links_to_a_folder_are_refused_and_hard_links_share_its_bytes(task: Path, tmp_path: Path) -> None:
    source = trainer(task / "checkpoint-40000")
    assert [c for _, c in codes(ingest(task, tmp_path / "links", mode=Mode.SYMLINK))] == ["no-link-to-a-folder"]
    result = ingest(task, tmp_path / "tree", mode=Mode.HARDLINK)
    assert (tmp_path / "tree" / result.placed[0].path / SHARDS[0]).samefile(source / SHARDS[0])


def test_a_link_in_a_folder_is_refused(task: Path, tmp_path: Path) -> None:
    (trainer(task / "checkpoint-40000") / "link").symlink_to("/etc/passwd")
    result = ingest(task, tmp_path / "tree")
    assert [(item.code, item.what) for item in result.refused] == [("not-a-file", "folder")]


def test_another_folder_of_the_run_and_step_never_replaces_it(task: Path, tmp_path: Path) -> None:
    trainer(task / "checkpoint-40000")
    tree = tmp_path / "tree"
    ingest(task, tree)
    [placed] = (tree / PLACE).glob("*.pt")
    before = content_of(placed)
    change_a_byte(task / "checkpoint-40000" / SHARDS[0])
    result = ingest(task, tree)
    assert content_of(placed) == before
    assert [Path(row.path).parent.name != "seed_1337" for row in result.placed] == [True]


@pytest.mark.parametrize("at", ["before the folder has its name", "before run.json"])
def test_an_ingest_that_was_interrupted_is_completed(
    at: str, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = trainer(task / "checkpoint-40000")
    tree = tmp_path / "tree"

    def stop(*args: object, **kwargs: object) -> None:
        raise MachineError("the power went", code="io-error", fix="Wait.")

    name = (
        "ckptman.fs.writing.give_folder_name" if at.startswith("before the f") else "ckptman.tree.records.write_records"
    )
    with monkeypatch.context() as patched:
        patched.setattr(name, stop)
        patched.setattr("ckptman.fs.folders.discard_tree", lambda *_: None)  # as where the process was killed
        with pytest.raises(MachineError):
            ingest(task, tree)
    assert not (tree / PLACE / "run.json").exists()
    result = ingest(task, tree)
    [entry] = read_record(tree / PLACE).checkpoints
    assert content_of(tree / PLACE / entry.file) == content_of(source)
    assert sorted(path.name for path in (tree / PLACE).iterdir()) == sorted([entry.file, "run.json"])
    assert result.refused == ()
    assert findings(tree, deep=True) == []


def test_the_commands_of_the_readme_count_folders_as_it_does(task: Path, tmp_path: Path) -> None:
    trainer(task / "checkpoint-40000")
    write_run(task, config(n_layers=1, use_mlp=False, seed=2337), run_id="abcd1234")
    tree = tmp_path / "tree"
    size = sum(row.size for row in ingest(tmp_path / "outputs", tree).placed)
    report(tree)
    commands = [line for line in (tree / "README.md").read_text().splitlines() if line.startswith("find . ")]
    counts = [
        int(subprocess.run(["bash", "-c", line], cwd=tree, capture_output=True, check=True).stdout) for line in commands
    ]
    assert counts == [3, size, 2]


def test_a_folder_that_was_renamed_is_put_back(task: Path, tmp_path: Path) -> None:
    trainer(task / "checkpoint-40000")
    tree = tmp_path / "tree"
    placed = tree / ingest(tmp_path / "outputs", tree).placed[0].path
    held = content_of(placed)
    placed.rename(placed.with_name("renamed.pt"))
    result = validate(tree, ignore=["missing-seed", "missing-task", "missing-checkpoint", "stale"])
    assert [item.code for item in result.findings] == ["missing-file"]
    assert [step.problem for step in mend(tree, plan_mending(result))] == [None]
    assert content_of(placed) == held


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_module_that_sentence_transformers_lists_is_a_part_of_the_checkpoint(
    task: Path, tmp_path: Path, is_listed: bool
) -> None:
    source = trainer(task / "checkpoint-40000")
    trainer(source / "2_Dense", step=20001)
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "2_Dense" if is_listed else "3_Dense"}]
    (source / "modules.json").write_text(json.dumps(modules))
    tree = tmp_path / "tree"
    result = ingest(tmp_path / "outputs", tree)
    assert (len(result.placed), result.refused) == (1 if is_listed else 2, ())
    assert ("2_Dense/config.json" in content_of(next((tree / PLACE).glob("Final_*")))) == is_listed
    assert findings(tree, deep=True) == []
