"""Weights are found wherever a file has them; of several none is taken, and they are named."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import decimal
import fractions
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptman.formats import archive, forms
from ckptman.formats.checkpoint import CheckpointInfo, count_of, read_checkpoint
from ckptman.formats.pickled import OtherTensor, Record
from ckptman.rules.convention_file import built_in, load_convention
from ckptman.text.errors import RefusedError
from ckptman.training import loading
from tests.helpers import contents, hostile
from tests.helpers.raw import config as small
from tests.helpers.timed import in_time

RULES = built_in().checkpoint
CONFIG = small().to_dict()
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "seen": torch.tensor(3)}
OPTIMIZER = contents.optimizer_of(torch.optim.AdamW).state_dict()
RANDOM = {"cpu": torch.get_rng_state(), "cuda": torch.zeros(16, dtype=torch.uint8)}


@pytest.fixture(autouse=True)
def their_modules() -> Iterator[None]:
    with contents.modules(*contents.CLASSES):
        yield


def read(tmp_path: Path, value: Any) -> CheckpointInfo:
    """What a file says, after a check that its weights are loaded."""
    torch.save(value, tmp_path / "file.pt")
    info = read_checkpoint(tmp_path / "file.pt", RULES)
    weights, _ = loading.load_weights(tmp_path / "file.pt")
    assert list(weights) == [tensor.name for tensor in info.tensors]
    assert {name: weight.sum() for name, weight in weights.items()} == {
        name: sum(each.sum() for each in WEIGHTS.values() if each.shape == weight.shape)
        for name, weight in weights.items()
    }
    return info


Layer = contents.placed(type("Layer", (torch.nn.Module,), {}), "lab.net")
State = contents.plain_class("lab.train.State")


def module() -> Any:
    made = Layer()
    made.a = torch.nn.Linear(3, 2)
    made.a.load_state_dict({"weight": WEIGHTS["a.weight"], "bias": WEIGHTS["a.bias"]})
    made.register_buffer("seen", WEIGHTS["seen"])
    return made


PARTS = {"a": {"weight": WEIGHTS["a.weight"], "bias": WEIGHTS["a.bias"]}, "seen": WEIGHTS["seen"]}
PLACES: dict[str, tuple[Any, tuple[str, str | None]]] = {
    "under any key": ({"net": WEIGHTS, "acc": 93.1, "rng": RANDOM, "optim": OPTIMIZER}, ("other", "net")),
    "a module under any key": ({"network": module(), "epoch": 3}, ("other", "network")),
    "a module under a known key": ({"model": module(), "epoch": 3}, ("A", "model")),
    "one object by two keys": ({"last": WEIGHTS, "best": WEIGHTS}, ("other", "last")),
    "a form in a dictionary": ({"state": {"model": WEIGHTS, "optimizer": OPTIMIZER}, "rng": [1]}, ("A", "state.model")),
    "a form in an object": (contents.instance(State, model=WEIGHTS, epoch=3), ("A", "model")),
    "any key in a dictionary": ({"trainer": {"net": WEIGHTS, "epoch": 1}}, ("other", "trainer.net")),
    "one of a list": ([WEIGHTS, OPTIMIZER, 3], ("other", "0")),
    "one of a tuple": (("v1", WEIGHTS), ("other", "1")),
    "dictionaries in one another": ({"model": PARTS, "iteration": 5}, ("A", "model")),
    "arrays of numpy": ({"model": {name: weight.numpy() for name, weight in WEIGHTS.items()}}, ("A", "model")),
    "the file itself": (WEIGHTS, ("weights", None)),
    "the file itself, with a configuration": ({**WEIGHTS, "config": CONFIG}, ("weights", None)),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_weights_are_found(tmp_path: Path, name: str) -> None:
    value, expected = PLACES[name]
    info = read(tmp_path, value)
    assert (info.form, info.weights_key) == expected
    assert {tensor.name: tensor.shape for tensor in info.tensors} == {
        key: tuple(weight.shape) for key, weight in WEIGHTS.items()
    }


SEVERAL: dict[str, tuple[Any, str]] = {
    "two models": ({"G": WEIGHTS, "D": dict(WEIGHTS)}, "several dictionaries of weights, 'G', 'D'"),
    "one with its average": ({"net": WEIGHTS, "ema": dict(WEIGHTS), "config": CONFIG}, "'net', 'ema'"),
    "two in a dictionary": ({"gan": {"G": WEIGHTS, "D": dict(WEIGHTS)}}, "'gan.G', 'gan.D'"),
    "one, and one in a form": ({"net": WEIGHTS, "teacher": {"model": dict(WEIGHTS)}}, "'net', 'teacher.model'"),
    "random states": ({"rng": RANDOM, "epoch": 3}, "the keys 'rng', 'epoch', and no weights"),
    "random states alone": (RANDOM, "no weights"),
    "an optimizer": (OPTIMIZER, "no weights"),
    "several optimizers": ({"a": OPTIMIZER, "b": OPTIMIZER}, "no weights"),
    "scores": ({"scores": {"loss": torch.tensor(0.5), "em": torch.tensor(0.9)}}, "no weights"),
    "a named tuple": (contents.Point(1, 2), "an instance of geometry.points.Point"),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_or_none_nothing_is_taken(tmp_path: Path, name: str) -> None:
    value, said = SEVERAL[name]
    torch.save(value, tmp_path / "file.pt")
    with pytest.raises(RefusedError, match=said) as refused:
        read_checkpoint(tmp_path / "file.pt", RULES)
    assert refused.value.code == "foreign"
    assert "checkpoint.forms" in refused.value.fix


def test_a_form_of_a_lab_says_which_of_several_is_meant(tmp_path: Path) -> None:
    rules = tmp_path / "ckptman.yaml"
    torch.save({"gan": {"G": WEIGHTS, "D": {"w": torch.ones(2, 2)}}, "step": 7}, tmp_path / "file.pt")
    keys = "optimizer: optimizer, config: config, iters: step"
    rules.write_text(f"checkpoint: {{forms: {{GAN: {{weights: gan.D, {keys}}}}}}}")
    info = read_checkpoint(tmp_path / "file.pt", load_convention(rules).checkpoint)
    assert (info.form, info.iters_done, [tensor.name for tensor in info.tensors]) == ("GAN", 7, ["w"])


def test_what_lies_beside_found_weights_is_read_and_the_rest_is_named(tmp_path: Path) -> None:
    inner = {"net": WEIGHTS, "config": argparse.Namespace(**CONFIG), "global_step": 7, "note": "x"}
    info = read(tmp_path, {"checkpoint": inner, "opt": OPTIMIZER, "host": "a"})
    assert (info.config, info.config_key, info.iters_done) == (CONFIG, "checkpoint.config", 7)
    assert info.optimizer is not None
    assert info.optimizer.keys == ("opt",)
    assert info.other_keys == ("checkpoint.note", "host")
    info = read(tmp_path, {**WEIGHTS, "config": CONFIG, "version": 2})
    assert (info.config, info.other_keys, info.not_tensors) == (CONFIG, (), ("version",))
    info = read(tmp_path, {**WEIGHTS, "host": {"name": "a"}, "more_args": {"a": 1}})
    assert (info.config, info.other_keys, info.unused_configs) == (None, ("host", "more_args"), ("more_args",))
    info = read(tmp_path, {"state_dict": WEIGHTS, "optG": OPTIMIZER, "optD": [OPTIMIZER], "global_steps": 3})
    assert info.optimizer is not None
    assert (info.optimizer.keys, len(info.optimizer.groups), info.iters_done) == (("optG", "optD"), 2, 3)


def test_modules_whose_names_would_fill_the_memory_are_refused() -> None:
    inner = Record("lab.Part", state={"_parameters": {}, "_modules": {}})
    inner.state["_parameters"] = {str(number): torch_view() for number in range(1000)}
    outer = Record("lab.Whole", state={"_parameters": {}, "_modules": {"x" * 1_000_000: inner}})
    with pytest.raises(RefusedError, match="names have more than") as refused:
        forms.module_weights(outer)
    assert refused.value.code == "pickle-bomb"
    outer.state["_modules"] = {"x" * 1_000: inner}
    assert len(forms.module_weights(outer) or {}) == 1000
    nested = {"x" * 1_000_000: {str(number): torch_view() for number in range(1000)}}
    with pytest.raises(RefusedError, match="names have more than"):
        forms.find({"model": nested}, RULES.forms)


def torch_view() -> Any:
    return OtherTensor("meta", "float32", (2, 2), ((2, 1),))


# --- configurations of several keys -----------------------------------------------------------------------------------


def test_of_several_configurations_the_one_of_a_run_is_taken(tmp_path: Path) -> None:
    info = read(
        tmp_path, {"model": WEIGHTS, "config": {"n_embd": 8, "block": 65}, "args": argparse.Namespace(**CONFIG)}
    )
    assert (info.config_key, info.config, info.unused_configs) == ("args", CONFIG, ("config",))
    info = read(tmp_path, {"model": WEIGHTS, "config": {"n_embd": 8}, "args": argparse.Namespace(a=1)})
    assert (info.config_key, info.unused_configs) == ("config", ("args",))
    info = read(tmp_path, {"model": WEIGHTS, "train_config": CONFIG, "args": argparse.Namespace(**{**CONFIG, "x": 1})})
    assert info.config_key == "train_config"


def test_a_configuration_that_is_not_read_is_named_where_it_stands(tmp_path: Path) -> None:
    info = read(tmp_path, {"state_dict": WEIGHTS, "meta": {"cfg": "lr = 0.1\nmodel = dict(n=2)\n", "epoch": 3}})
    assert (info.config, info.unused_configs) == (None, ("meta.cfg",))
    info = read(tmp_path, {"state_dict": WEIGHTS, "meta": {"cfg": "lr = 0.1\n"}, "hyper_parameters": CONFIG})
    assert info.unused_configs == ()
    assert read(tmp_path, {"state_dict": WEIGHTS, "cfg": "lr = 0.1\n"}).unused_configs == ("cfg",)


def test_objects_without_the_names_of_their_fields_are_said_to_be_so(tmp_path: Path) -> None:
    named = contents.placed(collections.namedtuple("Cfg", list(CONFIG)), "lab.config")
    slots = contents.placed(dataclasses.make_dataclass("Fixed", ["a"], frozen=True, slots=True), "lab.config")
    with contents.modules(named, slots):
        for value in (named(**CONFIG), slots(1)):
            info = read(tmp_path, {"model": WEIGHTS, "train_config": value})
            assert (info.config, info.unused_configs, info.unnamed_fields) == (
                None, ("train_config",), ("train_config",),
            )  # fmt: skip
    assert read(tmp_path, {"model": WEIGHTS, "args": argparse.Namespace(a=1), "train_config": []}).unnamed_fields == ()


# --- numbers of iterations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [-1, True, 20001.5, float("nan"), float("inf"), "20001 of 40000", 1 << 63, torch.tensor([1, 2]), [3], -1.0]
)
def test_a_number_of_iterations_that_is_none_is_named_and_costs_nothing_else(tmp_path: Path, value: Any) -> None:
    info = read(tmp_path, {"model": WEIGHTS, "train_config": CONFIG, "iters_done": value, "itr": 3, "run_id": "a"})
    assert (info.iters_done, info.itr, info.run_id, info.config) == (None, 3, "a", CONFIG)
    [odd] = info.odd_fields
    assert odd.startswith("iters_done is ")
    assert odd.endswith(", not a number of iterations")
    assert info.other_keys == ("iters_done",)
    info = read(tmp_path, {"model": WEIGHTS, "iters_done": 3, "itr": value, "run_id": value})
    assert (info.iters_done, info.itr, info.run_id) == (3, None, value if type(value) is str else None)
    assert read(tmp_path, {"model": WEIGHTS, "iters_done": None, "itr": 0, "run_id": ""}).odd_fields == ()


def test_numbers_of_every_kind_are_counts() -> None:
    for value in (7, 7.0, "7", decimal.Decimal("7.0"), fractions.Fraction(7)):
        assert count_of(value) == 7
    others: tuple[Any, ...] = (
        None, -7, 7.5, "", "٧", decimal.Decimal("sNaN"), decimal.Decimal("1e999999999"),
        decimal.Decimal("1e-999999999"), fractions.Fraction(1, 3), 7j,
    )  # fmt: skip
    assert [count_of(value) for value in others] == [None] * len(others)


def test_states_of_optimizers_are_counted_however_deep_they_lie(tmp_path: Path) -> None:
    state = {"precond": [torch.zeros(10, 10), {"q": torch.zeros(5, dtype=torch.uint8)}], "step": 3}
    found = read(tmp_path, {"model": WEIGHTS, "optimizer": {"state": {0: state}, "param_groups": []}}).optimizer
    assert found is not None
    assert (found.tensors, found.nbytes, found.dtypes) == (2, 405, ("float32", "uint8"))


# --- files that are something else ------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[bytes, str]] = {
    "web page": (b"<!DOCTYPE html><html><title>403</title></html>", "a web page"),
    "error of a server": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "an XML document"),
    "json": (b'{"error": "not found"}', "a JSON document"),
    "gzip": (b"\x1f\x8b\x08" + bytes(range(60)), "gzip compressed"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(60)), "zstd compressed"),
    "tar": (b"a.pt".ljust(257, b"\0") + b"ustar\0" + bytes(300), "a tar archive"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(100), "a GGUF file"),
    "npy": (b"\x93NUMPY\1\0v\0{'descr'", "an array that numpy saved"),
    "anything": (bytes(range(256)) * 4, "something that torch.save did not write"),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, name: str, suffix: str) -> None:
    content, said = OTHERS[name]
    if (name, suffix) == ("anything", ".safetensors"):
        return
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=said) as refused:
        loading.load_weights(path)
    assert refused.value.code == "not-a-checkpoint"


def zipped(path: Path, method: int = zipfile.ZIP_STORED, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name.replace("__", "/").replace("_", "."), data)
    return path


def test_other_zip_archives_are_called_what_they_are(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.arange(3), b=np.arange(4))
    zipped(tmp_path / "outer.zip", saved__a_pt=hostile.good())
    zipped(tmp_path / "keras.zip", zipfile.ZIP_DEFLATED, config_json=b"{}", model_weights_h5=bytes(9))
    zipped(tmp_path / "other.zip", zipfile.ZIP_DEFLATED, policy_txt=b"x")
    with zipfile.ZipFile(tmp_path / "program.pt2", "w") as file:  # as torch.export.save does
        for name in ("data/weights/weight_0", "models/model.json", "data/sample_inputs/model.pt", "archive_format"):
            file.writestr(f"archive/{name}", b"pt2")
    for name, said in {
        "program.pt2": "a program that torch.export saved$",
        "a.npz": "numpy's .npz", "outer.zip": "it holds 'saved/a.pt': unpack it first", "keras.zip": "a model of Keras",
        "other.zip": "it has no data.pkl",
    }.items():  # fmt: skip
        with pytest.raises(RefusedError, match=said) as refused, archive.open_archive(tmp_path / name):
            pass
        assert refused.value.code == "not-a-checkpoint"
    zipped(tmp_path / "again.zip", zipfile.ZIP_DEFLATED, archive__data_pkl=b"x" * 99)  # the control: torch's, packed
    with pytest.raises(RefusedError, match="compressed"), archive.open_archive(tmp_path / "again.zip"):
        pass


def test_a_torch_archive_is_one_under_the_name_of_another_container(tmp_path: Path) -> None:
    for name in ("file.safetensors", "file.ckpt", "pytorch_model.bin"):
        torch.save({"model": WEIGHTS, "note": random.random()}, tmp_path / name)
        weights, info = loading.load_weights(tmp_path / name)
        assert (list(weights), info.container) == (list(WEIGHTS), "torch archive")


# --- within bounds ----------------------------------------------------------------------------------------------------

MANY = {str(number): number for number in range(2000)}
VIEW = torch.zeros(2, 2)
SHARED: dict[str, dict[str, Any]] = {
    "one dictionary by many keys": {str(number): MANY for number in range(2400)},
    "one object by many keys": dict.fromkeys(map(str, range(2400)), argparse.Namespace(**MANY)),
    "one dictionary by many keys of one": {"a": {str(number): MANY for number in range(2400)}},
    "one array by many keys": {str(number): dict.fromkeys(MANY, np.zeros(1)) for number in range(20)},
    "one part of many": {"model": {str(number): dict.fromkeys(MANY, VIEW) for number in range(40)}},
}


@pytest.mark.parametrize("name", SHARED)
def test_looking_for_weights_takes_time_by_the_size_of_the_file(tmp_path: Path, name: str) -> None:
    torch.save({**SHARED[name], "room": bytes(5_000_000)}, tmp_path / "file.pt")

    def code() -> str | None:
        try:
            read_checkpoint(tmp_path / "file.pt", RULES)
        except RefusedError as error:
            return error.code
        return None

    assert in_time(code, 0.5) == (None if "model" in SHARED[name] else "foreign")
