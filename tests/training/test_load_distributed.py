"""The weights of folders of torch.distributed.checkpoint, against torch's own reading of them."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ckptman.formats.distributed import METADATA
from ckptman.text.errors import RefusedError
from ckptman.training.loading import load, load_weights
from tests.helpers.raw import config, write_checkpoint

WEIGHTS: dict[str, Tensor] = {
    "large": torch.arange(200_000.0).reshape(400, 500),
    "half": torch.ones(4, dtype=torch.bfloat16),
    "transposed": torch.arange(42.0).reshape(6, 7).t(),
    "part of a storage": torch.arange(100.0)[10:20],
    "scalar": torch.tensor(3),
    "empty": torch.empty(0, 3),
}


def save(value: dict[str, Any], folder: Path) -> Path:
    with warnings.catch_warnings(action="ignore"):  # that it is done by a single process
        save_distributed(value, checkpoint_id=folder)
    return folder


def as_torch_reads(folder: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings(action="ignore"):
        dcp_to_torch_save(folder, folder.parent / "read.pt")
    weights: dict[str, Tensor] = torch.load(folder.parent / "read.pt", weights_only=True)["model"]
    return weights


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found[name], tensor), name


def as_chunks(folder: Path, name: str, offsets: dict[str, tuple[int, int]], shape: tuple[int, int]) -> None:
    """Make one tensor of several, as two processes that hold a part each write it."""
    path = folder / METADATA
    metadata = pickle.loads(path.read_bytes())
    parts = {part: metadata.state_dict_metadata.pop(f"model.{part}") for part in offsets}
    first = next(iter(parts.values()))
    first.chunks = [ChunkStorageMetadata(torch.Size(offsets[part]), parts[part].size) for part in parts]
    first.size = torch.Size(shape)
    metadata.state_dict_metadata[f"model.{name}"] = first
    for part, at in offsets.items():
        place = metadata.storage_data.pop(MetadataIndex(f"model.{part}", torch.Size([0, 0])))
        metadata.storage_data[MetadataIndex(f"model.{name}", torch.Size(at))] = place
        metadata.planner_data.pop(f"model.{part}")
    metadata.planner_data[f"model.{name}"] = ("model", name)
    path.write_bytes(pickle.dumps(metadata))


def test_the_weights_are_those_that_torch_reads(tmp_path: Path) -> None:
    folder = save({"model": WEIGHTS, "iters_done": 7}, tmp_path / "dcp")
    weights, info = load_weights(folder)
    assert_same(weights, as_torch_reads(folder))
    assert (info.iters_done, info.missing) == (7, ())


def test_a_tensor_in_chunks_is_put_together_as_torch_does(tmp_path: Path) -> None:
    rows, columns = torch.arange(12.0).reshape(3, 4), torch.arange(8.0).reshape(2, 4)
    folder = save({"model": {"a": rows, "b": columns, "c": torch.ones(5, 2)}}, tmp_path / "dcp")
    as_chunks(folder, "whole", {"b": (3, 0), "a": (0, 0)}, (5, 4))
    weights, _ = load_weights(folder)
    assert torch.equal(weights["whole"], torch.cat([rows, columns]))
    assert_same(weights, as_torch_reads(folder))


def test_chunks_that_overlap_are_refused(tmp_path: Path) -> None:
    folder = save({"model": {"a": torch.ones(2, 4), "b": torch.ones(2, 4)}}, tmp_path / "dcp")
    as_chunks(folder, "whole", {"a": (0, 0), "b": (1, 0)}, (4, 4))
    with pytest.raises(RefusedError, match="not the whole of it") as caught:
        load_weights(folder)
    assert caught.value.code == "bad-header"


@pytest.mark.parametrize("verify", [True, False])
def test_a_changed_byte_is_found_by_its_checksum(tmp_path: Path, verify: bool) -> None:
    folder = save({"model": WEIGHTS}, tmp_path / "dcp")
    path = next(folder.glob("*.distcp"))
    data = bytearray(path.read_bytes())
    place = data.index(WEIGHTS["large"].numpy().tobytes()) + 4
    data[place] ^= 1
    path.write_bytes(data)
    if verify:
        with pytest.raises(RefusedError) as caught:
            load_weights(folder)
        assert caught.value.code == "bad-crc"
    else:
        assert load_weights(folder, verify=False)[0]["large"].flatten()[1] != 1.0


def test_a_folder_that_lacks_a_file_is_refused_with_its_name(tmp_path: Path) -> None:
    folder = save({"model": WEIGHTS}, tmp_path / "dcp")
    next(folder.glob("*.distcp")).unlink()
    with pytest.raises(RefusedError, match=r"__0_0\.distcp") as caught:
        load_weights(folder)
    assert caught.value.code == "incomplete-folder"


def test_what_is_written_into_a_weight_does_not_reach_the_file(tmp_path: Path) -> None:
    folder = save({"model": WEIGHTS}, tmp_path / "dcp")
    before = next(folder.glob("*.distcp")).read_bytes()
    load_weights(folder)[0]["large"].zero_()
    assert next(folder.glob("*.distcp")).read_bytes() == before


def test_a_built_in_model_is_loaded(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "Final.pt", config())
    content = torch.load(path, weights_only=True)
    model, _ = load(save(content, tmp_path / "dcp"))
    same, _ = load(path)
    assert_same(dict(model.state_dict()), dict(same.state_dict()))
