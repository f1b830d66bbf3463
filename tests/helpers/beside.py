"""Files as other programs leave them beside checkpoints: each with the bytes that its program writes."""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ckptman.raw import tensorboard

# --- TensorBoard ------------------------------------------------------------------------------------------------------


def event_file(scalars: Iterable[tuple[int, Mapping[str, float]]], *, as_tensors: bool = False) -> bytes:
    """An event file: its version, then for each step the scalars, as numbers (torch) or as tensors (TensorFlow 2)."""
    events = [_double(1, 1.7e9) + _text(3, b"brain.Event:2")]
    for step, values in scalars:
        for tag, value in values.items():
            held = _float_tensor(value) if as_tensors else _float(2, value)
            summary = _text(1, _text(1, tag.encode()) + held)
            events.append(_double(1, 1.7e9 + step) + _varint(2, step) + _text(5, summary))
    return b"".join(map(framed, events))


def framed(data: bytes) -> bytes:
    """A record of an event file."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", tensorboard._masked(length)), data, struct.pack("<I", tensorboard._masked(data)))
    )


def records(data: bytes) -> list[bytes]:
    """What is in the records of an event file."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        found.append(data[at + 12 : at + 12 + length])
        at += length + 16
    return found


def image_event(step: int, size: int) -> bytes:
    """An event with an image of this many bytes, which is no scalar."""
    return _varint(2, step) + _text(5, _text(1, _text(1, b"image") + _text(4, _text(4, bytes(size)))))


def vector_event(step: int) -> bytes:
    """An event with a tensor of two elements, which is no scalar."""
    return _varint(2, step) + _text(5, _text(1, _text(1, b"vector") + _text(8, _varint(1, 1) + _text(4, bytes(8)))))


def _float_tensor(value: float) -> bytes:
    """A TensorProto of one float, with the metadata of the plugin for scalars."""
    tensor = _varint(1, 1) + _text(2, b"") + _text(4, struct.pack("<f", value))
    return _text(8, tensor) + _text(9, _text(1, _text(1, b"scalars")))


def _key(number: int, kind: int) -> bytes:
    return _raw_varint(number << 3 | kind)


def _raw_varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _varint(number: int, value: int) -> bytes:
    return _key(number, 0) + _raw_varint(value)


def _text(number: int, data: bytes) -> bytes:
    return _key(number, 2) + _raw_varint(len(data)) + data


def _float(number: int, value: float) -> bytes:
    return _key(number, 5) + struct.pack("<f", value)


def _double(number: int, value: float) -> bytes:
    return _key(number, 1) + struct.pack("<d", value)


# --- Lightning, the Trainer, Hydra ------------------------------------------------------------------------------------


def csv_logger(rows: Iterable[tuple[int, Mapping[str, float]]]) -> str:
    """`metrics.csv` as Lightning's CSVLogger writes it: a row for each call, empty where nothing was logged."""
    rows = list(rows)
    names = ["epoch", "step", *sorted({name for _, values in rows for name in values})]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"epoch": 0, "step": step, **values} for step, values in rows)
    return text.getvalue()


def trainer_state(rows: Iterable[tuple[int, Mapping[str, float]]], step: int) -> str:
    """`trainer_state.json` as the Trainer of transformers writes it."""
    return json.dumps(
        {
            "best_metric": None,
            "best_model_checkpoint": None,
            "epoch": 3.0,
            "eval_steps": 500,
            "global_step": step,
            "is_hyper_param_search": False,
            "is_local_process_zero": True,
            "is_world_process_zero": True,
            "log_history": [{"epoch": 1.0, **values, "step": at} for at, values in rows],
            "logging_steps": 500,
            "max_steps": step,
            "num_train_epochs": 3,
            "stateful_callbacks": {"TrainerControl": {"args": {"should_log": False}, "attributes": {}}},
            "total_flos": 1.5e15,
            "train_batch_size": 32,
            "trial_name": None,
            "trial_params": None,
        },
        indent=2,
    )


def write_yaml(path: Path, values: Any) -> None:
    """A YAML file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))


def write_json(path: Path, values: Any) -> None:
    """A JSON file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
