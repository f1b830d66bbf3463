"""Whatever stands in a W&B summary or configuration, every command says something, and only that run is concerned."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ckptman.checks.validation import validate
from ckptman.documents.reporting import report
from ckptman.ingestion.ingesting import ingest
from ckptman.queries.inspection import show
from ckptman.queries.listing import list_checkpoints
from ckptman.queries.over_seeds import results
from ckptman.raw import wandb_runs
from ckptman.sweeps.grid_status import status
from ckptman.text.errors import CkptmanError
from tests.helpers.ingested import task
from tests.helpers.raw import config, write_run
from tests.helpers.recorded import add_overwritten
from tests.helpers.slices import SLICES

ODD = [
    "null", "true", "-1", "1" + "0" * 400, "1" * 5000, "1e308", '""', '"x"', '"\\ud800"', '"a\\u0000b"', "[]", "[1]",
    '{"a": 1}', '"NaN"', "NaN", "Infinity", "-Infinity", '"\\u202e\\u001b[31m"', "[" * 2000 + "]" * 2000,
    "[" * 45 + "]" * 45, "{}",
]  # fmt: skip


SLOW = pytest.mark.slow
ALL = SLICES >= 10


def put(file: Path, key: str, value: str) -> None:
    """Set a key of a JSON file (which a config.yaml is too) to a JSON text."""
    document = json.loads(file.read_text())
    document[key] = "@"
    file.write_text(json.dumps(document).replace('"@"', value))


def every_command(root: Path, source: Path) -> None:
    list_checkpoints(root)
    results(root)
    validate(root)
    with suppress(CkptmanError):
        report(root, html="")
    for found in (status(source, root=root), list_checkpoints(root), results(root)):
        json.dumps(found.to_json(), allow_nan=False)
    for file in root.rglob("*.pt"):
        with suppress(CkptmanError):
            show(file)


def ingested_with(tmp_path: Path, name: str, key: str, value: str) -> None:
    """Ingest two runs, one of which has an odd value in its W&B folder; let every command have its say."""
    source, root = tmp_path / "grid_outputs", tmp_path / "checkpoints"
    write_run(task(source), config(), run_id="aaaa1111")
    write_run(task(source, group="len_gen_k16"), config(16), run_id="bbbb2222")
    [folder] = task(source).glob("wandb/wandb/run-*")
    values = {name: {"value": value} for name, value in config().to_dict().items()}
    (folder / "files" / "config.yaml").write_text(json.dumps(values))
    put(folder / "files" / name, key, f'{{"value": {value}}}' if name == "config.yaml" else value)
    result = ingest(source, root, settle=0)
    assert {row.group for row in result.placed} == {"len_gen_k8", "len_gen_k16"}
    every_command(root, source)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("wandb-summary.json", "gen/K17/exact_match_acc"),
        *[pytest.param("wandb-summary.json", key, marks=SLOW) for key in ("iter", "_timestamp", "new/key")],
        *[pytest.param("config.yaml", key, marks=SLOW) for key in ("train_max_k", "max_iters", "seed", "new_key")],
    ],
)
def test_whatever_stands_in_a_wandb_folder_every_command_says_something(tmp_path: Path, name: str, key: str) -> None:
    for at, value in enumerate(ODD):
        if ALL or (at + len(key)) % 3 == 0:
            ingested_with(tmp_path / str(at), name, key, value)


def test_a_fault_about_such_a_value_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_runs, "_finite", float)
    with pytest.raises((OverflowError, TypeError)):
        ingested_with(tmp_path, "wandb-summary.json", "iters_done", ODD[3])


def places(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a JSON document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.json", "overwritten.json", "refused.json"])
def test_whatever_stands_in_any_field_of_a_record_every_command_says_something(tmp_path: Path, name: str) -> None:
    source, root = tmp_path / "grid_outputs", tmp_path / "checkpoints"
    curve = {step: {"loss": 1 / (step + 1)} for step in range(4)}
    write_run(task(source), config(), run_id="aaaa1111", curve=curve)
    (task(source) / "saved_models" / "broken.pt").write_text("no checkpoint")
    ingest(source, root, settle=0)
    add_overwritten(root, config(seed=1), config(seed=2))
    [file] = root.rglob(name)
    document = json.loads(file.read_text())
    del document["digest"]
    cases = [(place, value) for place in places(document) for value in ODD]
    for place, value in random.Random(SLICES).sample(cases, 60 if ALL else 20):
        changed = part = json.loads(json.dumps(document))
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = "@"
        file.write_text(json.dumps(changed).replace('"@"', value))
        every_command(root, source)
        with suppress(CkptmanError):
            ingest(source, root, settle=0)
