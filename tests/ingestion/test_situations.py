"""Situations that people reported, from raw outputs to a tree: placed as what they are, and nothing else is found."""

from __future__ import annotations

import argparse
import os
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptman.checks.validation import ValidationResult, validate
from ckptman.ingestion.ingesting import IngestResult, ingest
from ckptman.rules.convention_file import load_convention
from ckptman.rules.recipe import TrainConfig
from ckptman.training import loading
from ckptman.training.model import GPT, GPTConfig
from tests.helpers import contents, payloads
from tests.helpers.raw import config, name_of, snapshot, write_checkpoint, write_run
from tests.helpers.validated import codes

MISSING = {"missing-task", "missing-seed", "missing-checkpoint", "missing-group", "stale-document", "no-document"}


def save(source: Path, item: TrainConfig, document: dict[str, Any]) -> Path:
    """A Final checkpoint of any form, in a folder of its own."""
    path = source / str(item.wandb_group) / "task_0006" / f"seed_{item.seed}" / name_of(item)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(document, path)
    return path


def weights_of(item: TrainConfig, prefix: str = "") -> dict[str, torch.Tensor]:
    torch.manual_seed(item.seed)
    return {prefix + name: value for name, value in GPT(GPTConfig.from_train_config(item)).state_dict().items()}


def check(tree: Path) -> ValidationResult:
    return validate(tree, deep=True)


def refused(result: IngestResult) -> set[str]:
    return {item.code for item in result.refused}


def test_forms_of_other_programs_are_placed_and_clean(tmp_path: Path) -> None:
    source, tree = tmp_path / "raw", tmp_path / "tree"
    lightning, nano, named, wrapped = config(4), config(6, seed=2337), config(8), config(10)
    save(source, lightning, {
        "epoch": 3, "global_step": 40000, "pytorch-lightning_version": "2.5", "loops": {}, "hparams_name": "kwargs",
        "state_dict": weights_of(lightning, "model."), "hyper_parameters": lightning.to_dict(),
        "optimizer_states": [contents.optimizer_of(torch.optim.AdamW).state_dict()],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9)}},
    })  # fmt: skip
    save(source, nano, {
        "model": weights_of(nano, "_orig_mod."), "model_args": {}, "iter_num": 40000, "config": nano.to_dict(),
        "best_val_loss": torch.tensor(2.1), "optimizer": contents.optimizer_of(torch.optim.AdamW).state_dict(),
    })  # fmt: skip
    save(source, named, {"model": weights_of(named), "args": argparse.Namespace(**named.to_dict()), "iters_done": 4e4})
    save(source, wrapped, {
        "model": weights_of(wrapped, "module._orig_mod."), "train_config": wrapped.to_dict(),
        "iters_done": np.int64(40000), "rng": np.random.RandomState(0).get_state(),
    })  # fmt: skip
    result = ingest(source, tree)
    assert not result.refused
    assert {(row.group, row.seed, row.step) for row in result.placed} == {
        (item.wandb_group, item.seed, 40000) for item in (lightning, nano, named, wrapped)
    }
    assert codes(check(tree)) <= MISSING
    for row in result.placed:
        model, info = loading.load(tree / row.path)
        assert info.config is not None
        assert info.config["seed"] == row.seed
        assert isinstance(model, GPT)


def test_foreign_objects_are_placed_and_named(tmp_path: Path) -> None:
    meter = contents.plain_class("trainer.state.Meter")
    item = config(8)
    with contents.modules(meter):
        path = write_checkpoint(tmp_path / "raw" / name_of(item), item, best=contents.instance(meter, value=0.5))
    assert not ingest(tmp_path / "raw", tmp_path / "tree").refused
    found = [finding for finding in check(tmp_path / "tree").findings if finding.code == "foreign-object"]
    assert [finding.message for finding in found] == ["instances of trainer.state.Meter (in best)"]
    write_checkpoint(path, item, best=0.5)
    shutil.rmtree(tmp_path / "tree")
    ingest(tmp_path / "raw", tmp_path / "tree")
    assert "foreign-object" not in codes(check(tmp_path / "tree"))


def test_an_instance_made_by_a_call_of_its_class_is_placed_and_named(tmp_path: Path) -> None:
    meters = contents.plain_class("trainer.state.Meters", OrderedDict)
    contents.CLASSES.remove(meters)
    held, read = config(8), config(6, seed=2337)
    with contents.modules(meters):
        write_checkpoint(tmp_path / "raw" / name_of(held), held, best=meters(loss=0.5))
        save(
            tmp_path / "raw", read, {"model": weights_of(read), "config": meters(read.to_dict()), "iters_done": 40_000}
        )
    result = ingest(tmp_path / "raw", tmp_path / "tree")
    assert not result.refused
    assert sorted(row.seed or 0 for row in result.placed) == [1337, 2337]
    found = [finding for finding in check(tmp_path / "tree").findings if finding.code == "foreign-object"]
    assert [finding.message for finding in found] == ["instances of trainer.state.Meters (in best)"]


