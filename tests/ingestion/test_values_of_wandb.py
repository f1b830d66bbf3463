"""Values of every kind in a configuration: what wandb itself made of them is known to be the same."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import time
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
import wandb

from ckptman.ingestion.ingesting import ingest
from ckptman.raw.wandb_log import read_log
from tests.helpers.raw import config, name_of, write_checkpoint


class Phase(enum.Enum):
    TRAIN = 1
    WARM = "warm-up"


class Mode(enum.StrEnum):
    CURRICULUM = "curriculum"


class Parts(enum.Flag):
    ATTENTION = 1
    MLP = 2


@dataclasses.dataclass
class Optim:
    rate: float = 0.1
    betas: tuple[float, ...] = (0.9, 0.95)
    folder: Path = Path("a/b")


Pair = collections.namedtuple("Pair", "low high")

PLAIN: dict[str, Any] = {
    "int": 2**60, "huge": 2**70, "tiny": 1e-300, "whole": 400.0, "minus_zero": -0.0, "large": 1e22, "flag": True,
    "none": None, "text": "größe 模型 🙂\n\x1b", "long": "x" * 10_000, "number_as_text": "1e-4", "yes": "yes",
    "inf": math.inf, "minus_inf": -math.inf, "nan": math.nan, "in_list": [math.inf, math.nan, 1.0],
    "tuple": (1, (2, (3.0,))), "empty": [], "nothing": {}, "sections": {"a": {"b": (1, None)}},
    "int_keys": {1: 2}, "flag_keys": {True: 1}, "none_keys": {None: 1}, "range": range(2, 9, 3), "complex": 1 + 2j,
    "path": Path("/d/größe"), "paths": [PurePosixPath("a")], "dtype": torch.bfloat16, "on": torch.device("cuda:0"),
    "size": torch.Size([1, 2]), "bytes": b"a\nb", "utf8": "ä".encode(), "bytearray": bytearray(b"abc"),
    "date": datetime.date(2026, 1, 2), "zone": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "delta": datetime.timedelta(days=2, seconds=1), "uuid": uuid.UUID(int=5), "decimal": decimal.Decimal("0.10"),
    "float32": np.float32(0.1), "int64": np.int64(7), "bool_": np.bool_(True), "float_nan": np.float32("nan"),
    "class": torch.optim.AdamW, "function": torch.nn.functional.gelu, "slice": slice(None, 5, 2),
    "ordered": collections.OrderedDict(b=1, a=2), "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2]), "pair": Pair(1, (2, 3)), "dataclass": Optim(), "many": [Optim(), Optim(0.2)],
}  # fmt: skip
"""What can be told from the file alone."""

OPAQUE: dict[str, Any] = {
    "phase": Phase.TRAIN, "warm": Phase.WARM, "mode": Mode.CURRICULUM, "parts": Parts.ATTENTION | Parts.MLP,
    "phases": [Phase.TRAIN, {"a": Phase.WARM}], "names": {"a", "b", "c", "d"}, "numbers": set(range(20)),
    "frozen": frozenset({"x", "y"}), "array": np.arange(4), "matrix": np.eye(2), "big": np.arange(40),
    "one": np.array([5]), "tensor": torch.arange(3), "scalar": torch.tensor(3.5), "when": np.datetime64("2026-01-02"),
    "namespace": argparse.Namespace(a=1), "relu": torch.relu, "numpy_type": np.dtype("float32"),
}  # fmt: skip
"""What hangs on the program: the name of a member, what an object prints, the order of a set."""

VALUES = PLAIN | OPAQUE
OTHER: dict[str, Any] = dict.fromkeys(PLAIN, "?") | {"none": 0, "nan": 0.5} | dict.fromkeys(OPAQUE, 0.25)
OTHER |= {"names": {"a", "b", "c"}, "numbers": set(range(19)), "frozen": frozenset({"x"})}


def record(task: Path, values: dict[str, Any], seed: int) -> str:
    """Let wandb record a run with these values; its id."""
    run = wandb.init(
        config={**config(seed=seed).to_dict(), **values},
        mode="offline",
        dir=str(task / "wandb"),
        settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
    )
    run.finish()
    (log,) = (task / "wandb").rglob(f"run-{run.id}.wandb")
    while not read_log(log).config:  # the process that writes it can be behind
        time.sleep(0.1)
    return str(run.id)


def save(task: Path, values: dict[str, Any], seed: int) -> None:
    """The checkpoint of a run that was configured so."""
    settings = config(seed=seed)
    path = task / f"s{seed}" / "saved_models" / name_of(settings, "Final")
    write_checkpoint(path, settings, step=40000, train_config={**settings.to_dict(), **values})


@pytest.mark.slow
def test_a_run_is_found_by_what_wandb_made_of_its_values_and_of_no_other(tmp_path: Path) -> None:
    task = tmp_path / "raw" / "len_gen_k8" / "task_0006"
    (task / "wandb").mkdir(parents=True)
    ids = {seed: record(task, VALUES | {"run": seed}, seed) for seed in (1, 2)}
    save(task, VALUES | {"run": 1}, 1)
    for at, key in enumerate(VALUES):
        save(task / key, VALUES | {"run": 2, key: OTHER[key], "at": at}, 2)
    found = ingest(tmp_path / "raw", tmp_path / "tree", settle=0)
    assert not found.refused
    assert {row.run_id for row in found.placed if row.seed == 1} == {ids[1]}
    assert [(row.source, row.run_id) for row in found.placed if row.seed == 2 and row.run_id] == []
    # once more, with what run.json keeps of the values
    assert not ingest(tmp_path / "raw", tmp_path / "tree", settle=0).placed


@pytest.mark.slow
def test_a_member_that_wandb_calls_by_its_value_elsewhere_is_not_taken_for_another(tmp_path: Path) -> None:
    task = tmp_path / "raw" / "len_gen_k8" / "task_0006"
    (task / "wandb").mkdir(parents=True)
    ids = {phase: record(task, {"phase": phase}, seed) for phase, seed in (("warm-up", 1), ("TRAIN", 2))}
    save(task, {"phase": Phase.WARM}, 2)  # run 2 was another phase, since W&B has run 1 spelled by the value
    assert {row.run_id for row in ingest(tmp_path / "raw", tmp_path / "tree", settle=0).placed} == {None}
    save(task, {"phase": Phase.TRAIN}, 2)
    found = ingest(tmp_path / "raw", tmp_path / "other", settle=0).placed
    assert {row.run_id for row in found} == {ids["TRAIN"]}


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["TRAIN", 5])
def test_a_record_that_comes_later_is_found_by_what_run_json_keeps(tmp_path: Path, phase: object) -> None:
    task, root = tmp_path / "raw" / "len_gen_k8" / "task_0006", tmp_path / "tree"
    save(task, {"phase": Phase.TRAIN}, 1)
    assert ingest(tmp_path / "raw", root, settle=0).placed[0].run_id is None
    run_id = record(task, {"phase": phase}, 1)
    ingest(tmp_path / "raw", root, settle=0)
    (written,) = root.rglob("run.json")
    assert json.loads(written.read_text())["run_id"] == (run_id if phase == "TRAIN" else None)
