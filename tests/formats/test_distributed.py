"""Folders of torch.distributed.checkpoint, written by torch itself; forged ones by its own classes."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ckptman.formats import containers
from ckptman.formats.distributed import METADATA
from ckptman.formats.refusals import REFUSALS
from ckptman.queries.inspection import show
from ckptman.raw import scanning
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import RefusedError

RULES = built_in().checkpoint
CONFIG = {"n_layers": 2, "betas": [0.9, 0.95], "name": "x", "nested": {"a": None, "b": True}}


def save(value: dict[str, Any], folder: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # that it is done by a single process
        save_distributed(value, checkpoint_id=folder)


def state() -> dict[str, Any]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict() | {"half": torch.ones(4, dtype=torch.bfloat16)},
        "optimizer": optimizer.state_dict(),
        "train_config": CONFIG,
        "iters_done": 40000,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(state(), tmp_path / "step_40000")
    return tmp_path / "step_40000"


def code_of(path: Path) -> str | None:
    try:
        containers.read(path, RULES)
    except RefusedError as error:
        refused = error
    else:
        return None
    assert refused.fix == REFUSALS[refused.code].fix
    assert refused.message.startswith(str(path))
    return refused.code


def test_a_folder_is_read_as_the_dictionary_that_was_saved(folder: Path, tmp_path: Path) -> None:
    saved = state()
    torch.save(saved, tmp_path / "same.pt")
    info, same = containers.read(folder, RULES), containers.read(tmp_path / "same.pt", RULES)
    assert (info.form, info.iters_done, info.config, info.missing) == ("A", 40000, CONFIG, ())
    assert {(t.name, t.shape, t.dtype) for t in info.tensors} == {(t.name, t.shape, t.dtype) for t in same.tensors}
    assert info.parameters == same.parameters == 12
    assert info.optimizer == same.optimizer
    assert info.optimizer is not None
    assert info.optimizer.groups[0].hyperparameters["lr"] == 3e-4
    assert {member.name: member.size for member in info.members} == {p.name: p.stat().st_size for p in folder.iterdir()}
    assert info.other_keys == ()
    assert show(folder).problems == ()


def test_a_count_that_is_a_tensor_is_read(tmp_path: Path) -> None:
    save(state() | {"iters_done": torch.tensor(123)}, tmp_path / "dcp")
    assert containers.read(tmp_path / "dcp", RULES).iters_done == 123


def test_the_name_of_an_applications_state_is_seen_through(tmp_path: Path) -> None:
    save({"app": state()}, tmp_path / "dcp")
    info = containers.read(tmp_path / "dcp", RULES)
    assert (info.form, info.iters_done, info.parameters) == ("A", 40000, 12)


def test_what_lightning_puts_beside_is_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "epoch=3.ckpt"
    weights = {f"model.{name}": weight for name, weight in state()["model"].items()}
    save({"model": weights, "optimizer_0": state()["optimizer"]}, folder)
    assert containers.read(folder, RULES).config is None  # the control
    callbacks = {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}}
    torch.save({"global_step": 40000, "hyper_parameters": CONFIG, "callbacks": callbacks}, folder / "meta.pt")
    info = containers.read(folder, RULES)
    assert (info.iters_done, info.config, info.config_key) == (40000, CONFIG, "hyper_parameters")
    assert {tensor.name for tensor in info.tensors} == set(state()["model"])
    assert (folder / "meta.pt").name in {member.name for member in info.members}
    assert scanning.is_one_checkpoint(folder, built_in())


def test_bare_weights_are_read(tmp_path: Path) -> None:
    save(dict(torch.nn.Linear(3, 2).state_dict()), tmp_path / "dcp")
    info = containers.read(tmp_path / "dcp", RULES)
    assert ([tensor.name for tensor in info.tensors], info.config) == (["weight", "bias"], None)


def test_thousands_of_tensors_and_values_are_read(tmp_path: Path) -> None:
    many = {f"layer.{i}.weight": torch.zeros(1) for i in range(5000)}
    values = {"state": {}, "param_groups": {str(i): {"lr": 0.1} for i in range(2000)}}
    save({"model": many, "optimizer": values} | {"iters_done": 7}, tmp_path / "dcp")
    info = containers.read(tmp_path / "dcp", RULES)
    assert (len(info.tensors), info.parameters, info.iters_done) == (5000, 5000, 7)


def test_without_its_metadata_it_is_unfinished(folder: Path) -> None:
    (folder / METADATA).unlink()
    assert containers.is_checkpoint_folder(folder)
    assert code_of(folder) == "incomplete-folder"


@pytest.mark.parametrize("fault", ["gone", "cut"])
def test_a_rank_s_file_that_is_missing_or_cut_is_named(folder: Path, fault: str) -> None:
    file = next(folder.glob("*.distcp"))
    if fault == "gone":
        file.unlink()
    else:
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size - 1)
    shown = show(folder)
    assert shown.info.missing == (file.name,)
    assert len(shown.info.tensors) == 3
    assert [problem.code for problem in shown.problems] == ["bad-checkpoint"]
    assert file.name in shown.problems[0].message


# --- forged metadata --------------------------------------------------------------------------------------------------


def forge(folder: Path, change: Callable[[Metadata], object]) -> None:
    path = folder / METADATA
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


def place_of(metadata: Metadata, name: str, **changes: Any) -> None:
    index = next(key for key in metadata.storage_data if key.fqn == name)
    metadata.storage_data[index] = replace(metadata.storage_data[index], **changes)


def chunks_of(metadata: Metadata, *chunks: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    tensor = metadata.state_dict_metadata["model.weight"]
    made = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in chunks]
    tensor.chunks = made  # type: ignore[union-attr]


class Payload:
    """An object whose pickle, when executed, makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.mkdir, (self.path,)