def test_calls_are_admitted_name_by_name(tmp_path: Path) -> None:
    class Built:
        def __reduce__(self) -> Any:
            return build, (3,)

    def build(number: int) -> int:
        return number

    item = config(8)
    with contents.modules(contents.placed(build, "trainer.tools", "build")):
        write_checkpoint(tmp_path / "raw" / name_of(item), item, meter=Built())
    contents.CLASSES.remove(build)
    (problem,) = ingest(tmp_path / "raw", tmp_path / "tree").refused
    assert problem.code == "unsafe-pickle"
    assert "calls trainer.tools.build (in meter)" in problem.message
    (tmp_path / "tree").mkdir(exist_ok=True)
    (tmp_path / "tree" / "ckptman.yaml").write_text("checkpoint: {inert: [trainer.tools.build]}\n")
    rules = load_convention(tmp_path / "tree" / "ckptman.yaml")
    assert not ingest(tmp_path / "raw", tmp_path / "tree", convention=rules).refused
    assert codes(validate(tmp_path / "tree", convention=rules)) <= MISSING


def test_what_misleads_other_readers_is_refused_and_what_does_not_is_placed(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    paths = [write_checkpoint(source / name_of(config(k)), config(k)) for k in (4, 6, 8, 10, 12)]
    payload = payloads.marker_pickle(tmp_path / "marker")

    def add(path: Path, name: str, data: bytes) -> None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/{name}", data)

    add(paths[0], "evil.pkl", payload)  # nothing reads it
    add(paths[1], "extra/info.json", b"{}")
    add(paths[2], "DATA.PKL", payload)  # torch reads this one
    add(paths[3], "Data/0", bytes(64))
    with zipfile.ZipFile(paths[4], "a") as archive:
        archive.writestr("tool-metadata/info.json", "{}")
    result = ingest(source, tmp_path / "tree")
    assert {row.group for row in result.placed} == {"len_gen_k4", "len_gen_k6"}
    assert refused(result) == {"unsafe-archive"}
    assert len(result.refused) == 3
    assert codes(check(tmp_path / "tree")) <= MISSING
    assert not (tmp_path / "marker").exists()


def test_what_a_crash_leaves_is_refused_with_what_to_do(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    paths = {k: write_checkpoint(source / name_of(config(k)), config(k)) for k in (4, 6, 8, 10, 12, 14)}
    data = {k: bytearray(path.read_bytes()) for k, path in paths.items()}
    half = len(data[4]) // 2
    data[4] = data[4][:half]
    data[6] = data[6][:-10]
    data[8] = bytearray()
    data[10][half:] = bytes(len(data[10]) - half)
    data[12][data[12].index(b"data/0") + 200] ^= 4
    for k, path in paths.items():
        path.write_bytes(data[k])
        os.utime(path, (0, 0))
    result = ingest(source, tmp_path / "tree")
    found = {int(item.source.partition("trainK2to")[2].partition("_")[0]): item.code for item in result.refused}
    assert found == {4: "cut", 6: "cut", 8: "empty", 10: "cut", 12: "bad-crc"}
    assert all(item.fix for item in result.refused)
    assert [row.group for row in result.placed] == ["len_gen_k14"]


def test_files_of_other_trainers_beside_it_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    write_checkpoint(folder / name_of(config(8)), config(8))
    optimizer = contents.optimizer_of(torch.optim.AdamW)
    others = {
        "optimizer.pt": optimizer.state_dict(),
        "scheduler.pt": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10).state_dict(),
        "rng_state.pt": {"cpu": torch.get_rng_state(), "numpy": np.random.RandomState(0).get_state()},
        "scaler.pt": torch.amp.GradScaler("cpu").state_dict(),
    }
    for name, value in others.items():
        torch.save(value, folder / name)
    result = ingest(folder, tmp_path / "tree")
    assert {item.source: item.code for item in result.refused} == dict.fromkeys(others, "foreign")
    assert len(result.placed) == 1


@pytest.mark.parametrize("keep_times", [True, False])
def test_the_same_outputs_from_another_disk_place_nothing(tmp_path: Path, keep_times: bool) -> None:
    source, tree = tmp_path / "raw", tmp_path / "tree"
    for index, (k, seed) in enumerate([(6, 1337), (6, 2337), (8, 1337), (8, 2337)]):
        item = config(k, seed=seed)
        home = source / f"len_gen_k{k}" / "task_0006" / f"seed_{seed}"
        write_run(home, item, run_id=f"r{k}{seed}", started=1_773_169_407.0 + 300 * index)
    assert len(ingest(source, tree).placed) == 8
    before = snapshot(tree)
    moved = tmp_path / "moved"
    shutil.copytree(source, moved, symlinks=True, copy_function=shutil.copy2 if keep_times else shutil.copy)
    for again in (moved, source):
        result = ingest(again, tree)
        assert not result.placed
        assert not result.refused
        assert not result.plan.overwritten
    after = snapshot(tree)
    assert {name: data for name, data in after.items() if name.endswith(".pt")} == {
        name: data for name, data in before.items() if name.endswith(".pt")
    }
    assert codes(check(tree)) <= MISSING
