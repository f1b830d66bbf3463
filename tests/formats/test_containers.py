"""Checkpoints in other containers: real files by torch and safetensors; folders of transformers made by hand."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

import ckptman
from ckptman.formats import containers
from ckptman.formats.checkpoint import CheckpointInfo
from ckptman.formats.refusals import REFUSALS
from ckptman.formats.safetensors import read_header
from ckptman.queries.inspection import show
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import RefusedError

RULES = built_in().checkpoint
WEIGHTS = {
    "wte.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "one": torch.tensor(7),
    "none": torch.zeros(0, 3),
    "small": torch.ones(2, 2).to(torch.float8_e4m3fn),
}
SHAPES = {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in WEIGHTS.items()}


def shapes(info: CheckpointInfo) -> dict[str, tuple[tuple[int, ...], str]]:
    return {tensor.name: (tensor.shape, tensor.dtype) for tensor in info.tensors}


def code_of(path: Path) -> str | None:
    """The code that a checkpoint is refused with, after a check that the refusal says everything."""
    try:
        containers.read(path, RULES)
    except RefusedError as error:
        refused = error
    else:
        return None
    assert refused.fix == REFUSALS[refused.code].fix
    assert refused.message.startswith(str(path))
    assert len(refused.message) < 500 + len(str(path))
    return refused.code


# --- safetensors ------------------------------------------------------------------------------------------------------


def test_a_safetensors_file_is_read_by_its_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path, metadata={"format": "pt"})
    info = containers.read(path, RULES)
    assert shapes(info) == SHAPES
    assert (info.container, info.form, info.parameters) == ("safetensors", "weights", 12 + 5 + 1 + 0 + 4)
    assert (info.size, info.config, info.optimizer, info.other_keys) == (path.stat().st_size, None, None, ("format",))
    loaded = load_file(path)
    for tensor in read_header(path).tensors:
        raw = path.read_bytes()[tensor.start : tensor.start + tensor.nbytes]
        assert raw == loaded[tensor.name].reshape(-1).view(torch.uint8).numpy().tobytes()


def test_it_is_known_by_its_content_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_file(WEIGHTS, path)
    assert containers.read(path, RULES).container == "safetensors"


class Tied(torch.nn.Module):
    """Two names for one weight, of which `save_model` writes the first by the alphabet."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = torch.nn.Embedding(3, 4)
        self.head = torch.nn.Linear(4, 3, bias=False)
        self.head.weight = self.wte.weight


