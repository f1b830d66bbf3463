"""The tensors that ckptman builds itself, against those of torch's own safe loader."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ckptman.text.errors import RefusedError
from ckptman.training.loading import load_weights
from tests.helpers.raw import config, write_checkpoint

FLOATS = torch.arange(24, dtype=torch.float32).reshape(4, 6)
ODD = torch.tensor([1.5, float("nan"), float("inf"), -0.0])

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.complex128, torch.complex64,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32,
    torch.uint16, torch.uint8, torch.bool,
)  # fmt: skip

WEIGHTS: dict[str, Any] = {
    **{str(dtype): torch.arange(6).to(dtype) for dtype in DTYPES},
    "exponents": torch.tensor([1.0, 2.0, 4.0]).to(torch.float8_e8m0fnu),
    "pairs of 4 bits": torch.arange(6, dtype=torch.uint8).reshape(2, 3).view(torch.float4_e2m1fn_x2),
    "scalar": torch.tensor(3.0),
    "empty": torch.empty(0, 3),
    "transposed": FLOATS.t(),
    "part": FLOATS[1:3, ::2],
    "repeated": torch.tensor([1.0, 2.0]).expand(3, 2),
    "one of a storage": FLOATS[0],
    "another of it": FLOATS[3],
    "odd": ODD,
    "parameter": torch.nn.Parameter(FLOATS.clone()),
    "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
}


def saved(weights: dict[str, Any], path: Path, **options: Any) -> Path:
    torch.save({"model": weights, "iters_done": 1}, path, **options)
    return path


def assert_equal(found: dict[str, Tensor], path: Path) -> None:
    """Each tensor is the one that torch reads: type, shape, strides and every bit."""
    expected = torch.load(path, weights_only=True)["model"]
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        mine = found[name]
        assert (mine.dtype, mine.shape, mine.stride()) == (tensor.dtype, tensor.shape, tensor.stride()), name
        assert mine.device.type == "cpu"
        assert bytes(mine.contiguous().reshape(-1).view(torch.uint8).tolist()) == bytes(
            tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
        ), name


def test_every_tensor_is_the_one_that_torch_reads(tmp_path: Path) -> None:
    path = saved(WEIGHTS, tmp_path / "file.pt")
    found, info = load_weights(path)
    assert_equal(found, path)
    assert [tensor.name for tensor in info.tensors] == list(WEIGHTS)
    found["odd"][0] += 1
    with pytest.raises(AssertionError, match="odd"):  # the control
        assert_equal(found, path)


def test_tensors_that_share_a_storage_share_it_here(tmp_path: Path) -> None:
    found, _ = load_weights(saved({"a": FLOATS[0], "b": FLOATS, "c": FLOATS.clone()}, tmp_path / "file.pt"))
    found["a"][0] = 100
    assert float(found["b"][0, 0]) == 100
    assert float(found["c"][0, 0]) == 0


def test_what_is_written_into_a_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    path = saved({"w": FLOATS}, tmp_path / "file.pt")
    before = path.read_bytes()
    found, _ = load_weights(path)
    found["w"].zero_()
    assert path.read_bytes() == before
    path.unlink()
    assert not found["w"].any()


def test_storages_that_are_not_aligned_are_loaded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"model": WEIGHTS, "iters_done": 1}, buffer)
    path = tmp_path / "file.pt"
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():  # without torch's padding
            new.writestr(name, old.read(name))
    assert_equal(load_weights(path)[0], path)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_names_are_without_the_prefix_of_a_compiled_model(tmp_path: Path, prefix: str) -> None:
    found, info = load_weights(saved({f"{prefix}w": FLOATS}, tmp_path / "file.pt"))
    assert list(found) == ["w"]
    assert info.compiled is bool(prefix)


def test_weights_of_any_model_are_loaded(tmp_path: Path) -> None:
    weights = torch.nn.LSTM(3, 5, num_layers=2).state_dict()
    path = saved(weights, tmp_path / "file.pt")
    assert_equal(load_weights(path)[0], path)


def test_a_flipped_bit_is_found_unless_nobody_asks(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "file.pt", config())
    weights, _ = load_weights(path)
    raw = bytearray(path.read_bytes())
    at = raw.find(weights["transformer.wte.weight"].numpy().tobytes()[:64])
    raw[at] ^= 1
    path.write_bytes(raw)
    with pytest.raises(RefusedError) as caught:
        load_weights(path)
    assert caught.value.code == "bad-crc"
    assert caught.value.message.startswith(str(path))
    load_weights(path, verify=False)


def as_expected(found: dict[str, Tensor], weights: dict[str, Tensor]) -> bool:
    return found.keys() == weights.keys() and all(
        (found[name].dtype, found[name].stride()) == (weight.dtype, weight.stride()) and found[name].equal(weight)
        for name, weight in weights.items()
    )


PLAIN = {"a": FLOATS, "b": torch.arange(3).bfloat16(), "c": torch.empty(2, 0, 3), "d": torch.tensor(3), "e": ODD[:1]}


def test_weights_of_a_safetensors_file_are_loaded(tmp_path: Path) -> None:
    save_file(PLAIN, tmp_path / "file.safetensors")
    found, info = load_weights(tmp_path / "file.safetensors")
    assert as_expected(found, PLAIN)
    assert info.container == "safetensors"
    found["a"][0] += 1
    assert not as_expected(found, PLAIN)  # the control


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_shards_are_loaded_if_none_is_missing(tmp_path: Path, kind: str) -> None:
    base = "model" if kind == "safetensors" else "pytorch_model"
    shards = {f"{base}-0000{i}-of-00002.{kind}": list(PLAIN)[i::2] for i in (0, 1)}
    for shard, names in shards.items():
        part = {name: PLAIN[name] for name in names}
        if kind == "safetensors":
            save_file(part, tmp_path / shard)
        else:
            torch.save(part, tmp_path / shard)
    where = {name: shard for shard, names in shards.items() for name in names}
    (tmp_path / f"{base}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert as_expected(load_weights(tmp_path)[0], PLAIN)
    (tmp_path / next(iter(shards))).unlink()
    with pytest.raises(RefusedError, match="not whole") as caught:
        load_weights(tmp_path)
    assert caught.value.code == "incomplete-folder"


LAZY = """
import sys
from pathlib import Path
from ckptman.training.loading import load_weights

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

before = resident()
weights, _ = load_weights(sys.argv[1], verify=sys.argv[2] == "verify")
assert float(weights["small"][0]) == 7
if sys.argv[2] == "all":
    weights["large"].sum()
print(resident() - before)
"""


@pytest.mark.parametrize(("what", "much"), [("one", False), ("verify", False), ("all", True)])
def test_of_a_large_file_only_what_is_looked_at_comes_into_memory(tmp_path: Path, what: str, much: bool) -> None:
    path = saved({"large": torch.zeros(1 << 25), "small": torch.full((3,), 7.0)}, tmp_path / "file.pt")
    done = subprocess.run([sys.executable, "-c", LAZY, path, what], capture_output=True, text=True, check=True)
    assert (int(done.stdout) * resource.getpagesize() > 100 << 20) is much  # of the 128 MiB that the file has
