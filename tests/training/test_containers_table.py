"""Each row of the README's table of containers, tried with a real file of that kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptman.formats.containers import CONTAINERS
from ckptman.queries.inspection import show
from ckptman.text.errors import RefusedError
from ckptman.training.evaluation import evaluate
from ckptman.training.loading import load_weights
from tests.helpers.model_folders import distributed, trainer, weights_of
from tests.helpers.raw import config, name_of, write_checkpoint

CONFIG = config()


def archive(path: Path) -> Path:
    return write_checkpoint(path / name_of(CONFIG), CONFIG)


def old(path: Path) -> Path:
    torch.save({"model": weights_of(CONFIG)}, path / "old.pt", _use_new_zipfile_serialization=False)
    return path / "old.pt"


def safetensors(path: Path, *, configured: bool = True) -> Path:
    weights = {name: weight.clone() for name, weight in weights_of(CONFIG).items()}
    metadata = {"train_config": json.dumps(CONFIG.to_dict()), "iters_done": "40000"} if configured else None
    save_file(weights, path / "file.safetensors", metadata=metadata)
    return path / "file.safetensors"


MAKERS: dict[str, Callable[[Path], Path]] = {
    "torch archive": archive,
    "torch's format before 1.6": old,
    "`.safetensors` file": safetensors,
    "folder of transformers": lambda path: trainer(path / "checkpoint-40000", CONFIG),
    "folder of torch.distributed.checkpoint": lambda path: distributed(path / "step", CONFIG),
}


@pytest.mark.parametrize("row", CONTAINERS, ids=lambda row: row.name)
def test_a_row_is_true(tmp_path: Path, row: tuple[str, ...]) -> None:
    name, _, _, loadable, evaluated = row
    path = next(make for start, make in MAKERS.items() if name.startswith(start))(tmp_path)
    if loadable.startswith("no"):
        assert evaluated == "no"
        with pytest.raises(RefusedError) as refused:
            show(path)
        assert refused.value.code in row[2]
        return
    shown = show(path)
    assert (shown.info.config, shown.info.iters_done) == (CONFIG.to_dict(), 40000)
    assert load_weights(path)[0].keys() == {tensor.name for tensor in shown.info.tensors}
    assert shown.loads.what == "model"
    result = evaluate([path], k=[2], samples=2)
    assert (len(result.evaluations), result.refused) == (1, ())


def test_without_a_configuration_only_its_weights_are_loaded(tmp_path: Path) -> None:
    path = safetensors(tmp_path, configured=False)
    assert show(path).loads.what == "weights"
    assert load_weights(path)[0].keys() == weights_of(CONFIG).keys()
    assert [item.code for item in evaluate([path], k=[2], samples=2).refused] == ["no-architecture"]