def test_a_weight_that_was_left_out_since_it_is_another_is_there(tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", Tied()
    save_model(model, str(path))
    assert [tensor.name for tensor in read_header(path).tensors] == ["head.weight"]
    info = containers.read(path, RULES)
    assert shapes(info) == dict.fromkeys(("head.weight", "wte.weight"), ((3, 4), "float32"))
    assert (info.parameters, info.other_keys) == (12, ())
    weights, _ = ckptman.load_weights(path)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    path.rename(tmp_path / "shard.safetensors")
    (tmp_path / f"{path.name}.index.json").write_text(json.dumps({"weight_map": {"head.weight": "shard.safetensors"}}))
    assert shapes(containers.read(tmp_path, RULES)) == shapes(info)


def test_metadata_that_names_no_weight_gives_none(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path, metadata={"head.weight": "nothing", "half": "one"})
    info = containers.read(path, RULES)
    assert (shapes(info), set(info.other_keys)) == (SHAPES, {"head.weight", "half"})


def test_a_torch_script_is_named(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    assert code_of(tmp_path / "weights.pt") is None
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "script.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(RefusedError, match="a TorchScript program") as refused:
        containers.read(tmp_path / "script.pt", RULES)
    assert refused.value.code == "foreign"


def test_a_configuration_in_its_metadata_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    config = {"n_layers": 2, "betas": [0.9, math.inf], "nested": {"a": None}}
    save_file(WEIGHTS, path, metadata={"train_config": json.dumps(config), "iters_done": "40000", "run_id": "abc"})
    info = containers.read(path, RULES)
    assert info.config == {"n_layers": 2, "betas": [0.9, "Infinity"], "nested": {"a": None}}
    assert (info.form, info.iters_done, info.run_id) == ("A", 40000, "abc")
    save_file(WEIGHTS, path, metadata={"train_config": "{}", "iters_done": "-1", "itr": "3"})
    info = containers.read(path, RULES)
    assert (info.iters_done, info.itr) == (None, 3)
    assert info.odd_fields == ("iters_done is '-1', not a number of iterations",)
    save_file(WEIGHTS, path, metadata={"global_step": "7"})
    assert (containers.read(path, RULES).form, containers.read(path, RULES).iters_done) == ("Lightning", 7)


def raw(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


BAD = {
    "huge header": (raw({}, length=1 << 62), "bad-header"),
    "header longer than the file": (raw({}, length=1 << 20), "cut"),
    "no length": (b"\1\0\0", "cut"),
    "empty": (b"", "empty"),
    "no json": (raw(b"{nonsense}"), "bad-header"),
    "no object": (raw(b"[1, 2]"), "bad-header"),
    "no text": (raw(b'{"\xff": 1}'), "bad-header"),
    "half a character": (raw(b'{"\\ud800": {}}'), "bad-header"),
    "one name twice": (raw(b'{"a": %s, "a": %s}' % ((json.dumps(entry(0, 1)).encode(),) * 2), b"1"), "bad-header"),
    "one key twice": (raw(b'{"a": {"dtype": "U8", "dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', b"1"),
                      "bad-header"),
    "deep": (raw(b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}"), "bad-header"),
    "very deep": (raw(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "bad-header"),
    "many lists": (raw(b'{"a": [' + b"[]," * 1_000_000 + b"[]]}"), "bad-header"),
    "long number": (raw(b'{"a": ' + b"9" * 100_000 + b"}"), "bad-header"),
    "metadata that is no text": (raw({"__metadata__": {"a": 1}}), "bad-header"),
    "overlapping": (raw({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "bad-tensor"),
    "the same bytes": (raw({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)), "bad-tensor"),
    "gap": (raw({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "bad-tensor"),
    "backwards": (raw({"a": entry(4, 0, [])}, bytes(4)), "bad-tensor"),
    "negative offset": (raw({"a": entry(-4, 0)}, bytes(4)), "bad-tensor"),
    "negative size": (raw({"a": entry(0, 4, [-2, -2])}, bytes(4)), "bad-tensor"),
    "true for a size": (raw({"a": entry(0, 1, [True])}, bytes(1)), "bad-tensor"),
    "overflowing sizes": (raw({"a": entry(0, 0, [1 << 62, 4])}), "bad-tensor"),
    "wrong size": (raw({"a": entry(0, 4, [3])}, bytes(4)), "bad-tensor"),
    "unknown dtype": (raw({"a": entry(0, 4, dtype="Q8")}, bytes(4)), "bad-tensor"),
    "more keys": (raw({"a": {**entry(0, 4), "x": 1}}, bytes(4)), "bad-tensor"),
    "no entry": (raw({"a": 1}), "bad-tensor"),
    "too short": (raw({"a": entry(0, 8)}, bytes(7)), "cut"),
    "too long": (raw({"a": entry(0, 8)}, bytes(9)), "bad-header"),
}  # fmt: skip


def test_a_file_of_that_kind_without_a_fault_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(raw({"b": entry(8, 12), "a": entry(0, 8, [2, 4]), "__metadata__": {"x": "y"}}, bytes(12)))
    assert shapes(containers.read(path, RULES)) == {"a": ((2, 4), "uint8"), "b": ((4,), "uint8")}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_header_is_refused_within_bounds(tmp_path: Path, name: str) -> None:
    content, code = BAD[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    start = time.thread_time()
    assert code_of(path) == code
    assert time.thread_time() - start < 2
    assert tracemalloc.get_traced_memory()[1] < 2_000_000 + 30 * len(content)
    tracemalloc.stop()


@pytest.mark.parametrize("item", [b"{}      ", b"999", b'"ab"', b"1.5"])
def test_a_header_of_five_megabytes_takes_no_more_than_its_bounds(tmp_path: Path, item: bytes) -> None:
    path = tmp_path / "large.safetensors"
    path.write_bytes(raw(b'{"a": [' + b",".join([item] * (5_000_000 // (len(item) + 1))) + b"]}"))
    tracemalloc.start()
    assert code_of(path) == "bad-tensor"
    assert tracemalloc.get_traced_memory()[1] < 200_000_000
    tracemalloc.stop()


# --- folders of transformers ------------------------------------------------------------------------------------------


def optimizer_state() -> dict[str, Any]:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def save_safetensors(weights: dict[str, torch.Tensor], path: Path) -> None:
    save_file(weights, path, metadata={"format": "pt"})


def trainer_folder(
    folder: Path,
    save: Callable[[dict[str, torch.Tensor], Path], object] = save_safetensors,
    suffix: str = "safetensors",
) -> Path:
    """A folder with the files that transformers' Trainer leaves at a step."""
    folder.mkdir()
    base = "model" if suffix == "safetensors" else "pytorch_model"
    save(WEIGHTS, folder / f"{base}.{suffix}")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 2, "rope": {"type": "x"}}))
    log = [{"loss": math.nan, "step": 10}]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 500, "epoch": 1.5, "log_history": log}))
    torch.save(optimizer_state(), folder / "optimizer.pt")
    torch.save({"cpu": torch.get_rng_state()}, folder / "rng_state.pth")
    return folder


def shard(folder: Path, save: Callable[[dict[str, torch.Tensor], Path], object], suffix: str) -> tuple[str, ...]:
    """Put the weights of a folder in two shards with an index; the names of both."""
    base = "model" if suffix == "safetensors" else "pytorch_model"
    (folder / f"{base}.{suffix}").unlink()
    names = list(WEIGHTS)
    shards = (f"{base}-00001-of-00002.{suffix}", f"{base}-00002-of-00002.{suffix}")
    parts = (dict.fromkeys(names[:2], shards[0]), dict.fromkeys(names[2:], shards[1]))
    for name, part in zip(shards, parts, strict=True):
        save({key: WEIGHTS[key] for key in part}, folder / name)
    total = sum(tensor.nbytes for tensor in WEIGHTS.values())
    index = {"metadata": {"total_size": total}, "weight_map": parts[0] | parts[1]}
    (folder / f"{base}.{suffix}.index.json").write_text(json.dumps(index))
    return shards


@pytest.mark.parametrize(
    ("best", "row", "expected"),
    [
        ("out/checkpoint-300", {"train_runtime": 9.5, "step": 500}, None),
        ("out/checkpoint-500", {"train_runtime": 9.5, "step": 500}, 500),
        (None, {"train_runtime": 9.5, "step": 500}, 500),
        ("out/checkpoint-300", {"eval_loss": 1.0, "step": 500}, 500),  # on the way: checkpoint-500 itself
    ],
)
def test_the_end_of_a_trainer_with_another_best_checkpoint_tells_no_step(
    tmp_path: Path, best: str | None, row: dict[str, Any], expected: int | None
) -> None:
    folder = trainer_folder(tmp_path / "out")
    state = {"global_step": 500, "best_model_checkpoint": best, "log_history": [{"loss": 1.0, "step": 10}, row]}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    info = containers.read(folder, RULES)
    assert (info.iters_done, info.odd_fields) == (expected, ())


BOTH = pytest.mark.parametrize(("save", "suffix"), [(save_safetensors, "safetensors"), (torch.save, "bin")])


@BOTH
@pytest.mark.parametrize("shards", [False, True])
def test_a_trainers_folder_is_one_checkpoint(tmp_path: Path, save: Any, suffix: str, shards: bool) -> None:
    folder = trainer_folder(tmp_path / "checkpoint-500", save, suffix)
    if shards:
        shard(folder, save, suffix)
    info = containers.read(folder, RULES)
    assert shapes(info) == SHAPES
    assert (info.form, info.iters_done, info.missing) == ("Trainer", 500, ())
    assert info.config == {"model_type": "gpt2", "n_layer": 2, "rope": {"type": "x"}}
    assert info.parameters == 22
    assert info.optimizer is not None
    assert (info.optimizer.states, info.optimizer.groups[0].hyperparameters["lr"]) == (2, 1e-3)
    assert {member.name: member.size for member in info.members} == {
        path.name: path.stat().st_size for path in folder.iterdir()
    }
    assert info.size == sum(path.stat().st_size for path in folder.iterdir())
    assert show(folder).problems == ()


@BOTH
def test_a_missing_shard_is_named(tmp_path: Path, save: Any, suffix: str) -> None:
    folder = trainer_folder(tmp_path / "checkpoint-500", save, suffix)
    lost = shard(folder, save, suffix)[1]
    (folder / lost).unlink()
    shown = show(folder)
    assert shown.info.missing == (lost,)
    assert [problem.code for problem in shown.problems] == ["bad-checkpoint"]
    assert lost in shown.problems[0].message
    assert shown.to_json()["missing"] == [lost]


def test_a_step_that_is_none_is_named(tmp_path: Path) -> None:
    folder = trainer_folder(tmp_path / "checkpoint-500")
    assert (containers.read(folder, RULES).iters_done, containers.read(folder, RULES).odd_fields) == (500, ())
    (folder / "trainer_state.json").write_text('{"global_step": -1}')
    info = containers.read(folder, RULES)
    assert (info.iters_done, info.odd_fields) == (
        None,
        ("global_step of its trainer_state.json is -1, not a number of iterations",),
    )


def break_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        change(index)
        path.write_text(json.dumps(index))

    return apply


def rewrite(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard outside": (break_index(lambda index: index["weight_map"].update(one="../x.safetensors")), "bad-header"),
    "a weight in no shard": (
        break_index(lambda index: index["weight_map"].update(x="model-00001-of-00002.safetensors")), "bad-header"),
    "a weight that the index lacks": (break_index(lambda index: index["weight_map"].pop("one")), "bad-header"),
    "more bytes than there are": (break_index(lambda index: index["metadata"].update(total_size=10**9)), "bad-header"),
    "no map": (break_index(lambda index: index.update(weight_map=[])), "bad-header"),
    "an index that is cut": (rewrite("model.safetensors.index.json", '{"weight_map": {'), "bad-header"),
    "a large configuration": (rewrite("config.json", json.dumps({"a": [0] * 200_000})), "bad-field"),
    "a shard that is cut": (
        lambda folder: os.truncate(folder / "model-00001-of-00002.safetensors", 200), "cut"),
    "a link": (lambda folder: (folder / "link").symlink_to("/etc/passwd"), "not-a-file"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_that_contradicts_itself_is_refused(tmp_path: Path, name: str) -> None:
    folder = trainer_folder(tmp_path / "checkpoint-500")
    shard(folder, save_safetensors, "safetensors")
    assert code_of(folder) is None
    fault, code = FAULTS[name]
    fault(folder)
    assert code_of(folder) == code


def test_a_pickle_in_a_folder_is_not_run(tmp_path: Path) -> None:
    folder = trainer_folder(tmp_path / "checkpoint-500", torch.save, "bin")
    (folder / "pytorch_model.bin").unlink()

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return Path.mkdir, (str(tmp_path / "ran"),)

    torch.save({"a": Payload()}, folder / "pytorch_model.bin")
    assert code_of(folder) == "unsafe-pickle"
    assert not (tmp_path / "ran").exists()


def test_another_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert not containers.is_checkpoint_folder(tmp_path)
    assert code_of(tmp_path) == "not-a-file"


# --- torch's old format -----------------------------------------------------------------------------------------------


def test_torchs_old_format_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"model": WEIGHTS}, path, _use_new_zipfile_serialization=False)
    assert code_of(path) == "legacy-format"
    assert "torch.save(torch.load(path), new_path)" in REFUSALS["legacy-format"].fix


# --- all of them ------------------------------------------------------------------------------------------------------


def test_torch_and_safetensors_are_not_imported(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "folder")
    program = (
        "import sys; from pathlib import Path; from ckptman.formats import containers;"
        "from ckptman.rules.convention_file import built_in;"
        "assert containers.read(Path('folder'), built_in().checkpoint).iters_done == 500;"
        "print(sorted({'torch', 'numpy', 'pickle', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("weights", "key"), [("adapter_model", "adapter_config.json"), ("model", "config.json")])
def test_a_folder_has_the_configuration_of_the_weights_in_it(weights: str, key: str, tmp_path: Path) -> None:
    """Programs save the configuration of the base model beside an adapter, too."""
    save_file(WEIGHTS, tmp_path / f"{weights}.safetensors")
    for name in ("config.json", "adapter_config.json"):
        (tmp_path / name).write_text(json.dumps({"of": name}))
    assert containers.read(tmp_path, RULES).config == {"of": key}
