"""What counts as a checkpoint at the source: also what a run gave to W&B, and not what an operating system left."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from ckptman.ingestion import ingest
from ckptman.text.errors import UsageError
from ckptman.tree.records import read_record
from tests.helpers.raw import START, config, gen_metrics, write_run


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "len_gen_k8" / "task_0006"


def test_files_below_a_wandb_run_folder_are_that_run_s_checkpoints(task: Path, tmp_path: Path) -> None:
    for seed_run, started in (("first111", START), ("rerun222", START + 1_000)):
        salt = int(started)
        for file in write_run(task, config(), run_id=seed_run, started=started, salt=salt):
            shutil.move(file, next(task.rglob(f"run-*-{seed_run}")) / "files" / file.name)
    for file in task.rglob("*.pt"):
        shutil.copy(file, file.with_name("now"))  # times are lost
        file.with_name("now").rename(file)
    result = ingest(task, tmp_path / "tree")
    assert {(row.run_id, row.kind) for row in result.placed} == {
        (run, kind) for run in ("first111", "rerun222") for kind in ("Checkpoint", "Final")
    }
    assert all(row.run_id is not None and row.run_id in row.source for row in result.placed)
    assert (result.refused, result.plan.overwritten) == ((), ())


@pytest.mark.parametrize("kind", ["run", "dryrun"])
@pytest.mark.parametrize("inside", [False, True])
def test_the_run_folder_of_an_old_client_has_no_folder_for_its_files(
    kind: str, inside: bool, task: Path, tmp_path: Path
) -> None:
    files = write_run(task, config(), run_id="abcd1234", metrics=gen_metrics(0.25))
    [folder] = task.rglob("run-*-abcd1234")
    for file in (folder / "files").iterdir():
        file.rename(folder / file.name)
    (folder / "files").rmdir()
    (folder / "run-abcd1234.wandb").unlink()
    for file in files if inside else ():
        file.rename(folder / file.name)  # wandb.run.dir was the folder itself
    folder.rename(folder.with_name(f"{kind}{folder.name.removeprefix('run')}"))
    result = ingest(task, tmp_path / "tree")
    assert [(row.run_id, row.kind) for row in result.placed] == [("abcd1234", kind) for kind in ("Checkpoint", "Final")]
    [record] = (read_record(path.parent) for path in (tmp_path / "tree").rglob("run.json"))
    assert record.metrics["gen/K17/exact_match_acc"] == 0.25
    assert (result.plan.wandb_problems, result.refused) == ((), ())


def test_a_link_that_a_run_gave_to_wandb_is_passed_over(task: Path, tmp_path: Path) -> None:
    files = write_run(task, config(), run_id="abcd1234")
    link = next(task.rglob("run-*-abcd1234")) / "files" / files[1].name
    link.symlink_to(files[1])
    assert ingest(task, tmp_path / "tree").refused == ()
    link.unlink()
    link.symlink_to(shutil.copy(files[1], tmp_path))  # the control: it leads out of the source
    assert [item.code for item in ingest(task, tmp_path / "tree").refused] == ["symlink"]


def test_links_of_which_nothing_would_come_are_passed_over(task: Path, tmp_path: Path) -> None:
    files = write_run(task, config(), run_id="abcd1234")
    (task / "train.log").write_text("x")
    (task / "latest.log").symlink_to("train.log")
    (task / "python").symlink_to(sys.executable)
    (files[1].parent / "last.pt").symlink_to(files[1].name)
    (task / "best.pt").symlink_to(files[0])
    (task / "latest").symlink_to("saved_models")
    assert ingest(task, tmp_path / "tree").refused == ()
    outside = Path(shutil.copy(files[1], tmp_path))
    for name, target in (("out.pt", outside), ("last.ckpt", outside), ("logs", tmp_path), ("gone.log", "nowhere")):
        (task / name).symlink_to(target)  # the control: what may be needed
    refused = [item.source for item in ingest(task, tmp_path / "tree").refused]
    assert refused == ["gone.log", "last.ckpt", "logs", "out.pt"]


@pytest.mark.parametrize("kind", ["missing", "pipe"])
def test_nothing_is_made_for_a_source_that_is_not_there(kind: str, task: Path, tmp_path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / kind)
    with pytest.raises(UsageError, match="does not exist" if kind == "missing" else "neither a folder nor a file"):
        ingest(tmp_path / kind, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    write_run(task, config(), run_id="abcd1234")
    ingest(task, tmp_path / "tree")  # the control
    assert (tmp_path / "tree").exists()


def test_files_of_other_programs_are_counted_as_passed_over(task: Path, tmp_path: Path) -> None:
    names = ("FINAL.PT", "flax.msgpack", "model.gguf", "model.keras", "model.onnx", "weights.h5")
    folder = write_run(task, config(), run_id="abcd1234")[1].parent
    for name in (*names, "notes.txt"):
        (folder / name).write_bytes(b"x")
    assert ingest(task, tmp_path / "tree").to_json()["passed_over"] == [f"saved_models/{name}" for name in names]


def test_archives_are_named(task: Path, tmp_path: Path) -> None:
    folder = write_run(task, config(), run_id="abcd1234")[1].parent
    assert ingest(task, tmp_path / "tree").plan.archives == ()
    for name in ("saved_models.zip", "outputs.tar.gz", "OLD.TGZ", "model.pt.tar", "._saved_models.zip", "notes.gz"):
        (folder / name).write_bytes(b"x")
    found = ingest(task, tmp_path / "tree").to_json()
    assert found["archives"] == [f"saved_models/{name}" for name in ("OLD.TGZ", "outputs.tar.gz", "saved_models.zip")]
    assert found["passed_over"] == ["saved_models/model.pt.tar"]


def test_a_checkpoint_that_is_called_tar_is_no_archive(task: Path, tmp_path: Path) -> None:
    file = write_run(task, config(), run_id="abcd1234")[1]
    with tarfile.open(file.with_name("real.tar"), "w") as archive:
        archive.add(file)
    file.rename(file.with_name("model_5.tar"))
    found = ingest(task, tmp_path / "tree").to_json()
    assert found["passed_over"] == ["saved_models/model_5.tar"]
    assert found["archives"] == ["saved_models/real.tar"]


def test_what_looks_like_a_checkpoint_and_is_passed_over_is_named(task: Path, tmp_path: Path) -> None:
    files = write_run(task, config(), run_id="abcd1234")
    folder = files[1].parent
    other = shutil.copy(files[1], folder / "last.ckpt")
    (folder / "notes.txt").write_text("no checkpoint")
    (folder / "._last.ckpt").write_bytes(b"left by an operating system")
    transformers = folder / "checkpoint-500"
    transformers.mkdir()
    for name in ("model.safetensors", "training_args.bin", "config.json"):
        (transformers / name).write_bytes(b"{}" if name == "config.json" else b"@\0")  # as a copy begins
    result = ingest(task, tmp_path / "tree")
    assert (len(result.placed), result.refused) == (2, ())
    assert result.to_json()["passed_over"] == ["saved_models/last.ckpt"]
    assert [(item.source, item.code) for item in result.deferred] == [("saved_models/checkpoint-500", "cut")]
    Path(other).unlink()
    shutil.rmtree(transformers)
    assert ingest(task, tmp_path / "tree").to_json()["passed_over"] == []  # the control


def test_what_an_operating_system_left_is_no_checkpoint(task: Path, tmp_path: Path) -> None:
    files = write_run(task, config(), run_id="abcd1234")
    left = files[1].with_name(f"._{files[1].name}")
    left.write_bytes(bytes.fromhex("0005160700020000") + b"Mac OS X        ")
    result = ingest(task, tmp_path / "tree")
    assert (len(result.placed), result.refused, result.deferred) == (2, (), ())
    assert result.to_json()["system_files"] == [f"saved_models/{left.name}"]
    left.rename(left.with_name("other.pt"))  # the control
    assert [item.code for item in ingest(task, tmp_path / "tree", settle=0).refused] != []
