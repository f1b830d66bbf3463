"""Writers of W&B files for tests: whole ones, as the client leaves them, and broken ones.

Records are built with wandb's own protobuf classes, so that the tests hold ckptman's decoder against them.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

pb: Any = wandb_internal_pb2  # its classes are made at run time, which type checkers cannot see
Record = Any

HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK = 32_768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4

CONFIG: dict[str, Any] = {
    "vocab_n": 128, "n_embd": 128, "n_heads": 1, "train_min_k": 2, "train_max_k": 8, "test_min_k": 17, "test_max_k": 32,
    "n_layers": 1, "use_mlp": False, "use_layernorm": True, "length_mode": "mix", "max_iters": 40_000,
    "learning_rate": 1e-4, "min_lr": 1e-6, "weight_decay": 0.0, "save_dir": "/scratch/x", "seed": 1337,
    "wandb_entity": None,
}  # fmt: skip


def chunk(kind: int, payload: bytes) -> bytes:
    """One chunk of the log's framing."""
    return struct.pack("<IHB", zlib.crc32(bytes([kind]) + payload), len(payload), kind) + payload


def frame(payloads: Iterable[bytes]) -> bytes:
    """A log of these records."""
    out = bytearray(HEADER)
    for payload in payloads:
        first = True
        while True:
            room = BLOCK - len(out) % BLOCK
            if room < 7:
                out += bytes(room)
                continue
            part, payload = payload[: room - 7], payload[room - 7 :]
            out += chunk({(1, 1): FULL, (1, 0): FIRST, (0, 0): MIDDLE, (0, 1): LAST}[first, not payload], part)
            first = False
            if not payload:
                break
    return bytes(out)


def run(
    run_id: str = "abc12345",
    config: Mapping[str, Any] = CONFIG,
    *,
    group: str = "len_gen_k8",
    project: str = "sortgpt",
    started: float = 1_773_169_407.75,
) -> Record:
    """The record that names a run."""
    record = pb.Record()
    record.num = 2
    record.run.run_id, record.run.run_group, record.run.project = run_id, group, project
    record.run.start_time.seconds, record.run.start_time.nanos = int(started), int(started % 1 * 1e9)
    record.run.config.update.add(key="_wandb", value_json="{}")
    for key, value in config.items():
        record.run.config.update.add(key=key, value_json=json.dumps(value))
    return record


def config(updates: Mapping[str, Any], *, remove: Iterable[str] = ()) -> Record:
    record = pb.Record()
    for key, value in updates.items():
        record.config.update.add(key=key, value_json=json.dumps(value))
    for key in remove:
        record.config.remove.add(key=key)
    return record


def history(values: Mapping[str, Any], step: int = 0) -> Record:
    """A history record; nested values are written under nested keys, as the client does."""
    record = pb.Record()
    record.num = 12
    for path, value in paths(values):
        record.history.item.add(nested_key=path, value_json=json.dumps(value))
    record.history.step.num = step
    return record


def summary(values: Mapping[str, Any], *, remove: Iterable[str] = ()) -> Record:
    record = pb.Record()
    for path, value in paths(values):
        record.summary.update.add(nested_key=path, value_json=json.dumps(value))
    for key in remove:
        record.summary.remove.add(key=key)
    return record


def raw_summary(value_json: str, *key: str) -> Record:
    """A summary record with any text as value."""
    record = pb.Record()
    record.summary.update.add(nested_key=key, value_json=value_json)
    return record


def output(line: str) -> Record:
    record = pb.Record()
    record.output_raw.line = line
    return record


def ending(code: int = 0) -> Record:
    record = pb.Record()
    record.exit.exit_code = code
    return record


def paths(values: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from paths(value, (*before, key))
        else:
            yield (*before, key), value


def log_bytes(*records: Record) -> bytes:
    return frame(record.SerializeToString() for record in records)


def whole_records(
    run_id: str = "abc12345", configuration: Mapping[str, Any] = CONFIG, started: float = 1_773_169_407.75
) -> list[Record]:
    """Those of a run that came to its end 295.5 seconds after its start."""
    last = {
        "gen/K17/exact_match_acc": 0.5,
        "iter": 39_751,
        "_step": 39_751,
        "_timestamp": started + 295.5,
        "_runtime": 295.5,
    }
    return [
        run(run_id, configuration, started=started),
        summary({"_wandb": {"runtime": 0}, "_runtime": 0}),
        history({"iter": 1, "train/loss": 4.9, "_timestamp": started + 1}, 1),
        summary({"iter": 1, "train/loss": 4.9}),
        output("saved\n"),
        history(last, 39_751),
        summary(last),
        summary({"iters_done": 40_000}),
        ending(),
    ]


def whole_log(
    run_id: str = "abc12345", configuration: Mapping[str, Any] = CONFIG, started: float = 1_773_169_407.75
) -> bytes:
    """The log of such a run."""
    return log_bytes(*whole_records(run_id, configuration, started))


def offline_folder(
    parent: Path, run_id: str = "abc12345", log: bytes | None = None, stamp: str = "20260310_152827"
) -> Path:
    """The folder of an offline run: a log, and nothing else that tells of the run."""
    folder = parent / f"offline-run-{stamp}-{run_id}"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "requirements.txt").write_text("torch\n")
    (folder / f"run-{run_id}.wandb").write_bytes(whole_log(run_id) if log is None else log)
    return folder


CONFIG_YAML = """\
_wandb:
    value:
        cli_version: 0.21.4
        e:
            1wwvk5bwuq9ps0lvqj9x: {os: Linux, startedAt: "2026-03-10T19:03:30.5Z"}
            3wwvk5bwuq9ps0lvqj9x: {os: Linux, startedAt: "2026-03-10T19:03:27.5Z"}
allow_duplicates:
    value: false
learning_rate:
    value: 1e-4
length_mode:
    value: mix
max_iters:
    value: 40000
min_lr:
    value: 1e-06
n_layers:
    value: 1
seed:
    value: 1337
train_max_k:
    value: 8
train_min_k:
    value: 2
wandb_entity:
    value: null
weight_decay:
    value: 0
"""


def online_folder(
    parent: Path,
    run_id: str = "abc12345",
    *,
    stamp: str = "20260310_152827",
    config_yaml: str | bytes | None = CONFIG_YAML,
    summary_json: str
    | bytes
    | None = '{"iter":39751,"iters_done":40000,"_timestamp":1773169702.5,"gen/K17/exact_match_acc":0.25}',
    metadata_json: str | bytes | None = '{"os":"Linux","startedAt":"2026-03-10T19:03:27.769758Z"}',
    log: bytes | None = HEADER,
) -> Path:
    """The folder of an online run; None leaves a file out."""
    folder = parent / f"run-{stamp}-{run_id}"
    (folder / "files").mkdir(parents=True)
    contents = {
        "files/config.yaml": config_yaml, "files/wandb-summary.json": summary_json,
        "files/wandb-metadata.json": metadata_json, f"run-{run_id}.wandb": log,
    }  # fmt: skip
    for name, content in contents.items():
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