class Other:
    """An instance that torch does not write there."""


FORGED: dict[str, tuple[Callable[[Metadata], object], str]] = {
    "overlapping": (lambda m: place_of(m, "model.weight", offset=0), "bad-header"),
    "negative offset": (lambda m: place_of(m, "model.weight", offset=-1), "bad-header"),
    "negative length": (lambda m: place_of(m, "model.weight", length=-1), "bad-header"),
    "huge length": (lambda m: place_of(m, "model.weight", length=1 << 70), "bad-header"),
    "outside": (lambda m: place_of(m, "model.weight", relative_path="../x.distcp"), "bad-header"),
    "absolute": (lambda m: place_of(m, "model.weight", relative_path="/etc/passwd"), "bad-header"),
    "transformed": (lambda m: place_of(m, "model.weight", transform_descriptors=["zstd"]), "bad-header"),
    "chunk outside": (lambda m: chunks_of(m, ((0, 0), (2, 4))), "bad-header"),
    "chunk too small": (lambda m: chunks_of(m, ((0, 0), (1, 3))), "bad-header"),
    "chunk twice": (lambda m: chunks_of(m, ((0, 0), (1, 3)), ((0, 0), (1, 3))), "bad-header"),
    "no chunks": (lambda m: chunks_of(m), "bad-header"),
    "not stored": (lambda m: m.storage_data.pop(MetadataIndex("iters_done")), "bad-header"),
    "not described": (lambda m: m.state_dict_metadata.pop("iters_done"), "bad-header"),
    "stored under no name": (
        lambda m: m.storage_data.update({MetadataIndex("x"): _StorageInfo("__0_0.distcp", 10**6, 1)}), "bad-header"),
    "no paths": (lambda m: m.planner_data.update(iters_done=()), "bad-header"),
    "one path twice": (lambda m: m.planner_data.update(iters_done=("model", "weight")), "bad-header"),
    "a path into a value": (lambda m: m.planner_data.update(iters_done=("model", "weight", "x")), "bad-header"),
    "nothing": (lambda m: setattr(m, "state_dict_metadata", None), "bad-header"),
    "another class": (lambda m: setattr(m, "storage_meta", Other()), "unsafe-pickle"),
    "a call": (lambda m: setattr(m, "storage_meta", Payload("ran")), "unsafe-pickle"),
}  # fmt: skip


def test_metadata_that_is_written_again_is_read(folder: Path) -> None:
    forge(folder, lambda metadata: None)
    assert code_of(folder) is None


@pytest.mark.parametrize("name", FORGED)
def test_forged_metadata_is_refused(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    change, code = FORGED[name]
    forge(folder, change)
    assert code_of(folder) == code
    assert not Path("ran").exists()


def test_a_stored_value_is_not_run(folder: Path, tmp_path: Path) -> None:
    save(state() | {"extra": Payload(str(tmp_path / "ran"))}, tmp_path / "hostile")
    assert code_of(tmp_path / "hostile") == "unsafe-pickle"
    assert not (tmp_path / "ran").exists()
